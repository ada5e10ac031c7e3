package pubsub

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// key is where the tests store.
const key = "capture-results:id:node:eth0"

// randomBytes returns so many of them.
func randomBytes(size int) []byte {
	value := make([]byte, size)
	_, _ = rand.Read(value)
	return value
}

// plain returns the content of a value, as Store wants it.
func plain(value []byte) func() io.Reader {
	return func() io.Reader { return bytes.NewReader(value) }
}

// A disturbance is the content of a value. Something happens before the nth piece
// is written for the first time; the last piece is written first.
type disturbance struct {
	value  []byte
	nth    int
	happen func()
	opened int
}

func (d *disturbance) open() io.Reader {
	d.opened++
	r := &disturbedReader{Reader: bytes.NewReader(d.value), happen: d.happen, at: -1}
	switch {
	case d.opened == 1 && d.nth == 0:
		r.at = (len(d.value) - 1) / pieceSize * pieceSize
	case d.opened == 2 && d.nth > 0:
		r.at = (d.nth - 1) * pieceSize
	}
	return r
}

// A disturbedReader calls a function when it is read at an offset.
type disturbedReader struct {
	*bytes.Reader
	at     int
	happen func()
}

func (r *disturbedReader) Read(p []byte) (int, error) {
	if offset := int(r.Size()) - r.Len(); offset == r.at {
		r.happen()
		r.at = -1
	}
	return r.Reader.Read(p)
}

// WriteTo hides that of bytes.Reader, which would not read.
func (r *disturbedReader) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}

// value returns what a key holds.
func value(t *testing.T, r *testbed.Redis, key string) []byte {
	t.Helper()
	value, err := redis.Bytes(r.Do(t, "GET", key), nil)
	if err != nil {
		t.Errorf("%s: %v", key, err)
	}
	return value
}

// checkExpires expects that keys exist and that each of them expires.
func checkExpires(t *testing.T, r *testbed.Redis, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if ttl := r.Do(t, "TTL", key).(int64); ttl < 590 || ttl > 600 {
			t.Errorf("%s: want it to expire within 10 minutes, got %d s", key, ttl)
		}
	}
}

// checkNoKeys expects that the server holds nothing.
func checkNoKeys(t *testing.T, r *testbed.Redis) {
	t.Helper()
	if n := r.Do(t, "DBSIZE").(int64); n != 0 {
		t.Errorf("want no keys, got %d", n)
	}
}

func TestStoreAndFetch(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	permit(t, r, "host", hostACL+" "+hostKeysACL)
	permit(t, r, "asker", askerACL+" "+askerKeysACL)
	host, asker := reachAs(r, "host"), reachAs(r, "asker")
	for name, size := range map[string]int{
		"one byte": 1, "one piece": pieceSize, "a byte less": pieceSize - 1, "a byte more": pieceSize + 1,
		"three pieces": 3 * pieceSize, "many and a bit": 16<<20 + 7,
	} {
		t.Run(name, func(t *testing.T) {
			value := randomBytes(size)
			used, err := host.Store(t.Context(), key, int64(size), plain(value))
			if used != key || err != nil {
				t.Fatalf("want %s, got %s, %v", key, used, err)
			}
			checkExpires(t, r, key)
			var fetched bytes.Buffer
			if n, err := asker.Fetch(t.Context(), key, &fetched); n != int64(size) || err != nil {
				t.Errorf("want %d bytes, got %d, %v", size, n, err)
			}
			if !bytes.Equal(value, fetched.Bytes()) {
				t.Error("what was fetched is not what was stored")
			}
			if err := asker.Remove(t.Context(), key); err != nil {
				t.Error(err)
			}
			checkNoKeys(t, r)
		})
	}
}

// TestStoreKeepsOthers: nothing is overwritten.
func TestStoreKeepsOthers(t *testing.T) {
	r := testbed.StartRedis(t)
	for _, want := range []string{key, key + "-2", key + "-3"} {
		used, err := reach(r).Store(t.Context(), key, int64(len(want)), plain([]byte(want)))
		if used != want || err != nil {
			t.Errorf("want %s, got %s, %v", want, used, err)
		}
	}
	for _, want := range []string{key, key + "-2", key + "-3"} {
		if got := string(value(t, r, want)); got != want {
			t.Errorf("want %s in the key of that name, got %s", want, got)
		}
	}
}

func TestStoreIsRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ command, want string }{
		"memory is full":       {"CONFIG SET maxmemory 4mb", "OOM command not allowed"},
		"no permission":        {"ACL SETUSER default -setrange", "NOPERM"},
		"no permission at all": {"ACL SETUSER default -set", "NOPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			r := testbed.StartRedis(t)
			words := strings.Fields(test.command)
			r.Do(t, words[0], redis.Args{}.AddFlat(words[1:])...)
			value := randomBytes(8 << 20)
			began := time.Now()
			_, err := reach(r).Store(t.Context(), key, int64(len(value)), plain(value))
			if err == nil || !strings.HasPrefix(err.Error(), "store "+key+": "+test.want) {
				t.Errorf("want the server's words, got %v", err)
			}
			if took := time.Since(began); took > awayTimeout/2 { // not tried again
				t.Errorf("want that at once, took %v", took)
			}
			checkNoKeys(t, r)
		})
	}
}

// TestStoreSurvives: whatever happens to server or connection half-way, what
// is stored in the end is whole.
func TestStoreSurvives(t *testing.T) {
	t.Parallel()
	whole := randomBytes(3*pieceSize + 99)
	for name, happen := range map[string]func(*testing.T, *testbed.Redis, *testbed.Proxy){
		"connection is cut": func(_ *testing.T, _ *testbed.Redis, proxy *testbed.Proxy) { proxy.Cut() },
		"server is restarted": func(t *testing.T, r *testbed.Redis, _ *testbed.Proxy) {
			r.Signal(t, syscall.SIGKILL)
			r.Wait(t, 30*time.Second)
			r.Restart(t)
		},
		"server goes back to an older state": func(t *testing.T, r *testbed.Redis, proxy *testbed.Proxy) {
			proxy.Cut()
			r.Do(t, "SET", key, make([]byte, len(whole)), "EX", 600)
		},
		"key is evicted": func(t *testing.T, r *testbed.Redis, _ *testbed.Proxy) { r.Do(t, "DEL", key) },
	} {
		for nth := range 4 {
			t.Run(fmt.Sprint(name, " before piece ", nth), func(t *testing.T) {
				t.Parallel()
				r := testbed.StartRedis(t)
				proxy := testbed.StartProxy(t, r.Address())
				content := disturbance{value: whole, nth: nth, happen: func() { happen(t, r, proxy) }}
				server := &Server{Addresses: []string{proxy.Address}}
				used, err := server.Store(t.Context(), key, int64(len(whole)), content.open)
				if used != key || err != nil {
					t.Fatalf("want %s, got %s, %v", key, used, err)
				}
				if !bytes.Equal(value(t, r, key), whole) {
					t.Error("what is stored is not what was given")
				}
				checkExpires(t, r, key)
			})
		}
	}
}

// TestStoreDiesHalfWay: what a daemon leaves that does not live to the end expires.
func TestStoreDiesHalfWay(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	whole := randomBytes(3*pieceSize + 99)
	for nth := range 4 {
		r := testbed.StartRedis(t)
		proxy := testbed.StartProxy(t, r.Address())
		ctx, cancel := context.WithCancel(t.Context())
		content := disturbance{value: whole, nth: nth, happen: func() {
			proxy.Lead("") // it cannot clean up either
			proxy.Cut()
			cancel()
		}}
		server := &Server{Addresses: []string{proxy.Address}}
		if _, err := server.Store(ctx, key, int64(len(whole)), content.open); !errors.Is(err, context.Canceled) {
			t.Errorf("piece %d: want it canceled, got %v", nth, err)
		}
		checkExpires(t, r, key)
	}
}

// TestStoreGivesUp: a server that drops the value each time, one that is away
// and one that hangs are not tried for ever.
func TestStoreGivesUp(t *testing.T) {
	t.Parallel()
	whole := randomBytes(2 * pieceSize)
	size := int64(len(whole))
	t.Run("evicted each time", func(t *testing.T) {
		r := testbed.StartRedis(t)
		content := func() io.Reader {
			d := disturbance{value: whole, nth: 1, opened: 1, happen: func() { r.Do(t, "DEL", key) }}
			return d.open()
		}
		if _, err := reach(r).Store(t.Context(), key, size, content); !errors.Is(err, errVanished) {
			t.Errorf("want an error, got %v", err)
		}
		checkNoKeys(t, r)
	})
	for name, address := range unreachable(t) {
		t.Run(name, func(t *testing.T) {
			testbed.Long(t)
			t.Parallel()
			began := time.Now()
			_, err := (&Server{Addresses: []string{address}}).Store(context.Background(), key, size, plain(whole))
			if err == nil || !strings.Contains(err.Error(), "away for 30s") {
				t.Errorf("want an error that says so, got %v", err)
			}
			if took := time.Since(began); took < awayTimeout || took > awayTimeout+answerTimeout+LastAttempt {
				t.Errorf("want it to take a little more than %v, took %v", awayTimeout, took)
			}
		})
	}
}

// TestStoreWaitsForAMaster: a replica that refuses is about to take over.
func TestStoreWaitsForAMaster(t *testing.T) {
	t.Parallel()
	master := testbed.StartRedis(t)
	replica := testbed.StartRedis(t, "--replicaof", "127.0.0.1", fmt.Sprint(master.Port))
	testbed.Eventually(t, 30*time.Second, "the replica refuses", func() bool {
		return mentions(try(t, replica, "default", "SET x y"), "READONLY")
	})
	stored := make(chan error, 1)
	go func() {
		_, err := reach(replica).Store(t.Context(), key, 1, plain([]byte("x")))
		stored <- err
	}()
	time.Sleep(time.Second)
	replica.Do(t, "REPLICAOF", "NO", "ONE")
	if err := <-stored; err != nil {
		t.Error(err)
	}
	if got := string(value(t, replica, key)); got != "x" {
		t.Errorf("want it stored, got %q", got)
	}
}

// TestStoreIsStopped: the context ends the waiting, and what was stored by then is removed.
func TestStoreIsStopped(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	stopped, stop := context.WithCancel(t.Context())
	content := disturbance{value: randomBytes(3 * pieceSize), nth: 1, happen: func() {
		stop()
		checkLeftOpen(t, r, 0)
	}}
	if _, err := reach(r).Store(stopped, key, 3*pieceSize, content.open); !errors.Is(err, context.Canceled) {
		t.Errorf("want it canceled, got %v", err)
	}
	checkNoKeys(t, r)
	for name, address := range unreachable(t) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := (&Server{Addresses: []string{address}}).Store(ctx, key, 1, plain([]byte("x")))
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > awayTimeout/2 {
			t.Errorf("%s: want its deadline passed soon after a second, got %v after %v", name, err, took)
		}
	}
}

// TestStoreShortContent: what cannot be read is not stored.
func TestStoreShortContent(t *testing.T) {
	r := testbed.StartRedis(t)
	for _, size := range []int64{2, pieceSize, pieceSize + 1, 3 * pieceSize} {
		_, err := reach(r).Store(t.Context(), key, size, plain(make([]byte, size-1)))
		if err == nil || !strings.Contains(err.Error(), "read the value") {
			t.Errorf("%d bytes less one: want an error, got %v", size, err)
		}
		checkNoKeys(t, r)
	}
}

// A disturbedWriter calls a function before it is written to for the nth time.
type disturbedWriter struct {
	bytes.Buffer
	nth    int
	happen func() error
}

func (w *disturbedWriter) Write(p []byte) (int, error) {
	if w.nth--; w.nth == 0 {
		if err := w.happen(); err != nil {
			return 0, err
		}
	}
	return w.Buffer.Write(p)
}

func TestFetchSurvives(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	proxy := testbed.StartProxy(t, r.Address())
	whole := randomBytes(3 * pieceSize)
	if _, err := reach(r).Store(t.Context(), key, int64(len(whole)), plain(whole)); err != nil {
		t.Fatal(err)
	}
	to := disturbedWriter{nth: 2, happen: func() error { proxy.Cut(); return nil }}
	n, err := (&Server{Addresses: []string{proxy.Address}}).Fetch(t.Context(), key, &to)
	if n != int64(len(whole)) || err != nil || !bytes.Equal(to.Bytes(), whole) {
		t.Errorf("want all bytes, got %d, %v", n, err)
	}
}

// TestFetchOfAnotherValue: a value that is another one when the connection was replaced is not
// put together with what came before.
func TestFetchOfAnotherValue(t *testing.T) {
	t.Parallel()
	for name, pieces := range map[string]int{"longer": 5, "shorter": 2, "one piece": 1} {
		t.Run(name, func(t *testing.T) {
			r := testbed.StartRedis(t)
			proxy := testbed.StartProxy(t, r.Address())
			r.Do(t, "SET", key, randomBytes(3*pieceSize))
			to := disturbedWriter{nth: 2, happen: func() error {
				r.Do(t, "SET", key, randomBytes(pieces*pieceSize))
				proxy.Cut()
				return nil
			}}
			_, err := (&Server{Addresses: []string{proxy.Address}}).Fetch(t.Context(), key, &to)
			if !errors.Is(err, errVanished) {
				t.Errorf("want an error, got %v", err)
			}
		})
	}
}

func TestFetchFails(t *testing.T) {
	t.Parallel()
	whole := randomBytes(3 * pieceSize)
	for name, test := range map[string]struct{ commands, want string }{
		"expired":          {"DEL " + key, errVanished.Error()},
		"another value":    {"SET " + key + " x", errVanished.Error()},
		"a shorter value":  {fmt.Sprintf("SET %s x;SETRANGE %s %d x", key, key, len(whole)/2), errVanished.Error()},
		"not a string":     {"DEL " + key + ";LPUSH " + key + " x", "WRONGTYPE"},
		"no more allowed":  {"ACL SETUSER asker -getrange", "NOPERM"},
		"no user any more": {"ACL DELUSER asker", "WRONGPASS"},
	} {
		t.Run(name, func(t *testing.T) {
			r := testbed.StartRedis(t)
			permit(t, r, "asker", "~* +getrange +strlen +del")
			if _, err := reach(r).Store(t.Context(), key, int64(len(whole)), plain(whole)); err != nil {
				t.Fatal(err)
			}
			to := disturbedWriter{nth: 2, happen: func() error {
				for command := range strings.SplitSeq(test.commands, ";") {
					words := strings.Fields(command)
					r.Do(t, words[0], redis.Args{}.AddFlat(words[1:])...)
				}
				return nil
			}}
			_, err := reachAs(r, "asker").Fetch(t.Context(), key, &to)
			if err == nil || !strings.HasPrefix(err.Error(), "fetch "+key+": ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want %s, got %v", test.want, err)
			}
		})
	}
}

// TestFetchCannotWrite: what cannot be written is not fetched again and again.
func TestFetchCannotWrite(t *testing.T) {
	r := testbed.StartRedis(t)
	r.Do(t, "SET", key, "x")
	full := errors.New("disk full")
	to := disturbedWriter{nth: 1, happen: func() error { return full }}
	if n, err := reach(r).Fetch(t.Context(), key, &to); n != 0 || !errors.Is(err, full) {
		t.Errorf("want no bytes and the error, got %d, %v", n, err)
	}
}

func TestFetchWithoutKey(t *testing.T) {
	r := testbed.StartRedis(t)
	var to bytes.Buffer
	if _, err := reach(r).Fetch(t.Context(), key, &to); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("want an error that says so, got %v", err)
	}
	if err := reach(r).Remove(t.Context(), key); err != nil {
		t.Errorf("want no error, got %v", err)
	}
}

// BenchmarkReturn stores, fetches and removes a value of 16 MiB.
func BenchmarkReturn(b *testing.B) {
	r := testbed.StartRedis(b)
	whole := randomBytes(16 << 20)
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for b.Loop() {
		used, err := reach(r).Store(b.Context(), key, int64(len(whole)), plain(whole))
		if err == nil {
			_, err = reach(r).Fetch(b.Context(), used, io.Discard)
		}
		if err == nil {
			err = reach(r).Remove(b.Context(), used)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// An endingContext has a deadline that connections notice before it does.
type endingContext struct {
	context.Context
	deadline time.Time
}

// Deadline implements context.Context.
func (c endingContext) Deadline() (time.Time, bool) { return c.deadline, true }

// TestRetryTellsTheCause: what was wrong is told, and not that the time was up for the last attempt.
func TestRetryTellsTheCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ending, attempts := endingContext{ctx, time.Now().Add(time.Second)}, 0
		err := retry(ending, func(func()) (bool, error) {
			switch attempts++; attempts {
			case 1:
				return true, errLost
			case 2:
				time.Sleep(time.Until(ending.deadline))
				return true, os.ErrDeadlineExceeded
			}
			cancel()
			return true, ctx.Err()
		})
		if !errors.Is(err, errLost) || !errors.Is(err, context.Canceled) {
			t.Errorf("want %v in the error, got %v", errLost, err)
		}
	})
}

// TestIsPassing: what another connection may mend, and what it does not.
func TestIsPassing(t *testing.T) {
	for text, want := range map[string]bool{"LOADING Redis is loading": true, "READONLY You can't write": true,
		"MASTERDOWN Link with MASTER is down": true, "CLUSTERDOWN Hash slot not served": true, "TRYAGAIN x": true,
		"ASK 1 a:1": true, "BUSY x": true, "OOM command not allowed": false, "NOPERM x": false, "WRONGTYPE x": false} {
		if got := isPassing(fmt.Errorf("store: %w", redis.Error(text)), false); got != want {
			t.Errorf("%s: want %v, got %v", text, want, got)
		}
	}
	if !isPassing(io.EOF, true) || isPassing(errLost, false) || isPassing(errReply, true) {
		t.Error("want broken connections alone replaced, and no answer that makes no sense asked for again")
	}
}

// TestLongValuesAreAlive: each piece that the server takes or gives shows that it is there.
func TestLongValuesAreAlive(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	const pieces = 5
	alive := 0
	work := func(what func(redis.Conn, func()) error) int {
		t.Helper()
		alive = 0
		if _, err := reach(r).attempt(t.Context(), func(conn redis.Conn) error {
			return what(conn, func() { alive++ })
		}); err != nil {
			t.Fatal(err)
		}
		return alive
	}
	w := keyWriter{name: key, size: pieces * pieceSize, content: plain(make([]byte, pieces*pieceSize)),
		piece: make([]byte, pieceSize)}
	if got := work(w.write); got < pieces-1 {
		t.Errorf("want %d signs of life while writing, got %d", pieces-1, got)
	}
	reader := keyReader{name: key, to: io.Discard}
	if got := work(reader.read); got < pieces {
		t.Errorf("want %d signs of life while reading, got %d", pieces, got)
	}
}

// TestStoreBegins: with a key that expires, also where it begins again.
func TestStoreBegins(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	w := keyWriter{name: key}
	for range 2 {
		if _, err := reach(r).attempt(t.Context(), w.create); err != nil || !w.made {
			t.Fatalf("want a key, got %v", err)
		}
		checkExpires(t, r, key)
		r.Do(t, "SET", key, "a part") // for ever
	}
}

// TestStoreWithoutExpiry: a key that does not expire is not left for a good one.
func TestStoreWithoutExpiry(t *testing.T) {
	t.Parallel()
	fake := startFakeServer(t, func(to io.Writer, words []string) {
		fmt.Fprint(to, map[string]string{"SET": "+OK\r\n", "SETRANGE": ":1\r\n", "EXPIRE": ":0\r\n", "DEL": ":1\r\n"}[words[0]])
	})
	_, err := (&Server{Addresses: []string{fake}}).Store(t.Context(), key, 1, plain([]byte("x")))
	if !errors.Is(err, errVanished) {
		t.Errorf("want %v, got %v", errVanished, err)
	}
}

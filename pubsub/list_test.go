package pubsub

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// What is needed besides to send captures while they run.
const (
	hostLiveACL  = "(%RW~capture-results:*:live +watch +exists +multi +rpush +expire +exec +lindex +llen)"
	askerLiveACL = "(%RW~capture-results:*:live +lindex +ltrim +del)"
)

// list is the name of the list that the tests write.
const list = key + ":live"

// openList opens a list that is given up with the test.
func openList(t *testing.T, server *Server, first string) *ListWriter {
	t.Helper()
	w, err := server.OpenList(t.Context(), key, []byte(first))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// push appends pieces.
func push(t *testing.T, w *ListWriter, pieces ...string) {
	t.Helper()
	for _, piece := range pieces {
		if err := w.Push(t.Context(), []byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
}

// startPush appends a piece in the background. It ends before the list is closed, also when the test fails.
func startPush(t *testing.T, w *ListWriter, piece string) (ended <-chan error) {
	t.Helper()
	pushed := make(chan error, 1)
	var pushing sync.WaitGroup
	t.Cleanup(pushing.Wait)
	pushing.Go(func() { pushed <- w.Push(t.Context(), []byte(piece)) })
	return pushed
}

// A reading is what is read of a list in the background.
type reading struct {
	pieces chan string
	err    chan error
}

// startReading reads a list until the test ends.
func startReading(t *testing.T, server *Server, key string) reading {
	t.Helper()
	r := reading{make(chan string, 1000), make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.err <- server.ReadList(ctx, key, func(piece []byte) error {
			r.pieces <- string(piece)
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

// next returns the next piece.
func (r reading) next(t *testing.T) string {
	t.Helper()
	select {
	case piece := <-r.pieces:
		return piece
	case <-time.After(30 * time.Second):
		t.Fatal("no piece")
	}
	panic("unreachable")
}

// checkPieces expects these pieces next.
func (r reading) checkPieces(t *testing.T, pieces ...string) {
	t.Helper()
	for _, want := range pieces {
		if got := r.next(t); got != want {
			t.Fatalf("want piece %.20q, got %.20q", want, got)
		}
	}
}

// checkEnds expects that no piece comes any more, and how the reading has ended.
func (r reading) checkEnds(t *testing.T, culprit string) {
	t.Helper()
	select {
	case err := <-r.err:
		if (culprit == "") != (err == nil) || culprit != "" && !mentions(err, culprit) {
			t.Errorf("want %q in the error, got %v", culprit, err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the reading has not ended")
	}
	if len(r.pieces) > 0 {
		t.Errorf("want no more pieces, got %.20q", <-r.pieces)
	}
}

// TestList: what is read is what was written, with the least permissions.
func TestList(t *testing.T) {
	r := testbed.StartRedis(t)
	permit(t, r, "host", hostACL+" "+hostLiveACL)
	permit(t, r, "asker", askerACL+" "+askerLiveACL)
	w := openList(t, reachAs(r, "host"), "header")
	if w.Key() != list {
		t.Errorf("want %s, got %s", list, w.Key())
	}
	reading := startReading(t, reachAs(r, "asker"), w.Key())
	largest := strings.Repeat("x", MaxPiece)
	push(t, w, "a", "a", largest, largest, "\r\n", "z")
	reading.checkPieces(t, "header", "a", "a", largest, largest, "\r\n", "z")
	push(t, w, "later")
	reading.checkPieces(t, "later")
	if err := w.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	reading.checkEnds(t, "")
	checkNoKeys(t, r)
}

// TestListName: nothing that exists is written to, and each list can be told from the others.
func TestListName(t *testing.T) {
	r := testbed.StartRedis(t)
	for _, want := range []string{list, key + "-2:live", key + "-3:live"} {
		if w := openList(t, reach(r), want); w.Key() != want {
			t.Errorf("want %s, got %s", want, w.Key())
		}
	}
	r.Do(t, "SET", key+"-4:live", "x")
	if w := openList(t, reach(r), "x"); w.Key() != key+"-5:live" {
		t.Errorf("want another name than that of a string, got %s", w.Key())
	}
	for _, want := range []string{list, key + "-2:live", key + "-3:live"} {
		if got, err := redis.Strings(r.Do(t, "LRANGE", want, 0, -1), nil); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("want %s alone, got %s, %v", want, got, err)
		}
	}
}

// A meddledConn is a connection on which something happens before each MULTI.
type meddledConn struct {
	redis.ConnWithTimeout
	meddle func()
}

// Send implements redis.Conn.
func (c meddledConn) Send(command string, args ...any) error {
	if command == "MULTI" {
		c.meddle()
	}
	return c.ConnWithTimeout.Send(command, args...)
}

// TestListNameBesideBusyList: a list that is written meanwhile costs no other one its name.
func TestListNameBesideBusyList(t *testing.T) {
	r := testbed.StartRedis(t)
	r.Do(t, "RPUSH", list, "1")
	conn, err := reach(r).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w := &ListWriter{}
	pushed := false
	inner := conn.(*connection)
	inner.ConnWithTimeout = meddledConn{inner.ConnWithTimeout, func() {
		if !pushed {
			pushed = true
			r.Do(t, "RPUSH", list, "2")
		}
	}}
	if _, err := w.create(inner, key, 0, []byte("x")); err != nil || w.name != key+"-2:live" {
		t.Errorf("want %s-2:live, got %s, %v", key, w.name, err)
	}
}

// TestListExpires: from its first piece on, whatever happens.
func TestListExpires(t *testing.T) {
	r := testbed.StartRedis(t)
	check := func(when string) {
		t.Helper()
		if ttl := r.Do(t, "TTL", list).(int64); ttl < 55 || ttl > 60 {
			t.Errorf("%s: want it to expire within a minute, got %d s", when, ttl)
		}
	}
	w := openList(t, reach(r), "a")
	check("opened")
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"pushed", func() error { return w.Push(t.Context(), []byte("b")) }},
		{"read", func() error { r.Do(t, "LPOP", list); return w.Look(t.Context()) }},
		{"ended", func() error { return w.Finish(t.Context()) }},
	} {
		r.Do(t, "EXPIRE", list, 20)
		if err := step.do(); err != nil {
			t.Error(err)
		}
		check(step.name)
	}
	r.Do(t, "EXPIRE", list, 20)
	if err := w.Look(t.Context()); err != nil { // nothing was taken
		t.Error(err)
	}
	if ttl := r.Do(t, "TTL", list).(int64); ttl > 20 {
		t.Errorf("want a list that nobody reads to expire, got %d s", ttl)
	}
}

// TestListIsBounded: at most 4 MiB wait; who is slow gets all of it all the same.
func TestListIsBounded(t *testing.T) {
	t.Parallel()
	for _, atOnce := range []int{1, 7, 40} {
		t.Run(fmt.Sprint(atOnce, " at once"), func(t *testing.T) { checkBounded(t, atOnce) })
	}
}

// checkBounded pushes so many pieces at once to a reader that is slow.
func checkBounded(t *testing.T, atOnce int) {
	t.Helper()
	r := testbed.StartRedis(t)
	w := openList(t, reach(r), "header")
	const all = 40
	var pieces [][]byte
	for n := range all {
		pieces = append(pieces, bytes.Repeat([]byte{byte(n)}, MaxPiece))
	}
	ended := make(chan error, 1)
	var pushing sync.WaitGroup
	t.Cleanup(pushing.Wait) // the list is closed after that
	pushing.Go(func() {
		for some := range slices.Chunk(pieces, atOnce) {
			if err := w.Push(t.Context(), some...); err != nil {
				ended <- err
				return
			}
		}
		ended <- w.Finish(t.Context())
	})
	most := int64(maxBacklog / MaxPiece)
	testbed.Eventually(t, 30*time.Second, "the backlog is full", func() bool {
		return r.Do(t, "LLEN", list).(int64) >= most
	})
	time.Sleep(4 * lookPeriod)
	if got := r.Do(t, "LLEN", list).(int64); got != most { // the header is there, too
		t.Errorf("want %d pieces, got %d", most, got)
	}
	n := -1
	err := reach(r).ReadList(t.Context(), list, func(piece []byte) error {
		if n >= 0 && !bytes.Equal(piece, pieces[n]) {
			return fmt.Errorf("another piece than %d", n)
		}
		n++
		waiting := r.Do(t, "LLEN", list).(int64)
		if last, _ := r.Do(t, "LINDEX", list, -1).([]byte); last != nil && len(last) == 0 {
			waiting-- // the last piece has no bytes, which are what is bounded
		}
		if waiting > most {
			return fmt.Errorf("%d pieces wait", waiting)
		}
		return nil
	})
	if err != nil || n != all {
		t.Errorf("want %d pieces, got %d, %v", all, n, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestListWithoutReader: who takes nothing while something waits gets no more, whether or not the
// backlog is full; who takes something does.
func TestListWithoutReader(t *testing.T) {
	t.Parallel()
	full := bytes.Repeat([]byte("x"), MaxPiece)
	for name, test := range map[string]struct {
		piece []byte
		do    func(*testing.T, *testbed.Redis, *ListWriter) error
		want  error
	}{
		"backlog is full": {full, func(t *testing.T, _ *testbed.Redis, w *ListWriter) error {
			for {
				if err := w.Push(t.Context(), full); err != nil {
					return err
				}
			}
		}, ErrStalled},
		"little waits": {[]byte("x"), func(t *testing.T, _ *testbed.Redis, w *ListWriter) error {
			time.Sleep(w.stall + 100*time.Millisecond)
			return w.Push(t.Context(), []byte("y"))
		}, ErrStalled},
		"nothing more comes": {[]byte("x"), func(t *testing.T, _ *testbed.Redis, w *ListWriter) error {
			time.Sleep(w.stall + 100*time.Millisecond)
			return w.Look(t.Context())
		}, ErrStalled},
		"all is read": {[]byte("x"), func(t *testing.T, r *testbed.Redis, w *ListWriter) error {
			time.Sleep(w.stall + 100*time.Millisecond)
			r.Do(t, "LPOP", list)
			return w.Push(t.Context(), []byte("y"))
		}, nil},
		"nothing waited for long": {[]byte("x"), func(t *testing.T, r *testbed.Redis, w *ListWriter) error {
			r.Do(t, "LPOP", list)
			err := w.Look(t.Context())
			time.Sleep(w.stall + 100*time.Millisecond)
			return cmp.Or(err, w.Push(t.Context(), []byte("y")))
		}, nil},
		"one is read now and then": {full, func(t *testing.T, r *testbed.Redis, w *ListWriter) error {
			w.stall = 3 * time.Second
			for range 4 {
				push(t, w, "y")
				time.Sleep(w.stall / 2)
				r.Do(t, "LPOP", list)
				if err := w.Look(t.Context()); err != nil {
					return err
				}
				push(t, w, "z")
			}
			return nil
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testbed.StartRedis(t)
			w := openList(t, reach(r), string(test.piece))
			w.stall = time.Second
			err := test.do(t, r, w)
			if !errors.Is(err, test.want) {
				t.Fatalf("want %v, got %v", test.want, err)
			}
			if err == nil {
				return
			}
			length := r.Do(t, "LLEN", list)
			for _, again := range []error{w.Push(t.Context(), []byte("x")), w.Look(t.Context()), w.Finish(t.Context())} {
				if !errors.Is(again, test.want) {
					t.Errorf("want the same error ever after, got %v", again)
				}
			}
			if got := r.Do(t, "LLEN", list); got != length {
				t.Errorf("want nothing written any more, got %v pieces after %v", got, length)
			}
		})
	}
}

// TestListSizes: what no reader takes is not written.
func TestListSizes(t *testing.T) {
	r := testbed.StartRedis(t)
	w := openList(t, reach(r), "x")
	for _, size := range []int{0, MaxPiece + 1} {
		if err := w.Push(t.Context(), make([]byte, size)); !mentions(err, fmt.Sprint("a piece of ", size)) {
			t.Errorf("want %d bytes refused, got %v", size, err)
		}
		_, err := reach(r).OpenList(t.Context(), key, make([]byte, size))
		if !mentions(err, fmt.Sprint("a piece of ", size)) {
			t.Errorf("want a list with %d bytes refused, got %v", size, err)
		}
	}
	push(t, w, "y")
}

// TestListSurvives: connections of either side break at every moment, and no piece is missing or
// comes twice. The reader leaves some in the list, so that the writer finds them after it was cut off.
func TestListSurvives(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	r := testbed.StartRedis(t)
	connect(t, r, fewClients)
	host, asker := testbed.StartProxy(t, r.Address()), testbed.StartProxy(t, r.Address())
	w := openList(t, &Server{Addresses: []string{host.Address}}, "0")
	const all, left = 24, 3
	host.Delay(time.Millisecond)
	asker.Delay(time.Millisecond)
	var cuts sync.WaitGroup
	// cut breaks connections so soon that some of them break between a command and its answer.
	cut := func(proxy *testbed.Proxy, n int) {
		cuts.Go(func() {
			time.Sleep(time.Duration(n*37%41) * 100 * time.Microsecond)
			proxy.Cut()
		})
	}
	mayTake := make(chan struct{}, all)
	pieces, ended := make(chan string, all), make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		ended <- (&Server{Addresses: []string{asker.Address}}).ReadList(ctx, list, func(piece []byte) error {
			pieces <- string(piece)
			select {
			case <-mayTake:
			case <-ctx.Done():
				return ctx.Err()
			}
			if len(pieces)%2 == 0 {
				cut(asker, len(pieces))
			}
			return nil
		})
	}()
	for n := 1; n < all; n++ {
		if n%2 == 0 {
			cut(host, n)
		}
		push(t, w, fmt.Sprintf("%d %s", n, strings.Repeat("x", 5000)))
		if n >= left {
			mayTake <- struct{}{}
		}
	}
	close(mayTake)
	if err := w.Finish(ctx); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	cuts.Wait()
	close(pieces)
	n := 0
	for piece := range pieces {
		if got, _, _ := strings.Cut(piece, " "); got != fmt.Sprint(n) {
			t.Fatalf("want piece %d, got %s", n, got)
		}
		n++
	}
	if n != all {
		t.Errorf("want %d pieces, got %d", all, n)
	}
}

// TestListWriterRecovers: what it finds after a connection has broken decides.
func TestListWriterRecovers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		commands string // meanwhile
		sent     string // the piece whose answer was lost, or a part of it, or that it was refused
		want     error
		left     string
	}{
		"nothing has happened":               {"", "", nil, "[a b next]"},
		"a piece was read":                   {"LPOP " + list, "", nil, "[b next]"},
		"all were read, or all lost":         {"DEL " + list, "", errGone, "[]"},
		"all were read, by the same server":  {"DEL " + list + ";" + used, "", nil, "[next]"},
		"all were seen read, on another one": {"DEL " + list + ";" + seen, "", nil, "[next]"},
		"what was sent was refused":          {"DEL " + list + ";" + seen, "refused", nil, "[next]"},
		"what was sent has not arrived":      {"", "next", nil, "[a b next]"},
		"what was sent has arrived":          {"RPUSH " + list + " next", "next", nil, "[a b next]"},
		"… and the others were read":         {"RPUSH " + list + " next;LTRIM " + list + " 2 2", "next", nil, "[next]"},
		"… or all were read, or all lost":    {"DEL " + list, "next", errGone, "[]"},
		"only a part was sent, one was read": {"LPOP " + list, "a part", nil, "[b next]"},
		"an older state":                     {"RPOP " + list, "", errGone, "[a]"},
		"an older state, and a piece sent":   {"RPOP " + list, "next", errGone, "[a]"},
		"another list":                       {"DEL " + list + ";RPUSH " + list + " x", "", errGone, "[x]"},
	} {
		t.Run(name, func(t *testing.T) {
			r := testbed.StartRedis(t)
			w := openList(t, reach(r), "a")
			push(t, w, "b")
			w.link.drop()
			for command := range strings.SplitSeq(test.commands, ";") {
				switch command {
				case used:
					w.client.number += fewClients
					connect(t, r, fewClients)
					continue
				case seen:
					w.unread = nil
					continue
				}
				if words := strings.Fields(command); len(words) > 0 {
					r.Do(t, words[0], redis.Args{}.AddFlat(words[1:])...)
				}
			}
			switch test.sent {
			case "next":
				lose(w, lostConn{})
			case "a part":
				lose(w, lostConn{flush: errLost})
			case "refused":
				lose(w, lostConn{answer: redis.Error("READONLY replica")})
			}
			before := w.client.number
			if err := w.Push(t.Context(), []byte("next")); !errors.Is(err, test.want) {
				t.Errorf("want %v, got %v", test.want, err)
			}
			if test.want == nil && w.client.number <= before {
				t.Errorf("want the connection remembered that works, after number %d, got number %d", before, w.client.number)
			}
			left, _ := redis.Strings(r.Do(t, "LRANGE", list, 0, -1), nil)
			if fmt.Sprint(left) != test.left {
				t.Errorf("want %s in the list, got %s", test.left, left)
			}
		})
	}
}

// TestListWriterRecoversSeveral: pieces that are pushed at once have all arrived, or none of them has.
func TestListWriterRecoversSeveral(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		commands string // meanwhile
		want     error
		left     string
		unread   int // bytes
	}{
		"none has arrived":             {"", nil, "[a 1 22 333]", 7},
		"all have arrived":             {"RPUSH " + list + " 1 22 333", nil, "[a 1 22 333]", 7},
		"… and some of them were read": {"RPUSH " + list + " 1 22 333;LTRIM " + list + " 2 3", nil, "[22 333]", 5},
		"an older state with some":     {"RPUSH " + list + " 1 22", errGone, "[a 1 22]", 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := testbed.StartRedis(t)
			w := openList(t, reach(r), "a")
			w.link.drop()
			for command := range strings.SplitSeq(test.commands, ";") {
				if words := strings.Fields(command); len(words) > 0 {
					r.Do(t, words[0], redis.Args{}.AddFlat(words[1:])...)
				}
			}
			lose(w, lostConn{})
			err := w.Push(t.Context(), []byte("1"), []byte("22"), []byte("333"))
			if !errors.Is(err, test.want) {
				t.Errorf("want %v, got %v", test.want, err)
			}
			left, _ := redis.Strings(r.Do(t, "LRANGE", list, 0, -1), nil)
			if fmt.Sprint(left) != test.left || w.backlog() != test.unread {
				t.Errorf("want %s in the list and %d bytes unread, got %s and %d", test.left, test.unread, left, w.backlog())
			}
		})
	}
}

// TestListPushesAtOnce: pieces that there is room for go in one transaction, and a wrong one keeps all back.
func TestListPushesAtOnce(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	w := openList(t, reach(r), "a")
	transactions := 0
	inner := w.link.conn.(*connection)
	inner.ConnWithTimeout = meddledConn{inner.ConnWithTimeout, func() { transactions++ }}
	if err := w.Push(t.Context(), []byte("b"), nil, []byte("c")); !mentions(err, "a piece of 0 bytes") {
		t.Errorf("want an empty piece refused, got %v", err)
	}
	if err := w.Push(t.Context(), []byte("b"), []byte("c"), []byte("d")); err != nil || transactions != 1 {
		t.Errorf("want one transaction, got %d, %v", transactions, err)
	}
	if left, _ := redis.Strings(r.Do(t, "LRANGE", list, 0, -1), nil); fmt.Sprint(left) != "[a b c d]" {
		t.Errorf("want all pieces in order, got %s", left)
	}
}

// TestListWriterRefuses: a transaction whose answer is not that of both commands.
func TestListWriterRefuses(t *testing.T) {
	w := &ListWriter{name: list}
	for _, answers := range [][]any{{}, {int64(1)}, {int64(1), int64(1), int64(1)}} {
		conn := &listConn{answers: []any{"OK", "QUEUED", "QUEUED", answers}}
		if length, err := w.append(conn, []byte("x")); !errors.Is(err, errReply) {
			t.Errorf("want %v given up, got length %d, %v", answers, length, err)
		}
	}
}

// What commands of tests stand for.
const (
	used = "used" // many have connected to the server
	seen = "seen" // the writer has seen that all were read
)

// connect connects to a server so many times.
func connect(t *testing.T, r *testbed.Redis, times int) {
	t.Helper()
	for range times {
		conn, err := net.Dial("tcp", r.Address())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	r.Do(t, "PING") // it has seen them all
}

// A lostConn is a connection that breaks when something is sent, or before the answer comes.
type lostConn struct {
	redis.ConnWithTimeout
	flush  error // nil: before the answer
	answer error // nil: there is none
}

var errLost = errors.New("connection lost")

func (lostConn) Send(string, ...any) error { return nil }
func (c lostConn) Flush() error            { return c.flush }
func (c lostConn) ReceiveWithTimeout(time.Duration) (any, error) {
	return nil, cmp.Or(c.answer, errLost)
}
func (lostConn) Err() error   { return errLost }
func (lostConn) Close() error { return nil }

// lose gives a writer a connection that it takes for a good one, however late it uses it.
func lose(w *ListWriter, conn lostConn) {
	w.heard = time.Now().Add(time.Hour)
	w.link.conn, w.link.release = conn, func() {}
}

// TestListServerAway: it is waited for, but not for ever; the context ends the waiting.
func TestListServerAway(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	w := openList(t, reach(r), "a")
	reading := startReading(t, reach(r), list)
	reading.checkPieces(t, "a")
	testbed.Eventually(t, 30*time.Second, "it is taken", func() bool { return r.Do(t, "EXISTS", list) == int64(0) })
	look(t, w)
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, 30*time.Second)
	ended := startPush(t, w, "b")
	time.Sleep(time.Second)
	r.Restart(t)
	if err := <-ended; errors.Is(err, errGone) {
		return // it was sent while the server died, and nobody knows
	} else if err != nil {
		t.Fatal(err)
	}
	reading.checkPieces(t, "b")
	r.Signal(t, syscall.SIGSTOP)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	if err := w.Push(ctx, []byte("c")); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("want the deadline passed after a second, got %v after %v", err, time.Since(began))
	}
}

// look lets a writer see what was taken.
func look(t *testing.T, w *ListWriter) {
	t.Helper()
	if err := w.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestListServerForgets: a server that has forgotten pieces that were unread ends the list, so that
// nobody reads on behind a gap.
func TestListServerForgets(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	w := openList(t, reach(r), "a")
	w.heard = time.Time{} // so that it looks before it sends
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, 30*time.Second)
	ended := startPush(t, w, "b")
	time.Sleep(300 * time.Millisecond)
	r.Restart(t)
	if err := <-ended; !errors.Is(err, errGone) {
		t.Errorf("want %v, got %v", errGone, err)
	}
	if n := r.Do(t, "EXISTS", list); n != int64(0) {
		t.Error("want nothing written behind the gap")
	}
}

// checkList writes a list and reads it.
func checkList(t *testing.T, server func() *Server, key string) {
	t.Helper()
	w, err := server().OpenList(t.Context(), key, []byte("header"))
	if err != nil {
		t.Error(err)
		return
	}
	defer w.Close()
	reading := startReading(t, server(), w.Key())
	for n := range 3 {
		push(t, w, fmt.Sprint(n))
	}
	if err := w.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	reading.checkPieces(t, "header", "0", "1", "2")
	reading.checkEnds(t, "")
}

// TestListCluster: the list is on the node that has its slot, and its names on several.
func TestListCluster(t *testing.T) {
	t.Parallel()
	nodes := testbed.StartCluster(t)
	server := func() *Server { return &Server{Addresses: []string{nodes[0].Address(), nodes[1].Address()}} }
	for n := range 10 {
		key := fmt.Sprint("capture-results:", n)
		w, err := server().OpenList(t.Context(), key, []byte("x")) // takes the first name
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		for range 2 {
			checkList(t, server, key)
		}
	}
}

// awaitTaken waits until all servers of a group know that all pieces of a list were taken.
func awaitTaken(t *testing.T, g *testbed.Group, list string) {
	t.Helper()
	testbed.Eventually(t, 30*time.Second, "all is taken", func() bool {
		return g.Servers[0].Do(t, "EXISTS", list) == int64(0)
	})
	g.Servers[0].Do(t, "SET", "taken", "1") // which comes to replicas after that
	testbed.Eventually(t, 30*time.Second, "the replicas know that it was taken", func() bool {
		return g.Servers[1].Do(t, "EXISTS", "taken") == int64(1) && g.Servers[2].Do(t, "EXISTS", "taken") == int64(1)
	})
}

// TestListSentinel: the list is on the master, and on the next one after that.
func TestListSentinel(t *testing.T) {
	testbed.Long(t)
	t.Parallel()
	g := testbed.StartGroup(t, testbed.GroupConfig{})
	server := func() *Server { return &Server{Addresses: g.SentinelAddresses(), Master: testbed.MasterName} }
	checkList(t, server, key)
	w := openList(t, server(), "header")
	reading := startReading(t, server(), w.Key())
	reading.checkPieces(t, "header")
	awaitTaken(t, g, w.Key())
	look(t, w)
	g.Sentinels[0].Do(t, "SENTINEL", "FAILOVER", testbed.MasterName)
	master := g.AwaitNewMaster(t, g.Servers[0])
	testbed.Eventually(t, 30*time.Second, "both have left the former master", func() bool {
		clients := fmt.Sprintf("%s", g.Servers[0].Do(t, "CLIENT", "LIST"))
		return !strings.Contains(clients, "cmd=lindex") && !strings.Contains(clients, "cmd=llen")
	})
	testbed.Eventually(t, 30*time.Second, "the reader is at the next one", func() bool {
		return strings.Contains(fmt.Sprintf("%s", master.Do(t, "CLIENT", "LIST")), "cmd=lindex")
	})
	push(t, w, "later")
	if err := w.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	reading.checkPieces(t, "later")
	reading.checkEnds(t, "")
	checkList(t, server, key)
}

// TestListIdle: a connection that the server has closed meanwhile costs nothing.
func TestListIdle(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	connect(t, r, fewClients)
	w := openList(t, reach(r), "header")
	reading := startReading(t, reach(r), list)
	for n := range 5 {
		testbed.Eventually(t, 30*time.Second, "all is read", func() bool { return r.Do(t, "EXISTS", list) == int64(0) })
		time.Sleep(2 * idleTimeout)
		r.Do(t, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
		push(t, w, fmt.Sprint(n))
	}
	reading.checkPieces(t, "header", "0", "1", "2", "3", "4")
}

// BenchmarkList sends pieces of the largest size through a list.
func BenchmarkList(b *testing.B) {
	r := testbed.StartRedis(b)
	piece := randomBytes(MaxPiece)
	b.SetBytes(MaxPiece)
	w, err := reach(r).OpenList(b.Context(), key, piece)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	read := make(chan error, 1)
	go func() { read <- reach(r).ReadList(b.Context(), list, func([]byte) error { return nil }) }()
	for b.Loop() {
		if err := w.Push(b.Context(), piece); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Finish(b.Context()); err != nil {
		b.Fatal(err)
	}
	if err := <-read; err != nil {
		b.Fatal(err)
	}
}

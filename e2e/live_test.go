package e2e

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// A liveReader takes the pieces of a live capture out of Redis.
type liveReader struct {
	content []byte
	pieces  int
	err     error
	ended   time.Time
	done    chan struct{} // closed after the last piece, or an error
}

// readLive takes the pieces of a list until the empty one.
func readLive(t *testing.T, r *testbed.Redis, key string) *liveReader {
	t.Helper()
	conn, err := redis.Dial("tcp", r.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	l := &liveReader{done: make(chan struct{})}
	go func() {
		defer close(l.done)
		defer func() { l.ended = time.Now() }()
		for {
			var answer [][]byte
			if answer, l.err = redis.ByteSlices(conn.Do("BLPOP", key, 60)); l.err != nil || len(answer[1]) == 0 {
				return
			}
			l.content = append(l.content, answer[1]...)
			l.pieces++
		}
	}()
	return l
}

// wait returns the content when all of it has come.
func (l *liveReader) wait(t *testing.T) []byte {
	t.Helper()
	select {
	case <-l.done:
	case <-time.After(time.Minute):
		t.Fatal("the list does not end")
	}
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.content
}

// checkLive compares what came live with the file of the same capture.
func checkLive(t *testing.T, live *liveReader, file string) {
	t.Helper()
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := live.wait(t); !bytes.Equal(want, got) {
		t.Errorf("want the %d bytes of the file, got %d in %d pieces", len(want), len(got), live.pieces)
	}
}

// TestLive: what comes while a capture is made is the file that is also written, whatever
// ends it and wherever it begins.
func TestLive(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	for _, format := range []string{"pcap", "pcapng"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			r := testbed.StartRedis(t)
			l := listen(t, r)
			stream := testbed.StartStreamOf(t, 1000, time.Millisecond)
			d := startDaemon(t, r, recording(t, append(passing(stream), "-maxreturn", "16MiB", "-format", format)...)...)
			for name, fields := range map[string]string{
				"packets":  `"packets":300`,
				"bytes":    `"bytes":200000`,
				"timeout":  `"timeout":1`,
				"nothing":  `"timeout":1,"bpf":"ether proto 0x9999"`,
				"request":  `"progress":1`,
				"any":      `"interface":"any","packets":300`,
				"lookback": `"lookback":1,"timeout":1`,
			} {
				iface := `"interface":"lo",`
				if name == "any" {
					iface = ""
				}
				r.Publish(t, fmt.Sprintf(`{"node":"web1",%s"live":true,"id":"%s",%s}`, iface, name, fields))
			}
			readers := map[string]*liveReader{}
			var ended []result // before the last one has started
			for len(readers) < 7 {
				started := l.await(t, time.Minute, "started", "refused", "done")
				if started.State == "done" {
					ended = append(ended, started)
					continue
				}
				device := map[bool]string{true: "any", false: "lo"}[started.ID == "any"]
				key := "capture-results:" + started.ID + ":web1:" + device + ":live"
				if !started.check(t, says{"state": "started", "key": key, "error": nil}) {
					t.FailNow()
				}
				readers[started.ID] = readLive(t, r, key)
			}
			stream.Await(t, 300) // for packets before a stop
			r.Publish(t, `{"node":"any","stop":"request"}`)
			for len(ended) < 7 {
				ended = append(ended, l.final(t, time.Minute))
			}
			for _, done := range ended {
				done.check(t, says{"state": "done", "error": nil})
				if done.ID == "nothing" {
					if got := readers[done.ID].wait(t); int64(len(got)) != done.Bytes || done.Packets != 0 {
						t.Errorf("want a file of %d bytes without packets, got %d", done.Bytes, len(got))
					}
					continue
				}
				checkLive(t, readers[done.ID], done.File)
			}
			r.Publish(t, `{"node":"web1","interface":"lo","live":true,"id":"shutdown"}`)
			last := readLive(t, r, l.await(t, time.Minute, "started").said["key"].(string))
			stream.Await(t, 300)
			d.Signal(t, syscall.SIGTERM)
			if code := d.Wait(t, time.Minute); code != 0 {
				t.Errorf("want exit code 0, got %d", code)
			}
			checkLive(t, last, l.final(t, time.Minute).File)
		})
	}
}

// TestLiveSlowReader: whoever does not read holds up the sending and not the capture, and gets
// all of it later; Redis has 4 MiB of it at most meanwhile.
func TestLiveSlowReader(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	args, port := listening(t)
	flags := []string{"-maxreturn", "16MiB", "-buffersize", "32MiB"} // more than is sent, so that nothing is dropped
	startDaemon(t, r, slices.Concat(args, keeping(t.TempDir()), flags)...)
	stream := testbed.NewStream(t, 40_000)
	r.Publish(t, `{"node":"web1","interface":"lo","live":true,"bytes":8000000,"bpf":"`+stream.Filter()+`"}`)
	started := l.await(t, time.Minute, "started", "refused")
	for range 200 {
		stream.Send()
	}
	key := fmt.Sprint(started.said["key"])
	var unread int
	testbed.Eventually(t, time.Minute, "the capture has ended, and nearly 4 MiB are unread", func() bool {
		_, body := get(t, port, "/metrics")
		pieces, err := redis.ByteSlices(r.Do(t, "LRANGE", key, 0, -1), nil)
		if err != nil {
			t.Fatal(err)
		}
		unread = len(bytes.Join(pieces, nil))
		return strings.Contains(body, "pcapdaemon_captured_packets_total 199\n") && unread > 3<<20
	})
	if unread > 4<<20 {
		t.Errorf("want 4 MiB unread at most, got %d bytes", unread)
	}
	live := readLive(t, r, key)
	done := l.final(t, time.Minute)
	done.check(t, says{"state": "done", "stop": "bytes", "error": nil, "dropped": 0})
	checkLive(t, live, done.File)
	_, body := get(t, port, "/metrics")
	for _, want := range []string{fmt.Sprintf("pcapdaemon_live_bytes_total %d\n", done.Bytes),
		fmt.Sprintf("pcapdaemon_live_pieces_total %d\n", live.pieces), "pcapdaemon_live_given_up_total 0\n",
		"pcapdaemon_deliveries_total{destination=\"live\",outcome=\"ok\"} 1\n"} {
		if !strings.Contains(large.ReplaceAllStringFunc(body, plain), want) {
			t.Errorf("want %q in the metrics", want)
		}
	}
}

// large matches numbers as Prometheus writes them from a million on.
var large = regexp.MustCompile(`(?m) \d[.\d]*e\+\d+$`)

// plain returns a number without an exponent.
func plain(number string) string {
	f, _ := strconv.ParseFloat(number[1:], 64)
	return " " + strconv.FormatFloat(f, 'f', -1, 64)
}

// TestLiveRedisRestarts: what was unread is gone, so the capture is sent no further, which its result
// says; it goes on and is delivered.
func TestLiveRedisRestarts(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(keeping(t.TempDir()), "-maxreturn", "16MiB")...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"a","live":true,"bpf":"`+stream.Filter()+`"}`)
	started := l.await(t, time.Minute, "started", "refused")
	key := fmt.Sprint(started.said["key"])
	testbed.Eventually(t, time.Minute, "packets are sent", func() bool { return r.Do(t, "LLEN", key).(int64) > 1 })
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, time.Minute)
	r.Restart(t)
	again := time.Now()
	l = listen(t, r)
	r.AwaitSubscribers(t, time.Minute, 1)
	stream.Await(t, 10)
	r.Publish(t, `{"node":"web1","stop":"a"}`)
	done := l.final(t, time.Minute)
	done.check(t, says{"state": "failed", "stop": "request", "error": about("live: push to " + key), "file": anything{}})
	packets := readPackets(t, done.File)
	if last := packets[len(packets)-1].Timestamp; last.Before(again) {
		t.Errorf("want packets from after the restart at %v, got the last one at %v", again, last)
	}
	if n := r.Do(t, "EXISTS", key); n != int64(0) {
		t.Error("want nothing sent behind a gap")
	}
}

// TestLiveNames: each capture has a list of its own, which expires, whatever has its name already; nobody else may
// write to it.
func TestLiveNames(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(keeping(t.TempDir()), "-maxreturn", "16MiB")...)
	stream := testbed.StartStream(t, time.Millisecond)
	const name = "capture-results:a:web1:lo"
	r.Do(t, "SET", name+":live", "something else")
	for _, key := range []string{name + "-2:live", name + "-3:live"} {
		r.Publish(t, `{"node":"web1","interface":"lo","id":"a","live":true,"bpf":"`+stream.Filter()+`"}`)
		l.await(t, time.Minute, "started", "refused").check(t, says{"state": "started", "key": key})
		if expires := r.Do(t, "TTL", key).(int64); expires < 50 || expires > 60 {
			t.Errorf("%s: want it to expire in a minute, got %d s", key, expires)
		}
	}
	good := readLive(t, r, name+"-3:live")
	r.Do(t, "RPUSH", name+"-2:live", "x", "y")
	stream.Await(t, 300)
	r.Publish(t, `{"node":"web1","stop":"a"}`)
	said := map[string]result{}
	for range 2 {
		r := l.final(t, time.Minute)
		said[r.State] = r
		if packets := readPackets(t, r.File); len(packets) < 100 {
			t.Errorf("want all packets, got %d", len(packets))
		}
	}
	said["failed"].check(t, says{"error": about("somebody else writes to the list"), "stop": "request"})
	checkLive(t, good, said["done"].File)
	if got, _ := redis.String(r.Do(t, "GET", name+":live"), nil); got != "something else" {
		t.Errorf("want what was there untouched, got %q", got)
	}
}

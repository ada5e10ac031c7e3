package e2e

import (
	"bytes"
	"fmt"
	"os"
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
		for {
			var answer [][]byte
			if answer, l.err = redis.ByteSlices(conn.Do("BLPOP", key, 20)); l.err != nil || len(answer[1]) == 0 {
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
	case <-time.After(20 * time.Second):
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
			for range 7 {
				started := l.await(t, 5*time.Second, "started", "refused")
				device := map[bool]string{true: "any", false: "lo"}[started.ID == "any"]
				key := "capture-results:" + started.ID + ":web1:" + device + ":live"
				if !started.check(t, says{"state": "started", "key": key, "error": nil}) {
					t.FailNow()
				}
				readers[started.ID] = readLive(t, r, key)
			}
			time.Sleep(300 * time.Millisecond) // for packets before a stop
			r.Publish(t, `{"node":"any","stop":"request"}`)
			for range 7 {
				done := l.final(t, 10*time.Second)
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
			last := readLive(t, r, l.await(t, 5*time.Second, "started").said["key"].(string))
			time.Sleep(300 * time.Millisecond)
			d.Signal(t, syscall.SIGTERM)
			if code := d.Wait(t, 5*time.Second); code != 0 {
				t.Errorf("want exit code 0, got %d", code)
			}
			checkLive(t, last, l.final(t, time.Second).File)
		})
	}
}

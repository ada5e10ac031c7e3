package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

func TestFullHouse(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(keeping(t.TempDir()), "-maxcaptures", "2", "-maxmemory", "3MiB")...)
	full := says{"state": "refused", "error": about("-maxcaptures")}
	for n, want := range []says{{"state": "started"}, {"state": "started"}, full} { // unequal ones, which share nothing
		r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","id":"%d","timeout":60,"bpf":"ether proto 0x999%[1]d"}`, n))
		l.next(t, time.Minute).check(t, want)
	}
	r.Publish(t, `{"node":"web1","stop":"0"}`)
	r.Publish(t, `{"node":"web1","stop":"1"}`)
	l.await(t, time.Minute, "done")
	l.await(t, time.Minute, "done")
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	l.next(t, time.Minute).check(t, says{"state": "started"})
}

// TestMemoryBudget: what is being delivered counts, its slot does not.
func TestMemoryBudget(t *testing.T) {
	release := make(chan struct{})
	s := sharktest.Start(t, func(http.ResponseWriter, *http.Request, int) bool { <-release; return false })
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, append(uploading(t, s), "-maxmemory", "2MiB", "-maxcaptures", "1")...)
	big := startBurst(t)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"fills","bpf":"`+big.Filter()+`"}`)
	l.await(t, time.Minute, "started")
	testbed.Eventually(t, time.Minute, "the capture ends and is uploaded", func() bool { return s.Count() == 1 })
	r.Publish(t, `{"node":"web1","interface":"lo","id":"late"}`)
	l.next(t, time.Minute).check(t, says{"id": "late", "state": "refused", "error": about("-maxmemory")})
	close(release)
	got := l.next(t, time.Minute)
	got.check(t, says{"id": "fills", "state": "done", "stop": "bytes"})
	if got.Bytes > 2<<20 || got.Bytes < 2<<20-70000 {
		t.Errorf("want the budget used, got %d bytes", got.Bytes)
	}
	if u := s.Received()[0]; int64(len(u.Content)) != got.Bytes {
		t.Errorf("want %d bytes uploaded, got %d", got.Bytes, len(u.Content))
	}
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	l.next(t, time.Minute).check(t, says{"state": "started"})
}

// startBurst sends large packets as fast as a shell-free loop can.
func startBurst(t *testing.T) *testbed.Stream {
	t.Helper()
	s := testbed.StartStream(t, time.Hour)
	conn := testbed.DialUDP(t, s.Port)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		packet := make([]byte, 30000)
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Microsecond):
				_, _ = conn.Write(packet)
			}
		}
	}()
	t.Cleanup(func() { close(done); <-ended })
	return s
}

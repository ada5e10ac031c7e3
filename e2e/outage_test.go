package e2e

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestResultsSurviveOutage: a capture that runs while Redis is away is
// delivered, and its result comes when Redis is back.
func TestResultsSurviveOutage(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	dir := t.TempDir()
	startDaemon(t, r, keeping(dir)...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"first","timeout":2,"bpf":"`+stream.Filter()+`"}`)
	r.Publish(t, `{"node":"web1","interface":"lo","id":"second","timeout":3,"bpf":"`+stream.Filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	l.await(t, 5*time.Second, "started")
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, 5*time.Second)
	testbed.Eventually(t, 10*time.Second, "both captures are written", func() bool {
		files, _ := filepath.Glob(filepath.Join(dir, "*.pcap"))
		return len(files) == 2
	})
	r.Restart(t)
	l = listen(t, r)
	for _, want := range []string{"first", "second"} {
		l.next(t, 6*time.Second).check(t, says{"id": want, "state": "done"})
	}
}

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestStop: running captures are delivered, then the daemon ends.
func TestStop(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			r := testbed.StartRedis(t)
			l := listen(t, r)
			s := sharktest.Start(t, nil)
			d := startDaemon(t, r, append(uploading(t, s), keeping(t.TempDir())...)...)
			stream := testbed.StartStream(t, time.Millisecond)
			for n := range 3 { // unequal ones, which share nothing
				r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","bpf":"%s","packets":%d}`, stream.Filter(), 90_000+n))
				l.await(t, 5*time.Second, "started")
			}
			time.Sleep(500 * time.Millisecond)
			at := time.Now()
			d.Signal(t, sig)
			if code := d.Wait(t, 5*time.Second); code != 0 {
				t.Errorf("want exit code 0, got %d", code)
			}
			for range 3 {
				got := l.final(t, time.Second)
				got.check(t, says{"state": "done", "stop": "shutdown", "url": anything{}, "file": anything{}})
				packets := readPackets(t, got.File)
				last := packets[len(packets)-1].Timestamp
				if gap := at.Sub(last); gap > 30*time.Millisecond || gap < -30*time.Millisecond {
					t.Errorf("want packets until the signal, got the last one %v before", gap)
				}
			}
		})
	}
}

// TestStopWhileUploadsHang: the exit is not held up, and nothing is lost.
func TestStopWhileUploadsHang(t *testing.T) {
	s := sharktest.Start(t, sharktest.Hang)
	r := testbed.StartRedis(t)
	l := listen(t, r)
	dir := t.TempDir()
	d := startDaemon(t, r, append(uploading(t, s), "-destdir", dir, "-draintimeout", "1s")...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","bpf":"`+stream.Filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	time.Sleep(300 * time.Millisecond)
	began := time.Now()
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, 5*time.Second); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	if took := time.Since(began); took < time.Second || took > 3*time.Second {
		t.Errorf("want an exit after -draintimeout, took %v", took)
	}
	got := l.final(t, time.Second)
	got.check(t, says{"state": "failed", "stop": "shutdown"})
	if _, err := os.Stat(got.File); err != nil {
		t.Errorf("want it kept in -destdir, got %v", err)
	}
}

func TestSecondSignal(t *testing.T) {
	s := sharktest.Start(t, sharktest.Hang)
	r := testbed.StartRedis(t)
	l := listen(t, r)
	d := startDaemon(t, r, uploading(t, s)...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","bpf":"`+stream.Filter()+`"}`)
	l.await(t, 5*time.Second, "started")
	time.Sleep(300 * time.Millisecond)
	d.Signal(t, syscall.SIGTERM)
	testbed.Eventually(t, 5*time.Second, "it stops", func() bool {
		return strings.Contains(d.Output.String(), "stopping")
	})
	d.Signal(t, syscall.SIGTERM)
	d.Wait(t, time.Second)
}

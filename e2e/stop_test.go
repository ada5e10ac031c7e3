package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestStop: running captures are delivered, then the daemon ends.
func TestStop(t *testing.T) {
	t.Parallel()
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP) // or the daemon would be started with what nohup(1) has done to the tests
	t.Cleanup(func() { signal.Stop(caught) })
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			r := testbed.StartRedis(t)
			l := listen(t, r)
			s := sharktest.Start(t, nil)
			d := startDaemon(t, r, append(uploading(t, s), keeping(t.TempDir())...)...)
			stream := testbed.StartStream(t, time.Millisecond)
			for n := range 3 { // unequal ones, which share nothing
				r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","bpf":"%s","packets":%d}`, stream.Filter(), 90_000+n))
				l.await(t, time.Minute, "started")
			}
			stream.Await(t, 200)
			sent, at := stream.Sent(), time.Now()
			d.Signal(t, sig)
			if code := d.Wait(t, time.Minute); code != 0 {
				t.Errorf("want exit code 0, got %d", code)
			}
			for range 3 {
				got := l.final(t, 30*time.Second)
				got.check(t, says{"state": "done", "stop": "shutdown", "url": anything{}, "file": anything{}})
				if hasDrops(got) {
					continue
				}
				numbers := readNumbers(t, got.File)
				testbed.CheckNoGap(t, numbers)
				if last := numbers[len(numbers)-1]; last < sent-1 {
					t.Errorf("want all %d packets from before the signal, got %d", sent, last+1)
				}
				packets := readPackets(t, got.File)
				if last := packets[len(packets)-1].Timestamp; got.Ended.Before(at) || !last.Before(got.Ended) {
					t.Errorf("want packets until the signal at %v, got the end at %v, the last one at %v", at, got.Ended, last)
				}
			}
		})
	}
}

// TestStopWhileRecorded: a recorder goes on until captures have what came before the signal, though the
// kernel is not done with its last block.
func TestStopWhileRecorded(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	const packets, size = 200, 32 << 10 // less than is recorded
	stream := testbed.NewStream(t, size)
	d := startDaemon(t, r, recording(t, "-filter", stream.Filter())...)
	r.Publish(t, `{"node":"web1","interface":"lo"}`)
	l.await(t, time.Minute, "started")
	for range packets { // so fast that the recorder looks when some time is over, not when a block is full
		stream.Send()
	}
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, time.Minute); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	done := l.final(t, 30*time.Second)
	done.check(t, says{"state": "done", "stop": "shutdown", "packets": packets, "dropped": 0, "error": nil})
	testbed.CheckNoGap(t, readNumbers(t, done.File))
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
	l.await(t, time.Minute, "started")
	stream.Await(t, 100)
	began := time.Now()
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, time.Minute); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	if took := time.Since(began); took < time.Second || took > 20*time.Second { // by default it would have 30 s
		t.Errorf("want an exit after -draintimeout, took %v", took)
	}
	got := l.final(t, 30*time.Second)
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
	l.await(t, time.Minute, "started")
	stream.Await(t, 100)
	d.Signal(t, syscall.SIGTERM)
	testbed.Eventually(t, 30*time.Second, "it stops", func() bool {
		return strings.Contains(d.Output.String(), "stopping")
	})
	d.Signal(t, syscall.SIGTERM)
	d.Wait(t, 20*time.Second) // the first one alone lets it try for 30 s
}

// TestHangUpIgnored: what nohup starts outlives the terminal.
func TestHangUpIgnored(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	l := listen(t, r)
	cmd := exec.Command("sh", append([]string{"-c", `trap "" HUP; exec "$0" "$@"`},
		daemonCommand(r, keeping(t.TempDir())...).Args...)...)
	d := testbed.Start(t, cmd)
	r.AwaitSubscribers(t, time.Minute, 1)
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	l.await(t, time.Minute, "started")
	d.Signal(t, syscall.SIGHUP)
	l.final(t, time.Minute).check(t, says{"state": "done", "stop": "timeout"})
	if d.HasExited() {
		t.Error("want it running")
	}
}

// TestEndpointWhileStopping: while it delivers, the daemon says that it takes
// no requests, and can still be measured. Then it gives up in time.
func TestEndpointWhileStopping(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l := listen(t, r)
	args, port := listening(t)
	const drain = 6 * time.Second
	args = append(args, "-draintimeout", drain.String())
	d := startDaemon(t, r, append(args, uploading(t, sharktest.Start(t, sharktest.Hang))...)...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","bpf":"`+stream.Filter()+`"}`)
	l.await(t, time.Minute, "started")
	stream.Await(t, 100)
	began := time.Now()
	d.Signal(t, syscall.SIGTERM)
	testbed.Eventually(t, 30*time.Second, "it says that it stops", func() bool {
		code, body := get(t, port, "/healthz")
		return code == 503 && strings.Contains(body, "stopping")
	})
	for time.Since(began) < drain/4 {
		if code, body := get(t, port, "/healthz"); code != 503 {
			t.Fatalf("after %v: want 503, got %d: %s", time.Since(began), code, body)
		}
		if held := series(t, port, "pcapdaemon_memory_held_bytes"); held <= 0 {
			t.Fatalf("after %v: want the capture that is delivered in /metrics, got %v bytes", time.Since(began), held)
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.Publish(t, `{"node":"web1","interface":"lo","id":"late"}`)
	if code := d.Wait(t, time.Minute); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	if took := time.Since(began); took < drain {
		t.Errorf("want it to try for all of -draintimeout, gave up after %v", took)
	}
	l.final(t, 30*time.Second).check(t, says{"state": "failed", "stop": "shutdown", "url": nil, "file": nil})
	l.quiet(t, 100*time.Millisecond) // nothing of the late request
}

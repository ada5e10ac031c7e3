package e2e

import (
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
)

// TestNight: CloudShark is away for the night, in which the daemon is started
// anew and killed. In the morning every capture is there, once.
func TestNight(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := newAbsence(t, isAway, append(keeping(dir), "-draintimeout", "500ms")...)
	told := map[string][]result{} // by the ids of their requests
	take := func(r result) { told[r.ID] = append(told[r.ID], r) }
	// makes captures that end in a state.
	makes := func(state string, ids ...string) {
		t.Helper()
		for _, id := range ids {
			a.redis.Publish(t, a.request(id, 20))
			r := a.heard.next(t, time.Minute)
			for take(r); r.State != state; take(r) {
				r = a.heard.next(t, time.Minute)
			}
		}
	}
	// begins begins a capture that does not end by itself.
	begins := func(id string) {
		t.Helper()
		a.redis.Publish(t, a.request(id, 0))
		take(a.heard.await(t, time.Minute, "started"))
		a.stream.Await(t, 100)
	}

	patience := []string{"-cstimeout", "5s"} // less than who is away asks for, so that captures are kept at once
	a.back(t)
	d := a.start(t, patience...)
	makes("done", "evening 1", "evening 2")
	a.leave(isAway)
	makes("kept", "night 1", "night 2")
	a.leave(sharktest.Hang)
	begins("at the restart")
	a.stop(t, d)
	take(a.heard.next(t, time.Minute))

	d = a.start(t, "-cstimeout", "300ms")
	makes("kept", "night 3")
	begins("at the kill")
	d.Signal(t, syscall.SIGKILL)
	d.Wait(t, time.Minute)
	a.redis.AwaitSubscribers(t, time.Minute, 0)
	a.leave(isAway)
	args, port := listening(t)
	a.start(t, append(args, patience...)...)
	makes("kept", "night 4")
	checkSeries(t, port, map[string]float64{"pcapdaemon_spool_captures": 5})

	a.back(t) // and the next tries come within 15 s
	for range 5 {
		take(a.heard.await(t, time.Minute, "done"))
	}
	makes("done", "morning 1", "morning 2")
	a.heard.quiet(t, 300*time.Millisecond)

	for id, want := range map[string]string{
		"evening 1": "started done", "evening 2": "started done",
		"night 1": "started kept done", "night 2": "started kept done", "night 3": "started kept done",
		"night 4": "started kept done", "at the restart": "started kept done", "at the kill": "started",
		"morning 1": "started done", "morning 2": "started done",
	} {
		if got := states(told[id]); want != got {
			t.Errorf("%s: want %s, got %s", id, want, got)
		}
		a.checkDelivered(t, told[id])
	}
	if got := len(a.shark.Received()); got != 9 {
		t.Errorf("want 9 uploads, got %d", got)
	}
	checkNames(t, a.spool)
	checkDirectory(t, dir, 9)
	checkSeries(t, port, map[string]float64{"pcapdaemon_spool_captures": 0, "pcapdaemon_spool_bytes": 0})
}

// checkDelivered fails unless a capture is where its last result says, whole
// and with all that it was asked with, and was in one place from the start.
func (a *absence) checkDelivered(t *testing.T, results []result) {
	t.Helper()
	for _, r := range results {
		r.check(t, says{"tags": "dns,slow", "customer": "ACME", "alertid": 4711, "bpf": a.stream.Filter(),
			"started": results[0].said["started"]})
		if r.State == "started" {
			continue
		}
		stop := "packets"
		if r.ID == "at the restart" {
			stop = "shutdown"
		}
		last := results[len(results)-1]
		r.check(t, says{"stop": stop, "file": last.File, "packets": last.Packets, "bytes": last.Bytes,
			"ended": last.said["ended"], "received": last.said["received"], "dropped": last.said["dropped"]})
		content, err := os.ReadFile(r.File)
		if err != nil {
			t.Fatal(err)
		}
		checkContent(t, content, r)
		if r.State == "kept" {
			r.check(t, says{"url": nil, "error": about("upload to ")})
			continue
		}
		r.check(t, says{"error": nil})
		u := a.upload(t, r)
		r.check(t, says{"url": about("/captures/cafe")})
		if !slices.Equal(content, u.Content) {
			t.Errorf("%s: upload and file differ", r.ID)
		}
	}
}

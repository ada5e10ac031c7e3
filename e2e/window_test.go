package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestWindowIsWhole: a capture lasts as long as it was asked to, counted from
// when its filter was ready.
func TestWindowIsWhole(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	stream := testbed.StartStream(t, 500*time.Microsecond)
	slow := stream.Filter() + " or " + slowFilter(40) // packets are sent while it is compiled
	var done result
	for range 5 {
		r.Publish(t, `{"node":"web1","interface":"lo","timeout":1,"bpf":"`+slow+`"}`)
		if done = l.final(t, time.Minute); !isGivenUp(done) && !hasDrops(done) {
			break
		}
	}
	done.check(t, says{"state": "done", "stop": "timeout"})
	if want, got := time.Second, done.Ended.Sub(done.Started); want != got {
		t.Errorf("want a capture of %v, got %v", want, got)
	}
	checkWindow(t, stream, done, done.Started)
}

// hasDrops reports whether the kernel has dropped packets, and has said so: the machine was too busy to take them.
func hasDrops(r result) bool {
	dropped, said := r.said["dropped"]
	return said && dropped != json.Number("0")
}

// checkWindow fails unless a capture has all packets of a stream from its start to its end, and none from before or after.
func checkWindow(t *testing.T, stream *testbed.Stream, done result, start time.Time) {
	t.Helper()
	if hasDrops(done) {
		t.Logf("not looked at, for packets were dropped: %s", done.text)
		return
	}
	for _, p := range readPackets(t, done.File) {
		if p.Timestamp.Before(start.Truncate(time.Microsecond)) || p.Timestamp.After(done.Ended) { // stamps have microseconds
			t.Errorf("want packets from %v to %v, got one at %v", start, done.Ended, p.Timestamp)
		}
	}
	stream.CheckWhole(t, readNumbers(t, done.File), start, done.Ended)
}

// startInFile returns the start of a capture as fine as the stamps of a pcap file are.
func startInFile(r result) time.Time { return r.Started.Truncate(time.Microsecond) }

// TestSnapshot: packets are cut as asked, and the file says how long they were.
func TestSnapshot(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	stream := testbed.StartStream(t, time.Millisecond)
	r.Publish(t, `{"node":"web1","interface":"lo","snap":50,"packets":100,"bpf":"`+stream.Filter()+`"}`)
	done := l.final(t, time.Minute)
	done.check(t, says{"state": "done", "packets": 100, "bytes": 24 + 100*(16+50)})
	for i, p := range readPackets(t, done.File) {
		if p.CaptureLength != 50 || p.Length != 42+15 {
			t.Fatalf("packet %d: want 50 bytes of 57, got %d of %d", i, p.CaptureLength, p.Length)
		}
	}
}

// readPackets returns the packets of a capture file, of which there must be some.
func readPackets(t *testing.T, name string) []testbed.Packet {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	packets, _ := testbed.ReadPcap(t, file)
	if len(packets) == 0 {
		t.Fatal("no packets in ", name)
	}
	return packets
}

// TestNothingBeforeTheStart: what the kernel took in before it had the filter is
// not in the file. There is a hole behind it, of which nobody counts the packets.
func TestNothingBeforeTheStart(t *testing.T) {
	r := testbed.StartRedis(t)
	l := listen(t, r)
	startDaemon(t, r, keeping(t.TempDir())...)
	stream, whole := testbed.StartStream(t, 20*time.Microsecond), 0
	for n := range 20 {
		r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","packets":%d,"bpf":"%s"}`, 50+n, stream.Filter()))
		done := l.final(t, time.Minute)
		done.check(t, says{"state": "done", "stop": "packets"})
		if ahead := startInFile(done).Sub(readPackets(t, done.File)[0].Timestamp); ahead > 0 {
			t.Errorf("capture %d: the first packet came %v before the start", n, ahead)
		}
		if hasDrops(done) {
			continue
		}
		testbed.CheckNoGap(t, readNumbers(t, done.File))
		whole++
	}
	if whole == 0 {
		t.Error("want captures without a word of drops")
	}
}

//go:build compare

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// compareStart measures how soon packets are captured after a request or a
// command, and how soon a capture is uploaded after its last packet.
func (c *comparison) compareStart(t *testing.T) {
	p := c.startDaemon(t, c.withUpload()...)
	stop := c.trickle(t)
	defer stop()
	var ours, theirs, end, theirEnd []time.Duration
	for round := range startRounds {
		note("start and end, round %d of %d", round+1, startRounds)
		// Such numbers that the ends lie all over the kernel's read timeout.
		packets := 500 + 153*round

		asked := time.Now()
		c.publish(t, floodFilter, fmt.Sprintf(`"packets":%d,"timeout":20`, packets))
		r := c.awaitDone(t)
		first, last := firstAndLast(t, r.File)
		ours, end = append(ours, first.Sub(asked)), append(end, c.sink.last(t).Sub(last))
		removeFile(t, r.File)

		file := filepath.Join(c.dir, "tcpdump.pcap")
		asked = time.Now()
		c.startTcpdump(t, floodFilter, file, "-c", strconv.Itoa(packets)).Wait(t, time.Minute)
		exited := time.Now()
		first, last = firstAndLast(t, file)
		theirs, theirEnd = append(theirs, first.Sub(asked)), append(theirEnd, exited.Sub(last))
		removeFile(t, file)
	}
	c.stop(t, p)
	c.table.ratio("start: request or command to first packet", median(ours), median(theirs), 0.75)
	c.table.within("end: last packet to end of upload or command", median(end), median(theirEnd), 100*time.Millisecond)
}

// compareIdle measures captures on which nothing matches.
func (c *comparison) compareIdle(t *testing.T) {
	note("idle captures")
	p := c.startDaemon(t)
	c.publish(t, quietFilter, `"timeout":13`)
	c.results.await(t, 10*time.Second, "started")
	dump := c.startTcpdump(t, quietFilter, filepath.Join(c.dir, "tcpdump.pcap"))
	awaitTcpdump(t, dump)
	time.Sleep(time.Second)
	const span = 10 * time.Second
	before, theirsBefore := cpuTime(t, p), cpuTime(t, dump)
	time.Sleep(span)
	ours, theirs := percent(cpuTime(t, p)-before, span), percent(cpuTime(t, dump)-theirsBefore, span)
	c.stop(t, dump)
	c.awaitDone(t)
	c.stop(t, p)
	c.table.add("idle capture, share of a core", fmt.Sprintf("%.2f %%", ours), fmt.Sprintf("%.2f %%", theirs),
		"", "≤ 0.5 %", ours <= 0.5)
}

// firstAndLast returns the time stamps at both ends of a capture file.
func firstAndLast(t *testing.T, name string) (first, last time.Time) {
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
	return packets[0].Timestamp, packets[len(packets)-1].Timestamp
}

// An uploadSink takes uploads as CloudShark does, forgets them, and knows
// when they were complete.
type uploadSink struct {
	*httptest.Server
	complete chan time.Time
}

// startUploadSink starts a sink that goes with the test.
func startUploadSink(t *testing.T) *uploadSink {
	t.Helper()
	s := &uploadSink{complete: make(chan time.Time, 1)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-s.complete: // nobody asked for the one before
		default:
		}
		s.complete <- time.Now()
		fmt.Fprint(w, `{"id":"0"}`)
	}))
	t.Cleanup(s.Close)
	return s
}

// last returns when the newest upload was complete. It has to be asked for once, and after the upload.
func (s *uploadSink) last(t *testing.T) time.Time {
	t.Helper()
	select {
	case at := <-s.complete:
		return at
	default:
		t.Fatal("no upload")
	}
	panic("unreachable")
}

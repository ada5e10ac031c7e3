//go:build compare

package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/dustin/go-humanize"

	"pcapdaemon/testbed"
)

const (
	// recorderRounds, triggerRounds and startedRounds are odd, as compareRounds is.
	recorderRounds = 5
	triggerRounds  = 7
	startedRounds  = 21
	// ringSize is the ring of the recorders that are measured, in bytes.
	ringSize = 64 * humanize.MiByte
	// firstEighth is the first of the eight ports to which floodEighths sends.
	firstEighth = 4250
	eighths     = 8
	// recorderDelay is how long after its end a capture of a recorder may find out:
	// the recorder waits for a read timeout of 100 ms, and so does who reads from it.
	recorderDelay = 200 * time.Millisecond
)

// startRecorder starts a daemon that records v0, and returns the port of its metrics.
func (c *comparison) startRecorder(t *testing.T) (p *testbed.Process, port int) {
	t.Helper()
	args, port := listening(t)
	p = c.startDaemon(t, append(args, "-record", "v0", "-recordsize", strconv.Itoa(ringSize))...)
	return p, port
}

// compareRecorder measures a recorder, without captures and with eight of them at once.
func (c *comparison) compareRecorder(t *testing.T, size, packets int) {
	p, port := c.startRecorder(t)
	idle := memory(t, p, "VmRSS")
	var alone, together, theirs []flight
	c.flyEighths(t, p, size, packets) // makes their memory warm
	for round := range recorderRounds {
		note("recorder, %d-byte packets, round %d of %d", size, round+1, recorderRounds)
		alone = append(alone, c.flyRecorder(t, p, port, size, packets))
		together = append(together, c.flyEighths(t, p, size, packets))
		theirs = append(theirs, c.flyTcpdumpOfEighths(t, size, packets))
	}
	c.stop(t, p)
	what := fmt.Sprintf("%d-byte packets", size)
	each := medianOf(theirs, flight.perPacket)
	c.table.ratio("recorder, CPU per packet, "+what, medianOf(alone, flight.perPacket), each, 0.08)
	c.table.loss("… lost", alone, theirs)
	limit := map[int]float64{200: 1.5, 1400: 0.9}[size]
	c.table.ratio("… with a capture of each eighth of them", medianOf(together, flight.perPacket), each, limit)
	c.table.loss("… … lost", together, theirs)
	c.table.memory("… resident memory, ring of "+mebibytes(ringSize), idle, ringSize+32*humanize.MiByte)
}

// flyRecorder records at full speed.
func (c *comparison) flyRecorder(t *testing.T, p *testbed.Process, port, size, packets int) flight {
	t.Helper()
	const recorded = `pcapdaemon_recorder_packets_total{interface="v0"}`
	kept := -series(t, port, recorded)
	before := cpuTime(t, p)
	c.floodEighths(t, size, packets)
	time.Sleep(daemonDrain)
	used := cpuTime(t, p) - before
	kept += series(t, port, recorded)
	return flight{sent: int64(packets), kept: min(int64(kept), int64(packets)), cpu: used}
}

// flyEighths makes eight captures at full speed, each of the packets to its own port.
func (c *comparison) flyEighths(t *testing.T, p *testbed.Process, size, packets int) flight {
	t.Helper()
	for n := range eighths {
		c.publish(t, fmt.Sprintf("udp dst port %d", firstEighth+n), `"timeout":60,"id":"eighths"`)
	}
	for range eighths {
		c.results.await(t, 10*time.Second, "started")
	}
	before := cpuTime(t, p)
	c.floodEighths(t, size, packets)
	time.Sleep(daemonDrain)
	f := flight{sent: int64(packets), cpu: cpuTime(t, p) - before}
	c.endCaptures(t, "eighths")
	for range eighths {
		r := c.awaitDone(t)
		f.kept += r.Packets
		removeFile(t, r.File)
	}
	return f
}

// flyTcpdumpOfEighths makes one capture of what floodEighths sends with tcpdump.
func (c *comparison) flyTcpdumpOfEighths(t *testing.T, size, packets int) flight {
	t.Helper()
	filter := fmt.Sprintf("udp dst portrange %d-%d", firstEighth, firstEighth+eighths-1)
	return c.flyTcpdumpOver(t, filter, packets, func() { c.floodEighths(t, size, packets) })
}

// floodEighths is flood to eight ports in turn.
func (c *comparison) floodEighths(t *testing.T, size, packets int) {
	t.Helper()
	var config string
	for n := range eighths {
		config += udpPacket(size, firstEighth+n) + " "
	}
	c.send(t, config, packets)
}

// measureIdleRecorder measures a recorder on whose interface nothing happens.
func (c *comparison) measureIdleRecorder(t *testing.T) {
	note("idle recorder")
	p, _ := c.startRecorder(t)
	c.settle(t)
	time.Sleep(time.Second)
	const span = 10 * time.Second
	before := cpuTime(t, p)
	time.Sleep(span)
	share := percent(cpuTime(t, p)-before, span)
	c.stop(t, p)
	c.table.value("idle recorder, share of a core", fmt.Sprintf("%.2f %%", share), "≤ 0.10 %", share <= 0.1)
}

// measureTrigger measures how soon after a request the past is in a file, and
// how late a capture ends for which there is nothing in the past.
func (c *comparison) measureTrigger(t *testing.T) {
	const packet, record = 1400, 1400 + 16
	note("trigger to file")
	p, port := c.startRecorder(t)
	c.flood(t, packet, 2*ringSize/record)
	time.Sleep(daemonDrain)
	held := int(series(t, port, `pcapdaemon_recorder_bytes{interface="v0"}`))
	var full, none []time.Duration
	var size int64
	for range triggerRounds {
		asked := time.Now()
		// A packet more than there are would wait for its timeout, and a reader
		// leaves the oldest part alone, which is overwritten next.
		c.publish(t, floodFilter, fmt.Sprintf(`"lookback":3600,"timeout":20,"packets":%d`, held/record*9/10))
		r := c.awaitDone(t)
		full, size = append(full, time.Since(asked)), r.Bytes
		if r.Stop != "packets" {
			t.Fatalf("lookback of %d bytes ended by %s with %d packets", held, r.Stop, r.Packets)
		}
		removeFile(t, r.File)

		asked = time.Now()
		c.publish(t, quietFilter, `"lookback":3600,"timeout":1`)
		c.awaitDone(t)
		none = append(none, time.Since(asked)-time.Second)
	}
	c.stop(t, p)
	c.table.within("lookback: request to a file of "+mebibytes(size), median(full), 0, 100*time.Millisecond)
	c.table.within("… that matches nothing: end to result", median(none), 0, recorderDelay+50*time.Millisecond)
}

// compareStarted measures how soon a capture says that it has started where
// its interface is recorded, beside one that opens it.
func (c *comparison) compareStarted(t *testing.T) {
	note("request to started")
	ordinary, recorded := c.timeStarted(t), c.timeStarted(t, "-record", "v0", "-recordsize", strconv.Itoa(ringSize))
	c.table.add("request to started, recorded (beside: not recorded)", roundTime(recorded), roundTime(ordinary),
		fmt.Sprintf("%.2f×", float64(recorded)/float64(ordinary)), "≤ 0.12×", float64(recorded) <= 0.12*float64(ordinary))
}

// timeStarted returns the median time from a request to its first result.
func (c *comparison) timeStarted(t *testing.T, args ...string) time.Duration {
	t.Helper()
	p := c.startDaemon(t, args...)
	var times []time.Duration
	for range startedRounds {
		asked := time.Now()
		c.publish(t, quietFilter, `"timeout":20,"id":"started"`)
		c.results.await(t, 10*time.Second, "started")
		times = append(times, time.Since(asked))
		c.endCaptures(t, "started")
		c.awaitDone(t)
	}
	c.stop(t, p)
	return median(times)
}

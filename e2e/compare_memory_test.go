//go:build compare

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
)

// measureMemory makes one capture with all deliveries, then four more, then waits.
func (c *comparison) measureMemory(t *testing.T) {
	const size = 1400
	const packets = evidenceSize / (size + 16) // the header of a packet in the file
	note("memory")
	p := c.startDaemon(t, c.withUpload()...)
	idle := settledMemory(t, p)
	capture := func() {
		c.publish(t, floodFilter, fmt.Sprintf(`"packets":%d,"timeout":20`, packets))
		c.results.await(t, 10*time.Second, "started")
		c.flood(t, size, 6*packets) // many may get lost on a busy machine
		r := c.awaitDone(t)
		if r.Stop != "packets" {
			t.Fatalf("capture of %d packets ended by %s with %d", packets, r.Stop, r.Packets)
		}
		removeFile(t, r.File)
	}
	capture()
	one := memory(t, p, "VmHWM") - idle
	resetPeak(t, p)
	for range 4 {
		capture()
	}
	four, last := memory(t, p, "VmHWM")-idle, time.Now()
	theirs := c.flyTcpdump(t, size, packets).peak
	limit := int64(evidenceSize)*110/100 + 8*humanize.MiByte
	c.table.add("peak memory over idle, capture of "+mebibytes(evidenceSize), mebibytes(one), mebibytes(theirs),
		"", "≤ "+mebibytes(limit), one <= limit)
	// The Go heap is never of quite the same size.
	c.table.memory("… four more, one after the other", four, one+humanize.MiByte)
	time.Sleep(25*time.Second - time.Since(last))
	c.table.memory("… 25 s after the last one", memory(t, p, "VmRSS")-idle, 32*humanize.MiByte)
	c.stop(t, p)
}

// measureBudget makes three captures without limits but that of memory.
func (c *comparison) measureBudget(t *testing.T) {
	note("memory budget")
	p := c.startDaemon(t, append(c.withUpload(), "-maxmemory", "64MiB", "-maxbytes", "64MiB", "-share", "0")...)
	idle := settledMemory(t, p)
	for range 3 {
		c.publish(t, floodFilter, `"timeout":20`)
	}
	for range 3 {
		c.results.await(t, 10*time.Second, "started")
	}
	c.flood(t, 1400, 150_000)
	var kept int64
	for range 3 {
		r := c.awaitDone(t)
		kept += r.Bytes
		removeFile(t, r.File)
	}
	c.table.value("three unlimited captures, -maxmemory 64MiB: kept", mebibytes(kept),
		"> 50 MiB", kept > 50*humanize.MiByte)
	c.table.memory("… peak memory over idle", memory(t, p, "VmHWM")-idle, 80*humanize.MiByte)
	c.stop(t, p)
}

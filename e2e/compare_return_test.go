//go:build compare

package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

const (
	// returnRounds is odd, as compareRounds is.
	returnRounds = 5
	// returnSize is the most that is returned, in bytes.
	returnSize = 16 * humanize.MiByte
	// memoryRest is after what the daemon has given a capture's memory back.
	memoryRest = 17 * time.Second
)

// measureReturn lets the client ask for captures and fetch them.
func (c *comparison) measureReturn(t *testing.T) {
	const size = 1400
	const packets = (returnSize - 24) / (size + 16) // headers of the file and of a packet
	p := c.startDaemon(t, "-writelocal=false", "-maxreturn", strconv.Itoa(returnSize))
	server := settledMemory(t, c.redis.Process)
	note("return")
	c.timeReturn(t, size, packets) // touches what every later one needs as well
	time.Sleep(memoryRest)
	idle := settledMemory(t, p)
	var times []time.Duration
	for round := range returnRounds {
		note("return, round %d of %d", round+1, returnRounds)
		times = append(times, c.timeReturn(t, size, packets))
	}
	daemon, redis := memory(t, p, "VmHWM")-idle, memory(t, c.redis.Process, "VmHWM")-server
	c.stop(t, p)
	c.table.within("return of "+mebibytes(returnSize)+": end of capture to file of the asker", median(times), 0,
		150*time.Millisecond)
	c.table.memory("… peak memory over that after the first one, daemon", daemon, returnSize*130/100)
	c.table.memory("… peak memory over idle, redis-server", redis, returnSize*130/100)
}

// timeReturn returns the time from the end of a capture to its file in the asker's directory.
func (c *comparison) timeReturn(t *testing.T, size, packets int) time.Duration {
	t.Helper()
	dir, err := os.MkdirTemp(c.dir, "asker-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	client := testbed.Start(t, daemonCommand(c.redis, "-destdir", dir, "-publish", "node=web1", "interface=v0",
		"bpf="+floodFilter, "packets="+strconv.Itoa(packets), "timeout=20"))
	c.results.await(t, 10*time.Second, "started")
	c.flood(t, size, 6*packets) // many may get lost on a busy machine
	r := c.awaitDone(t)
	if code := client.Wait(t, 20*time.Second); code != 0 || r.Stop != "packets" {
		t.Fatalf("capture ended by %s with %d packets, the client with exit code %d", r.Stop, r.Packets, code)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pcap"))
	if err != nil || len(files) != 1 {
		t.Fatalf("want one file, got %q: %v", files, err)
	}
	return changed(t, files[0]).Sub(r.Ended)
}

// changed returns when a file got its name: renaming changes the inode.
func changed(t *testing.T, name string) time.Time {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(name, &s); err != nil {
		t.Fatal(err)
	}
	return time.Unix(s.Ctim.Unix())
}

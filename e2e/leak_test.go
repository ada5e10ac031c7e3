package e2e

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// TestNothingLeaks: after fifty rounds no descriptor, thread, memory or
// interface in promiscuous mode more than after 5.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	l, s, dir := listen(t, r), sharktest.Start(t, nil), t.TempDir()
	args, port := listening(t)
	d := startDaemon(t, r, slices.Concat(args, uploading(t, s), keeping(dir))...)
	stream := testbed.StartStream(t, 100*time.Microsecond)
	capture := func(n int) {
		for range n {
			r.Publish(t, `{"node":"web1","interface":["lo","any"],"packets":20,"bpf":"`+stream.Filter()+`"}`)
			l.await(t, time.Minute, "done")
			l.await(t, time.Minute, "done")
			r.Publish(t, `{"node":"web1","interface":"lo","bpf":"nonsense"}`)
			l.await(t, time.Minute, "refused")
		}
	}
	capture(5)
	time.Sleep(500 * time.Millisecond) // handles are closed
	before := usage(t, d, port)
	capture(50)
	slack := map[string]int{
		"descriptors": 2, "sockets": 2, "packet sockets": 0, "goroutines": 2, "threads": 16, "memory": 16 << 20,
	}
	var more []string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		more = nil
		for what, now := range usage(t, d, port) {
			if now > before[what]+slack[what] {
				more = append(more, fmt.Sprintf("%s: %d after 5 captures, %d after 55", what, before[what], now))
			}
		}
		if more == nil {
			break
		}
	}
	if more != nil {
		t.Error(strings.Join(more, "\n"))
	}
	checkDirectory(t, dir, 110)
}

// usage returns what a daemon has in use.
func usage(t *testing.T, d *testbed.Process, port int) map[string]int {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	proc := fmt.Sprintf("/proc/%d/", d.Process.Pid)
	files, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	sockets := map[string]bool{} // their inodes
	for _, file := range files {
		target, _ := os.Readlink(proc + "fd/" + file.Name())
		if inode, found := strings.CutPrefix(target, "socket:["); found {
			sockets[strings.TrimSuffix(inode, "]")] = true
		}
	}
	threads, err := os.ReadDir(proc + "task")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]int{
		"descriptors": len(files), "sockets": len(sockets), "threads": len(threads),
		"packet sockets": countPacketSockets(t, proc, sockets),
		"goroutines":     int(series(t, port, "go_goroutines")),
		"memory":         int(series(t, port, "process_resident_memory_bytes")),
	}
}

// countPacketSockets returns how many of a process' sockets see packets. As long
// as one is open, its interface is in promiscuous mode.
func countPacketSockets(t *testing.T, proc string, inodes map[string]bool) int {
	t.Helper()
	table, err := os.ReadFile(proc + "net/packet")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, line := range testbed.ReadLines(string(table)) {
		if fields := strings.Fields(line); inodes[fields[len(fields)-1]] {
			n++
		}
	}
	return n
}

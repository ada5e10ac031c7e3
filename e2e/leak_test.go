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
			l.await(t, 10*time.Second, "done")
			l.await(t, 10*time.Second, "done")
			r.Publish(t, `{"node":"web1","interface":"lo","bpf":"nonsense"}`)
			l.await(t, 10*time.Second, "refused")
		}
	}
	capture(5)
	before := usage(t, d, port)
	capture(50)
	after := usage(t, d, port)
	for what, slack := range map[string]int{
		"descriptors": 2, "sockets": 2, "packet sockets": 0, "goroutines": 2, "threads": 16, "memory": 16 << 20,
	} {
		if after[what] > before[what]+slack {
			t.Errorf("%s: %d after 5 captures, %d after 55", what, before[what], after[what])
		}
	}
	checkDirectory(t, dir, 110)
}

// usage waits until handles are closed, and returns what a daemon has in use.
func usage(t *testing.T, d *testbed.Process, port int) map[string]int {
	t.Helper()
	time.Sleep(500 * time.Millisecond)
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

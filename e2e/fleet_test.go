package e2e

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// fleetSize is how many daemons there are at one time.
const fleetSize = 200

// startDaemons starts daemons n1, n2 … that return captures, on one machine.
func startDaemons(t *testing.T, r *testbed.Redis, count int) {
	t.Helper()
	for n := range count {
		cmd := exec.Command(binary, "-node", fmt.Sprint("n", n+1), "-redisport", strconv.Itoa(r.Port),
			"-maxreturn", "1MiB", "-buffersize", "64KiB", "-loglevel", "error")
		testbed.Start(t, cmd)
	}
	r.AwaitSubscribers(t, time.Minute, int64(count))
}

// TestFleet: many hosts are found, asked, ended and emptied at one time. What
// it should take is in the log.
func TestFleet(t *testing.T) {
	testbed.NeedRoot(t)
	r := testbed.StartRedis(t)
	startDaemons(t, r, fleetSize)
	stream := testbed.StartStream(t, 10*time.Millisecond)

	began := time.Now()
	roll := exec.Command(binary, "-redisport", strconv.Itoa(r.Port), "-rollcall")
	var out bytes.Buffer
	roll.Stdout = &out
	if code := testbed.Start(t, roll).Wait(t, time.Minute); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	if got := strings.Count(out.String(), `"state":"present"`); got != fleetSize {
		t.Errorf("want %d hosts, got %d", fleetSize, got)
	}
	t.Logf("roll call: %v (should be 1s)", time.Since(began))

	screen, dir := testbed.OpenTerminal(t, 80, 24), t.TempDir()
	client := startClient(t, r, screen, "-destdir", dir, "-publish", "node=any", "interface=lo", "timeout=60",
		"bpf="+stream.Filter())
	testbed.Eventually(t, time.Minute, "all have packets", func() bool {
		return strings.Contains(strings.Join(screen.Screen(), "\n"), "and 178 more: 178 running")
	})
	began = time.Now()
	screen.Type(t, "\x03")
	if code := client.Wait(t, time.Minute); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	t.Logf("from Ctrl-C to the last file: %v (should be 1.5s)", time.Since(began))
	checkDirectory(t, dir, fleetSize)
	if keys := r.Do(t, "KEYS", "*").([]any); len(keys) > 0 {
		t.Errorf("want no keys left, got %d", len(keys))
	}
}

//go:build compare || soak

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// onCore calls f on one core; what f starts stays there.
func onCore(t *testing.T, core int, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	only.Set(core)
	if err := errors.Join(unix.SchedGetaffinity(0, &before), unix.SchedSetaffinity(0, &only)); err != nil {
		t.Fatal("bind to core: ", err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }() // was good before
	f()
}

// cpuTime returns the processor time that a process has used up to now, in
// user and kernel mode, by threads that have ended too. Its clock is exact to the nanosecond,
// unlike the ticks of /proc/PID/stat.
func cpuTime(t *testing.T, p *testbed.Process) time.Duration {
	t.Helper()
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^p.Process.Pid)<<3|scheduler, &used); err != nil {
		t.Fatalf("read CPU clock of %s: %v", filepath.Base(p.Path), err)
	}
	return time.Duration(used.Nano())
}

// settledMemory returns the resident memory of a process that has just
// started and has nothing to do, and makes it the peak.
func settledMemory(t *testing.T, p *testbed.Process) int64 {
	t.Helper()
	time.Sleep(time.Second)
	resetPeak(t, p)
	return memory(t, p, "VmRSS")
}

// memory returns a field of /proc/PID/status, in bytes.
func memory(t *testing.T, p *testbed.Process, field string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range testbed.ReadLines(string(status)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib * humanize.KiByte
		}
	}
	t.Fatal("no ", field)
	panic("unreachable")
}

// resetPeak makes the memory that a process has now its peak (proc_pid_clear_refs(5)).
func resetPeak(t *testing.T, p *testbed.Process) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Process.Pid), []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// removeFile removes a capture: tmpfs is memory.
func removeFile(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

package testbed

import (
	"encoding/binary"
	"errors"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// A Watch sees what changes in a directory.
type Watch struct{ fd int }

// Changes are all kinds of changes that a Watch sees, as of inotify(7).
const Changes = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_MOVE | unix.IN_DELETE

// NewWatch watches a directory until the test ends.
func NewWatch(t testing.TB, dir string) Watch {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, Changes); err != nil {
		t.Fatal(err)
	}
	return Watch{fd}
}

// Forget forgets all changes until now.
func (w Watch) Forget() {
	piece := make([]byte, 64<<10)
	for n := 1; n > 0; {
		n, _ = unix.Read(w.fd, piece)
	}
}

// OneCore returns the command as one that runs on the core of a Watch's killer.
func OneCore(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	NeedTools(t, "taskset")
	return exec.Command("taskset", append([]string{"-c", strconv.Itoa(killersCore()), cmd.Path}, cmd.Args[1:]...)...)
}

// killersCore returns the last core that this process may use.
func killersCore() int {
	var cores unix.CPUSet
	_ = unix.SchedGetaffinity(0, &cores) // of ourselves
	core := 0
	for n := range len(cores) * 64 {
		if cores.IsSet(n) {
			core = n
		}
	}
	return core
}

// KillAt kills a process of OneCore at its n-th change of these kinds, before
// it can do anything else: the killer waits on the same core, and goes first.
// It reports whether there was such a change before enough did, which is called again and again.
func (w Watch) KillAt(t testing.TB, p *Process, kinds uint32, n int, enough func() bool) bool {
	t.Helper()
	done := make(chan error)
	killed := false
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var core unix.CPUSet
		core.Set(killersCore())
		first := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
		err := unix.SchedSetaffinity(0, &core)
		_ = unix.SchedSetAttr(0, first, 0) // not every container may: then it comes a little later
		for err == nil && !killed && !enough() && !p.HasExited() {
			if n -= w.await(kinds); n <= 0 {
				err, killed = unix.Kill(p.Process.Pid, unix.SIGKILL), true
			}
			if errors.Is(err, unix.ESRCH) { // it has just ended by itself
				err, killed = nil, false
				break
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return killed
}

// await waits a little for a change, and returns how many of these kinds there were.
func (w Watch) await(kinds uint32) int {
	var piece [8 << 10]byte
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, 20) // milliseconds
	if n > 0 {
		n, _ = unix.Read(w.fd, piece[:])
	}
	found := 0
	for rest := piece[:max(n, 0)]; len(rest) >= unix.SizeofInotifyEvent; {
		if binary.NativeEndian.Uint32(rest[4:])&kinds != 0 {
			found++
		}
		rest = rest[unix.SizeofInotifyEvent+binary.NativeEndian.Uint32(rest[12:]):]
	}
	return found
}

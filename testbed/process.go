package testbed

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Transcript collects what a process writes.
type Transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *Transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *Transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// A Process is a started program.
type Process struct {
	*exec.Cmd
	Output Transcript
	Exited chan struct{}
}

// Start launches a program that runs until the test ends. Standard error and output go to Output.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, Exited: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.Output
	}
	cmd.Stderr = &p.Output
	if err := Launch(cmd); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.Exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		<-p.Exited
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(cmd.Path), p.Output.String())
		}
	})
	return p
}

// launcher returns where functions are handed to the thread that starts all
// processes. That thread lasts as long as this program: the kernel sends the
// parent-death signal when the thread that has started a process ends.
var launcher = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread() // and never unlocked
		for f := range work {
			f()
		}
	}()
	return work
})

// Launch starts a command, as its Start does. It is killed when this program
// ends, even if that panics or is killed. A program that changes its user has to
// keep that (setpriv --pdeathsig keep). It runs on the processors that the
// calling thread is bound to, and in the network namespace of the program.
func Launch(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	var cores unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cores); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	done := make(chan error)
	launcher() <- func() {
		err := os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &cores))
		if err == nil {
			err = cmd.Start()
		}
		done <- err
	}
	return <-done
}

// CombinedOutput launches a command, waits for its end and returns what it has
// written, as its CombinedOutput does.
func CombinedOutput(cmd *exec.Cmd) ([]byte, error) {
	var written bytes.Buffer
	cmd.Stdout, cmd.Stderr = &written, &written
	err := Launch(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return written.Bytes(), err
}

// HasExited reports whether the program has ended.
func (p *Process) HasExited() bool {
	select {
	case <-p.Exited:
		return true
	default:
		return false
	}
}

// awaitListening waits until the program takes connections at an address, or has ended.
func (p *Process) awaitListening(t testing.TB, address string) {
	t.Helper()
	Eventually(t, 10*time.Second, filepath.Base(p.Path)+" listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return p.HasExited()
		}
		conn.Close()
		return true
	})
}

// Wait returns the exit code.
func (p *Process) Wait(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.Exited:
	case <-time.After(within):
		t.Fatalf("%s has not ended within %v", filepath.Base(p.Path), within)
	}
	return p.ProcessState.ExitCode()
}

// Signal sends a signal.
func (p *Process) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

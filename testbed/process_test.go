package testbed

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leaverVariable says how the process of TestNothingIsLeftBehind ends.
const leaverVariable = "TESTBED_LEAVER"

// TestNothingIsLeftBehind: what a test has started ends with its program, however that ends.
func TestNothingIsLeftBehind(t *testing.T) {
	NeedTools(t, "redis-server")
	if how := os.Getenv(leaverVariable); how != "" {
		leave(t, how)
	}
	for _, how := range []string{"killed", "panic"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			again := exec.Command(os.Args[0], "-test.run=^TestNothingIsLeftBehind$", "-test.count=1")
			again.Env = append(os.Environ(), leaverVariable+"="+how)
			p := Start(t, again)
			var server string
			Eventually(t, 20*time.Second, "a server runs", func() bool {
				found := regexp.MustCompile(`server (\d+)\n`).FindStringSubmatch(p.Output.String())
				if found != nil {
					server = found[1]
				}
				return found != nil
			})
			if how == "killed" {
				p.Signal(t, syscall.SIGKILL)
			}
			p.Wait(t, 10*time.Second)
			Eventually(t, 10*time.Second, "its server is gone", func() bool { return isGone(server) })
		})
	}
}

// leave starts a server and ends without a chance to clean up.
func leave(t *testing.T, how string) {
	t.Helper()
	server := StartRedis(t)
	fmt.Printf("server %d\n", server.Process.Process.Pid)
	if how == "panic" {
		ended := make(chan struct{})
		go func() { // not the test's own, where a panic would clean up
			defer close(ended)
			panic("left")
		}()
		<-ended
	}
	select {}
}

// isGone reports whether a process has ended, be it that nobody has waited for it.
func isGone(pid string) bool {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	return err != nil || strings.Contains(string(status), "\nState:\tZ")
}

// TestProcessOutlivesThread: the parent-death signal is not that of the thread that asked for the process.
func TestProcessOutlivesThread(t *testing.T) {
	var p *Process
	var words io.WriteCloser
	ended := fmt.Sprint("/proc/self/task/", onDyingThread(func() {
		cmd := exec.Command("cat")
		words, _ = cmd.StdinPipe() // which a new command always has
		p = Start(t, cmd)
	}))
	Eventually(t, 10*time.Second, "the thread has ended", func() bool {
		_, err := os.Stat(ended)
		return err != nil
	})
	fmt.Fprintln(words, "alive")
	Eventually(t, 10*time.Second, "the process answers", func() bool { return p.Output.String() == "alive\n" })
}

// onDyingThread calls f on a thread that ends then, and returns its number.
func onDyingThread(f func()) int {
	thread := make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if id := unix.Gettid(); id != os.Getpid() {
			f()
			thread <- id
			return
		}
		thread <- onDyingThread(f) // the first thread of a program does not end
	}()
	return <-thread
}

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// afterDrain is what a stop takes beyond -draintimeout at most: the local
// copies of what was not uploaded, and an attempt to send the last results.
const afterDrain = 7 * time.Second

// A manager is what systemd is to a service: it hears what the service says of itself.
type manager struct {
	socket string
	words  chan string // one KEY=VALUE each
}

// newManager listens where NOTIFY_SOCKET will point to.
func newManager(t testing.TB) *manager {
	t.Helper()
	m := &manager{socket: filepath.Join(t.TempDir(), "notify"), words: make(chan string, 10000)}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		message := make([]byte, 4096)
		for {
			n, err := conn.Read(message)
			if err != nil {
				return
			}
			for _, word := range testbed.ReadLines(string(message[:n])) {
				m.words <- word
			}
		}
	}()
	return m
}

// start starts a command as a service.
func (m *manager) start(t testing.TB, cmd *exec.Cmd, env ...string) *testbed.Process {
	t.Helper()
	testbed.NeedRoot(t)
	cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+m.socket), env...)
	return testbed.Start(t, cmd)
}

// await waits for a word that matches the pattern as a whole and returns what its groups matched.
func (m *manager) await(t testing.TB, within time.Duration, pattern string) []string {
	t.Helper()
	deadline, expression := time.After(within), regexp.MustCompile("^(?:"+pattern+")$")
	var heard []string
	for {
		select {
		case word := <-m.words:
			if match := expression.FindStringSubmatch(word); match != nil {
				return match[1:]
			}
			heard = append(heard, word)
		case <-deadline:
			t.Fatalf("not within %v: %s; heard %q", within, pattern, heard)
		}
	}
}

// count returns how often a word is heard during the time.
func (m *manager) count(word string, during time.Duration) int {
	n := 0
	for deadline := time.After(during); ; {
		select {
		case heard := <-m.words:
			if heard == word {
				n++
			}
		case <-deadline:
			return n
		}
	}
}

// forget drops what has been said up to now.
func (m *manager) forget() {
	for len(m.words) > 0 {
		<-m.words
	}
}

func TestSystemdIsToldTheStatus(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "redis-server")
	m := newManager(t)
	r := &testbed.Redis{Port: testbed.FreePort(t)}
	m.start(t, daemonCommand(r, keeping(t.TempDir())...))
	where := regexp.QuoteMeta("capture at " + r.Address())
	m.await(t, time.Minute, "READY=1") // nothing listens on that port
	m.await(t, time.Minute, "STATUS="+where+" not subscribed: .*refused.*; 0 captures running")

	r.Restart(t)
	m.await(t, time.Minute, "STATUS=subscribed to "+where+"; 0 captures running")
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	m.await(t, time.Minute, "STATUS=subscribed to "+where+"; 1 captures? running")
	m.await(t, time.Minute, "STATUS=subscribed to "+where+"; 0 captures running")

	r.Signal(t, syscall.SIGKILL)
	m.await(t, time.Minute, "STATUS="+where+" not subscribed: .*; 0 captures running")
}

func TestSystemdWatchdogIsKicked(t *testing.T) {
	t.Parallel()
	r, m := testbed.StartRedis(t), newManager(t)
	const interval = 600 * time.Millisecond
	p := m.start(t, daemonCommand(r, keeping(t.TempDir())...), fmt.Sprintf("WATCHDOG_USEC=%d", interval.Microseconds()))
	m.await(t, time.Minute, "READY=1")
	r.AwaitSubscribers(t, time.Minute, 1)
	m.forget()
	// Twice as often as it has to: 10 times, or some fewer on a busy machine.
	if n := m.count("WATCHDOG=1", 5*interval); n < 6 || n > 20 {
		t.Errorf("want about 10 kicks in %v, got %d", 5*interval, n)
	}

	p.Signal(t, syscall.SIGSTOP)
	time.Sleep(100 * time.Millisecond)
	m.forget()
	if n := m.count("WATCHDOG=1", time.Second); n > 0 {
		t.Errorf("want no kick by a stopped process, got %d", n)
	}
	p.Signal(t, syscall.SIGCONT)
	m.await(t, time.Minute, "WATCHDOG=1")

	for range 200 {
		r.Publish(t, `{"node":"web1"}`)
	}
	m.forget()
	m.await(t, time.Minute, "WATCHDOG=1")
}

func TestSystemdWatchdogIsNotWanted(t *testing.T) {
	t.Parallel()
	r, m := testbed.StartRedis(t), newManager(t)
	m.start(t, daemonCommand(r, keeping(t.TempDir())...))
	m.await(t, time.Minute, "READY=1")
	if n := m.count("WATCHDOG=1", 500*time.Millisecond); n > 0 {
		t.Errorf("want no kick, got %d", n)
	}
}

func TestSystemdIsToldToWaitForDelivery(t *testing.T) {
	t.Parallel()
	r, m := testbed.StartRedis(t), newManager(t)
	results, packets := listen(t, r), testbed.StartStream(t, time.Millisecond)
	const drain = 1500 * time.Millisecond
	p := m.start(t, daemonCommand(r, append(uploading(t, sharktest.Start(t, sharktest.Hang)),
		"-destdir", t.TempDir(), "-draintimeout", drain.String())...))
	r.AwaitSubscribers(t, time.Minute, 1)
	r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","bpf":%q}`, packets.Filter()))
	results.await(t, time.Minute, "started")
	time.Sleep(300 * time.Millisecond)

	stopped := time.Now()
	p.Signal(t, syscall.SIGTERM)
	m.await(t, time.Minute, "STOPPING=1")
	m.await(t, time.Minute, "STATUS=stopping.*")
	allowance, err := strconv.Atoi(m.await(t, time.Minute, `EXTEND_TIMEOUT_USEC=(\d+)`)[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, want := time.Duration(allowance)*time.Microsecond, drain+afterDrain; got < want {
		t.Errorf("want at least %v to stop, got %v", want, got)
	}
	p.Wait(t, time.Minute)
	if took := time.Since(stopped); took < drain {
		t.Errorf("stopped after %v and did not wait for the upload", took)
	}
	results.final(t, time.Minute).check(t, says{"state": "failed", "file": anything{}})
}

// Package e2e tests the program as its users see it: the built binary, its
// flags, channels, files and pages, against real servers and interfaces. It
// imports nothing of the daemon.
package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

const (
	// root is the folder of the module.
	root = ".."
	// chunk is the piece in which a capture takes memory, in bytes.
	chunk = 1 << 20
	// readTimeout is how long the kernel may keep packets back.
	readTimeout = 100 * time.Millisecond
	// maxSnap is the longest snapshot length, in bytes.
	maxSnap = 262144
)

// binary is the program under test, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pcapdaemon-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "pcapdaemon")
	build := exec.Command("go", "build", "-ldflags", "-X main.version=test", "-o", binary, root)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// A reported result, as one who asked sees it.
type reported struct {
	ID, Node, Interface, State, Stop      string
	Packets, Bytes, Received, Dropped     *int64
	IfDropped                             *int64
	Started, Ended, Since                 time.Time
	File, URL, Error, Tags, Customer, BPF string
	AlertID                               *uint64
}

// A listener hears the results.
type listener struct{ results chan reported }

// listen subscribes to the result channel.
func listen(t testing.TB, r *testbed.Redis) *listener {
	t.Helper()
	return listenAs(t, r, "", "")
}

// listenAs subscribes to the result channel as a user of the server.
func listenAs(t testing.TB, r *testbed.Redis, user, password string) *listener {
	t.Helper()
	heard := r.Hear(t, "capture-results", redis.DialUsername(user), redis.DialPassword(password))
	l := &listener{results: make(chan reported, cap(heard))}
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	go func() {
		for {
			select {
			case message := <-heard:
				var r reported
				if err := json.Unmarshal(message, &r); err != nil {
					r.Error = fmt.Sprintf("result is no JSON: %v: %s", err, message)
				}
				l.results <- r
			case <-ended:
				return
			}
		}
	}()
	return l
}

// next returns the next result.
func (l *listener) next(t testing.TB, within time.Duration) reported {
	t.Helper()
	select {
	case r := <-l.results:
		return r
	case <-time.After(within):
		t.Fatalf("no result within %v", within)
	}
	panic("unreachable")
}

// await returns the next result in one of the states, and skips others.
func (l *listener) await(t testing.TB, within time.Duration, states ...string) reported {
	t.Helper()
	for deadline := time.Now().Add(within); ; {
		r := l.next(t, time.Until(deadline))
		for _, state := range states {
			if r.State == state {
				return r
			}
		}
	}
}

// quiet fails if any result comes within the time.
func (l *listener) quiet(t testing.TB, during time.Duration) {
	t.Helper()
	select {
	case r := <-l.results:
		t.Fatalf("a result where none is due: %+v", r)
	case <-time.After(during):
	}
}

// startDaemon starts the real binary as node web1 and waits until it is subscribed.
func startDaemon(t testing.TB, r *testbed.Redis, args ...string) *testbed.Process {
	t.Helper()
	testbed.NeedRoot(t)
	p := testbed.Start(t, daemonCommand(r, args...))
	r.AwaitSubscribers(t, 10*time.Second, 1)
	return p
}

// daemonCommand returns the command that startDaemon runs.
func daemonCommand(r *testbed.Redis, args ...string) *exec.Cmd {
	args = append([]string{"-node", "web1", "-redisport", strconv.Itoa(r.Port)}, args...)
	return exec.Command(binary, args...)
}

// tokenFile writes the double's token where -cstokenfile finds it.
func tokenFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(sharktest.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// uploading returns the flags for uploads to the double.
func uploading(t testing.TB, s *sharktest.Server) []string {
	t.Helper()
	return []string{"-upload", "-csscheme", "http", "-cshost", s.Address(), "-cstokenfile", tokenFile(t)}
}

// keeping returns the flags for local files in a directory.
func keeping(dir string) []string { return []string{"-writelocal", "-destdir", dir} }

// checkDirectory fails unless a directory holds so many files, none of them half written.
func checkDirectory(t testing.TB, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".pcap" {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	if len(entries) != want {
		t.Errorf("want %d files, got %d", want, len(entries))
	}
}

// Package e2e tests the built program as its users see it: by flags, channels,
// files, pages and exit codes. It imports nothing of the daemon.
package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

// root is the top of the sources.
const root = ".."

// binary is the program under test, built by TestMain.
var binary string

// TestMain builds the program once. The tests that run in parallel mostly wait;
// what measures times or memory runs before them, alone.
func TestMain(m *testing.M) {
	testbed.RunAtOnce(12)
	dir, err := os.MkdirTemp("", "pcapdaemon-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "pcapdaemon")
	build := exec.Command("go", "build", "-buildmode=pie", "-ldflags", "-X main.version=test", "-o", binary, ".")
	build.Dir, build.Stderr = root, os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// startDaemon starts the program as node web1 and waits until it is subscribed.
func startDaemon(t testing.TB, r *testbed.Redis, args ...string) *testbed.Process {
	t.Helper()
	testbed.NeedRoot(t)
	p := testbed.Start(t, daemonCommand(r, args...))
	r.AwaitSubscribers(t, time.Minute, 1)
	return p
}

// daemonCommand returns the command that startDaemon runs.
func daemonCommand(r *testbed.Redis, args ...string) *exec.Cmd {
	args = append([]string{"-node", "web1", "-redisport", strconv.Itoa(r.Port)}, args...)
	return exec.Command(binary, args...)
}

// keeping returns the flags for local files in a directory.
func keeping(dir string) []string { return []string{"-writelocal", "-destdir", dir} }

// uploading returns the flags for uploads to a server.
func uploading(t testing.TB, s *sharktest.Server) []string {
	t.Helper()
	return uploadingTo(t, s.Address())
}

// uploadingTo returns the flags for uploads to an address, host:port.
func uploadingTo(t testing.TB, address string) []string {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(sharktest.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"-upload", "-csscheme", "http", "-cshost", address, "-cstokenfile", token}
}

// listening returns the flags for an HTTP endpoint and its port.
func listening(t testing.TB) (args []string, port int) {
	t.Helper()
	port = testbed.FreePort(t)
	return []string{"-listen", "127.0.0.1:" + strconv.Itoa(port)}, port
}

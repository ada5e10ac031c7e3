// Package testbed is what tests of real things stand on: processes, a real
// redis-server, network namespaces, small file systems, certificates, streams of
// numbered packets. All of it goes with the test that asked for it.
package testbed

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NeedRoot skips a test that opens interfaces or makes namespaces.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		Lack(t, "root, for CAP_NET_RAW and CAP_NET_ADMIN")
	}
}

// NeedTools skips a test for want of a program.
func NeedTools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Lack(t, name)
		}
	}
}

// Long skips a test that takes seconds, mostly of waiting, where only the others are
// wanted: go test -short, which tests of many changes use (make mutants).
func Long(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}

// Lack skips a test, or fails it where everything must be tested.
func Lack(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("needs", what)
	}
	t.Skip("needs", what)
}

// RunAtOnce lets so many parallel tests of a package run at a time, more than
// there are processors, for those that mostly wait. It is called by TestMain.
func RunAtOnce(n int) {
	flag.Parse()
	_ = flag.Set("test.parallel", strconv.Itoa(n))
}

// Eventually fails unless the condition comes true in time.
func Eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// FreePort returns a TCP port of the loopback interface that nobody uses. It is
// none of those that the kernel gives to who names none (ip_local_port_range),
// so that no connection of another test gets it before it is used, and no other
// test on this machine gets it until this one ends: a server may be restarted.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		claim, err := net.Listen("unix", fmt.Sprint("@pcapdaemon-test-", port)) // abstract, see unix(7)
		if err != nil {
			continue
		}
		if isFree(port) {
			t.Cleanup(func() { claim.Close() })
			return port
		}
		claim.Close()
	}
	t.Fatal("there is no free port")
	return 0
}

// isFree reports whether nobody uses a port. No process is started meanwhile: until
// it runs its program, it holds open what is open here.
func isFree(port int) bool {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	listener.Close()
	return true
}

// ReadLines returns the lines of a text, without empty ones.
func ReadLines(text string) []string {
	var lines []string
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		if scanner.Text() != "" {
			lines = append(lines, scanner.Text())
		}
	}
	return lines
}

// DeadAddress returns an address of the loopback interface that refuses connections,
// and that nobody else gets as long as the test lasts.
func DeadAddress(t testing.TB) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(os.NewSyscallError("socket", err))
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(os.NewSyscallError("bind", err))
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(os.NewSyscallError("getsockname", err))
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*unix.SockaddrInet4).Port))
}

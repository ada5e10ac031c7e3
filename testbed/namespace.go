package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// A Namespace is a network namespace with loopback up.
type Namespace struct{ Name string }

// namespaces counts the namespaces of this process: tests that run at the same
// time may call theirs by the same name.
var namespaces atomic.Int64

// NewNamespace makes a namespace that goes with the test.
func NewNamespace(t testing.TB, name string) Namespace {
	t.Helper()
	NeedRoot(t)
	NeedTools(t, "ip")
	ns := Namespace{fmt.Sprintf("pcapd-%s-%d-%d", name, os.Getpid(), namespaces.Add(1))}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	run("netns", "add", ns.Name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns.Name).Run() })
	run("-n", ns.Name, "link", "set", "lo", "up")
	return ns
}

// IP runs an ip command in the namespace.
func (ns Namespace) IP(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", append([]string{"-n", ns.Name}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// Pair makes a veth pair v0 (10.99.0.1) and v1 (10.99.0.2) into another namespace.
func (ns Namespace) Pair(t testing.TB, other Namespace) {
	t.Helper()
	ns.IP(t, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", other.Name)
	ns.IP(t, "addr", "add", "10.99.0.1/24", "dev", "v0")
	ns.IP(t, "link", "set", "v0", "up")
	other.IP(t, "addr", "add", "10.99.0.2/24", "dev", "v1")
	other.IP(t, "link", "set", "v1", "up")
}

// Do calls f in the namespace: what it opens stays there.
func (ns Namespace) Do(t testing.TB, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		ended := errors.New("ended in the namespace") // as t.Fatal ends whatever calls it
		defer func() { done <- ended }()
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		handle, err := os.Open("/run/netns/" + ns.Name)
		if err == nil {
			err = unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET)
			handle.Close()
		}
		if err == nil {
			f()
		}
		ended = err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// insideVariable is set in processes that Inside has started.
const insideVariable = "TESTBED_INSIDE"

// Inside runs the test once more, as a process of its own in a new namespace,
// and reports whether the caller is that one: all its threads are there, and its
// resolv.conf(5) is the given one. The other one has nothing left to do.
func Inside(t testing.TB, name, resolvConf string) bool {
	t.Helper()
	if os.Getenv(insideVariable) != "" {
		return true
	}
	ns := NewNamespace(t, name)
	dir := "/etc/netns/" + ns.Name
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/resolv.conf", []byte(resolvConf), 0o644); err != nil {
		t.Fatal(err)
	}
	again := ns.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	again.Env = append(os.Environ(), insideVariable+"=1")
	out, err := CombinedOutput(again)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s", out)
	return false
}

// Command returns a command that runs in the namespace.
func (ns Namespace) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns.Name, name}, args...)...)
}

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"pcapdaemon/testbed"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
	"golang.org/x/sys/unix"
)

// binary is the program under test, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pcapdaemon-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "pcapdaemon")
	build := exec.Command("go", "build", "-ldflags", "-X main.version=test", "-o", binary, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// needRoot skips a test that opens interfaces or makes namespaces.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		lack(t, "root, for CAP_NET_RAW and CAP_NET_ADMIN")
	}
}

// needTools skips a test for want of a program.
func needTools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			lack(t, name+" (make deps installs it)")
		}
	}
}

// lack skips a test, or fails it where everything must be tested.
func lack(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("needs ", what)
	}
	t.Skip("needs ", what)
}

// eventually fails unless the condition comes true in time.
func eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// freePort returns a TCP port of the loopback interface that nobody uses.
func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// A transcript collects what a process writes.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *transcript) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// A process is a started program.
type process struct {
	*exec.Cmd
	output transcript
	exited chan struct{}
}

// start runs a program until the test ends. Standard error and output go to its transcript.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, exited: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.output
	}
	cmd.Stderr = &p.output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(cmd.Path), p.output.String())
		}
	})
	return p
}

// wait returns the exit code.
func (p *process) wait(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		t.Fatalf("%s has not ended within %v", filepath.Base(p.Path), within)
	}
	return p.ProcessState.ExitCode()
}

// signal sends a signal.
func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// A redisProcess is a real redis-server.
type redisProcess struct {
	*process
	port int
	args []string
}

// startRedis starts a redis-server on a free port.
func startRedis(t testing.TB, args ...string) *redisProcess {
	t.Helper()
	needTools(t, "redis-server")
	r := &redisProcess{port: freePort(t), args: args}
	r.start(t)
	return r
}

// start starts the server, again if it has ended.
func (r *redisProcess) start(t testing.TB) {
	t.Helper()
	args := append([]string{"--port", strconv.Itoa(r.port), "--save", "", "--dir", t.TempDir()}, r.args...)
	r.process = start(t, exec.Command("redis-server", args...))
	eventually(t, 10*time.Second, "redis-server listens", func() bool {
		conn, err := net.Dial("tcp", r.address())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func (r *redisProcess) address() string { return "127.0.0.1:" + strconv.Itoa(r.port) }

// do runs a command.
func (r *redisProcess) do(t testing.TB, command string, args ...any) any {
	t.Helper()
	conn, err := redis.Dial("tcp", r.address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply, err := conn.Do(command, args...)
	if err != nil {
		t.Fatal(command, ": ", err)
	}
	return reply
}

// publish publishes a request.
func (r *redisProcess) publish(t testing.TB, request string) { r.do(t, "PUBLISH", "capture", request) }

// awaitSubscribers waits until the request channel has so many subscribers.
func (r *redisProcess) awaitSubscribers(t testing.TB, within time.Duration, n int64) {
	t.Helper()
	eventually(t, within, "daemon is subscribed", func() bool {
		conn, err := redis.Dial("tcp", r.address(), redis.DialConnectTimeout(time.Second), redis.DialReadTimeout(time.Second))
		if err != nil {
			return false
		}
		defer conn.Close()
		counts, err := redis.Int64Map(conn.Do("PUBSUB", "NUMSUB", "capture"))
		return err == nil && counts["capture"] == n
	})
}

// A reported result, as one who asked sees it.
type reported struct {
	ID, Node, Interface, State, Stop      string
	Packets, Bytes, Received, Dropped     *int64
	IfDropped                             *int64
	Started, Ended                        time.Time
	File, URL, Error, Tags, Customer, BPF string
	AlertID                               *uint64
}

// A listener hears the results.
type listener struct{ results chan reported }

// listen subscribes to the result channel.
func (r *redisProcess) listen(t testing.TB) *listener {
	t.Helper()
	return r.listenAs(t, "", "")
}

// listenAs subscribes to the result channel as a user of the server.
func (r *redisProcess) listenAs(t testing.TB, user, password string) *listener {
	t.Helper()
	conn, err := redis.Dial("tcp", r.address(), redis.DialUsername(user), redis.DialPassword(password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	channel := redis.PubSubConn{Conn: conn}
	if err := channel.Subscribe("capture-results"); err != nil {
		t.Fatal(err)
	}
	l := &listener{results: make(chan reported, 10000)}
	ready := make(chan struct{})
	go func() {
		for {
			switch v := channel.Receive().(type) {
			case redis.Subscription:
				close(ready)
			case redis.Message:
				var r reported
				if err := json.Unmarshal(v.Data, &r); err != nil {
					r.Error = fmt.Sprintf("result is no JSON: %v: %s", err, v.Data)
				}
				l.results <- r
			case error:
				return
			}
		}
	}()
	<-ready
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
func startDaemon(t testing.TB, r *redisProcess, args ...string) *process {
	t.Helper()
	needRoot(t)
	p := start(t, daemonCommand(r, args...))
	r.awaitSubscribers(t, 10*time.Second, 1)
	return p
}

// daemonCommand returns the command that startDaemon runs.
func daemonCommand(r *redisProcess, args ...string) *exec.Cmd {
	args = append([]string{"-node", "web1", "-redisport", strconv.Itoa(r.port)}, args...)
	return exec.Command(binary, args...)
}

// A stream sends numbered UDP packets to the loopback interface.
type stream struct {
	port int
	stop func()
}

// startStream sends a packet every interval until the test ends.
func startStream(t testing.TB, interval time.Duration) *stream {
	t.Helper()
	// Somebody has to listen: a refused packet makes the next one fail.
	sink, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("udp", sink.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		began := time.Now()
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-time.After(time.Until(began.Add(time.Duration(n) * interval))):
			}
			fmt.Fprintf(conn, "packet %08d", n)
		}
	}()
	s := &stream{port: sink.LocalAddr().(*net.UDPAddr).Port,
		stop: sync.OnceFunc(func() { close(done); <-ended; conn.Close(); sink.Close() })}
	t.Cleanup(s.stop)
	return s
}

// filter matches the packets of the stream.
func (s *stream) filter() string { return "udp dst port " + strconv.Itoa(s.port) }

// numbers returns the numbers of a stream's packets in a capture file.
func numbers(t testing.TB, file io.Reader) []int {
	t.Helper()
	packets, _ := testbed.ReadPcap(t, file)
	var found []int
	for _, p := range packets {
		i := bytes.Index(p.Data, []byte("packet "))
		if i < 0 {
			continue
		}
		n, err := strconv.Atoi(string(p.Data[i+7 : i+15]))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, n)
	}
	return found
}

// checkNoGap fails unless the numbers follow each other.
func checkNoGap(t testing.TB, found []int) {
	t.Helper()
	for i := 1; i < len(found); i++ {
		if found[i] != found[i-1]+1 {
			t.Fatalf("packet %d comes after %d", found[i], found[i-1])
		}
	}
}

// A namespace is a network namespace with loopback up.
type namespace struct{ name string }

// newNamespace makes a namespace that goes with the test.
func newNamespace(t testing.TB, name string) namespace {
	t.Helper()
	needRoot(t)
	needTools(t, "ip")
	ns := namespace{fmt.Sprintf("pcapd-%s-%d", name, os.Getpid())}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	run("netns", "add", ns.name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns.name).Run() })
	run("-n", ns.name, "link", "set", "lo", "up")
	return ns
}

// ip runs an ip command in the namespace.
func (ns namespace) ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", append([]string{"-n", ns.name}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// pair makes a veth pair v0 (10.99.0.1) and v1 (10.99.0.2) into another namespace.
func (ns namespace) pair(t testing.TB, other namespace) {
	t.Helper()
	ns.ip(t, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", other.name)
	ns.ip(t, "addr", "add", "10.99.0.1/24", "dev", "v0")
	ns.ip(t, "link", "set", "v0", "up")
	other.ip(t, "addr", "add", "10.99.0.2/24", "dev", "v1")
	other.ip(t, "link", "set", "v1", "up")
}

// do calls f in the namespace: what it opens stays there.
func (ns namespace) do(t testing.TB, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		handle, err := os.Open("/run/netns/" + ns.name)
		if err == nil {
			err = unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET)
			handle.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// command returns a command that runs in the namespace.
func (ns namespace) command(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", ns.name, name}, args...)...)
}

// readLines returns the lines of a text, without empty ones.
func readLines(text string) []string {
	var lines []string
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		if scanner.Text() != "" {
			lines = append(lines, scanner.Text())
		}
	}
	return lines
}

// mountTmpfs mounts a file system that goes with the test.
func mountTmpfs(t testing.TB, dir, options string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill leaves no room on a file system.
func fill(t testing.TB, dir string) {
	t.Helper()
	file, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
}

// remountReadOnly makes a file system read-only.
func remountReadOnly(t testing.TB, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
}

// dialUDP returns a socket that sends to a port of the loopback interface.
func dialUDP(t testing.TB, port int) net.Conn {
	t.Helper()
	return dialUDPAt(t, "127.0.0.1:"+strconv.Itoa(port))
}

// dialUDPAt returns a socket that sends to an address.
func dialUDPAt(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

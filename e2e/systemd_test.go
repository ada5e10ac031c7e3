package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/sharktest"
	"pcapdaemon/testbed"
)

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
	testbed.NeedTools(t, "redis-server")
	m := newManager(t)
	r := &testbed.Redis{Port: testbed.FreePort(t)}
	m.start(t, daemonCommand(r, "-writelocal", "-destdir", t.TempDir()))
	where := regexp.QuoteMeta("capture at " + r.Address())
	m.await(t, 5*time.Second, "READY=1") // nothing listens on that port
	m.await(t, 5*time.Second, "STATUS="+where+" not subscribed: .*refused.*; 0 captures running")

	r.Restart(t)
	m.await(t, 10*time.Second, "STATUS=subscribed to "+where+"; 0 captures running")
	r.Publish(t, `{"node":"web1","interface":"lo","timeout":1}`)
	m.await(t, 5*time.Second, "STATUS=subscribed to "+where+"; 1 captures? running")
	m.await(t, 5*time.Second, "STATUS=subscribed to "+where+"; 0 captures running")

	r.Signal(t, syscall.SIGKILL)
	m.await(t, 5*time.Second, "STATUS="+where+" not subscribed: .*; 0 captures running")
}

func TestSystemdWatchdogIsKicked(t *testing.T) {
	r, m := testbed.StartRedis(t), newManager(t)
	p := m.start(t, daemonCommand(r, "-writelocal", "-destdir", t.TempDir()), "WATCHDOG_USEC=400000")
	m.await(t, 5*time.Second, "READY=1")
	r.AwaitSubscribers(t, 10*time.Second, 1)
	m.forget()
	if n := m.count("WATCHDOG=1", 2*time.Second); n < 5 || n > 20 {
		t.Errorf("want about 10 kicks in 2s, got %d", n)
	}

	p.Signal(t, syscall.SIGSTOP)
	time.Sleep(100 * time.Millisecond)
	m.forget()
	if n := m.count("WATCHDOG=1", time.Second); n > 0 {
		t.Errorf("want no kick by a stopped process, got %d", n)
	}
	p.Signal(t, syscall.SIGCONT)
	m.await(t, 5*time.Second, "WATCHDOG=1")

	for range 200 {
		r.Publish(t, `{"node":"web1"}`)
	}
	m.forget()
	m.await(t, 5*time.Second, "WATCHDOG=1")
}

func TestSystemdWatchdogIsNotWanted(t *testing.T) {
	r, m := testbed.StartRedis(t), newManager(t)
	m.start(t, daemonCommand(r, "-writelocal", "-destdir", t.TempDir()))
	m.await(t, 5*time.Second, "READY=1")
	if n := m.count("WATCHDOG=1", 500*time.Millisecond); n > 0 {
		t.Errorf("want no kick, got %d", n)
	}
}

func TestSystemdIsToldToWaitForDelivery(t *testing.T) {
	r, m := testbed.StartRedis(t), newManager(t)
	results, packets := listen(t, r), testbed.StartStream(t, time.Millisecond)
	hanging := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(hanging.Close)
	const drain = 1500 * time.Millisecond
	p := m.start(t, daemonCommand(r, "-upload", "-csscheme", "http", "-cshost", hanging.Listener.Addr().String(), "-cstoken", "0123",
		"-destdir", t.TempDir(), "-draintimeout", drain.String()))
	r.AwaitSubscribers(t, 10*time.Second, 1)
	r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","bpf":%q}`, packets.Filter()))
	results.await(t, 5*time.Second, "started")
	time.Sleep(300 * time.Millisecond)

	stopped := time.Now()
	p.Signal(t, syscall.SIGTERM)
	m.await(t, 2*time.Second, "STOPPING=1")
	m.await(t, 2*time.Second, "STATUS=stopping.*")
	allowance, err := strconv.Atoi(m.await(t, 2*time.Second, `EXTEND_TIMEOUT_USEC=(\d+)`)[0])
	if err != nil {
		t.Fatal(err)
	}
	// All that can take time: uploads, local copies after them, the last results.
	if got, want := time.Duration(allowance)*time.Microsecond, drain+5*time.Second+2*time.Second; got < want {
		t.Errorf("want at least %v to stop, got %v", want, got)
	}
	p.Wait(t, 10*time.Second)
	if took := time.Since(stopped); took < drain {
		t.Errorf("stopped after %v and did not wait for the upload", took)
	}
	if r := results.await(t, time.Second, "failed"); r.File == "" {
		t.Errorf("want the capture kept in a file, got %+v", r)
	}
}

// nobody is a user without any rights.
const nobody = 65534

// unprivileged returns a copy of the program that everyone may run, and a directory where nobody may write.
func unprivileged(t testing.TB) (program, dir string) {
	t.Helper()
	base, err := os.MkdirTemp("", "pcapdaemon-nobody-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	program, dir = filepath.Join(base, "pcapdaemon"), filepath.Join(base, "captures")
	copyFile(t, binary, program, 0o755)
	for _, err := range []error{os.Chmod(base, 0o755), os.Mkdir(dir, 0o700), os.Chown(dir, nobody, nobody)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return program, dir
}

// copyFile copies a file and gives the copy a mode.
func copyFile(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, mode)
	}
	if err == nil {
		err = os.Chmod(to, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCapabilities(t *testing.T) {
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "setpriv")
	tests := []struct {
		name  string
		caps  []string
		state string
	}{
		{"without any", []string{"--inh-caps=-all", "--bounding-set=-all"}, "refused"},
		{"with CAP_NET_RAW alone", []string{"--inh-caps=-all,+net_raw", "--ambient-caps=-all,+net_raw", "--bounding-set=-all,+net_raw"}, "done"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			program, dir := unprivileged(t)
			r, packets := testbed.StartRedis(t), testbed.StartStream(t, time.Millisecond)
			args := append(test.caps, "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", program,
				"-node", "web1", "-redisport", strconv.Itoa(r.Port), "-writelocal", "-destdir", dir)
			testbed.Start(t, exec.Command("setpriv", args...))
			r.AwaitSubscribers(t, 10*time.Second, 1)
			results := listen(t, r)
			r.Publish(t, fmt.Sprintf(`{"node":"web1","interface":"lo","packets":20,"timeout":5,"bpf":%q}`, packets.Filter()))
			got := results.await(t, 10*time.Second, "refused", "done", "failed")
			if got.State != test.state {
				t.Fatalf("want %s, got %+v", test.state, got)
			}
			if test.state == "refused" {
				if !strings.Contains(got.Error, "CAP_NET_RAW") {
					t.Errorf("want the capability named, got %q", got.Error)
				}
				return
			}
			info, err := os.Stat(got.File)
			if err != nil {
				t.Fatal(err)
			}
			if owner := info.Sys().(*syscall.Stat_t).Uid; owner != nobody {
				t.Errorf("want a file of nobody, got one of user %d", owner)
			}
		})
	}
}

// unitFile returns a copy of the unit that starts the program under test.
func unitFile(t testing.TB) string {
	t.Helper()
	unit, err := os.ReadFile(root + "/pcapdaemon.service")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pcapdaemon.service")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(unit), "/usr/bin/pcapdaemon", binary)), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestUnitIsValid(t *testing.T) {
	testbed.NeedTools(t, "systemd-analyze")
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", unitFile(t)).CombinedOutput()
	if err != nil || strings.Contains(string(out), "pcapdaemon") {
		t.Errorf("want no complaint, got %v:\n%s", err, out)
	}
}

func TestUnitIsConfined(t *testing.T) {
	testbed.NeedTools(t, "systemd-analyze")
	const tenths = "19"
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+tenths, unitFile(t)).CombinedOutput()
	if err != nil {
		t.Errorf("exposed more than %s tenths: %v:\n%s", tenths, err, out)
	}
}

// The unit as it is, started by systemd on a machine of its own.
func TestUnitRuns(t *testing.T) {
	m := newMachine(t)
	testbed.NeedTools(t, "redis-server", "redis-cli")
	copyFile(t, binary, m.path("/usr/bin/pcapdaemon"), 0o755)
	copyFile(t, root+"/pcapdaemon.service", m.path("/etc/systemd/system/pcapdaemon.service"), 0o644)
	if err := os.MkdirAll(m.path("/etc/pcapdaemon"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyFile(t, root+"/packaging/env", m.path("/etc/pcapdaemon/env"), 0o640)
	set := func(text string) {
		t.Helper()
		file, err := os.OpenFile(m.path("/etc/pcapdaemon/env"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteString(text + "\n")
			file.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set("PCAPDAEMON_NODE=web1\nPCAPDAEMON_LISTEN=127.0.0.1:9478")
	status := func() string { return m.show("StatusText") }

	m.run(t, "systemctl", "start", "pcapdaemon") // returns when it is ready
	testbed.Eventually(t, 5*time.Second, "status says why there are no requests", func() bool {
		return strings.Contains(status(), "not subscribed: ") && strings.Contains(status(), "refused")
	})
	m.run(t, "systemd-run", "--unit=redis", "redis-server", "--save", "")
	testbed.Eventually(t, 10*time.Second, "status says what is subscribed", func() bool {
		return strings.HasPrefix(status(), "subscribed to capture at 127.0.0.1:6379;")
	})
	if main := m.show("MainPID"); m.field(t, main, "Uid") == "0" {
		t.Error("want another user than root")
	} else {
		const netRaw = "0000000000002000"
		for field, want := range map[string]string{"CapEff": netRaw, "CapBnd": netRaw, "CapPrm": netRaw, "Seccomp": "2", "NoNewPrivs": "1"} {
			if got := m.field(t, main, field); got != want {
				t.Errorf("%s: want %s, got %s", field, want, got)
			}
		}
	}

	// On lo there is Redis; any and a filter by name need more of the sandbox.
	for _, request := range []string{
		`{"node":"web1","interface":"lo","packets":5,"timeout":15,"bpf":"tcp port 6379"}`,
		`{"node":"any","interface":"any","packets":5,"timeout":15,"bpf":"host localhost and port redis"}`,
	} {
		result := m.run(t, "pcapdaemon", "-publish", request)
		file := regexp.MustCompile(`"file":"(/var/lib/pcapdaemon/[^"]+)"`).FindStringSubmatch(result)
		if file == nil {
			t.Fatalf("want a file in the state directory, got %s", result)
		}
		if got := strings.TrimSpace(m.run(t, "stat", "-Lc", "%a %U", file[1])); got != "640 pcapdaemon" {
			t.Errorf("want a file of mode 640 and user pcapdaemon, got %s", got)
		}
		if got := m.run(t, "tcpdump", "-nr", file[1]); !strings.Contains(got, "6379") {
			t.Errorf("want packets of Redis, got %s", got)
		}
	}
	for _, name := range []string{"process_start_time_seconds", "process_open_fds", "process_resident_memory_bytes", "go_goroutines"} {
		if got := m.get(t, "127.0.0.1:9478", "/metrics"); !strings.Contains(got, "\n"+name+" ") {
			t.Errorf("/metrics has no %s", name)
		}
	}

	t.Run("a hanging process is replaced", func(t *testing.T) {
		m.configure(t, "WatchdogSec=1s\nRestartSec=100ms")
		before := m.show("MainPID")
		m.run(t, "kill", "-STOP", before)
		testbed.Eventually(t, 30*time.Second, "another process is ready", func() bool {
			return m.show("MainPID") != before && m.show("ActiveState") == "active"
		})
		if got := m.show("NRestarts"); got != "1" {
			t.Errorf("want 1 restart, got %s", got)
		}
	})
	t.Run("a slow delivery outlasts the stop timeout", func(t *testing.T) {
		m.configure(t, "TimeoutStopSec=1s\nEnvironment=PCAPDAEMON_DRAINTIMEOUT=3s")
		set("PCAPDAEMON_WRITELOCAL=false\nPCAPDAEMON_UPLOAD=true\nPCAPDAEMON_CSSCHEME=http\nPCAPDAEMON_CSHOST=127.0.0.1:81\n" +
			"PCAPDAEMON_RESULTCHANNEL=") // nothing listens on port 81: tried again until the end
		if out, err := m.command("systemctl", "restart", "pcapdaemon").CombinedOutput(); err == nil {
			t.Fatalf("want no start without a token, got %s", out)
		}
		if got := m.run(t, "journalctl", "-b", "-u", "pcapdaemon", "-o", "cat"); !strings.Contains(got, "-upload needs the API token") {
			t.Errorf("want the log to ask for the token, got %s", got)
		}
		if err := os.WriteFile(m.path("/etc/pcapdaemon/cstoken"), []byte(sharktest.Token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		m.run(t, "systemctl", "restart", "pcapdaemon")
		testbed.Eventually(t, 10*time.Second, "subscribed", func() bool { return strings.HasPrefix(status(), "subscribed to ") })
		m.run(t, "redis-cli", "PUBLISH", "capture", `{"node":"web1","interface":"lo"}`)
		testbed.Eventually(t, 5*time.Second, "a capture runs", func() bool { return strings.Contains(status(), "; 1 ") })
		m.run(t, "redis-cli", "PING")
		before := m.files(t)
		began := time.Now()
		m.run(t, "systemctl", "stop", "pcapdaemon")
		if took := time.Since(began); took < 2500*time.Millisecond {
			t.Errorf("stopped after %v", took)
		}
		if kept := m.files(t); len(kept) != len(before)+1 {
			t.Errorf("want the capture kept in the state directory, got %q after %q", kept, before)
		}
		if got := m.show("Result"); got != "exit-code" { // something did not reach its destination
			t.Errorf("want the result exit-code, got %s", got)
		}
		if got := m.run(t, "journalctl", "-b", "-u", "pcapdaemon", "-o", "cat"); strings.Contains(got, sharktest.Token) || strings.Contains(got, "time=") {
			t.Errorf("want a log without token and time stamps, got %s", got)
		}
	})
}

// A machine is this one as it would be after its next start, with systemd as
// its first process and a network of its own. What it changes is gone with the test.
type machine struct {
	process *testbed.Process
	init    string // pid of its systemd, as seen from here
}

// bootScript turns a new mount, pid and network namespace into a machine. Its
// arguments are an empty directory and the name of a new control group.
const bootScript = `set -e
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir changes work root cgroups
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" root
mount -t cgroup2 cgroup2 cgroups
mkdir "cgroups/$2"
echo 0 >"cgroups/$2/cgroup.procs"
cd root
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys # these settings are the real machine's
mount -t sysfs -o ro sysfs sys
for dir in dev run tmp; do mount -t tmpfs tmpfs $dir; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
for node in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"; done
mknod -m 666 dev/tty c 5 0
ln -s pts/ptmx dev/ptmx
# Nothing starts by itself but the journal.
rm -rf etc/systemd/system/* usr/lib/systemd/system-generators etc/fstab usr/sbin/policy-rc.d
find usr/lib/systemd/system -path '*.wants/*' ! -name 'systemd-journald*' -delete
echo 0123456789abcdef0123456789abcdef >etc/machine-id # not the first start, which would enable things
mount --make-rshared . # or the credentials that systemd mounts for a service do not get there
ip link set lo up
exec unshare --cgroup sh -c 'mount -t cgroup2 cgroup2 sys/fs/cgroup
exec env -i PATH=/usr/sbin:/usr/bin container=test chroot . /lib/systemd/systemd'`

// newMachine starts a machine.
func newMachine(t testing.TB) *machine {
	t.Helper()
	testbed.NeedRoot(t)
	testbed.NeedTools(t, "unshare", "nsenter", "ip", "/lib/systemd/systemd")
	dir, group := t.TempDir(), fmt.Sprintf("pcapdaemon-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	t.Cleanup(func() { // after the processes have ended
		remove := exec.Command("unshare", "--mount", "sh", "-c",
			`mount -t cgroup2 cgroup2 "$1" && { [ ! -e "$1/$2" ] || find "$1/$2" -depth -type d -exec rmdir {} +; }`, "sh", dir, group)
		var out []byte
		for range 100 {
			var err error
			if out, err = exec.Command(remove.Path, remove.Args[1:]...).CombinedOutput(); err == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Logf("control group %s is left: %s", group, out)
	})
	boot := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--net", "sh", "-c", bootScript, "sh", dir, group)
	m := &machine{process: testbed.Start(t, boot)}
	testbed.Eventually(t, 20*time.Second, "systemd has started", func() bool {
		select {
		case <-m.process.Exited:
			t.Fatal("no machine can be made here: ", m.process.Output.String())
		default:
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.process.Process.Pid))
		m.init = strings.TrimSpace(string(children))
		if name, _ := os.ReadFile("/proc/" + m.init + "/comm"); string(name) != "systemd\n" {
			return false
		}
		out, _ := m.command("systemctl", "is-system-running").Output()
		return slices.Contains([]string{"running", "degraded"}, strings.TrimSpace(string(out)))
	})
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.command("journalctl", "-b", "--no-pager", "-o", "short-monotonic").CombinedOutput()
			t.Logf("journal:\n%s", out)
		}
	})
	return m
}

// command returns a command that runs on the machine, for a minute at most.
func (m *machine) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("timeout", append([]string{"--kill-after=1", "60", "nsenter", "--target", m.init,
		"--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd=/", name}, args...)...)
	cmd.WaitDelay = time.Second // for what outlives nsenter
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"}
	return cmd
}

// run runs a command on the machine to its successful end and returns its output.
func (m *machine) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := m.command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// path returns the path here of a file there.
func (m *machine) path(path string) string { return "/proc/" + m.init + "/root" + path }

// show returns a property of the service.
func (m *machine) show(property string) string {
	out, _ := m.command("systemctl", "show", "--value", "--property", property, "pcapdaemon").Output()
	return strings.TrimSpace(string(out))
}

// field returns the first value of a line of /proc/<pid>/status.
func (m *machine) field(t testing.TB, pid, name string) string {
	t.Helper()
	for _, line := range testbed.ReadLines(m.run(t, "cat", "/proc/"+pid+"/status")) {
		if key, value, _ := strings.Cut(line, ":"); key == name {
			return strings.Fields(value)[0]
		}
	}
	t.Fatalf("process %s has no %s", pid, name)
	return ""
}

// configure adds settings to the service and restarts it.
func (m *machine) configure(t testing.TB, settings string) {
	t.Helper()
	dir := m.path("/etc/systemd/system/pcapdaemon.service.d")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(dir+"/test.conf", []byte("[Service]\n"+settings+"\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.run(t, "systemctl", "daemon-reload")
	m.run(t, "systemctl", "restart", "pcapdaemon")
}

// get returns the answer to an HTTP request.
func (m *machine) get(t testing.TB, address, path string) string {
	t.Helper()
	return m.run(t, "bash", "-c", `exec 3<>"/dev/tcp/${1/://}" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && cat <&3`, "bash", address, path)
}

// files returns the captures that the service has kept.
func (m *machine) files(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(m.path("/var/lib/private/pcapdaemon/*.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

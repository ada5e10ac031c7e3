package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

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
			`mount -t cgroup2 cgroup2 "$1" && { [ ! -e "$1/$2" ] || find "$1/$2" -depth -type d -exec rmdir {} +; }`,
			"sh", dir, group)
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
	boot := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--net",
		"sh", "-c", bootScript, "sh", dir, group)
	m := &machine{process: testbed.Start(t, boot)}
	testbed.Eventually(t, time.Minute, "systemd has started", func() bool {
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
	out, err := testbed.CombinedOutput(m.command(name, args...))
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
	m.set(t, settings)
	m.run(t, "systemctl", "daemon-reload")
	m.run(t, "systemctl", "restart", "pcapdaemon")
}

// set adds settings to the service, as systemd will see when it looks next.
func (m *machine) set(t testing.TB, settings string) {
	t.Helper()
	dir := m.path("/etc/systemd/system/pcapdaemon.service.d")
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(dir+"/test.conf", []byte("[Service]\n"+settings+"\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// get returns the answer to an HTTP request.
func (m *machine) get(t testing.TB, address, path string) string {
	t.Helper()
	return m.run(t, "bash", "-c", `exec 3<>"/dev/tcp/${1/://}" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && cat <&3`,
		"bash", address, path)
}

// journal returns what the service has said.
func (m *machine) journal(t testing.TB) string {
	t.Helper()
	return m.run(t, "journalctl", "-b", "-u", "pcapdaemon", "-o", "cat")
}

// awaitSubscribed waits until the service says that it is subscribed.
func (m *machine) awaitSubscribed(t testing.TB) {
	t.Helper()
	testbed.Eventually(t, time.Minute, "subscribed", func() bool {
		return strings.HasPrefix(m.show("StatusText"), "subscribed to ")
	})
}

// awaitCapture waits until the service says that a capture runs.
func (m *machine) awaitCapture(t testing.TB) {
	t.Helper()
	testbed.Eventually(t, time.Minute, "a capture runs", func() bool {
		return strings.Contains(m.show("StatusText"), "; 1 ")
	})
}

// look asks web1 for all of the past of an interface and returns the results.
func (m *machine) look(t testing.TB, iface string) string {
	t.Helper()
	m.awaitSubscribed(t)
	return m.run(t, "pcapdaemon", "-publish",
		`{"node":"web1","interface":"`+iface+`","lookback":3600,"timeout":1,"bpf":"tcp port 6379"}`)
}

// since returns from when on the recorded past of lo is whole.
func (m *machine) since(t testing.TB) time.Time {
	t.Helper()
	result := m.look(t, "lo")
	found := regexp.MustCompile(`"since":"([^"]+)"`).FindStringSubmatch(result)
	if found == nil || !strings.Contains(result, `"state":"done"`) {
		t.Fatalf("want a capture with since, got %s", result)
	}
	at, err := time.Parse(time.RFC3339Nano, found[1])
	if err != nil {
		t.Fatal(err)
	}
	return at
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

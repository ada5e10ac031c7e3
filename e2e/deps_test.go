package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeApt stands for apt-get: it writes down what it is to install, and what
// the policy says of starting services meanwhile.
const fakeApt = `#!/bin/sh
[ "$1" = install ] || exit 0
shift
policy=0
/usr/sbin/policy-rc.d redis-server start || policy=$?
for word; do case $word in -*) ;; *) echo "$word" ;; esac; done >/tmp/installed
echo "$policy" >/tmp/policy
`

// fakeGo stands for a Go whose version is an argument to fmt.
const fakeGo = "#!/bin/sh\n[ \"$1\" = version ] && echo 'go version %s linux/amd64'\n"

// TestDepsByPurpose: building needs a compiler and libpcap, and nothing that
// is installed on the way leaves a service running.
func TestDepsByPurpose(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run(t, "mkdir", "-p", "/tmp/tree/packaging")
	copyFile(t, filepath.Join(root, "packaging/deps"), m.path("/tmp/tree/packaging/deps"), 0o755)
	copyFile(t, filepath.Join(root, "go.mod"), m.path("/tmp/tree/go.mod"), 0o644)
	program := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(m.path(name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.run(t, "rm", "-f", "/usr/bin/go")
	program("/usr/local/bin/apt-get", fakeApt)
	deps := func(purposes ...string) *exec.Cmd {
		const path = "PATH=/usr/local/bin:/usr/sbin:/usr/bin"
		return m.command("env", append([]string{"--chdir=/", path, "/tmp/tree/packaging/deps"}, purposes...)...)
	}
	run := func(purposes ...string) string {
		t.Helper()
		out, err := deps(purposes...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", purposes, err, out)
		}
		return string(out)
	}
	for version, want := range map[string]string{
		"":                          "Go 1.25 or newer is needed, and there is no go in PATH",
		"go1.19.8":                  "Go 1.25 or newer is needed, and this is Go 1.19.8: README.md says where to get it",
		"go1.9":                     "Go 1.25 or newer is needed, and this is Go 1.9",
		"go1.25.0":                  "",
		"devel go1.27-abcdef0 Wed ": "",
	} {
		m.run(t, "rm", "-f", "/usr/local/bin/go")
		if version != "" {
			program("/usr/local/bin/go", fmt.Sprintf(fakeGo, version))
		}
		out, err := deps("build").CombinedOutput()
		if (err != nil) != (want != "") || !strings.HasPrefix(string(out), want) {
			t.Errorf("%q: want %q, got %v, %s", version, want, err, out)
		}
	}
	program("/usr/local/bin/go", fmt.Sprintf(fakeGo, "go1.25.0"))
	program("/usr/local/bin/systemctl", "#!/bin/sh\necho \"$*\" >>/tmp/systemctl\n")
	m.run(t, "rm", "/usr/bin/redis-server", "/usr/sbin/snmptrapd", "/usr/bin/jq")
	m.run(t, "sh", "-c", "rm /usr/lib/*/libnss_systemd.so.2")
	if got := run("build"); got != "" {
		t.Errorf("want nothing installed to build, got %s", got)
	}
	run("build", "test", "demo")
	words := func(path string) string { return strings.Join(strings.Fields(m.run(t, "cat", path)), " ") }
	if want, got := "redis-server snmptrapd jq libnss-systemd", words("/tmp/installed"); want != got {
		t.Errorf("want %s installed, got %s", want, got)
	}
	const disabled = "disable --quiet redis-server disable --quiet snmptrapd"
	if got := words("/tmp/systemctl"); got != disabled {
		t.Errorf("want no service left for the next start of the machine (%s), got %s", disabled, got)
	}
	if want, got := "101", words("/tmp/policy"); want != got {
		t.Errorf("want services forbidden to start (%s), got %s", want, got)
	}
	if out, err := m.command("test", "-e", "/usr/sbin/policy-rc.d").CombinedOutput(); err == nil {
		t.Errorf("the policy is left behind: %s", out)
	}
	out, err := deps("everything").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "usage") {
		t.Errorf("want wrong usage refused, got %v: %s", err, out)
	}
}

package e2e

import (
	"os"
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

// TestDepsByPurpose: building needs a compiler and libpcap, and nothing that
// is installed on the way leaves a service running.
func TestDepsByPurpose(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	copyFile(t, filepath.Join(root, "packaging/deps"), m.path("/tmp/deps"), 0o755)
	if err := os.WriteFile(m.path("/usr/local/bin/apt-get"), []byte(fakeApt), 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(purposes ...string) string {
		t.Helper()
		const path = "PATH=/usr/local/bin:/usr/sbin:/usr/bin"
		return m.run(t, "env", append([]string{"--chdir=/", path, "/tmp/deps"}, purposes...)...)
	}
	m.run(t, "rm", "/usr/bin/redis-server", "/usr/sbin/snmptrapd", "/usr/bin/jq")
	if got := run("build"); got != "" {
		t.Errorf("want nothing installed to build, got %s", got)
	}
	run("build", "test", "demo")
	words := func(path string) string { return strings.Join(strings.Fields(m.run(t, "cat", path)), " ") }
	if want, got := "redis-server snmptrapd jq", words("/tmp/installed"); want != got {
		t.Errorf("want %s installed, got %s", want, got)
	}
	if want, got := "101", words("/tmp/policy"); want != got {
		t.Errorf("want services forbidden to start (%s), got %s", want, got)
	}
	if out, err := m.command("test", "-e", "/usr/sbin/policy-rc.d").CombinedOutput(); err == nil {
		t.Errorf("the policy is left behind: %s", out)
	}
	out, err := m.command("/tmp/deps", "everything").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "usage") {
		t.Errorf("want wrong usage refused, got %v: %s", err, out)
	}
}

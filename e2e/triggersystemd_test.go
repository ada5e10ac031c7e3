package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// failureUnit is the unit that a failed one starts.
const failureUnit = "pcapdaemon-failure@.service"

// TestFailedUnitBecomesCapture boots systemd, and has units fail whose names are
// as odd as systemd allows.
func TestFailedUnitBecomesCapture(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	testbed.NeedTools(t, "redis-server", "redis-cli")
	copyFile(t, binary, m.path("/usr/bin/pcapdaemon"), 0o755)
	copyFile(t, filepath.Join(root, triggers, "systemd", failureUnit), m.path("/etc/systemd/system/"+failureUnit),
		0o644)
	if err := os.MkdirAll(m.path("/etc/pcapdaemon"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, m.path("/etc/pcapdaemon"), "triggers", "PCAPDAEMON_REDISPORT='7379'\n")
	units := []string{
		"plain.service",
		`odd\x24\x28id\x29-\x22\x27:%%.service`, // escaped by systemd: $(id)-"':
		strings.Repeat("long-", 30) + "x.service",
	}
	for n, name := range units {
		name = strings.ReplaceAll(name, ":%%", ":") // no unit may be called so
		units[n] = name
		writeFile(t, m.path("/etc/systemd/system"), name,
			"[Unit]\nOnFailure=pcapdaemon-failure@%n.service\n[Service]\nType=oneshot\nExecStart=/bin/false\n")
	}
	m.run(t, "systemctl", "daemon-reload")
	m.run(t, "systemd-analyze", "verify", "--man=no", "/etc/systemd/system/"+failureUnit)
	m.run(t, "systemd-run", "--unit=redis", "redis-server", "--save", "", "--port", "7379")
	testbed.Eventually(t, time.Minute, "Redis answers", func() bool {
		return m.command("redis-cli", "-p", "7379", "PING").Run() == nil
	})
	m.run(t, "systemd-run", "--unit=ear", "redis-cli", "-p", "7379", "SUBSCRIBE", "capture")
	heard := func() []string {
		var lines []string
		for _, line := range testbed.ReadLines(m.run(t, "journalctl", "-b", "-u", "ear", "-o", "cat")) {
			if strings.HasPrefix(line, "{") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	testbed.Eventually(t, time.Minute, "Redis has a listener", func() bool {
		out, _ := m.command("redis-cli", "-p", "7379", "PUBSUB", "NUMSUB", "capture").CombinedOutput()
		return strings.HasSuffix(strings.TrimSpace(string(out)), "1")
	})
	node := strings.TrimSpace(m.run(t, "hostname"))
	for n, name := range units {
		for range 3 { // a unit that fails again within a minute asks once
			_, _ = m.command("systemctl", "start", name).CombinedOutput()
		}
		testbed.Eventually(t, time.Minute, name+" has asked", func() bool { return len(heard()) == n+1 })
		parseRequested(t, heard()[n]).check(t, requested{"node": node, "interface": "default", "timeout": 30.0,
			"tags": "systemd," + name, "by": "systemd@" + node, "bpf": nil, "lookback": nil})
	}
	time.Sleep(time.Second)
	if got := heard(); len(got) != len(units) {
		t.Errorf("want one request of each unit, got %q", got)
	}
}

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestPastOutlivesTheDaemon: systemd keeps what is recorded over a restart and a
// kill, not over a stop, and what does not fit begins anew.
func TestPastOutlivesTheDaemon(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	testbed.NeedTools(t, "redis-server", "redis-cli")
	copyFile(t, binary, m.path("/usr/bin/pcapdaemon"), 0o755)
	copyFile(t, filepath.Join(root, unitSource), m.path("/etc/systemd/system/pcapdaemon.service"), 0o644)
	if err := os.MkdirAll(m.path("/etc/pcapdaemon"), 0o755); err != nil {
		t.Fatal(err)
	}
	set := func(size, more string) {
		t.Helper()
		text := "PCAPDAEMON_NODE=web1\nPCAPDAEMON_WRITELOCAL=true\nPCAPDAEMON_RECORD=lo,v0\nPCAPDAEMON_RECORDSIZE=" +
			size + "\n" + more
		if err := os.WriteFile(m.path("/etc/pcapdaemon/env"), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	makeLink := func() {
		m.run(t, "sh", "-c", "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up")
	}
	makeLink()
	set("8MiB", "")
	m.run(t, "systemd-run", "--unit=redis", "redis-server", "--save", "")
	m.run(t, "systemctl", "start", "pcapdaemon")
	first := m.since(t)
	m.configure(t, "RestartSec=2s")
	m.run(t, "systemctl", "restart", "pcapdaemon")
	if got := m.since(t); !got.Equal(first) {
		t.Errorf("after a restart: want since %v, got %v", first, got)
	}
	before := m.show("MainPID")
	m.run(t, "kill", "-KILL", before)
	m.run(t, "ip", "link", "del", "v0") // while nobody is there to see it
	makeLink()
	testbed.Eventually(t, 30*time.Second, "another process is ready", func() bool {
		return m.show("MainPID") != before && m.show("ActiveState") == "active"
	})
	if got := m.since(t); !got.Equal(first) {
		t.Errorf("after a kill: want since %v, got %v", first, got)
	}
	if got := m.look(t, "v0"); !strings.Contains(got, "v0 was not there from") {
		t.Errorf("want the absence of the interface that was made again, got %s", got)
	}
	m.run(t, "ip", "link", "del", "v0") // so that nothing takes the place of what was kept of it
	set("16MiB", "")
	m.run(t, "systemctl", "restart", "pcapdaemon")
	if got := m.show("NFileDescriptorStore"); got != "2" {
		t.Errorf("with another size: want the two descriptors of lo kept, got %s", got)
	}
	second := m.since(t)
	if !second.After(first) {
		t.Errorf("with another size: want it anew, got since %v", second)
	}
	if got := m.journal(t); !strings.Contains(got, "recording begins anew") || !strings.Contains(got, "another size in blocks was kept") {
		t.Errorf("want the log to say why, got %s", got)
	}
	set("16MiB", "PCAPDAEMON_FILTER=not port 9\n")
	m.run(t, "systemctl", "restart", "pcapdaemon")
	filtered := m.since(t)
	if !filtered.After(second) {
		t.Errorf("with another filter: want it anew, got since %v", filtered)
	}
	if got := m.journal(t); !strings.Contains(got, "another filter was kept") {
		t.Errorf("want the log to say why, got %s", got)
	}
	m.run(t, "systemctl", "stop", "pcapdaemon")
	m.run(t, "systemctl", "start", "pcapdaemon")
	if third := m.since(t); !third.After(filtered) {
		t.Errorf("after a stop: want it forgotten, got since %v", third)
	}
}

package e2e

import (
	"debug/elf"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestRPMContents asks rpm what is in the package.
func TestRPMContents(t *testing.T) {
	beginPackages(t)
	t.Parallel()
	file := packageOf(t, "rpm", oldVersion)
	query := func(args ...string) []string {
		return testbed.ReadLines(output(t, "rpm", append([]string{"--query", "--package", file}, args...)...))
	}
	const format = "%{NAME} %{VERSION}-%{RELEASE} %{OS} %{BUILDHOST}\\n"
	want, got := []string{"pcapdaemon 1.0.0-1 linux localhost"}, query("--queryformat", format)
	if !slices.Equal(want, got) {
		t.Errorf("want %q, got %q", want, got)
	}
	if want, got := []string{"glibc >= 2.34", libpcapOf(t, binary)}, query("--requires"); !slices.Equal(want, got) {
		t.Errorf("want it to require %q, got %q", want, got)
	}
	if want, got := []string{"systemd < 247"}, query("--conflicts"); !slices.Equal(want, got) {
		t.Errorf("want it to exclude %q, got %q", want, got)
	}
	listed := map[string]string{} // path to mode, owner and what kind of file it is for rpm
	const files = "[%{FILENAMES} %{FILEMODES:perms} %{FILEUSERNAME} %{FILEFLAGS:fflags}\\n]"
	for _, line := range query("--queryformat", files) {
		path, rest, _ := strings.Cut(line, " ")
		listed[path] = strings.TrimSpace(rest)
	}
	modes := map[string]string{
		"/etc/pcapdaemon":                                          "drwxr-xr-x root",
		"/etc/pcapdaemon/env":                                      "-rw-r----- root cn", // settings that an upgrade does not replace
		"/usr/bin/pcapdaemon":                                      "-rwxr-xr-x root",
		"/usr/lib/systemd/system/pcapdaemon.service":               "-rw-r--r-- root",
		"/usr/lib64/wireshark/extcap/pcapdaemon":                   "l--------- root", // links need no permissions
		"/usr/libexec/wireshark/extcap/pcapdaemon":                 "l--------- root",
		"/usr/share/doc/pcapdaemon":                                "drwxr-xr-x root",
		"/usr/share/doc/pcapdaemon/README.md":                      "-rw-r--r-- root",
		"/usr/share/doc/pcapdaemon/docs":                           "drwxr-xr-x root",
		"/usr/share/doc/pcapdaemon/docs/operations.md":             "-rw-r--r-- root",
		"/usr/share/doc/pcapdaemon/docs/design.md":                 "-rw-r--r-- root",
		"/usr/share/doc/pcapdaemon/docs/wireshark.png":             "-rw-r--r-- root",
		"/usr/share/man/man8/pcapdaemon.8.gz":                      "-rw-r--r-- root",
		"/usr/share/pcapdaemon":                                    "drwxr-xr-x root",
		"/usr/share/pcapdaemon/triggers":                           "drwxr-xr-x root",
		"/usr/share/pcapdaemon/triggers/pcapdaemon-event":          "-rwxr-xr-x root",
		"/usr/share/pcapdaemon/triggers/snmptrapd/pcapdaemon-trap": "-rwxr-xr-x root",
		"/usr/share/pcapdaemon/triggers/snmptrapd/snmptrapd.conf":  "-rw-r--r-- root",
	}
	ours := maps.Clone(listed)
	maps.DeleteFunc(ours, func(path, _ string) bool {
		return strings.HasPrefix(path, "/usr/share/doc/pcapdaemon/examples") ||
			strings.HasPrefix(path, installedTriggers+"/") && modes[path] == ""
	})
	if !maps.Equal(modes, ours) {
		t.Errorf("want %q\n got %q", modes, ours)
	}
	if got := output(t, "rpm", "--checksig", "--nosignature", file); !strings.HasSuffix(got, ": digests OK\n") {
		t.Errorf("want a package that is whole, got %s", got)
	}
}

// libpcapOf returns what a package of a program has to require for its libpcap.
func libpcapOf(t *testing.T, file string) string {
	t.Helper()
	program, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	libraries, err := program.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(libraries, func(name string) bool { return strings.HasPrefix(name, "libpcap.") })
	if at < 0 {
		t.Fatalf("want libpcap among %q", libraries)
	}
	if program.Class == elf.ELFCLASS64 {
		return libraries[at] + "()(64bit)"
	}
	return libraries[at]
}

// TestRPMLife installs, upgrades and removes the package on a machine with
// systemd, as rpm does it elsewhere.
func TestRPMLife(t *testing.T) {
	beginPackages(t)
	t.Parallel()
	m := newMachine(t)
	for _, version := range []string{oldVersion, newVersion} {
		copyFile(t, packageOf(t, "rpm", version), m.path("/tmp/"+version+".rpm"), 0o644)
	}
	rpm := func(args ...string) {
		t.Helper()
		m.run(t, "rpm", append([]string{"--force-debian", "--nodeps"}, args...)...)
	}
	check := func(enabled, active string) {
		t.Helper()
		if got := m.show("UnitFileState") + " " + m.show("ActiveState"); got != enabled+" "+active {
			t.Errorf("want the service %s and %s, got %s", enabled, active, got)
		}
	}

	rpm("--install", "/tmp/v1.0.0.rpm")
	check("enabled", "inactive")
	m.run(t, "systemctl", "start", "pcapdaemon")
	const ours = "PCAPDAEMON_WRITELOCAL=true\nPCAPDAEMON_NODE=web1\n"
	if err := os.WriteFile(m.path("/etc/pcapdaemon/env"), []byte(ours), 0o640); err != nil {
		t.Fatal(err)
	}
	before := m.show("MainPID")

	rpm("--upgrade", "/tmp/v1.1.0.rpm")
	testbed.Eventually(t, time.Minute, "the new program runs", func() bool {
		return m.show("ActiveState") == "active" && m.show("MainPID") != before
	})
	check("enabled", "active")
	if got := m.run(t, "pcapdaemon", "-version"); !strings.HasPrefix(got, "pcapdaemon v1.1.0, ") {
		t.Errorf("want version v1.1.0, got %s", got)
	}
	if got, err := os.ReadFile(m.path("/etc/pcapdaemon/env")); err != nil || string(got) != ours {
		t.Errorf("want the settings kept, got %q (%v)", got, err)
	}

	m.run(t, "systemctl", "disable", "--now", "pcapdaemon")
	rpm("--upgrade", "--oldpackage", "/tmp/v1.0.0.rpm")
	check("disabled", "inactive") // as the administrator has left it

	rpm("--erase", "pcapdaemon")
	check("", "inactive")
	left := m.run(t, "find", "/usr", "/etc", "-name", "*pcapdaemon*", "-not", "-path", "*/pcapdaemon.service.d*")
	if left != "/etc/pcapdaemon\n" {
		t.Errorf("want nothing left but the settings, got %s", left)
	}
}

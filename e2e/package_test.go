package e2e

import (
	"debug/elf"
	"maps"
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

func TestPackageVersionSorts(t *testing.T) {
	t.Parallel()
	testbed.NeedTools(t, "dpkg")
	s := newTree(t)
	assignment := regexp.MustCompile(`PACKAGEVERSION='([^']*)'`)
	before := ""
	for _, described := range []string{ // by git, oldest first
		"3b0c836",
		"6a16de6-dirty",
		"v0.9.0",
		"v1.0.0-rc1",
		"v1.0.0",
		"v1.0.0-3-gabcdef0",
		"v1.0.0-3-gabcdef0-dirty",
		"v1.0.1",
	} {
		match := assignment.FindStringSubmatch(s.make(t, "-n", "deb", "VERSION="+described))
		if match == nil {
			t.Fatalf("make deb sets no PACKAGEVERSION for %s", described)
		}
		version := match[1]
		if out, err := exec.Command("dpkg", "--validate-version", version).CombinedOutput(); err != nil {
			t.Errorf("%s is %s: %s", described, version, out)
		}
		if before != "" && exec.Command("dpkg", "--compare-versions", before, "lt", version).Run() != nil {
			t.Errorf("%s is %s, want it above %s", described, version, before)
		}
		before = version
	}
}

func TestPackageContents(t *testing.T) {
	testbed.NeedTools(t, "dpkg-deb", "gzip")
	beginPackages(t)
	t.Parallel()
	file := packageOf(t, "deb", oldVersion)

	architecture := strings.TrimSpace(output(t, "dpkg", "--print-architecture"))
	for field, want := range map[string]string{
		"Package":      "pcapdaemon",
		"Version":      "1.0.0",
		"Section":      "net",
		"Architecture": architecture,
		"Depends":      "libc6 (>= 2.34), libpcap0.8 (>= 1.8)",
		"Breaks":       "systemd (<< 247~)",
	} {
		if got := strings.TrimSpace(output(t, "dpkg-deb", "--field", file, field)); got != want {
			t.Errorf("%s: want %q, got %q", field, want, got)
		}
	}
	if got := output(t, "dpkg-deb", "--info", file, "conffiles"); got != "/etc/pcapdaemon/env\n" {
		t.Errorf("want the settings as the only conffile, got %q", got)
	}

	listed := map[string]string{} // path to mode and owner
	for _, line := range testbed.ReadLines(output(t, "dpkg-deb", "--contents", file)) {
		fields := strings.Fields(line)
		listed[fields[5]] = fields[0] + " " + fields[1]
	}
	want := map[string]string{
		"./usr/bin/pcapdaemon":                                      "-rwxr-xr-x root/root",
		"./usr/lib/systemd/system/pcapdaemon.service":               "-rw-r--r-- root/root",
		"./etc/pcapdaemon/":                                         "drwxr-xr-x root/root",
		"./etc/pcapdaemon/env":                                      "-rw-r----- root/root",
		"./usr/share/man/man8/pcapdaemon.8.gz":                      "-rw-r--r-- root/root",
		"./usr/share/doc/pcapdaemon/README.md":                      "-rw-r--r-- root/root",
		"./usr/share/doc/pcapdaemon/docs/":                          "drwxr-xr-x root/root",
		"./usr/share/doc/pcapdaemon/changelog.gz":                   "-rw-r--r-- root/root",
		"./usr/share/doc/pcapdaemon/examples/":                      "drwxr-xr-x root/root",
		"./usr/share/pcapdaemon/triggers/snmptrapd/pcapdaemon-trap": "-rwxr-xr-x root/root",
	}
	folders := []string{"/usr/lib/" + strings.TrimSpace(output(t, "gcc", "-print-multiarch")), "/usr/libexec"}
	for _, folder := range folders {
		want["."+folder+"/wireshark/extcap/pcapdaemon"] = "l--------- root/root"
	}
	for path, mode := range want {
		if listed[path] != mode {
			t.Errorf("%s: want %s, got %q", path, mode, listed[path])
		}
	}
	unpacked := t.TempDir()
	output(t, "dpkg-deb", "--extract", file, unpacked)
	output(t, "diff", "-r", filepath.Join(root, "examples"), filepath.Join(unpacked, "usr/share/doc/pcapdaemon/examples"))
	output(t, "diff", "-r", filepath.Join(root, "docs"), filepath.Join(unpacked, "usr/share/doc/pcapdaemon/docs"))
	output(t, "diff", "-r", filepath.Join(root, triggers), filepath.Join(unpacked, installedTriggers))
	output(t, "gzip", "--test", filepath.Join(unpacked, "usr/share/man/man8/pcapdaemon.8.gz"))
	changelog := output(t, "gzip", "-dc", filepath.Join(unpacked, "usr/share/doc/pcapdaemon/changelog.gz"))
	const entry = "pcapdaemon (1.0.0) unstable; urgency=medium\n\n  * Built from v1.0.0 of the sources.\n"
	if !strings.HasPrefix(changelog, entry) {
		t.Errorf("want a changelog that begins with %q, got %q", entry, changelog)
	}
	program := filepath.Join(unpacked, "usr/bin/pcapdaemon")
	if got := output(t, program, "-version"); !strings.HasPrefix(got, "pcapdaemon v1.0.0, ") {
		t.Errorf("want version v1.0.0, got %s", got)
	}
	for _, folder := range folders {
		checkLink(t, filepath.Join(unpacked, folder, "wireshark/extcap/pcapdaemon"), program)
	}
	checkHardened(t, program)
	checkLintian(t, file)
}

// checkLink fails unless a path leads to a file.
func checkLink(t *testing.T, path, file string) {
	t.Helper()
	if got, err := filepath.EvalSymlinks(path); err != nil || got != file {
		t.Errorf("%s: want it to lead to %s, got %s (%v)", path, file, got, err)
	}
}

// checkLintian fails if lintian finds errors or warnings, but for the one that is known.
func checkLintian(t *testing.T, file string) {
	t.Helper()
	testbed.NeedTools(t, "lintian")
	found := output(t, "lintian", "--allow-root", "--fail-on", "none", "--tag-display-limit", "0", file)
	if want := "E: pcapdaemon: no-copyright-file\n"; found != want {
		t.Errorf("want %q from lintian, got %q", want, found)
	}
}

// checkHardened fails unless a program was built as distributions build theirs:
// at an address that cannot be guessed, without tables that can be changed while
// it runs, with a stack that runs nothing and with C that checks what it copies.
func checkHardened(t *testing.T, file string) {
	t.Helper()
	program, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	flags, err := program.DynValue(elf.DT_FLAGS_1)
	if want := uint64(elf.DF_1_NOW | elf.DF_1_PIE); err != nil || len(flags) != 1 || flags[0]&want != want {
		t.Errorf("want flags %#x, got %#x (%v)", want, flags, err)
	}
	segments := map[elf.ProgType]elf.ProgFlag{}
	for _, segment := range program.Progs {
		segments[segment.Type] = segment.Flags
	}
	if _, found := segments[elf.PT_GNU_RELRO]; !found {
		t.Error("want tables that are read-only once it runs")
	}
	if got := segments[elf.PT_GNU_STACK]; got != elf.PF_R|elf.PF_W {
		t.Errorf("want a stack to read and write, got %v", got)
	}
	symbols, err := program.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	checks := map[string]bool{}
	for _, symbol := range symbols {
		if strings.HasSuffix(symbol.Name, "_chk") {
			checks["copies"] = true
		}
		if symbol.Name == "__stack_chk_fail" {
			checks["stack"] = true
		}
	}
	if want := map[string]bool{"copies": true, "stack": true}; !maps.Equal(want, checks) {
		t.Errorf("want C that checks %v, got %v", want, checks)
	}
}

// TestPackageDependsOnEnough: the package depends on a libc that has all that the program uses.
func TestPackageDependsOnEnough(t *testing.T) {
	testbed.NeedTools(t, "dpkg")
	match := regexp.MustCompile(`libc6 \(>= (.+)\)`).FindStringSubmatch(read(t, "packaging/nfpm.yaml"))
	if match == nil {
		t.Fatal("no dependency on libc6")
	}
	program, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	symbols, err := program.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, symbol := range symbols {
		if needed, ok := strings.CutPrefix(symbol.Version, "GLIBC_"); ok &&
			exec.Command("dpkg", "--compare-versions", match[1], "lt", needed).Run() == nil {
			t.Errorf("%s needs libc6 %s, declared is %s", symbol.Name, needed, match[1])
		}
	}
}

// settingsSource is where the settings that come with the package are.
const settingsSource = "packaging/env"

// TestPackageSettings: every variable of the example settings is a flag, and what it is set to is accepted.
func TestPackageSettings(t *testing.T) {
	known := map[string]bool{}
	for _, f := range describeFlags(t) {
		known["PCAPDAEMON_"+strings.ToUpper(f.name)] = true
	}
	active := []string{"PCAPDAEMON_DESTDIR=" + t.TempDir()} // by the unit
	for _, line := range testbed.ReadLines(read(t, settingsSource)) {
		setting := strings.TrimPrefix(line, "#")
		name, _, found := strings.Cut(setting, "=")
		if !found || !strings.HasPrefix(name, "PCAPDAEMON_") {
			continue
		}
		if !known[name] {
			t.Errorf("%s is no flag", name)
		}
		if code, out := runWith(t, []string{setting}, "-version"); code != 0 {
			t.Errorf("%s: want exit code 0, got %d: %s", setting, code, out)
		}
		if line == setting {
			active = append(active, setting)
		}
	}
	// A request for somebody else shows that the settings are good and captures nothing.
	if code, out := runWith(t, active, "-request", `{"node":"nobody","interface":"lo"}`); code != 1 {
		t.Errorf("as installed, with %q: want exit code 1, got %d: %s", active, code, out)
	}
}

// runWith runs the program with variables and arguments and returns exit code and output.
func runWith(t *testing.T, variables []string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), variables...)
	p := testbed.Start(t, cmd)
	return p.Wait(t, time.Minute), p.Output.String()
}

func TestPackageLife(t *testing.T) {
	beginPackages(t)
	t.Parallel() // beside tests that mostly wait
	m := newMachine(t)
	for _, version := range []string{oldVersion, newVersion} {
		copyFile(t, packageOf(t, "deb", version), m.path("/tmp/"+version+".deb"), 0o644)
	}
	install := func(t *testing.T, version string) {
		t.Helper()
		m.run(t, "dpkg", "--install", "/tmp/"+version+".deb")
		if got := m.run(t, "pcapdaemon", "-version"); !strings.HasPrefix(got, "pcapdaemon "+version+", ") {
			t.Errorf("want version %s installed, got %s", version, got)
		}
	}
	state := func(t *testing.T, enabled, active string) {
		t.Helper()
		if got := m.show("UnitFileState"); got != enabled {
			t.Errorf("want a service that is %s, got %s", enabled, got)
		}
		if got := m.show("ActiveState"); got != active {
			t.Errorf("want a service that is %s, got %s", active, got)
		}
	}
	const ours = "PCAPDAEMON_WRITELOCAL=true\nPCAPDAEMON_NODE=web1\nPCAPDAEMON_RECORD=lo\nPCAPDAEMON_RECORDSIZE=8MiB\n"
	settings := m.path("/etc/pcapdaemon/env")

	t.Run("installed without systemd running", func(t *testing.T) {
		m.run(t, "unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /run && dpkg --install /tmp/v1.0.0.deb")
		m.run(t, "systemctl", "daemon-reload")
		state(t, "enabled", "inactive")
		m.run(t, "dpkg", "--purge", "pcapdaemon")
		checkPurged(t, m)
	})
	t.Run("installed", func(t *testing.T) {
		install(t, "v1.0.0")
		state(t, "enabled", "active")
		if got := strings.TrimSpace(m.run(t, "stat", "-c", "%a %U:%G", "/etc/pcapdaemon/env")); got != "640 root:root" {
			t.Errorf("want settings that only root can read, got %s", got)
		}
		m.run(t, "systemd-analyze", "verify", "/usr/lib/systemd/system/pcapdaemon.service") // its man page too
	})
	t.Run("upgraded while it captures", func(t *testing.T) {
		testbed.NeedTools(t, "redis-server", "redis-cli")
		if err := os.WriteFile(settings, []byte(ours), 0o640); err != nil {
			t.Fatal(err)
		}
		m.run(t, "systemctl", "restart", "pcapdaemon")
		m.run(t, "systemd-run", "--unit=redis", "redis-server", "--save", "")
		m.awaitSubscribed(t)
		m.run(t, "redis-cli", "PUBLISH", "capture", `{"node":"web1","interface":"lo"}`)
		m.awaitCapture(t)
		m.run(t, "redis-cli", "PING")
		before, since := m.show("MainPID"), m.since(t)

		install(t, "v1.1.0")
		state(t, "enabled", "active")
		if m.show("MainPID") == before {
			t.Error("the old program still runs")
		}
		if got := m.since(t); !got.Equal(since) {
			t.Errorf("want the recorded past kept, since %v, got since %v", since, got)
		}
		if got := m.files(t); len(got) != 3 {
			t.Errorf("want the captures delivered, got %q", got)
		}
		if got, err := os.ReadFile(settings); err != nil || string(got) != ours {
			t.Errorf("want the settings kept, got %q (%v)", got, err)
		}
	})
	t.Run("upgraded while disabled", func(t *testing.T) {
		m.run(t, "systemctl", "disable", "--now", "pcapdaemon")
		install(t, "v1.1.0")
		state(t, "disabled", "inactive")
		m.run(t, "systemctl", "enable", "--now", "pcapdaemon")
	})
	t.Run("upgraded with settings that do not work", func(t *testing.T) {
		m.set(t, "RestartSec=200ms") // not for 5 s
		if err := os.WriteFile(settings, []byte("PCAPDAEMON_REDISPORT=none\n"), 0o640); err != nil {
			t.Fatal(err)
		}
		install(t, "v1.1.0")
		if err := os.WriteFile(settings, []byte(ours), 0o640); err != nil {
			t.Fatal(err)
		}
		testbed.Eventually(t, time.Minute, "started with the settings mended", func() bool {
			return m.show("ActiveState") == "active"
		})
	})
	t.Run("not removed after all", func(t *testing.T) {
		const script = "/var/lib/dpkg/info/pcapdaemon.prerm" // which stops the service
		m.run(t, "sed", "-i", "$a exit 1", script)
		if m.command("dpkg", "--remove", "pcapdaemon").Run() == nil {
			t.Fatal("want a removal that fails")
		}
		m.run(t, "sed", "-i", "$d", script)
		state(t, "enabled", "active")
	})
	t.Run("removed", func(t *testing.T) {
		m.set(t, "ExecStopPost=/nothing") // its end is a failure
		m.run(t, "systemctl", "daemon-reload")
		m.run(t, "dpkg", "--remove", "pcapdaemon")
		m.set(t, "RestartSec=200ms")
		if got := m.show("ActiveState"); got != "inactive" {
			t.Errorf("want the service stopped, got %s", got)
		}
		if got := m.show("LoadState"); got != "masked" { // its links stay, but nothing follows them
			t.Errorf("want a service that is masked, got %s", got)
		}
		left := m.run(t, "find", "/etc/pcapdaemon", "/usr", "-name", "*pcapdaemon*",
			"-o", "-name", "env", "-path", "*pcapdaemon*")
		if got := strings.TrimSpace(left); got != "/etc/pcapdaemon\n/etc/pcapdaemon/env" {
			t.Errorf("want the settings alone left, got %s", got)
		}
	})
	t.Run("installed again", func(t *testing.T) {
		install(t, "v1.1.0")
		state(t, "enabled", "active")
		if got, err := os.ReadFile(settings); err != nil || string(got) != ours {
			t.Errorf("want the settings kept, got %q (%v)", got, err)
		}
	})
	t.Run("purged", func(t *testing.T) {
		if err := os.WriteFile(m.path("/etc/pcapdaemon/cstoken"), []byte("secret\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		captures := m.files(t)
		out := m.run(t, "dpkg", "--purge", "pcapdaemon")
		if !strings.Contains(out, "captures in /var/lib/private/pcapdaemon are left") {
			t.Errorf("want to be told of the captures, got %s", out)
		}
		if got := m.files(t); len(captures) == 0 || !slices.Equal(got, captures) {
			t.Errorf("want the captures %q left, got %q", captures, got)
		}
		m.run(t, "rm", "-r", "/var/lib/private/pcapdaemon", "/var/lib/pcapdaemon")
		checkPurged(t, m)
	})
}

// checkPurged fails if anything of the package is left.
func checkPurged(t *testing.T, m *machine) {
	t.Helper()
	// The cache of formatted man pages is man-db's, which clears it by itself.
	left := m.run(t, "find", "/etc", "/usr", "/var", "/run", "-name", "*pcapdaemon*",
		"-not", "-path", "/var/cache/man/*", "-not", "-path", "*/pcapdaemon.service.d*") // which this test has made
	if left != "" {
		t.Errorf("left by the purge:\n%s", left)
	}
	if got := m.show("LoadState"); got != "not-found" {
		t.Errorf("want no service any more, got one that is %s", got)
	}
	if m.command("dpkg", "--status", "pcapdaemon").Run() == nil {
		t.Error("dpkg still knows the package")
	}
}

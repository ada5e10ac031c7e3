package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

// A tree is a copy of the sources, to build in.
type tree struct {
	dir string
	env []string // settings for make, beside those of this test
}

// newTree copies the sources, without what has been built from them.
func newTree(t testing.TB) tree {
	t.Helper()
	testbed.NeedTools(t, "make", "tar")
	s := tree{dir: t.TempDir()}
	if err := s.copySources(); err != nil {
		t.Fatal(err)
	}
	return s
}

// copySources copies the sources into the tree.
func (s tree) copySources() error {
	cmd := exec.Command("sh", "-c",
		`tar -cf - --exclude=./.git --exclude=./dist --exclude=./pcapdaemon . | tar -xf - -C "$1"`, "sh", s.dir)
	cmd.Dir = root
	if out, err := testbed.CombinedOutput(cmd); err != nil {
		return fmt.Errorf("copy the sources: %w: %s", err, out)
	}
	return nil
}

// make runs make and returns its output.
func (s tree) make(t testing.TB, args ...string) string {
	t.Helper()
	out, err := s.tryMake(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tryMake runs make, untouched by one that runs this test, and returns its output.
func (s tree) tryMake(args ...string) (string, error) {
	cmd := exec.Command("nice", append([]string{"make"}, args...)...)
	cmd.Dir = s.dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(setting string) bool {
		return strings.HasPrefix(setting, "MAKE") || strings.HasPrefix(setting, "MFLAGS")
	})
	cmd.Env = append(cmd.Env, s.env...)
	out, err := testbed.CombinedOutput(cmd)
	if err != nil {
		return "", fmt.Errorf("make %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// output returns what a program writes to its standard output.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}

// TestInstallBuildsNothing: sudo knows no Go, so it must not be needed.
func TestInstallBuildsNothing(t *testing.T) {
	s, into := newTree(t), t.TempDir()
	install := func() (string, error) {
		cmd := exec.Command("make", "install", "DESTDIR="+into)
		cmd.Dir, cmd.Env = s.dir, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := install(); err == nil || !strings.Contains(out, "run 'make build' first") {
		t.Errorf("want to be told what to run first, got %v: %s", err, out)
	}
	if made, _ := os.ReadDir(into); len(made) > 0 {
		t.Errorf("want nothing installed, got %v", made)
	}
	const program = "#!/bin/sh\n"
	if err := os.WriteFile(filepath.Join(s.dir, "pcapdaemon"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := install(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(into + "/usr/local/bin/pcapdaemon"); err != nil || string(got) != program {
		t.Errorf("want the program as it was built, got %q (%v)", got, err)
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	s, into := newTree(t), t.TempDir()
	s.make(t, "build", "VERSION=v1.2.3")
	s.make(t, "install", "DESTDIR="+into, "PREFIX=/opt/capture", "WIRESHARK=/opt/wireshark/extcap")
	for path, want := range map[string]os.FileMode{
		"/opt/capture/bin/pcapdaemon":                                                0o755,
		"/opt/capture/share/man/man8":                                                os.ModeDir | 0o755,
		"/opt/capture/share/man/man8/pcapdaemon.8":                                   0o644,
		"/opt/capture/share/doc/pcapdaemon/README.md":                                0o644,
		"/opt/capture/share/doc/pcapdaemon/docs/operations.md":                       0o644,
		"/opt/capture/share/pcapdaemon/triggers/pcapdaemon-event":                    0o755,
		"/opt/capture/share/pcapdaemon/triggers/snmptrapd/pcapdaemon-trap":           0o755,
		"/opt/capture/share/pcapdaemon/triggers/snmptrapd/snmptrapd.conf":            0o644,
		"/opt/capture/share/pcapdaemon/triggers/systemd/pcapdaemon-failure@.service": 0o644,
		"/opt/capture/share/doc/pcapdaemon/examples":                                 os.ModeDir | 0o755,
		"/etc/systemd/system/pcapdaemon.service":                                     0o644,
		"/etc/pcapdaemon":                                                            os.ModeDir | 0o755,
		"/etc/pcapdaemon/env":                                                        0o640,
	} {
		info, err := os.Stat(into + path)
		if err != nil {
			t.Error(err)
		} else if info.Mode() != want {
			t.Errorf("%s: want %v, got %v", path, want, info.Mode())
		}
	}
	if got := output(t, into+"/opt/capture/bin/pcapdaemon", "-version"); !strings.HasPrefix(got, "pcapdaemon v1.2.3, ") {
		t.Errorf("want version v1.2.3, got %s", got)
	}
	const program = "/opt/capture/bin/pcapdaemon"
	if got, err := os.Readlink(into + "/opt/wireshark/extcap/pcapdaemon"); err != nil || got != program {
		t.Errorf("want Wireshark to find %s, got %q (%v)", program, got, err)
	}
	unit, err := os.ReadFile(into + "/etc/systemd/system/pcapdaemon.service")
	if err != nil {
		t.Fatal(err)
	}
	// It is what is started and what may be run.
	for program, want := range map[string]int{"/usr/bin/pcapdaemon": 0, "/opt/capture/bin/pcapdaemon": 2} {
		if got := strings.Count(string(unit), program); got != want {
			t.Errorf("want the unit to name %s %d times, got %d:\n%s", program, want, got, unit)
		}
	}
	lines, err := os.ReadFile(into + "/opt/capture/share/pcapdaemon/triggers/snmptrapd/snmptrapd.conf")
	if err != nil {
		t.Fatal(err)
	}
	const handler = "traphandle default /opt/capture/share/pcapdaemon/triggers/snmptrapd/pcapdaemon-trap "
	if !strings.Contains(string(lines), handler) {
		t.Errorf("want lines for snmptrapd that name the installed handler, got %s", lines)
	}

	output(t, "diff", "-r", filepath.Join(root, "examples"), into+"/opt/capture/share/doc/pcapdaemon/examples")

	const ours = "PCAPDAEMON_WRITELOCAL=true\nPCAPDAEMON_NODE=web1\n"
	if err := os.WriteFile(into+"/etc/pcapdaemon/env", []byte(ours), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"/opt/wireshark/extcap", ""} { // again, and where Wireshark is not
		s.make(t, "install", "DESTDIR="+into, "PREFIX=/opt/capture", "WIRESHARK="+folder)
	}
	if got, err := os.ReadFile(into + "/etc/pcapdaemon/env"); err != nil || string(got) != ours {
		t.Errorf("want the settings kept, got %q (%v)", got, err)
	}
}

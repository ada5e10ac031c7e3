package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

// A described flag is one of -h.
type described struct{ name, usage, initial string }

// describedFlags returns the flags that -h prints.
func describedFlags(t testing.TB) []described {
	t.Helper()
	help, err := exec.Command(binary, "-h").Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []described
	pattern := regexp.MustCompile(`(?m)^  -([a-z]+)(?: \S+)?\n    \t(.*?)(?: \(default (.*)\))?$`)
	for _, match := range pattern.FindAllStringSubmatch(string(help), -1) {
		found = append(found, described{match[1], match[2], strings.Trim(match[3], `"`)})
	}
	return found
}

// TestFlagsAreDocumented compares the flags of -h, README and man page: names, defaults and words.
func TestFlagsAreDocumented(t *testing.T) {
	readme, manual := read(t, "README.md"), unroff(read(t, "packaging/pcapdaemon.8"))
	host, _ := os.Hostname()
	known := map[string]bool{}
	for _, f := range describedFlags(t) {
		known[f.name] = true
		initial, usage := f.initial, f.usage
		if f.name == "node" && initial == host {
			initial = "the host name"
		}
		if initial == "" && isSwitch(f.name) {
			initial = "false" // -h does not say so
		}
		row := strings.ReplaceAll("| `-"+f.name+"` | "+initial+" | "+usage+" |", "|  |", "| |")
		if !strings.Contains(readme, row) {
			t.Errorf("the README has no row %s", row)
		}
		if initial != "" {
			usage += " (default " + initial + ")"
		}
		if !strings.Contains(manual, "-"+f.name) || !strings.Contains(manual, usage) {
			t.Errorf("the man page does not say of -%s: %s", f.name, usage)
		}
	}
	if len(known) < 30 {
		t.Errorf("want all flags in -h, found %d", len(known))
	}
	for name, text := range map[string]string{"README": readme, "man page": manual} {
		for _, match := range regexp.MustCompile("(?m)^(?:\\| `-|\\.B -)([a-z]+)").FindAllStringSubmatch(text, -1) {
			if !known[match[1]] {
				t.Errorf("the %s describes -%s, which is no flag", name, match[1])
			}
		}
	}
}

// isSwitch tells whether a flag stands without a value.
func isSwitch(name string) bool {
	return slices.Contains([]string{"upload", "writelocal", "csinsecure", "version"}, name)
}

// TestFieldsAreDocumented: every field of requests and results is in README and man page.
func TestFieldsAreDocumented(t *testing.T) {
	readme, manual := read(t, "README.md"), unroff(read(t, "packaging/pcapdaemon.8"))
	for _, field := range strings.Fields("node nodere interface tags bpf customer snap packets alertid timeout bytes id " +
		"state stop received dropped ifdropped started ended file url error") {
		if !strings.Contains(readme, "`"+field+"`") {
			t.Errorf("the README does not name %s", field)
		}
		if !regexp.MustCompile(`\b` + field + `\b`).MatchString(manual) {
			t.Errorf("the man page does not name %s", field)
		}
	}
}

// TestManPageIsClean has man format the page.
func TestManPageIsClean(t *testing.T) {
	testbed.NeedTools(t, "man")
	cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", filepath.Join(root, "packaging/pcapdaemon.8"))
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80")
	var warnings strings.Builder
	cmd.Stderr = &warnings
	if err := cmd.Run(); err != nil || warnings.Len() > 0 {
		t.Errorf("%v: %s", err, warnings.String())
	}
}

// read returns a file of the tree.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// unroff takes the escapes of hyphens and quotes out of a man page.
func unroff(text string) string {
	return strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\&`, "").Replace(text)
}

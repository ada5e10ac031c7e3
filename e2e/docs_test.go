package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pcapdaemon/testbed"
)

// manPage is where the manual is.
const manPage = "packaging/pcapdaemon.8"

// A describedFlag is what -h says of a flag.
type describedFlag struct{ name, initial, usage string }

// describeFlags reads -h.
func describeFlags(t *testing.T) []describedFlag {
	t.Helper()
	help, err := exec.Command(binary, "-h").Output()
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(`(?m)^  -([a-z]+).*\n    \t(.*?)(?: \(default (.*)\))?$`)
	var flags []describedFlag
	for _, match := range pattern.FindAllStringSubmatch(string(help), -1) {
		f := describedFlag{match[1], strings.Trim(match[3], `"`), match[2]}
		if f.name == "node" {
			f.initial = "the host name"
		}
		flags = append(flags, f)
	}
	return flags
}

// originalFlags are those that were there first: names and defaults are fixed.
var originalFlags = map[string]string{
	"cshost": "localhost", "csscheme": "https", "cstoken": "xxxxxxx",
	"redischannel": "capture", "redisnode": "127.0.0.1", "redisport": "6379",
	"upload": "false", "writelocal": "false", "destdir": "",
}

func TestOriginalFlags(t *testing.T) {
	initial := map[string]string{}
	for _, f := range describeFlags(t) {
		initial[f.name] = f.initial
	}
	for name, want := range originalFlags {
		if got, there := initial[name]; !there || got != want {
			t.Errorf("-%s: want the default %q, got %q", name, want, got)
		}
	}
}

// TestFlagsAreDocumented compares the flags of -h, README and man page: names, defaults and words.
func TestFlagsAreDocumented(t *testing.T) {
	readme, manual := read(t, "README.md"), unroff(read(t, manPage))
	known := map[string]bool{}
	for _, f := range describeFlags(t) {
		known[f.name] = true
		row := strings.ReplaceAll("| `-"+f.name+"` | "+f.initial+" | "+f.usage+" |", "|  |", "| |")
		if !strings.Contains(readme, row) {
			t.Errorf("the README has no row %s", row)
		}
		usage := f.usage
		if f.initial != "" {
			usage += " (default " + f.initial + ")"
		}
		if !strings.Contains(manual, "-"+f.name) || !strings.Contains(manual, usage) {
			t.Errorf("the man page does not say of -%s: %s", f.name, usage)
		}
	}
	described := regexp.MustCompile("(?m)^(?:\\| `-|\\.B -)([a-z]+)")
	for name, text := range map[string]string{"README": readme, "man page": manual} {
		for _, match := range described.FindAllStringSubmatch(text, -1) {
			if !known[match[1]] {
				t.Errorf("the %s describes -%s, which is no flag", name, match[1])
			}
		}
	}
}

// TestFieldsAreDocumented: every field of requests and results is in README and man page.
func TestFieldsAreDocumented(t *testing.T) {
	readme, manual := read(t, "README.md"), unroff(read(t, manPage))
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
	cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", filepath.Join(root, manPage))
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80")
	var warnings strings.Builder
	cmd.Stderr = &warnings
	if err := cmd.Run(); err != nil || warnings.Len() > 0 {
		t.Errorf("%v: %s", err, warnings.String())
	}
}

// read returns a file of the tree.
func read(t testing.TB, name string) string {
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

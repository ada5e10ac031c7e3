package main

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestFlagsAreDocumented compares the flags of -h, README and man page: names, defaults and words.
func TestFlagsAreDocumented(t *testing.T) {
	readme, manual := read(t, "README.md"), unroff(read(t, "pcapdaemon.8"))
	known := map[string]bool{}
	flags(&config{}, &rawConfig{}).VisitAll(func(f *flag.Flag) {
		known[f.Name] = true
		_, usage := flag.UnquoteUsage(f)
		initial := f.DefValue
		if f.Name == "node" {
			initial = "the host name"
		}
		row := strings.ReplaceAll("| `-"+f.Name+"` | "+initial+" | "+usage+" |", "|  |", "| |")
		if !strings.Contains(readme, row) {
			t.Errorf("the README has no row %s", row)
		}
		if initial != "" {
			usage += " (default " + initial + ")"
		}
		if !strings.Contains(manual, "-"+f.Name) || !strings.Contains(manual, usage) {
			t.Errorf("the man page does not say of -%s: %s", f.Name, usage)
		}
	})
	for name, text := range map[string]string{"README": readme, "man page": manual} {
		for _, match := range regexp.MustCompile("(?m)^(?:\\| `-|\\.B -)([a-z]+)").FindAllStringSubmatch(text, -1) {
			if !known[match[1]] {
				t.Errorf("the %s describes -%s, which is no flag", name, match[1])
			}
		}
	}
}

// TestFieldsAreDocumented: every field of requests and results is in README and man page.
func TestFieldsAreDocumented(t *testing.T) {
	readme, manual := read(t, "README.md"), unroff(read(t, "pcapdaemon.8"))
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
	needTools(t, "man")
	cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", "pcapdaemon.8")
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
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// unroff takes the escapes of hyphens and quotes out of a man page.
func unroff(text string) string {
	return strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\&`, "").Replace(text)
}

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pcapdaemon/testbed"
)

// triggers is where the pieces for sources of events are.
const triggers = "triggers"

// installedTriggers is where packages put them.
const installedTriggers = "/usr/share/pcapdaemon/triggers"

// triggerPath returns the absolute path of a file of the triggers.
func triggerPath(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, triggers, name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// hostName returns the name of this machine.
func hostName(t testing.TB) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// hostileTexts are what whoever causes an event may write into it.
var hostileTexts = map[string]string{
	"quotes":             `it's "quoted"`,
	"backslashes":        `a\b\\c\"d\`,
	"a command":          "$(touch /tmp/x)`touch /tmp/y`;touch /tmp/z|touch /tmp/v&",
	"formats":            `%s%n%d %% %H %i`,
	"variables":          `$HOME ${PATH} $1 $MESSAGE`,
	"JSON":               `","nodere":".","bpf":"","x":{"y":[`,
	"invalid UTF-8":      "a\xffb\xe9",
	"other writings":     "caf\u00e9 \u96ea \U0001f418",
	"control characters": "a\x01b\x1b[31m\tc\x7f",
	"newlines":           "a\nb\r\nc",
	"a filter":           "192.0.2.9 or net 0.0.0.0/0",
	"nothing":            "",
	"64 KiB":             strings.Repeat(`x"\`, 64<<10/3),
}

// onlyAddress is what an event may lead to in a filter: an address, or nothing.
var onlyAddress = regexp.MustCompile(`^(host [0-9A-Fa-f:.]+)?$`)

// A requested is a request that a piece has published.
type requested map[string]any

// heardRequest returns the next request that is published. It has to be one JSON
// object, with nothing behind it.
func heardRequest(t testing.TB, requests <-chan []byte, within time.Duration) requested {
	t.Helper()
	select {
	case message := <-requests:
		return parseRequested(t, string(message))
	case <-time.After(within):
		t.Fatalf("no request within %v", within)
	}
	panic("unreachable")
}

// parseRequested reads a request.
func parseRequested(t testing.TB, message string) requested {
	t.Helper()
	var r requested
	if err := json.Unmarshal([]byte(message), &r); err != nil || r == nil {
		t.Fatalf("want one JSON object, got %.200q: %v", message, err)
	}
	return r
}

// check compares the fields that a request has to have; nil: not at all.
func (r requested) check(t testing.TB, want requested) {
	t.Helper()
	for field, value := range want {
		if got := r[field]; !reflect.DeepEqual(value, got) {
			t.Errorf("%s: want %v, got %.200v", field, value, got)
		}
	}
}

// checkOnly compares all fields.
func (r requested) checkOnly(t testing.TB, want requested) {
	t.Helper()
	r.check(t, want)
	for field := range r {
		if _, ok := want[field]; !ok {
			t.Errorf("want no field %s, got %.200v", field, r[field])
		}
	}
}

// checkHarmless fails if an event got at more than tags and the host that is named.
func (r requested) checkHarmless(t testing.TB, whom ...string) {
	t.Helper()
	known := append([]string{"interface", "timeout", "packets", "tags", "by", "bpf"}, whom...)
	for field, value := range r {
		if text, ok := value.(string); !slices.Contains(known, field) || ok && utf8.RuneCountInString(text) > 1024 {
			t.Errorf("want no field %s with %.200v", field, value)
		}
	}
	if bpf, _ := r["bpf"].(string); !onlyAddress.MatchString(bpf) {
		t.Errorf("want an address in the filter, got %q", bpf)
	}
}

// settingsFile writes settings that lead to a server, and returns their path.
func settingsFile(t testing.TB, server *testbed.Redis) string {
	t.Helper()
	return writeFile(t, t.TempDir(), "settings", fmt.Sprintf("PCAPDAEMON_REDISPORT='%d'\n", server.Port))
}

// withProgram returns an environment in which the built program is found, and leads to a server.
func withProgram(t testing.TB, server *testbed.Redis) []string {
	t.Helper()
	return append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"),
		"TRIGGER_SETTINGS="+settingsFile(t, server))
}

// withRedisCLI returns an environment in which the program is not installed.
func withRedisCLI(t testing.TB, server *testbed.Redis) []string {
	t.Helper()
	return append(os.Environ(), "TRIGGER_SETTINGS="+settingsFile(t, server))
}

// adapt returns the configuration of a piece with other words in some places,
// each of which has to be there: old, new, old, new …
func adapt(t testing.TB, name string, words ...string) string {
	t.Helper()
	text := read(t, filepath.Join(triggers, name))
	for n := 0; n < len(words); n += 2 {
		if !strings.Contains(text, words[n]) {
			t.Fatalf("%s has no %q", name, words[n])
		}
		text = strings.ReplaceAll(text, words[n], words[n+1])
	}
	return text
}

// writeFile writes a file into a directory that goes with the test.
func writeFile(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTriggerFolders: each piece has a README of about ten lines, and names its limit.
func TestTriggerFolders(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(root, triggers, "*/"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, folder := range folders {
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			continue
		}
		seen++
		text := read(t, filepath.Join(triggers, filepath.Base(folder), "README.md"))
		if n := len(testbed.ReadLines(text)); n > 15 {
			t.Errorf("%s: want a README of about ten lines, got %d", folder, n)
		}
		for _, word := range []string{"-share", "Storms"} {
			if !strings.Contains(text, word) {
				t.Errorf("%s: the README says nothing of %s", folder, word)
			}
		}
	}
	if want := 9; seen != want {
		t.Errorf("want %d folders, got %d", want, seen)
	}
}

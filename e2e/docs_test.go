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

// The three papers: a front door, one for who runs it, and the reference.
const (
	readme     = "README.md"
	operations = "docs/operations.md"
	manPage    = "packaging/pcapdaemon.8"
)

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
	front, manual := read(t, readme), unroff(read(t, manPage))
	known := map[string]bool{}
	for _, f := range describeFlags(t) {
		known[f.name] = true
		row := strings.ReplaceAll("| `-"+f.name+"` | "+f.initial+" | "+f.usage+" |", "|  |", "| |")
		if !strings.Contains(front, row) {
			t.Errorf("the README has no row %s", row)
		}
		usage := f.usage
		if f.initial != "" {
			usage += " (default " + f.initial + ")"
		}
		if !regexp.MustCompile(`(?m)^\.B -` + f.name + `\b.*\n` + regexp.QuoteMeta(usage)).MatchString(manual) {
			t.Errorf("the man page does not say of -%s: %s", f.name, usage)
		}
	}
	described := regexp.MustCompile("(?m)^(?:\\| `-|\\.TP\\n\\.B -)([a-z]+)")
	for name, text := range map[string]string{"README": front, "man page": manual} {
		for _, match := range described.FindAllStringSubmatch(text, -1) {
			if !known[match[1]] {
				t.Errorf("the %s describes -%s, which is no flag", name, match[1])
			}
		}
	}
}

// TestHelpIsGrouped: -h begins with how to use it, four lines and two examples, and has the flags in the groups
// of the man page.
func TestHelpIsGrouped(t *testing.T) {
	out, err := exec.Command(binary, "-h").Output()
	if err != nil {
		t.Fatal(err)
	}
	usage, rest, _ := strings.Cut(string(out), "\nexamples:\n")
	if lines := strings.Count(usage, "\n  pcapdaemon "); lines != 4 || !strings.HasPrefix(usage, "usage") {
		t.Errorf("want four lines of usage first, got %d:\n%s", lines, usage)
	}
	examples, rest, _ := strings.Cut(rest, "\n\n")
	if lines := strings.Count(examples, "  pcapdaemon "); lines != 2 {
		t.Errorf("want two examples, got %d:\n%s", lines, examples)
	}
	groups, group := map[string]string{}, "" // by flag
	for line := range strings.Lines(rest) {
		switch {
		case strings.HasPrefix(line, "  -"):
			groups[strings.Fields(line)[0]] = group
		case strings.HasSuffix(line, ":\n"):
			group = strings.TrimSuffix(line, ":\n")
		}
		if len(line) > 140 && !strings.HasPrefix(line, "    \t") {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
	_, options, _ := strings.Cut(unroff(read(t, manPage)), ".SH OPTIONS\n")
	options, _, _ = strings.Cut(options, "\n.SH")
	for section := range strings.SplitSeq(options, "\n.SS ") {
		heading, flags, _ := strings.Cut(section, "\n")
		for _, match := range regexp.MustCompile(`(?m)^\.B (-[a-z]+).*$`).FindAllStringSubmatch(flags, -1) {
			if got, there := groups[match[1]]; there && got != heading && strings.Contains(flags, ".TP\n.B "+match[1]) {
				t.Errorf("%s is in %q of the man page and in %q of -h", match[1], heading, got)
			}
		}
	}
}

// TestPapersSay: what nobody would find out by trying stands in the papers.
func TestPapersSay(t *testing.T) {
	text := map[string]string{}
	for _, name := range []string{readme, operations, manPage} {
		text[name] = unroff(read(t, name))
	}
	_, start, _ := strings.Cut(text[readme], "\n## Quick start\n")
	text["quick start"], _, _ = strings.Cut(start, "\n## ")
	for _, test := range []struct{ paper, words string }{
		{"quick start", "-publish node=any interface=default"},
		{readme, "On two cores, `make test` takes"},
		{readme, "The project has none yet"},
		{operations, "`redis-cli SUBSCRIBE capture`, is counted as a host"},
		{manPage, "Whatever subscribes to the channel counts as a host that listens"},
		{manPage, "it waits until 10 s after what its host has promised"},
	} {
		if !strings.Contains(text[test.paper], test.words) {
			t.Errorf("%s: want %q", test.paper, test.words)
		}
	}
	_, roll, found := strings.Cut(text[readme], "\n$ pcapdaemon -rollcall\n")
	roll, _, _ = strings.Cut(roll, "```")
	for line := range strings.Lines(roll) {
		if n := len(strings.TrimSuffix(line, "\n")); n > 60 && !strings.HasPrefix(line, "request ") {
			t.Errorf("want a roll call in 60 columns, got %d: %s", n, line)
		}
	}
	if !found {
		t.Errorf("%s shows no roll call", readme)
	}
}

// TestFlagsInTextExist: what papers and settings name in passing is a flag, or a variable of one.
func TestFlagsInTextExist(t *testing.T) {
	known := []string{"PCAPDAEMON_FLAG"} // for any
	for _, f := range describeFlags(t) {
		known = append(known, "-"+f.name, "PCAPDAEMON_"+strings.ToUpper(f.name))
	}
	known = append(known, "PCAPDAEMON_STORETOKEN") // a secret, for which there is no flag
	variable := regexp.MustCompile(`PCAPDAEMON_[A-Z]+`)
	flag := regexp.MustCompile("(?m)(?:`|^\\.BR? )(-[a-z]{2,})\\b")
	for _, name := range []string{readme, operations, manPage,
		"packaging/env", "pcapdaemon.service", "triggers/settings", "triggers/pcapdaemon-event",
		"triggers/snmptrapd/snmptrapd.conf", "triggers/snmptrapd/pcapdaemon-trap", "triggers/systemd/" + failureUnit} {
		text := unroff(read(t, name))
		found := variable.FindAllString(text, -1)
		for _, match := range flag.FindAllStringSubmatch(text, -1) {
			found = append(found, match[1])
		}
		for _, word := range found {
			if !slices.Contains(known, word) {
				t.Errorf("%s names %s, which does not exist", name, word)
			}
		}
	}
}

// A topic is what README and man page both have a table of.
type topic struct {
	heading string // in the README
	section string // in the man page
	rows    int    // at least
}

// TestTablesAgree compares fields and states in README and man page: names, types and words.
func TestTablesAgree(t *testing.T) {
	front, manual := read(t, readme), unroff(read(t, manPage))
	for _, topic := range []topic{
		{"| field | type | meaning |", ".SH REQUEST", 18},
		{"| state | meaning |", ".SS States", 7},
		{"| field | meaning |", ".SS Fields", 15},
	} {
		t.Run(topic.section, func(t *testing.T) {
			described := entries(t, manual, topic.section)
			names := map[string]bool{}
			rows := tableRows(t, front, topic.heading)
			for _, cells := range rows {
				name, words := cells[0], cells[len(cells)-1]
				if len(cells) == 3 {
					words = cells[1] + ": " + words
				}
				names[name] = true
				if got, there := described[name]; !there || !strings.Contains(got, words) {
					t.Errorf("%s: want %q in the man page, got %q", name, words, got)
				}
			}
			if len(rows) < topic.rows {
				t.Errorf("want %d rows, got %d", topic.rows, len(rows))
			}
			for name := range described {
				if !names[name] {
					t.Errorf("the README has no row for %s", name)
				}
			}
		})
	}
}

// tableRows returns the cells of a table's rows, without what marks code.
func tableRows(t *testing.T, text, heading string) [][]string {
	t.Helper()
	_, table, found := strings.Cut(text, heading+"\n")
	if !found {
		t.Fatalf("no table %s", heading)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	var rows [][]string
	for _, line := range testbed.ReadLines(table)[1:] {
		row := strings.Split(strings.Trim(strings.ReplaceAll(line, "`", ""), "| "), " | ")
		rows = append(rows, row)
	}
	return rows
}

// entries returns the tagged paragraphs of a section of the man page by their names.
func entries(t *testing.T, manual, section string) map[string]string {
	t.Helper()
	_, text, found := strings.Cut(manual, section+"\n")
	if !found {
		t.Fatalf("the man page has no %s", section)
	}
	if end := regexp.MustCompile(`(?m)^\.(SH|SS|PP)`).FindStringIndex(text); end != nil {
		first := strings.Index(text, ".TP")
		text = text[first:]
		end = regexp.MustCompile(`(?m)^\.(SH|SS|PP)`).FindStringIndex(text)
		text = text[:end[0]]
	}
	described := map[string]string{}
	for paragraph := range strings.SplitSeq(text, ".TP\n") {
		name, words, _ := strings.Cut(paragraph, "\n")
		if name = strings.TrimPrefix(strings.TrimPrefix(name, ".BR "), ".B "); name != "" {
			described[strings.ReplaceAll(name, `\ `, "")] = words
		}
	}
	return described
}

// TestStopsAreDocumented: README and man page have the same reasons to end.
func TestStopsAreDocumented(t *testing.T) {
	var stops []string
	for name := range entries(t, unroff(read(t, manPage)), ".SH WHAT ENDS A CAPTURE") {
		stops = append(stops, name)
	}
	for _, stop := range []string{"packets", "bytes", "timeout", "request", "memory", "shutdown", "interface"} {
		if !slices.Contains(stops, stop) {
			t.Errorf("the man page does not tell of %s", stop)
		}
	}
	for _, cells := range tableRows(t, read(t, readme), "| field | meaning |") {
		if cells[0] != "ended stop" {
			continue
		}
		for _, stop := range stops {
			if !strings.Contains(cells[1], stop) {
				t.Errorf("the README does not tell of %s", stop)
			}
		}
	}
}

// TestRequestFieldsExist has the program judge every field that is documented.
func TestRequestFieldsExist(t *testing.T) {
	for field := range entries(t, unroff(read(t, manPage)), ".SH REQUEST") {
		// No field takes an object, and the error says whether it is the value or the name.
		request := `{"` + field + `":{}}`
		if !strings.HasPrefix(field, "node") {
			request = `{"node":"web1","` + field + `":{}}`
		}
		out, _ := exec.Command(binary, "-publish", request).CombinedOutput()
		if strings.Contains(string(out), "unknown field") || !strings.Contains(string(out), field+":") {
			t.Errorf("%s is documented, and the program says: %s", field, out)
		}
	}
}

// TestMetricsAreDocumented compares /metrics with the table for operators.
func TestMetricsAreDocumented(t *testing.T) {
	args, port := listening(t)
	args = append(args, "-record", "lo", "-upload", "-cstoken", "x", "-spooldir", t.TempDir())
	startDaemon(t, testbed.StartRedis(t), append(args, keeping(t.TempDir())...)...)
	_, body := get(t, port, "/metrics")
	name := regexp.MustCompile(`pcapdaemon_[a-z_]+`)
	documented := map[string]bool{}
	for _, cells := range tableRows(t, read(t, operations), "| metric | |") {
		for _, metric := range name.FindAllString(cells[0], -1) {
			documented[metric] = true
			if !strings.Contains(body, "# TYPE "+metric+" ") {
				t.Errorf("%s is documented and not on /metrics", metric)
			}
		}
	}
	for _, match := range regexp.MustCompile(`(?m)^# TYPE (pcapdaemon_\S+)`).FindAllStringSubmatch(body, -1) {
		if !documented[match[1]] {
			t.Errorf("%s is on /metrics and not documented", match[1])
		}
	}
}

// TestRoomsAreDocumented: whoever looks for something finds the files in the README, and no others.
func TestRoomsAreDocumented(t *testing.T) {
	named := map[string]bool{}
	for _, cells := range tableRows(t, read(t, readme), "| room | about |") {
		for _, name := range strings.Fields(cells[0]) {
			named[name] = true
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				t.Error(err)
			}
		}
	}
	there, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range there {
		name := entry.Name()
		switch {
		case strings.HasPrefix(name, "."), name == "dist", strings.HasSuffix(name, "_test.go"):
			continue
		case entry.IsDir():
			name += "/"
		case !slices.Contains([]string{".go", ".html", ".css"}, filepath.Ext(name)):
			continue
		}
		if !named[name] {
			t.Errorf("the README does not say what %s is about", name)
		}
	}
}

// TestLinksLead follows the links of the papers to files and headings.
func TestLinksLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)]+)\)`)
	for _, name := range []string{readme, operations} {
		for _, match := range link.FindAllStringSubmatch(read(t, name), -1) {
			path, anchor, _ := strings.Cut(match[1], "#")
			file := name
			if path != "" {
				file = filepath.Join(filepath.Dir(name), path)
			}
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if anchor != "" && !slices.Contains(anchors(read(t, file)), anchor) {
				t.Errorf("%s: %s has no heading %s", name, file, anchor)
			}
		}
	}
}

// anchors returns what the headings of a text are called in links.
func anchors(text string) []string {
	var found []string
	dropped := regexp.MustCompile(`[^a-z0-9 -]`)
	for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		found = append(found, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-"))
	}
	return found
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
	return strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\&`, "", `\e`, `\`).Replace(text)
}

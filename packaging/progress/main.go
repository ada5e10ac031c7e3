// Progress runs go test and shows test by test how it goes: a line for each
// test when it ends, all that it has written if it fails, and at the end one
// line that says which tests were skipped and why.
//
// Usage: progress [go test flags and packages] [-- more of them]...
//
// What stands between two dashes is a run of its own; the first one that fails
// is the last one. The exit code is 0 if all have passed. Where the environment
// has CI=true, a test that was skipped counts as failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	r := newReport(os.Stdout)
	ok := true
	for run := range runs(os.Args[1:]) {
		if ok = ok && test(run, r); !ok {
			break
		}
	}
	r.close()
	if !ok || os.Getenv("CI") == "true" && r.skipped > 0 {
		os.Exit(1)
	}
}

// runs splits arguments at each --.
func runs(args []string) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for {
			at := slices.Index(args, "--")
			if at < 0 {
				yield(args)
				return
			}
			if !yield(args[:at]) {
				return
			}
			args = args[at+1:]
		}
	}
}

// test runs go test and reports whether all tests have passed.
func test(args []string, r *report) bool {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "go test:", err)
		return false
	}
	r.read(events)
	return cmd.Wait() == nil
}

// An event is a line of go test -json, as of go doc test2json.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// A report shows how tests go.
type report struct {
	out     io.Writer
	began   time.Time
	written map[string]*strings.Builder // by package and test; subtests write to their test's
	passed  int
	skipped int
	lacks   map[string]bool // what skipped tests need
}

// newReport returns a report of nothing yet.
func newReport(out io.Writer) *report {
	return &report{out: out, began: time.Now(), written: map[string]*strings.Builder{}, lacks: map[string]bool{}}
}

// read takes events until there are no more. Other lines are shown as they are.
func (r *report) read(events io.Reader) {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		if json.Unmarshal(line, &e) == nil {
			r.take(e)
		} else {
			fmt.Fprintf(r.out, "%s", line)
		}
		if err != nil {
			return
		}
	}
}

// take takes one event.
func (r *report) take(e event) {
	top, _, isSubtest := strings.Cut(e.Test, "/")
	key := e.Package + " " + top
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if r.written[key] == nil {
			r.written[key] = &strings.Builder{}
		}
		r.written[key].WriteString(e.Output)
		if found := lack.FindStringSubmatch(e.Output); found != nil {
			r.lacks[found[1]] = true
		}
	case "skip":
		if e.Test != "" { // else a package without tests
			r.skipped++
			r.say(e, "skip")
		}
		if !isSubtest {
			delete(r.written, key)
		}
	case "pass", "fail":
		if !isSubtest {
			r.end(e, key)
		}
	}
}

// lack matches what a test says that it needs when it is skipped.
var lack = regexp.MustCompile(`^\s+\S+_test\.go:\d+: needs +(.+)\n$`)

// end shows how a test or a package has ended.
func (r *report) end(e event, key string) {
	if e.Action == "fail" {
		if e.Test == "" { // and took tests with it that had not ended
			for _, running := range slices.Sorted(maps.Keys(r.written)) {
				if strings.HasPrefix(running, e.Package+" ") && running != key {
					fmt.Fprint(r.out, r.written[running])
					delete(r.written, running)
				}
			}
		}
		if r.written[key] != nil {
			fmt.Fprint(r.out, r.written[key])
		}
		r.say(e, "FAIL")
	} else {
		r.say(e, "ok")
		if e.Test != "" {
			r.passed++
		}
	}
	delete(r.written, key)
}

// say writes a line about a test, or about a package that has ended.
func (r *report) say(e event, state string) {
	name := e.Test
	if name == "" {
		name = "package " + e.Package
	}
	fmt.Fprintf(r.out, "%-4s %7.2fs  %s\n", state, e.Elapsed, name)
}

// close says what came of all tests together.
func (r *report) close() {
	fmt.Fprintf(r.out, "passed: %d tests, in %v\n", r.passed, time.Since(r.began).Round(time.Second))
	if r.skipped > 0 {
		fmt.Fprintf(r.out, "skipped: %d tests, for want of %s (make extra installs programs)\n",
			r.skipped, strings.Join(slices.Sorted(maps.Keys(r.lacks)), "; "))
	}
}

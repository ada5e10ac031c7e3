package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestReport feeds events as go test -json prints them.
func TestReport(t *testing.T) {
	var events, out strings.Builder
	for _, e := range []event{
		{Action: "start", Package: "p"},
		{Action: "output", Package: "p", Test: "TestQuiet", Output: "not to be seen\n"},
		{Action: "pass", Package: "p", Test: "TestQuiet", Elapsed: 1.25},
		{Action: "output", Package: "p", Test: "TestPage", Output: "    page_test.go:7: needs chromium\n"},
		{Action: "skip", Package: "p", Test: "TestPage"},
		{Action: "output", Package: "p", Test: "TestLoud/one", Output: "    x_test.go:9: want 1, got 2\n"},
		{Action: "output", Package: "p", Test: "TestCutOff", Output: "=== RUN   TestCutOff\n"},
		{Action: "fail", Package: "p", Test: "TestLoud/one"},
		{Action: "fail", Package: "p", Test: "TestLoud", Elapsed: 0.5},
		{Action: "output", Package: "p", Output: "panic: out of time\n"},
		{Action: "fail", Package: "p", Elapsed: 3},
		{Action: "skip", Package: "without tests"},
	} {
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		events.Write(append(line, '\n'))
	}
	events.WriteString("go: a line that is no event\n")
	r := newReport(&out)
	r.read(strings.NewReader(events.String()))
	r.close()
	const want = `ok      1.25s  TestQuiet
skip    0.00s  TestPage
    x_test.go:9: want 1, got 2
FAIL    0.50s  TestLoud
=== RUN   TestCutOff
panic: out of time
FAIL    3.00s  package p
go: a line that is no event
passed: 1 tests, in 0s
skipped: 1 tests, for want of chromium (make extra installs programs)
`
	if out.String() != want {
		t.Errorf("want %s, got %s", want, out.String())
	}
}

func TestRuns(t *testing.T) {
	var got []string
	for run := range runs([]string{"-race", "./a", "--", "./b"}) {
		got = append(got, strings.Join(run, " "))
	}
	if want := []string{"-race ./a", "./b"}; !slices.Equal(want, got) {
		t.Errorf("want %q, got %q", want, got)
	}
}

// TestExitCode runs the program on modules whose tests pass, fail, do not build or are skipped.
func TestExitCode(t *testing.T) {
	program := filepath.Join(t.TempDir(), "progress")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, test := range map[string]struct {
		body, ci string
		want     int
		says     string
	}{
		"passed":         {"", "true", 0, "passed: 1 tests"},
		"failed":         {`t.Error("what is wrong")`, "", 1, "what is wrong"},
		"does not build": {"return 1", "", 1, "too many return values"},
		"skipped":        {`t.Skip("needs", "luck")`, "", 0, "skipped: 1 tests, for want of luck "},
		"skipped in CI":  {`t.Skip("needs", "luck")`, "true", 1, "skipped: 1 tests, for want of luck "},
		"panics":         {`panic("what is wrong")`, "", 1, "what is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			text := "package a\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { " + test.body + " }\n"
			for file, text := range map[string]string{"go.mod": "module a\n\ngo 1.25.0\n", "a_test.go": text} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command(program, "-count=1", "-vet=off", "./...")
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "CI="+test.ci)
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != test.want || !strings.Contains(string(out), test.says) {
				t.Errorf("want exit code %d and %q, got %d: %s", test.want, test.says, got, out)
			}
		})
	}
}

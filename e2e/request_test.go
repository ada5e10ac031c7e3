package e2e

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestRequestFlag runs requests without Redis.
func TestRequestFlag(t *testing.T) {
	t.Parallel()
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	capture := `"interface":"lo","packets":5,"bpf":"` + stream.Filter() + `"`
	for name, test := range map[string]struct {
		request string
		stdin   bool
		states  string
		code    int
	}{
		"no node":            {`{` + capture + `}`, false, "started done", 0},
		"this node":          {`{"node":"web1",` + capture + `}`, false, "started done", 0},
		"standard input":     {`{` + capture + `}`, true, "started done", 0},
		"other node":         {`{"node":"web2",` + capture + `}`, false, "", 1},
		"refused":            {`{"interface":"nosuch0"}`, false, "refused", 1},
		"one of two refused": {`{"interface":["nosuch0","lo"],"timeout":1}`, false, "started done refused", 1},
		"no JSON":            {`{capture`, false, "refused", 1},
		"empty object":       {`{}`, false, "refused", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var code int
			var results []result
			if test.stdin {
				code, results = runRequest(t, "-", test.request)
			} else {
				code, results = runRequest(t, test.request, "")
			}
			if code != test.code {
				t.Errorf("want exit code %d, got %d", test.code, code)
			}
			// Those of two interfaces may come in any order.
			if want, got := sortWords(test.states), sortWords(states(results)); want != got {
				t.Errorf("want %q, got %q", want, got)
			}
			for _, got := range results {
				got.check(t, says{"node": "web1"})
			}
		})
	}
}

// runRequest runs the program with -request and returns exit code and results.
func runRequest(t *testing.T, request, stdin string) (code int, results []result) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(binary, append(keeping(t.TempDir()), "-node", "web1", "-request", request)...)
	cmd.Stdin, cmd.Stdout = strings.NewReader(stdin), &out
	code = testbed.Start(t, cmd).Wait(t, time.Minute)
	return code, parseResults(out.String())
}

// sortWords sorts the words of a text.
func sortWords(text string) string {
	words := strings.Fields(text)
	slices.Sort(words)
	return strings.Join(words, " ")
}

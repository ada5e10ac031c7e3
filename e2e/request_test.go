package e2e

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// TestRequestFlag runs requests without Redis.
func TestRequestFlag(t *testing.T) {
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
		"no JSON":            {`capture`, false, "refused", 1},
		"empty object":       {`{}`, false, "refused", 1},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(binary, append(keeping(t.TempDir()), "-node", "web1", "-request", test.request)...)
			if test.stdin {
				cmd.Args[len(cmd.Args)-1] = "-"
				cmd.Stdin = strings.NewReader(test.request)
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			if code := testbed.Start(t, cmd).Wait(t, 10*time.Second); code != test.code {
				t.Errorf("want exit code %d, got %d", test.code, code)
			}
			lines := testbed.ReadLines(out.String())
			if len(lines) != len(strings.Fields(test.states)) {
				t.Errorf("want %s, got %s", test.states, out.String())
			}
			for _, line := range lines {
				var got reported
				if err := json.Unmarshal([]byte(line), &got); err != nil || !strings.Contains(test.states, got.State) || got.Node != "web1" {
					t.Errorf("want one of %s, got %s, %v", test.states, line, err)
				}
			}
		})
	}
}

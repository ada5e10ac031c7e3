package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// publisherACL is what the README gives as the least for one who asks.
const publisherACL = "resetchannels &capture &capture-results -@all +publish +subscribe +ping"

// ask runs -publish and returns what it printed and its exit code.
func ask(t *testing.T, url, request string, within time.Duration) (stdout, stderr string, code int) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(binary, "-publish", "-")
	cmd.Env = append(os.Environ(), "PCAPDAEMON_REDISURL="+url)
	cmd.Stdin = strings.NewReader(request)
	cmd.Stdout = &out
	p := testbed.Start(t, cmd)
	code = p.Wait(t, within)
	return out.String(), p.Output.String(), code
}

func TestPublish(t *testing.T) {
	r := testbed.StartRedis(t)
	args := []any{"SETUSER", "asker", "on", ">pw"}
	for rule := range strings.FieldsSeq(publisherACL) {
		args = append(args, rule)
	}
	r.Do(t, "ACL", args...)
	url := "redis://asker:pw@" + r.Address()
	stream := testbed.StartStream(t, time.Millisecond)
	dir := t.TempDir()
	startDaemon(t, r, "-writelocal", "-destdir", dir)
	testbed.Start(t, exec.Command(binary, "-node", "web2", "-redisport", strconv.Itoa(r.Port), "-writelocal", "-destdir", dir))
	r.AwaitSubscribers(t, 5*time.Second, 2)

	for name, test := range map[string]struct {
		request string
		states  string
		code    int
		within  time.Duration
	}{
		"one host":              {`{"node":"web1","interface":"lo","packets":5,"bpf":"` + stream.Filter() + `"}`, "started done", 0, 6 * time.Second},
		"with an id":            {`{"id":"mine","node":"web1","interface":"lo","packets":5}`, "started done", 0, 6 * time.Second},
		"two hosts":             {`{"nodere":"web.","interface":"lo","timeout":2,"bpf":"` + stream.Filter() + `"}`, "started started done done", 0, 6 * time.Second},
		"refused":               {`{"node":"web1","interface":"nosuch0"}`, "refused", 1, 5 * time.Second},
		"one interface refused": {`{"node":"web1","interface":["lo","nosuch0"],"packets":5}`, "started done refused", 1, 5 * time.Second},
		"nobody answers":        {`{"node":"web9","interface":"lo"}`, "", 3, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, code := ask(t, url, test.request, test.within)
			if code != test.code {
				t.Errorf("want exit code %d, got %d", test.code, code)
			}
			for _, state := range strings.Fields(test.states) {
				if strings.Count(out, `"state":"`+state+`"`) != strings.Count(test.states, state) {
					t.Errorf("want the states %q, got %s", test.states, out)
				}
			}
			if lines := testbed.ReadLines(out); len(lines) != len(strings.Fields(test.states)) {
				t.Errorf("want %d lines, got %d", len(strings.Fields(test.states)), len(lines))
			}
			if !strings.Contains(errs, "2 hosts listen on capture") {
				t.Errorf("want the number of hosts, got %s", errs)
			}
		})
	}
}

func TestPublishWithoutHosts(t *testing.T) {
	r := testbed.StartRedis(t)
	_, errs, code := ask(t, "redis://"+r.Address(), `{"node":"web1"}`, 2*time.Second)
	if code != 3 || !strings.Contains(errs, "0 hosts listen") {
		t.Errorf("want exit code 3 and the number of hosts, got %d, %s", code, errs)
	}
}

func TestPublishFails(t *testing.T) {
	r := testbed.StartRedis(t)
	nobody := "redis://127.0.0.1:" + strconv.Itoa(testbed.FreePort(t))
	const good = `{"node":"web1","interface":"lo"}`
	for name, test := range map[string]struct {
		url, request, want string
		code               int
	}{
		"no JSON":        {nobody, "capture", "-publish", 2},
		"null":           {nobody, "null", "-publish", 2},
		"no node":        {nobody, `{"interface":"lo"}`, "node", 2},
		"unknown field":  {nobody, `{"node":"web1","bfp":"udp"}`, "bfp", 2},
		"id is a number": {nobody, `{"node":"web1","id":1}`, "id", 2},
		"broken pattern": {nobody, `{"nodere":"("}`, "nodere", 2},
		"nobody there":   {nobody, good, "connection refused", 1},
		"wrong password": {"redis://u:geheim@" + r.Address(), good, "WRONGPASS", 1},
	} {
		out, errs, code := ask(t, test.url, test.request, 5*time.Second)
		if code != test.code {
			t.Errorf("%s: want exit code %d, got %d", name, test.code, code)
		}
		if out != "" || len(testbed.ReadLines(errs)) != 1 || !strings.Contains(errs, test.want) {
			t.Errorf("%s: want one line with %q, got %q, %q", name, test.want, out, errs)
		}
		if strings.Contains(errs, "geheim") {
			t.Errorf("%s: the password is shown: %s", name, errs)
		}
	}
}

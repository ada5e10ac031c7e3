package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
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
	p := start(t, cmd)
	code = p.wait(t, within)
	return out.String(), p.output.String(), code
}

func TestPublish(t *testing.T) {
	r := startRedis(t)
	args := []any{"SETUSER", "asker", "on", ">pw"}
	for rule := range strings.FieldsSeq(publisherACL) {
		args = append(args, rule)
	}
	r.do(t, "ACL", args...)
	url := "redis://asker:pw@" + r.address()
	stream := startStream(t, time.Millisecond)
	dir := t.TempDir()
	startDaemon(t, r, "-writelocal", "-destdir", dir)
	start(t, exec.Command(binary, "-node", "web2", "-redisport", strconv.Itoa(r.port), "-writelocal", "-destdir", dir))
	r.awaitSubscribers(t, 5*time.Second, 2)

	for name, test := range map[string]struct {
		request string
		states  string
		code    int
		within  time.Duration
	}{
		"one host":              {`{"node":"web1","interface":"lo","packets":5,"bpf":"` + stream.filter() + `"}`, "started done", 0, 3 * time.Second},
		"with an id":            {`{"id":"mine","node":"web1","interface":"lo","packets":5}`, "started done", 0, 3 * time.Second},
		"two hosts":             {`{"nodere":"web.","interface":"lo","timeout":2,"bpf":"` + stream.filter() + `"}`, "started started done done", 0, 6 * time.Second},
		"refused":               {`{"node":"web1","interface":"nosuch0"}`, "refused", 1, 5 * time.Second},
		"one interface refused": {`{"node":"web1","interface":["lo","nosuch0"],"packets":5}`, "started done refused", 1, 5 * time.Second},
		"nobody answers":        {`{"node":"web9","interface":"lo"}`, "", 1, 5 * time.Second},
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
			if lines := readLines(out); len(lines) != len(strings.Fields(test.states)) {
				t.Errorf("want %d lines, got %d", len(strings.Fields(test.states)), len(lines))
			}
			if !strings.Contains(errs, "2 hosts listen on capture") {
				t.Errorf("want the number of hosts, got %s", errs)
			}
		})
	}
}

func TestPublishWithoutHosts(t *testing.T) {
	r := startRedis(t)
	_, errs, code := ask(t, "redis://"+r.address(), `{"node":"web1"}`, 2*time.Second)
	if code != 1 || !strings.Contains(errs, "0 hosts listen") {
		t.Errorf("want exit code 1 and the number of hosts, got %d, %s", code, errs)
	}
}

func TestPublishFails(t *testing.T) {
	r := startRedis(t)
	for name, test := range map[string]struct{ url, request, want string }{
		"no JSON":        {"redis://" + r.address(), "capture", "-publish"},
		"null":           {"redis://" + r.address(), "null", "-publish"},
		"id is a number": {"redis://" + r.address(), `{"id":1}`, "id"},
		"nobody there":   {"redis://127.0.0.1:" + strconv.Itoa(freePort(t)), "{}", "connection refused"},
		"wrong password": {"redis://u:geheim@" + r.address(), "{}", "WRONGPASS"},
	} {
		out, errs, code := ask(t, test.url, test.request, 5*time.Second)
		if code != 1 || out != "" || len(readLines(errs)) != 1 || !strings.Contains(errs, test.want) || strings.Contains(errs, "geheim") {
			t.Errorf("%s: want exit code 1 and a line with %q, got %d, %s", name, test.want, code, errs)
		}
	}
}

// newFollowing returns a request that was published now.
func newFollowing(out *bytes.Buffer) *following {
	now := time.Now()
	return &following{id: "r1", published: now, answered: now, running: map[string]time.Time{}, lasting: time.Minute, out: out}
}

func TestFollowing(t *testing.T) {
	say := func(node, state string) string {
		return fmt.Sprintf(`{"id":"r1","node":"%s","interface":"eth0","state":"%s"}`, node, state)
	}
	for name, test := range map[string]struct {
		said []string
		over time.Duration // after the publication
	}{
		"nobody answers":               {nil, patience},
		"all refuse":                   {[]string{say("a", "refused")}, patience},
		"one done":                     {[]string{say("a", "started"), say("a", "done")}, gathering},
		"one refuses, one done":        {[]string{say("b", "refused"), say("a", "started"), say("a", "done")}, gathering},
		"one runs for ever":            {[]string{say("a", "started"), say("b", "started"), say("b", "done")}, time.Minute},
		"others' results do not count": {[]string{`{"id":"r2","node":"a","state":"started"}`, "nonsense"}, patience},
	} {
		var out bytes.Buffer
		f := newFollowing(&out)
		for _, message := range test.said {
			f.take([]byte(message))
		}
		before, after := f.published.Add(test.over-50*time.Millisecond), f.answered.Add(test.over+50*time.Millisecond)
		if f.over(before) || !f.over(after) {
			t.Errorf("%s: want it over after %v", name, test.over)
		}
		if want := strings.Count(strings.Join(test.said, ""), `"r1"`); len(readLines(out.String())) != want {
			t.Errorf("%s: want %d lines, got %q", name, want, out.String())
		}
	}
}

func TestFollowingForPeople(t *testing.T) {
	var out bytes.Buffer
	f := newFollowing(&out)
	f.live = true
	f.take([]byte(`{"id":"r1","node":"a\u001b[2J","interface":"eth0","state":"done","stop":"packets","packets":50,"bytes":4200,"file":"/x.pcap"}`))
	f.take([]byte(`{"id":"r1","node":"a","interface":"eth0","state":"started"}`))
	f.show(f.answered.Add(3 * time.Second))
	for _, want := range []string{`a\x1b[2J  eth0  done  50 packets, 4.2 kB, 0 dropped, stopped by packets  /x.pcap`, "1 capturing: a eth0 3s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("want %q, got %q", want, out.String())
		}
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/testbed"
)

// publisherACL is what the README gives as the least for one who asks.
const publisherACL = "resetchannels &capture &capture-results -@all +publish +subscribe +ping"

// A fakeExchange is a Redis that does what its test wants.
type fakeExchange struct {
	listeners int
	err       error
	answers   chan []byte
	changes   chan error
	published [][]byte
}

// newFakeExchange returns an exchange with so many listeners.
func newFakeExchange(listeners int) *fakeExchange {
	return &fakeExchange{listeners: listeners, answers: make(chan []byte, 1000), changes: make(chan error, 1)}
}

// Publish implements exchange.
func (e *fakeExchange) Publish(_ context.Context, request []byte) (int, error) {
	e.published = append(e.published, request)
	return e.listeners, e.err
}

// Answers implements exchange.
func (e *fakeExchange) Answers() <-chan []byte { return e.answers }

// Changes implements exchange.
func (e *fakeExchange) Changes() <-chan error { return e.changes }

// answer publishes a result of the request r1.
func (e *fakeExchange) answer(t *testing.T, text string) {
	t.Helper()
	e.answers <- heard{0, text}.decode(t).encode()
}

// runAlone runs the program without its binary and returns what it printed and its exit code.
func runAlone(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out bytes.Buffer
	code = run(args, strings.NewReader(stdin), &out, file)
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), string(text), code
}

// startHost answers what is published as a request with results, given as
// "node interface state [start]"; "for" a word waits that long.
func startHost(t *testing.T, r *testbed.Redis, results ...string) {
	t.Helper()
	requests, done := r.Hear(t, "capture"), make(chan struct{})
	go func() {
		defer close(done)
		var asked struct{ ID string }
		select {
		case message := <-requests:
			_ = json.Unmarshal(message, &asked)
		case <-t.Context().Done():
			return
		}
		for _, text := range results {
			if wait, isWait := strings.CutPrefix(text, "after "); isWait {
				d, _ := time.ParseDuration(wait)
				time.Sleep(d)
				continue
			}
			answer := heard{0, text}.decode(t)
			answer.ID = asked.ID
			r.Do(t, "PUBLISH", "capture-results", answer.encode())
		}
	}()
	t.Cleanup(func() { <-done })
}

// states returns the states in lines of JSON.
func states(t *testing.T, lines string) string {
	t.Helper()
	var all []string
	for _, line := range testbed.ReadLines(lines) {
		r, err := decodeResult([]byte(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		all = append(all, r.State)
	}
	return strings.Join(all, " ")
}

func TestPublish(t *testing.T) {
	for name, test := range map[string]struct {
		request string
		hosts   [][]string
		states  string
		code    int
		within  time.Duration
	}{
		"one host":           {`{"node":"a","interface":"eth0"}`, [][]string{{"a eth0 started 1", "a eth0 done 1"}}, "started done", exitOK, time.Second},
		"with an id":         {`{"id":"mine","node":"a","interface":"eth0"}`, [][]string{{"a eth0 started 1", "a eth0 done 1"}}, "started done", exitOK, time.Second},
		"a late host":        {`{"node":"any","interface":"eth0"}`, [][]string{{"a eth0 refused"}, {"after 1500ms", "b eth0 started 1", "b eth0 done 1"}}, "refused started done", exitFailed, 3 * time.Second},
		"a host is silent":   {`{"node":"any","interface":"eth0"}`, [][]string{{"a eth0 started 1", "a eth0 done 1"}, nil}, "started done", exitOK, 4 * time.Second},
		"nobody answers":     {`{"node":"web9","interface":"eth0"}`, [][]string{nil}, "", exitNobody, 4 * time.Second},
		"nobody listens":     {`{"node":"web9","interface":"eth0"}`, nil, "", exitNobody, time.Second},
		"one of two refuses": {`{"node":"a","interface":["eth0","lo"]}`, [][]string{{"a lo refused", "a eth0 started 1", "a eth0 done 1"}}, "refused started done", exitFailed, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := testbed.StartRedis(t)
			acl := []any{"SETUSER", "asker", "on", ">pw"}
			for rule := range strings.FieldsSeq(publisherACL) {
				acl = append(acl, rule)
			}
			r.Do(t, "ACL", acl...)
			for _, results := range test.hosts {
				startHost(t, r, results...)
			}
			began := time.Now()
			out, errs, code := runAlone(t, test.request, "-publish", "-", "-redisurl", "redis://asker:pw@"+r.Address())
			if code != test.code {
				t.Errorf("want exit code %d, got %d", test.code, code)
			}
			if got := states(t, out); got != test.states {
				t.Errorf("want the states %q, got %q", test.states, got)
			}
			if took := time.Since(began); took > test.within {
				t.Errorf("want an end within %v, got %v", test.within, took)
			}
			for text, want := range map[string]bool{
				fmt.Sprintf(": %d host", len(test.hosts)): true,
				"no host answered":                        code == exitNobody,
			} {
				if strings.Contains(errs, text) != want {
					t.Errorf("want %q: %v, got %s", text, want, errs)
				}
			}
		})
	}
}

// TestPublishWrongRequest: what the client can judge itself is wrong usage,
// and nobody is asked.
func TestPublishWrongRequest(t *testing.T) {
	address := fmt.Sprint("redis://127.0.0.1:", testbed.FreePort(t))
	for name, test := range map[string]struct{ request, want string }{
		"no JSON":             {"capture", "-publish"},
		"null":                {"null", "-publish"},
		"no node":             {`{"interface":"eth0"}`, "node"},
		"a number as id":      {`{"node":"a","interface":"eth0","id":1}`, "id"},
		"an unknown field":    {`{"node":"a","interface":"eth0","bfp":"tcp"}`, "bfp"},
		"a wrong type":        {`{"node":"a","interface":"eth0","timeout":"5"}`, "timeout"},
		"a pattern that ends": {`{"nodere":"web(","interface":"eth0"}`, "nodere"},
		"data after it":       {`{"node":"a","interface":"eth0"}{}`, "after"},
	} {
		out, errs, code := runAlone(t, test.request, "-publish", "-", "-redisurl", address)
		if lines := len(testbed.ReadLines(errs)); code != exitUsage || out != "" || lines != 1 {
			t.Errorf("%s: want exit code %d and one line, got %d, %s%s", name, exitUsage, code, out, errs)
		}
		if !strings.Contains(errs, test.want) {
			t.Errorf("%s: want %q in the line, got %s", name, test.want, errs)
		}
	}
}

func TestPublishWithoutRedis(t *testing.T) {
	r := testbed.StartRedis(t)
	for name, test := range map[string]struct{ url, want string }{
		"nobody there":   {fmt.Sprint("redis://127.0.0.1:", testbed.FreePort(t)), "connection refused"},
		"wrong password": {"redis://u:geheim@" + r.Address(), "WRONGPASS"},
	} {
		out, errs, code := runAlone(t, `{"node":"a","interface":"eth0","id":"r1"}`, "-publish", "-", "-redisurl", test.url)
		if code != exitFailed || out != "" || !strings.Contains(errs, test.want) {
			t.Errorf("%s: want exit code %d and %q, got %d, %s%s", name, exitFailed, test.want, code, out, errs)
		}
		last := testbed.ReadLines(errs)
		if strings.Contains(last[len(last)-1], "geheim") {
			t.Errorf("%s: want no password, got %s", name, errs)
		}
	}
}

// TestPublishSurvivesRestart: Redis may be restarted while captures go on.
func TestPublishSurvivesRestart(t *testing.T) {
	r := testbed.StartRedis(t)
	startHost(t, r, "a eth0 started 1")
	type end struct {
		out, errs string
		code      int
	}
	ended := make(chan end, 1)
	go func() {
		out, errs, code := runAlone(t, `{"node":"a","interface":"eth0","id":"r1"}`, "-publish", "-", "-redisport", fmt.Sprint(r.Port))
		ended <- end{out, errs, code}
	}()
	heardBy := func() bool {
		counts := r.Do(t, "PUBSUB", "NUMSUB", "capture-results").([]any)
		return counts[1].(int64) == 1
	}
	testbed.Eventually(t, 5*time.Second, "the client listens", heardBy)
	time.Sleep(500 * time.Millisecond) // the start is heard
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t, 5*time.Second)
	time.Sleep(time.Second)
	r.Restart(t)
	testbed.Eventually(t, 10*time.Second, "the client listens again", heardBy)
	r.Do(t, "PUBLISH", "capture-results", heard{0, "a eth0 done 1"}.decode(t).encode())
	select {
	case got := <-ended:
		if states(t, got.out) != "started done" || got.code != exitOK {
			t.Errorf("want started, done and exit code 0, got %d, %s%s", got.code, got.out, got.errs)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the client has not ended")
	}
}

// TestClientHears: what the client makes of what comes, in virtual time.
func TestClientHears(t *testing.T) {
	for name, test := range map[string]struct {
		events []string // results, "lost", "regained", or waits
		code   int
		took   time.Duration
		says   string
	}{
		"a host dies":               {[]string{"a eth0 started 1", "1s", "b eth0 started 2", "b eth0 done 2"}, exitFailed, 60 * time.Second, "a eth0: no result"},
		"Redis comes back in time":  {[]string{"a eth0 started 1", "5s", "lost", "30s", "regained", "a eth0 done 1"}, exitOK, 35 * time.Second, "for the time being: gone"},
		"all comes at once, at end": {[]string{"a eth0 started 1", "59s", "a eth0 done 1", "b eth0 started 2", "b eth0 done 2"}, exitOK, 59 * time.Second, "2 hosts listen"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exchange := newFakeExchange(2)
				var out, errs bytes.Buffer
				c := &client{exchange: exchange, channel: "capture", lasting: time.Minute, out: &out, err: &errs}
				go func() {
					for _, event := range test.events {
						switch wait, err := time.ParseDuration(event); {
						case err == nil:
							time.Sleep(wait)
						case event == "lost":
							exchange.changes <- errors.New("gone")
						case event == "regained":
							exchange.changes <- nil
						default:
							exchange.answer(t, event)
						}
					}
				}()
				began := time.Now()
				code, err := c.ask(t.Context(), question{id: "r1", request: request{Interfaces: []string{"eth0"}}})
				if code != test.code || err != nil {
					t.Errorf("want exit code %d, got %d, %v", test.code, code, err)
				}
				if took := time.Since(began); took < test.took || took > test.took+2*glance {
					t.Errorf("want an end after %v, got %v", test.took, took)
				}
				if !strings.Contains(errs.String(), test.says) || strings.Contains(errs.String(), "no host answered") {
					t.Errorf("want %q, got %s", test.says, errs.String())
				}
			})
		})
	}
}

// TestClientHearsWhatWaits: a client that was suspended looks at what has come before it looks at the clock.
func TestClientHearsWhatWaits(t *testing.T) {
	exchange := newFakeExchange(1)
	f, _ := followed(t, 1, "eth0", heard{-time.Hour, "a eth0 started 1"})
	exchange.answer(t, "a eth0 done 1")
	var out bytes.Buffer
	c := &client{exchange: exchange, out: &out}
	if c.hear(t.Context(), f); states(t, out.String()) != "done" {
		t.Errorf("want the result that waits, got %q", out.String())
	}
}

// TestQuestion: a request has an id, and is published as it was asked where it had one.
func TestQuestion(t *testing.T) {
	const own = `{"id":"mine", "node":"a","interface":"eth0"}`
	q, err := newQuestion([]byte(own))
	if q.id != "mine" || string(q.message) != own || err != nil {
		t.Errorf("want %s untouched, got %s, %v", own, q.message, err)
	}
	q, err = newQuestion([]byte(`{"node":"a","interface":"eth0","bpf":"len < 5"}`))
	if err != nil {
		t.Fatal(err)
	}
	var published struct{ ID, Node, BPF string }
	if err := json.Unmarshal(q.message, &published); err != nil {
		t.Fatal(err)
	}
	if published.ID != q.id || q.id == "" || published.Node != "a" || published.BPF != "len < 5" {
		t.Errorf("want the request with the id %q, got %s", q.id, q.message)
	}
}

// TestQuestionLasting: how long a capture may take comes from what was asked.
func TestQuestionLasting(t *testing.T) {
	var c config
	c.limits.timeout, c.delivery.shark.timeout = time.Hour, 5*time.Minute
	for timeout, want := range map[int64]time.Duration{
		0:       time.Hour + 5*time.Minute + 10*time.Second,
		30:      30*time.Second + 5*time.Minute + 10*time.Second,
		7200:    2*time.Hour + 5*time.Minute + 10*time.Second,
		1 << 60: 365*24*time.Hour + 5*time.Minute + 10*time.Second,
	} {
		if got := (question{request: request{Timeout: timeout}}).lasting(c); got != want {
			t.Errorf("timeout %d: want %v, got %v", timeout, want, got)
		}
	}
}

func TestDescribe(t *testing.T) {
	r, err := decodeResult([]byte(`{"id":"r1","node":"a\u001b[2J","interface":"eth0","state":"done","stop":"packets","packets":50,"bytes":4200,"file":"/x.pcap"}`))
	if err != nil {
		t.Fatal(err)
	}
	if want, got := `a\x1b[2J  eth0  done  50 packets, 4.2 kB, 0 dropped, stopped by packets  /x.pcap`, r.describe(); want != got {
		t.Errorf("want %q, got %q", want, got)
	}
}

package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/pubsub"
	"pcapdaemon/result"
	"pcapdaemon/testbed"
)

// publisherACL is what docs/operations.md gives as the least for one who asks.
const publisherACL = "resetchannels &capture &capture-results -@all +publish +subscribe +ping"

// A fakeExchange is a Redis that does what its test wants.
type fakeExchange struct {
	listeners int
	err       error
	answers   chan []byte
	changes   chan error
	published chan string
}

// newFakeExchange returns an exchange with so many listeners.
func newFakeExchange(listeners int) *fakeExchange {
	return &fakeExchange{listeners: listeners, answers: make(chan []byte, 1000),
		changes: make(chan error, 1), published: make(chan string, 10)}
}

// Publish implements exchange.
func (e *fakeExchange) Publish(_ context.Context, request []byte) (int, error) {
	e.published <- string(request)
	return e.listeners, e.err
}

// Answers implements exchange.
func (e *fakeExchange) Answers() <-chan []byte { return e.answers }

// Waiting implements exchange.
func (e *fakeExchange) Waiting() bool { return len(e.answers) > 0 }

// Changes implements exchange.
func (e *fakeExchange) Changes() <-chan error { return e.changes }

// newTestClient returns a client that asks any host for eth0.
func newTestClient(e exchange, v view) *client {
	return &client{exchange: e, channel: "capture", view: v, spans: spans{capture: 50 * time.Second, longest: 24 * time.Hour, delivery: 10 * time.Second},
		request: request{id: "r1", field: "node", value: "any", by: "me@here", begins: true,
			asked: Asked{Interfaces: []string{"eth0"}}}}
}

// play does what a test says: it waits, acts, or answers with a result.
func (e *fakeExchange) play(t *testing.T, events string, acts map[string]func()) {
	for event := range strings.SplitSeq(events, ";") {
		if wait, err := time.ParseDuration(event); err == nil {
			time.Sleep(wait)
		} else if act := acts[event]; act != nil {
			act()
			synctest.Wait()
		} else {
			e.answer(t, event)
		}
	}
}

// answer publishes a result of the request r1.
func (e *fakeExchange) answer(t *testing.T, text string) {
	t.Helper()
	e.answers <- hear(t, text).Encode()
}

// ask asks as the program does, with a request in words or as JSON, and returns
// what was printed and the outcome. The address is that of Redis.
func ask(t *testing.T, address, dir string, request ...string) (stdout, stderr string, outcome Outcome) {
	t.Helper()
	server, err := pubsub.ParseURL(address)
	if err != nil {
		t.Fatal(err)
	}
	message, err := Spell(request[0], request[1:])
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	outcome = Ask(Options{Server: server, Requests: "capture", Results: "capture-results", Dir: dir,
		Capture: time.Hour, Delivery: 5 * time.Minute, Judge: judgeJSON, Ends: []os.Signal{syscall.SIGTERM}}, []byte(message), &out, &errs)
	return out.String(), errs.String(), outcome
}

// judgeJSON takes every request for a good one that is a JSON object.
func judgeJSON(message []byte) (Asked, error) {
	var r struct {
		ID, By, Node, NodeRE, Stop string
		Interface                  any
		Timeout, Progress          int64
		RollCall                   bool
	}
	if err := json.Unmarshal(message, &r); err != nil {
		return Asked{}, err
	}
	a := Asked{ID: cmp.Or(r.ID, "made up"), By: r.By, Node: r.Node, NodeRE: r.NodeRE, Timeout: r.Timeout, Progress: r.Progress,
		Stop: r.Stop, RollCall: r.RollCall}
	switch names := r.Interface.(type) {
	case string:
		a.Interfaces = []string{names}
	case []any:
		for _, name := range names {
			a.Interfaces = append(a.Interfaces, name.(string))
		}
	}
	return a, nil
}

// startHost answers a request with results, and waits, given in turn.
func startHost(t *testing.T, r *testbed.Redis, results string) {
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
		for text := range strings.SplitSeq(results, ";") {
			if wait, err := time.ParseDuration(text); err == nil {
				time.Sleep(wait)
			} else if text != "" {
				answer := hear(t, text)
				answer.ID = asked.ID
				r.Do(t, "PUBLISH", "capture-results", answer.Encode())
			}
		}
	}()
	t.Cleanup(func() { <-done })
}

// states returns the states in lines of JSON.
func states(t *testing.T, lines string) string {
	t.Helper()
	var all []string
	for _, line := range testbed.ReadLines(lines) {
		r, err := result.Decode([]byte(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		all = append(all, r.State)
	}
	return strings.Join(all, " ")
}

func TestPublish(t *testing.T) {
	t.Parallel()
	const anybody = `{"node":"any","interface":"eth0"}`
	for name, test := range map[string]struct {
		request string
		hosts   []string // what each of them answers
		states  string
		code    Outcome
		within  time.Duration
	}{
		"one host":         {anybody, []string{"a started 1;a done 1"}, "started done", Done, time.Second},
		"a late host":      {anybody, []string{"a refused", "1500ms;b done 1"}, "refused done", Failed, 3 * time.Second},
		"a host is silent": {anybody, []string{"a started 1;a done 1", ""}, "started done", Done, 4 * time.Second},
		"nobody answers":   {anybody, []string{""}, "", Unanswered, 4 * time.Second},
		"nobody listens":   {anybody, nil, "", Unanswered, time.Second},
		"with an id": {`{"id":"mine","node":"a","interface":"eth0"}`, []string{"a started 1;a done 1"},
			"started done", Done, time.Second},
		"one of two refuses": {`{"node":"a","interface":["eth0","lo"]}`, []string{"a/lo refused;a started 1;a done 1"},
			"refused started done", Failed, time.Second},
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
				startHost(t, r, results)
			}
			began := time.Now()
			out, errs, code := ask(t, "redis://asker:pw@"+r.Address(), "", test.request)
			if code != test.code {
				t.Errorf("want outcome %d, got %d", test.code, code)
			}
			if got := states(t, out); got != test.states {
				t.Errorf("want the states %q, got %q", test.states, got)
			}
			if took := time.Since(began); took > test.within {
				t.Errorf("want an end within %v, got %v", test.within, took)
			}
			for text, want := range map[string]bool{
				fmt.Sprintf(": %d host", len(test.hosts)): true,
				"no host answered":                        code == Unanswered,
			} {
				if strings.Contains(errs, text) != want {
					t.Errorf("want %q: %v, got %s", text, want, errs)
				}
			}
		})
	}
}

func TestPublishWithoutRedis(t *testing.T) {
	r := testbed.StartRedis(t)
	for name, test := range map[string]struct{ url, want string }{
		"nobody there":   {fmt.Sprint("redis://127.0.0.1:", testbed.FreePort(t)), "connection refused"},
		"wrong password": {"redis://u:geheim@" + r.Address(), "WRONGPASS"},
	} {
		out, errs, code := ask(t, test.url, "", "node=a", "interface=eth0")
		if code != Unpublished || out != "" || !strings.Contains(errs, test.want) {
			t.Errorf("%s: want outcome %d and %q, got %d, %s%s", name, Unpublished, test.want, code, out, errs)
		}
		last := testbed.ReadLines(errs)
		if strings.Contains(last[len(last)-1], "geheim") {
			t.Errorf("%s: want no password, got %s", name, errs)
		}
	}
}

// TestPublishSurvivesRestart: Redis may be restarted while captures go on.
func TestPublishSurvivesRestart(t *testing.T) {
	t.Parallel()
	r := testbed.StartRedis(t)
	startHost(t, r, "a started 1")
	type end struct {
		out, errs string
		code      Outcome
	}
	ended := make(chan end, 1)
	go func() {
		out, errs, code := ask(t, "redis://"+r.Address(), "", "node=a", "interface=eth0", "id=r1")
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
	r.Do(t, "PUBLISH", "capture-results", hear(t, "a done 1").Encode())
	select {
	case got := <-ended:
		if states(t, got.out) != "started done" || got.code != Done {
			t.Errorf("want started, done and outcome 0, got %d, %s%s", got.code, got.out, got.errs)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the client has not ended")
	}
}

// TestClientHears: what the client makes of what comes, in virtual time.
func TestClientHears(t *testing.T) {
	for name, test := range map[string]struct {
		events string // results, waits, and outages of Redis, in turn
		code   Outcome
		took   time.Duration
		says   string
	}{
		"a host dies": {"a started 1;1s;b started 2;b done 2", Failed, 60 * time.Second, "a eth0: no result"},
		"Redis comes back in time": {"a started 1;5s;lost;30s;lost;regained;a done 1", Done, 35 * time.Second,
			"on capture\nno results are heard for the time being: gone\nresults are heard again\n"},
		"all comes at once, at the end": {"a started 1;59s;a done 1;b started 2;b done 2", Done, 59 * time.Second,
			"2 hosts listen"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				exchange := newFakeExchange(2)
				var out, errs bytes.Buffer
				c := newTestClient(exchange, jsonLines{&out, &errs})
				go exchange.play(t, test.events, map[string]func(){
					"lost":     func() { exchange.changes <- errors.New("gone") },
					"regained": func() { exchange.changes <- nil }})
				began := time.Now()
				err := c.ask(t.Context())
				code := c.wait(interruption{t.Context(), t.Context()})
				if code != test.code || err != nil {
					t.Errorf("want outcome %d, got %d, %v", test.code, code, err)
				}
				if took := time.Since(began); took < test.took || took > test.took+2*tick {
					t.Errorf("want an end after %v, got %v", test.took, took)
				}
				if !strings.Contains(errs.String(), test.says) || strings.Contains(errs.String(), "no host answered") {
					t.Errorf("want %q, got %s", test.says, errs.String())
				}
			})
		})
	}
}

// TestClientNamesTheSilent: a host that says nothing for three periods is named with the time, it may
// be heard again, and nobody who wants to leave waits for it.
func TestClientNamesTheSilent(t *testing.T) {
	const running = "a started 1;2s;a running 1;"
	for name, test := range map[string]struct {
		events string
		code   Outcome
		took   time.Duration
		says   string
	}{
		"it dies": {running, Failed, 60 * time.Second, "a eth0: nothing heard since {2s}; waiting for it for another 52s at most\n" +
			"a eth0: no result\n"},
		"it is heard again": {running + "7s;a done 1", Done, 9 * time.Second,
			"waiting for it for another 52s at most\na eth0: heard again\n"},
		"it dies twice": {running + "7s;a running 1", Failed, 60 * time.Second, "a eth0: heard again\n" +
			"a eth0: nothing heard since {9s}; waiting for it for another 45s at most\n"},
		"left when it is dead": {running + "7s;once", Failed, 9 * time.Second, "a eth0: no result"},
		"another one is not": {"a started 1;b started 2;2s;a running 1;4s;b running 2;1s;b running 2;1s;b running 2;1s;once;1s;b done 2",
			Failed, 10 * time.Second, "a eth0: no result"},
		"left before it is named": {running + "5s;once", Failed, 17 * time.Second, "a eth0: no result"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newFakeExchange(1 + strings.Count(test.events, "b started"))
				var errs bytes.Buffer
				c := newTestClient(e, jsonLines{io.Discard, &errs})
				c.spans.period = 2 * time.Second
				once, interrupt := context.WithCancel(t.Context())
				defer interrupt()
				began := time.Now()
				if err := c.ask(t.Context()); err != nil {
					t.Fatal(err)
				}
				go e.play(t, strings.Trim(test.events, ";"), map[string]func(){"once": interrupt})
				if code := c.wait(interruption{once, t.Context()}); code != test.code {
					t.Errorf("want outcome %d, got %d", test.code, code)
				}
				if took := time.Since(began); took < test.took || took > test.took+2*tick {
					t.Errorf("want an end after %v, got %v", test.took, took)
				}
				clock := func(d time.Duration) string { return began.Add(d).Format(time.TimeOnly) }
				says := strings.NewReplacer("{2s}", clock(2*time.Second), "{9s}", clock(9*time.Second)).Replace(test.says)
				if !strings.Contains(errs.String(), says) {
					t.Errorf("want %q, got %s", says, errs.String())
				}
			})
		})
	}
}

// TestClientHearsWhatWaits: a client that is late looks at what has come before it looks at the clock.
func TestClientHearsWhatWaits(t *testing.T) {
	exchange := newFakeExchange(1)
	f, _ := followed(t, 1, "eth0", "-1h a started 1")
	exchange.answer(t, "a done 1")
	var out bytes.Buffer
	c := newTestClient(exchange, jsonLines{&out, &out})
	c.session = f
	if c.hear(interruption{t.Context(), t.Context()}); states(t, out.String()) != "done" {
		t.Errorf("want the result that waits, got %q", out.String())
	}
}

// TestClientWasHeldUp: a client that was stopped for a while, or could not write, hears what has come meanwhile.
func TestClientWasHeldUp(t *testing.T) {
	for name, events := range map[string]string{
		"before any result": "1s;a started 1;b started 2;a done 1;b done 2",
		"before the last":   "10ms;a started 1;b started 2;1s;a done 1;b done 2",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newFakeExchange(2)
				var out bytes.Buffer
				c := newTestClient(e, &heldView{jsonLines: jsonLines{&out, io.Discard}, by: time.Hour})
				if err := c.ask(t.Context()); err != nil {
					t.Fatal(err)
				}
				e.answers = make(chan []byte) // as they come from a server
				go e.play(t, events, nil)
				if code := c.wait(interruption{t.Context(), t.Context()}); code != Done {
					t.Errorf("want outcome %d, got %d: %s", Done, code, out.String())
				}
			})
		})
	}
}

// A heldView is a view that is held up once.
type heldView struct {
	jsonLines
	by time.Duration
}

// draw implements view.
func (v *heldView) draw(*session, time.Time) {
	time.Sleep(v.by)
	v.by = 0
}

// interruptible returns what interrupts a client, and its two signals, which come at the end of the test at the latest.
func interruptible(t *testing.T) (in interruption, once, twice context.CancelFunc) {
	t.Helper()
	in.once, once = context.WithCancel(t.Context())
	in.twice, twice = context.WithCancel(t.Context())
	t.Cleanup(twice)
	t.Cleanup(once)
	return in, once, twice
}

// TestClientIsInterrupted: once, and the captures end; twice, and the client does.
func TestClientIsInterrupted(t *testing.T) {
	const stop = `{"by":"me@here","node":"any","stop":"r1"}`
	for name, test := range map[string]struct {
		events    string // results, waits, interruptions and outages of Redis, in turn
		published string
		code      Outcome
		took      time.Duration
		says      string
	}{
		"once": {"a started 1;1s;once;200ms;a done 1", stop, Done, 2 * time.Second, "asked the captures to stop"},
		"once, and one is silent": {"a started 1;b started 2;1s;once;b done 2", stop, Failed,
			11 * time.Second, "a eth0: no result\nwhat is returned can be fetched within 10 minutes"},
		"once, nobody has answered": {"1s;once", stop, Unanswered, 2 * time.Second, "no host answered"},
		"once, Redis is away": {"a started 1;4s;lost;once;9s;regained;200ms;a done 1", stop + "\n" + stop, Done,
			14 * time.Second, "stop not published: gone"},
		"twice": {"a started 1;1s;once;100ms;twice", stop, Failed, 1100 * time.Millisecond,
			"pcapdaemon -publish node=any stop=r1\nwhat is returned can be fetched within 10 minutes, " +
				"with the same flags, by: pcapdaemon -destdir '/my dir' -fetch r1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newFakeExchange(3)
				in, interrupt, leave := interruptible(t)
				var out, errs bytes.Buffer
				c := newTestClient(e, jsonLines{&out, &errs})
				c.request.returns, c.dir = true, "/my dir"
				if err := c.ask(t.Context()); err != nil {
					t.Fatal(err)
				}
				<-e.published
				acts := map[string]func(){"once": interrupt, "twice": leave,
					"lost":     func() { e.err = errors.New("gone"); e.changes <- e.err },
					"regained": func() { e.err = nil; e.changes <- nil }}
				go e.play(t, test.events, acts)
				began := time.Now()
				if code := c.wait(in); code != test.code {
					t.Errorf("want outcome %d, got %d", test.code, code)
				}
				if took := time.Since(began); took < test.took || took > test.took+2*tick {
					t.Errorf("want an end after %v, got %v", test.took, took)
				}
				close(e.published)
				var published []string
				for message := range e.published {
					published = append(published, message)
				}
				if got := strings.Join(published, "\n"); got != test.published {
					t.Errorf("want published\n%s\ngot\n%s", test.published, got)
				}
				if !strings.Contains(errs.String(), test.says) {
					t.Errorf("want %q, got %s", test.says, errs.String())
				}
			})
		})
	}
}

// TestLeaving: who leaves when its grace is over has done what it could, unless something is wrong; who leaves
// before has not.
func TestLeaving(t *testing.T) {
	for name, test := range map[string]struct {
		grace, failed bool
		code          Outcome
	}{
		"grace is over":        {true, false, Done},
		"packets are missing":  {true, true, Failed},
		"before the end":       {false, false, Failed},
		"before, and they are": {false, true, Failed},
	} {
		c := newTestClient(newFakeExchange(1), jsonLines{io.Discard, io.Discard})
		if c.failed = test.failed; test.grace {
			c.leaving = time.Now()
		}
		if code := c.leave(); code != test.code {
			t.Errorf("%s: want outcome %d, got %d", name, test.code, code)
		}
	}
}

// TestQuietClient: it says what is missing or wrong, and nothing else.
func TestQuietClient(t *testing.T) {
	for name, test := range map[string]struct{ events, says string }{
		"all goes well":           {"a started 1;1s;a done 1", ""},
		"asked to end":            {"a started 1;1s;once;200ms;a done 1", ""},
		"left":                    {"a started 1;1s;once;100ms;twice", ""},
		"left, and one is silent": {"a started 1;b started 2;1s;once;b done 2", "a eth0: no result\n"},
		"a stop that is lost":     {"a started 1;away;once;200ms;a done 1", "stop not published: gone\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newFakeExchange(3)
				in, interrupt, leave := interruptible(t)
				var out, errs bytes.Buffer
				c := newTestClient(e, jsonLines{&out, &errs})
				c.quiet = true
				if err := c.ask(t.Context()); err != nil {
					t.Fatal(err)
				}
				go e.play(t, test.events, map[string]func(){"once": interrupt, "twice": leave,
					"away": func() { e.err = errors.New("gone") }})
				c.wait(in)
				if got := errs.String(); got != test.says {
					t.Errorf("want %q, got %q", test.says, got)
				}
			})
		})
	}
}

// TestClientIsInterruptedByThePipeline: Ctrl-C reaches the reader of the packets as well, which may be gone
// first. A signal that comes later is one to leave.
func TestClientIsInterruptedByThePipeline(t *testing.T) {
	for after, code := range map[time.Duration]Outcome{sameMoment / 2: Done, 2 * sameMoment: Failed} {
		synctest.Test(t, func(t *testing.T) {
			e := newFakeExchange(1)
			once, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			c := newTestClient(e, jsonLines{io.Discard, io.Discard})
			if err := c.ask(t.Context()); err != nil {
				t.Fatal(err)
			}
			e.answer(t, "a started 1")
			c.take(t.Context(), <-e.answers)
			c.stop(t.Context()) // because the reader is gone
			time.AfterFunc(after, interrupt)
			time.AfterFunc(3*sameMoment, func() { e.answer(t, "a done 1") })
			if got := c.wait(interruption{once, t.Context()}); got != code {
				t.Errorf("%v: want outcome %d, got %d", after, code, got)
			}
		})
	}
}

// TestClientIsInterruptedWithoutCaptures: who has begun nothing has nothing to stop.
func TestClientIsInterruptedWithoutCaptures(t *testing.T) {
	e := newFakeExchange(1)
	once, interrupt := context.WithCancel(t.Context())
	interrupt()
	var out, errs bytes.Buffer
	c := newTestClient(e, jsonLines{&out, &errs})
	c.request.begins = false
	if err := c.ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := c.wait(interruption{once, t.Context()}); code != Failed {
		t.Errorf("want outcome %d, got %d", Failed, code)
	}
	if len(e.published) != 1 || strings.Contains(errs.String(), "stop") {
		t.Errorf("want no stop, got %d messages, %s", len(e.published), errs.String())
	}
}

// TestInterruption: both signals count, and after two there is no more to wait for.
func TestInterruption(t *testing.T) {
	for _, signals := range [][]syscall.Signal{{syscall.SIGINT, syscall.SIGTERM}, {syscall.SIGTERM, syscall.SIGINT}} {
		in, release := newInterruption([]os.Signal{syscall.SIGTERM, syscall.SIGINT})
		for n, ctx := range []context.Context{in.once, in.twice} {
			if ctx.Err() != nil {
				t.Errorf("interrupted by %d signals of %d", n, n+1)
			}
			if err := syscall.Kill(os.Getpid(), signals[n]); err != nil {
				t.Fatal(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
				t.Fatalf("not interrupted by %v", signals[n])
			}
		}
		release()
	}
}

// TestPrintingEnds: after a failure nothing more is printed, even if that were possible.
func TestPrintingEnds(t *testing.T) {
	reader, writer := io.Pipe()
	reader.CloseWithError(errors.New("full"))
	p := &printed{to: writer}
	_, _ = p.Write([]byte("a"))
	var said bytes.Buffer
	p.to = &said // there is room again
	if _, err := p.Write([]byte("b")); err == nil || said.Len() > 0 || !p.complain(&said, "-publish") {
		t.Errorf("want nothing more printed, and the first error said, got %v, %q", err, said.String())
	}
}

// TestPrintingFails: who cannot see the results is told so once, by the exit code too, whatever shows them.
func TestPrintingFails(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	r := testbed.StartRedis(t)
	server := &pubsub.Server{Addresses: []string{r.Address()}}
	o := Options{Server: server, Requests: "capture", Results: "capture-results", Judge: judgeJSON, Name: "-publish",
		Capture: time.Hour, Delivery: time.Minute, Dir: t.TempDir(), Ends: []os.Signal{syscall.SIGTERM}}
	for name, test := range map[string]struct {
		answers string
		ask     func(stderr io.Writer) Outcome
	}{
		"lines": {"a started 1;a done 1", func(stderr io.Writer) Outcome {
			return Ask(o, []byte(`{"node":"a","interface":"eth0"}`), full, stderr)
		}},
		"a roll call": {"a present", func(stderr io.Writer) Outcome {
			return Ask(o, []byte(`{"node":"a","rollcall":true}`), full, stderr)
		}},
		"how many listen": {"", func(stderr io.Writer) Outcome {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return Announce(ctx, o, []byte(`{"node":"a","interface":"eth0"}`), full, stderr)
		}},
		"what was left": {"", func(stderr io.Writer) Outcome {
			r.Do(t, "SET", "capture-results:r1:a:eth0", "abc")
			return Fetch(o, "r1", full, stderr)
		}},
	} {
		startHost(t, r, test.answers)
		var errs bytes.Buffer
		if code := test.ask(&errs); code != Failed || strings.Count(errs.String(), "no space left on device") != 1 {
			t.Errorf("%s: want outcome %d and one reason, got %d, %s", name, Failed, code, errs.String())
		}
	}
}

// TestServerErrorsArePlain: what a server says instead of an answer controls no terminal, whatever was asked.
func TestServerErrorsArePlain(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			fmt.Fprint(conn, "-ERR \x1b[2J\u009b\u202e\xff\r\n")
			defer conn.Close()
		}
	}()
	o := Options{Server: &pubsub.Server{Addresses: []string{listener.Addr().String()}}, Requests: "capture",
		Results: "capture-results", Judge: judgeJSON, Ends: []os.Signal{syscall.SIGTERM}}
	request := []byte(`{"node":"a","interface":"eth0"}`)
	for name, ask := range map[string]func(stderr io.Writer) Outcome{
		"asking": func(stderr io.Writer) Outcome { return Ask(o, request, io.Discard, stderr) },
		"announcing": func(stderr io.Writer) Outcome {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			return Announce(ctx, o, request, io.Discard, stderr)
		},
		"fetching": func(stderr io.Writer) Outcome { return Fetch(o, "r1", io.Discard, stderr) },
	} {
		var errs bytes.Buffer
		ask(&errs)
		if want := "ERR \\x1b[2J\\u009b\\u202e\ufffd\n"; !strings.HasSuffix(errs.String(), want) {
			t.Errorf("%s: want %q, got %q", name, want, errs.String())
		}
	}
}

// TestLinesArePlain: what hosts say controls no terminal that the lines end up on.
func TestLinesArePlain(t *testing.T) {
	var out bytes.Buffer
	jsonLines{&out, io.Discard}.heard([]byte("{ \"id\":\"a\u009b2J\x7f\xff\u202e\u2066\u2028\u00e9\"}"))
	jsonLines{&out, io.Discard}.fetched(result.Result{Node: "b\u009b2J\x7f\xff"}, "/x")
	if want := `"node":"b\u009b2J\u007f\ufffd"`; !strings.Contains(out.String(), want) {
		t.Errorf("want %s, got %q", want, out.String())
	}
	out.Truncate(strings.Index(out.String(), "\n") + 1)
	if want := `{"id":"a\u009b2J\u007f\ufffd\u202e\u2066\u2028\u00e9"}` + "\n"; strings.ReplaceAll(out.String(), "\u00e9", `\u00e9`) != want {
		t.Errorf("want %q, got %q", want, out.String())
	}
}

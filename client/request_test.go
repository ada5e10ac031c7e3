package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNewRequest: what is left open is filled in; what is not, stays.
func TestNewRequest(t *testing.T) {
	plain := asker{by: "me@here"}
	watching, fetching, both := plain, plain, plain
	watching.watches, fetching.fetches = true, true
	both.watches, both.fetches = true, true
	for name, test := range map[string]struct {
		text   string
		who    asker
		fields string // of the message
		id     string // empty: any
	}{
		"an id":             {`{"node":"a","interface":"lo"}`, plain, "by id interface node", ""},
		"an id of its own":  {`{"node":"a","interface":"lo","id":"x"}`, plain, "by id interface node", "x"},
		"an empty id":       {`{"node":"a","interface":"lo","id":""}`, plain, "by id interface node", ""},
		"progress, watched": {`{"node":"a","interface":"lo"}`, watching, "by id interface node progress", ""},
		"files":             {`{"node":"a","interface":"lo"}`, fetching, "by id interface node return", ""},
		"a stop has no id":  {`{"node":"a","stop":"x"}`, both, "by node stop", "x"},
		"a roll call":       {`{"node":"a","rollcall":true}`, both, "by id node rollcall", ""},
		"no roll call": {`{"node":"a","interface":"lo","rollcall":false}`, fetching,
			"by id interface node return rollcall", ""},
		"letters that are rare": {`{"node":"a","interface":"lo","bpf":"len < 5","id":"<&>"}`, plain,
			"bpf by id interface node", "<&>"},
	} {
		q, err := newRequest([]byte(test.text), judgeJSON, test.who)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var message map[string]any
		if err := json.Unmarshal(q.message, &message); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := strings.Join(slices.Sorted(maps.Keys(message)), " "); got != test.fields {
			t.Errorf("%s: want the fields %s, got %s", name, test.fields, got)
		}
		if test.id != "" && q.id != test.id || q.id == "" || message["stop"] == nil && message["id"] != q.id {
			t.Errorf("%s: want the id %q, got %q in %s", name, test.id, q.id, q.message)
		}
		if message["by"] != "me@here" || q.by != "me@here" {
			t.Errorf("%s: want who asks, got %s", name, q.message)
		}
		if strings.Contains(string(q.message), `\u00`) {
			t.Errorf("%s: want no escapes, got %s", name, q.message)
		}
	}
}

// TestNewRequestIsLeftAlone: a request that leaves nothing open is published word for word.
func TestNewRequestIsLeftAlone(t *testing.T) {
	const whole = `{"id":"x", "by":"you", "node":"a","interface":"lo","progress":0,"return":false}`
	q, err := newRequest([]byte(whole), judgeJSON, asker{by: "me@here", watches: true, fetches: true})
	if string(q.message) != whole || q.by != "you" || err != nil {
		t.Errorf("want %s untouched, got %s, %v", whole, q.message, err)
	}
}

// TestNewRequestIsJudgedWhole: what is filled in may be too much.
func TestNewRequestIsJudgedWhole(t *testing.T) {
	tooMuch := errors.New("too much")
	judge := func(message []byte) (Asked, error) {
		if strings.Contains(string(message), "me@here") {
			return Asked{}, tooMuch
		}
		return judgeJSON(message)
	}
	if _, err := newRequest([]byte(`{"node":"a","interface":"lo"}`), judge, asker{by: "me@here"}); !errors.Is(err, tooMuch) {
		t.Errorf("want it refused, got %v", err)
	}
}

// TestNewRequestStop: captures are ended as they were begun, by a message or by hand.
func TestNewRequestStop(t *testing.T) {
	for _, test := range []struct{ field, value, id, message, command string }{
		{"node", "any", "x", `{"by":"me@here","node":"any","stop":"x"}`, "node=any stop=x"},
		{"nodere", "^w$", "x", `{"by":"me@here","nodere":"^w$","stop":"x"}`, "'nodere=^w$' stop=x"},
		{"node", "a", "it's", `{"by":"me@here","node":"a","stop":"it's"}`, `node=a 'stop=it'\''s'`},
		{"node", "é", "x", `{"by":"me@here","node":"é","stop":"x"}`, "'node=é' stop=x"},
	} {
		text := fmt.Sprintf(`{"%s":"%s","interface":"lo","id":"%s"}`, test.field, test.value, test.id)
		q, err := newRequest([]byte(text), judgeJSON, asker{by: "me@here"})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(q.stop()); got != test.message {
			t.Errorf("%s: want %s, got %s", text, test.message, got)
		}
		if want, got := "pcapdaemon -publish "+test.command, q.stopByHand(); got != want {
			t.Errorf("%s: want %s, got %s", text, want, got)
		}
	}
}

// TestNewRequestReturns: who has files returned knows it, and how often hosts tell how far they are.
func TestNewRequestReturns(t *testing.T) {
	for _, test := range []struct {
		request  string
		who      asker
		returns  bool
		progress int64
	}{
		{`{"node":"a","interface":"lo"}`, asker{}, false, 0},
		{`{"node":"a","interface":"lo","return":true,"progress":5}`, asker{}, true, 5},
		{`{"node":"a","interface":"lo"}`, asker{watches: true, fetches: true}, true, 1},
		{`{"node":"a","interface":"lo","return":false,"progress":0}`, asker{watches: true, fetches: true}, false, 0},
		{`{"node":"a","stop":"x"}`, asker{watches: true, fetches: true}, false, 0},
		{`{"node":"a","interface":"lo","live":false}`, asker{fetches: true}, true, 0},
		{`{"node":"a","interface":"lo","live":true}`, asker{}, false, 0},
	} {
		q, err := newRequest([]byte(test.request), judgeJSON, test.who)
		if q.returns != test.returns || q.progress != test.progress || err != nil {
			t.Errorf("%s: want returned %v, every %d s, got %v, %d, %v", test.request, test.returns, test.progress,
				q.returns, q.progress, err)
		}
	}
}

// TestNewRequestFetchesNothingLive: files that nobody would write are not promised.
func TestNewRequestFetchesNothingLive(t *testing.T) {
	_, err := newRequest([]byte(`{"node":"a","interface":"lo","live":true}`), judgeJSON, asker{fetches: true})
	if err == nil || !strings.Contains(err.Error(), "live: ") {
		t.Errorf("want an error of live, got %v", err)
	}
}

// TestNewRequestExact: only a node that is not any names one host.
func TestNewRequestExact(t *testing.T) {
	for text, want := range map[string]bool{
		`{"node":"a","interface":"lo"}`:               true,
		`{"node":"any","interface":"lo"}`:             false,
		`{"nodere":"^a$","interface":"lo"}`:           false,
		`{"node":"","nodere":"^a$","interface":"lo"}`: false,
	} {
		q, err := newRequest([]byte(text), judgeJSON, asker{by: "me@here"})
		if got := q.exact(); got != want || err != nil {
			t.Errorf("%s: want exact %v, got %v, %v", text, want, got, err)
		}
	}
}

// TestNewRequestSpans: how long a capture may take comes from what was asked.
func TestNewRequestSpans(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		timeout               int64
		most                  time.Duration // the asker's -maxtimeout
		wantCapture, wantMost time.Duration
	}{
		{0, time.Hour, time.Hour, day},
		{0, 100 * time.Hour, 100 * time.Hour, 100 * time.Hour},
		{30, time.Hour, 30 * time.Second, 30 * time.Second},
		{7200, time.Hour, 2 * time.Hour, 2 * time.Hour},
		{1 << 60, time.Hour, 365 * day, 365 * day},
	} {
		o := Options{Capture: test.most, Delivery: 5 * time.Minute}
		got := request{asked: Asked{Timeout: test.timeout}, progress: 2}.spans(o)
		want := spans{test.wantCapture, test.wantMost, 5*time.Minute + 10*time.Second, 2 * time.Second}
		if got != want {
			t.Errorf("timeout %d: want %v, got %v", test.timeout, want, got)
		}
	}
}

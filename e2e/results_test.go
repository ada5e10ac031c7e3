package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// A result is what one who asked gets to see.
type result struct {
	ID, Node, Interface, State, Stop string
	Packets, Bytes                   int64 // 0 if they are not said
	Started, Ended, Since            time.Time
	File, URL, Error                 string
	Limits                           struct{ Delivery int64 } // seconds
	// said is everything in it by name; numbers are as they were written.
	said map[string]any
	text string
}

// parseResult reads a result; what is no JSON becomes the error of one.
func parseResult(message []byte) result {
	r := result{text: string(message)}
	err := json.Unmarshal(message, &r)
	if err == nil {
		numbers := json.NewDecoder(bytes.NewReader(message))
		numbers.UseNumber()
		err = numbers.Decode(&r.said)
	}
	if err != nil {
		r.Error = fmt.Sprintf("result is no JSON: %v: %s", err, message)
	}
	return r
}

// parseResults reads the lines that -request and -publish print.
func parseResults(output string) []result {
	var results []result
	for _, line := range testbed.ReadLines(output) {
		results = append(results, parseResult([]byte(line)))
	}
	return results
}

// states returns the states of results, in turn.
func states(results []result) string {
	var states []string
	for _, r := range results {
		states = append(states, r.State)
	}
	return strings.Join(states, " ")
}

// says is what a result should say by name. nil stands for a field that is
// missing, anything for one that is there, and about for a part of a text.
type says map[string]any

type (
	about    string
	anything struct{}
)

// check fails for every field that is not as it should be, and reports whether all are.
func (r result) check(t testing.TB, want says) (all bool) {
	t.Helper()
	all = true
	for field, want := range want {
		got, there := r.said[field]
		good := fmt.Sprint(want) == fmt.Sprint(got)
		switch want := want.(type) {
		case anything:
			good = there
		case about:
			good = strings.Contains(fmt.Sprint(got), string(want))
		}
		if !good {
			t.Errorf("%s: want %#v, got %#v in %s", field, want, got, r.text)
			all = false
		}
	}
	return all
}

// A listener hears the results.
type listener struct{ messages <-chan []byte }

// listen subscribes to the result channel.
func listen(t testing.TB, r *testbed.Redis) *listener {
	t.Helper()
	return listenAs(t, r, "", "")
}

// listenAs subscribes to the result channel as a user of the server.
func listenAs(t testing.TB, r *testbed.Redis, user, password string) *listener {
	t.Helper()
	return &listener{r.Hear(t, "capture-results", redis.DialUsername(user), redis.DialPassword(password))}
}

// next returns the next result.
func (l *listener) next(t testing.TB, within time.Duration) result {
	t.Helper()
	select {
	case message := <-l.messages:
		return parseResult(message)
	case <-time.After(within):
		t.Fatalf("no result within %v", within)
	}
	panic("unreachable")
}

// await returns the next result in one of the states, and skips others.
func (l *listener) await(t testing.TB, within time.Duration, states ...string) result {
	t.Helper()
	for deadline := time.Now().Add(within); ; {
		if r := l.next(t, time.Until(deadline)); slices.Contains(states, r.State) {
			return r
		}
	}
}

// final returns the next result that is the last one of its capture.
func (l *listener) final(t testing.TB, within time.Duration) result {
	t.Helper()
	return l.await(t, within, "done", "failed", "refused", "kept")
}

// quiet fails if any result comes within the time.
func (l *listener) quiet(t testing.TB, during time.Duration) {
	t.Helper()
	select {
	case message := <-l.messages:
		t.Fatalf("a result where none is due: %s", message)
	case <-time.After(during):
	}
}

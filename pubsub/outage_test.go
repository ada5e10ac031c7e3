package pubsub

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// TestOutageSaysEachCauseOnce: whatever stands around it, and in whatever order
// several servers say it.
func TestOutageSaysEachCauseOnce(t *testing.T) {
	refused, reset := errors.New("refused"), errors.New("reset")
	from := func(port int, err error) error { return fmt.Errorf("from port %d: %w", port, err) }
	var log testbed.Transcript
	o := outage{log: logTo(&log)}
	for _, err := range []error{
		from(1, refused), from(2, refused), from(3, reset), failures{from(1, refused), from(2, reset)},
		failures{from(3, reset), from(4, refused)}, from(5, redis.Error("NOPERM")), from(6, redis.Error("NOPERM")),
	} {
		o.say(err, "away")
	}
	want := []string{"from port 1: refused", "from port 3: reset", "from port 1: refused; from port 2: reset",
		"from port 5: NOPERM"}
	lines := testbed.ReadLines(log.String())
	if len(lines) != len(want) {
		t.Fatalf("want %d lines, got\n%s", len(want), log.String())
	}
	for n, line := range lines {
		if !strings.Contains(line, fmt.Sprintf("error=%q", want[n])) {
			t.Errorf("want %s, got %s", want[n], line)
		}
	}
	if n := strings.Count(log.String(), "level=error"); n != 1 {
		t.Errorf("want what a server refuses as an error, got\n%s", log.String())
	}
	if !o.over() || o.over() {
		t.Error("want an outage that is over once")
	}
	o.say(refused, "away")
	if n := len(testbed.ReadLines(log.String())); n != len(want)+1 {
		t.Errorf("want a line for the second outage, got\n%s", log.String())
	}
}

// TestReconnectDelayWithSentinels: when they have agreed, 3 s are left for waiting and for
// the attempt at the former master that is under way.
func TestReconnectDelayWithSentinels(t *testing.T) {
	delay := newReconnectDelay((&Server{Master: "m"}).longestDelay())
	for n := range 50 {
		if wait, most := delay.NextBackOff(), 3*time.Second-connectTimeout; wait > most {
			t.Errorf("attempt %d: want at most %v, got %v", n, most, wait)
		}
	}
}

func TestReconnectDelay(t *testing.T) {
	delay := newReconnectDelay(longDelay)
	for n := range 50 {
		least := 100 * time.Millisecond
		if n > 10 {
			least = 2 * time.Second
		}
		if wait, most := delay.NextBackOff(), 6*time.Second-freshTimeout-connectTimeout; wait < least || wait > most {
			t.Errorf("attempt %d: want %v to %v, got %v", n, least, most, wait)
		}
	}
}

package pubsub

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/gomodule/redigo/redis"
	"github.com/sirupsen/logrus"
)

// An outage remembers what has been logged about it: each cause is said once, and again if
// it means something else by then.
type outage struct {
	log    logrus.FieldLogger
	causes map[string]bool
}

// say logs a failure, unless this outage had one for the same cause before.
func (o *outage) say(err error, message string) {
	cause := message + ": " + causeOf(err)
	level := logrus.WarnLevel
	var refusal redis.Error
	switch {
	case o.causes[cause]:
		level = logrus.DebugLevel
	case errors.As(err, &refusal): // by the server; time alone does not mend that
		level = logrus.ErrorLevel
	}
	if o.causes == nil {
		o.causes = map[string]bool{}
	}
	o.causes[cause] = true
	o.log.WithError(err).Log(level, message)
}

// causeOf returns what is innermost in an error: addresses and ports differ
// from try to try. Which of several servers said what may differ, too.
func causeOf(err error) string {
	switch wrapped := err.(type) {
	case interface{ Unwrap() error }:
		if inner := wrapped.Unwrap(); inner != nil {
			return causeOf(inner)
		}
	case interface{ Unwrap() []error }:
		var causes []string
		for _, inner := range wrapped.Unwrap() {
			causes = append(causes, causeOf(inner))
		}
		slices.Sort(causes)
		return strings.Join(slices.Compact(causes), "; ")
	}
	return err.Error()
}

// over forgets the outage; it returns whether there was one.
func (o *outage) over() bool {
	had := len(o.causes) > 0
	o.causes = nil
	return had
}

const (
	// longDelay is short enough that waiting and connecting together stay below 6 s.
	longDelay = 3300 * time.Millisecond
	// movingDelay is for servers with sentinels: when they have agreed on another
	// master, it is reached within 3 s, the waiting for the old one included.
	movingDelay = time.Second
	// shortDelay is for those of whom there are few, and who would miss something.
	shortDelay = 500 * time.Millisecond
)

// newReconnectDelay returns the waits between attempts: 100 ms at first, and
// about the longest in the end.
func newReconnectDelay(longest time.Duration) *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{InitialInterval: 125 * time.Millisecond, RandomizationFactor: 0.2,
		Multiplier: 2, MaxInterval: longest}
}

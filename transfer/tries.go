package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"pcapdaemon/store"
	"pcapdaemon/text"
)

// Tries say how often one capture file is sent.
type Tries struct {
	Destination string        // its name, for the observer
	Timeout     time.Duration // for all of them, the waits between them included
	Single      bool          // whoever wants another try asks for it
	Observer    store.Observer
}

// Do calls try until it succeeds, its error is permanent, or the next wait would pass
// the time-out. Between tries it waits, longer each time and never equally long, or
// as long as the server asks for. It returns the newest error that is not just the
// end of the time.
func (t Tries) Do(ctx context.Context, r store.File, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	last := errors.New("no answer") // of the newest try that was not cut short
	once := func() (struct{}, error) {
		err := try(ctx)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return struct{}{}, err
	}
	options := []backoff.RetryOption{
		backoff.WithMaxElapsedTime(t.Timeout),
		backoff.WithNotify(func(err error, wait time.Duration) { t.Observer.Retried(t.Destination, r, err, wait) }),
	}
	if t.Single {
		options = append(options, backoff.WithMaxTries(1))
	}
	_, err := backoff.Retry(ctx, once, options...)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("given up after %s: %w", text.FormatDuration(t.Timeout), last)
	case ctx.Err() != nil:
		return fmt.Errorf("stopped: %w", last)
	}
	return last
}

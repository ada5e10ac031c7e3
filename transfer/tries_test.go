package transfer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/store"
)

// A deafObserver takes note of nothing.
type deafObserver struct{ store.Observer }

// Retried implements store.Observer.
func (deafObserver) Retried(string, store.File, error, time.Duration) {}

// TestTriesTellTheReason: the end of the time, or a stop, does not hide why no try has succeeded.
func TestTriesTellTheReason(t *testing.T) {
	for name, test := range map[string]struct {
		stop time.Duration
		want string
	}{
		"the time is over": {time.Hour, "given up after 1m: busy"},
		"a stop":           {20 * time.Second, "stopped: busy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, nil)
				defer cancel()
				time.AfterFunc(test.stop, cancel)
				tries := 0
				err := Tries{Timeout: time.Minute, Observer: deafObserver{}}.Do(ctx, store.File{}, func(ctx context.Context) error {
					if tries++; tries == 1 {
						return errors.New("busy")
					}
					<-ctx.Done()
					return ctx.Err()
				})
				if tries != 2 || err == nil || !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("want %q after 2 tries, got %v after %d", test.want, err, tries)
				}
			})
		})
	}
}

package pubsub

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/testbed"
)

func TestAnnounce(t *testing.T) {
	t.Parallel()
	good, hanging := testbed.StartRedis(t), testbed.StartRedis(t)
	heard, late := good.Hear(t, "capture"), hanging.Hear(t, "capture")
	hanging.Signal(t, syscall.SIGSTOP)
	dead := testbed.DeadAddress(t)
	tests := map[string]struct {
		addresses []string
		want      string // in the error; empty: it is published
	}{
		"one":                     {[]string{good.Address()}, ""},
		"behind one that is away": {[]string{dead, good.Address()}, ""},
		"behind one that hangs":   {[]string{hanging.Address(), good.Address()}, ""},
		"none":                    {[]string{dead}, "refused"},
		"hanging":                 {[]string{hanging.Address()}, "no answer in time"},
		"both":                    {[]string{hanging.Address(), dead}, "no answer in time; "},
	}
	t.Run("to", func(t *testing.T) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				const patience = 4 * time.Second // less than pings have
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				began := time.Now()
				listeners, err := (&Server{Addresses: test.addresses}).Announce(ctx, "capture", []byte(name))
				if took := time.Since(began); took > patience+5*time.Second {
					t.Errorf("took %v", took)
				}
				if test.want != "" {
					if err == nil || !strings.Contains(err.Error(), test.want) {
						t.Errorf("want an error with %q, got %v", test.want, err)
					}
					return
				}
				if err != nil || listeners != 1 {
					t.Fatalf("want one listener, got %d (%v)", listeners, err)
				}
				<-heard
			})
		}
	})
	hanging.Signal(t, syscall.SIGCONT)
	hanging.Publish(t, "awake")
	if got := next(t, late, 30*time.Second); got != "awake" {
		t.Errorf("want a server that hung to publish nothing when it wakes, got %s", got)
	}
	if _, err := (&Server{Addresses: []string{dead}}).Announce(t.Context(), "capture", nil); err == nil {
		t.Error("want a deadline asked for")
	}
}

// TestAnnounceShares: each of several addresses that stay silent has as much time as the others.
func TestAnnounceShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		tried := make(chan time.Duration, 3)
		server := &Server{Addresses: []string{"a:1", "b:1", "c:1"}}
		server.names.resolve = func(ctx context.Context, name string) ([]string, error) {
			tried <- time.Since(began)
			return answerAfter(time.Hour)(ctx, name)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		_, err := server.Announce(ctx, "capture", nil)
		if err == nil || err.Error() != "no answer in time" || time.Since(began) != 6*time.Second {
			t.Errorf("want no answer after 6s, got %v after %v", err, time.Since(began))
		}
		for _, want := range []time.Duration{0, 2 * time.Second, 4 * time.Second} {
			if got := <-tried; got != want {
				t.Errorf("want an address tried after %v, got %v", want, got)
			}
		}
		time.Sleep(lookupTimeout) // all questions are over
	})
}

// TestPart: somebody else may be asked with the other half of what is left.
func TestPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		for wait, want := range map[time.Duration]time.Duration{time.Second: time.Second, time.Minute: 2 * time.Second} {
			if got := part(ctx, wait); got != want {
				t.Errorf("want %v of %v, got %v", want, wait, got)
			}
		}
		if got := part(t.Context(), time.Minute); got != time.Minute {
			t.Errorf("want all of it without a deadline, got %v", got)
		}
	})
}

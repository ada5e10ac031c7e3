package pubsub

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

func TestAnnounce(t *testing.T) {
	t.Parallel()
	good, hanging := testbed.StartRedis(t), testbed.StartRedis(t)
	heard := good.Hear(t, "capture")
	hanging.Signal(t, syscall.SIGSTOP)
	dead := testbed.DeadAddress(t)
	for name, test := range map[string]struct {
		addresses []string
		want      string // in the error; empty: it is published
	}{
		"one":                     {[]string{good.Address()}, ""},
		"behind one that is away": {[]string{dead, good.Address()}, ""},
		"behind one that hangs":   {[]string{hanging.Address(), good.Address()}, ""},
		"none":                    {[]string{dead}, "refused"},
		"hanging":                 {[]string{hanging.Address()}, "no answer in time"},
		"both":                    {[]string{hanging.Address(), dead}, "no answer in time; "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const patience = 2 * time.Second
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			began := time.Now()
			listeners, err := (&Server{Addresses: test.addresses}).Announce(ctx, "capture", []byte(name))
			if took := time.Since(began); took > patience+time.Second {
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
	if _, err := (&Server{Addresses: []string{dead}}).Announce(t.Context(), "capture", nil); err == nil {
		t.Error("want a deadline asked for")
	}
}

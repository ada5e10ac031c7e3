package pubsub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// answerAfter returns a look-up that takes its time.
func answerAfter(delay time.Duration, addresses ...string) resolver {
	return func(ctx context.Context, name string) ([]string, error) {
		select {
		case <-time.After(delay):
			if addresses == nil {
				return nil, errors.New("no such host")
			}
			return addresses, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("look up %s: %w", name, ctx.Err())
		}
	}
}

func TestNamesAddresses(t *testing.T) {
	type step struct {
		resolve resolver
		want    string
		took    time.Duration
	}
	const none = "[]"
	dead, unknown := answerAfter(time.Hour), answerAfter(0)
	here, there := answerAfter(0, "192.0.2.1"), answerAfter(0, "192.0.2.2")
	slow := answerAfter(time.Second, "192.0.2.2")
	for name, steps := range map[string][]step{
		"first name server is dead":  {{answerAfter(9*time.Second, "192.0.2.1"), "[192.0.2.1]", 9 * time.Second}},
		"all name servers are dead":  {{dead, none, lookupTimeout}},
		"no such name":               {{unknown, none, 0}},
		"unknown, and asked again":   {{dead, none, lookupTimeout}, {here, "[192.0.2.1]", 0}},
		"known, name server is dead": {{here, "[192.0.2.1]", 0}, {dead, "[192.0.2.1]", freshTimeout}},
		"known, and gone":            {{here, "[192.0.2.1]", 0}, {unknown, "[192.0.2.1]", 0}},
		"known, and moved":           {{here, "[192.0.2.1]", 0}, {there, "[192.0.2.2]", 0}},
		"known, and slowly moved": {{here, "[192.0.2.1]", 0}, {slow, "[192.0.2.1]", freshTimeout},
			{dead, "[192.0.2.2]", freshTimeout}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n names
				for i, step := range steps {
					n.resolve = step.resolve
					began := time.Now()
					got, err := n.addresses(t.Context(), "redis.example")
					if took := time.Since(began); fmt.Sprint(got) != step.want || took != step.took {
						t.Errorf("step %d: want %s after %v, got %v, %v after %v", i, step.want, step.took, got, err, took)
					}
					if (err != nil) != (step.want == none) {
						t.Errorf("step %d: want %s, got error %v", i, step.want, err)
					}
					time.Sleep(lookupTimeout) // all questions are over
				}
			})
		})
	}
}

// TestNamesAskOnce: who asks while a question is open gets its answer.
func TestNamesAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		n := names{resolve: func(ctx context.Context, name string) ([]string, error) {
			asked.Add(1)
			return answerAfter(time.Second, "192.0.2.1")(ctx, name)
		}}
		for range 10 {
			go n.addresses(t.Context(), "redis.example")
		}
		synctest.Wait()
		if got, err := n.addresses(t.Context(), "redis.example"); err != nil || asked.Load() != 1 {
			t.Errorf("want one question, got %d, %v, %v", asked.Load(), got, err)
		}
	})
}

func TestNamesOfAddresses(t *testing.T) {
	n := names{resolve: answerAfter(0)}
	for _, address := range []string{"192.0.2.1", "2001:db8::1", "fe80::1%eth0"} {
		if got, err := n.addresses(t.Context(), address); err != nil || !slices.Equal(got, []string{address}) {
			t.Errorf("want %s as it is, got %v, %v", address, got, err)
		}
	}
}

// TestNamesEnd: who does not want to wait any more does not.
func TestNamesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := names{resolve: answerAfter(time.Hour)}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := n.addresses(ctx, "redis.example"); err == nil || time.Since(began) != time.Second {
			t.Errorf("want an error after a second, got %v after %v", err, time.Since(began))
		}
		time.Sleep(lookupTimeout)
	})
}

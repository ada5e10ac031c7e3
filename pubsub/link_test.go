package pubsub

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"

	"pcapdaemon/testbed"
)

// TestLinkIsNotUsedAfterItsEnd: a context that ends while work succeeds has closed the connection.
func TestLinkIsNotUsedAfterItsEnd(t *testing.T) {
	t.Parallel()
	l := reach(testbed.StartRedis(t)).newLink(t.Context())
	defer l.close()
	ctx, cancel := context.WithCancel(t.Context())
	if err := l.do(ctx, func(redis.Conn, bool) error { cancel(); return nil }); err != nil {
		t.Fatal(err)
	}
	err := l.do(t.Context(), func(_ redis.Conn, isNew bool) error {
		if !isNew {
			t.Error("want a new connection")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestLinkStopsConnecting: with its context, also to a server that accepts and says nothing.
func TestLinkStopsConnecting(t *testing.T) {
	t.Parallel()
	server := &Server{Addresses: []string{unreachable(t)["no answer"]}, Password: "x"}
	l := server.newLink(t.Context())
	defer l.close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	err := l.do(ctx, func(redis.Conn, bool) error { return nil })
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > pingPeriod/2 {
		t.Errorf("want the end of the time, got %v after %v", err, took)
	}
}

// TestLinkIsSentInCircles: nodes of a cluster that send on to each other are not followed for ever.
func TestLinkIsSentInCircles(t *testing.T) {
	t.Parallel()
	l := reach(testbed.StartRedis(t)).newLink(t.Context())
	defer l.close()
	moved, tries := redis.Error("MOVED 1 "+l.server.Addresses[0]), 0
	err := l.do(t.Context(), func(redis.Conn, bool) error {
		if tries++; tries > 10*maxHops {
			return nil
		}
		return moved
	})
	if !errors.Is(err, moved) || tries != maxHops+1 {
		t.Errorf("want %v after %d tries, got %v after %d", moved, maxHops+1, err, tries)
	}
}

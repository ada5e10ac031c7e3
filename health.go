package main

import (
	"errors"
	"fmt"
	"sync"
)

// errNotConnected is the health of a daemon that has just started.
var errNotConnected = errors.New("not connected yet")

// A health says whether requests can be received and results be published,
// and if not, why.
type health struct {
	changed chan struct{} // holds a token when something may have changed; of capacity one

	mu                sync.Mutex
	requests, results error
}

// newHealth returns the health of a daemon that has just started.
func newHealth() *health { return &health{changed: make(chan struct{}, 1), requests: errNotConnected} }

// setRequests notes why no requests come, or nil.
func (h *health) setRequests(err error) { h.set(&h.requests, err) }

// setResults notes why no results can be published, or nil.
func (h *health) setResults(err error) { h.set(&h.results, err) }

// set changes one of the two.
func (h *health) set(part *error, err error) {
	h.mu.Lock()
	*part = err
	h.mu.Unlock()
	h.notify()
}

// notify says that something has changed. It never blocks.
func (h *health) notify() {
	select {
	case h.changed <- struct{}{}:
	default: // nobody has looked since the last time
	}
}

// trouble returns what is wrong, or nil.
func (h *health) trouble() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.requests != nil:
		return fmt.Errorf("not subscribed: %w", h.requests)
	case h.results != nil:
		return fmt.Errorf("results are not published: %w", h.results)
	}
	return nil
}

// subscribed tells whether requests come.
func (h *health) subscribed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests == nil
}

package status

import (
	"errors"
	"fmt"
	"sync"
)

// errNotConnected is the health of a daemon that has just started.
var errNotConnected = errors.New("not connected yet")

// A Health says whether requests can be received, results be published and
// packets be captured, and if not, why. Its methods may be called at any time, from any
// goroutine, and never block.
type Health struct {
	Changed chan struct{} // holds a token when something may have changed; of capacity one

	mu                         sync.Mutex
	requests, results, capture error
}

// NewHealth returns the health of a daemon that has just started: no requests come yet, and
// nothing else is known to be wrong.
func NewHealth() *Health { return &Health{Changed: make(chan struct{}, 1), requests: errNotConnected} }

// SetRequests notes why no requests come, or nil.
func (h *Health) SetRequests(err error) { h.set(&h.requests, err) }

// SetResults notes why no results can be published, or nil.
func (h *Health) SetResults(err error) { h.set(&h.results, err) }

// SetCapture notes why nothing can be captured, or nil.
func (h *Health) SetCapture(err error) { h.set(&h.capture, err) }

// set changes one of the three.
func (h *Health) set(part *error, err error) {
	h.mu.Lock()
	*part = err
	h.mu.Unlock()
	h.Notify()
}

// Notify puts a token into Changed, unless one is there already. It may also be called for changes
// that Health does not know of.
func (h *Health) Notify() {
	select {
	case h.Changed <- struct{}{}:
	default: // nobody has looked since the last time
	}
}

// Trouble returns what is wrong, or nil: no requests, else no results, else no captures. Its text is
// what /healthz and the page say.
func (h *Health) Trouble() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.requests != nil:
		return fmt.Errorf("not subscribed: %w", h.requests)
	case h.results != nil:
		return fmt.Errorf("results are not published: %w", h.results)
	case h.capture != nil:
		return fmt.Errorf("nothing can be captured: %w", h.capture)
	}
	return nil
}

// Capture returns why nothing can be captured, or nil.
func (h *Health) Capture() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.capture
}

// Publishing reports whether results can be published, or nobody wants any.
func (h *Health) Publishing() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.results == nil
}

// Subscribed reports whether requests come.
func (h *Health) Subscribed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.requests == nil
}

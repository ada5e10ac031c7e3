package main

import (
	"context"
	"fmt"
	"pcapdaemon/tap"
	"sync"
	"sync/atomic"

	"github.com/sirupsen/logrus"
)

// jobs are the captures that run now, and what all of them have in common.
type jobs struct {
	node     string
	limits   limits
	capacity capacity
	pool     *pool
	open     func(tap.Options) (source, error) // a test stands in for the system here
	delivery *delivery
	results  outlet
	metrics  *metrics
	log      logrus.FieldLogger
	changed  bell // rung when a capture starts or ends

	mu      sync.Mutex
	running int
	failed  atomic.Int64   // captures that ended as failed
	refused atomic.Int64   // requests
	working sync.WaitGroup // captures, deliveries, closing handles
}

// A bell tells one goroutine that something has changed; ringing it again
// before that one has looked changes nothing.
type bell chan struct{}

// newBell returns a bell that is silent.
func newBell() bell { return make(bell, 1) }

// ring never blocks.
func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// A lifetime says how long captures may go on: they record until the first
// context ends, and are delivered until the second one does.
type lifetime struct{ recording, delivering context.Context }

// admit starts a capture if there is room for it now: late, it would miss what it is for.
func (s *jobs) admit(life lifetime, j *job) error {
	if err := s.limits.allow(j.iface); err != nil {
		return err
	}
	if err := s.reserve(j); err != nil {
		return err
	}
	s.changed.ring()
	s.working.Go(func() { s.run(life, j) })
	return nil
}

// reserve takes a slot and the first memory of a capture.
func (s *jobs) reserve(j *job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(s.running) == s.capacity.captures {
		return fmt.Errorf("-maxcaptures %d are running already", s.capacity.captures)
	}
	if j.buffer = newBuffer(s.pool); j.buffer == nil {
		return fmt.Errorf("-maxmemory %s is in use already", formatSize(s.capacity.memory))
	}
	s.running++
	return nil
}

// release frees the slot of a capture.
func (s *jobs) release() {
	s.mu.Lock()
	s.running--
	s.mu.Unlock()
	s.changed.ring()
}

// count returns how many captures run.
func (s *jobs) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

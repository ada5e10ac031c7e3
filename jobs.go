package main

import (
	"context"
	"fmt"
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
	prepare  preparer // a test stands in for the system here
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

// A wanted source is what a request asks for.
type wanted struct {
	iface  string
	filter string // pcap-filter(7)
	snap   int    // bytes
	buffer int    // of the kernel, in bytes
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
type lifetime struct {
	recording, delivering context.Context
	stopping              <-chan struct{} // closed when the daemon is to stop
}

// A preparer judges what can be judged before a slot is taken: whether the
// interface is there and the filter compiles. That may take seconds.
type preparer func(context.Context, wanted) (opener, error)

// An opener opens what has been prepared.
type opener func() (source, error)

// start begins a capture and does not wait for it.
func (s *jobs) start(life lifetime, j *job) error {
	if err := s.limits.allow(j.iface); err != nil {
		return err
	}
	s.working.Go(func() { s.run(life, j) })
	return nil
}

// admit takes a slot and the first memory for a capture, if there is room for
// it now: late, it would miss what it is for.
func (s *jobs) admit(j *job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(s.running) == s.capacity.captures {
		return fmt.Errorf("-maxcaptures %d are running already", s.capacity.captures)
	}
	if j.buffer = newBuffer(s.pool); j.buffer == nil {
		return fmt.Errorf("-maxmemory %s is in use already", formatSize(s.capacity.memory))
	}
	s.running++
	s.changed.ring()
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

package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A deadline is the moment at which a capture ends, and why. It is moved
// forward when the context of the capture ends before its time, and with the
// clock when that is set: packets bear the clock's time, but a capture lasts as
// long as it is meant to.
type deadline struct {
	// at is the end for packets, as Unix time in nanoseconds. The loop reads it
	// for every packet, in Go and in C.
	at    atomic.Int64
	began time.Time
	clock func() time.Time // a test sets it

	mu      sync.Mutex
	stop    string
	lasts   time.Duration // whatever the clock says
	moment  time.Time     // the end, as the clock says
	set     time.Duration // by how much the clock was set
	overdue *time.Timer
}

// newDeadline returns the deadline of a capture that lasts for a timeout.
func newDeadline(start time.Time, timeout time.Duration) *deadline {
	e := &deadline{began: time.Now(), clock: time.Now, stop: stopTimeout, lasts: timeout, moment: start.Add(timeout)}
	e.at.Store(e.moment.UnixNano())
	return e
}

// watch sees to it that the end comes, whatever the packets' clock says, until
// the returned function is called.
func (e *deadline) watch() (end func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	due := time.AfterFunc(e.lasts, e.follow) // the clock may have been set back
	e.overdue = time.AfterFunc(e.lasts+overrun, func() { e.at.Store(0) })
	return func() {
		due.Stop()
		e.overdue.Stop()
	}
}

// bringForward makes now the end, for a reason, unless it has passed.
func (e *deadline) bringForward(stop string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	lasted := time.Since(e.began)
	if e.stop != stopTimeout || lasted >= e.lasts {
		return
	}
	e.adjust() // or the moment would be moved again
	e.stop, e.lasts, e.moment = stop, lasted, e.clock()
	e.at.Store(e.moment.UnixNano())
	e.overdue.Reset(overrun)
}

// follow moves the end with the clock.
func (e *deadline) follow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.adjust()
}

// adjust moves the end by as much as the clock was set since it was last looked at. The caller holds the lock.
func (e *deadline) adjust() {
	set := e.clock().Round(0).Sub(e.began.Round(0)) - time.Since(e.began)
	if by := set - e.set; by.Abs() > clockTolerance {
		e.set, e.moment = set, e.moment.Add(by)
		e.at.Add(int64(by))
	}
}

// excludes reports whether a packet with this time stamp comes too late for the capture.
func (e *deadline) excludes(stamp time.Time) bool {
	if stamp.UnixNano() < e.at.Load() {
		return false
	}
	e.follow()
	return stamp.UnixNano() >= e.at.Load()
}

// passed reports whether no packet from before the end is to be expected any more.
func (e *deadline) passed() bool { return e.clock().UnixNano() >= e.at.Load()+int64(tail) }

// reached returns why and when the capture ended.
func (e *deadline) reached() (stop string, moment time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stop, e.moment
}

// note says by how much the clock was set; empty: it was not.
func (e *deadline) note() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.set == 0 {
		return ""
	}
	return fmt.Sprintf("the clock was set by %+.0f s", e.set.Seconds())
}

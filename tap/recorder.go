package tap

// #include "recorder.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	// recorderRetry is the time between two attempts to open an interface.
	recorderRetry = time.Second
	// recorderPause is the time between two attempts to read from an interface that fails.
	recorderPause = 10 * time.Millisecond
	// keptAbsences is how many absences of its interface a recorder remembers.
	keptAbsences = 1000
)

// A Recorder captures on one interface all the time and remembers the latest
// packets in memory that it has from the start. What it remembers outlives the
// interface. Readers hand it out.
type Recorder struct {
	options  Options
	ring     *ring
	compiler *Compiler

	mu       sync.Mutex
	link     int           // link type of what is in the ring; -1: nothing was recorded yet
	netmask  C.bpf_u_int32 // of the interface
	began    time.Time     // of the recording with this link type
	session  int           // counts how often the interface was opened
	up       bool
	err      error     // why it is not up
	gone     time.Time // since when it is not up
	cause    error     // why the latest session ended
	absences []absence
}

// An absence is a time in which an interface could not be recorded.
type absence struct{ from, to time.Time }

// A RecorderStatus says how a recorder is.
type RecorderStatus struct {
	Up      bool
	Err     error     // why it is not up
	Link    int       // DLT of what is held; -1: nothing was recorded yet
	Packets int64     // that came so far
	Dropped int64     // by the kernel so far
	Bytes   int64     // that are held
	Oldest  time.Time // stamp of the oldest packet; zero: none is held
	Whole   time.Time // since when nothing is missing but what was dropped; zero: nothing was recorded yet
}

// NewRecorder returns a recorder that remembers as much as fits into so many
// bytes. They are taken at once. It records while Run runs. The compiler is asked
// for the policy that all packets have to pass; nil: options have the filter.
func NewRecorder(options Options, size int64, compiler *Compiler) (*Recorder, error) {
	ring, err := newRing(size)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", options.Interface, err)
	}
	return &Recorder{options: options, ring: ring, compiler: compiler, link: -1, err: errors.New("not opened yet")}, nil
}

// Run records until the context ends. An interface that cannot be opened or
// disappears is tried again every second. Every change is told: nil when
// recording begins, else why it does not go on.
func (r *Recorder) Run(ctx context.Context, changed func(error)) {
	var stop atomic.Int64
	defer context.AfterFunc(ctx, func() { stop.Store(1) })()
	for told := false; ctx.Err() == nil; {
		err := r.recordOnce(ctx, &stop, func() {
			told = false
			changed(nil)
		})
		if err == nil {
			return
		}
		r.fail(err)
		if !told {
			changed(err)
			told = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(recorderRetry):
		}
	}
}

// recordOnce opens the interface and records until it is stopped, which is no
// error, or the interface fails.
func (r *Recorder) recordOnce(ctx context.Context, stop *atomic.Int64, opened func()) error {
	options := r.options
	if r.compiler != nil {
		var err error
		if options.Filter, err = r.compiler.Compile(ctx, options.Interface, options.Snap, ""); err != nil {
			return err
		}
	}
	live, err := Open(options)
	if err != nil {
		return err
	}
	defer live.Close()
	if C.pcap_get_tstamp_precision(live.copying.handle) != C.PCAP_TSTAMP_PRECISION_NANO {
		return fmt.Errorf("open %s: no stamps in nanoseconds", r.options.Interface)
	}
	r.begin(live)
	opened()
	broken := time.Now()
	for packets := int64(-1); ; time.Sleep(recorderPause) {
		called := time.Now()
		if C.record_packets(live.copying.handle, r.ring.c, C.int(ReadTimeout.Milliseconds()),
			(*C.int64_t)(unsafe.Pointer(stop))) {
			return nil
		}
		now := r.ring.holding().packets
		if now != packets || time.Since(called) > ReadTimeout { // it was not broken, or what was left is still read
			packets, broken = now, time.Now()
		}
		if time.Since(broken) > 2*ReadTimeout {
			return errors.New(C.GoString(C.pcap_geterr(live.copying.handle)))
		}
	}
}

// begin notes that the interface is open.
func (r *Recorder) begin(live *Live) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if link := int(C.pcap_datalink(live.copying.handle)); link != r.link {
		r.ring.clear(link)
		r.link, r.began, r.absences = link, now, nil
	} else {
		r.absences = append(r.absences[max(0, len(r.absences)-keptAbsences+1):], absence{r.gone, now})
	}
	r.netmask = netmask(r.options.Interface)
	r.session++
	r.up, r.err = true, nil
}

// fail notes that the interface is not open.
func (r *Recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up {
		r.gone, r.cause = time.Now(), err
	}
	r.up, r.err = false, err
}

// Up tells whether the recorder is recording.
func (r *Recorder) Up() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up
}

// Status tells how the recorder is. It looks at every chunk of the ring.
func (r *Recorder) Status() RecorderStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.ring.holding()
	return RecorderStatus{Up: r.up, Err: r.err, Link: r.link, Packets: held.packets, Dropped: held.lost,
		Bytes: held.bytes, Oldest: held.oldest, Whole: r.whole(held)}
}

// whole returns from when on nothing was forgotten.
func (r *Recorder) whole(held holding) time.Time {
	if held.whole {
		return r.began
	}
	return held.oldest
}

// missing returns the absences since a time.
func (r *Recorder) missing(since time.Time) []absence {
	for i, a := range r.absences {
		if a.to.After(since) {
			return append([]absence(nil), r.absences[i:]...)
		}
	}
	return nil
}

// over returns why a session has ended, or nil while it goes on, and whether
// there was another one since.
func (r *Recorder) over(session int) (again bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up && r.session == session {
		return false, nil
	}
	return r.session != session, r.cause
}

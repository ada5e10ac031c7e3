package tap

// #include <stdlib.h>
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

	"golang.org/x/sys/unix"
)

const (
	// recorderRetry is the time between two attempts to open an interface.
	recorderRetry = time.Second
	// keptAbsences is how many absences of its interface a recorder remembers.
	keptAbsences = 1000
)

// A Recorder captures on one interface all the time and remembers the latest
// packets: three quarters of its memory are the kernel's ring of a packet socket,
// in which they stay where the kernel has put them; the rest is a compact ring, to
// which they are copied while they come slowly, so that a quiet link keeps hours.
// What it remembers outlives the interface. Readers hand it out.
type Recorder struct {
	options  Options
	geometry C.geometry
	compiler *Compiler
	made     time.Time

	mu       sync.Mutex
	ring     *ring       // nil: there is none yet
	socket   *ringSocket // of that
	link     int         // link type of what is in the ring; -1: nothing was recorded yet
	code     program     // that the kernel judges packets by
	index    int         // of the interface
	netmask  C.bpf_u_int32
	began    time.Time // of the recording with this link type
	session  int       // counts how often the interface was opened
	up       bool
	resumed  bool      // the socket is as another process has left it
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
	Bytes   int64     // that the records of a file of all that is held would take, within a hundredth
	Oldest  time.Time // stamp of the oldest packet; zero: none is held
	Whole   time.Time // since when nothing is missing but what was dropped; zero: nothing was recorded yet
}

// NewRecorder returns a recorder that remembers as much as fits into so many
// bytes, at least MinRecorder. Run takes them when it begins. Of the options,
// BufferSize and Nanos do not count: the kernel has the whole ring as its buffer.
// The compiler is asked for the policy that all packets have to pass; nil:
// options have the filter, which was compiled for their snapshot length.
func NewRecorder(options Options, size int64, compiler *Compiler) (*Recorder, error) {
	if size < MinRecorder {
		return nil, fmt.Errorf("record %s: %d bytes are too few, it needs %d", options.Interface, size, MinRecorder)
	}
	return &Recorder{options: options, geometry: geometryOf(size), compiler: compiler, made: time.Now(), link: -1,
		err: errors.New("not opened yet")}, nil
}

// Run records until the context ends. An interface that cannot be opened or
// disappears is tried again every second. Run calls changed from this goroutine:
// with nil when recording begins, else with why it does not go on. Run may be
// called once.
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
	index, err := interfaceIndex(r.options.Interface)
	if err != nil {
		if r.ring == nil {
			_ = r.takeMemory(false) // while there is some; that there is none is said when the interface is there
		}
		return err
	}
	link, code, err := r.examine(ctx)
	if err != nil {
		return err
	}
	if err := r.open(index, link, code); err != nil {
		return fmt.Errorf("open %s: %w", r.options.Interface, err)
	}
	opened()
	switch r.record(stop) {
	case C.record_vanished:
		return errors.New("the interface disappeared")
	case C.record_renamed:
		return fmt.Errorf("the interface disappeared: another one, or none, is called %s now", r.options.Interface)
	case C.record_broken:
		r.discard()
		return errors.New("the kernel's ring is not as expected")
	}
	return nil
}

// examine returns what link type the interface has, and what the kernel is to
// judge its packets by.
func (r *Recorder) examine(ctx context.Context) (link int, code program, err error) {
	filter := r.options.Filter
	if r.compiler != nil {
		if filter, err = r.compiler.Compile(ctx, r.options.Interface, r.options.Snap, ""); err != nil {
			return 0, nil, err
		}
	}
	if link, err = recordedLink(r.options.Interface, r.options.Snap); err != nil {
		return 0, nil, fmt.Errorf("open %s: %w", r.options.Interface, err)
	}
	if filter != nil {
		if int(filter.link) != link {
			return 0, nil, fmt.Errorf("bpf: filter %q: it is for link type %d, the interface has %d",
				filter.expression, filter.link, link)
		}
		code = filter.code
	}
	code, err = recordingProgram(code, C.int(link), r.options.Snap)
	if err != nil {
		return 0, nil, fmt.Errorf("bpf: filter %q: %w", filter.expression, err)
	}
	return link, code, nil
}

// open begins to record an interface: in the ring that there is if its packets
// go with those that are there.
func (r *Recorder) open(index, link int, code program) error {
	cooked := shapeOf(link).cooked > 0
	if r.ring == nil || r.socket.cooked != cooked || r.link >= 0 && r.link != link {
		if err := r.takeMemory(cooked); err != nil {
			return err
		}
	}
	unbroken := r.resumed && r.index == index && r.socket.bound() == index
	if !unbroken { // it may still be bound to another interface, which had the name before
		if err := r.socket.silence(); err != nil {
			return err
		}
		if err := r.socket.bind(index); err != nil {
			return err
		}
	}
	if err := r.socket.attach(code); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	switch {
	case r.link < 0:
		r.link, r.began = link, now
	case !unbroken:
		r.absences = append(r.absences[max(0, len(r.absences)-keptAbsences+1):], absence{r.gone, now})
	}
	r.code, r.index = code, index
	r.netmask = netmask(r.options.Interface) // for filters that are compiled when it is away
	r.session++
	r.up, r.err, r.resumed = true, nil, false
	r.save()
	return nil
}

// takeMemory makes an empty ring, of a socket with or without link header.
func (r *Recorder) takeMemory(cooked bool) error {
	r.discard()
	socket, blocks, err := openRingSocket(r.geometry, cooked)
	if err != nil {
		return err
	}
	ring, err := newRing(r.geometry, blocks)
	if err != nil {
		socket.close()
		_ = unix.Munmap(blocks)
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring, r.socket = ring, socket
	return nil
}

// discard forgets everything. Readers keep what they read.
func (r *Recorder) discard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ring == nil {
		return
	}
	r.socket.close()
	r.ring.file.Close()
	r.ring, r.socket, r.link, r.absences, r.resumed = nil, nil, -1, nil, false
}

// record records until it is stopped or the interface fails, and returns why.
func (r *Recorder) record(stop *atomic.Int64) C.int {
	to := C.recording{ring: r.ring.c, descriptor: C.int(r.socket.fd()), timeout: C.int(ReadTimeout.Milliseconds()),
		_interface: C.int(r.index)}
	if name := r.options.Interface; name != AnyInterface && len(name) < len(to.name) {
		for i := range len(name) {
			to.name[i] = C.char(name[i])
		}
	}
	why := C.record_packets(&to, (*C.int64_t)(unsafe.Pointer(stop)))
	if why == C.record_renamed { // the socket is bound to it still
		_ = r.socket.silence()
		why = C.record_rest(&to, why)
	}
	return why
}

// fail notes that the interface is not open.
func (r *Recorder) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.up {
		r.gone, r.cause = time.Now(), err
	}
	r.up, r.err = false, err
	r.save()
}

// Up reports whether the recorder is recording.
func (r *Recorder) Up() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.up
}

// Status reports how the recorder is. It looks at every chunk of the ring.
func (r *Recorder) Status() RecorderStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := RecorderStatus{Up: r.up, Err: r.err, Link: r.link}
	if r.link < 0 {
		return status
	}
	held := r.ring.holding()
	status.Packets, status.Dropped, status.Bytes = held.packets, held.lost, held.bytes
	status.Oldest, status.Whole = held.oldest, r.whole(held)
	return status
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

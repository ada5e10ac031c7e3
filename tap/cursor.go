package tap

// #include "ring.h"
//
// enum { most_chunks = 32 }; // at a time: others want to read, too
//
// // copy_with copies with a filter and an end that are Go's: their addresses
// // must not be stored in Go's memory.
// static int copy_with(cursor *at, const ring *r, copy_request *q, const struct bpf_insn *filter,
//		     const int64_t *end, uint8_t *room)
// {
//	copy_request asked = *q;
//	asked.filter = filter;
//	asked.end = end;
//	int why = copied_chunk;
//	for (int chunks = 0; why == copied_chunk && chunks < most_chunks; chunks++)
//		why = copy_records(at, r, &asked, room);
//	q->packets = asked.packets;
//	q->bytes = asked.bytes;
//	q->file = asked.file;
//	return why;
// }
import "C"

import (
	"math"
	"sync/atomic"
	"time"
	"unsafe"
)

// A cursor is a place in a ring from which one goroutine reads on.
type cursor struct {
	ring   *ring
	at     C.cursor
	asked  C.copy_request
	layout Layout // of the file
	limit  int64  // bytes that what is taken next may take in it
}

// A want says what is to be copied, and how.
type want struct {
	filter program // nil: everything
	snap   int     // bytes of a packet
	micros bool    // stamps in microseconds, not nanoseconds
	beyond bool    // what is past the end is wanted too
	link   int     // DLT
	// counted is set if the length of a packet includes the header that libpcap
	// puts before it.
	counted bool
}

// Why a cursor stopped.
type halt int

const (
	haltEmpty halt = C.copied_everything // it has seen everything that is there
	haltFull  halt = C.copied_full       // the next packet does not fit, or is one too many
	haltEnd   halt = C.copied_end        // the next packet is not older than the end
)

// newCursor returns a cursor for packets from a time on. Of those that are
// there already, none is wanted unless the past is.
func (r *ring) newCursor(from time.Time, past bool) *cursor {
	c := &cursor{ring: r, layout: RecordLayout(), limit: math.MaxInt64}
	c.at.live = C.int64_t(from.UnixNano())
	c.at.from = c.at.live
	if !past {
		c.at.from = math.MaxInt64
	}
	C.cursor_begin(&c.at, r.c, C.bool(past))
	c.at.until = C.int64_t(time.Now().UnixNano()) // later than all of the past, unless the clock was set back
	// Pass over what is not wanted: then what is overwritten from here on was wanted.
	c.take(&want{}, nil, 0, &atomic.Int64{})
	c.at.overwritten = 0
	return c
}

// cut leaves out what is past and not older than a time.
func (c *cursor) cut(until time.Time) { c.at.until = min(c.at.until, C.int64_t(until.UnixNano())) }

// take copies wanted packets to the room as records of a pcap file, at most so
// many, and returns how many and their bytes. It takes what is there, and does
// not wait.
func (c *cursor) take(w *want, room []byte, most int64, end *atomic.Int64) (packets int64, size int, why halt) {
	for {
		why = c.takeSome(w, room[size:], most-packets, end)
		packets += int64(c.asked.packets)
		size += int(c.asked.bytes)
		c.limit -= int64(c.asked.file)
		if why != C.copied_chunk {
			return packets, size, why
		}
	}
}

// isPast reports whether the cursor is at what was there when it was made.
func (c *cursor) isPast() bool { return bool(C.is_past(&c.at)) }

// seen returns the Unix time in nanoseconds until which the ring holds what the kernel had.
func (c *cursor) seen() int64 { return atomic.LoadInt64((*int64)(&c.ring.c.state.seen)) }

// turns returns a number that changes when the writer was there.
func (c *cursor) turns() uint32 { return atomic.LoadUint32((*uint32)(&c.ring.c.turns)) }

// wait waits until something is written after the turns were asked for, for so
// long at most.
func (c *cursor) wait(turns uint32, most time.Duration) {
	C.ring_wait(c.ring.c, C.uint32_t(turns), C.int64_t(most))
}

// takeSome copies from some chunks, and lets others do the same then.
func (c *cursor) takeSome(w *want, room []byte, most int64, end *atomic.Int64) halt {
	c.asked = C.copy_request{shape: shapeOf(w.link), snap: C.uint32_t(w.snap), unit: 1, beyond: C.bool(w.beyond),
		most: C.int64_t(most), size: C.int64_t(len(room)), most_file: C.int64_t(c.limit),
		per_packet: C.int64_t(c.layout.PerPacket), align: C.int64_t(c.layout.Align)}
	if w.micros {
		c.asked.unit = C.uint32_t(time.Microsecond)
	}
	if w.counted {
		c.asked.counted = c.asked.shape.cooked
	}
	c.ring.reading.Lock()
	defer c.ring.reading.Unlock()
	return halt(C.copy_with(&c.at, c.ring.c, &c.asked, w.filter.instructions(),
		(*C.int64_t)(unsafe.Pointer(end)), (*C.uint8_t)(unsafe.SliceData(room))))
}

// missed returns how many packets of its window a cursor did not see.
func (c *cursor) missed() int64 { return int64(c.at.overwritten + c.at.dropped) }

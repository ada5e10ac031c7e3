package tap

// #include "ring.h"
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
	taking C.taking
	layout Layout // of the file
	limit  int64  // bytes that what is taken next may take in it
}

// A want says what is to be copied, and how.
type want struct {
	filter program // nil: everything
	snap   int     // bytes of a packet
	micros bool    // stamps in microseconds, not nanoseconds
	beyond bool    // what is past the end is wanted too
}

// Why a cursor stopped.
type halt int

const (
	haltEmpty   halt = C.taken_all     // it has seen everything that is there
	haltFull    halt = C.taken_full    // the next packet does not fit, or is one too many
	haltEnd     halt = C.taken_end     // the next packet is not older than the end
	haltCleared halt = C.taken_cleared // the ring was cleared
)

// newCursor returns a cursor for packets from a time on. Of those that are
// there already, none is wanted unless the past is.
func (r *ring) newCursor(from time.Time, past bool) *cursor {
	c := &cursor{ring: r, layout: RecordLayout(), limit: math.MaxInt64}
	c.at.from, c.at.live = math.MaxInt64, C.int64_t(from.UnixNano())
	r.reading.Lock()
	c.at.number = C.int64_t(load(&r.c.newest))
	if past {
		c.at.from = c.at.live
		c.at.number = C.ring_find(r.c, c.at.from)
	}
	C.cursor_begin(&c.at, r.c)
	r.reading.Unlock()
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
		why = c.takeChunk(w, room[size:], most-packets, end)
		packets += int64(c.taking.packets)
		size += int(c.taking.bytes)
		c.limit -= int64(c.taking.file)
		if why != C.taken_chunk {
			return packets, size, why
		}
	}
}

// isPast tells whether the cursor is at what was there when it was made.
func (c *cursor) isPast() bool { return bool(C.is_past(&c.at)) }

// wait waits until the writer has gone on to another chunk, for so long at
// most. It does not tell of packets that come slowly: the writer does not stop
// for who waits.
func (c *cursor) wait(most time.Duration) {
	C.ring_wait(c.ring.c, c.at.number, C.int64_t(most))
}

// takeChunk copies from one chunk, and lets others do the same then.
func (c *cursor) takeChunk(w *want, room []byte, most int64, end *atomic.Int64) halt {
	c.taking = C.taking{most: C.int64_t(most), size: C.int64_t(len(room)), snap: C.uint32_t(w.snap), unit: 1,
		beyond:    C.bool(w.beyond),
		most_file: C.int64_t(c.limit), per_packet: C.int64_t(c.layout.PerPacket), align: C.int64_t(c.layout.Align)}
	if w.micros {
		c.taking.unit = C.uint32_t(time.Microsecond)
	}
	c.ring.reading.Lock()
	defer c.ring.reading.Unlock()
	return halt(C.take_records(&c.at, c.ring.c, &c.taking, w.filter.instructions(),
		(*C.uint8_t)(unsafe.SliceData(room)), (*C.int64_t)(unsafe.Pointer(end))))
}

// missed returns how many packets of its window a cursor did not see.
func (c *cursor) missed() int64 { return int64(c.at.overwritten + c.at.dropped) }

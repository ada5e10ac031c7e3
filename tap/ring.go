package tap

// #include "ring.h"
//
// // ring_put_packet writes a packet of which so many bytes are there.
// static void ring_put_packet(ring *r, record header, const uint8_t *packet)
// {
//	ring_put(r, &header, packet);
// }
import "C"

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	// ringChunk is the piece in which a ring forgets, in bytes.
	ringChunk = 1 << 20
	// leastRing is the smallest ring, in chunks: one that is written, one that
	// is read, and some between them.
	leastRing = 4
)

// A ring is memory that remembers the latest packets. One goroutine writes and
// never waits for longer than it takes to copy one chunk; cursors read. All its
// memory is there from the start, so that it cannot fail later. It is not Go's:
// the writer stays in C, which changes it.
type ring struct {
	c *C.ring

	// reading is held by who reads. Many who copy at once would crowd the
	// writer out of its processor, and the ring holds one chunk for one reader.
	reading sync.Mutex
}

// newRing returns a ring of so many bytes, rounded down to whole chunks.
func newRing(size int64) (*ring, error) {
	if size < leastRing*ringChunk {
		return nil, fmt.Errorf("a ring of %d bytes is too small, it needs %d", size, leastRing*ringChunk)
	}
	return newRingOf(size/ringChunk, ringChunk)
}

// newRingOf returns a ring of so many chunks of so many bytes.
func newRingOf(chunks, size int64) (*ring, error) {
	memory, err := C.new_ring(C.int64_t(chunks), C.int64_t(size))
	if memory == nil {
		return nil, fmt.Errorf("take %d bytes for a ring: %w", chunks*size, err)
	}
	r := &ring{c: memory}
	// Cursors may be in use when the writer has ended: the memory goes with the last of them.
	runtime.AddCleanup(r, func(memory *C.ring) { C.free_ring(memory) }, memory)
	return r, nil
}

// size returns how many bytes a ring has.
func (r *ring) size() int64 { return int64(r.c.chunks * r.c.chunk_size) }

// clear forgets everything; what comes now has another link type. Only the
// writer may call it.
func (r *ring) clear(linkType int) { C.ring_clear(r.c, shapeOf(linkType)) }

// shapeOf returns the shape of packets of a link type: where libpcap puts their
// outer VLAN tag back, and what it puts before what the kernel has.
func shapeOf(linkType int) C.shape {
	switch linkType {
	case C.DLT_EN10MB:
		return C.shape{hole: 12}
	case C.DLT_LINUX_SLL:
		return C.shape{hole: 14, cooked: 16}
	}
	return C.shape{}
}

// put writes a packet, of which data is there, with its VLAN tag in it, and
// which had so many bytes. Tagged says that the kernel had taken the tag out.
func (r *ring) put(stamp time.Time, data []byte, length int, tagged bool) {
	record := C.record{seconds: C.uint32_t(stamp.Unix()), nanos: C.uint32_t(stamp.Nanosecond()),
		stored: C.uint32_t(len(data)), length: C.uint32_t(length)}
	if tagged {
		record.nanos |= C.RECORD_TAGGED
		record.stored -= C.tag_size
		record.length -= C.tag_size
	}
	C.ring_put_packet(r.c, record, (*C.uint8_t)(unsafe.SliceData(data)))
}

// lose notes that the kernel dropped packets.
func (r *ring) lose(stamp time.Time, packets int) {
	C.ring_put_packet(r.c, C.record{seconds: C.uint32_t(stamp.Unix()),
		nanos: C.uint32_t(stamp.Nanosecond()) | C.RECORD_LOSS, length: C.uint32_t(packets)}, nil)
}

// load reads what the writer changes.
func load(counter *C.int64_t) int64 { return atomic.LoadInt64((*int64)(counter)) }

// A holding says what a ring holds.
type holding struct {
	packets, lost int64     // that came since the ring was made
	bytes         int64     // that the records take
	oldest        time.Time // stamp of the oldest packet; zero: none is held
	whole         bool      // nothing was forgotten since the ring was made or cleared
}

// holding looks at the ring.
func (r *ring) holding() holding {
	r.reading.Lock()
	defer r.reading.Unlock()
	defer C.ring_release(r.c)
	oldest := load(&r.c.oldest)
	h := holding{whole: oldest == load(&r.c.begin)}
	for number := oldest; number <= load(&r.c.newest); number++ {
		c := C.ring_hold(r.c, C.int64_t(number))
		if c == nil {
			continue
		}
		packets := load(&c.packets)
		if packets > 0 && h.oldest.IsZero() {
			h.oldest = time.Unix(0, load(&c.first))
		}
		h.bytes += load(&c.used)
		h.packets = int64(c.packets_before) + packets
		h.lost = int64(c.lost_before) + load(&c.lost)
	}
	return h
}

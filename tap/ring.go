package tap

// #include <stdlib.h>
// #include "ring.h"
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// blockSize is the size of a block of the kernel's ring, and of a segment of
	// the compact one: the largest packet fits into it.
	blockSize = 256 << 10
	// MinRecorder is the least memory that a recorder can do with, in bytes.
	MinRecorder = 16 * blockSize
	// storySize is what is kept for the recorder's own notes before a ring's state.
	storySize = 256 << 10
)

// A ring is memory that remembers the latest packets. One goroutine writes;
// cursors read. The compact half and the state are a memfd, which can be handed
// to another process; the other half is the kernel's, of a packet socket. None
// of it is Go's: the writer stays in C, which changes it.
type ring struct {
	c      *C.ring
	file   *os.File // the memfd
	memory []byte   // of it
	blocks []byte   // of the kernel; nil: it has none

	// reading is held by who copies. Many who copy at once would crowd the
	// writer out of its processor.
	reading sync.Mutex
}

// geometryOf divides so many bytes into the kernel's ring, which holds what comes
// fast, and the compact one, where a quarter is hours of a quiet link.
func geometryOf(size int64) C.geometry {
	blocks := size / blockSize * 3 / 4
	return newGeometry(blocks, size/blockSize-blocks, blockSize)
}

// newGeometry returns a geometry of so many blocks and segments of a size.
func newGeometry(blocks, segments, size int64) C.geometry {
	return C.geometry{blocks: C.int64_t(blocks), block_size: C.int64_t(size), segments: C.int64_t(segments),
		segment_size: C.int64_t(size), entries: C.int64_t(blocks + segments + 2)}
}

// ringLayout returns the bytes of a memfd, and where in it the segments begin.
func ringLayout(g *C.geometry) (size, segments int64) {
	const page = 1 << 16 // and of any machine
	segments = storySize + (int64(C.ring_state_size(g))+page-1)&^(page-1)
	return segments + int64(g.segments*g.segment_size), segments
}

// newRing returns an empty ring. The kernel's blocks may be missing.
func newRing(g C.geometry, blocks []byte) (*ring, error) {
	size, _ := ringLayout(&g)
	fd, err := unix.MemfdCreate("pcapdaemon", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("take memory for a ring: %w", err)
	}
	file := os.NewFile(uintptr(fd), "ring")
	if err := unix.Ftruncate(fd, size); err != nil {
		file.Close()
		return nil, fmt.Errorf("take %d bytes for a ring: %w", size, err)
	}
	r, err := mapRing(g, file, blocks)
	if err != nil {
		file.Close()
		return nil, err
	}
	C.ring_begin(r.c, &g)
	return r, nil
}

// mapRing returns the ring in a memfd, which it takes over, as is the kernel's memory.
func mapRing(g C.geometry, file *os.File, blocks []byte) (*ring, error) {
	size, segments := ringLayout(&g)
	memory, err := unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("take %d bytes for a ring: %w", size, err)
	}
	c := (*C.ring)(C.calloc(1, C.sizeof_ring))
	c.state = (*C.ring_state)(unsafe.Pointer(&memory[storySize]))
	c.segments = (*C.uint8_t)(unsafe.Pointer(&memory[segments]))
	c.blocks = (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(blocks)))
	r := &ring{c: c, file: file, memory: memory, blocks: blocks}
	// Cursors may be in use when the writer has ended: the memory goes with the last of them.
	runtime.AddCleanup(r, func(m mapping) { m.free() }, mapping{c, memory, blocks})
	return r, nil
}

// restore brings a ring that another process left, maybe in the middle of a
// change, into order, and reports whether that could be done.
func (r *ring) restore(g C.geometry) bool { return bool(C.ring_recover(r.c, &g)) }

// A mapping is the memory of a ring.
type mapping struct {
	c              *C.ring
	memory, blocks []byte
}

// free gives the memory back.
func (m mapping) free() {
	C.free(unsafe.Pointer(m.c))
	_ = unix.Munmap(m.memory)
	if m.blocks != nil {
		_ = unix.Munmap(m.blocks)
	}
}

// size returns how many bytes of packets a ring has room for.
func (r *ring) size() int64 {
	g := &r.c.state.geometry
	return int64(g.blocks*g.block_size + g.segments*g.segment_size)
}

// shapeOf returns what libpcap makes of packets of a link type: whether it puts
// a header before what the kernel has, and where it puts their outer VLAN tag back.
func shapeOf(link int) C.shape {
	switch link {
	case C.DLT_EN10MB:
		return C.shape{hole: 12}
	case C.DLT_LINUX_SLL:
		return C.shape{cooked: C.sll_size, hole: 14}
	case C.DLT_LINUX_SLL2:
		return C.shape{cooked: C.sll2_size} // libpcap puts no tag back there
	case C.DLT_NETLINK, C.DLT_LINUX_IRDA, C.DLT_LINUX_LAPD:
		return C.shape{cooked: C.sll_size}
	}
	return C.shape{}
}

// put writes a packet to the compact ring that had so many bytes, of which
// these are there, without the outer VLAN tag.
func (r *ring) put(stamp time.Time, data []byte, length int, tag *vlanTag) {
	view := C.packet_view{stamp: C.int64_t(stamp.UnixNano()), stored: C.uint32_t(len(data)), length: C.uint32_t(length)}
	if tag != nil {
		view.tagged, view.tpid, view.tci = true, C.uint16_t(tag.tpid), C.uint16_t(tag.tci)
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	if len(data) > 0 {
		pinner.Pin(&data[0])
	}
	view.data = (*C.uint8_t)(unsafe.SliceData(data))
	C.ring_put(r.c, &view)
	C.ring_wake(r.c)
}

// lose notes that the kernel dropped packets.
func (r *ring) lose(stamp time.Time, packets int) {
	C.ring_put(r.c, &C.packet_view{stamp: C.int64_t(stamp.UnixNano()), lost: C.uint32_t(packets)})
	C.ring_wake(r.c)
}

// takeBlocks notes what the kernel has retired, and reports whether its ring is as expected.
func (r *ring) takeBlocks() bool {
	taken := C.ring_take_blocks(r.c)
	C.ring_wake(r.c)
	return taken >= 0
}

// load reads what the writer changes.
func load(counter *C.int64_t) int64 { return atomic.LoadInt64((*int64)(counter)) }

// A holding says what a ring holds for readers.
type holding struct {
	packets, lost int64     // that came since the ring was made
	bytes         int64     // that the records of a file would take, nearly
	oldest        time.Time // stamp of the oldest packet; zero: none is held
	whole         bool      // nothing was forgotten since the ring was made
}

// holding looks at the ring.
func (r *ring) holding() holding {
	const perBlock, perPacket = 48, 82 + 4 // bytes that the kernel needs, padding included
	oldest := int64(C.ring_readable(r.c))
	h := holding{whole: oldest == 1}
	for number := oldest; number <= load(&r.c.state.newest); number++ {
		var c C.chunk
		if !C.ring_describe(r.c, C.int64_t(number), &c) {
			continue
		}
		if c.packets > 0 && h.oldest.IsZero() {
			h.oldest = time.Unix(0, int64(c.first))
		}
		if c.sequence != 0 {
			h.bytes += int64(c.used) - perBlock - int64(c.packets)*(perPacket-recordHeader)
		} else {
			h.bytes += int64(c.used) - int64(c.packets)*(C.sizeof_record+4-recordHeader)
		}
		h.packets = int64(c.packets_before + c.packets)
		h.lost = int64(c.lost_before + c.lost)
	}
	h.bytes = max(0, h.bytes)
	return h
}

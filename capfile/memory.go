package capfile

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// hugePage is the size of a huge page in bytes: of two chunks.
	hugePage = 2 * ChunkSize
	// slowHugePage is longer than the kernel needs for as many small pages. A huge one
	// takes that long if the kernel has to move others' pages to make room for it, or
	// if a virtual machine's host has yet to find the memory.
	slowHugePage = time.Millisecond
	// smallFor is how long small pages do instead from then on.
	smallFor = 10 * time.Second
)

// hugePages are where chunks come from that cost an eighth of those of small pages, as
// long as they are found quickly.
type hugePages struct {
	get   func() [][]byte // mapHuge, or what stands in for it in tests
	avoid time.Time       // until when there are to be none
}

// quick reports whether it is worth asking for one.
func (h *hugePages) quick() bool { return !time.Now().Before(h.avoid) }

// next returns the two chunks of one, or none.
func (h *hugePages) next() [][]byte {
	began := time.Now()
	chunks := h.get()
	if chunks == nil || time.Since(began) > slowHugePage {
		h.avoid = time.Now().Add(smallFor)
	}
	return chunks
}

// mapChunk returns a chunk of small pages, or nil when the kernel has no memory.
// Populating them in one call costs a third less than faulting them in one by one.
func mapChunk() []byte {
	chunk, err := unix.MmapPtr(-1, 0, nil, ChunkSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil
	}
	return unsafe.Slice((*byte)(chunk), ChunkSize)
}

// mapHuge returns two chunks in a huge page, or nil. If the kernel finds none, it gives
// small pages instead.
func mapHuge() [][]byte {
	// Twice as much has a place for it, wherever the kernel puts that.
	around, err := unix.MmapPtr(-1, 0, nil, 2*hugePage, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil
	}
	before := (hugePage - uintptr(around)%hugePage) % hugePage
	page := unsafe.Add(around, before)
	unmap(around, before)
	unmap(unsafe.Add(page, hugePage), hugePage-before)
	memory := unsafe.Slice((*byte)(page), hugePage)
	err = unix.Madvise(memory, unix.MADV_HUGEPAGE)
	if err == nil {
		err = unix.Madvise(memory, unix.MADV_POPULATE_WRITE) // from Linux 5.14 on
	}
	if err != nil {
		unmap(page, hugePage)
		return nil
	}
	return [][]byte{memory[:ChunkSize:ChunkSize], memory[ChunkSize:]}
}

// unmapChunk gives a chunk back. The other half of a huge page may stay.
func unmapChunk(chunk []byte) { unmap(unsafe.Pointer(unsafe.SliceData(chunk)), ChunkSize) }

// unmap gives memory back, if there is any.
func unmap(at unsafe.Pointer, size uintptr) {
	if size > 0 {
		_ = unix.MunmapPtr(at, size) // fails only for what was not mapped
	}
}

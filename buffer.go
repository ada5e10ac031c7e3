package main

import (
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// chunkSize is the piece in which a capture takes memory, in bytes.
	chunkSize = 1 << 20
	// chunkRest is how long an unused chunk is kept for the next capture: its
	// pages are already there, and faulting them in is what costs most.
	chunkRest = 15 * time.Second
)

// A pool lends chunks of memory and never has more than its limit of them,
// those kept for the next capture included. It maps them itself: the Go heap
// would zero each chunk, fault it in page by page and give it back late.
type pool struct {
	limit int // chunks

	mu   sync.Mutex
	lent int
	idle [][]byte
	trim *time.Timer
}

// newPool returns a pool of at most the given number of bytes.
func newPool(limit int64) *pool {
	p := &pool{limit: int(limit / chunkSize)}
	p.trim = time.AfterFunc(chunkRest, p.release)
	return p
}

// take lends a chunk, or nil when all are lent or the kernel has no memory.
func (p *pool) take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lent == p.limit {
		return nil
	}
	var chunk []byte
	if n := len(p.idle); n > 0 {
		chunk, p.idle = p.idle[n-1], p.idle[:n-1]
	} else {
		// Populating 256 pages in one call costs a third less than faulting them one by one.
		var err error
		chunk, err = unix.Mmap(-1, 0, chunkSize, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			return nil
		}
	}
	p.lent++
	return chunk
}

// takeReady lends a chunk that has been used before, if there is one and half
// of the limit is not lent.
func (p *pool) takeReady() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 || 2*p.lent >= p.limit {
		return nil
	}
	chunk := p.idle[n-1]
	p.idle = p.idle[:n-1]
	p.lent++
	return chunk
}

// give takes chunks back and keeps them for a while.
func (p *pool) give(chunks [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent -= len(chunks)
	p.idle = append(p.idle, chunks...)
	p.trim.Reset(chunkRest)
}

// release returns all kept chunks to the kernel.
func (p *pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, chunk := range p.idle {
		_ = unix.Munmap(chunk) // fails only for what Mmap did not return
	}
	p.idle = nil
}

// held returns the bytes that are lent.
func (p *pool) held() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.lent) * chunkSize
}

// A buffer is memory that is written once, from one goroutine, and then read
// by any number of them. What is in it never moves.
type buffer struct {
	pool   *pool
	chunks [][]byte
	size   int64
	open   [][]byte // what rooms returned last
}

// newBuffer returns a buffer that has its first chunk, or nil if the pool has none left.
func newBuffer(p *pool) *buffer {
	b := &buffer{pool: p}
	if !b.reserve(1) {
		return nil
	}
	return b
}

// reserve makes room for n more bytes; false means that the pool has no more to give.
func (b *buffer) reserve(n int) bool {
	for b.size+int64(n) > int64(len(b.chunks))*chunkSize {
		chunk := b.pool.take()
		if chunk == nil {
			return false
		}
		b.chunks = append(b.chunks, chunk)
	}
	return true
}

// Write appends data, all of it or nothing. It fails with io.ErrShortBuffer
// when the pool has no chunk left.
func (b *buffer) Write(data []byte) (int, error) {
	if !b.reserve(len(data)) {
		return 0, io.ErrShortBuffer
	}
	for rest := data; len(rest) > 0; {
		n := copy(b.room(), rest)
		rest = rest[n:]
		b.extend(n)
	}
	return len(data), nil
}

// room returns what is free of the chunk that is being written. What is
// written there belongs to the content once extend has said how much it is.
func (b *buffer) room() []byte {
	if i := b.size / chunkSize; i < int64(len(b.chunks)) {
		return b.chunks[i][b.size%chunkSize:]
	}
	return nil
}

// rooms returns what is free of the chunks that are being written, in their
// order; it is valid until the next call. It takes more chunks, up to so many in
// all, as long as the pool has them ready and half of it is free: that leaves
// room for other captures.
func (b *buffer) rooms(chunks int) [][]byte {
	written := int(b.size / chunkSize) // chunks
	for len(b.chunks) < written+chunks {
		chunk := b.pool.takeReady()
		if chunk == nil {
			break
		}
		b.chunks = append(b.chunks, chunk)
	}
	if written == len(b.chunks) {
		return nil
	}
	b.open = append(b.open[:0], b.chunks[written:]...)
	b.open[0] = b.open[0][b.size%chunkSize:]
	return b.open
}

// trim gives back the chunks that hold nothing.
func (b *buffer) trim() {
	used := int((b.size + chunkSize - 1) / chunkSize)
	b.pool.give(b.chunks[used:])
	b.chunks = b.chunks[:used]
}

// extend adds n bytes of the room to the content.
func (b *buffer) extend(n int) { b.size += int64(n) }

// pieces returns the whole content in the pieces in which it lies.
func (b *buffer) pieces() [][]byte {
	pieces := make([][]byte, 0, len(b.chunks))
	for rest := b.size; rest > 0; rest -= chunkSize {
		pieces = append(pieces, b.chunks[len(pieces)][:min(rest, chunkSize)])
	}
	return pieces
}

// free gives the memory back. No reader may be in use any more.
func (b *buffer) free() {
	b.pool.give(b.chunks)
	b.chunks, b.size = nil, 0
}

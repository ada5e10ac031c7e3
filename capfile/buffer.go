package capfile

import (
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ChunkSize is the piece in which a capture takes memory, in bytes.
	ChunkSize = 1 << 20
	// chunkRest is how long an unused chunk is kept for the next capture: its
	// pages are already there, and faulting them in is what costs most.
	chunkRest = 15 * time.Second
	// A pool keeps one in reserveShare of its chunks ready, at most mostReserve of
	// them, so that the first seconds of any capture find their pages there, too.
	reserveShare, mostReserve = 128, 4
	// reserveRest is how long nothing has to be taken before the reserve is filled up.
	reserveRest = time.Second
	// From fewChunks lent ones on, a huge page is mapped whenever no chunk is ready.
	fewChunks = 4
	// lowestPriority is a nice value.
	lowestPriority = 19
)

// A Pool lends chunks of memory and never has more than its limit of them,
// those kept for the next capture included. It maps them itself: the Go heap
// would zero each chunk, fault it in page by page and give it back late. Its
// methods may be called at any time, from any goroutine.
type Pool struct {
	limit, reserve int // chunks

	mu   sync.Mutex
	lent int
	idle [][]byte
	trim *time.Timer
	fill *time.Timer // fills the reserve up; nil: there is none
	// feeding is set while huge pages are being mapped.
	feeding bool
	huge    hugePages
}

// NewPool returns a pool of so many bytes at most, in whole chunks: of less than ChunkSize it
// lends nothing. It takes memory when chunks are wanted, and keeps those that are given
// back for 15 s.
func NewPool(limit int64) *Pool {
	p := &Pool{limit: int(limit / ChunkSize), huge: hugePages{get: mapHuge}}
	p.reserve = min(p.limit/reserveShare, mostReserve)
	p.trim = time.AfterFunc(chunkRest, func() { p.release(p.reserve) })
	if p.reserve > 0 {
		p.fill = time.AfterFunc(0, p.replenish)
	}
	return p
}

// replenish fills the reserve up, on a thread that waits for all others and ends
// with the goroutine.
func (p *Pool) replenish() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), lowestPriority)
	for p.wantsMore() {
		chunk := mapChunk()
		if chunk == nil || !p.keep(chunk) {
			return
		}
	}
}

// wantsMore reports whether the reserve is not full, and more than half of the
// limit is free.
func (p *Pool) wantsMore() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle) < p.reserve && 2*p.lent < p.limit
}

// feed maps huge pages for who takes one chunk after the other, who does not wait for
// them: it may take the kernel milliseconds to find one. The lock is held.
func (p *Pool) feed() {
	if p.feeding || !p.wantsHuge() {
		return
	}
	p.feeding = true
	go func() {
		for p.wantsHugeStill() {
			p.keep(p.huge.next()...)
		}
	}()
}

// wantsHuge reports whether many chunks are taken, none is ready, and there may be
// huge pages. The lock is held.
func (p *Pool) wantsHuge() bool {
	return p.lent >= fewChunks && len(p.idle) == 0 && p.lent+2 <= p.limit && p.huge.quick()
}

// wantsHugeStill reports whether huge pages are to be mapped still; if not, feed has to be called again.
func (p *Pool) wantsHugeStill() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.feeding = p.wantsHuge()
	return p.feeding
}

// keep adds new chunks to those that are kept, unless that were too many.
func (p *Pool) keep(chunks ...[]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lent+len(p.idle)+len(chunks) > p.limit {
		for _, chunk := range chunks {
			unmapChunk(chunk)
		}
		return false
	}
	p.idle = append(p.idle, chunks...)
	return true
}

// takeIdle returns a chunk that is kept; there is one. The lock is held.
func (p *Pool) takeIdle() []byte {
	last := len(p.idle) - 1
	chunk := p.idle[last]
	p.idle = p.idle[:last]
	if p.fill != nil {
		p.fill.Reset(reserveRest)
	}
	return chunk
}

// take lends a chunk, or nil when all are lent or the kernel has no memory.
func (p *Pool) take() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lent == p.limit {
		return nil
	}
	var chunk []byte
	if len(p.idle) > 0 {
		chunk = p.takeIdle()
	} else if chunk = mapChunk(); chunk == nil {
		return nil
	}
	p.lent++
	p.feed()
	return chunk
}

// takeReady lends a chunk that has been used before, if there is one and half
// of the limit is not lent.
func (p *Pool) takeReady() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 || 2*p.lent >= p.limit {
		return nil
	}
	p.lent++
	chunk := p.takeIdle()
	p.feed()
	return chunk
}

// give takes chunks back and keeps them for a while.
func (p *Pool) give(chunks [][]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent -= len(chunks)
	p.idle = append(p.idle, chunks...)
	p.trim.Reset(chunkRest)
}

// Release returns all kept chunks to the kernel, those of the reserve as well, which is
// filled up again after the next capture. Those that are lent stay as they are.
func (p *Pool) Release() { p.release(0) }

// release returns kept chunks to the kernel until there are so many at most.
func (p *Pool) release(most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > most {
		last := len(p.idle) - 1
		unmapChunk(p.idle[last])
		p.idle = p.idle[:last]
	}
}

// Held returns the bytes that are lent, a multiple of ChunkSize.
func (p *Pool) Held() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(p.lent) * ChunkSize
}

// A Buffer is memory that is written once, from one goroutine, and then read
// by any number of them. What is in it never moves, so that a Follower can read
// it while it is written. No method waits for memory.
type Buffer struct {
	pool   *Pool
	mu     sync.Mutex // for whoever does not write: to change the chunks, or to look at them
	chunks [][]byte
	Size   int64
	open   [][]byte // what rooms returned last
}

// NewBuffer returns a buffer that has its first chunk, or nil if the pool has none left.
func NewBuffer(p *Pool) *Buffer {
	b := &Buffer{pool: p}
	if !b.Reserve(1) {
		return nil
	}
	return b
}

// Reserve makes room for n more bytes, of which Size does not tell yet; false means that the
// pool has no more to give. What was taken until then stays, for Write or Trim.
func (b *Buffer) Reserve(n int) bool {
	for b.Size+int64(n) > int64(len(b.chunks))*ChunkSize {
		chunk := b.pool.take()
		if chunk == nil {
			return false
		}
		b.add(chunk)
	}
	return true
}

// add adds a chunk.
func (b *Buffer) add(chunk []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunks = append(b.chunks, chunk)
}

// Write appends data, all of it or nothing. It fails with io.ErrShortBuffer
// when the pool has no chunk left.
func (b *Buffer) Write(data []byte) (int, error) {
	if !b.Reserve(len(data)) {
		return 0, io.ErrShortBuffer
	}
	for rest := data; len(rest) > 0; {
		n := copy(b.room(), rest)
		rest = rest[n:]
		b.Extend(n)
	}
	return len(data), nil
}

// room returns what is free of the chunk that is being written; there has to be one. What
// is written there belongs to the content once Extend has said how much it is.
func (b *Buffer) room() []byte { return b.chunks[b.Size/ChunkSize][b.Size%ChunkSize:] }

// Rooms returns what is free of the chunks that are being written, in their
// order; it is valid until the next call. It takes more chunks, up to so many in
// all, as long as the pool has them ready and half of it is free: that leaves
// room for other captures.
func (b *Buffer) Rooms(chunks int) [][]byte {
	written := int(b.Size / ChunkSize) // chunks
	for len(b.chunks) < written+chunks {
		chunk := b.pool.takeReady()
		if chunk == nil {
			break
		}
		b.add(chunk)
	}
	if written == len(b.chunks) {
		return nil
	}
	b.open = append(b.open[:0], b.chunks[written:]...)
	b.open[0] = b.open[0][b.Size%ChunkSize:]
	return b.open
}

// Trim gives back the chunks that hold nothing. What Rooms has returned is no longer valid.
func (b *Buffer) Trim() {
	used := int((b.Size + ChunkSize - 1) / ChunkSize)
	b.pool.give(b.chunks[used:])
	b.mu.Lock()
	defer b.mu.Unlock()
	b.chunks = b.chunks[:used]
}

// Extend adds n bytes to the content, that have been written to what Rooms has returned, in its order.
func (b *Buffer) Extend(n int) { b.Size += int64(n) }

// Pieces returns the whole content in the pieces in which it lies, none of them empty and each
// but the last of ChunkSize. They are not copied, and valid until Free.
func (b *Buffer) Pieces() [][]byte {
	pieces := make([][]byte, 0, len(b.chunks))
	for rest := b.Size; rest > 0; rest -= ChunkSize {
		pieces = append(pieces, b.chunks[len(pieces)][:min(rest, ChunkSize)])
	}
	return pieces
}

// part returns the content from one offset up to another one, in the pieces in which it
// lies. Unlike other methods it may be called while the buffer is written, for what has been.
func (b *Buffer) part(from, to int64) [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	var pieces [][]byte
	for from < to {
		begin := from % ChunkSize
		end := min(ChunkSize, begin+to-from)
		pieces = append(pieces, b.chunks[from/ChunkSize][begin:end])
		from += end - begin
	}
	return pieces
}

// Free gives the memory back, once or more often. No reader may be in use any more.
func (b *Buffer) Free() {
	b.pool.give(b.chunks)
	b.chunks, b.Size = nil, 0
}

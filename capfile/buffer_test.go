package capfile

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/testbed"
)

func TestBufferReadsWhatWasWritten(t *testing.T) {
	p := NewPool(8 * ChunkSize)
	for name, size := range map[string]int{
		"nothing":          0,
		"a byte":           1,
		"a chunk less one": ChunkSize - 1,
		"a chunk":          ChunkSize,
		"a chunk and one":  ChunkSize + 1,
		"many chunks":      5*ChunkSize + 12345,
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBuffer(p)
			defer b.Free()
			want := testbed.RandomBytes(size)
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+rand.IntN(3000))
				if _, err := b.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if b.Size != int64(size) {
				t.Errorf("want size %d, got %d", size, b.Size)
			}
			if got := bytes.Join(b.Pieces(), nil); !bytes.Equal(want, got) {
				t.Error("the pieces differ from what was written")
			}
		})
	}
}

func TestPoolIsTheBudget(t *testing.T) {
	p := NewPool(3*ChunkSize + ChunkSize/2)
	first, second := NewBuffer(p), NewBuffer(p)
	if _, err := first.Write(make([]byte, 2*ChunkSize)); err != nil {
		t.Fatal(err)
	}
	before := first.Size
	if _, err := first.Write(make([]byte, 1)); !errors.Is(err, io.ErrShortBuffer) {
		t.Errorf("beyond the budget: want %v, got %v", io.ErrShortBuffer, err)
	}
	if first.Size != before {
		t.Error("a write that failed has changed the buffer")
	}
	if NewBuffer(p) != nil {
		t.Error("a buffer from an exhausted pool")
	}
	if want, got := int64(3*ChunkSize), p.Held(); want != got {
		t.Errorf("want %d bytes held, got %d", want, got)
	}
	second.Free()
	if !first.Reserve(1) {
		t.Error("no chunk, although one was given back")
	}
	first.Free()
	if got := p.Held(); got != 0 {
		t.Errorf("want 0 bytes held, got %d", got)
	}
}

func TestPoolReturnsIdleChunks(t *testing.T) {
	p := NewPool(2 * ChunkSize)
	b := NewBuffer(p)
	b.Free()
	if len(p.idle) != 1 {
		t.Fatalf("want 1 chunk kept, got %d", len(p.idle))
	}
	p.Release() // what the timer does
	if len(p.idle) != 0 {
		t.Errorf("want no chunk kept, got %d", len(p.idle))
	}
	if b = NewBuffer(p); b == nil {
		t.Error("no chunk from a pool that has released all")
	}
}

// TestPoolReturnsIdleChunksEachTime: what is no longer in use goes back to the
// kernel when nobody wants it for a while, not only for the first time.
func TestPoolReturnsIdleChunksEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(4 * ChunkSize)
		for round := range 3 {
			b := NewBuffer(p)
			if _, err := b.Write(make([]byte, 3*ChunkSize)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * chunkRest)
			b.Free()
			time.Sleep(chunkRest - time.Second)
			if want, got := 3, kept(p); want != got {
				t.Errorf("round %d: want %d chunks kept for the next capture, got %d", round, want, got)
			}
			time.Sleep(2 * time.Second)
			if got := kept(p); got != 0 {
				t.Errorf("round %d: want no chunk kept after %v, got %d", round, chunkRest, got)
			}
		}
	})
}

// TestRoomsAreReadyOnes: only chunks that are there already are taken ahead, and
// never from the last half of the pool; what is not used goes back.
func TestRoomsAreReadyOnes(t *testing.T) {
	p := NewPool(8 * ChunkSize)
	b := NewBuffer(p)
	if got := len(b.Rooms(3)); got != 1 {
		t.Errorf("none is ready: want 1 room, got %d", got)
	}
	warm := NewBuffer(p)
	_, _ = warm.Write(make([]byte, 6*ChunkSize)) // of 8
	warm.Free()
	b.Extend(100)
	rooms := b.Rooms(3)
	if len(rooms) != 3 || len(rooms[0]) != ChunkSize-100 {
		t.Errorf("want 3 rooms behind the first 100 bytes, got %d", len(rooms))
	}
	if got := len(b.Rooms(8)); got != 4 {
		t.Errorf("want the half of the pool, got %d rooms", got)
	}
	copy(b.room(), "x")
	b.Extend(ChunkSize)
	if got := len(b.Rooms(1)); got != 3 {
		t.Errorf("want the 3 rooms that are left, got %d", got)
	}
	b.Trim()
	if want, got := int64(2*ChunkSize), p.Held(); want != got || len(b.Pieces()) != 2 {
		t.Errorf("want %d bytes held in 2 pieces, got %d in %d", want, got, len(b.Pieces()))
	}
	if b.Free(); p.Held() != 0 {
		t.Errorf("want all given back, %d are held", p.Held())
	}
}

// TestTrim: a buffer keeps the chunks that hold something, and no other.
func TestTrim(t *testing.T) {
	for size, want := range map[int]int64{0: 0, 1: 1, ChunkSize - 1: 1, ChunkSize: 1, ChunkSize + 1: 2} {
		p := NewPool(4 * ChunkSize)
		b := NewBuffer(p)
		if _, err := b.Write(make([]byte, size)); err != nil || !b.Reserve(ChunkSize) {
			t.Fatal("no memory")
		}
		if b.Trim(); p.Held() != want*ChunkSize {
			t.Errorf("%d bytes: want %d chunks held, got %d bytes", size, want, p.Held())
		}
		b.Free()
		p.Release()
	}
}

// TestFreeAgain: memory that was given back is not given back once more.
func TestFreeAgain(t *testing.T) {
	p := NewPool(4 * ChunkSize)
	defer p.Release()
	b, other := NewBuffer(p), NewBuffer(p)
	defer other.Free()
	for range 2 {
		if b.Free(); p.Held() != ChunkSize || kept(p) != 1 || b.Size != 0 {
			t.Errorf("want 1 chunk held and 1 kept, got %d bytes and %d", p.Held(), kept(p))
		}
	}
}

// TestPoolNeverHasMore: whatever captures take, make ready and give back, and in
// whatever order, what is lent and what is kept together are within the limit.
func TestPoolNeverHasMore(t *testing.T) {
	const limit = 5
	p := NewPool(limit*ChunkSize + ChunkSize/2)
	defer p.Release()
	var buffers []*Buffer
	for step := range 2000 {
		i := rand.IntN(len(buffers) + 1)
		switch {
		case i == len(buffers):
			if b := NewBuffer(p); b != nil {
				buffers = append(buffers, b)
			}
		case rand.IntN(3) == 0:
			buffers[i].Free()
			buffers[i] = buffers[len(buffers)-1]
			buffers = buffers[:len(buffers)-1]
		case rand.IntN(2) == 0:
			buffers[i].Reserve(rand.IntN(3 * ChunkSize))
		default:
			buffers[i].Rooms(1 + rand.IntN(limit))
			buffers[i].Trim()
		}
		held, all := p.Held()/ChunkSize, 0
		for _, b := range buffers {
			all += len(b.chunks)
		}
		if int(held) != all || all+kept(p) > limit {
			t.Fatalf("step %d: want %d chunks at most, got %d held by buffers, %d lent and %d kept", step, limit, all, held, kept(p))
		}
	}
}

// kept returns how many chunks a pool keeps for the next capture.
func kept(p *Pool) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// TestPoolHasAReserve: chunks are ready before the first capture, and again after
// one that keeps what it has taken; at rest there are no more of them.
func TestPoolHasAReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool(4 * reserveShare * ChunkSize)
		p.huge.get = noHugePages
		defer p.Release()
		time.Sleep(2 * reserveRest)
		synctest.Wait()
		if got := kept(p); got != 4 {
			t.Fatalf("want 4 chunks ready, got %d", got)
		}
		b := NewBuffer(p)
		if _, err := b.Write(make([]byte, 6*ChunkSize)); err != nil {
			t.Fatal(err)
		}
		if got := kept(p); got != 0 {
			t.Errorf("want the reserve taken first, got %d chunks left", got)
		}
		time.Sleep(2 * reserveRest)
		synctest.Wait()
		if got := kept(p); got != 4 {
			t.Errorf("want 4 chunks ready again, got %d", got)
		}
		b.Free()
		time.Sleep(2 * chunkRest)
		if got := kept(p); got != 4 {
			t.Errorf("want 4 chunks kept at rest, got %d", got)
		}
	})
}

// TestReserveIsInTheBudget: there is no reserve where that were much, and none
// is made of what others may need.
func TestReserveIsInTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := NewPool((reserveShare - 1) * ChunkSize)
		time.Sleep(2 * reserveRest)
		synctest.Wait()
		if got := kept(small); got != 0 {
			t.Errorf("small: want no chunk ready, got %d", got)
		}
		p := NewPool(reserveShare * ChunkSize)
		p.huge.get = noHugePages
		defer p.Release()
		synctest.Wait() // for the first one
		b := NewBuffer(p)
		defer b.Free()
		if _, err := b.Write(make([]byte, reserveShare/2*ChunkSize)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * reserveRest)
		synctest.Wait()
		if got := kept(p); got != 0 {
			t.Errorf("half lent: want no chunk ready, got %d", got)
		}
	})
}

package capfile

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// noHugePages is a kernel that has none.
func noHugePages() [][]byte { return nil }

// TestMapHuge: the two chunks of a huge page are one behind the other, where a huge page
// may lie, and each can be given back alone.
func TestMapHuge(t *testing.T) {
	chunks := mapHuge()
	if chunks == nil {
		t.Skip("this kernel populates no huge pages")
	}
	lower, upper := uintptr(unsafe.Pointer(&chunks[0][0])), uintptr(unsafe.Pointer(&chunks[1][0]))
	if lower%hugePage != 0 || upper != lower+ChunkSize {
		t.Errorf("chunks at %#x and %#x", lower, upper)
	}
	for _, chunk := range chunks {
		if len(chunk) != ChunkSize || cap(chunk) != ChunkSize {
			t.Errorf("a chunk of %d bytes with room for %d", len(chunk), cap(chunk))
		}
	}
	unmapChunk(chunks[0])
	chunks[1][0], chunks[1][ChunkSize-1] = 1, 1
	unmapChunk(chunks[1])
}

// addressSpace returns how many bytes this process has mapped.
func addressSpace(t *testing.T) int {
	t.Helper()
	stat, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages := 0
	if _, err := fmt.Sscan(string(stat), &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// TestNothingStaysMapped: what is around a huge page goes back to the kernel at once, and so
// do chunks that are too many for a pool.
func TestNothingStaysMapped(t *testing.T) {
	full := NewPool(ChunkSize)
	defer NewBuffer(full).Free()
	for name, round := range map[string]func(){
		"a huge page": func() {
			for _, chunk := range mapHuge() {
				unmapChunk(chunk)
			}
		},
		"too many": func() {
			if full.keep(mapChunk()) {
				t.Error("want no chunk kept beyond the limit")
			}
		},
	} {
		const rounds, most = 32, 16 * ChunkSize
		grown := most + 1
		for try := 0; try < 3 && grown > most; try++ { // the runtime may map something meanwhile
			before := addressSpace(t)
			for range rounds {
				round()
			}
			grown = addressSpace(t) - before
		}
		if grown > most {
			t.Errorf("%s: want it all given back, %d bytes are mapped after %d rounds", name, grown, rounds)
		}
	}
}

// TestPoolFeeds: who takes many chunks finds some of huge pages ready, from the fourth one
// on; there are never more than the limit.
func TestPoolFeeds(t *testing.T) {
	for name, c := range map[string]struct{ limit, taken, ready int }{
		"few":           {64, fewChunks - 1, 0},
		"many":          {64, fewChunks, 2},
		"one of them":   {64, fewChunks + 1, 1},
		"all of them":   {64, fewChunks + 2, 2},
		"more":          {64, 20, 2},
		"up to an end":  {10, 8, 2},
		"the last one":  {9, 8, 0},
		"all there are": {8, 8, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := NewPool(int64(c.limit) * ChunkSize)
				p.huge.get = func() [][]byte { return [][]byte{mapChunk(), mapChunk()} }
				defer p.Release()
				b := NewBuffer(p)
				defer b.Free()
				for taken := range c.taken {
					if !b.Reserve((taken + 1) * ChunkSize) {
						t.Fatalf("no chunk %d", taken)
					}
					synctest.Wait()
					if held := int(p.Held()/ChunkSize) + kept(p); held > c.limit {
						t.Fatalf("%d chunks of %d at most", held, c.limit)
					}
				}
				if got := kept(p); got != c.ready {
					t.Errorf("want %d chunks ready, got %d", c.ready, got)
				}
			})
		})
	}
}

// TestHugePagesAreSlow: once a huge page has taken long, or there was none, small ones do for a
// while. Who takes chunks never waits for one.
func TestHugePagesAreSlow(t *testing.T) {
	for name, page := range map[string]func() [][]byte{
		"slow": func() [][]byte {
			time.Sleep(2 * slowHugePage)
			return [][]byte{mapChunk(), mapChunk()}
		},
		"none": noHugePages,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int64
				p := NewPool(64 * ChunkSize)
				p.huge.get = func() [][]byte {
					asked.Add(1)
					return page()
				}
				defer p.Release()
				b := NewBuffer(p)
				defer b.Free()
				began := time.Now()
				if !b.Reserve(20*ChunkSize) || time.Since(began) > 0 {
					t.Errorf("20 chunks after %v", time.Since(began))
				}
				time.Sleep(smallFor - time.Second)
				if b.Reserve(22 * ChunkSize); asked.Load() != 1 {
					t.Errorf("want one huge page asked for, got %d", asked.Load())
				}
				time.Sleep(2 * time.Second)
				b.Reserve(24 * ChunkSize)
				time.Sleep(time.Second)
				if asked.Load() != 2 {
					t.Errorf("later: want one more asked for, got %d in all", asked.Load())
				}
			})
		})
	}
}

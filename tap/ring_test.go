package tap

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcap"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// ethernet and linuxSLL2 are link types.
const ethernet, linuxSLL2 = 1, 276

// leastRing is the smallest compact ring, in segments: one that is written, one
// that is read, and some between them.
const leastRing = 4

// everything is what a cursor takes if nobody cuts it down.
var everything = want{snap: 1 << 20, link: ethernet}

// never is an end that does not come.
var never = func() *atomic.Int64 {
	end := &atomic.Int64{}
	end.Store(math.MaxInt64)
	return end
}()

// newSmallRing returns a compact ring of so many segments of so many bytes.
func newSmallRing(t testing.TB, segments, size int) *ring {
	t.Helper()
	r, err := newRing(newGeometry(0, int64(segments), int64(size)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// numbered returns a frame of a size that says its number, in a way that shows
// when any byte is out of place.
func numbered(number uint64, size int) []byte {
	frame := make([]byte, max(size, 8))
	_, _ = rand.NewChaCha8([32]byte{byte(number), byte(number >> 8)}).Read(frame)
	binary.BigEndian.PutUint64(frame, number)
	return frame
}

// parse reads records of a pcap file with stamps in nanoseconds.
func parse(t testing.TB, records []byte) []Packet {
	t.Helper()
	header := make([]byte, 24)
	copy(header, "\x4d\x3c\xb2\xa1\x02\x00\x04\x00")
	header[18] = 0xff // snapshot length
	header[20] = 1    // link type
	file, err := pcapgo.NewReader(bytes.NewReader(append(header, records...)))
	if err != nil {
		t.Fatal(err)
	}
	return packetsOf(file)
}

// packetsOf returns the packets of a file that is open.
func packetsOf(file gopacket.PacketDataSource) []Packet {
	var packets []Packet
	for {
		data, info, err := file.ReadPacketData()
		if err != nil {
			return packets
		}
		packets = append(packets, Packet{info, data})
	}
}

// A witness follows what a cursor yields: numbers without a gap, but for what
// the cursor says that it missed.
type witness struct {
	*cursor
	next   uint64 // number that comes next, if nothing is missed
	missed int64  // said so far
}

// check takes a cursor's packets.
func (w *witness) check(t testing.TB, records []byte) {
	t.Helper()
	for _, p := range parse(t, records) {
		number := binary.BigEndian.Uint64(p.Data)
		if number < w.next {
			t.Errorf("want %d or later, got %d", w.next, number)
			return
		}
		w.missed -= int64(number - w.next)
		w.next = number + 1
		if want := numbered(number, len(p.Data)); !bytes.Equal(want, p.Data) {
			t.Errorf("packet %d of %d bytes is damaged", number, len(p.Data))
			return
		}
	}
	if w.missed+w.cursor.missed() < 0 {
		t.Errorf("before %d: %d are missing, %d were said to be", w.next, -w.missed, w.cursor.missed())
	}
}

// finish checks that nothing but what was missed is missing at the end.
func (w *witness) finish(t testing.TB, written uint64) {
	t.Helper()
	if missing := int64(written-w.next) - w.missed; missing != w.cursor.missed() {
		t.Errorf("%d are missing, %d were said to be", missing, w.cursor.missed())
	}
}

// FuzzRing lets a writer, a kernel and readers take turns: what a reader gets is
// always a gap-free run of what was written, or the gap is counted.
func FuzzRing(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed, uint8(seed), uint8(3*seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, haste, size uint8) {
		random := rand.New(rand.NewPCG(seed, 0))
		k := newFakeKernel(t, 2+random.IntN(6), leastRing+random.IntN(4), 4096)
		r := k.ring
		var written uint64
		var readers []*witness
		room := make([]byte, 1<<16)
		for range 2000 {
			switch act := random.IntN(256); {
			case act > int(haste):
				for range 1 + random.IntN(3) {
					k.receive(time.Unix(0, int64(written)), numbered(written, random.IntN(1+8*int(size))))
					written++
				}
				k.retire()
				if random.IntN(3) > 0 && !r.takeBlocks() {
					t.Fatal("the ring is broken")
				}
			case len(readers) < 5 && random.IntN(10) == 0:
				past := random.IntN(2) == 0
				r.takeBlocks() // what comes later is of later
				w := &witness{cursor: r.newCursor(time.Unix(0, int64(written)), false)}
				if past {
					w.cursor = r.newCursor(time.Unix(0, 0), true)
				}
				w.next = uint64(w.at.packets_passed)
				readers = append(readers, w)
			case len(readers) > 0:
				w := readers[random.IntN(len(readers))]
				_, n, _ := w.take(&everything, room[:random.IntN(len(room))], int64(random.IntN(50)), never)
				w.check(t, room[:n])
			}
		}
		r.takeBlocks()
		for _, w := range readers {
			for {
				packets, n, why := w.take(&everything, room, math.MaxInt64, never)
				w.check(t, room[:n])
				if why == haltEmpty {
					break
				} else if packets == 0 {
					t.Fatal("a reader has come to a halt")
				}
			}
			w.finish(t, k.recorded)
		}
	})
}

// TestRingIsOvertaken lets a writer run away from slow readers, and readers
// come and go.
func TestRingIsOvertaken(t *testing.T) {
	r := newSmallRing(t, 8, 1<<14)
	var written atomic.Uint64
	var missed atomic.Int64 // by slow readers
	var parties sync.WaitGroup
	done := make(chan struct{})
	parties.Go(func() {
		defer close(done)
		random := rand.New(rand.NewPCG(1, 1))
		for n := range uint64(60_000) {
			data := numbered(n, random.IntN(1500))
			r.put(time.Unix(0, int64(n)), data, len(data), nil)
			written.Store(n + 1)
		}
	})
	for reader := range uint64(6) {
		parties.Go(func() {
			random := rand.New(rand.NewPCG(2, reader))
			w := &witness{cursor: r.newCursor(time.Unix(0, 0), true)}
			w.next = uint64(w.at.packets_passed)
			room := make([]byte, 1<<15)
			slow := everything
			if reader%2 == 0 { // the writer comes round to the chunk that is being copied
				slow.filter = append(make(program, 20_000), pcap.BPFInstruction{Code: 0x06, K: 1})
			}
			for over := false; ; {
				_, n, why := w.take(&slow, room[:2000+random.IntN(1<<15-2000)], math.MaxInt64, never)
				w.check(t, room[:n])
				if why == haltEmpty && over {
					break
				}
				if why == haltEmpty || reader%2 == 0 {
					time.Sleep(time.Duration(random.IntN(1000)) * time.Microsecond)
				}
				select {
				case <-done:
					over = true
				default:
				}
				r.holding()
			}
			w.finish(t, written.Load())
			if reader%2 == 0 {
				missed.Add(w.cursor.missed())
			}
		})
	}
	parties.Wait()
	if missed.Load() == 0 {
		t.Error("no slow reader was overtaken")
	}
}

// TestSparseBlocksAreCopied: what comes slowly is remembered for longer than the
// kernel has blocks, and what comes fast is not copied.
func TestSparseBlocksAreCopied(t *testing.T) {
	const blocks, segments, size = 8, 4, 4096
	k := newFakeKernel(t, blocks, segments, size)
	for n := range uint64(4 * blocks) {
		k.receive(time.Unix(0, int64(n)), numbered(n, 60))
		k.retire()
	}
	k.ring.takeBlocks()
	if held := k.ring.holding(); !held.whole {
		t.Errorf("want all %d sparse blocks remembered, got those since %v", 4*blocks, held.oldest.UnixNano())
	}
	state := k.ring.c.state
	chunks, begun := state.newest, state.segments
	k.receive(time.Unix(1, 0), numbered(0, 3000))
	k.retire()
	k.ring.takeBlocks()
	if state.newest != chunks+1 || state.segments != begun {
		t.Errorf("want a full block as the next chunk, got %d more chunks and %d more segments",
			state.newest-chunks, state.segments-begun)
	}
}

// TestChunkKnowsItsLatestStamp: stamps are not always in order, and what is looked
// for by the latest one is found.
func TestChunkKnowsItsLatestStamp(t *testing.T) {
	r := newSmallRing(t, leastRing, 4096)
	putAt(r, 0, 150)
	putAt(r, 1, 200)
	for n := range uint64(100) {
		putAt(r, 2+n, 150) // of a clock that was set back, in the next chunks, too
	}
	c := r.newCursor(time.Unix(180, 0), true)
	room := make([]byte, 1<<14)
	_, size, _ := c.take(&everything, room, math.MaxInt64, never)
	if got := parse(t, room[:size]); len(got) != 1 || binary.BigEndian.Uint64(got[0].Data) != 1 {
		t.Errorf("want the second packet alone, got %d", len(got))
	}
}

// TestBlockKnowsItsLatestStamp: that of a block is not always its last packet's.
func TestBlockKnowsItsLatestStamp(t *testing.T) {
	// Of so many blocks, full ones are not copied.
	k := newFakeKernel(t, 2*leastRing, leastRing, 4096)
	for number, second := range []int64{200, 150, 150, 150, 150, 150} { // two in each
		k.receive(time.Unix(second, 0), numbered(uint64(number), 1800))
	}
	k.retire()
	k.ring.takeBlocks()
	got, _ := takeNumbers(t, k.ring.newCursor(time.Unix(180, 0), true), &everything, math.MaxInt64)
	if !slices.Equal(got, []uint64{0}) {
		t.Errorf("want the first packet alone, got %d", got)
	}
}

// TestRingIsThereFromTheStart: the memory of a ring is taken when it is made, not
// when packets come and there may be none.
func TestRingIsThereFromTheStart(t *testing.T) {
	const size = 8 << 20
	r, err := newRing(newGeometry(0, size/blockSize, blockSize), nil)
	if err != nil {
		t.Fatal(err)
	}
	pages := make([]byte, len(r.memory)/unix.Getpagesize())
	if _, _, code := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&r.memory[0])), uintptr(len(r.memory)),
		uintptr(unsafe.Pointer(&pages[0]))); code != 0 {
		t.Fatal(code)
	}
	if missing := bytes.Count(pages, []byte{0}); missing > 0 {
		t.Errorf("want all %d pages there, got %d missing", len(pages), missing)
	}
	runtime.KeepAlive(r)
}

// TestRingIsUnmapped: the memory of a ring goes, and the kernel's, when nobody has it any more.
func TestRingIsUnmapped(t *testing.T) {
	const name = "unmapped"
	g := newGeometry(leastRing, leastRing, 4096)
	size, _ := ringLayout(&g)
	file := func(size int64) *os.File {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		if err == nil {
			err = unix.Ftruncate(fd, size)
		}
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), name)
	}
	mapped := func() int {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(maps), name)
	}
	kernel := file(leastRing * 4096)
	blocks, err := unix.Mmap(int(kernel.Fd()), 0, leastRing*4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	r, err := mapRing(g, file(size), blocks)
	if err != nil {
		t.Fatal(err)
	}
	if got := mapped(); got != 2 {
		t.Errorf("want memory and blocks mapped, got %d of them", got)
	}
	runtime.KeepAlive(r)
	r = nil
	testbed.Eventually(t, 5*time.Second, "nothing is mapped", func() bool {
		runtime.GC()
		return mapped() == 0
	})
}

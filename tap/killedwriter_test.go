package tap

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killedWriter is set for the process that writes until it is killed.
const killedWriter = "TAP_KILLED_WRITER"

// TestKilledWriter kills the process that writes a ring and its story, again and
// again at any moment. The next one finds the ring in order, with each packet
// once, and a story as it was written, or none.
func TestKilledWriter(t *testing.T) {
	const blocks, segments, size, kills = 8, 6, 1 << 17, 60
	g := newGeometry(blocks, segments, size)
	newRingOf := func(file, blockFile *os.File) *ring {
		r, err := mapRing(g, file, mapBlocks(t, blockFile, blocks*size, unix.PROT_READ|unix.PROT_WRITE))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if os.Getenv(killedWriter) != "" {
		ring := newRingOf(os.NewFile(3, "ring"), os.NewFile(4, "blocks"))
		if !ring.restore(g) {
			t.Fatal("want the ring in order, got it damaged")
		}
		writeUntilKilled(ring)
	}
	blockFile := newBlockFile(t, blocks*size)
	first, err := newRing(g, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &killedWriting{fakeKernel: &fakeKernel{ring: newRingOf(first.file, blockFile), size: size},
		random: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))}
	for range kills {
		w.writeAndKill(t, first.file, blockFile)
		ring := newRingOf(first.file, blockFile)
		if !ring.restore(g) {
			t.Fatal("want the ring in order, got it damaged")
		}
		w.checkRing(t, ring)
		w.checkStory(t, first.file)
	}
	if w.stories == 0 || w.written == 0 {
		t.Error("want stories and packets, got none")
	}
	t.Logf("%d blocks, %d of %d stories whole", first.c.state.blocks, w.stories, kills)
}

// newBlockFile returns a file for so many bytes of blocks.
func newBlockFile(t *testing.T, size int64) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("blocks", 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "blocks")
	t.Cleanup(func() { file.Close() })
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return file
}

// mapBlocks maps a file of blocks.
func mapBlocks(t *testing.T, file *os.File, size, protection int) []byte {
	t.Helper()
	blocks, err := unix.Mmap(int(file.Fd()), 0, size, protection, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

// TestKilledBeforeGivingBack: a block counts as taken before the kernel gets it back. Who
// goes on after a writer that was killed in between gives it back; the other way round,
// the kernel would have filled it anew under a number that nobody waits for.
func TestKilledBeforeGivingBack(t *testing.T) {
	const size = 4096
	g := newGeometry(2, leastRing, size)
	if os.Getenv(killedWriter) != "" { // it may not write to blocks, and so dies as it gives the first one back
		r, err := mapRing(g, os.NewFile(3, "ring"), mapBlocks(t, os.NewFile(4, "blocks"), 2*size, unix.PROT_READ))
		if err != nil {
			t.Fatal(err)
		}
		r.takeBlocks()
		return
	}
	blockFile := newBlockFile(t, 2*size)
	r, err := newRing(g, mapBlocks(t, blockFile, 2*size, unix.PROT_READ|unix.PROT_WRITE))
	if err != nil {
		t.Fatal(err)
	}
	k := &fakeKernel{size: size, ring: r}
	k.receive(time.Unix(0, 0), numbered(0, 60))
	k.retire()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledBeforeGivingBack$")
	cmd.Env = append(os.Environ(), killedWriter+"=1")
	cmd.ExtraFiles = []*os.File{r.file, blockFile}
	if out, err := cmd.CombinedOutput(); !strings.Contains(string(out), "SIGSEGV") {
		t.Fatalf("want it killed by the block that it cannot write to, got %v: %s", err, out)
	}
	if got := k.ring.c.state.blocks; got != 1 {
		t.Errorf("want one block counted as taken, got %d", got)
	}
	if !k.ring.restore(g) || binary.NativeEndian.Uint32(k.block(1)[8:]) != unix.TP_STATUS_KERNEL {
		t.Error("want the ring in order and the block given back, got it otherwise")
	}
	if got := k.ring.holding().packets; got != 1 {
		t.Errorf("want one packet, got %d", got)
	}
}

// writeUntilKilled takes blocks and writes stories in turn, and never returns.
func writeUntilKilled(r *ring) {
	var texts [2][]byte
	for i := range texts {
		texts[i], _ = json.Marshal(storyOf(i)) // of plain fields
	}
	os.Stdout.Write([]byte{'\n'})
	for n := 0; ; n++ {
		writeStory(r.memory[:storySize], texts[n%2])
		r.takeBlocks()
	}
}

// storyOf returns the one or the other of two stories of one length.
func storyOf(i int) story {
	s := story{Version: keptVersion, Interface: fmt.Sprint("v", i), Index: 1 + i, Snap: 100 + i}
	for range 100 {
		s.Absences = append(s.Absences, [2]time.Time{time.Unix(int64(1000+i), 0), time.Unix(int64(2000+i), 0)})
	}
	return s
}

// A killedWriting is a kernel whose writer is killed, and what there is to find then.
type killedWriting struct {
	*fakeKernel
	random  *rand.Rand
	written uint64
	stories int // that were whole
}

// writeAndKill lets another process write, and kills it.
func (w *killedWriting) writeAndKill(t *testing.T, file, blockFile *os.File) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriter$")
	cmd.Env = append(os.Environ(), killedWriter+"=1")
	cmd.ExtraFiles = []*os.File{file, blockFile}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Errorf("want the writer to begin, got %v", err)
	}
	for range 1 + w.random.IntN(4) {
		w.feed()
	}
	state := w.ring.c.state
	// Now and then while it takes a block: what is done at once is seldom hit.
	for end := time.Now().Add(10 * time.Millisecond); w.random.IntN(4) > 0 && time.Now().Before(end); {
		if load(&state.undo.blocks) == load(&state.blocks) {
			break
		}
	}
	_ = cmd.Process.Signal(syscall.SIGKILL)
}

// feed fills the next block, if it has been given back.
func (w *killedWriting) feed() {
	block := w.block(w.sequence + 1)
	if binary.NativeEndian.Uint32(block[8:]) != unix.TP_STATUS_KERNEL {
		return
	}
	for range 1 + w.random.IntN(w.size/100) { // some are sparse and some are not
		w.receive(time.Unix(0, int64(w.written)), numbered(w.written, 8))
		w.written++
	}
	w.sequence++
	w.fill(block)
}

// checkRing takes what the kernel has retired meanwhile and checks that each packet
// is there once, up to the end.
func (w *killedWriting) checkRing(t *testing.T, r *ring) {
	t.Helper()
	if !r.takeBlocks() {
		t.Fatal("want the ring to go on, got it broken")
	}
	reader := &witness{cursor: r.newCursor(time.Unix(0, 0), true)}
	reader.next = uint64(reader.at.packets_passed)
	room := make([]byte, 4<<20)
	_, n, _ := reader.take(&everything, room, math.MaxInt64, never)
	reader.check(t, room[:n])
	reader.finish(t, w.written)
}

// checkStory checks that a story is one of the two, or none.
func (w *killedWriting) checkStory(t *testing.T, file *os.File) {
	t.Helper()
	s, err := readStory(file)
	if err != nil {
		return
	}
	w.stories++
	got, _ := json.Marshal(s) // as below
	for i := range 2 {
		if want, _ := json.Marshal(storyOf(i)); string(got) == string(want) {
			return
		}
	}
	t.Errorf("want a story as it was written, got %.200s", got)
}

// TestKilledAtTheEndOfABlock: a block that the writer was killed in front of counting
// is undone and taken again, one that it only had not given back is given back.
func TestKilledAtTheEndOfABlock(t *testing.T) {
	const statusAt = 8 // in a block
	for name, counted := range map[string]bool{"before it counts": false, "before it is given back": true} {
		k := newFakeKernel(t, 4, leastRing, 4096)
		state := k.ring.c.state
		takeNext := func() {
			t.Helper()
			number := uint64(state.blocks)
			k.receive(time.Unix(0, int64(number)), numbered(number, 3000)) // which needs a segment of its own
			k.retire()
			if !k.ring.takeBlocks() {
				t.Fatalf("%s: want the ring to go on, got it broken", name)
			}
		}
		takeNext()
		takeNext()
		segments := state.segments
		binary.NativeEndian.PutUint32(k.block(2)[statusAt:], unix.TP_STATUS_USER)
		if !counted {
			state.blocks--
			segments--
		}
		if !k.ring.restore(state.geometry) {
			t.Fatalf("%s: want the ring in order, got it damaged", name)
		}
		if back := binary.NativeEndian.Uint32(k.block(2)[statusAt:]) == unix.TP_STATUS_KERNEL; back != counted {
			t.Errorf("%s: want the block given back %v, got %v", name, counted, back)
		}
		if state.segments != segments {
			t.Errorf("%s: want %d segments begun, got %d", name, segments, state.segments)
		}
		if !k.ring.takeBlocks() {
			t.Fatalf("%s: want the ring to go on, got it broken", name)
		}
		takeNext()
		reader := &witness{cursor: k.ring.newCursor(time.Unix(0, 0), true)}
		room := make([]byte, 1<<14)
		packets, n, _ := reader.take(&everything, room, math.MaxInt64, never)
		reader.check(t, room[:n])
		if packets != 3 {
			t.Errorf("%s: want each of 3 packets once, got %d", name, packets)
		}
	}
}

package tap

import (
	"encoding/binary"
	"testing"
	"time"
	"unsafe"
)

// Where the words of a ring's state stand in its memory (ring.h), and those of a chunk.
const (
	wordGeometry, wordOldest, wordNewest, wordBlocks, wordSegments = 0, 5, 6, 7, 8

	wordUndoSegments, wordUndoBlocks, wordUndoSum, wordChunks = 11, 12, 23, 24

	chunkNumber, chunkBefore, chunkLostBefore, chunkPackets, chunkLost = 0, 1, 2, 3, 4
	chunkUsed, chunkSequence, chunkPlace, chunkWords                   = 7, 8, 9, 10
)

// keptBlocks are so many that a full one is not copied to segments.
const keptBlocks = 5

// A keptRing is a ring whose state is damaged.
type keptRing struct{ *ring }

// word returns a word of the state.
func (k keptRing) word(n int) *int64 { return (*int64)(unsafe.Pointer(&k.memory[storySize+8*n])) }

// chunk returns a word of the description of a chunk, which is the newest but so many.
func (k keptRing) chunk(before, n int) *int64 {
	number := int(*k.word(wordNewest)) - before
	return k.word(wordChunks + number%int(k.c.state.geometry.entries)*chunkWords + n)
}

// newKeptRing returns a ring in order, with many segments and, as the newest but one, a block.
func newKeptRing(t *testing.T) keptRing {
	t.Helper()
	k := newFakeKernel(t, keptBlocks, leastRing, 4096)
	for n := range uint64(200) {
		putAt(k.ring, n, 1)
	}
	k.receive(time.Unix(1, 0), numbered(200, 3900))
	k.retire()
	k.ring.takeBlocks()
	putAt(k.ring, 201, 1)
	k.ring.lose(time.Unix(1, 0), 7)
	return keptRing{k.ring}
}

// TestRestoreCountsAnew: what the newest chunk is said to hold, when its writer was killed
// between two stores, is what it holds.
func TestRestoreCountsAnew(t *testing.T) {
	k := newKeptRing(t)
	*k.chunk(0, chunkPackets), *k.chunk(0, chunkLost) = 0, 0
	if !k.restore(k.c.state.geometry) {
		t.Fatal("want the ring in order, got it damaged")
	}
	if got := k.holding(); got.packets != 202 || got.lost != 7 {
		t.Errorf("want 202 packets and 7 lost, got %d and %d", got.packets, got.lost)
	}
}

// TestRestoreRefuses: a state that cannot be is no reason to read beyond the memory.
func TestRestoreRefuses(t *testing.T) {
	const far = 1 << 40
	for name, damage := range map[string]func(k keptRing){
		"another geometry":             func(k keptRing) { *k.word(wordGeometry)++ },
		"an oldest chunk of 0":         func(k keptRing) { *k.word(wordOldest) = 0 },
		"a newest before the oldest":   func(k keptRing) { *k.word(wordNewest) = *k.word(wordOldest) - 1 },
		"more chunks than entries":     func(k keptRing) { *k.word(wordNewest) += int64(k.c.state.geometry.entries) },
		"a newest chunk far away":      func(k keptRing) { *k.word(wordNewest) = far },
		"less than no blocks":          func(k keptRing) { *k.word(wordBlocks) = -1 },
		"no segments":                  func(k keptRing) { *k.word(wordSegments) = 0 },
		"segments far away":            func(k keptRing) { *k.word(wordSegments) = far },
		"an undo that was not written": func(k keptRing) { *k.word(wordUndoSegments)++ },
		"an undo of other sums":        func(k keptRing) { *k.word(wordUndoSum)++ },
		"an undo of later blocks":      func(k keptRing) { *k.word(wordUndoBlocks) = far },
		"another number":               func(k keptRing) { *k.chunk(1, chunkNumber)++ },
		"less than no packets":         func(k keptRing) { *k.chunk(1, chunkPackets) = -1 },
		"less than no packets before":  func(k keptRing) { *k.chunk(1, chunkBefore) = -1 },
		"less than none lost":          func(k keptRing) { *k.chunk(1, chunkLost) = -1 },
		"less than none lost before":   func(k keptRing) { *k.chunk(1, chunkLostBefore) = -1 },
		"less than no bytes":           func(k keptRing) { *k.chunk(2, chunkUsed) = -1 },
		"more than a segment":          func(k keptRing) { *k.chunk(2, chunkUsed) = 4104 },
		"more than all memory":         func(k keptRing) { *k.chunk(0, chunkUsed) = far },
		"a segment that was none yet":  func(k keptRing) { *k.chunk(2, chunkPlace) = *k.word(wordSegments) },
		"a segment of another round":   func(k keptRing) { *k.chunk(2, chunkPlace) -= leastRing },
		"a segment before all":         func(k keptRing) { *k.chunk(2, chunkPlace) = -1 },
		"a block that was none yet":    func(k keptRing) { *k.chunk(1, chunkSequence) = 1 + keptBlocks },
		"a block before all":           func(k keptRing) { *k.chunk(1, chunkSequence) = -1 },
		"another place of a block":     func(k keptRing) { *k.chunk(1, chunkPlace)++ },
		"more than a block":            func(k keptRing) { *k.chunk(1, chunkUsed) = 4104 },
		"a record that is too long": func(k keptRing) {
			segment := int(*k.chunk(0, chunkPlace)) % leastRing * 4096
			_, segments := ringLayout(&k.c.state.geometry)
			binary.NativeEndian.PutUint32(k.memory[int(segments)+segment+8:], 5000)
		},
	} {
		k := newKeptRing(t)
		if sequence := *k.chunk(1, chunkSequence); sequence != 1 {
			t.Fatalf("want the block before the newest chunk, got block %d", sequence)
		}
		damage(k)
		if k.restore(newGeometry(keptBlocks, leastRing, 4096)) {
			t.Errorf("%s: want it damaged, got it in order", name)
		}
	}
	if k := newKeptRing(t); !k.restore(newGeometry(keptBlocks, leastRing, 4096)) {
		t.Error("want a ring in order that is not damaged")
	}
}

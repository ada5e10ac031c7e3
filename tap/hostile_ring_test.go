package tap

import (
	"encoding/binary"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// runC builds a C program with these arguments and runs it: it prints what is wrong.
func runC(t *testing.T, args ...string) {
	t.Helper()
	testbed.NeedTools(t, "gcc")
	program := filepath.Join(t.TempDir(), "program")
	build := exec.Command("gcc", append([]string{"-g", "-I.", "-o", program}, args...)...)
	if out, err := build.CombinedOutput(); strings.Contains(string(out), "cannot find") {
		testbed.Lack(t, string(out)) // a library: the sanitizers have their own
	} else if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := exec.Command(program)
	run.Env = append(os.Environ(), "ASAN_OPTIONS=detect_leaks=0")
	out, err := run.CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s", out)
}

// TestHostileRing: a writer fills the kernel's ring with garbage while a reader
// follows it, under the address and undefined behaviour sanitizers.
func TestHostileRing(t *testing.T) {
	runC(t, "-O1", "-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all",
		"testdata/hostile.c", "ring.c", "cursor.c", "-lpthread")
}

// TestDamagedRing: a ring that holds what cannot be is not gone on with, nor read
// beyond what is used of it.
func TestDamagedRing(t *testing.T) {
	const size = 4096
	geometry := newGeometry(0, leastRing, size)
	for name, test := range map[string]struct {
		damage func(r *ring)
		want   []uint64 // that can be read all the same
	}{
		"a packet is longer than what is used": {func(r *ring) {
			_, segments := ringLayout(&geometry)
			place := int64(r.c.state.segments-1) % leastRing
			binary.NativeEndian.PutUint32(r.memory[segments+place*size+8:], size)
		}, []uint64{9, 10, 11}},
		"a segment has been overwritten since": {func(r *ring) { r.c.state.segments++ }, []uint64{9, 10, 11, 12}},
	} {
		r := newSmallRing(t, leastRing, size)
		for number := range uint64(13) { // a segment for each
			data := numbered(number, size*2/3)
			r.put(time.Unix(0, int64(number)), data, len(data), nil)
		}
		if !r.restore(geometry) {
			t.Fatalf("%s: want the ring in order before", name)
		}
		test.damage(r)
		if r.restore(geometry) {
			t.Errorf("%s: want the ring refused", name)
		}
		got, _ := takeNumbers(t, r.newCursor(time.Unix(0, 0), true), &everything, math.MaxInt64)
		if !slices.Equal(test.want, got) {
			t.Errorf("%s: want packets %d, got %d", name, test.want, got)
		}
	}
}

// TestBlockOutOfTurn: a block of another number than the next one is not taken.
func TestBlockOutOfTurn(t *testing.T) {
	k := newFakeKernel(t, 4, leastRing, 4096)
	for _, sequence := range []uint64{0, 2, 1 << 63, math.MaxUint64} {
		k.sequence = 0
		k.receive(time.Now(), make([]byte, 60))
		k.retire()
		binary.NativeEndian.PutUint64(k.block(1)[24:], sequence)
		if k.ring.takeBlocks() || k.ring.holding().packets != 0 {
			t.Errorf("block %d: want it not taken", sequence)
		}
		clear(k.block(1))
	}
}

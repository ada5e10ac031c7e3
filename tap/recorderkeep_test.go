package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/testbed"
)

// keepFiles returns copies of a recorder's files, as another process keeps them.
func keepFiles(t testing.TB, r *Recorder) []*os.File {
	t.Helper()
	var kept []*os.File
	for _, f := range r.Files() {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, os.NewFile(uintptr(fd), "kept"))
	}
	return kept
}

// TestRecorderResumes: another recorder goes on with what was kept, without a
// gap or a repeat, and has what came while there was none.
func TestRecorderResumes(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	first := startRecorder(t, l.recorded, recordV0(), 4<<20)
	first.awaitUp(t)
	s := startSender(t, l.other, "v1", time.Millisecond, 200)
	time.Sleep(500 * time.Millisecond)
	kept := keepFiles(t, first.Recorder)
	first.stop()
	time.Sleep(500 * time.Millisecond) // nobody is there

	second := resumeRecorder(t, l, kept)
	time.Sleep(500 * time.Millisecond)
	s.stop()
	time.Sleep(3 * ReadTimeout)
	reader := second.read(t, "udp", ReaderOptions{From: time.Now().Add(-time.Hour), Past: true})
	if gap := reader.Gap(); gap != nil {
		t.Errorf("want no gap, got %v", gap)
	}
	numbers := numbersOf(second.readPast(t, "udp"))
	testbed.CheckNoGap(t, numbers)
	if int64(len(numbers)) != s.sent.Load() {
		t.Errorf("want %d packets, got %d", s.sent.Load(), len(numbers))
	}
}

// TestRecorderRefusesToResume: what does not fit exactly is refused, and says why.
func TestRecorderRefusesToResume(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	first := startRecorder(t, l.recorded, recordV0(), 4<<20)
	first.awaitUp(t)
	for words, test := range map[string]struct {
		change func(o *Options)
		size   int64
	}{
		"another snapshot length": {func(o *Options) { o.Snap = 100 }, 4 << 20},
		"another size":            {func(*Options) {}, 8 << 20},
		"another interface":       {func(o *Options) { o.Interface = "v9" }, 4 << 20},
		"another filter":          {func(o *Options) { o.Filter = &Filter{expression: "udp"} }, 4 << 20},
	} {
		o := recordV0()
		test.change(&o)
		r, err := NewRecorder(o, test.size, nil)
		if err != nil {
			t.Fatal(err)
		}
		kept := keepFiles(t, first.Recorder)
		l.recorded.Do(t, func() { err = r.Resume(kept) })
		checkClosed(t, kept)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("want %q, got %v", words, err)
		}
	}
	kept := keepFiles(t, first.Recorder)
	if err := kept[1].Truncate(16 << 20); err != nil {
		t.Fatal(err)
	}
	r, err := NewRecorder(recordV0(), 4<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.recorded.Do(t, func() { err = r.Resume(kept) })
	if want := "has another size"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a longer file: want %q, got %v", want, err)
	}
}

// TestRecorderResumesTwoFiles: with less or more it begins anew, and none stays open.
func TestRecorderResumesTwoFiles(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	r := startRecorder(t, l.recorded, recordV0(), MinRecorder)
	r.awaitUp(t)
	for _, files := range []int{0, 1, 3} {
		kept := append(keepFiles(t, r.Recorder), keepFiles(t, r.Recorder)...)
		other, err := NewRecorder(recordV0(), MinRecorder, nil)
		if err != nil {
			t.Fatal(err)
		}
		l.recorded.Do(t, func() { err = other.Resume(kept[:files]) })
		if want := fmt.Sprintf("%d descriptors were kept", files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		checkClosed(t, kept[:files])
		for _, f := range kept[files:] {
			f.Close()
		}
	}
}

// TestStoryOfAnyLength: whatever length a story claims to have, it is not read beyond its memory.
func TestStoryOfAnyLength(t *testing.T) {
	for _, length := range []uint32{0, storySize - 7, 1<<32 - 1} {
		file, err := os.Create(filepath.Join(t.TempDir(), "story"))
		if err != nil {
			t.Fatal(err)
		}
		memory := make([]byte, storySize)
		binary.NativeEndian.PutUint32(memory, length)
		_, _ = file.Write(memory)
		if _, err := readStory(file); err == nil || !strings.Contains(err.Error(), "not whole") {
			t.Errorf("%d: want it not whole, got %v", length, err)
		}
		file.Close()
	}
}

// TestStoryOfAnotherNetwork: an interface of another network namespace is another one.
func TestStoryOfAnotherNetwork(t *testing.T) {
	if err := (story{Network: 1}).differs(story{Network: 2}); err == nil || !strings.Contains(err.Error(), "network namespace") {
		t.Errorf("want another network namespace, got %v", err)
	}
}

// TestMissing: an absence that reaches into a time is one of it.
func TestMissing(t *testing.T) {
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	r := &Recorder{absences: []absence{{at(1), at(3)}, {at(5), at(7)}}}
	for since, want := range map[int64]int{0: 2, 2: 2, 3: 1, 6: 1, 7: 0} {
		if got := len(r.missing(at(since))); got != want {
			t.Errorf("since %d: want %d absences, got %d", since, want, got)
		}
	}
}

// checkClosed checks that files have been closed.
func checkClosed(t *testing.T, files []*os.File) {
	t.Helper()
	for _, f := range files {
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("want %s closed, got it open, %v", f.Name(), err)
		}
	}
}

// TestAbsencesAreBounded: the latest absences are remembered, so many of them, and
// none of them when everything is forgotten.
func TestAbsencesAreBounded(t *testing.T) {
	ns := testbed.NewNamespace(t, "absences")
	r, err := NewRecorder(Options{Interface: loopbackName, Snap: MaxSnap}, MinRecorder, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.discard()
	open := func() {
		t.Helper()
		ns.Do(t, func() {
			index, err := interfaceIndex(loopbackName)
			if err == nil {
				err = r.open(index, ethernet, program{reject})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	open()
	r.resumed = true // as if another process had opened it
	open()
	if n := len(r.absences); n != 0 {
		t.Errorf("want none where recording has gone on, got %d", n)
	}
	for second := range int64(keptAbsences) {
		r.absences = append(r.absences, absence{time.Unix(second, 0), time.Unix(second+1, 0)})
	}
	open()
	open()
	first, n := r.absences[0].from, len(r.absences)
	if n != keptAbsences || first.Unix() != 2 || r.absences[n-1].to.Unix() < keptAbsences+1 {
		t.Errorf("want the latest %d, got %d since %d s", keptAbsences, n, first.Unix())
	}
	files := r.Files()
	r.discard()
	checkClosed(t, files)
	open()
	if n := len(r.absences); n != 0 {
		t.Errorf("want none in a ring that is empty, got %d", n)
	}
}

// TestRecorderTakesTheRest: a recorder that stops takes what the kernel has retired, so
// that this can be read and the kernel has room, and notes when it did.
func TestRecorderTakesTheRest(t *testing.T) {
	k := newFakeKernel(t, 4, leastRing, 4096)
	r := &Recorder{ring: k.ring, socket: &ringSocket{}}
	k.receive(time.Now(), numbered(0, 60))
	k.retire()
	var stop atomic.Int64
	stop.Store(1)
	began := time.Now()
	r.record(&stop)
	if held := k.ring.holding(); held.packets != 1 || binary.NativeEndian.Uint32(k.block(1)[8:]) != unix.TP_STATUS_KERNEL {
		t.Errorf("want the packet taken and its block given back, got %+v", held)
	}
	if seen := time.Unix(0, int64(k.ring.c.state.seen)); seen.Before(began) || seen.After(time.Now()) {
		t.Errorf("want the time noted, got %v", seen)
	}
}

// TestResumedInterfaceIsAnother: an interface that was replaced while no process ran was
// away since there was one.
func TestResumedInterfaceIsAnother(t *testing.T) {
	testbed.NeedRoot(t)
	l := newLink(t)
	first := startRecorder(t, l.recorded, recordV0(), MinRecorder)
	first.awaitUp(t)
	kept := keepFiles(t, first.Recorder)
	running := time.Now()
	first.stop()
	stopped := time.Now()
	l.recorded.IP(t, "link", "del", "v0")
	l.recorded.Pair(t, l.other)
	back := time.Now()
	second := resumeRecorder(t, l, kept)
	testbed.Eventually(t, 5*time.Second, "it records again", second.Up)
	away := second.read(t, "", ReaderOptions{From: time.Unix(0, 0), Past: true}).absences
	if len(away) != 1 || away[0].from.Before(running) || away[0].from.After(stopped) || away[0].to.Before(back) {
		t.Errorf("want it away from %v to %v or later, got %v", stopped, back, away)
	}
}

// TestRecorderCountsWhatNobodyTook: what the kernel had no room for while no
// process ran counts as dropped, for readers as well.
func TestRecorderCountsWhatNobodyTook(t *testing.T) {
	testbed.NeedRoot(t)
	const packets, size = 6000, 1400 // more than twice what the kernel has room for
	l := newLink(t)
	first := startRecorder(t, l.recorded, recordV0(), MinRecorder)
	first.awaitUp(t)
	kept := keepFiles(t, first.Recorder)
	first.stop()
	frames := make([][]byte, packets)
	for i := range frames {
		frames[i] = udpFrame(size, 9)
	}
	sendFrames(t, l.other, "v1", frames)
	second := resumeRecorder(t, l, kept)
	testbed.Eventually(t, 5*time.Second, "all packets are counted", func() bool {
		s := second.Status()
		return s.Packets+s.Dropped >= packets
	})
	s := second.Status()
	if s.Packets < packets/4 || s.Dropped < packets/4 || s.Packets+s.Dropped > packets+100 {
		t.Errorf("want %d packets, some of them dropped, got %d and %d dropped", packets, s.Packets, s.Dropped)
	}
	// A reader that is slow misses what the kernel overwrites for packets of its own meanwhile.
	testbed.Eventually(t, 5*time.Second, fmt.Sprint(s.Dropped, " are dropped for a reader"), func() bool {
		reader := second.read(t, "udp port 9", ReaderOptions{From: time.Unix(0, 0), Past: true})
		reader.Copy([][]byte{make([]byte, 8<<20)}, unlimited(never))
		stats, err := reader.Stats()
		return err == nil && stats.Dropped == s.Dropped
	})
}

// resumeRecorder goes on with what was kept of the recorder of a link.
func resumeRecorder(t *testing.T, l link, kept []*os.File) run {
	t.Helper()
	r, err := NewRecorder(recordV0(), MinRecorder, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.recorded.Do(t, func() { err = r.Resume(kept) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.recorded.Do(t, func() { r.Run(ctx, func(error) {}) })
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return run{Recorder: r}
}

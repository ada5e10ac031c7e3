package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// newStill returns a recorder of Ethernet that records what is put into its ring: it does not look for more.
func newStill(t testing.TB) *Recorder {
	t.Helper()
	ring := newSmallRing(t, leastRing, 4096)
	ring.c.state.seen = math.MaxInt64
	return &Recorder{options: Options{Interface: "still", Snap: MaxSnap}, ring: ring, link: ethernet, began: time.Now(),
		session: 1, up: true}
}

// TestReaderEnd: the packet that shows that the end has come does not count;
// but the end may move with the clock, and then no packet is missing.
func TestReaderEnd(t *testing.T) {
	r := newStill(t)
	now := time.Now().Unix()
	reader, err := r.Read(ReaderOptions{Snap: 100, From: time.Unix(now, 0)})
	if err != nil {
		t.Fatal(err)
	}
	r.ring.lose(time.Unix(now+1, 0), 10)
	for second := range int64(6) {
		putAt(r.ring, uint64(second), now+second)
	}
	r.ring.lose(time.Unix(now+9, 0), 100)

	var end atomic.Int64
	room := make([]byte, 4096)
	copyUntil := func(second int64) []uint64 {
		end.Store(time.Unix(now+second, 0).UnixNano())
		size := reader.Copy([][]byte{room}, unlimited(&end))
		var numbers []uint64
		for _, p := range parse(t, room[:size]) {
			numbers = append(numbers, binary.BigEndian.Uint64(p.Data))
		}
		return numbers
	}
	next := func() uint64 {
		p, err := reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		return binary.BigEndian.Uint64(p.Data)
	}
	received := func(want Stats) {
		t.Helper()
		if got, _ := reader.Stats(); got != want {
			t.Errorf("want %+v, got %+v", want, got)
		}
	}
	if got := copyUntil(2); !slices.Equal(got, []uint64{0, 1}) {
		t.Errorf("want what is older than the end, got %d", got)
	}
	received(Stats{Received: 12, Dropped: 10})
	if got := next(); got != 2 {
		t.Errorf("want the packet past the end, got %d", got)
	}
	received(Stats{Received: 12, Dropped: 10})
	if got := copyUntil(5); !slices.Equal(got, []uint64{3, 4}) {
		t.Errorf("want what comes then, got %d", got)
	}
	received(Stats{Received: 15, Dropped: 10})
	if got := next(); got != 5 {
		t.Errorf("want the last packet, got %d", got)
	}
	if _, err := reader.Next(); !errors.Is(err, ErrTimeout) {
		t.Errorf("want %v, got %v", ErrTimeout, err)
	}
	received(Stats{Received: 15, Dropped: 10})
}

// TestReaderWaitsForTheRecorder: that nothing has come is known when the recorder has looked, which
// it may do late. It is waited for, but not for ever.
func TestReaderWaitsForTheRecorder(t *testing.T) {
	t.Parallel()
	r := newStill(t)
	r.ring.c.state.seen = 0
	reader, err := r.Read(ReaderOptions{Snap: 100, From: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := reader.Next(); !errors.Is(err, ErrTimeout) {
		t.Errorf("want %v, got %v", ErrTimeout, err)
	}
	if took := time.Since(began); took < lateness {
		t.Errorf("want it waited for, got %v", took)
	}
}

// TestReaderWindow: of the past, only what is in the window comes, and nothing
// from before the recorder was ready.
func TestReaderWindow(t *testing.T) {
	r := newStill(t)
	now := time.Now().Unix()
	for second := range int64(10) {
		putAt(r.ring, uint64(second), now-10+second)
	}
	at := func(second int64) time.Time { return time.Unix(now-10+second, 0) }
	for name, test := range map[string]struct {
		began, from, until time.Time
		want               []uint64
		since              time.Time
	}{
		"all":                   {at(-5), at(7), time.Time{}, []uint64{7, 8, 9}, at(7)},
		"ends in the past":      {at(-5), at(2), at(5), []uint64{2, 3, 4}, at(2)},
		"ends later":            {at(-5), at(8), at(60), []uint64{8, 9}, at(8)},
		"begins with recording": {at(6), at(2), at(60), []uint64{6, 7, 8, 9}, at(6)},
	} {
		t.Run(name, func(t *testing.T) {
			r.began = test.began
			reader, err := r.Read(ReaderOptions{Snap: 100, From: test.from, Past: true, Until: test.until})
			if err != nil {
				t.Fatal(err)
			}
			if !reader.Since().Equal(test.since) {
				t.Errorf("want it whole since %v, got %v", test.since, reader.Since())
			}
			var end atomic.Int64
			end.Store(at(5).UnixNano())
			room := make([]byte, 4096)
			size := reader.Copy([][]byte{room}, unlimited(&end))
			var got []uint64
			for _, p := range parse(t, room[:size]) {
				got = append(got, binary.BigEndian.Uint64(p.Data))
			}
			if !slices.Equal(test.want, got) {
				t.Errorf("want %d, got %d", test.want, got)
			}
		})
	}
}

// TestReaderObeysLayout: as much is copied as the file may hold, over all chunks and
// calls, and counted as it takes there.
func TestReaderObeysLayout(t *testing.T) {
	r := newStill(t)
	r.began = time.Unix(0, 0)
	for number := range uint64(100) { // of 60 bytes, in several chunks
		putAt(r.ring, number, int64(number))
	}
	layout := Layout{PerPacket: 30, Align: 32}
	for _, packets := range []int64{0, 1, 50, 99, 100} {
		reader, err := r.Read(ReaderOptions{Snap: 100, Past: true})
		if err != nil {
			t.Fatal(err)
		}
		q := unlimited(never)
		q.Layout, q.Bytes = layout, (packets+1)*layout.Size(60)-1
		var size int64
		for range 3 {
			size += int64(reader.Copy([][]byte{make([]byte, 100*76/2)}, q))
		}
		want := [3]int64{packets, packets * layout.Size(60), packets * 76}
		got := [3]int64{q.Copied.Packets.Load(), q.Copied.Bytes.Load(), q.Copied.Records.Load()}
		if want != got || size != want[2] {
			t.Errorf("want packets, bytes of the file and of records %v, got %v and %d bytes", want, got, size)
		}
	}
}

// TestReaderFinishesThePast: an interface that comes back meanwhile ends what is
// live, not the copying of the past.
func TestReaderFinishesThePast(t *testing.T) {
	r := newStill(t)
	now := time.Now().Unix()
	r.began = time.Unix(now-60, 0)
	for second := range int64(10) {
		putAt(r.ring, uint64(second), now-10+second)
	}
	reader, err := r.Read(ReaderOptions{Snap: 100, From: time.Unix(now-60, 0), Past: true})
	if err != nil {
		t.Fatal(err)
	}
	r.session++
	r.cause = errors.New("away")
	putAt(r.ring, 10, now+1)
	for number := range uint64(10) {
		p, err := reader.Next()
		if err != nil || binary.BigEndian.Uint64(p.Data) != number {
			t.Fatalf("want packet %d, got %v, %v", number, p.Data, err)
		}
	}
	if _, err := reader.Next(); !errors.Is(err, r.cause) {
		t.Errorf("want %v, got %v", r.cause, err)
	}
}

// TestReaderAfterClockIsSetBack: a while after the beginning, older stamps are those
// of a clock that was set back, and wanted.
func TestReaderAfterClockIsSetBack(t *testing.T) {
	r := newStill(t)
	reader, err := r.Read(ReaderOptions{Snap: 100, From: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	room := make([]byte, 4096)
	past := time.Now().Unix() - 3600
	putAt(r.ring, 1, past)
	if size := reader.Copy([][]byte{room}, unlimited(never)); size != 0 {
		t.Errorf("want nothing that is older than the beginning, got %d bytes", size)
	}
	reader.began = reader.began.Add(-2 * lateness) // as if it had passed
	putAt(r.ring, 2, past)
	size := reader.Copy([][]byte{room}, unlimited(never))
	if got := parse(t, room[:size]); len(got) != 1 || binary.BigEndian.Uint64(got[0].Data) != 2 {
		t.Errorf("want the packet with the older stamp, got %d packets", len(got))
	}
}

// TestReaderWhenClockWasSetBack: of a ring that has forgotten packets, the oldest may have a
// later stamp than what is wanted.
func TestReaderWhenClockWasSetBack(t *testing.T) {
	r := newStill(t)
	now := time.Now().Unix()
	r.began = time.Unix(now-60, 0)
	for number := range uint64(200) { // more than it has room for
		putAt(r.ring, number, now+3600)
	}
	for second := range int64(5) {
		putAt(r.ring, 200+uint64(second), now-5+second)
	}
	reader, err := r.Read(ReaderOptions{Snap: 100, From: time.Unix(now-10, 0), Past: true})
	if err != nil {
		t.Fatal(err)
	}
	room := make([]byte, 4096)
	size := reader.Copy([][]byte{room}, unlimited(never))
	if got := parse(t, room[:size]); len(got) != 5 || binary.BigEndian.Uint64(got[0].Data) != 200 {
		t.Errorf("want the 5 packets since then, got %d", len(got))
	}
}

// TestReaderIsWoken: who waits for packets gets them when they come, not when a
// read timeout is over.
func TestReaderIsWoken(t *testing.T) {
	r := newStill(t)
	reader, err := r.Read(ReaderOptions{Snap: 100, From: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	woken := 0
	for number := range uint64(10) {
		time.AfterFunc(ReadTimeout/10, func() { putAt(r.ring, number, time.Now().Unix()) })
		began := time.Now()
		if _, err := reader.Next(); err != nil {
			t.Fatal(err)
		}
		if time.Since(began) < ReadTimeout*8/10 {
			woken++
		}
	}
	if woken == 0 { // once is enough: others may have the processor
		t.Errorf("want a reader woken by a packet, got it late 10 times")
	}
}

// TestAbsenceBeginsOnce: an interface that cannot be opened again and again has
// been away since it was open last.
func TestAbsenceBeginsOnce(t *testing.T) {
	r := newStill(t)
	r.fail(errors.New("away"))
	since, cause := r.gone, r.cause
	time.Sleep(time.Millisecond)
	r.fail(errors.New("still away"))
	if !r.gone.Equal(since) || r.cause != cause || r.err.Error() != "still away" {
		t.Errorf("want it away since %v by %v, got %v by %v, now %v", since, cause, r.gone, r.cause, r.err)
	}
}

// TestGap: it says when absences began and ended.
func TestGap(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC) }
	absences := []absence{{at(1), at(2)}, {at(3), at(4)}, {at(5), at(6)}}
	for times, want := range []string{"<nil>",
		"still was not there from 2026-01-02T03:01:00Z to 2026-01-02T03:02:00Z",
		"still was not there 2 times between 2026-01-02T03:01:00Z and 2026-01-02T03:04:00Z",
		"still was not there 3 times between 2026-01-02T03:01:00Z and 2026-01-02T03:06:00Z",
	} {
		r := newStill(t)
		r.absences = absences[:times]
		reader, err := r.Read(ReaderOptions{Snap: 100, From: at(0), Past: true})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(reader.Gap()); got != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
}

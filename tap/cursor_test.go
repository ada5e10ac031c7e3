package tap

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// putAt writes a packet that says its number and came so many seconds after the epoch.
func putAt(r *ring, number uint64, second int64) {
	data := numbered(number, 60)
	r.put(time.Unix(second, 0), data, len(data), nil)
}

// takeNumbers takes all there is and returns the packets' numbers.
func takeNumbers(t testing.TB, c *cursor, w *want, end int64) ([]uint64, halt) {
	t.Helper()
	var at atomic.Int64
	at.Store(end)
	room := make([]byte, 1<<20)
	packets, size, why := c.take(w, room, math.MaxInt64, &at)
	var numbers []uint64
	for _, p := range parse(t, room[:size]) {
		numbers = append(numbers, binary.BigEndian.Uint64(p.Data))
	}
	if int64(len(numbers)) != packets {
		t.Errorf("want %d packets, got %d", packets, len(numbers))
	}
	return numbers, why
}

// TestCursorWindow: a cursor gets the packets of its window, and each once,
// whatever the clock did.
func TestCursorWindow(t *testing.T) {
	now := time.Now().Unix()
	for name, test := range map[string]struct {
		before []int64 // seconds from now, of what is there already
		from   int64
		past   bool
		after  []int64 // of what comes then
		end    int64
		want   []uint64
		why    halt
	}{
		"all of the past":           {[]int64{-3, -2, -1}, -3, true, nil, 9, []uint64{0, 1, 2}, haltEmpty},
		"some of the past":          {[]int64{-3, -2, -1}, -2, true, nil, 9, []uint64{1, 2}, haltEmpty},
		"none of the past":          {[]int64{-3, -2, -1}, 0, true, []int64{1}, 9, []uint64{3}, haltEmpty},
		"past and live":             {[]int64{-3, -2}, -2, true, []int64{1, 2}, 9, []uint64{1, 2, 3}, haltEmpty},
		"live only":                 {[]int64{-3, 0}, 0, false, []int64{1, 2}, 9, []uint64{2, 3}, haltEmpty},
		"late from the kernel":      {[]int64{-3}, 0, false, []int64{-1, 0, 1}, 9, []uint64{2, 3}, haltEmpty},
		"up to the end":             {[]int64{-1}, -9, true, []int64{1, 2, 3}, 3, []uint64{0, 1, 2}, haltEnd},
		"nothing before the end":    {nil, 0, false, []int64{3}, 3, nil, haltEnd},
		"past after the end":        {[]int64{-3, -2}, -3, true, []int64{1}, -9, []uint64{0, 1}, haltEnd},
		"clock set back before":     {[]int64{-3, 50, -1}, -4, true, []int64{1}, 90, []uint64{0, 2, 3}, haltEmpty},
		"clock set forward before":  {[]int64{-90, -89, -1}, -4, true, []int64{1}, 90, []uint64{2, 3}, haltEmpty},
		"clock set forward, by far": {[]int64{-90, -89}, -4, true, []int64{80, 99}, 90, []uint64{2}, haltEnd},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSmallRing(t, leastRing, 4096)
			var number uint64
			for _, second := range test.before {
				putAt(r, number, now+second)
				number++
			}
			c := r.newCursor(time.Unix(now+test.from, 0), test.past)
			for _, second := range test.after {
				putAt(r, number, now+second)
				number++
			}
			got, why := takeNumbers(t, c, &everything, time.Unix(now+test.end, 0).UnixNano())
			if !slices.Equal(test.want, got) || test.why != why {
				t.Errorf("want %v and halt %d, got %v and %d", test.want, test.why, got, why)
			}
			if c.missed() != 0 {
				t.Errorf("%d were missed", c.missed())
			}
		})
	}
}

// TestCursorCountsLosses: what the kernel dropped counts if it was in the window.
func TestCursorCountsLosses(t *testing.T) {
	r := newSmallRing(t, leastRing, 4096)
	now := time.Now()
	r.lose(now.Add(-time.Hour), 1000)
	r.put(now.Add(-time.Minute), numbered(0, 60), 60, nil)
	r.lose(now.Add(-time.Second), 100)
	past, live := r.newCursor(now.Add(-time.Minute), true), r.newCursor(now, false)
	r.lose(now.Add(time.Second), 10)
	r.put(now.Add(2*time.Second), numbered(1, 60), 60, nil)
	r.lose(now.Add(3*time.Second), 1)
	for name, test := range map[string]struct {
		*cursor
		end  time.Duration
		want int64
	}{
		"past":   {past, time.Hour, 111},
		"live":   {live, time.Hour, 11},
		"to now": {r.newCursor(now.Add(-time.Second), true), 0, 100},
	} {
		_, _ = takeNumbers(t, test.cursor, &everything, now.Add(test.end).UnixNano())
		if test.missed() != test.want {
			t.Errorf("%s: want %d, got %d", name, test.want, test.missed())
		}
	}
	if got := r.holding(); got.lost != 1111 || got.packets != 2 {
		t.Errorf("want 1111 lost and 2 packets, got %+v", got)
	}
}

// TestCursorIsOvertaken: packets and losses that were overwritten are missed,
// and reading goes on.
func TestCursorIsOvertaken(t *testing.T) {
	r := newSmallRing(t, leastRing, 4096)
	now := time.Now()
	c := r.newCursor(now, false)
	for n := range uint64(1000) {
		r.put(now, numbered(n, 60), 60, nil)
	}
	r.lose(now, 7)
	oldest := int64(r.newCursor(time.Unix(0, 0), true).at.packets_passed)
	numbers, _ := takeNumbers(t, c, &everything, math.MaxInt64)
	if len(numbers) == 0 || numbers[len(numbers)-1] != 999 || int64(numbers[0]) <= oldest {
		t.Fatalf("want packets beyond the oldest chunk, which begins with %d, got %v", oldest, numbers)
	}
	if want := int64(numbers[0]) + 7; c.missed() != want {
		t.Errorf("want %d missed, got %d", want, c.missed())
	}
}

// TestCursorBeginsWithinAChunk: a chunk of which only the rest is wanted is not passed over.
func TestCursorBeginsWithinAChunk(t *testing.T) {
	r := newSmallRing(t, 10, 4096)
	for n := range uint64(200) {
		putAt(r, n, int64(n))
	}
	for from := range int64(200) {
		room := make([]byte, 4096)
		_, size, _ := r.newCursor(time.Unix(from, 0), true).take(&everything, room, 1, never)
		if got := binary.BigEndian.Uint64(room[16:]); size != 16+60 || got != uint64(from) {
			t.Errorf("want packet %d, got %d in %d bytes", from, got, size)
		}
	}
}

// TestCursorTakesNoMore: of many chunks it takes as many packets as it is asked for.
func TestCursorTakesNoMore(t *testing.T) {
	r := newSmallRing(t, 100, 4096)
	for n := range uint64(3000) { // in more than twice the chunks that are copied from at a time
		putAt(r, n, 1)
	}
	c := r.newCursor(time.Unix(0, 0), true)
	room := make([]byte, 1<<20)
	for _, most := range []int64{1500, 1, 1499} {
		if packets, _, _ := c.take(&everything, room, most, never); packets != most {
			t.Errorf("want %d packets, got %d", most, packets)
		}
	}
}

// TestCursorsTakeTurns: while one reader copies, others wait.
func TestCursorsTakeTurns(t *testing.T) {
	r := newSmallRing(t, leastRing, 4096)
	putAt(r, 0, 1)
	c := r.newCursor(time.Unix(0, 0), true)
	taken := make(chan int64, 1)
	r.reading.Lock()
	go func() {
		packets, _, _ := c.take(&everything, make([]byte, 4096), 1, never)
		taken <- packets
	}()
	select {
	case <-taken:
		t.Error("want a reader to wait for another one, got packets at once")
	case <-time.After(20 * time.Millisecond):
	}
	r.reading.Unlock()
	if !t.Failed() && <-taken != 1 {
		t.Error("want the packet when the other one is done, got none")
	}
}

// putFrame puts a frame, which had so many bytes, as the kernel does: it takes
// the outer VLAN tag out if it is to.
func putFrame(r *ring, stamp time.Time, frame []byte, length int, tagged bool) {
	if !tagged {
		r.put(stamp, frame, length, nil)
		return
	}
	tag := vlanTag{tpid: binary.BigEndian.Uint16(frame[12:]), tci: binary.BigEndian.Uint16(frame[14:])}
	r.put(stamp, slices.Concat(frame[:12], frame[16:]), length-4, &tag)
}

// TestCursorCopies: packets come out as libpcap gave them, cut to the snapshot
// length, their stamps as precise as asked.
func TestCursorCopies(t *testing.T) {
	whole := numbered(1, 100)
	copy(whole[12:], "\x81\x00\xe0\x07\x08\x00")
	for name, test := range map[string]struct {
		data   []byte
		tagged bool
		want
		bytes int
		nanos int
	}{
		"whole":                      {whole, false, want{snap: 100}, 100, 123456789},
		"with its tag put back":      {whole, true, want{snap: 100}, 100, 123456789},
		"in microseconds":            {whole, true, want{snap: 100, micros: true}, 100, 123456},
		"cut":                        {whole, false, want{snap: 99}, 99, 123456789},
		"cut with a tag":             {whole, true, want{snap: 99}, 99, 123456789},
		"cut behind the tag":         {whole, true, want{snap: 17}, 17, 123456789},
		"cut at the end of the tag":  {whole, true, want{snap: 16}, 16, 123456789},
		"cut in the tag":             {whole, true, want{snap: 13}, 13, 123456789},
		"cut before the tag":         {whole, true, want{snap: 12}, 12, 123456789},
		"cut to a byte":              {whole, true, want{snap: 1}, 1, 123456789},
		"stored no longer than that": {whole[:16], true, want{snap: 100}, 16, 123456789},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSmallRing(t, leastRing, 4096)
			c := r.newCursor(time.Unix(0, 0), false)
			putFrame(r, time.Unix(1_700_000_000, 123456789), test.data, 1500, test.tagged)
			room := make([]byte, 16+test.bytes)
			test.link = ethernet
			if _, _, why := c.take(&test.want, room[:len(room)-1], 1, never); why != haltFull {
				t.Errorf("one byte too few: want halt %d, got %d", haltFull, why)
			}
			packets, size, _ := c.take(&test.want, room, 1, never)
			if packets != 1 || size != len(room) || !bytes.Equal(test.data[:test.bytes], room[16:]) {
				t.Errorf("want % x, got % x", test.data[:test.bytes], room[16:])
			}
			header := []uint32{1_700_000_000, uint32(test.nanos), uint32(test.bytes), 1500}
			for i, want := range header {
				if got := binary.LittleEndian.Uint32(room[4*i:]); got != want {
					t.Errorf("word %d: want %d, got %d", i, want, got)
				}
			}
		})
	}
}

// TestCursorCopiesStubs: of a packet that was cut before where its tag was, what is there
// comes without the tag, and nothing from behind it.
func TestCursorCopiesStubs(t *testing.T) {
	whole := numbered(1, 100)
	copy(whole[12:], "\x81\x00\xe0\x07")
	for stored := 1; stored < 14; stored++ {
		r := newSmallRing(t, leastRing, 4096)
		c := r.newCursor(time.Unix(0, 0), false)
		r.put(time.Unix(1, 0), slices.Concat(whole[:12], whole[16:])[:stored], 96, &vlanTag{tpid: 0x8100, tci: 0xe007})
		want := stored
		if stored >= 12 {
			want += 4
		}
		room := make([]byte, 1000)
		if _, size, _ := c.take(&everything, room, 1, never); !bytes.Equal(whole[:want], room[min(size, 16):size]) {
			t.Errorf("%d bytes: want % x, got % x", stored, whole[:want], room[:size])
		}
	}
}

// TestCursorFilters: the filter sees the packet without its tag, and its length without it.
func TestCursorFilters(t *testing.T) {
	now := time.Now()
	frame := numbered(0, 64)
	copy(frame[12:], "\x81\x00\x00\x07\x08\x00")
	for name, test := range map[string]struct {
		tagged bool
		filter string
		want   int64
	}{
		"a type behind the tag":  {true, "ip", 1},
		"a tag in the packet":    {false, "ip", 0},
		"no tag in the packet":   {true, "ether[12:2] = 0x8100", 0},
		"the tag in the packet":  {false, "ether[12:2] = 0x8100", 1},
		"length without the tag": {true, "less 60", 1},
		"length with the tag":    {false, "less 60", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSmallRing(t, leastRing, 4096)
			c := r.newCursor(now, false)
			putFrame(r, now, frame, len(frame), test.tagged)
			w := want{filter: compileDead(t, test.filter), snap: 100, link: ethernet}
			if packets, _, why := c.take(&w, make([]byte, 100), 1, never); packets != test.want || why != haltEmpty {
				t.Errorf("want %d packets, got %d and halt %d", test.want, packets, why)
			}
		})
	}
}

// TestHoldingIsWhatACursorFinds: a ring that the kernel overwrites holds what a
// reader of all of it begins with, and nothing older.
func TestHoldingIsWhatACursorFinds(t *testing.T) {
	for _, blocks := range []int{2, 3, 16, 40} {
		k := newFakeKernel(t, blocks, leastRing, 4096)
		start := time.Unix(1_700_000_000, 0)
		for number := range 50 * blocks {
			k.receive(start.Add(time.Duration(number)*time.Second), make([]byte, 400))
			if number%8 == 7 { // more than half of a block is full: it is left in place
				k.retire()
				k.ring.takeBlocks()
			}
		}
		held := k.ring.holding()
		record := make([]byte, 1<<20)
		_, size, _ := k.ring.newCursor(time.Unix(0, 0), true).take(&everything, record, 1, never)
		if size == 0 || held.whole {
			t.Fatalf("%d blocks: got %d bytes of the oldest packet, everything held: %v", blocks, size, held.whole)
		}
		if first := time.Unix(int64(binary.LittleEndian.Uint32(record)), 0); !first.Equal(held.oldest) {
			t.Errorf("%d blocks: the oldest packet held is said to be %v, a reader begins with %v",
				blocks, held.oldest.Sub(start), first.Sub(start))
		}
	}
}

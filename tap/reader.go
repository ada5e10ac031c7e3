package tap

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/google/gopacket"
)

const (
	// leastPause to mostPause is the time between two looks at a ring that is
	// written fast: a small one is overwritten soon.
	leastPause, mostPause = time.Millisecond, 20 * time.Millisecond
	// mostBehind is how many chunks a reader lets come before it looks more often:
	// what was written last is still in the processor's cache.
	mostBehind = 24
	// readerRate is what may be written to a ring without overtaking a reader,
	// in bytes per second; half of the ring is for the time that reading takes.
	readerRate = 3 << 30 / 2
	// lateness is how long after a reader began packets from before it may
	// still come out of the kernel.
	lateness = time.Second

	recordHeader = 16 // bytes before a packet of a pcap file
)

// ReaderOptions say what to read of what is recorded.
type ReaderOptions struct {
	Filter *Filter   // beside the recorder's own; nil: everything
	Snap   int       // bytes of a packet
	From   time.Time // stamp of the first packet that is wanted
	Past   bool      // those that are recorded already are wanted too,
	Until  time.Time // of them those before this; zero: all
	Nanos  bool      // stamps in nanoseconds, not microseconds
}

// A Reader hands out what a recorder holds and goes on to record. Any number of
// them may read at the same time. All calls come from one goroutine.
type Reader struct {
	recorder *Recorder
	link     int // DLT
	session  int // of the recorder
	began    time.Time
	pause    time.Duration // between two looks at the ring
	since    time.Time
	absences []absence // of the interface, in the past

	cursor *cursor
	looked int64  // number of the chunk that it waited at last
	turns  uint32 // of the ring, before what is there was taken
	want   want
	end    *atomic.Int64 // of the latest quota
	taken  int64         // packets
	record []byte        // the one that Next returned last
	stamp  int64         // of that, until Copy is called: only then it is known to be taken
}

// Read returns a reader. Nothing has to be opened, and what is recorded already
// is there at once. It can be had as soon as something was recorded, and also
// when the interface has vanished since; the reader then ends with an error when
// it has handed out what there is.
func (r *Recorder) Read(o ReaderOptions) (*Reader, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.link < 0:
		return nil, fmt.Errorf("open %s: %w", r.options.Interface, r.err)
	case o.Filter != nil && int(o.Filter.link) != r.link:
		return nil, fmt.Errorf("open %s: what its packets begin with has changed", r.options.Interface)
	}
	reader := &Reader{recorder: r, link: r.link, session: r.session, began: time.Now(), since: o.From,
		want: want{link: r.link, snap: min(o.Snap, r.options.Snap), micros: !o.Nanos}, end: &atomic.Int64{}}
	reader.end.Store(math.MaxInt64)
	reader.stamp = math.MinInt64
	kernel := int64(r.ring.c.state.geometry.blocks * r.ring.c.state.geometry.block_size)
	reader.pause = min(mostPause, max(leastPause, time.Duration(kernel/2*int64(time.Second)/readerRate)))
	if o.Filter != nil {
		reader.want.filter = o.Filter.code
		reader.want.counted = o.Filter.code.seesHeader(r.link)
	}
	from := o.From
	if o.Past && r.began.After(from) {
		from = r.began // what came while the interface was being opened is not whole
	}
	reader.cursor = r.ring.newCursor(from, o.Past)
	if !o.Until.IsZero() {
		reader.cursor.cut(o.Until)
	}
	reader.looked = int64(reader.cursor.at.number)
	if o.Past {
		reader.absences = r.missing(o.From)
		if whole := r.whole(r.ring.holding()); whole.After(o.From) {
			reader.since = whole
		}
	}
	return reader, nil
}

// Since returns from when on nothing is missing but what counts as dropped, and
// what the interface's absence has cost (Gap).
func (r *Reader) Since() time.Time { return r.since }

// Gap reports when the interface was not there in the past that is read; nil: it
// was there.
func (r *Reader) Gap() error {
	times := len(r.absences)
	if times == 0 {
		return nil
	}
	from, to := r.absences[0].from.UTC().Format(time.RFC3339), r.absences[times-1].to.UTC().Format(time.RFC3339)
	if times == 1 {
		return fmt.Errorf("%s was not there from %s to %s", r.recorder.options.Interface, from, to)
	}
	return fmt.Errorf("%s was not there %d times between %s and %s", r.recorder.options.Interface, times, from, to)
}

// Copy copies packets to the first of the rooms (it uses no other), as records of a pcap file, and returns
// the bytes of the records. It copies what the quota allows, fits and is there
// already. What is past is not cut by the end. Whatever comes next, Next returns
// it.
func (r *Reader) Copy(rooms [][]byte, q *Quota) (size int) {
	if len(rooms) == 0 {
		return 0
	}
	r.end, r.want.beyond, r.stamp = q.End, false, math.MinInt64
	allowed := q.Bytes - q.Copied.Bytes.Load()
	r.cursor.layout, r.cursor.limit = q.Layout, allowed
	packets, size := r.take(rooms[0], q.Packets-q.Copied.Packets.Load())
	q.Copied.Packets.Add(packets)
	q.Copied.Bytes.Add(allowed - r.cursor.limit)
	q.Copied.Records.Add(int64(size))
	r.cursor.limit = math.MaxInt64 // for Next, which hands out what does not fit
	return size
}

// take takes packets from the ring.
func (r *Reader) take(room []byte, most int64) (packets int64, bytes int) {
	if r.cursor.at.live != 0 && time.Since(r.began) > lateness {
		// Older ones cannot come any more, but by a clock that was set back.
		r.cursor.at.live = 0
	}
	r.turns = r.cursor.turns() // asked first: what comes later changes it
	packets, bytes, _ = r.cursor.take(&r.want, room, most, r.end)
	r.taken += packets
	return packets, bytes
}

// Next returns the next packet, valid until the next call, also if it is past
// the end. The error is ErrTimeout if none came within ReadTimeout or none from before
// the end is to be expected any more, or what has become of the interface when
// everything was handed out.
func (r *Reader) Next() (Packet, error) {
	if r.record == nil {
		r.record = make([]byte, recordHeader+r.want.snap)
	}
	r.want.beyond = true
	for began := time.Now(); ; {
		// Asked first: what came before that is there.
		seen := r.cursor.seen()
		again, over := r.recorder.over(r.session)
		if again && !r.cursor.isPast() {
			return Packet{}, over
		}
		if _, bytes := r.take(r.record, 1); bytes > 0 {
			p := r.packet(bytes)
			r.stamp = p.Timestamp.UnixNano()
			return p, nil
		}
		left := ReadTimeout - time.Since(began)
		switch {
		case over != nil:
			return Packet{}, over
		case seen-int64(2*ReadTimeout) >= r.end.Load():
			return Packet{}, ErrTimeout
		case left > 0:
			r.wait(left)
		case seen >= began.UnixNano(), left < -lateness:
			return Packet{}, ErrTimeout
		default: // on a busy machine the recorder comes late
			r.wait(ReadTimeout)
		}
	}
}

// wait waits for packets, for so long at most. While they come fast it takes
// some at a time: to wake up for each chunk would cost more than to copy it.
func (r *Reader) wait(most time.Duration) {
	number := int64(r.cursor.at.number)
	if chunks := number - r.looked; chunks > 1 {
		if chunks > mostBehind {
			r.pause = max(r.pause/2, leastPause)
		}
		// All readers look at the same moments: what one has looked at is in the
		// processor's cache for the next, and one timer wakes them all.
		time.Sleep(min(most, r.pause-time.Since(r.recorder.made)%r.pause))
	} else {
		r.cursor.wait(r.turns, most)
	}
	r.looked = number
}

// packet returns the packet that was taken as a record of so many bytes.
func (r *Reader) packet(bytes int) Packet {
	word := func(i int) int64 { return int64(binary.LittleEndian.Uint32(r.record[4*i:])) }
	fraction := word(1)
	if r.want.micros {
		fraction *= int64(time.Microsecond)
	}
	return Packet{gopacket.CaptureInfo{Timestamp: time.Unix(word(0), fraction),
		CaptureLength: int(word(2)), Length: int(word(3))}, r.record[recordHeader:bytes]}
}

// LinkType returns the LINKTYPE value that a file of the packets needs.
func (r *Reader) LinkType() int { return linkTypeOf(r.link) }

// SnapLen returns the snapshot length, in bytes.
func (r *Reader) SnapLen() int { return r.want.snap }

// Stats returns the counts up to now: dropped are packets of the interface in
// the window, matching or not, that the kernel dropped or that were forgotten
// before they were read; received is what was handed out and those.
func (r *Reader) Stats() (Stats, error) {
	missed, taken := r.cursor.missed(), r.taken
	if r.stamp >= r.end.Load() { // the packet that showed that the end has come
		taken--
	}
	return Stats{Received: taken + missed, Dropped: missed}, nil
}

// Close ends the reading.
func (r *Reader) Close() {}

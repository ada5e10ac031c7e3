package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"pcapdaemon/capfile"
	"pcapdaemon/result"
	"pcapdaemon/tap"
	"pcapdaemon/testbed"
)

// benchmarkMemory is the pool of a benchmark, in bytes: more than a cache
// holds, so that what is written goes where a capture goes.
const benchmarkMemory = 64 * capfile.ChunkSize

// benchmarkPackets is how many packets of a size fit into benchmarkMemory.
func benchmarkPackets(size int) int {
	return (benchmarkMemory - capfile.HeaderSize) / (capfile.RecordHeaderSize + size)
}

// newWarmPool returns a pool whose pages are there already, as they are after a first capture.
func newWarmPool(b *testing.B) *capfile.Pool {
	p := capfile.NewPool(benchmarkMemory)
	buf := capfile.NewBuffer(p)
	if !buf.Reserve(benchmarkMemory) {
		b.Fatal("no memory")
	}
	buf.Free()
	b.Cleanup(p.Release)
	return p
}

// forSizes runs a benchmark with packets of 200 and of 1400 bytes.
func forSizes(b *testing.B, f func(b *testing.B, size int)) {
	for _, size := range []int{200, 1400} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(capfile.RecordHeaderSize + size))
			f(b, size)
		})
	}
}

// BenchmarkBufferWrite writes packets as pcapgo does, the header and then the data.
func BenchmarkBufferWrite(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		p := newWarmPool(b)
		header, data := make([]byte, capfile.RecordHeaderSize), make([]byte, size)
		buf := capfile.NewBuffer(p)
		for b.Loop() {
			if buf.Size+int64(len(header)+len(data)) > benchmarkMemory {
				buf.Free()
				buf = capfile.NewBuffer(p)
			}
			_, _ = buf.Write(header)
			_, _ = buf.Write(data)
		}
		buf.Free()
	})
}

// BenchmarkRecord is the capture loop without libpcap.
func BenchmarkRecord(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		p := newWarmPool(b)
		src := endless(size)
		b.ResetTimer()
		for left := b.N; left > 0; left -= benchmarkPackets(size) {
			recordOnce(b, p, src, min(left, benchmarkPackets(size)))
		}
	})
}

// BenchmarkRecordFile is the capture loop on a file that libpcap replays.
func BenchmarkRecordFile(b *testing.B) {
	forSizes(b, func(b *testing.B, size int) {
		p := newWarmPool(b)
		name := writeCapture(b, size, benchmarkPackets(size))
		b.ResetTimer()
		for left := b.N; left > 0; left -= benchmarkPackets(size) {
			handle, err := tap.OpenFile(name)
			if err != nil {
				b.Fatal(err)
			}
			recordOnce(b, p, handle, min(left, benchmarkPackets(size)))
			handle.Close()
		}
	})
}

// TestRecordAllocatesNothingPerPacket compares a capture with one of twice as
// many packets: what each capture allocates, timers and the like, is in both.
// Both fit into one chunk, which is there already.
func TestRecordAllocatesNothingPerPacket(t *testing.T) {
	const packets = 1000
	for _, size := range []int{60, 400} {
		p := capfile.NewPool(capfile.ChunkSize)
		src := endless(size)
		allocations := func(packets int) float64 {
			return testing.AllocsPerRun(50, func() { recordOnce(t, p, src, packets) })
		}
		once, twice := allocations(packets), allocations(2*packets)
		// One more is the runtime's, which works on the side.
		if twice > once+1 {
			t.Errorf("%d packets of %d bytes: %v allocations, %d packets: %v", packets, size, once, 2*packets, twice)
		}
		p.Release()
	}
}

// recordOnce makes a capture of so many packets and throws it away.
func recordOnce(t testing.TB, p *capfile.Pool, src source, packets int) {
	buf := capfile.NewBuffer(p)
	if buf == nil {
		t.Fatal("no memory")
	}
	defer buf.Free()
	b := bounds{packets: int64(packets), bytes: benchmarkMemory, timeout: time.Hour}
	out := record(t.Context(), src, time.Now(), b, buf)
	if out.Packets != int64(packets) {
		t.Fatalf("want %d packets, got %d, stopped by %s", packets, out.Packets, out.stop)
	}
}

// endless returns a source that never runs out of packets of a size in bytes.
func endless(size int) source {
	p := at(time.Now(), size)
	return &fakeSource{read: func() (tap.Packet, error) { return p, nil }}
}

// writeCapture writes a capture file of equal packets and returns its name.
func writeCapture(t testing.TB, size, packets int) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "replay.pcap"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := pcapgo.NewWriter(file)
	err = w.WriteFileHeader(tap.MaxSnap, layers.LinkTypeEthernet)
	for p := at(time.Now(), size); packets > 0 && err == nil; packets-- {
		err = w.WritePacket(p.CaptureInfo, p.Data)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

// TestRecordFromRing: a capture from a recorder's memory obeys its bounds in
// the past, at the seam and in the live part, and no packet is missing in it.
func TestRecordFromRing(t *testing.T) {
	testbed.NeedRoot(t)
	stream := testbed.StartStream(t, time.Millisecond)
	// Of the stream alone, for what others send through lo may be more than the ring holds.
	compiler := tap.NewCompiler()
	t.Cleanup(func() { checkPlacesAreFree(t, compiler) })
	filter, err := compiler.Compile(t.Context(), "lo", tap.MaxSnap, stream.Filter())
	if err != nil {
		t.Fatal(err)
	}
	recorder, err := tap.NewRecorder(tap.Options{Interface: "lo", Filter: filter, Snap: tap.MaxSnap, BufferSize: 4 << 20},
		16<<20, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		recorder.Run(ctx, func(err error) { up <- err })
	}()
	t.Cleanup(func() { cancel(); <-ended })
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	filter, err = compiler.CompileRecorded(t.Context(), recorder, stream.Filter())
	if err != nil {
		t.Fatal(err)
	}
	// All windows begin now, at one of these packets.
	least, from := stream.Sent(), time.Now()
	most := stream.Sent() + 1 // that one is on its way
	const past = 500
	testbed.Eventually(t, time.Minute, "there is a past", func() bool { return stream.Sent() > most+past })
	const size = capfile.RecordHeaderSize + 14 + 20 + 8 + 15 // of one packet in the file

	for name, test := range map[string]struct {
		timeout time.Duration
		stop    string
		// wanted are the packets that the bounds allow, beyond those until the request if that is set.
		wanted int
		beyond bool
	}{
		"packets in the past":              {time.Minute, stopPackets, past, false},
		"packets at the seam":              {time.Minute, stopPackets, 1, true},
		"packets in what comes":            {time.Minute, stopPackets, 400, true},
		"bytes in the past":                {time.Minute, stopBytes, past, false},
		"bytes in what comes":              {time.Minute, stopBytes, 400, true},
		"one packet":                       {time.Minute, stopPackets, 1, false},
		"no room for a packet":             {time.Minute, stopBytes, 0, false},
		"timeout":                          {300 * time.Millisecond, stopTimeout, math.MaxInt, false},
		"no time but for the past":         {0, stopTimeout, math.MaxInt, false},
		"stopped while the past is copied": {time.Minute, stopShutdown, math.MaxInt, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := tap.ReaderOptions{Filter: filter, Snap: tap.MaxSnap, From: from, Past: true}
			reader, err := recorder.Read(options)
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			buf := capfile.NewBuffer(capfile.NewPool(4 * capfile.ChunkSize))
			defer buf.Free()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.stop == stopShutdown {
				cancel()
			}
			wanted := test.wanted
			if test.beyond {
				wanted += stream.Sent() - least
			}
			b := bounds{1 << 30, 1 << 30, test.timeout}
			switch test.stop {
			case stopPackets:
				b.packets = int64(wanted)
			case stopBytes:
				b.bytes = int64(capfile.HeaderSize + wanted*size + size - 1)
			}
			out := record(ctx, reader, time.Now(), b, buf)
			if out.stop != test.stop || out.err != nil {
				t.Errorf("want stop %s, got %+v", test.stop, out)
			}
			if out.Dropped != 0 || out.Received < out.Packets || out.Received > out.Packets+1 {
				t.Errorf("want as many received and none dropped, got %+v", out.Counts)
			}
			options.Nanos = true
			want := recorded(t, recorder, options, out.ended, wanted)
			testbed.CheckNoGap(t, want)
			got := testbed.Numbers(t, pcapOf(reader, buf))
			if !slices.Equal(want, got) {
				t.Errorf("want packets %s, got %s", ends(want), ends(got))
			}
			if len(got) > 0 && (got[0] < least || got[0] > most) {
				t.Errorf("want the first of them to be one of %d to %d, got %d", least, most, got[0])
			}
		})
	}
}

// recorded returns the numbers of a Stream's packets that a recorder has with stamps from before a
// moment, so many at most.
func recorded(t *testing.T, r *tap.Recorder, o tap.ReaderOptions, end time.Time, most int) (found []int) {
	t.Helper()
	reader, err := r.Read(o)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for patience := time.Now().Add(time.Minute); len(found) < most; {
		p, err := reader.Next()
		switch {
		case errors.Is(err, tap.ErrTimeout) && time.Now().Before(patience):
			continue
		case err != nil:
			t.Fatal(err)
		case !p.Timestamp.Before(end):
			return found
		}
		var n int
		if _, err := fmt.Sscanf(string(p.Data[14+20+8:]), "packet %d", &n); err != nil {
			t.Fatal(err)
		}
		found = append(found, n)
	}
	return found
}

// ends describes numbers by the first and the last of them.
func ends(numbers []int) string {
	if len(numbers) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d to %d (%d)", numbers[0], numbers[len(numbers)-1], len(numbers))
}

// A fakeSource hands out what its function returns; the rest of it is Ethernet, unless a link type is given.
type fakeSource struct {
	read   func() (tap.Packet, error)
	stats  error
	link   int
	closed func() // nil: nobody wants to know
}

func (f *fakeSource) Copy([][]byte, *tap.Quota) int { return 0 }

func (f *fakeSource) Next() (tap.Packet, error) { return f.read() }

func (f *fakeSource) LinkType() int { return cmp.Or(f.link, int(layers.LinkTypeEthernet)) }

func (f *fakeSource) SnapLen() int { return 4242 }

func (f *fakeSource) Stats() (tap.Stats, error) {
	return tap.Stats{Received: 9, Dropped: 2, IfDropped: 1}, f.stats
}

func (f *fakeSource) Close() {
	if f.closed != nil {
		f.closed()
	}
}

// at returns a packet of so many bytes with a time stamp.
func at(stamp time.Time, size int) tap.Packet {
	return tap.Packet{CaptureInfo: gopacket.CaptureInfo{Timestamp: stamp, CaptureLength: size, Length: size},
		Data: make([]byte, size)}
}

// inTurn returns a read function that returns the packets one after the
// other, and after them nothing but read timeouts, which take their time.
func inTurn(packets ...tap.Packet) func() (tap.Packet, error) {
	return func() (tap.Packet, error) {
		if len(packets) == 0 {
			time.Sleep(tap.ReadTimeout)
			return tap.Packet{}, tap.ErrTimeout
		}
		next := packets[0]
		packets = packets[1:]
		return next, nil
	}
}

// record makes a capture.
func record(ctx context.Context, src source, start time.Time, b bounds, buf *capfile.Buffer) outcome {
	return newCapture(src, start, pcapPlan(b), buf).run(ctx)
}

// pcapPlan is the plan of a capture that becomes a pcap file.
func pcapPlan(b bounds) plan {
	return plan{b, capfile.PcapFormat{}.Layout(capfile.Header{}), time.Microsecond}
}

// pcapOf returns the pcap file of what was recorded from a source.
func pcapOf(src source, buf *capfile.Buffer) io.Reader {
	h := capfile.Header{Snap: src.SnapLen(), LinkType: src.LinkType()}
	return capfile.PcapFormat{}.Content(h, capfile.Statistics{}, buf.Pieces())()
}

// recordAll records from a fake source with room for everything, and returns what is in the file.
func recordAll(t *testing.T, ctx context.Context, src source, b bounds) (outcome, []testbed.Packet) {
	t.Helper()
	buf := capfile.NewBuffer(capfile.NewPool(16 * capfile.ChunkSize))
	defer buf.Free()
	out := record(ctx, src, time.Now(), b, buf)
	packets, r := testbed.ReadPcap(t, pcapOf(src, buf))
	if int64(len(packets)) != out.Packets || capfile.HeaderSize+buf.Size != out.Bytes {
		t.Errorf("%d packets in %d bytes are in the file, %+v in the outcome", len(packets), buf.Size, out.Counts)
	}
	if r.Snaplen() != 4242 {
		t.Errorf("want the source's snapshot length in the file, got %d", r.Snaplen())
	}
	return out, packets
}

// unbounded lets a capture run for a second.
var unbounded = bounds{packets: math.MaxInt64, bytes: math.MaxInt64, timeout: time.Second}

func TestRecordEndsAtPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := unbounded
		b.packets = 3
		now := time.Now()
		src := &fakeSource{read: inTurn(at(now, 1), at(now, 2), at(now, 3), at(now, 4))}
		out, packets := recordAll(t, t.Context(), src, b)
		if out.stop != stopPackets || len(packets) != 3 || out.err != nil {
			t.Errorf("want 3 packets and stop %s, got %d, %+v", stopPackets, len(packets), out)
		}
		if want := (result.Counts{Packets: 3, Bytes: 24 + 3*16 + 6}); out.Counts != want {
			t.Errorf("want %+v, got %+v", want, out.Counts)
		}
		if want := (result.Losses{Received: 9, Dropped: 2, IfDropped: 1}); out.Losses != want {
			t.Errorf("want %+v, got %+v", want, out.Losses)
		}
	})
}

func TestRecordEndsAtBytes(t *testing.T) {
	for limit, want := range map[int64]int{24: 0, 24 + 116 - 1: 0, 24 + 116: 1, 24 + 2*116 - 1: 1, 24 + 2*116: 2} {
		t.Run(strconv.FormatInt(limit, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := unbounded
				b.bytes = limit
				now := time.Now()
				out, packets := recordAll(t, t.Context(), &fakeSource{read: inTurn(at(now, 100), at(now, 100), at(now, 100))}, b)
				if out.stop != stopBytes || len(packets) != want || out.Bytes > limit {
					t.Errorf("want %d packets and stop %s, got %d, %+v", want, stopBytes, len(packets), out)
				}
			})
		})
	}
}

// TestRecordEndsAtTheFirstBound: a packet from after the end does not count, even if there is no room for it.
func TestRecordEndsAtTheFirstBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := unbounded
		b.bytes = capfile.HeaderSize
		out, _ := recordAll(t, t.Context(), &fakeSource{read: inTurn(at(time.Now().Add(b.timeout), 100))}, b)
		if out.stop != stopTimeout {
			t.Errorf("want stop %s, got %+v", stopTimeout, out)
		}
	})
}

func TestRecordEndsAtTimeout(t *testing.T) {
	for name, test := range map[string]struct {
		source func(start time.Time) func() (tap.Packet, error)
		kept   int
		within time.Duration
	}{
		"a quiet link": {func(time.Time) func() (tap.Packet, error) { return inTurn() }, 0, 1300 * time.Millisecond},
		"a packet at the end is not in it": {func(start time.Time) func() (tap.Packet, error) {
			return inTurn(at(start.Add(time.Second-1), 1), at(start.Add(time.Second), 1), at(start, 1))
		}, 1, 0},
		"a packet from before the window, as the filter lets through": {func(start time.Time) func() (tap.Packet, error) {
			return inTurn(at(start.Add(-time.Millisecond), 1))
		}, 1, 1300 * time.Millisecond},
		"the tail comes late": {func(start time.Time) func() (tap.Packet, error) {
			late := inTurn(at(start.Add(900*time.Millisecond), 1), at(start.Add(999*time.Millisecond), 1),
				at(start.Add(1001*time.Millisecond), 1))
			return func() (tap.Packet, error) {
				if time.Since(start) < 1050*time.Millisecond {
					time.Sleep(tap.ReadTimeout)
					return tap.Packet{}, tap.ErrTimeout
				}
				return late()
			}
		}, 2, 1300 * time.Millisecond},
		"a look that began early and was held up": {func(start time.Time) func() (tap.Packet, error) {
			late := inTurn(at(start.Add(999*time.Millisecond), 1))
			held := false
			return func() (tap.Packet, error) {
				if !held {
					held = true
					time.Sleep(time.Second + tail)
					return tap.Packet{}, tap.ErrTimeout
				}
				return late()
			}
		}, 1, 1300 * time.Millisecond},
		"a clock that was set back": {func(start time.Time) func() (tap.Packet, error) {
			return func() (tap.Packet, error) {
				time.Sleep(300 * time.Millisecond)
				return at(start.Add(-time.Hour), 1), nil
			}
		}, 6, 2100 * time.Millisecond},
		"a file that ends": {func(start time.Time) func() (tap.Packet, error) {
			packets := inTurn(at(start, 1), at(start, 1))
			n := 0
			return func() (tap.Packet, error) {
				if n++; n > 2 {
					return tap.Packet{}, io.EOF
				}
				return packets()
			}
		}, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				out, packets := recordAll(t, t.Context(), &fakeSource{read: test.source(start)}, unbounded)
				if out.stop != stopTimeout || out.err != nil || len(packets) != test.kept {
					t.Errorf("want %d packets and stop %s, got %d, %+v", test.kept, stopTimeout, len(packets), out)
				}
				if !out.ended.Equal(start.Add(time.Second)) {
					t.Errorf("want the end of the window as end, got %v after the start", out.ended.Sub(start))
				}
				if took := time.Since(start); took > test.within {
					t.Errorf("want it over within %v, took %v", test.within, took)
				}
			})
		})
	}
}

func TestRecordForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b := unbounded
		b.timeout = 24 * time.Hour
		quiet := func() (tap.Packet, error) { // looks less often than a socket, for a day is long
			time.Sleep(overrun)
			return tap.Packet{}, tap.ErrTimeout
		}
		out, _ := recordAll(t, t.Context(), &fakeSource{read: quiet}, b)
		if took := time.Since(start); took < b.timeout || took > b.timeout+2*overrun || out.stop != stopTimeout {
			t.Errorf("want stop %s after a day, got %s after %v", stopTimeout, out.stop, took)
		}
	})
}

func TestRecordEndsAtShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(300*time.Millisecond, cancel)
		n := 0
		read := func() (tap.Packet, error) { // every packet is handed over 50 ms late
			time.Sleep(10 * time.Millisecond)
			n++
			return at(start.Add(time.Duration(n)*10*time.Millisecond-50*time.Millisecond), 1), nil
		}
		out, packets := recordAll(t, ctx, &fakeSource{read: read}, unbounded)
		if out.stop != stopShutdown || !out.ended.Equal(start.Add(300*time.Millisecond)) {
			t.Errorf("want stop %s at 300ms, got %s at %v", stopShutdown, out.stop, out.ended.Sub(start))
		}
		if last := packets[len(packets)-1].Timestamp; last.Sub(start) != 290*time.Millisecond {
			t.Errorf("want all until the signal, got the last one at %v", last.Sub(start))
		}
	})
}

func TestRecordEndsWhenMemoryDoes(t *testing.T) {
	p := capfile.NewPool(2 * capfile.ChunkSize)
	buf := capfile.NewBuffer(p)
	now := time.Now()
	src := &fakeSource{read: func() (tap.Packet, error) { return at(now, 4000), nil }}
	out := record(t.Context(), src, now, unbounded, buf)
	if want := int64(2*capfile.ChunkSize) / 4016; out.stop != stopMemory || out.Packets != want || out.err != nil {
		t.Errorf("want %d packets and stop %s, got %+v", want, stopMemory, out)
	}
	if packets, _ := testbed.ReadPcap(t, pcapOf(src, buf)); int64(len(packets)) != out.Packets {
		t.Errorf("want %d whole packets in the file, got %d", out.Packets, len(packets))
	}
}

func TestRecordEndsWithItsInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n := 0
		read := func() (tap.Packet, error) { // an error, then what is left in the ring, then errors for ever
			if n++; n == 2 || n > 5 {
				return tap.Packet{}, errors.New("the interface disappeared")
			}
			return at(start, n), nil
		}
		out, packets := recordAll(t, t.Context(), &fakeSource{read: read}, unbounded)
		if out.stop != stopInterface || !mentions(out.err, "disappeared") || len(packets) != 4 {
			t.Errorf("want 4 packets, stop %s and the cause, got %d, %+v", stopInterface, len(packets), out)
		}
		if took := time.Since(start); took > tail+100*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

// A steppedClock is a clock that was set some time ago, or will be.
type steppedClock struct {
	at time.Time
	by time.Duration
}

// now returns what the clock says.
func (c steppedClock) now() time.Time {
	if now := time.Now(); now.Before(c.at) {
		return now
	}
	return time.Now().Add(c.by)
}

// TestRecordWhileClockIsSet: a capture lasts as long as it is meant to, and
// says by how much the clock was set, unless that is next to nothing.
func TestRecordWhileClockIsSet(t *testing.T) {
	const pause, perMinute = 10 * time.Millisecond, 6000
	for name, test := range map[string]struct {
		by   time.Duration
		note string
	}{
		"forward":           {time.Hour, "the clock was set by +3600 s"},
		"forward, not far":  {20 * time.Second, "the clock was set by +20 s"},
		"back":              {-time.Hour, "the clock was set by -3600 s"},
		"back, not far":     {-5 * time.Second, "the clock was set by -5 s"},
		"next to nothing":   {900 * time.Millisecond, ""},
		"a year, at a boot": {365 * 24 * time.Hour, "the clock was set by +31536000 s"},
	} {
		for link, pause := range map[string]time.Duration{"busy": pause, "quiet": 0} {
			t.Run(name+", "+link, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					clock := steppedClock{start.Add(2 * time.Second), test.by}
					read := inTurn()
					if pause > 0 {
						read = func() (tap.Packet, error) {
							time.Sleep(pause)
							return at(clock.now(), 1), nil
						}
					}
					b := unbounded
					b.timeout = time.Minute
					buf := capfile.NewBuffer(capfile.NewPool(capfile.ChunkSize))
					c := newCapture(&fakeSource{read: read}, start, pcapPlan(b), buf)
					c.deadline.clock = clock.now
					out := c.run(t.Context())
					took, tolerance := time.Since(start), overrun
					if took < b.timeout-tolerance || took > b.timeout+tolerance {
						t.Errorf("want it to last %v, took %v", b.timeout, took)
					}
					if out.note != test.note || out.stop != stopTimeout || out.err != nil {
						t.Errorf("want note %q, got %+v", test.note, out)
					}
					want := start.Add(b.timeout)
					if test.note != "" {
						want = want.Add(test.by)
					}
					if !out.ended.Equal(want) {
						t.Errorf("want the end at %v, got %v", want, out.ended)
					}
					if pause > 0 && (out.Packets < perMinute-100 || out.Packets > perMinute) {
						t.Errorf("want the %d packets of a minute, less those of a second, got %d", perMinute, out.Packets)
					}
				})
			})
		}
	}
}

// TestEndAfterClockWasSet: a stop is seen at once, and the moment of an end is what the clock says then.
func TestEndAfterClockWasSet(t *testing.T) {
	for stop, after := range map[string]time.Duration{
		stopShutdown: 5*time.Second + time.Millisecond, stopPackets: 5 * time.Second,
	} {
		for _, by := range []time.Duration{-time.Hour, time.Hour, -10 * time.Second, 10 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				clock := steppedClock{start.Add(2 * time.Second), by}
				b := unbounded
				b.timeout = time.Minute
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if stop == stopPackets {
					b.packets = 500
				} else {
					time.AfterFunc(after, cancel)
				}
				read := func() (tap.Packet, error) {
					time.Sleep(10 * time.Millisecond)
					return at(clock.now(), 1), nil
				}
				c := newCapture(&fakeSource{read: read}, start, pcapPlan(b), capfile.NewBuffer(capfile.NewPool(capfile.ChunkSize)))
				c.deadline.clock = clock.now
				out := c.run(ctx)
				took := time.Since(start)
				if took > after+10*time.Millisecond || out.stop != stop || out.Packets != 500 {
					t.Errorf("set by %v: want 500 packets of 5 s and stop %s, took %v: %+v", by, stop, took, out)
				}
				if want := start.Add(after + by); !out.ended.Equal(want) || out.note == "" {
					t.Errorf("set by %v: want a note and the end at %v, got %+v", by, want, out)
				}
			})
		}
	}
}

// TestClockIsSetAgain: each time that the clock is set, the end moves with it, and no further.
func TestClockIsSetAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead time.Duration
		start := time.Now()
		e := newDeadline(start, time.Minute)
		e.clock = func() time.Time { return time.Now().Add(ahead) }
		for _, ahead = range []time.Duration{20 * time.Second, 30 * time.Second, -5 * time.Second} {
			for range 3 {
				e.follow()
			}
			want, note := start.Add(time.Minute+ahead), fmt.Sprintf("the clock was set by %+.0f s", ahead.Seconds())
			_, moment := e.reached()
			if at := time.Unix(0, e.at.Load()); !at.Equal(want) || !moment.Equal(want) || e.note() != note {
				t.Errorf("want the end at %v and %q, got %v, %v, %q", want, note, at, moment, e.note())
			}
		}
	})
}

// TestStopBeforeOldStamps: packets that all bear stamps from before a stop do not hold it up.
func TestStopBeforeOldStamps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b := unbounded
		b.timeout = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		read := func() (tap.Packet, error) {
			time.Sleep(100 * time.Millisecond)
			return at(start, 1), nil
		}
		out, _ := recordAll(t, ctx, &fakeSource{read: read}, b)
		took, stop := time.Since(start), out.ended.Sub(start)
		if took > 2*time.Second+overrun+100*time.Millisecond || stop != 2*time.Second || out.stop != stopShutdown {
			t.Errorf("want stop %s after 2 s, got %s after %v, took %v", stopShutdown, out.stop, stop, took)
		}
	})
}

// TestStopIsNoTimeout: whenever the stop comes, it is what ended the capture, and not in the future.
func TestStopIsNoTimeout(t *testing.T) {
	buf := capfile.NewBuffer(capfile.NewPool(capfile.ChunkSize))
	b := unbounded
	b.timeout = time.Hour
	reads := 0
	src := &fakeSource{read: func() (tap.Packet, error) {
		if reads++; reads%100 == 0 {
			return at(time.Now(), 0), nil
		}
		return tap.Packet{}, tap.ErrTimeout
	}}
	for n := range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Duration(n%50)*time.Microsecond, cancel)
		out := record(ctx, src, time.Now(), b, buf)
		if now := time.Now(); out.stop != stopShutdown || out.ended.After(now) {
			t.Fatalf("try %d: want stop %s until %v, got %+v", n, stopShutdown, now, out)
		}
		buf.Size = 0
	}
}

// newReadyPool returns a pool of so many chunks at most, some of which are ready.
func newReadyPool(most, ready int) *capfile.Pool {
	p := capfile.NewPool(int64(most) * capfile.ChunkSize)
	taken := capfile.NewBuffer(p)
	taken.Reserve(ready * capfile.ChunkSize)
	taken.Free()
	return p
}

// TestRecordGivesBack: when a capture has ended, it holds no more memory than its
// packets take, however much it had ready for more.
func TestRecordGivesBack(t *testing.T) {
	for packets, want := range []int64{0, capfile.ChunkSize} {
		synctest.Test(t, func(t *testing.T) {
			p := newReadyPool(8, 4)
			defer p.Release()
			buf := capfile.NewBuffer(p)
			if rooms := len(buf.Rooms(4)); rooms != 4 {
				t.Errorf("want 4 rooms ready, got %d", rooms)
			}
			src := &fakeSource{read: inTurn(make([]tap.Packet, packets)...)}
			out := record(t.Context(), src, time.Now(), unbounded, buf)
			if got := p.Held(); got != want || out.Packets != int64(packets) {
				t.Errorf("%d packets: want %d bytes held, got %d for %d", packets, want, got, out.Packets)
			}
			buf.Free()
		})
	}
}

// A bulkSource takes a while to fill more than half of its rooms, or none.
type bulkSource struct {
	fakeSource
	takes time.Duration
	fills bool
	rooms int // of the last call
}

// Copy implements source.
func (s *bulkSource) Copy(rooms [][]byte, _ *tap.Quota) int {
	s.rooms = len(rooms)
	time.Sleep(s.takes)
	if !s.fills {
		return 0
	}
	return len(rooms)*capfile.ChunkSize/2 + 1
}

// TestChunksAhead: a capture has more and more chunks ready while packets come fast, and one again when they do not.
func TestChunksAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newReadyPool(16, 6)
		defer p.Release()
		src := &bulkSource{}
		c := newCapture(src, time.Now(), pcapPlan(unbounded), capfile.NewBuffer(p))
		defer c.buffer.Free()
		for i, step := range []struct {
			takes time.Duration
			fills bool
			want  int
		}{
			{0, true, 2}, {rush - 1, true, 4}, {0, false, 4}, {rush, true, 4}, {0, true, 8}, {0, true, mostAhead},
			{10 * rush, false, mostAhead}, {10*rush + 1, false, 1}, {0, true, 2},
		} {
			src.takes, src.fills = step.takes, step.fills
			if c.copyMany(); c.ahead != step.want {
				t.Errorf("step %d: want %d chunks ready, got %d", i, step.want, c.ahead)
			}
		}
	})
}

// TestChunksAheadAreAShare: however fast packets come, what is ready is a small part of what the capture holds.
func TestChunksAheadAreAShare(t *testing.T) {
	for chunks, want := range map[int]int{0: 1, aheadShare - 1: 1, aheadShare: 2} {
		p := newReadyPool(32, chunks+4)
		src := &bulkSource{}
		c := newCapture(src, time.Now(), pcapPlan(unbounded), capfile.NewBuffer(p))
		c.ahead = mostAhead
		c.buffer.Reserve(chunks * capfile.ChunkSize)
		c.buffer.Extend(chunks * capfile.ChunkSize)
		if c.copyMany(); src.rooms != want {
			t.Errorf("of %d chunks: want %d ready, got %d", chunks, want, src.rooms)
		}
		c.buffer.Free()
		p.Release()
	}
}

// TestRecordSurvivesOutages: errors that go away end nothing, however many there are over time.
func TestRecordSurvivesOutages(t *testing.T) {
	for name, between := range map[string]error{"on a quiet link": tap.ErrTimeout, "between packets": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, n := time.Now(), 0
				read := func() (tap.Packet, error) { // an error in two of ten reads
					if n++; n%10 < 2 {
						return tap.Packet{}, errors.New("the interface was taken down")
					}
					time.Sleep(tap.ReadTimeout)
					return at(time.Now(), 1), between
				}
				b := unbounded
				b.timeout = time.Minute
				out, _ := recordAll(t, t.Context(), &fakeSource{read: read}, b)
				if took := time.Since(start); out.stop != stopTimeout || out.err != nil || took < b.timeout {
					t.Errorf("want stop %s after %v, took %v: %+v", stopTimeout, b.timeout, took, out)
				}
			})
		})
	}
}

// TestRecordAtAnEdge: a packet that is added alone is recorded as it was, cut and to the nanosecond.
func TestRecordAtAnEdge(t *testing.T) {
	packet := at(time.Unix(1_700_000_000, 123456789), 3)
	packet.Length = 5
	buf := capfile.NewBuffer(capfile.NewPool(capfile.ChunkSize))
	p := pcapPlan(unbounded)
	p.unit = time.Nanosecond
	c := newCapture(&fakeSource{read: inTurn(packet)}, time.Unix(1_700_000_000, 0), p, buf)
	c.add(packet)
	var got [4]uint32
	_, _ = binary.Decode(buf.Pieces()[0], binary.LittleEndian, &got)
	if want := [4]uint32{1_700_000_000, 123456789, 3, 5}; got != want {
		t.Errorf("want %d, got %d", want, got)
	}
}

// TestRecordWithoutStatistics: that they cannot be read is said beside what else is wrong.
func TestRecordWithoutStatistics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, _ := recordAll(t, t.Context(), &fakeSource{read: inTurn(), stats: errors.New("gone")}, unbounded)
		if out.err == nil || !strings.Contains(out.err.Error(), "gone") {
			t.Errorf("want the cause, got %v", out.err)
		}
		broken := func() (tap.Packet, error) { return tap.Packet{}, errors.New("no such device") }
		out, _ = recordAll(t, t.Context(), &fakeSource{read: broken, stats: errors.New("gone")}, unbounded)
		for _, want := range []string{"no such device", "gone"} {
			if out.err == nil || !strings.Contains(out.err.Error(), want) {
				t.Errorf("want %q, got %v", want, out.err)
			}
		}
	})
}

// TestRecordReplaysFile takes a real libpcap handle on a file as the source.
func TestRecordReplaysFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "in.pcap")
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	_ = w.WriteFileHeader(1000, layers.LinkTypeEthernet)
	start := time.Unix(1_700_000_000, 0)
	for n := range 1500 { // a millisecond apart
		p := at(start.Add(time.Duration(n)*time.Millisecond), 60+n%900)
		_ = w.WritePacket(p.CaptureInfo, p.Data)
	}
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	handle, err := tap.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	buf := capfile.NewBuffer(capfile.NewPool(16 * capfile.ChunkSize))
	out := record(t.Context(), handle, start, unbounded, buf)
	if out.Packets != 1000 || out.stop != stopTimeout {
		t.Errorf("want the 1000 packets of one second, got %+v", out)
	}
	got, _ := io.ReadAll(pcapOf(handle, buf))
	if !bytes.Equal(file.Bytes()[:len(got)], got) {
		t.Error("the recording differs from the beginning of the file")
	}
}

// TestFilesAreReadable has other programs read a recording.
func TestFilesAreReadable(t *testing.T) {
	testbed.NeedTools(t, "tcpdump", "capinfos")
	buf := capfile.NewBuffer(capfile.NewPool(capfile.ChunkSize))
	now := time.Now()
	src := &fakeSource{read: inTurn(at(now, 60), at(now, 60))}
	record(t.Context(), src, now, bounds{packets: 2, bytes: 1 << 20, timeout: time.Second}, buf)
	path := filepath.Join(t.TempDir(), "out.pcap")
	content, _ := io.ReadAll(pcapOf(src, buf))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tcpdump", "-nr", path).Output(); err != nil || len(testbed.ReadLines(string(out))) != 2 {
		t.Errorf("tcpdump: want 2 lines, got %q, %v", out, err)
	}
	out, err := exec.Command("capinfos", "-cM", path).CombinedOutput()
	if !regexp.MustCompile(`(?m)^Number of packets: +2$`).Match(out) {
		t.Errorf("capinfos: want 2 packets, got %q, %v", out, err)
	}
}

// TestLinkTypes: those that do not fit into 8 bits are in the file, too.
func TestLinkTypes(t *testing.T) {
	for _, want := range []int{1, 101, 113, 255, 276, 300} { // Linux SLL2 is 276
		buf := capfile.NewBuffer(capfile.NewPool(capfile.ChunkSize))
		now := time.Now()
		src := &fakeSource{read: inTurn(at(now, 60)), link: want}
		record(t.Context(), src, now, bounds{1, 1 << 20, time.Second}, buf)
		content, _ := io.ReadAll(pcapOf(src, buf))
		if got := int(content[20]) + int(content[21])<<8; got != want {
			t.Errorf("want link type %d in the file, got %d", want, got)
		}
	}
}

// writeStream writes a pcap file of packets that are a millisecond apart, of
// sizes that end chunks at every offset, and returns its path and content.
func writeStream(t *testing.T, start time.Time, packets int) (string, []byte) {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	_ = w.WriteFileHeader(65536, layers.LinkTypeEthernet)
	for n := range packets {
		p := at(start.Add(time.Duration(n)*time.Millisecond), 60+n*37%9000)
		copy(p.Data, testbed.RandomBytes(len(p.Data)))
		_ = w.WritePacket(p.CaptureInfo, p.Data)
	}
	path := filepath.Join(t.TempDir(), "in.pcap")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, file.Bytes()
}

// A oneByOne is a source that copies nothing in bulk.
type oneByOne struct{ *tap.Live }

// Copy implements source.
func (oneByOne) Copy([][]byte, *tap.Quota) int { return 0 }

// TestBulkIsTheSame: copied in bulk or packet by packet, a recording ends for
// the same reason with the same bytes, whatever ends it.
func TestBulkIsTheSame(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	path, content := writeStream(t, start, 1500)
	for name, test := range map[string]struct {
		bounds  bounds
		chunks  int64
		stop    string
		packets int64
	}{
		"end of the file":      {bounds{1 << 40, 1 << 40, time.Hour}, 16, stopTimeout, 1500},
		"timeout":              {bounds{1 << 40, 1 << 40, time.Second}, 16, stopTimeout, 1000},
		"timeout at once":      {bounds{1 << 40, 1 << 40, 0}, 16, stopTimeout, 0},
		"packets":              {bounds{777, 1 << 40, time.Hour}, 16, stopPackets, 777},
		"one packet":           {bounds{1, 1 << 40, time.Hour}, 16, stopPackets, 1},
		"bytes":                {bounds{1 << 40, 3_000_001, time.Hour}, 16, stopBytes, -1},
		"bytes, exactly":       {bounds{1 << 40, 24 + 16 + 60, time.Hour}, 16, stopBytes, 1},
		"bytes, one too few":   {bounds{1 << 40, 24 + 16 + 59, time.Hour}, 16, stopBytes, 0},
		"bytes for the header": {bounds{1 << 40, 24, time.Hour}, 16, stopBytes, 0},
		"memory":               {bounds{1 << 40, 1 << 40, time.Hour}, 3, stopMemory, -1},
	} {
		t.Run(name, func(t *testing.T) {
			var outcomes [2]outcome
			var recordings [2][]byte
			for i := range outcomes {
				file, err := tap.OpenFile(path)
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				var src source = file
				if i == 0 {
					src = oneByOne{file}
				}
				buf := capfile.NewBuffer(capfile.NewPool(test.chunks * capfile.ChunkSize))
				outcomes[i] = record(t.Context(), src, start, test.bounds, buf)
				recordings[i], _ = io.ReadAll(pcapOf(src, buf))
			}
			single, bulk := outcomes[0], outcomes[1]
			if bulk.stop != test.stop || test.packets >= 0 && bulk.Packets != test.packets {
				t.Errorf("want %d packets and stop %s, got %+v", test.packets, test.stop, bulk)
			}
			if bulk.stop != single.stop || bulk.Counts != single.Counts || bulk.Losses != single.Losses {
				t.Errorf("packet by packet: %+v, in bulk: %+v", single, bulk)
			}
			if !bytes.Equal(recordings[0], recordings[1]) || !bytes.Equal(content[:len(recordings[1])], recordings[1]) {
				t.Error("the recordings differ from each other or from the beginning of the file")
			}
		})
	}
}

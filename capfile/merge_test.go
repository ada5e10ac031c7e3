package capfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"pcapdaemon/tap"
)

// A sharedFile is a file that can be read while it is written.
type sharedFile struct {
	mu   sync.Mutex
	file bytes.Buffer
	err  error // of all writes
}

// Write implements io.Writer.
func (s *sharedFile) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return s.file.Write(p)
}

// bytes returns what was written.
func (s *sharedFile) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.file.Bytes())
}

// packets returns the data of all packets that were written, and fails if the file is not whole.
func (s *sharedFile) packets(t *testing.T) (data []string) {
	t.Helper()
	packets, _ := readPcapng(t, bytes.NewReader(s.bytes()))
	for _, p := range packets {
		data = append(data, string(p.Data))
	}
	return data
}

// pcapPackets returns the records of packets that are stamped, in seconds since a moment,
// as their name says.
func pcapPackets(from time.Time, names ...string) (records []byte) {
	for _, name := range names {
		seconds, err := strconv.ParseFloat(strings.TrimLeft(name, "abcdefgh"), 64)
		if err != nil {
			panic(err)
		}
		stamp := from.Add(time.Duration(seconds * float64(time.Second)))
		records = append(records, words(binary.LittleEndian, int(stamp.Unix()), stamp.Nanosecond()/1000,
			len(name), len(name), name)...)
	}
	return records
}

// write writes a piece to an input, which has to be taken.
func write(t *testing.T, in *Input, piece []byte) {
	t.Helper()
	if _, err := in.Write(piece); err != nil {
		t.Error(err)
	}
}

// TestMerge: what comes, when, and what stands in the file then. Each step is a wait, or an input with an
// action: + opens it, - closes it, else packets come.
func TestMerge(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		steps string
		late  int64
		want  string // after it all; | where the file has been so far after an equal step "?"
	}{
		"one alone waits for nothing":        {"a+ a1,a2 ?", 0, "a1 a2|"},
		"two in order":                       {"a+ b+ a1,a3 b2,b4 ? ", 0, "a1 a2|"},
		"a quiet one is waited for":          {"a+ b+ a1 0.9s ? b0 ?", 0, "|b0|a1"},
		"for a second":                       {"a+ b+ a1 1s ?", 0, "a1|"},
		"and what comes later is late":       {"a+ b+ a5 1.1s b1 ? a6 1.1s ?", 1, "a5 b1|a6|"},
		"disorder of one is its own":         {"a+ a2 a1 ?", 0, "a2 a1|"},
		"one that ended is not waited for":   {"a+ b+ a1,a2 b1 b- ?", 0, "a1 b1 a2|"},
		"one that says nothing and ends":     {"a+ b+ a1 b- ?", 0, "a1|"},
		"one that ended is counted once":     {"a+ b+ c+ a1 a- b2 0.9s ? c0 ?", 0, "|c0|a1 b2"},
		"joined late":                        {"a+ a1 ? b+ a3 0.5s b2 ? ", 0, "a1|b2|a3"},
		"stamps of 1970 and of 2100 in turn": {"a+ b+ a1 b-900000000 1.1s a2 b2400000000 2s a3 1.1s ?", 0, "b-900000000 a1 a2 b2400000000 a3|"},
	} {
		if strings.HasPrefix(name, "two in order") {
			test.want = "a1 b2 a3|b4"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var file sharedFile
				now := time.Now().Add(-time.Minute)
				m := NewMerger(&file, "test")
				m.Expect(false)
				inputs := map[string]*Input{}
				var looks []string
				seen := 0
				look := func() {
					synctest.Wait()
					all := file.packets(t)
					looks = append(looks, strings.Join(all[seen:], " "))
					seen = len(all)
				}
				for step := range strings.FieldsSeq(test.steps) {
					who, what := step[:1], step[1:]
					wait, err := time.ParseDuration(step)
					switch {
					case err == nil:
						time.Sleep(wait)
					case step == "?":
						look()
					case what == "+":
						inputs[who] = m.Open(Header{Node: who, Interface: "eth0"})
						write(t, inputs[who], pcapHeader(1, MaxSnap))
					case what == "-":
						inputs[who].Close(nil)
					default:
						write(t, inputs[who], pcapPackets(now, strings.Split(step, ",")...))
					}
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				look()
				if got := strings.Join(looks, "|"); got != test.want || m.Late() != test.late {
					t.Errorf("want %q and %d late, got %q and %d", test.want, test.late, got, m.Late())
				}
			})
		})
	}
}

// TestMergeExpects: as long as somebody may join, packets wait for a second.
func TestMergeExpects(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var file sharedFile
		m := NewMerger(&file, "test")
		in := m.Open(Header{})
		write(t, in, append(pcapHeader(1, MaxSnap), pcapPackets(time.Now(), "a1")...))
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		if got := file.packets(t); len(got) > 0 {
			t.Error("want nothing yet, got ", got)
		}
		m.Expect(false)
		synctest.Wait()
		if got := file.packets(t); len(got) != 1 {
			t.Error("want one packet, got ", got)
		}
		m.Close()
	})
}

// largeText is the data of a packet that soon fills memory.
var largeText = strings.Repeat("x", 64<<10)

// largePacket returns the record of a packet with the large text.
func largePacket(stamp time.Time) []byte {
	return words(binary.LittleEndian, int(stamp.Unix()), stamp.Nanosecond()/1000, len(largeText), len(largeText), largeText)
}

// TestMergeMemory: what waits is bounded, and whoever waits for room gets on when there is some, and at the end.
func TestMergeMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var file countedFile
		m := NewMerger(&file, "test")
		quiet := m.Open(Header{Node: "quiet"})
		in := m.Open(Header{Node: "busy"})
		write(t, in, pcapHeader(1, MaxSnap))
		stamp := time.Now()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range 5 * maxPending / 2 / len(largeText) {
				stamp = stamp.Add(time.Millisecond) // none comes too late
				write(t, in, largePacket(stamp))
			}
		}()
		check := func(when string) {
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.size <= maxPending || m.size > maxPending+2*len(largeText) {
				t.Errorf("%s: want %d bytes and little more to wait, got %d", when, maxPending, m.size)
			}
		}
		check("at first")
		if size := file.size.Load(); size > writeSize {
			t.Errorf("want nothing written yet, got %d bytes", size)
		}
		before := time.Now()
		write(t, quiet, append(pcapHeader(1, MaxSnap), pcapPackets(before, "a0")...))
		if waited := time.Since(before); waited > 0 {
			t.Errorf("want no wait for the one that all wait for, got %v", waited)
		}
		time.Sleep(patience)
		check("when the first have waited for long enough")
		if size := file.size.Load(); size < maxPending {
			t.Errorf("want what has waited written, got %d bytes", size)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
}

// A countedFile counts the bytes that are written to it.
type countedFile struct{ size atomic.Int64 }

// Write implements io.Writer.
func (f *countedFile) Write(p []byte) (int, error) {
	f.size.Add(int64(len(p)))
	return len(p), nil
}

// TestMergeFails: a file that cannot be written is said, and holds nobody up.
func TestMergeFails(t *testing.T) {
	t.Parallel()
	file := sharedFile{err: unix.ENOSPC}
	m := NewMerger(&file, "test")
	in := m.Open(Header{})
	<-m.Failed()
	write(t, in, append(pcapHeader(1, MaxSnap), pcapPackets(time.Now(), "a1")...))
	piece := largePacket(time.Now())
	for range 2 * maxPending / len(piece) {
		write(t, in, piece)
	}
	m.mu.Lock()
	if m.size > 0 {
		t.Errorf("want nothing kept, got %d bytes", m.size)
	}
	m.mu.Unlock()
	in.Close(nil)
	if err := m.Close(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("want %v, got %v", unix.ENOSPC, err)
	}
}

// A smallFile takes small pieces alone.
type smallFile struct{}

// Write implements io.Writer.
func (smallFile) Write(p []byte) (int, error) {
	if len(p) >= len(largeText) {
		time.Sleep(time.Millisecond) // meanwhile, what waits is too much again
		return 0, unix.ENOSPC
	}
	return len(p), nil
}

// TestMergeFailsWhileFull: whoever waits for room when the file cannot be written any more gets on.
func TestMergeFailsWhileFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMerger(smallFile{}, "test")
		m.Open(Header{Node: "quiet"})
		in := m.Open(Header{Node: "busy"})
		write(t, in, pcapHeader(1, MaxSnap))
		piece := largePacket(time.Now())
		for range 2 * maxPending / len(piece) {
			write(t, in, piece)
		}
		if err := m.Close(); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("want %v, got %v", unix.ENOSPC, err)
		}
	})
}

// TestMergeReaders: other programs read the file, whichever formats were merged, with interfaces, their nodes and statistics.
func TestMergeReaders(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		linkType, snap int
		mixed          bool
	}{
		"alike":                {1, 96, false},
		"other link type":      {276, 96, true},
		"other length":         {1, MaxSnap, true},
		"a large link type":    {0xfffe, 96, true},
		"an unknown link type": {147, 96, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "all.pcapng")
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			m := NewMerger(file, "pcapdaemon test")
			first := m.Open(Header{Node: "web1", Interface: "eth0", Filter: "udp"})
			second := m.Open(Header{Node: "web2", Interface: "wan"})
			write(t, first, append(pcapHeader(1, 96), pcapPackets(began, "a1", "a3")...))
			pcapng := readFile(t, NewFormat("pcapng", "x").Content(Header{Node: "no", Interface: "no", Filter: "tcp",
				Snap: test.snap, LinkType: test.linkType}, Statistics{},
				[][]byte{pcapPackets(began, "b2", "b4")}))
			write(t, second, pcapng)
			stats := &Statistics{Started: began, Ended: ended}
			stats.Stats.Received, stats.Stats.Dropped = 9, 7
			first.Close(stats)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			if m.IsMixed() != test.mixed {
				t.Errorf("want mixed %v, got %v", test.mixed, m.IsMixed())
			}
			got := sayOf(t, "tshark", "-r", path, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.interface_description")
			if want := "eth0\tweb1\nwan\tweb2\neth0\tweb1\nwan\tweb2\n"; got != want {
				t.Errorf("want %q, got %q", want, got)
			}
			info := sayOf(t, "capinfos", path)
			for _, want := range []string{"Capture application: pcapdaemon test", "Number of interfaces in file: 2",
				"Name = eth0", "Description = web1", "Filter string = udp", "Filter string = tcp", "Capture length = 96",
				"Number of stat entries = 1", "Number of packets = 2", "Time precision = nanoseconds (9)"} {
				if !strings.Contains(info, want) {
					t.Errorf("want %q, got %s", want, info)
				}
			}
			if !test.mixed {
				if lines := sayOf(t, "tcpdump", "-nr", path); strings.Count(lines, "\n") < 4 {
					t.Errorf("want 4 packets, got %s", lines)
				}
			}
		})
	}
}

// checkBlocks fails unless bytes are whole blocks, each with its length at both ends.
func checkBlocks(t *testing.T, b []byte) {
	t.Helper()
	for len(b) > 0 {
		var size uint32
		if len(b) >= 12 {
			size = binary.LittleEndian.Uint32(b[4:])
		}
		if size < 12 || int(size) > len(b) || binary.LittleEndian.Uint32(b[size-4:]) != size {
			t.Fatalf("want whole blocks, got one of %d bytes, of which there are %d", size, len(b))
		}
		b = b[size:]
	}
}

// TestMergeWhole: after each write, the file can be read to its end.
func TestMergeWhole(t *testing.T) {
	t.Parallel()
	reader, writer := io.Pipe()
	m := NewMerger(writer, "test")
	in := m.Open(Header{Node: "web1", Interface: "eth0"})
	m.Expect(false)
	go func() {
		_, _ = in.Write(pcapHeader(1, MaxSnap))
		for range 50 {
			_, _ = in.Write(pcapPackets(time.Now(), "a1", "a2"))
		}
		m.Close()
		writer.Close()
	}()
	var file bytes.Buffer
	piece := make([]byte, 2*writeSize) // larger than any write: each read is one
	for {
		n, err := reader.Read(piece)
		if err != nil {
			break
		}
		file.Write(piece[:n])
		checkBlocks(t, piece[:n])
	}
	if packets, _ := readPcapng(t, bytes.NewReader(file.Bytes())); len(packets) != 100 {
		t.Errorf("want 100 packets, got %d", len(packets))
	}
}

// TestMergeCountsItsOwn: the statistics say how many packets of a capture are in this file, and all else as the host does.
func TestMergeCountsItsOwn(t *testing.T) {
	t.Parallel()
	of := Statistics{Started: began, Ended: ended, Packets: 9, Stats: tap.Stats{Received: 8, Dropped: 7, IfDropped: 6}}
	got := (&Input{packets: 2, end: &of}).statistics(1)
	want := of
	if want.Packets = 2; !bytes.Equal(got, statisticsBlock(1, want)) {
		t.Errorf("want the statistics %+v, got %x", want, got)
	}
}

// BenchmarkMerge merges a million packets of 20 hosts, and reports the processor time.
func BenchmarkMerge(b *testing.B) {
	const hosts, packets, burst = 20, 1_000_000, 500
	for _, size := range []int{60, 200, 1400} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			data := strings.Repeat("x", size)
			pieces := make([][][]byte, hosts)
			for host := range pieces {
				for n := 0; n < packets/hosts; n += burst {
					var piece []byte
					for i := n; i < n+burst; i++ {
						micros := 1_700_000_000_000_000 + i*hosts + host
						piece = append(piece, words(binary.LittleEndian, micros/1e6, micros%1e6, size, size, data)...)
					}
					pieces[host] = append(pieces[host], piece)
				}
			}
			for b.Loop() {
				before := processorTime(b)
				m := NewMerger(io.Discard, "test")
				inputs := make([]*Input, hosts)
				for host := range inputs {
					inputs[host] = m.Open(Header{Node: fmt.Sprint("web", host), Interface: "eth0"})
				}
				m.Expect(false)
				var writing sync.WaitGroup
				for host, in := range inputs {
					writing.Go(func() {
						_, _ = in.Write(pcapHeader(1, MaxSnap))
						for _, piece := range pieces[host] {
							_, _ = in.Write(piece)
						}
						in.Close(nil)
					})
				}
				writing.Wait()
				if err := m.Close(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric((processorTime(b) - before).Seconds(), "cpu-s/op")
				b.ReportMetric(float64(m.Late()), "late/op")
			}
		})
	}
}

// processorTime returns the processor time of this process so far.
func processorTime(t testing.TB) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// TestInputHeap: the earliest is always the first.
func TestInputHeap(t *testing.T) {
	t.Parallel()
	var h inputHeap
	var stamps []uint64
	for i := range 100 {
		stamp := uint64(i * 7919 % 101)
		stamps = append(stamps, stamp)
		h.push(&Input{stamp: stamp, ended: true})
	}
	slices.Sort(stamps)
	for _, want := range stamps {
		if h[0].stamp != want {
			t.Fatalf("want %d, got %d", want, h[0].stamp)
		}
		h.fix(&Merger{})
	}
}

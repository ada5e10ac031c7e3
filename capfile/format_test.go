package capfile

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"pcapdaemon/tap"
	"pcapdaemon/testbed"
)

// bothFormats are all formats by name, as they would be on some machine.
var bothFormats = map[string]Format{
	"pcap":   PcapFormat{},
	"pcapng": pcapngFormat{application: "pcapdaemon devel", hardware: "x86_64, Processor", system: "Linux 6.1"},
}

// newRecords returns packets of so many bytes as records of a pcap file, each a
// nanosecond younger than the one before it. One byte more was on the wire.
func newRecords(t testing.TB, begin time.Time, sizes ...int) []byte {
	t.Helper()
	var records bytes.Buffer
	w := pcapgo.NewWriterNanos(&records)
	for i, size := range sizes {
		info := gopacket.CaptureInfo{Timestamp: begin.Add(time.Duration(i)), CaptureLength: size, Length: size + 1}
		if err := w.WritePacket(info, testbed.RandomBytes(size)); err != nil {
			t.Fatal(err)
		}
	}
	return records.Bytes()
}

// cut cuts bytes into pieces of at most so many.
func cut(content []byte, size int) [][]byte {
	var pieces [][]byte
	for len(content) > size {
		pieces = append(pieces, content[:size])
		content = content[size:]
	}
	return append(pieces, content)
}

// readFile returns the bytes of a file that is opened.
func readFile(t testing.TB, open func() io.Reader) []byte {
	t.Helper()
	content, err := io.ReadAll(open())
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestNewFileFormat(t *testing.T) {
	for name := range bothFormats {
		if f := NewFormat(name, "pcapdaemon devel"); f.Extension() != "."+name || f.Nanoseconds() != (name == "pcapng") {
			t.Errorf("%s is %+v", name, f)
		}
	}
}

func TestLayoutPacket(t *testing.T) {
	for name, test := range map[string]struct {
		stored       int64
		pcap, pcapng int64
	}{
		"nothing stored": {0, 16, 32},
		"a byte":         {1, 17, 36},
		"three bytes":    {3, 19, 36},
		"four bytes":     {4, 20, 36},
		"five bytes":     {5, 21, 40},
		"the largest":    {262144, 262160, 262176},
	} {
		t.Run(name, func(t *testing.T) {
			if got := bothFormats["pcap"].Layout(Header{}).Packet.Size(int(test.stored)); got != test.pcap {
				t.Errorf("pcap: want %d, got %d", test.pcap, got)
			}
			if got := bothFormats["pcapng"].Layout(Header{}).Packet.Size(int(test.stored)); got != test.pcapng {
				t.Errorf("pcapng: want %d, got %d", test.pcapng, got)
			}
		})
	}
}

// TestLayoutIsExact: what a capture counts is what its file has.
func TestLayoutIsExact(t *testing.T) {
	long := strings.Repeat("x", 70000)
	for name, test := range map[string]struct {
		heading Header
		sizes   []int
	}{
		"nothing":             {Header{}, nil},
		"texts of one byte":   {Header{Node: "n", Interface: "i", Filter: "f", Comment: "c"}, nil},
		"texts of two bytes":  {Header{Node: "nn", Interface: "ii", Filter: "ff", Comment: "cc"}, []int{0}},
		"texts of four bytes": {Header{Node: "nnnn", Interface: "iiii", Filter: "ffff", Comment: "cccc"}, []int{0, 1, 2, 3}},
		"texts too long":      {Header{Node: long, Interface: long, Filter: long, Comment: long}, []int{60}},
		"texts to replace":    {Header{Node: "\xff", Interface: "\x00", Filter: "\x1b", Comment: "\u009b"}, []int{61, 62}},
		"packets of all ends": {Header{Node: "web1", Interface: "eth0"}, []int{1, 65535, 262141, 262142, 262143, 262144, 0}},
	} {
		for format, f := range bothFormats {
			t.Run(format+", "+name, func(t *testing.T) {
				layout := f.Layout(test.heading)
				want := layout.Fixed
				for _, size := range test.sizes {
					want += layout.Packet.Size(size)
				}
				test.heading.Snap, test.heading.LinkType = tap.MaxSnap, int(layers.LinkTypeLinuxSLL) // known later
				c := Statistics{time.Now(), time.Now(), 1 << 62, tap.Stats{Received: 1 << 62, Dropped: 1 << 62, IfDropped: 1 << 62}}
				records := newRecords(t, time.Now(), test.sizes...)
				file := readFile(t, f.Content(test.heading, c, cut(records, 1000)))
				if int64(len(file)) != want {
					t.Errorf("want a file of %d bytes, got %d", want, len(file))
				}
			})
		}
	}
}

// TestContentOpensAgain: an upload that failed begins again, and readers do not disturb each other.
func TestContentOpensAgain(t *testing.T) {
	for name, f := range bothFormats {
		t.Run(name, func(t *testing.T) {
			open := f.Content(Header{Node: "web1"}, Statistics{}, cut(newRecords(t, time.Now(), 60, 1400, 9000, 0), 700))
			want := readFile(t, open)
			first := open()
			_, _ = io.CopyN(io.Discard, first, 1000)
			if err := iotest.TestReader(open(), want); err != nil {
				t.Error(err)
			}
			if rest, err := io.ReadAll(first); err != nil || !bytes.Equal(want[1000:], rest) {
				t.Errorf("a reader was moved by another one (%v)", err)
			}
		})
	}
}

func TestPcapContent(t *testing.T) {
	records := newRecords(t, time.Unix(1700000000, 0), 60, 61)
	open := PcapFormat{}.Content(Header{Snap: 96, LinkType: 113}, Statistics{}, cut(records, 7))
	want := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0, 113, 0, 0, 0}
	want = append(want, records...)
	if got := readFile(t, open); !bytes.Equal(want, got) {
		t.Errorf("want\n%x\ngot\n%x", want, got)
	}
	packets, r := testbed.ReadPcap(t, open())
	if len(packets) != 2 || r.LinkType() != layers.LinkTypeLinuxSLL || r.Snaplen() != 96 {
		t.Errorf("want 2 packets, SLL, 96 bytes, got %d, %v, %d", len(packets), r.LinkType(), r.Snaplen())
	}
}

func TestNewComment(t *testing.T) {
	for name, test := range map[string]struct{ node, id, request, want string }{
		"as it came": {"web1", "a", `{"nodere":"^web","bpf":"tcp[13] & 2 > 0"}`,
			`{"node":"web1","id":"a","request":{"nodere":"^web","bpf":"tcp[13] & 2 > 0"}}`},
		"spread over lines": {"web1", "a", "{\n \"node\": \"any\"\n}",
			`{"node":"web1","id":"a","request":{"node":"any"}}`},
		"to be quoted": {`we"b`, "<a>\n", `{}`, `{"node":"we\"b","id":"<a>\n","request":{}}`},
		"no request":   {"web1", "a", "", `{"node":"web1","id":"a"}`},
		"no JSON":      {"web1", "a", `{"node":`, `{"node":"web1","id":"a"}`},
	} {
		t.Run(name, func(t *testing.T) {
			got := Comment(test.node, test.id, []byte(test.request))
			if got != test.want || !json.Valid([]byte(got)) {
				t.Errorf("want %s, got %s", test.want, got)
			}
		})
	}
}

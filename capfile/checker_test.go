package capfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// firstPacket is when the first packet of the files of these tests came.
var firstPacket = time.Date(2026, 1, 2, 3, 4, 5, 123456000, time.UTC)

// makeFiles returns files of two packets of 100 bytes in all forms.
func makeFiles(t *testing.T) map[string][]byte {
	t.Helper()
	var micro, nano, next bytes.Buffer
	w, n := pcapgo.NewWriter(&micro), pcapgo.NewWriterNanos(&nano)
	ng, err := pcapgo.NewNgWriter(&next, layers.LinkTypeEthernet)
	for _, err := range []error{err, w.WriteFileHeader(100, layers.LinkTypeEthernet), n.WriteFileHeader(100, layers.LinkTypeEthernet)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		info := gopacket.CaptureInfo{Timestamp: firstPacket.Add(time.Duration(i) * time.Second), CaptureLength: 100, Length: 100}
		packet := bytes.Repeat([]byte{0xff}, 100)
		for _, write := range []func(gopacket.CaptureInfo, []byte) error{w.WritePacket, n.WritePacket, ng.WritePacket} {
			if err := write(info, packet); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = ng.Flush()
	swapped := bytes.Clone(micro.Bytes())
	for at := 0; at < len(swapped); { // all fields but the versions have four bytes
		fields := HeaderSize
		if at > 0 {
			fields = RecordHeaderSize
		}
		for field := at; field < at+fields; field += 4 {
			binary.BigEndian.PutUint32(swapped[field:], binary.LittleEndian.Uint32(swapped[field:]))
		}
		if at += fields; at > HeaderSize {
			at += 100
		}
	}
	ours := NewFormat("pcapng", "test").Content(Header{Node: "web1", Interface: "eth0", LinkType: 1, Snap: 100, Comment: strings.Repeat("x", 70000)},
		Statistics{}, [][]byte{micro.Bytes()[HeaderSize:]})
	content, err := io.ReadAll(ours())
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"pcap": micro.Bytes(), "nanoseconds": nano.Bytes(), "big-endian": swapped,
		"pcapng": next.Bytes(), "our pcapng": content}
}

// TestIdentify: kind and first packet of a file, wherever the first bytes of it end.
func TestIdentify(t *testing.T) {
	for name, content := range makeFiles(t) {
		want := ".pcap"
		if strings.Contains(name, "ng") && !strings.Contains(name, "big") {
			want = ".pcapng"
		}
		extension, first := Identify(content)
		if extension != want {
			t.Errorf("%s: want %s, got %q", name, want, extension)
		}
		if off := first.Sub(firstPacket).Abs(); off > time.Microsecond && name != "our pcapng" {
			t.Errorf("%s: want the time %v, got %v", name, firstPacket, first)
		}
		for n := range min(len(content), 300) {
			if _, at := Identify(content[:n]); !at.IsZero() && !at.Equal(first) {
				t.Errorf("%s: want the time %v or none of %d bytes, got %v", name, first, n, at)
			}
		}
	}
	const seconds = 1700000000
	binaryUnit := pcapngFile(binary.LittleEndian, "\x09\x00\x01\x00\x8a\x00\x00\x00", seconds>>22, seconds<<10&0xffffffff)
	if _, first := Identify(binaryUnit); first.Unix() != seconds {
		t.Errorf("want the time %d of stamps that are a 1024th of a second, got %v", seconds, first)
	}
	for _, content := range []string{"", "abc", strings.Repeat("\x00", 100), "\x0a\x0d\x0d\x0a" + strings.Repeat("\xff", 100)} {
		if _, first := Identify([]byte(content)); !first.IsZero() {
			t.Errorf("%q: want no time, got %v", content, first)
		}
	}
	for name, test := range hostileStreams() {
		if _, first := Identify(test.file); first.Unix() > 0 {
			t.Errorf("%s: want no time, got %v", name, first)
		}
	}
}

// TestChecker: a file that is whole passes, one that is cut or has a hole does not.
func TestChecker(t *testing.T) {
	for name, content := range makeFiles(t) {
		for reading, from := range map[string]io.Reader{"at once": bytes.NewReader(content),
			"byte by byte": iotest.OneByteReader(bytes.NewReader(content))} {
			if got, err := io.ReadAll(NewChecker(from)); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s, %s: want all of it, got %d bytes, %v", name, reading, len(got), err)
			}
		}
		if _, err := io.ReadAll(NewChecker(bytes.NewReader(content[:len(content)-1]))); !errors.Is(err, errCut) {
			t.Errorf("%s: want %v, got %v", name, errCut, err)
		}
		last := RecordHeaderSize + 100
		if isSection(content) {
			last = int(binary.LittleEndian.Uint32(content[len(content)-4:]))
		}
		if _, err := io.ReadAll(NewChecker(bytes.NewReader(content[:len(content)-last+5]))); !errors.Is(err, errCut) {
			t.Errorf("%s: want %v in what stands before a packet, got %v", name, errCut, err)
		}
		hole := bytes.Clone(content)
		clear(hole[len(hole)-116:]) // a record that has not come yet
		hole = append(hole, make([]byte, 300)...)
		if _, err := io.ReadAll(NewChecker(bytes.NewReader(hole))); !errors.Is(err, errHole) {
			t.Errorf("%s: want %v, got %v", name, errHole, err)
		}
	}
	for content, want := range map[string]error{"": nil, "abc": nil, strings.Repeat("x", 100): nil,
		strings.Repeat("\x00", 100): errHole, "\x0a\x0d\x0d\x0a" + strings.Repeat("\xff", 100): errHole,
		string(words(binary.LittleEndian, sectionHeader, 12, magicSection, enhancedPacket, 1<<30, 0)): errHole} {
		if _, err := io.ReadAll(NewChecker(strings.NewReader(content))); !errors.Is(err, want) {
			t.Errorf("%q: want %v, got %v", content, want, err)
		}
	}
}

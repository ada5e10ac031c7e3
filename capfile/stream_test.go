package capfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// A readPacket is what a test compares of a packet.
type readPacket struct {
	stamp    uint64
	original uint32
	data     string
}

// readStream reads a file that comes in pieces of a size.
func readStream(file []byte, size int) (h Header, packets []readPacket, err error) {
	var r streamReader
	for piece := range slices.Chunk(file, size) {
		piece = bytes.Clone(piece)
		if err = r.Read(piece, func(p packet) {
			packets = append(packets, readPacket{p.stamp, p.original, string(p.data)})
		}); err != nil {
			break
		}
		clear(piece) // whose memory is another's then
	}
	h, _ = r.Header()
	return h, packets, err
}

// words returns numbers of 32 bits, and texts as they are, as the bytes of a file.
func words(order binary.AppendByteOrder, parts ...any) (file []byte) {
	for _, part := range parts {
		switch part := part.(type) {
		case int:
			file = order.AppendUint32(file, uint32(part))
		case string:
			file = append(file, part...)
		}
	}
	return file
}

// pcapFile returns a file with one packet of three bytes, out of five.
func pcapFile(order binary.AppendByteOrder, magic, fraction int) []byte {
	version := string(order.AppendUint16(order.AppendUint16(nil, 2), 4))
	return words(order, magic, version, 0, 0, 96, 276, 1700000000, fraction, 3, 5, "abc")
}

// pcapngFile returns a file with the same packet, and blocks that nobody knows. The stamp is split in two halves.
func pcapngFile(order binary.AppendByteOrder, options string, high, low int) []byte {
	linkType := string(order.AppendUint16(order.AppendUint16(nil, 276), 0))
	size := 20 + len(options)
	return words(order, 0x0a0d0d0a, 28, 0x1a2b3c4d, "\x00\x01\x00\x00", -1, -1, 28,
		interfaceDescription, size, linkType, 96, options, size,
		0x0bad, 16, "junk", 16,
		enhancedPacket, 36, 0, high, low, 3, 5, "abc\x00", 36)
}

func TestStreamReader(t *testing.T) {
	t.Parallel()
	little, big := binary.LittleEndian, binary.BigEndian
	const second = 1700000000
	micros, nanos := uint64(second)*1e6+123456, uint64(second)*1e9+123456789
	fine := readPacket{nanos, 5, "abc"}
	coarse := readPacket{micros * 1000, 5, "abc"}
	for name, test := range map[string]struct {
		file []byte
		want readPacket
	}{
		"pcap":                    {pcapFile(little, 0xa1b2c3d4, 123456), coarse},
		"pcap, nanoseconds":       {pcapFile(little, 0xa1b23c4d, 123456789), fine},
		"big pcap":                {pcapFile(big, 0xa1b2c3d4, 123456), coarse},
		"big pcap, nanoseconds":   {pcapFile(big, 0xa1b23c4d, 123456789), fine},
		"pcapng":                  {pcapngFile(little, "", int(micros>>32), int(micros&0xffffffff)), coarse},
		"big pcapng":              {pcapngFile(big, "", int(micros>>32), int(micros&0xffffffff)), coarse},
		"pcapng, nanoseconds":     {pcapngFile(little, "\x09\x00\x01\x00\x09\x00\x00\x00", int(nanos>>32), int(nanos&0xffffffff)), fine},
		"big pcapng, nanoseconds": {pcapngFile(big, "\x00\x09\x00\x01\x09\x00\x00\x00", int(nanos>>32), int(nanos&0xffffffff)), fine},
		"the end of time":         {pcapngFile(little, "", -1, -1), readPacket{maxStamp / 1000 * 1000, 5, "abc"}},
	} {
		for size := 1; size <= len(test.file); size++ {
			h, packets, err := readStream(test.file, size)
			if err != nil || !slices.Equal(packets, []readPacket{test.want}) {
				t.Errorf("%s in pieces of %d: want %v, got %v, %v", name, size, test.want, packets, err)
			}
			if want := (Header{LinkType: 276, Snap: 96}); h != want {
				t.Errorf("%s in pieces of %d: want %+v, got %+v", name, size, want, h)
			}
		}
	}
}

// TestStreamReaderOwnFiles: what hosts write is read, with the filter.
func TestStreamReaderOwnFiles(t *testing.T) {
	t.Parallel()
	records := newRecords(t, time.Unix(1700000000, 0), 0, 1, 60, 1500, 9000)
	for _, name := range []string{"pcap", "pcapng"} {
		h := Header{Node: "web1", Interface: "eth0", Filter: "udp", Comment: "c", Snap: MaxSnap, LinkType: 1}
		file := readFile(t, NewFormat(name, "pcapdaemon test").Content(h, Statistics{}, [][]byte{records}))
		got, packets, err := readStream(file, 777)
		if name == "pcap" {
			h.Filter = ""
		}
		if want := (Header{Filter: h.Filter, Snap: MaxSnap, LinkType: 1}); got != want || err != nil {
			t.Errorf("%s: want %+v, got %+v, %v", name, want, got, err)
		}
		var sizes []int
		for _, p := range packets {
			sizes = append(sizes, len(p.data))
		}
		if want := []int{0, 1, 60, 1500, 9000}; !slices.Equal(sizes, want) {
			t.Errorf("%s: want packets of %v, got %v", name, want, sizes)
		}
	}
}

// TestStreamReaderOddNumbers: a snapshot length of 0 is none, and a packet was as long as what is there of it.
func TestStreamReaderOddNumbers(t *testing.T) {
	t.Parallel()
	file := pcapFile(binary.LittleEndian, magicMicro, 0)
	binary.LittleEndian.PutUint32(file[16:], 0)
	binary.LittleEndian.PutUint32(file[HeaderSize+12:], 2)
	h, packets, err := readStream(file, len(file))
	if want := (Header{LinkType: 276, Snap: MaxSnap}); h != want || err != nil {
		t.Errorf("want %+v, got %+v, %v", want, h, err)
	}
	if want := []readPacket{{1700000000 * 1e9, 3, "abc"}}; !slices.Equal(packets, want) {
		t.Errorf("want %v, got %v", want, packets)
	}
}

// hostileStreams are files that are none, and what is said of them.
func hostileStreams() map[string]struct {
	file []byte
	says string
} {
	little := binary.LittleEndian
	pcap := func(snap, stored int) []byte {
		return words(little, 0xa1b2c3d4, "\x02\x00\x04\x00", 0, 0, snap, 1, 0, 0, stored, stored)
	}
	section := "\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x1c\x00\x00\x00"
	iface := string(words(little, 1, 20, 1, 96, 20))
	type hostile = struct {
		file []byte
		says string
	}
	return map[string]hostile{
		"no capture file":           {[]byte("GET / HTTP/1.1"), "no capture file"},
		"snapshot length of 4 GiB":  {pcap(-1, 10), "snapshot length of 4294967295"},
		"packet of 4 GiB":           {pcap(0, -1), "packet of 4294967295"},
		"longer than the snapshot":  {pcap(96, 97), "packet of 97 bytes, with a snapshot length of 96"},
		"block of 4 GiB":            {words(little, section, 6, -4, 0), "block of 4294967292"},
		"block of nothing":          {words(little, section, 6, 0, 0), "block of 0"},
		"odd block":                 {words(little, section, 6, 33, 0, 0), "block of 33"},
		"two lengths":               {words(little, section, 77, 16, 0, 20), "another length"},
		"section of nothing":        {words(little, 0x0a0d0d0a, 12, 0x1a2b3c4d), "capture file|length|header"},
		"no order":                  {words(little, 0x0a0d0d0a, 28, 0), "order of bytes"},
		"second section":            {words(little, section, section), "more than one section"},
		"second interface":          {words(little, section, iface, iface), "more than one interface"},
		"interface of 4 GiB":        {words(little, section, 1, 20, 1, -1, 20), "snapshot length"},
		"interface without a type":  {words(little, section, 1, 12, 12), "without a link type"},
		"option beyond its block":   {words(little, section, 1, 24, 1, 96, "\x02\x00\xff\xff", 24), "longer than its block"},
		"unknown unit":              {words(little, section, 1, 28, 1, 96, "\x09\x00\x01\x00\x8a\x00\x00\x00", 28), "unit"},
		"packet of nobody":          {words(little, section, 6, 32, 0, 0, 0, 0, 0, 32), "not described"},
		"packet of another":         {words(little, section, iface, 6, 32, 1, 0, 0, 0, 0, 32), "not described"},
		"packet without a packet":   {words(little, section, iface, 6, 12, 12), "without a packet"},
		"packet beyond its block":   {words(little, section, iface, 6, 32, 0, 0, 0, 90, 90, 32), "longer than its block"},
		"packet without a stamp":    {words(little, section, iface, 3, 16, 0, 16), "without an interface or a stamp"},
		"packet of the old kind":    {words(little, section, iface, 2, 16, 0, 16), "without an interface or a stamp"},
		"pcapng packet of too much": {words(little, section, iface, 6, 132, 0, 0, 0, 97, 97, strings.Repeat("x", 100), 132), "packet of 97"},
	}
}

// TestStreamReaderHostile: whatever comes, it is refused in words, for good, and nothing of it is kept.
func TestStreamReaderHostile(t *testing.T) {
	t.Parallel()
	for name, test := range hostileStreams() {
		for _, size := range []int{1, 5, 1000} {
			_, packets, err := readStream(test.file, size)
			says := func(text string) bool { return err != nil && strings.Contains(err.Error(), text) }
			if !slices.ContainsFunc(strings.Split(test.says, "|"), says) || len(packets) > 0 {
				t.Errorf("%s in pieces of %d: want %q, got %v, %v", name, size, test.says, err, packets)
			}
		}
	}
	var r streamReader
	first := r.Read([]byte("rubbish"), nil)
	if again := r.Read(pcapFile(binary.LittleEndian, 0xa1b2c3d4, 0), nil); again != first || len(r.rest) > 0 {
		t.Errorf("want %v for good, got %v, and %d bytes", first, again, len(r.rest))
	}
}

// FuzzStreamReader: no file makes the reader fall, keep much, or hand out what is too long; and how it
// is cut makes no difference.
func FuzzStreamReader(f *testing.F) {
	for _, test := range hostileStreams() {
		f.Add(test.file, 3)
	}
	f.Add(pcapFile(binary.BigEndian, 0xa1b2c3d4, 7), 5)
	f.Add(pcapngFile(binary.BigEndian, "\x00\x09\x00\x01\x09\x00\x00\x00", 7, 7), 5)
	f.Fuzz(func(t *testing.T, file []byte, size int) {
		size = max(1, size%1000)
		var r streamReader
		for piece := range slices.Chunk(file, size) {
			err := r.Read(piece, func(p packet) {
				if h, known := r.Header(); !known || len(p.data) > h.Snap || h.Snap > MaxSnap || p.stamp > maxStamp {
					t.Errorf("%+v of %+v", p, h)
				}
			})
			if len(r.rest) > maxBlock+size {
				t.Errorf("%d bytes kept", len(r.rest))
			}
			if err != nil {
				break
			}
		}
		_, cut, cutErr := readStream(file, size)
		_, whole, wholeErr := readStream(file, max(1, len(file)))
		if fmt.Sprint(cut, cutErr) != fmt.Sprint(whole, wholeErr) {
			t.Errorf("want %v, %v, got %v, %v", whole, wholeErr, cut, cutErr)
		}
	})
}

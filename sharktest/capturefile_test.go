package sharktest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// makeCapture returns a pcap file of so many bytes, at least 24. Its packets hold data that does not repeat.
func makeCapture(size int) []byte {
	const snapshot = 1 << 16
	file := binary.LittleEndian.AppendUint32(make([]byte, 0, size), pcapMicroseconds)
	file = append(file, 2, 0, 4, 0) // version 2.4
	file = append(file, make([]byte, 8)...)
	file = binary.LittleEndian.AppendUint32(file, snapshot)
	file = binary.LittleEndian.AppendUint32(file, 1) // Ethernet
	for n := uint32(1); len(file) < size; n++ {
		data := min(size-len(file)-pcapRecordHeader, snapshot)
		if left := size - len(file) - pcapRecordHeader - data; left > 0 && left < pcapRecordHeader {
			data -= pcapRecordHeader // and room for the header of the next one
		}
		if data < 0 {
			panic(fmt.Sprintf("no pcap file has %d bytes", size))
		}
		for _, word := range []uint32{n, 0, uint32(data), uint32(data)} {
			file = binary.LittleEndian.AppendUint32(file, word)
		}
		for i := range uint32(data) {
			file = append(file, byte((n*1_000_003+i)*2_654_435_761>>24))
		}
	}
	return file
}

// makeSection returns a pcapng file of so many packets.
func makeSection(t *testing.T, packets int) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := pcapgo.NewNgWriter(&file, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for n := range packets {
		data := make([]byte, 60+n)
		info := gopacket.CaptureInfo{Timestamp: time.Unix(1, 0), CaptureLength: len(data), Length: len(data)}
		if err := w.WritePacket(info, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

// changed returns a copy of a file with one byte changed.
func changed(file []byte, at int, to byte) []byte {
	file = bytes.Clone(file)
	file[at] = to
	return file
}

func TestCountPackets(t *testing.T) {
	pcap, section := makeCapture(200_000), makeSection(t, 5)
	block := bytes.LastIndex(section, []byte{pcapngPacket, 0, 0, 0})
	bigEndian := []byte("\xa1\xb2\xc3\xd4\x00\x02\x00\x04........\x00\x00\xff\xff\x00\x00\x00\x01" +
		"........\x00\x00\x00\x02\x00\x00\x00\x02xy")
	for name, test := range map[string]struct {
		file []byte
		want int
		err  string
	}{
		"pcap":                            {pcap, 4, ""},
		"pcap without packets":            {makeCapture(24), 0, ""},
		"pcap of the other byte order":    {bigEndian, 1, ""},
		"pcap with nanoseconds":           {changed(changed(pcap, 0, 0x4d), 1, 0x3c), 4, ""},
		"pcapng":                          {section, 5, ""},
		"pcapng without packets":          {makeSection(t, 0), 0, ""},
		"nothing":                         {nil, 0, "0 bytes"},
		"less than a header":              {pcap[:23], 0, "23 bytes"},
		"something else":                  {[]byte(strings.Repeat("x", 100)), 0, "neither"},
		"pcap cut in a packet":            {pcap[:len(pcap)-1], 3, "cut off in packet 4"},
		"pcap cut in a header":            {pcap[:24+15], 0, "cut off in the header of packet 1"},
		"pcap with more behind it":        {append(bytes.Clone(pcap), 0), 4, "cut off in the header of packet 5"},
		"pcapng cut in a block":           {section[:len(section)-4], 4, "cut off in block"},
		"pcapng cut in a header":          {section[:block+8], 4, "cut off in the header"},
		"pcapng with two lengths":         {changed(section, len(section)-4, 1), 4, "two lengths"},
		"pcapng of a damaged length":      {changed(section, block+4, 7), 4, "has a length of"},
		"pcapng of an unknown interface":  {changed(section, block+8, 1), 4, "no packet of an interface"},
		"pcapng with a packet too long":   {changed(section, block+20, 255), 4, "no packet of an interface"},
		"pcapng that ends in half a word": {append(bytes.Clone(section), 0, 0), 5, "cut off in the header"},
	} {
		got, err := countPackets(test.file)
		if got != test.want {
			t.Errorf("%s: want %d packets, got %d", name, test.want, got)
		}
		if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("%s: want %q as the error, got %v", name, test.err, err)
		}
	}
}

func TestMakeCapture(t *testing.T) {
	for _, size := range []int{24, 40, 41, 100, 24 + 16 + 1<<16, 24 + 16 + 1<<16 + 1, 24 + 32 + 1<<16, 3_000_000} {
		if got := len(makeCapture(size)); got != size {
			t.Errorf("want %d bytes, got %d", size, got)
		}
	}
}

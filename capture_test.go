package main

import (
	"io"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/pcapgo"
)

// A packet of a capture file.
type packet struct {
	gopacket.CaptureInfo
	data []byte
}

// readPcap reads a capture file whole.
func readPcap(t testing.TB, file io.Reader) ([]packet, *pcapgo.Reader) {
	t.Helper()
	r, err := pcapgo.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var packets []packet
	for {
		data, info, err := r.ReadPacketData()
		if err == io.EOF {
			return packets, r
		}
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, packet{info, data})
	}
}

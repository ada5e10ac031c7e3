package sharktest

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// What the headers of capture files look like. The magic numbers tell the order of the bytes.
const (
	pcapMicroseconds = 0xa1b2c3d4
	pcapNanoseconds  = 0xa1b23c4d
	pcapHeader       = 24 // bytes before the first packet
	pcapRecordHeader = 16 // bytes before each packet

	pcapngSection   = 0x0a0d0d0a // reads the same both ways
	pcapngByteOrder = 0x1a2b3c4d
	pcapngInterface = 1
	pcapngPacket    = 6
	pcapngFrame     = 12 // bytes of a block that holds nothing: type, length, length again
)

// countPackets returns the number of packets in a pcap or pcapng file, and an
// error unless the file is whole to its last byte.
func countPackets(file []byte) (int, error) {
	if len(file) < pcapHeader {
		return 0, fmt.Errorf("%d bytes are no capture file", len(file))
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(file) {
		case pcapMicroseconds, pcapNanoseconds:
			return countPcap(file, order)
		case pcapngSection:
			if order.Uint32(file[8:]) == pcapngByteOrder {
				return countPcapng(file, order)
			}
		}
	}
	return 0, errors.New("neither pcap nor pcapng")
}

// countPcap goes through the records of a pcap file.
func countPcap(file []byte, order binary.ByteOrder) (int, error) {
	rest := file[pcapHeader:]
	for n := 0; ; n++ {
		if len(rest) == 0 {
			return n, nil
		}
		if len(rest) < pcapRecordHeader {
			return n, fmt.Errorf("cut off in the header of packet %d", n+1)
		}
		size := order.Uint32(rest[8:])
		if rest = rest[pcapRecordHeader:]; uint64(len(rest)) < uint64(size) {
			return n, fmt.Errorf("cut off in packet %d", n+1)
		}
		rest = rest[size:]
	}
}

// countPcapng goes through the blocks of a pcapng file of one section.
func countPcapng(file []byte, order binary.ByteOrder) (int, error) {
	packets, interfaces := 0, uint32(0)
	for block, rest := 1, file; len(rest) > 0; block++ {
		if len(rest) < pcapngFrame {
			return packets, fmt.Errorf("cut off in the header of block %d", block)
		}
		kind, size := order.Uint32(rest), order.Uint32(rest[4:])
		switch {
		case size < pcapngFrame || size%4 != 0:
			return packets, fmt.Errorf("block %d has a length of %d", block, size)
		case uint64(size) > uint64(len(rest)):
			return packets, fmt.Errorf("cut off in block %d", block)
		case order.Uint32(rest[size-4:]) != size:
			return packets, fmt.Errorf("block %d has two lengths", block)
		}
		switch kind {
		case pcapngInterface:
			interfaces++
		case pcapngPacket:
			// Interface, two words of time, two lengths.
			if size < pcapngFrame+20 || order.Uint32(rest[8:]) >= interfaces || order.Uint32(rest[20:]) > size-pcapngFrame-20 {
				return packets, fmt.Errorf("block %d is no packet of an interface", block)
			}
			packets++
		}
		rest = rest[size:]
	}
	return packets, nil
}

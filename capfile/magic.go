package capfile

import (
	"encoding/binary"
	"time"
)

// Magic numbers of pcap, as a machine of the file's order of bytes reads them, and of pcapng.
const (
	magicMicro   = 0xa1b2c3d4
	magicNano    = 0xa1b23c4d
	magicSection = 0x1a2b3c4d
)

// pcapOrder returns the order of bytes of a pcap file, and the unit of its fractions of a
// second; no order if it is none.
func pcapOrder(head []byte) (order binary.ByteOrder, unit time.Duration) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(head) {
		case magicMicro:
			return order, time.Microsecond
		case magicNano:
			return order, time.Nanosecond
		}
	}
	return nil, 0
}

// sectionOrder returns the order of bytes of a section of a pcapng file, from its first 12 bytes;
// nil if it says none.
func sectionOrder(head []byte) binary.ByteOrder {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if order.Uint32(head[8:]) == magicSection {
			return order
		}
	}
	return nil
}

// isSection reports whether a block begins a section, which is the same in either order of bytes.
func isSection(head []byte) bool { return binary.LittleEndian.Uint32(head) == sectionHeader }

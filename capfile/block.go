package capfile

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"pcapdaemon/tap"
)

// Types of blocks (draft-ietf-opsawg-pcapng, as is all that follows).
const (
	sectionHeader        = 0x0a0d0d0a
	interfaceDescription = 1
	obsoletePacket       = 2
	simplePacket         = 3
	interfaceStatistics  = 5
	enhancedPacket       = 6
)

// Options. A code means something else in each type of block, but for the comment.
const (
	optComment = 1

	shbHardware = 2
	shbOS       = 3
	shbUserAppl = 4

	ifName        = 2
	ifDescription = 3
	ifTsresol     = 9
	ifFilter      = 11

	isbStartTime = 2
	isbEndTime   = 3
	isbIfRecv    = 4
	isbIfDrop    = 5
	isbOSDrop    = 7
	isbUsrDeliv  = 8
)

// maxOption is how long the value of an option is at most, in bytes. The length
// has 16 bits, and readers that count the padding within them (pcapgo does)
// take the last three lengths for next to nothing.
const maxOption = 1<<16 - blockAlign

const (
	blockAlign      = 4  // bytes: packets and options are filled up to a multiple of it
	packetBlockSize = 32 // bytes of an enhanced packet block, beside the packet
	packetBlockHead = 28 // those of them that stand before the packet
)

// packetLayout is what an enhanced packet block takes.
var packetLayout = tap.Layout{PerPacket: packetBlockSize, Align: blockAlign}

// A block is a block that is being made.
type block []byte

// newBlock begins a block of a type; its length follows at its end.
func newBlock(kind uint32) block {
	return append(binary.LittleEndian.AppendUint32(nil, kind), 0, 0, 0, 0)
}

// option appends an option. The value must not be longer than maxOption.
func (b block) option(code uint16, value []byte) block {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&(blockAlign-1))...)
}

// text appends an option for people, of any length, unless it is empty.
func (b block) text(code uint16, value string) block {
	if value == "" {
		return b
	}
	return b.option(code, []byte(legible(value, maxOption)))
}

// count appends an option that counts something.
func (b block) count(code uint16, n int64) block {
	return b.option(code, binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

// end ends the options and writes the length, which stands at both ends of a block.
func (b block) end() []byte {
	b = append(b, 0, 0, 0, 0) // opt_endofopt
	size := uint32(len(b) + 4)
	binary.LittleEndian.PutUint32(b[4:], size)
	return binary.LittleEndian.AppendUint32(b, size)
}

// appendTime appends a time. Its upper half comes first, whatever the order of bytes.
func appendTime(to []byte, t time.Time) []byte {
	nanos := uint64(t.UnixNano())
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(to, uint32(nanos>>32)), uint32(nanos))
}

// legible returns a text of at most so many bytes that can be shown: what is
// no UTF-8, or would control a terminal, is replaced. It is cut at a character.
func legible(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, s)
	if len(s) <= most {
		return s
	}
	for !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// A packetHead is what an enhanced packet block says of its packet.
type packetHead struct {
	iface            uint32 // its number in the file
	stamp            uint64 // nanoseconds since 1970
	stored, original uint32 // bytes
}

// recordHead returns the head for the packet of a record, on the first interface.
func recordHead(record []byte) packetHead {
	order := binary.LittleEndian
	return packetHead{stamp: uint64(order.Uint32(record))*uint64(time.Second) + uint64(order.Uint32(record[4:])),
		stored: order.Uint32(record[8:]), original: order.Uint32(record[12:])}
}

// surround writes all of an enhanced packet block but the packet.
func (h packetHead) surround(block []byte) {
	order, size := binary.LittleEndian, uint32(len(block))
	order.PutUint32(block[len(block)-8:], 0) // where the packet does not fill it up
	order.PutUint32(block[len(block)-4:], size)
	order.PutUint32(block, enhancedPacket)
	order.PutUint32(block[4:], size)
	order.PutUint32(block[8:], h.iface)
	order.PutUint32(block[12:], uint32(h.stamp>>32))
	order.PutUint32(block[16:], uint32(h.stamp))
	order.PutUint32(block[20:], h.stored)
	order.PutUint32(block[24:], h.original)
}

// appendPacketBlock appends the enhanced packet block of a packet on an interface, given by its number.
func appendPacketBlock(b []byte, number uint32, p packet) []byte {
	size := int(packetLayout.Size(len(p.data)))
	b = slices.Grow(b, size)
	block := b[len(b) : len(b)+size]
	packetHead{number, p.stamp, uint32(len(p.data)), p.original}.surround(block)
	copy(block[packetBlockHead:], p.data)
	return b[:len(b)+size]
}

// blockStamp returns the stamp of an enhanced packet block.
func blockStamp(b []byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(b[12:]))<<32 | uint64(binary.LittleEndian.Uint32(b[16:]))
}

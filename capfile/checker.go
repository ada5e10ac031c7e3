package capfile

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"time"
)

// SightSize is how many bytes of a file Identify needs to see: what may stand before its first packet.
const SightSize = 256 << 10

// Why a file is not whole.
var (
	errHole = errors.New("parts of the file are missing; it may still be being written")
	errCut  = errors.New("the file ends in the middle of a packet")
)

// magic numbers of pcap, as a machine of the file's order of bytes reads them, and of pcapng.
const (
	magicMicro    = 0xa1b2c3d4
	magicNano     = 0xa1b23c4d
	magicSection  = 0x1a2b3c4d
	pcapRecord    = 16 // bytes before a packet
	blockHead     = 12 // bytes of the shortest block, and where a section says its order of bytes
	largestRecord = 16 << 20
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

// sectionOrder returns the order of bytes of a section of a pcapng file.
func sectionOrder(head []byte) binary.ByteOrder {
	if binary.BigEndian.Uint32(head[8:]) == magicSection {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// isSection reports whether a block begins a section, which is the same in either order of bytes.
func isSection(head []byte) bool { return binary.LittleEndian.Uint32(head) == sectionHeader }

// Identify returns the extension that suits a file, .pcap or .pcapng, and when its first
// packet came, from the first SightSize bytes of it, or all if there are fewer. What is no
// capture file has no extension; without a packet the time is zero.
func Identify(head []byte) (extension string, first time.Time) {
	if len(head) < blockHead {
		return "", time.Time{}
	}
	if isSection(head) {
		return ".pcapng", firstBlockTime(head)
	}
	order, unit := pcapOrder(head)
	switch {
	case order == nil:
		return "", time.Time{}
	case len(head) < HeaderSize+pcapRecord:
		return ".pcap", time.Time{}
	}
	seconds, fraction := order.Uint32(head[HeaderSize:]), order.Uint32(head[HeaderSize+4:])
	return ".pcap", time.Unix(int64(seconds), int64(fraction)*int64(unit)).UTC()
}

// firstBlockTime returns the time of the first packet of a pcapng file, or zero.
func firstBlockTime(rest []byte) time.Time {
	order := sectionOrder(rest)
	var ticks []float64 // of each interface, in a second
	for len(rest) >= blockHead {
		kind, size := order.Uint32(rest), int64(order.Uint32(rest[4:]))
		if size < blockHead || size%blockAlign != 0 || size > int64(len(rest)) {
			if kind != enhancedPacket || len(rest) < packetBlockHead { // the packet itself is not needed
				break
			}
			size = int64(len(rest))
		}
		block := rest[:size]
		rest = rest[size:]
		switch {
		case kind == interfaceDescription && size >= 20:
			ticks = append(ticks, resolution(order, block[16:size-4]))
		case kind == enhancedPacket && size >= packetBlockHead:
			if iface := int64(order.Uint32(block[8:])); iface < int64(len(ticks)) {
				stamp := uint64(order.Uint32(block[12:]))<<32 | uint64(order.Uint32(block[16:]))
				return tickTime(stamp, ticks[iface])
			}
			return time.Time{}
		}
	}
	return time.Time{}
}

// resolution returns how many ticks a second has for an interface with these options.
func resolution(order binary.ByteOrder, options []byte) float64 {
	for len(options) >= 4 {
		code, size := order.Uint16(options), int(order.Uint16(options[2:]))
		if len(options) < 4+size || code == 0 {
			break
		}
		if code == ifTsresol && size == 1 {
			if n := options[4]; n&0x80 != 0 {
				return math.Pow(2, float64(n&0x7f))
			}
			return math.Pow(10, float64(options[4]))
		}
		options = options[min(len(options), 4+size+(-size&(blockAlign-1))):]
	}
	return 1e6
}

// tickTime returns a time that is given in ticks since 1970; zero if nobody can mean it.
func tickTime(stamp uint64, ticks float64) time.Time {
	if ticks == 1e9 && stamp <= math.MaxInt64 { // exact
		return time.Unix(0, int64(stamp)).UTC()
	}
	seconds := float64(stamp) / ticks
	if seconds > math.MaxUint32 {
		return time.Time{}
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)).UTC()
}

// A Checker reads a file on, and fails where one that begins as a capture file does not go on as
// one: parts are missing, or the end. What begins otherwise is passed on as it is, unless it begins with zeros.
type Checker struct {
	from  io.Reader
	head  []byte // of the next record or block, as far as it has come
	want  int    // bytes that it has
	skip  int64  // bytes of the record or block that are still to come
	judge func(head []byte) (rest int64, err error)
	order binary.ByteOrder
	err   error
}

// NewChecker returns a checker of what is read from a reader.
func NewChecker(from io.Reader) *Checker {
	c := &Checker{from: from, want: blockHead}
	c.judge = c.judgeFile
	return c
}

// Read implements io.Reader. An error that is not the reader's says what is wrong with the file.
func (c *Checker) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.from.Read(p)
	if c.err = c.walk(p[:n]); c.err != nil {
		return n, c.err
	}
	if err == io.EOF && c.judge != nil && (c.skip > 0 || len(c.head) > 0 && c.order != nil) {
		c.err = errCut
		return n, c.err
	}
	return n, err
}

// walk goes from one record or block to the next.
func (c *Checker) walk(data []byte) error {
	for len(data) > 0 && c.judge != nil {
		if c.skip > 0 {
			n := min(c.skip, int64(len(data)))
			c.skip, data = c.skip-n, data[n:]
			continue
		}
		n := min(c.want-len(c.head), len(data))
		c.head, data = append(c.head, data[:n]...), data[n:]
		if len(c.head) < c.want {
			return nil
		}
		rest, err := c.judge(c.head)
		if err != nil {
			return err
		}
		c.skip, c.head = rest, c.head[:0]
	}
	return nil
}

// judgeFile judges how a file begins.
func (c *Checker) judgeFile(head []byte) (rest int64, err error) {
	order, _ := pcapOrder(head)
	switch {
	case order != nil:
		c.order, c.want, c.judge = order, pcapRecord, c.judgeRecord
		return HeaderSize - blockHead, nil
	case isSection(head):
		c.judge = c.judgeBlock
		return c.judgeBlock(head)
	case binary.LittleEndian.Uint32(head) == 0:
		return 0, errHole
	}
	c.judge = nil
	return 0, nil
}

// judgeRecord judges what stands before a packet of a pcap file.
func (c *Checker) judgeRecord(head []byte) (rest int64, err error) {
	captured, length := c.order.Uint32(head[8:]), c.order.Uint32(head[12:])
	if length == 0 || captured > largestRecord {
		return 0, errHole
	}
	return int64(captured), nil
}

// judgeBlock judges the first bytes of a block of a pcapng file.
func (c *Checker) judgeBlock(head []byte) (rest int64, err error) {
	if isSection(head) {
		c.order = sectionOrder(head)
	}
	size := int64(c.order.Uint32(head[4:]))
	if size < blockHead || size%blockAlign != 0 || size > largestRecord {
		return 0, errHole
	}
	return size - blockHead, nil
}

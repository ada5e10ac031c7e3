package capfile

import (
	"cmp"
	"encoding/binary"
	"math"
	"time"
)

// IdentifySize is how many bytes of a file Identify needs to see: what may stand before its first packet.
const IdentifySize = 256 << 10

// Identify returns the extension that suits a file, .pcap or .pcapng, and when its first
// packet came, from the first IdentifySize bytes of it, or all if there are fewer. What is no
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
	case len(head) < HeaderSize+RecordHeaderSize:
		return ".pcap", time.Time{}
	}
	seconds, fraction := order.Uint32(head[HeaderSize:]), order.Uint32(head[HeaderSize+4:])
	return ".pcap", time.Unix(int64(seconds), int64(fraction)*int64(unit)).UTC()
}

// firstBlockTime returns the time of the first packet of a pcapng file, or zero.
func firstBlockTime(rest []byte) time.Time {
	order := cmp.Or[binary.ByteOrder](sectionOrder(rest), binary.LittleEndian)
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

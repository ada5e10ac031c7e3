package capfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	// maxBlock is how many bytes a block may have: a packet with options, or a section with a
	// comment and three more texts of the longest kind.
	maxBlock = 512 << 10
	// maxStamp is the latest stamp there is, in nanoseconds since 1970: the year 2262. What is
	// later than that is taken for it.
	maxStamp = math.MaxInt64
)

// A packet is one of a capture file.
type packet struct {
	stamp    uint64 // nanoseconds since 1970
	original uint32 // bytes on the wire
	data     []byte // what was captured of it
}

// A streamReader reads a capture file of a foreign program that comes in pieces, cut anywhere:
// pcap or pcapng, of either order of bytes, stamped in microseconds or nanoseconds, with one interface. It
// believes nothing that it reads: it keeps at most one packet, and takes none of more than MaxSnap bytes.
// The zero value is ready to use, from one goroutine.
type streamReader struct {
	rest  []byte // what has come of the next packet
	order binary.ByteOrder
	next  func(*streamReader, []byte) (int, error) // takes the next record or block; 0: it is not complete
	unit  uint64                                   // nanoseconds
	named bool                                     // the header is complete
	head  Header
	take  func(packet)
	err   error // of all reads from now on
}

// Header returns link type, snapshot length and, of a pcapng file, the filter; false means
// that they have not come yet.
func (r *streamReader) Header() (h Header, known bool) { return r.head, r.named }

// Read reads the next piece and calls take with each packet that is complete. The data of a packet
// stays until take returns. After an error, which says what is wrong with the file, nothing more can be read.
func (r *streamReader) Read(piece []byte, take func(packet)) error {
	if r.err != nil {
		return r.err
	}
	at := piece
	if len(r.rest) > 0 {
		r.rest = append(r.rest, piece...)
		at = r.rest
	}
	r.take = take
	if r.next == nil {
		r.next = (*streamReader).recognise
	}
	for len(at) > 0 {
		n, err := r.next(r, at)
		if err != nil {
			r.err, r.rest = err, nil
			return err
		}
		if n == 0 {
			break
		}
		at = at[n:]
	}
	r.rest = append(r.rest[:0], at...) // may be a part of itself
	return nil
}

// recognise takes the header of a pcap file, or recognises a pcapng file.
func (r *streamReader) recognise(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, nil
	}
	order, unit := pcapOrder(b)
	switch {
	case isSection(b):
		r.next = (*streamReader).section
		return r.next(r, b)
	case order == nil:
		return 0, fmt.Errorf("no capture file: it begins with %x", b[:4])
	}
	r.order, r.unit = order, uint64(unit)
	if len(b) < HeaderSize {
		return 0, nil
	}
	r.next = (*streamReader).record
	return HeaderSize, r.describe(r.order.Uint32(b[20:])&0xffff, r.order.Uint32(b[16:])) // above it: FCS
}

// describe notes the link type and the snapshot length.
func (r *streamReader) describe(linkType, snap uint32) error {
	if snap > MaxSnap {
		return fmt.Errorf("a snapshot length of %d bytes, more than %d", snap, MaxSnap)
	}
	if snap == 0 { // no limit
		snap = MaxSnap
	}
	r.head.LinkType, r.head.Snap, r.named = int(linkType), int(snap), true
	return nil
}

// handOut hands out a packet, of which the bytes are there.
func (r *streamReader) handOut(stamp uint64, original uint32, data []byte) {
	r.take(packet{stamp, max(original, uint32(len(data))), data})
}

// checkPacket refuses a packet of more bytes than the snapshot length.
func (r *streamReader) checkPacket(stored uint32) error {
	if int64(stored) > int64(r.head.Snap) {
		return fmt.Errorf("a packet of %d bytes, with a snapshot length of %d", stored, r.head.Snap)
	}
	return nil
}

// record takes a record of a pcap file.
func (r *streamReader) record(b []byte) (int, error) {
	if len(b) < RecordHeaderSize {
		return 0, nil
	}
	stored := r.order.Uint32(b[8:])
	if err := r.checkPacket(stored); err != nil {
		return 0, err
	}
	size := RecordHeaderSize + int(stored)
	if len(b) < size {
		return 0, nil
	}
	stamp := uint64(r.order.Uint32(b))*uint64(time.Second) + uint64(r.order.Uint32(b[4:]))*r.unit
	r.handOut(stamp, r.order.Uint32(b[12:]), b[RecordHeaderSize:size])
	return size, nil
}

// section takes the section header of a pcapng file.
func (r *streamReader) section(b []byte) (int, error) {
	if len(b) < blockHead {
		return 0, nil
	}
	if r.order = sectionOrder(b); r.order == nil {
		return 0, errors.New("no capture file: a section without an order of bytes")
	}
	body, size, err := r.body(b)
	if size > 0 && err == nil && len(body) < 16 {
		err = fmt.Errorf("a section header of %d bytes", size)
	}
	r.next = (*streamReader).block
	if size == 0 {
		r.next = (*streamReader).section
	}
	return size, err
}

// body returns what stands between the ends of a block, and the size of it all; 0: it is not complete.
func (r *streamReader) body(b []byte) (body []byte, size int, err error) {
	if len(b) < blockHead {
		return nil, 0, nil
	}
	length := r.order.Uint32(b[4:])
	switch {
	case length < blockHead || length > maxBlock || length%blockAlign != 0:
		return nil, 0, fmt.Errorf("a block of %d bytes", length)
	case len(b) < int(length):
		return nil, 0, nil
	case r.order.Uint32(b[length-4:]) != length:
		return nil, 0, fmt.Errorf("a block of %d bytes that ends with another length", length)
	}
	return b[8 : length-4], int(length), nil
}

// block takes a block that is no section header. Whatever it does not know it passes over.
func (r *streamReader) block(b []byte) (int, error) {
	body, size, err := r.body(b)
	if err != nil || size == 0 {
		return 0, err
	}
	switch kind := r.order.Uint32(b); kind {
	case interfaceDescription:
		err = r.iface(body)
	case enhancedPacket:
		err = r.enhanced(body)
	case obsoletePacket, simplePacket:
		err = errors.New("a packet block without an interface or a stamp")
	case sectionHeader:
		err = errors.New("more than one section")
	}
	return size, err
}

// iface takes the body of an interface description block.
func (r *streamReader) iface(body []byte) error {
	switch {
	case r.named:
		return errors.New("more than one interface")
	case len(body) < 8:
		return errors.New("an interface without a link type")
	}
	r.unit = 1000 // unless an option says so
	if err := r.options(body[8:]); err != nil {
		return err
	}
	return r.describe(uint32(r.order.Uint16(body)), r.order.Uint32(body[4:]))
}

// options takes the options of an interface.
func (r *streamReader) options(b []byte) error {
	for len(b) >= 4 {
		code, length := r.order.Uint16(b), int(r.order.Uint16(b[2:]))
		padded := length + -length&(blockAlign-1)
		switch {
		case code == 0:
			return nil
		case len(b)-4 < padded:
			return errors.New("an option that is longer than its block")
		}
		value := b[4 : 4+length]
		switch {
		case code == ifTsresol && length == 1 && value[0] <= 9: // a power of ten
			r.unit = uint64(math.Pow10(9 - int(value[0])))
		case code == ifTsresol:
			return fmt.Errorf("stamps in a unit that is not known: %x", value)
		case code == ifFilter && length > 1 && value[0] == 0:
			r.head.Filter = string(bytes.Clone(value[1:]))
		}
		b = b[4+padded:]
	}
	return nil
}

// enhanced takes the body of an enhanced packet block.
func (r *streamReader) enhanced(body []byte) error {
	const head = packetBlockHead - 8
	switch {
	case len(body) < head:
		return errors.New("a packet block without a packet")
	case !r.named || r.order.Uint32(body) != 0:
		return errors.New("a packet of an interface that is not described")
	}
	stored := r.order.Uint32(body[12:])
	if err := r.checkPacket(stored); err != nil {
		return err
	}
	if len(body)-head < int(stored) {
		return fmt.Errorf("a packet of %d bytes that is longer than its block", stored)
	}
	stamp := uint64(r.order.Uint32(body[4:]))<<32 | uint64(r.order.Uint32(body[8:]))
	if stamp > maxStamp/r.unit {
		stamp = maxStamp / r.unit
	}
	r.handOut(stamp*r.unit, r.order.Uint32(body[16:]), body[head:head+int(stored)])
	return nil
}

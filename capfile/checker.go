package capfile

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
)

// Why a file is not whole.
var (
	errHole = errors.New("parts of the file are missing; it may still be being written")
	errCut  = errors.New("the file ends in the middle of a packet")
)

const (
	// blockHead is the length of the shortest block, in bytes. A section says its order of bytes there.
	blockHead = 12
	// largestRecord is the longest record or block that is believed, in bytes.
	largestRecord = 16 << 20
)

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
		c.order, c.want, c.judge = order, RecordHeaderSize, c.judgeRecord
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
		c.order = cmp.Or[binary.ByteOrder](sectionOrder(head), binary.LittleEndian)
	}
	size := int64(c.order.Uint32(head[4:]))
	if size < blockHead || size%blockAlign != 0 || size > largestRecord {
		return 0, errHole
	}
	return size - blockHead, nil
}

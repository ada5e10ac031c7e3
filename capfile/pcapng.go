package capfile

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A pcapngFormat is pcapng: a file that says where it is from and what was
// dropped. It has one section and one interface, and stamps in nanoseconds.
//
// The blocks are of our own making. pcapgo.NgWriter takes packets one by one,
// cuts the length of an option to 16 bits without a look, which damages the
// file, and cannot say what the kernel dropped.
type pcapngFormat struct {
	application string // that makes the files, with its version
	hardware    string
	system      string // operating system
}

// newPcapngFormat returns the format of files that an application makes on this machine.
func newPcapngFormat(application string) pcapngFormat {
	var name unix.Utsname
	_ = unix.Uname(&name) // fails only for a bad address
	f := pcapngFormat{
		application: application,
		hardware:    unix.ByteSliceToString(name.Machine[:]),
		system:      unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:]),
	}
	if model := processor(); model != "" {
		f.hardware += ", " + model
	}
	return f
}

// processor returns the name of this machine's processor, if it has one. Not
// every architecture tells.
func processor() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if key, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// Extension implements Format.
func (pcapngFormat) Extension() string { return ".pcapng" }

// Nanoseconds implements Format.
func (pcapngFormat) Nanoseconds() bool { return true }

// Layout implements Format.
func (f pcapngFormat) Layout(h Header) Layout {
	return Layout{int64(len(f.Head(h)) + len(f.Tail(Statistics{}))), packetLayout}
}

// Packets implements Format.
func (pcapngFormat) Packets(records [][]byte) io.Reader { return newBlockReader(nil, records, nil) }

// Content implements Format.
func (f pcapngFormat) Content(h Header, c Statistics, records [][]byte) func() io.Reader {
	head, tail := f.Head(h), f.Tail(c)
	return func() io.Reader { return newBlockReader(head, records, tail) }
}

// Head implements Format.
func (f pcapngFormat) Head(h Header) []byte {
	return append(f.section(h.Comment), describeInterface(h)...)
}

// section returns the block that begins a file.
func (f pcapngFormat) section(comment string) []byte {
	b := newBlock(sectionHeader)
	b = binary.LittleEndian.AppendUint32(b, 0x1a2b3c4d) // tells the order of bytes
	b = append(b, 1, 0, 0, 0)                           // version 1.0
	b = binary.LittleEndian.AppendUint64(b, 1<<64-1)    // the section's length: not said
	b = b.text(optComment, comment).text(shbHardware, f.hardware)
	return b.text(shbOS, f.system).text(shbUserAppl, f.application).end()
}

// describeInterface returns the block of an interface.
func describeInterface(h Header) []byte {
	b := newBlock(interfaceDescription)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.LinkType))
	b = append(b, 0, 0)
	// To some readers 0 and 0xffffffff mean no limit, to others an error.
	b = binary.LittleEndian.AppendUint32(b, uint32(min(max(h.Snap, 1), MaxSnap)))
	b = b.text(ifName, h.Interface).text(ifDescription, h.Node).option(ifTsresol, []byte{9}) // 10⁻⁹ s
	if h.Filter != "" {
		kind := []byte{0} // pcap-filter(7), as text
		b = b.option(ifFilter, append(kind, legible(h.Filter, maxOption-len(kind))...))
	}
	return b.end()
}

// Tail implements Format. Its size is always the same.
func (pcapngFormat) Tail(c Statistics) []byte { return statisticsBlock(0, c) }

// statisticsBlock returns the statistics of an interface, given by its number.
func statisticsBlock(number uint32, c Statistics) []byte {
	b := newBlock(interfaceStatistics)
	b = appendTime(binary.LittleEndian.AppendUint32(b, number), c.Ended)
	b = b.option(isbStartTime, appendTime(nil, c.Started)).option(isbEndTime, appendTime(nil, c.Ended))
	b = b.count(isbIfRecv, c.Stats.Received).count(isbIfDrop, c.Stats.IfDropped)
	return b.count(isbOSDrop, c.Stats.Dropped).count(isbUsrDeliv, c.Packets).end()
}

// A blockReader reads the records of a pcap file as blocks. It makes them where
// they are read to, as many as there is room for.
type blockReader struct {
	made   []byte   // of a block, not read yet
	piece  []byte   // of the records, not made into blocks yet
	pieces [][]byte // those after it
	left   int64    // bytes of all these records
	tail   []byte   // what follows the last block of a record; nil: it is made
	spare  []byte   // memory for one block
	err    error    // of all reads from now on
}

// newBlockReader returns a reader of what stands before the packets, of a block
// for each record, and of what stands after them.
func newBlockReader(head []byte, records [][]byte, tail []byte) *blockReader {
	r := &blockReader{made: head, pieces: records, tail: tail}
	for _, piece := range records {
		r.left += int64(len(piece))
	}
	return r
}

// Read implements io.Reader.
func (r *blockReader) Read(p []byte) (n int, err error) {
	for n < len(p) && r.err == nil {
		if len(r.made) == 0 {
			made := r.makeBlocks(p[n:])
			if n += made; made == 0 {
				r.made, r.err = r.makeBlock()
			}
			continue
		}
		copied := copy(p[n:], r.made)
		r.made = r.made[copied:]
		n += copied
	}
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

// makeBlocks makes blocks of the records that are whole in the current piece,
// as far as they find room, and returns their bytes.
func (r *blockReader) makeBlocks(room []byte) (made int) {
	records := r.piece
	for len(records) >= RecordHeaderSize {
		stored := storedBytes(records)
		size := packetLayout.Size(int(stored))
		if int64(len(records)) < RecordHeaderSize+stored || int64(len(room)-made) < size {
			break
		}
		block := room[made : made+int(size)]
		recordHead(records).surround(block)
		copy(block[packetBlockHead:], records[RecordHeaderSize:RecordHeaderSize+stored])
		made += int(size)
		records = records[RecordHeaderSize+stored:]
	}
	r.left -= int64(len(r.piece) - len(records))
	r.piece = records
	return made
}

// makeBlock makes the next block, wherever its record lies, or returns io.EOF
// after the last one.
func (r *blockReader) makeBlock() ([]byte, error) {
	if r.left == 0 {
		tail := r.tail
		if r.tail = nil; tail == nil {
			return nil, io.EOF
		}
		return tail, nil
	}
	var header [RecordHeaderSize]byte
	if r.left < RecordHeaderSize {
		return nil, io.ErrUnexpectedEOF
	}
	r.take(header[:])
	stored := storedBytes(header[:])
	if r.left < stored {
		return nil, io.ErrUnexpectedEOF
	}
	size := int(packetLayout.Size(int(stored)))
	r.spare = slices.Grow(r.spare[:0], size)[:size]
	recordHead(header[:]).surround(r.spare)
	r.take(r.spare[packetBlockHead : packetBlockHead+stored])
	return r.spare, nil
}

// take fills p with what comes next of the records, which has to be enough.
func (r *blockReader) take(p []byte) {
	r.left -= int64(len(p))
	for len(p) > 0 {
		if len(r.piece) == 0 {
			r.piece, r.pieces = r.pieces[0], r.pieces[1:]
		}
		n := copy(p, r.piece)
		p, r.piece = p[n:], r.piece[n:]
	}
}

// storedBytes returns how many bytes of its packet a record holds.
func storedBytes(record []byte) int64 { return int64(binary.LittleEndian.Uint32(record[8:])) }

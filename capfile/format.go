// Package capfile knows what capture files look like, pcap and pcapng, and holds
// captures in memory within a budget. In memory a capture is always the records
// of a pcap file; what another format needs around them is made where the file
// is read. It knows nothing of requests and of where files go.
package capfile

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"time"

	"pcapdaemon/tap"
	"pcapdaemon/text"
)

const (
	HeaderSize       = 24 // bytes, pcap-savefile(5)
	RecordHeaderSize = 16 // bytes
)

// MaxSnap is the longest snapshot length that a file can have, in bytes.
const MaxSnap = tap.MaxSnap

// A Format is a kind of capture file. In memory every capture is the
// records of a pcap file; what else a file holds is made while it is read, so
// that whatever captures knows one form alone.
type Format interface {
	// Extension ends the names of files: .pcap or .pcapng.
	Extension() string
	// Nanoseconds reports whether the stamps of the records are that fine, or microseconds.
	Nanoseconds() bool
	// Layout returns the size of a file. The header's link type and snapshot
	// length, which are known when the interface is open, do not change it.
	Layout(Header) Layout
	// Head and Tail return what stands before the packets and after them.
	Head(Header) []byte
	Tail(Statistics) []byte
	// Packets returns what stands between them for some of the records, which are whole
	// but may be cut into pieces anywhere.
	Packets(records [][]byte) io.Reader
	// Content returns a function that opens the file, any number of times. The
	// records may be cut into pieces anywhere, and are not copied: they have to
	// stay as long as someone reads.
	Content(h Header, c Statistics, records [][]byte) func() io.Reader
}

// NewFormat returns a format by its name, pcap or pcapng; any other one is taken for pcap. The
// application, a name and a version, is what pcapng files say they were made by.
func NewFormat(name, application string) Format {
	if name == "pcapng" {
		return newPcapngFormat(application)
	}
	return PcapFormat{}
}

// A Header is what there is to say before the packets. A pcap file has room for the last two
// fields alone. A pcapng file takes texts of at most 65,535 bytes and cuts longer ones.
type Header struct {
	Node      string // the description of the interface
	Interface string
	Filter    string // pcap-filter(7); empty: everything
	Comment   string // of the section; empty: none
	Snap      int    // bytes
	LinkType  int    // as files have it, which is not always the handle's
}

// Comment returns the comment of a header: a JSON object with the node, the id
// of the request and the request itself, as it came, unless it is no JSON. It begins
// with what is shortest, should the request be too long for a file.
func Comment(node, id string, request []byte) string {
	if !json.Valid(request) {
		request = nil // one that is no JSON is worth no crash
	}
	return string(text.JSON(struct {
		Node    string          `json:"node"`
		ID      string          `json:"id"`
		Request json.RawMessage `json:"request,omitempty"`
	}{node, id, request}))
}

// A Statistics is what there is to say after the packets. A pcap file says nothing of it.
type Statistics struct {
	Started, Ended time.Time // of the capture
	Packets        int64     // written
	Stats          tap.Stats
}

// A Layout says what a file takes.
type Layout struct {
	Fixed  int64      // bytes: all that is no packet, what follows the packets included
	Packet tap.Layout // of each packet
}

// A PcapFormat is pcap-savefile(5), little-endian, with microseconds: the
// format that everything reads.
type PcapFormat struct{}

// Extension implements Format.
func (PcapFormat) Extension() string { return ".pcap" }

// Nanoseconds implements Format.
func (PcapFormat) Nanoseconds() bool { return false }

// Layout implements Format.
func (PcapFormat) Layout(Header) Layout { return Layout{HeaderSize, tap.RecordLayout()} }

// Head implements Format.
func (PcapFormat) Head(h Header) []byte { return pcapHeader(h.LinkType, h.Snap) }

// Tail implements Format.
func (PcapFormat) Tail(Statistics) []byte { return nil }

// Packets implements Format.
func (PcapFormat) Packets(records [][]byte) io.Reader { return readAll(records) }

// Content implements Format.
func (f PcapFormat) Content(h Header, _ Statistics, records [][]byte) func() io.Reader {
	pieces := append([][]byte{f.Head(h)}, records...)
	return func() io.Reader { return readAll(pieces) }
}

// readAll returns a reader of pieces, one after the other.
func readAll(pieces [][]byte) io.Reader {
	readers := make([]io.Reader, len(pieces))
	for i, piece := range pieces {
		readers[i] = bytes.NewReader(piece)
	}
	return io.MultiReader(readers...)
}

// pcapHeader returns how a pcap file begins: little-endian, microseconds.
// pcapgo's own has 8 bits for the link type, which several need more of.
func pcapHeader(linkType, snapLen int) []byte {
	header := make([]byte, 0, HeaderSize)
	header = append(header, 0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0) // magic number, and version 2.4
	header = append(header, make([]byte, 8)...)                 // time zone and accuracy, which nobody uses
	header = binary.LittleEndian.AppendUint32(header, uint32(snapLen))
	return binary.LittleEndian.AppendUint32(header, uint32(linkType))
}

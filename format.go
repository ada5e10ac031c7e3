package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"time"

	"pcapdaemon/tap"
)

const (
	fileHeaderSize   = 24 // bytes, pcap-savefile(5)
	packetHeaderSize = 16 // bytes
)

// A fileFormat is a kind of capture file. In memory every capture is the
// records of a pcap file; what else a file holds is made while it is read, so
// that whatever captures knows one form alone.
type fileFormat interface {
	// extension ends the names of files.
	extension() string
	// nanoseconds tells whether the stamps of the records are that fine, or microseconds.
	nanoseconds() bool
	// layout returns the size of a file. The heading's link type and snapshot
	// length, which are known when the interface is open, do not change it.
	layout(heading) layout
	// content returns a function that opens the file, any number of times. The
	// records may be cut into pieces anywhere, and are not copied: they have to
	// stay as long as someone reads.
	content(h heading, c closing, records [][]byte) func() io.Reader
}

// newFileFormat returns a format by its name, pcap or pcapng. The application, a
// name and a version, is what pcapng files say they were made by.
func newFileFormat(name, application string) fileFormat {
	if name == "pcapng" {
		return newPcapngFormat(application)
	}
	return pcapFormat{}
}

// A heading is what there is to say before the packets.
type heading struct {
	node     string
	iface    string
	filter   string // pcap-filter(7); empty: everything
	comment  string
	snap     int // bytes
	linkType int // as files have it, which is not always the handle's
}

// newComment returns a heading's comment: a JSON object with the node, the id
// of the request and the request itself, as it came. It begins with what is
// shortest, should the request be too long for a file.
func newComment(node, id string, request []byte) string {
	if !json.Valid(request) {
		request = nil // one that is no JSON is worth no crash
	}
	return string(encodeLine(struct {
		Node    string          `json:"node"`
		ID      string          `json:"id"`
		Request json.RawMessage `json:"request,omitempty"`
	}{node, id, request}))
}

// A closing is what there is to say after the packets.
type closing struct {
	started, ended time.Time
	packets        int64 // written
	stats          tap.Stats
}

// A layout says what a file takes.
type layout struct {
	fixed  int64      // bytes: all that is no packet, what follows the packets included
	packet tap.Layout // of each packet
}

// A pcapFormat is pcap-savefile(5), little-endian, with microseconds: the
// format that everything reads.
type pcapFormat struct{}

// extension implements fileFormat.
func (pcapFormat) extension() string { return ".pcap" }

// nanoseconds implements fileFormat.
func (pcapFormat) nanoseconds() bool { return false }

// layout implements fileFormat.
func (pcapFormat) layout(heading) layout { return layout{fileHeaderSize, tap.RecordLayout()} }

// content implements fileFormat.
func (pcapFormat) content(h heading, _ closing, records [][]byte) func() io.Reader {
	head := fileHeader(h.linkType, h.snap)
	return func() io.Reader {
		readers := []io.Reader{bytes.NewReader(head)}
		for _, piece := range records {
			readers = append(readers, bytes.NewReader(piece))
		}
		return io.MultiReader(readers...)
	}
}

// fileHeader returns how a pcap file begins: little-endian, microseconds.
// pcapgo's own has 8 bits for the link type, which several need more of.
func fileHeader(linkType, snapLen int) []byte {
	header := make([]byte, 0, fileHeaderSize)
	header = append(header, 0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0) // magic number, and version 2.4
	header = append(header, make([]byte, 8)...)                 // time zone and accuracy, which nobody uses
	header = binary.LittleEndian.AppendUint32(header, uint32(snapLen))
	return binary.LittleEndian.AppendUint32(header, uint32(linkType))
}

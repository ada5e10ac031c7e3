package tap

import "sync/atomic"

// A Quota says what may be copied of a source, and tells how much has been.
type Quota struct {
	// End is Unix time in nanoseconds: packets that are not older are not
	// copied. It may be moved at any time.
	End *atomic.Int64
	// Packets and Bytes may be copied in all. The bytes are those of the file
	// that is made of the records, in which a packet may take others than here.
	Packets, Bytes int64
	// Layout says what a packet takes in the file.
	Layout Layout

	// Copied is how much was copied. Anyone may look at it at any time.
	Copied Tally
}

// A Layout says how many bytes a packet takes in a file.
type Layout struct {
	PerPacket int64 // beside its own
	Align     int64 // a power of two, to a multiple of which its own are filled up
}

// A Tally is a number of packets, of the bytes of their file, and of those of the
// records. Whoever sees Records can read as many bytes of them.
type Tally struct{ Packets, Bytes, Records atomic.Int64 }

// RecordLayout returns that of the records themselves, which is a pcap file's.
func RecordLayout() Layout { return Layout{PerPacket: recordHeader, Align: 1} }

// Size returns the bytes that a packet takes of which so many are there.
func (l Layout) Size(stored int) int64 {
	return l.PerPacket + (int64(stored)+l.Align-1)&^(l.Align-1)
}

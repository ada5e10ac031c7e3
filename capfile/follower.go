package capfile

import (
	"io"

	"pcapdaemon/tap"
)

// A Follower reads the file of a capture, its end aside, while the packets are
// still being written. It is used from one goroutine, and not after the buffer is freed.
type Follower struct {
	format Format
	buffer *Buffer
	copied *tap.Tally
	next   io.Reader // of what was there at the last look
	looked int64     // bytes of the records up to there
}

// Follow returns a follower of a capture whose records go to a buffer. The tally says
// how much of them is there.
func Follow(f Format, h Header, b *Buffer, copied *tap.Tally) *Follower {
	return &Follower{format: f, buffer: b, copied: copied, next: readAll([][]byte{f.Head(h)})}
}

// Fill fills p as far as what is there allows, and returns how many bytes that are. It does
// not wait. When nothing is written any more and it has not filled p, there is no more but the end.
func (f *Follower) Fill(p []byte) (n int) {
	for n < len(p) {
		got, err := f.next.Read(p[n:])
		n += got
		if err != nil && !f.look() {
			return n
		}
	}
	return n
}

// look takes note of the records that have been written since the last look, and
// reports whether there are any.
func (f *Follower) look() bool {
	written := f.copied.Records.Load()
	if written == f.looked {
		return false
	}
	f.next = f.format.Packets(f.buffer.part(f.looked, written))
	f.looked = written
	return true
}

// Tail returns the end of the file.
func (f *Follower) Tail(c Statistics) []byte { return f.format.Tail(c) }

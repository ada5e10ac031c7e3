package capfile

import (
	"bytes"
	"testing"
	"time"

	"pcapdaemon/tap"
	"pcapdaemon/testbed"
)

// TestFollow: whoever reads a capture while it is written gets the file, whatever lies across
// the borders of chunks and however much is read at a time.
func TestFollow(t *testing.T) {
	for name, format := range bothFormats {
		for _, room := range []int{1000, 256 << 10, 3 << 20} {
			pool := NewPool(4 * ChunkSize)
			defer pool.Release()
			b, copied := NewBuffer(pool), &tap.Tally{}
			h := Header{Node: "web1", Interface: "eth0", Comment: "a comment", Snap: MaxSnap, LinkType: 1}
			end := Statistics{Started: began, Ended: ended, Packets: 100}
			f := Follow(format, h, b, copied)
			written := make(chan struct{})
			go func() {
				defer close(written)
				for n := range 100 {
					record := newRecords(t, began, n*350)
					_, _ = b.Write(record) // there is room
					copied.Records.Add(int64(len(record)))
					if n%10 == 0 {
						time.Sleep(100 * time.Microsecond) // so that it is not all there at once
					}
				}
				b.Trim()
			}()
			var got []byte
			piece := make([]byte, room)
			for over := false; ; {
				n := f.Fill(piece)
				got = append(got, piece[:n]...)
				if n < len(piece) && over {
					break
				}
				select {
				case <-written:
					over = true
				default:
				}
			}
			got = append(got, f.Tail(end)...)
			want := readFile(t, format.Content(h, end, b.Pieces()))
			if len(want) < ChunkSize || !bytes.Equal(want, got) {
				t.Errorf("%s, %d bytes at a time: want the file of %d bytes, got %d", name, room, len(want), len(got))
			}
			b.Free()
		}
	}
}

// TestFollowWaitsForNothing: what is not there is not waited for, and half a record is not there.
func TestFollowWaitsForNothing(t *testing.T) {
	pool := NewPool(ChunkSize)
	defer pool.Release()
	b, copied := NewBuffer(pool), &tap.Tally{}
	defer b.Free()
	f := Follow(PcapFormat{}, Header{}, b, copied)
	piece := make([]byte, 1000)
	_, _ = b.Write(testbed.RandomBytes(100))
	for _, want := range []int{HeaderSize, 0, 100, 0} {
		if got := f.Fill(piece); got != want {
			t.Errorf("want %d bytes, got %d", want, got)
		}
		if want == 0 {
			copied.Records.Store(100)
		}
	}
}

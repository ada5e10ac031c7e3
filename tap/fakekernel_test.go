package tap

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A fakeKernel writes blocks as the kernel does (packet_mmap, TPACKET_V3).
type fakeKernel struct {
	ring     *ring
	size     int
	sequence uint64 // of the block that is open
	waiting  []receivedPacket
	recorded uint64 // packets that were not dropped
}

// A receivedPacket is one that the block that is open has.
type receivedPacket struct {
	stamp time.Time
	data  []byte
}

// newFakeKernel returns a kernel and the ring that it writes to.
func newFakeKernel(t testing.TB, blocks, segments, size int) *fakeKernel {
	t.Helper()
	memory, err := unix.Mmap(-1, 0, blocks*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newRing(newGeometry(int64(blocks), int64(segments), int64(size)), memory)
	if err != nil {
		t.Fatal(err)
	}
	return &fakeKernel{ring: r, size: size}
}

// block returns the memory of a block.
func (k *fakeKernel) block(sequence uint64) []byte {
	at := int((sequence-1)%uint64(len(k.ring.blocks)/k.size)) * k.size
	return k.ring.blocks[at : at+k.size]
}

// receive adds a packet to the block that is open. All of a block have to fit.
func (k *fakeKernel) receive(stamp time.Time, data []byte) {
	k.waiting = append(k.waiting, receivedPacket{stamp, data})
}

// retire writes the packets to the next block and hands it over, or to several
// if they do not fit. Where a block has not been given back it waits for that.
func (k *fakeKernel) retire() {
	for len(k.waiting) > 0 {
		k.sequence++
		block := k.block(k.sequence)
		for binary.NativeEndian.Uint32(block[8:]) != unix.TP_STATUS_KERNEL {
			if !k.ring.takeBlocks() {
				panic("the ring is broken")
			}
		}
		k.fill(block)
	}
}

// fill fills a block with what fits of the packets.
func (k *fakeKernel) fill(block []byte) {
	const blockHeader, packetHeader, mac = 48, 68, 82
	native := binary.NativeEndian
	native.PutUint64(block[24:], k.sequence)
	at, packets := blockHeader, 0
	var last []byte
	for _, p := range k.waiting {
		size := (mac + len(p.data) + 7) &^ 7
		if packets > 0 && at+size > len(block) {
			break
		}
		p.data = p.data[:min(len(p.data), len(block)-at-mac)]
		last = block[at:]
		native.PutUint32(last[0:], uint32(size))
		native.PutUint32(last[4:], uint32(p.stamp.Unix()))
		native.PutUint32(last[8:], uint32(p.stamp.Nanosecond()))
		native.PutUint32(last[12:], uint32(len(p.data)))
		native.PutUint32(last[16:], uint32(len(p.data)))
		native.PutUint32(last[20:], unix.TP_STATUS_USER)
		native.PutUint16(last[24:], mac)
		clear(last[48:packetHeader])
		copy(last[mac:], p.data)
		native.PutUint32(block[44:], uint32(p.stamp.Nanosecond())) // of the last packet
		native.PutUint32(block[40:], uint32(p.stamp.Unix()))
		at, packets = at+size, packets+1
	}
	native.PutUint32(last[0:], 0) // none follows
	k.waiting = k.waiting[packets:]
	k.recorded += uint64(packets)
	native.PutUint32(block[12:], uint32(packets))
	native.PutUint32(block[16:], blockHeader)
	native.PutUint32(block[20:], uint32(at))
	native.PutUint32(block[8:], unix.TP_STATUS_USER)
}

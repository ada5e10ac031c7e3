package tap

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkEighths reads a ring of the kernel's blocks by eight readers, each of
// which wants the packets to a port of its own.
func BenchmarkEighths(b *testing.B) {
	const readers, firstPort = 8, 4250
	for _, size := range []int{200, 1400} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			k := newFakeKernel(b, 96, 4, blockSize)
			for range 90 {
				for n := range blockSize / (size + 90) {
					k.receive(time.Now(), udpFrame(size, firstPort+n%readers))
				}
				k.retire()
			}
			k.ring.takeBlocks()
			var wants [readers]want
			for n := range wants {
				wants[n] = want{filter: compileDead(b, fmt.Sprintf("udp dst port %d", firstPort+n)), snap: MaxSnap,
					micros: true, link: 1}
			}
			room := make([]byte, 64<<20)
			var end atomic.Int64
			end.Store(math.MaxInt64)
			var packets int64
			b.ResetTimer()
			for b.Loop() {
				for n := range wants {
					c := k.ring.newCursor(time.Time{}, true)
					taken, _, _ := c.take(&wants[n], room, math.MaxInt64, &end)
					packets += taken
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(packets), "ns/packet")
		})
	}
}

// udpFrame returns an Ethernet frame of so many bytes to a UDP port.
func udpFrame(size, port int) []byte {
	frame := make([]byte, size)
	copy(frame[12:], "\x08\x00\x45")
	frame[23] = 17
	frame[36], frame[37] = byte(port>>8), byte(port)
	return frame
}

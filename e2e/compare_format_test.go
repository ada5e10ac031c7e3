//go:build compare

package e2e

import (
	"fmt"
	"testing"
	"time"

	"pcapdaemon/testbed"
)

// compareFormats measures captures in pcapng beside those in pcap, of two
// daemons in turn, each with memory that is warm.
func (c *comparison) compareFormats(t *testing.T, size, packets int) {
	pcap := c.startDaemon(t)
	var pcapng *testbed.Process
	onCore(t, captureCore, func() {
		pcapng = testbed.Start(t, daemonCommand(c.redis, append(c.withoutLimits(), "-node", "web2", "-format", "pcapng")...))
	})
	c.redis.AwaitSubscribers(t, 10*time.Second, 2)
	var ours, theirs []flight
	for round := range 1 + compareRounds {
		note("formats, %d-byte packets, round %d of %d", size, round, compareRounds)
		c.node = "web1"
		theirs = append(theirs, c.flyDaemon(t, pcap, size, packets))
		c.node = "web2"
		ours = append(ours, c.flyDaemon(t, pcapng, size, packets))
	}
	c.node = "web1"
	c.stop(t, pcap)
	c.stop(t, pcapng)
	ours, theirs = ours[1:], theirs[1:] // the first ones made the memory warm
	c.table.ratio(fmt.Sprintf("pcapng (beside: pcap), CPU per packet, %d-byte packets", size),
		medianOf(ours, flight.perPacket), medianOf(theirs, flight.perPacket), 1.1)
	c.table.ratio("… until delivered", medianOf(ours, flight.perPacketInAll), medianOf(theirs, flight.perPacketInAll), 2)
}

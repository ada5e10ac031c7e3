#ifndef TAP_RECORDER_H
#define TAP_RECORDER_H

#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include "ring.h"

// A recording is an open interface whose packets go into a ring.
typedef struct {
	pcap_t *handle; // in non-blocking mode, with stamps in nanoseconds
	ring *ring;
	shape shape;
	bool headers; // the kernel's headers stand before the packets (TPACKET_V3)
} recording;

// was_taken_out tells whether the kernel had taken the VLAN tag out of a packet
// that libpcap put it back into. libpcap does not say so, but the packet still
// stands in the kernel's ring, behind a header that does (packet_mmap), and was
// moved down by the tag. Where no such header is found, it was taken out: the
// kernel does that to all that it receives.
static bool was_taken_out(const recording *from, const struct pcap_pkthdr *packet, const u_char *data)
{
	enum { nearest = 68, farthest = 100, alignment = 8 }; // from a header to its packet, in bytes
	for (uintptr_t before = nearest; from->headers && before <= farthest; before++) {
		if (((uintptr_t)data - before) % alignment != 0)
			continue;
		const struct tpacket3_hdr *h = (const struct tpacket3_hdr *)(data - before);
		if (h->tp_sec != packet->ts.tv_sec || h->tp_nsec != packet->ts.tv_usec)
			continue;
		if (h->tp_mac == before + from->shape.cooked)
			return false;
		if (h->tp_mac == before + from->shape.cooked + tag_size)
			return h->tp_status & TP_STATUS_VLAN_VALID;
	}
	return true;
}

// stands_tag tells whether a packet has a VLAN tag where the kernel looks for one.
static bool stands_tag(const recording *from, const struct pcap_pkthdr *packet, const u_char *data)
{
	const uint32_t hole = from->shape.hole;
	if (hole == 0 || packet->caplen < hole + tag_size)
		return false;
	const uint16_t type = data[hole] << 8 | data[hole + 1];
	return (type == 0x8100 || type == 0x88a8) && was_taken_out(from, packet, data);
}

// write_packet is a callback of libpcap: it writes a packet to the ring.
static void write_packet(u_char *user, const struct pcap_pkthdr *packet, const u_char *data)
{
	const recording *to = (const recording *)user;
	record r = {.seconds = packet->ts.tv_sec, .nanos = packet->ts.tv_usec,
		    .stored = packet->caplen, .length = packet->len};
	if (stands_tag(to, packet, data)) {
		r.nanos |= RECORD_TAGGED;
		r.stored -= tag_size;
		r.length -= tag_size;
	}
	ring_put(to->ring, &r, data);
}

// write_losses writes what the kernel has dropped since it was asked last.
// Nobody else may ask: that resets the kernel's counters.
static void write_losses(const recording *to)
{
	struct tpacket_stats stats;
	socklen_t size = sizeof stats;
	if (getsockopt(pcap_fileno(to->handle), SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0 || stats.tp_drops == 0)
		return;
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	const record r = {.seconds = now.tv_sec, .nanos = now.tv_nsec | RECORD_LOSS, .length = stats.tp_drops};
	ring_put(to->ring, &r, NULL);
}

// wait_for_packets waits until the kernel hands packets over, for so many
// milliseconds at most.
static void wait_for_packets(pcap_t *handle, int timeout)
{
	struct pollfd descriptor = {.fd = pcap_fileno(handle), .events = POLLIN};
	if (poll(&descriptor, 1, timeout) > 0 && !(descriptor.revents & POLLIN)) {
		// An interface that is down says so all the time, and libpcap tolerates it.
		const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
		nanosleep(&pause, NULL);
	}
}

// record_packets writes an interface's packets to a ring until it is to stop,
// which it sees within the timeout (in milliseconds); false: libpcap has an
// error. It stays here for as long as it can: a call from Go that returns often
// keeps Go's scheduler busy, which then costs more than the packets.
static bool record_packets(pcap_t *handle, ring *ring, int timeout, const int64_t *stop)
{
	enum { batch = 1024 };
	int version = 0;
	socklen_t size = sizeof version;
	recording to = {.handle = handle, .ring = ring, .shape = ring->current->shape};
	to.headers = getsockopt(pcap_fileno(handle), SOL_PACKET, PACKET_VERSION, &version, &size) == 0 &&
		version == TPACKET_V3;
	while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
		const int packets = pcap_dispatch(handle, batch, write_packet, (u_char *)&to);
		if (packets < 0)
			return false;
		write_losses(&to);
		if (packets < batch)
			wait_for_packets(handle, timeout);
	}
	return true;
}

#endif

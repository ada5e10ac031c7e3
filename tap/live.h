#ifndef TAP_LIVE_H
#define TAP_LIVE_H

#include <endian.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <pcap/pcap.h>

// Why copy_packets returned: all that was asked for is copied; a packet that is
// not copied is kept; no packet came for a while, and none from before the end
// will; the file holds no more; libpcap has an error.
typedef enum { copied_all, copied_packet, copied_timeout, copied_file, copied_error } copied;

// A copying is an open handle whose packets go to memory.
typedef struct {
	pcap_t *handle; // in non-blocking mode
	int64_t unit;   // nanoseconds that the handle's stamps are counted in
	int timeout;    // for a wait, in milliseconds

	// Where packets go to, at most so many bytes and packets, if they are older than the end.
	uint8_t *room;
	uint64_t size, most;
	const int64_t *end; // Unix time in nanoseconds
	uint64_t bytes, packets; // that are copied

	copied why;
	struct pcap_pkthdr header; // of the packet that is kept
	uint8_t *data;             // and room for any
} copying;

// new_copying takes a handle over; NULL: there is no memory.
static copying *new_copying(pcap_t *handle, int timeout)
{
	copying *to = calloc(1, sizeof *to);
	if (to == NULL)
		return NULL;
	to->handle = handle;
	to->timeout = timeout;
	to->unit = pcap_get_tstamp_precision(handle) == PCAP_TSTAMP_PRECISION_NANO ? 1 : 1000;
	return to;
}

// free_copying closes the handle.
static void free_copying(copying *of)
{
	pcap_close(of->handle);
	free(of->data);
	free(of);
}

// keep_packet keeps a packet aside and lets libpcap stop behind it.
static void keep_packet(copying *to, const struct pcap_pkthdr *header, const u_char *data)
{
	free(to->data);
	to->data = malloc(header->caplen + 1);
	if (to->data == NULL)
		abort(); // as Go does
	memcpy(to->data, data, header->caplen);
	to->header = *header;
	to->why = copied_packet;
	pcap_breakloop(to->handle);
}

// copy_packet is a callback of libpcap: it copies a packet as a record of a
// pcap file, or keeps it.
static void take_packet(u_char *user, const struct pcap_pkthdr *header, const u_char *data)
{
	copying *to = (copying *)user;
	const int64_t nanos = header->ts.tv_usec * to->unit;
	const uint32_t record[] = {htole32(header->ts.tv_sec), htole32(nanos / 1000),
				   htole32(header->caplen), htole32(header->len)};
	if (to->packets == to->most || to->bytes + sizeof record + header->caplen > to->size ||
	    header->ts.tv_sec * INT64_C(1000000000) + nanos >= __atomic_load_n(to->end, __ATOMIC_RELAXED)) {
		keep_packet(to, header, data);
		return;
	}
	memcpy(to->room + to->bytes, record, sizeof record);
	memcpy(to->room + to->bytes + sizeof record, data, header->caplen);
	to->bytes += sizeof record + header->caplen;
	to->packets++;
}

// has_passed tells whether no packet from before the end is to be expected any
// more: two timeouts later it would have come.
static int has_passed(const copying *c)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec >=
		__atomic_load_n(c->end, __ATOMIC_RELAXED) + 2 * c->timeout * INT64_C(1000000);
}

// wait_for_more waits until the kernel hands packets over; 0: it has not.
static int wait_for_more(const copying *c)
{
	struct pollfd descriptor = {.fd = pcap_get_selectable_fd(c->handle), .events = POLLIN};
	if (poll(&descriptor, 1, c->timeout) <= 0)
		return 0;
	if (descriptor.revents & POLLIN)
		return 1;
	// An interface that is down says so all the time, and libpcap tolerates it.
	const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
	nanosleep(&pause, NULL);
	return 0;
}

// copy_packets copies packets and waits for more, until there is something to
// say. It stays here for as long as it can: a call from Go that returns often
// keeps Go's scheduler busy, which then costs more than the packets.
static void copy_packets(copying *to, uint8_t *room, uint64_t size, uint64_t most, const int64_t *end)
{
	enum { batch = 1024 };
	to->room = room;
	to->size = size;
	to->most = most;
	to->end = end;
	to->bytes = to->packets = 0;
	const int offline = pcap_file(to->handle) != NULL;
	while (to->why == copied_all) {
		const int packets = pcap_dispatch(to->handle, batch, take_packet, (u_char *)to);
		if (to->why != copied_all || packets == PCAP_ERROR_BREAK)
			continue;
		if (packets < 0)
			to->why = copied_error;
		else if (packets == 0 && offline)
			to->why = copied_file;
		else if (packets < batch && !offline && !wait_for_more(to) && has_passed(to))
			to->why = copied_timeout;
	}
}

#endif

#include <endian.h>
#include <linux/filter.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include "live.h"
#include "packet.h"

copying *new_copying(pcap_t *handle, int timeout, bool nanos)
{
	copying *to = calloc(1, sizeof *to);
	if (to == NULL)
		return NULL;
	to->handle = handle;
	to->timeout = timeout;
	to->link.changes = -1;
	to->fraction = nanos ? 1 : 1000;
	to->unit = pcap_get_tstamp_precision(handle) == PCAP_TSTAMP_PRECISION_NANO ? 1 : 1000;
	return to;
}

void free_copying(copying *of)
{
	unwatch_link(&of->link);
	pcap_close(of->handle);
	free(of->filter);
	free(of->data);
	free(of);
}

bool filter_packets(copying *of, const struct bpf_insn *filter, uint32_t instructions)
{
	of->filter = calloc(instructions, sizeof *filter);
	if (of->filter == NULL)
		return false;
	memcpy(of->filter, filter, instructions * sizeof *filter);
	return true;
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

// put_bytes appends bytes to what is in the rooms.
static inline void put_bytes(copying *to, const void *from, uint64_t bytes)
{
	const uint8_t *next = from;
	to->left -= bytes;
	for (;;) {
		room *const r = to->here;
		const uint64_t fit = bytes < r->size ? bytes : r->size;
		memcpy((uint8_t *)r->memory, next, fit);
		r->memory += fit;
		r->size -= fit;
		if (fit == bytes)
			return;
		next += fit;
		bytes -= fit;
		to->here++;
	}
}

// monotonic returns the time of a clock that nobody sets, in nanoseconds.
static int64_t monotonic(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * second + now.tv_nsec;
}

void begin_at(copying *to, int64_t begin)
{
	to->begin = begin;
	to->settled = monotonic() + second;
}

// take_packet is a callback of libpcap: it copies a packet as a record of a
// pcap file, or keeps it.
static void take_packet(u_char *user, const struct pcap_pkthdr *header, const u_char *data)
{
	copying *const to = (copying *)user;
	const quota *const q = &to->quota;
	const int64_t nanos = header->ts.tv_usec * to->unit;
	const int64_t stamp = header->ts.tv_sec * second + nanos;
	const bool ended = stamp >= __atomic_load_n(q->end, __ATOMIC_RELAXED);
	if (to->filter != NULL && bpf_filter(to->filter, data, header->len, header->caplen) == 0) {
		to->ended |= ended;
		return;
	}
	if (stamp < to->begin && monotonic() < to->settled)
		return;
	to->begin = 0; // whatever becomes of the clock
	const uint32_t record[] = {htole32(header->ts.tv_sec), htole32(nanos / to->fraction),
				   htole32(header->caplen), htole32(header->len)};
	const int64_t bytes = q->per_packet + ((header->caplen + q->align - 1) & -q->align);
	if (to->packets == q->packets || bytes > q->bytes - to->bytes || sizeof record + header->caplen > to->left ||
	    ended) {
		keep_packet(to, header, data);
		return;
	}
	put_bytes(to, record, sizeof record);
	put_bytes(to, data, header->caplen);
	to->copied += sizeof record + header->caplen;
	to->bytes += bytes;
	to->packets++;
}

// has_passed reports whether no packet from before the end is to be expected any
// more, beside those that the kernel hands over: two timeouts later it does.
static int has_passed(const copying *c)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * second + now.tv_nsec >=
		__atomic_load_n(c->quota.end, __ATOMIC_RELAXED) + 2 * c->timeout * INT64_C(1000000);
}

// sleep_for sleeps.
static void sleep_for(int64_t nanoseconds)
{
	const struct timespec pause = {.tv_nsec = nanoseconds};
	nanosleep(&pause, NULL);
}

// lull returns how long a quarter of the kernel's buffer lasts at the rate since
// the last wait, in nanoseconds, or 0 if packets do not come fast. To wake up
// for each block of the buffer would cost more than to copy it. At the longest
// lull a full buffer of the usual 4 MiB takes a gigabyte per second.
static int64_t lull(copying *c)
{
	enum { beside = 80, fast = 64 << 10, longest = 4000 * 1000 };
	const int64_t now = monotonic(), took = now - c->waited;
	const int64_t bytes = c->copied - c->copied_then + beside * (c->packets - c->packets_then);
	c->waited = now;
	c->copied_then = c->copied;
	c->packets_then = c->packets;
	if (bytes < fast || took > second || bytes * longest < took * fast)
		return 0;
	const int64_t lasts = c->buffer / 4 * took / bytes;
	return lasts < longest ? lasts : longest;
}

// wait_for_more waits until the kernel hands packets over, for a timeout at most.
static void wait_for_more(copying *c)
{
	const int64_t pause = lull(c);
	if (pause > 0) {
		sleep_for(pause);
		return;
	}
	struct pollfd descriptors[] = {{.fd = pcap_get_selectable_fd(c->handle), .events = POLLIN},
				       {.fd = c->link.changes, .events = POLLIN}}; // poll passes -1 by
	if (poll(descriptors, 2, c->timeout) <= 0)
		return;
	if (descriptors[1].revents != 0) {
		forget_changes(&c->link);
		c->seen = 0; // so look at it
	}
	// An interface that is down says so all the time, and libpcap tolerates it.
	if (descriptors[0].revents != 0 && !(descriptors[0].revents & POLLIN))
		sleep_for(10 * 1000 * 1000);
}

// check_link notes whether the interface has lost its name, each second and after
// a change. From then on the kernel takes no packets: they are not of the
// interface that was asked for.
static void check_link(copying *c)
{
	struct sock_filter nothing = {.code = BPF_RET | BPF_K};
	const struct sock_fprog program = {1, &nothing};
	if (c->link.index == 0 || c->lost)
		return;
	const int64_t now = monotonic();
	if (now - c->seen < second)
		return;
	c->seen = now;
	if (keeps_name(&c->link))
		return;
	c->lost = true;
	setsockopt(pcap_fileno(c->handle), SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

void copy_packets(copying *to, quota q, int64_t *packets, int64_t *bytes, int64_t *records)
{
	enum { batch = 1024 };
	to->quota = q;
	to->packets = *packets;
	to->bytes = *bytes;
	to->ended = false;
	const int64_t before = *records - to->copied;
	const bool offline = pcap_file(to->handle) != NULL;
	while (to->why == copied_all) {
		check_link(to);
		const bool passed = has_passed(to); // asked first: what came before that is handed out now
		const int taken = pcap_dispatch(to->handle, batch, take_packet, (u_char *)to);
		__atomic_store_n(packets, to->packets, __ATOMIC_RELAXED);
		__atomic_store_n(bytes, to->bytes, __ATOMIC_RELAXED);
		__atomic_store_n(records, before + to->copied, __ATOMIC_RELEASE);
		if (to->why != copied_all || taken == PCAP_ERROR_BREAK)
			continue;
		if (to->lost && taken <= 0) // what came before has been handed out
			to->why = copied_lost;
		else if (taken < 0)
			to->why = copied_error;
		else if (taken == 0 && offline)
			to->why = copied_file;
		else if (offline)
			continue;
		else if (passed && (taken < batch || to->ended))
			to->why = copied_timeout;
		else if (taken < batch)
			wait_for_more(to);
	}
}

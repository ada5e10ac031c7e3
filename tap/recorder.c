#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include "recorder.h"

enum { millisecond = 1000000 };

// read_clock returns the time of a clock in nanoseconds.
static int64_t read_clock(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (int64_t)now.tv_sec * second + now.tv_nsec;
}

// put_losses notes what the kernel has dropped since it was asked last. Nobody
// else may ask: that resets the kernel's counters.
static void put_losses(const recording *to)
{
	struct tpacket_stats_v3 stats;
	socklen_t size = sizeof stats;
	if (getsockopt(to->descriptor, SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0 || stats.tp_drops == 0)
		return;
	const packet_view loss = {.stamp = read_clock(CLOCK_REALTIME), .lost = stats.tp_drops};
	ring_put(to->ring, &loss);
}

// is_renamed reports whether the name belongs to another interface, or to none.
static bool is_renamed(const recording *to)
{
	struct ifreq request = {0};
	if (to->name[0] == 0)
		return false;
	memcpy(request.ifr_name, to->name, sizeof request.ifr_name);
	if (ioctl(to->descriptor, SIOCGIFINDEX, &request) == 0)
		return request.ifr_ifindex != to->interface;
	return errno == ENODEV;
}

// is_gone reports whether the interface is no more: the kernel tells the socket
// so, which is bound to none then.
static bool is_gone(const recording *to)
{
	struct sockaddr_ll bound;
	socklen_t size = sizeof bound;
	int error;
	socklen_t error_size = sizeof error;
	getsockopt(to->descriptor, SOL_SOCKET, SO_ERROR, &error, &error_size); // so that poll waits again
	return getsockname(to->descriptor, (struct sockaddr *)&bound, &size) == 0 && bound.sll_ifindex == -1;
}

// lull returns how long to sleep after so many bytes came in a time, in
// nanoseconds, or 0 if they do not come fast. To wake up for each block would
// cost more than to note it. A quarter of the ring is filled meanwhile at most.
static int64_t lull(const ring *r, int64_t bytes, int64_t took)
{
	enum { longest = 10 * millisecond, shortest = millisecond / 2 };
	const geometry *g = &r->state->geometry;
	if (bytes == 0 || took > second || bytes * longest < took * g->block_size)
		return 0;
	const int64_t lasts = g->blocks * g->block_size / 4 * took / bytes;
	return lasts < shortest ? shortest : lasts < longest ? lasts : longest;
}

// wait_for_block waits until the kernel retires a block, and reports whether
// the interface may have gone.
static bool wait_for_block(const recording *to)
{
	struct pollfd descriptor = {.fd = to->descriptor, .events = POLLIN};
	return poll(&descriptor, 1, to->timeout) > 0 && (descriptor.revents & (POLLERR | POLLHUP | POLLNVAL));
}

// take takes what there is, and returns its bytes; -1: the kernel's ring is broken.
static int64_t take(const recording *to)
{
	const int64_t now = read_clock(CLOCK_REALTIME); // asked first: what the kernel had then is taken
	const int64_t bytes = ring_take_blocks(to->ring);
	put_losses(to);
	__atomic_store_n(&to->ring->state->seen, now, __ATOMIC_RELEASE);
	ring_wake(to->ring); // also if there was nothing: that is what a reader waits for at its end
	return bytes;
}

int record_rest(const recording *to, int why)
{
	const int64_t end = read_clock(CLOCK_MONOTONIC) + 2 * (int64_t)to->timeout * millisecond;
	const struct timespec pause = {.tv_nsec = 10 * millisecond};
	while (read_clock(CLOCK_MONOTONIC) < end) {
		if (take(to) < 0)
			return record_broken;
		nanosleep(&pause, NULL);
	}
	return why;
}

int record_packets(const recording *to, const int64_t *stop)
{
	int64_t looked = read_clock(CLOCK_MONOTONIC), named = looked;
	while (!__atomic_load_n(stop, __ATOMIC_RELAXED)) {
		const int64_t bytes = take(to), now = read_clock(CLOCK_MONOTONIC);
		if (bytes < 0)
			return record_broken;
		if (now - named >= second) {
			if (is_renamed(to))
				return is_gone(to) ? record_rest(to, record_vanished) : record_renamed;
			named = now;
		}
		const struct timespec pause = {.tv_nsec = lull(to->ring, bytes, now - looked)};
		looked = now;
		if (pause.tv_nsec > 0)
			nanosleep(&pause, NULL);
		else if (wait_for_block(to) && is_gone(to))
			return record_rest(to, record_vanished);
	}
	take(to);
	return record_stopped;
}

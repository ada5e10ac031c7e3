#ifndef TAP_RING_H
#define TAP_RING_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "bpf.h"

// A record is what stands before a packet in a ring. The packet is stored as
// the kernel has it, without its outer VLAN tag; a tag that the kernel took
// out stands between the record and the packet.
typedef struct {
	uint32_t seconds;
	uint32_t nanos; // and what is special about it
	uint32_t stored, length; // bytes that are stored, and of the whole packet
} record;

#define RECORD_TAGGED UINT32_C(0x80000000) // a tag follows
#define RECORD_LOSS   UINT32_C(0x40000000) // no packet: the kernel dropped so many (length)
#define RECORD_NANOS  UINT32_C(0x3fffffff)

enum { tag_size = 4, second = 1000000000 };

// A shape is what depends on the link type.
typedef struct {
	uint32_t hole;   // where the outer VLAN tag stands in a packet, in bytes
	uint32_t cooked; // bytes at the beginning that no filter counts
} shape;

// A chunk says what a chunk of a ring holds. What changes while it is read
// changes by atomic stores, and the bytes last: what they count is there.
typedef struct {
	int64_t number, era;
	int64_t packets_before, lost_before; // of the ring, when this chunk began
	int64_t packets, lost;               // in it
	int64_t first, last;                 // stamps of the first packet and of the latest one, in nanoseconds
	int64_t used;                        // bytes
	shape shape;
} chunk;

// A ring is memory that remembers the latest packets. One writer, which never
// waits for longer than it takes to copy one chunk, and one reader at a time.
// The chunks that hold something have the numbers oldest to newest. Numbers are
// never used twice; a chunk stands at its number modulo the chunks.
typedef struct {
	uint8_t *memory;
	int64_t chunks, chunk_size;
	int64_t era; // counts how often the ring was cleared
	int64_t oldest, newest;
	int64_t begin;    // the first chunk since then
	int64_t held;     // number of the chunk that is being read
	uint32_t turns, waiting; // a futex that changes with newest, and who waits for that
	chunk *current;   // the newest one
	uint8_t *written; // and its memory
	chunk chunk[];
} ring;

#define RING_FREE INT64_MIN // no chunk is being read

// record_size returns the bytes of a record and what belongs to it.
static inline int64_t record_size(const record *r)
{
	return sizeof *r + (r->nanos & RECORD_TAGGED ? tag_size : 0) + r->stored;
}

// record_stamp returns when the packet came, in Unix time.
static inline int64_t record_stamp(const record *r)
{
	return (int64_t)r->seconds * second + (r->nanos & RECORD_NANOS);
}

// put_record writes a record and its packet, which has its tag in it, as libpcap has.
static inline void put_record(uint8_t *room, const record *r, const uint8_t *packet, uint32_t hole)
{
	memcpy(room, r, sizeof *r);
	room += sizeof *r;
	if (!(r->nanos & RECORD_TAGGED)) {
		memcpy(room, packet, r->stored);
		return;
	}
	memcpy(room, packet + hole, tag_size);
	memcpy(room + tag_size, packet, hole);
	memcpy(room + tag_size + hole, packet + hole + tag_size, r->stored - hole);
}

// free_ring returns the memory of a ring.
static void free_ring(ring *r)
{
	if (r->memory != MAP_FAILED)
		munmap(r->memory, r->chunks * r->chunk_size);
	free(r);
}

// new_ring returns a ring whose memory is there, or NULL.
static ring *new_ring(int64_t chunks, int64_t chunk_size)
{
	ring *r = calloc(1, sizeof *r + chunks * sizeof(chunk));
	if (r == NULL)
		return NULL;
	*r = (ring){.chunks = chunks, .chunk_size = chunk_size, .held = RING_FREE};
	r->memory = mmap(NULL, chunks * chunk_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (r->memory == MAP_FAILED) {
		free_ring(r);
		return NULL;
	}
	r->current = r->chunk;
	r->written = r->memory;
	return r;
}

// ring_chunk returns the chunk of a number.
static inline chunk *ring_chunk(ring *r, int64_t number) { return &r->chunk[number % r->chunks]; }

// ring_memory returns the memory of the chunk of a number.
static inline uint8_t *ring_memory(const ring *r, int64_t number)
{
	return r->memory + number % r->chunks * r->chunk_size;
}

// ring_turn begins the next chunk and forgets what was in it. Readers are told
// first that it is no longer there; it waits for one that is reading it still.
static void ring_turn(ring *r, shape s)
{
	const int64_t number = r->newest + 1, forgotten = number - r->chunks;
	if (r->oldest <= forgotten)
		__atomic_store_n(&r->oldest, forgotten + 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&r->held, __ATOMIC_SEQ_CST) == forgotten) {
		const struct timespec moment = {.tv_nsec = 20 * 1000};
		nanosleep(&moment, NULL);
	}
	const chunk *full = r->current;
	r->current = ring_chunk(r, number);
	r->written = ring_memory(r, number);
	*r->current = (chunk){
		.number = number,
		.era = r->era,
		.packets_before = full->packets_before + full->packets,
		.lost_before = full->lost_before + full->lost,
		.shape = s,
	};
	__atomic_store_n(&r->newest, number, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&r->turns, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&r->waiting, __ATOMIC_SEQ_CST) > 0)
		syscall(SYS_futex, &r->turns, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

// ring_wait waits until a chunk is no longer the newest one, for so many
// nanoseconds at most.
static void ring_wait(ring *r, int64_t number, int64_t most)
{
	const struct timespec timeout = {.tv_sec = most / second, .tv_nsec = most % second};
	__atomic_add_fetch(&r->waiting, 1, __ATOMIC_SEQ_CST);
	const uint32_t turns = __atomic_load_n(&r->turns, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&r->newest, __ATOMIC_SEQ_CST) == number)
		syscall(SYS_futex, &r->turns, FUTEX_WAIT_PRIVATE, turns, &timeout, NULL, 0);
	__atomic_sub_fetch(&r->waiting, 1, __ATOMIC_SEQ_CST);
}

// ring_clear forgets everything; what comes now has another shape.
static void ring_clear(ring *r, shape s)
{
	r->era++;
	ring_turn(r, s);
	__atomic_store_n(&r->begin, r->newest, __ATOMIC_SEQ_CST);
	__atomic_store_n(&r->oldest, r->newest, __ATOMIC_SEQ_CST);
}

// ring_put writes a record and its packet, which has its tag in it, as libpcap has.
static inline void ring_put(ring *r, const record *header, const uint8_t *packet)
{
	if (r->current->used + record_size(header) > r->chunk_size)
		ring_turn(r, r->current->shape);
	chunk *c = r->current;
	put_record(r->written + c->used, header, packet, c->shape.hole);
	const int64_t stamp = record_stamp(header);
	if (header->nanos & RECORD_LOSS) {
		__atomic_store_n(&c->lost, c->lost + header->length, __ATOMIC_RELAXED);
	} else {
		if (c->packets == 0)
			__atomic_store_n(&c->first, stamp, __ATOMIC_RELAXED);
		if (c->packets == 0 || stamp > c->last)
			__atomic_store_n(&c->last, stamp, __ATOMIC_RELAXED);
		__atomic_store_n(&c->packets, c->packets + 1, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&c->used, c->used + record_size(header), __ATOMIC_RELEASE);
}

// ring_hold keeps the writer from forgetting a chunk until ring_release, and
// returns it; NULL: it is forgotten already.
static chunk *ring_hold(ring *r, int64_t number)
{
	__atomic_store_n(&r->held, number, __ATOMIC_SEQ_CST);
	if (number >= __atomic_load_n(&r->oldest, __ATOMIC_SEQ_CST))
		return ring_chunk(r, number);
	__atomic_store_n(&r->held, RING_FREE, __ATOMIC_RELEASE);
	return NULL;
}

// ring_release lets the writer have the chunk that was held.
static void ring_release(ring *r) { __atomic_store_n(&r->held, RING_FREE, __ATOMIC_RELEASE); }

// A cursor is a place in a ring from which one reader goes on, and what it wants.
typedef struct {
	int64_t number, offset;           // the chunk, and bytes in it
	int64_t era;                      // of the ring when the cursor was made
	int64_t past_number, past_offset; // where the ring ended then
	int64_t from, until;              // stamps that are wanted of what was there then
	int64_t live;                     // and of the rest: from this one on
	int64_t packets_passed, lost_passed; // since the ring was made

	int64_t overwritten; // wanted packets that were forgotten before they were read
	int64_t dropped;     // packets that the kernel dropped, of the time that is wanted
} cursor;

// A taking says how packets are to be copied.
typedef struct {
	uint32_t snap; // bytes of a packet that are wanted
	uint32_t unit; // nanoseconds that the copy's stamps are counted in
	int64_t most, size; // packets and bytes that may be copied
	bool beyond; // packets past the end are wanted too
	int64_t most_file;         // bytes of a file, in which a packet takes so many
	int64_t per_packet, align; // beside its own, which are filled up to a multiple

	int64_t packets, bytes, file; // that were copied
} taking;

// Why take_records stopped: it has seen all that is there, or the end of a
// chunk; the next packet does not fit, or is one too many; it is not older than
// the end; the ring was cleared.
enum { taken_all, taken_chunk, taken_full, taken_end, taken_cleared };

// copy_packet copies a packet, its tag put back, to a room that holds so many bytes.
static inline void copy_packet(uint8_t *room, const uint8_t *packet, uint32_t bytes, const uint8_t *tag, uint32_t hole)
{
	if (tag == NULL || bytes <= hole) {
		memcpy(room, packet, bytes);
		return;
	}
	memcpy(room, packet, hole);
	memcpy(room + hole, tag, bytes - hole < tag_size ? bytes - hole : tag_size);
	if (bytes > hole + tag_size)
		memcpy(room + hole + tag_size, packet + hole, bytes - hole - tag_size);
}

// passes tells whether a packet passes the filter.
static inline bool passes(const struct bpf_insn *filter, const record *r, const uint8_t *packet,
			  const uint8_t *tag, uint32_t cooked)
{
	sight p = {.data = packet, .stored = r->stored, .length = r->length - cooked};
	if (tag != NULL) {
		p.tagged = true;
		p.tpid = tag[0] << 8 | tag[1];
		p.tci = tag[2] << 8 | tag[3];
	}
	return judge(filter, &p);
}

// take_record copies a packet as a record of a pcap file; false: it is too much.
static inline bool take_record(taking *t, uint8_t *room, const record *r, const uint8_t *packet,
			       const uint8_t *tag, uint32_t hole)
{
	const uint32_t added = tag != NULL ? tag_size : 0;
	const uint32_t bytes = r->stored + added < t->snap ? r->stored + added : t->snap;
	const uint32_t header[] = {htole32(r->seconds), htole32((r->nanos & RECORD_NANOS) / t->unit),
				   htole32(bytes), htole32(r->length + added)};
	const int64_t in_file = t->per_packet + ((bytes + t->align - 1) & -t->align);
	if (t->packets == t->most || in_file > t->most_file - t->file ||
	    t->bytes + (int64_t)sizeof header + bytes > t->size)
		return false;
	memcpy(room + t->bytes, header, sizeof header);
	copy_packet(room + t->bytes + sizeof header, packet, bytes, tag, hole);
	t->bytes += sizeof header + bytes;
	t->file += in_file;
	t->packets++;
	return true;
}

// cursor_hold holds the chunk of a cursor. One that was overtaken goes on
// beyond the oldest chunk, which will be forgotten next.
static chunk *cursor_hold(cursor *at, ring *r)
{
	chunk *c = ring_hold(r, at->number);
	while (c == NULL) {
		const int64_t newest = __atomic_load_n(&r->newest, __ATOMIC_ACQUIRE);
		const int64_t next = __atomic_load_n(&r->oldest, __ATOMIC_ACQUIRE) + 1;
		at->number = next < newest ? next : newest;
		at->offset = 0;
		c = ring_hold(r, at->number);
	}
	if (at->offset == 0) {
		at->overwritten += c->packets_before - at->packets_passed + c->lost_before - at->lost_passed;
		at->packets_passed = c->packets_before;
		at->lost_passed = c->lost_before;
	}
	return c;
}

// ring_find returns the number of the chunk from which on packets may be as
// late as a stamp.
static int64_t ring_find(ring *r, int64_t stamp)
{
	const int64_t newest = __atomic_load_n(&r->newest, __ATOMIC_ACQUIRE);
	int64_t number = __atomic_load_n(&r->oldest, __ATOMIC_ACQUIRE);
	for (; number < newest; number++) {
		const chunk *c = ring_hold(r, number);
		if (c != NULL && c->packets > 0 && c->last >= stamp)
			break;
	}
	ring_release(r);
	return number;
}

// cursor_begin sets a cursor to the beginning of its chunk, and what there is
// in the ring to its past.
static void cursor_begin(cursor *at, ring *r)
{
	const chunk *c;
	while ((c = ring_hold(r, at->number)) == NULL)
		at->number = __atomic_load_n(&r->newest, __ATOMIC_ACQUIRE);
	at->era = c->era;
	at->packets_passed = c->packets_before;
	at->lost_passed = c->lost_before;
	at->past_number = __atomic_load_n(&r->newest, __ATOMIC_ACQUIRE);
	if ((c = ring_hold(r, at->past_number)) != NULL)
		at->past_offset = __atomic_load_n(&c->used, __ATOMIC_ACQUIRE);
	ring_release(r);
}

// is_past tells whether what the cursor is at was there when it was made.
static inline bool is_past(const cursor *at)
{
	return at->number < at->past_number || (at->number == at->past_number && at->offset < at->past_offset);
}

// take_records copies the packets of a chunk that are wanted and pass the
// filter to a room, as records of a pcap file.
static int take_records(cursor *at, ring *ring, taking *t, const struct bpf_insn *filter,
			uint8_t *room, const int64_t *end)
{
	const chunk *c = cursor_hold(at, ring);
	const uint8_t *memory = ring_memory(ring, at->number);
	// Asked in this order: if it is no longer written, what is used is all.
	const bool complete = at->number < __atomic_load_n(&ring->newest, __ATOMIC_ACQUIRE);
	const int64_t used = __atomic_load_n(&c->used, __ATOMIC_ACQUIRE);
	int why = c->era == at->era ? taken_all : taken_cleared;
	record r;
	for (; why == taken_all && at->offset < used; at->offset += record_size(&r)) {
		memcpy(&r, memory + at->offset, sizeof r);
		const int64_t stamp = record_stamp(&r);
		const bool past = is_past(at);
		const bool wanted = past ? stamp >= at->from && stamp < at->until : stamp >= at->live;
		const bool ended = !past && stamp >= __atomic_load_n(end, __ATOMIC_RELAXED);
		if (r.nanos & RECORD_LOSS) {
			at->lost_passed += r.length;
			at->dropped += wanted && !ended ? r.length : 0;
			continue;
		}
		if (ended && !t->beyond) {
			why = taken_end;
			break;
		}
		const uint8_t *packet = memory + at->offset + sizeof r, *tag = NULL;
		if (r.nanos & RECORD_TAGGED) {
			tag = packet;
			packet += tag_size;
		}
		if (wanted && (filter == NULL || passes(filter, &r, packet, tag, c->shape.cooked)) &&
		    !take_record(t, room, &r, packet, tag, c->shape.hole)) {
			why = taken_full;
			break;
		}
		at->packets_passed++;
	}
	if (why == taken_all && complete) {
		at->number++;
		at->offset = 0;
		why = taken_chunk;
	}
	ring_release(ring);
	return why;
}

#endif

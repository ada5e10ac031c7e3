#define _GNU_SOURCE
#include <stddef.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "ring.h"

// LOAD and STORE are for what one thread writes and others read.
#define LOAD(place, order)         __atomic_load_n(&(place), __ATOMIC_##order)
#define STORE(place, value, order) __atomic_store_n(&(place), value, __ATOMIC_##order)

int64_t ring_state_size(const geometry *g)
{
	return sizeof(ring_state) + g->entries * sizeof(chunk);
}

// chunk_at returns where the chunk of a number is described.
static chunk *chunk_at(const ring *r, int64_t number)
{
	return &r->state->chunks[number % r->state->geometry.entries];
}

// segment_at returns the memory of a segment, counted from the first one on.
static uint8_t *segment_at(const ring *r, int64_t segment)
{
	const geometry *g = &r->state->geometry;
	return r->segments + segment % g->segments * g->segment_size;
}

// block_at returns a block of the kernel's ring.
static struct tpacket_block_desc *block_at(const ring *r, int64_t place)
{
	return (struct tpacket_block_desc *)(r->blocks + place * r->state->geometry.block_size);
}

// forget says that chunks before a number are no longer there, before their
// memory is written: who reads it looks at oldest afterwards.
static void forget(ring *r, int64_t number)
{
	if (number <= r->state->oldest)
		return;
	STORE(r->state->oldest, number, RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

// begin_chunk begins the next chunk. It is there as soon as newest says so.
static chunk *begin_chunk(ring *r, int64_t sequence, int64_t place)
{
	ring_state *const s = r->state;
	const chunk *last = chunk_at(r, s->newest);
	const int64_t number = s->newest + 1;
	forget(r, number - s->geometry.entries + 1);
	chunk *next = chunk_at(r, number);
	*next = (chunk){
		.number = number,
		.packets_before = last->packets_before + last->packets,
		.lost_before = last->lost_before + last->lost,
		.sequence = sequence,
		.place = place,
	};
	return next;
}

// forget_segment forgets the chunk that a segment holds, and all before it.
static void forget_segment(ring *r, int64_t segment)
{
	for (int64_t number = r->state->oldest; number <= r->state->newest; number++) {
		const chunk *c = chunk_at(r, number);
		if (c->sequence != 0 || c->place < segment)
			continue;
		if (c->place == segment)
			forget(r, number + 1);
		return;
	}
}

// begin_segment begins the next chunk in the next segment.
static chunk *begin_segment(ring *r)
{
	ring_state *const s = r->state;
	forget_segment(r, s->segments - s->geometry.segments);
	chunk *c = begin_chunk(r, 0, s->segments);
	s->segments++;
	STORE(s->newest, c->number, RELEASE);
	return c;
}

void ring_begin(ring *r, const geometry *g)
{
	ring_state *const s = r->state;
	s->geometry = *g;
	s->oldest = 1;
	begin_segment(r);
}

void ring_put(ring *r, const packet_view *v)
{
	chunk *c = chunk_at(r, r->state->newest);
	const int64_t size = record_size(v->stored);
	if (c->sequence != 0 || c->used + size > r->state->geometry.segment_size)
		c = begin_segment(r);
	const record header = {.stamp = v->stamp, .stored = v->stored, .length = v->lost ? v->lost : v->length,
			       .tagged = v->tagged, .tpid = v->tpid, .tci = v->tci, .loss = v->lost != 0, .link = v->link};
	uint8_t *to = segment_at(r, c->place) + c->used;
	memcpy(to, &header, sizeof header);
	if (v->stored > 0)
		memcpy(to + sizeof header, v->data, v->stored);
	if (v->lost) {
		STORE(c->lost, c->lost + v->lost, RELAXED);
	} else {
		if (c->packets == 0)
			STORE(c->first, v->stamp, RELAXED);
		if (c->packets == 0 || v->stamp > c->last)
			STORE(c->last, v->stamp, RELAXED);
		STORE(c->packets, c->packets + 1, RELAXED);
	}
	STORE(c->used, c->used + size, RELEASE);
}

// compact copies a block to segments.
static bool compact(ring *r, const struct tpacket_block_desc *block)
{
	packet_view v;
	uint64_t at = block->hdr.bh1.offset_to_first_pkt;
	for (uint32_t i = 0; i < block->hdr.bh1.num_pkts; i++, at = v.next) {
		if (!view_in_block((const uint8_t *)block, r->state->geometry.block_size, at, &v))
			return false;
		const uint64_t room = r->state->geometry.segment_size - sizeof(record);
		if (v.stored > room)
			v.stored = room; // no block has such a packet
		ring_put(r, &v);
	}
	return true;
}

// note notes a block where it stands.
static bool note(ring *r, const struct tpacket_block_desc *block, int64_t place)
{
	const struct tpacket_hdr_v1 *h = &block->hdr.bh1;
	packet_view first;
	if (!view_in_block((const uint8_t *)block, r->state->geometry.block_size, h->offset_to_first_pkt, &first))
		return false;
	chunk *c = begin_chunk(r, h->seq_num, place);
	const int64_t last = (int64_t)h->ts_last_pkt.ts_sec * second + h->ts_last_pkt.ts_nsec;
	c->packets = h->num_pkts;
	c->first = first.stamp;
	c->last = last > first.stamp ? last : first.stamp;
	c->used = h->blk_len;
	STORE(r->state->newest, c->number, RELEASE);
	return true;
}

// is_sparse reports whether the packets of a block would take less of the
// compact ring than the block takes of the kernel's: copied, they are remembered
// for longer. A block that fast packets have filled is not, so that no more is
// copied than the blocks that the kernel retires by its timeout hold.
static bool is_sparse(const geometry *g, const struct tpacket_hdr_v1 *h)
{
	return h->blk_len * g->blocks < g->segments * g->segment_size;
}

// sum_of returns a checksum of so many bytes, which are a multiple of eight.
static uint64_t sum_of(const void *of, uint64_t bytes)
{
	const uint64_t *word = of;
	uint64_t sum = 0x9e3779b97f4a7c15;
	for (uint64_t i = 0; i < bytes / 8; i++) {
		sum = (sum ^ word[i]) * 0xff51afd7ed558ccd;
		sum ^= sum >> 32;
	}
	return sum;
}

// begin_change notes where the ring ends, so that what is half done when the
// process is killed can be undone.
static void begin_change(ring_state *s, const chunk *newest)
{
	s->undo.sum = 0;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	s->undo.newest = s->newest;
	s->undo.segments = s->segments;
	s->undo.blocks = s->blocks;
	s->undo.grown = *newest;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	s->undo.sum = sum_of(&s->undo, offsetof(undo, sum));
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

// take_block takes a retired block, and gives it back.
static bool take_block(ring *r, struct tpacket_block_desc *block, int64_t place)
{
	ring_state *const s = r->state;
	struct tpacket_hdr_v1 *const h = &block->hdr.bh1;
	begin_change(s, chunk_at(r, s->newest));
	if ((int64_t)h->seq_num != s->blocks + 1)
		return false;
	if (h->num_pkts > 0 && !(is_sparse(&s->geometry, h) ? compact(r, block) : note(r, block, place)))
		return false;
	STORE(s->blocks, s->blocks + 1, SEQ_CST); // done
	STORE(h->block_status, TP_STATUS_KERNEL, SEQ_CST);
	return true;
}

int64_t ring_take_blocks(ring *r)
{
	ring_state *const s = r->state;
	int64_t bytes = 0;
	for (int64_t taken = 0; taken < s->geometry.blocks; taken++) {
		const int64_t place = s->blocks % s->geometry.blocks;
		struct tpacket_block_desc *block = block_at(r, place);
		if (!(LOAD(block->hdr.bh1.block_status, ACQUIRE) & TP_STATUS_USER))
			break;
		if (!take_block(r, block, place))
			return -1;
		bytes += block->hdr.bh1.blk_len;
	}
	return bytes;
}

void ring_wake(ring *r)
{
	__atomic_add_fetch(&r->turns, 1, __ATOMIC_SEQ_CST);
	if (LOAD(r->waiting, SEQ_CST) > 0)
		syscall(SYS_futex, &r->turns, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void ring_wait(ring *r, uint32_t turns, int64_t most)
{
	const struct timespec timeout = {.tv_sec = most / second, .tv_nsec = most % second};
	__atomic_add_fetch(&r->waiting, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &r->turns, FUTEX_WAIT_PRIVATE, turns, &timeout, NULL, 0);
	__atomic_sub_fetch(&r->waiting, 1, __ATOMIC_SEQ_CST);
}

bool ring_has(const ring *r, const chunk *c)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (c->number < LOAD(r->state->oldest, RELAXED))
		return false;
	return c->sequence == 0 ||
		(int64_t)LOAD(block_at(r, c->place)->hdr.bh1.seq_num, RELAXED) == c->sequence;
}

bool ring_describe(const ring *r, int64_t number, chunk *c)
{
	const chunk *from = chunk_at(r, number);
	c->used = LOAD(from->used, ACQUIRE); // first: what it counts is there
	c->number = number;
	c->packets_before = LOAD(from->packets_before, RELAXED);
	c->lost_before = LOAD(from->lost_before, RELAXED);
	c->packets = LOAD(from->packets, RELAXED);
	c->lost = LOAD(from->lost, RELAXED);
	c->first = LOAD(from->first, RELAXED);
	c->last = LOAD(from->last, RELAXED);
	c->sequence = LOAD(from->sequence, RELAXED);
	c->place = LOAD(from->place, RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return number >= LOAD(r->state->oldest, RELAXED);
}

bool ring_chunk(const ring *r, int64_t number, chunk *c)
{
	return ring_describe(r, number, c) && ring_has(r, c);
}

int64_t ring_oldest(const ring *r)
{
	const int64_t newest = LOAD(r->state->newest, ACQUIRE);
	int64_t found = LOAD(r->state->oldest, ACQUIRE);
	chunk c;
	// The kernel overwrites its blocks in turn: behind one that is there, all are.
	for (int64_t number = found; number <= newest; number++) {
		if (!ring_chunk(r, number, &c))
			found = number + 1;
		else if (c.sequence != 0)
			break;
	}
	return found < newest ? found : newest;
}

// is_sound reports whether a chunk may be described so.
static bool is_sound(const ring *r, const chunk *c, int64_t number)
{
	const ring_state *s = r->state;
	const geometry *g = &s->geometry;
	if (c->number != number || c->packets < 0 || c->lost < 0 || c->packets_before < 0 || c->lost_before < 0)
		return false;
	if (c->sequence == 0)
		return c->used >= 0 && c->used <= g->segment_size && c->place >= 0 &&
			c->place < s->segments && c->place >= s->segments - g->segments;
	return c->sequence > 0 && c->sequence <= s->blocks && c->place == (c->sequence - 1) % g->blocks &&
		c->used >= 0 && c->used <= g->block_size;
}

// recount counts what is in the newest chunk, which the writer may have left
// between two stores.
static bool recount(ring *r, chunk *c)
{
	if (c->sequence != 0)
		return true;
	packet_view v;
	int64_t packets = 0, lost = 0;
	for (uint64_t at = 0; at < (uint64_t)c->used; at = v.next) {
		if (!view_in_segment(segment_at(r, c->place), c->used, at, &v))
			return false;
		lost += v.lost;
		packets += v.lost == 0;
	}
	c->packets = packets;
	c->lost = lost;
	return true;
}

// undo_change takes back what was done of a change that was not finished.
static bool undo_change(ring_state *s)
{
	const undo *u = &s->undo;
	if (u->sum == 0) // killed while it was written, before anything else
		return true;
	if (u->sum != sum_of(u, offsetof(undo, sum)) || u->blocks > s->blocks || u->newest > s->newest)
		return false;
	if (u->blocks < s->blocks)
		return true;
	if (u->newest < s->oldest || u->grown.number != u->newest)
		return false;
	s->newest = u->newest;
	s->segments = u->segments;
	s->chunks[u->newest % s->geometry.entries] = u->grown;
	return true;
}

bool ring_recover(ring *r, const geometry *g)
{
	ring_state *const s = r->state;
	if (memcmp(&s->geometry, g, sizeof *g) != 0 || s->oldest < 1 || s->newest < s->oldest ||
	    s->blocks < 0 || s->segments < 1)
		return false;
	if (!undo_change(s))
		return false;
	// More chunks than entries cannot be sound: two would have one entry, and it one number.
	for (int64_t number = s->oldest; number <= s->newest; number++) {
		if (!is_sound(r, chunk_at(r, number), number))
			return false;
	}
	if (!recount(r, chunk_at(r, s->newest))) // which is sound, and so within its segment
		return false;
	for (int64_t place = 0; place < g->blocks; place++) { // taken, but not given back
		struct tpacket_hdr_v1 *h = &block_at(r, place)->hdr.bh1;
		if ((LOAD(h->block_status, ACQUIRE) & TP_STATUS_USER) && (int64_t)h->seq_num <= s->blocks)
			STORE(h->block_status, TP_STATUS_KERNEL, SEQ_CST);
	}
	return true;
}

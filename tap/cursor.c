#include "ring.h"

// copy_packet copies a packet as a record of a pcap file and reports whether it fits.
static inline bool copy_packet(copy_request *q, uint8_t *room, const packet_view *v)
{
	outline o;
	draw(&o, v, q->shape);
	const uint32_t whole = o.size + (v->stored - o.from), added = o.size - o.from;
	const uint32_t bytes = whole < q->snap ? whole : q->snap;
	const uint32_t header[] = {htole32(v->stamp / second), htole32(v->stamp % second / q->unit),
				   htole32(bytes), htole32(v->length + added)};
	const int64_t in_file = q->per_packet + ((bytes + q->align - 1) & -q->align);
	if (q->packets == q->most || in_file > q->most_file - q->file ||
	    q->bytes + (int64_t)sizeof header + bytes > q->size)
		return false;
	uint8_t *to = room + q->bytes;
	memcpy(to, header, sizeof header);
	to += sizeof header;
	if (bytes <= o.size) {
		memcpy(to, o.bytes, bytes);
	} else {
		memcpy(to, o.bytes, o.size);
		memcpy(to + o.size, v->data + o.from, bytes - o.size);
	}
	q->bytes += sizeof header + bytes;
	q->file += in_file;
	q->packets++;
	return true;
}

// margin is how many of so many chunks a reader leaves out that goes on with
// the oldest ones: they are overwritten next.
static int64_t margin(int64_t chunks) { return chunks / 16 + 1; }

// enter finds the chunk of a cursor, and reports whether there is one. A cursor
// that was overtaken goes on beyond the oldest chunk.
static bool enter(cursor *at, const ring *r, chunk *c)
{
	while (!ring_chunk(r, at->number, c)) {
		const int64_t newest = __atomic_load_n(&r->state->newest, __ATOMIC_ACQUIRE);
		const int64_t oldest = ring_oldest(r), next = oldest + margin(newest - oldest);
		if (at->number >= newest)
			return false; // overwritten, and what overwrote it is not noted yet
		at->number = next < newest ? next : newest;
		at->offset = at->index = 0;
	}
	if (at->index == 0) {
		at->overwritten += c->packets_before - at->packets_passed + c->lost_before - at->lost_passed;
		at->packets_passed = c->packets_before;
		at->lost_passed = c->lost_before;
	}
	return true;
}

int64_t ring_readable(const ring *r)
{
	const int64_t newest = __atomic_load_n(&r->state->newest, __ATOMIC_ACQUIRE);
	int64_t number = ring_oldest(r);
	chunk c;
	if (number > 1 && ring_chunk(r, number, &c) && c.sequence != 0)
		number += margin(newest - number);
	return number < newest ? number : newest;
}

// find returns the number of the chunk from which on packets may be as late as a stamp.
static int64_t find(const ring *r, int64_t stamp)
{
	const int64_t newest = __atomic_load_n(&r->state->newest, __ATOMIC_ACQUIRE);
	int64_t number = ring_readable(r);
	chunk c;
	for (; number < newest; number++) {
		if (ring_chunk(r, number, &c) && c.packets > 0 && c.last >= stamp)
			break;
	}
	return number < newest ? number : newest;
}

void cursor_begin(cursor *at, const ring *r, bool past)
{
	chunk c;
	do
		at->number = past ? find(r, at->from) : __atomic_load_n(&r->state->newest, __ATOMIC_ACQUIRE);
	while (!ring_describe(r, at->number, &c));
	at->packets_passed = c.packets_before;
	at->lost_passed = c.lost_before;
	at->past_number = __atomic_load_n(&r->state->newest, __ATOMIC_ACQUIRE);
	at->past_offset = INT64_MAX; // what is no longer the newest chunk, or a block, is whole
	if (ring_describe(r, at->past_number, &c) && c.sequence == 0)
		at->past_offset = c.used;
}

// A place says where the packets of a chunk are.
typedef struct {
	const uint8_t *memory;
	uint64_t size;
	bool block; // of the kernel
} place;

// place_of returns where the packets of a chunk are.
static place place_of(const ring *r, const chunk *c)
{
	const geometry *g = &r->state->geometry;
	if (c->sequence != 0)
		return (place){r->blocks + c->place * g->block_size, g->block_size, true};
	return (place){r->segments + c->place % g->segments * g->segment_size, c->used, false};
}

// first_in returns where the first packet of a place stands.
static uint64_t first_in(const place *p)
{
	if (!p->block)
		return 0;
	const struct tpacket_block_desc *b = (const struct tpacket_block_desc *)p->memory;
	return __atomic_load_n(&b->hdr.bh1.offset_to_first_pkt, __ATOMIC_RELAXED);
}

// view looks at what stands at a place.
static inline bool view(const place *p, uint64_t at, packet_view *v)
{
	return p->block ? view_in_block(p->memory, p->size, at, v) : view_in_segment(p->memory, p->size, at, v);
}

// has_more reports whether a chunk has more than the cursor has seen.
static inline bool has_more(const cursor *at, const chunk *c)
{
	return c->sequence != 0 ? at->index < c->packets : at->offset < c->used;
}

// copy_chunk copies what is in a place.
static int copy_chunk(cursor *at, const chunk *c, const place *p, copy_request *q, uint8_t *room)
{
	packet_view v;
	for (; has_more(at, c); at->offset = v.next, at->index++) {
		if (at->index == 0)
			at->offset = first_in(p);
		if (!view(p, at->offset, &v)) { // it is being overwritten, or else it is damaged
			at->offset = INT64_MAX;
			at->index = INT64_MAX;
			break;
		}
		const bool past = is_past(at);
		const bool wanted = past ? v.stamp >= at->from && v.stamp < at->until : v.stamp >= at->live;
		const bool ended = !past && v.stamp >= __atomic_load_n(q->end, __ATOMIC_RELAXED);
		if (v.lost) {
			at->lost_passed += v.lost;
			at->dropped += wanted && !ended ? v.lost : 0;
			continue;
		}
		if (ended && !q->beyond)
			return copied_end;
		if (wanted && (q->filter == NULL || passes(q->filter, &v, q->shape, q->counted)) &&
		    !copy_packet(q, room, &v))
			return copied_full;
		at->packets_passed++;
	}
	if (c->sequence != 0)
		at->offset = INT64_MAX; // nothing comes behind it
	return copied_everything;
}

int copy_records(cursor *at, const ring *r, copy_request *q, uint8_t *room)
{
	// Asked in this order: if it is no longer the newest, what is used is all.
	const int64_t newest = __atomic_load_n(&r->state->newest, __ATOMIC_ACQUIRE);
	chunk c;
	if (!enter(at, r, &c))
		return copied_everything;
	const place p = place_of(r, &c);
	const cursor before = *at;
	const copy_request asked = *q;
	const int why = copy_chunk(at, &c, &p, q, room);
	if (!ring_has(r, &c)) { // what was copied is anything
		*at = before;
		*q = asked;
		return copied_chunk;
	}
	if (why != copied_everything || at->number >= newest)
		return why;
	at->number++;
	at->offset = at->index = 0;
	return copied_chunk;
}

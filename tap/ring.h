#ifndef TAP_RING_H
#define TAP_RING_H

#include <stdbool.h>
#include <stdint.h>
#include "packet.h"

// A chunk says what a block of the kernel's ring or a segment of the compact
// ring holds. The newest one may grow, by atomic stores, used the last of them:
// what that counts is there.
typedef struct {
	int64_t number;
	int64_t packets_before, lost_before; // of the ring, when this chunk began
	int64_t packets, lost;               // in it
	int64_t first, last;                 // stamps of the first packet and of the latest one
	int64_t used;                        // bytes
	int64_t sequence;                    // number of the block; 0: it is a segment
	int64_t place;                       // the block counted from 0, or the segment
} chunk;

// An undo says where a ring ended before the writer began with a block, which
// is done when blocks (of ring_state) counts it.
typedef struct {
	int64_t newest, segments; // of ring_state
	int64_t blocks;
	chunk grown; // the newest chunk
	uint64_t sum; // over the others
} undo;

// A geometry says what a ring is made of.
typedef struct {
	int64_t blocks, block_size;     // of the kernel's ring
	int64_t segments, segment_size; // of the compact one
	int64_t entries;                // chunks that can be described
} geometry;

// A ring state is what of a ring stands in memory that outlives the process.
// The chunks that hold something have numbers from oldest to newest, which are
// never used twice. The chunk of a number is described at that number modulo the entries.
typedef struct {
	geometry geometry;
	int64_t oldest, newest;
	int64_t blocks;   // of the kernel that were taken, which is the number of the last one
	int64_t segments; // that were begun
	int64_t seen;     // Unix time in nanoseconds until which the writer has taken what the kernel had
	undo undo;
	chunk chunks[];
} ring_state;

// A ring remembers the latest packets. One thread writes, any number read, and
// nobody waits for anybody: who reads looks afterwards whether it was still there.
typedef struct {
	ring_state *state;
	uint8_t *segments;
	uint8_t *blocks; // the kernel's ring, or NULL
	uint32_t turns, waiting; // a futex that changes when the writer was there, and who waits for that
} ring;

// ring_state_size returns the bytes of a state and its chunks.
int64_t ring_state_size(const geometry *g);

// ring_begin makes an empty ring of zeroed memory.
void ring_begin(ring *r, const geometry *g);

// ring_recover brings a ring that another process left, maybe in the middle of a
// change, into order, and reports whether that could be done.
bool ring_recover(ring *r, const geometry *g);

// ring_put writes a packet, or a loss, to the compact ring.
void ring_put(ring *r, const packet_view *v);

// ring_take_blocks notes the blocks that the kernel has retired and gives them
// back. It returns their bytes; -1: the kernel's ring is not as expected.
int64_t ring_take_blocks(ring *r);

// ring_wake wakes those who wait for the ring.
void ring_wake(ring *r);

// ring_wait waits until something is written, if a count of the turns has not
// changed, for so many nanoseconds at most.
void ring_wait(ring *r, uint32_t turns, int64_t most);

// ring_oldest returns the number of the chunk from which on nothing is missing.
int64_t ring_oldest(const ring *r);

// ring_readable returns the number of the chunk that a reader of all that is
// held begins with: the oldest one, or one beyond those that the kernel is
// about to overwrite.
int64_t ring_readable(const ring *r);

// ring_describe copies the description of a chunk, and reports whether it was
// not forgotten. What it describes may be overwritten by the kernel.
bool ring_describe(const ring *r, int64_t number, chunk *c);

// ring_chunk copies the description of a chunk and reports whether it is still there.
bool ring_chunk(const ring *r, int64_t number, chunk *c);

// ring_has reports whether what a chunk describes is still there. What was read
// before is what it describes then.
bool ring_has(const ring *r, const chunk *c);

// A cursor is a place in a ring from which one reader goes on, and what it wants.
typedef struct {
	int64_t number, offset, index;    // the chunk, bytes in it, packets and losses in it
	int64_t past_number, past_offset; // where the ring ended when the cursor was made
	int64_t from, until;              // stamps that are wanted of what was there then
	int64_t live;                     // and of the rest: from this one on
	int64_t packets_passed, lost_passed; // since the ring was made

	int64_t overwritten; // wanted packets that were forgotten before they were read
	int64_t dropped;     // packets that the kernel dropped, of the time that is wanted
} cursor;

// A copy request says how packets are to be copied.
typedef struct {
	const struct bpf_insn *filter; // NULL: everything
	const int64_t *end;            // Unix time in nanoseconds
	shape shape;
	uint32_t counted; // bytes before the packet that the filter counts
	uint32_t snap; // bytes of a packet that are wanted
	uint32_t unit; // nanoseconds that the copy's stamps are counted in
	bool beyond;   // packets past the end are wanted too
	int64_t most, size;        // packets and bytes that may be copied
	int64_t most_file;         // bytes of a file, in which a packet takes so many
	int64_t per_packet, align; // beside its own, which are filled up to a multiple

	int64_t packets, bytes, file; // that were copied
} copy_request;

// Why copy_records stopped: it has seen all that is there, or the end of a
// chunk; the next packet does not fit, or is one too many; it is not older than
// the end.
enum { copied_everything, copied_chunk, copied_full, copied_end };

// cursor_begin sets a cursor to the packets from a stamp on of what is there,
// or to the end, and what there is to its past.
void cursor_begin(cursor *at, const ring *r, bool past);

// is_past reports whether what the cursor is at was there when it was made.
static inline bool is_past(const cursor *at)
{
	return at->number < at->past_number || (at->number == at->past_number && at->offset < at->past_offset);
}

// copy_records copies the packets of a chunk that are wanted and pass the
// filter to a room, as records of a pcap file.
int copy_records(cursor *at, const ring *r, copy_request *q, uint8_t *room);

#endif

#ifndef TAP_LIVE_H
#define TAP_LIVE_H

#include <stdbool.h>
#include <stdint.h>
#include <pcap/pcap.h>
#include "link.h"

// Why copy_packets returned: all that was asked for is copied; a packet that is
// not copied is kept; no packet came for a while, and none from before the end
// will; the file holds no more; libpcap has an error; the interface has parted
// from its name.
typedef enum { copied_all, copied_packet, copied_timeout, copied_file, copied_error, copied_lost } copied;

// A room is memory for records. Go writes the address, as a number: it would
// take note of a pointer that it overwrites here, whose memory may be gone.
typedef struct {
	uintptr_t memory;
	uint64_t size;
} room;

// A quota says what may be copied; the bytes are those of a file in which a
// packet takes so many beside its own, which are filled up to a multiple.
typedef struct {
	int64_t packets, bytes;
	int64_t per_packet, align;
	const int64_t *end; // Unix time in nanoseconds
} quota;

enum { most_rooms = 16 };

// A copying is an open handle whose packets go to memory.
typedef struct {
	pcap_t *handle; // in non-blocking mode
	int timeout;    // for a wait, in milliseconds
	int64_t unit;   // nanoseconds that the handle's stamps are counted in
	int64_t fraction; // and those of records
	named_link link;  // that it is opened on, if it is watched
	int64_t seen;     // monotonic time at which the interface had its name
	bool lost;        // it has it no longer: only what came before is handed out
	struct bpf_insn *filter; // of packets that the kernel does not judge; NULL: it judges all
	bool ended; // one that this has thrown away was not older than the end

	room rooms[most_rooms], *here; // where the records go to
	uint64_t left;                 // bytes of all of them
	int64_t buffer;                // of the kernel, in bytes
	int64_t begin; // Unix time in nanoseconds until a packet from then on has come, then 0
	int64_t settled; // monotonic time from which on no older one is to be expected
	int64_t waited, copied, copied_then, packets_then; // for the pause between two looks
	quota quota;
	int64_t packets, bytes; // that are copied, as the quota counts

	copied why;
	struct pcap_pkthdr header; // of the packet that is kept
	uint8_t *data;             // and room for any
} copying;

// new_copying takes a handle over; NULL: there is no memory.
copying *new_copying(pcap_t *handle, int timeout, bool nanos);

// free_copying closes the handle.
void free_copying(copying *of);

// filter_packets lets a program judge packets, of which it takes a copy; false:
// there is no memory.
bool filter_packets(copying *of, const struct bpf_insn *filter, uint32_t instructions);

// begin_at leaves out what is older, for as long as that may still come out of
// the kernel: later, it is the clock that was set back.
void begin_at(copying *to, int64_t begin);

// copy_packets copies packets to its rooms and waits for more, until there is
// something to say. It stays here for as long as it can: a call from Go that
// returns often keeps Go's scheduler busy, which then costs more than the
// packets. How much is copied can be seen meanwhile: who sees the bytes of the
// records also sees what is in them.
void copy_packets(copying *to, quota q, int64_t *packets, int64_t *bytes, int64_t *records);

#endif

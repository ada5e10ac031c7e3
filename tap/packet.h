#ifndef TAP_PACKET_H
#define TAP_PACKET_H

#include <endian.h>
#include <linux/if_packet.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include "bpf.h"

enum { second = 1000000000 }; // in nanoseconds

// A packet view is one packet in a ring, or a number of packets that the kernel
// dropped. What it points to may be overwritten at any time, so that it has to
// be looked at again afterwards whether it still stands. But it always points
// into the memory that it was found in.
typedef struct {
	int64_t stamp; // Unix time in nanoseconds
	const uint8_t *data;
	uint32_t stored, length; // bytes that are here, and of the whole packet
	bool tagged;             // the kernel took the outer VLAN tag out
	uint16_t tpid, tci;
	uint32_t lost; // no packet: the kernel dropped so many
	struct sockaddr_ll link;
	uint64_t next; // where the next one stands
} packet_view;

// A record is what stands before a packet in the compact ring.
typedef struct {
	int64_t stamp;
	uint32_t stored, length; // a loss has no bytes, and so many packets as length
	uint16_t tpid, tci;
	uint8_t tagged, loss;
	uint16_t unused;
	struct sockaddr_ll link;
	uint32_t unused_too; // so that the size is a multiple of eight
} record;

// record_size returns the bytes of a record with so many bytes of a packet.
static inline uint64_t record_size(uint32_t stored) { return sizeof(record) + (((uint64_t)stored + 7) & ~UINT64_C(7)); }

// view_in_segment looks at the record at a place of a segment of the compact
// ring of which so many bytes are used, and reports whether there is one.
static inline bool view_in_segment(const uint8_t *segment, uint64_t used, uint64_t at, packet_view *v)
{
	if (at % 8 != 0 || at + sizeof(record) > used)
		return false;
	record r;
	memcpy(&r, segment + at, sizeof r);
	__atomic_signal_fence(__ATOMIC_SEQ_CST); // what is checked is what is used
	v->lost = r.loss ? r.length : 0;
	v->stored = r.loss ? 0 : r.stored;
	v->next = at + record_size(v->stored);
	if (v->next > used)
		return false;
	v->stamp = r.stamp;
	v->data = segment + at + sizeof r;
	v->length = r.length;
	v->tagged = r.tagged;
	v->tpid = r.tpid;
	v->tci = r.tci;
	v->link = r.link;
	return true;
}

// view_in_block looks at the packet at a place of a block of the kernel's ring,
// and reports whether there can be one. The next one may stand at the end.
static inline bool view_in_block(const uint8_t *block, uint64_t size, uint64_t at, packet_view *v)
{
	enum { header = TPACKET_ALIGN(sizeof(struct tpacket3_hdr)) };
	if (at % 8 != 0 || at + header + sizeof v->link > size)
		return false;
	struct tpacket3_hdr h;
	memcpy(&h, block + at, sizeof h);
	__atomic_signal_fence(__ATOMIC_SEQ_CST); // what is checked is what is used
	if (h.tp_mac < header || at + h.tp_mac + h.tp_snaplen > size)
		return false;
	memcpy(&v->link, block + at + header, sizeof v->link);
	v->stamp = (int64_t)h.tp_sec * second + h.tp_nsec;
	v->data = block + at + h.tp_mac;
	v->stored = h.tp_snaplen;
	v->length = h.tp_len;
	v->tagged = h.tp_status & TP_STATUS_VLAN_VALID;
	v->tpid = h.hv1.tp_vlan_tpid; // since Linux 3.14; a memfd needs a later one
	v->tci = h.hv1.tp_vlan_tci;
	v->lost = 0;
	v->next = at + h.tp_next_offset;
	return true;
}

// A shape says what libpcap makes of packets of a link type.
typedef struct {
	uint32_t cooked; // bytes of a header that stands before them, sll_size or sll2_size; 0: none
	uint32_t hole;   // where their outer VLAN tag is put back; 0: nowhere
} shape;

// An outline is what stands before the rest of a packet when it is copied.
typedef struct {
	uint8_t bytes[sll2_size + tag_size];
	uint32_t size; // of bytes
	uint32_t from; // of the packet's bytes, where the rest begins
} outline;

// put16 writes two bytes in network order.
static inline void put16(uint8_t *to, uint16_t value)
{
	to[0] = value >> 8;
	to[1] = value;
}

// cook_sll2 writes the header of a Linux SLL2 packet.
static inline void cook_sll2(uint8_t header[sll2_size], const struct sockaddr_ll *link)
{
	memset(header, 0, sll2_size);
	memcpy(header, &link->sll_protocol, 2);
	put16(header + 4, (uint32_t)link->sll_ifindex >> 16);
	put16(header + 6, link->sll_ifindex);
	put16(header + 8, link->sll_hatype);
	header[10] = link->sll_pkttype;
	header[11] = link->sll_halen;
	memcpy(header + 12, link->sll_addr, link->sll_halen < 8 ? link->sll_halen : 8);
}

// cook writes a header of so many bytes of a cooked packet.
static inline void cook(uint8_t header[sll2_size], uint32_t size, const struct sockaddr_ll *link)
{
	if (size == sll2_size) {
		cook_sll2(header, link);
		return;
	}
	memset(header, 0, sll_size);
	put16(header, link->sll_pkttype);
	put16(header + 2, link->sll_hatype);
	put16(header + 4, link->sll_halen);
	memcpy(header + 6, link->sll_addr, link->sll_halen < 8 ? link->sll_halen : 8);
	memcpy(header + 14, &link->sll_protocol, 2);
}

// draw returns the outline of a packet.
static inline void draw(outline *o, const packet_view *v, shape s)
{
	o->size = o->from = 0;
	if (s.cooked > 0) {
		cook(o->bytes, s.cooked, &v->link);
		o->size = s.cooked;
	}
	if (!v->tagged || s.hole == 0 || (s.cooked == 0 && v->stored < s.hole))
		return;
	if (s.cooked == 0) {
		memcpy(o->bytes, v->data, s.hole);
		o->size = o->from = s.hole;
	}
	memmove(o->bytes + s.hole + tag_size, o->bytes + s.hole, o->size - s.hole);
	put16(o->bytes + s.hole, v->tpid);
	put16(o->bytes + s.hole + 2, v->tci);
	o->size += tag_size;
}

// passes reports whether a packet passes a filter, as the kernel would judge it.
// The filter counts so many bytes more than the kernel has.
static inline bool passes(const struct bpf_insn *filter, const packet_view *v, shape s, uint32_t more)
{
	judged p = {.data = v->data, .stored = v->stored, .length = v->length + more, .tagged = v->tagged,
		    .direction = v->link.sll_pkttype, .interface = v->link.sll_ifindex,
		    .protocol = be16toh(v->link.sll_protocol), .hardware = v->link.sll_hatype};
	uint8_t header[sll2_size];
	if (v->tagged) {
		p.tpid = v->tpid;
		p.tci = v->tci;
	}
	if (s.cooked > 0) {
		cook(header, s.cooked, &v->link);
		p.cooked = header;
		p.before = s.cooked;
	}
	return judge(filter, &p);
}

#endif

#ifndef TAP_BPF_H
#define TAP_BPF_H

#include <stdbool.h>
#include <stdint.h>
#include <pcap/pcap.h>

// Where filters find what stands beside a packet: SKF_AD_OFF plus the places of
// linux/filter.h.
#define BESIDE_PROTOCOL  UINT32_C(0xfffff000) // SKF_AD_PROTOCOL
#define BESIDE_DIRECTION UINT32_C(0xfffff004) // SKF_AD_PKTTYPE
#define BESIDE_INTERFACE UINT32_C(0xfffff008) // SKF_AD_IFINDEX
#define BESIDE_HARDWARE  UINT32_C(0xfffff01c) // SKF_AD_HATYPE
#define BESIDE_TCI       UINT32_C(0xfffff02c) // SKF_AD_VLAN_TAG
#define BESIDE_PRESENT   UINT32_C(0xfffff030) // SKF_AD_VLAN_TAG_PRESENT
#define BESIDE_TPID      UINT32_C(0xfffff03c) // SKF_AD_VLAN_TPID

enum { tag_size = 4, cooked_size = 16 };

// A judged packet is a packet as the kernel shows it to filters: the outer VLAN
// tag, the direction and the interface stand beside it. Before a cooked one
// stands the header that libpcap makes.
typedef struct {
	const uint8_t *data;
	uint32_t stored, length; // bytes that are here, and that a filter counts
	bool tagged;
	uint16_t tpid, tci;
	uint16_t protocol, hardware; // EtherType, ARPHRD
	uint8_t direction;           // PACKET_HOST to PACKET_OUTGOING
	uint32_t interface;          // index
	const uint8_t *cooked;       // cooked_size bytes that stand before data, or NULL
} judged;

// byte_at returns a byte of a packet, which has so many.
static inline uint32_t byte_at(const judged *p, uint32_t at)
{
	if (p->cooked == NULL)
		return p->data[at];
	return at < cooked_size ? p->cooked[at] : p->data[at - cooked_size];
}

// load reads so many bytes in network order and reports whether they are there.
static inline bool load(const judged *p, uint32_t at, uint32_t bytes, uint32_t *value)
{
	const uint32_t before = p->cooked == NULL ? 0 : cooked_size;
	if ((uint64_t)at + bytes > (uint64_t)p->stored + before)
		return false;
	if (at < before) {
		*value = 0;
		for (uint32_t i = 0; i < bytes; i++)
			*value = *value << 8 | byte_at(p, at + i);
		return true;
	}
	const uint8_t *b = p->data + (at - before);
	switch (bytes) {
	case 4:
		*value = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
		return true;
	case 2:
		*value = (uint32_t)b[0] << 8 | b[1];
		return true;
	}
	*value = b[0];
	return true;
}

// load_beside reads what stands beside the packet, which is at places that no
// packet has, and reports whether something is there.
static inline bool load_beside(const judged *p, uint32_t at, uint32_t *value)
{
	switch (at) {
	case BESIDE_PROTOCOL:  *value = p->protocol; return true;
	case BESIDE_DIRECTION: *value = p->direction; return true;
	case BESIDE_INTERFACE: *value = p->interface; return true;
	case BESIDE_HARDWARE:  *value = p->hardware; return true;
	case BESIDE_TCI:       *value = p->tci; return true;
	case BESIDE_PRESENT:   *value = p->tagged; return true;
	case BESIDE_TPID:      *value = p->tpid; return true;
	}
	return false;
}

// judge runs a filter over a packet as the kernel does and reports whether it
// matches: a load of what is not there, or a division by zero, says no. The
// program has been checked: its jumps and its memory stay within bounds.
static inline bool judge(const struct bpf_insn *filter, const judged *p)
{
	uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = {0};
	for (const struct bpf_insn *i = filter;; i++) {
		const uint32_t k = i->k;
		switch (i->code) {
#define LOAD(size, bytes)                                           \
		case BPF_LD | BPF_ABS | size:                       \
			if (!load(p, k, bytes, &a) && !load_beside(p, k, &a)) \
				return false;                       \
			break;                                      \
		case BPF_LD | BPF_IND | size:                       \
			if (!load(p, x + k, bytes, &a))             \
				return false;                       \
			break;
		LOAD(BPF_W, 4)
		LOAD(BPF_H, 2)
		LOAD(BPF_B, 1)
#undef LOAD
		case BPF_LDX | BPF_MSH | BPF_B:
			if (!load(p, k, 1, &x))
				return false;
			x = (x & 0xf) << 2;
			break;
		case BPF_LD | BPF_LEN:  a = p->length; break;
		case BPF_LDX | BPF_LEN: x = p->length; break;
		case BPF_LD | BPF_IMM:  a = k; break;
		case BPF_LDX | BPF_IMM: x = k; break;
		case BPF_LD | BPF_MEM:  a = memory[k]; break;
		case BPF_LDX | BPF_MEM: x = memory[k]; break;
		case BPF_ST:            memory[k] = a; break;
		case BPF_STX:           memory[k] = x; break;
		case BPF_MISC | BPF_TAX: x = a; break;
		case BPF_MISC | BPF_TXA: a = x; break;
		case BPF_RET | BPF_K: return k != 0;
		case BPF_RET | BPF_A: return a != 0;
#define OPERATE(operation, k, x)                                    \
		case BPF_ALU | operation | BPF_K: k; break;         \
		case BPF_ALU | operation | BPF_X: x; break;
		OPERATE(BPF_ADD, a += k, a += x)
		OPERATE(BPF_SUB, a -= k, a -= x)
		OPERATE(BPF_MUL, a *= k, a *= x)
		OPERATE(BPF_DIV, a /= k, if (x == 0) return false; a /= x)
		OPERATE(BPF_MOD, a %= k, if (x == 0) return false; a %= x)
		OPERATE(BPF_AND, a &= k, a &= x)
		OPERATE(BPF_OR, a |= k, a |= x)
		OPERATE(BPF_XOR, a ^= k, a ^= x)
		OPERATE(BPF_LSH, a <<= k, a <<= x & 31)
		OPERATE(BPF_RSH, a >>= k, a >>= x & 31)
#undef OPERATE
		case BPF_ALU | BPF_NEG: a = -a; break;
		case BPF_JMP | BPF_JA: i += k; break;
#define JUMP(condition, test)                                                      \
		case BPF_JMP | condition | BPF_K: i += (a test k) ? i->jt : i->jf; break; \
		case BPF_JMP | condition | BPF_X: i += (a test x) ? i->jt : i->jf; break;
		JUMP(BPF_JEQ, ==)
		JUMP(BPF_JGT, >)
		JUMP(BPF_JGE, >=)
		JUMP(BPF_JSET, &)
#undef JUMP
		default:
			return false;
		}
	}
}

#endif

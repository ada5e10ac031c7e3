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

// Bytes of a VLAN tag, and of the headers that libpcap makes for cooked packets:
// Linux SLL and those that look like it, and Linux SLL2.
enum { tag_size = 4, sll_size = 16, sll2_size = 20 };

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
	const uint8_t *cooked;       // what stands before data
	uint32_t before;             // bytes of that
} judged;

// byte_at returns a byte of a packet, which has so many.
static inline uint32_t byte_at(const judged *p, uint32_t at)
{
	return at < p->before ? p->cooked[at] : p->data[at - p->before];
}

// load reads so many bytes in network order and reports whether they are there.
static inline bool load(const judged *p, uint32_t at, uint32_t bytes, uint32_t *value)
{
	const uint32_t before = p->before;
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
// program has been checked: its instructions are known, and its jumps and its
// memory stay within bounds. Each instruction jumps to the next one by itself,
// so that the processor predicts each of these jumps on its own.
static inline bool judge(const struct bpf_insn *filter, const judged *p)
{
#define AT(code, name) [code] = &&name
#define OPERATION(name) AT(BPF_ALU | BPF_##name | BPF_K, name##_k), AT(BPF_ALU | BPF_##name | BPF_X, name##_x)
#define JUMP(name)      AT(BPF_JMP | BPF_##name | BPF_K, name##_k), AT(BPF_JMP | BPF_##name | BPF_X, name##_x)
	static const void *const places[256] = {
		[0 ... 255] = &&unknown,
		AT(BPF_LD | BPF_ABS | BPF_W, abs_w), AT(BPF_LD | BPF_ABS | BPF_H, abs_h), AT(BPF_LD | BPF_ABS | BPF_B, abs_b),
		AT(BPF_LD | BPF_IND | BPF_W, ind_w), AT(BPF_LD | BPF_IND | BPF_H, ind_h), AT(BPF_LD | BPF_IND | BPF_B, ind_b),
		AT(BPF_LDX | BPF_MSH | BPF_B, msh), AT(BPF_LD | BPF_LEN, len_a), AT(BPF_LDX | BPF_LEN, len_x),
		AT(BPF_LD | BPF_IMM, imm_a), AT(BPF_LDX | BPF_IMM, imm_x), AT(BPF_LD | BPF_MEM, mem_a),
		AT(BPF_LDX | BPF_MEM, mem_x), AT(BPF_ST, store_a), AT(BPF_STX, store_x),
		AT(BPF_MISC | BPF_TAX, tax), AT(BPF_MISC | BPF_TXA, txa),
		AT(BPF_RET | BPF_K, ret_k), AT(BPF_RET | BPF_A, ret_a),
		OPERATION(ADD), OPERATION(SUB), OPERATION(MUL), OPERATION(DIV), OPERATION(MOD), OPERATION(AND),
		OPERATION(OR), OPERATION(XOR), OPERATION(LSH), OPERATION(RSH), AT(BPF_ALU | BPF_NEG, neg),
		AT(BPF_JMP | BPF_JA, ja), JUMP(JEQ), JUMP(JGT), JUMP(JGE), JUMP(JSET),
	};
#undef AT
#undef OPERATION
#undef JUMP
	uint32_t a = 0, x = 0, memory[BPF_MEMWORDS] = {0};
	const struct bpf_insn *i = filter;
#define GO   goto *places[i->code & 0xff]
#define NEXT do { i++; GO; } while (0)
	GO;
#define LOAD(name, bytes)                                                         \
	abs_##name:                                                               \
		if (!load(p, i->k, bytes, &a) && !load_beside(p, i->k, &a))       \
			return false;                                             \
		NEXT;                                                             \
	ind_##name:                                                               \
		if (!load(p, x + i->k, bytes, &a))                                \
			return false;                                             \
		NEXT;
	LOAD(w, 4)
	LOAD(h, 2)
	LOAD(b, 1)
#undef LOAD
	msh:
		if (!load(p, i->k, 1, &x))
			return false;
		x = (x & 0xf) << 2;
		NEXT;
	len_a:   a = p->length; NEXT;
	len_x:   x = p->length; NEXT;
	imm_a:   a = i->k; NEXT;
	imm_x:   x = i->k; NEXT;
	mem_a:   a = memory[i->k]; NEXT;
	mem_x:   x = memory[i->k]; NEXT;
	store_a: memory[i->k] = a; NEXT;
	store_x: memory[i->k] = x; NEXT;
	tax:     x = a; NEXT;
	txa:     a = x; NEXT;
	ret_k:   return i->k != 0;
	ret_a:   return a != 0;
#define OPERATE(name, constant, variable)                                         \
	name##_k: constant; NEXT;                                                 \
	name##_x: variable; NEXT;
	OPERATE(ADD, a += i->k, a += x)
	OPERATE(SUB, a -= i->k, a -= x)
	OPERATE(MUL, a *= i->k, a *= x)
	OPERATE(DIV, a /= i->k, if (x == 0) return false; a /= x)
	OPERATE(MOD, a %= i->k, if (x == 0) return false; a %= x)
	OPERATE(AND, a &= i->k, a &= x)
	OPERATE(OR, a |= i->k, a |= x)
	OPERATE(XOR, a ^= i->k, a ^= x)
	OPERATE(LSH, a <<= i->k, a <<= x & 31)
	OPERATE(RSH, a >>= i->k, a >>= x & 31)
#undef OPERATE
	neg: a = -a; NEXT;
	ja:  i += i->k; NEXT;
#define JUMP(name, test)                                                          \
	name##_k: i += (a test i->k) ? i->jt : i->jf; NEXT;                       \
	name##_x: i += (a test x) ? i->jt : i->jf; NEXT;
	JUMP(JEQ, ==)
	JUMP(JGT, >)
	JUMP(JGE, >=)
	JUMP(JSET, &)
#undef JUMP
#undef GO
#undef NEXT
unknown:
	return false;
}

#endif

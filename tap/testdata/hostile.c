// A reader follows blocks into which a writer writes garbage all the time.

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "ring.h"

enum { blocks = 4, size = 4096, rounds = 200000 };

static int done;

// write_packet writes what may be a packet to the beginning of a block.
static void write_packet(uint8_t *block, uint64_t random)
{
	const struct { uint32_t at, value; } words[] = {
		{16, 48}, // where the first packet stands
		{48, random >> 32 & 0xf8}, {48 + 12, random >> 24 & 0x1ff}, {48 + 24, 82}, // next one, length, data
	};
	for (int i = 0; i < 4; i++)
		__atomic_store_n((uint32_t *)(block + words[i].at), words[i].value, __ATOMIC_RELAXED);
}

// write_garbage overwrites offsets and lengths with numbers of all sizes.
static void *write_garbage(void *memory)
{
	uint64_t random = 88172645463325252;
	while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
		random ^= random << 13, random ^= random >> 7, random ^= random << 17;
		if (random % 8 == 0)
			write_packet((uint8_t *)memory + (random >> 8) % blocks * size, random);
		uint32_t *word = (uint32_t *)memory + random % (blocks * size / 4);
		if ((uint64_t)((uint8_t *)word - (uint8_t *)memory) % size >= 20 &&
		    (uint64_t)((uint8_t *)word - (uint8_t *)memory) % size < 32)
			continue; // the block's number, so that it is read at all
		const uint32_t kinds[] = {random >> 32, random >> 32 & 0xfff8, random >> 32 & 0x3f8, random >> 32 & 0x00ff00f8};
		__atomic_store_n(word, kinds[random >> 20 & 3], __ATOMIC_RELAXED);
	}
	return NULL;
}

int main(void)
{
	const geometry g = {blocks, size, 4, size, blocks + 6};
	ring r = {.state = calloc(1, ring_state_size(&g)), .segments = malloc(4 * size), .blocks = calloc(blocks, size)};
	ring_begin(&r, &g);
	const packet_view loss = {.stamp = 1, .lost = 1}; // has no data
	ring_put(&r, &loss);
	for (int64_t n = 1; n <= blocks; n++) {
		chunk *c = &r.state->chunks[(n + 1) % g.entries];
		*c = (chunk){.number = n + 1, .packets = INT_MAX, .sequence = n, .place = n - 1, .used = size, .last = INT64_MAX};
		((struct tpacket_block_desc *)(r.blocks + (n - 1) * size))->hdr.bh1.seq_num = n;
		r.state->newest = n + 1;
	}
	pthread_t writer;
	pthread_create(&writer, NULL, write_garbage, r.blocks);
	const int64_t end = INT64_MAX;
	uint8_t *room = malloc(3000);
	int64_t packets = 0;
	const struct bpf_insn filter[] = {{BPF_LD | BPF_ABS | BPF_W, 0, 0, 20}, {BPF_LD | BPF_IND | BPF_B, 0, 0, 7}, {BPF_RET | BPF_K, 0, 0, 1}};
	const shape shapes[] = {{0, 12}, {sll_size, 14}, {sll2_size, 0}, {0, 0}};
	// At least one packet has to look like one, or nothing was tried.
	for (int i = 0; i < rounds || (packets == 0 && i < 20 * rounds); i++) {
		cursor at = {.number = 2 + i / 8 % blocks, .from = INT64_MIN, .until = INT64_MAX, .past_number = INT64_MAX};
		copy_request q = {.filter = i & 4 ? filter : NULL, .end = &end, .shape = shapes[i % 4], .snap = 1 << 20,
				  .unit = 1, .most = 1000, .size = 3000, .most_file = INT64_MAX, .per_packet = 16, .align = 1};
		copy_records(&at, &r, &q, room);
		packets += q.packets;
	}
	__atomic_store_n(&done, 1, __ATOMIC_RELAXED);
	pthread_join(writer, NULL);
	printf("%lld packets\n", (long long)packets);
	return packets == 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* One named case for each rule of descriptor chains (virtio 1.2, 2.7; D1 to D17 of the attack ledger) and for what the
 * registers promise. A case sets up one violation on a started device; the runner kicks and looks what comes of it. */
#include "attack.h"

static void put(struct ring *r, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	r->desc[i].addr = addr;
	r->desc[i].len = len;
	r->desc[i].flags = flags;
	r->desc[i].next = next;
}

static void offer(struct ring *r, uint16_t head)
{
	r->avail.ring[r->avail.idx % QSIZE] = head;
	__asm__ volatile("" ::: "memory");
	r->avail.idx = (uint16_t)(r->avail.idx + 1);
}

#define DATA(r) ((uintptr_t)(r)->data)
#define NOWHERE 0x700000000000ull

static void d3_avail_index_too_far(struct ring *r) { r->avail.idx = QSIZE + 1; }
static void d3_avail_index_behind(struct ring *r) { r->avail.idx = 0xffff; }
static void d4_head_too_large(struct ring *r) { offer(r, QSIZE); }
static void d4_head_is_0xffff(struct ring *r) { offer(r, 0xffff); }

static void d5_next_too_large(struct ring *r)
{
	put(r, 0, DATA(r), 16, D_NEXT, QSIZE);
	offer(r, 0);
}

static void d6_loop_of_one(struct ring *r)
{
	put(r, 0, DATA(r), 16, D_NEXT, 0);
	offer(r, 0);
}

static void d6_loop_of_all(struct ring *r)
{
	for (unsigned i = 0; i < QSIZE; i++)
		put(r, i, DATA(r), 16, D_NEXT, (uint16_t)((i + 1) % QSIZE));
	offer(r, 0);
}

static void d7_buffer_nowhere(struct ring *r)
{
	put(r, 0, NOWHERE, 512, D_WRITE, 0);
	offer(r, 0);
}

static void d7_buffer_wraps(struct ring *r)
{
	put(r, 0, ~0ull - 4, 512, D_WRITE, 0);
	offer(r, 0);
}

static void d7_buffer_in_a_device(struct ring *r)
{
	put(r, 0, 0xfec00000, 512, D_WRITE, 0); /* DMA reaches RAM only */
	offer(r, 0);
}

static void d7_buffer_of_4_gib(struct ring *r)
{
	put(r, 0, DATA(r), 0xffffffff, D_WRITE, 0);
	offer(r, 0);
}

static void d8_readable_after_writable(struct ring *r)
{
	put(r, 0, DATA(r), 16, D_NEXT | D_WRITE, 1);
	put(r, 1, DATA(r) + 64, 16, 0, 0);
	offer(r, 0);
}

static void d9_unknown_flags(struct ring *r)
{
	put(r, 0, DATA(r), 16, 0xfff8, 0);
	offer(r, 0);
}

static void d10_indirect_and_next(struct ring *r)
{
	put(r, 0, (uintptr_t)r->table, 16, D_INDIRECT | D_NEXT, 1);
	offer(r, 0);
}

static void d10_nested(struct ring *r)
{
	r->table[0] = (struct desc){ (uintptr_t)r->table, 16, D_INDIRECT, 0 };
	put(r, 0, (uintptr_t)r->table, 16, D_INDIRECT, 0);
	offer(r, 0);
}

static void d10_odd_length(struct ring *r)
{
	put(r, 0, (uintptr_t)r->table, 17, D_INDIRECT, 0);
	offer(r, 0);
}

static void d10_empty_table(struct ring *r)
{
	put(r, 0, (uintptr_t)r->table, 0, D_INDIRECT, 0);
	offer(r, 0);
}

static void d10_huge_table(struct ring *r)
{
	put(r, 0, (uintptr_t)r->table, 0xfffffff0, D_INDIRECT, 0);
	offer(r, 0);
}

static void d10_table_nowhere(struct ring *r)
{
	put(r, 0, NOWHERE, 32, D_INDIRECT, 0);
	offer(r, 0);
}

static void d10_loop_in_table(struct ring *r)
{
	r->table[0] = (struct desc){ DATA(r), 16, D_NEXT, 1 };
	r->table[1] = (struct desc){ DATA(r), 16, D_NEXT, 0 };
	put(r, 0, (uintptr_t)r->table, 32, D_INDIRECT, 0);
	offer(r, 0);
}

static void d11_empty_chain(struct ring *r)
{
	put(r, 0, DATA(r), 0, 0, 0);
	offer(r, 0);
}

static void d12_readable_only(struct ring *r)
{
	put(r, 0, DATA(r), 16, 0, 0);
	offer(r, 0);
}

static void d12_writable_only(struct ring *r)
{
	put(r, 0, DATA(r), 1, D_WRITE, 0);
	offer(r, 0);
}

static void d12_one_byte_pieces(struct ring *r)
{
	for (unsigned i = 0; i < QSIZE; i++)
		put(r, i, DATA(r) + i, 1, (uint16_t)((i < QSIZE - 1 ? D_NEXT : 0) | (i > 8 ? D_WRITE : 0)), (uint16_t)(i + 1));
	offer(r, 0);
}

static void d15_rings_overlap_buffers(struct ring *r)
{
	put(r, 0, (uintptr_t)r->desc, 4096, D_WRITE, 0);
	offer(r, 0);
}

static void d15_buffer_is_the_used_ring(struct ring *r)
{
	put(r, 0, (uintptr_t)&r->used, sizeof r->used, D_WRITE, 0);
	offer(r, 0);
}

static void d16_same_head_many_times(struct ring *r)
{
	put(r, 0, DATA(r), 16, D_WRITE, 0);
	for (unsigned i = 0; i < QSIZE; i++)
		offer(r, 0);
}

static void d17_all_heads_at_once(struct ring *r)
{
	for (unsigned i = 0; i < QSIZE; i++) {
		put(r, i, DATA(r) + 64 * i, 64, D_WRITE, 0);
		offer(r, (uint16_t)i);
	}
}

const struct attack attacks[] = {
	{ "d3_avail_index_too_far", d3_avail_index_too_far, MUST_BREAK },
	{ "d3_avail_index_behind", d3_avail_index_behind, MUST_BREAK },
	{ "d4_head_too_large", d4_head_too_large, MUST_BREAK },
	{ "d4_head_is_0xffff", d4_head_is_0xffff, MUST_BREAK },
	{ "d5_next_too_large", d5_next_too_large, MUST_BREAK },
	{ "d6_loop_of_one", d6_loop_of_one, MUST_BREAK },
	{ "d6_loop_of_all", d6_loop_of_all, MUST_BREAK },
	{ "d7_buffer_nowhere", d7_buffer_nowhere, MUST_BREAK },
	{ "d7_buffer_wraps", d7_buffer_wraps, MUST_BREAK },
	{ "d7_buffer_in_a_device", d7_buffer_in_a_device, MUST_BREAK },
	{ "d7_buffer_of_4_gib", d7_buffer_of_4_gib, MUST_BREAK },
	{ "d8_readable_after_writable", d8_readable_after_writable, MUST_BREAK },
	{ "d9_unknown_flags", d9_unknown_flags, MUST_BREAK },
	{ "d10_indirect_and_next", d10_indirect_and_next, MUST_BREAK },
	{ "d10_nested", d10_nested, MUST_BREAK },
	{ "d10_odd_length", d10_odd_length, MUST_BREAK },
	{ "d10_empty_table", d10_empty_table, MUST_BREAK },
	{ "d10_huge_table", d10_huge_table, MUST_BREAK },
	{ "d10_table_nowhere", d10_table_nowhere, MUST_BREAK },
	{ "d10_loop_in_table", d10_loop_in_table, MUST_BREAK },
	{ "d11_empty_chain", d11_empty_chain, MUST_BREAK },
	/* Whether these are a device's error or a plain answer is the device's matter: it must not be silence. */
	{ "d12_readable_only", d12_readable_only, MUST_ANSWER },
	{ "d12_writable_only", d12_writable_only, MUST_ANSWER },
	{ "d12_one_byte_pieces", d12_one_byte_pieces, MUST_ANSWER },
	{ "d15_rings_overlap_buffers", d15_rings_overlap_buffers, MUST_LIVE },
	{ "d15_buffer_is_the_used_ring", d15_buffer_is_the_used_ring, MUST_LIVE },
	{ "d16_same_head_many_times", d16_same_head_many_times, MUST_LIVE },
	{ "d17_all_heads_at_once", d17_all_heads_at_once, MUST_ANSWER },
};

const unsigned n_attacks = sizeof attacks / sizeof attacks[0];

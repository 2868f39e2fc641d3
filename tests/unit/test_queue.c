/* SPDX-License-Identifier: Apache-2.0 */
/* The rules D1 to D17 for descriptor chains (virtio 1.2, 2.7), one test each or more. */
#include "base/bytes.h"
#include "ring.h"
#include "test.h"
#include "virtio/queue.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define SIZE 8

struct fixture {
	struct mem_map mem;
	struct ring r;
	struct queue q;
	struct iovec iov[SIZE];
	struct chain c;
};

static void open_with(struct fixture *f, uint64_t features)
{
	ring_memory_new(&f->mem, false);
	ring_init(&f->r, &f->mem, 0, SIZE);
	EQ(queue_init(&f->q, 16, NULL), 0);
	f->q.config = ring_config(&f->r);
	f->c = (struct chain){ .iov = f->iov, .n_iov_capacity = SIZE };
	EQ(queue_start(&f->q, &f->mem, features, NULL), 0);
	queue_begin(&f->q);
}

static void open_plain(struct fixture *f)
{
	open_with(f, 0);
}

static void done(struct fixture *f)
{
	queue_stop(&f->q);
	queue_done(&f->q);
	mem_map_done(&f->mem);
}

static void breaks_with(struct fixture *f, enum queue_fault why)
{
	EQ(queue_next(&f->q, &f->c), -EPROTO);
	EQ(f->q.fault, why);
	/* D14: it stays broken, and says so each time. */
	EQ(queue_next(&f->q, &f->c), -EPROTO);
	done(f);
}

static void refuses_start(struct queue_config (*change)(struct queue_config), enum queue_fault why)
{
	struct mem_map mem;
	struct ring r;
	struct queue q;
	struct err e = { 0 };
	ring_memory_new(&mem, false);
	ring_init(&r, &mem, 0, SIZE);
	EQ(queue_init(&q, 16, NULL), 0);
	q.config = change(ring_config(&r));
	EQ(queue_start(&q, &mem, VIRTIO_F_EVENT_IDX, &e), -EINVAL);
	EQ(q.fault, why);
	STR_HAS(e.text, queue_fault_name(why));
	queue_done(&q);
	mem_map_done(&mem);
}

static struct queue_config size_0(struct queue_config c) { c.size = 0; return c; }
static struct queue_config size_3(struct queue_config c) { c.size = 3; return c; }
static struct queue_config size_32(struct queue_config c) { c.size = 32; return c; }
static struct queue_config desc_odd(struct queue_config c) { c.desc += 8; return c; }
static struct queue_config avail_odd(struct queue_config c) { c.avail += 1; return c; }
static struct queue_config used_odd(struct queue_config c) { c.used += 2; return c; }
static struct queue_config desc_outside(struct queue_config c) { c.desc = RING_MEMORY_START + RING_MEMORY_BYTES - 64; return c; }
static struct queue_config avail_wraps(struct queue_config c) { c.avail = UINT64_MAX - 1; return c; }
static struct queue_config used_outside(struct queue_config c) { c.used = 0; return c; }
/* The ring itself fits, the event field behind it does not. */
static struct queue_config event_outside(struct queue_config c)
{
	c.avail = RING_MEMORY_START + RING_MEMORY_BYTES - (4 + 2 * SIZE);
	return c;
}

TEST(d1_size_is_a_power_of_two_up_to_the_maximum)
{
	refuses_start(size_0, QUEUE_BAD_SIZE);
	refuses_start(size_3, QUEUE_BAD_SIZE);
	refuses_start(size_32, QUEUE_BAD_SIZE);
}

TEST(d2_areas_are_aligned_and_in_memory)
{
	refuses_start(desc_odd, QUEUE_BAD_ALIGNMENT);
	refuses_start(avail_odd, QUEUE_BAD_ALIGNMENT);
	refuses_start(used_odd, QUEUE_BAD_ALIGNMENT);
	refuses_start(desc_outside, QUEUE_BAD_ADDRESS);
	refuses_start(avail_wraps, QUEUE_BAD_ADDRESS);
	refuses_start(used_outside, QUEUE_BAD_ADDRESS);
	refuses_start(event_outside, QUEUE_BAD_ADDRESS);
}

TEST(a_chain_is_copied_and_split_by_direction)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 5, (struct ring_desc){ RING_DATA, 16, DESC_NEXT, 2 });
	ring_put(&f.r, 2, (struct ring_desc){ RING_DATA + 0x100, 32, DESC_NEXT | DESC_WRITE, 7 });
	ring_put(&f.r, 7, (struct ring_desc){ RING_DATA + 0x200, 1, DESC_WRITE, 0 });
	ring_offer(&f.r, 5);
	EQ(queue_next(&f.q, &f.c), 1);
	EQ(f.c.head, 5);
	EQ(f.c.n_out, 1);
	EQ(f.c.n_in, 2);
	EQ(f.c.n_out_bytes, 16);
	EQ(f.c.n_in_bytes, 33);
	EQ(queue_next(&f.q, &f.c), 0);
	done(&f);
}

TEST(d3_available_index_is_at_most_a_queue_ahead)
{
	struct fixture f;
	open_plain(&f);
	for (uint16_t i = 0; i < SIZE; i++) {
		ring_put(&f.r, i, (struct ring_desc){ RING_DATA, 1, 0, 0 });
		ring_offer(&f.r, i);
	}
	for (int i = 0; i < SIZE; i++)
		EQ(queue_next(&f.q, &f.c), 1);
	done(&f);

	open_plain(&f);
	ring_set_avail_idx(&f.r, SIZE + 1);
	breaks_with(&f, QUEUE_BAD_AVAIL_INDEX);

	open_plain(&f);
	ring_set_avail_idx(&f.r, 0xffff); /* behind us */
	breaks_with(&f, QUEUE_BAD_AVAIL_INDEX);
}

TEST(d4_head_is_below_the_size)
{
	struct fixture f;
	open_plain(&f);
	ring_offer(&f.r, SIZE);
	breaks_with(&f, QUEUE_BAD_HEAD);
}

TEST(d5_next_is_below_the_size)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 16, DESC_NEXT, SIZE });
	ring_offer(&f.r, 0);
	breaks_with(&f, QUEUE_BAD_NEXT);
}

TEST(d6_a_loop_of_descriptors_is_too_long)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 1, (struct ring_desc){ RING_DATA, 16, DESC_NEXT, 1 });
	ring_offer(&f.r, 1);
	breaks_with(&f, QUEUE_CHAIN_TOO_LONG);

	open_plain(&f); /* of empty buffers, which are not handed on but are counted (D11) */
	ring_put(&f.r, 1, (struct ring_desc){ RING_DATA, 0, DESC_NEXT, 2 });
	ring_put(&f.r, 2, (struct ring_desc){ RING_DATA, 0, DESC_NEXT, 1 });
	ring_offer(&f.r, 1);
	breaks_with(&f, QUEUE_CHAIN_TOO_LONG);
}

TEST(d6_a_chain_of_the_queues_size_is_fine)
{
	struct fixture f;
	open_plain(&f);
	for (uint16_t i = 0; i < SIZE; i++)
		ring_put(&f.r, i, (struct ring_desc){ RING_DATA, 1, i + 1 < SIZE ? DESC_NEXT : 0, (uint16_t)(i + 1) });
	ring_offer(&f.r, 0);
	EQ(queue_next(&f.q, &f.c), 1);
	EQ(f.c.n_out, SIZE);
	done(&f);
}

TEST(d7_buffers_are_in_memory)
{
	const uint64_t bad[] = { 0, RING_MEMORY_START - 8, RING_MEMORY_START + RING_MEMORY_BYTES - 8, UINT64_MAX - 4, 1ull << 63 };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct fixture f;
		open_plain(&f);
		ring_put(&f.r, 0, (struct ring_desc){ bad[i], 16, 0, 0 });
		ring_offer(&f.r, 0);
		breaks_with(&f, QUEUE_BAD_BUFFER);
	}
}

TEST(d7_the_sum_of_bytes_is_bounded)
{
	/* A big sparse region, so that one buffer has nearly 2^32 bytes. */
	struct fixture f;
	open_plain(&f);
	struct mem_region_params p = { .start = GPA(1ull << 40), .n_bytes = 1ull << 32 };
	EQ(mem_map_add(&f.mem, &p, NULL), 0);
	ring_put(&f.r, 0, (struct ring_desc){ 1ull << 40, 0xffffffff, DESC_NEXT, 1 });
	ring_put(&f.r, 1, (struct ring_desc){ RING_DATA, 1, 0, 0 });
	ring_offer(&f.r, 0);
	breaks_with(&f, QUEUE_TOO_MANY_BYTES);
}

TEST(d8_readable_buffers_come_first)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 16, DESC_NEXT | DESC_WRITE, 1 });
	ring_put(&f.r, 1, (struct ring_desc){ RING_DATA, 16, 0, 0 });
	ring_offer(&f.r, 0);
	breaks_with(&f, QUEUE_READABLE_AFTER_WRITABLE);

	open_plain(&f); /* also when the writable one is empty */
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 0, DESC_NEXT | DESC_WRITE, 1 });
	ring_put(&f.r, 1, (struct ring_desc){ RING_DATA, 16, 0, 0 });
	ring_offer(&f.r, 0);
	breaks_with(&f, QUEUE_READABLE_AFTER_WRITABLE);
}

TEST(d9_unknown_flags_are_refused)
{
	for (unsigned bit = 3; bit < 16; bit++) {
		struct fixture f;
		open_plain(&f);
		ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 16, (uint16_t)(1u << bit), 0 });
		ring_offer(&f.r, 0);
		breaks_with(&f, QUEUE_BAD_FLAGS);
	}
}

static void indirect_breaks(uint64_t features, struct ring_desc d, enum queue_fault why)
{
	struct fixture f;
	open_with(&f, features);
	ring_put_at(&f.r, RING_DATA, 0, (struct ring_desc){ RING_DATA + 0x1000, 16, 0, 0 });
	ring_put(&f.r, 0, d);
	ring_offer(&f.r, 0);
	breaks_with(&f, why);
}

TEST(d10_indirect_rules)
{
	uint64_t on = VIRTIO_F_INDIRECT_DESC;
	indirect_breaks(0, (struct ring_desc){ RING_DATA, 16, DESC_INDIRECT, 0 }, QUEUE_BAD_INDIRECT);
	indirect_breaks(on, (struct ring_desc){ RING_DATA, 16, DESC_INDIRECT | DESC_NEXT, 1 }, QUEUE_BAD_INDIRECT);
	indirect_breaks(on, (struct ring_desc){ RING_DATA, 0, DESC_INDIRECT, 0 }, QUEUE_BAD_INDIRECT);
	indirect_breaks(on, (struct ring_desc){ RING_DATA, 17, DESC_INDIRECT, 0 }, QUEUE_BAD_INDIRECT);
	indirect_breaks(on, (struct ring_desc){ RING_DATA, 16 * (SIZE + 1), DESC_INDIRECT, 0 }, QUEUE_BAD_INDIRECT);
	indirect_breaks(on, (struct ring_desc){ RING_DATA, 0xfffffff0, DESC_INDIRECT, 0 }, QUEUE_BAD_INDIRECT);
	indirect_breaks(on, (struct ring_desc){ RING_MEMORY_START - 16, 32, DESC_INDIRECT, 0 }, QUEUE_BAD_BUFFER);
}

TEST(d10_indirect_tables_do_not_nest)
{
	struct fixture f;
	open_with(&f, VIRTIO_F_INDIRECT_DESC);
	ring_put_at(&f.r, RING_DATA, 0, (struct ring_desc){ RING_DATA, 16, DESC_INDIRECT, 0 });
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 16, DESC_INDIRECT, 0 });
	ring_offer(&f.r, 0);
	breaks_with(&f, QUEUE_BAD_INDIRECT);
}

TEST(d10_next_in_a_table_is_bounded_by_the_table)
{
	struct fixture f;
	open_with(&f, VIRTIO_F_INDIRECT_DESC);
	ring_put_at(&f.r, RING_DATA, 0, (struct ring_desc){ RING_DATA + 0x1000, 16, DESC_NEXT, 2 });
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 32, DESC_INDIRECT, 0 });
	ring_offer(&f.r, 0);
	breaks_with(&f, QUEUE_BAD_NEXT);
}

TEST(d10_a_good_table_is_walked_and_its_write_flag_is_ignored)
{
	struct fixture f;
	open_with(&f, VIRTIO_F_INDIRECT_DESC);
	ring_put_at(&f.r, RING_DATA, 0, (struct ring_desc){ RING_DATA + 0x1000, 16, DESC_NEXT, 1 });
	ring_put_at(&f.r, RING_DATA, 1, (struct ring_desc){ RING_DATA + 0x2000, 8, DESC_WRITE, 0 });
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 32, DESC_INDIRECT | DESC_WRITE, 0 });
	ring_offer(&f.r, 0);
	EQ(queue_next(&f.q, &f.c), 1);
	EQ(f.c.n_out_bytes, 16);
	EQ(f.c.n_in_bytes, 8);
	done(&f);
}

TEST(d11_empty_buffers_are_skipped_and_empty_chains_refused)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 0, DESC_NEXT, 1 });
	ring_put(&f.r, 1, (struct ring_desc){ RING_DATA, 4, DESC_NEXT, 2 });
	ring_put(&f.r, 2, (struct ring_desc){ RING_DATA, 0, DESC_WRITE, 0 });
	ring_offer(&f.r, 0);
	EQ(queue_next(&f.q, &f.c), 1);
	EQ(f.c.n_out, 1);
	EQ(f.c.n_in, 0);
	ring_put(&f.r, 3, (struct ring_desc){ RING_DATA, 0, 0, 0 });
	ring_offer(&f.r, 3);
	breaks_with(&f, QUEUE_EMPTY_CHAIN);
}

/* D12, the devices' minimum sizes, is tested with each device. */

TEST(d13_used_length_is_clipped_to_the_writable_bytes)
{
	struct fixture f;
	struct ring_used u;
	open_plain(&f);
	ring_put(&f.r, 3, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	ring_offer(&f.r, 3);
	EQ(queue_next(&f.q, &f.c), 1);
	queue_put(&f.q, &f.c, 4000);
	OK(ring_take(&f.r, &u));
	EQ(u.id, 3);
	EQ(u.len, 10);
	OK(!ring_take(&f.r, &u));
	done(&f);
}

TEST(d15_the_same_buffer_twice_is_the_guests_affair)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 0, (struct ring_desc){ RING_AREA(0), 64, DESC_NEXT, 1 });
	ring_put(&f.r, 1, (struct ring_desc){ RING_AREA(0), 64, DESC_WRITE, 0 });
	ring_offer(&f.r, 0);
	EQ(queue_next(&f.q, &f.c), 1);
	uint8_t junk[64];
	memset(junk, 0xee, sizeof junk);
	EQ(chain_write(&f.c, 0, junk, sizeof junk), 64);
	queue_put(&f.q, &f.c, 64);
	done(&f);
}

TEST(d16_a_head_in_flight_cannot_be_offered_again)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 2, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	ring_offer(&f.r, 2);
	ring_offer(&f.r, 2);
	EQ(queue_next(&f.q, &f.c), 1);
	breaks_with(&f, QUEUE_HEAD_IN_FLIGHT);
}

TEST(d16_a_head_may_come_back_after_it_was_given_back)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 2, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	for (int i = 0; i < 70000; i++) { /* past the wrap of all indices */
		queue_begin(&f.q);
		ring_offer(&f.r, 2);
		EQ(queue_next(&f.q, &f.c), 1);
		queue_put(&f.q, &f.c, 0);
	}
	EQ(ring_used_idx(&f.r), (uint16_t)70000);
	done(&f);
}

TEST(d17_a_run_takes_at_most_a_queue_of_chains)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	int n = 0;
	for (; n < 3 * SIZE; n++) {
		ring_offer(&f.r, 0); /* a driver that offers as fast as we serve */
		if (queue_next(&f.q, &f.c) != 1)
			break;
		queue_put(&f.q, &f.c, 0);
	}
	EQ(n, SIZE);
	OK(queue_end(&f.q)); /* there is more: come again */
	queue_begin(&f.q);
	EQ(queue_next(&f.q, &f.c), 1);
	done(&f);
}

TEST(undo_puts_the_chain_back)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 4, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	ring_offer(&f.r, 4);
	EQ(queue_next(&f.q, &f.c), 1);
	queue_undo(&f.q, &f.c);
	EQ(f.q.n_in_flight, 0);
	queue_begin(&f.q);
	EQ(queue_next(&f.q, &f.c), 1);
	EQ(f.c.head, 4);
	done(&f);
}

static void set_le16(struct mem_map *m, uint64_t at, uint16_t v)
{
	struct span s;
	OK(mem_span(m, GPA(at), 2, &s));
	span_store_le16(s, 0, v);
}

static uint16_t read_le16(struct mem_map *m, uint64_t at)
{
	struct span s;
	OK(mem_span(m, GPA(at), 2, &s));
	return span_load_le16(s, 0);
}

static void serve_one(struct fixture *f, uint16_t head)
{
	queue_begin(&f->q);
	ring_offer(&f->r, head);
	EQ(queue_next(&f->q, &f->c), 1);
	queue_put(&f->q, &f->c, 0);
}

TEST(signals_follow_the_flags_without_event_index)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	OK(!queue_wants_signal(&f.q));
	serve_one(&f, 0);
	OK(queue_wants_signal(&f.q));
	OK(!queue_wants_signal(&f.q)); /* nothing new */
	set_le16(&f.mem, f.r.avail, 1); /* VIRTQ_AVAIL_F_NO_INTERRUPT */
	serve_one(&f, 0);
	OK(!queue_wants_signal(&f.q));
	done(&f);
}

TEST(signals_follow_the_used_event)
{
	struct fixture f;
	open_with(&f, VIRTIO_F_EVENT_IDX);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	uint64_t used_event = f.r.avail + 4 + 2 * SIZE;
	set_le16(&f.mem, used_event, 0);
	serve_one(&f, 0);
	OK(queue_wants_signal(&f.q));
	set_le16(&f.mem, used_event, 3); /* tell me when entry 3 was used */
	serve_one(&f, 0);
	OK(!queue_wants_signal(&f.q));
	serve_one(&f, 0);
	OK(!queue_wants_signal(&f.q));
	serve_one(&f, 0);
	OK(queue_wants_signal(&f.q));
	serve_one(&f, 0);
	OK(!queue_wants_signal(&f.q));
	done(&f);
}

TEST(a_batch_over_the_used_event_signals_once)
{
	struct fixture f;
	open_with(&f, VIRTIO_F_EVENT_IDX);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	serve_one(&f, 0);
	OK(queue_wants_signal(&f.q));
	set_le16(&f.mem, f.r.avail + 4 + 2 * SIZE, 2);
	for (int i = 0; i < 4; i++)
		serve_one(&f, 0);
	OK(queue_wants_signal(&f.q));
	OK(!queue_wants_signal(&f.q));
	done(&f);
}

TEST(end_asks_for_a_kick_and_looks_again)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	queue_quiet(&f.q);
	EQ(read_le16(&f.mem, f.r.used), 1); /* VIRTQ_USED_F_NO_NOTIFY */
	OK(!queue_end(&f.q));
	EQ(read_le16(&f.mem, f.r.used), 0);
	ring_offer(&f.r, 0);
	OK(queue_end(&f.q));
	done(&f);
}

TEST(end_publishes_the_available_event)
{
	struct fixture f;
	open_with(&f, VIRTIO_F_EVENT_IDX);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	serve_one(&f, 0);
	serve_one(&f, 0);
	OK(!queue_end(&f.q));
	EQ(read_le16(&f.mem, f.r.used + 4 + 8 * SIZE), 2);
	done(&f);
}

TEST(a_held_queue_neither_asks_nor_comes_again)
{
	struct fixture f;
	open_with(&f, VIRTIO_F_EVENT_IDX);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 10, DESC_WRITE, 0 });
	ring_offer(&f.r, 0);
	queue_hold(&f.q);
	OK(!queue_end(&f.q));
	queue_begin(&f.q);
	OK(queue_end(&f.q));
	done(&f);
}

/* What a device brings may go again: rings and tables would dangle. Data of a request is given back before that. */
TEST(memory_of_devices_holds_data_only)
{
	struct fixture f;
	struct err e = { 0 };
	size_t index;
	const uint64_t at = 1ull << 32;
	open_with(&f, VIRTIO_F_INDIRECT_DESC);
	int fd = memfd_create("device", MFD_CLOEXEC);
	OK(fd >= 0 && ftruncate(fd, 0x10000) == 0);
	struct mem_device_params p = { .start = GPA(at), .n_bytes = 0x10000, .fd = fd };
	EQ(mem_map_add_device(&f.mem, &p, &index, NULL), 0);
	ring_put(&f.r, 0, (struct ring_desc){ at + 0x1000, 10, DESC_WRITE, 0 });
	ring_offer(&f.r, 0);
	EQ(queue_next(&f.q, &f.c), 1);
	EQ(chain_write(&f.c, 0, "0123456789", 10), 10);
	queue_put(&f.q, &f.c, 10);
	char bytes[10];
	EQ(pread(fd, bytes, 10, 0x1000), 10);
	MEM_EQ(bytes, "0123456789", 10);
	EQ(f.c.may_fault, true);

	/* Cut off by somebody, from the page on in which the buffer is. */
	EQ(ftruncate(fd, 0x1000), 0);
	ring_put(&f.r, 2, (struct ring_desc){ at + 0xff8, 16, DESC_NEXT, 3 });
	ring_put(&f.r, 3, (struct ring_desc){ at + 0x2000, 8, DESC_WRITE, 0 });
	EQ(pwrite(fd, "ABCDEFGH", 8, 0xff8), 8);
	ring_offer(&f.r, 2);
	EQ(queue_next(&f.q, &f.c), 1);
	char cut[16];
	EQ(chain_read(&f.c, 0, cut, sizeof cut), 0); /* whole buffers count */
	EQ(chain_read(&f.c, 0, cut, 8), 8);
	MEM_EQ(cut, "ABCDEFGH", 8);
	EQ(chain_write(&f.c, 0, "lost", 4), 4);
	queue_put(&f.q, &f.c, 4);

	/* The next one is in RAM alone. */
	ring_put(&f.r, 4, (struct ring_desc){ RING_DATA, 4, DESC_WRITE, 0 });
	ring_offer(&f.r, 4);
	EQ(queue_next(&f.q, &f.c), 1);
	EQ(f.c.may_fault, false);
	queue_put(&f.q, &f.c, 0);

	ring_put(&f.r, 1, (struct ring_desc){ at, 16, DESC_INDIRECT, 0 });
	ring_offer(&f.r, 1);
	breaks_with(&f, QUEUE_BAD_BUFFER);
	queue_stop(&f.q);
	for (int which = 0; which < 3; which++) {
		f.q.config = ring_config(&f.r);
		*(which == 0 ? &f.q.config.desc : which == 1 ? &f.q.config.avail : &f.q.config.used) = at;
		EQ(queue_start(&f.q, &f.mem, 0, &e), -EINVAL);
		EQ(f.q.fault, QUEUE_BAD_ADDRESS);
	}
	(void)close(fd);
	done(&f);
}

TEST(put_marks_the_written_pages_dirty)
{
	struct fixture f;
	open_plain(&f);
	EQ(mem_dirty_start(&f.mem, NULL), 0);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA + 4000, 8192, DESC_WRITE, 0 });
	ring_offer(&f.r, 0);
	uint64_t bits[RING_MEMORY_BYTES / 4096 / 64];
	mem_dirty_collect(&f.mem.regions[0], bits);
	EQ(queue_next(&f.q, &f.c), 1);
	queue_put(&f.q, &f.c, 200); /* 96 bytes in one page, 104 in the next */
	mem_dirty_collect(&f.mem.regions[0], bits);
	uint64_t page = (RING_DATA - RING_MEMORY_START) / 4096, used = (f.r.used - RING_MEMORY_START) / 4096;
	for (uint64_t i = 0; i < RING_MEMORY_BYTES / 4096; i++)
		EQ((bits[i / 64] >> (i % 64)) & 1, i == page || i == page + 1 || i == used);
	mem_dirty_stop(&f.mem);
	done(&f);
}

TEST(chains_are_read_and_written_at_any_offset)
{
	struct fixture f;
	open_plain(&f);
	ring_put(&f.r, 0, (struct ring_desc){ RING_DATA, 3, DESC_NEXT, 1 });
	ring_put(&f.r, 1, (struct ring_desc){ RING_DATA + 0x100, 5, DESC_NEXT, 2 });
	ring_put(&f.r, 2, (struct ring_desc){ RING_DATA + 0x200, 2, DESC_NEXT | DESC_WRITE, 3 });
	ring_put(&f.r, 3, (struct ring_desc){ RING_DATA + 0x300, 4, DESC_WRITE, 0 });
	OK(mem_write(&f.mem, GPA(RING_DATA), "abc", 3));
	OK(mem_write(&f.mem, GPA(RING_DATA + 0x100), "defgh", 5));
	ring_offer(&f.r, 0);
	EQ(queue_next(&f.q, &f.c), 1);

	char b[16] = { 0 };
	EQ(chain_read(&f.c, 2, b, 4), 4);
	STR_EQ(b, "cdef");
	EQ(chain_read(&f.c, 6, b, 16), 2);
	EQ(chain_read(&f.c, 8, b, 1), 0);
	EQ(chain_write(&f.c, 1, "XYZ", 3), 3);
	EQ(chain_write(&f.c, 5, "!!", 2), 1);
	OK(mem_read(&f.mem, GPA(RING_DATA + 0x200), b, 2));
	EQ(b[1], 'X');
	OK(mem_read(&f.mem, GPA(RING_DATA + 0x300), b, 4));
	MEM_EQ(b, "YZ\0!", 4);

	struct iovec iov[2];
	EQ(chain_slice(&f.c, false, 1, 4, iov, 2), 2);
	EQ(iov[0].iov_len, 2);
	EQ(iov[1].iov_len, 2);
	EQ(chain_slice(&f.c, false, 1, 4, iov, 1), -ENOSPC);
	done(&f);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The persistent memory device: what it says of itself, flushes that succeed, fail and wait, requests that are none.
 * virtio 1.2, 5.19. The image's host operations go by a seam, which counts them, fails them and holds them back. */
#include "backend/block_impl.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "device/virtio_pmem.h"
#include "ring.h"
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_BYTES (4ull << 20)
#define START 0x140000000ull
#define REQUEST RING_DATA
#define RESPONSE(i) (RING_DATA + 64 + 16ull * (i))
#define FAILURE 0xffffffffu
#define UNTOUCHED 0x5a5a5a5au

struct host {
	_Atomic int n_syncs, n_others, error;
	_Atomic bool is_held;
};

struct bench {
	struct rig g;
	struct block_image *image;
	struct block_seam seam;
	struct host host;
};

static long execute(void *context, const struct block_step *s)
{
	struct host *h = context;
	if (s->op != BLOCK_STEP_SYNC) {
		h->n_others++;
		return -EIO;
	}
	h->n_syncs++;
	while (h->is_held)
		(void)poll(NULL, 0, 1);
	return h->error;
}

static void bench_open(struct bench *b, bool is_readonly, uint16_t queue_size)
{
	char path[40];
	struct err e = { 0 };
	int fd = memfd_create("pmem", MFD_CLOEXEC);
	OK(fd >= 0 && ftruncate(fd, N_BYTES) == 0);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	memset(b, 0, sizeof *b);
	struct block_params bp = { .path = path, .is_readonly = is_readonly, .image_type = BLOCK_TYPE_RAW };
	if (block_open(&bp, &b->image, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	(void)close(fd);
	b->seam = (struct block_seam){ .execute = execute, .context = &b->host };
	b->image->seam = &b->seam;
	struct virtio_pmem_params p = { .image = b->image, .start = GPA(START), .n_bytes = N_BYTES };
	rig_open(&b->g, &virtio_pmem, &p, queue_size);
}

static void bench_close(struct bench *b)
{
	rig_close(&b->g);
	EQ(b->host.n_others, 0);
	block_close(b->image);
}

/* In descriptors 2i and 2i + 1. The device may look as soon as they are offered. */
static void put(struct bench *b, uint16_t i, uint32_t type)
{
	struct ring *r = &b->g.rings[0];
	uint8_t bytes[4];
	put_le32(bytes, type);
	OK(mem_write(&b->g.mem, GPA(REQUEST), bytes, 4));
	put_le32(bytes, UNTOUCHED);
	OK(mem_write(&b->g.mem, GPA(RESPONSE(i)), bytes, 4));
	ring_put(r, (uint16_t)(2 * i), (struct ring_desc){ REQUEST, 4, DESC_NEXT, (uint16_t)(2 * i + 1) });
	ring_put(r, (uint16_t)(2 * i + 1), (struct ring_desc){ RESPONSE(i), 4, DESC_WRITE, 0 });
}

static void offer(struct bench *b, uint16_t i, uint32_t type)
{
	put(b, i, type);
	ring_offer(&b->g.rings[0], (uint16_t)(2 * i));
}

static uint32_t response(struct bench *b, uint16_t i)
{
	uint8_t bytes[4];
	OK(mem_read(&b->g.mem, GPA(RESPONSE(i)), bytes, 4));
	return get_le32(bytes);
}

static uint32_t take_length(struct bench *b)
{
	struct ring_used u;
	OK(ring_take(&b->g.rings[0], &u));
	return u.len;
}

static uint32_t flush(struct bench *b)
{
	offer(b, 0, 0);
	rig_kick(&b->g, 0);
	OK(rig_wait_used(&b->g, 0, 1));
	EQ(take_length(b), 4);
	return response(b, 0);
}

TEST(the_driver_is_told_where_it_is)
{
	struct bench b;
	uint8_t space[16];
	bench_open(&b, false, 64);
	EQ(b.g.v->cls->virtio_id, 27);
	EQ(b.g.v->n_queues, 1);
	EQ(virtio_features(b.g.v, 0) & 0xffffff, 0); /* no shared memory region */
	virtio_space_read(b.g.v, 0, space, 16);
	EQ(get_le64(space), START);
	EQ(get_le64(space + 8), N_BYTES);
	memset(space, 0, sizeof space);
	virtio_space_write(b.g.v, 0, space, 8); /* not the driver's to say */
	virtio_space_read(b.g.v, 0, space, 8);
	EQ(get_le64(space), START);
	bench_close(&b);
}

TEST(a_flush_syncs_the_file)
{
	struct bench b;
	bench_open(&b, false, 64);
	rig_start(&b.g, VIRTIO_F_EVENT_IDX);
	for (int n = 1; n <= 3; n++) {
		EQ(flush(&b), 0);
		EQ(b.host.n_syncs, n);
	}
	OK(b.g.n_queue_signals[0] > 0);
	bench_close(&b);
}

/* The answer waits for the host, and others need not wait for the answer. */
TEST(many_flushes_are_in_flight)
{
	struct bench b;
	bench_open(&b, false, 64);
	rig_start(&b.g, 0);
	b.host.is_held = true;
	offer(&b, 0, 0);
	rig_kick(&b.g, 0);
	while (b.host.n_syncs < 1)
		(void)poll(NULL, 0, 1);
	for (uint16_t i = 1; i < 32; i++)
		offer(&b, i, 0);
	rig_kick(&b.g, 0);
	EQ(ring_used_idx(&b.g.rings[0]), 0);
	EQ(response(&b, 0), UNTOUCHED);
	b.host.is_held = false;
	OK(rig_wait_used(&b.g, 0, 32));
	for (uint16_t i = 0; i < 32; i++)
		EQ(response(&b, i), 0);
	/* One sync may be the answer to several, but not to one that came while it was under way. */
	OK(b.host.n_syncs >= 2 && b.host.n_syncs <= 32);
	bench_close(&b);
}

static void *release_later(void *arg)
{
	struct bench *b = arg;
	while (b->host.n_syncs == 0)
		(void)poll(NULL, 0, 1);
	(void)poll(NULL, 0, 20);
	b->host.is_held = false;
	return NULL;
}

TEST(a_reset_waits_for_what_is_in_flight)
{
	struct bench b;
	pthread_t thread;
	bench_open(&b, false, 64);
	for (int n = 0; n < 3; n++) {
		ring_init(&b.g.rings[0], &b.g.mem, 0, 64);
		uint8_t zeroes[8] = { 0 };
		OK(mem_write(&b.g.mem, GPA(b.g.rings[0].avail), zeroes, 4));
		OK(mem_write(&b.g.mem, GPA(b.g.rings[0].used), zeroes, 4));
		rig_start(&b.g, 0);
		b.host.n_syncs = 0;
		b.host.is_held = true;
		EQ(pthread_create(&thread, NULL, release_later, &b), 0);
		for (uint16_t i = 0; i < 8; i++)
			offer(&b, i, 0);
		rig_kick(&b.g, 0);
		while (b.host.n_syncs == 0)
			(void)poll(NULL, 0, 1);
		virtio_device_reset(b.g.v);
		OK(!b.host.is_held);
		for (uint16_t i = 0; i < 8; i++)
			OK(response(&b, i) == 0 || response(&b, i) == UNTOUCHED);
		EQ(pthread_join(thread, NULL), 0);
	}
	bench_close(&b);
}

/* Once the kernel has lost data, no later flush may say that all is well. */
TEST(a_host_that_fails_is_told)
{
	struct bench b;
	bench_open(&b, false, 64);
	rig_start(&b.g, 0);
	b.host.error = -EIO;
	EQ(flush(&b), FAILURE);
	b.host.error = 0;
	EQ(flush(&b), FAILURE);
	EQ(virtio_status(b.g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);
	bench_close(&b);
}

TEST(where_writes_are_discarded_there_is_nothing_to_flush)
{
	struct bench b;
	bench_open(&b, true, 64);
	rig_start(&b.g, 0);
	EQ(flush(&b), 0);
	EQ(b.host.n_syncs, 0);
	bench_close(&b);
}

TEST(what_is_no_request_fails)
{
	struct bench b;
	struct ring *r = &b.g.rings[0];
	bench_open(&b, false, 64);
	rig_start(&b.g, 0);
	static const uint32_t types[] = { 1, UINT32_MAX };
	for (uint16_t i = 0; i < 2; i++) {
		offer(&b, i, types[i]);
		rig_kick(&b.g, 0);
		OK(rig_wait_used(&b.g, 0, 1));
		EQ(take_length(&b), 4);
		EQ(response(&b, i), FAILURE);
	}

	put(&b, 2, 0);
	ring_put(r, 4, (struct ring_desc){ REQUEST, 3, DESC_NEXT, 5 });
	ring_offer(r, 4);
	rig_kick(&b.g, 0);
	OK(rig_wait_used(&b.g, 0, 1));
	EQ(take_length(&b), 4);
	EQ(response(&b, 2), FAILURE);
	EQ(b.host.n_syncs, 0);

	ring_put(r, 6, (struct ring_desc){ RESPONSE(3), 64, DESC_WRITE, 0 }); /* nothing asked */
	ring_offer(r, 6);
	rig_kick(&b.g, 0);
	OK(rig_wait_used(&b.g, 0, 1));
	EQ(take_length(&b), 4);
	EQ(response(&b, 3), FAILURE);
	EQ(flush(&b), 0);
	bench_close(&b);
}

/* 2.7.4.2: a device may not rely on how a message is cut into buffers. */
TEST(an_answer_may_be_in_pieces)
{
	struct bench b;
	struct ring *r = &b.g.rings[0];
	bench_open(&b, false, 64);
	rig_start(&b.g, 0);
	put(&b, 0, 0);
	ring_put(r, 0, (struct ring_desc){ REQUEST, 1, DESC_NEXT, 1 });
	ring_put(r, 1, (struct ring_desc){ REQUEST + 1, 3, DESC_NEXT, 2 });
	for (uint16_t i = 0; i < 4; i++)
		ring_put(r, (uint16_t)(2 + i), (struct ring_desc){ RESPONSE(0) + i, 1, DESC_WRITE | DESC_NEXT, (uint16_t)(3 + i) });
	ring_put(r, 6, (struct ring_desc){ RESPONSE(1), 4096, DESC_WRITE, 0 });
	ring_offer(r, 0);
	rig_kick(&b.g, 0);
	OK(rig_wait_used(&b.g, 0, 1));
	EQ(take_length(&b), 4);
	EQ(response(&b, 0), 0);
	EQ(b.host.n_syncs, 1);
	bench_close(&b);
}

/* A guest may ask for the answer in memory of another device, whose file somebody cuts off. */
TEST(an_answer_may_go_where_no_memory_is_left)
{
	struct bench b;
	struct ring *r = &b.g.rings[0];
	size_t index;
	const uint64_t at = 1ull << 32;
	bench_open(&b, false, 64);
	int fd = memfd_create("other", MFD_CLOEXEC);
	OK(fd >= 0 && ftruncate(fd, 0x10000) == 0);
	struct mem_device_params p = { .start = GPA(at), .n_bytes = 0x10000, .fd = fd };
	EQ(mem_map_add_device(&b.g.mem, &p, &index, NULL), 0);
	rig_start(&b.g, 0);
	for (int is_cut_off = 0; is_cut_off < 2; is_cut_off++) {
		EQ(ftruncate(fd, is_cut_off ? 0 : 0x10000), 0);
		put(&b, 0, 0);
		ring_put(r, 1, (struct ring_desc){ at + 0x1000, 4, DESC_WRITE, 0 });
		ring_offer(r, 0);
		rig_kick(&b.g, 0);
		OK(rig_wait_used(&b.g, 0, 1));
		EQ(take_length(&b), 4);
		EQ(b.host.n_syncs, is_cut_off + 1);
	}
	EQ(flush(&b), 0);
	bench_close(&b);
	(void)close(fd);
}

TEST(a_chain_without_room_for_an_answer_breaks_the_ring)
{
	for (uint32_t n = 0; n < 4; n++) {
		struct bench b;
		bench_open(&b, false, 64);
		rig_start(&b.g, 0);
		put(&b, 0, 0);
		ring_put(&b.g.rings[0], 1, (struct ring_desc){ RESPONSE(0), n, DESC_WRITE, 0 });
		ring_offer(&b.g.rings[0], 0);
		rig_kick(&b.g, 0);
		uint64_t end = clock_now_ns() + 5 * NS_PER_S;
		while (!(virtio_status(b.g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET) && clock_now_ns() < end)
			(void)poll(NULL, 0, 1);
		OK(virtio_status(b.g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
		EQ(b.host.n_syncs, 0);
		bench_close(&b);
	}
}

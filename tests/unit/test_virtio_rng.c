/* SPDX-License-Identifier: Apache-2.0 */
/* The entropy device: bytes, bounds, and sources that are empty, short, odd or missing. virtio 1.2, 5.4. */
#include "base/clock.h"
#include "device/virtio_rng.h"
#include "ring.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void open_rng(struct rig *g, const char *source)
{
	struct virtio_rng_params p = { .source = source };
	rig_open(g, &virtio_rng, &p, 64);
	rig_start(g, VIRTIO_F_EVENT_IDX);
}

static void offer(struct rig *g, uint16_t head, uint64_t address, uint32_t n_bytes)
{
	ring_put(&g->rings[0], head, (struct ring_desc){ address, n_bytes, DESC_WRITE, 0 });
	ring_offer(&g->rings[0], head);
	rig_kick(g, 0);
}

static uint32_t take(struct rig *g)
{
	struct ring_used u;
	OK(ring_take(&g->rings[0], &u));
	return u.len;
}

TEST(the_kernel_fills_whole_requests)
{
	struct rig g;
	uint8_t a[256], b[256], zero[256] = { 0 };
	open_rng(&g, NULL);
	offer(&g, 0, RING_DATA, 256);
	offer(&g, 1, RING_DATA + 4096, 256);
	OK(rig_wait_used(&g, 0, 2));
	EQ(take(&g), 256);
	EQ(take(&g), 256);
	OK(mem_read(&g.mem, GPA(RING_DATA), a, 256) && mem_read(&g.mem, GPA(RING_DATA + 4096), b, 256));
	OK(memcmp(a, zero, 256) != 0);
	OK(memcmp(a, b, 256) != 0);
	EQ(virtio_features(g.v, 0) & 0xffffff, 0);
	rig_close(&g);
}

/* The ledger's rule: a chain that lists the same bytes many times costs no more than any other. */
TEST(a_request_gets_at_most_64_kib)
{
	struct rig g;
	open_rng(&g, "/dev/urandom");
	for (uint16_t i = 0; i < 60; i++)
		ring_put(&g.rings[0], i, (struct ring_desc){
			RING_DATA, 1 << 20, i < 59 ? DESC_WRITE | DESC_NEXT : DESC_WRITE, (uint16_t)(i + 1) });
	ring_offer(&g.rings[0], 0);
	rig_kick(&g, 0);
	OK(rig_wait_used(&g, 0, 1));
	EQ(take(&g), VIRTIO_RNG_MAX_BYTES);
	rig_close(&g);
}

TEST(many_requests_are_served_over_several_runs)
{
	struct rig g;
	open_rng(&g, NULL);
	for (uint16_t i = 0; i < 64; i++) {
		ring_put(&g.rings[0], i, (struct ring_desc){ RING_DATA, 60000, DESC_WRITE, 0 });
		ring_offer(&g.rings[0], i);
	}
	rig_kick(&g, 0);
	(void)loop_run_once(g.loop, 10);
	(void)loop_run_once(g.loop, 10);
	OK(ring_used_idx(&g.rings[0]) < 64); /* D17 */
	OK(rig_wait_used(&g, 0, 64));
	rig_close(&g);
}

TEST(a_chain_without_room_goes_back_empty)
{
	struct rig g;
	open_rng(&g, NULL);
	ring_put(&g.rings[0], 0, (struct ring_desc){ RING_DATA, 64, 0, 0 });
	ring_offer(&g.rings[0], 0);
	offer(&g, 1, RING_DATA, 1);
	OK(rig_wait_used(&g, 0, 2));
	EQ(take(&g), 0);
	EQ(take(&g), 1);
	rig_close(&g);
}

TEST(readable_buffers_before_writable_ones_are_skipped)
{
	struct rig g;
	uint8_t b[8];
	open_rng(&g, NULL);
	OK(mem_write(&g.mem, GPA(RING_DATA), "readonly", 8));
	ring_put(&g.rings[0], 0, (struct ring_desc){ RING_DATA, 8, DESC_NEXT, 1 });
	ring_put(&g.rings[0], 1, (struct ring_desc){ RING_DATA + 64, 8, DESC_WRITE, 0 });
	ring_offer(&g.rings[0], 0);
	rig_kick(&g, 0);
	OK(rig_wait_used(&g, 0, 1));
	EQ(take(&g), 8);
	OK(mem_read(&g.mem, GPA(RING_DATA), b, 8));
	MEM_EQ(b, "readonly", 8);
	rig_close(&g);
}

TEST(a_source_that_cannot_be_opened_is_named)
{
	struct rig g = { 0 };
	struct virtio_device *v;
	struct err e = { 0 };
	ring_memory_new(&g.mem, false);
	EQ(loop_new(&g.loop, NULL), 0);
	struct virtio_params p = { .id = "__rng", .mem = &g.mem, .io_loop = g.loop };
	struct virtio_rng_params r = { .source = "/nowhere/entropy" };
	EQ(virtio_device_new(&virtio_rng, &p, &r, &v, &e), -ENOENT);
	STR_HAS(e.text, "/nowhere/entropy");
	r.source = "/tmp";
	EQ(virtio_device_new(&virtio_rng, &p, &r, &v, &e), -EISDIR);
	STR_HAS(e.text, "/tmp");
	loop_free(g.loop);
	mem_map_done(&g.mem);
}

TEST(a_file_is_read_in_order_and_its_end_is_waited_out)
{
	struct rig g;
	char path[] = "/tmp/varan-rng-XXXXXX";
	uint8_t b[16];
	int fd = mkostemp(path, O_CLOEXEC);
	EQ(write(fd, "0123456789", 10), 10);
	open_rng(&g, path);
	offer(&g, 0, RING_DATA, 4);
	offer(&g, 1, RING_DATA + 4, 16);
	offer(&g, 2, RING_DATA + 32, 4);
	OK(rig_wait_used(&g, 0, 2));
	EQ(take(&g), 4);
	EQ(take(&g), 6); /* short, and given at once */
	OK(mem_read(&g.mem, GPA(RING_DATA), b, 10));
	MEM_EQ(b, "0123456789", 10);

	/* At the end requests wait, without spinning, until the file has grown. */
	rig_turn(&g);
	uint64_t before = clock_now_ns();
	(void)loop_run_once(g.loop, 30);
	OK(clock_now_ns() - before >= 20 * NS_PER_MS);
	EQ(write(fd, "more", 4), 4);
	OK(rig_wait_used(&g, 0, 1));
	EQ(take(&g), 4);
	OK(mem_read(&g.mem, GPA(RING_DATA + 32), b, 4));
	MEM_EQ(b, "more", 4);
	rig_close(&g);
	(void)close(fd);
	(void)unlink(path);
}

TEST(a_fifo_neither_blocks_nor_spins)
{
	struct rig g;
	char path[64];
	(void)snprintf(path, sizeof path, "/tmp/varan-rng-fifo-%d", (int)getpid());
	EQ(mkfifo(path, 0600), 0);
	open_rng(&g, path);
	offer(&g, 0, RING_DATA, 8);
	rig_turn(&g);
	uint64_t before = clock_now_ns();
	(void)loop_run_once(g.loop, 30);
	OK(clock_now_ns() - before >= 20 * NS_PER_MS); /* no writer: the timer paces it */

	int fd = open(path, O_WRONLY | O_CLOEXEC);
	EQ(write(fd, "entropy!", 8), 8);
	OK(rig_wait_used(&g, 0, 1));
	EQ(take(&g), 8);

	/* A writer with nothing to say: readiness brings us back. */
	offer(&g, 1, RING_DATA, 8);
	rig_turn(&g);
	EQ(ring_used_idx(&g.rings[0]), 1);
	before = clock_now_ns();
	EQ(write(fd, "ab", 2), 2);
	OK(rig_wait_used(&g, 0, 1));
	OK(clock_now_ns() - before < 400 * NS_PER_MS);
	EQ(take(&g), 2);
	/* It leaves while a request waits, and another comes. */
	offer(&g, 2, RING_DATA, 8);
	rig_turn(&g);
	(void)close(fd);
	rig_turn(&g);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	EQ(write(fd, "cd", 2), 2);
	OK(rig_wait_used(&g, 0, 1));
	/* A reset while a request waits. */
	offer(&g, 3, RING_DATA, 8);
	rig_turn(&g);
	virtio_set_status(g.v, 0);
	rig_turn(&g);
	rig_close(&g);
	(void)close(fd);
	(void)unlink(path);
}

TEST(a_broken_ring_asks_for_a_reset)
{
	struct rig g;
	open_rng(&g, NULL);
	ring_set_avail_idx(&g.rings[0], 1000);
	rig_kick(&g, 0);
	rig_turn(&g);
	OK(virtio_status(g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
	rig_close(&g);
}

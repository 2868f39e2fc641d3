/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio console against a pty, whose loop is not the device's. virtio 1.2, 5.3. */
#include "backend/char.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "device/virtio_console.h"
#include "ring.h"
#include "test.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

enum { RX, TX };
#define F_SIZE 1ull
#define F_EMERG_WRITE 4ull

struct bench {
	struct rig g;
	struct loop *char_loop;
	struct char_backend *b;
	int peer;
};

static void bench_open_mode(struct bench *t, enum char_mode mode)
{
	memset(t, 0, sizeof *t);
	EQ(loop_new(&t->char_loop, NULL), 0);
	struct char_params c = { .mode = mode };
	EQ(char_open(&c, t->char_loop, &t->b, NULL), 0);
	t->peer = mode == CHAR_PTY ? open(char_path(t->b), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK) : -1;
	struct virtio_console_params p = { .backend = t->b };
	rig_open(&t->g, &virtio_console, &p, 16);
}

static void bench_open(struct bench *t)
{
	bench_open_mode(t, CHAR_PTY);
}

static void bench_close(struct bench *t)
{
	rig_close(&t->g);
	char_close(t->b);
	loop_free(t->char_loop);
	if (t->peer >= 0)
		(void)close(t->peer);
}

static void turn(struct bench *t)
{
	for (int i = 0; i < 8; i++) {
		(void)loop_run_once(t->char_loop, i < 2);
		rig_turn(&t->g);
	}
}

static void wait_used(struct bench *t, unsigned queue, unsigned n)
{
	uint64_t end = clock_now_ns() + 5 * NS_PER_S;
	struct ring *r = &t->g.rings[queue];
	while ((uint16_t)(ring_used_idx(r) - r->n_seen) < n && clock_now_ns() < end)
		turn(t);
	OK((uint16_t)(ring_used_idx(r) - r->n_seen) >= n);
}

static void wait_peer(struct bench *t, char *ret_bytes, size_t n)
{
	uint64_t end = clock_now_ns() + 5 * NS_PER_S;
	size_t at = 0;
	while (at < n && clock_now_ns() < end) {
		ssize_t got = read(t->peer, ret_bytes + at, n - at);
		if (got > 0)
			at += (size_t)got;
		else
			turn(t);
	}
	EQ(at, n);
}

static void offer_rx(struct bench *t, uint16_t head, uint32_t n_bytes)
{
	ring_put(&t->g.rings[RX], head, (struct ring_desc){ RING_DATA + 0x1000ull * head, n_bytes, DESC_WRITE, 0 });
	ring_offer(&t->g.rings[RX], head);
	rig_kick(&t->g, RX);
}

static void offer_tx(struct bench *t, uint16_t head, const char *s)
{
	uint64_t at = RING_DATA + 0x80000 + 0x1000ull * head;
	OK(mem_write(&t->g.mem, GPA(at), s, strlen(s)));
	ring_put(&t->g.rings[TX], head, (struct ring_desc){ at, (uint32_t)strlen(s), 0, 0 });
	ring_offer(&t->g.rings[TX], head);
	rig_kick(&t->g, TX);
}

static void expect_rx(struct bench *t, uint16_t head, const char *s)
{
	struct ring_used u;
	char got[64];
	OK(ring_take(&t->g.rings[RX], &u));
	EQ(u.id, head);
	EQ(u.len, strlen(s));
	OK(mem_read(&t->g.mem, GPA(RING_DATA + 0x1000ull * head), got, strlen(s)));
	MEM_EQ(got, s, strlen(s));
}

TEST(output_reaches_the_host_and_the_buffer_comes_back)
{
	struct bench t;
	struct ring_used u;
	char got[32];
	bench_open(&t);
	rig_start(&t.g, F_SIZE | VIRTIO_F_EVENT_IDX);
	offer_tx(&t, 3, "hello");
	offer_tx(&t, 4, " guest\r\n");
	wait_used(&t, TX, 2);
	OK(ring_take(&t.g.rings[TX], &u));
	EQ(u.id, 3);
	EQ(u.len, 0);
	wait_peer(&t, got, 13);
	MEM_EQ(got, "hello guest\r\n", 13);
	OK(t.g.n_queue_signals[TX] >= 1);
	bench_close(&t);
}

TEST(output_without_a_newline_does_not_wait)
{
	struct bench t;
	char got[8];
	bench_open(&t);
	rig_start(&t.g, 0);
	offer_tx(&t, 0, "$ ");
	wait_used(&t, TX, 1);
	struct pollfd p = { .fd = t.peer, .events = POLLIN };
	EQ(poll(&p, 1, 100), 1); /* no turn of the character loop was needed */
	EQ(read(t.peer, got, sizeof got), 2);
	bench_close(&t);
}

TEST(a_chain_of_many_pieces_is_written_in_order)
{
	struct bench t;
	char got[8];
	bench_open(&t);
	rig_start(&t.g, 0);
	OK(mem_write(&t.g.mem, GPA(RING_DATA), "abcdef\n", 7));
	ring_put(&t.g.rings[TX], 0, (struct ring_desc){ RING_DATA, 2, DESC_NEXT, 1 });
	ring_put(&t.g.rings[TX], 1, (struct ring_desc){ RING_DATA, 0, DESC_NEXT, 2 });
	ring_put(&t.g.rings[TX], 2, (struct ring_desc){ RING_DATA + 2, 1, DESC_NEXT, 3 });
	ring_put(&t.g.rings[TX], 3, (struct ring_desc){ RING_DATA + 3, 4, DESC_NEXT, 4 });
	ring_put(&t.g.rings[TX], 4, (struct ring_desc){ RING_DATA, 100, DESC_WRITE, 0 }); /* not for us: left alone */
	ring_offer(&t.g.rings[TX], 0);
	rig_kick(&t.g, TX);
	wait_used(&t, TX, 1);
	wait_peer(&t, got, 7);
	MEM_EQ(got, "abcdef\n", 7);
	bench_close(&t);
}

/* D17 and perf: a chain that describes far more than memory holds. */
TEST(a_huge_chain_is_written_in_bounded_runs)
{
	struct bench t;
	bench_open(&t);
	rig_start(&t.g, 0);
	for (uint16_t i = 0; i < 15; i++)
		ring_put(&t.g.rings[TX], i, (struct ring_desc){ RING_DATA, 2 << 20, i < 14 ? DESC_NEXT : 0, (uint16_t)(i + 1) });
	ring_offer(&t.g.rings[TX], 0);
	rig_kick(&t.g, TX);
	(void)loop_run_once(t.g.loop, 10);
	(void)loop_run_once(t.g.loop, 10);
	EQ(ring_used_idx(&t.g.rings[TX]), 0); /* 30 MiB do not fit in one turn */
	wait_used(&t, TX, 1);

	/* A reset in the middle of such a chain: the device forgets it. */
	ring_offer(&t.g.rings[TX], 0);
	rig_kick(&t.g, TX);
	(void)loop_run_once(t.g.loop, 10);
	virtio_set_status(t.g.v, 0);
	for (unsigned i = 0; i < 2; i++)
		ring_init(&t.g.rings[i], &t.g.mem, i, 16);
	ring_set_avail_idx(&t.g.rings[TX], 0);
	uint8_t zero[4] = { 0 };
	OK(mem_write(&t.g.mem, GPA(t.g.rings[TX].used), zero, 4));
	rig_start(&t.g, 0);
	offer_tx(&t, 2, "again\n");
	wait_used(&t, TX, 1);
	bench_close(&t);
}

/* In memory of another device, whose file somebody has cut off in the middle of it: what is gone reads as zeroes. */
TEST(output_from_memory_that_is_gone_is_zeroes)
{
	struct bench t;
	size_t index;
	char bytes[10];
	const uint64_t at = 1ull << 32;
	bench_open(&t);
	int fd = memfd_create("other", MFD_CLOEXEC);
	OK(fd >= 0 && ftruncate(fd, 0x2000) == 0);
	struct mem_device_params p = { .start = GPA(at), .n_bytes = 0x2000, .fd = fd };
	EQ(mem_map_add_device(&t.g.mem, &p, &index, NULL), 0);
	rig_start(&t.g, 0);
	EQ(pwrite(fd, "abcdefghij", 10, 0xffb), 10);
	EQ(ftruncate(fd, 0x1000), 0);
	ring_put(&t.g.rings[TX], 0, (struct ring_desc){ at + 0xffb, 10, 0, 0 });
	ring_offer(&t.g.rings[TX], 0);
	rig_kick(&t.g, TX);
	wait_peer(&t, bytes, 10);
	MEM_EQ(bytes, "abcde\0\0\0\0\0", 10);
	bench_close(&t);
	(void)close(fd);
}

TEST(output_is_taken_when_nobody_reads)
{
	struct bench t;
	bench_open(&t);
	rig_start(&t.g, 0);
	char line[2001];
	memset(line, 'z', sizeof line - 1);
	line[sizeof line - 1] = '\0';
	struct ring_used u;
	for (int i = 0; i < 300; i++) {
		offer_tx(&t, (uint16_t)(i % 16), line);
		wait_used(&t, TX, 1);
		OK(ring_take(&t.g.rings[TX], &u));
	}
	bench_close(&t);
}

TEST(input_waits_for_buffers_and_fills_them_in_order)
{
	struct bench t;
	bench_open(&t);
	rig_start(&t.g, VIRTIO_F_EVENT_IDX);
	EQ(write(t.peer, "first", 5), 5);
	turn(&t);
	EQ(ring_used_idx(&t.g.rings[RX]), 0);
	offer_rx(&t, 7, 3);
	offer_rx(&t, 2, 64);
	wait_used(&t, RX, 2);
	expect_rx(&t, 7, "fir");
	expect_rx(&t, 2, "st");
	offer_rx(&t, 1, 64);
	turn(&t);
	EQ(ring_used_idx(&t.g.rings[RX]), 2); /* a buffer is kept until there is something for it */
	EQ(write(t.peer, "x", 1), 1);
	wait_used(&t, RX, 1);
	expect_rx(&t, 1, "x");
	OK(t.g.n_queue_signals[RX] >= 1);
	bench_close(&t);
}

TEST(buffers_without_input_cost_nothing)
{
	struct bench t;
	bench_open(&t);
	rig_start(&t.g, 0);
	offer_rx(&t, 0, 64);
	turn(&t);
	uint64_t before = clock_now_ns();
	EQ(loop_run_once(t.g.loop, 20), 0); /* idle: no run follows another */
	OK(clock_now_ns() - before >= 15 * NS_PER_MS);
	bench_close(&t);
}

TEST(what_was_typed_before_the_driver_came_is_not_lost)
{
	struct bench t;
	bench_open(&t);
	EQ(write(t.peer, "early", 5), 5);
	turn(&t);
	virtio_set_status(t.g.v, 0); /* a driver resets first */
	turn(&t);
	rig_start(&t.g, 0);
	offer_rx(&t, 0, 64);
	wait_used(&t, RX, 1);
	expect_rx(&t, 0, "early");
	bench_close(&t);
}

TEST(a_long_paste_arrives_whole)
{
	struct bench t;
	char text[10000];
	bench_open(&t);
	rig_start(&t.g, VIRTIO_F_EVENT_IDX);
	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (char)('A' + i % 53);
	size_t n_sent = 0, n_got = 0;
	uint64_t end = clock_now_ns() + 20 * NS_PER_S;
	for (unsigned i = 0; n_got < sizeof text && clock_now_ns() < end; i++) {
		if (n_sent < sizeof text) {
			ssize_t n = write(t.peer, text + n_sent, sizeof text - n_sent);
			n_sent += n > 0 ? (size_t)n : 0;
		}
		uint16_t head = (uint16_t)(i % 16);
		offer_rx(&t, head, 100);
		wait_used(&t, RX, 1);
		struct ring_used u;
		char got[100];
		OK(ring_take(&t.g.rings[RX], &u));
		OK(u.len <= 100 && n_got + u.len <= sizeof text);
		OK(mem_read(&t.g.mem, GPA(RING_DATA + 0x1000ull * head), got, u.len));
		MEM_EQ(got, text + n_got, u.len);
		n_got += u.len;
	}
	EQ(n_got, sizeof text);
	bench_close(&t);
}

TEST(a_receive_chain_without_room_goes_back_empty)
{
	struct bench t;
	struct ring_used u;
	bench_open(&t);
	rig_start(&t.g, 0);
	EQ(write(t.peer, "k", 1), 1);
	turn(&t);
	ring_put(&t.g.rings[RX], 5, (struct ring_desc){ RING_DATA, 16, 0, 0 });
	ring_offer(&t.g.rings[RX], 5);
	offer_rx(&t, 0, 8);
	wait_used(&t, RX, 2);
	OK(ring_take(&t.g.rings[RX], &u));
	EQ(u.id, 5);
	EQ(u.len, 0);
	expect_rx(&t, 0, "k");
	bench_close(&t);
}

TEST(a_broken_ring_asks_for_a_reset)
{
	struct bench t;
	bench_open(&t);
	rig_start(&t.g, 0);
	ring_offer(&t.g.rings[TX], 500);
	rig_kick(&t.g, TX);
	turn(&t);
	OK(virtio_status(t.g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
	OK(t.g.n_config_signals >= 1);
	bench_close(&t);
}

TEST(the_size_is_in_the_configuration_and_follows)
{
	struct bench t;
	uint8_t b[4];
	bench_open(&t);
	OK(virtio_features(t.g.v, 0) & F_SIZE);
	rig_start(&t.g, F_SIZE);
	EQ(t.g.n_config_signals, 1); /* Linux reads it only when it is told */
	uint32_t generation = virtio_config_generation(t.g.v);
	struct winsize w = { .ws_col = 100, .ws_row = 40 };
	EQ(ioctl(t.peer, TIOCSWINSZ, &w), 0);
	char_update_size(t.b);
	virtio_space_read(t.g.v, 0, b, 4);
	EQ(get_le16(b), 100);
	EQ(get_le16(b + 2), 40);
	OK(virtio_config_generation(t.g.v) != generation);
	EQ(t.g.n_config_signals, 2);
	virtio_space_read(t.g.v, 4, b, 4);
	EQ(get_le32(b), 1); /* max_nr_ports */
	bench_close(&t);
}

TEST(a_backend_without_a_size_does_not_offer_one)
{
	struct bench t;
	bench_open_mode(&t, CHAR_NULL);
	EQ(virtio_features(t.g.v, 0) & F_SIZE, 0);
	OK(virtio_features(t.g.v, 0) & F_EMERG_WRITE);
	bench_close(&t);
}

TEST(emergency_writes_need_no_driver)
{
	struct bench t;
	char got[4];
	bench_open(&t);
	for (const char *s = "Oops"; *s; s++) {
		uint8_t b[4] = { (uint8_t)*s, 0xff, 0xff, 0xff };
		virtio_space_write(t.g.v, 8, b, *s == 'o' ? 1 : 4);
	}
	wait_peer(&t, got, 4);
	MEM_EQ(got, "Oops", 4);
	/* Other writes change nothing. */
	uint8_t size[4] = { 1, 2, 3, 4 };
	virtio_space_write(t.g.v, 0, size, 4);
	virtio_space_write(t.g.v, 9, size, 2);
	virtio_space_write(t.g.v, 8, size, 8);
	uint8_t b[4];
	virtio_space_read(t.g.v, 0, b, 4);
	EQ(get_le32(b), 0);
	for (int i = 0; i < 10000; i++)
		virtio_space_write(t.g.v, 8, size, 4);
	turn(&t);
	bench_close(&t);
}

static int close_backend(void *arg)
{
	char_close(arg);
	return 0;
}

struct open_call {
	struct char_params p;
	struct loop *l;
	struct char_backend *b;
};

static int open_backend(void *arg)
{
	struct open_call *c = arg;
	return char_open(&c->p, c->l, &c->b, NULL);
}

/* The machine's real threads: a vCPU (this one), the I/O loop, the backend's loop, and a user who types. */
TEST(starts_and_resets_while_both_loops_run)
{
	struct rig g = { 0 };
	struct loop_thread io, host;
	EQ(loop_thread_start(&io, "io", NULL), 0);
	EQ(loop_thread_start(&host, "host", NULL), 0);
	struct open_call c = { .p = { .mode = CHAR_PTY }, .l = host.loop };
	EQ(loop_call(host.loop, open_backend, &c), 0);
	int peer = open(char_path(c.b), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	ring_memory_new(&g.mem, false);
	struct virtio_params p = { .id = "__console", .mem = &g.mem, .io_loop = io.loop, .queue_size = 16 };
	struct virtio_console_params params = { .backend = c.b };
	EQ(virtio_device_new(&virtio_console, &p, &params, &g.v, NULL), 0);

	for (int round = 0; round < 50; round++) {
		for (unsigned i = 0; i < 2; i++) {
			uint8_t zero[4] = { 0 };
			ring_init(&g.rings[i], &g.mem, i, 16);
			OK(mem_write(&g.mem, GPA(g.rings[i].avail), zero, 4));
			OK(mem_write(&g.mem, GPA(g.rings[i].used), zero, 4));
		}
		rig_start(&g, VIRTIO_F_EVENT_IDX);
		(void)!write(peer, "typed", 5);
		for (uint16_t i = 0; i < 16; i++) {
			ring_put(&g.rings[RX], i, (struct ring_desc){ RING_DATA, 64, DESC_WRITE, 0 });
			ring_offer(&g.rings[RX], i);
			ring_put(&g.rings[TX], i, (struct ring_desc){ RING_DATA + 0x1000, 3000, 0, 0 });
			ring_offer(&g.rings[TX], i);
		}
		rig_kick(&g, RX);
		rig_kick(&g, TX);
		uint8_t emergency[4] = { 'e' };
		virtio_space_write(g.v, 8, emergency, 4);
		if (round % 2) {
			uint64_t end = clock_now_ns() + 5 * NS_PER_S;
			while (ring_used_idx(&g.rings[TX]) != 16 && clock_now_ns() < end)
				test_sleep_us(100);
			EQ(ring_used_idx(&g.rings[TX]), 16);
		}
		virtio_set_status(g.v, 0);
		char got[4096];
		(void)!read(peer, got, sizeof got);
	}
	virtio_device_free(g.v);
	EQ(loop_call(host.loop, close_backend, c.b), 0);
	loop_thread_stop(&io);
	loop_thread_stop(&host);
	mem_map_done(&g.mem);
	(void)close(peer);
}

/* A transmission that is longer than a run is in flight when the device is paused: it comes back, and so do those behind. */
TEST(a_pause_gives_back_what_is_in_flight)
{
	struct bench t;
	bench_open_mode(&t, CHAR_NULL);
	rig_start(&t.g, 0);
	for (uint16_t i = 0; i < 16; i++) {
		ring_put(&t.g.rings[TX], i, (struct ring_desc){ RING_DATA, 60000, 0, 0 });
		ring_offer(&t.g.rings[TX], i);
	}
	rig_kick(&t.g, TX);
	(void)loop_run_once(t.g.loop, 0);
	OK(ring_used_idx(&t.g.rings[TX]) < 16);
	virtio_device_pause(t.g.v);
	EQ(t.g.v->queues[TX].n_in_flight, 0);
	uint16_t n = ring_used_idx(&t.g.rings[TX]);
	rig_turn(&t.g);
	EQ(ring_used_idx(&t.g.rings[TX]), n);
	virtio_device_resume(t.g.v);
	wait_used(&t, TX, 16);
	bench_close(&t);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The front end against a backend that does as it is told, or the contrary. */
#include "vhost_disk.h"

#include "base/shared_event.h"
#include "vhost_backend.h"

#include <errno.h>

#define F_RO (1ull << 5)
#define F_MQ (1ull << 12)
#define F_DISCARD (1ull << 13)
#define F_BLK_SIZE (1ull << 6)
#define F_VERSION_1 (1ull << 32)
#define F_PROTOCOL (1ull << 30)

static struct vhost_backend backend;

static void begin(bool has_inflight)
{
	vhost_backend_init(&backend);
	backend.how.has_inflight = has_inflight;
	vhost_backend_start(&backend);
}

static void end(struct vhost_disk *d)
{
	rig_close(&d->g);
	vhost_backend_kill(&backend);
	vhost_backend_done(&backend);
}

static uint64_t space(struct vhost_disk *d, unsigned offset, unsigned n_bytes)
{
	uint8_t b[8];
	virtio_space_read(d->g.v, offset, b, n_bytes);
	return get_le(b, n_bytes);
}

static uint64_t reconnects;

static void add_counter(void *context, const char *name, uint64_t value)
{
	(void)context;
	STR_EQ(name, "reconnects");
	reconnects = value;
}

static uint64_t n_reconnects(struct vhost_disk *d)
{
	d->g.v->cls->counters(d->g.v, add_counter, NULL);
	return reconnects;
}

#define WAIT(cond)                                                             \
	do {                                                                   \
		uint64_t end_ = clock_now_ns() + 20 * NS_PER_S;                \
		while (!(cond)) {                                              \
			if (clock_now_ns() > end_)                             \
				test_fail(__FILE__, __LINE__, "%s: not in 20 s", #cond); \
			test_sleep_us(200);                                    \
		}                                                              \
	} while (0)

/* --- the handshake --- */

TEST(features_and_configuration_are_the_backends)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		begin(has_inflight);
		disk_new(&d, backend.path, 2);
		EQ(d.g.v->cls->virtio_id, VIRTIO_ID_BLOCK);
		EQ(d.g.v->n_queues, 2);
		/* The backend has no EVENT_IDX; we have it, where the rings are ours. */
		EQ(d.g.v->offered, F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | F_MQ | 1ull << 11 | 1ull << 9 | F_BLK_SIZE | 1ull << 2 |
		                   (has_inflight ? 0 : VIRTIO_F_EVENT_IDX));
		EQ(backend.driver_features, (d.g.v->offered & ~VIRTIO_F_EVENT_IDX) | F_PROTOCOL);
		EQ(space(&d, 0, 8), 1024);
		EQ(space(&d, 20, 4), 512);
		EQ(space(&d, 34, 2), 2);
		end(&d);
	}
}

static void is_refused(unsigned n_queues, bool is_readonly, int code, const char *text)
{
	struct vhost_disk d;
	struct err e = { 0 };
	vhost_backend_start(&backend);
	EQ(disk_try(&d, backend.path, n_queues, is_readonly, &e), -code);
	STR_HAS(e.text, "_test0: ");
	STR_HAS(e.text, text);
	vhost_backend_kill(&backend);
}

TEST(what_does_not_fit_is_refused)
{
	const struct vhost_backend_how usual = { .n_queues = 2, .n_sectors = 1024, .seg_max = 14 };
	vhost_backend_init(&backend);
	is_refused(3, false, EPROTO, "has 2 queues, and 3 are wanted");
	is_refused(0, false, EINVAL, "the number of queues 0");
	is_refused(1, true, EINVAL, "readonly=on, but the backend");
	backend.how.features = F_PROTOCOL | F_MQ;
	is_refused(1, false, EPROTO, "lacks features 0x100000000");
	backend.how.features = F_VERSION_1;
	is_refused(1, false, EPROTO, "no protocol features");
	backend.how.features = F_VERSION_1 | F_PROTOCOL;
	is_refused(2, false, EINVAL, "has one queue, and 2 are wanted");
	backend.how = usual;
	backend.how.protocol_features = 1 << 0 | 1 << 3;
	is_refused(1, false, EPROTO, "no configuration space");
	backend.how = usual;
	backend.how.n_sectors = UINT64_MAX;
	is_refused(1, false, EINVAL, "sectors");
	vhost_backend_done(&backend);
}

TEST(read_only_is_the_backends_to_promise)
{
	struct vhost_disk d;
	struct err e;
	vhost_backend_init(&backend);
	backend.how.features = F_VERSION_1 | F_PROTOCOL | F_RO;
	vhost_backend_start(&backend);
	EQ(disk_try(&d, backend.path, 1, true, &e), 0);
	OK(d.g.v->offered & F_RO);
	EQ(space(&d, 34, 2), 0);
	end(&d);
}

TEST(a_backend_that_is_not_there)
{
	struct vhost_disk d;
	struct err e;
	char long_path[200];
	memset(long_path, 'x', sizeof long_path - 1);
	long_path[sizeof long_path - 1] = 0;
	EQ(disk_try(&d, "/var/tmp/there-is-no-such-socket", 1, false, &e), -ENOENT);
	STR_HAS(e.text, "cannot connect to '/var/tmp/there-is-no-such-socket'");
	EQ(disk_try(&d, long_path, 1, false, &e), -ENAMETOOLONG);
}

TEST(memory_must_be_shared)
{
	struct rig g = { 0 };
	struct vhost_user_blk_params p = { .common = { .socket = "/nowhere", .n_queues = 1 } };
	struct virtio_params vp = { .id = "_disk0", .mem = &g.mem };
	struct err e;
	ring_memory_new(&g.mem, false);
	EQ(virtio_device_new(&vhost_user_blk, &vp, &p, &g.v, &e), -EINVAL);
	STR_EQ(e.text, "_disk0: vhost-user needs shared memory (--memory shared=on)");
	mem_map_done(&g.mem);
}

/* --- answers of all kinds of wrong --- */

TEST(wrong_answers_end_in_errors)
{
	static const uint32_t requests[] = { 1, 15, 16, 3, 17, 24, 21 };
	vhost_backend_init(&backend);
	for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
		for (enum vhost_backend_wrong w = ANSWER_SHORT; w <= ANSWER_OTHER_VALUE; w++) {
			struct vhost_disk d;
			struct err e = { 0 };
			bool is_telling = requests[i] == 16; /* before REPLY_ACK is in force: nothing is answered */
			bool is_number = requests[i] == 1 || requests[i] == 15 || requests[i] == 17;
			if (is_telling || (w == ANSWER_OTHER_VALUE && is_number))
				continue;
			backend.how.wrong_request = requests[i];
			backend.how.wrong = w;
			vhost_backend_start(&backend);
			int rc = disk_try(&d, backend.path, 1, false, &e);
			if (rc >= 0)
				test_fail(__FILE__, __LINE__, "request %u, answer %u is good enough", requests[i], w);
			OK(strlen(e.text) > 0);
			vhost_backend_kill(&backend);
		}
	}
	vhost_backend_done(&backend);
}

TEST(a_backend_that_says_nothing_does_not_hold_us_for_ever)
{
	struct vhost_disk d;
	struct err e;
	vhost_backend_init(&backend);
	backend.how.wrong_request = 24;
	backend.how.wrong = ANSWER_NEVER;
	vhost_backend_start(&backend);
	uint64_t start = clock_now_ns();
	EQ(disk_try(&d, backend.path, 1, false, &e), -ETIMEDOUT);
	OK(clock_now_ns() - start < 10 * NS_PER_S);
	STR_HAS(e.text, "GET_CONFIG: the backend does not answer");
	vhost_backend_kill(&backend);
	vhost_backend_done(&backend);
}

/* While the driver starts: the device is lost and found again, and the driver need not know. */
TEST(wrong_answers_to_the_drivers_start_are_survived)
{
	static const uint32_t requests[] = { 2, 5, 8, 9, 10, 12, 13, 18, 31, 32 };
	static const enum vhost_backend_wrong wrongs[] = { ANSWER_SHORT, ANSWER_WITH_FD, ANSWER_HANG_UP, ANSWER_OTHER_VALUE };
	vhost_backend_init(&backend);
	backend.how.has_inflight = true;
	for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
		for (size_t k = 0; k < sizeof wrongs / sizeof *wrongs; k++) {
			struct vhost_disk d;
			enum vhost_backend_wrong w = wrongs[k];
			if (requests[i] == 31 && w == ANSWER_WITH_FD)
				continue; /* as it should have */
			backend.how.wrong_request = requests[i];
			backend.how.wrong = w;
			vhost_backend_start(&backend);
			disk_new(&d, backend.path, 1);
			EQ(virtio_status(d.g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);
			disk_begin(&d, 0, 0, T_OUT, 3);
			vhost_backend_kill(&backend);
			backend.how.wrong = ANSWER_RIGHT;
			vhost_backend_start(&backend);
			EQ(disk_wait(&d, 0), 0);
			rig_close(&d.g);
			vhost_backend_kill(&backend);
		}
	}
	vhost_backend_done(&backend);
}

/* --- requests --- */

TEST(reads_and_writes_on_both_kinds_of_rings)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		begin(has_inflight);
		disk_new(&d, backend.path, 2);
		for (unsigned k = 0; k < 300; k++) {
			disk_do(&d, k % 2, T_OUT, k, (uint8_t)(k + 1));
			disk_do(&d, 1 - k % 2, T_IN, k, (uint8_t)(k + 1));
		}
		OK(d.g.n_queue_signals[0] > 0 && d.g.n_queue_signals[1] > 0);
		EQ(vhost_backend_byte(&backend, 299 * SECTOR), 300 % 256);
		end(&d);
	}
}

/* An old request is in flight while newer ones go round the ring many times; then the backend dies. */
TEST(what_is_in_flight_out_of_order_outlives_the_backend)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		begin(has_inflight);
		disk_new(&d, backend.path, 1);
		memset(backend.disk + 600 * SECTOR, 0x77, SECTOR);
		backend.held_from = 500;
		disk_begin(&d, 0, 0, T_IN, 600);
		for (unsigned k = 0; k < 5 * DISK_QUEUE_SIZE + 7; k++)
			disk_do(&d, 0, T_OUT, k % 100, (uint8_t)k);
		disk_fill(&d, 0, 1, 0x99);
		disk_begin(&d, 0, 1, T_OUT, 601);
		WAIT(backend.n_held == 2);
		vhost_backend_kill(&backend);

		/* Requests wait, whenever they are made. */
		disk_fill(&d, 0, 2, 0x55);
		disk_begin(&d, 0, 2, T_OUT, 5);
		test_sleep_us(100000);
		EQ(disk_reap(&d, 0), DISK_SLOTS);
		backend.held_from = UINT64_MAX;
		unsigned n_done = backend.n_done;
		vhost_backend_start(&backend);
		for (unsigned k = 0; k < 3; k++)
			(void)disk_wait(&d, 0);
		EQ(d.n_busy, 0);
		EQ(backend.n_done - n_done, 3); /* nothing is done twice */
		disk_is(&d, 0, 0, 0x77);
		EQ(vhost_backend_byte(&backend, 601 * SECTOR), 0x99);
		EQ(vhost_backend_byte(&backend, 5 * SECTOR), 0x55);
		WAIT(n_reconnects(&d) == 1);
		disk_do(&d, 0, T_IN, 5, 0x55);
		end(&d);
	}
}

TEST(many_restarts_under_load)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		unsigned n_begun = 0, n_done = 0;
		begin(has_inflight);
		disk_new(&d, backend.path, 2);
		for (unsigned round = 0; round < 5; round++) {
			backend.held_from = round % 2 ? 900 : UINT64_MAX;
			for (unsigned k = 0; k < 400; k++) {
				unsigned queue = k % 2, slot = disk_free_slot(&d, queue);
				if (slot < DISK_SLOTS) {
					disk_begin(&d, queue, slot, k % 3 ? T_OUT : T_IN, (k * 37u + round) % 1024);
					n_begun++;
				}
				n_done += disk_reap(&d, queue) < DISK_SLOTS;
			}
			vhost_backend_kill(&backend);
			unsigned n_connections = backend.n_connections;
			vhost_backend_start(&backend);
			WAIT(backend.n_connections > n_connections);
		}
		backend.held_from = UINT64_MAX;
		vhost_backend_kill(&backend);
		vhost_backend_start(&backend);
		for (unsigned queue = 0; queue < 2; queue++) {
			for (unsigned s = 0; s < DISK_SLOTS; s++) {
				if (d.is_busy[queue][s]) {
					(void)disk_wait(&d, queue);
					n_done++;
					s = (unsigned)-1;
				}
			}
		}
		EQ(n_done, n_begun);
		EQ(d.n_busy, 0);
		WAIT(n_reconnects(&d) > 0);
		end(&d);
	}
}

/* --- pause, reset, end --- */

TEST(pause_waits_for_what_is_in_flight)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		begin(has_inflight);
		disk_new(&d, backend.path, 2);
		disk_do(&d, 0, T_OUT, 1, 1);
		backend.held_from = 500;
		backend.releases_at_stop = true; /* after it has answered */
		for (unsigned k = 0; k < 5; k++)
			disk_begin(&d, k % 2, k, T_OUT, 600 + k);
		WAIT(backend.n_held == 5);
		virtio_device_pause(d.g.v);
		EQ(ring_used_idx(&d.g.rings[0]), 4);
		EQ(ring_used_idx(&d.g.rings[1]), 2);
		backend.held_from = UINT64_MAX;
		rig_kick(&d.g, 0);
		unsigned n_done = backend.n_done;
		test_sleep_us(50000);
		EQ(backend.n_done, n_done);
		virtio_device_resume(d.g.v);
		for (unsigned k = 0; k < 5; k++)
			(void)disk_wait(&d, k % 2);
		disk_do(&d, 0, T_IN, 1, 1);
		disk_do(&d, 1, T_OUT, 2, 9);
		EQ(n_reconnects(&d), 0);

		/* A backend that is another one after the pause. */
		virtio_device_pause(d.g.v);
		vhost_backend_kill(&backend);
		vhost_backend_start(&backend);
		virtio_device_resume(d.g.v);
		disk_do(&d, 0, T_IN, 2, 9);
		end(&d);
	}
}

TEST(a_driver_starts_over)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		begin(has_inflight);
		disk_new(&d, backend.path, 2);
		for (unsigned k = 0; k < 4; k++) {
			disk_do(&d, 1, T_OUT, k, (uint8_t)k);
			disk_do(&d, 1, T_IN, k, (uint8_t)k);
			disk_restart(&d);
		}
		EQ(n_reconnects(&d), 0);

		/* What is in flight for one driver is not done for the next. */
		backend.held_from = 500;
		disk_begin(&d, 0, 0, T_OUT, 700);
		WAIT(backend.n_held == 1);
		vhost_backend_kill(&backend);
		disk_restart(&d); /* while the backend is away */
		disk_begin(&d, 0, 7, T_OUT, 8);
		backend.held_from = UINT64_MAX;
		unsigned n_done = backend.n_done;
		vhost_backend_start(&backend);
		EQ(disk_wait(&d, 0), 7);
		disk_do(&d, 0, T_IN, 8, 0);
		EQ(backend.n_done - n_done, 2);
		end(&d);
	}
}

static void *kill_soon(void *arg)
{
	test_sleep_us(300000);
	vhost_backend_kill(&backend);
	return arg;
}

TEST(a_backend_that_dies_while_pause_waits_for_it)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		pthread_t killer;
		begin(has_inflight);
		disk_new(&d, backend.path, 1);
		backend.held_from = 0;
		disk_begin(&d, 0, 0, T_OUT, 1);
		WAIT(backend.n_held == 1);
		OK(pthread_create(&killer, NULL, kill_soon, NULL) == 0);
		uint64_t start = clock_now_ns();
		virtio_device_pause(d.g.v);
		OK(clock_now_ns() - start < 5 * NS_PER_S);
		OK(pthread_join(killer, NULL) == 0);
		backend.held_from = UINT64_MAX;
		vhost_backend_start(&backend);
		virtio_device_resume(d.g.v);
		EQ(disk_wait(&d, 0), 0);
		end(&d);
	}
}

/* The driver is told of what is done, not only of what the next backend does. */
TEST(what_was_done_before_the_end_is_signalled)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		begin(has_inflight);
		disk_new(&d, backend.path, 1);
		disk_do(&d, 0, T_OUT, 1, 1);
		test_sleep_us(20000);
		struct span event;
		OK(mem_span(&d.g.mem, GPA(d.g.rings[0].avail + 4 + 2 * DISK_QUEUE_SIZE), 2, &event));
		span_store_le16(event, 0, 1); /* where EVENT_IDX is: the second one, please */
		unsigned n_signals = d.g.n_queue_signals[0], n_done = backend.n_done;
		backend.is_mute = true;
		disk_begin(&d, 0, 0, T_OUT, 1);
		WAIT(backend.n_done > n_done);
		EQ(d.g.n_queue_signals[0], n_signals);
		vhost_backend_kill(&backend);
		EQ(disk_wait(&d, 0), 0);
		WAIT(d.g.n_queue_signals[0] > n_signals);
		vhost_backend_start(&backend);
		end(&d);
	}
}

/* O_NONBLOCK is the open file's, and the backend has it, too. */
TEST(event_descriptors_that_the_backend_makes_blocking)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		begin(has_inflight);
		backend.how.blocks = true;
		disk_new(&d, backend.path, 2);
		for (unsigned k = 0; k < 20; k++) {
			disk_do(&d, k % 2, T_OUT, k, (uint8_t)k);
			if (k % 5 == 0)
				disk_restart(&d);
			virtio_device_pause(d.g.v);
			virtio_device_resume(d.g.v);
		}
		EQ(n_reconnects(&d), 0);
		end(&d);
	}
}

TEST(a_driver_starts_over_in_more_memory_than_a_table_holds)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d = { 0 };
		struct vhost_user_blk_params p = { .common = { .socket = backend.path, .n_queues = 1 } };
		struct err e = { 0 };
		begin(has_inflight);
		backend.how.protocol_features = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 15;
		ring_memory_new(&d.g.mem, true);
		for (uint64_t k = 1; k < 10; k++) {
			struct mem_region_params r = { .start = GPA(k << 30), .n_bytes = 4096, .is_shared = true };
			EQ(mem_map_add(&d.g.mem, &r, &e), 0);
		}
		EQ(rig_open_here(&d.g, &vhost_user_blk, &p, DISK_QUEUE_SIZE, &e), 0);
		rig_start(&d.g, d.g.v->offered);
		for (unsigned k = 0; k < 2; k++) {
			disk_do(&d, 0, T_OUT, k, (uint8_t)k);
			disk_restart(&d);
			disk_do(&d, 0, T_IN, k, (uint8_t)k);
		}
		EQ(backend.n_refused_regions, 0);
		end(&d);
	}
}

/* Each answer comes in time, and all together do not. */
TEST(waits_do_not_add_up_over_queues)
{
	struct vhost_disk d;
	vhost_backend_init(&backend);
	backend.how.n_queues = 4;
	vhost_backend_start(&backend);
	backend.slow_request = 8; /* SET_VRING_NUM */
	backend.slow_ms = 2000;
	uint64_t start = clock_now_ns();
	disk_new(&d, backend.path, 4);
	OK(clock_now_ns() - start < 7 * NS_PER_S);
	backend.slow_request = 0;
	disk_do(&d, 3, T_OUT, 1, 1);

	backend.slow_request = 11; /* GET_VRING_BASE */
	backend.slow_ms = 3400;
	start = clock_now_ns();
	virtio_device_pause(d.g.v);
	OK(clock_now_ns() - start < 12 * NS_PER_S);
	backend.slow_request = 0;
	virtio_device_resume(d.g.v);
	disk_do(&d, 3, T_IN, 1, 1);
	end(&d);
}

TEST(a_device_ends_while_its_backend_is_away)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		begin(has_inflight);
		disk_new(&d, backend.path, 1);
		backend.held_from = 0;
		disk_begin(&d, 0, 0, T_OUT, 1);
		WAIT(backend.n_held == 1);
		vhost_backend_kill(&backend);
		uint64_t start = clock_now_ns();
		virtio_device_pause(d.g.v);
		virtio_device_resume(d.g.v);
		rig_close(&d.g);
		OK(clock_now_ns() - start < 2 * NS_PER_S);
		vhost_backend_done(&backend);
	}
}

/* It serves one of its connections at a time, and asks on the other. */
TEST(a_backend_that_awaits_our_answer_before_it_answers)
{
	struct vhost_disk d;
	begin(true);
	disk_new(&d, backend.path, 2);
	backend.asks_at_stop = true;
	backend.how.n_sectors = 3000;
	uint64_t start = clock_now_ns();
	virtio_device_pause(d.g.v);
	OK(clock_now_ns() - start < 3 * NS_PER_S);
	WAIT(space(&d, 0, 8) == 3000);
	virtio_device_resume(d.g.v);
	disk_do(&d, 0, T_OUT, 1, 1);
	EQ(n_reconnects(&d), 0);
	end(&d);
}

/* --- another backend than before --- */

TEST(a_backend_that_is_less_than_its_predecessor_is_refused)
{
	struct vhost_disk d;
	begin(true);
	struct vhost_backend_how good = backend.how, less[6] = { good, good, good, good, good, good };
	disk_new(&d, backend.path, 2);
	less[0].n_sectors = 1023;
	less[1].n_queues = 1;
	less[2].features = F_VERSION_1 | F_PROTOCOL;
	less[3].has_inflight = false;
	less[4].seg_max = 13;
	less[5].features = d.g.v->offered | F_PROTOCOL | F_RO;
	for (unsigned k = 0; k < 6; k++) {
		vhost_backend_kill(&backend);
		disk_begin(&d, 0, k, T_OUT, 8);
		backend.how = less[k];
		unsigned n = backend.n_connections;
		vhost_backend_start(&backend);
		WAIT(backend.n_connections >= n + 2); /* tried again */
		EQ(disk_reap(&d, 0), DISK_SLOTS);
		EQ(space(&d, 0, 8), 1024);
		vhost_backend_kill(&backend);
		backend.how = good;
		vhost_backend_start(&backend);
		EQ(disk_wait(&d, 0), k);
		WAIT(n_reconnects(&d) == k + 1);
	}

	/* A larger disk is welcome. */
	vhost_backend_kill(&backend);
	backend.how.n_sectors = 2048;
	vhost_backend_start(&backend);
	WAIT(space(&d, 0, 8) == 2048);
	WAIT(d.g.n_config_signals == 1);
	end(&d);
}

/* As after SIGSTOP, a takeover and SIGCONT: what the old one takes or writes is not the new one's. */
TEST(an_old_backends_event_descriptors_reach_nobody)
{
	for (int has_inflight = 0; has_inflight < 2; has_inflight++) {
		struct vhost_disk d;
		uint64_t n;
		begin(has_inflight);
		disk_new(&d, backend.path, 1);
		disk_do(&d, 0, T_OUT, 1, 1);
		vhost_backend_kill(&backend);
		vhost_backend_start(&backend);
		WAIT(n_reconnects(&d) == 1);
		disk_do(&d, 0, T_OUT, 2, 2);
		test_sleep_us(20000);
		unsigned n_signals = d.g.n_queue_signals[0];
		shared_event_raise(backend.queues[0].old_call_fd);
		test_sleep_us(20000);
		EQ(d.g.n_queue_signals[0], n_signals);
		EQ(read(backend.queues[0].old_call_fd, &n, sizeof n), sizeof n);
		if (!has_inflight) { /* the driver's own rings are kicked through one descriptor */
			shared_event_raise(backend.queues[0].old_kick_fd);
			test_sleep_us(20000);
			EQ(read(backend.queues[0].old_kick_fd, &n, sizeof n), sizeof n);
		}
		end(&d);
	}
}

TEST(a_backend_with_an_account_after_one_without)
{
	struct vhost_disk d;
	begin(false);
	disk_new(&d, backend.path, 2);
	backend.held_from = 500;
	disk_begin(&d, 0, 0, T_OUT, 600);
	WAIT(backend.n_held == 1);
	vhost_backend_kill(&backend);
	backend.held_from = UINT64_MAX;
	backend.how.has_inflight = true;
	vhost_backend_start(&backend);
	EQ(disk_wait(&d, 0), 0);
	disk_do(&d, 1, T_OUT, 2, 2);
	WAIT(n_reconnects(&d) == 1);
	end(&d);
}

TEST(the_configuration_changes)
{
	struct vhost_disk d;
	begin(false);
	disk_new(&d, backend.path, 1);
	uint32_t generation = virtio_config_generation(d.g.v);
	backend.how.n_sectors = 3000;
	vhost_backend_change_config(&backend);
	WAIT(d.g.n_config_signals == 1);
	EQ(space(&d, 0, 8), 3000);
	OK(virtio_config_generation(d.g.v) != generation);

	/* Not to less, and the connection is well. */
	unsigned n = backend.n_given_configs;
	backend.how.n_sectors = 2999;
	vhost_backend_change_config(&backend);
	WAIT(backend.n_given_configs > n);
	disk_do(&d, 0, T_OUT, 1, 1);
	EQ(space(&d, 0, 8), 3000);
	EQ(n_reconnects(&d), 0);
	end(&d);
}

/* A chain longer than the queue would break the driver's ring. */
TEST(segments_are_no_more_than_the_queue_has)
{
	struct vhost_disk d;
	begin(false);
	backend.how.seg_max = 126;
	backend.how.discard_max = 1000;
	backend.how.features = F_VERSION_1 | F_PROTOCOL | 1ull << 2 | F_DISCARD;
	disk_new(&d, backend.path, 1);
	EQ(space(&d, 12, 4), DISK_QUEUE_SIZE - 2);
	EQ(space(&d, 36, 4), 1000);

	/* What is less, but for the driver the same. */
	unsigned n = backend.n_given_configs;
	backend.how.seg_max = 100;
	backend.how.n_sectors = 1025;
	vhost_backend_change_config(&backend);
	WAIT(backend.n_given_configs > n);
	WAIT(d.g.n_config_signals == 1);
	EQ(space(&d, 12, 4), DISK_QUEUE_SIZE - 2);

	/* Less than it was told. */
	for (unsigned k = 0; k < 2; k++) {
		n = backend.n_given_configs;
		backend.how.n_sectors = 1026;
		backend.how.seg_max = k ? 100 : DISK_QUEUE_SIZE - 3;
		backend.how.discard_max = k ? 999 : 1000;
		vhost_backend_change_config(&backend);
		WAIT(backend.n_given_configs > n);
		disk_do(&d, 0, T_OUT, 1, 1);
		test_sleep_us(20000);
		EQ(space(&d, 0, 8), 1025);
	}
	EQ(n_reconnects(&d), 0);
	end(&d);
}

TEST(the_write_cache_is_the_drivers_choice)
{
	struct vhost_disk d;
	uint8_t off = 0, two = 2;
	begin(false);
	disk_new(&d, backend.path, 1);
	EQ(space(&d, 32, 1), 1);
	virtio_space_write(d.g.v, 32, &two, 1);
	virtio_space_write(d.g.v, 0, &off, 1);
	EQ(space(&d, 32, 1), 1);
	virtio_space_write(d.g.v, 32, &off, 1);
	EQ(space(&d, 32, 1), 0);
	WAIT(backend.writeback == 0);

	/* The next backend is told, too. */
	vhost_backend_kill(&backend);
	backend.writeback = -1;
	vhost_backend_start(&backend);
	WAIT(backend.writeback == 0);
	disk_do(&d, 0, T_OUT, 1, 1);
	EQ(space(&d, 32, 1), 0);
	EQ(d.g.n_config_signals, 0);
	end(&d);
}

TEST(a_write_while_the_configuration_is_asked_for_is_not_undone)
{
	struct vhost_disk d;
	uint8_t off = 0;
	begin(false);
	disk_new(&d, backend.path, 1);
	unsigned n = backend.n_given_configs;
	backend.holds_config = true;
	backend.how.n_sectors = 3000;
	vhost_backend_change_config(&backend);
	WAIT(backend.n_given_configs > n);
	virtio_space_write(d.g.v, 32, &off, 1);
	backend.holds_config = false;
	WAIT(space(&d, 0, 8) == 3000);
	EQ(space(&d, 32, 1), 0);
	WAIT(backend.writeback == 0);
	EQ(space(&d, 32, 1), 0);
	end(&d);
}

/* --- a backend that lies in the rings --- */

TEST(what_was_not_offered_cannot_be_given_back)
{
	struct vhost_disk d;
	begin(false);
	disk_new(&d, backend.path, 1);
	disk_do(&d, 0, T_OUT, 1, 1);
	backend.lies = true;
	disk_begin(&d, 0, 0, T_OUT, 2);
	unsigned n = backend.n_connections;
	WAIT(backend.n_connections > n); /* it was left, and is tried again */
	EQ(disk_reap(&d, 0), DISK_SLOTS);
	backend.lies = false;
	EQ(disk_wait(&d, 0), 0);
	EQ(virtio_status(d.g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);
	end(&d);
}

TEST(a_broken_ring_of_the_drivers_is_not_passed_on)
{
	struct vhost_disk d;
	begin(false);
	disk_new(&d, backend.path, 1);
	ring_put(&d.g.rings[0], 0, (struct ring_desc){ 0xdead0000, 16, 0, 0 });
	ring_offer(&d.g.rings[0], 0);
	rig_kick(&d.g, 0);
	WAIT(virtio_status(d.g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
	disk_restart(&d);
	disk_do(&d, 0, T_OUT, 1, 1);
	end(&d);
}

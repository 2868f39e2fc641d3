/* SPDX-License-Identifier: Apache-2.0 */
/* Looking out for chains instead of asking for kicks. Nothing here depends on how fast the machine is. */
#include "base/bytes.h"
#include "base/clock.h"
#include "ring.h"
#include "test.h"
#include "virtio/queue_poll.h"

#define SIZE 8
#define LIMIT_NS 4000u
#define TRIES 10000

struct fixture {
	struct mem_map mem;
	struct ring r;
	struct queue q;
	struct loop *l;
	struct queue_poll p;
	struct iovec iov[SIZE];
	struct chain c;
	unsigned n_runs, n_taken;
	bool wanted_kick; /* when the last run began */
	bool keeps;       /* chains stay in flight */
};

static uint16_t avail_event(const struct fixture *f)
{
	uint8_t b[2];
	OK(mem_read(&f->mem, GPA(f->r.used + 4 + 8 * SIZE), b, sizeof b));
	return get_le16(b);
}

static uint16_t used_flags(const struct fixture *f)
{
	uint8_t b[2];
	OK(mem_read(&f->mem, GPA(f->r.used), b, sizeof b));
	return get_le16(b);
}

/* As a driver decides after it has offered n chains (2.7.10, vring_need_event() in Linux). */
static bool would_kick(const struct fixture *f, uint16_t n)
{
	if (!f->q.has_event_idx)
		return !(used_flags(f) & 1);
	uint16_t old = f->q.n_next_avail, new = (uint16_t)(old + n);
	return (uint16_t)(new - avail_event(f) - 1) < (uint16_t)(new - old);
}

static void on_run(struct queue_poll *p)
{
	struct fixture *f = container_of(p, struct fixture, p);
	f->n_runs++;
	f->wanted_kick = would_kick(f, 1);
	queue_begin(&f->q);
	while (queue_next(&f->q, &f->c) > 0) {
		f->n_taken++;
		if (!f->keeps)
			queue_put(&f->q, &f->c, 0);
	}
	(void)queue_end(&f->q);
}

static void open_fixture(struct fixture *f, uint64_t features)
{
	*f = (struct fixture){ 0 };
	ring_memory_new(&f->mem, false);
	ring_init(&f->r, &f->mem, 0, SIZE);
	EQ(queue_init(&f->q, SIZE, NULL), 0);
	f->q.config = ring_config(&f->r);
	f->c = (struct chain){ .iov = f->iov, .n_iov_capacity = SIZE };
	EQ(queue_start(&f->q, &f->mem, features, NULL), 0);
	EQ(loop_new(&f->l, NULL), 0);
	queue_poll_start(&f->p, &f->q, f->l, on_run);
	on_run(&f->p);
	f->n_runs = 0;
	OK(would_kick(f, 1));
}

static void done(struct fixture *f)
{
	queue_poll_stop(&f->p);
	queue_poll_stop(&f->p);
	queue_stop(&f->q);
	queue_done(&f->q);
	loop_free(f->l);
	mem_map_done(&f->mem);
}

static void offer(struct fixture *f, uint16_t head)
{
	ring_put(&f->r, head, (struct ring_desc){ .addr = RING_DATA, .len = 64 });
	ring_offer(&f->r, head);
}

TEST(a_quiet_queue_is_left_alone)
{
	struct fixture f;
	open_fixture(&f, VIRTIO_F_EVENT_IDX);
	for (int i = 0; i < 3; i++) {
		queue_poll_told(&f.p);
		EQ(loop_run_once(f.l, 0), 0);
	}
	EQ(f.n_runs, 0);
	OK(would_kick(&f, 1));
	done(&f);
}

/* This thread may be put aside between the two at any time, but hardly each time. */
TEST(kicks_that_come_soon_make_it_look_longer)
{
	struct fixture f;
	uint64_t expected_ns = LIMIT_NS;
	open_fixture(&f, VIRTIO_F_EVENT_IDX);
	for (int i = 0; i < TRIES && f.p.limit_ns < expected_ns; i++) {
		queue_poll_told(&f.p);
		EQ(loop_run_once(f.l, 0), 0);
		queue_poll_kicked(&f.p);
	}
	EQ(f.p.limit_ns, expected_ns);
	uint64_t last_ns = f.p.limit_ns;
	for (int i = 0; i < TRIES && last_ns < 32000; i++) {
		f.p.asleep_since_ns = clock_now_ns();
		queue_poll_kicked(&f.p);
		OK(f.p.limit_ns == last_ns || f.p.limit_ns == 2 * last_ns);
		last_ns = f.p.limit_ns;
	}
	f.p.asleep_since_ns = clock_now_ns();
	queue_poll_kicked(&f.p);
	EQ(f.p.limit_ns, 32000);
	done(&f);
}

TEST(a_kick_that_comes_late_or_in_the_midst_of_work_teaches_nothing)
{
	struct fixture f;
	open_fixture(&f, VIRTIO_F_EVENT_IDX);
	f.p.asleep_since_ns = clock_now_ns() - NS_PER_S;
	queue_poll_kicked(&f.p);
	EQ(f.p.limit_ns, 0);
	queue_poll_kicked(&f.p); /* it was not asleep */
	EQ(f.p.limit_ns, 0);
	done(&f);
}

static void looks_in_vain(uint64_t features)
{
	struct fixture f;
	open_fixture(&f, features);
	f.p.limit_ns = 2 * LIMIT_NS;
	for (uint64_t limit_ns = LIMIT_NS; limit_ns; limit_ns = 0) {
		queue_poll_told(&f.p);
		EQ(loop_run_once(f.l, 0), 0);
		EQ(f.p.limit_ns, limit_ns);
		OK(!f.wanted_kick);    /* while it looked */
		OK(would_kick(&f, 1)); /* now that it sleeps */
	}
	queue_poll_told(&f.p);
	EQ(loop_run_once(f.l, 0), 0);
	EQ(f.p.limit_ns, 0);
	OK(would_kick(&f, 1));
	EQ(f.n_runs, 2);
	done(&f);
}

TEST(looking_in_vain_ends_it)
{
	looks_in_vain(VIRTIO_F_EVENT_IDX);
	looks_in_vain(0);
}

TEST(what_comes_meanwhile_is_taken_and_told_to_other_hooks)
{
	struct fixture f;
	open_fixture(&f, VIRTIO_F_EVENT_IDX);
	f.p.limit_ns = LIMIT_NS;
	queue_poll_told(&f.p);
	offer(&f, 0);
	offer(&f, 1);
	EQ(loop_run_once(f.l, 0), 0);
	EQ(f.n_runs, 1);
	EQ(f.n_taken, 2);
	OK(!f.wanted_kick);
	EQ(f.p.limit_ns, LIMIT_NS);
	OK(would_kick(&f, 1));
	done(&f);
}

TEST(nothing_is_looked_for_while_something_is_in_flight)
{
	struct fixture f;
	open_fixture(&f, VIRTIO_F_EVENT_IDX);
	f.keeps = true;
	offer(&f, 0);
	on_run(&f.p);
	f.p.limit_ns = LIMIT_NS;
	queue_poll_told(&f.p);
	EQ(loop_run_once(f.l, 0), 0);
	EQ(f.n_runs, 1);
	EQ(f.p.limit_ns, LIMIT_NS);
	OK(would_kick(&f, 1));
	queue_put(&f.q, &f.c, 0);
	done(&f);
}

TEST(neither_held_nor_broken_queues_are_looked_at)
{
	struct fixture f;
	open_fixture(&f, VIRTIO_F_EVENT_IDX);
	f.p.limit_ns = LIMIT_NS;
	queue_hold(&f.q);
	queue_poll_told(&f.p);
	EQ(loop_run_once(f.l, 0), 0);
	EQ(f.n_runs, 0);
	queue_begin(&f.q);
	queue_break(&f.q, QUEUE_DEVICE_RULE);
	queue_poll_told(&f.p);
	EQ(loop_run_once(f.l, 0), 0);
	EQ(f.n_runs, 0);
	done(&f);
}

/* Wherever the indices are, and however many chains the driver offers at once. */
TEST(a_hushed_driver_does_not_kick)
{
	struct fixture f;
	open_fixture(&f, VIRTIO_F_EVENT_IDX);
	for (uint32_t at = 0; at <= UINT16_MAX; at += 4369) {
		f.q.n_next_avail = (uint16_t)at;
		queue_hush(&f.q);
		for (uint16_t n = 1; n <= SIZE; n++)
			OK(!would_kick(&f, n));
	}
	f.q.n_next_avail = 0;
	done(&f);
}

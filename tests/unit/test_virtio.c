/* SPDX-License-Identifier: Apache-2.0 */
/* What every virtio device does alike: status, features, queue configuration, start, stop, NEEDS_RESET. */
#include "base/clock.h"
#include "queue_setup.h"
#include "ring.h"
#include "test.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#define ACK VIRTIO_STATUS_ACKNOWLEDGE
#define DRIVER VIRTIO_STATUS_DRIVER
#define FEATURES_OK VIRTIO_STATUS_FEATURES_OK
#define DRIVER_OK VIRTIO_STATUS_DRIVER_OK
#define F_TOY (1ull << 3)

/* A device that gives every chain back at once, and counts. */
struct toy {
	struct virtio_device v;
	_Atomic int n_starts, n_stops, n_resets, n_served;
	int start_fails;
	bool hold;
	struct iovec iov[2][64];
};

static int toy_open(struct virtio_device *v, const void *params, struct err *e)
{
	struct toy *t = (struct toy *)v;
	t->start_fails = params ? *(const int *)params : 0;
	if (t->start_fails == 2)
		return err_set(e, ENOENT, "toy: no such thing");
	memcpy(v->space, "\1\2\3\4", 4);
	return 0;
}

static int toy_start(struct virtio_device *v, unsigned queue, struct err *e)
{
	struct toy *t = (struct toy *)v;
	(void)queue;
	t->n_starts++;
	return t->start_fails == 1 ? err_set(e, EIO, "toy: does not start") : 0;
}

static void toy_stop(struct virtio_device *v, unsigned queue)
{
	(void)queue;
	((struct toy *)v)->n_stops++;
}

static void toy_reset(struct virtio_device *v)
{
	((struct toy *)v)->n_resets++;
}

static void toy_kick(struct virtio_device *v, unsigned queue)
{
	struct toy *t = (struct toy *)v;
	struct chain c = { .iov = t->iov[queue], .n_iov_capacity = 64 };
	if (t->hold) {
		queue_hold(&v->queues[queue]);
		return;
	}
	while (queue_next(&v->queues[queue], &c) > 0) {
		queue_put(&v->queues[queue], &c, c.n_in_bytes);
		t->n_served++;
	}
}

static const struct virtio_class toy_class = {
	.name = "toy", .virtio_id = 99, .n_queues = 2, .features = F_TOY, .n_space_bytes = 4, .size = sizeof(struct toy),
	.queue_size = 16, .open = toy_open, .start = toy_start, .stop = toy_stop, .reset = toy_reset, .kick = toy_kick,
};

static const struct virtio_class toy_threads_class = {
	.name = "toy", .virtio_id = 99, .n_queues = 2, .features = F_TOY, .n_space_bytes = 4, .size = sizeof(struct toy),
	.queue_size = 16, .has_queue_threads = true, .open = toy_open, .start = toy_start, .stop = toy_stop,
	.reset = toy_reset, .kick = toy_kick,
};

static struct toy *toy_of(struct rig *g)
{
	return (struct toy *)g->v;
}

static void offer_one(struct rig *g, unsigned queue, uint16_t head)
{
	ring_put(&g->rings[queue], head, (struct ring_desc){ RING_DATA, 16, DESC_WRITE, 0 });
	ring_offer(&g->rings[queue], head);
}

TEST(a_chain_goes_round_and_signals)
{
	struct rig g;
	struct ring_used u;
	rig_open(&g, &toy_class, NULL, 16);
	rig_start(&g, 0);
	offer_one(&g, 1, 5);
	rig_kick(&g, 1);
	OK(rig_wait_used(&g, 1, 1));
	OK(ring_take(&g.rings[1], &u));
	EQ(u.id, 5);
	EQ(u.len, 16);
	EQ(g.n_queue_signals[1], 1);
	EQ(g.n_queue_signals[0], 0);
	rig_close(&g);
}

TEST(chains_offered_before_driver_ok_are_served_without_a_kick)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	offer_one(&g, 0, 1);
	rig_start(&g, 0);
	OK(rig_wait_used(&g, 0, 1));
	rig_close(&g);
}

TEST(features_not_offered_are_refused_at_features_ok)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	virtio_set_status(g.v, ACK | DRIVER);
	virtio_ack_features(g.v, 0, (uint32_t)F_TOY | 1u << 7);
	virtio_ack_features(g.v, 1, 1);
	virtio_set_status(g.v, ACK | DRIVER | FEATURES_OK);
	EQ(virtio_status(g.v), ACK | DRIVER);
	virtio_ack_features(g.v, 0, (uint32_t)F_TOY); /* a second try may succeed */
	virtio_set_status(g.v, ACK | DRIVER | FEATURES_OK);
	EQ(virtio_status(g.v), ACK | DRIVER | FEATURES_OK);
	virtio_ack_features(g.v, 0, 0); /* too late */
	EQ(virtio_acked_features(g.v, 0), F_TOY);
	rig_close(&g);
}

TEST(version_1_is_required)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	virtio_set_status(g.v, ACK | DRIVER);
	virtio_set_status(g.v, ACK | DRIVER | FEATURES_OK);
	EQ(virtio_status(g.v), ACK | DRIVER);
	rig_close(&g);
}

TEST(the_offer_holds_the_rings_features)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	EQ(virtio_features(g.v, 0), F_TOY | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
	EQ(virtio_features(g.v, 1), 1);
	EQ(virtio_features(g.v, 2), 0);
	EQ(virtio_features(g.v, UINT32_MAX), 0);
	rig_close(&g);
}

TEST(driver_ok_needs_features_ok)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	virtio_set_status(g.v, ACK | DRIVER | DRIVER_OK);
	EQ(virtio_status(g.v), ACK | DRIVER);
	EQ(toy_of(&g)->n_starts, 0);
	rig_close(&g);
}

TEST(status_bits_do_not_go_away_but_by_reset)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	rig_start(&g, 0);
	virtio_set_status(g.v, ACK);
	EQ(virtio_status(g.v), ACK | DRIVER | FEATURES_OK | DRIVER_OK);
	EQ(toy_of(&g)->n_starts, 2);
	virtio_set_status(g.v, 0);
	EQ(virtio_status(g.v), 0);
	EQ(toy_of(&g)->n_stops, 2);
	EQ(toy_of(&g)->n_resets, 1);
	EQ(virtio_acked_features(g.v, 1), 0);
	EQ(virtio_queue_config(g.v, 0, NULL).is_ready, false);
	EQ(virtio_queue_config(g.v, 0, NULL).size, 16);
	rig_close(&g);
}

struct changes {
	char text[64]; /* '+': in use, '-': reset */
};

static void note_change(void *context, const struct virtio_device *v, bool is_active)
{
	struct changes *c = context;
	STR_EQ(v->id, "_test0");
	EQ(pthread_mutex_trylock((pthread_mutex_t *)(uintptr_t)&v->transition), 0); /* under no lock */
	EQ(pthread_mutex_unlock((pthread_mutex_t *)(uintptr_t)&v->transition), 0);
	size_t n = strlen(c->text);
	OK(n + 1 < sizeof c->text);
	c->text[n] = is_active ? '+' : '-';
}

TEST(its_owner_hears_when_a_device_comes_into_use_and_is_reset)
{
	struct rig g;
	struct changes c = { "" };
	rig_open(&g, &toy_class, NULL, 16);
	g.v->changed = note_change;
	g.v->context = &c;
	virtio_set_status(g.v, 0); /* of a device that nobody uses: as drivers begin */
	STR_EQ(c.text, "");
	rig_start(&g, F_TOY);
	STR_EQ(c.text, "+");
	virtio_set_status(g.v, virtio_status(g.v));
	STR_EQ(c.text, "+");
	virtio_set_status(g.v, 0);
	virtio_set_status(g.v, 0);
	STR_EQ(c.text, "+-");
	rig_start(&g, F_TOY);
	STR_EQ(c.text, "+-+");
	rig_close(&g); /* the machine's end is no reset by the driver */
	STR_EQ(c.text, "+-+");
}

TEST(unknown_status_bits_are_ignored)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	virtio_set_status(g.v, 0xffffff00u | ACK);
	EQ(virtio_status(g.v), ACK | VIRTIO_STATUS_FAILED * 0);
	virtio_set_status(g.v, VIRTIO_STATUS_DEVICE_NEEDS_RESET); /* the device's word, not the driver's */
	EQ(virtio_status(g.v), ACK);
	rig_close(&g);
}

TEST(queue_configuration_is_frozen_at_driver_ok)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	rig_start(&g, 0);
	struct queue_config c = ring_config(&g.rings[0]);
	c.size = 4096;
	c.desc = 0;
	OK(!queue_setup(g.v, 0, &c));
	EQ(virtio_queue_config(g.v, 0, NULL).size, 16);
	offer_one(&g, 0, 1);
	rig_kick(&g, 0);
	OK(rig_wait_used(&g, 0, 1));
	rig_close(&g);
}

TEST(a_queues_fields_change_one_by_one)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	static const uint32_t bad_sizes[] = { 0, 3, 15, 17, 32, 0x8000, 0x10000, 0x10008, UINT32_MAX };
	for (size_t i = 0; i < ARRAY_LEN(bad_sizes); i++)
		OK(!virtio_change_queue(g.v, 0, VIRTIO_QUEUE_SIZE, bad_sizes[i]));
	EQ(virtio_queue_config(g.v, 0, NULL).size, 16);
	OK(virtio_change_queue(g.v, 0, VIRTIO_QUEUE_SIZE, 1));
	EQ(virtio_queue_config(g.v, 0, NULL).size, 1);
	OK(virtio_change_queue(g.v, 0, VIRTIO_QUEUE_SIZE, 16));

	OK(virtio_change_queue(g.v, 0, VIRTIO_QUEUE_READY, 1));
	OK(!virtio_change_queue(g.v, 0, VIRTIO_QUEUE_READY, 2));
	EQ(virtio_queue_config(g.v, 0, NULL).is_ready, true);
	OK(virtio_change_queue(g.v, 0, VIRTIO_QUEUE_READY, 0));
	EQ(virtio_queue_config(g.v, 0, NULL).is_ready, false);

	for (uint32_t field = VIRTIO_QUEUE_DESC_LOW; field <= VIRTIO_QUEUE_USED_HIGH; field++)
		OK(virtio_change_queue(g.v, 0, (enum virtio_queue_field)field, 0xa0000000 + field));
	OK(!virtio_change_queue(g.v, 0, VIRTIO_QUEUE_NO_FIELD, 1));
	OK(!virtio_change_queue(g.v, 0, (enum virtio_queue_field)(VIRTIO_QUEUE_USED_HIGH + 1), 1));
	struct queue_config c = virtio_queue_config(g.v, 0, NULL);
	EQ(c.desc, 0xa0000004a0000003);
	EQ(c.avail, 0xa0000006a0000005);
	EQ(c.used, 0xa0000008a0000007);
	EQ(c.size, 16);
	EQ(virtio_queue_config(g.v, 1, NULL).desc, 0);
	rig_close(&g);
}

TEST(queues_that_do_not_exist_are_ignored)
{
	struct rig g;
	unsigned max_size = 7;
	rig_open(&g, &toy_class, NULL, 16);
	OK(!virtio_change_queue(g.v, 2, VIRTIO_QUEUE_SIZE, 8));
	OK(!virtio_change_queue(g.v, UINT32_MAX, VIRTIO_QUEUE_SIZE, 8));
	EQ(virtio_queue_config(g.v, 2, &max_size).size, 0);
	EQ(max_size, 0);
	virtio_kick(g.v, 2);
	virtio_kick(g.v, UINT32_MAX);
	EQ(virtio_kick_fd(g.v, 2), -1);
	rig_close(&g);
}

static void needs_reset(struct rig *g)
{
	EQ(virtio_status(g->v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, VIRTIO_STATUS_DEVICE_NEEDS_RESET);
	OK(g->n_config_signals >= 1);
}

TEST(a_broken_ring_needs_a_reset_and_the_other_queue_lives)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	rig_start(&g, 0);
	ring_offer(&g.rings[0], 16); /* no such head */
	rig_kick(&g, 0);
	rig_turn(&g);
	needs_reset(&g);
	offer_one(&g, 1, 0);
	rig_kick(&g, 1);
	OK(rig_wait_used(&g, 1, 1));

	/* After a reset all is well. */
	virtio_set_status(g.v, 0);
	for (unsigned i = 0; i < 2; i++) {
		OK(mem_fill(&g.mem, GPA(RING_AREA(i)), 0, RING_AREA_BYTES));
		ring_init(&g.rings[i], &g.mem, i, 16);
	}
	rig_start(&g, 0);
	offer_one(&g, 0, 3);
	rig_kick(&g, 0);
	OK(rig_wait_used(&g, 0, 1));
	rig_close(&g);
}

TEST(a_ring_outside_memory_needs_a_reset_at_driver_ok)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	g.rings[1].used = 0xfffffffffffffffc;
	rig_start(&g, 0);
	needs_reset(&g);
	rig_kick(&g, 1);
	rig_turn(&g);
	rig_close(&g);
}

TEST(a_class_that_does_not_start_needs_a_reset)
{
	struct rig g;
	int fails = 1;
	rig_open(&g, &toy_class, &fails, 16);
	rig_start(&g, 0);
	needs_reset(&g);
	rig_close(&g);
}

TEST(a_class_that_does_not_open_is_an_error)
{
	struct mem_map m;
	struct loop *l;
	struct virtio_device *v = NULL;
	struct err e = { 0 };
	int fails = 2;
	ring_memory_new(&m, false);
	EQ(loop_new(&l, NULL), 0);
	struct virtio_params p = { .id = "_toy", .mem = &m, .io_loop = l, .queue_size = 16 };
	EQ(virtio_device_new(&toy_class, &p, &fails, &v, &e), -ENOENT);
	STR_EQ(e.text, "toy: no such thing");
	OK(v == NULL);
	p.queue_size = 24;
	EQ(virtio_device_new(&toy_class, &p, NULL, &v, &e), -EINVAL);
	STR_HAS(e.text, "queue_size 24");
	loop_free(l);
	mem_map_done(&m);
}

TEST(configuration_space_is_bounded)
{
	struct rig g;
	uint8_t b[8];
	rig_open(&g, &toy_class, NULL, 16);
	virtio_space_read(g.v, 0, b, 4);
	MEM_EQ(b, "\1\2\3\4", 4);
	memset(b, 0xff, sizeof b);
	virtio_space_read(g.v, 1, b, 4); /* one byte too far: nothing */
	MEM_EQ(b, "\0\0\0\0", 4);
	virtio_space_read(g.v, UINT64_MAX, b, 8);
	virtio_space_read(g.v, UINT64_MAX - 3, b, 8);
	virtio_space_write(g.v, 0, b, 4); /* not writable */
	virtio_space_read(g.v, 0, b, 1);
	EQ(b[0], 1);
	rig_close(&g);
}

TEST(a_space_update_raises_the_generation_and_tells_a_live_driver)
{
	struct rig g;
	uint8_t b[2];
	rig_open(&g, &toy_class, NULL, 16);
	uint32_t before = virtio_config_generation(g.v);
	virtio_space_update(g.v, 2, "\x55\x66", 2);
	OK(virtio_config_generation(g.v) != before);
	EQ(g.n_config_signals, 0);
	rig_start(&g, 0);
	virtio_space_update(g.v, 2, "\x77\x88", 2);
	EQ(g.n_config_signals, 1);
	virtio_space_read(g.v, 2, b, 2);
	EQ(b[0], 0x77);
	rig_close(&g);
}

TEST(a_held_queue_is_served_when_the_device_comes_again)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	toy_of(&g)->hold = true;
	rig_start(&g, VIRTIO_F_EVENT_IDX);
	offer_one(&g, 0, 2);
	rig_kick(&g, 0);
	rig_turn(&g);
	EQ(ring_used_idx(&g.rings[0]), 0);
	toy_of(&g)->hold = false;
	virtio_kick_again(g.v, 0);
	rig_turn(&g);
	EQ(ring_used_idx(&g.rings[0]), 1);
	rig_close(&g);
}

TEST(more_chains_than_a_run_takes_are_all_served)
{
	struct rig g;
	rig_open(&g, &toy_class, NULL, 16);
	rig_start(&g, VIRTIO_F_EVENT_IDX);
	for (int round = 0; round < 100; round++) {
		for (uint16_t i = 0; i < 16; i++)
			offer_one(&g, 0, i);
		rig_kick(&g, 0);
		OK(rig_wait_used(&g, 0, 16));
		g.rings[0].n_seen = (uint16_t)(g.rings[0].n_seen + 16);
	}
	EQ(toy_of(&g)->n_served, 1600);
	rig_close(&g);
}

TEST(a_paused_device_takes_nothing_and_goes_on_where_it_was)
{
	struct rig g;
	rig_open(&g, &toy_threads_class, NULL, 16);
	rig_start(&g, VIRTIO_F_EVENT_IDX);
	offer_one(&g, 0, 1);
	rig_kick(&g, 0);
	OK(rig_wait_used(&g, 0, 1));
	virtio_device_pause(g.v);
	EQ(toy_of(&g)->n_stops, 2);
	virtio_device_pause(g.v); /* twice is once */
	EQ(toy_of(&g)->n_stops, 2);
	offer_one(&g, 0, 2);
	rig_kick(&g, 0);
	test_sleep_us(20000);
	EQ(toy_of(&g)->n_served, 1);
	virtio_device_resume(g.v);
	OK(rig_wait_used(&g, 0, 2));
	EQ(toy_of(&g)->n_served, 2);

	virtio_device_pause(g.v); /* a reset while paused stops nothing twice */
	virtio_set_status(g.v, 0);
	EQ(toy_of(&g)->n_stops, toy_of(&g)->n_starts);
	rig_close(&g);
}

static void *reset_and_start(void *arg)
{
	struct rig *g = arg;
	for (int i = 0; i < 50; i++) {
		virtio_set_status(g->v, 0);
		virtio_set_status(g->v, ACK | DRIVER);
		virtio_ack_features(g->v, 1, 1);
		virtio_set_status(g->v, ACK | DRIVER | FEATURES_OK);
		struct queue_config c = ring_config(&g->rings[0]);
		(void)queue_setup(g->v, 0, &c); /* refused when the other one was faster */
		virtio_set_status(g->v, ACK | DRIVER | FEATURES_OK | DRIVER_OK);
		virtio_kick(g->v, 0);
	}
	return NULL;
}

/* Two vCPUs that fight over one device, while its queues have threads: for TSan, and for hangs. */
TEST(resets_from_two_vcpus_at_once_are_survived)
{
	struct rig g;
	pthread_t t[2];
	rig_open(&g, &toy_threads_class, NULL, 16);
	for (int i = 0; i < 2; i++)
		EQ(pthread_create(&t[i], NULL, reset_and_start, &g), 0);
	for (int i = 0; i < 2; i++)
		EQ(pthread_join(t[i], NULL), 0);
	virtio_set_status(g.v, 0);
	EQ(toy_of(&g)->n_starts, toy_of(&g)->n_stops);
	rig_close(&g);
}

TEST(queue_threads_serve_and_stop)
{
	struct rig g;
	rig_open(&g, &toy_threads_class, NULL, 16);
	for (int round = 0; round < 3; round++) {
		rig_start(&g, 0);
		offer_one(&g, 1, 1);
		rig_kick(&g, 1);
		OK(rig_wait_used(&g, 1, 1));
		virtio_set_status(g.v, 0);
		OK(mem_fill(&g.mem, GPA(RING_AREA(1)), 0, RING_AREA_BYTES));
		ring_init(&g.rings[1], &g.mem, 1, 16);
	}
	rig_close(&g);
}

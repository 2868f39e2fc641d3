/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over MMIO against the device requirements of virtio 1.2, 4.2.2.1. */
#include "transport_kit.h"
#include "virtio/mmio.h"

#include <errno.h>

#define AT 0xfec20000ull
#define PIN 10u

static struct virtio_mmio *transport;

static void machine_init(struct bench *b)
{
	bench_init(b);
	EQ(virtio_mmio_new(b->v, &b->bus, AT, &b->router, PIN, &b->vm, &transport, NULL), 0);
}

static void machine_done(struct bench *b)
{
	virtio_mmio_free(transport);
	bench_done(b);
}

static uint32_t rd(struct bench *b, unsigned offset)
{
	return (uint32_t)get(b, AT + offset, 4);
}

static void wr(struct bench *b, unsigned offset, uint32_t v)
{
	set(b, AT + offset, 4, v);
}

static uint64_t n_edges(struct bench *b)
{
	return drain(fake_irqfd_of(&b->vm, PIN));
}

/* As Linux's driver starts a device with one queue. */
static void start(struct bench *b, struct ring *r)
{
	wr(b, 0x70, 0);
	wr(b, 0x70, 1);
	wr(b, 0x70, 3);
	wr(b, 0x24, 1);
	wr(b, 0x20, 1);
	wr(b, 0x24, 0);
	wr(b, 0x20, 0);
	wr(b, 0x70, 11);
	EQ(rd(b, 0x70), 11);
	wr(b, 0x30, 0);
	EQ(rd(b, 0x44), 0);
	EQ(rd(b, 0x34), TOY_QUEUE_SIZE);
	ring_init(r, &b->mem, 0, 8);
	wr(b, 0x38, 8);
	wr(b, 0x80, (uint32_t)r->desc);
	wr(b, 0x84, (uint32_t)(r->desc >> 32));
	wr(b, 0x90, (uint32_t)r->avail);
	wr(b, 0x94, (uint32_t)(r->avail >> 32));
	wr(b, 0xa0, (uint32_t)r->used);
	wr(b, 0xa4, (uint32_t)(r->used >> 32));
	wr(b, 0x44, 1);
	EQ(rd(b, 0x44), 1);
	wr(b, 0x70, 15);
	EQ(rd(b, 0x70), 15);
}

TEST(identity)
{
	struct bench b;
	machine_init(&b);
	EQ(rd(&b, 0x00), 0x74726976);
	EQ(rd(&b, 0x04), 2);
	EQ(rd(&b, 0x08), TOY_ID);
	EQ(rd(&b, 0x0c), 0x4e524156);
	EQ(rd(&b, 0x70), 0);
	EQ(b.bus.ranges[0].start, AT);
	STR_EQ(b.bus.ranges[0].name, "_toy0");
	machine_done(&b);
}

TEST(feature_words)
{
	struct bench b;
	machine_init(&b);
	wr(&b, 0x14, 0);
	EQ(rd(&b, 0x10), 1u << 3 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
	wr(&b, 0x14, 1);
	EQ(rd(&b, 0x10), 1u << 8 | 1);
	wr(&b, 0x14, 2);
	EQ(rd(&b, 0x10), 0);
	wr(&b, 0x14, 0xffffffff);
	EQ(rd(&b, 0x10), 0);
	wr(&b, 0x70, 3);
	wr(&b, 0x24, 1);
	wr(&b, 0x20, 1);
	wr(&b, 0x24, 0);
	wr(&b, 0x20, 8);
	EQ(b.v->acked, 1ull << 32 | 8);
	machine_done(&b);
}

TEST(queue_registers)
{
	struct bench b;
	machine_init(&b);
	wr(&b, 0x30, 2);
	EQ(rd(&b, 0x34), TOY_QUEUE_SIZE);
	const uint32_t bad[] = { 0, 3, 32, 0x10008, 0x80000000 };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		wr(&b, 0x38, bad[i]);
		EQ(b.v->queues[2].config.size, TOY_QUEUE_SIZE);
	}
	wr(&b, 0x38, 4);
	wr(&b, 0x80, 0x11111110);
	wr(&b, 0x84, 0x22222222);
	wr(&b, 0x90, 0x33333330);
	wr(&b, 0x94, 0x44444444);
	wr(&b, 0xa0, 0x55555550);
	wr(&b, 0xa4, 0x66666666);
	const struct queue_config *c = &b.v->queues[2].config;
	EQ(c->size, 4);
	EQ(c->desc, 0x2222222211111110);
	EQ(c->avail, 0x4444444433333330);
	EQ(c->used, 0x6666666655555550);
	OK(!c->is_ready);
	wr(&b, 0x44, 2);
	OK(!c->is_ready);
	wr(&b, 0x44, 1);
	OK(c->is_ready);
	EQ(rd(&b, 0x44), 1);
	wr(&b, 0x44, 0);
	EQ(rd(&b, 0x44), 0);
	/* The write-only ones read zeroes. */
	EQ(rd(&b, 0x80), 0);
	EQ(rd(&b, 0x38), 0);
	EQ(rd(&b, 0x30), 0);
	machine_done(&b);
}

TEST(queue_select_out_of_range)
{
	struct bench b;
	machine_init(&b);
	const uint32_t selects[] = { TOY_QUEUES, 64, 0x10000, 0xffffffff };
	for (size_t i = 0; i < ARRAY_LEN(selects); i++) {
		wr(&b, 0x30, selects[i]);
		EQ(rd(&b, 0x34), 0);
		EQ(rd(&b, 0x44), 0);
		wr(&b, 0x38, 4);
		wr(&b, 0x80, 0x1000);
		wr(&b, 0x44, 1);
		EQ(rd(&b, 0x44), 0);
		wr(&b, 0x50, selects[i]);
	}
	EQ(b.vm.n_ioevent_calls, 0);
	for (unsigned i = 0; i < TOY_QUEUES; i++) {
		OK(!b.v->queues[i].config.is_ready);
		EQ(b.v->queues[i].config.size, TOY_QUEUE_SIZE);
	}
	machine_done(&b);
}

TEST(control_registers_by_other_widths_do_nothing)
{
	struct bench b;
	machine_init(&b);
	const struct { unsigned offset, n_bytes; } accesses[] = {
		{ 0x00, 1 }, { 0x00, 2 }, { 0x00, 8 }, { 0x02, 4 }, { 0x01, 4 }, { 0x70, 1 }, { 0x6c, 8 }, { 0xfc, 8 }, { 0xff, 2 },
	};
	for (size_t i = 0; i < ARRAY_LEN(accesses); i++) {
		EQ(get(&b, AT + accesses[i].offset, accesses[i].n_bytes), 0);
		set(&b, AT + accesses[i].offset, accesses[i].n_bytes, 0x0101010101010101);
		EQ(rd(&b, 0x70), 0);
	}
	machine_done(&b);
}

TEST(unknown_and_read_only_registers)
{
	struct bench b;
	machine_init(&b);
	for (unsigned offset = 0; offset < 0x100; offset += 4) {
		if (offset == 0x70 || offset == 0x50)
			continue;
		wr(&b, offset, 0x10);
	}
	EQ(rd(&b, 0x00), 0x74726976);
	EQ(rd(&b, 0x40), 0);
	EQ(rd(&b, 0xc0), 0); /* QueueReset is not offered */
	EQ(rd(&b, 0xf8), 0);
	EQ(rd(&b, 0x60), 0);
	machine_done(&b);
}

TEST(no_shared_memory)
{
	struct bench b;
	machine_init(&b);
	for (unsigned id = 0; id < 2; id++) {
		wr(&b, 0xac, id);
		for (unsigned offset = 0xb0; offset <= 0xbc; offset += 4)
			EQ(rd(&b, offset), 0xffffffff);
	}
	machine_done(&b);
}

TEST(configuration_space)
{
	struct bench b;
	machine_init(&b);
	EQ(get(&b, AT + 0x100, 1), 0x10);
	EQ(get(&b, AT + 0x101, 1), 0x11);
	EQ(get(&b, AT + 0x102, 2), 0x1312);
	EQ(get(&b, AT + 0x104, 4), 0x17161514);
	EQ(get(&b, AT + 0x104, 8), 0x1b1a191817161514);
	EQ(get(&b, AT + 0x10a, 4), 0); /* crosses the end */
	EQ(get(&b, AT + 0x10c, 1), 0);
	EQ(get(&b, AT + 0xffc, 4), 0);
	set(&b, AT + 0x108, 4, 0xaabbccdd);
	EQ(get(&b, AT + 0x108, 4), 0xaabbccdd);
	uint32_t before = rd(&b, 0xfc);
	virtio_space_update(b.v, 0, "\x77", 1);
	OK(rd(&b, 0xfc) != before);
	EQ(get(&b, AT + 0x100, 1), 0x77);
	machine_done(&b);
}

TEST(life_of_a_buffer)
{
	struct bench b;
	struct ring r;
	struct ring_used u;
	machine_init(&b);
	start(&b, &r);
	turn(&b);
	EQ(n_edges(&b), 0);

	/* The first kick comes by the register, and binds its event. */
	offer_buffer(&r);
	wr(&b, 0x50, 0);
	EQ(b.vm.n_ioevents, 1);
	EQ(b.vm.ioevents[0].space, HV_SPACE_MMIO);
	EQ(b.vm.ioevents[0].address, AT + 0x50);
	EQ(b.vm.ioevents[0].n_bytes, 4);
	OK(b.vm.ioevents[0].has_datamatch);
	EQ(b.vm.ioevents[0].datamatch, 0);
	EQ(b.vm.ioevents[0].event_fd, virtio_kick_fd(b.v, 0));
	turn(&b);
	OK(ring_take(&r, &u));
	EQ(u.len, 64);
	EQ(rd(&b, 0x60), 1);
	EQ(n_edges(&b), 1);
	wr(&b, 0x64, 1);
	EQ(rd(&b, 0x60), 0);
	EQ(n_edges(&b), 0);

	wr(&b, 0x50, 0);
	EQ(b.vm.n_ioevent_calls, 1);
	wr(&b, 0x50, 2);
	EQ(b.vm.n_ioevents, 2);
	EQ(b.vm.ioevents[1].datamatch, 2);
	machine_done(&b);
}

TEST(kicks_stay_slow_when_the_engine_refuses)
{
	struct bench b;
	struct ring r;
	struct ring_used u;
	machine_init(&b);
	start(&b, &r);
	b.vm.ioevent_rc = -ENOSPC;
	offer_buffer(&r);
	wr(&b, 0x50, 0);
	wr(&b, 0x50, 0);
	EQ(b.vm.n_ioevent_calls, 1);
	turn(&b);
	OK(ring_take(&r, &u));
	machine_done(&b);
}

TEST(no_edge_is_lost)
{
	struct bench b;
	struct ring r;
	machine_init(&b);
	start(&b, &r);
	turn(&b);

	/* A configuration change between the driver's look and its acknowledgement. */
	b.v->ops->signal_queue(b.v->transport, 0);
	EQ(n_edges(&b), 1);
	EQ(rd(&b, 0x60), 1);
	virtio_space_update(b.v, 0, "x", 1);
	EQ(n_edges(&b), 1);
	EQ(rd(&b, 0x60), 3);
	wr(&b, 0x64, 1);
	EQ(rd(&b, 0x60), 2);
	EQ(n_edges(&b), 1);
	wr(&b, 0x64, 0xffffffff);
	EQ(rd(&b, 0x60), 0);
	EQ(n_edges(&b), 0);

	/* An edge that got lost does not silence the device: the next event makes another. */
	b.v->ops->signal_queue(b.v->transport, 0);
	EQ(n_edges(&b), 1);
	b.v->ops->signal_queue(b.v->transport, 0);
	EQ(n_edges(&b), 1);
	machine_done(&b);
}

TEST(reset_clears_interrupts_queues_and_selectors)
{
	struct bench b;
	struct ring r;
	machine_init(&b);
	start(&b, &r);
	b.v->ops->signal_queue(b.v->transport, 0);
	wr(&b, 0x30, 1);
	wr(&b, 0x14, 1);
	wr(&b, 0x70, 0);
	EQ(rd(&b, 0x70), 0);
	EQ(rd(&b, 0x60), 0);
	EQ(rd(&b, 0x10), 1u << 3 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
	for (unsigned i = 0; i < TOY_QUEUES; i++) {
		wr(&b, 0x30, i);
		EQ(rd(&b, 0x44), 0);
	}
	OK(!b.v->is_started);
	start(&b, &r);
	machine_done(&b);
}

TEST(broken_ring_asks_for_a_reset)
{
	struct bench b;
	struct ring r;
	machine_init(&b);
	start(&b, &r);
	turn(&b);
	ring_set_avail_idx(&r, 1000);
	wr(&b, 0x50, 0);
	turn(&b);
	EQ(rd(&b, 0x70) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, VIRTIO_STATUS_DEVICE_NEEDS_RESET);
	EQ(rd(&b, 0x60) & 2, 2);
	EQ(n_edges(&b), 1);
	machine_done(&b);
}

TEST(place_and_pin_must_be_free)
{
	struct bench b;
	struct virtio_mmio *other;
	struct err e = { 0 };
	machine_init(&b);
	EQ(virtio_mmio_new(b.v, &b.bus, AT + 0x800, &b.router, PIN + 1, NULL, &other, &e), -EEXIST);
	EQ(b.router.is_used[PIN + 1], 0);
	EQ(virtio_mmio_new(b.v, &b.bus, AT + 0x1000, &b.router, IRQ_N_PINS, NULL, &other, &e), -EINVAL);
	EQ(rd(&b, 0x00), 0x74726976);
	machine_done(&b);
}

/* Two vCPUs program while the device's loop signals. */
static void *program(void *arg)
{
	struct bench *b = arg;
	for (unsigned i = 0; i < 200; i++) {
		wr(b, 0x70, i % 16 ? 11 : 0);
		wr(b, 0x30, i % 4);
		wr(b, 0x38, 4);
		wr(b, 0x80, (uint32_t)(RING_AREA(0)));
		wr(b, 0x44, i % 2);
		(void)rd(b, 0x44);
		wr(b, 0x50, i % 4);
		wr(b, 0x64, rd(b, 0x60));
	}
	return NULL;
}

static void *signal_often(void *arg)
{
	struct bench *b = arg;
	for (unsigned i = 0; i < 500; i++) {
		b->v->ops->signal_queue(b->v->transport, i % TOY_QUEUES);
		virtio_space_update(b->v, i % TOY_SPACE_BYTES, "y", 1);
	}
	return NULL;
}

TEST(vcpus_race)
{
	static struct bench b;
	pthread_t threads[3];
	machine_init(&b);
	EQ(pthread_create(&threads[0], NULL, program, &b), 0);
	EQ(pthread_create(&threads[1], NULL, program, &b), 0);
	EQ(pthread_create(&threads[2], NULL, signal_often, &b), 0);
	for (unsigned i = 0; i < 3; i++)
		EQ(pthread_join(threads[i], NULL), 0);
	wr(&b, 0x70, 0);
	EQ(rd(&b, 0x60), 0);
	machine_done(&b);
}

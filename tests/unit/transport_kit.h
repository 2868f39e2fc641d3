/* SPDX-License-Identifier: Apache-2.0 */
/* transport_kit.h - a virtio device that gives back what it gets, for the tests of its transports. One include a program. */
#pragma once
#include "base/bytes.h"
#include "base/checked.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "fake_hv.h"
#include "ring.h"
#include "test.h"

#include <stdatomic.h>
#include <unistd.h>

#define TOY_ID 42u
#define TOY_QUEUES 3u
#define TOY_QUEUE_SIZE 16u
#define TOY_SPACE_BYTES 12u
#define TOY_FEATURES (1ull << 3 | 1ull << 40)

struct toy {
	struct virtio_device v;
	_Atomic unsigned n_kicks[TOY_QUEUES];
	struct iovec iov[TOY_QUEUES][TOY_QUEUE_SIZE];
};

static inline int toy_open(struct virtio_device *v, const void *params, struct err *e)
{
	(void)params;
	(void)e;
	for (unsigned i = 0; i < TOY_SPACE_BYTES; i++)
		v->space[i] = (uint8_t)(0x10 + i);
	return 0;
}

static inline void toy_kick(struct virtio_device *v, unsigned queue)
{
	struct toy *t = (struct toy *)v;
	struct chain c = { .iov = t->iov[queue], .n_iov_capacity = TOY_QUEUE_SIZE };
	t->n_kicks[queue]++;
	while (queue_next(&v->queues[queue], &c) > 0)
		queue_put(&v->queues[queue], &c, c.n_in_bytes);
}

static inline bool toy_space_write(struct virtio_device *v, unsigned offset, const uint8_t *bytes, unsigned n_bytes)
{
	memcpy(v->space + offset, bytes, n_bytes);
	return true;
}

static const struct virtio_class toy_class = {
	.name = "toy", .virtio_id = TOY_ID, .n_queues = TOY_QUEUES, .features = TOY_FEATURES,
	.n_space_bytes = TOY_SPACE_BYTES, .size = sizeof(struct toy), .queue_size = TOY_QUEUE_SIZE, .open = toy_open,
	.kick = toy_kick, .space_write = toy_space_write,
};

/* All but the transport. */
struct bench {
	struct hv_vm vm;
	struct irq_router router;
	struct bus bus;
	struct mem_map mem;
	struct loop *loop;
	struct toy *toy;
	struct virtio_device *v;
};

static inline void bench_init(struct bench *b)
{
	*b = (struct bench){ .vm = FAKE_VM };
	EQ(irq_router_init(&b->router, &b->vm, HV_IRQCHIP_KERNEL, NULL, NULL), 0);
	bus_init(&b->bus);
	ring_memory_new(&b->mem, false);
	EQ(loop_new(&b->loop, NULL), 0);
	const struct virtio_params p = { .id = "_toy0", .mem = &b->mem, .io_loop = b->loop };
	EQ(virtio_device_new(&toy_class, &p, NULL, &b->v, NULL), 0);
	b->toy = (struct toy *)b->v;
}

static inline void bench_done(struct bench *b)
{
	virtio_device_free(b->v);
	loop_free(b->loop);
	mem_map_done(&b->mem);
	EQ(b->bus.n_ranges, 0);
	bus_done(&b->bus);
	irq_router_done(&b->router);
	EQ(b->vm.n_irqfds, 0);
	EQ(b->vm.n_ioevents, 0);
}

static inline uint64_t get(struct bench *b, uint64_t address, unsigned n_bytes)
{
	uint8_t bytes[8] = { 0 };
	(void)bus_read(&b->bus, address, bytes, n_bytes);
	return get_le(bytes, n_bytes);
}

static inline void set(struct bench *b, uint64_t address, unsigned n_bytes, uint64_t v)
{
	uint8_t bytes[8];
	put_le(bytes, n_bytes, v);
	(void)bus_write(&b->bus, address, bytes, n_bytes);
}

static inline uint64_t drain(int fd)
{
	uint64_t n = 0;
	return read(fd, &n, sizeof n) == sizeof n ? n : 0;
}

/* One buffer for the device to fill. */
static inline void offer_buffer(struct ring *r)
{
	ring_put(r, 0, (struct ring_desc){ .addr = RING_DATA, .len = 64, .flags = DESC_WRITE });
	ring_offer(r, 0);
}

static inline void turn(struct bench *b)
{
	for (unsigned i = 0; i < 4; i++)
		(void)loop_run_once(b->loop, 0);
}

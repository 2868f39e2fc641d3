/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_transport.h - a virtio device behind the transport under test, with rings in a small memory that the input may
 * write. One include a program. */
#pragma once
#include "fuzz_bus.h"
#include "loop/loop.h"
#include "mem/mem.h"
#include "virtio/virtio.h"

#define TOY_QUEUES 2u
#define TOY_QUEUE_SIZE 8u
#define TOY_SPACE_BYTES 12u
#define MEMORY_BYTES 0x4000u

struct toy {
	struct virtio_device v;
	bool is_running[TOY_QUEUES];
	struct iovec iov[TOY_QUEUES][TOY_QUEUE_SIZE];
};

static inline int toy_start(struct virtio_device *v, unsigned queue, struct err *e)
{
	struct toy *t = (struct toy *)v;
	(void)e;
	MUST(!t->is_running[queue]);
	t->is_running[queue] = true;
	return 0;
}

static inline void toy_stop(struct virtio_device *v, unsigned queue)
{
	((struct toy *)v)->is_running[queue] = false;
}

static inline void toy_reset(struct virtio_device *v)
{
	for (unsigned i = 0; i < TOY_QUEUES; i++)
		MUST(!((struct toy *)v)->is_running[i]);
}

static inline void toy_kick(struct virtio_device *v, unsigned queue)
{
	struct toy *t = (struct toy *)v;
	struct chain c = { .iov = t->iov[queue], .n_iov_capacity = TOY_QUEUE_SIZE };
	MUST(t->is_running[queue]);
	while (queue_next(&v->queues[queue], &c) > 0)
		queue_put(&v->queues[queue], &c, c.n_in_bytes);
}

static inline bool toy_space_write(struct virtio_device *v, unsigned offset, const uint8_t *bytes, unsigned n_bytes)
{
	MUST(offset + n_bytes <= TOY_SPACE_BYTES);
	memcpy(v->space + offset, bytes, n_bytes);
	return true;
}

static const struct virtio_class toy_class = {
	.name = "toy", .virtio_id = 42, .n_queues = TOY_QUEUES, .n_space_bytes = TOY_SPACE_BYTES, .size = sizeof(struct toy),
	.queue_size = TOY_QUEUE_SIZE, .start = toy_start, .stop = toy_stop, .reset = toy_reset, .kick = toy_kick,
	.space_write = toy_space_write,
};

struct guest {
	struct mem_map mem;
	struct loop *loop;
	struct virtio_device *v;
};

static inline void guest_init(struct guest *g)
{
	const struct mem_region_params p = { .start = GPA(0), .n_bytes = MEMORY_BYTES, .zone = "" };
	mem_map_init(&g->mem);
	MUST(mem_map_add(&g->mem, &p, NULL) == 0);
	MUST(loop_new(&g->loop, NULL) == 0);
	const struct virtio_params v = { .id = "_toy0", .mem = &g->mem, .io_loop = g->loop, .log_sink = &nowhere };
	MUST(virtio_device_new(&toy_class, &v, NULL, &g->v, NULL) == 0);
}

static inline void guest_done(struct guest *g)
{
	virtio_device_free(g->v);
	loop_free(g->loop);
	mem_map_done(&g->mem);
}

/* What is not a register access: memory, the loop's turn, the device's own events. */
static inline void guest_step(struct guest *g, unsigned what, struct input *in)
{
	uint8_t bytes[16];
	switch (what % 4) {
	case 0:
		for (unsigned i = 0; i < sizeof bytes; i++)
			bytes[i] = (uint8_t)take(in, 1);
		(void)mem_write(&g->mem, GPA(16 * (take(in, 1))), bytes, sizeof bytes);
		break;
	case 1:
		(void)loop_run_once(g->loop, 0);
		break;
	case 2:
		g->v->ops->signal_queue(g->v->transport, what / 4 % TOY_QUEUES);
		break;
	default:
		virtio_space_update(g->v, what / 4 % TOY_SPACE_BYTES, "\x33", 1);
		break;
	}
}

static inline void guest_check(struct guest *g)
{
	uint32_t status = virtio_status(g->v);
	MUST(!(status & ~0xcfu));
	/* 3.1.1: no queue runs without DRIVER_OK. */
	for (unsigned i = 0; i < TOY_QUEUES; i++)
		MUST(!((struct toy *)g->v)->is_running[i] || (status & VIRTIO_STATUS_DRIVER_OK));
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "ring.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "queue_setup.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* assert() would say less and is not meant for tests' own failures. */
static void must(bool ok, const char *what)
{
	if (!ok) {
		printf("# test rig: %s\n", what);
		fflush(stdout);
		abort();
	}
}

void ring_memory_new(struct mem_map *m, bool is_shared)
{
	mem_map_init(m);
	struct mem_region_params p = {
		.start = GPA(RING_MEMORY_START), .n_bytes = RING_MEMORY_BYTES, .is_shared = is_shared,
	};
	must(mem_map_add(m, &p, NULL) == 0, "no memory");
}

void ring_init(struct ring *r, struct mem_map *m, unsigned index, uint16_t size)
{
	must(index < RING_MAX_QUEUES && size <= 1024, "ring does not fit its area");
	memset(r, 0, sizeof *r);
	r->mem = m;
	r->size = size;
	r->desc = RING_AREA(index);
	r->avail = r->desc + 0x8000;
	r->used = r->desc + 0x10000;
}

struct queue_config ring_config(const struct ring *r)
{
	return (struct queue_config){
		.size = r->size, .is_ready = true, .desc = r->desc, .avail = r->avail, .used = r->used,
	};
}

void ring_put_at(struct ring *r, uint64_t table, uint16_t index, struct ring_desc d)
{
	uint8_t b[16];
	put_le64(b, d.addr);
	put_le32(b + 8, d.len);
	put_le16(b + 12, d.flags);
	put_le16(b + 14, d.next);
	must(mem_write(r->mem, GPA(table + 16ull * index), b, sizeof b), "descriptor outside memory");
}

void ring_put(struct ring *r, uint16_t index, struct ring_desc d)
{
	ring_put_at(r, r->desc, index, d);
}

void ring_set_avail_idx(struct ring *r, uint16_t idx)
{
	struct span s;
	must(mem_span(r->mem, GPA(r->avail), 4, &s), "ring outside memory");
	span_store_le16(s, 2, idx);
	r->n_offered = idx;
}

void ring_offer(struct ring *r, uint16_t head)
{
	uint8_t b[2];
	put_le16(b, head);
	must(mem_write(r->mem, GPA(r->avail + 4 + 2ull * (r->n_offered % r->size)), b, 2), "ring outside memory");
	ring_set_avail_idx(r, (uint16_t)(r->n_offered + 1));
}

uint16_t ring_used_idx(const struct ring *r)
{
	struct span s;
	must(mem_span(r->mem, GPA(r->used), 4, &s), "ring outside memory");
	return span_load_le16(s, 2);
}

bool ring_take(struct ring *r, struct ring_used *ret_u)
{
	if (ring_used_idx(r) == r->n_seen)
		return false;
	uint8_t b[8];
	must(mem_read(r->mem, GPA(r->used + 4 + 8ull * (r->n_seen % r->size)), b, sizeof b), "ring outside memory");
	*ret_u = (struct ring_used){ .id = get_le32(b), .len = get_le32(b + 4) };
	r->n_seen++;
	return true;
}

static void signal_queue(void *transport, unsigned queue)
{
	struct rig *g = transport;
	if (queue < RING_MAX_QUEUES)
		g->n_queue_signals[queue]++;
}

static void signal_config(void *transport)
{
	struct rig *g = transport;
	g->n_config_signals++;
}

static const struct virtio_transport_ops rig_ops = { .signal_queue = signal_queue, .signal_config = signal_config };

int rig_open_here(struct rig *g, const struct virtio_class *cls, const void *params, uint16_t queue_size, struct err *e)
{
	must(loop_new(&g->loop, NULL) == 0, "no loop");
	struct virtio_params p = { .id = "_test0", .mem = &g->mem, .io_loop = g->loop, .queue_size = queue_size };
	int rc = virtio_device_new(cls, &p, params, &g->v, e);
	if (rc < 0)
		return rc;
	virtio_bind_transport(g->v, &rig_ops, g);
	for (unsigned i = 0; i < g->v->n_queues && i < RING_MAX_QUEUES; i++)
		ring_init(&g->rings[i], &g->mem, i, queue_size);
	return 0;
}

void rig_open(struct rig *g, const struct virtio_class *cls, const void *params, uint16_t queue_size)
{
	struct err e = { 0 };
	memset(g, 0, sizeof *g);
	ring_memory_new(&g->mem, false);
	must(rig_open_here(g, cls, params, queue_size, &e) == 0, e.text);
}

int rig_open_shared(struct rig *g, const struct virtio_class *cls, const void *params, uint16_t queue_size, struct err *e)
{
	memset(g, 0, sizeof *g);
	ring_memory_new(&g->mem, true);
	int rc = rig_open_here(g, cls, params, queue_size, e);
	if (rc < 0)
		rig_close(g);
	return rc;
}

void rig_start_queues(struct rig *g, uint64_t features, unsigned n_queues)
{
	features |= VIRTIO_F_VERSION_1;
	virtio_set_status(g->v, VIRTIO_STATUS_ACKNOWLEDGE);
	virtio_set_status(g->v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	virtio_ack_features(g->v, 0, (uint32_t)features);
	virtio_ack_features(g->v, 1, (uint32_t)(features >> 32));
	virtio_set_status(g->v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
	for (unsigned i = 0; i < n_queues; i++) {
		g->rings[i].has_event_idx = (features & VIRTIO_F_EVENT_IDX) != 0;
		struct queue_config c = ring_config(&g->rings[i]);
		must(queue_setup(g->v, i, &c), "the queue's configuration was refused");
	}
	virtio_set_status(g->v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |
	                                VIRTIO_STATUS_DRIVER_OK);
}

void rig_start(struct rig *g, uint64_t features)
{
	rig_start_queues(g, features, g->v->n_queues < RING_MAX_QUEUES ? g->v->n_queues : RING_MAX_QUEUES);
	must((virtio_status(g->v) & VIRTIO_STATUS_DRIVER_OK) != 0, "the device refused DRIVER_OK");
}

void rig_kick(struct rig *g, unsigned queue)
{
	virtio_kick(g->v, queue);
}

void rig_turn(struct rig *g)
{
	for (int i = 0; i < 64 && loop_run_once(g->loop, 0) > 0; i++)
		;
}

bool rig_wait_used(struct rig *g, unsigned queue, unsigned n)
{
	struct ring *r = &g->rings[queue];
	uint64_t end = clock_now_ns() + 5 * NS_PER_S;
	while ((uint16_t)(ring_used_idx(r) - r->n_seen) < n) {
		if (clock_now_ns() > end)
			return false;
		(void)loop_run_once(g->loop, 1);
	}
	return true;
}

void rig_close(struct rig *g)
{
	virtio_device_free(g->v);
	loop_free(g->loop);
	mem_map_done(&g->mem);
}

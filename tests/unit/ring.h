/* SPDX-License-Identifier: Apache-2.0 */
/* ring.h - the driver's side of a virtqueue, for tests and fuzz targets: a small guest memory with one ring in it, and a
 * device under test on the calling thread's loop.
 *
 * Layout of the 1 MiB at guest-physical 0x10000: queue i's descriptors, available and used rings at RING_AREA(i), data
 * from RING_DATA on. Nothing here is hostile by itself; tests write whatever they like with mem_write(). */
#pragma once
#include "loop/loop.h"
#include "mem/mem.h"
#include "virtio/virtio.h"

#define RING_MEMORY_START 0x10000ull
#define RING_MEMORY_BYTES (4ull << 20)
#define RING_MAX_QUEUES 8u
#define RING_AREA_BYTES 0x20000ull
#define RING_AREA(i) (RING_MEMORY_START + (i)*RING_AREA_BYTES)
#define RING_DATA (RING_MEMORY_START + RING_MAX_QUEUES * RING_AREA_BYTES)

#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u

struct ring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct ring_used {
	uint32_t id, len;
};

/* The driver's view of one queue. */
struct ring {
	struct mem_map *mem;
	uint16_t size;
	uint64_t desc, avail, used;
	uint16_t n_offered; /* avail.idx as we wrote it */
	uint16_t n_seen;    /* used elements taken */
	bool has_event_idx;
};

/* A device with its memory, its loop and a transport that counts signals. */
struct rig {
	struct mem_map mem;
	struct loop *loop;
	struct virtio_device *v;
	struct ring rings[RING_MAX_QUEUES];
	_Atomic unsigned n_queue_signals[RING_MAX_QUEUES];
	_Atomic unsigned n_config_signals;
};

void ring_memory_new(struct mem_map *m, bool is_shared);
/* A started-to-be ring: addresses by RING_AREA(index), indices 0. */
void ring_init(struct ring *r, struct mem_map *m, unsigned index, uint16_t size);
struct queue_config ring_config(const struct ring *r);
void ring_put(struct ring *r, uint16_t index, struct ring_desc d);
void ring_put_at(struct ring *r, uint64_t table, uint16_t index, struct ring_desc d); /* into an indirect table */
void ring_offer(struct ring *r, uint16_t head);
void ring_set_avail_idx(struct ring *r, uint16_t idx);
uint16_t ring_used_idx(const struct ring *r);
bool ring_take(struct ring *r, struct ring_used *ret_u); /* the next used element, if any */

/* Opens the device on a loop of the calling thread, with rings of queue_size for all its queues. */
void rig_open(struct rig *g, const struct virtio_class *cls, const void *params, uint16_t queue_size);
/* As that, with memory that other processes can map; the device's own error when it cannot be made: nothing is open then. */
int rig_open_shared(struct rig *g, const struct virtio_class *cls, const void *params, uint16_t queue_size, struct err *e);
/* In memory that is there already, in a rig of zeroes. */
int rig_open_here(struct rig *g, const struct virtio_class *cls, const void *params, uint16_t queue_size, struct err *e);
/* ACKNOWLEDGE to DRIVER_OK with these features (VERSION_1 is added). */
void rig_start(struct rig *g, uint64_t features);
void rig_start_queues(struct rig *g, uint64_t features, unsigned n_queues);
void rig_kick(struct rig *g, unsigned queue);
/* Turns the shared loop until queue has n more used elements, or about 5 s have passed (false). With devices that have
 * queue threads it only waits. */
bool rig_wait_used(struct rig *g, unsigned queue, unsigned n);
void rig_turn(struct rig *g); /* handles what is ready now */
void rig_close(struct rig *g);

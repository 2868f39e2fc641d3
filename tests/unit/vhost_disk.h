/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_disk.h - a vhost-user disk with a driver, for tests: many requests at once, each in three descriptors of its own. */
#pragma once
#include "base/bytes.h"
#include "base/clock.h"
#include "device/vhost_user_blk.h"
#include "ring.h"
#include "test.h"

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4 };

#define SECTOR 512u
#define DISK_QUEUE_SIZE 64u
#define DISK_SLOTS (DISK_QUEUE_SIZE / 3) /* requests at once, of a queue */

struct vhost_disk {
	struct rig g;
	bool is_busy[RING_MAX_QUEUES][DISK_SLOTS];
	unsigned n_busy;
};

/* Where a queue's slot has its header, status and data. */
static inline uint64_t slot_at(unsigned queue, unsigned slot)
{
	return RING_DATA + (queue * DISK_SLOTS + slot) * 0x1000ull;
}

static inline uint64_t slot_data(unsigned queue, unsigned slot)
{
	return slot_at(queue, slot) + 0x400;
}

static inline int disk_try(struct vhost_disk *d, const char *socket, unsigned n_queues, bool is_readonly, struct err *e)
{
	struct vhost_user_blk_params p = {
		.common = { .socket = socket, .n_queues = n_queues }, .is_readonly = is_readonly,
	};
	memset(d->is_busy, 0, sizeof d->is_busy);
	d->n_busy = 0;
	return rig_open_shared(&d->g, &vhost_user_blk, &p, DISK_QUEUE_SIZE, e);
}

static inline void disk_new(struct vhost_disk *d, const char *socket, unsigned n_queues)
{
	struct err e = { 0 };
	if (disk_try(d, socket, n_queues, false, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	rig_start(&d->g, d->g.v->offered);
}

/* A driver that starts over. */
static inline void disk_restart(struct vhost_disk *d)
{
	virtio_set_status(d->g.v, 0);
	for (unsigned i = 0; i < d->g.v->n_queues; i++) {
		OK(mem_fill(&d->g.mem, GPA(RING_AREA(i)), 0, RING_AREA_BYTES));
		ring_init(&d->g.rings[i], &d->g.mem, i, DISK_QUEUE_SIZE);
	}
	memset(d->is_busy, 0, sizeof d->is_busy);
	d->n_busy = 0;
	rig_start(&d->g, d->g.v->offered);
}

static inline unsigned disk_free_slot(struct vhost_disk *d, unsigned queue)
{
	for (unsigned s = 0; s < DISK_SLOTS; s++) {
		if (!d->is_busy[queue][s])
			return s;
	}
	return DISK_SLOTS;
}

static inline void disk_begin(struct vhost_disk *d, unsigned queue, unsigned slot, uint32_t type, uint64_t sector)
{
	struct ring *r = &d->g.rings[queue];
	uint64_t at = slot_at(queue, slot);
	uint16_t head = (uint16_t)(3 * slot);
	uint8_t h[16] = { 0 }, none = 0xee;
	put_le32(h, type);
	put_le64(h + 8, sector);
	OK(!d->is_busy[queue][slot]);
	OK(mem_write(&d->g.mem, GPA(at), h, sizeof h) && mem_write(&d->g.mem, GPA(at + 0x100), &none, 1));
	unsigned writable = type == T_IN ? DESC_WRITE : 0;
	ring_put(r, head, (struct ring_desc){ at, 16, DESC_NEXT, (uint16_t)(head + 1) });
	ring_put(r, (uint16_t)(head + 1), (struct ring_desc){ slot_data(queue, slot), SECTOR, (uint16_t)(DESC_NEXT | writable),
	                                                      (uint16_t)(head + 2) });
	ring_put(r, (uint16_t)(head + 2), (struct ring_desc){ at + 0x100, 1, DESC_WRITE, 0 });
	if (type == T_FLUSH)
		ring_put(r, head, (struct ring_desc){ at, 16, DESC_NEXT, (uint16_t)(head + 2) });
	d->is_busy[queue][slot] = true;
	d->n_busy++;
	ring_offer(r, head);
	rig_kick(&d->g, queue);
}

/* Takes one completion, which must be of a request in flight, and a good one. DISK_SLOTS: there is none. */
static inline unsigned disk_reap(struct vhost_disk *d, unsigned queue)
{
	struct ring_used u;
	uint8_t status;
	if (!ring_take(&d->g.rings[queue], &u))
		return DISK_SLOTS;
	unsigned slot = u.id / 3;
	OK(u.id % 3 == 0 && slot < DISK_SLOTS && d->is_busy[queue][slot]);
	OK(mem_read(&d->g.mem, GPA(slot_at(queue, slot) + 0x100), &status, 1));
	EQ(status, 0);
	d->is_busy[queue][slot] = false;
	d->n_busy--;
	return slot;
}

static inline unsigned disk_wait(struct vhost_disk *d, unsigned queue)
{
	uint64_t end = clock_now_ns() + 20 * NS_PER_S;
	for (;;) {
		unsigned slot = disk_reap(d, queue);
		if (slot < DISK_SLOTS)
			return slot;
		OK(clock_now_ns() < end);
		test_sleep_us(50);
	}
}

static inline void disk_fill(struct vhost_disk *d, unsigned queue, unsigned slot, uint8_t byte)
{
	OK(mem_fill(&d->g.mem, GPA(slot_data(queue, slot)), byte, SECTOR));
}

static inline void disk_is(struct vhost_disk *d, unsigned queue, unsigned slot, uint8_t byte)
{
	uint8_t got[SECTOR], want[SECTOR];
	memset(want, byte, sizeof want);
	OK(mem_read(&d->g.mem, GPA(slot_data(queue, slot)), got, sizeof got));
	MEM_EQ(got, want, sizeof got);
}

/* One request, from beginning to end, with nothing else in flight. */
static inline void disk_do(struct vhost_disk *d, unsigned queue, uint32_t type, uint64_t sector, uint8_t byte)
{
	unsigned slot = disk_free_slot(d, queue);
	disk_fill(d, queue, slot, type == T_OUT ? byte : 0xdd);
	disk_begin(d, queue, slot, type, sector);
	EQ(disk_wait(d, queue), slot);
	if (type == T_IN)
		disk_is(d, queue, slot, byte);
}

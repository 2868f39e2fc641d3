/* SPDX-License-Identifier: Apache-2.0 */
/* kick_events.h - the event descriptors by which a kick reaches its queue's loop without passing a vCPU (ioeventfds).
 *
 * One is bound when a queue is first kicked the slow way, so that a guest pays for the queues that it uses, where its
 * driver put them; after a move they are bound anew in the same way. vCPU threads; the lock is a leaf. Without a VM (vm
 * NULL: tests, fuzzing), and where the engine refuses, all kicks stay slow, which is correct. */
#pragma once
#include "base/forward.h"
#include "hv/hv.h"
#include "virtio/virtio.h"
#include <pthread.h>

struct kick_events {
	pthread_mutex_t lock;
	struct virtio_device *v;
	struct hv_vm *vm;
	uint64_t base;           /* where queue 0 is kicked; 0: nowhere */
	unsigned stride_bytes;   /* to the next queue's address; 0: one address, and the value written is the queue */
	uint64_t bound, refused; /* one bit a queue */
	uint64_t bound_narrow;   /* those bound for 2-byte writes, by an engine that cannot ignore the width */
};

void kick_events_init(struct kick_events *k, struct virtio_device *v, struct hv_vm *vm, uint64_t base, unsigned stride_bytes);
void kick_events_done(struct kick_events *k); /* unbinds all */
void kick_events_move(struct kick_events *k, uint64_t new_base);
/* The guest kicked the slow way: kicks, and binds if that is possible and not done yet. */
void kick_events_slow(struct kick_events *k, unsigned queue);

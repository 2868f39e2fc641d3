/* SPDX-License-Identifier: Apache-2.0 */
/* blk_counters.h - what a block device has read and written, and how long that took. Each queue counts for itself, on its
 * loop, so that counting costs no locked instruction; any thread may add the queues up. They outlive a driver's reset. */
#pragma once
#include "base/forward.h"

enum blk_direction { BLK_READ, BLK_WRITE };

struct blk_counters { /* of one queue; all 0 at first */
	struct {
		_Atomic uint64_t n_ops, n_bytes, total_ns, max_ns, min_ns; /* min_ns means something when n_ops does */
	} of[2];
};

/* A request that went well. The queue's loop. */
void blk_count(struct blk_counters *c, enum blk_direction d, uint64_t n_bytes, uint64_t latency_ns);

/* The sum over queues, by names: read_ops, read_bytes, read_latency_min and so on; latencies in microseconds, all 0 as
 * long as nothing was read or written. */
struct blk_sum {
	struct {
		uint64_t n_ops, n_bytes, total_ns, max_ns, min_ns;
	} of[2];
};

void blk_sum_add(struct blk_sum *s, const struct blk_counters *c);
void blk_sum_report(const struct blk_sum *s, void (*add)(void *context, const char *name, uint64_t value), void *context);

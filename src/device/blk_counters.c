/* SPDX-License-Identifier: Apache-2.0 */
#include "device/blk_counters.h"

#include "base/checked.h"

#include <stdatomic.h>

static uint64_t get(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}

/* One writer. */
static void set(_Atomic uint64_t *v, uint64_t to)
{
	atomic_store_explicit(v, to, memory_order_relaxed);
}

void blk_count(struct blk_counters *c, enum blk_direction d, uint64_t n_bytes, uint64_t latency_ns)
{
	uint64_t n_ops = get(&c->of[d].n_ops);
	if (n_ops == 0 || latency_ns < get(&c->of[d].min_ns))
		set(&c->of[d].min_ns, latency_ns);
	if (latency_ns > get(&c->of[d].max_ns))
		set(&c->of[d].max_ns, latency_ns);
	set(&c->of[d].total_ns, get(&c->of[d].total_ns) + latency_ns);
	set(&c->of[d].n_bytes, get(&c->of[d].n_bytes) + n_bytes);
	set(&c->of[d].n_ops, n_ops + 1);
}

void blk_sum_add(struct blk_sum *s, const struct blk_counters *c)
{
	for (int d = BLK_READ; d <= BLK_WRITE; d++) {
		uint64_t n_ops = get(&c->of[d].n_ops);
		if (n_ops == 0)
			continue;
		uint64_t min_ns = get(&c->of[d].min_ns);
		s->of[d].min_ns = s->of[d].n_ops ? min_u64(s->of[d].min_ns, min_ns) : min_ns;
		s->of[d].max_ns = max_u64(s->of[d].max_ns, get(&c->of[d].max_ns));
		s->of[d].total_ns += get(&c->of[d].total_ns);
		s->of[d].n_bytes += get(&c->of[d].n_bytes);
		s->of[d].n_ops += n_ops;
	}
}

void blk_sum_report(const struct blk_sum *s, void (*add)(void *context, const char *name, uint64_t value), void *context)
{
	static const char *const names[2][5] = {
		[BLK_READ] = { "read_bytes", "read_ops", "read_latency_min", "read_latency_max", "read_latency_avg" },
		[BLK_WRITE] = { "write_bytes", "write_ops", "write_latency_min", "write_latency_max", "write_latency_avg" },
	};
	for (int d = BLK_READ; d <= BLK_WRITE; d++) {
		uint64_t n_ops = s->of[d].n_ops;
		add(context, names[d][0], s->of[d].n_bytes);
		add(context, names[d][1], n_ops);
		add(context, names[d][2], s->of[d].min_ns / 1000);
		add(context, names[d][3], s->of[d].max_ns / 1000);
		add(context, names[d][4], n_ops ? s->of[d].total_ns / n_ops / 1000 : 0);
	}
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Dirty tracking of the VMM's own writes: one bit a page and region, set by any thread, collected by one. Off, it costs
 * one test of a pointer. Starting and stopping happens while nobody writes (vCPUs and I/O loops are paused). */
#include "base/checked.h"
#include "mem/mem.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

static size_t n_words(const struct mem_region *r)
{
	return (size_t)(align_up(r->n_bytes / MEM_DIRTY_PAGE_BYTES, 64) / 64);
}

int mem_dirty_start(struct mem_map *m, struct err *e)
{
	for (size_t i = 0; i < m->n_regions; i++) {
		struct mem_region *r = &m->regions[i];
		assert(!r->dirty);
		r->dirty = calloc(n_words(r), sizeof *r->dirty);
		if (!r->dirty) {
			mem_dirty_stop(m);
			return err_set(e, ENOMEM, "guest memory: no memory for the dirty log of %llu bytes",
			               (unsigned long long)r->n_bytes);
		}
	}
	return 0;
}

void mem_dirty_stop(struct mem_map *m)
{
	for (size_t i = 0; i < m->n_regions; i++) {
		free((void *)(uintptr_t)m->regions[i].dirty);
		m->regions[i].dirty = NULL;
	}
}

static void mark(const struct mem_region *r, uint64_t offset, uint64_t n_bytes)
{
	if (!r->dirty || n_bytes == 0)
		return;
	assert(offset < r->n_bytes && n_bytes <= r->n_bytes - offset);
	uint64_t last = (offset + n_bytes - 1) / MEM_DIRTY_PAGE_BYTES;
	for (uint64_t page = offset / MEM_DIRTY_PAGE_BYTES; page <= last; page++)
		atomic_fetch_or_explicit(&r->dirty[page / 64], 1ull << (page % 64), memory_order_relaxed);
}

void mem_mark_dirty(const struct mem_map *m, struct gpa a, uint64_t n_bytes)
{
	/* Regions are tracked all or none, so the first answers for all. */
	if (m->n_regions == 0 || !m->regions[0].dirty || n_bytes == 0)
		return;
	const struct mem_region *r = mem_map_find(m, a);
	if (r)
		mark(r, a.v - r->start.v, min_u64(n_bytes, r->n_bytes - (a.v - r->start.v)));
}

void mem_mark_dirty_host(const struct mem_map *m, const void *host, uint64_t n_bytes)
{
	if (m->n_regions == 0 || !m->regions[0].dirty || n_bytes == 0)
		return;
	for (size_t i = 0; i < m->n_regions; i++) {
		const struct mem_region *r = &m->regions[i];
		uintptr_t start = (uintptr_t)r->host, at = (uintptr_t)host;
		if (at >= start && at - start < r->n_bytes) {
			mark(r, at - start, min_u64(n_bytes, r->n_bytes - (at - start)));
			return;
		}
	}
}

void mem_dirty_collect(const struct mem_region *r, uint64_t *ret_bits)
{
	for (size_t i = 0; i < n_words(r); i++)
		ret_bits[i] = r->dirty ? atomic_exchange_explicit(&r->dirty[i], 0, memory_order_relaxed) : 0;
}

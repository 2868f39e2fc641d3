/* SPDX-License-Identifier: Apache-2.0 */
/* mem.h - guest memory: regions of RAM, memory that devices bring, checked spans, dirty tracking.
 *
 * Only `struct gpa` plus a length goes in; only a checked span inside one region comes out. Any thread may read and
 * write guest memory; the map itself does not change while vCPUs or I/O loops run. Guest bytes change under our hands at
 * any moment: they are read once, by the named copies below, and only the copy is looked at. clang warns when a
 * `guest_mem` pointer is dereferenced or passed as a plain one. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include <sys/uio.h>

#if defined(__clang__)
#define guest_mem __attribute__((noderef, address_space(1)))
#else
#define guest_mem
#endif

/* A guest-physical address. Never an integer, so that an address and a length cannot change places. */
struct gpa {
	uint64_t v;
};

#define GPA(v_) ((struct gpa){ (v_) })

/* Bytes that are known to lie in one region. */
struct span {
	guest_mem uint8_t *host;
	uint64_t n_bytes;
};

#define MEM_MAX_REGIONS 64
#define MEM_MAX_DEVICE_REGIONS 32
#define MEM_PAGE_BYTES 4096u
#define MEM_DIRTY_PAGE_BYTES 4096u

struct mem_region {
	struct gpa start;
	uint64_t n_bytes; /* a multiple of 4096 */
	guest_mem uint8_t *host;
	const char *zone;         /* the zone's identifier: borrowed from the configuration; "" for the default zone */
	_Atomic uint64_t *dirty;  /* one bit a page, by our own writes; NULL while tracking is off */
	int fd;                   /* the memfd or file behind it, or -1 when private and anonymous */
	uint64_t fd_offset;
	bool has_thp, is_mergeable; /* as mem_region_params */
};

struct mem_files;

struct mem_map {
	struct mem_region regions[MEM_MAX_REGIONS]; /* RAM; sorted by start, disjoint */
	size_t n_regions;
	uint64_t n_total_bytes; /* of RAM */
	struct mem_region device_regions[MEM_MAX_DEVICE_REGIONS]; /* in no order; n_bytes 0: free */
	struct mem_files *files; /* where files may be mapped in; NULL: they are copied */
};

struct mem_region_params {
	struct gpa start;
	uint64_t n_bytes;
	const char *zone;
	bool is_shared;    /* a memfd that other processes can map; private anonymous otherwise */
	bool is_mergeable; /* MADV_MERGEABLE */
	bool has_thp;      /* MADV_HUGEPAGE */
};

void mem_map_init(struct mem_map *m);
void mem_map_done(struct mem_map *m); /* unmaps all */
/* Reserves host memory with inaccessible pages at both ends; excluded from core dumps. */
int mem_map_add(struct mem_map *m, const struct mem_region_params *p, struct err *e);
const struct mem_region *mem_map_find(const struct mem_map *m, struct gpa a); /* NULL: no RAM there */
/* False unless [a, a + n_bytes) lies in one region. n_bytes 0 is a valid span where a lies in (or ends) a region. */
bool mem_span(const struct mem_map *m, struct gpa a, uint64_t n_bytes, struct span *ret_s);

/* Memory that a device brings, a file mapped at an address of its own, is no RAM: it may go again, and the host may take it
 * from under us. Only what a driver offers as a buffer may lie there, not rings and tables; our own copies are guarded. */
struct mem_device_params {
	struct gpa start;
	uint64_t n_bytes;
	int fd;          /* the caller's; from its first byte on */
	bool is_private; /* what is written stays out of the file, which may be open for reading only */
};

/* Like mem_map_add(). ret_index: in device_regions, until mem_map_remove_device() takes the region away. */
int mem_map_add_device(struct mem_map *m, const struct mem_device_params *p, size_t *ret_index, struct err *e);
void mem_map_remove_device(struct mem_map *m, size_t index);
/* In two steps: what has left the map is unmapped when there is time for it, some 50 ms a GiB. */
struct mem_region mem_map_take_device(struct mem_map *m, size_t index);
void mem_region_unmap(struct mem_region *r);
/* As mem_span(), in what devices bring. */
bool mem_device_span(const struct mem_map *m, struct gpa a, uint64_t n_bytes, struct span *ret_s);

/* Copies; false (and nothing copied) when the range is not RAM in one region. Writes are marked dirty. */
bool mem_read(const struct mem_map *m, struct gpa a, void *ret_bytes, size_t n_bytes);
bool mem_write(const struct mem_map *m, struct gpa a, const void *bytes, size_t n_bytes);
bool mem_fill(const struct mem_map *m, struct gpa a, uint8_t byte, uint64_t n_bytes);

/* Copies from and to spans; the caller checked that offset + n_bytes fits (asserted). Not marked dirty. */
void span_read(struct span s, uint64_t offset, void *ret_bytes, size_t n_bytes);
void span_write(struct span s, uint64_t offset, const void *bytes, size_t n_bytes);
/* For ring indices: single accesses of their size, little-endian. The offset is aligned. */
uint16_t span_load_le16(struct span s, uint64_t offset);          /* acquire */
void span_store_le16(struct span s, uint64_t offset, uint16_t v); /* release */

/* For a system call only: a plain pointer leaves the type system here and nowhere else. */
static inline struct iovec span_iovec(struct span s)
{
	return (struct iovec){ .iov_base = (void *)(uintptr_t)s.host, .iov_len = (size_t)s.n_bytes };
}

/* Dirty tracking of what the VMM writes (the hypervisor tracks what vCPUs write). */
int mem_dirty_start(struct mem_map *m, struct err *e);
void mem_dirty_stop(struct mem_map *m);
void mem_mark_dirty(const struct mem_map *m, struct gpa a, uint64_t n_bytes);
/* Marks by host address what a system call wrote into an iovec that came from span_iovec(). */
void mem_mark_dirty_host(const struct mem_map *m, const void *host, uint64_t n_bytes);
/* Moves the bits of one region into ret_bits (n_bytes / 4096 bits, rounded up to 64) and clears them. */
void mem_dirty_collect(const struct mem_region *r, uint64_t *ret_bits);

/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/mem.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "mem/advice.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES 4096ull
#define HUGE_PAGE_BYTES (2ull << 20)

/* The one place where the type system lets go of a guest pointer: the copies below use it at once and keep nothing. */
static inline uint8_t *plain(guest_mem uint8_t *host)
{
	return (uint8_t *)(uintptr_t)host;
}

static inline guest_mem uint8_t *guest(uint8_t *host)
{
	return (guest_mem uint8_t *)(uintptr_t)host;
}

void mem_map_init(struct mem_map *m)
{
	memset(m, 0, sizeof *m);
}

/* With the inaccessible page on either side. */
void mem_region_unmap(struct mem_region *r)
{
	if (r->n_bytes == 0)
		return;
	(void)munmap(plain(r->host) - PAGE_BYTES, (size_t)(r->n_bytes + 2 * PAGE_BYTES));
	if (r->fd >= 0)
		(void)close(r->fd);
	free((void *)(uintptr_t)r->dirty);
	*r = (struct mem_region){ 0 };
}

void mem_map_done(struct mem_map *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < m->n_regions; i++)
		mem_region_unmap(&m->regions[i]);
	for (size_t i = 0; i < MEM_MAX_DEVICE_REGIONS; i++)
		mem_map_remove_device(m, i);
	memset(m, 0, sizeof *m);
}

/* Reserves n_bytes aligned to a huge page, with an inaccessible page on either side. */
static uint8_t *reserve(uint64_t n_bytes)
{
	uint64_t total = n_bytes + HUGE_PAGE_BYTES + 2 * PAGE_BYTES;
	uint8_t *p = mmap(NULL, (size_t)total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;

	uint8_t *start = (uint8_t *)(uintptr_t)align_up((uintptr_t)p + PAGE_BYTES, HUGE_PAGE_BYTES);
	uint8_t *first = start - PAGE_BYTES, *end = start + n_bytes + PAGE_BYTES;
	if (first > p)
		(void)munmap(p, (size_t)(first - p));
	if (p + total > end)
		(void)munmap(end, (size_t)(p + total - end));
	return start;
}

/* Maps n_bytes somewhere, with their inaccessible neighbours; fd -1: of no file. */
static int map_somewhere(uint64_t n_bytes, int flags, int fd, uint8_t **ret_host, struct err *e)
{
	uint8_t *host = reserve(n_bytes);
	if (!host)
		return err_set_errno(e, errno, "guest memory: cannot reserve %" PRIu64 " bytes of address space", n_bytes);
	if (mmap(host, (size_t)n_bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED) {
		int code = errno;
		(void)munmap(host - PAGE_BYTES, (size_t)(n_bytes + 2 * PAGE_BYTES));
		return err_set_errno(e, code, "guest memory: cannot map %" PRIu64 " bytes", n_bytes);
	}
	*ret_host = host;
	return 0;
}

static bool overlaps(const struct mem_region *r, struct gpa start, uint64_t n_bytes)
{
	return start.v < r->start.v ? n_bytes > r->start.v - start.v : start.v - r->start.v < r->n_bytes;
}

/* Whole pages, and no others have them. */
static int check_range(const struct mem_map *m, struct gpa start, uint64_t n_bytes, struct err *e)
{
	uint64_t end;
	if (n_bytes == 0 || n_bytes % PAGE_BYTES || start.v % PAGE_BYTES)
		return err_set(e, EINVAL, "guest memory: 0x%" PRIx64 " bytes at 0x%" PRIx64 ": not a multiple of 4096",
		               n_bytes, start.v);
	if (!checked_add(start.v, n_bytes, &end) || n_bytes > (uint64_t)INT64_MAX - 2 * HUGE_PAGE_BYTES)
		return err_set(e, EINVAL, "guest memory: 0x%" PRIx64 " bytes at 0x%" PRIx64 " pass the end of the address space",
		               n_bytes, start.v);
	for (size_t i = 0; i < m->n_regions + MEM_MAX_DEVICE_REGIONS; i++) {
		const struct mem_region *r = i < m->n_regions ? &m->regions[i] : &m->device_regions[i - m->n_regions];
		if (r->n_bytes && overlaps(r, start, n_bytes))
			return err_set(e, EEXIST, "guest memory: 0x%" PRIx64 " is in use already", max_u64(start.v, r->start.v));
	}
	return 0;
}

static int check_params(const struct mem_map *m, const struct mem_region_params *p, size_t *ret_at, struct err *e)
{
	int rc = check_range(m, p->start, p->n_bytes, e);
	if (rc < 0)
		return rc;
	if (m->n_regions == MEM_MAX_REGIONS)
		return err_set(e, ENOSPC, "guest memory: more than %d regions", MEM_MAX_REGIONS);
	size_t at = 0;
	while (at < m->n_regions && m->regions[at].start.v < p->start.v)
		at++;
	*ret_at = at;
	return 0;
}

int mem_map_add(struct mem_map *m, const struct mem_region_params *p, struct err *e)
{
	size_t at;
	int rc = check_params(m, p, &at, e);
	if (rc < 0)
		return rc;

	fd_scoped fd = -1;
	if (p->is_shared) {
		fd = memfd_create("varan-guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		/* Sealed: who else maps it cannot take pages away from under us. */
		if (fd < 0 || ftruncate(fd, (off_t)p->n_bytes) < 0 ||
		    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
			return err_set_errno(e, errno, "guest memory: cannot make a shared memory file of %" PRIu64 " bytes",
			                     p->n_bytes);
	}
	uint8_t *host;
	rc = map_somewhere(p->n_bytes, fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, &host, e);
	if (rc < 0)
		return rc;
	advise(host, (size_t)p->n_bytes, p->has_thp, p->is_mergeable);

	memmove(&m->regions[at + 1], &m->regions[at], (m->n_regions - at) * sizeof m->regions[0]);
	m->regions[at] = (struct mem_region){
		.start = p->start,
		.n_bytes = p->n_bytes,
		.host = guest(host),
		.zone = p->zone ? p->zone : "",
		.has_thp = p->has_thp,
		.is_mergeable = p->is_mergeable,
		.fd = fd_take(&fd),
	};
	m->n_regions++;
	m->n_total_bytes += p->n_bytes;
	return 0;
}

int mem_map_add_device(struct mem_map *m, const struct mem_device_params *p, size_t *ret_index, struct err *e)
{
	uint8_t *host;
	size_t i = 0;
	int rc = check_range(m, p->start, p->n_bytes, e);
	if (rc < 0)
		return rc;
	while (i < MEM_MAX_DEVICE_REGIONS && m->device_regions[i].n_bytes)
		i++;
	if (i == MEM_MAX_DEVICE_REGIONS)
		return err_set(e, ENOSPC, "guest memory: more than %d regions of devices", MEM_MAX_DEVICE_REGIONS);

	/* Of a private mapping nobody else could have any use. */
	fd_scoped fd = p->is_private ? -1 : fcntl(p->fd, F_DUPFD_CLOEXEC, 3);
	if (!p->is_private && fd < 0)
		return err_set_errno(e, errno, "guest memory: cannot keep a descriptor");
	rc = map_somewhere(p->n_bytes, p->is_private ? MAP_PRIVATE : MAP_SHARED, p->fd, &host, e);
	if (rc < 0)
		return rc;
	advise(host, (size_t)p->n_bytes, false, false);
	m->device_regions[i] = (struct mem_region){
		.start = p->start, .n_bytes = p->n_bytes, .host = guest(host), .zone = "", .fd = fd_take(&fd),
	};
	*ret_index = i;
	return 0;
}

struct mem_region mem_map_take_device(struct mem_map *m, size_t index)
{
	struct mem_region r = m->device_regions[index];
	m->device_regions[index] = (struct mem_region){ 0 };
	return r;
}

void mem_map_remove_device(struct mem_map *m, size_t index)
{
	mem_region_unmap(&m->device_regions[index]);
}

const struct mem_region *mem_map_find(const struct mem_map *m, struct gpa a)
{
	size_t low = 0, high = m->n_regions;
	while (low < high) {
		size_t mid = (low + high) / 2;
		const struct mem_region *r = &m->regions[mid];
		if (a.v < r->start.v)
			high = mid;
		else if (a.v - r->start.v >= r->n_bytes)
			low = mid + 1;
		else
			return r;
	}
	return NULL;
}

bool mem_span(const struct mem_map *m, struct gpa a, uint64_t n_bytes, struct span *ret_s)
{
	const struct mem_region *r = mem_map_find(m, a);
	if (!r) {
		/* An empty span may stand right at a region's end. */
		if (n_bytes != 0 || a.v == 0)
			return false;
		r = mem_map_find(m, GPA(a.v - 1));
		if (!r)
			return false;
	}
	uint64_t offset = a.v - r->start.v;
	if (n_bytes > r->n_bytes - offset)
		return false;
	*ret_s = (struct span){ .host = r->host + offset, .n_bytes = n_bytes };
	return true;
}

bool mem_device_span(const struct mem_map *m, struct gpa a, uint64_t n_bytes, struct span *ret_s)
{
	for (size_t i = 0; i < MEM_MAX_DEVICE_REGIONS; i++) {
		const struct mem_region *r = &m->device_regions[i];
		uint64_t offset = a.v - r->start.v;
		if (a.v < r->start.v || offset >= r->n_bytes || n_bytes > r->n_bytes - offset)
			continue;
		*ret_s = (struct span){ .host = r->host + offset, .n_bytes = n_bytes };
		return true;
	}
	return false;
}

bool mem_read(const struct mem_map *m, struct gpa a, void *ret_bytes, size_t n_bytes)
{
	struct span s;
	if (!mem_span(m, a, n_bytes, &s))
		return false;
	span_read(s, 0, ret_bytes, n_bytes);
	return true;
}

bool mem_write(const struct mem_map *m, struct gpa a, const void *bytes, size_t n_bytes)
{
	struct span s;
	if (!mem_span(m, a, n_bytes, &s))
		return false;
	span_write(s, 0, bytes, n_bytes);
	mem_mark_dirty(m, a, n_bytes);
	return true;
}

bool mem_fill(const struct mem_map *m, struct gpa a, uint8_t byte, uint64_t n_bytes)
{
	struct span s;
	if (!mem_span(m, a, n_bytes, &s))
		return false;
	memset(plain(s.host), byte, (size_t)n_bytes);
	mem_mark_dirty(m, a, n_bytes);
	return true;
}

void span_read(struct span s, uint64_t offset, void *ret_bytes, size_t n_bytes)
{
	assert(offset <= s.n_bytes && n_bytes <= s.n_bytes - offset);
	if (n_bytes)
		memcpy(ret_bytes, plain(s.host) + offset, n_bytes);
	/* The compiler may not read the guest's bytes again in place of the copy. */
	atomic_signal_fence(memory_order_seq_cst);
}

void span_write(struct span s, uint64_t offset, const void *bytes, size_t n_bytes)
{
	assert(offset <= s.n_bytes && n_bytes <= s.n_bytes - offset);
	if (n_bytes)
		memcpy(plain(s.host) + offset, bytes, n_bytes);
	atomic_signal_fence(memory_order_seq_cst);
}

uint16_t span_load_le16(struct span s, uint64_t offset)
{
	assert(s.n_bytes >= 2 && offset <= s.n_bytes - 2 && ((uintptr_t)s.host + offset) % 2 == 0);
	return le16toh(__atomic_load_n((uint16_t *)(void *)(plain(s.host) + offset), __ATOMIC_ACQUIRE));
}

void span_store_le16(struct span s, uint64_t offset, uint16_t v)
{
	assert(s.n_bytes >= 2 && offset <= s.n_bytes - 2 && ((uintptr_t)s.host + offset) % 2 == 0);
	__atomic_store_n((uint16_t *)(void *)(plain(s.host) + offset), htole16(v), __ATOMIC_RELEASE);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "mem/file_map.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "mem/advice.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES 4096ull
#define HUGE_PAGE_BYTES (2ull << 20)
/* Below this a copy is cheaper than the faults. */
#define MIN_BYTES (1ull << 20)

void mem_files_init(struct mem_files *f, int lease_signal)
{
	memset(f, 0, sizeof *f);
	f->lease_signal = lease_signal;
}

void mem_files_done(struct mem_files *f)
{
	for (size_t i = 0; i < f->n_files; i++) {
		/* Closing alone ends the lease only when nobody else has the file by the same open(). */
		(void)fcntl(f->files[i].fd, F_SETLEASE, F_UNLCK);
		fd_close(&f->files[i].fd);
	}
	f->n_files = f->n_ranges = 0;
}

/* Fresh memory that starts at a huge page's boundary, as the guest's does: moved into its place it can stay a huge page. */
static void *new_pages(size_t n_bytes)
{
	size_t n_all = n_bytes + HUGE_PAGE_BYTES;
	uint8_t *all = mmap(NULL, n_all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (all == MAP_FAILED)
		return NULL;
	uint8_t *start = (uint8_t *)(uintptr_t)align_up((uintptr_t)all, HUGE_PAGE_BYTES);
	if (start > all)
		(void)munmap(all, (size_t)(start - all));
	if (start + n_bytes < all + n_all)
		(void)munmap(start + n_bytes, (size_t)(all + n_all - (start + n_bytes)));
	return start;
}

/* Writing to each page would make it private too, but truncating a file takes even those from its mappings. */
static int copy_piece(struct span s, const struct mem_file_range *r)
{
	size_t n_bytes = (size_t)s.n_bytes;
	void *host = (void *)(uintptr_t)s.host;
	void *copy = new_pages(n_bytes);
	if (!copy)
		return -ENOMEM;
	advise(copy, n_bytes, r->has_thp, r->is_mergeable); /* before it is filled: by a huge page, if it may be one */
	span_read(s, 0, copy, n_bytes);
	if (mremap(copy, n_bytes, n_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, host) == MAP_FAILED) {
		int rc = -errno;
		(void)munmap(copy, n_bytes);
		return rc;
	}
	return 0;
}

int mem_files_keep_piece(struct mem_files *f)
{
	if (f->n_ranges) {
		struct mem_file_range *r = &f->ranges[f->n_ranges - 1];
		uintptr_t start = (uintptr_t)r->span.host, last = start + (uintptr_t)r->span.n_bytes - 1;
		uintptr_t piece = (uintptr_t)max_u64(start, align_down(last, HUGE_PAGE_BYTES));
		struct span s = { .host = r->span.host + (piece - start), .n_bytes = last + 1 - piece };
		int rc = copy_piece(s, r);
		if (rc < 0)
			return rc;
		r->span.n_bytes -= s.n_bytes;
		if (r->span.n_bytes == 0)
			f->n_ranges--;
	}
	if (f->n_ranges)
		return 1;
	mem_files_done(f);
	return 0;
}

int mem_files_keep(struct mem_files *f)
{
	int rc;
	do {
		rc = mem_files_keep_piece(f);
	} while (rc > 0);
	return rc;
}

static bool take_lease(struct mem_files *f, int fd)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return false;
	for (size_t i = 0; i < f->n_files; i++) {
		if (f->files[i].device == st.st_dev && f->files[i].inode == st.st_ino)
			return true;
	}
	if (f->n_files == MEM_MAX_FILES)
		return false;

	fd_scoped own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (own < 0 || fcntl(own, F_SETSIG, f->lease_signal) < 0 || fcntl(own, F_SETLEASE, F_RDLCK) < 0)
		return false;
	/* F_SETLEASE made the calling thread the owner: any thread of the process may take the signal. */
	(void)fcntl(own, F_SETOWN, getpid());
	f->files[f->n_files++] = (struct mem_file){ .fd = fd_take(&own), .device = st.st_dev, .inode = st.st_ino };
	return true;
}

uint64_t mem_place_file(const struct mem_map *m, struct gpa a, const struct mem_file_part *part)
{
	struct mem_files *f = m->files;
	const struct mem_region *r = mem_map_find(m, a);
	uint64_t n_whole = align_down(part->n_bytes, PAGE_BYTES);
	struct span s;

	if (!f || !r || r->fd >= 0 || f->n_ranges == MEM_MAX_FILE_RANGES || (part->is_written && !f->maps_written))
		return 0;
	if (a.v % PAGE_BYTES || part->offset % PAGE_BYTES || n_whole < MIN_BYTES || !mem_span(m, a, n_whole, &s))
		return 0;
	if (!take_lease(f, part->fd))
		return 0;

	void *host = (void *)(uintptr_t)s.host;
	if (mmap(host, (size_t)n_whole, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_NORESERVE, part->fd,
	         (off_t)part->offset) == MAP_FAILED) {
		/* What was there may be gone: put fresh memory in its place, for the caller to copy into. */
		(void)mmap(host, (size_t)n_whole, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		           -1, 0);
		return 0;
	}
	(void)madvise(host, (size_t)n_whole, MADV_DONTDUMP);
	f->ranges[f->n_ranges++] = (struct mem_file_range){ s, r->has_thp, r->is_mergeable };
	return n_whole;
}

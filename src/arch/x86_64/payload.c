/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/x86_64/payload.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "mem/file_map.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* The end of a path says more than its start. */
#define MAX_PATH_CHARS 90
/* Below the kernel's own limit of one read (2 GiB less a page), so that a short count means the end of the file. */
#define PIECE_BYTES (1ull << 30)

static void set_label(struct payload_file *f, const char *what, const char *path)
{
	size_t n = strlen(path);
	bool is_long = n > MAX_PATH_CHARS;
	(void)snprintf(f->label, sizeof f->label, "%s '%s%s'", what, is_long ? "..." : "",
	               is_long ? path + (n - MAX_PATH_CHARS) : path);
}

int payload_open(struct payload_file *f, const char *what, const char *path, struct err *e)
{
	struct stat st;

	set_label(f, what, path);
	/* Not blocking: a pipe without a writer would hold us here. It means nothing to a regular file. */
	fd_scoped fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return err_set_errno(e, errno, "%s: cannot open", f->label);
	if (fstat(fd, &st) < 0)
		return err_set_errno(e, errno, "%s: cannot read its size", f->label);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "%s: not a regular file", f->label);
	if (st.st_size == 0)
		return err_set(e, EINVAL, "%s: the file is empty", f->label);
	assert(st.st_size > 0);
	f->n_bytes = (uint64_t)st.st_size;
	f->fd = fd_take(&fd);
	return 0;
}

void payload_close(struct payload_file *f)
{
	fd_close(&f->fd);
}

static int read_into(const struct payload_file *f, uint64_t offset, struct iovec to, struct err *e)
{
	assert(offset <= f->n_bytes && to.iov_len <= f->n_bytes - offset);
	for (size_t n_done = 0; n_done < to.iov_len;) {
		size_t n = (size_t)min_u64(to.iov_len - n_done, PIECE_BYTES);
		ssize_t got = pread(f->fd, (uint8_t *)to.iov_base + n_done, n, (off_t)(offset + n_done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_set_errno(e, errno, "%s: cannot read at byte %llu", f->label,
			                     (unsigned long long)(offset + n_done));
		if (got == 0)
			return err_set(e, EIO, "%s: became shorter while it was read", f->label);
		n_done += (size_t)got;
	}
	return 0;
}

int payload_read(const struct payload_file *f, uint64_t offset, void *ret_bytes, size_t n_bytes, struct err *e)
{
	return read_into(f, offset, (struct iovec){ .iov_base = ret_bytes, .iov_len = n_bytes }, e);
}

/* The next data of [at, end), in *ret_start and *ret_end; false when only holes follow. A file system that does not know
 * its holes has none. */
static bool next_data(const struct payload_file *f, uint64_t at, uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
	off_t start = lseek(f->fd, (off_t)at, SEEK_DATA);
	if (start < 0 && errno == ENXIO)
		return false;
	if (start < 0)
		start = (off_t)at;
	if ((uint64_t)start >= end)
		return false;
	off_t hole = lseek(f->fd, start, SEEK_HOLE);
	*ret_start = (uint64_t)start;
	*ret_end = hole < 0 ? end : min_u64((uint64_t)hole, end);
	return *ret_end > *ret_start;
}

/* Guest memory is zero already, so that a hole (a kernel's bss, as the file has it) need not be copied. */
static int load_data(const struct payload_file *f, uint64_t offset, struct span to, struct err *e)
{
	uint64_t end = offset + to.n_bytes, start, stop;
	struct stat st;
	for (uint64_t at = offset; at < end && next_data(f, at, end, &start, &stop); at = stop) {
		struct span part = { .host = to.host + (start - offset), .n_bytes = stop - start };
		int rc = read_into(f, start, span_iovec(part), e);
		if (rc < 0)
			return rc;
	}
	/* What looks like a hole may also be the end of a file that was cut meanwhile. */
	if (fstat(f->fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size < end)
		return err_set(e, EIO, "%s: became shorter while it was read", f->label);
	return 0;
}

int payload_load(const struct payload_file *f, const struct payload_part *p, const struct mem_map *mem, struct gpa to,
                 struct err *e)
{
	struct span s;
	bool is_ram = mem_span(mem, to, p->n_bytes, &s);
	assert(is_ram);

	struct mem_file_part part = { .fd = f->fd, .offset = p->offset, .n_bytes = p->n_bytes, .is_written = p->is_written };
	uint64_t n_mapped = mem_place_file(mem, to, &part);
	struct span rest = { .host = s.host + n_mapped, .n_bytes = p->n_bytes - n_mapped };
	int rc = load_data(f, p->offset + n_mapped, rest, e);
	if (rc == 0)
		mem_mark_dirty(mem, to, p->n_bytes);
	return rc;
}

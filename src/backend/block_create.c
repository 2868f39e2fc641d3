// SPDX-License-Identifier: Apache-2.0
/* Making an image: whole, or not at all.
 *
 * It is written to a file beside its place, with a name that nobody looks for, made durable, and renamed; so whoever sees
 * the image sees all of it, and what is stopped or fails leaves nothing. What is to be replaced is locked from before the
 * work until after, as if it were opened for writing: nobody loses a disk that is in use. */
#include "backend/block_writer.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR_BYTES 512u
#define SPARSE_BYTES 4096u /* so much of zeroes becomes a hole */

/* --- pieces --- */

int block_write_all(int fd, const void *bytes, size_t n_bytes, uint64_t offset_bytes)
{
	const uint8_t *at = bytes;
	while (n_bytes) {
		ssize_t n = pwrite(fd, at, n_bytes, (off_t)offset_bytes);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		offset_bytes += (uint64_t)n;
		n_bytes -= (size_t)n;
	}
	return 0;
}

bool block_is_zero(const uint8_t *bytes, size_t n_bytes)
{
	return !n_bytes || (!bytes[0] && memcmp(bytes, bytes + 1, n_bytes - 1) == 0);
}

int block_progress_step(const struct block_progress *p, uint64_t n_done_bytes, uint64_t n_bytes)
{
	return !p->step || p->step(p->context, n_done_bytes, n_bytes) ? 0 : -ECANCELED;
}

int block_write_preallocate(const struct block_writer *w, uint64_t offset_bytes, uint64_t n_bytes)
{
	const bool is_full = w->p->preallocation == BLOCK_PREALLOCATE_FULL;
	uint8_t *zeroes = NULL;
	int rc = 0;
	if (w->p->preallocation < BLOCK_PREALLOCATE_FALLOC)
		return 0;
	if (is_full && !(zeroes = calloc(1, BLOCK_COPY_BYTES)))
		return -ENOMEM;
	for (uint64_t done = 0; done < n_bytes && rc >= 0;) {
		/* In pieces, so that it can be stopped. */
		uint64_t n = min_u64(n_bytes - done, is_full ? BLOCK_COPY_BYTES : 64 * (uint64_t)BLOCK_COPY_BYTES);
		if (is_full)
			rc = block_write_all(w->fd, zeroes, (size_t)n, offset_bytes + done);
		else if (fallocate(w->fd, 0, (off_t)(offset_bytes + done), (off_t)n) < 0)
			rc = -errno;
		if (rc == -EINTR) { /* by a signal, which may want us to stop: else once more */
			n = 0;
			rc = 0;
		}
		done += n;
		if (rc >= 0)
			rc = block_progress_step(&w->p->progress, done, n_bytes);
	}
	free(zeroes);
	return rc;
}

/* --- raw --- */

static int raw_open(struct block_writer *w, struct err *e)
{
	const struct block_create_params *p = w->p;
	if (p->backing_name)
		return err_set(e, EINVAL, "cannot create '%s': raw images cannot be based on others", p->path);
	if (p->cluster_bytes || p->is_zstd || p->has_extended_l2 || p->has_lazy_refcounts || p->is_compressed)
		return err_set(e, EINVAL, "cannot create '%s': raw images have no clusters, compression or refcounts", p->path);
	if (p->preallocation == BLOCK_PREALLOCATE_METADATA)
		return err_set(e, EINVAL, "cannot create '%s': raw images have no metadata to preallocate", p->path);
	return 0;
}

static int raw_write(struct block_writer *w, uint64_t offset_bytes, const uint8_t *bytes, size_t n_bytes)
{
	n_bytes = (size_t)min_u64(n_bytes, w->n_bytes - offset_bytes);
	for (size_t at = 0, end; at < n_bytes; at = end) {
		end = (size_t)min_u64(n_bytes, at + SPARSE_BYTES);
		if (block_is_zero(bytes + at, end - at))
			continue;
		size_t first = at;
		while (end < n_bytes && !block_is_zero(bytes + end, (size_t)min_u64(SPARSE_BYTES, n_bytes - end)))
			end = (size_t)min_u64(n_bytes, end + SPARSE_BYTES);
		int rc = block_write_all(w->fd, bytes + first, end - first, offset_bytes + first);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int raw_finish(struct block_writer *w)
{
	return ftruncate(w->fd, (off_t)w->n_bytes) < 0 ? -errno : block_write_preallocate(w, 0, w->n_bytes);
}

static void raw_close(struct block_writer *w)
{
	(void)w;
}

const struct block_writer_format block_raw_writer = { .open = raw_open, .write = raw_write, .finish = raw_finish,
	                                              .close = raw_close };

/* --- the file --- */

struct new_file {
	char *path; /* where it is to be; links are followed */
	char *temporary;
	int fd;
	int replaced_fd; /* locked; -1: nothing is replaced */
};

static void new_file_done(struct new_file *f)
{
	if (f->temporary)
		(void)unlink(f->temporary);
	fd_close(&f->fd);
	fd_close(&f->replaced_fd);
	free(f->temporary);
	free(f->path);
}

/* There is something of that name. */
static int lock_replaced(struct new_file *f, const struct block_create_params *p, const struct stat *st, struct err *e)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	if (S_ISBLK(st->st_mode))
		return err_set(e, ENOTSUP, "cannot create '%s': not supported yet: a block device", p->path);
	if (!p->may_replace)
		return err_set(e, EEXIST, "cannot create '%s': it exists already", p->path);
	if (!S_ISREG(st->st_mode))
		return err_set(e, EINVAL, "cannot replace '%s': it is not a regular file", p->path);
	free(f->path);
	f->path = realpath(p->path, NULL); /* what a link leads to is replaced, not the link */
	if (!f->path)
		return err_set_errno(e, errno, "cannot find '%s'", p->path);
	struct stat opened;
	f->replaced_fd = block_open_path(f->path, O_RDWR, &opened, e);
	if (f->replaced_fd < 0)
		return f->replaced_fd;
	if (fcntl(f->replaced_fd, F_OFD_SETLK, &l) < 0 && (errno == EAGAIN || errno == EACCES))
		return err_set(e, EBUSY, "cannot replace '%s': it is in use by another process, or by this work itself",
		               p->path);
	return 0;
}

static int new_file_open(struct new_file *f, const struct block_create_params *p, struct err *e)
{
	struct stat st;
	f->path = strdup(p->path);
	if (!f->path)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	int rc = 0;
	if (stat(p->path, &st) == 0)
		rc = lock_replaced(f, p, &st, e);
	else if (lstat(p->path, &st) == 0 && S_ISLNK(st.st_mode))
		rc = err_set(e, ENOENT, "cannot create '%s': it is a link that leads nowhere", p->path);
	if (rc < 0)
		return rc;
	const char *slash = strrchr(f->path, '/');
	int n_folder = slash ? (int)(slash + 1 - f->path) : 0;
	if (asprintf(&f->temporary, "%.*s.varan-image-XXXXXX", n_folder, f->path) < 0) {
		f->temporary = NULL;
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	}
	f->fd = mkostemp(f->temporary, O_CLOEXEC);
	if (f->fd < 0) {
		rc = err_set_errno(e, errno, "cannot create '%s'", p->path);
		free(ptr_take(f->temporary));
	}
	return rc;
}

/* What we have locked is replaced, and nothing that somebody else may have made there meanwhile. */
static int take_place(const struct new_file *f)
{
	if (f->replaced_fd >= 0)
		return rename(f->temporary, f->path) < 0 ? -errno : 0;
	if (renameat2(AT_FDCWD, f->temporary, AT_FDCWD, f->path, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	if (link(f->temporary, f->path) < 0)
		return -errno;
	return unlink(f->temporary) < 0 ? -errno : 0;
}

/* The name, in its folder; who may not read that syncs all of the file system. */
static int sync_name(const struct new_file *f)
{
	const char *slash = strrchr(f->path, '/');
	free_scoped char *folder = slash ? strndup(f->path, (size_t)(slash + 1 - f->path)) : strdup(".");
	if (!folder)
		return -ENOMEM;
	fd_scoped fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return (fd >= 0 ? fsync(fd) : syncfs(f->fd)) < 0 ? -errno : 0;
}

static int stopped(const struct block_create_params *p, struct err *e)
{
	return err_set(e, ECANCELED, "'%s' is not made: the work was stopped", p->path);
}

static int new_file_finish(struct new_file *f, const struct block_create_params *p, struct err *e)
{
	if (fsync(f->fd) < 0)
		return err_set_errno(e, errno, "cannot make '%s' durable", p->path);
	if (block_progress_step(&p->progress, 0, 0) < 0) /* that took its time */
		return stopped(p, e);
	int rc = take_place(f);
	if (rc == -EEXIST)
		return err_set(e, EEXIST, "cannot create '%s': it exists already, since a moment ago", p->path);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot give '%s' its name", p->path);
	free(ptr_take(f->temporary));
	rc = sync_name(f);
	return rc < 0 ? err_set_errno(e, -rc, "'%s' is made, but its name cannot be made durable", p->path) : 0;
}

/* --- the whole --- */

static int write_image(const struct block_writer_format *f, struct block_writer *w,
                       int (*fill)(const struct block_writer_format *, struct block_writer *, void *, struct err *),
                       void *context, struct err *e)
{
	int rc = f->open(w, e);
	if (rc >= 0 && fill)
		rc = fill(f, w, context, e);
	if (rc < 0)
		return rc;
	rc = f->finish(w);
	if (rc == -ECANCELED)
		return stopped(w->p, e);
	return rc < 0 ? err_set_errno(e, -rc, "cannot write '%s'", w->p->path) : 0;
}

int block_write_image(const struct block_create_params *p, uint64_t n_bytes,
                      int (*fill)(const struct block_writer_format *f, struct block_writer *w, void *context, struct err *e),
                      void *context, struct err *e)
{
	const struct block_writer_format *format = p->type == BLOCK_TYPE_QCOW2 ? &block_qcow2_writer : &block_raw_writer;
	struct new_file f = { .fd = -1, .replaced_fd = -1 };
	if (p->type != BLOCK_TYPE_QCOW2 && p->type != BLOCK_TYPE_RAW)
		return err_set(e, ENOTSUP, "cannot create '%s': not supported yet: images other than raw and qcow2", p->path);
	if (n_bytes > INT64_MAX - SECTOR_BYTES)
		return err_set(e, EFBIG, "cannot create '%s': a disk of %llu bytes is too large", p->path,
		               (unsigned long long)n_bytes);
	int rc = new_file_open(&f, p, e);
	struct block_writer w = { .p = p, .n_bytes = align_up(n_bytes, SECTOR_BYTES), .fd = f.fd };
	if (rc >= 0) {
		rc = write_image(format, &w, fill, context, e);
		format->close(&w);
	}
	if (rc >= 0)
		rc = new_file_finish(&f, p, e);
	new_file_done(&f);
	return rc;
}

int block_create(const struct block_create_params *p, struct err *e)
{
	return block_write_image(p, p->n_bytes, NULL, NULL, e);
}

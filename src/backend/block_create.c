// SPDX-License-Identifier: Apache-2.0
/* Making an image, whole, or not at all (block_new_file.c), of whatever format; and the raw one. */
#include "backend/block_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
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

int block_write_stopped(const struct block_create_params *p, struct err *e)
{
	return err_set(e, ECANCELED, "'%s' is not made: the work was stopped", p->path);
}

bool block_write_random(void *ret_bytes, size_t n_bytes)
{
	return getrandom(ret_bytes, n_bytes, 0) == (ssize_t)n_bytes;
}

int block_write_sparsely(int fd, const uint8_t *bytes, size_t n_bytes, uint64_t offset_bytes)
{
	for (size_t at = 0, end; at < n_bytes; at = end) {
		end = (size_t)min_u64(n_bytes, at + SPARSE_BYTES);
		if (block_is_zero(bytes + at, end - at))
			continue;
		size_t first = at;
		while (end < n_bytes && !block_is_zero(bytes + end, (size_t)min_u64(SPARSE_BYTES, n_bytes - end)))
			end = (size_t)min_u64(n_bytes, end + SPARSE_BYTES);
		int rc = block_write_all(fd, bytes + first, end - first, offset_bytes + first);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int block_write_check_plain(const struct block_writer *w, const char *kind, bool is_fixed, struct err *e)
{
	const struct block_create_params *p = w->p;
	if (p->backing_name)
		return err_set(e, EINVAL, "cannot create '%s': %s images cannot be based on others", p->path, kind);
	if (p->cluster_bytes || p->is_zstd || p->has_extended_l2 || p->has_lazy_refcounts || p->is_compressed)
		return err_set(e, EINVAL, "cannot create '%s': %s images have no clusters, compression or refcounts", p->path,
		               kind);
	if (p->preallocation == BLOCK_PREALLOCATE_METADATA)
		return err_set(e, EINVAL, "cannot create '%s': %s images have no metadata to preallocate", p->path, kind);
	if (p->preallocation != BLOCK_PREALLOCATE_OFF && !is_fixed)
		return err_set(e, EINVAL, "cannot create '%s': nothing is preallocated in %s images that grow", p->path, kind);
	return 0;
}

int block_write_preallocate(const struct block_writer *w, int fd, uint64_t offset_bytes, uint64_t n_bytes,
                            uint64_t n_before_bytes)
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
			rc = block_write_all(fd, zeroes, (size_t)n, offset_bytes + done);
		else if (fallocate(fd, 0, (off_t)(offset_bytes + done), (off_t)n) < 0)
			rc = -errno;
		if (rc == -EINTR) { /* by a signal, which may want us to stop: else once more */
			n = 0;
			rc = 0;
		}
		done += n;
		if (rc >= 0)
			rc = block_progress_step(&w->p->progress, n_before_bytes + done,
			                         max_u64(w->n_bytes, n_before_bytes + n_bytes));
	}
	free(zeroes);
	return rc;
}

/* --- raw --- */

static int raw_open(struct block_writer *w, struct err *e)
{
	if (w->p->subformat != BLOCK_SUBFORMAT_DEFAULT)
		return err_set(e, EINVAL, "cannot create '%s': raw images are all of one kind", w->p->path);
	return block_write_check_plain(w, "raw", true, e);
}

static int raw_write(struct block_writer *w, uint64_t offset_bytes, const uint8_t *bytes, size_t n_bytes)
{
	return block_write_sparsely(w->fd, bytes, (size_t)min_u64(n_bytes, w->n_bytes - offset_bytes), offset_bytes);
}

static int raw_finish(struct block_writer *w)
{
	return ftruncate(w->fd, (off_t)w->n_bytes) < 0 ? -errno : block_write_preallocate(w, w->fd, 0, w->n_bytes, 0);
}

static void raw_close(struct block_writer *w)
{
	(void)w;
}

const struct block_writer_format block_raw_writer = { .open = raw_open, .write = raw_write, .finish = raw_finish,
	                                              .close = raw_close };

/* --- the whole --- */

static const struct block_writer_format *writer_of(enum block_type type)
{
	switch (type) {
	case BLOCK_TYPE_RAW:
		return &block_raw_writer;
	case BLOCK_TYPE_QCOW2:
		return &block_qcow2_writer;
	case BLOCK_TYPE_VHD:
		return &block_vhd_writer;
	case BLOCK_TYPE_VHDX:
		return &block_vhdx_writer;
	case BLOCK_TYPE_VMDK:
		return &block_vmdk_writer;
	case BLOCK_TYPE_AUTO:
		break;
	}
	return NULL;
}

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
		return block_write_stopped(w->p, e);
	return rc < 0 ? err_set_errno(e, -rc, "cannot write '%s'", w->p->path) : 0;
}

int block_write_image(const struct block_create_params *p, uint64_t n_bytes,
                      int (*fill)(const struct block_writer_format *f, struct block_writer *w, void *context, struct err *e),
                      void *context, struct err *e)
{
	const struct block_writer_format *format = writer_of(p->type);
	struct block_new_image i;
	if (!format)
		return err_set(e, EINVAL, "cannot create '%s': no format is named", p->path);
	if (n_bytes > INT64_MAX - SECTOR_BYTES)
		return err_set(e, EFBIG, "cannot create '%s': a disk of %llu bytes is too large", p->path,
		               (unsigned long long)n_bytes);
	int rc = block_new_image_open(&i, p, e);
	struct block_writer w = { .p = p, .n_bytes = align_up(n_bytes, SECTOR_BYTES), .fd = i.own.fd, .image = &i };
	if (rc >= 0) {
		rc = write_image(format, &w, fill, context, e);
		format->close(&w);
	}
	if (rc >= 0)
		rc = block_new_image_finish(&i, p, e);
	block_new_image_done(&i);
	return rc;
}

int block_create(const struct block_create_params *p, struct err *e)
{
	return block_write_image(p, p->n_bytes, NULL, NULL, e);
}

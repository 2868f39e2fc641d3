// SPDX-License-Identifier: Apache-2.0
/* A disk's bytes into a new image. What the source's tables, or the file system under it, know to be zeroes is not even
 * read; what is read and is zeroes is not written. */
#include "backend/block_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_RUN_BYTES (1ull << 30)

struct copy {
	struct block_image *source;
	uint8_t *bytes; /* BLOCK_COPY_BYTES */
};

static uint64_t disk_bytes(const struct block_image *i)
{
	struct block_info info;
	block_image_info(i, &info);
	return info.n_bytes;
}

/* From here on the host has nothing for so many bytes of the run. */
static uint64_t host_hole(const struct block_extent *x)
{
	if (x->file->is_device)
		return 0;
	off_t data = lseek(x->file->fd, (off_t)x->offset_bytes, SEEK_DATA);
	if (data < 0)
		return errno == ENXIO ? x->n_bytes : 0;
	return min_u64((uint64_t)data - x->offset_bytes, x->n_bytes);
}

/* How many bytes are zeroes from here on, without reading them; at most n_bytes. */
static int zero_run(struct block_image *i, uint64_t at, uint64_t n_bytes, uint64_t *ret_n)
{
	*ret_n = 0;
	while (*ret_n < n_bytes) {
		struct block_extent x;
		uint64_t from = at + *ret_n;
		if (from >= i->n_disk_bytes) /* the odd end of a raw file is read, always */
			return 0;
		int rc = block_map(i, from, min_u64(n_bytes - *ret_n, i->n_disk_bytes - from), true, &x);
		if (rc < 0)
			return rc;
		uint64_t n = x.kind == BLOCK_EXTENT_ZERO ? x.n_bytes : x.kind == BLOCK_EXTENT_DATA ? host_hole(&x) : 0;
		*ret_n += n;
		if (n < x.n_bytes)
			return 0;
	}
	return 0;
}

static int read_piece(struct block_image *i, uint64_t at, uint8_t *bytes, size_t n_bytes)
{
	if (i->format == &block_raw_format)
		return block_file_read_padded(i, i->file, bytes, n_bytes, at);
	return block_read_blocking(i, at, bytes, n_bytes);
}

static int copy_disk(const struct block_writer_format *f, struct block_writer *w, void *context, struct err *e)
{
	const struct copy *c = context;
	uint64_t at = 0;
	int rc = 0;
	while (at < w->n_bytes) {
		uint64_t n_zero;
		rc = block_progress_step(&w->p->progress, at, w->n_bytes);
		if (rc < 0)
			return block_write_stopped(w->p, e);
		rc = zero_run(c->source, at, min_u64(w->n_bytes - at, MAX_RUN_BYTES), &n_zero);
		if (rc < 0)
			return err_set_errno(e, -rc, "cannot read '%s'", c->source->file->path);
		if (n_zero == w->n_bytes - at)
			break;
		if (n_zero >= BLOCK_COPY_BYTES) {
			at += align_down(n_zero, BLOCK_COPY_BYTES);
			continue;
		}
		rc = read_piece(c->source, at, c->bytes, BLOCK_COPY_BYTES);
		if (rc < 0)
			return err_set_errno(e, -rc, "cannot read '%s'", c->source->file->path);
		rc = f->write(w, at, c->bytes, BLOCK_COPY_BYTES);
		if (rc == -ECANCELED)
			return block_write_stopped(w->p, e);
		if (rc < 0)
			return err_set_errno(e, -rc, "cannot write '%s'", w->p->path);
		at += BLOCK_COPY_BYTES;
	}
	(void)block_progress_step(&w->p->progress, w->n_bytes, w->n_bytes);
	return 0;
}

int block_convert(struct block_image *source, const struct block_create_params *p, struct err *e)
{
	if (p->preallocation != BLOCK_PREALLOCATE_OFF)
		return err_set(e, ENOTSUP, "cannot create '%s': not supported yet: preallocation of a copy", p->path);
	struct copy c = { .source = source, .bytes = malloc(BLOCK_COPY_BYTES) };
	if (!c.bytes)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	int rc = block_write_image(p, disk_bytes(source), copy_disk, &c, e);
	free(c.bytes);
	return rc;
}

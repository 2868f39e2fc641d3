// SPDX-License-Identifier: Apache-2.0
/* What an overlay holds goes into what it is based on.
 *
 * The overlay is opened alone and only read: its own tables say which runs it has. What it is based on is opened for
 * writing, as a disk, with all that that is based on in turn, and written by requests like a guest's, one at a time; so
 * every format that a guest can write to will do, and at any point both are sound. The overlay still hides what was
 * written: whoever reads it sees the same disk before, during and after, and work that was stopped can be done again. */
#include "backend/block_qcow2.h"
#include "backend/block_writer.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct commit {
	struct block_image *overlay, *base;
	struct loop *loop;
	struct block_lane *lane;
	uint8_t *bytes; /* BLOCK_COPY_BYTES */
	uint64_t n_bytes;
};

/* --- one request --- */

struct one {
	struct block_request r;
	bool is_done;
	int result;
};

static void on_done(struct block_request *r, int result)
{
	struct one *o = container_of(r, struct one, r);
	o->is_done = true;
	o->result = result;
}

static int ask(struct commit *c, enum block_op op, uint64_t offset_bytes, uint64_t n_bytes)
{
	struct iovec iov = { .iov_base = c->bytes, .iov_len = (size_t)n_bytes };
	struct one o = { .r = { .op = op, .may_unmap = true, .offset_bytes = offset_bytes, .n_bytes = n_bytes,
		                .iov = &iov, .n_iov = op == BLOCK_WRITE, .done = on_done } };
	block_submit(c->lane, &o.r);
	block_drain(c->lane);
	assert(o.is_done);
	return o.result;
}

/* --- the work --- */

static int copy_run(struct commit *c, const struct block_extent *x, uint64_t at)
{
	if (x->kind == BLOCK_EXTENT_HOLE)
		return 0;
	if (x->kind == BLOCK_EXTENT_ZERO)
		return ask(c, BLOCK_WRITE_ZEROES, at, x->n_bytes);
	int rc = block_read_blocking(c->overlay, at, c->bytes, (size_t)x->n_bytes);
	return rc < 0 ? rc : ask(c, BLOCK_WRITE, at, x->n_bytes);
}

static int copy_all(struct commit *c, const struct block_progress *progress, struct err *e)
{
	for (uint64_t at = 0; at < c->n_bytes;) {
		struct block_extent x;
		if (block_progress_step(progress, at, c->n_bytes) < 0)
			return err_set(e, ECANCELED, "the work was stopped: a part of '%s' is in '%s', and all is in '%s' still",
			               c->overlay->file->path, c->base->file->path, c->overlay->file->path);
		/* Holes may be long; what is read is not. */
		int rc = c->overlay->format->map(c->overlay, at, c->n_bytes - at, true, &x);
		if (rc >= 0 && x.kind != BLOCK_EXTENT_HOLE)
			x.n_bytes = min_u64(x.n_bytes, BLOCK_COPY_BYTES);
		if (rc >= 0)
			rc = copy_run(c, &x, at);
		if (rc < 0)
			return err_set_errno(e, -rc, "cannot write what '%s' holds to '%s'", c->overlay->file->path,
			                     c->base->file->path);
		at += x.n_bytes;
	}
	int rc = ask(c, BLOCK_FLUSH, 0, 0);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot make '%s' durable", c->base->file->path);
	(void)block_progress_step(progress, c->n_bytes, c->n_bytes);
	return 0;
}

static int open_base(struct commit *c, const struct block_params *p, struct err *e)
{
	struct block_params bp = *p;
	if (c->overlay->format != &block_qcow2_format)
		return err_set(e, ENOTSUP, "cannot commit '%s': %s images are not based on others", p->path,
		               c->overlay->format->name);
	if (!c->overlay->backing_name)
		return err_set(e, EINVAL, "cannot commit '%s': it is not based on another image", p->path);
	free_scoped char *path = block_image_backing_path(c->overlay);
	int rc = path ? qcow2_backing_type(c->overlay, &bp.image_type, e) : err_set(e, ENOMEM, "no memory for '%s'", p->path);
	if (rc < 0)
		return rc;
	/* Not named in the overlay but found, so that it is not to change by what the guest wrote. */
	if (!c->overlay->backing_format)
		bp.image_type = BLOCK_TYPE_AUTO;
	bp.path = path;
	bp.is_readonly = bp.is_alone = bp.is_for_check = bp.has_no_lock = false;
	bp.may_use_backing_files = true;
	return block_open(&bp, &c->base, e);
}

static int start(struct commit *c, struct err *e)
{
	struct block_limits l;
	c->n_bytes = c->overlay->n_disk_bytes;
	block_image_limits(c->base, &l);
	int rc = l.n_bytes < c->n_bytes ? block_resize(c->base, c->n_bytes, e) : 0;
	c->bytes = malloc(BLOCK_COPY_BYTES);
	if (rc >= 0 && !c->bytes)
		rc = err_set(e, ENOMEM, "no memory for '%s'", c->overlay->file->path);
	if (rc >= 0)
		rc = loop_new(&c->loop, e);
	return rc < 0 ? rc : block_lane_open(c->base, c->loop, 1, &c->lane, e);
}

int block_commit(const struct block_params *p, const struct block_progress *progress, struct err *e)
{
	struct commit c = { 0 };
	struct block_params op = *p;
	op.is_readonly = op.is_alone = true;
	op.is_for_check = op.has_no_lock = false;
	int rc = block_open(&op, &c.overlay, e);
	if (rc >= 0)
		rc = open_base(&c, p, e);
	if (rc >= 0)
		rc = start(&c, e);
	if (rc >= 0)
		rc = copy_all(&c, progress, e);
	if (c.lane)
		block_lane_close(c.lane);
	int closed = block_close_durably(c.base, rc < 0 ? NULL : e);
	if (rc >= 0)
		rc = closed;
	loop_free(c.loop);
	block_close(c.overlay);
	free(c.bytes);
	return rc;
}

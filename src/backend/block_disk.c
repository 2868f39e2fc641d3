// SPDX-License-Identifier: Apache-2.0
/* Requests on disks that are made of extents (block_disk.h).
 *
 * Theory of operation. Reads ask block_disk_map() where bytes are. A write, a discard or a zeroing is cut into runs:
 * within one extent, and within one block or blocks that follow each other in the file. Where a run's place is known, it
 * is one transfer, by whichever engine the lane has. Where it is not (a page of a table to be read, a block to be made),
 * the request makes a call, in which a worker does what has to be done under the disk's lock, and is asked again: each
 * call finds out anew what is still missing, so it does not matter who did it, or whether it is asked for twice.
 *
 * Direct I/O. Where blocks may begin within a page of the host's cache that also holds something of a table
 * (may_be_odd), such blocks are written by the buffered descriptor, as tables are; all others share no page with a table.
 *
 * Discarding punches holes into blocks and keeps their places: nothing moves, so no request in flight can lose its
 * target, and no table changes. */
#include "backend/block_disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

struct progress {
	enum { STEP_NONE, STEP_CALL, STEP_TRANSFER, STEP_ZERO, STEP_SYNC } step;
	bool has_no_fallocate; /* this request's zeroes are written */
	uint64_t run_bytes;
};

static struct progress *progress_of(struct block_request *r)
{
	_Static_assert(sizeof(struct progress) <= BLOCK_SCRATCH_BYTES, "a request has no room for it");
	return (struct progress *)(void *)r->scratch;
}

static struct block_disk *disk_of(const struct block_request *r)
{
	return r->lane->image->state;
}

void block_disk_init(struct block_disk *d, struct block_image *i, const struct block_disk_ops *ops)
{
	static const struct block_disk_ops none;
	d->ops = ops ? ops : &none;
	d->image = i;
	(void)pthread_mutex_init(&d->lock, NULL);
}

static int flush_locked(struct block_disk *d)
{
	return d->ops->flush ? d->ops->flush(d) : block_disk_flush_pages(d);
}

void block_disk_done(struct block_disk *d)
{
	if (d->is_writing) {
		int rc = flush_locked(d);
		if (rc >= 0 && d->ops->end_writing)
			rc = d->ops->end_writing(d);
		d->image->close_error = rc < 0 ? rc : 0;
		if (rc < 0)
			log_error(&d->image->log, "the last flush failed: %s", strerrordesc_np(-rc));
	}
	(void)pthread_mutex_destroy(&d->lock);
}

uint64_t block_disk_bytes(const struct block_disk *d)
{
	const struct block_piece *last = d->n_pieces ? &d->pieces[d->n_pieces - 1] : NULL;
	return last ? last->start_bytes + last->n_bytes : 0;
}

static const struct block_piece *find_piece(const struct block_disk *d, uint64_t offset_bytes)
{
	unsigned low = 0, high = d->n_pieces;
	while (high - low > 1) {
		unsigned middle = low + (high - low) / 2;
		if (d->pieces[middle].start_bytes <= offset_bytes)
			low = middle;
		else
			high = middle;
	}
	assert(d->n_pieces && offset_bytes - d->pieces[low].start_bytes < d->pieces[low].n_bytes);
	return &d->pieces[low];
}

/* --- where bytes are --- */

struct place {
	const struct block_piece *piece;
	uint64_t in_piece_bytes, n_bytes; /* the run */
	uint64_t block;                   /* TABLE, COMPRESSED */
	uint32_t in_block_bytes, entry;
	uint64_t file_offset_bytes; /* of data */
};

static uint64_t data_offset(const struct block_table *t, uint32_t entry, uint32_t in_block_bytes)
{
	return (uint64_t)entry * t->unit_bytes + t->lead_bytes + in_block_bytes;
}

static bool is_odd(const struct place *l)
{
	const struct block_table *t = l->piece->table;
	return t && t->may_be_odd && (l->file_offset_bytes - l->in_block_bytes) % BLOCK_CACHE_PAGE_BYTES;
}

/* Lengthens the run over the blocks that go on where the last one ends. */
static void extend_run(struct place *l, uint64_t n_wanted)
{
	const struct block_table *t = l->piece->table;
	bool is_absent = l->entry == BLOCK_ENTRY_ABSENT;
	if (l->entry == BLOCK_ENTRY_DAMAGED || l->piece->kind == BLOCK_PIECE_COMPRESSED)
		return;
	if (!is_absent && (t->lead_bytes || t->whole))
		return;
	for (uint64_t k = 1; l->n_bytes < n_wanted; k++) {
		uint32_t next;
		uint64_t expected = is_absent ? BLOCK_ENTRY_ABSENT : l->entry + k * t->stride_units;
		if (!block_table_look_up(t, l->block + k, &next) || next != expected)
			return;
		l->n_bytes = min_u64(n_wanted, l->n_bytes + t->block_bytes);
	}
}

/* False: a page of the table has to be loaded first; block is set. */
static bool find_place(const struct block_disk *d, uint64_t offset_bytes, uint64_t n_bytes, struct place *ret_l)
{
	const struct block_piece *x = find_piece(d, offset_bytes);
	struct place l = { .piece = x, .in_piece_bytes = offset_bytes - x->start_bytes };
	uint64_t n_wanted = min_u64(n_bytes, x->n_bytes - l.in_piece_bytes);
	l.n_bytes = n_wanted;
	if (x->kind == BLOCK_PIECE_LINEAR)
		l.file_offset_bytes = x->offset_bytes + l.in_piece_bytes;
	bool is_loaded = true;
	if (x->table) {
		const struct block_table *t = x->table;
		l.block = l.in_piece_bytes / t->block_bytes;
		l.in_block_bytes = (uint32_t)(l.in_piece_bytes % t->block_bytes);
		l.n_bytes = min_u64(n_wanted, t->block_bytes - l.in_block_bytes);
		is_loaded = block_table_look_up(t, l.block, &l.entry);
		if (is_loaded)
			extend_run(&l, n_wanted);
		l.file_offset_bytes = data_offset(t, l.entry, l.in_block_bytes);
	}
	*ret_l = l;
	return is_loaded;
}

/* What a block of which only some sectors were ever written holds. May block. */
static int read_partial(struct block_disk *d, const struct place *l, uint8_t *ret_bytes, uint32_t *ret_n)
{
	const struct block_table *t = l->piece->table;
	bool is_written = false;
	(void)pthread_mutex_lock(&d->lock);
	int rc = block_table_examine(l->piece->table, l->block, l->in_block_bytes, (uint32_t)l->n_bytes, ret_n,
	                             &is_written);
	(void)pthread_mutex_unlock(&d->lock);
	if (rc >= 0 && is_written)
		rc = block_file_read_padded(d->image, t->file, ret_bytes, *ret_n, l->file_offset_bytes);
	else if (rc >= 0)
		memset(ret_bytes, 0, *ret_n);
	return rc;
}

int block_disk_read_packed(struct block_image *i, const struct block_extent *x, uint8_t *ret_bytes)
{
	struct block_disk *d = i->state;
	for (uint64_t done = 0; done < x->n_bytes;) {
		struct place l;
		uint32_t n = 0;
		bool is_loaded = find_place(d, x->disk_offset_bytes + done, x->n_bytes - done, &l);
		assert(is_loaded && l.piece->table && l.entry != BLOCK_ENTRY_ABSENT && l.entry != BLOCK_ENTRY_DAMAGED);
		int rc = read_partial(d, &l, ret_bytes + done, &n);
		if (rc < 0)
			return rc;
		done += n;
	}
	return 0;
}

int block_disk_map(struct block_image *i, uint64_t offset_bytes, uint64_t n_bytes, bool can_block,
                   struct block_extent *ret_x)
{
	struct block_disk *d = i->state;
	struct place l;
	while (!find_place(d, offset_bytes, n_bytes, &l)) {
		if (!can_block)
			return -EAGAIN;
		(void)pthread_mutex_lock(&d->lock);
		int rc = block_table_load(l.piece->table, l.block);
		(void)pthread_mutex_unlock(&d->lock);
		if (rc < 0)
			return rc == -EAGAIN ? -EIO : rc;
	}
	struct block_extent x = {
		.kind = BLOCK_EXTENT_ZERO,
		.image = i,
		.disk_offset_bytes = offset_bytes,
		.n_bytes = l.n_bytes,
		.offset_bytes = l.file_offset_bytes,
	};
	if (l.piece->kind == BLOCK_PIECE_LINEAR) {
		x.kind = BLOCK_EXTENT_DATA;
		x.file = l.piece->file;
	} else if (l.piece->table && l.entry == BLOCK_ENTRY_DAMAGED) {
		return -EIO;
	} else if (l.piece->table && l.entry != BLOCK_ENTRY_ABSENT) {
		x.kind = BLOCK_EXTENT_DATA;
		x.file = l.piece->table->file;
		if (l.piece->kind == BLOCK_PIECE_COMPRESSED || !block_table_is_whole(l.piece->table, l.block)) {
			x.kind = BLOCK_EXTENT_PACKED;
			x.packed = (uint64_t)(l.piece - d->pieces);
			x.n_bytes = min_u64(x.n_bytes, BLOCK_MAX_PACKED_BYTES);
		}
	}
	*ret_x = x;
	return 0;
}

/* --- calls: worker threads --- */

static long call_flush(struct block_request *r)
{
	struct block_disk *d = disk_of(r);
	(void)pthread_mutex_lock(&d->lock);
	int rc = flush_locked(d);
	(void)pthread_mutex_unlock(&d->lock);
	return rc;
}

static int begin_writing_locked(struct block_disk *d)
{
	if (d->is_writing)
		return 0;
	int rc = d->ops->begin_writing ? d->ops->begin_writing(d) : 0;
	if (rc >= 0)
		d->is_writing = true;
	return rc;
}

/* All that stands between the request's next bytes and their place in a file. */
static long call_make_place(struct block_request *r)
{
	struct block_disk *d = disk_of(r);
	uint64_t offset = r->offset_bytes + r->n_done_bytes, n = r->n_bytes - r->n_done_bytes;
	struct place l;

	(void)pthread_mutex_lock(&d->lock);
	int rc = begin_writing_locked(d);
	bool is_loaded = rc >= 0 && find_place(d, offset, n, &l);
	if (rc >= 0 && !is_loaded) {
		rc = block_table_load(l.piece->table, l.block);
		is_loaded = rc >= 0 && find_place(d, offset, n, &l);
	}
	if (is_loaded && l.piece->kind == BLOCK_PIECE_TABLE && l.entry != BLOCK_ENTRY_DAMAGED) {
		struct block_table *t = l.piece->table;
		uint64_t n_blocks = (l.in_block_bytes + l.n_bytes + t->block_bytes - 1) / t->block_bytes;
		if (l.entry == BLOCK_ENTRY_ABSENT && r->op == BLOCK_WRITE)
			rc = block_table_allocate(t, l.block, n_blocks);
		else if (l.entry != BLOCK_ENTRY_ABSENT && r->op != BLOCK_DISCARD)
			rc = block_table_make_whole(t, l.block);
	}
	(void)pthread_mutex_unlock(&d->lock);
	return rc;
}

static long call_write_zeroes(struct block_request *r)
{
	const struct block_step *s = &r->step;
	return block_file_zero(r->lane->image, s->file, s->offset_bytes, s->n_bytes, s->is_buffered);
}

/* --- steps: the lane's loop --- */

static enum block_next step_call(struct block_request *r, long (*call)(struct block_request *r))
{
	progress_of(r)->step = STEP_CALL;
	r->step = (struct block_step){ .op = BLOCK_STEP_CALL, .file = r->lane->image->file, .call = call };
	return BLOCK_NEXT_STEP;
}

static enum block_next done(struct block_request *r, int result)
{
	block_transfer_cancel(r);
	r->result = result;
	return BLOCK_NEXT_DONE;
}

static enum block_next prepare_flush(struct block_disk *d, struct block_request *r)
{
	if (d->n_files != 1 || d->is_dirty)
		return step_call(r, call_flush);
	if (d->image->has_no_sync)
		return done(r, 0);
	progress_of(r)->step = STEP_SYNC;
	r->step = (struct block_step){ .op = BLOCK_STEP_SYNC, .file = d->files[0] };
	return BLOCK_NEXT_STEP;
}

/* Zeroes, or a hole, in a run that has a place. */
static enum block_next prepare_zeroes(struct block_lane *lane, struct block_request *r, const struct block_file *f,
                                      const struct place *l)
{
	struct progress *p = progress_of(r);
	bool is_hole = r->op == BLOCK_DISCARD || (r->may_unmap && lane->image->limits.can_discard);
	p->step = STEP_ZERO;
	p->run_bytes = l->n_bytes;
	r->step = (struct block_step){
		.op = BLOCK_STEP_FALLOCATE,
		.mode = FALLOC_FL_KEEP_SIZE | (is_hole ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
		.file = f,
		.offset_bytes = l->file_offset_bytes,
		.n_bytes = l->n_bytes,
	};
	if (p->has_no_fallocate || f->is_device) {
		r->step.op = BLOCK_STEP_CALL;
		r->step.call = call_write_zeroes;
		r->step.is_buffered = is_odd(l);
	}
	return BLOCK_NEXT_STEP;
}

/* A request that changes something, one run after the other. */
static enum block_next prepare_change(struct block_lane *lane, struct block_request *r)
{
	struct block_disk *d = disk_of(r);
	struct progress *p = progress_of(r);

	while (r->n_done_bytes < r->n_bytes) {
		struct place l;
		if (!d->is_writing ||
		    !find_place(d, r->offset_bytes + r->n_done_bytes, r->n_bytes - r->n_done_bytes, &l))
			return step_call(r, call_make_place);
		const struct block_table *t = l.piece->table;
		bool is_write = r->op == BLOCK_WRITE;
		if (l.piece->is_readonly || l.piece->kind == BLOCK_PIECE_COMPRESSED)
			return done(r, -EROFS);
		if ((l.piece->kind == BLOCK_PIECE_ZERO && is_write) || (t && l.entry == BLOCK_ENTRY_DAMAGED))
			return done(r, -EIO);
		bool is_absent = l.piece->kind == BLOCK_PIECE_ZERO || (t && l.entry == BLOCK_ENTRY_ABSENT);
		if (is_absent && is_write)
			return step_call(r, call_make_place);
		/* What holds nothing needs neither zeroes nor a hole; and discarding is advice. */
		if (is_absent || (r->op == BLOCK_DISCARD && !lane->image->limits.can_discard)) {
			r->n_done_bytes += l.n_bytes;
			continue;
		}
		if (t && r->op != BLOCK_DISCARD && !block_table_is_whole(t, l.block))
			return step_call(r, call_make_place);
		const struct block_file *f = t ? t->file : l.piece->file;
		if (!is_write)
			return prepare_zeroes(lane, r, f, &l);
		p->step = STEP_TRANSFER;
		if (is_odd(&l))
			return block_transfer_prepare_buffered(r, f, l.file_offset_bytes, l.n_bytes);
		return block_transfer_prepare(lane, r, f, l.file_offset_bytes, l.n_bytes);
	}
	return done(r, 0);
}

enum block_next block_disk_prepare(struct block_lane *lane, struct block_request *r)
{
	r->result = 0;
	if (r->op == BLOCK_READ)
		return block_read_prepare(lane, r);
	bool is_readonly = lane->image->limits.is_readonly;
	if (r->op == BLOCK_FLUSH)
		return is_readonly ? done(r, 0) : prepare_flush(disk_of(r), r);
	return is_readonly ? done(r, -EROFS) : prepare_change(lane, r);
}

static bool is_unsupported(long result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL;
}

bool block_disk_finish(struct block_lane *lane, struct block_request *r, long result)
{
	if (r->op == BLOCK_READ)
		return block_read_finish(lane, r, result);
	struct progress *p = progress_of(r);
	if (block_should_retry(r, result))
		return false;
	if (p->step == STEP_TRANSFER)
		result = block_transfer_finish(lane, r, result);
	if (p->step == STEP_TRANSFER && result == 0)
		result = -EIO; /* the end of the file, before the end of the disk */
	if (p->step == STEP_ZERO && is_unsupported(result) && !p->has_no_fallocate) {
		/* Discarding is advice. */
		p->has_no_fallocate = r->op != BLOCK_DISCARD;
		if (!p->has_no_fallocate)
			r->n_done_bytes += p->run_bytes;
		return r->n_done_bytes == r->n_bytes;
	}
	r->result = result < 0 ? (int)result : 0;
	if (result < 0 || r->op == BLOCK_FLUSH)
		return true;
	if (p->step == STEP_ZERO)
		r->n_done_bytes += p->run_bytes;
	return r->n_done_bytes == r->n_bytes;
}

/* --- what it is --- */

void block_disk_info(const struct block_image *i, struct block_info *info)
{
	const struct block_disk *d = i->state;
	for (unsigned k = 0; k < d->n_pieces && !info->cluster_bytes; k++)
		info->cluster_bytes = d->pieces[k].table ? d->pieces[k].table->block_bytes : 0;
}

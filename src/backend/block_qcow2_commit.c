// SPDX-License-Identifier: Apache-2.0
/* qcow2: what was changed in memory goes to the file, in the order that a crash at any point leaves a sound image.
 *
 *   refcounts (and the refcount table after the blocks that it names) -- sync, which makes guest data durable as well, and
 *   so is not left out when no refcount changed --
 *   L2 tables, L1 table -- sync -- and only then the references that are gone are counted down.
 *
 * What may go wrong on the way leaves the change in memory, dirty, for the next commit; slices are clean only after the
 * sync, because a failed one says nothing about what reached the file. With lazy refcounts the header's dirty bit goes
 * first instead of the counts, once, and those are written when the image is closed. */
#include "backend/block_qcow2.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static bool is_dirty(const struct qcow2_table *t)
{
	return t->first_dirty < t->end_dirty;
}

void qcow2_table_dirty(struct qcow2_table *t, uint64_t index)
{
	assert(index < t->n);
	bool was_dirty = is_dirty(t);
	t->first_dirty = was_dirty ? min_u64(t->first_dirty, index) : index;
	t->end_dirty = was_dirty ? max_u64(t->end_dirty, index + 1) : index + 1;
}

static void table_clean(struct qcow2_table *t)
{
	t->first_dirty = t->end_dirty = 0;
}

int qcow2_table_write(struct qcow2 *q, const struct qcow2_table *t, uint64_t first, uint64_t end)
{
	uint8_t bytes[4096];
	/* Whole sectors, so that none is torn. */
	first = align_down(first, 64);
	end = min_u64(align_up(end, 64), t->n);
	while (first < end) {
		uint64_t n = min_u64(end - first, sizeof bytes / 8);
		for (uint64_t k = 0; k < n; k++)
			put_be64(bytes + 8 * k, t->entries[first + k]);
		int rc = block_file_write(q->image, q->file, bytes, (size_t)n * 8, t->offset_bytes + first * 8);
		if (rc < 0)
			return rc;
		first += n;
	}
	return 0;
}

int qcow2_write_features(struct qcow2 *q)
{
	uint8_t bits[24];
	put_be64(bits, q->incompatible);
	put_be64(bits + 8, q->compatible);
	put_be64(bits + 16, q->autoclear);
	int rc = q->version >= 3 ? block_file_write(q->image, q->file, bits, sizeof bits, 72) : 0;
	return rc < 0 ? rc : block_file_sync(q->image, q->file);
}

bool qcow2_needs_commit(const struct qcow2 *q)
{
	return q->l2.n_dirty || is_dirty(&q->l1) || q->unlinked.n ||
	       (q->draining.n && block_epoch_is_over(q->image));
}

static bool is_lazy(const struct qcow2 *q)
{
	return q->version >= 3 && (q->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS);
}

static int commit_refcounts(struct qcow2 *q, bool even_lazy)
{
	struct qcow2_table *t = &q->refcount_table;
	int rc = 0;
	if (is_lazy(q) && !even_lazy) {
		/* Guest data before what refers to them, or a power cut leaves references beyond the end of the file. */
		if (q->is_marked_dirty)
			return block_file_sync(q->image, q->file);
		q->incompatible |= QCOW2_INCOMPAT_DIRTY;
		rc = qcow2_write_features(q);
		q->is_marked_dirty = rc >= 0;
		return rc;
	}
	if (q->refcounts.n_dirty)
		rc = qcow2_cache_write(q, &q->refcounts);
	if (rc >= 0 && is_dirty(t)) {
		rc = block_file_sync(q->image, q->file);
		if (rc >= 0)
			rc = qcow2_table_write(q, t, t->first_dirty, t->end_dirty);
	}
	/* What L2 tables are about to name may have been counted long ago: in a commit while its data were on their way, or
	 * before they were zeroes. */
	bool has_references = q->l2.n_dirty || is_dirty(&q->l1);
	if (rc >= 0 && (q->refcounts.n_dirty || is_dirty(t) || q->has_unsynced_refcounts || has_references))
		rc = block_file_sync(q->image, q->file);
	if (rc < 0)
		return rc;
	block_lock(q->image);
	qcow2_cache_clean(&q->refcounts);
	table_clean(t);
	q->has_unsynced_refcounts = false;
	block_unlock(q->image);
	return 0;
}

static int commit_references(struct qcow2 *q)
{
	int rc = qcow2_cache_write(q, &q->l2);
	if (rc >= 0 && is_dirty(&q->l1))
		rc = qcow2_table_write(q, &q->l1, q->l1.first_dirty, q->l1.end_dirty);
	if (rc >= 0)
		rc = block_file_sync(q->image, q->file);
	if (rc < 0)
		return rc;
	block_lock(q->image);
	qcow2_cache_clean(&q->l2);
	table_clean(&q->l1);
	block_unlock(q->image);
	return 0;
}

static int commit(struct qcow2 *q, bool with_counts)
{
	block_lock(q->image);
	(void)qcow2_free_now(q);
	bool has_references = q->l2.n_dirty || is_dirty(&q->l1);
	block_unlock(q->image);

	int rc = has_references || with_counts || qcow2_cache_is_full(&q->refcounts) || q->unlinked.n ?
	         commit_refcounts(q, with_counts) : 0;
	if (rc >= 0)
		rc = commit_references(q);
	if (rc < 0)
		return rc;

	block_lock(q->image);
	/* All that was unlinked is so in the file now. */
	if (!q->draining.n && q->unlinked.n && block_epoch_turn(q->image)) {
		struct qcow2_free_list l = q->draining;
		q->draining = q->unlinked;
		q->unlinked = l;
		(void)qcow2_free_now(q);
	}
	block_unlock(q->image);
	return 0;
}

int qcow2_commit(struct qcow2 *q)
{
	return commit(q, false);
}

int qcow2_commit_counts(struct qcow2 *q)
{
	return commit(q, true);
}

int qcow2_close_clean(struct qcow2 *q)
{
	int rc = 0;
	/* The first unlinks, the second counts down, the third writes the counts. */
	for (unsigned k = 0; k < 3 && rc >= 0; k++)
		rc = commit(q, true);
	if (rc >= 0 && q->is_marked_dirty) {
		q->incompatible &= ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
		rc = qcow2_write_features(q);
		q->is_marked_dirty = rc < 0;
	}
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
/* qcow2: making the disk larger, with requests under way. The caller waits for the turn; the disk has its new size when
 * the header says so, and a longer L1 table takes the place of the old one, in one write of the header each. */
#include "backend/block_qcow2.h"

#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

/* For those whose I/O is under way where something was given up. */
#define MAX_WAIT_NS NS_PER_S
#define WAIT_NS (10 * NS_PER_MS)

/* Locked, turn. */
static int grow_l1(struct qcow2 *q, uint64_t n_entries)
{
	uint64_t n_clusters = qcow2_clusters_for(q, n_entries * 8), first, n;
	bool is_fresh;
	uint8_t header[12];
	uint64_t *entries = calloc((size_t)n_clusters, (size_t)q->cluster_bytes);
	if (!entries)
		return -ENOMEM;
	int rc = qcow2_alloc(q, n_clusters, n_clusters, true, &first, &n, &is_fresh);
	if (rc < 0) {
		free(entries);
		return rc;
	}
	memcpy(entries, q->l1.entries, (size_t)q->l1.n * 8);
	struct qcow2_table t = { .entries = entries, .offset_bytes = first << q->cluster_bits,
		                 .n = n_clusters << (q->cluster_bits - 3) };
	block_unlock(q->image);

	rc = qcow2_table_write(q, &t, 0, t.n);
	if (rc >= 0)
		rc = qcow2_commit_counts(q); /* the table is counted before the header names it */
	if (rc >= 0)
		rc = block_file_sync(q->image, q->file);
	put_be32(header, (uint32_t)n_entries);
	put_be64(header + 4, t.offset_bytes);
	if (rc >= 0)
		rc = block_file_write(q->image, q->file, header, sizeof header, 36); /* both fields, in one sector */
	if (rc >= 0)
		rc = block_file_sync(q->image, q->file);

	block_lock(q->image);
	if (rc < 0) { /* the header may name the clusters or not: they are left alone */
		free(entries);
		return rc;
	}
	uint64_t old = q->l1.offset_bytes >> q->cluster_bits, n_old = qcow2_clusters_for(q, q->l1.n * 8);
	free(q->l1.entries);
	t.n = n_entries;
	q->l1 = t;
	if (n_old)
		(void)qcow2_free_later(q, old, n_old);
	return 0;
}

/* Commits until much more can be given up. What somebody may still be moving bytes in is not waited for without end: the
 * turn is ours meanwhile. Locked, turn. */
static int make_room(struct qcow2 *q)
{
	const struct timespec pause = { .tv_nsec = WAIT_NS };
	uint64_t end = clock_now_ns() + MAX_WAIT_NS;
	for (;;) {
		block_unlock(q->image);
		int rc = qcow2_commit(q);
		block_lock(q->image);
		if (rc < 0 || qcow2_free_has_room(q, QCOW2_MAX_FREE_RUNS / 2))
			return rc;
		if (clock_now_ns() >= end)
			return -EBUSY;
		block_unlock(q->image);
		(void)nanosleep(&pause, NULL);
		block_lock(q->image);
	}
}

/* What is behind the old end reads as zeroes, even where the backing file is longer. Locked, turn. */
static int hide_backing(struct qcow2 *q, uint64_t from, uint64_t to)
{
	uint64_t backing = q->image->backing ? q->image->backing->n_disk_bytes : 0;
	to = min_u64(to, backing);
	struct qcow2_range range = { .first = qcow2_clusters_for(q, from) };
	uint64_t end = to > from ? qcow2_clusters_for(q, to) : range.first;
	while (range.first < end) {
		bool is_short = qcow2_cache_is_full(&q->l2) || !qcow2_free_has_room(q, QCOW2_MAX_FREE_RUNS / 2);
		int rc = is_short ? make_room(q) : 0;
		range.n = end - range.first;
		int64_t n = rc < 0 ? rc : qcow2_zero(q, &range, false, true, true);
		if (n < 0)
			return (int)n;
		range.first += (uint64_t)n;
	}
	return 0;
}

static bool has_partial_tail(const struct qcow2 *q)
{
	return q->image->backing && q->image->backing->n_disk_bytes > q->size_bytes &&
	       (q->size_bytes & (q->cluster_bytes - 1));
}

int qcow2_resize(struct block_image *i, uint64_t n_bytes, struct err *e)
{
	struct qcow2 *q = qcow2_of(i);
	const char *path = q->file->path;
	unsigned table_bits = q->cluster_bits + q->l2_bits;
	uint64_t n_entries = (n_bytes >> table_bits) + ((n_bytes & ((1ull << table_bits) - 1)) != 0);
	uint8_t size[8];
	if (n_entries > QCOW2_MAX_L1_BYTES / 8 || n_bytes > INT64_MAX)
		return err_set(e, EFBIG, "cannot resize '%s': clusters of %llu bytes do not allow a disk of %llu", path,
		               (unsigned long long)q->cluster_bytes, (unsigned long long)n_bytes);
	if (q->version < 3 && q->n_snapshots)
		return err_set(e, ENOTSUP, "cannot resize '%s': not supported yet: snapshots in a version 2 image", path);
	if (has_partial_tail(q) || q->n_bitmaps)
		return err_set(e, ENOTSUP, "cannot resize '%s': not supported yet: %s", path,
		               q->n_bitmaps ? "images with bitmaps" :
		                              "a disk that ends within a cluster of a longer backing file");
	i->was_changed = true;
	qcow2_turn_take(q);
	block_lock(i);
	int rc = n_entries > q->l1.n ? grow_l1(q, n_entries) : 0;
	if (rc >= 0)
		rc = hide_backing(q, q->size_bytes, n_bytes);
	block_unlock(i);
	if (rc >= 0)
		rc = qcow2_commit(q);
	put_be64(size, n_bytes);
	if (rc >= 0)
		rc = block_file_write(i, q->file, size, sizeof size, 24);
	if (rc >= 0)
		rc = block_file_sync(i, q->file);
	if (rc >= 0) {
		block_lock(i);
		q->size_bytes = n_bytes;
		block_unlock(i);
	}
	qcow2_turn_give(q);
	return rc < 0 ? err_set_errno(e, -rc, "cannot resize '%s'", path) : 0;
}

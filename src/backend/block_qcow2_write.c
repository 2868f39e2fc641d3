// SPDX-License-Identifier: Apache-2.0
/* qcow2: changing what entries say. In memory, under the lock, on a loop where that is enough; else by the one that has
 * the turn, on a worker. Nothing is changed before all that is needed is there. */
#include "backend/block_qcow2.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define COPY_BYTES (256u * 1024)

/* --- L2 tables --- */

int qcow2_l2_make(struct qcow2 *q, uint64_t l1_index)
{
	uint64_t old = q->l1.entries[l1_index] & QCOW2_OFFSET_MASK, cluster = 0, n;
	bool is_fresh;
	if (q->l1.entries[l1_index] & QCOW2_OFLAG_COPIED)
		return 0;
	if (old & (q->cluster_bytes - 1))
		return qcow2_corrupt(q, "an L2 table that is not at a cluster's start", old);
	uint8_t *table = calloc(1, (size_t)q->cluster_bytes);
	if (!table)
		return -ENOMEM;
	int rc = qcow2_tables_reserve(q, 1);
	if (rc >= 0)
		rc = qcow2_alloc(q, 1, 1, true, &cluster, &n, &is_fresh);
	if (rc < 0)
		goto out;
	/* The old one is shared with a snapshot: it is as the file has it, as nobody changes what is shared. */
	block_unlock(q->image);
	if (old)
		rc = block_file_read(q->image, q->file, table, (size_t)q->cluster_bytes, old);
	if (rc >= 0)
		rc = block_file_write(q->image, q->file, table, (size_t)q->cluster_bytes, cluster << q->cluster_bits);
	block_lock(q->image);
	if (rc < 0 || !qcow2_free_has_room(q, 1)) {
		(void)qcow2_refcount_set(q, cluster, 0, true);
		rc = rc < 0 ? rc : -EIO;
		goto out;
	}
	/* Who was late may have read it as the table that it once was. */
	qcow2_cache_drop(&q->l2, cluster << q->cluster_bits, q->cluster_bytes);
	q->l1.entries[l1_index] = cluster << q->cluster_bits | QCOW2_OFLAG_COPIED;
	qcow2_table_dirty(&q->l1, l1_index);
	qcow2_tables_add(q, cluster << q->cluster_bits);
	if (old) {
		qcow2_tables_remove(q, old);
		qcow2_cache_drop(&q->l2, old, q->cluster_bytes);
		(void)qcow2_free_later(q, old >> q->cluster_bits, 1);
	}
out:
	free(table);
	return rc;
}

/* The slice of an L2 table that is this image's alone. */
static int own_slice(struct qcow2 *q, uint64_t guest_cluster, bool can_block, struct qcow2_slice **ret_s,
                     unsigned *ret_index)
{
	uint64_t l1_index = guest_cluster >> q->l2_bits;
	if (!(q->l1.entries[l1_index] & QCOW2_OFLAG_COPIED)) {
		int rc = can_block ? qcow2_l2_make(q, l1_index) : -EAGAIN;
		if (rc < 0)
			return rc;
	}
	int rc = qcow2_l2_slice(q, guest_cluster, can_block, ret_s, ret_index);
	return rc >= 0 && !*ret_s ? qcow2_corrupt(q, "an L1 entry without a table", l1_index) : rc;
}

/* --- requests that allocate --- */

bool qcow2_is_being_written(const struct qcow2 *q, uint64_t first, uint64_t n)
{
	for (const struct qcow2_write *w = q->writes; w; w = w->next) {
		if (first < w->range.first + w->range.n && w->range.first < first + n)
			return true;
	}
	return false;
}

/* The range until the first cluster that somebody else is about to link. */
static uint64_t n_not_written(const struct qcow2 *q, uint64_t first, uint64_t n)
{
	for (const struct qcow2_write *w = q->writes; w; w = w->next) {
		if (w->range.first > first && w->range.first - first < n)
			n = w->range.first - first;
	}
	return n;
}

static bool has_place(const struct qcow2 *q, struct qcow2_entry e)
{
	return (e.descriptor & QCOW2_OFLAG_COPIED) && !(e.descriptor & QCOW2_OFLAG_COMPRESSED) &&
	       (e.descriptor & QCOW2_OFFSET_MASK) && (e.descriptor & QCOW2_OFFSET_MASK) + q->cluster_bytes < QCOW2_MAX_OFFSET;
}

/* From start on, units whose entries have a place, but whose content does not count. */
static void plan_reuse(const struct qcow2 *q, struct qcow2_write *w, const struct qcow2_slice *s, unsigned index,
                       uint64_t n_clusters)
{
	const uint64_t unit_bytes = 1ull << q->unit_bits;
	uint64_t at = w->start, end = w->end;
	w->host = qcow2_entry_get(q, s, index).descriptor & QCOW2_OFFSET_MASK;
	w->range.n = 0;
	for (uint64_t k = 0; k < n_clusters && at < end; k++) {
		struct qcow2_entry e = qcow2_entry_get(q, s, index + (unsigned)k);
		if (!has_place(q, e) || qcow2_entry_check(q, e) < 0 ||
		    (e.descriptor & QCOW2_OFFSET_MASK) != w->host + k * q->cluster_bytes)
			break;
		uint64_t before = at, cluster_end = (w->range.first + k + 1) << q->cluster_bits;
		while (at < min_u64(end, cluster_end) &&
		       qcow2_entry_kind(q, e, (unsigned)((at & (q->cluster_bytes - 1)) >> q->unit_bits)) != QCOW2_DATA)
			at = min_u64(end, align_down(at, unit_bytes) + unit_bytes);
		if (at == before)
			break;
		w->range.n++;
		if (at < cluster_end)
			break;
	}
	w->end = at;
	w->is_reused = true;
}

static uint64_t n_placeless(const struct qcow2 *q, const struct qcow2_slice *s, unsigned index, uint64_t n_max)
{
	for (uint64_t k = 0; k < n_max; k++) {
		struct qcow2_entry e = qcow2_entry_get(q, s, index + (unsigned)k);
		if (has_place(q, e) || qcow2_entry_check(q, e) < 0)
			return k;
	}
	return n_max;
}

/* Is what the request leaves of this cluster zeroes, and nothing but zeroes in the file? */
static bool needs_no_copy(const struct qcow2 *q, const struct qcow2_write *w, struct qcow2_entry e)
{
	if (!w->is_fresh || (e.descriptor & QCOW2_OFLAG_COMPRESSED))
		return false;
	if (q->has_extl2)
		return !(uint32_t)e.bitmap && (!q->image->backing || e.bitmap >> 32 == UINT32_MAX);
	enum qcow2_kind kind = qcow2_entry_kind(q, e, 0);
	return kind == QCOW2_ZERO || (kind == QCOW2_UNALLOCATED && !q->image->backing);
}

int qcow2_allocate(struct qcow2 *q, struct qcow2_write *w, uint64_t offset_bytes, uint64_t n_bytes, bool can_block)
{
	struct qcow2_slice *s;
	unsigned index;
	uint64_t guest = offset_bytes >> q->cluster_bits, first, n;
	int rc = own_slice(q, guest, can_block, &s, &index);
	if (rc < 0)
		return rc;
	uint64_t n_max = ((offset_bytes + n_bytes - 1) >> q->cluster_bits) - guest + 1;
	n_max = n_not_written(q, guest, min_u64(n_max, qcow2_slice_entries(q) - index));
	w->range = (struct qcow2_range){ .first = guest, .n = 0 };
	w->start = offset_bytes;
	w->end = min_u64(offset_bytes + n_bytes, (guest + n_max) << q->cluster_bits);
	w->is_reused = w->is_fresh = false;

	struct qcow2_entry entries[2]; /* of the first and the last cluster */
	entries[0] = qcow2_entry_get(q, s, index);
	if (has_place(q, entries[0])) {
		plan_reuse(q, w, s, index, n_max);
		if (qcow2_is_in_tables(q, w->host, max_u64(w->range.n, 1) << q->cluster_bits))
			return qcow2_corrupt(q, "a guest cluster among the tables", w->host);
		w->phase = QCOW2_PHASE_COPY;
	} else {
		w->range.n = n_placeless(q, s, index, n_max);
		if (!w->range.n)
			return qcow2_corrupt(q, "an L2 entry that cannot be", entries[0].descriptor);
		rc = qcow2_alloc(q, 1, w->range.n, can_block, &first, &n, &w->is_fresh);
		if (rc < 0)
			return rc;
		w->range.n = n;
		w->host = first << q->cluster_bits;
		w->end = min_u64(w->end, (guest + n) << q->cluster_bits);
		/* With can_block the slice may have gone; the turn keeps the entries as they are. */
		rc = qcow2_l2_slice(q, guest, can_block, &s, &index);
		w->phase = QCOW2_PHASE_COPY;
		if (rc >= 0 && s) {
			entries[1] = qcow2_entry_get(q, s, index + (unsigned)n - 1);
			bool is_head = w->start & (q->cluster_bytes - 1), is_tail = w->end & (q->cluster_bytes - 1);
			if ((!is_head || needs_no_copy(q, w, entries[0])) && (!is_tail || needs_no_copy(q, w, entries[1])))
				w->phase = QCOW2_PHASE_DATA;
		}
	}
	if (!w->range.n || w->end <= w->start)
		return qcow2_corrupt(q, "an L2 entry that cannot be", entries[0].descriptor);
	w->is_allocated = true;
	w->next = q->writes;
	q->writes = w;
	return 0;
}

static bool is_zeroes(const uint8_t *bytes, size_t n)
{
	return !n || (!bytes[0] && memcmp(bytes, bytes + 1, n - 1) == 0);
}

static int copy(struct qcow2 *q, const struct qcow2_write *w, uint8_t *buffer, uint64_t from, uint64_t to)
{
	while (from < to) {
		size_t n = (size_t)min_u64(to - from, COPY_BYTES);
		int rc = block_read_blocking(q->image, from, buffer, n);
		uint64_t at = w->host + (from - (w->range.first << q->cluster_bits));
		if (rc >= 0 && !(w->is_fresh && is_zeroes(buffer, n)))
			rc = block_file_write(q->image, q->file, buffer, n, at);
		if (rc < 0)
			return rc;
		from += n;
	}
	return 0;
}

int qcow2_copy_rest(struct qcow2 *q, const struct qcow2_write *w)
{
	/* Where the entry has its place, a subcluster is what begins to count; else a cluster. */
	uint64_t unit_bytes = w->is_reused ? 1ull << q->unit_bits : q->cluster_bytes;
	uint8_t *buffer = malloc(min_u64(COPY_BYTES, q->cluster_bytes));
	if (!buffer)
		return -ENOMEM;
	int rc = copy(q, w, buffer, align_down(w->start, unit_bytes), w->start);
	if (rc >= 0)
		rc = copy(q, w, buffer, w->end, align_up(w->end, unit_bytes));
	free(buffer);
	return rc;
}

/* Up to two references: of a compressed cluster that goes over a cluster's end. */
static void free_entry(struct qcow2 *q, struct qcow2_entry e)
{
	bool is_freed = true;
	if (e.descriptor & QCOW2_OFLAG_COMPRESSED) {
		uint64_t offset, n_bytes;
		qcow2_compressed_range(q, e.descriptor, &offset, &n_bytes);
		uint64_t first = offset >> q->cluster_bits, last = (offset + n_bytes - 1) >> q->cluster_bits;
		for (; first <= last; first++)
			is_freed = qcow2_free_later(q, first, 1) && is_freed;
	} else if (e.descriptor & QCOW2_OFFSET_MASK) {
		is_freed = qcow2_free_later(q, (e.descriptor & QCOW2_OFFSET_MASK) >> q->cluster_bits, 1);
	}
	assert(is_freed); /* the room was looked after */
}

/* The subclusters from start to end count now. */
static uint64_t reused_bitmap(const struct qcow2 *q, const struct qcow2_write *w, uint64_t guest, uint64_t bitmap)
{
	uint64_t cluster_start = guest << q->cluster_bits, unit_bytes = 1ull << q->unit_bits;
	uint64_t first = w->start > cluster_start ? (w->start - cluster_start) >> q->unit_bits : 0;
	uint64_t end = min_u64(QCOW2_MAX_SUBCLUSTERS, (align_up(w->end, unit_bytes) - cluster_start) >> q->unit_bits);
	for (uint64_t k = first; k < end; k++)
		bitmap = (bitmap | 1ull << k) & ~(1ull << (32 + k));
	return bitmap;
}

int qcow2_link(struct qcow2 *q, struct qcow2_write *w, bool can_block)
{
	struct qcow2_slice *s;
	unsigned index;
	/* One that goes over a cluster's end frees two, and neighbours do not always run on. */
	if (!qcow2_free_has_room(q, 2 * (unsigned)w->range.n))
		return -EAGAIN;
	int rc = own_slice(q, w->range.first, can_block, &s, &index);
	if (rc < 0)
		return rc;
	for (uint64_t k = 0; k < w->range.n; k++) {
		struct qcow2_entry old = qcow2_entry_get(q, s, index + (unsigned)k);
		struct qcow2_entry e = {
			.descriptor = (w->host + k * q->cluster_bytes) | QCOW2_OFLAG_COPIED,
			.bitmap = q->has_extl2 ? UINT32_MAX : 0,
		};
		if (w->is_reused && q->has_extl2)
			e.bitmap = reused_bitmap(q, w, w->range.first + k, old.bitmap);
		if (!w->is_reused)
			free_entry(q, old);
		qcow2_entry_set(q, s, index + (unsigned)k, e);
	}
	return 0;
}

/* --- zeroes and holes --- */

/* What an entry becomes. */
static struct qcow2_entry zero_entry(const struct qcow2 *q, struct qcow2_entry old, bool is_discard, bool may_unmap)
{
	bool has_backing = q->image->backing;
	if (q->version < 3)
		return is_discard && has_backing ? old : (struct qcow2_entry){ 0 };
	struct qcow2_entry e = { .descriptor = q->has_extl2 ? 0 : QCOW2_OFLAG_ZERO,
		                 .bitmap = q->has_extl2 ? (uint64_t)UINT32_MAX << 32 : 0 };
	if (!is_discard && !may_unmap && has_place(q, old))
		e.descriptor |= (old.descriptor & QCOW2_OFFSET_MASK) | QCOW2_OFLAG_COPIED;
	else if (!has_backing)
		e = (struct qcow2_entry){ 0 };
	return e;
}

static bool is_same(struct qcow2_entry a, struct qcow2_entry b)
{
	return a.descriptor == b.descriptor && a.bitmap == b.bitmap;
}

int64_t qcow2_zero(struct qcow2 *q, const struct qcow2_range *range, bool is_discard, bool may_unmap, bool can_block)
{
	struct qcow2_slice *s;
	unsigned index;
	uint64_t in_table = range->first & ((1ull << q->l2_bits) - 1);
	int rc = qcow2_l2_slice(q, range->first, can_block, &s, &index);
	if (rc < 0)
		return rc;
	if (!s && (is_discard || !q->image->backing)) {
		uint64_t l1_index = range->first >> q->l2_bits, n_tables = 1;
		while ((n_tables << q->l2_bits) - in_table < range->n && l1_index + n_tables < q->l1.n &&
		       !(q->l1.entries[l1_index + n_tables] & QCOW2_OFFSET_MASK))
			n_tables++;
		return (int64_t)min_u64(range->n, (n_tables << q->l2_bits) - in_table);
	}
	rc = own_slice(q, range->first, can_block, &s, &index);
	if (rc < 0)
		return rc;
	uint64_t n = n_not_written(q, range->first, min_u64(range->n, qcow2_slice_entries(q) - index)), k;
	for (k = 0; k < n && qcow2_free_has_room(q, 2); k++) {
		struct qcow2_entry old = qcow2_entry_get(q, s, index + (unsigned)k);
		struct qcow2_entry e = zero_entry(q, old, is_discard, may_unmap);
		if (is_same(old, e))
			continue;
		/* What is nowhere and reads as zeroes needs no word, but for a bitmap that says it of a part. */
		if (qcow2_entry_check(q, old) < 0)
			return qcow2_corrupt(q, "an L2 entry that cannot be", old.descriptor);
		if (!(e.descriptor & QCOW2_OFFSET_MASK))
			free_entry(q, old);
		qcow2_entry_set(q, s, index + (unsigned)k, e);
	}
	return k ? (int64_t)k : -EAGAIN;
}

// SPDX-License-Identifier: Apache-2.0
/* qcow2: which clusters of the file are free.
 *
 * Counts go up in memory first, and reach the file before any reference does (block_qcow2_commit.c). They go down in three
 * stages: `unlinked` while the tables that no longer refer to the cluster are not yet durable, `draining` while somebody
 * who looked the cluster up before may still be moving bytes there, and then they go down, and the host gets the space
 * back. So a cluster is never used for something new while a crash, or a slow write, could still mean the old.
 *
 * A new refcount block is put into a free cluster that it, or an older block, describes. When the refcount table is full
 * a longer one is made behind everything, together with the blocks that describe it. */
#include "backend/block_qcow2.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>

/* A search goes on in steps: all clusters of a slice that are counted, or a single one. A loop makes so many; a worker goes
 * on, and lets others have the lock in between; and an image may have been made for searches without end. */
#define SCAN_STEPS 512u
#define MAX_SCAN_STEPS (1u << 21)
#define SCAN_PAUSE_NS 50000
/* Counted behind the end of the file: what a crash left. More is no accident, and would be searched for ever. */
#define MAX_BEHIND_END (1u << 20)

static uint64_t block_entries(const struct qcow2 *q)
{
	return 1ull << q->block_bits;
}

uint64_t qcow2_refcount_max(const struct qcow2 *q)
{
	unsigned bits = 1u << q->refcount_order;
	return bits == 64 ? UINT64_MAX : (1ull << bits) - 1;
}

/* --- counts --- */

/* Of a block of sub-byte counts, the first is in the low bits. */
static uint64_t count_in(const struct qcow2 *q, const uint8_t *block, uint64_t k)
{
	unsigned bits = 1u << q->refcount_order;
	if (bits < 8)
		return (block[k * bits / 8] >> (k * bits % 8)) & ((1u << bits) - 1);
	uint64_t v = 0;
	for (unsigned b = 0; b < bits / 8; b++)
		v = v << 8 | block[k * bits / 8 + b];
	return v;
}

static void set_count_in(const struct qcow2 *q, uint8_t *block, uint64_t k, uint64_t count)
{
	unsigned bits = 1u << q->refcount_order;
	if (bits < 8) {
		unsigned shift = (unsigned)(k * bits % 8), mask = (1u << bits) - 1;
		uint8_t *at = &block[k * bits / 8];
		*at = (uint8_t)((*at & ~(mask << shift)) | (unsigned)count << shift);
		return;
	}
	for (unsigned b = bits / 8; b-- > 0; count >>= 8)
		block[k * bits / 8 + b] = (uint8_t)count;
}

/* *ret_s is NULL where there is no block. */
static int slice_of(struct qcow2 *q, uint64_t cluster, bool can_block, struct qcow2_slice **ret_s, uint64_t *ret_k)
{
	uint64_t t = cluster >> q->block_bits;
	*ret_s = NULL;
	if (t >= q->refcount_table.n || !q->refcount_table.entries[t])
		return 0;
	uint64_t block = q->refcount_table.entries[t];
	if (block & (q->cluster_bytes - 1) || block >= QCOW2_MAX_OFFSET)
		return qcow2_corrupt(q, "a refcount block that is not at a cluster's start", block);
	uint64_t per_slice = (uint64_t)q->refcounts.slice_bytes * 8 >> q->refcount_order;
	uint64_t k = cluster & (block_entries(q) - 1);
	*ret_k = k % per_slice;
	return qcow2_cache_get(q, &q->refcounts, block + k / per_slice * q->refcounts.slice_bytes, can_block, ret_s);
}

int qcow2_refcount_get(struct qcow2 *q, uint64_t cluster, bool can_block, uint64_t *ret_count)
{
	struct qcow2_slice *s;
	uint64_t k;
	int rc = slice_of(q, cluster, can_block, &s, &k);
	if (rc >= 0)
		*ret_count = s ? count_in(q, s->bytes, k) : 0;
	return rc;
}

/* How many clusters from this one on are counted, as far as one slice tells; 0 also where there is no block. */
static int count_used(struct qcow2 *q, uint64_t cluster, bool can_block, uint64_t *ret_n)
{
	const unsigned bits = 1u << q->refcount_order, per_word = 64 / bits;
	const uint64_t per_slice = (uint64_t)q->refcounts.slice_bytes * 8 / bits, ones = UINT64_MAX / qcow2_refcount_max(q);
	struct qcow2_slice *s;
	uint64_t first = 0, k;
	int rc = slice_of(q, cluster, can_block, &s, &first);
	for (k = first; rc >= 0 && s && k < per_slice;) {
		uint64_t word = 0;
		if (k % per_word == 0)
			memcpy(&word, s->bytes + k * bits / 8, 8);
		/* No count of the word is 0: that could only be seen as a borrow. */
		if (k % per_word == 0 && !((word - ones) & ~word & ones << (bits - 1)))
			k += per_word;
		else if (count_in(q, s->bytes, k))
			k++;
		else
			break;
	}
	*ret_n = k - first;
	return rc;
}

/* Counts may reach the file at any time: up, nothing depends on them yet; down, nothing does any more. */
static int write_counts(struct qcow2 *q)
{
	block_unlock(q->image);
	int rc = qcow2_cache_write(q, &q->refcounts);
	block_lock(q->image);
	if (rc < 0)
		return rc;
	q->has_unsynced_refcounts = true;
	qcow2_cache_clean(&q->refcounts);
	return 0;
}

int qcow2_refcount_set(struct qcow2 *q, uint64_t cluster, uint64_t count, bool can_block)
{
	struct qcow2_slice *s;
	uint64_t k;
	if (can_block && qcow2_cache_is_full(&q->refcounts)) {
		int rc = write_counts(q);
		if (rc < 0)
			return rc;
	}
	int rc = slice_of(q, cluster, can_block, &s, &k);
	if (rc < 0)
		return rc;
	if (!s)
		return qcow2_corrupt(q, "a cluster without a refcount", cluster);
	if (count > qcow2_refcount_max(q))
		return -ERANGE;
	set_count_in(q, s->bytes, k, count);
	qcow2_cache_dirty(&q->refcounts, s);
	if (!count && cluster < q->free_hint)
		q->free_hint = cluster;
	return 0;
}

/* --- blocks and the table --- */

static void *zeroed(uint64_t n_bytes)
{
	return calloc(1, (size_t)n_bytes);
}

static int write_unlocked(struct qcow2 *q, const void *bytes, uint64_t n_bytes, uint64_t offset)
{
	block_unlock(q->image);
	int rc = block_file_write(q->image, q->file, bytes, (size_t)n_bytes, offset);
	block_lock(q->image);
	return rc;
}

/* The new table and the blocks that describe it and themselves, behind everything. */
struct growth {
	uint64_t start, n_blocks, n_table; /* clusters */
	uint64_t n_entries;
};

static int plan_growth(const struct qcow2 *q, uint64_t table_index, struct growth *ret_g)
{
	uint64_t per_cluster = q->cluster_bytes / 8, entries = block_entries(q);
	uint64_t start = align_up(max_u64(q->refcount_table.n << q->block_bits, q->end_cluster), entries);
	struct growth g = { .start = start, .n_blocks = 1 };
	uint64_t n_wanted = max_u64(table_index + 1, q->refcount_table.n + q->refcount_table.n / 2 + 1);
	for (;;) {
		n_wanted = max_u64(n_wanted, (start >> q->block_bits) + g.n_blocks);
		g.n_table = (n_wanted + per_cluster - 1) / per_cluster;
		g.n_entries = g.n_table * per_cluster;
		if (g.n_blocks * entries >= g.n_blocks + g.n_table)
			break;
		g.n_blocks++;
	}
	if (g.n_entries * 8 > QCOW2_MAX_REFCOUNT_TABLE_BYTES ||
	    start + g.n_blocks + g.n_table >= QCOW2_MAX_OFFSET >> q->cluster_bits)
		return -EFBIG;
	*ret_g = g;
	return 0;
}

static int write_growth(struct qcow2 *q, const struct growth *g, const uint64_t *entries, uint8_t *block, uint8_t *table)
{
	uint64_t n_used = g->n_blocks + g->n_table;
	uint8_t header[12];
	int rc = 0;
	for (uint64_t b = 0; b < g->n_blocks && rc >= 0; b++) {
		memset(block, 0, (size_t)q->cluster_bytes);
		for (uint64_t k = 0; k < block_entries(q) && b * block_entries(q) + k < n_used; k++)
			set_count_in(q, block, k, 1);
		rc = block_file_write(q->image, q->file, block, (size_t)q->cluster_bytes, (g->start + b) << q->cluster_bits);
	}
	for (uint64_t k = 0; k < g->n_entries; k++)
		put_be64(table + 8 * k, entries[k]);
	uint64_t table_offset = (g->start + g->n_blocks) << q->cluster_bits;
	if (rc >= 0)
		rc = block_file_write(q->image, q->file, table, (size_t)g->n_entries * 8, table_offset);
	if (rc >= 0)
		rc = block_file_sync(q->image, q->file);
	put_be64(header, table_offset);
	put_be32(header + 8, (uint32_t)g->n_table);
	if (rc >= 0)
		rc = block_file_write(q->image, q->file, header, sizeof header, 48); /* both fields, in one sector */
	return rc < 0 ? rc : block_file_sync(q->image, q->file);
}

static int grow_table(struct qcow2 *q, uint64_t table_index)
{
	struct growth g;
	int rc = plan_growth(q, table_index, &g);
	if (rc < 0)
		return rc;
	uint64_t *entries = zeroed(g.n_entries * 8);
	uint8_t *block = zeroed(q->cluster_bytes), *table = zeroed(g.n_entries * 8);
	struct qcow2_table *t = &q->refcount_table;
	rc = entries && block && table ? qcow2_tables_reserve(q, g.n_blocks) : -ENOMEM;
	if (rc < 0)
		goto out;
	memcpy(entries, t->entries, (size_t)t->n * 8);
	for (uint64_t b = 0; b < g.n_blocks; b++)
		entries[(g.start >> q->block_bits) + b] = (g.start + b) << q->cluster_bits;
	block_unlock(q->image);
	rc = write_growth(q, &g, entries, block, table);
	block_lock(q->image);
	if (rc < 0)
		goto out;

	uint64_t old = t->offset_bytes >> q->cluster_bits, n_old = qcow2_clusters_for(q, t->n * 8);
	uint64_t *old_entries = t->entries;
	*t = (struct qcow2_table){ .entries = entries, .n = g.n_entries,
		                   .offset_bytes = (g.start + g.n_blocks) << q->cluster_bits };
	entries = old_entries;
	for (uint64_t b = 0; b < g.n_blocks; b++)
		qcow2_tables_add(q, (g.start + b) << q->cluster_bits);
	q->end_cluster = max_u64(q->end_cluster, g.start + g.n_blocks + g.n_table);
	(void)qcow2_free_later(q, old, n_old); /* without room it is lost to the file, as after a crash */
out:
	free(entries);
	free(block);
	free(table);
	return rc;
}

/* At every step of a search: how many clusters from this one on are counted. */
static int scan_on(struct qcow2 *q, uint64_t cluster, bool can_block, unsigned *n_steps, uint64_t *ret_n_used)
{
	static const struct timespec pause = { .tv_nsec = SCAN_PAUSE_NS };
	if (cluster >= QCOW2_MAX_OFFSET >> q->cluster_bits || *n_steps >= MAX_SCAN_STEPS)
		return -EFBIG;
	if (cluster > q->end_cluster + MAX_BEHIND_END)
		return qcow2_corrupt(q, "refcounts far behind the end", cluster << q->cluster_bits);
	if (++*n_steps % SCAN_STEPS == 0) {
		if (!can_block)
			return -EAGAIN;
		/* Who waits for the lock gets it only from one that stays away for a while. */
		block_unlock(q->image);
		(void)nanosleep(&pause, NULL);
		block_lock(q->image);
	}
	return count_used(q, cluster, can_block, ret_n_used);
}

/* The first cluster that nobody counts, whether there is a block for it or not. */
static int find_uncounted(struct qcow2 *q, uint64_t *ret_cluster)
{
	unsigned n_steps = 0;
	uint64_t c = q->free_hint, n_used = 1;
	while (n_used) {
		int rc = scan_on(q, c, true, &n_steps, &n_used);
		if (rc < 0)
			return rc;
		c += n_used;
	}
	if (qcow2_is_in_tables(q, c << q->cluster_bits, q->cluster_bytes))
		return qcow2_corrupt(q, "tables that are not counted", c << q->cluster_bits);
	*ret_cluster = c;
	return 0;
}

/* A refcount block at a free cluster: for itself when nobody else counts it, else for those of table_index. */
static int make_block(struct qcow2 *q, uint64_t place, uint64_t table_index)
{
	uint64_t own = place >> q->block_bits;
	bool is_own = !q->refcount_table.entries[own];
	uint8_t *block = zeroed(q->cluster_bytes);
	if (!block)
		return -ENOMEM;
	if (is_own) {
		table_index = own;
		set_count_in(q, block, place & (block_entries(q) - 1), 1);
	}
	int rc = qcow2_tables_reserve(q, 1);
	if (rc >= 0)
		rc = write_unlocked(q, block, q->cluster_bytes, place << q->cluster_bits);
	free(block);
	if (rc >= 0 && !is_own)
		rc = qcow2_refcount_set(q, place, 1, true);
	if (rc < 0)
		return rc;
	qcow2_cache_drop(&q->refcounts, place << q->cluster_bits, q->cluster_bytes);
	q->refcount_table.entries[table_index] = place << q->cluster_bits;
	qcow2_table_dirty(&q->refcount_table, table_index);
	qcow2_tables_add(q, place << q->cluster_bits);
	q->end_cluster = max_u64(q->end_cluster, place + 1);
	return 0;
}

int qcow2_refcount_block_for(struct qcow2 *q, uint64_t cluster)
{
	uint64_t t = cluster >> q->block_bits;
	for (;;) {
		uint64_t place = 0;
		if (t < q->refcount_table.n && q->refcount_table.entries[t])
			return 0;
		int rc = t < q->refcount_table.n ? find_uncounted(q, &place) : grow_table(q, t);
		if (rc >= 0 && t < q->refcount_table.n && !q->refcount_table.entries[t]) {
			uint64_t own = place >> q->block_bits;
			rc = own < q->refcount_table.n ? make_block(q, place, t) : grow_table(q, own);
		}
		if (rc < 0)
			return rc;
	}
}

/* --- allocation --- */

static int find_free(struct qcow2 *q, uint64_t n_min, uint64_t n_max, bool can_block, struct qcow2_range *ret_run)
{
	uint64_t c = q->free_hint;
	unsigned n_steps = 0;
	bool is_all_used = true; /* so far: the hint may move on */
	struct qcow2_range run = { 0 };
	while (run.n < n_max) {
		uint64_t n_used = 0, t = c >> q->block_bits;
		int rc = scan_on(q, c, can_block, &n_steps, &n_used);
		if (rc >= 0 && !n_used && (t >= q->refcount_table.n || !q->refcount_table.entries[t])) {
			if (run.n >= n_min)
				break;
			rc = can_block ? qcow2_refcount_block_for(q, c) : -EAGAIN;
			if (rc >= 0) {
				/* The block may be among what we took for free. */
				run.n = 0;
				c = q->free_hint;
				is_all_used = true;
				continue;
			}
		}
		if (rc == -EAGAIN && run.n >= n_min)
			break;
		if (rc < 0)
			return rc;
		if (n_used && run.n >= n_min)
			break;
		if (n_used) {
			run.n = 0;
			q->free_hint = is_all_used ? c + n_used : q->free_hint;
		} else {
			run.first = run.n++ ? run.first : c;
			is_all_used = false;
		}
		c += max_u64(n_used, 1);
	}
	*ret_run = run;
	return 0;
}

int qcow2_alloc(struct qcow2 *q, uint64_t n_min, uint64_t n_max, bool can_block, uint64_t *ret_first, uint64_t *ret_n,
                bool *ret_is_fresh)
{
	struct qcow2_range run;
	assert(n_min && n_min <= n_max);
	int rc = find_free(q, n_min, n_max, can_block, &run);
	if (rc < 0)
		return rc;
	if (qcow2_is_in_tables(q, run.first << q->cluster_bits, run.n << q->cluster_bits))
		return qcow2_corrupt(q, "tables that are not counted", run.first << q->cluster_bits);
	for (uint64_t k = 0; k < run.n; k++) {
		rc = qcow2_refcount_set(q, run.first + k, 1, can_block);
		if (rc < 0) {
			while (k-- > 0)
				(void)qcow2_refcount_set(q, run.first + k, 0, can_block);
			return rc == -EAGAIN ? -EIO : rc;
		}
	}
	*ret_first = run.first;
	*ret_n = run.n;
	*ret_is_fresh = !q->file->is_device && run.first >= q->end_cluster;
	if (run.first == q->free_hint)
		q->free_hint = run.first + run.n;
	q->end_cluster = max_u64(q->end_cluster, run.first + run.n);
	return 0;
}

/* --- freeing --- */

bool qcow2_free_has_room(const struct qcow2 *q, unsigned n_runs)
{
	return q->unlinked.n + n_runs <= QCOW2_MAX_FREE_RUNS;
}

bool qcow2_free_later(struct qcow2 *q, uint64_t first, uint64_t n)
{
	struct qcow2_free_list *l = &q->unlinked;
	if (l->n && l->runs[l->n - 1].first + l->runs[l->n - 1].n == first) {
		l->runs[l->n - 1].n += n;
		return true;
	}
	if (l->n == QCOW2_MAX_FREE_RUNS)
		return false;
	l->runs[l->n++] = (struct qcow2_free_run){ .first = first, .n = n };
	return true;
}

static void give_to_host(struct qcow2 *q, uint64_t first, uint64_t n)
{
	if (!n || !q->has_punch || q->file->has_no_punch)
		return;
	block_unlock(q->image);
	struct block_step s = {
		.op = BLOCK_STEP_FALLOCATE, .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, .file = q->file,
		.offset_bytes = first << q->cluster_bits, .n_bytes = n << q->cluster_bits,
	};
	long rc = block_step_run(q->image, &s);
	if (rc == -EOPNOTSUPP || rc == -ENOSYS)
		q->file->has_no_punch = true;
	block_lock(q->image);
}

static int free_run(struct qcow2 *q, const struct qcow2_free_run *run)
{
	uint64_t n_free = 0; /* of those before c */
	for (uint64_t c = run->first; c < run->first + run->n; c++) {
		uint64_t count = 0;
		/* What named it was not a guest's to free. */
		int rc = qcow2_is_in_tables(q, c << q->cluster_bits, q->cluster_bytes) ?
		         qcow2_corrupt(q, "a guest cluster among the tables", c << q->cluster_bits) :
		         qcow2_refcount_get(q, c, true, &count);
		if (rc >= 0 && !count)
			rc = qcow2_corrupt(q, "a cluster that is in use and not counted", c << q->cluster_bits);
		if (rc >= 0)
			rc = qcow2_refcount_set(q, c, count - 1, true);
		bool is_free = rc >= 0 && count == 1;
		n_free += is_free;
		if (!is_free) {
			give_to_host(q, c - n_free, n_free);
			n_free = 0;
		}
	}
	give_to_host(q, run->first + run->n - n_free, n_free);
	return 0;
}

int qcow2_free_now(struct qcow2 *q)
{
	if (!q->draining.n || !block_epoch_is_over(q->image))
		return 0;
	/* What cannot be counted down is lost to the file: a leak, never worse. */
	for (unsigned k = 0; k < q->draining.n; k++)
		(void)free_run(q, &q->draining.runs[k]);
	q->draining.n = 0;
	return 0;
}

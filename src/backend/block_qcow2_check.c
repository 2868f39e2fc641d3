// SPDX-License-Identifier: Apache-2.0
/* qcow2: what the refcounts ought to be, and whether they are.
 *
 * All that refers to a cluster is walked: header, tables, snapshots, bitmaps. First it is counted how many L1 entries, of
 * the disk and of all snapshots, name each L2 table; then each is read once, and its entries count so many times. So
 * neither many snapshots nor an image made for it can keep us busy: the entries of all L1 tables and bitmaps are bounded,
 * and what is walked by the file's own length, without its holes. Repairs set counts to what was found, first up and then
 * down, and then the COPIED flags; new refcount blocks are made behind the end, where nothing can be referred to. */
#include "backend/block_qcow2.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define MAX_CHECKED_CLUSTERS (1ull << 28)
#define MAX_SNAPSHOT_EXTRA 1024u
/* Of all snapshots and bitmaps together: less than what the next flag needs. */
#define MAX_LISTED_ENTRIES (1u << 26)
#define ACTIVE_TABLE (1u << 31)

struct walk {
	struct qcow2 *q;
	uint32_t *refs; /* by cluster */
	uint32_t *tables; /* by cluster: the L1 entries that name it, and ACTIVE_TABLE where the disk's own is among them */
	uint64_t n;
	uint8_t *table; /* a cluster */
	struct block_check *c;
	uint64_t n_listed; /* entries */
	uint32_t n_times;  /* so often counts what is being walked */
	bool is_active, is_too_large;
};

static void mark(struct walk *w, uint64_t offset, uint64_t n_bytes)
{
	unsigned bits = w->q->cluster_bits;
	if (!n_bytes)
		return;
	uint64_t first = offset >> bits, last = (offset + n_bytes - 1) >> bits;
	for (uint64_t c = first; c <= last; c++) {
		if (c >= w->n) {
			w->c->n_corruptions += w->n_times;
			return;
		}
		w->refs[c] += (uint32_t)min_u64(w->n_times, UINT32_MAX - w->refs[c]);
		w->c->end_bytes = max_u64(w->c->end_bytes, (c + 1) << bits);
	}
}

static bool is_cluster(const struct walk *w, uint64_t offset)
{
	return !(offset & (w->q->cluster_bytes - 1)) && offset >> w->q->cluster_bits < w->n;
}

static void walk_entry(struct walk *w, struct qcow2_entry e)
{
	struct qcow2 *q = w->q;
	uint64_t offset = e.descriptor & QCOW2_OFFSET_MASK;
	if (e.descriptor & QCOW2_OFLAG_COMPRESSED) {
		uint64_t n_bytes;
		qcow2_compressed_range(q, e.descriptor, &offset, &n_bytes);
		w->c->n_corruptions += e.descriptor & QCOW2_OFLAG_COPIED ? w->n_times : 0;
		w->c->n_compressed += w->is_active;
		w->c->n_allocated += w->is_active;
		mark(w, offset, n_bytes);
		return;
	}
	if (qcow2_entry_check(q, e) < 0) {
		w->c->n_corruptions += w->n_times;
		return;
	}
	if (!offset)
		return;
	w->c->n_allocated += w->is_active;
	mark(w, offset, q->cluster_bytes);
}

static struct qcow2_entry entry_at(const struct qcow2 *q, const uint8_t *table, uint64_t k)
{
	const uint8_t *at = table + k * q->l2_entry_bytes;
	return (struct qcow2_entry){ .descriptor = get_be64(at), .bitmap = q->has_extl2 ? get_be64(at + 8) : 0 };
}

static void walk_l1(struct walk *w, const uint64_t *entries, uint64_t n, bool is_active)
{
	struct qcow2 *q = w->q;
	for (uint64_t k = 0; k < n; k++) {
		uint64_t offset = entries[k] & QCOW2_OFFSET_MASK;
		if (!offset)
			continue;
		if (!is_cluster(w, offset)) {
			w->c->n_corruptions++;
			continue;
		}
		mark(w, offset, q->cluster_bytes);
		uint32_t *n_names = &w->tables[offset >> q->cluster_bits];
		w->c->n_corruptions += is_active && *n_names & ACTIVE_TABLE; /* two parts of the disk in one */
		*n_names = (*n_names + 1) | (is_active ? ACTIVE_TABLE : 0);
	}
}

/* 1, 0 where the file has a hole (the image may name more tables than anybody ever wrote), or a negative errno. */
static int read_l2(const struct walk *w, uint64_t offset)
{
	struct qcow2 *q = w->q;
	off_t data = lseek(q->file->fd, (off_t)offset, SEEK_DATA);
	if (data < 0 ? errno == ENXIO : (uint64_t)data >= offset + q->cluster_bytes)
		return 0;
	int rc = block_file_read_padded(q->image, q->file, w->table, (size_t)q->cluster_bytes, offset);
	return rc < 0 ? rc : 1;
}

static void walk_l2_tables(struct walk *w)
{
	struct qcow2 *q = w->q;
	for (uint64_t c = 0; c < w->n; c++) {
		if (!w->tables[c])
			continue;
		w->n_times = w->tables[c] & ~ACTIVE_TABLE;
		w->is_active = w->tables[c] & ACTIVE_TABLE;
		w->c->n_corruptions += w->is_active && w->refs[c] > w->n_times; /* data as well */
		int rc = read_l2(w, c << q->cluster_bits);
		w->c->n_errors += rc < 0;
		for (uint64_t i = 0; i < 1ull << q->l2_bits && rc > 0; i++)
			walk_entry(w, entry_at(q, w->table, i));
	}
	w->n_times = 1;
}

/* --- snapshots, bitmaps --- */

static int load_entries(struct walk *w, uint64_t offset, uint64_t n, uint64_t **ret_entries)
{
	struct qcow2 *q = w->q;
	/* No more than the file has: n is from the file. */
	if (offset & (q->cluster_bytes - 1) || n > QCOW2_MAX_L1_BYTES / 8 || offset >> q->cluster_bits >= w->n ||
	    n * 8 > (w->n << q->cluster_bits) - offset)
		return -EINVAL;
	w->n_listed += n;
	w->is_too_large = w->n_listed > MAX_LISTED_ENTRIES;
	if (w->is_too_large)
		return -EFBIG;
	uint64_t *entries = calloc((size_t)max_u64(n, 1), 8);
	int rc = entries ? block_file_read_padded(q->image, q->file, entries, (size_t)n * 8, offset) : -ENOMEM;
	for (uint64_t k = 0; k < n && rc >= 0; k++)
		entries[k] = be64toh(entries[k]);
	if (rc < 0)
		free(entries);
	else
		*ret_entries = entries;
	return rc;
}

static void count_failure(struct walk *w, int rc)
{
	if (rc == -EINVAL)
		w->c->n_corruptions++;
	else
		w->c->n_errors++;
}

static void walk_snapshots(struct walk *w)
{
	struct qcow2 *q = w->q;
	uint64_t at = q->snapshots_offset;
	for (uint32_t k = 0; k < q->n_snapshots; k++) {
		uint8_t b[40];
		uint64_t *entries = NULL;
		int rc = block_file_read(q->image, q->file, b, sizeof b, at);
		uint32_t n_extra = get_be32(b + 36);
		if (rc < 0 || n_extra > MAX_SNAPSHOT_EXTRA) {
			count_failure(w, rc < 0 ? rc : -EINVAL);
			return;
		}
		uint64_t n_names = (uint64_t)(b[12] << 8 | b[13]) + (uint64_t)(b[14] << 8 | b[15]);
		at += align_up(sizeof b + n_extra + n_names, 8);
		uint64_t l1_offset = get_be64(b), n_l1 = get_be32(b + 8);
		rc = load_entries(w, l1_offset, n_l1, &entries);
		if (rc < 0) {
			count_failure(w, rc);
			if (w->is_too_large)
				return;
			continue;
		}
		mark(w, l1_offset, n_l1 * 8);
		walk_l1(w, entries, n_l1, false);
		free(entries);
	}
	mark(w, q->snapshots_offset, at - q->snapshots_offset);
}

static void walk_bitmaps(struct walk *w)
{
	struct qcow2 *q = w->q;
	uint64_t at = q->bitmaps_offset;
	if (!q->n_bitmaps)
		return;
	mark(w, q->bitmaps_offset, q->bitmaps_bytes);
	for (uint32_t k = 0; k < q->n_bitmaps; k++) {
		uint8_t b[24];
		uint64_t *entries = NULL;
		if (at - q->bitmaps_offset + sizeof b > q->bitmaps_bytes) {
			w->c->n_corruptions++;
			return;
		}
		int rc = block_file_read(q->image, q->file, b, sizeof b, at);
		uint64_t offset = get_be64(b), n = get_be32(b + 8);
		if (rc >= 0)
			rc = load_entries(w, offset, n, &entries);
		if (rc < 0) {
			count_failure(w, rc);
			return;
		}
		mark(w, offset, n * 8);
		for (uint64_t i = 0; i < n; i++) {
			if (entries[i] & QCOW2_OFFSET_MASK)
				mark(w, entries[i] & QCOW2_OFFSET_MASK, q->cluster_bytes);
		}
		free(entries);
		at += align_up(sizeof b + (uint64_t)(b[18] << 8 | b[19]) + get_be32(b + 20), 8);
	}
}

/* --- counts; turn --- */

static void walk_refcounts(struct walk *w, bool is_repairing)
{
	struct qcow2 *q = w->q;
	struct qcow2_table *t = &q->refcount_table;
	mark(w, t->offset_bytes, t->n * 8);
	for (uint64_t k = 0; k < t->n; k++) {
		if (!t->entries[k])
			continue;
		bool is_sound = is_cluster(w, t->entries[k]);
		if (is_sound) {
			mark(w, t->entries[k], q->cluster_bytes);
			is_sound = w->refs[t->entries[k] >> q->cluster_bits] == 1;
		}
		if (is_sound)
			continue;
		w->c->n_corruptions++;
		if (!is_repairing)
			continue;
		/* What it said is made anew, and what it named is not in use because of it. */
		if (is_cluster(w, t->entries[k]))
			w->refs[t->entries[k] >> q->cluster_bits]--;
		t->entries[k] = 0;
		qcow2_table_dirty(t, k);
		w->c->n_corruptions_fixed++;
		w->c->n_corruptions--;
	}
}

static bool fix_count(struct walk *w, uint64_t cluster, bool is_up)
{
	struct qcow2 *q = w->q;
	block_lock(q->image);
	int rc = is_up ? qcow2_refcount_block_for(q, cluster) : 0;
	if (rc >= 0)
		rc = qcow2_refcount_set(q, cluster, w->refs[cluster], true);
	block_unlock(q->image);
	w->c->n_errors += rc < 0;
	return rc >= 0;
}

static void compare_counts(struct walk *w, enum block_repair repair, bool is_up)
{
	struct qcow2 *q = w->q;
	for (uint64_t k = 0; k < w->n; k++) {
		uint64_t count;
		block_lock(q->image);
		int rc = qcow2_refcount_get(q, k, true, &count);
		block_unlock(q->image);
		if (rc < 0) {
			w->c->n_errors += is_up;
			continue;
		}
		if (count < w->refs[k] && is_up) {
			bool is_fixed = repair == BLOCK_REPAIR_ALL && fix_count(w, k, true);
			*(is_fixed ? &w->c->n_corruptions_fixed : &w->c->n_corruptions) += 1;
		}
		if (count > w->refs[k] && !is_up) {
			bool is_fixed = repair != BLOCK_REPAIR_NOTHING && fix_count(w, k, false);
			*(is_fixed ? &w->c->n_leaks_fixed : &w->c->n_leaks) += 1;
		}
	}
}

/* Whether COPIED says what the refcount says, which repairs have made right. */
static bool is_flag_right(const struct walk *w, uint64_t descriptor)
{
	struct qcow2 *q = w->q;
	uint64_t cluster = (descriptor & QCOW2_OFFSET_MASK) >> q->cluster_bits, count;
	if (cluster >= w->n)
		return true;
	block_lock(q->image);
	int rc = qcow2_refcount_get(q, cluster, true, &count);
	block_unlock(q->image);
	return rc < 0 || ((descriptor & QCOW2_OFLAG_COPIED) != 0) == (count == 1);
}

static int check_l2_flags(struct walk *w, uint64_t offset, bool is_repairing)
{
	struct qcow2 *q = w->q;
	uint64_t n_wrong = 0;
	int rc = read_l2(w, offset);
	for (uint64_t k = 0; k < 1ull << q->l2_bits && rc > 0; k++) {
		struct qcow2_entry e = entry_at(q, w->table, k);
		if (e.descriptor & QCOW2_OFLAG_COMPRESSED || !(e.descriptor & QCOW2_OFFSET_MASK) ||
		    qcow2_entry_check(q, e) < 0 || is_flag_right(w, e.descriptor))
			continue;
		put_be64(w->table + k * q->l2_entry_bytes, e.descriptor ^ QCOW2_OFLAG_COPIED);
		n_wrong++;
	}
	if (rc >= 0 && n_wrong && is_repairing) {
		rc = block_file_write(q->image, q->file, w->table, (size_t)q->cluster_bytes, offset);
		w->c->n_corruptions_fixed += n_wrong;
	} else {
		w->c->n_corruptions += n_wrong;
	}
	return rc;
}

static void check_flags(struct walk *w, bool is_repairing)
{
	struct qcow2 *q = w->q;
	for (uint64_t k = 0; k < q->l1.n; k++) {
		uint64_t offset = q->l1.entries[k] & QCOW2_OFFSET_MASK;
		if (!offset || !is_cluster(w, offset))
			continue;
		if (!is_flag_right(w, q->l1.entries[k])) {
			if (is_repairing) {
				q->l1.entries[k] ^= QCOW2_OFLAG_COPIED;
				qcow2_table_dirty(&q->l1, k);
			}
			*(is_repairing ? &w->c->n_corruptions_fixed : &w->c->n_corruptions) += 1;
		}
		uint32_t *n_names = &w->tables[offset >> q->cluster_bits];
		bool is_first = *n_names & ACTIVE_TABLE;
		*n_names &= ~ACTIVE_TABLE;
		if (is_first && (w->refs[offset >> q->cluster_bits] == 1 || q->n_snapshots))
			w->c->n_errors += check_l2_flags(w, offset, is_repairing) < 0;
	}
}

/* All is well again: it may be written to, and nobody needs to repair it. */
static int clear_marks(struct qcow2 *q)
{
	const uint64_t marks = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
	if (!(q->incompatible & marks))
		return 0;
	q->incompatible &= ~marks;
	return qcow2_write_features(q);
}

static int check(struct qcow2 *q, enum block_repair repair, struct block_check *c, struct err *e)
{
	uint64_t file_bytes;
	int rc = block_file_size(q->file, &file_bytes);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot find the size of '%s'", q->file->path);
	struct walk w = { .q = q, .c = c, .n = qcow2_clusters_for(q, file_bytes), .n_times = 1 };
	if (w.n > MAX_CHECKED_CLUSTERS)
		return err_set(e, EFBIG, "cannot check '%s': it has %llu clusters; at most %llu are supported", q->file->path,
		               (unsigned long long)w.n, MAX_CHECKED_CLUSTERS);
	w.refs = calloc((size_t)w.n + 1, sizeof *w.refs);
	w.tables = calloc((size_t)w.n + 1, sizeof *w.tables);
	w.table = malloc((size_t)q->cluster_bytes);
	if (!w.refs || !w.tables || !w.table) {
		rc = err_set(e, ENOMEM, "no memory to check '%s'", q->file->path);
		goto out;
	}
	c->n_clusters = qcow2_clusters_for(q, q->size_bytes);
	walk_l1(&w, q->l1.entries, q->l1.n, true);
	walk_snapshots(&w);
	if (!w.is_too_large)
		walk_bitmaps(&w);
	if (w.is_too_large) {
		rc = err_set(e, EFBIG, "cannot check '%s': its snapshots and bitmaps have more than %u entries", q->file->path,
		             MAX_LISTED_ENTRIES);
		goto out;
	}
	walk_l2_tables(&w);
	mark(&w, 0, q->cluster_bytes);
	mark(&w, q->l1.offset_bytes, q->l1.n * 8);
	bool is_repairing = repair == BLOCK_REPAIR_ALL;
	/* Nothing is changed where not all could be seen. */
	if (c->n_errors || c->n_corruptions)
		repair = BLOCK_REPAIR_NOTHING, is_repairing = false;
	uint64_t hint = q->free_hint;
	q->free_hint = w.n;
	q->end_cluster = max_u64(q->end_cluster, w.n);
	walk_refcounts(&w, is_repairing);
	compare_counts(&w, repair, true);
	compare_counts(&w, repair, false);
	check_flags(&w, is_repairing);
	q->free_hint = repair == BLOCK_REPAIR_NOTHING ? hint : 0;
	if (repair != BLOCK_REPAIR_NOTHING) {
		q->image->was_changed = true;
		rc = qcow2_close_clean(q);
		if (rc >= 0 && is_repairing && !c->n_corruptions && !c->n_errors)
			rc = clear_marks(q);
		if (rc < 0)
			rc = err_set_errno(e, -rc, "cannot repair '%s'", q->file->path);
	}
out:
	free(w.refs);
	free(w.tables);
	free(w.table);
	return rc;
}

/* What is to be checked is in the file, and its counts can be looked up. */
static int make_ready(struct qcow2 *q, struct err *e)
{
	if (!q->refcounts.slots)
		return qcow2_load_refcounts(q, e);
	int rc = !q->image->limits.is_readonly && q->image->was_changed ? qcow2_close_clean(q) : 0;
	return rc < 0 ? err_set_errno(e, -rc, "cannot write to '%s'", q->file->path) : 0;
}

int qcow2_check(struct block_image *i, enum block_repair repair, struct block_check *ret_c, struct err *e)
{
	struct qcow2 *q = qcow2_of(i);
	struct block_check c = { 0 };
	qcow2_turn_take(q);
	int rc = make_ready(q, e);
	if (rc >= 0)
		rc = check(q, repair, &c, e);
	/* Repairs have changed what names what. */
	block_lock(i);
	if (rc >= 0 && repair != BLOCK_REPAIR_NOTHING && qcow2_tables_build(q) < 0)
		rc = err_set(e, ENOMEM, "no memory for the tables of '%s'", q->file->path);
	block_unlock(i);
	qcow2_turn_give(q);
	if (rc >= 0)
		*ret_c = c;
	return rc;
}

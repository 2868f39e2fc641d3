// SPDX-License-Identifier: Apache-2.0
/* qcow2: opening an image, which may have been made by anybody to do us harm.
 *
 * Every number of the header is checked before it is used: tables are bounded as QEMU bounds them, must begin at a
 * cluster, and what is read of them at once is bounded too. What the image is based on is opened only where the
 * configuration allows it, as the format that the image names. Where it names none, a file that looks raw is raw: no
 * guest can have made it look so who might gain by it; anything else is refused, since a guest that once had the file as
 * its raw disk may have written those bytes. */
#include "backend/block_qcow2.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define V2_HEADER_BYTES 72u
#define V3_HEADER_BYTES 104u
#define MIN_CLUSTER_BITS 9u
#define MAX_CLUSTER_BITS 21u
#define MAX_BACKING_NAME 1023u
/* Of the tree's memory, what is not for caches: so that chains of many images open, with tables and small caches. */
#define TREE_RESERVE_BYTES (32u << 20)
#define MIN_CACHE_SLICES 64u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_BITMAPS 0x23852875u
#define EXT_CRYPTO 0x0537be77u
#define EXT_DATA_FILE 0x44415441u

struct header {
	uint8_t bytes[112];
	uint64_t backing_offset;
	uint32_t backing_bytes, crypt_method, n_l1, n_refcount_clusters;
	uint64_t l1_offset, refcount_offset;
	char backing_name[MAX_BACKING_NAME + 1];
	char backing_format[16]; /* empty: not said */
};

#define BAD(...) err_set(e, EINVAL, "cannot open '%s': " __VA_ARGS__)

/* --- the header --- */

static int parse_v3(struct qcow2 *q, const struct header *h, const char *path, struct err *e)
{
	const uint8_t *b = h->bytes;
	q->incompatible = get_be64(b + 72);
	q->compatible = get_be64(b + 80);
	q->autoclear = get_be64(b + 88);
	q->refcount_order = get_be32(b + 96);
	q->header_bytes = get_be32(b + 100);
	const uint64_t known = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DATA_FILE |
	                       QCOW2_INCOMPAT_COMPRESSION | QCOW2_INCOMPAT_EXTL2;

	if (q->header_bytes < V3_HEADER_BYTES || q->header_bytes % 8 || q->header_bytes > q->cluster_bytes)
		return BAD("its qcow2 header has a length of %u bytes", path, q->header_bytes);
	if (q->incompatible & ~known)
		return err_set(e, ENOTSUP, "cannot open '%s': not supported yet: qcow2 features 0x%llx", path,
		               (unsigned long long)(q->incompatible & ~known));
	if (q->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return err_set(e, ENOTSUP, "cannot open '%s': not supported yet: an external data file", path);
	if (q->refcount_order > 6)
		return BAD("its refcounts have 2^%u bits; at most 64 are allowed", path, q->refcount_order);
	uint8_t compression = q->header_bytes > V3_HEADER_BYTES ? b[104] : 0;
	bool has_compression = q->incompatible & QCOW2_INCOMPAT_COMPRESSION;
	if (has_compression != (compression != 0))
		return BAD("its compression type %u contradicts its features", path, compression);
	if (compression > 1)
		return err_set(e, ENOTSUP, "cannot open '%s': not supported yet: compression type %u", path, compression);
	q->is_zstd = compression == 1;
	q->has_extl2 = q->incompatible & QCOW2_INCOMPAT_EXTL2;
	if (q->has_extl2 && q->cluster_bits < 14)
		return BAD("it has subclusters, and its clusters are smaller than 16 KiB", path);
	return 0;
}

static int read_header(struct qcow2 *q, struct header *h, struct err *e)
{
	const char *path = q->file->path;
	uint8_t *b = h->bytes;
	int rc = block_file_read_padded(q->image, q->file, b, sizeof h->bytes, 0);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot read '%s'", path);
	if (get_be32(b) != QCOW2_MAGIC)
		return BAD("it is no qcow2 image", path);
	q->version = get_be32(b + 4);
	if (q->version < 2 || q->version > 3)
		return err_set(e, ENOTSUP, "cannot open '%s': not supported yet: qcow2 version %u", path, q->version);
	h->backing_offset = get_be64(b + 8);
	h->backing_bytes = get_be32(b + 16);
	q->cluster_bits = get_be32(b + 20);
	q->size_bytes = get_be64(b + 24);
	h->crypt_method = get_be32(b + 32);
	h->n_l1 = get_be32(b + 36);
	h->l1_offset = get_be64(b + 40);
	h->refcount_offset = get_be64(b + 48);
	h->n_refcount_clusters = get_be32(b + 56);
	q->n_snapshots = get_be32(b + 60);
	q->snapshots_offset = get_be64(b + 64);
	if (q->cluster_bits < MIN_CLUSTER_BITS || q->cluster_bits > MAX_CLUSTER_BITS)
		return BAD("its clusters have 2^%u bytes; 2^9 to 2^21 are supported", path, q->cluster_bits);
	q->cluster_bytes = 1ull << q->cluster_bits;
	q->refcount_order = 4;
	q->header_bytes = V2_HEADER_BYTES;
	if (q->version >= 3) {
		rc = parse_v3(q, h, path, e);
		if (rc < 0)
			return rc;
	}
	if (h->crypt_method)
		return err_set(e, ENOTSUP, "cannot open '%s': not supported yet: encrypted images", path);
	return 0;
}

static bool is_table(const struct qcow2 *q, uint64_t offset, uint64_t n_bytes)
{
	return !(offset & (q->cluster_bytes - 1)) && offset >= q->cluster_bytes && offset < QCOW2_MAX_OFFSET &&
	       n_bytes < QCOW2_MAX_OFFSET - offset;
}

static bool overlap(uint64_t a, uint64_t n_a, uint64_t b, uint64_t n_b)
{
	return a < b + n_b && b < a + n_a;
}

static int check_tables(struct qcow2 *q, const struct header *h, struct err *e)
{
	const char *path = q->file->path;
	q->l2_entry_bytes = q->has_extl2 ? 16 : 8;
	q->l2_bits = q->cluster_bits - (q->has_extl2 ? 4 : 3);
	q->block_bits = q->cluster_bits + 3 - q->refcount_order;
	q->unit_bits = q->cluster_bits - (q->has_extl2 ? 5 : 0);

	unsigned table_bits = q->cluster_bits + q->l2_bits;
	if (q->size_bytes > INT64_MAX)
		return BAD("its disk has %llu bytes", path, (unsigned long long)q->size_bytes);
	uint64_t n_needed = (q->size_bytes >> table_bits) + ((q->size_bytes & ((1ull << table_bits) - 1)) != 0);
	if (h->n_l1 > QCOW2_MAX_L1_BYTES / 8)
		return BAD("its L1 table has %u entries; at most %u are supported", path, h->n_l1, QCOW2_MAX_L1_BYTES / 8);
	if (h->n_l1 < n_needed)
		return BAD("its L1 table has %u entries, and a disk of %llu bytes needs %llu", path, h->n_l1,
		           (unsigned long long)q->size_bytes, (unsigned long long)n_needed);
	if (h->n_l1 && !is_table(q, h->l1_offset, (uint64_t)h->n_l1 * 8))
		return BAD("its L1 table is at 0x%llx", path, (unsigned long long)h->l1_offset);
	if (!h->n_refcount_clusters)
		return BAD("it has no refcount table", path);
	uint64_t refcount_bytes = (uint64_t)h->n_refcount_clusters << q->cluster_bits;
	if (refcount_bytes > QCOW2_MAX_REFCOUNT_TABLE_BYTES)
		return BAD("its refcount table has %u clusters; at most 8 MiB are supported", path, h->n_refcount_clusters);
	if (!is_table(q, h->refcount_offset, refcount_bytes))
		return BAD("its refcount table is at 0x%llx", path, (unsigned long long)h->refcount_offset);
	if (overlap(h->l1_offset, (uint64_t)h->n_l1 * 8, h->refcount_offset, refcount_bytes))
		return BAD("its L1 table and its refcount table overlap", path);
	if (q->n_snapshots > QCOW2_MAX_SNAPSHOTS)
		return BAD("it has %u snapshots; at most %u are supported", path, q->n_snapshots, QCOW2_MAX_SNAPSHOTS);
	if (q->n_snapshots && !is_table(q, q->snapshots_offset, 1))
		return BAD("its snapshot table is at 0x%llx", path, (unsigned long long)q->snapshots_offset);
	return 0;
}

/* --- extensions and the name of the backing file --- */

static int parse_bitmaps(struct qcow2 *q, const uint8_t *data, uint32_t n, struct err *e)
{
	if (!(q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0; /* out of date: nobody's any more */
	if (n != 24 || !get_be32(data) || get_be32(data) > 65535)
		return BAD("its bitmaps extension is damaged", q->file->path);
	q->n_bitmaps = get_be32(data);
	q->bitmaps_bytes = get_be64(data + 8);
	q->bitmaps_offset = get_be64(data + 16);
	if (q->bitmaps_bytes > (64u << 20) || !is_table(q, q->bitmaps_offset, q->bitmaps_bytes))
		return BAD("its bitmap directory is at 0x%llx", q->file->path, (unsigned long long)q->bitmaps_offset);
	return 0;
}

static int parse_extensions(struct qcow2 *q, struct header *h, const uint8_t *cluster, struct err *e)
{
	const char *path = q->file->path;
	uint64_t at = q->header_bytes, end = h->backing_offset ? h->backing_offset : q->cluster_bytes;
	while (at + 8 <= end) {
		uint32_t type = get_be32(cluster + at), n = get_be32(cluster + at + 4);
		at += 8;
		if (!type)
			return 0;
		if (n > end - at)
			return BAD("a header extension of %u bytes goes beyond the header", path, n);
		int rc = 0;
		if (type == EXT_BITMAPS)
			rc = parse_bitmaps(q, cluster + at, n, e);
		if (type == EXT_BACKING_FORMAT && n < sizeof h->backing_format)
			memcpy(h->backing_format, cluster + at, n);
		else if (type == EXT_BACKING_FORMAT)
			rc = BAD("the format of its backing file has a name of %u bytes", path, n);
		if (rc < 0)
			return rc;
		at += align_up(n, 8);
	}
	return 0;
}

static int parse_first_cluster(struct qcow2 *q, struct header *h, struct err *e)
{
	const char *path = q->file->path;
	if (h->backing_offset) {
		bool is_inside = h->backing_offset >= q->header_bytes && h->backing_offset <= q->cluster_bytes;
		if (is_inside && (h->backing_bytes == 0 || h->backing_bytes > MAX_BACKING_NAME))
			return BAD("the name of its backing file has %u bytes; 1 to 1023 are allowed", path, h->backing_bytes);
		if (!is_inside || h->backing_bytes > q->cluster_bytes - h->backing_offset)
			return BAD("the name of its backing file is at 0x%llx, outside of the header", path,
			           (unsigned long long)h->backing_offset);
	}
	free_scoped uint8_t *cluster = malloc((size_t)q->cluster_bytes);
	if (!cluster)
		return err_set(e, ENOMEM, "no memory for '%s'", path);
	int rc = block_file_read_padded(q->image, q->file, cluster, (size_t)q->cluster_bytes, 0);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot read '%s'", path);
	if (h->backing_offset)
		memcpy(h->backing_name, cluster + h->backing_offset, h->backing_bytes);
	if (h->backing_offset && strlen(h->backing_name) != h->backing_bytes)
		return BAD("the name of its backing file holds a NUL", path);
	return parse_extensions(q, h, cluster, e);
}

/* --- the backing file --- */

/* See the top. */
static int guess_backing(const struct block_image *i, enum block_type *ret_type, struct err *e)
{
	free_scoped char *path = block_resolve_path(i->file, i->backing_name);
	int rc = path ? block_probe_path(path, ret_type, e) : err_set(e, ENOMEM, "no memory for '%s'", i->file->path);
	if (rc < 0)
		return rc;
	if (*ret_type != BLOCK_TYPE_RAW)
		return BAD("it does not name the format of its backing file '%.80s' (qemu-img rebase -u -F FORMAT sets it)",
		           i->file->path, i->backing_name);
	return 0;
}

/* AUTO: it is not said. */
static int named_type(const struct block_image *i, enum block_type *ret_type, struct err *e)
{
	static const struct {
		const char *name;
		enum block_type type;
	} formats[] = {
		{ "raw", BLOCK_TYPE_RAW }, { "file", BLOCK_TYPE_RAW }, { "host_device", BLOCK_TYPE_RAW },
		{ "qcow2", BLOCK_TYPE_QCOW2 }, { "vpc", BLOCK_TYPE_VHD }, { "vhdx", BLOCK_TYPE_VHDX },
		{ "vmdk", BLOCK_TYPE_VMDK },
	};
	*ret_type = BLOCK_TYPE_AUTO;
	if (!i->backing_format)
		return 0;
	for (size_t k = 0; k < ARRAY_LEN(formats); k++) {
		if (strcmp(formats[k].name, i->backing_format) == 0) {
			*ret_type = formats[k].type;
			return 0;
		}
	}
	return err_set(e, ENOTSUP, "cannot open '%s': not supported yet: a backing file of format '%s'", i->file->path,
	               i->backing_format);
}

int qcow2_backing_type(const struct block_image *i, enum block_type *ret_type, struct err *e)
{
	int rc = named_type(i, ret_type, e);
	return rc >= 0 && *ret_type == BLOCK_TYPE_AUTO ? guess_backing(i, ret_type, e) : rc;
}

static int open_backing(struct block_image *i, const struct block_params *p, struct err *e)
{
	enum block_type type;
	if (!i->backing_name || p->is_alone)
		return 0;
	int rc = p->may_use_backing_files ? qcow2_backing_type(i, &type, e) : named_type(i, &type, e);
	return rc < 0 ? rc : block_open_backing(i, p, i->backing_name, type, e);
}

static int keep_backing_name(struct block_image *i, const struct header *h, struct err *e)
{
	if (!h->backing_offset)
		return 0;
	i->backing_name = strdup(h->backing_name);
	i->backing_format = h->backing_format[0] ? strdup(h->backing_format) : NULL;
	return i->backing_name && (i->backing_format || !h->backing_format[0]) ?
	       0 : err_set(e, ENOMEM, "no memory for '%s'", i->file->path);
}

/* --- tables --- */

static int charge(struct qcow2 *q, uint64_t n_bytes, struct err *e)
{
	struct err why = { 0 };
	return block_charge(q->image, n_bytes, &why) < 0 ?
	       err_set(e, EFBIG, "cannot open '%s': %s", q->file->path, why.text) : 0;
}

static int load_table(struct qcow2 *q, struct qcow2_table *t, uint64_t offset, uint64_t n, struct err *e)
{
	free(t->entries);
	*t = (struct qcow2_table){ .offset_bytes = offset, .n = n };
	/* What the file does not have is not allocated for: the bounds above are generous. */
	uint64_t file_bytes;
	if (block_file_size(q->file, &file_bytes) < 0 || offset + n * 8 > file_bytes)
		return BAD("a table at 0x%llx goes beyond the end of the file", q->file->path, (unsigned long long)offset);
	int rc = charge(q, n * 8, e);
	if (rc < 0)
		return rc;
	t->entries = malloc((size_t)max_u64(n, 1) * 8);
	if (!t->entries)
		return err_set(e, ENOMEM, "no memory for '%s'", q->file->path);
	rc = block_file_read(q->image, q->file, t->entries, (size_t)n * 8, offset);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot read '%s'", q->file->path);
	for (uint64_t k = 0; k < n; k++)
		t->entries[k] = be64toh(t->entries[k]);
	return 0;
}

/* For so many tables, or refcount blocks, as memory goes: a quarter of what is left at most. */
static int init_cache(struct qcow2 *q, struct qcow2_cache *c, uint64_t n_tables, unsigned n_max, struct err *e)
{
	uint32_t slice = (uint32_t)min_u64(q->cluster_bytes, QCOW2_SLICE_BYTES);
	uint64_t each = slice + sizeof(struct qcow2_slice) + 4 * sizeof(void *);
	uint64_t n_left = BLOCK_MAX_TREE_BYTES - atomic_load(&q->image->top->n_charged_bytes);
	uint64_t n_spare = n_left > TREE_RESERVE_BYTES ? (n_left - TREE_RESERVE_BYTES) / 4 / each : 0;
	n_max = (unsigned)min_u64(n_max, max_u64(n_spare, MIN_CACHE_SLICES));
	unsigned n = (unsigned)min_u64(max_u64(n_tables * (q->cluster_bytes / slice), MIN_CACHE_SLICES), n_max);
	int rc = charge(q, n * each, e);
	if (rc >= 0 && qcow2_cache_init(c, slice, n) < 0)
		rc = err_set(e, ENOMEM, "no memory for '%s'", q->file->path);
	return rc;
}

int qcow2_load_refcounts(struct qcow2 *q, struct err *e)
{
	struct qcow2_table *t = &q->refcount_table;
	int rc = load_table(q, t, t->offset_bytes, t->n, e);
	return rc < 0 ? rc : init_cache(q, &q->refcounts, t->n, QCOW2_MAX_REFCOUNT_SLICES, e);
}

static int load_tables(struct qcow2 *q, const struct header *h, bool is_readonly, struct err *e)
{
	q->refcount_table = (struct qcow2_table){ .offset_bytes = h->refcount_offset,
		                                  .n = (uint64_t)h->n_refcount_clusters << (q->cluster_bits - 3) };
	int rc = is_readonly ? 0 : qcow2_load_refcounts(q, e);
	if (rc >= 0)
		rc = load_table(q, &q->l1, h->n_l1 ? h->l1_offset : q->cluster_bytes, h->n_l1, e);
	if (rc >= 0)
		rc = init_cache(q, &q->l2, q->l1.n, QCOW2_MAX_L2_SLICES, e);
	if (rc < 0)
		return rc;
	if (!is_readonly) {
		q->unlinked.runs = calloc(QCOW2_MAX_FREE_RUNS, sizeof *q->unlinked.runs);
		q->draining.runs = calloc(QCOW2_MAX_FREE_RUNS, sizeof *q->draining.runs);
		if (!q->unlinked.runs || !q->draining.runs)
			return err_set(e, ENOMEM, "no memory for '%s'", q->file->path);
	}
	uint64_t file_bytes;
	rc = block_file_size(q->file, &file_bytes);
	q->end_cluster = rc < 0 ? 0 : qcow2_clusters_for(q, file_bytes);
	return rc < 0 ? err_set_errno(e, -rc, "cannot find the size of '%s'", q->file->path) : 0;
}

/* --- being written to --- */

/* Before anything else changes: what we do not keep up is declared void; counts that a crash left behind are made good. */
static int prepare_writing(struct qcow2 *q, struct err *e)
{
	const char *path = q->file->path;
	if (q->incompatible & QCOW2_INCOMPAT_CORRUPT)
		return err_set(e, EINVAL, "cannot open '%s' for writing: it is marked as corrupt", path);
	if (q->incompatible & QCOW2_INCOMPAT_DIRTY) {
		struct block_check c;
		log_warn(&q->image->log, "'%s' was not closed in order: its refcounts are repaired", path);
		int rc = qcow2_check(q->image, BLOCK_REPAIR_ALL, &c, e);
		if (rc < 0)
			return rc;
		if (c.n_corruptions || c.n_errors)
			return BAD("it was not closed in order, and cannot be repaired", path);
	}
	if (!q->autoclear && !(q->incompatible & QCOW2_INCOMPAT_DIRTY))
		return 0;
	q->autoclear = 0;
	q->n_bitmaps = 0;
	q->incompatible &= ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
	int rc = qcow2_write_features(q);
	return rc < 0 ? err_set_errno(e, -rc, "cannot write to '%s'", path) : 0;
}

/* Within one page of the host's cache, direct writes of data would be in the way of buffered ones: of tables, and of what
 * is copied into the rest of a cluster or subcluster while its neighbours are written. */
static int leave_direct(struct qcow2 *q, struct err *e)
{
	char why[64];
	uint64_t unit_bytes = 1ull << q->unit_bits;
	if (unit_bytes >= BLOCK_CACHE_PAGE_BYTES)
		return 0;
	(void)snprintf(why, sizeof why, "its %s of %u bytes are too small", q->has_extl2 ? "subclusters" : "clusters",
	               (unsigned)unit_bytes);
	return block_leave_direct(q->image, q->file, why, e);
}

static void set_limits(struct qcow2 *q, const struct block_params *p)
{
	struct block_limits *l = &q->image->limits;
	l->n_bytes = q->size_bytes;
	l->optimal_io_bytes = (uint32_t)q->cluster_bytes;
	l->can_discard = p->has_discard && !p->is_readonly;
	l->discard_granularity_bytes = l->can_discard ? (uint32_t)q->cluster_bytes : 0;
	l->can_write_zeroes = !p->is_readonly;
	q->has_punch = p->has_discard && !q->file->is_device;
}

int qcow2_open(struct block_image *i, const struct block_params *p, struct err *e)
{
	struct qcow2 *q = calloc(1, sizeof *q);
	free_scoped struct header *h = calloc(1, sizeof *h);
	if (!q || !h) {
		free(q);
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	}
	(void)pthread_cond_init(&q->turn_is_free, NULL);
	q->image = i;
	q->file = i->file;
	i->state = q;
	int rc = read_header(q, h, e);
	if (rc >= 0)
		rc = check_tables(q, h, e);
	if (rc >= 0)
		rc = parse_first_cluster(q, h, e);
	if (rc >= 0)
		rc = load_tables(q, h, p->is_readonly, e);
	if (rc >= 0)
		rc = keep_backing_name(i, h, e);
	if (rc >= 0)
		rc = open_backing(i, p, e);
	if (rc < 0)
		return rc;
	rc = leave_direct(q, e);
	if (rc < 0)
		return rc;
	set_limits(q, p);
	i->n_disk_bytes = q->size_bytes;
	if (p->is_readonly || p->is_for_check)
		return 0;
	rc = prepare_writing(q, e);
	if (rc < 0)
		return rc;
	rc = qcow2_tables_build(q);
	return rc < 0 ? err_set_errno(e, -rc, "cannot open '%s' for writing: no room for a list of its tables", p->path) : 0;
}

void qcow2_info(const struct block_image *i, struct block_info *info)
{
	const struct qcow2 *q = i->state;
	info->cluster_bytes = (uint32_t)q->cluster_bytes;
	info->is_dirty = q->incompatible & QCOW2_INCOMPAT_DIRTY;
	info->version = q->version;
	info->refcount_bits = 1u << q->refcount_order;
	info->is_corrupt = q->incompatible & QCOW2_INCOMPAT_CORRUPT;
	info->has_lazy_refcounts = q->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
	info->is_zstd = q->is_zstd;
	info->has_extended_l2 = q->has_extl2;
	info->n_snapshots = q->n_snapshots;
}

void qcow2_close(struct block_image *i)
{
	struct qcow2 *q = i->state;
	if (!q)
		return;
	bool is_open = q->draining.runs && q->refcounts.slots && !i->limits.is_readonly;
	int rc = is_open && i->was_changed ? qcow2_close_clean(q) : 0;
	i->close_error = rc;
	if (rc < 0)
		log_error(&i->log, "'%s': not all could be written at the end", q->file->path);
	qcow2_cache_done(&q->l2);
	qcow2_cache_done(&q->refcounts);
	free(q->l1.entries);
	free(q->refcount_table.entries);
	qcow2_tables_done(q);
	free(q->unlinked.runs);
	free(q->draining.runs);
	(void)pthread_cond_destroy(&q->turn_is_free);
	free(q);
	i->state = NULL;
}

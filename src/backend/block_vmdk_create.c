// SPDX-License-Identifier: Apache-2.0
/* VMDK: a new image, written in one go (VMware, Virtual Disk Format 5.0).
 *
 * One sparse file with a descriptor in it, or a descriptor and extents beside it, flat or sparse, one or as many as it takes
 * of 2 GiB. The disk comes in ascending order, so one extent after the other is written and ended, and in a sparse one, one
 * grain table after the other: header, room for the descriptor, the redundant grain directory with its tables, the primary
 * one with its own, then the grains that hold something. */
#include "backend/block_vmdk.h"
#include "backend/block_writer.h"

#include "base/bytes.h"
#include "base/text.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GRAIN_SECTORS 128u
#define GRAIN_BYTES (GRAIN_SECTORS * VMDK_SECTOR_BYTES)
#define GT_SECTORS (VMDK_GT_BYTES / VMDK_SECTOR_BYTES)
#define GT_COVERS_BYTES ((uint64_t)GRAIN_BYTES * BLOCK_TABLE_PAGE_ENTRIES)
#define DESCRIPTOR_SECTORS 20u
#define SPLIT_BYTES (2ull << 30)
#define MAX_SPARSE_BYTES (2ull << 40) /* sectors of the file are 32-bit numbers */
#define MAX_BYTES (64ull << 40)
#define N_HEADS 16u
#define N_SECTORS_PER_TRACK 63u
#define MAX_CYLINDERS 16383u

struct vmdk_new {
	enum block_subformat kind;
	bool is_flat, is_split, is_single; /* single: in the image's own file */
	uint64_t extent_bytes, n_extents;  /* the last one may be shorter */
	int n_stem; /* of the image's name: what is in front of ".vmdk" */
	const char *ending;
	/* The extent that is written; n_begun - 1. */
	uint64_t n_begun;
	int fd;
	/* If it is sparse. Sectors. */
	uint64_t n_tables, rgd_at, gd_at, overhead, end;
	uint64_t table_index;
	bool has_table;
	uint8_t table[VMDK_GT_BYTES];
};

/* --- names --- */

static int put_extent_name(const struct block_writer *w, uint64_t k, char *ret_name, size_t n_max)
{
	const struct vmdk_new *v = w->state;
	const char *name = block_new_image_name(w->image);
	int n;
	if (v->is_single)
		n = snprintf(ret_name, n_max, "%s", name);
	else if (v->is_split)
		n = snprintf(ret_name, n_max, "%.*s-%c%03u%s", v->n_stem, name, v->is_flat ? 'f' : 's', (unsigned)k + 1, v->ending);
	else
		n = snprintf(ret_name, n_max, "%.*s-flat%s", v->n_stem, name, v->ending);
	return n < 0 || (size_t)n >= n_max ? -ENAMETOOLONG : 0;
}

static int check_names(const struct block_writer *w, struct err *e)
{
	const struct vmdk_new *v = w->state;
	for (const char *c = block_new_image_name(w->image); *c; c++) {
		if ((unsigned char)*c < 0x20 || *c == '"')
			return err_set(e, EINVAL, "cannot create '%s': a VMDK descriptor cannot hold its name", w->p->path);
	}
	for (uint64_t k = 0; k < v->n_extents; k++) {
		char name[VMDK_MAX_NAME_BYTES + 1];
		if (put_extent_name(w, k, name, sizeof name) < 0)
			return err_set(e, ENAMETOOLONG, "cannot create '%s': its name is too long", w->p->path);
		if (!v->is_single && block_new_image_has_beside(w->image, name))
			return err_set(e, ENOTSUP, "cannot create '%s': not supported yet: to replace '%s', which would be one of "
			               "its files: delete it first", w->p->path, name);
	}
	return 0;
}

static uint64_t extent_bytes(const struct block_writer *w, uint64_t k)
{
	const struct vmdk_new *v = w->state;
	return min_u64(v->extent_bytes, w->n_bytes - k * v->extent_bytes);
}

/* --- the descriptor --- */

static const char *const kind_names[] = {
	[BLOCK_SUBFORMAT_MONOLITHIC_SPARSE] = "monolithicSparse",
	[BLOCK_SUBFORMAT_MONOLITHIC_FLAT] = "monolithicFlat",
	[BLOCK_SUBFORMAT_TWO_GB_SPARSE] = "twoGbMaxExtentSparse",
	[BLOCK_SUBFORMAT_TWO_GB_FLAT] = "twoGbMaxExtentFlat",
};

static int put_descriptor(const struct block_writer *w, struct text *t)
{
	const struct vmdk_new *v = w->state;
	uint32_t cid;
	if (!block_write_random(&cid, sizeof cid))
		return -EIO;
	/* The two highest numbers have meanings. */
	text_appendf(t, "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=ffffffff\ncreateType=\"%s\"\n\n"
	             "# Extent description\n", cid >= 0xfffffffe ? 1 : cid, kind_names[v->kind]);
	for (uint64_t k = 0; k < v->n_extents; k++) {
		char name[VMDK_MAX_NAME_BYTES + 1];
		(void)put_extent_name(w, k, name, sizeof name); /* checked */
		text_appendf(t, "RW %llu %s \"%s\"%s\n", (unsigned long long)(extent_bytes(w, k) / VMDK_SECTOR_BYTES),
		             v->is_flat ? "FLAT" : "SPARSE", name, v->is_flat ? " 0" : "");
	}
	text_appendf(t, "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"%llu\"\n"
	             "ddb.geometry.heads = \"%u\"\nddb.geometry.sectors = \"%u\"\nddb.adapterType = \"ide\"\n",
	             (unsigned long long)min_u64(MAX_CYLINDERS, w->n_bytes / VMDK_SECTOR_BYTES / N_HEADS / N_SECTORS_PER_TRACK),
	             N_HEADS, N_SECTORS_PER_TRACK);
	return t->is_out_of_memory ? -ENOMEM : 0;
}

static int write_descriptor(const struct block_writer *w)
{
	const struct vmdk_new *v = w->state;
	const size_t n_max = v->is_single ? DESCRIPTOR_SECTORS * VMDK_SECTOR_BYTES : VMDK_MAX_DESCRIPTOR_BYTES;
	text_scoped t = TEXT_INIT;
	int rc = put_descriptor(w, &t);
	if (rc < 0)
		return rc;
	size_t n = strlen(text_get(&t));
	return n > n_max ? -ENAMETOOLONG : block_write_all(w->fd, text_get(&t), n, v->is_single ? VMDK_SECTOR_BYTES : 0);
}

/* --- sparse extents --- */

static void begin_sparse(struct vmdk_new *v, uint64_t n_bytes)
{
	v->n_tables = (n_bytes + GT_COVERS_BYTES - 1) / GT_COVERS_BYTES;
	uint64_t directory = (v->n_tables * 4 + VMDK_SECTOR_BYTES - 1) / VMDK_SECTOR_BYTES;
	v->rgd_at = 1 + (v->is_single ? DESCRIPTOR_SECTORS : 0);
	v->gd_at = v->rgd_at + directory + v->n_tables * GT_SECTORS;
	v->overhead = align_up(v->gd_at + directory + v->n_tables * GT_SECTORS, GRAIN_SECTORS);
	v->end = v->overhead;
	v->has_table = false;
	memset(v->table, 0, sizeof v->table);
}

/* Where a directory's first table is. */
static uint64_t tables_at(const struct vmdk_new *v, uint64_t directory_at)
{
	return directory_at + (v->n_tables * 4 + VMDK_SECTOR_BYTES - 1) / VMDK_SECTOR_BYTES;
}

static int end_table(struct vmdk_new *v)
{
	const uint64_t directories[] = { v->rgd_at, v->gd_at };
	int rc = 0;
	for (size_t k = 0; k < ARRAY_LEN(directories) && rc >= 0 && v->has_table; k++)
		rc = block_write_all(v->fd, v->table, sizeof v->table,
		                     (tables_at(v, directories[k]) + v->table_index * GT_SECTORS) * VMDK_SECTOR_BYTES);
	memset(v->table, 0, sizeof v->table);
	v->has_table = false;
	return rc;
}

static int add_grain(struct vmdk_new *v, uint64_t grain, const uint8_t *bytes)
{
	uint64_t index = grain / BLOCK_TABLE_PAGE_ENTRIES;
	int rc = v->table_index == index ? 0 : end_table(v);
	assert(index < v->n_tables);
	if (rc >= 0 && v->end + GRAIN_SECTORS >= BLOCK_ENTRY_DAMAGED)
		rc = -EFBIG;
	if (rc < 0)
		return rc;
	v->table_index = index;
	v->has_table = true;
	put_le32(v->table + 4 * (grain % BLOCK_TABLE_PAGE_ENTRIES), (uint32_t)v->end);
	rc = block_write_sparsely(v->fd, bytes, GRAIN_BYTES, v->end * VMDK_SECTOR_BYTES);
	v->end += GRAIN_SECTORS;
	return rc;
}

/* All tables are there from the start: those that nothing was written to are holes. */
static int write_directory(const struct vmdk_new *v, uint64_t at)
{
	size_t n_bytes = (size_t)v->n_tables * 4;
	uint8_t *d = malloc(n_bytes);
	if (!d)
		return -ENOMEM;
	for (uint64_t k = 0; k < v->n_tables; k++)
		put_le32(d + 4 * k, (uint32_t)(tables_at(v, at) + k * GT_SECTORS));
	int rc = block_write_all(v->fd, d, n_bytes, at * VMDK_SECTOR_BYTES);
	free(d);
	return rc;
}

static int write_header(const struct vmdk_new *v, uint64_t n_bytes)
{
	uint8_t h[VMDK_SECTOR_BYTES] = "KDMV";
	put_le32(h + SPARSE_VERSION, 1);
	put_le32(h + SPARSE_FLAGS, SPARSE_FLAG_LINE_ENDS | SPARSE_FLAG_RGD);
	put_le64(h + SPARSE_CAPACITY, n_bytes / VMDK_SECTOR_BYTES);
	put_le64(h + SPARSE_GRAIN, GRAIN_SECTORS);
	put_le64(h + SPARSE_DESCRIPTOR_OFFSET, v->is_single ? 1 : 0);
	put_le64(h + SPARSE_DESCRIPTOR_SIZE, v->is_single ? DESCRIPTOR_SECTORS : 0);
	put_le32(h + SPARSE_N_GTES, BLOCK_TABLE_PAGE_ENTRIES);
	put_le64(h + SPARSE_RGD, v->rgd_at);
	put_le64(h + SPARSE_GD, v->gd_at);
	put_le64(h + SPARSE_OVERHEAD, v->overhead);
	memcpy(h + SPARSE_LINE_ENDS, "\n \r\n", 4);
	return block_write_all(v->fd, h, sizeof h, 0);
}

static int end_sparse(struct vmdk_new *v, uint64_t n_bytes)
{
	int rc = end_table(v);
	if (rc >= 0)
		rc = write_directory(v, v->rgd_at);
	if (rc >= 0)
		rc = write_directory(v, v->gd_at);
	if (rc >= 0)
		rc = write_header(v, n_bytes);
	/* Up to the first grain, or the end of the last one. */
	if (rc >= 0 && ftruncate(v->fd, (off_t)(v->end * VMDK_SECTOR_BYTES)) < 0)
		rc = -errno;
	return rc;
}

/* --- extents --- */

static int end_extent(const struct block_writer *w)
{
	struct vmdk_new *v = w->state;
	uint64_t k = v->n_begun - 1, n_bytes = extent_bytes(w, k);
	if (!v->is_flat)
		return end_sparse(v, n_bytes);
	if (ftruncate(v->fd, (off_t)n_bytes) < 0)
		return -errno;
	return block_write_preallocate(w, v->fd, 0, n_bytes, k * v->extent_bytes);
}

static int begin_extent(const struct block_writer *w)
{
	struct vmdk_new *v = w->state;
	char name[VMDK_MAX_NAME_BYTES + 1];
	int rc = put_extent_name(w, v->n_begun, name, sizeof name);
	if (v->is_single)
		v->fd = w->fd;
	else if (rc >= 0)
		rc = block_new_image_add(w->image, name, &v->fd);
	if (rc < 0)
		return rc;
	if (!v->is_flat)
		begin_sparse(v, extent_bytes(w, v->n_begun));
	v->n_begun++;
	return 0;
}

/* n extents are begun, and all but the last one of them are ended. */
static int go_to_extent(const struct block_writer *w, uint64_t n)
{
	struct vmdk_new *v = w->state;
	int rc = 0;
	while (v->n_begun < n && rc >= 0) {
		rc = v->n_begun ? end_extent(w) : 0;
		if (rc >= 0)
			rc = begin_extent(w);
		if (rc >= 0)
			rc = block_progress_step(&w->p->progress, 0, 0);
	}
	return rc;
}

/* Extents are multiples of a piece, but for the last one. */
static int write_piece(const struct block_writer *w, uint64_t offset_bytes, const uint8_t *bytes)
{
	struct vmdk_new *v = w->state;
	uint64_t k = offset_bytes / v->extent_bytes, in_extent = offset_bytes % v->extent_bytes;
	int rc = go_to_extent(w, k + 1);
	if (rc < 0)
		return rc;
	const size_t n_bytes = (size_t)min_u64(BLOCK_COPY_BYTES, extent_bytes(w, k) - in_extent);
	if (v->is_flat)
		return block_write_sparsely(v->fd, bytes, n_bytes, in_extent);
	/* The last grain is whole, with zeroes behind the disk's end. */
	for (size_t at = 0; at < n_bytes && rc >= 0; at += GRAIN_BYTES) {
		if (!block_is_zero(bytes + at, GRAIN_BYTES))
			rc = add_grain(v, (in_extent + at) / GRAIN_BYTES, bytes + at);
	}
	return rc;
}

static int vmdk_new_write(struct block_writer *w, uint64_t offset_bytes, const uint8_t *bytes, size_t n_bytes)
{
	int rc = 0;
	for (size_t at = 0; at < n_bytes && rc >= 0; at += BLOCK_COPY_BYTES)
		rc = block_is_zero(bytes + at, BLOCK_COPY_BYTES) ? 0 : write_piece(w, offset_bytes + at, bytes + at);
	return rc;
}

/* --- the whole --- */

static int check(const struct block_writer *w, struct vmdk_new *v, struct err *e)
{
	const struct block_create_params *p = w->p;
	v->kind = p->subformat == BLOCK_SUBFORMAT_DEFAULT ? BLOCK_SUBFORMAT_MONOLITHIC_SPARSE : p->subformat;
	if (v->kind < BLOCK_SUBFORMAT_MONOLITHIC_SPARSE)
		return err_set(e, EINVAL, "cannot create '%s': VMDK images are not dynamic or fixed, but sparse or flat", p->path);
	v->is_flat = v->kind == BLOCK_SUBFORMAT_MONOLITHIC_FLAT || v->kind == BLOCK_SUBFORMAT_TWO_GB_FLAT;
	v->is_split = v->kind == BLOCK_SUBFORMAT_TWO_GB_SPARSE || v->kind == BLOCK_SUBFORMAT_TWO_GB_FLAT;
	v->is_single = v->kind == BLOCK_SUBFORMAT_MONOLITHIC_SPARSE;
	int rc = block_write_check_plain(w, "VMDK", v->is_flat, e);
	if (rc < 0)
		return rc;
	uint64_t max = v->is_split ? VMDK_MAX_EXTENTS * SPLIT_BYTES : v->is_flat ? MAX_BYTES : MAX_SPARSE_BYTES;
	if (w->n_bytes == 0)
		return err_set(e, EINVAL, "cannot create '%s': a VMDK disk of no bytes", p->path);
	if (w->n_bytes > max)
		return err_set(e, EFBIG, "cannot create '%s': a VMDK disk of this kind has %llu GiB at most", p->path,
		               (unsigned long long)(max >> 30));
	return 0;
}

static int vmdk_new_open(struct block_writer *w, struct err *e)
{
	struct vmdk_new *v = calloc(1, sizeof *v);
	if (!v)
		return err_set(e, ENOMEM, "no memory for '%s'", w->p->path);
	w->state = v;
	int rc = check(w, v, e);
	if (rc < 0)
		return rc;
	v->extent_bytes = v->is_split ? SPLIT_BYTES : w->n_bytes;
	v->n_extents = (w->n_bytes + v->extent_bytes - 1) / v->extent_bytes;
	const char *name = block_new_image_name(w->image), *dot = strrchr(name, '.');
	v->ending = dot && dot > name ? dot : "";
	v->n_stem = (int)(strlen(name) - strlen(v->ending));
	return check_names(w, e);
}

static int vmdk_new_finish(struct block_writer *w)
{
	struct vmdk_new *v = w->state;
	int rc = go_to_extent(w, v->n_extents);
	if (rc >= 0)
		rc = end_extent(w);
	return rc < 0 ? rc : write_descriptor(w);
}

static void vmdk_new_close(struct block_writer *w)
{
	free(w->state);
}

const struct block_writer_format block_vmdk_writer = { .open = vmdk_new_open, .write = vmdk_new_write,
	                                               .finish = vmdk_new_finish, .close = vmdk_new_close };

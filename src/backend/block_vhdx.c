// SPDX-License-Identifier: Apache-2.0
/* VHDX images, fixed and dynamic: [MS-VHDX], Virtual Hard Disk v2 (VHDX) File Format.
 *
 * Two headers name the log (block_vhdx_log.c); two copies of a region table name the regions: the block allocation
 * table (BAT) and the metadata, which say how large disk, blocks and sectors are. All of these and the blocks lie at
 * multiples of 1 MiB. After the entries of the blocks of a chunk the BAT has one for their sector bitmap, which only
 * images with a parent use.
 *
 * A block is in one of several states; what is not "fully present" reads as zeroes, which the format allows for all of
 * them. New blocks go to the end of the file. Discarding punches holes and leaves the states alone. */
#include "backend/block_vhdx.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_ENTRIES 2047u /* of regions, and of metadata: [MS-VHDX] 2.2.3, 2.6.1 */
#define MAX_ITEM_BYTES (1u << 20)

/* [MS-VHDX] 2.2.3.2 and 2.6.2: GUIDs as they are stored. */
const uint8_t vhdx_guid_bat[VHDX_GUID_BYTES] = {
	0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08,
};
const uint8_t vhdx_guid_metadata[VHDX_GUID_BYTES] = {
	0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e,
};

const struct vhdx_item vhdx_items[VHDX_N_ITEMS] = {
	[VHDX_ITEM_FILE_PARAMETERS] = { { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44,
	                             0xe7, 0x6b }, 8, "file parameters" },
	[VHDX_ITEM_DISK_SIZE] = { { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4,
	                       0xb8 }, 8, "virtual disk size" },
	[VHDX_ITEM_DISK_ID] = { { 0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7,
	                     0x46 }, 16, "virtual disk ID" },
	[VHDX_ITEM_LOGICAL_SECTOR] = { { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa,
	                            0xab, 0x5f }, 4, "logical sector size" },
	[VHDX_ITEM_PHYSICAL_SECTOR] = { { 0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51,
	                             0xc5, 0x56 }, 4, "physical sector size" },
	[VHDX_ITEM_PARENT] = { { 0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab,
	                    0x0c }, 0, "parent locator" },
};

/* --- the BAT --- */

static bool is_block_at(const struct vhdx *v, uint64_t mb)
{
	uint64_t at, n = v->block_bytes;
	if (mb == 0 || mb >= BLOCK_ENTRY_DAMAGED)
		return false;
	at = mb * VHDX_MB;
	return at <= v->end_bytes && n <= v->end_bytes - at &&
	       !block_ranges_meet(at, n, v->log.offset_bytes, v->log.n_bytes) &&
	       !block_ranges_meet(at, n, v->bat.offset_bytes, v->bat.n_bytes) &&
	       !block_ranges_meet(at, n, v->metadata.offset_bytes, v->metadata.n_bytes);
}

static int vhdx_load(struct block_table *t, uint32_t index, uint32_t *entries)
{
	struct vhdx *v = t->context;
	uint8_t bytes[BLOCK_TABLE_PAGE_ENTRIES * 8];
	uint32_t n = block_table_page_entries(t, index);
	int rc = block_file_read(v->disk.image, v->file, bytes, n * 8ul, v->bat.offset_bytes + index * (uint64_t)sizeof bytes);
	for (uint32_t k = 0; rc >= 0 && k < n; k++) {
		uint64_t entry = get_le64(bytes + 8ul * k), number = (uint64_t)index * BLOCK_TABLE_PAGE_ENTRIES + k;
		bool is_bitmap = number % (t->gap_after + 1ull) == t->gap_after;
		uint32_t state = entry & 7;
		entries[k] = BLOCK_ENTRY_ABSENT;
		if (is_bitmap || state <= PAYLOAD_BLOCK_UNMAPPED || state == PAYLOAD_BLOCK_UNMAPPED_OLD)
			continue;
		bool is_present = state == PAYLOAD_BLOCK_FULLY_PRESENT && is_block_at(v, entry >> 20);
		entries[k] = is_present ? (uint32_t)(entry >> 20) : BLOCK_ENTRY_DAMAGED;
	}
	return rc;
}

int vhdx_encode_page(struct vhdx *v, const struct block_table_page *p, uint8_t *ret_bytes)
{
	/* All that is not ours stays: states of absent blocks, damage, and what is behind the last entry. */
	int rc = block_file_read(v->disk.image, v->file, ret_bytes, VHDX_SECTOR_BYTES,
	                         v->bat.offset_bytes + (uint64_t)p->index * VHDX_SECTOR_BYTES);
	for (uint32_t k = 0; rc >= 0 && k < block_table_page_entries(&v->table, p->index); k++) {
		uint32_t mb = p->entries[k];
		if (mb != BLOCK_ENTRY_ABSENT && mb != BLOCK_ENTRY_DAMAGED)
			put_le64(ret_bytes + 8ul * k, (uint64_t)mb << 20 | PAYLOAD_BLOCK_FULLY_PRESENT);
	}
	return rc;
}

static int vhdx_extend(struct block_table *t, uint32_t n, uint32_t *ret_first)
{
	struct vhdx *v = t->context;
	uint64_t first = align_up(v->end_bytes, VHDX_MB), end = first + (uint64_t)n * v->block_bytes;
	if (end / VHDX_MB >= BLOCK_ENTRY_DAMAGED)
		return -EFBIG;
	/* Zeroes: nothing has been there. */
	if (ftruncate(v->file->fd, (off_t)end) < 0)
		return -errno;
	v->end_bytes = end;
	*ret_first = (uint32_t)(first / VHDX_MB);
	return 0;
}

static const struct block_table_ops vhdx_table_ops = { .load = vhdx_load, .extend = vhdx_extend };

static const struct block_disk_ops vhdx_ops = {
	.begin_writing = vhdx_begin_writing,
	.flush = vhdx_flush,
	.end_writing = vhdx_end_writing,
};

/* --- regions --- */

static bool is_region_table(const uint8_t *p)
{
	return memcmp(p, "regi", 4) == 0 && get_le32(p + 4) == vhdx_checksum(p, VHDX_REGION_BYTES) &&
	       get_le32(p + 8) <= MAX_ENTRIES;
}

static bool is_range_free(const struct vhdx *v, const struct vhdx_range *r)
{
	const struct vhdx_range *const taken[] = { &v->log, &v->bat, &v->metadata };
	for (size_t k = 0; k < ARRAY_LEN(taken); k++) {
		if (block_ranges_meet(r->offset_bytes, r->n_bytes, taken[k]->offset_bytes, taken[k]->n_bytes))
			return false;
	}
	return true;
}

static int take_region(struct vhdx *v, const uint8_t *entry, struct err *e)
{
	struct vhdx_range r = { get_le64(entry + 16), get_le32(entry + 24) }, *where = NULL;
	bool is_required = get_le32(entry + 28) & 1;
	if (memcmp(entry, vhdx_guid_bat, VHDX_GUID_BYTES) == 0)
		where = &v->bat;
	else if (memcmp(entry, vhdx_guid_metadata, VHDX_GUID_BYTES) == 0)
		where = &v->metadata;
	else if (is_required)
		return err_set(e, ENOTSUP, "not supported yet: it has a VHDX region that is required and not known");
	if (r.offset_bytes % VHDX_MB || r.n_bytes % VHDX_MB || r.offset_bytes < VHDX_MB || r.n_bytes == 0 ||
	    r.offset_bytes > v->end_bytes || r.n_bytes > v->end_bytes - r.offset_bytes)
		return err_set(e, EINVAL, "a VHDX region does not lie in the file");
	if (!where)
		return 0;
	if (where->n_bytes)
		return err_set(e, EINVAL, "its VHDX region table names a region twice");
	if (!is_range_free(v, &r))
		return err_set(e, EINVAL, "its VHDX regions lie one on the other");
	*where = r;
	return 0;
}

static int read_regions(struct vhdx *v, struct err *e)
{
	free_scoped uint8_t *p = malloc(VHDX_REGION_BYTES);
	if (!p)
		return err_set(e, ENOMEM, "no memory for its region table");
	bool is_found = false;
	for (unsigned k = 0; k < 2 && !is_found; k++) {
		int rc = block_file_read(v->disk.image, v->file, p, VHDX_REGION_BYTES, VHDX_REGION_OFFSET(k));
		if (rc < 0)
			return err_set_errno(e, -rc, "its VHDX region table cannot be read");
		is_found = is_region_table(p);
	}
	if (!is_found)
		return err_set(e, EINVAL, "both of its VHDX region tables are damaged");
	for (uint32_t k = 0; k < get_le32(p + 8); k++) {
		int rc = take_region(v, p + 16 + (uint64_t)k * VHDX_TABLE_ENTRY_BYTES, e);
		if (rc < 0)
			return rc;
	}
	if (!v->bat.n_bytes || !v->metadata.n_bytes)
		return err_set(e, EINVAL, "its VHDX region table lacks the BAT or the metadata");
	return 0;
}

/* --- metadata --- */

static int take_item(struct vhdx *v, enum vhdx_item_id item, const uint8_t *bytes, struct err *e)
{
	uint32_t word = get_le32(bytes);
	switch (item) {
	case VHDX_ITEM_FILE_PARAMETERS:
		if (get_le32(bytes + 4) & 2)
			return err_set(e, ENOTSUP, "not supported yet: it is a differencing VHDX, which has a parent");
		if (!is_power_of_two(word) || word < VHDX_MB || word > 256 * VHDX_MB)
			return err_set(e, EINVAL, "its VHDX block size is %u: a power of two from 1 MiB to 256 MiB is needed",
			               word);
		v->block_bytes = word;
		return 0;
	case VHDX_ITEM_DISK_SIZE:
		v->n_bytes = get_le64(bytes);
		if (v->n_bytes == 0 || v->n_bytes > VHDX_MAX_DISK_BYTES)
			return err_set(e, EINVAL, "its VHDX disk size is %llu bytes: up to 64 TiB are allowed",
			               (unsigned long long)v->n_bytes);
		return 0;
	case VHDX_ITEM_LOGICAL_SECTOR:
	case VHDX_ITEM_PHYSICAL_SECTOR:
		if (word != 512 && word != 4096)
			return err_set(e, EINVAL, "its VHDX %s is %u: 512 or 4096 is needed", vhdx_items[item].name, word);
		*(item == VHDX_ITEM_LOGICAL_SECTOR ? &v->logical_sector_bytes : &v->physical_sector_bytes) = word;
		return 0;
	case VHDX_ITEM_PARENT:
		return err_set(e, ENOTSUP, "not supported yet: it is a differencing VHDX, which has a parent");
	case VHDX_ITEM_DISK_ID:
	case VHDX_N_ITEMS:
		break;
	}
	return 0;
}

static enum vhdx_item_id find_item(const uint8_t *guid)
{
	unsigned k = 0;
	while (k < VHDX_N_ITEMS && memcmp(guid, vhdx_items[k].guid, VHDX_GUID_BYTES) != 0)
		k++;
	return (enum vhdx_item_id)k;
}

static int read_item(struct vhdx *v, const uint8_t *entry, unsigned *seen, struct err *e)
{
	enum vhdx_item_id item = find_item(entry);
	uint32_t offset = get_le32(entry + 16), n = get_le32(entry + 20), flags = get_le32(entry + 24);
	if (item == VHDX_N_ITEMS || (flags & 1)) { /* of a user's own */
		if (flags & 4)
			return err_set(e, ENOTSUP, "not supported yet: it has VHDX metadata that are required and not known");
		return 0;
	}
	if (*seen & 1u << item)
		return err_set(e, EINVAL, "its VHDX metadata have two items '%s'", vhdx_items[item].name);
	*seen |= 1u << item;
	if (n > MAX_ITEM_BYTES || offset < VHDX_REGION_BYTES || offset > v->metadata.n_bytes ||
	    n > v->metadata.n_bytes - offset || n < vhdx_items[item].n_bytes)
		return err_set(e, EINVAL, "its VHDX metadata item '%s' does not lie in its region", vhdx_items[item].name);
	uint8_t bytes[16] = { 0 };
	int rc = block_file_read(v->disk.image, v->file, bytes, vhdx_items[item].n_bytes, v->metadata.offset_bytes + offset);
	if (rc < 0)
		return err_set_errno(e, -rc, "its VHDX metadata cannot be read");
	return take_item(v, item, bytes, e);
}

static int read_metadata(struct vhdx *v, struct err *e)
{
	free_scoped uint8_t *p = malloc(VHDX_REGION_BYTES);
	if (!p)
		return err_set(e, ENOMEM, "no memory for its metadata");
	int rc = block_file_read(v->disk.image, v->file, p, VHDX_REGION_BYTES, v->metadata.offset_bytes);
	if (rc < 0)
		return err_set_errno(e, -rc, "its VHDX metadata cannot be read");
	uint32_t n = get_le16(p + 10);
	unsigned seen = 0;
	if (memcmp(p, "metadata", 8) != 0 || n > MAX_ENTRIES)
		return err_set(e, EINVAL, "its VHDX metadata table is damaged");
	for (uint32_t k = 0; k < n; k++) {
		rc = read_item(v, p + (uint64_t)(k + 1) * VHDX_TABLE_ENTRY_BYTES, &seen, e);
		if (rc < 0)
			return rc;
	}
	if (!v->block_bytes || !v->n_bytes || !v->logical_sector_bytes)
		return err_set(e, EINVAL, "its VHDX metadata lack the size of the disk, of its blocks or of its sectors");
	if (v->n_bytes % v->logical_sector_bytes)
		return err_set(e, EINVAL, "its VHDX disk size is %llu bytes, which is no multiple of its sectors of %u",
		               (unsigned long long)v->n_bytes, v->logical_sector_bytes);
	return 0;
}

static int open_table(struct vhdx *v, struct err *e)
{
	/* [MS-VHDX] 2.5: as many blocks as one sector bitmap of 1 MiB has bits for. */
	uint64_t chunk_ratio = (1ull << 23) * v->logical_sector_bytes / v->block_bytes;
	v->table = (struct block_table){
		.ops = &vhdx_table_ops,
		.disk = &v->disk,
		.context = v,
		.file = v->file,
		.block_bytes = v->block_bytes,
		.unit_bytes = (uint32_t)VHDX_MB,
		.stride_units = v->block_bytes / (uint32_t)VHDX_MB,
		.gap_after = (uint32_t)chunk_ratio,
		.n_blocks = (v->n_bytes + v->block_bytes - 1) / v->block_bytes,
	};
	int rc = block_table_init(&v->table, e);
	if (rc >= 0 && v->table.n_entries * 8ull > v->bat.n_bytes)
		rc = err_set(e, EINVAL, "its VHDX BAT has room for %llu entries, and the disk needs %u",
		             (unsigned long long)(v->bat.n_bytes / 8), v->table.n_entries);
	return rc;
}

/* --- opening --- */

static int open_vhdx(struct vhdx *v, struct err *e)
{
	uint8_t id[8];
	int rc = block_file_size(v->file, &v->end_bytes);
	if (rc < 0)
		return err_set_errno(e, -rc, "its size cannot be found");
	if (v->end_bytes < VHDX_MB || block_file_read(v->disk.image, v->file, id, sizeof id, 0) < 0 ||
	    memcmp(id, "vhdxfile", sizeof id) != 0)
		return err_set(e, EINVAL, "it is no VHDX image");
	if (v->file->is_device)
		return err_set(e, ENOTSUP, "not supported yet: a VHDX on a block device, which cannot grow");
	rc = vhdx_read_headers(v, e);
	if (rc >= 0)
		rc = vhdx_replay_log(v, e);
	if (rc >= 0)
		rc = read_regions(v, e);
	if (rc >= 0)
		rc = read_metadata(v, e);
	return rc < 0 ? rc : open_table(v, e);
}

static void set_limits(const struct vhdx *v, struct block_limits *l)
{
	l->n_bytes = v->n_bytes;
	if (l->logical_block_bytes < v->logical_sector_bytes)
		l->logical_block_bytes = v->logical_sector_bytes;
	if (l->physical_block_bytes < v->physical_sector_bytes)
		l->physical_block_bytes = v->physical_sector_bytes;
	if (l->physical_block_bytes < l->logical_block_bytes)
		l->physical_block_bytes = l->logical_block_bytes;
}

static int vhdx_open(struct block_image *i, const struct block_params *p, struct err *e)
{
	struct vhdx *v = calloc(1, sizeof *v);
	if (!v)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	i->state = v;
	v->file = i->file;
	block_disk_init(&v->disk, i, &vhdx_ops);
	v->disk.pieces = &v->piece;
	v->disk.n_pieces = 1;
	v->disk.files = &v->file;
	v->disk.n_files = 1;

	int rc = open_vhdx(v, e);
	if (rc < 0) {
		err_prefix(e, "cannot use '%s': ", p->path);
		return rc;
	}
	v->piece = (struct block_piece){ .kind = BLOCK_PIECE_TABLE, .n_bytes = v->n_bytes, .table = &v->table };
	set_limits(v, &i->limits);
	return 0;
}

static void vhdx_close(struct block_image *i)
{
	struct vhdx *v = i->state;
	if (!v)
		return;
	block_disk_done(&v->disk);
	block_table_done(&v->table);
	free(v);
	i->state = NULL;
}

const struct block_format block_vhdx_format = {
	.name = "vhdx",
	.prepare = block_disk_prepare,
	.finish = block_disk_finish,
	.needs_buffered = true,
	.open = vhdx_open,
	.close = vhdx_close,
	.map = block_disk_map,
	.info = block_disk_info,
};

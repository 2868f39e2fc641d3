// SPDX-License-Identifier: Apache-2.0
/* VHDX: a new image, fixed or dynamic, written in one go ([MS-VHDX], Virtual Hard Disk v2 (VHDX) File Format).
 *
 * In the first MiB what names the rest: the file's identifier, two headers, two region tables. Then the log, which is empty,
 * the metadata, the BAT, and the blocks: of a dynamic disk those that hold something, as they come; of a fixed one all of
 * them, in order. */
#include "backend/block_vhdx.h"
#include "backend/block_writer.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_AT VHDX_MB
#define METADATA_AT (2 * VHDX_MB)
#define BAT_AT (3 * VHDX_MB)
#define ITEMS_AT VHDX_REGION_BYTES /* in the metadata, behind their table */
#define LOGICAL_SECTOR_BYTES 512u

enum { REGION_IS_REQUIRED = 1, ITEM_IS_DISKS = 2, ITEM_IS_REQUIRED = 4, BLOCKS_ARE_KEPT = 1 };

struct vhdx_new {
	bool is_fixed;
	uint64_t block_bytes, n_blocks, chunk_ratio;
	uint64_t bat_bytes, end_bytes; /* where the next block goes */
	uint8_t *bat;
};

/* As QEMU chooses it: [MS-VHDX] leaves it to us. */
static uint64_t choose_block_bytes(uint64_t n_bytes)
{
	if (n_bytes > 32ull << 40)
		return 64 * VHDX_MB;
	if (n_bytes > 100ull << 30)
		return 32 * VHDX_MB;
	return n_bytes > 1ull << 30 ? 16 * VHDX_MB : 8 * VHDX_MB;
}

static int check(const struct block_writer *w, bool is_fixed, struct err *e)
{
	const struct block_create_params *p = w->p;
	if (p->subformat > BLOCK_SUBFORMAT_FIXED)
		return err_set(e, EINVAL, "cannot create '%s': VHDX images are dynamic or fixed", p->path);
	int rc = block_write_check_plain(w, "VHDX", is_fixed, e);
	if (rc < 0)
		return rc;
	if (w->n_bytes == 0)
		return err_set(e, EINVAL, "cannot create '%s': a VHDX disk of no bytes", p->path);
	if (w->n_bytes > VHDX_MAX_DISK_BYTES)
		return err_set(e, EFBIG, "cannot create '%s': a VHDX disk has 64 TiB at most", p->path);
	return 0;
}

/* [MS-VHDX] 2.5: behind the entries of a chunk's blocks is one for their sector bitmap, unless no block comes behind. */
static uint8_t *entry_of(const struct vhdx_new *v, uint64_t block)
{
	return v->bat + 8 * (block + block / v->chunk_ratio);
}

static void place_block(struct vhdx_new *v, uint64_t block)
{
	put_le64(entry_of(v, block), v->end_bytes | PAYLOAD_BLOCK_FULLY_PRESENT); /* whole MiB: the low 20 bits are the state */
	v->end_bytes += v->block_bytes;
}

static int vhdx_new_open(struct block_writer *w, struct err *e)
{
	struct vhdx_new *v = calloc(1, sizeof *v);
	if (!v)
		return err_set(e, ENOMEM, "no memory for '%s'", w->p->path);
	w->state = v;
	v->is_fixed = w->p->subformat == BLOCK_SUBFORMAT_FIXED;
	int rc = check(w, v->is_fixed, e);
	if (rc < 0)
		return rc;
	v->block_bytes = choose_block_bytes(w->n_bytes);
	v->n_blocks = (w->n_bytes + v->block_bytes - 1) / v->block_bytes;
	v->chunk_ratio = (1ull << 23) * LOGICAL_SECTOR_BYTES / v->block_bytes;
	v->bat_bytes = align_up(8 * (v->n_blocks + (v->n_blocks - 1) / v->chunk_ratio), VHDX_MB);
	v->end_bytes = BAT_AT + v->bat_bytes;
	v->bat = calloc(1, (size_t)v->bat_bytes); /* PAYLOAD_BLOCK_NOT_PRESENT */
	if (!v->bat)
		return err_set(e, ENOMEM, "no memory for '%s'", w->p->path);
	for (uint64_t k = 0; v->is_fixed && k < v->n_blocks; k++)
		place_block(v, k);
	return 0;
}

static int vhdx_new_write(struct block_writer *w, uint64_t offset_bytes, const uint8_t *bytes, size_t n_bytes)
{
	struct vhdx_new *v = w->state;
	int rc = 0;
	for (size_t at = 0; at < n_bytes && rc >= 0; at += BLOCK_COPY_BYTES) {
		uint64_t offset = offset_bytes + at, block = offset / v->block_bytes;
		if (block_is_zero(bytes + at, BLOCK_COPY_BYTES))
			continue;
		if (!get_le64(entry_of(v, block)))
			place_block(v, block);
		uint64_t place = align_down(get_le64(entry_of(v, block)), VHDX_MB);
		rc = block_write_sparsely(w->fd, bytes + at, BLOCK_COPY_BYTES, place + offset % v->block_bytes);
	}
	return rc;
}

/* --- what names the rest --- */

static int write_identifier(int fd)
{
	uint8_t id[8 + 512] = { 0 }; /* who made it, in UTF-16 */
	static const char creator[] = "varan";
	memcpy(id, "vhdxfile", 8);
	for (size_t k = 0; k < sizeof creator; k++)
		id[8 + 2 * k] = (uint8_t)creator[k];
	return block_write_all(fd, id, sizeof id, 0);
}

static int write_headers(int fd)
{
	uint8_t h[VHDX_HEADER_BYTES] = { 0 };
	memcpy(h, "head", 4);
	put_le16(h + HEADER_VERSION, 1);
	put_le32(h + HEADER_LOG_LENGTH, (uint32_t)VHDX_MB);
	put_le64(h + HEADER_LOG_OFFSET, LOG_AT);
	int rc = vhdx_new_guid(h + HEADER_FILE_WRITE_GUID);
	if (rc >= 0)
		rc = vhdx_new_guid(h + HEADER_DATA_WRITE_GUID);
	for (unsigned k = 0; k < 2 && rc >= 0; k++) {
		put_le64(h + HEADER_SEQUENCE, k);
		put_le32(h + 4, vhdx_checksum(h, sizeof h));
		rc = block_write_all(fd, h, sizeof h, VHDX_HEADER_OFFSET(k));
	}
	return rc;
}

static void put_region(uint8_t *entry, const uint8_t *guid, uint64_t offset_bytes, uint64_t n_bytes)
{
	memcpy(entry, guid, VHDX_GUID_BYTES);
	put_le64(entry + 16, offset_bytes);
	put_le32(entry + 24, (uint32_t)n_bytes);
	put_le32(entry + 28, REGION_IS_REQUIRED);
}

static int write_regions(int fd, const struct vhdx_new *v)
{
	uint8_t *t = calloc(1, VHDX_REGION_BYTES);
	int rc = t ? 0 : -ENOMEM;
	if (t) {
		memcpy(t, "regi", 4);
		put_le32(t + 8, 2);
		put_region(t + 16, vhdx_guid_bat, BAT_AT, v->bat_bytes);
		put_region(t + 16 + VHDX_TABLE_ENTRY_BYTES, vhdx_guid_metadata, METADATA_AT, VHDX_MB);
		put_le32(t + 4, vhdx_checksum(t, VHDX_REGION_BYTES));
	}
	for (unsigned k = 0; k < 2 && rc >= 0; k++)
		rc = block_write_all(fd, t, VHDX_REGION_BYTES, VHDX_REGION_OFFSET(k));
	free(t);
	return rc;
}

static int write_metadata(int fd, const struct vhdx_new *v, uint64_t n_bytes)
{
	uint8_t table[(1 + VHDX_N_ITEMS) * VHDX_TABLE_ENTRY_BYTES] = { 0 }, values[VHDX_N_ITEMS][16] = { { 0 } };
	put_le32(values[VHDX_ITEM_FILE_PARAMETERS], (uint32_t)v->block_bytes);
	put_le32(values[VHDX_ITEM_FILE_PARAMETERS] + 4, v->is_fixed ? BLOCKS_ARE_KEPT : 0);
	put_le64(values[VHDX_ITEM_DISK_SIZE], n_bytes);
	put_le32(values[VHDX_ITEM_LOGICAL_SECTOR], LOGICAL_SECTOR_BYTES);
	put_le32(values[VHDX_ITEM_PHYSICAL_SECTOR], LOGICAL_SECTOR_BYTES);
	int rc = vhdx_new_guid(values[VHDX_ITEM_DISK_ID]);
	memcpy(table, "metadata", 8);
	put_le16(table + 10, VHDX_ITEM_PARENT); /* all but that one */
	for (unsigned k = 0; k < VHDX_ITEM_PARENT; k++) {
		uint8_t *entry = table + (k + 1) * VHDX_TABLE_ENTRY_BYTES;
		memcpy(entry, vhdx_items[k].guid, VHDX_GUID_BYTES);
		put_le32(entry + 16, ITEMS_AT + k * 16);
		put_le32(entry + 20, vhdx_items[k].n_bytes);
		put_le32(entry + 24, ITEM_IS_REQUIRED | (k == VHDX_ITEM_FILE_PARAMETERS ? 0 : ITEM_IS_DISKS));
	}
	if (rc >= 0)
		rc = block_write_all(fd, table, sizeof table, METADATA_AT);
	return rc < 0 ? rc : block_write_all(fd, values, sizeof values, METADATA_AT + ITEMS_AT);
}

static int vhdx_new_finish(struct block_writer *w)
{
	const struct vhdx_new *v = w->state;
	uint64_t blocks_at = BAT_AT + v->bat_bytes;
	/* The end of the last block, which is whole, may not have been written. */
	int rc = ftruncate(w->fd, (off_t)v->end_bytes) < 0 ? -errno : 0;
	if (rc >= 0)
		rc = block_write_preallocate(w, w->fd, blocks_at, v->end_bytes - blocks_at, 0);
	if (rc >= 0)
		rc = write_identifier(w->fd);
	if (rc >= 0)
		rc = write_headers(w->fd);
	if (rc >= 0)
		rc = write_regions(w->fd, v);
	if (rc >= 0)
		rc = write_metadata(w->fd, v, w->n_bytes);
	return rc < 0 ? rc : block_write_all(w->fd, v->bat, (size_t)v->bat_bytes, BAT_AT);
}

static void vhdx_new_close(struct block_writer *w)
{
	struct vhdx_new *v = w->state;
	if (v)
		free(v->bat);
	free(v);
}

const struct block_writer_format block_vhdx_writer = { .open = vhdx_new_open, .write = vhdx_new_write,
	                                               .finish = vhdx_new_finish, .close = vhdx_new_close };

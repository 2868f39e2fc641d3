// SPDX-License-Identifier: Apache-2.0
/* VHD images: Microsoft's "Virtual Hard Disk Image Format Specification" 1.0, fixed and dynamic.
 *
 * A fixed disk is its data and a footer of 512 bytes. A dynamic disk has a copy of the footer in front, a header, the
 * block allocation table (BAT), blocks, and the footer at the end. A block is a bitmap of the sectors that were ever
 * written, filled up to whole sectors, and the data. Numbers are big-endian.
 *
 * Sectors whose bit is not set read as zeroes (docs/decisions/0009). The blocks that we add are written whole, every bit
 * set, so that nothing is to be kept up to date later; one that another program left half written is made whole by the
 * first write to it. The bitmaps are why a dynamic disk is not written by direct I/O: in front of the data of a block, and
 * behind that of the one before, they share pages of the host's cache with both.
 *
 * A new block takes the place of the footer: the footer is written behind the block before the block's bitmap
 * overwrites the old one. When the host dies in between, the copy in front is what the next open reads. */
#include "backend/block_disk.h"
#include "backend/block_vhd.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VHD_MIN_BLOCK_BYTES (64u * 1024)
#define VHD_MAX_BLOCK_BYTES (64u * 1024 * 1024)
#define VHD_MAX_BITMAP_BYTES (VHD_MAX_BLOCK_BYTES / VHD_SECTOR_BYTES / 8)

struct vhd {
	struct block_disk disk; /* first */
	const struct block_file *file;
	struct block_piece piece;
	struct block_table table;
	uint8_t footer[VHD_SECTOR_BYTES];
	uint64_t header_offset_bytes, table_offset_bytes, table_bytes;
	uint64_t end_bytes; /* of blocks: where the next one goes */
	bool is_dynamic;
};

/* --- the table --- */

static int read_page(struct vhd *v, uint32_t page, uint8_t *bytes)
{
	return block_file_read(v->disk.image, v->file, bytes, block_table_page_entries(&v->table, page) * 4ul,
	                     v->table_offset_bytes + page * (BLOCK_TABLE_PAGE_ENTRIES * 4ull));
}

/* A block's place: in the file, and on nothing else that we know of. Other blocks are not looked at: two in one place
 * confuse nobody but the guest. */
static bool is_block_at(const struct vhd *v, uint32_t entry)
{
	uint64_t at = (uint64_t)entry * VHD_SECTOR_BYTES, n = (uint64_t)v->table.lead_bytes + v->table.block_bytes;
	return at >= VHD_SECTOR_BYTES && at <= v->end_bytes && n <= v->end_bytes - at &&
	       !block_ranges_meet(at, n, v->header_offset_bytes, VHD_HEADER_BYTES) &&
	       !block_ranges_meet(at, n, v->table_offset_bytes, v->table_bytes);
}

static int vhd_load(struct block_table *t, uint32_t index, uint32_t *entries)
{
	struct vhd *v = t->context;
	uint8_t bytes[BLOCK_TABLE_PAGE_ENTRIES * 4];
	int rc = read_page(v, index, bytes);
	for (uint32_t k = 0; rc >= 0 && k < block_table_page_entries(t, index); k++) {
		uint32_t entry = get_be32(bytes + 4ul * k);
		if (entry == VHD_UNUSED_ENTRY)
			entries[k] = BLOCK_ENTRY_ABSENT;
		else
			entries[k] = is_block_at(v, entry) ? entry : BLOCK_ENTRY_DAMAGED;
	}
	return rc;
}

static int vhd_store(struct block_table *t, const struct block_table_page *p)
{
	struct vhd *v = t->context;
	uint8_t bytes[BLOCK_TABLE_PAGE_ENTRIES * 4];
	/* What is damaged stays as it is, for those who can repair it. */
	int rc = read_page(v, p->index, bytes);
	if (rc < 0)
		return rc;
	uint32_t n = block_table_page_entries(t, p->index);
	for (uint32_t k = 0; k < n; k++) {
		uint32_t entry = p->entries[k];
		if (entry != BLOCK_ENTRY_ABSENT && entry != BLOCK_ENTRY_DAMAGED)
			put_be32(bytes + 4ul * k, entry);
	}
	return block_file_write(v->disk.image, v->file, bytes, 4ul * n,
	                      v->table_offset_bytes + p->index * (BLOCK_TABLE_PAGE_ENTRIES * 4ull));
}

static int write_bitmaps(struct vhd *v, uint64_t at, uint32_t n, uint64_t stride_bytes)
{
	uint8_t ones[4096];
	memset(ones, 0xff, sizeof ones);
	for (uint32_t k = 0; k < n; k++) {
		for (uint32_t done = 0; done < v->table.lead_bytes;) {
			size_t part = (size_t)min_u64(v->table.lead_bytes - done, sizeof ones);
			int rc = block_file_write(v->disk.image, v->file, ones, part, at + k * stride_bytes + done);
			if (rc < 0)
				return rc;
			done += (uint32_t)part;
		}
	}
	return 0;
}

static int vhd_extend(struct block_table *t, uint32_t n, uint32_t *ret_first)
{
	struct vhd *v = t->context;
	uint64_t stride_bytes = (uint64_t)t->stride_units * VHD_SECTOR_BYTES;
	uint64_t old_end = v->end_bytes, new_end = old_end + n * stride_bytes;
	if (new_end / VHD_SECTOR_BYTES >= VHD_UNUSED_ENTRY)
		return -EFBIG;

	int rc = block_file_write(v->disk.image, v->file, v->footer, VHD_SECTOR_BYTES, new_end);
	if (rc >= 0)
		rc = write_bitmaps(v, old_end, n, stride_bytes);
	if (rc < 0) {
		/* As it was: the first bitmap may have gone over the footer. */
		(void)block_file_write(v->disk.image, v->file, v->footer, VHD_SECTOR_BYTES, old_end);
		(void)!ftruncate(v->file->fd, (off_t)(old_end + VHD_SECTOR_BYTES));
		return rc;
	}
	v->end_bytes = new_end;
	*ret_first = (uint32_t)(old_end / VHD_SECTOR_BYTES);
	return 0;
}

/* --- half-written blocks --- */

static bool has_sector(const uint8_t *bitmap, uint32_t sector)
{
	return bitmap[sector / 8] & (0x80u >> sector % 8); /* the highest bit is the first sector's */
}

static int read_bitmap(const struct vhd *v, uint32_t entry, uint8_t *bitmap, bool *ret_is_whole)
{
	uint32_t n = v->table.block_bytes / VHD_SECTOR_BYTES / 8;
	int rc = block_file_read(v->disk.image, v->file, bitmap, n, (uint64_t)entry * VHD_SECTOR_BYTES);
	*ret_is_whole = true;
	for (uint32_t k = 0; rc >= 0 && k < n && *ret_is_whole; k++)
		*ret_is_whole = bitmap[k] == 0xff;
	return rc;
}

static int vhd_examine(struct block_table *t, uint32_t entry, uint32_t offset_bytes, uint32_t n_bytes,
                       uint32_t *ret_run_bytes, bool *ret_is_written, bool *ret_is_whole)
{
	uint8_t bitmap[VHD_MAX_BITMAP_BYTES];
	int rc = read_bitmap(t->context, entry, bitmap, ret_is_whole);
	if (rc < 0)
		return rc;
	uint32_t first = offset_bytes / VHD_SECTOR_BYTES, end = (offset_bytes + n_bytes) / VHD_SECTOR_BYTES, k = first;
	*ret_is_written = has_sector(bitmap, first);
	while (k < end && has_sector(bitmap, k) == *ret_is_written)
		k++;
	*ret_run_bytes = (k - first) * VHD_SECTOR_BYTES;
	return 0;
}

static int vhd_make_whole(struct block_table *t, uint32_t entry)
{
	struct vhd *v = t->context;
	uint8_t bitmap[VHD_MAX_BITMAP_BYTES];
	uint64_t at = (uint64_t)entry * VHD_SECTOR_BYTES, data = at + t->lead_bytes;
	uint32_t n_sectors = t->block_bytes / VHD_SECTOR_BYTES;
	bool is_whole;
	int rc = read_bitmap(v, entry, bitmap, &is_whole);
	for (uint32_t k = 0, n; rc >= 0 && !is_whole && k < n_sectors; k += n) {
		bool is_written = has_sector(bitmap, k);
		for (n = 1; k + n < n_sectors && has_sector(bitmap, k + n) == is_written;)
			n++;
		if (!is_written)
			rc = block_file_zero(v->disk.image, v->file, data + (uint64_t)k * VHD_SECTOR_BYTES,
			                     (uint64_t)n * VHD_SECTOR_BYTES, true);
	}
	if (rc < 0 || is_whole)
		return rc;
	/* What was there before must not come to light when the host dies now. */
	rc = block_file_sync(v->disk.image, v->file);
	return rc < 0 ? rc : write_bitmaps(v, at, 1, 0);
}

static const struct block_table_ops vhd_table_ops = {
	.load = vhd_load,
	.store = vhd_store,
	.extend = vhd_extend,
	.examine = vhd_examine,
	.make_whole = vhd_make_whole,
};

/* --- opening --- */

static bool is_footer(const uint8_t *p)
{
	return memcmp(p, "conectix", 8) == 0 &&
	       get_be32(p + FOOTER_CHECKSUM) == vhd_checksum(p, VHD_SECTOR_BYTES, FOOTER_CHECKSUM);
}

/* Finds the footer: at the end, or its copy in front when the end was lost. */
static int find_footer(struct vhd *v, struct err *e)
{
	uint64_t n;
	int rc = block_file_size(v->file, &n);
	if (rc < 0)
		return err_set_errno(e, -rc, "its size cannot be found");
	if (n < VHD_SECTOR_BYTES)
		return err_set(e, EINVAL, "it is too short for a VHD footer");
	rc = block_file_read(v->disk.image, v->file, v->footer, VHD_SECTOR_BYTES, n - VHD_SECTOR_BYTES);
	if (rc < 0)
		return err_set_errno(e, -rc, "its footer cannot be read");
	v->end_bytes = n - VHD_SECTOR_BYTES;
	if (is_footer(v->footer) && v->end_bytes % VHD_SECTOR_BYTES == 0)
		return 0;

	rc = block_file_read(v->disk.image, v->file, v->footer, VHD_SECTOR_BYTES, 0);
	if (rc < 0)
		return err_set_errno(e, -rc, "its footer cannot be read");
	v->end_bytes = align_up(n, VHD_SECTOR_BYTES);
	if (!is_footer(v->footer) || get_be32(v->footer + FOOTER_TYPE) == VHD_TYPE_FIXED)
		return err_set(e, EINVAL, "it has no valid VHD footer");
	log_warn(&v->disk.image->log, "the image was not closed in order: its VHD footer is taken from the copy in front");
	return 0;
}

/* Virtual PC means its geometry and tells a size that is a little larger; so does QEMU where it was not asked to be
 * exact. All others mean the size, as QEMU 10 reads them; so do those two when the geometry is the largest there is. */
static uint64_t disk_bytes(const uint8_t *f)
{
	uint64_t n_cylinders = (uint64_t)f[FOOTER_CYLINDERS] << 8 | f[FOOTER_CYLINDERS + 1];
	uint64_t n_sectors = n_cylinders * f[FOOTER_HEADS] * f[FOOTER_SECTORS];
	bool means_geometry = memcmp(f + FOOTER_CREATOR, "vpc ", 4) == 0 || memcmp(f + FOOTER_CREATOR, "qemu", 4) == 0;
	return means_geometry && n_sectors != VHD_MAX_GEOMETRY ? n_sectors * VHD_SECTOR_BYTES :
	                                                         get_be64(f + FOOTER_CURRENT_SIZE);
}

static int check_footer(struct vhd *v, struct err *e)
{
	const uint8_t *f = v->footer;
	uint32_t type = get_be32(f + FOOTER_TYPE);
	uint64_t n_bytes = disk_bytes(f);

	if (get_be32(f + FOOTER_VERSION) >> 16 != VHD_VERSION_MAJOR)
		return err_set(e, EINVAL, "its VHD version is 0x%08x, which is not known", get_be32(f + FOOTER_VERSION));
	if (type == VHD_TYPE_DIFFERENCING)
		return err_set(e, ENOTSUP, "not supported yet: it is a differencing VHD, which has a parent");
	if (type != VHD_TYPE_FIXED && type != VHD_TYPE_DYNAMIC)
		return err_set(e, EINVAL, "its VHD type is %u, which is neither fixed (2) nor dynamic (3)", type);
	if (n_bytes == 0 || n_bytes % VHD_SECTOR_BYTES)
		return err_set(e, EINVAL, "its VHD size is %llu bytes, which is no positive multiple of 512",
		               (unsigned long long)n_bytes);
	if (type == VHD_TYPE_FIXED && n_bytes > v->end_bytes)
		return err_set(e, EINVAL, "its VHD size is %llu bytes, but the file has room for %llu",
		               (unsigned long long)n_bytes, (unsigned long long)v->end_bytes);
	if (type == VHD_TYPE_DYNAMIC && n_bytes > VHD_MAX_BYTES)
		return err_set(e, EINVAL, "its VHD size is %llu bytes, more than the 2040 GiB that the format allows",
		               (unsigned long long)n_bytes);
	v->is_dynamic = type == VHD_TYPE_DYNAMIC;
	v->piece = (struct block_piece){ .kind = BLOCK_PIECE_LINEAR, .n_bytes = n_bytes, .file = v->file };
	return 0;
}

static int check_header(struct vhd *v, const uint8_t *h, struct err *e)
{
	uint32_t block_bytes = get_be32(h + HEADER_BLOCK_BYTES), n_entries = get_be32(h + HEADER_N_ENTRIES);
	if (memcmp(h, "cxsparse", 8) != 0 || get_be32(h + HEADER_CHECKSUM) != vhd_checksum(h, VHD_HEADER_BYTES, HEADER_CHECKSUM))
		return err_set(e, EINVAL, "its dynamic VHD header is damaged");
	if (get_be32(h + HEADER_VERSION) >> 16 != VHD_VERSION_MAJOR)
		return err_set(e, EINVAL, "its dynamic VHD header has version 0x%08x, which is not known",
		               get_be32(h + HEADER_VERSION));
	if (!is_power_of_two(block_bytes) || block_bytes < VHD_MIN_BLOCK_BYTES || block_bytes > VHD_MAX_BLOCK_BYTES)
		return err_set(e, EINVAL, "its VHD block size is %u: a power of two from 64 KiB to 64 MiB is needed",
		               block_bytes);
	uint64_t n_blocks = (v->piece.n_bytes + block_bytes - 1) / block_bytes;
	if (n_entries < n_blocks)
		return err_set(e, EINVAL, "its VHD table has %u entries, and the disk has %llu blocks", n_entries,
		               (unsigned long long)n_blocks);
	v->table_offset_bytes = get_be64(h + HEADER_TABLE_OFFSET);
	v->table_bytes = align_up(n_blocks * 4, VHD_SECTOR_BYTES);
	if (v->table_offset_bytes % VHD_SECTOR_BYTES || v->table_offset_bytes < VHD_SECTOR_BYTES ||
	    v->table_offset_bytes > v->end_bytes || v->table_bytes > v->end_bytes - v->table_offset_bytes ||
	    block_ranges_meet(v->table_offset_bytes, v->table_bytes, v->header_offset_bytes, VHD_HEADER_BYTES))
		return err_set(e, EINVAL, "its VHD table does not lie in the file, or not behind the header");
	v->table = (struct block_table){
		.ops = &vhd_table_ops,
		.disk = &v->disk,
		.context = v,
		.file = v->file,
		.block_bytes = block_bytes,
		.unit_bytes = VHD_SECTOR_BYTES,
		.lead_bytes = (uint32_t)align_up(block_bytes / VHD_SECTOR_BYTES / 8, VHD_SECTOR_BYTES),
		.n_blocks = n_blocks,
	};
	v->table.stride_units = (v->table.lead_bytes + block_bytes) / VHD_SECTOR_BYTES;
	return 0;
}

static int open_dynamic(struct vhd *v, struct err *e)
{
	uint8_t h[VHD_HEADER_BYTES];
	v->header_offset_bytes = get_be64(v->footer + FOOTER_DATA_OFFSET);
	if (v->header_offset_bytes % VHD_SECTOR_BYTES || v->header_offset_bytes < VHD_SECTOR_BYTES ||
	    v->header_offset_bytes > v->end_bytes || VHD_HEADER_BYTES > v->end_bytes - v->header_offset_bytes)
		return err_set(e, EINVAL, "its dynamic VHD header does not lie in the file");
	int rc = block_file_read(v->disk.image, v->file, h, sizeof h, v->header_offset_bytes);
	if (rc < 0)
		return err_set_errno(e, -rc, "its dynamic VHD header cannot be read");
	rc = check_header(v, h, e);
	if (rc >= 0)
		rc = block_table_init(&v->table, e);
	v->piece.kind = BLOCK_PIECE_TABLE;
	v->piece.table = &v->table;
	return rc;
}

static int open_vhd(struct vhd *v, struct err *e)
{
	int rc = find_footer(v, e);
	if (rc >= 0)
		rc = check_footer(v, e);
	if (rc < 0 || !v->is_dynamic)
		return rc;
	if (v->file->is_device)
		return err_set(e, ENOTSUP, "not supported yet: a dynamic VHD on a block device, which cannot grow");
	rc = open_dynamic(v, e);
	if (rc >= 0 && !v->file->is_readonly)
		rc = block_leave_direct(v->disk.image, v->file,
		                        "the blocks of a dynamic VHD share pages of the host's cache with their bitmaps", e);
	return rc;
}

static int vhd_open(struct block_image *i, const struct block_params *p, struct err *e)
{
	struct vhd *v = calloc(1, sizeof *v);
	if (!v)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	i->state = v;
	v->file = i->file;
	block_disk_init(&v->disk, i, NULL);
	v->disk.pieces = &v->piece;
	v->disk.n_pieces = 1;
	v->disk.files = &v->file;
	v->disk.n_files = 1;

	int rc = open_vhd(v, e);
	if (rc < 0) {
		err_prefix(e, "cannot use '%s': ", p->path);
		return rc;
	}
	/* The format has no way to say that a sector is not needed any more. */
	i->limits.n_bytes = v->piece.n_bytes;
	i->limits.can_discard = false;
	return 0;
}

static void vhd_close(struct block_image *i)
{
	struct vhd *v = i->state;
	if (!v)
		return;
	block_disk_done(&v->disk);
	block_table_done(&v->table);
	free(v);
	i->state = NULL;
}

const struct block_format block_vhd_format = {
	.name = "vhd",
	.prepare = block_disk_prepare,
	.finish = block_disk_finish,
	.needs_buffered = true,
	.open = vhd_open,
	.close = vhd_close,
	.map = block_disk_map,
	.info = block_disk_info,
	.read_packed = block_disk_read_packed,
};

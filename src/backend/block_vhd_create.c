// SPDX-License-Identifier: Apache-2.0
/* VHD: a new image, fixed or dynamic, written in one go.
 *
 * A dynamic disk: the footer's copy, the header, the block allocation table, the blocks that hold something, and the footer.
 * A block is 2 MiB, which is what comes at once; every sector of it counts as written. */
#include "backend/block_vhd.h"
#include "backend/block_writer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_BYTES BLOCK_COPY_BYTES
#define BITMAP_BYTES (BLOCK_BYTES / VHD_SECTOR_BYTES / 8)
#define HEADER_AT VHD_SECTOR_BYTES
#define TABLE_AT (HEADER_AT + VHD_HEADER_BYTES)
#define YEAR_2000 946684800ll

_Static_assert(BITMAP_BYTES == VHD_SECTOR_BYTES, "the bitmap is one sector");

struct vhd_new {
	bool is_dynamic;
	uint8_t footer[VHD_SECTOR_BYTES];
	uint8_t *table;
	uint32_t n_blocks;
	uint64_t table_bytes, end_bytes; /* where the next block goes */
};

/* --- the footer --- */

/* The specification's appendix, "CHS Calculation". */
static void put_geometry(uint8_t *f, uint64_t n_sectors)
{
	uint32_t per_track = 17, n_heads, n_tracks;
	n_sectors = min_u64(n_sectors, VHD_MAX_GEOMETRY);
	n_tracks = (uint32_t)(n_sectors / per_track);
	n_heads = (uint32_t)max_u64(4, (n_tracks + 1023) / 1024);
	if (n_tracks >= n_heads * 1024 || n_heads > 16) {
		n_heads = 16;
		per_track = 31;
		n_tracks = (uint32_t)(n_sectors / per_track);
	}
	if (n_tracks >= n_heads * 1024) {
		per_track = 63;
		n_tracks = (uint32_t)(n_sectors / per_track);
	}
	if (n_sectors >= VHD_MAX_CYLINDERS * 16ull * 63) {
		per_track = 255;
		n_tracks = (uint32_t)(n_sectors / per_track);
	}
	uint32_t n_cylinders = n_tracks / n_heads;
	f[FOOTER_CYLINDERS] = (uint8_t)(n_cylinders >> 8);
	f[FOOTER_CYLINDERS + 1] = (uint8_t)n_cylinders;
	f[FOOTER_HEADS] = (uint8_t)n_heads;
	f[FOOTER_SECTORS] = (uint8_t)per_track;
}

static int fill_footer(struct vhd_new *v, uint64_t n_bytes)
{
	uint8_t *f = v->footer;
	memcpy(f, "conectix", 8);
	put_be32(f + FOOTER_FEATURES, 2); /* always set */
	put_be32(f + FOOTER_VERSION, VHD_VERSION_MAJOR << 16);
	put_be64(f + FOOTER_DATA_OFFSET, v->is_dynamic ? HEADER_AT : VHD_NO_DATA_OFFSET);
	put_be32(f + FOOTER_TIMESTAMP, (uint32_t)((long long)time(NULL) - YEAR_2000));
	/* Of those that everybody, QEMU before 10 too, takes to mean the size and not the geometry. */
	memcpy(f + FOOTER_CREATOR, "qem2", 4);
	put_be32(f + FOOTER_CREATOR_VERSION, 0x00050003);
	memcpy(f + FOOTER_CREATOR_HOST, "Wi2k", 4);
	put_be64(f + FOOTER_ORIGINAL_SIZE, n_bytes);
	put_be64(f + FOOTER_CURRENT_SIZE, n_bytes);
	put_geometry(f, n_bytes / VHD_SECTOR_BYTES);
	put_be32(f + FOOTER_TYPE, v->is_dynamic ? VHD_TYPE_DYNAMIC : VHD_TYPE_FIXED);
	if (!block_write_random(f + FOOTER_ID, 16))
		return -EIO;
	put_be32(f + FOOTER_CHECKSUM, vhd_checksum(f, VHD_SECTOR_BYTES, FOOTER_CHECKSUM));
	return 0;
}

/* --- the whole --- */

static int check(const struct block_writer *w, struct vhd_new *v, struct err *e)
{
	const struct block_create_params *p = w->p;
	v->is_dynamic = p->subformat != BLOCK_SUBFORMAT_FIXED;
	if (p->subformat > BLOCK_SUBFORMAT_FIXED)
		return err_set(e, EINVAL, "cannot create '%s': VHD images are dynamic or fixed", p->path);
	int rc = block_write_check_plain(w, "VHD", !v->is_dynamic, e);
	if (rc < 0)
		return rc;
	if (w->n_bytes == 0)
		return err_set(e, EINVAL, "cannot create '%s': a VHD disk of no bytes", p->path);
	if (w->n_bytes > VHD_MAX_BYTES)
		return err_set(e, EFBIG, "cannot create '%s': a VHD disk has 2040 GiB at most", p->path);
	return 0;
}

static int vhd_new_open(struct block_writer *w, struct err *e)
{
	struct vhd_new *v = calloc(1, sizeof *v);
	if (!v)
		return err_set(e, ENOMEM, "no memory for '%s'", w->p->path);
	w->state = v;
	int rc = check(w, v, e);
	if (rc < 0)
		return rc;
	if (fill_footer(v, w->n_bytes) < 0)
		return err_set(e, EIO, "cannot create '%s': no random numbers", w->p->path);
	if (!v->is_dynamic)
		return 0;
	v->n_blocks = (uint32_t)((w->n_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES);
	v->table_bytes = align_up(v->n_blocks * 4ull, VHD_SECTOR_BYTES);
	v->end_bytes = TABLE_AT + v->table_bytes;
	v->table = malloc((size_t)v->table_bytes);
	if (!v->table)
		return err_set(e, ENOMEM, "no memory for '%s'", w->p->path);
	memset(v->table, 0xff, (size_t)v->table_bytes); /* no block is there */
	return 0;
}

static int add_block(struct block_writer *w, uint64_t number, const uint8_t *bytes)
{
	struct vhd_new *v = w->state;
	uint8_t bitmap[BITMAP_BYTES];
	assert(number < v->n_blocks);
	memset(bitmap, 0xff, sizeof bitmap);
	put_be32(v->table + 4 * number, (uint32_t)(v->end_bytes / VHD_SECTOR_BYTES)); /* 2040 GiB and the bitmaps: no overflow */
	int rc = block_write_all(w->fd, bitmap, sizeof bitmap, v->end_bytes);
	if (rc >= 0)
		rc = block_write_sparsely(w->fd, bytes, BLOCK_BYTES, v->end_bytes + BITMAP_BYTES);
	v->end_bytes += BITMAP_BYTES + BLOCK_BYTES;
	return rc;
}

static int vhd_new_write(struct block_writer *w, uint64_t offset_bytes, const uint8_t *bytes, size_t n_bytes)
{
	const struct vhd_new *v = w->state;
	int rc = 0;
	if (!v->is_dynamic)
		return block_write_sparsely(w->fd, bytes, (size_t)min_u64(n_bytes, w->n_bytes - offset_bytes), offset_bytes);
	for (size_t at = 0; at < n_bytes && rc >= 0; at += BLOCK_BYTES) {
		if (!block_is_zero(bytes + at, BLOCK_BYTES))
			rc = add_block(w, (offset_bytes + at) / BLOCK_BYTES, bytes + at);
	}
	return rc;
}

static int write_front(const struct block_writer *w)
{
	const struct vhd_new *v = w->state;
	uint8_t h[VHD_HEADER_BYTES] = { 0 };
	memcpy(h, "cxsparse", 8);
	put_be64(h + HEADER_DATA_OFFSET, VHD_NO_DATA_OFFSET);
	put_be64(h + HEADER_TABLE_OFFSET, TABLE_AT);
	put_be32(h + HEADER_VERSION, VHD_VERSION_MAJOR << 16);
	put_be32(h + HEADER_N_ENTRIES, v->n_blocks);
	put_be32(h + HEADER_BLOCK_BYTES, BLOCK_BYTES);
	put_be32(h + HEADER_CHECKSUM, vhd_checksum(h, sizeof h, HEADER_CHECKSUM));
	int rc = block_write_all(w->fd, v->footer, sizeof v->footer, 0);
	if (rc >= 0)
		rc = block_write_all(w->fd, h, sizeof h, HEADER_AT);
	return rc < 0 ? rc : block_write_all(w->fd, v->table, (size_t)v->table_bytes, TABLE_AT);
}

static int vhd_new_finish(struct block_writer *w)
{
	const struct vhd_new *v = w->state;
	int rc = v->is_dynamic ? write_front(w) : block_write_preallocate(w, w->fd, 0, w->n_bytes, 0);
	uint64_t end = v->is_dynamic ? v->end_bytes : w->n_bytes;
	return rc < 0 ? rc : block_write_all(w->fd, v->footer, sizeof v->footer, end);
}

static void vhd_new_close(struct block_writer *w)
{
	struct vhd_new *v = w->state;
	if (v)
		free(v->table);
	free(v);
}

const struct block_writer_format block_vhd_writer = { .open = vhd_new_open, .write = vhd_new_write, .finish = vhd_new_finish,
	                                              .close = vhd_new_close };

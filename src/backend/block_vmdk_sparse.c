// SPDX-License-Identifier: Apache-2.0
/* VMDK: sparse extents (VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents" and "Stream-Optimized Compressed").
 *
 * A header of one sector, perhaps the descriptor, a redundant and a primary grain directory with their grain tables, and
 * the grains. A directory's entry is the sector of a table of 512 entries, which are sectors of grains: 0 is a grain
 * that was never written and, where the header says so, 1 one of zeroes; without a parent both read as zeroes.
 *
 * New grains, and new tables where a directory has none, go to the end of the file. A flush writes the redundant table
 * before the primary one; both refer to what is durable already, so it does not matter between which two writes the
 * host dies. The header's mark "unclean" is set while tables of the file may change.
 *
 * In a stream-optimized extent a grain is compressed and has a marker in front; it is read only, as such a file cannot
 * be changed in place.
 *
 * Direct I/O. Grains are whole pages of the host's cache, so they share none with a table unless they begin within one.
 * Where the first can do so, all of them are supposed to, and direct I/O is not used; an odd one among others is written as
 * tables are (may_be_odd). */
#include "backend/block_vmdk.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define MIN_GRAIN_SECTORS 8u
#define MAX_GRAIN_SECTORS 32768u
#define GD_AT_END 0xffffffffffffffffull
#define MARKER_BYTES 12u
#define FOOTER_FROM_END 1024u

static const struct block_image *image_of(const struct vmdk_sparse *s)
{
	return s->table.disk->image;
}

/* --- grain tables --- */

/* 0: there is none. -EIO: it does not lie where one can be. */
static int read_table(const struct vmdk_sparse *s, const uint32_t *directory, uint32_t index, uint8_t *ret_bytes)
{
	uint64_t at = (uint64_t)directory[index] * VMDK_SECTOR_BYTES;
	memset(ret_bytes, 0, VMDK_GT_BYTES);
	if (at == 0)
		return 0;
	if (at > s->end_bytes || VMDK_GT_BYTES > s->end_bytes - at)
		return -EIO;
	return block_file_read(image_of(s), s->file, ret_bytes, VMDK_GT_BYTES, at);
}

static bool is_grain_at(const struct vmdk_sparse *s, uint32_t sector)
{
	uint64_t at = (uint64_t)sector * VMDK_SECTOR_BYTES;
	/* The last grain of a file may be cut off where it holds zeroes. */
	return sector != BLOCK_ENTRY_DAMAGED && at >= s->overhead_bytes && at < s->end_bytes;
}

static int sparse_load(struct block_table *t, uint32_t index, uint32_t *entries)
{
	struct vmdk_sparse *s = t->context;
	uint8_t bytes[VMDK_GT_BYTES];
	int rc = read_table(s, s->gd, index, bytes);
	for (uint32_t k = 0; rc >= 0 && k < block_table_page_entries(t, index); k++) {
		uint32_t sector = get_le32(bytes + 4ul * k);
		bool is_absent = sector == 0 || (sector == 1 && s->has_zero_grains);
		entries[k] = BLOCK_ENTRY_ABSENT;
		if (!is_absent)
			entries[k] = is_grain_at(s, sector) ? sector : BLOCK_ENTRY_DAMAGED;
	}
	return rc;
}

/* Says in the header that the file is in use, before its first change. */
static int mark(struct vmdk_sparse *s)
{
	const uint8_t yes = 1;
	if (s->was_unclean || s->is_marked)
		return 0;
	int rc = block_file_write(image_of(s), s->file, &yes, 1, SPARSE_UNCLEAN);
	s->is_marked = rc >= 0;
	return rc;
}

int vmdk_sparse_unmark(struct vmdk_sparse *s)
{
	const uint8_t no = 0;
	if (!s->is_marked)
		return 0;
	int rc = block_file_write(image_of(s), s->file, &no, 1, SPARSE_UNCLEAN);
	return rc < 0 ? rc : block_file_sync(image_of(s), s->file);
}

/* Room of zeroes at the end of the file; its first sector. */
static int grow(struct vmdk_sparse *s, uint64_t n_bytes, uint64_t align, uint32_t *ret_sector)
{
	uint64_t at = align_up(s->end_bytes, align), end = at + n_bytes;
	if (end / VMDK_SECTOR_BYTES >= BLOCK_ENTRY_DAMAGED)
		return -EFBIG;
	if (ftruncate(s->file->fd, (off_t)end) < 0)
		return -errno;
	s->end_bytes = end;
	*ret_sector = (uint32_t)(at / VMDK_SECTOR_BYTES);
	return 0;
}

static int sparse_extend(struct block_table *t, uint32_t n, uint32_t *ret_first)
{
	struct vmdk_sparse *s = t->context;
	int rc = mark(s);
	return rc < 0 ? rc : grow(s, (uint64_t)n * t->block_bytes, t->block_bytes, ret_first);
}

/* A table that the directory has not, empty. The directory names it when it is durable. */
static int add_table(struct vmdk_sparse *s, uint32_t *directory, uint64_t directory_offset, uint32_t index)
{
	uint32_t sector;
	uint8_t entry[4];
	int rc = grow(s, VMDK_GT_BYTES, VMDK_SECTOR_BYTES, &sector);
	if (rc >= 0)
		rc = block_file_sync(image_of(s), s->file);
	if (rc < 0)
		return rc;
	put_le32(entry, sector);
	rc = block_file_write(image_of(s), s->file, entry, sizeof entry, directory_offset + index * 4ull);
	if (rc >= 0)
		directory[index] = sector;
	return rc;
}

static int store_one(struct vmdk_sparse *s, uint32_t *directory, uint64_t directory_offset,
                     const struct block_table_page *p)
{
	uint8_t bytes[VMDK_GT_BYTES];
	int rc = directory[p->index] ? 0 : add_table(s, directory, directory_offset, p->index);
	/* What is damaged stays as it is, for those who can repair it. */
	if (rc >= 0)
		rc = read_table(s, directory, p->index, bytes);
	for (uint32_t k = 0; rc >= 0 && k < BLOCK_TABLE_PAGE_ENTRIES; k++) {
		uint32_t sector = p->entries[k];
		if (sector != BLOCK_ENTRY_ABSENT && sector != BLOCK_ENTRY_DAMAGED)
			put_le32(bytes + 4ul * k, sector);
	}
	if (rc >= 0)
		rc = block_file_write(image_of(s), s->file, bytes, VMDK_GT_BYTES,
		                      (uint64_t)directory[p->index] * VMDK_SECTOR_BYTES);
	return rc;
}

static int sparse_store(struct block_table *t, const struct block_table_page *p)
{
	struct vmdk_sparse *s = t->context;
	int rc = s->rgd ? store_one(s, s->rgd, s->rgd_offset_bytes, p) : 0;
	return rc < 0 ? rc : store_one(s, s->gd, s->gd_offset_bytes, p);
}

static const struct block_table_ops sparse_ops = {
	.load = sparse_load,
	.store = sparse_store,
	.extend = sparse_extend,
};

/* --- opening --- */

static bool is_range_in_file(const struct vmdk_sparse *s, uint64_t sector, uint64_t n_bytes)
{
	uint64_t at;
	return checked_mul(sector, (uint64_t)VMDK_SECTOR_BYTES, &at) && at <= s->end_bytes && n_bytes <= s->end_bytes - at;
}

/* Header, or the footer that takes its place in a stream. */
static int read_header(struct vmdk_sparse *s, uint8_t *h, struct err *e)
{
	int rc = block_file_read(image_of(s), s->file, h, VMDK_SECTOR_BYTES, 0);
	if (rc >= 0 && memcmp(h, "KDMV", 4) == 0 && get_le64(h + SPARSE_GD) == GD_AT_END &&
	    s->end_bytes >= FOOTER_FROM_END + VMDK_SECTOR_BYTES)
		rc = block_file_read(image_of(s), s->file, h, VMDK_SECTOR_BYTES, s->end_bytes - FOOTER_FROM_END);
	if (rc < 0)
		return err_set_errno(e, -rc, "the VMDK header of '%s' cannot be read", s->file->path);
	if (memcmp(h, "KDMV", 4) != 0)
		return err_set(e, EINVAL, "'%s' has no VMDK header", s->file->path);
	return 0;
}

static int check_header(struct vmdk_sparse *s, const uint8_t *h, struct err *e)
{
	uint32_t version = get_le32(h + SPARSE_VERSION), flags = get_le32(h + SPARSE_FLAGS);
	uint64_t grain = get_le64(h + SPARSE_GRAIN), capacity = get_le64(h + SPARSE_CAPACITY);
	if (version < 1 || version > 3)
		return err_set(e, EINVAL, "the VMDK header of '%s' has version %u, which is not known", s->file->path, version);
	if ((flags & SPARSE_FLAG_LINE_ENDS) && memcmp(h + SPARSE_LINE_ENDS, "\n \r\n", 4) != 0)
		return err_set(e, EINVAL, "'%s' was damaged by a transfer that changed line ends", s->file->path);
	if (!is_power_of_two(grain) || grain < MIN_GRAIN_SECTORS || grain > MAX_GRAIN_SECTORS)
		return err_set(e, EINVAL, "the grains of '%s' have %llu sectors: a power of two from %u to %u is needed",
		               s->file->path, (unsigned long long)grain, MIN_GRAIN_SECTORS, MAX_GRAIN_SECTORS);
	if (capacity == 0 || capacity > (64ull << 40) / VMDK_SECTOR_BYTES)
		return err_set(e, EINVAL, "'%s' claims a capacity of %llu sectors", s->file->path,
		               (unsigned long long)capacity);
	if (get_le32(h + SPARSE_N_GTES) != BLOCK_TABLE_PAGE_ENTRIES)
		return err_set(e, EINVAL, "the grain tables of '%s' have %u entries: 512 are needed", s->file->path,
		               get_le32(h + SPARSE_N_GTES));
	s->is_compressed = flags & SPARSE_FLAG_COMPRESSED;
	if (s->is_compressed && (get_le16(h + SPARSE_COMPRESSION) != 1 || !(flags & SPARSE_FLAG_MARKERS)))
		return err_set(e, ENOTSUP, "not supported yet: the compression of '%s'", s->file->path);
	/* A read of one sector costs a whole grain. */
	if (s->is_compressed && grain * VMDK_SECTOR_BYTES > BLOCK_MAX_PACKED_BYTES)
		return err_set(e, ENOTSUP, "not supported yet: the compressed grains of '%s' have %llu bytes, more than 2 MiB",
		               s->file->path, (unsigned long long)(grain * VMDK_SECTOR_BYTES));
	s->has_zero_grains = flags & SPARSE_FLAG_ZERO_GRAINS;
	s->capacity_sectors = capacity;
	s->was_unclean = h[SPARSE_UNCLEAN] != 0;

	uint64_t overhead = get_le64(h + SPARSE_OVERHEAD);
	if (!is_range_in_file(s, overhead, 0))
		return err_set(e, EINVAL, "the grains of '%s' do not lie in the file", s->file->path);
	s->overhead_bytes = max_u64(overhead, 1) * VMDK_SECTOR_BYTES;
	s->descriptor_bytes = 0;
	uint64_t descriptor = get_le64(h + SPARSE_DESCRIPTOR_OFFSET), n = get_le64(h + SPARSE_DESCRIPTOR_SIZE);
	if (descriptor == 0)
		return 0;
	if (n > VMDK_MAX_DESCRIPTOR_BYTES / VMDK_SECTOR_BYTES || !is_range_in_file(s, descriptor, n * VMDK_SECTOR_BYTES))
		return err_set(e, EINVAL, "the descriptor of '%s' does not lie in the file, or is too large", s->file->path);
	s->descriptor_offset_bytes = descriptor * VMDK_SECTOR_BYTES;
	s->descriptor_bytes = n * VMDK_SECTOR_BYTES;
	return 0;
}

static int read_directory(const struct vmdk_sparse *s, uint64_t sector, uint32_t **ret_d, uint64_t *ret_offset,
                          struct err *e)
{
	size_t n = s->table.n_pages;
	if (sector == 0 || !is_range_in_file(s, sector, n * 4))
		return err_set(e, EINVAL, "a grain directory of '%s' does not lie in the file", s->file->path);
	uint32_t *d = malloc(n * 4);
	if (!d)
		return err_set(e, ENOMEM, "no memory for the grain directory of '%s'", s->file->path);
	*ret_d = d; /* freed with the extent */
	*ret_offset = sector * VMDK_SECTOR_BYTES;
	int rc = block_file_read(image_of(s), s->file, d, n * 4, *ret_offset);
	for (size_t k = 0; rc >= 0 && k < n; k++)
		d[k] = le32toh(d[k]);
	return rc < 0 ? err_set_errno(e, -rc, "a grain directory of '%s' cannot be read", s->file->path) : 0;
}

/* A grain that begins before the end of the file may end behind it; nothing new may be there. */
static void round_end(struct vmdk_sparse *s)
{
	const uint64_t grain = s->table.block_bytes;
	bool may_be_cut = s->end_bytes % grain || s->overhead_bytes % grain;
	s->end_bytes = align_up(s->end_bytes, grain) + (may_be_cut ? grain : 0);
}

int vmdk_sparse_open(struct vmdk_sparse *s, struct block_disk *d, const struct block_file *f, struct err *e)
{
	uint8_t h[VMDK_SECTOR_BYTES];
	s->file = f;
	s->table.disk = d;
	int rc = block_file_size(f, &s->end_bytes);
	if (rc < 0)
		return err_set_errno(e, -rc, "the size of '%s' cannot be found", f->path);
	rc = read_header(s, h, e);
	if (rc >= 0)
		rc = check_header(s, h, e);
	if (rc < 0)
		return rc;
	if (f->is_device)
		return err_set(e, ENOTSUP, "not supported yet: a sparse VMDK on a block device, which cannot grow");

	uint32_t grain_sectors = (uint32_t)get_le64(h + SPARSE_GRAIN);
	s->table = (struct block_table){
		.ops = &sparse_ops,
		.disk = d,
		.context = s,
		.file = f,
		.block_bytes = grain_sectors * VMDK_SECTOR_BYTES,
		.unit_bytes = VMDK_SECTOR_BYTES,
		.stride_units = grain_sectors,
		.may_be_odd = true,
		.n_blocks = (s->capacity_sectors + grain_sectors - 1) / grain_sectors,
	};
	rc = block_table_init(&s->table, e);
	if (rc >= 0)
		rc = read_directory(s, get_le64(h + SPARSE_GD), &s->gd, &s->gd_offset_bytes, e);
	if (rc >= 0 && (get_le32(h + SPARSE_FLAGS) & SPARSE_FLAG_RGD) && !s->is_compressed)
		rc = read_directory(s, get_le64(h + SPARSE_RGD), &s->rgd, &s->rgd_offset_bytes, e);
	if (rc >= 0 && s->was_unclean)
		log_warn(&d->image->log, "'%s' was not closed in order by the program that wrote it last", f->path);
	if (rc >= 0 && !s->is_compressed)
		round_end(s);
	if (rc >= 0 && !f->is_readonly && s->overhead_bytes % BLOCK_CACHE_PAGE_BYTES)
		rc = block_leave_direct(d->image, f, "its grains do not begin where pages of the host's cache do", e);
	return rc;
}

void vmdk_sparse_done(struct vmdk_sparse *s)
{
	block_table_done(&s->table);
	free(s->gd);
	free(s->rgd);
	s->gd = s->rgd = NULL;
}

/* --- compressed grains --- */

static int inflate_grain(const uint8_t *packed, size_t n_packed, uint8_t *grain, size_t n_bytes)
{
	/* zlib's first member is not const where it is old. */
	union { const uint8_t *in; uint8_t *out; } u = { .in = packed };
	z_stream z = { .next_in = u.out, .avail_in = (uInt)n_packed, .next_out = grain, .avail_out = (uInt)n_bytes };
	if (inflateInit(&z) != Z_OK)
		return -ENOMEM;
	int rc = inflate(&z, Z_FINISH);
	(void)inflateEnd(&z);
	/* The grain at the disk's end may be short. */
	if (rc != Z_STREAM_END)
		return -EIO;
	memset(grain + (n_bytes - z.avail_out), 0, z.avail_out);
	return 0;
}

int vmdk_sparse_unpack(struct vmdk_sparse *s, uint64_t offset_bytes, uint8_t *ret_bytes, size_t n_bytes)
{
	const size_t grain_bytes = s->table.block_bytes;
	uint64_t block = offset_bytes / grain_bytes, in_grain = offset_bytes % grain_bytes;
	uint32_t sector = BLOCK_ENTRY_DAMAGED;
	uint8_t marker[MARKER_BYTES];
	(void)block_table_look_up(&s->table, block, &sector);
	if (sector == BLOCK_ENTRY_DAMAGED || sector == BLOCK_ENTRY_ABSENT || n_bytes > grain_bytes - in_grain)
		return -EIO;
	uint64_t at = (uint64_t)sector * VMDK_SECTOR_BYTES;
	int rc = block_file_read(image_of(s), s->file, marker, sizeof marker, at);
	if (rc < 0)
		return rc;
	size_t n_packed = get_le32(marker + 8);
	/* What cannot be compressed becomes a little longer; nothing becomes much longer. */
	if (get_le64(marker) != block * (grain_bytes / VMDK_SECTOR_BYTES) || n_packed == 0 || n_packed > 2 * grain_bytes)
		return -EIO;
	free_scoped uint8_t *packed = malloc(n_packed);
	free_scoped uint8_t *grain = malloc(grain_bytes);
	if (!packed || !grain)
		return -ENOMEM;
	rc = block_file_read(image_of(s), s->file, packed, n_packed, at + MARKER_BYTES);
	if (rc >= 0)
		rc = inflate_grain(packed, n_packed, grain, grain_bytes);
	if (rc >= 0)
		memcpy(ret_bytes, grain + in_grain, n_bytes);
	return rc;
}

// SPDX-License-Identifier: Apache-2.0
/* qcow2: from a place on the disk to a place in the file.
 *
 * What an entry says is cut into units: a cluster, or a subcluster where entries are extended. Units of one kind that
 * are next to each other, on the disk and in the file, make a run; a run ends with the slice of the table that is in
 * memory. Every descriptor is checked when it is used: what is in the file may have been written by anybody. */
#include "backend/block_qcow2.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#define MAX_WINDOW_LOG 23

int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t where)
{
	if (!atomic_exchange(&q->has_said_corrupt, true))
		log_error(&q->image->log, "'%s' is damaged: %s (0x%llx); more of the kind is not reported",
		          q->file->path, what, (unsigned long long)where);
	return -EIO;
}

/* --- entries --- */

unsigned qcow2_slice_entries(const struct qcow2 *q)
{
	return q->l2.slice_bytes / q->l2_entry_bytes;
}

int qcow2_l2_slice(struct qcow2 *q, uint64_t guest_cluster, bool can_block, struct qcow2_slice **ret_s,
                   unsigned *ret_index)
{
	uint64_t l1_index = guest_cluster >> q->l2_bits;
	assert(l1_index < q->l1.n);
	uint64_t table = q->l1.entries[l1_index] & QCOW2_OFFSET_MASK;
	*ret_s = NULL;
	if (!table)
		return 0;
	if (table & (q->cluster_bytes - 1))
		return qcow2_corrupt(q, "an L2 table that is not at a cluster's start", table);
	uint64_t at = (guest_cluster & ((1ull << q->l2_bits) - 1)) * q->l2_entry_bytes;
	*ret_index = (unsigned)(at % q->l2.slice_bytes / q->l2_entry_bytes);
	return qcow2_cache_get(q, &q->l2, table + align_down(at, q->l2.slice_bytes), can_block, ret_s);
}

struct qcow2_entry qcow2_entry_get(const struct qcow2 *q, const struct qcow2_slice *s, unsigned index)
{
	const uint8_t *at = s->bytes + (size_t)index * q->l2_entry_bytes;
	return (struct qcow2_entry){ .descriptor = get_be64(at), .bitmap = q->has_extl2 ? get_be64(at + 8) : 0 };
}

void qcow2_entry_set(struct qcow2 *q, struct qcow2_slice *s, unsigned index, struct qcow2_entry entry)
{
	uint8_t *at = s->bytes + (size_t)index * q->l2_entry_bytes;
	put_be64(at, entry.descriptor);
	if (q->has_extl2)
		put_be64(at + 8, entry.bitmap);
	qcow2_cache_dirty(&q->l2, s);
}

/* Compressed or not, the offset comes first; the rest is the sectors. */
void qcow2_compressed_range(const struct qcow2 *q, uint64_t descriptor, uint64_t *ret_offset, uint64_t *ret_n_bytes)
{
	unsigned x = 62 - (q->cluster_bits - 8);
	uint64_t offset = descriptor & ((1ull << x) - 1) & (QCOW2_MAX_OFFSET - 1);
	uint64_t n_sectors = ((descriptor >> x) & ((1ull << (62 - x)) - 1)) + 1;
	*ret_offset = offset;
	*ret_n_bytes = n_sectors * 512 - (offset & 511);
}

int qcow2_entry_check(const struct qcow2 *q, struct qcow2_entry entry)
{
	uint64_t offset = entry.descriptor & QCOW2_OFFSET_MASK;
	if (entry.descriptor & QCOW2_OFLAG_COMPRESSED)
		return 0;
	if (offset & (q->cluster_bytes - 1))
		return -EIO;
	if ((entry.descriptor & QCOW2_OFLAG_COPIED) && !offset)
		return -EIO;
	/* A subcluster is data or zeroes, not both; data are somewhere. */
	uint32_t data = (uint32_t)entry.bitmap, zeroes = (uint32_t)(entry.bitmap >> 32);
	return (data & zeroes) || (data && !offset) ? -EIO : 0;
}

enum qcow2_kind qcow2_entry_kind(const struct qcow2 *q, struct qcow2_entry entry, unsigned subcluster)
{
	if (entry.descriptor & QCOW2_OFLAG_COMPRESSED)
		return QCOW2_COMPRESSED;
	if (q->has_extl2) {
		if (entry.bitmap & (1ull << (32 + subcluster)))
			return QCOW2_ZERO;
		return entry.bitmap & (1ull << subcluster) ? QCOW2_DATA : QCOW2_UNALLOCATED;
	}
	if (q->version >= 3 && (entry.descriptor & QCOW2_OFLAG_ZERO))
		return QCOW2_ZERO;
	return entry.descriptor & QCOW2_OFFSET_MASK ? QCOW2_DATA : QCOW2_UNALLOCATED;
}

/* --- runs --- */

static const enum block_extent_kind extent_kinds[] = {
	[QCOW2_UNALLOCATED] = BLOCK_EXTENT_HOLE,
	[QCOW2_ZERO] = BLOCK_EXTENT_ZERO,
	[QCOW2_DATA] = BLOCK_EXTENT_DATA,
	[QCOW2_COMPRESSED] = BLOCK_EXTENT_PACKED,
};

/* The run in a slice that begins at offset. */
static int find_run(struct qcow2 *q, const struct qcow2_slice *s, unsigned index, uint64_t offset, uint64_t n_bytes,
                    bool is_in_place, struct block_extent *x)
{
	const uint64_t unit_bytes = 1ull << q->unit_bits;
	const unsigned n_entries = qcow2_slice_entries(q);
	uint64_t at = offset, end = offset + n_bytes;
	enum qcow2_kind kind = QCOW2_UNALLOCATED;

	x->n_bytes = 0;
	while (at < end && index < n_entries) {
		struct qcow2_entry entry = qcow2_entry_get(q, s, index);
		if (qcow2_entry_check(q, entry) < 0)
			return x->n_bytes ? 0 : qcow2_corrupt(q, "an L2 entry that cannot be", entry.descriptor);
		uint64_t in_cluster = at & (q->cluster_bytes - 1);
		enum qcow2_kind k = qcow2_entry_kind(q, entry, (unsigned)(in_cluster >> q->unit_bits));
		uint64_t place = (entry.descriptor & QCOW2_OFFSET_MASK) + in_cluster;

		if (is_in_place && (k != QCOW2_DATA || !(entry.descriptor & QCOW2_OFLAG_COPIED)))
			return x->n_bytes ? 0 : -ENOENT;
		if (x->n_bytes == 0) {
			kind = k;
			x->kind = extent_kinds[k];
			x->offset_bytes = place;
			x->packed = entry.descriptor;
		} else if (k != kind || k == QCOW2_COMPRESSED ||
		           (k == QCOW2_DATA && place != x->offset_bytes + x->n_bytes)) {
			return 0;
		}
		uint64_t n = k == QCOW2_COMPRESSED ? q->cluster_bytes - in_cluster : unit_bytes - (at & (unit_bytes - 1));
		n = min_u64(n, end - at);
		at += n;
		x->n_bytes += n;
		if ((at & (q->cluster_bytes - 1)) == 0)
			index++;
	}
	return 0;
}

int qcow2_find(struct qcow2 *q, uint64_t offset_bytes, uint64_t n_bytes, bool can_block, bool is_in_place,
               struct block_extent *ret_x)
{
	struct qcow2_slice *s;
	unsigned index;
	int rc = qcow2_l2_slice(q, offset_bytes >> q->cluster_bits, can_block, &s, &index);
	if (rc < 0)
		return rc;
	*ret_x = (struct block_extent){ .kind = BLOCK_EXTENT_HOLE, .image = q->image, .file = q->file,
		                        .disk_offset_bytes = offset_bytes };
	if (!s) {
		uint64_t table_bytes = 1ull << (q->l2_bits + q->cluster_bits);
		ret_x->n_bytes = min_u64(n_bytes, table_bytes - (offset_bytes & (table_bytes - 1)));
		return is_in_place ? -ENOENT : 0;
	}
	rc = find_run(q, s, index, offset_bytes, n_bytes, is_in_place, ret_x);
	if (rc >= 0 && is_in_place && qcow2_is_in_tables(q, ret_x->offset_bytes, ret_x->n_bytes))
		return qcow2_corrupt(q, "a guest cluster among the tables", ret_x->offset_bytes);
	return rc;
}

int qcow2_map(struct block_image *i, uint64_t offset_bytes, uint64_t n_bytes, bool can_block, struct block_extent *ret_x)
{
	block_lock(i);
	int rc = qcow2_find(qcow2_of(i), offset_bytes, n_bytes, can_block, false, ret_x);
	block_unlock(i);
	return rc;
}

/* --- compressed clusters --- */

/* Exactly one cluster must come out: neither less, nor a bomb. */
static int inflate_cluster(const uint8_t *in, size_t n_in, uint8_t *ret_bytes, size_t n_bytes)
{
	union { const uint8_t *in; uint8_t *next; } u = { .in = in }; /* zlib's next_in has no const everywhere */
	z_stream z = { .next_in = u.next, .avail_in = (uInt)n_in, .next_out = ret_bytes, .avail_out = (uInt)n_bytes };
	if (inflateInit2(&z, -15) != Z_OK)
		return -ENOMEM;
	int rc = inflate(&z, Z_FINISH);
	bool is_whole = z.avail_out == 0 && (rc == Z_STREAM_END || rc == Z_BUF_ERROR);
	(void)inflateEnd(&z);
	return is_whole ? 0 : -EIO;
}

static int unzstd_cluster(const uint8_t *in, size_t n_in, uint8_t *ret_bytes, size_t n_bytes)
{
	ZSTD_DCtx *d = ZSTD_createDCtx();
	if (!d)
		return -ENOMEM;
	/* A window beyond a cluster is of no use, and memory that a file chooses. */
	(void)ZSTD_DCtx_setParameter(d, ZSTD_d_windowLogMax, MAX_WINDOW_LOG);
	ZSTD_inBuffer source = { .src = in, .size = n_in };
	ZSTD_outBuffer out = { .dst = ret_bytes, .size = n_bytes };
	size_t rc = 1;
	while (out.pos < out.size) {
		size_t n_in_before = source.pos, n_out_before = out.pos;
		rc = ZSTD_decompressStream(d, &out, &source);
		if (ZSTD_isError(rc) || (source.pos == n_in_before && out.pos == n_out_before))
			break;
	}
	(void)ZSTD_freeDCtx(d);
	return ZSTD_isError(rc) || out.pos < out.size ? -EIO : 0;
}

int qcow2_read_packed(struct block_image *i, const struct block_extent *x, uint8_t *ret_bytes)
{
	struct qcow2 *q = qcow2_of(i);
	uint64_t offset, n_in;
	qcow2_compressed_range(q, x->packed, &offset, &n_in);
	uint64_t in_cluster = x->disk_offset_bytes & (q->cluster_bytes - 1);
	assert(in_cluster + x->n_bytes <= q->cluster_bytes);

	/* n_in is at most two clusters: the field has no more bits. */
	uint8_t *in = malloc((size_t)n_in), *cluster = malloc((size_t)q->cluster_bytes);
	int rc = in && cluster ? block_file_read_padded(i, q->file, in, (size_t)n_in, offset) : -ENOMEM;
	if (rc >= 0)
		rc = (q->is_zstd ? unzstd_cluster : inflate_cluster)(in, (size_t)n_in, cluster, (size_t)q->cluster_bytes);
	if (rc == -EIO)
		rc = qcow2_corrupt(q, "a compressed cluster that cannot be unpacked", offset);
	if (rc >= 0)
		memcpy(ret_bytes, cluster + in_cluster, (size_t)x->n_bytes);
	free(in);
	free(cluster);
	return rc;
}

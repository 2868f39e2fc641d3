// SPDX-License-Identifier: Apache-2.0
/* qcow2: a new image, version 3, written in one go.
 *
 * The file grows at its end and nowhere else, as the disk's clusters come in ascending order: header, L1 table, then
 * clusters of data, each L2 table behind those that it names (or before some of the next), and at last refcount blocks and
 * their table. So a cluster is counted once, unless compressed clusters share it: only then counts are kept. Preallocated
 * clusters lie in one run behind the L1 table. Nobody sees the file before it is complete: the order does not matter. */
#include "backend/block_qcow2.h"
#include "backend/block_writer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define HEADER_BYTES 112u
#define DEFAULT_CLUSTER_BYTES 65536u
#define MIN_CLUSTER_BYTES 512u
#define MIN_EXTL2_CLUSTER_BYTES 16384u
#define MAX_CLUSTER_BYTES (2u * 1024 * 1024)
#define MAX_BACKING_NAME 1023u
#define MAX_FORMAT_NAME 15u
#define EXT_BACKING_FORMAT 0xe2792acau
#define REFCOUNT_BYTES 2u
#define REFCOUNT_ORDER 4u /* 2^4 bits */
#define ZLIB_WINDOW_BITS (-12) /* QEMU unpacks with no larger one */
#define ZLIB_MEMORY 9
#define ALL_SUBCLUSTERS 0xffffffffull

struct qcow2_new {
	struct block_writer *w;
	unsigned cluster_bits, l2_entry_bytes, l2_bits;
	uint64_t cluster_bytes;
	uint64_t *l1, n_l1;
	uint8_t *l2;
	uint64_t l2_index; /* in the L1 table */
	bool has_l2;       /* something is in it */
	uint64_t end_cluster;
	uint16_t *counts;  /* by cluster; only for compressed images */
	uint64_t n_counts;
	uint8_t *packed;   /* a cluster */
	uint64_t packed_end_bytes; /* behind the last compressed cluster */
	ZSTD_CCtx *zstd;
};

static int write_at(struct qcow2_new *n, const void *bytes, uint64_t n_bytes, uint64_t cluster)
{
	return block_write_all(n->w->fd, bytes, (size_t)n_bytes, cluster << n->cluster_bits);
}

/* --- what is asked for --- */

static int check_cluster(const struct block_create_params *p, uint64_t cluster_bytes, struct err *e)
{
	if (!is_power_of_two(cluster_bytes) || cluster_bytes < MIN_CLUSTER_BYTES || cluster_bytes > MAX_CLUSTER_BYTES)
		return err_set(e, EINVAL, "cannot create '%s': clusters of %llu bytes; a power of two from 512 to 2M is needed",
		               p->path, (unsigned long long)cluster_bytes);
	if (p->has_extended_l2 && cluster_bytes < MIN_EXTL2_CLUSTER_BYTES)
		return err_set(e, EINVAL, "cannot create '%s': extended L2 entries need clusters of 16K at least", p->path);
	return 0;
}

static int check_backing(const struct block_create_params *p, uint64_t cluster_bytes, struct err *e)
{
	if (!p->backing_name)
		return 0;
	size_t n = strlen(p->backing_name), n_format = p->backing_format ? strlen(p->backing_format) : 0;
	/* The header, two extensions, the name: all in the first cluster. */
	if (!n || n > MAX_BACKING_NAME || n_format > MAX_FORMAT_NAME || n + HEADER_BYTES + 16 + 16 + 8 > cluster_bytes)
		return err_set(e, EINVAL, "cannot create '%s': the name of its backing file has %zu bytes; 1 to 1023 are allowed, "
		               "and it must fit into the first cluster", p->path, n);
	if (p->preallocation != BLOCK_PREALLOCATE_OFF)
		return err_set(e, EINVAL, "cannot create '%s': what is preallocated would hide its backing file", p->path);
	return 0;
}

static uint64_t div_up(uint64_t v, unsigned bits)
{
	return (v >> bits) + ((v & ((1ull << bits) - 1)) != 0);
}

static int check_size(const struct qcow2_new *n, struct err *e)
{
	const struct block_create_params *p = n->w->p;
	if (n->n_l1 <= QCOW2_MAX_L1_BYTES / 8)
		return 0;
	return err_set(e, EFBIG, "cannot create '%s': clusters of %llu bytes do not allow a disk of %llu", p->path,
	               (unsigned long long)n->cluster_bytes, (unsigned long long)n->w->n_bytes);
}

static int qcow2_new_open(struct block_writer *w, struct err *e)
{
	const struct block_create_params *p = w->p;
	uint64_t cluster_bytes = p->cluster_bytes ? p->cluster_bytes : DEFAULT_CLUSTER_BYTES;
	if (p->subformat != BLOCK_SUBFORMAT_DEFAULT)
		return err_set(e, EINVAL, "cannot create '%s': qcow2 images are all of one kind", p->path);
	int rc = check_cluster(p, cluster_bytes, e);
	if (rc >= 0)
		rc = check_backing(p, cluster_bytes, e);
	if (rc < 0)
		return rc;
	struct qcow2_new *n = calloc(1, sizeof *n);
	if (!n)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	w->state = n;
	n->w = w;
	n->cluster_bytes = cluster_bytes;
	n->cluster_bits = (unsigned)__builtin_ctzll(cluster_bytes);
	n->l2_entry_bytes = p->has_extended_l2 ? 16 : 8;
	n->l2_bits = n->cluster_bits - (p->has_extended_l2 ? 4 : 3);
	n->n_l1 = max_u64(1, div_up(w->n_bytes, n->cluster_bits + n->l2_bits)); /* for a disk of nothing too */
	rc = check_size(n, e);
	if (rc < 0)
		return rc;
	uint64_t n_l1_clusters = div_up(n->n_l1 * 8, n->cluster_bits);
	n->l1 = calloc((size_t)n_l1_clusters, (size_t)cluster_bytes);
	n->l2 = calloc(1, (size_t)cluster_bytes);
	n->packed = malloc((size_t)cluster_bytes);
	n->zstd = p->is_zstd && p->is_compressed ? ZSTD_createCCtx() : NULL;
	if (!n->l1 || !n->l2 || !n->packed || (p->is_zstd && p->is_compressed && !n->zstd))
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	n->end_cluster = 1 + n_l1_clusters;
	return 0;
}

static void qcow2_new_close(struct block_writer *w)
{
	struct qcow2_new *n = w->state;
	if (!n)
		return;
	free(n->l1);
	free(n->l2);
	free(n->counts);
	free(n->packed);
	(void)ZSTD_freeCCtx(n->zstd);
	free(n);
}

/* --- clusters --- */

/* For those up to end_cluster; what was never shared counts once. */
static int grow_counts(struct qcow2_new *n)
{
	if (n->end_cluster <= n->n_counts)
		return 0;
	uint64_t n_new = max_u64(n->end_cluster, n->n_counts * 2);
	uint16_t *counts = reallocarray(n->counts, (size_t)n_new, sizeof *counts);
	if (!counts)
		return -ENOMEM;
	for (uint64_t k = n->n_counts; k < n_new; k++)
		counts[k] = 1;
	n->counts = counts;
	n->n_counts = n_new;
	return 0;
}

static int write_l2(struct qcow2_new *n)
{
	if (!n->has_l2)
		return 0;
	uint64_t at = n->end_cluster++;
	int rc = write_at(n, n->l2, n->cluster_bytes, at);
	n->l1[n->l2_index] = at << n->cluster_bits | QCOW2_OFLAG_COPIED;
	n->has_l2 = false;
	memset(n->l2, 0, (size_t)n->cluster_bytes);
	return rc;
}

static int set_entry(struct qcow2_new *n, uint64_t guest_cluster, struct qcow2_entry entry)
{
	uint64_t index = guest_cluster >> n->l2_bits;
	int rc = n->has_l2 && n->l2_index != index ? write_l2(n) : 0;
	uint8_t *at = n->l2 + (guest_cluster & ((1ull << n->l2_bits) - 1)) * n->l2_entry_bytes;
	assert(index < n->n_l1);
	n->l2_index = index;
	n->has_l2 = true;
	put_be64(at, entry.descriptor);
	if (n->l2_entry_bytes == 16)
		put_be64(at + 8, entry.bitmap);
	return rc;
}

/* Subclusters of zeroes are not there. */
static int store_subclusters(struct qcow2_new *n, const uint8_t *bytes, uint64_t host, uint64_t *ret_bitmap)
{
	size_t unit = (size_t)n->cluster_bytes / QCOW2_MAX_SUBCLUSTERS;
	*ret_bitmap = 0;
	for (unsigned k = 0; k < QCOW2_MAX_SUBCLUSTERS; k++) {
		if (block_is_zero(bytes + k * unit, unit))
			continue;
		*ret_bitmap |= 1ull << k;
		int rc = block_write_all(n->w->fd, bytes + k * unit, unit, (host << n->cluster_bits) + k * unit);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int store(struct qcow2_new *n, uint64_t guest_cluster, const uint8_t *bytes)
{
	uint64_t host = n->end_cluster++;
	struct qcow2_entry entry = { .descriptor = host << n->cluster_bits | QCOW2_OFLAG_COPIED };
	int rc = n->l2_entry_bytes == 16 ? store_subclusters(n, bytes, host, &entry.bitmap) :
	                                   write_at(n, bytes, n->cluster_bytes, host);
	return rc < 0 ? rc : set_entry(n, guest_cluster, entry);
}

/* --- compressed clusters --- */

/* How many bytes; 0: no fewer than before. */
static size_t deflate_cluster(struct qcow2_new *n, const uint8_t *bytes)
{
	union { const uint8_t *in; uint8_t *next; } u = { .in = bytes };
	z_stream z = { .next_in = u.next, .avail_in = (uInt)n->cluster_bytes, .next_out = n->packed,
		       .avail_out = (uInt)n->cluster_bytes - 1 };
	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, ZLIB_WINDOW_BITS, ZLIB_MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)
		return 0;
	int rc = deflate(&z, Z_FINISH);
	size_t n_bytes = (size_t)z.total_out;
	(void)deflateEnd(&z);
	return rc == Z_STREAM_END ? n_bytes : 0;
}

static size_t pack(struct qcow2_new *n, const uint8_t *bytes)
{
	if (!n->zstd)
		return deflate_cluster(n, bytes);
	size_t n_bytes = ZSTD_compress2(n->zstd, n->packed, (size_t)n->cluster_bytes - 1, bytes, (size_t)n->cluster_bytes);
	return ZSTD_isError(n_bytes) ? 0 : n_bytes;
}

/* Right behind the one before where that is possible; clusters that are shared count more than once. */
static int place_packed(struct qcow2_new *n, size_t n_bytes, uint64_t *ret_at)
{
	int rc = grow_counts(n);
	if (rc < 0)
		return rc;
	uint64_t at = n->packed_end_bytes, mask = n->cluster_bytes - 1;
	uint64_t cluster = at >> n->cluster_bits, last = (at + n_bytes - 1) >> n->cluster_bits;
	bool goes_on = (at & mask) && n->counts[cluster] < UINT16_MAX && (last == cluster || n->end_cluster == cluster + 1);
	if (goes_on) {
		n->counts[cluster]++;
		n->end_cluster += last - cluster;
	} else {
		at = n->end_cluster++ << n->cluster_bits;
	}
	n->packed_end_bytes = at + n_bytes;
	*ret_at = at;
	return grow_counts(n);
}

static int store_packed(struct qcow2_new *n, uint64_t guest_cluster, size_t n_bytes)
{
	unsigned x = 62 - (n->cluster_bits - 8);
	uint64_t at;
	int rc = place_packed(n, n_bytes, &at);
	if (rc < 0)
		return rc;
	if (at + n_bytes > 1ull << x)
		return -EFBIG;
	uint64_t n_more_sectors = (at + n_bytes - 1) / 512 - at / 512;
	rc = block_write_all(n->w->fd, n->packed, n_bytes, at);
	return rc < 0 ? rc : set_entry(n, guest_cluster, (struct qcow2_entry){
		.descriptor = QCOW2_OFLAG_COMPRESSED | n_more_sectors << x | at });
}

static int qcow2_new_write(struct block_writer *w, uint64_t offset_bytes, const uint8_t *bytes, size_t n_bytes)
{
	struct qcow2_new *n = w->state;
	int rc = 0;
	/* Behind the disk's end there may be no cluster, and are zeroes only. */
	for (size_t at = 0; at < n_bytes && rc >= 0; at += (size_t)n->cluster_bytes) {
		if (block_is_zero(bytes + at, (size_t)n->cluster_bytes))
			continue;
		uint64_t guest_cluster = (offset_bytes + at) >> n->cluster_bits;
		size_t n_packed = w->p->is_compressed ? pack(n, bytes + at) : 0;
		rc = n_packed ? store_packed(n, guest_cluster, n_packed) : store(n, guest_cluster, bytes + at);
	}
	return rc;
}

/* --- the end --- */

static int preallocate(struct qcow2_new *n)
{
	uint64_t n_clusters = div_up(n->w->n_bytes, n->cluster_bits), first = n->end_cluster;
	const uint64_t l2_mask = (1ull << n->l2_bits) - 1;
	const bool is_all = n->w->p->preallocation == BLOCK_PREALLOCATE_METADATA; /* else it is little of the work */
	int rc = first + n_clusters + n->n_l1 > QCOW2_MAX_OFFSET >> n->cluster_bits ? -EFBIG : 0;
	n->end_cluster += n_clusters;
	for (uint64_t k = 0; k < n_clusters && rc >= 0; k++) {
		if (!(k & l2_mask))
			rc = block_progress_step(&n->w->p->progress, is_all ? k << n->cluster_bits : 0, n->w->n_bytes);
		if (rc >= 0)
			rc = set_entry(n, k, (struct qcow2_entry){ .bitmap = ALL_SUBCLUSTERS,
				.descriptor = (first + k) << n->cluster_bits | QCOW2_OFLAG_COPIED });
	}
	return rc < 0 ? rc : block_write_preallocate(n->w, n->w->fd, first << n->cluster_bits,
	                                                n_clusters << n->cluster_bits, 0);
}

static int write_refcounts(struct qcow2_new *n, uint64_t *ret_offset, uint32_t *ret_n_clusters)
{
	const uint64_t first = n->end_cluster;
	const unsigned block_bits = n->cluster_bits - 1; /* REFCOUNT_BYTES each */
	uint64_t total = first, n_blocks = 0, n_table = 0, before;
	do { /* they count themselves */
		before = total;
		n_blocks = div_up(total, block_bits);
		n_table = div_up(n_blocks * 8, n->cluster_bits);
		total = first + n_blocks + n_table;
	} while (total != before);
	if (n_table << n->cluster_bits > QCOW2_MAX_REFCOUNT_TABLE_BYTES || total > QCOW2_MAX_OFFSET >> n->cluster_bits)
		return -EFBIG;
	uint64_t *table = calloc((size_t)n_table, (size_t)n->cluster_bytes);
	uint8_t *block = calloc(1, (size_t)n->cluster_bytes);
	int rc = table && block ? 0 : -ENOMEM;
	for (uint64_t k = 0; k < n_blocks && rc >= 0; k++) {
		for (uint64_t c = k << block_bits, j = 0; j < 1ull << block_bits; c++, j++) {
			unsigned count = c >= total ? 0 : c < n->n_counts ? n->counts[c] : 1;
			block[j * REFCOUNT_BYTES] = (uint8_t)(count >> 8);
			block[j * REFCOUNT_BYTES + 1] = (uint8_t)count;
		}
		rc = block_progress_step(&n->w->p->progress, 0, 0);
		if (rc >= 0)
			rc = write_at(n, block, n->cluster_bytes, first + k);
		table[k] = htobe64((first + k) << n->cluster_bits);
	}
	if (rc >= 0)
		rc = write_at(n, table, n_table << n->cluster_bits, first + n_blocks);
	free(table);
	free(block);
	n->end_cluster = total;
	*ret_offset = (first + n_blocks) << n->cluster_bits;
	*ret_n_clusters = (uint32_t)n_table;
	return rc;
}

static int write_l1(struct qcow2_new *n)
{
	for (uint64_t k = 0; k < n->n_l1; k++)
		n->l1[k] = htobe64(n->l1[k]);
	return write_at(n, n->l1, div_up(n->n_l1 * 8, n->cluster_bits) << n->cluster_bits, 1);
}

/* The extension with the backing file's format, the end of extensions, and the name. */
static void put_backing(const struct block_create_params *p, uint8_t *header)
{
	size_t at = HEADER_BYTES, n_format = p->backing_format ? strlen(p->backing_format) : 0;
	if (!p->backing_name)
		return;
	if (n_format) {
		put_be32(header + at, EXT_BACKING_FORMAT);
		put_be32(header + at + 4, (uint32_t)n_format);
		memcpy(header + at + 8, p->backing_format, n_format);
		at += 8 + (size_t)align_up(n_format, 8);
	}
	at += 8; /* zeroes: no more extensions */
	put_be64(header + 8, at);
	put_be32(header + 16, (uint32_t)strlen(p->backing_name));
	memcpy(header + at, p->backing_name, strlen(p->backing_name));
}

static int write_header(struct qcow2_new *n, uint64_t refcounts_offset, uint32_t n_refcount_clusters)
{
	const struct block_create_params *p = n->w->p;
	uint8_t *h = n->l2; /* a cluster of zeroes, which is not needed any more */
	put_be32(h, QCOW2_MAGIC);
	put_be32(h + 4, 3);
	put_be32(h + 20, n->cluster_bits);
	put_be64(h + 24, n->w->n_bytes);
	put_be32(h + 36, (uint32_t)n->n_l1);
	put_be64(h + 40, n->cluster_bytes);
	put_be64(h + 48, refcounts_offset);
	put_be32(h + 56, n_refcount_clusters);
	put_be64(h + 72, (p->is_zstd ? QCOW2_INCOMPAT_COMPRESSION : 0u) | (p->has_extended_l2 ? QCOW2_INCOMPAT_EXTL2 : 0u));
	put_be64(h + 80, p->has_lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0u);
	put_be32(h + 96, REFCOUNT_ORDER);
	put_be32(h + 100, HEADER_BYTES);
	h[104] = p->is_zstd;
	put_backing(p, h);
	return write_at(n, h, n->cluster_bytes, 0);
}

static int qcow2_new_finish(struct block_writer *w)
{
	struct qcow2_new *n = w->state;
	uint64_t refcounts_offset = 0;
	uint32_t n_refcount_clusters = 0;
	int rc = w->p->preallocation == BLOCK_PREALLOCATE_OFF ? 0 : preallocate(n);
	if (rc >= 0)
		rc = write_l2(n);
	if (rc >= 0)
		rc = write_refcounts(n, &refcounts_offset, &n_refcount_clusters);
	if (rc >= 0)
		rc = write_l1(n);
	if (rc >= 0)
		rc = write_header(n, refcounts_offset, n_refcount_clusters);
	if (rc >= 0 && ftruncate(w->fd, (off_t)(n->end_cluster << n->cluster_bits)) < 0)
		rc = -errno;
	return rc;
}

const struct block_writer_format block_qcow2_writer = { .open = qcow2_new_open, .write = qcow2_new_write,
	                                                .finish = qcow2_new_finish, .close = qcow2_new_close };

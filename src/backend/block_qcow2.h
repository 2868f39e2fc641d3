/* SPDX-License-Identifier: Apache-2.0 */
/* block_qcow2.h - what the parts of the qcow2 format know of each other; for block_qcow2*.c and its tests.
 * Names and layouts are those of QEMU's docs/interop/qcow2. The theory of operation is at the top of block_qcow2.c. */
#pragma once
#include "backend/block_impl.h"
#include "base/bytes.h"

#define QCOW2_MAGIC 0x514649fbu

enum {
	QCOW2_INCOMPAT_DIRTY = 1 << 0,
	QCOW2_INCOMPAT_CORRUPT = 1 << 1,
	QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
	QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
	QCOW2_INCOMPAT_EXTL2 = 1 << 4,
	QCOW2_COMPAT_LAZY_REFCOUNTS = 1 << 0,
	QCOW2_AUTOCLEAR_BITMAPS = 1 << 0,
};

#define QCOW2_OFLAG_COPIED (1ull << 63)
#define QCOW2_OFLAG_COMPRESSED (1ull << 62)
#define QCOW2_OFLAG_ZERO 1ull
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ull
#define QCOW2_MAX_OFFSET (1ull << 56)

/* As QEMU bounds them. */
#define QCOW2_MAX_L1_BYTES (32u * 1024 * 1024)
#define QCOW2_MAX_REFCOUNT_TABLE_BYTES (8u * 1024 * 1024)
#define QCOW2_MAX_SNAPSHOTS 65536u
#define QCOW2_MAX_SUBCLUSTERS 32u

/* Of tables, held in memory: a part of a table, at most a cluster. */
#define QCOW2_SLICE_BYTES 4096u
#define QCOW2_MAX_L2_SLICES 8192u
#define QCOW2_MAX_REFCOUNT_SLICES 2048u

struct qcow2_slice {
	struct qcow2_slice *next; /* in its bucket */
	uint64_t offset_bytes;    /* in the file */
	bool is_dirty, was_used;
	uint8_t bytes[];
};

/* A slice that is being read. */
struct qcow2_load {
	struct qcow2_load *next;
	uint64_t offset_bytes;
	bool is_stale; /* the slice was put out or dropped meanwhile */
};

/* Under the image's lock, but for reading a dirty slice by the one that has the turn. */
struct qcow2_cache {
	uint32_t slice_bytes;
	unsigned n_max, n, n_dirty, hand;
	struct qcow2_load *loads;
	struct qcow2_slice **slots;   /* n_max */
	struct qcow2_slice **buckets; /* n_buckets, a power of two */
	unsigned n_buckets;
};

/* Clusters whose reference is gone. */
struct qcow2_free_run {
	uint64_t first, n; /* clusters; each loses one reference */
};

#define QCOW2_MAX_FREE_RUNS 4096u

struct qcow2_free_list {
	struct qcow2_free_run *runs; /* QCOW2_MAX_FREE_RUNS */
	unsigned n;
};

struct qcow2_table { /* L1, or the refcount table: whole in memory, in the host's byte order */
	uint64_t *entries;
	uint64_t offset_bytes;
	uint64_t n;                    /* entries */
	uint64_t first_dirty, end_dirty; /* empty when equal */
};

struct qcow2_set { /* of clusters that hold L2 tables and refcount blocks */
	uint64_t *slots, n_slots; /* a power of two, at least twice n; or 0 */
	uint64_t n, seed;
};

struct qcow2_range {
	uint64_t first, n; /* guest clusters */
};

/* What a request that allocates has in r->scratch. */
enum qcow2_phase {
	QCOW2_PHASE_START,
	QCOW2_PHASE_COPY, /* clusters are allocated; what the request leaves of their old content is to be copied */
	QCOW2_PHASE_DATA, /* the request's own bytes are to be written */
	QCOW2_PHASE_LINK, /* they are; L2 entries are to be set */
	QCOW2_PHASE_FAIL, /* something went wrong: the clusters are given back */
};

struct qcow2_write {
	struct block_hold hold;
	uint8_t phase;
	bool has_turn;
	bool is_reused;  /* the entries have a place already: what was written there only counts from now on */
	bool is_fresh;   /* behind everything that was ever written: reads as zeroes */
	bool is_allocated; /* range and host are set, and it is in the list */
	int error;
	struct qcow2_range range;
	uint64_t host;       /* bytes: of the first cluster */
	uint64_t start, end; /* of the disk: from and up to where the request writes into these clusters */
	struct qcow2_write *next; /* of all that are under way */
};

_Static_assert(sizeof(struct qcow2_write) <= BLOCK_SCRATCH_BYTES, "the scratch area is too small");

struct qcow2 {
	struct block_image *image;
	struct block_file *file;
	/* of the header */
	unsigned version, cluster_bits, refcount_order;
	uint32_t header_bytes, n_snapshots;
	uint64_t cluster_bytes, size_bytes, snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	bool has_extl2, is_zstd;
	uint64_t bitmaps_offset, bitmaps_bytes; /* of the directory; 0: none that is valid */
	uint32_t n_bitmaps;
	/* derived */
	unsigned l2_entry_bytes, l2_bits;  /* entries of an L2 table: 1 << l2_bits */
	unsigned block_bits;               /* entries of a refcount block: 1 << block_bits */
	unsigned unit_bits;                /* what an entry says something about: a cluster or a subcluster */

	/* Under the image's lock. Changed by who has the turn, or when nobody has it. */
	struct qcow2_table l1, refcount_table;
	struct qcow2_cache l2, refcounts;
	struct qcow2_set tables;
	uint64_t end_cluster;  /* nothing is or ever was behind */
	uint64_t free_hint;    /* nothing is free before */
	struct qcow2_free_list unlinked, draining;
	struct qcow2_write *writes;
	bool has_unsynced_refcounts; /* written, but perhaps not durable */
	pthread_cond_t turn_is_free;
	bool is_marked_dirty;  /* the header's bit, for lazy refcounts */
	bool has_punch;
	_Atomic bool has_said_corrupt;
	_Atomic bool is_room_wanted; /* somebody is parked until an epoch's holds are gone */
};

static inline struct qcow2 *qcow2_of(const struct block_image *i)
{
	return i->state;
}

static inline uint64_t qcow2_clusters_for(const struct qcow2 *q, uint64_t n_bytes)
{
	return (n_bytes >> q->cluster_bits) + ((n_bytes & (q->cluster_bytes - 1)) != 0);
}

/* can_block everywhere: false on a loop, where what needs I/O is -EAGAIN and nothing has changed then; true for the one
 * that has the turn. "Locked" functions are called under the image's lock, and with can_block let go of it for I/O. */

/* --- block_qcow2_cache.c --- */

int qcow2_cache_init(struct qcow2_cache *c, uint32_t slice_bytes, unsigned n_max);
void qcow2_cache_done(struct qcow2_cache *c);
/* Locked. The slice that begins at offset_bytes of the file; the pointer is good until the lock is let go of. */
int qcow2_cache_get(struct qcow2 *q, struct qcow2_cache *c, uint64_t offset_bytes, bool can_block,
                    struct qcow2_slice **ret_s);
void qcow2_cache_dirty(struct qcow2_cache *c, struct qcow2_slice *s);
/* Locked. Forgets what it holds of a table that is a table no more. */
void qcow2_cache_drop(struct qcow2_cache *c, uint64_t offset_bytes, uint64_t n_bytes);
/* Turn, unlocked. Writes all dirty slices; they stay dirty until qcow2_cache_clean(). */
int qcow2_cache_write(struct qcow2 *q, struct qcow2_cache *c);
void qcow2_cache_clean(struct qcow2_cache *c); /* locked */
/* So many are dirty that the one with the turn must write them before more become so. */
bool qcow2_cache_is_full(const struct qcow2_cache *c);

/* --- block_qcow2_map.c --- */

enum qcow2_kind { QCOW2_UNALLOCATED, QCOW2_ZERO, QCOW2_DATA, QCOW2_COMPRESSED };

struct qcow2_entry {
	uint64_t descriptor;
	uint64_t bitmap; /* subclusters; 0 without */
};

/* Locked. The slice with a guest cluster's entry, and its place there; *ret_s is NULL where there is no L2 table. */
int qcow2_l2_slice(struct qcow2 *q, uint64_t guest_cluster, bool can_block, struct qcow2_slice **ret_s,
                   unsigned *ret_index);
unsigned qcow2_slice_entries(const struct qcow2 *q);
struct qcow2_entry qcow2_entry_get(const struct qcow2 *q, const struct qcow2_slice *s, unsigned index);
void qcow2_entry_set(struct qcow2 *q, struct qcow2_slice *s, unsigned index, struct qcow2_entry entry);
/* 0 or -EIO for an entry that cannot be. */
int qcow2_entry_check(const struct qcow2 *q, struct qcow2_entry entry);
enum qcow2_kind qcow2_entry_kind(const struct qcow2 *q, struct qcow2_entry entry, unsigned subcluster);
/* Where a compressed cluster is. */
void qcow2_compressed_range(const struct qcow2 *q, uint64_t descriptor, uint64_t *ret_offset, uint64_t *ret_n_bytes);
/* Locked. As map(), of the image alone. For a write (is_in_place): -ENOENT where the bytes cannot be written in place. */
int qcow2_find(struct qcow2 *q, uint64_t offset_bytes, uint64_t n_bytes, bool can_block, bool is_in_place,
               struct block_extent *ret_x);
int qcow2_map(struct block_image *i, uint64_t offset_bytes, uint64_t n_bytes, bool can_block,
              struct block_extent *ret_x);
int qcow2_read_packed(struct block_image *i, const struct block_extent *x, uint8_t *ret_bytes);
/* Logs it once. -EIO. */
int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t where);

/* --- block_qcow2_tables.c; locked --- */

/* A guest's write must not land in what describes the image, and nothing that it gives up frees it. */
bool qcow2_is_in_tables(const struct qcow2 *q, uint64_t offset, uint64_t n_bytes);
int qcow2_tables_build(struct qcow2 *q); /* from all that the L1 table and the refcount table name. 0 or a negative errno */
int qcow2_tables_reserve(struct qcow2 *q, uint64_t n); /* so many can be added. 0 or a negative errno */
void qcow2_tables_add(struct qcow2 *q, uint64_t offset); /* somebody's entry names a table there from now on */
void qcow2_tables_remove(struct qcow2 *q, uint64_t offset);
void qcow2_tables_done(struct qcow2 *q);

/* --- block_qcow2_refcount.c; locked, and as said of can_block --- */

int qcow2_refcount_get(struct qcow2 *q, uint64_t cluster, bool can_block, uint64_t *ret_count);
int qcow2_refcount_set(struct qcow2 *q, uint64_t cluster, uint64_t count, bool can_block);
uint64_t qcow2_refcount_max(const struct qcow2 *q);
/* A run of n_min to n_max free clusters, now counted once each. */
int qcow2_alloc(struct qcow2 *q, uint64_t n_min, uint64_t n_max, bool can_block, uint64_t *ret_first, uint64_t *ret_n,
                bool *ret_is_fresh);
/* Makes sure that there is a refcount block for it. Turn. */
int qcow2_refcount_block_for(struct qcow2 *q, uint64_t cluster);
/* Each loses a reference once the tables that no longer refer to them are durable. False: no room, commit first. */
bool qcow2_free_later(struct qcow2 *q, uint64_t first, uint64_t n);
bool qcow2_free_has_room(const struct qcow2 *q, unsigned n_runs);
/* Whose time has come. Turn. */
int qcow2_free_now(struct qcow2 *q);

/* --- block_qcow2_commit.c; turn, unlocked --- */

/* Writes what is dirty, in order, and makes it durable. */
int qcow2_commit(struct qcow2 *q);
int qcow2_commit_counts(struct qcow2 *q); /* and all refcounts, whether anything refers to what they count or not */
bool qcow2_needs_commit(const struct qcow2 *q); /* locked: for a flush */
int qcow2_write_features(struct qcow2 *q);      /* the header's bits */
int qcow2_close_clean(struct qcow2 *q);
void qcow2_table_dirty(struct qcow2_table *t, uint64_t index); /* locked */
int qcow2_table_write(struct qcow2 *q, const struct qcow2_table *t, uint64_t first, uint64_t end);

/* --- block_qcow2_write.c --- */

/* Locked; turn, or memory only. */
int qcow2_allocate(struct qcow2 *q, struct qcow2_write *w, uint64_t offset_bytes, uint64_t n_bytes, bool can_block);
int qcow2_link(struct qcow2 *q, struct qcow2_write *w, bool can_block);
/* Clusters from range.first on become zeroes or holes; how many were looked at, or a negative errno. */
int64_t qcow2_zero(struct qcow2 *q, const struct qcow2_range *range, bool is_discard, bool may_unmap, bool can_block);
/* Unlocked, no turn: what the request leaves of the old content of the first and the last cluster. */
int qcow2_copy_rest(struct qcow2 *q, const struct qcow2_write *w);
bool qcow2_is_being_written(const struct qcow2 *q, uint64_t first, uint64_t n);
/* Makes an L2 table that belongs to this image alone. Turn, locked. */
int qcow2_l2_make(struct qcow2 *q, uint64_t l1_index);

/* --- the rest --- */

int qcow2_open(struct block_image *i, const struct block_params *p, struct err *e);
void qcow2_info(const struct block_image *i, struct block_info *info);
/* Of what the image is based on, which it names: as it says, or raw where it says nothing and that looks raw. */
int qcow2_backing_type(const struct block_image *i, enum block_type *ret_type, struct err *e);
int qcow2_load_refcounts(struct qcow2 *q, struct err *e); /* what is only read has none in memory */
void qcow2_close(struct block_image *i);
int qcow2_check(struct block_image *i, enum block_repair repair, struct block_check *ret_c, struct err *e);
int qcow2_resize(struct block_image *i, uint64_t n_bytes, struct err *e);
/* For calls from outside of a lane: waits for the turn. */
void qcow2_turn_take(struct qcow2 *q);
void qcow2_turn_give(struct qcow2 *q);

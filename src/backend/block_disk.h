/* SPDX-License-Identifier: Apache-2.0 */
/* block_disk.h - what VHD, VHDX and VMDK have in common; for these formats and their tests.
 *
 * A disk is a list of extents without gaps. An extent is a piece of a file (fixed images), zeroes, or blocks that a
 * table finds in a file (dynamic images). The table's pages come into memory when they are first needed; an entry goes
 * from "absent" to a place once and never back while the image is open, so looking one up needs no lock. All that
 * changes tables, sizes of files or headers happens in calls on worker threads, under the disk's own lock. */
#pragma once
#include "backend/block_impl.h"
#include <pthread.h>
#include <stdatomic.h>

struct block_disk;

/* --- tables --- */

#define BLOCK_TABLE_PAGE_ENTRIES 512u
/* Of one table's entries, when every page is in memory. */
#define BLOCK_TABLE_MAX_BYTES (128ull << 20)

#define BLOCK_ENTRY_ABSENT 0u           /* reads as zeroes */
#define BLOCK_ENTRY_DAMAGED 0xffffffffu /* points to where no block can be */

struct block_table_page {
	_Atomic uint32_t entries[BLOCK_TABLE_PAGE_ENTRIES]; /* where a block is, in units of the table */
	/* Under the disk's lock. */
	struct block_table_page *next_dirty;
	struct block_table *table;
	uint32_t index;
	bool is_dirty;
};

/* Under the disk's lock; 0 or a negative errno. */
struct block_table_ops {
	/* Fills entries[] of page `index`, each checked: it is ABSENT, DAMAGED, or all of its block lies in the file and
	 * on nothing but data. */
	int (*load)(struct block_table *t, uint32_t index, uint32_t *entries);
	/* Writes the page where the next open will find it, not durably. NULL: the disk's flush() does it. */
	int (*store)(struct block_table *t, const struct block_table_page *p);
	/* Makes room for n blocks of zeroes, entries *ret_first, *ret_first + stride_units, ... */
	int (*extend)(struct block_table *t, uint32_t n, uint32_t *ret_first);
	/* For images whose blocks say which of their sectors were ever written; NULL otherwise. The run of sectors at
	 * offset_bytes of a block that are alike. */
	int (*examine)(struct block_table *t, uint32_t entry, uint32_t offset_bytes, uint32_t n_bytes,
	               uint32_t *ret_run_bytes, bool *ret_is_written, bool *ret_is_whole);
	int (*make_whole)(struct block_table *t, uint32_t entry);
};

struct block_table {
	const struct block_table_ops *ops;
	struct block_disk *disk;
	void *context;         /* the format's */
	const struct block_file *file;
	uint32_t block_bytes;  /* a power of two */
	uint32_t unit_bytes;   /* of an entry's value */
	uint32_t lead_bytes;   /* of a block, in front of its data */
	uint32_t stride_units; /* from one block of an extension to the next */
	bool may_be_odd;       /* blocks may share pages of the host's cache with tables: see block_disk.c */
	uint32_t gap_after;    /* after so many blocks' entries comes one that is not a block's. 0: never */
	uint64_t n_blocks;
	uint32_t n_entries, n_pages;
	_Atomic(struct block_table_page *) *pages;
	_Atomic uint8_t *whole; /* with examine(): a bit for each entry */
};

/* The caller has filled in everything up to n_blocks. */
int block_table_init(struct block_table *t, struct err *e);
void block_table_done(struct block_table *t);
uint32_t block_table_page_entries(const struct block_table *t, uint32_t page); /* the last one may be short */
/* False: the page has to be loaded first. */
bool block_table_look_up(const struct block_table *t, uint64_t block, uint32_t *ret_entry);
bool block_table_is_whole(const struct block_table *t, uint64_t block);
/* Under the disk's lock. */
int block_table_load(struct block_table *t, uint64_t block);
int block_table_allocate(struct block_table *t, uint64_t block, uint64_t n_blocks);
int block_table_examine(struct block_table *t, uint64_t block, uint32_t offset_bytes, uint32_t n_bytes,
                        uint32_t *ret_run_bytes, bool *ret_is_written);
int block_table_make_whole(struct block_table *t, uint64_t block);

/* --- disks --- */

enum block_piece_kind {
	BLOCK_PIECE_LINEAR,     /* at offset_bytes of file */
	BLOCK_PIECE_ZERO,       /* reads as zeroes and cannot be written */
	BLOCK_PIECE_TABLE,
	BLOCK_PIECE_COMPRESSED, /* a table of blocks to be unpacked, read only */
};

struct block_piece {
	enum block_piece_kind kind;
	bool is_readonly;
	uint64_t start_bytes, n_bytes; /* of the disk */
	const struct block_file *file; /* LINEAR */
	uint64_t offset_bytes;         /* LINEAR */
	struct block_table *table;     /* TABLE, COMPRESSED */
};

/* None is required. Under the disk's lock; 0 or a negative errno. */
struct block_disk_ops {
	int (*begin_writing)(struct block_disk *d); /* before the first change of anything; again when it failed */
	int (*flush)(struct block_disk *d);         /* data and dirty pages durable; block_disk_flush_pages() otherwise */
	int (*end_writing)(struct block_disk *d);   /* the last change, after the last flush */
};

/* What a format keeps of an open image begins with this. */
struct block_disk {
	const struct block_disk_ops *ops;
	struct block_image *image;
	struct block_piece *pieces; /* sorted, without gaps */
	unsigned n_pieces;
	const struct block_file **files; /* all that it has */
	unsigned n_files;
	pthread_mutex_t lock; /* held over I/O: for worker threads, open() and close() */
	struct block_table_page *dirty;
	_Atomic bool is_dirty;   /* some page is */
	_Atomic bool is_writing; /* begin_writing() has succeeded */
	struct log_limit limit;  /* of complaints about damage */
};

void block_disk_init(struct block_disk *d, struct block_image *i, const struct block_disk_ops *ops);
/* Writes what is left to write. Tables, pieces and files are the format's. */
void block_disk_done(struct block_disk *d);
uint64_t block_disk_bytes(const struct block_disk *d);

/* What the formats' functions are made of; i->state is a struct block_disk. */
enum block_next block_disk_prepare(struct block_lane *lane, struct block_request *r);
bool block_disk_finish(struct block_lane *lane, struct block_request *r, long result);
int block_disk_map(struct block_image *i, uint64_t offset_bytes, uint64_t n_bytes, bool can_block,
                   struct block_extent *ret_x);
/* Of a table with examine(). */
int block_disk_read_packed(struct block_image *i, const struct block_extent *x, uint8_t *ret_bytes);

void block_disk_info(const struct block_image *i, struct block_info *info);

/* Under the lock. */
int block_disk_sync(struct block_disk *d);
int block_disk_flush_pages(struct block_disk *d); /* data durable, then pages, then those */
void block_disk_clean(struct block_disk *d);      /* the dirty pages are where they belong */

/* Neither end overflows: checked by the caller. */
static inline bool block_ranges_meet(uint64_t a, uint64_t n_a, uint64_t b, uint64_t n_b)
{
	return a < b + n_b && b < a + n_a;
}

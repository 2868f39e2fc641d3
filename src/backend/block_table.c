// SPDX-License-Identifier: Apache-2.0
/* Tables that find blocks in a file: VHD's and VHDX's BAT, VMDK's grain tables.
 *
 * Theory of operation. A page of a table holds 512 entries and comes into memory, checked, when one of them is first
 * needed. Entries are read without a lock: an entry is published after its block exists, and changes from "absent" to
 * a place once. Freed space is never given to another block while the image is open, so a request in flight cannot hit
 * somebody else's block.
 *
 * Order on disk. A new block is zeroes at the end of the file, and its entry lives in memory, in a dirty page, until a
 * flush: that makes the file durable first (its new size and all data), then writes the dirty pages, then makes those
 * durable. Wherever the host dies, an entry on the disk refers to a block that exists; what is lost was never flushed,
 * and what may stay is room at the end of the file that nobody refers to. */
#include "backend/block_disk.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- tables --- */

int block_table_init(struct block_table *t, struct err *e)
{
	assert(is_power_of_two(t->block_bytes) && t->unit_bytes && t->stride_units);
	uint64_t n_entries = t->n_blocks + (t->gap_after && t->n_blocks ? (t->n_blocks - 1) / t->gap_after : 0);
	if (n_entries > BLOCK_TABLE_MAX_BYTES / sizeof(uint32_t))
		return err_set(e, EFBIG, "its %llu blocks of %u bytes need too large a table",
		               (unsigned long long)t->n_blocks, t->block_bytes);
	t->n_entries = (uint32_t)n_entries;
	t->n_pages = (uint32_t)((n_entries + BLOCK_TABLE_PAGE_ENTRIES - 1) / BLOCK_TABLE_PAGE_ENTRIES);
	/* All that it can come to, though pages are loaded as they are needed. */
	int rc = block_charge(t->disk->image, t->n_pages * (sizeof(struct block_table_page) + sizeof *t->pages) +
	                      (t->ops->examine ? n_entries / 8 : 0), e);
	if (rc < 0)
		return rc;
	t->pages = calloc(t->n_pages ? t->n_pages : 1, sizeof *t->pages);
	if (t->ops->examine)
		t->whole = calloc(n_entries / 8 + 1, 1);
	if (!t->pages || (t->ops->examine && !t->whole))
		return err_set(e, ENOMEM, "no memory for its table of blocks");
	return 0;
}

void block_table_done(struct block_table *t)
{
	for (uint32_t k = 0; t->pages && k < t->n_pages; k++)
		free(t->pages[k]);
	free(t->pages);
	free(t->whole);
	t->pages = NULL;
	t->whole = NULL;
}

uint32_t block_table_page_entries(const struct block_table *t, uint32_t page)
{
	uint32_t first = page * BLOCK_TABLE_PAGE_ENTRIES;
	assert(first < t->n_entries);
	return (uint32_t)min_u64(BLOCK_TABLE_PAGE_ENTRIES, t->n_entries - first);
}

static uint32_t index_of(const struct block_table *t, uint64_t block)
{
	assert(block < t->n_blocks);
	return (uint32_t)(block + (t->gap_after ? block / t->gap_after : 0));
}

static struct block_table_page *page_of(const struct block_table *t, uint32_t index)
{
	return atomic_load_explicit(&t->pages[index / BLOCK_TABLE_PAGE_ENTRIES], memory_order_acquire);
}

bool block_table_look_up(const struct block_table *t, uint64_t block, uint32_t *ret_entry)
{
	uint32_t index = index_of(t, block);
	struct block_table_page *p = page_of(t, index);
	if (!p)
		return false;
	*ret_entry = atomic_load_explicit(&p->entries[index % BLOCK_TABLE_PAGE_ENTRIES], memory_order_acquire);
	return true;
}

bool block_table_is_whole(const struct block_table *t, uint64_t block)
{
	if (!t->whole)
		return true;
	uint32_t index = index_of(t, block);
	return atomic_load_explicit(&t->whole[index / 8], memory_order_acquire) & (1u << index % 8);
}

static void set_whole(struct block_table *t, uint32_t index)
{
	if (t->whole)
		(void)atomic_fetch_or_explicit(&t->whole[index / 8], (uint8_t)(1u << index % 8), memory_order_release);
}

int block_table_load(struct block_table *t, uint64_t block)
{
	uint32_t index = index_of(t, block);
	if (page_of(t, index))
		return 0;
	struct block_table_page *p = calloc(1, sizeof *p);
	if (!p)
		return -ENOMEM;
	uint32_t entries[BLOCK_TABLE_PAGE_ENTRIES] = { 0 };
	p->table = t;
	p->index = index / BLOCK_TABLE_PAGE_ENTRIES;
	int rc = t->ops->load(t, p->index, entries);
	if (rc < 0) {
		free(p);
		return rc;
	}
	bool is_damaged = false;
	for (size_t k = 0; k < BLOCK_TABLE_PAGE_ENTRIES; k++) {
		is_damaged |= entries[k] == BLOCK_ENTRY_DAMAGED;
		atomic_init(&p->entries[k], entries[k]);
	}
	atomic_store_explicit(&t->pages[p->index], p, memory_order_release);
	if (is_damaged)
		guest_warn(&t->disk->image->log, &t->disk->limit,
		           "the image is damaged: blocks near %llu lie where no block can be",
		           (unsigned long long)block);
	return 0;
}

static void mark_dirty(struct block_table *t, struct block_table_page *p)
{
	struct block_disk *d = t->disk;
	if (p->is_dirty)
		return;
	p->is_dirty = true;
	p->next_dirty = d->dirty;
	d->dirty = p;
}

/* How many absent blocks follow each other from `block` on, within its page. */
static uint32_t count_absent(const struct block_table *t, uint64_t block, uint64_t n_blocks)
{
	uint32_t page = index_of(t, block) / BLOCK_TABLE_PAGE_ENTRIES, n = 0, entry;
	while (n < n_blocks && index_of(t, block + n) / BLOCK_TABLE_PAGE_ENTRIES == page &&
	       block_table_look_up(t, block + n, &entry) && entry == BLOCK_ENTRY_ABSENT)
		n++;
	return n;
}

int block_table_allocate(struct block_table *t, uint64_t block, uint64_t n_blocks)
{
	int rc = block_table_load(t, block);
	if (rc < 0)
		return rc;
	uint32_t n = count_absent(t, block, n_blocks), first;
	if (n == 0)
		return 0; /* another lane was faster */
	rc = t->ops->extend(t, n, &first);
	if (rc < 0)
		return rc;
	/* Set before the entries are: whoever sees an entry must see that a flush has work to do. */
	t->disk->is_dirty = true;
	for (uint32_t k = 0; k < n; k++) {
		uint32_t index = index_of(t, block + k);
		struct block_table_page *p = page_of(t, index);
		mark_dirty(t, p);
		set_whole(t, index);
		atomic_store_explicit(&p->entries[index % BLOCK_TABLE_PAGE_ENTRIES], first + k * t->stride_units,
		                      memory_order_release);
	}
	return 0;
}

int block_table_examine(struct block_table *t, uint64_t block, uint32_t offset_bytes, uint32_t n_bytes,
                        uint32_t *ret_run_bytes, bool *ret_is_written)
{
	uint32_t entry = BLOCK_ENTRY_DAMAGED;
	bool is_whole = false;
	(void)block_table_look_up(t, block, &entry);
	assert(entry != BLOCK_ENTRY_DAMAGED && entry != BLOCK_ENTRY_ABSENT);
	int rc = t->ops->examine(t, entry, offset_bytes, n_bytes, ret_run_bytes, ret_is_written, &is_whole);
	if (rc >= 0 && is_whole)
		set_whole(t, index_of(t, block));
	return rc;
}

int block_table_make_whole(struct block_table *t, uint64_t block)
{
	uint32_t entry = BLOCK_ENTRY_DAMAGED;
	if (block_table_is_whole(t, block))
		return 0;
	(void)block_table_look_up(t, block, &entry);
	assert(entry != BLOCK_ENTRY_DAMAGED && entry != BLOCK_ENTRY_ABSENT);
	int rc = t->ops->make_whole(t, entry);
	if (rc >= 0)
		set_whole(t, index_of(t, block));
	return rc;
}

/* --- flushing --- */

int block_disk_sync(struct block_disk *d)
{
	int rc = 0;
	for (unsigned k = 0; k < d->n_files; k++) {
		if (d->files[k]->is_readonly)
			continue;
		int one = block_file_sync(d->image, d->files[k]);
		rc = rc < 0 ? rc : one;
	}
	return rc;
}

void block_disk_clean(struct block_disk *d)
{
	while (d->dirty) {
		struct block_table_page *p = d->dirty;
		d->dirty = p->next_dirty;
		p->next_dirty = NULL;
		p->is_dirty = false;
	}
	d->is_dirty = false;
}

int block_disk_flush_pages(struct block_disk *d)
{
	int rc = block_disk_sync(d);
	for (const struct block_table_page *p = d->dirty; rc >= 0 && p; p = p->next_dirty)
		rc = p->table->ops->store(p->table, p);
	if (rc >= 0 && d->dirty)
		rc = block_disk_sync(d);
	if (rc >= 0)
		block_disk_clean(d);
	return rc;
}

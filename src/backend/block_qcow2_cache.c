// SPDX-License-Identifier: Apache-2.0
/* qcow2: parts of L2 tables and of refcount blocks in memory, as they are in the file, found by their place there.
 *
 * A slice is changed in memory and stays until a commit has written it: dirty slices are never put out, and a change is
 * not begun when half of the cache is dirty, so a clean one can always make room. Anybody may load a slice, with the lock
 * let go of for the read. What was read is thrown away when the same slice was put out or dropped meanwhile: it was
 * loaded, and may have been changed and written, by somebody else in between. */
#include "backend/block_qcow2.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static uint32_t bucket_of(const struct qcow2_cache *c, uint64_t offset_bytes)
{
	uint64_t h = (offset_bytes / c->slice_bytes) * 0x9e3779b97f4a7c15ull;
	return (uint32_t)(h >> 40) & (c->n_buckets - 1);
}

int qcow2_cache_init(struct qcow2_cache *c, uint32_t slice_bytes, unsigned n_max)
{
	*c = (struct qcow2_cache){ .slice_bytes = slice_bytes, .n_max = n_max };
	for (c->n_buckets = 64; c->n_buckets < c->n_max; c->n_buckets *= 2)
		;
	c->slots = calloc(c->n_max, sizeof *c->slots);
	c->buckets = calloc(c->n_buckets, sizeof *c->buckets);
	return c->slots && c->buckets ? 0 : -ENOMEM;
}

void qcow2_cache_done(struct qcow2_cache *c)
{
	for (unsigned k = 0; k < c->n; k++)
		free(c->slots[k]);
	free(c->slots);
	free(c->buckets);
	*c = (struct qcow2_cache){ 0 };
}

static struct qcow2_slice *find(const struct qcow2_cache *c, uint64_t offset_bytes)
{
	struct qcow2_slice *s = c->buckets[bucket_of(c, offset_bytes)];
	while (s && s->offset_bytes != offset_bytes)
		s = s->next;
	return s;
}

static void unhash(struct qcow2_cache *c, struct qcow2_slice *s)
{
	struct qcow2_slice **at = &c->buckets[bucket_of(c, s->offset_bytes)];
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
}

static void forget_loads(struct qcow2_cache *c, uint64_t offset_bytes, uint64_t n_bytes)
{
	for (struct qcow2_load *l = c->loads; l; l = l->next) {
		if (l->offset_bytes >= offset_bytes && l->offset_bytes - offset_bytes < n_bytes)
			l->is_stale = true;
	}
}

/* A place for one more; a clean slice is put out when all are taken. */
static struct qcow2_slice **make_room(struct qcow2_cache *c)
{
	if (c->n < c->n_max)
		return &c->slots[c->n++];
	for (unsigned k = 0; k < 2 * c->n_max; k++) {
		struct qcow2_slice **slot = &c->slots[c->hand];
		c->hand = (c->hand + 1) % c->n_max;
		if ((*slot)->is_dirty)
			continue;
		if ((*slot)->was_used) {
			(*slot)->was_used = false;
			continue;
		}
		unhash(c, *slot);
		forget_loads(c, (*slot)->offset_bytes, c->slice_bytes);
		free(*slot);
		*slot = NULL;
		return slot;
	}
	return NULL;
}

/* Until what was read is what the file has, or somebody else has the slice in memory. */
static int read_slice(struct qcow2 *q, struct qcow2_cache *c, struct qcow2_slice *s)
{
	struct qcow2_load load = { .offset_bytes = s->offset_bytes, .next = c->loads };
	int rc;
	c->loads = &load;
	do {
		load.is_stale = false;
		block_unlock(q->image);
		rc = block_file_read(q->image, q->file, s->bytes, c->slice_bytes, s->offset_bytes);
		block_lock(q->image);
	} while (rc >= 0 && load.is_stale && !find(c, s->offset_bytes));
	struct qcow2_load **at = &c->loads;
	while (*at != &load)
		at = &(*at)->next;
	*at = load.next;
	return rc;
}

static int load(struct qcow2 *q, struct qcow2_cache *c, uint64_t offset_bytes, struct qcow2_slice **ret_s)
{
	struct qcow2_slice *s = calloc(1, sizeof *s + c->slice_bytes);
	if (!s)
		return -ENOMEM;
	s->offset_bytes = offset_bytes;
	int rc = read_slice(q, c, s);
	struct qcow2_slice *other = find(c, offset_bytes);
	if (rc < 0 || other) {
		free(s);
		*ret_s = other;
		return other ? 0 : rc;
	}
	struct qcow2_slice **slot = make_room(c);
	if (!slot) {
		free(s);
		return -ENOMEM; /* not while at most half are dirty */
	}
	*slot = s;
	uint32_t b = bucket_of(c, offset_bytes);
	s->next = c->buckets[b];
	c->buckets[b] = s;
	*ret_s = s;
	return 0;
}

int qcow2_cache_get(struct qcow2 *q, struct qcow2_cache *c, uint64_t offset_bytes, bool can_block,
                    struct qcow2_slice **ret_s)
{
	struct qcow2_slice *s = find(c, offset_bytes);
	if (!s) {
		if (!can_block)
			return -EAGAIN;
		int rc = load(q, c, offset_bytes, &s);
		if (rc < 0)
			return rc;
	}
	s->was_used = true;
	*ret_s = s;
	return 0;
}

void qcow2_cache_dirty(struct qcow2_cache *c, struct qcow2_slice *s)
{
	if (!s->is_dirty)
		c->n_dirty++;
	s->is_dirty = true;
}

void qcow2_cache_drop(struct qcow2_cache *c, uint64_t offset_bytes, uint64_t n_bytes)
{
	for (unsigned k = 0; k < c->n;) {
		struct qcow2_slice *s = c->slots[k];
		if (s->offset_bytes < offset_bytes || s->offset_bytes - offset_bytes >= n_bytes) {
			k++;
			continue;
		}
		c->n_dirty -= s->is_dirty;
		unhash(c, s);
		free(s);
		c->slots[k] = c->slots[--c->n];
		c->slots[c->n] = NULL;
	}
	c->hand = 0;
	forget_loads(c, offset_bytes, n_bytes);
}

int qcow2_cache_write(struct qcow2 *q, struct qcow2_cache *c)
{
	/* Who else looks at the slots meanwhile only puts out clean ones and adds some. */
	for (unsigned k = 0; k < c->n_max; k++) {
		block_lock(q->image);
		struct qcow2_slice *s = k < c->n && c->slots[k]->is_dirty ? c->slots[k] : NULL;
		bool is_end = k >= c->n;
		block_unlock(q->image);
		if (is_end)
			break;
		int rc = s ? block_file_write(q->image, q->file, s->bytes, c->slice_bytes, s->offset_bytes) : 0;
		if (rc < 0)
			return rc;
	}
	return 0;
}

void qcow2_cache_clean(struct qcow2_cache *c)
{
	for (unsigned k = 0; k < c->n && c->n_dirty; k++) {
		if (c->slots[k]->is_dirty) {
			c->slots[k]->is_dirty = false;
			c->n_dirty--;
		}
	}
}

bool qcow2_cache_is_full(const struct qcow2_cache *c)
{
	return c->n_dirty >= c->n_max / 2;
}

// SPDX-License-Identifier: Apache-2.0
/* qcow2: which clusters of the file hold what describes the image, so that an entry that names one of them, by accident or by
 * somebody's hand, can neither have it overwritten with a guest's data nor freed.
 *
 * Header, L1 table and refcount table are each in one piece. L2 tables and refcount blocks are anywhere: a set of their clusters,
 * in open addressing, is looked into for each write in place. A slot is a cluster's number with how many entries name it above:
 * an image may name a table twice. The set is of the disk's own tables; those of snapshots are not known. Only who writes has
 * one. */
#include "backend/block_qcow2.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#define CLUSTER_BITS 48 /* of a file of 2^56 bytes in clusters of 512 */
#define CLUSTER_MASK ((1ull << CLUSTER_BITS) - 1)
#define ONE_NAME (1ull << CLUSTER_BITS)
#define MAX_NAMES (UINT64_MAX - CLUSTER_MASK) /* and it stays */
#define MIN_SLOTS 64u

/* The product's highest bits, with a factor that who made the image does not know: else all of its tables could be where they
 * fall into one place. */
static uint64_t place_of(const struct qcow2_set *s, uint64_t cluster)
{
	return (cluster * s->seed) >> (64 - __builtin_ctzll(s->n_slots));
}

static uint64_t new_seed(void)
{
	uint64_t seed;
	if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed)
		seed = 0x9e3779b97f4a7c15ull;
	return seed | 1;
}

/* The cluster's slot, or the empty one where it belongs. */
static uint64_t *find(const struct qcow2_set *s, uint64_t cluster)
{
	uint64_t k = place_of(s, cluster);
	while (s->slots[k] && (s->slots[k] & CLUSTER_MASK) != cluster)
		k = (k + 1) & (s->n_slots - 1);
	return &s->slots[k];
}

/* 0: not one that a table can be in; others complain where it is used. */
static uint64_t cluster_at(const struct qcow2 *q, uint64_t offset)
{
	return offset & (q->cluster_bytes - 1) || offset >= QCOW2_MAX_OFFSET ? 0 : offset >> q->cluster_bits;
}

int qcow2_tables_reserve(struct qcow2 *q, uint64_t n)
{
	struct qcow2_set *s = &q->tables, larger = { .n_slots = MIN_SLOTS, .n = s->n, .seed = s->seed };
	while (larger.n_slots < 2 * (s->n + n))
		larger.n_slots *= 2;
	if (larger.n_slots <= s->n_slots)
		return 0;
	struct err e;
	larger.slots = calloc((size_t)larger.n_slots, sizeof *larger.slots); /* takes pages when it is touched */
	if (!larger.slots)
		return -ENOMEM;
	int rc = block_charge(q->image, (larger.n_slots - s->n_slots) * sizeof *s->slots, &e);
	if (rc < 0) {
		free(larger.slots);
		return rc;
	}
	if (!larger.seed)
		larger.seed = new_seed();
	for (uint64_t k = 0; k < s->n_slots; k++) {
		if (s->slots[k])
			*find(&larger, s->slots[k] & CLUSTER_MASK) = s->slots[k];
	}
	free(s->slots);
	*s = larger;
	return 0;
}

void qcow2_tables_add(struct qcow2 *q, uint64_t offset)
{
	struct qcow2_set *s = &q->tables;
	uint64_t cluster = cluster_at(q, offset);
	if (!cluster)
		return;
	assert(s->n < s->n_slots);
	uint64_t *slot = find(s, cluster);
	s->n += !*slot;
	if (!*slot)
		*slot = cluster;
	if ((*slot & ~CLUSTER_MASK) != MAX_NAMES)
		*slot += ONE_NAME;
}

void qcow2_tables_remove(struct qcow2 *q, uint64_t offset)
{
	struct qcow2_set *s = &q->tables;
	uint64_t cluster = cluster_at(q, offset), *slot = cluster && s->n ? find(s, cluster) : NULL;
	if (!slot || !*slot || (*slot & ~CLUSTER_MASK) == MAX_NAMES)
		return;
	*slot -= ONE_NAME;
	if (*slot & ~CLUSTER_MASK)
		return;
	/* Those behind it up to the next empty slot may have wanted this one. */
	*slot = 0;
	s->n--;
	for (uint64_t k = ((uint64_t)(slot - s->slots) + 1) & (s->n_slots - 1); s->slots[k]; k = (k + 1) & (s->n_slots - 1)) {
		uint64_t moved = s->slots[k];
		s->slots[k] = 0;
		*find(s, moved & CLUSTER_MASK) = moved;
	}
}

int qcow2_tables_build(struct qcow2 *q)
{
	const struct qcow2_table *const all[] = { &q->l1, &q->refcount_table };
	uint64_t n = 0;
	for (size_t t = 0; t < ARRAY_LEN(all); t++) {
		for (uint64_t k = 0; k < all[t]->n; k++)
			n += all[t]->entries[k] != 0;
	}
	if (q->tables.slots)
		memset(q->tables.slots, 0, (size_t)q->tables.n_slots * sizeof *q->tables.slots);
	q->tables.n = 0;
	int rc = qcow2_tables_reserve(q, n);
	for (uint64_t k = 0; rc >= 0 && k < q->l1.n; k++)
		qcow2_tables_add(q, q->l1.entries[k] & QCOW2_OFFSET_MASK);
	for (uint64_t k = 0; rc >= 0 && k < q->refcount_table.n; k++)
		qcow2_tables_add(q, q->refcount_table.entries[k]);
	return rc;
}

void qcow2_tables_done(struct qcow2 *q)
{
	free(q->tables.slots);
	q->tables = (struct qcow2_set){ 0 };
}

static bool overlaps(uint64_t a, uint64_t n_a, uint64_t b, uint64_t n_b)
{
	return a < b + n_b && b < a + n_a;
}

bool qcow2_is_in_tables(const struct qcow2 *q, uint64_t offset, uint64_t n_bytes)
{
	if (offset < q->cluster_bytes || overlaps(offset, n_bytes, q->l1.offset_bytes, q->l1.n * 8) ||
	    overlaps(offset, n_bytes, q->refcount_table.offset_bytes, q->refcount_table.n * 8))
		return true;
	uint64_t end = (offset + n_bytes + q->cluster_bytes - 1) >> q->cluster_bits;
	for (uint64_t c = offset >> q->cluster_bits; q->tables.n && c < end; c++) {
		if (*find(&q->tables, c))
			return true;
	}
	return false;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "bus/bus.h"

#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 16u
#define MAX_ACCESS_BYTES 8u

void bus_init(struct bus *b)
{
	*b = (struct bus){ 0 };
}

void bus_done(struct bus *b)
{
	if (!b)
		return;
	free(b->ranges);
	*b = (struct bus){ 0 };
}

/* Of the last range that starts at or below the address; 0 when there is none such. The loop's one branch is its end:
 * what it compares becomes a conditional move. */
static size_t index_at_or_below(const struct bus *b, uint64_t address)
{
	size_t first = 0;
	size_t n = b->n_ranges;

	while (n > 1) {
		size_t half = n / 2;
		first = b->ranges[first + half].start <= address ? first + half : first;
		n -= half;
	}
	return first;
}

static const struct bus_range *find(const struct bus *b, uint64_t address, unsigned n_bytes)
{
	assert(n_bytes >= 1 && n_bytes <= MAX_ACCESS_BYTES);
	if (b->n_ranges == 0)
		return NULL;

	const struct bus_range *r = &b->ranges[index_at_or_below(b, address)];
	if (address < r->start)
		return NULL;
	uint64_t offset = address - r->start;
	if (offset >= r->n_bytes || r->n_bytes - offset < n_bytes)
		return NULL;
	return r;
}

static int grow(struct bus *b, struct err *e)
{
	if (b->n_ranges < b->n_capacity)
		return 0;
	size_t n = b->n_capacity ? 2 * b->n_capacity : FIRST_CAPACITY;
	struct bus_range *ranges = reallocarray(b->ranges, n, sizeof *ranges);
	if (!ranges)
		return err_set(e, ENOMEM, "bus: no memory for %zu ranges", n);
	b->ranges = ranges;
	b->n_capacity = n;
	return 0;
}

int bus_add(struct bus *b, const struct bus_range *r, struct err *e)
{
	assert(r->ops && r->name);
	if (r->n_bytes == 0 || r->n_bytes - 1 > UINT64_MAX - r->start)
		return err_set(e, EINVAL, "bus: cannot add '%s' at 0x%" PRIx64 ": 0x%" PRIx64 " bytes are no range", r->name,
		               r->start, r->n_bytes);

	/* Where it goes: behind all that start below it. Only its two neighbours can overlap it. */
	size_t at = 0;
	if (b->n_ranges > 0) {
		at = index_at_or_below(b, r->start);
		at += b->ranges[at].start <= r->start;
	}
	const struct bus_range *other = NULL;
	if (at > 0 && r->start - b->ranges[at - 1].start < b->ranges[at - 1].n_bytes)
		other = &b->ranges[at - 1];
	else if (at < b->n_ranges && b->ranges[at].start - r->start < r->n_bytes)
		other = &b->ranges[at];
	if (other)
		return err_set(e, EEXIST,
		               "bus: cannot add '%s' at 0x%" PRIx64 " (0x%" PRIx64 " bytes): '%s' is at 0x%" PRIx64 " (0x%" PRIx64
		               " bytes)",
		               r->name, r->start, r->n_bytes, other->name, other->start, other->n_bytes);

	int rc = grow(b, e);
	if (rc < 0)
		return rc;
	memmove(&b->ranges[at + 1], &b->ranges[at], (b->n_ranges - at) * sizeof b->ranges[0]);
	b->ranges[at] = *r;
	b->n_ranges++;
	return 0;
}

void bus_remove(struct bus *b, uint64_t start)
{
	if (b->n_ranges == 0)
		return;
	size_t at = index_at_or_below(b, start);
	if (b->ranges[at].start != start)
		return;
	b->n_ranges--;
	memmove(&b->ranges[at], &b->ranges[at + 1], (b->n_ranges - at) * sizeof b->ranges[0]);
}

bool bus_read(const struct bus *b, uint64_t address, uint8_t *ret_bytes, unsigned n_bytes)
{
	const struct bus_range *r = find(b, address, n_bytes);
	if (!r || !r->ops->read) {
		memset(ret_bytes, 0xff, n_bytes);
		return r != NULL;
	}
	memset(ret_bytes, 0, n_bytes);
	r->ops->read(r->context, address - r->start, ret_bytes, n_bytes);
	return true;
}

bool bus_write(const struct bus *b, uint64_t address, const uint8_t *bytes, unsigned n_bytes)
{
	const struct bus_range *r = find(b, address, n_bytes);
	if (!r)
		return false;
	if (r->ops->write)
		r->ops->write(r->context, address - r->start, bytes, n_bytes);
	return true;
}

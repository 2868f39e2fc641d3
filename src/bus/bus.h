/* SPDX-License-Identifier: Apache-2.0 */
/* bus.h - who answers at an address: one table for memory-mapped registers, one for ports.
 *
 * The table changes only while no vCPU runs; look-ups take no lock. Handlers run on vCPU threads, several at once: a
 * device takes its own lock, a leaf under which nothing blocks and nothing is called back. The guest chooses address,
 * width and data; the bus guarantees to a handler that 1 <= n_bytes <= 8 and offset + n_bytes <= the range's size. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

struct bus_device; /* the owner's struct; handlers get it back as `context` */

struct bus_ops {
	/* ret_bytes is zeroed before; leaving it alone reads zeroes. NULL: reads all ones. */
	void (*read)(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes);
	/* NULL: writes are ignored. */
	void (*write)(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes);
};

struct bus_range {
	uint64_t start, n_bytes;
	const struct bus_ops *ops;
	void *context;
	const char *name; /* for logs and errors; borrowed */
};

struct bus {
	struct bus_range *ranges; /* sorted, disjoint */
	size_t n_ranges, n_capacity;
};

void bus_init(struct bus *b);
void bus_done(struct bus *b);
/* -EEXIST with both names in the text when ranges overlap. */
int bus_add(struct bus *b, const struct bus_range *r, struct err *e);
void bus_remove(struct bus *b, uint64_t start); /* the range that starts there; none is no error */

/* False when nobody answers (reads give all ones then). An access that crosses a range's end is split by nobody: it is
 * answered as if nobody were there. */
bool bus_read(const struct bus *b, uint64_t address, uint8_t *ret_bytes, unsigned n_bytes);
bool bus_write(const struct bus *b, uint64_t address, const uint8_t *bytes, unsigned n_bytes);

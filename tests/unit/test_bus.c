/* SPDX-License-Identifier: Apache-2.0 */
#include "bus/bus.h"
#include "test.h"

#include <errno.h>

struct note {
	unsigned n_reads, n_writes;
	uint64_t offset;
	unsigned n_bytes;
	uint8_t bytes[8];
};

static void note_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct note *n = context;
	n->n_reads++;
	n->offset = offset;
	n->n_bytes = n_bytes;
	ret_bytes[0] = 0x5a;
}

static void note_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct note *n = context;
	n->n_writes++;
	n->offset = offset;
	n->n_bytes = n_bytes;
	memcpy(n->bytes, bytes, n_bytes);
}

static const struct bus_ops note_ops = { .read = note_read, .write = note_write };
static const struct bus_ops deaf_ops = { 0 };

static int add(struct bus *b, uint64_t start, uint64_t n_bytes, struct note *n, const char *name, struct err *e)
{
	const struct bus_range r = { start, n_bytes, &note_ops, n, name };
	return bus_add(b, &r, e);
}

TEST(access_reaches_the_range_with_its_offset)
{
	struct bus b;
	struct note a = { 0 }, c = { 0 };
	uint8_t bytes[8] = { 1, 2, 3, 4 };
	bus_init(&b);
	EQ(add(&b, 0x2000, 0x100, &c, "c", NULL), 0);
	EQ(add(&b, 0x1000, 0x1000, &a, "a", NULL), 0);

	OK(bus_write(&b, 0x1ffc, bytes, 4));
	EQ(a.n_writes, 1);
	EQ(a.offset, 0xffc);
	EQ(a.n_bytes, 4);
	MEM_EQ(a.bytes, bytes, 4);
	OK(bus_read(&b, 0x2000, bytes, 2));
	EQ(c.n_reads, 1);
	EQ(c.offset, 0);
	bus_done(&b);
}

TEST(read_is_zeroed_before_the_handler)
{
	struct bus b;
	struct note a = { 0 };
	uint8_t bytes[8];
	const uint8_t expected[8] = { 0x5a };
	bus_init(&b);
	EQ(add(&b, 0, 16, &a, "a", NULL), 0);
	memset(bytes, 0xee, sizeof bytes);
	OK(bus_read(&b, 8, bytes, 8));
	MEM_EQ(bytes, expected, 8);
	bus_done(&b);
}

TEST(nobody_answers_outside_and_across_ends)
{
	struct bus b;
	struct note a = { 0 }, c = { 0 };
	uint8_t bytes[8];
	const uint8_t ones[8] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	bus_init(&b);

	OK(!bus_read(&b, 0, bytes, 1));
	EQ(add(&b, 0x1000, 0x10, &a, "a", NULL), 0);
	EQ(add(&b, 0x1010, 0x10, &c, "c", NULL), 0);
	const struct { uint64_t address; unsigned n_bytes; } misses[] = {
		{ 0xfff, 1 }, { 0xfff, 8 }, { 0x100d, 4 }, { 0x100f, 2 }, { 0x1019, 8 }, { 0x1020, 1 }, { UINT64_MAX, 1 },
		{ UINT64_MAX - 2, 8 },
	};
	for (size_t i = 0; i < sizeof misses / sizeof misses[0]; i++) {
		memset(bytes, 0, sizeof bytes);
		OK(!bus_read(&b, misses[i].address, bytes, misses[i].n_bytes));
		MEM_EQ(bytes, ones, misses[i].n_bytes);
		OK(!bus_write(&b, misses[i].address, bytes, misses[i].n_bytes));
	}
	EQ(a.n_reads + a.n_writes + c.n_reads + c.n_writes, 0);
	bus_done(&b);
}

TEST(overlap_names_both)
{
	struct bus b;
	struct note n = { 0 };
	struct err e = { 0 };
	bus_init(&b);
	EQ(add(&b, 0x1000, 0x1000, &n, "serial", NULL), 0);
	EQ(add(&b, 0x4000, 0x1000, &n, "clock", NULL), 0);
	const struct { uint64_t start, n_bytes; const char *other; } overlaps[] = {
		{ 0x1000, 0x1000, "serial" }, { 0x1fff, 1, "serial" }, { 0x0, 0x1001, "serial" }, { 0x1800, 0x10, "serial" },
		{ 0x0, 0x10000, "serial" },   { 0x3fff, 2, "clock" },  { 0x4fff, 0x100, "clock" },
	};
	for (size_t i = 0; i < sizeof overlaps / sizeof overlaps[0]; i++) {
		EQ(add(&b, overlaps[i].start, overlaps[i].n_bytes, &n, "newcomer", &e), -EEXIST);
		EQ(e.code, EEXIST);
		STR_HAS(e.text, "'newcomer'");
		STR_HAS(e.text, overlaps[i].other);
	}
	EQ(b.n_ranges, 2);
	EQ(add(&b, 0x2000, 0x2000, &n, "between", &e), 0);
	EQ(add(&b, 0x0, 0x1000, &n, "below", &e), 0);
	EQ(add(&b, 0x5000, 1, &n, "above", &e), 0);
	bus_done(&b);
}

TEST(range_must_be_one)
{
	struct bus b;
	struct note n = { 0 };
	struct err e = { 0 };
	uint8_t byte;
	bus_init(&b);
	EQ(add(&b, 0x1000, 0, &n, "empty", &e), -EINVAL);
	EQ(add(&b, UINT64_MAX, 2, &n, "wrapping", &e), -EINVAL);
	STR_HAS(e.text, "wrapping");
	EQ(add(&b, UINT64_MAX - 15, 16, &n, "last", &e), 0);
	OK(bus_read(&b, UINT64_MAX, &byte, 1));
	EQ(n.offset, 15);
	bus_done(&b);
}

TEST(absent_handlers_read_ones_and_ignore_writes)
{
	struct bus b;
	uint8_t bytes[2] = { 0 };
	const struct bus_range r = { 0x10, 2, &deaf_ops, NULL, "deaf" };
	bus_init(&b);
	EQ(bus_add(&b, &r, NULL), 0);
	OK(bus_read(&b, 0x10, bytes, 2));
	EQ(bytes[0], 0xff);
	EQ(bytes[1], 0xff);
	OK(bus_write(&b, 0x10, bytes, 2));
	bus_done(&b);
}

TEST(every_range_of_many_is_found)
{
	enum { N = 100 };
	static struct note notes[N];
	struct bus b;
	uint8_t byte;
	bus_init(&b);
	/* In an order that is neither up nor down. */
	for (unsigned i = 0; i < N; i++) {
		unsigned k = i * 37 % N;
		EQ(add(&b, 0x1000 + 0x20ull * k, 0x10, &notes[k], "n", NULL), 0);
	}
	for (unsigned k = 0; k < N; k++) {
		OK(bus_read(&b, 0x1000 + 0x20ull * k + 0xf, &byte, 1));
		EQ(notes[k].n_reads, 1);
		EQ(notes[k].offset, 0xf);
		OK(!bus_read(&b, 0x1000 + 0x20ull * k + 0x10, &byte, 1));
	}
	for (unsigned i = 0; i < N; i += 2)
		bus_remove(&b, 0x1000 + 0x20ull * i);
	for (unsigned k = 0; k < N; k++)
		EQ(bus_read(&b, 0x1000 + 0x20ull * k, &byte, 1), k % 2 == 1);
	bus_remove(&b, 0x1008); /* no range starts there */
	EQ(b.n_ranges, N / 2);
	bus_done(&b);
	bus_remove(&b, 0);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* AML is a tree in prefix order. A block's length stands before its contents (PkgLength, ACPI 6.5 20.2.4), in one to
 * four bytes; here it always takes three, enough for 1 MiB, so that it can be filled in when the block ends without
 * moving anything. The shortest form is nowhere demanded. */
#include "arch/x86_64/aml.h"

#include "base/checked.h"

#define NAME_OP 0x08
#define BYTE_PREFIX 0x0a
#define WORD_PREFIX 0x0b
#define DWORD_PREFIX 0x0c
#define STRING_PREFIX 0x0d
#define QWORD_PREFIX 0x0e
#define SCOPE_OP 0x10
#define BUFFER_OP 0x11
#define PACKAGE_OP 0x12
#define METHOD_OP 0x14
#define DUAL_NAME_PREFIX 0x2e
#define MULTI_NAME_PREFIX 0x2f
#define EXT_OP_PREFIX 0x5b
#define CREATE_DWORD_FIELD_OP 0x8a
#define IF_OP 0xa0
#define ELSE_OP 0xa1
#define EXT_MUTEX_OP 0x01
#define EXT_ACQUIRE_OP 0x23
#define EXT_RELEASE_OP 0x27
#define EXT_OP_REGION_OP 0x80
#define EXT_FIELD_OP 0x81
#define EXT_DEVICE_OP 0x82

#define METHOD_SERIALIZED 0x08
#define REGION_SYSTEM_MEMORY 0x00
#define FIELD_DWORD_ACCESS 0x03 /* no lock, preserve */
#define WAIT_FOR_EVER 0xffff

#define PKG_LENGTH_BYTES 3u
#define PKG_LENGTH_MAX 0xfffffu
#define SEGMENT_CHARS 4u

static struct aml_mark open_length(struct table_buffer *t)
{
	struct aml_mark m = { .at = t->n_bytes };
	(void)table_grow(t, PKG_LENGTH_BYTES);
	return m;
}

void aml_end(struct table_buffer *t, struct aml_mark m)
{
	if (t->is_overfull)
		return;
	size_t n = t->n_bytes - m.at; /* the length counts itself */
	assert(n >= PKG_LENGTH_BYTES && n <= PKG_LENGTH_MAX);
	/* Lead byte: how many follow, and the low four bits. */
	t->bytes[m.at] = (uint8_t)((PKG_LENGTH_BYTES - 1) << 6 | (n & 0xf));
	t->bytes[m.at + 1] = (uint8_t)(n >> 4);
	t->bytes[m.at + 2] = (uint8_t)(n >> 12);
}

/* One segment, filled up with underscores; returns what follows it. */
static const char *put_segment(struct table_buffer *t, const char *s)
{
	size_t n = strcspn(s, ".");
	assert(n > 0 && n <= SEGMENT_CHARS);
	table_put(t, s, n);
	table_put(t, "____", SEGMENT_CHARS - n);
	return s[n] == '.' ? s + n + 1 : s + n;
}

void aml_path(struct table_buffer *t, const char *path)
{
	if (*path == '\\')
		table_put8(t, (uint8_t)*path++);
	unsigned n = 1;
	for (const char *dot = path; (dot = strchr(dot, '.')) != NULL; dot++)
		n++;
	if (n == 2)
		table_put8(t, DUAL_NAME_PREFIX);
	if (n > 2) {
		assert(n <= UINT8_MAX);
		table_put8(t, MULTI_NAME_PREFIX);
		table_put8(t, (uint8_t)n);
	}
	while (n--)
		path = put_segment(t, path);
	assert(!*path);
}

void aml_integer(struct table_buffer *t, uint64_t v)
{
	static const struct {
		uint8_t prefix, n_bytes;
	} forms[] = { { BYTE_PREFIX, 1 }, { WORD_PREFIX, 2 }, { DWORD_PREFIX, 4 }, { QWORD_PREFIX, 8 } };

	if (v <= 1) {
		table_put8(t, (uint8_t)v); /* ZeroOp, OneOp */
		return;
	}
	size_t i = v <= UINT8_MAX ? 0 : v <= UINT16_MAX ? 1 : v <= UINT32_MAX ? 2 : 3;
	table_put8(t, forms[i].prefix);
	table_put_le(t, forms[i].n_bytes, v);
}

void aml_op(struct table_buffer *t, enum aml_op op)
{
	table_put8(t, (uint8_t)op);
}

/* --- blocks ------------------------------------------------------------------------------------------------------- */

struct aml_mark aml_scope(struct table_buffer *t, const char *path)
{
	table_put8(t, SCOPE_OP);
	struct aml_mark m = open_length(t);
	aml_path(t, path);
	return m;
}

struct aml_mark aml_device(struct table_buffer *t, const char *name)
{
	table_put8(t, EXT_OP_PREFIX);
	table_put8(t, EXT_DEVICE_OP);
	struct aml_mark m = open_length(t);
	aml_path(t, name);
	return m;
}

/* Serialized: methods that create named objects have to be. */
struct aml_mark aml_method(struct table_buffer *t, const char *name, unsigned n_arguments)
{
	assert(n_arguments <= 7);
	table_put8(t, METHOD_OP);
	struct aml_mark m = open_length(t);
	aml_path(t, name);
	table_put8(t, (uint8_t)(n_arguments | METHOD_SERIALIZED));
	return m;
}

struct aml_mark aml_if(struct table_buffer *t)
{
	table_put8(t, IF_OP);
	return open_length(t);
}

struct aml_mark aml_else(struct table_buffer *t)
{
	table_put8(t, ELSE_OP);
	return open_length(t);
}

struct aml_mark aml_package(struct table_buffer *t, unsigned n_elements)
{
	assert(n_elements <= UINT8_MAX);
	table_put8(t, PACKAGE_OP);
	struct aml_mark m = open_length(t);
	table_put8(t, (uint8_t)n_elements);
	return m;
}

/* --- objects ------------------------------------------------------------------------------------------------------ */

void aml_name(struct table_buffer *t, const char *name)
{
	table_put8(t, NAME_OP);
	aml_path(t, name);
}

void aml_name_integer(struct table_buffer *t, const char *name, uint64_t v)
{
	aml_name(t, name);
	aml_integer(t, v);
}

static uint32_t hex_digit(char c)
{
	assert((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'));
	return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* ASL's EISAID (19.6.36): three letters of five bits, four hexadecimal digits, the number byte-swapped. */
void aml_name_eisa_id(struct table_buffer *t, const char *name, const char *id)
{
	uint32_t v = 0;
	assert(strlen(id) == 7);
	for (int i = 0; i < 3; i++)
		v = v << 5 | (uint32_t)(id[i] - '@');
	for (int i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	aml_name_integer(t, name, __builtin_bswap32(v));
}

void aml_name_string(struct table_buffer *t, const char *name, const char *s)
{
	aml_name(t, name);
	table_put8(t, STRING_PREFIX);
	table_put(t, s, strlen(s) + 1);
}

void aml_buffer(struct table_buffer *t, const uint8_t *bytes, size_t n_bytes)
{
	table_put8(t, BUFFER_OP);
	struct aml_mark m = open_length(t);
	aml_integer(t, n_bytes);
	table_put(t, bytes, n_bytes);
	aml_end(t, m);
}

static int uuid_nibble(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool aml_parse_uuid(const char *uuid, uint8_t ret_bytes[16])
{
	/* Where the text's bytes go: its first three numbers are little-endian. */
	static const uint8_t order[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	uint8_t bytes[16];

	for (size_t i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10) {
			if (*uuid++ != '-')
				return false;
		}
		int high = uuid_nibble(uuid[0]);
		int low = high < 0 ? -1 : uuid_nibble(uuid[1]);
		if (low < 0)
			return false;
		bytes[order[i]] = (uint8_t)(high << 4 | low);
		uuid += 2;
	}
	if (*uuid)
		return false;
	memcpy(ret_bytes, bytes, sizeof bytes);
	return true;
}

void aml_uuid(struct table_buffer *t, const char *uuid)
{
	uint8_t bytes[16];
	bool is_uuid = aml_parse_uuid(uuid, bytes);
	assert(is_uuid);
	aml_buffer(t, bytes, sizeof bytes);
}

void aml_create_dword_field(struct table_buffer *t, enum aml_op buffer, unsigned offset, const char *name)
{
	table_put8(t, CREATE_DWORD_FIELD_OP);
	aml_op(t, buffer);
	aml_integer(t, offset);
	aml_path(t, name);
}

static void put_extended(struct table_buffer *t, uint8_t op)
{
	table_put8(t, EXT_OP_PREFIX);
	table_put8(t, op);
}

void aml_memory_registers(struct table_buffer *t, const char *region, uint64_t address, const char *const fields[],
                          unsigned n_fields)
{
	put_extended(t, EXT_OP_REGION_OP);
	aml_path(t, region);
	table_put8(t, REGION_SYSTEM_MEMORY);
	aml_integer(t, address);
	aml_integer(t, 4 * (uint64_t)n_fields);

	put_extended(t, EXT_FIELD_OP);
	struct aml_mark m = open_length(t);
	aml_path(t, region);
	table_put8(t, FIELD_DWORD_ACCESS);
	for (unsigned i = 0; i < n_fields; i++) {
		(void)put_segment(t, fields[i]);
		table_put8(t, 32); /* bits, as a PkgLength */
	}
	aml_end(t, m);
}

void aml_mutex(struct table_buffer *t, const char *name)
{
	put_extended(t, EXT_MUTEX_OP);
	aml_path(t, name);
	table_put8(t, 0); /* synchronization level: no other is taken with it */
}

void aml_acquire(struct table_buffer *t, const char *path)
{
	put_extended(t, EXT_ACQUIRE_OP);
	aml_path(t, path);
	table_put16(t, WAIT_FOR_EVER);
}

void aml_release(struct table_buffer *t, const char *path)
{
	put_extended(t, EXT_RELEASE_OP);
	aml_path(t, path);
}

/* --- resource templates ------------------------------------------------------------------------------------------- */

#define SMALL_IO_PORT 0x47
#define SMALL_END_TAG 0x79
#define LARGE_MEMORY32_FIXED 0x86
#define LARGE_DWORD_SPACE 0x87
#define LARGE_WORD_SPACE 0x88
#define LARGE_INTERRUPT 0x89
#define LARGE_QWORD_SPACE 0x8a

#define IO_DECODE16 0x01
#define MEMORY_READ_WRITE 0x01
#define INTERRUPT_CONSUMER 0x01
#define INTERRUPT_EDGE 0x02 /* active high, exclusive: 0 in their bits */

/* 6.4.3.5: resource types, general flags (a producer; both ends fixed), type flags. */
#define SPACE_MEMORY 0
#define SPACE_IO 1
#define SPACE_BUS 2
#define SPACE_FIXED 0x0c
#define SPACE_IO_ENTIRE_RANGE 0x03
#define SPACE_MEMORY_READ_WRITE 0x01

struct aml_mark aml_resources(struct table_buffer *t)
{
	table_put8(t, BUFFER_OP);
	struct aml_mark m = open_length(t);
	table_put8(t, WORD_PREFIX);
	table_put16(t, 0); /* the buffer's size: filled in at its end */
	return m;
}

void aml_resources_end(struct table_buffer *t, struct aml_mark m)
{
	size_t start = m.at + PKG_LENGTH_BYTES + 3;
	table_put8(t, SMALL_END_TAG);
	table_put8(t, 0); /* no checksum */
	if (t->is_overfull)
		return;
	size_t n = t->n_bytes - start;
	assert(n <= UINT16_MAX);
	put_le16(t->bytes + start - 2, (uint16_t)n);
	aml_end(t, m);
}

void aml_port(struct table_buffer *t, uint16_t start, uint8_t n_bytes)
{
	table_put8(t, SMALL_IO_PORT);
	table_put8(t, IO_DECODE16);
	table_put16(t, start);
	table_put16(t, start);
	table_put8(t, 1); /* alignment */
	table_put8(t, n_bytes);
}

void aml_memory32(struct table_buffer *t, uint32_t start, uint32_t n_bytes)
{
	table_put8(t, LARGE_MEMORY32_FIXED);
	table_put16(t, 9);
	table_put8(t, MEMORY_READ_WRITE);
	table_put32(t, start);
	table_put32(t, n_bytes);
}

void aml_interrupt_edge(struct table_buffer *t, uint32_t gsi)
{
	table_put8(t, LARGE_INTERRUPT);
	table_put16(t, 6);
	table_put8(t, INTERRUPT_CONSUMER | INTERRUPT_EDGE);
	table_put8(t, 1);
	table_put32(t, gsi);
}

/* An address space descriptor with numbers of n_bytes: granularity, first, last, translation, length. */
static void put_space(struct table_buffer *t, uint8_t tag, uint8_t n_bytes, uint8_t type, uint8_t type_flags,
                      uint64_t first, uint64_t last)
{
	assert(first <= last);
	table_put8(t, tag);
	table_put16(t, (uint16_t)(3 + 5 * n_bytes));
	table_put8(t, type);
	table_put8(t, SPACE_FIXED);
	table_put8(t, type_flags);
	table_put_le(t, n_bytes, 0);
	table_put_le(t, n_bytes, first);
	table_put_le(t, n_bytes, last);
	table_put_le(t, n_bytes, 0);
	table_put_le(t, n_bytes, last - first + 1);
}

void aml_bus_numbers(struct table_buffer *t, uint16_t first, uint16_t last)
{
	put_space(t, LARGE_WORD_SPACE, 2, SPACE_BUS, 0, first, last);
}

void aml_port_window(struct table_buffer *t, uint16_t first, uint16_t last)
{
	put_space(t, LARGE_WORD_SPACE, 2, SPACE_IO, SPACE_IO_ENTIRE_RANGE, first, last);
}

void aml_memory_window32(struct table_buffer *t, uint32_t first, uint32_t last)
{
	put_space(t, LARGE_DWORD_SPACE, 4, SPACE_MEMORY, SPACE_MEMORY_READ_WRITE, first, last);
}

void aml_memory_window64(struct table_buffer *t, uint64_t first, uint64_t last)
{
	put_space(t, LARGE_QWORD_SPACE, 8, SPACE_MEMORY, SPACE_MEMORY_READ_WRITE, first, last);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* tables.h - what firmware would have left in memory: ACPI, SMBIOS, MP table, zero page, PVH start info.
 *
 * Each is built in a buffer of ours from trusted numbers and copied to guest memory once; the guest may do with the
 * copy what it likes, nobody reads it again. A table that does not fit its place is an error, never cut. Numbers are
 * little-endian. The thread that builds the VM. */
#pragma once
#include "arch/x86_64/memory_map.h"
#include "base/bytes.h"

#include <assert.h>

struct table_buffer {
	uint8_t *bytes;
	size_t n_bytes, n_capacity;
	bool is_overfull; /* something did not fit and was left out */
};

/* n_bytes more, zeroed; NULL when they do not fit. */
static inline uint8_t *table_grow(struct table_buffer *t, size_t n_bytes)
{
	if (t->is_overfull || n_bytes > t->n_capacity - t->n_bytes) {
		t->is_overfull = true;
		return NULL;
	}
	uint8_t *p = t->bytes + t->n_bytes;
	memset(p, 0, n_bytes);
	t->n_bytes += n_bytes;
	return p;
}

static inline void table_put(struct table_buffer *t, const void *bytes, size_t n_bytes)
{
	uint8_t *p = table_grow(t, n_bytes);
	if (p)
		memcpy(p, bytes, n_bytes);
}

/* The n_bytes low bytes of v. */
static inline void table_put_le(struct table_buffer *t, size_t n_bytes, uint64_t v)
{
	uint8_t *p = table_grow(t, n_bytes);
	if (p)
		put_le(p, n_bytes, v);
}

static inline void table_put8(struct table_buffer *t, uint8_t v)
{
	table_put_le(t, 1, v);
}

static inline void table_put16(struct table_buffer *t, uint16_t v)
{
	table_put_le(t, 2, v);
}

static inline void table_put32(struct table_buffer *t, uint32_t v)
{
	table_put_le(t, 4, v);
}

static inline void table_put64(struct table_buffer *t, uint64_t v)
{
	table_put_le(t, 8, v);
}

/* Zeroes up to a multiple of align. */
static inline void table_align(struct table_buffer *t, size_t align)
{
	(void)table_grow(t, (align - t->n_bytes % align) % align);
}

/* The byte that makes the sum of all 0. */
static inline uint8_t table_checksum(const uint8_t *bytes, size_t n_bytes)
{
	uint8_t sum = 0;
	for (size_t i = 0; i < n_bytes; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)-sum;
}

/* All ACPI tables; the address of the RSDP is X86_ACPI. */
int acpi_write(const struct mem_map *mem, const struct x86_machine *m, struct err *e);
/* Appends the body of the DSDT, which is AML. */
void dsdt_build(struct table_buffer *t, const struct x86_machine *m);

/* At X86_SMBIOS, and the MP table behind it when the machine has no ACPI. */
int smbios_build(struct table_buffer *t, const struct x86_machine *m, struct err *e);
int mptable_build(struct table_buffer *t, uint64_t address, const struct x86_machine *m, struct err *e);

struct boot_data { /* what a kernel is told */
	const struct kernel *kernel;
	const struct e820 *map;
	uint64_t rsdp;                 /* 0: none */
	struct x86_ram_range initramfs; /* n_bytes 0: none */
};

/* At X86_ZERO_PAGE, at X86_START_INFO. */
void zero_page_write(const struct mem_map *mem, const struct boot_data *d);
void start_info_write(const struct mem_map *mem, const struct boot_data *d);

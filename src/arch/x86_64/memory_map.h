/* SPDX-License-Identifier: Apache-2.0 */
/* memory_map.h - guest memory as the guest is told of it, and where boot data lies in the first megabyte.
 *
 * The thread that builds the VM; plain values. */
#pragma once
#include "arch/x86_64/boot.h"

/* Boot data below X86_CMDLINE. The pages are free again once the guest's kernel has read them. */
#define X86_GDT 0x500ull
#define X86_START_INFO 0x6000ull /* PVH: start info, then the module list, then the memory map */
#define X86_ZERO_PAGE 0x7000ull
#define X86_BOOT_STACK 0x8ff0ull
#define X86_PML4 0xa000ull
#define X86_PDPT 0xb000ull
#define X86_PAGE_DIRECTORIES 0xc000ull /* one a GiB, up to 4 */
#define X86_FIRST_MEGABYTE 0x100000ull
#define X86_EBDA_END 0xa0000ull /* where conventional memory ends */

/* The types of INT 15h E820h (ACPI 6.5, 15.1); the PVH memory map has the same. */
enum e820_type { E820_RAM = 1, E820_RESERVED = 2 };

struct e820_entry {
	uint64_t start, n_bytes;
	enum e820_type type;
};

#define E820_MAX (MEM_MAX_REGIONS + 4)

struct e820 {
	struct e820_entry e[E820_MAX];
	unsigned n;
};

/* Sorted and disjoint. */
void e820_build(const struct mem_map *mem, const struct x86_machine *m, struct e820 *ret_map);
/* The end of RAM below 4 GiB. */
uint64_t low_ram_end(const struct mem_map *mem);

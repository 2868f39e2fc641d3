/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/x86_64/memory_map.h"

#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#define GIB (1ull << 30)
#define PCI_HIGH_STEP (4 * GIB)
/* Twice that is within the 10 TiB behind its RAM for which Linux, with KASLR, keeps addresses
 * (CONFIG_RANDOMIZE_MEMORY_PHYSICAL_PADDING). PCI comes first: simple guests map no more than 512 GiB. */
#define MAX_WINDOW (4096 * GIB)
/* At the top of the address space: 64 KiB that nobody uses, below it 1 MiB for platform devices. */
#define PLATFORM_BYTES (0x10000ull + 0x100000ull)
#define ENGINE_BYTES 0x4000ull /* X86_TSS and X86_IDENTITY_MAP */
#define MIN_PHYS_BITS 32
#define MAX_PHYS_BITS 52

void x86_ram_layout(uint64_t n_total_bytes, struct x86_ram_range ret_ranges[2], size_t *ret_n)
{
	uint64_t n_low = min_u64(n_total_bytes, X86_LOW_RAM_END);
	ret_ranges[0] = (struct x86_ram_range){ .start = GPA(0), .n_bytes = n_low };
	ret_ranges[1] = (struct x86_ram_range){ .start = GPA(X86_HIGH_RAM_START), .n_bytes = n_total_bytes - n_low };
	*ret_n = n_total_bytes > n_low ? 2 : 1;
}

unsigned x86_phys_bits(const struct hv_cpuid *supported, unsigned max_phys_bits)
{
	unsigned bits = 36; /* of a CPU without the leaf */
	for (size_t i = 0; i < supported->n; i++) {
		if (supported->e[i].leaf == 0x80000008)
			bits = supported->e[i].eax & 0xff;
	}
	if (max_phys_bits && bits > max_phys_bits)
		bits = max_phys_bits;
	if (bits < MIN_PHYS_BITS)
		return MIN_PHYS_BITS;
	return bits > MAX_PHYS_BITS ? MAX_PHYS_BITS : bits;
}

int x86_pci_layout(uint64_t ram_end, unsigned n_phys_bits, struct x86_machine *m, struct err *e)
{
	assert(n_phys_bits >= MIN_PHYS_BITS && n_phys_bits <= MAX_PHYS_BITS);
	uint64_t end = align_down((1ull << n_phys_bits) - PLATFORM_BYTES, PCI_HIGH_STEP);
	uint64_t start;

	if (!checked_align_up(max_u64(ram_end, X86_HIGH_RAM_START), PCI_HIGH_STEP, &start) || start >= end)
		return err_set(e, ENOSPC,
		               "memory: it ends at 0x%" PRIx64 ", which leaves no room for PCI devices in %u physical "
		               "address bits", ram_end, n_phys_bits);
	m->pci.low_start = X86_PCI_LOW_START;
	m->pci.low_bytes = X86_PCI_LOW_BYTES;
	uint64_t n_device = min_u64(align_down((end - start) / 2, PCI_HIGH_STEP), MAX_WINDOW);
	m->pci.high_start = start;
	m->pci.high_bytes = min_u64(end - start - n_device, MAX_WINDOW);
	m->device_memory.start = start + m->pci.high_bytes;
	m->device_memory.n_bytes = n_device;
	m->pci.ecam = X86_ECAM;
	return 0;
}

uint64_t low_ram_end(const struct mem_map *mem)
{
	uint64_t end = 0;
	for (size_t i = 0; i < mem->n_regions; i++) {
		const struct mem_region *r = &mem->regions[i];
		if (r->start.v < X86_HIGH_RAM_START)
			end = r->start.v + r->n_bytes;
	}
	return end;
}

static void add(struct e820 *map, uint64_t start, uint64_t end, enum e820_type type)
{
	if (start >= end)
		return;
	assert(map->n < E820_MAX);
	map->e[map->n++] = (struct e820_entry){ .start = start, .n_bytes = end - start, .type = type };
}

/* Between RAM below and RAM above 4 GiB. */
static void add_platform(struct e820 *map, const struct x86_machine *m)
{
	if (m->has_pci)
		add(map, m->pci.ecam, m->pci.ecam + X86_ECAM_BYTES, E820_RESERVED);
	add(map, X86_TSS, X86_TSS + ENGINE_BYTES, E820_RESERVED);
}

void e820_build(const struct mem_map *mem, const struct x86_machine *m, struct e820 *ret_map)
{
	bool has_platform = false;

	ret_map->n = 0;
	for (size_t i = 0; i < mem->n_regions; i++) {
		uint64_t start = mem->regions[i].start.v, end = start + mem->regions[i].n_bytes;
		if (start == 0) {
			add(ret_map, 0, min_u64(end, X86_EBDA_END), E820_RAM);
			add(ret_map, X86_ACPI, X86_FIRST_MEGABYTE, E820_RESERVED);
			start = X86_FIRST_MEGABYTE;
		}
		if (start >= X86_HIGH_RAM_START && !has_platform) {
			add_platform(ret_map, m);
			has_platform = true;
		}
		add(ret_map, start, end, E820_RAM);
	}
	if (!has_platform)
		add_platform(ret_map, m);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The PVH start info, version 1 (Xen, public/arch-x86/hvm/start_info.h), its module list and its memory map, one after
 * the other in one page. */
#include "arch/x86_64/payload.h"
#include "arch/x86_64/tables.h"

#include <assert.h>

#define HVM_START_MAGIC_VALUE 0x336ec578u
#define HVM_START_INFO_VERSION 1u
#define START_INFO_BYTES 56u
#define MODULE_BYTES 32u
#define MEMMAP_ENTRY_BYTES 24u
#define MODULES (X86_START_INFO + 0x40)
#define MEMMAP (X86_START_INFO + 0x80)

_Static_assert(START_INFO_BYTES <= 0x40 && MODULE_BYTES <= 0x40, "overlap");
_Static_assert(MEMMAP + E820_MAX * MEMMAP_ENTRY_BYTES <= X86_ZERO_PAGE, "overlap");

void start_info_write(const struct mem_map *mem, const struct boot_data *d)
{
	uint8_t bytes[MEMMAP - X86_START_INFO + E820_MAX * MEMMAP_ENTRY_BYTES];
	struct table_buffer t = { .bytes = bytes, .n_capacity = sizeof bytes };
	bool has_module = d->initramfs.n_bytes > 0;

	table_put32(&t, HVM_START_MAGIC_VALUE);
	table_put32(&t, HVM_START_INFO_VERSION);
	table_put32(&t, 0); /* flags: not the initial domain */
	table_put32(&t, has_module ? 1 : 0);
	table_put64(&t, has_module ? MODULES : 0);
	table_put64(&t, X86_CMDLINE);
	table_put64(&t, d->rsdp);
	table_put64(&t, MEMMAP);
	table_put32(&t, d->map->n);
	table_put32(&t, 0);
	assert(t.n_bytes == START_INFO_BYTES);

	table_align(&t, MODULES - X86_START_INFO);
	table_put64(&t, d->initramfs.start.v);
	table_put64(&t, d->initramfs.n_bytes);
	table_put64(&t, 0); /* no command line of its own */
	table_put64(&t, 0);

	table_align(&t, MEMMAP - X86_START_INFO);
	for (unsigned i = 0; i < d->map->n; i++) {
		table_put64(&t, d->map->e[i].start);
		table_put64(&t, d->map->e[i].n_bytes);
		table_put32(&t, d->map->e[i].type);
		table_put32(&t, 0);
	}
	bool is_ram = !t.is_overfull && mem_write(mem, GPA(X86_START_INFO), t.bytes, t.n_bytes);
	assert(is_ram);
}

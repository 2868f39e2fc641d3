/* SPDX-License-Identifier: Apache-2.0 */
/* The zero page, struct boot_params (Linux, Documentation/arch/x86/zero-page.rst and boot.rst). */
#include "arch/x86_64/payload.h"
#include "arch/x86_64/setup_header.h"
#include "arch/x86_64/tables.h"
#include "base/bytes.h"
#include "base/checked.h"

#include <assert.h>

#define E820_ENTRY_BYTES 20

/* A vmlinux has no setup header; these are the fields by which Linux knows that a boot loader filled the page. */
static void put_own_header(uint8_t *page)
{
	put_le16(page + SETUP_BOOT_FLAG, SETUP_BOOT_FLAG_VALUE);
	put_le32(page + SETUP_HEADER, SETUP_MAGIC);
	put_le16(page + SETUP_VERSION, 0x20c);
	page[SETUP_LOADFLAGS] = SETUP_LOADED_HIGH;
	put_le32(page + SETUP_CMDLINE_SIZE, X86_CMDLINE_MAX_BYTES - 1);
	put_le32(page + SETUP_KERNEL_ALIGNMENT, 0x1000000);
}

static void put_kernel_header(uint8_t *page, const struct kernel *k)
{
	/* Longer than we know of is possible; its room ends where other fields begin. */
	memcpy(page + SETUP_SECTS, k->setup, min_u64(k->n_setup_bytes, ZERO_PAGE_HEADER_END - SETUP_SECTS));
	page[SETUP_LOADFLAGS] = (uint8_t)(page[SETUP_LOADFLAGS] & ~SETUP_CAN_USE_HEAP);
	put_le16(page + SETUP_HEAP_END_PTR, 0);
	/* The boot loader's to say: we have none of these. */
	put_le32(page + SETUP_HARDWARE_SUBARCH, 0);
	put_le64(page + SETUP_SETUP_DATA, 0);
}

void zero_page_write(const struct mem_map *mem, const struct boot_data *d)
{
	uint8_t page[ZERO_PAGE_BYTES];

	memset(page, 0, sizeof page);
	if (d->kernel->setup)
		put_kernel_header(page, d->kernel);
	else
		put_own_header(page);
	page[SETUP_TYPE_OF_LOADER] = SETUP_LOADER_UNKNOWN;
	page[SETUP_EXT_LOADER_VER] = page[SETUP_EXT_LOADER_TYPE] = 0;
	put_le16(page + SETUP_VID_MODE, SETUP_VID_MODE_NORMAL);
	put_le32(page + SETUP_CMD_LINE_PTR, (uint32_t)X86_CMDLINE);
	/* Low RAM: address and size fit 32 bits. */
	put_le32(page + SETUP_RAMDISK_IMAGE, (uint32_t)d->initramfs.start.v);
	put_le32(page + SETUP_RAMDISK_SIZE, (uint32_t)d->initramfs.n_bytes);
	put_le64(page + ZERO_PAGE_ACPI_RSDP_ADDR, d->rsdp);

	assert(d->map->n <= ZERO_PAGE_E820_MAX);
	page[ZERO_PAGE_E820_ENTRIES] = (uint8_t)d->map->n;
	for (unsigned i = 0; i < d->map->n; i++) {
		uint8_t *p = page + ZERO_PAGE_E820_TABLE + i * E820_ENTRY_BYTES;
		put_le64(p, d->map->e[i].start);
		put_le64(p + 8, d->map->e[i].n_bytes);
		put_le32(p + 16, d->map->e[i].type);
	}
	bool is_ram = mem_write(mem, GPA(X86_ZERO_PAGE), page, sizeof page);
	assert(is_ram);
}

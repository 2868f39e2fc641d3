/* SPDX-License-Identifier: Apache-2.0 */
/* The order of a boot's data. What may be wrong with the user's files is found first: kernel, initramfs, command line;
 * then come our own tables. Nothing is undone after an error: the caller throws the memory away. */
#include "arch/x86_64/boot.h"

#include "arch/x86_64/payload.h"
#include "arch/x86_64/tables.h"
#include "base/checked.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

/* The first megabyte, which is ours, and one in which something could start. */
#define MIN_LOW_RAM_BYTES 0x200000ull

#define ARM64_IMAGE_MAGIC 0x38 /* Linux, Documentation/arch/arm64/booting.rst */

static int load_kernel(const struct mem_map *mem, const struct payload_file *f, struct payload_head *ret_head,
                       struct kernel *ret_k, struct err *e)
{
	ret_head->n_bytes = (size_t)min_u64(f->n_bytes, sizeof ret_head->bytes);
	int rc = payload_read(f, 0, ret_head->bytes, ret_head->n_bytes, e);
	if (rc < 0)
		return rc;
	if (elf_is(ret_head))
		return elf_load(mem, f, ret_head, ret_k, e);
	if (bzimage_is(ret_head))
		return bzimage_load(mem, f, ret_head, ret_k, e);
	if (ret_head->n_bytes >= ARM64_IMAGE_MAGIC + 4 &&
	    memcmp(ret_head->bytes + ARM64_IMAGE_MAGIC, "ARM\x64", 4) == 0)
		return err_set(e, EINVAL, "%s: a kernel for arm64, not for x86-64", f->label);
	return err_set(e, EINVAL, "%s: neither an ELF file nor a bzImage", f->label);
}

/* Where a PC's firmware begins. With hardware-reduced ACPI Linux takes the machine for one with EFI and, where there is
 * none, reboots by a jump to the firmware: this one asks for the reset. */
static void write_reset_vector(const struct mem_map *mem)
{
	static const uint8_t code[] = {
		0xba, X86_PORT_POWER & 0xff, X86_PORT_POWER >> 8, /* mov dx, the reset register */
		0xb0, X86_POWER_RESET,                            /* mov al, reset */
		0xee,                                             /* out dx, al */
		0xf4, 0xeb, 0xfd,                                 /* hlt; jmp to it */
	};
	bool is_ram = mem_write(mem, GPA(X86_RESET_VECTOR), code, sizeof code);
	assert(is_ram);
}

/* SMBIOS and MP table have to be found by scanning from X86_SMBIOS on. */
static int write_scanned_tables(const struct mem_map *mem, const struct x86_machine *m, struct err *e)
{
	free_scoped uint8_t *bytes = malloc(X86_FIRST_MEGABYTE - X86_SMBIOS);
	if (!bytes)
		return err_set(e, ENOMEM, "boot: no memory for the SMBIOS tables");
	struct table_buffer t = { .bytes = bytes, .n_capacity = X86_RESET_VECTOR - X86_SMBIOS };

	int rc = smbios_build(&t, m, e);
	if (rc == 0 && !m->has_acpi) {
		table_align(&t, 16);
		rc = mptable_build(&t, X86_SMBIOS + t.n_bytes, m, e);
	}
	if (rc < 0)
		return rc;
	bool is_ram = mem_write(mem, GPA(X86_SMBIOS), t.bytes, t.n_bytes);
	assert(is_ram);
	write_reset_vector(mem);
	return 0;
}

static int load_payload(const struct mem_map *mem, const struct payload_file *f, const struct x86_payload *p,
                        const struct x86_machine *m, struct x86_entry *ret_entry, struct err *e)
{
	struct payload_head head;
	struct kernel k = { 0 };
	struct e820 map;
	struct boot_data d = { .kernel = &k, .map = &map, .rsdp = m->has_acpi ? X86_ACPI : 0 };

	int rc = load_kernel(mem, f, &head, &k, e);
	if (rc == 0 && p->initramfs)
		rc = initramfs_load(mem, p->initramfs, &k, &d.initramfs, e);
	if (rc == 0)
		rc = cmdline_write(mem, p->cmdline, m, &k, f->label, e);
	if (rc == 0 && m->has_acpi)
		rc = acpi_write(mem, m, e);
	if (rc == 0)
		rc = write_scanned_tables(mem, m, e);
	if (rc < 0)
		return rc;

	e820_build(mem, m, &map);
	if (k.protocol == X86_BOOT_PVH)
		start_info_write(mem, &d);
	else
		zero_page_write(mem, &d);
	*ret_entry = (struct x86_entry){
		.protocol = k.protocol,
		.entry = k.entry,
		.parameters = GPA(k.protocol == X86_BOOT_PVH ? X86_START_INFO : X86_ZERO_PAGE),
	};
	return 0;
}

int x86_boot_load(const struct mem_map *mem, const struct x86_payload *p, const struct x86_machine *m,
                  struct x86_entry *ret_entry, struct err *e)
{
	struct payload_file f;
	struct span unused;

	assert(p->kernel && m->n_vcpus > 0 && m->n_mmio <= X86_MAX_MMIO_DEVICES);
	if (!mem_span(mem, GPA(0), MIN_LOW_RAM_BYTES, &unused))
		return err_set(e, ENOSPC, "memory: a guest needs at least %" PRIu64 " MiB in one piece from address 0",
		               (uint64_t)(MIN_LOW_RAM_BYTES >> 20));
	int rc = payload_open(&f, "kernel", p->kernel, e);
	if (rc < 0)
		return rc;
	rc = load_payload(mem, &f, p, m, ret_entry, e);
	payload_close(&f);
	return rc;
}

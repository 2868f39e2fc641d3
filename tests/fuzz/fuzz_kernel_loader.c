/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel files: whatever is in them, loading ends with an error that has a text, or with an entry in guest memory. The
 * last byte chooses the machine: bit 0 ACPI, bit 1 memory above 4 GiB, bit 2 an initramfs of the same bytes. */
#include "arch/x86_64/boot.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ull << 20)

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void add(struct mem_map *mem, uint64_t start, uint64_t n_bytes)
{
	struct err e;
	check(mem_map_add(mem, &(struct mem_region_params){ .start = GPA(start), .n_bytes = n_bytes }, &e) == 0);
}

static void load(const char *path, unsigned flags)
{
	struct mem_map mem;
	struct err e = { 0 };
	struct x86_entry entry = { 0 };
	struct x86_machine m = { .n_vcpus = 2, .topology = { 1, 1, 1, 1 }, .has_acpi = flags & 1, .has_pci = true };
	struct x86_payload p = { .kernel = path, .initramfs = flags & 4 ? path : NULL, .cmdline = "quiet -- x" };
	struct span unused;

	mem_map_init(&mem);
	add(&mem, 0, 32 * MIB);
	if (flags & 2)
		add(&mem, X86_HIGH_RAM_START, 4 * MIB);
	check(x86_pci_layout(X86_HIGH_RAM_START, 40, &m, &e) == 0);
	int rc = x86_boot_load(&mem, &p, &m, &entry, &e);
	if (rc < 0) {
		check(e.text[0] && rc == -e.code);
	} else {
		check(entry.entry.v >= MIB && mem_span(&mem, entry.entry, 1, &unused));
		check(entry.parameters.v < MIB);
	}
	mem_map_done(&mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	char path[40];
	if (n_bytes == 0)
		return 0;
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	check(fd >= 0 && write(fd, data, n_bytes) == (ssize_t)n_bytes);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	load(path, data[n_bytes - 1]);
	(void)close(fd);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* boot_kit.h - for the tests of arch/x86_64: guest memory, files that exist only in memory, a machine to describe. */
#pragma once
#include "arch/x86_64/boot.h"
#include "base/bytes.h"
#include "test.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ull << 20)

static inline struct mem_map kit_map(uint64_t n_low_bytes, uint64_t n_high_bytes)
{
	struct mem_map mem;
	struct err e = { 0 };
	mem_map_init(&mem);
	OK(mem_map_add(&mem, &(struct mem_region_params){ .start = GPA(0), .n_bytes = n_low_bytes }, &e) == 0);
	if (n_high_bytes)
		OK(mem_map_add(&mem,
		               &(struct mem_region_params){ .start = GPA(X86_HIGH_RAM_START), .n_bytes = n_high_bytes },
		               &e) == 0);
	return mem;
}

static inline struct x86_machine kit_machine(unsigned n_vcpus)
{
	struct x86_machine m = {
		.n_vcpus = n_vcpus,
		.topology = { 1, 1, 1, 1 },
		.max_phys_bits = 46,
		.has_acpi = true,
		.has_pci = true,
		.has_serial = true,
		.has_split_irqchip = true,
	};
	struct err e;
	OK(x86_pci_layout(X86_HIGH_RAM_START, 40, &m, &e) == 0);
	return m;
}

static inline void kit_read(const struct mem_map *mem, uint64_t gpa, void *ret_bytes, size_t n_bytes)
{
	OK(mem_read(mem, GPA(gpa), ret_bytes, n_bytes));
}

static inline uint64_t kit_read_le(const struct mem_map *mem, uint64_t gpa, size_t n_bytes)
{
	uint8_t bytes[8];
	kit_read(mem, gpa, bytes, n_bytes);
	return get_le(bytes, n_bytes);
}

/* A file in memory, with a path to it. */
struct kit_file {
	int fd;
	char path[40];
};

static inline struct kit_file kit_file(const void *bytes, size_t n_bytes)
{
	struct kit_file f = { .fd = memfd_create("kit", MFD_CLOEXEC) };
	OK(f.fd >= 0);
	OK(write(f.fd, bytes, n_bytes) == (ssize_t)n_bytes);
	(void)snprintf(f.path, sizeof f.path, "/proc/self/fd/%d", f.fd);
	return f;
}

static inline void kit_file_done(struct kit_file *f)
{
	(void)close(f->fd);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* tiny_kernel.h - a kernel of a few instructions (hv_box.h's GUEST), entered in flat 32-bit mode by its PVH note. */
#pragma once
#include "test.h"

#include <elf.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#define TINY_LOAD 0x200000u

struct tiny_kernel {
	Elf64_Ehdr header;
	Elf64_Phdr segments[2];
	struct {
		uint32_t n_name, n_desc, type;
		char name[4];
		uint32_t entry;
	} note;
	uint8_t code[256];
};

/* The descriptor of a kernel file that exists in memory only. */
static inline int tiny_kernel_open(const uint8_t *code, const uint8_t *end)
{
	struct tiny_kernel k = {
		.header = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT, .e_entry = TINY_LOAD,
			.e_phoff = offsetof(struct tiny_kernel, segments), .e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2,
		},
		.segments = {
			{ .p_type = PT_LOAD, .p_offset = offsetof(struct tiny_kernel, code), .p_paddr = TINY_LOAD,
			  .p_filesz = sizeof k.code, .p_memsz = sizeof k.code },
			{ .p_type = PT_NOTE, .p_offset = offsetof(struct tiny_kernel, note), .p_filesz = sizeof k.note,
			  .p_align = 4 },
		},
		.note = { .n_name = 4, .n_desc = 4, .type = 18, .name = "Xen", .entry = TINY_LOAD },
	};
	OK((size_t)(end - code) <= sizeof k.code);
	memcpy(k.code, code, (size_t)(end - code));
	int fd = memfd_create("kernel", MFD_CLOEXEC);
	OK(fd >= 0 && write(fd, &k, sizeof k) == (ssize_t)sizeof k);
	return fd;
}

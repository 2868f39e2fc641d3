/* SPDX-License-Identifier: Apache-2.0 */
/* ELF kernels, good and broken, and what a PVH or a 64-bit entry finds in memory. */
#include "arch/x86_64/memory_map.h"
#include "base/checked.h"
#include "boot_kit.h"

#include <elf.h>
#include <sys/stat.h>

#define N_PROGRAM_HEADERS 3
#define CODE_AT 0x1000u  /* in the file */
#define CODE_BYTES 0x800u
#define NOTE_AT 0x1800u
#define LOAD 0x1000000u  /* in memory */
#define IMAGE_BYTES 0x2000u

/* A kernel of one segment with code, one of bss only, and a note. */
struct image {
	Elf64_Ehdr header;
	Elf64_Phdr segments[N_PROGRAM_HEADERS];
	uint8_t more[IMAGE_BYTES - sizeof(Elf64_Ehdr) - N_PROGRAM_HEADERS * sizeof(Elf64_Phdr)];
};

_Static_assert(sizeof(struct image) == IMAGE_BYTES, "no padding");

static uint8_t *at(struct image *i, size_t offset)
{
	return (uint8_t *)i + offset;
}

static size_t put_note(uint8_t *p, const char *name, uint32_t type, const void *desc, uint32_t n_desc)
{
	uint32_t n_name = (uint32_t)strlen(name) + 1;
	put_le32(p, n_name);
	put_le32(p + 4, n_desc);
	put_le32(p + 8, type);
	memcpy(p + 12, name, n_name);
	memcpy(p + 12 + align_up(n_name, 4), desc, n_desc);
	return 12 + align_up(n_name, 4) + align_up(n_desc, 4);
}

static struct image new_image(void)
{
	struct image i = {
		.header = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT, .e_entry = LOAD + 0x40,
			.e_phoff = sizeof(Elf64_Ehdr), .e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = N_PROGRAM_HEADERS,
		},
		.segments = {
			{ .p_type = PT_LOAD, .p_offset = CODE_AT, .p_paddr = LOAD, .p_filesz = CODE_BYTES,
			  .p_memsz = 0x10000 },
			{ .p_type = PT_LOAD, .p_offset = CODE_AT, .p_paddr = LOAD + 0x10000, .p_filesz = 0,
			  .p_memsz = 0x1000 },
			{ .p_type = PT_NOTE, .p_offset = NOTE_AT, .p_align = 4 },
		},
	};
	const uint64_t entry = LOAD + 0x80;
	for (size_t k = 0; k < CODE_BYTES; k++)
		*at(&i, CODE_AT + k) = (uint8_t)(k * 7);
	size_t n = put_note(at(&i, NOTE_AT), "Linux", 257, "abc", 4);
	n += put_note(at(&i, NOTE_AT + n), "Xen", 6, "linux", 6);
	n += put_note(at(&i, NOTE_AT + n), "Xen", 18, &entry, 8);
	i.segments[2].p_filesz = n;
	return i;
}

struct result {
	int rc;
	struct err e;
	struct x86_entry entry;
	struct mem_map mem;
};

static struct result load_bytes(const void *bytes, size_t n, const struct x86_payload *extra, struct mem_map mem)
{
	struct kit_file f = kit_file(bytes, n);
	struct x86_payload p = extra ? *extra : (struct x86_payload){ 0 };
	struct x86_machine m = kit_machine(1);
	struct result r = { .mem = mem };
	p.kernel = f.path;
	r.rc = x86_boot_load(&r.mem, &p, &m, &r.entry, &r.e);
	kit_file_done(&f);
	return r;
}

static struct result load(const struct image *i)
{
	return load_bytes(i, sizeof *i, NULL, kit_map(64 * MIB, 0));
}

#define REFUSED(image, part)                                                   \
	do {                                                                   \
		struct result r_ = load(image);                                \
		EQ(r_.rc < 0, 1);                                              \
		EQ(r_.rc, -r_.e.code);                                         \
		STR_HAS(r_.e.text, part);                                      \
		STR_HAS(r_.e.text, "kernel '/proc/self/fd/");                  \
		mem_map_done(&r_.mem);                                         \
	} while (0)

TEST(a_kernel_with_a_note_is_entered_by_pvh)
{
	struct image i = new_image();
	struct result r = load(&i);
	STR_EQ(r.e.text, "");
	EQ(r.rc, 0);
	EQ(r.entry.protocol, X86_BOOT_PVH);
	EQ(r.entry.entry.v, LOAD + 0x80);
	EQ(r.entry.parameters.v, X86_START_INFO);

	uint8_t bytes[CODE_BYTES];
	kit_read(&r.mem, LOAD, bytes, sizeof bytes);
	MEM_EQ(bytes, at(&i, CODE_AT), CODE_BYTES);
	EQ(kit_read_le(&r.mem, LOAD + CODE_BYTES, 8), 0);

	EQ(kit_read_le(&r.mem, X86_START_INFO, 4), 0x336ec578);
	EQ(kit_read_le(&r.mem, X86_RESET_VECTOR, 8), 0xebf4ee01b00600ba); /* out of the reset register, then hlt */
	EQ(kit_read_le(&r.mem, X86_START_INFO + 4, 4), 1);
	EQ(kit_read_le(&r.mem, X86_START_INFO + 12, 4), 0); /* modules */
	EQ(kit_read_le(&r.mem, X86_START_INFO + 16, 8), 0);
	EQ(kit_read_le(&r.mem, X86_START_INFO + 24, 8), X86_CMDLINE);
	EQ(kit_read_le(&r.mem, X86_START_INFO + 32, 8), X86_ACPI);
	EQ(kit_read_le(&r.mem, X86_START_INFO + 48, 4), 5);
	uint64_t map = kit_read_le(&r.mem, X86_START_INFO + 40, 8);
	static const uint64_t expected[5][3] = {
		{ 0, 0xa0000, 1 }, { 0xe0000, 0x20000, 2 }, { 0x100000, 63 * MIB, 1 }, { X86_ECAM, X86_ECAM_BYTES, 2 },
		{ X86_TSS, 0x4000, 2 },
	};
	for (size_t k = 0; k < 5; k++) {
		EQ(kit_read_le(&r.mem, map + 24 * k, 8), expected[k][0]);
		EQ(kit_read_le(&r.mem, map + 24 * k + 8, 8), expected[k][1]);
		EQ(kit_read_le(&r.mem, map + 24 * k + 16, 4), expected[k][2]);
	}
	mem_map_done(&r.mem);
}

TEST(a_note_of_4_bytes_and_of_another_alignment_will_do)
{
	struct image i = new_image();
	const uint32_t entry = LOAD + 0x44;
	i.segments[2].p_filesz = put_note(at(&i, NOTE_AT), "Xen", 18, &entry, 4);
	struct result r = load(&i);
	EQ(r.rc, 0);
	EQ(r.entry.entry.v, entry);
	mem_map_done(&r.mem);

	/* 8-byte alignment, as .note.gnu.property has it: a note of 12 + 4 + 5 bytes takes 24 */
	size_t n = 24;
	(void)put_note(at(&i, NOTE_AT), "GNU", 5, "12345", 5);
	n += put_note(at(&i, NOTE_AT + n), "Xen", 18, &entry, 4);
	i.segments[2].p_filesz = n;
	i.segments[2].p_align = 8;
	r = load(&i);
	STR_EQ(r.e.text, "");
	EQ(r.entry.protocol, X86_BOOT_PVH);
	mem_map_done(&r.mem);
}

TEST(a_kernel_without_a_note_is_entered_in_long_mode)
{
	struct image i = new_image();
	i.segments[2].p_type = PT_NULL;
	struct x86_payload p = { .cmdline = "console=ttyS0" };
	struct result r = load_bytes(&i, sizeof i, &p, kit_map(64 * MIB, 4 * MIB));
	EQ(r.rc, 0);
	EQ(r.entry.protocol, X86_BOOT_LINUX64);
	EQ(r.entry.entry.v, LOAD + 0x40);
	EQ(r.entry.parameters.v, X86_ZERO_PAGE);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x1fe, 2), 0xaa55);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x202, 4), 0x53726448);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x228, 4), X86_CMDLINE);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x70, 8), X86_ACPI);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x1e8, 1), 6);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x2d0 + 5 * 20, 8), X86_HIGH_RAM_START);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x2d0 + 5 * 20 + 8, 8), 4 * MIB);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x2d0 + 5 * 20 + 16, 4), 1);
	char cmdline[14];
	kit_read(&r.mem, X86_CMDLINE, cmdline, sizeof cmdline);
	STR_EQ(cmdline, "console=ttyS0");
	mem_map_done(&r.mem);
}

TEST(headers_that_are_not_an_x86_64_kernel_are_refused)
{
	static const struct {
		size_t offset;
		uint64_t v;
		size_t n;
		const char *part;
	} cases[] = {
		{ EI_CLASS, ELFCLASS32, 1, "class 1, must be 2" },
		{ EI_DATA, ELFDATA2MSB, 1, "not little-endian" },
		{ EI_VERSION, 2, 1, "version must be 1" },
		{ offsetof(Elf64_Ehdr, e_machine), EM_AARCH64, 2, "for machine 183, must be 62" },
		{ offsetof(Elf64_Ehdr, e_type), ET_DYN, 2, "type 3, must be 2" },
		{ offsetof(Elf64_Ehdr, e_version), 0, 4, "version must be 1" },
		{ offsetof(Elf64_Ehdr, e_phentsize), 32, 2, "program headers of 32 bytes" },
		{ offsetof(Elf64_Ehdr, e_phnum), 0, 2, "no program headers" },
		{ offsetof(Elf64_Ehdr, e_phnum), 65, 2, "65 program headers, at most 64" },
		{ offsetof(Elf64_Ehdr, e_phnum), 0xffff, 2, "at most 64" },
		{ offsetof(Elf64_Ehdr, e_phoff), IMAGE_BYTES - 100, 8, "end behind the end of the file" },
		{ offsetof(Elf64_Ehdr, e_phoff), UINT64_MAX - 8, 8, "end behind the end of the file" },
		{ offsetof(Elf64_Ehdr, e_entry), 0, 8, NULL }, /* unused with a note */
	};
	for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
		struct image i = new_image();
		put_le(at(&i, cases[k].offset), cases[k].n, cases[k].v);
		if (cases[k].part) {
			REFUSED(&i, cases[k].part);
		} else {
			struct result r = load(&i);
			EQ(r.rc, 0);
			mem_map_done(&r.mem);
		}
	}
}

TEST(segments_that_cannot_be_are_refused)
{
	static const struct {
		unsigned segment;
		uint64_t offset, paddr, filesz, memsz;
		const char *part;
	} cases[] = {
		{ 0, CODE_AT, LOAD, 0x801, 0x800, "segment 0: more bytes in the file (0x801) than in memory (0x800)" },
		{ 0, IMAGE_BYTES, LOAD, 1, 1, "segment 0: bytes 0x2000+0x1 end behind the end of the file" },
		{ 0, UINT64_MAX, LOAD, 2, 2, "end behind the end of the file" },
		{ 0, 1, LOAD, UINT64_MAX, UINT64_MAX, "end behind the end of the file" },
		{ 0, 0, UINT64_MAX - 0xff, 0x100, 0x101, "passes the end of the address space" },
		{ 0, CODE_AT, LOAD, 0x800, UINT64_MAX - LOAD, "is not all in the guest's memory" },
		{ 0, CODE_AT, 0xff000, 0x800, 0x800, "segment 0: at 0xff000, below 1 MiB" },
		{ 0, CODE_AT, 0, 0x800, 0x800, "below 1 MiB" },
		{ 0, CODE_AT, 64 * MIB - 0x7ff, 0x800, 0x800, "is not all in the guest's memory" },
		{ 0, CODE_AT, 64 * MIB, 0x800, 0x800, "is not all in the guest's memory" },
		{ 0, CODE_AT, 0xfee00000, 0x800, 0x800, "is not all in the guest's memory" },
		{ 1, CODE_AT, LOAD + 0xffff, 0, 1, "segment 1: overlaps segment 0 at 0x100ffff" },
		{ 1, CODE_AT, LOAD - 0x10, 0x11, 0x11, "segment 1: overlaps segment 0 at 0x1000000" },
		{ 1, CODE_AT, LOAD - 0x1000, 0, 0x20000, "segment 1: overlaps segment 0" },
		{ 1, IMAGE_BYTES + 1, LOAD + 0x10000, 0, 0, "segment 1: bytes 0x2001+0x0 end behind" },
		{ 2, IMAGE_BYTES - 4, 0, 8, 8, "segment 2: bytes 0x1ffc+0x8 end behind" },
		{ 2, UINT64_MAX - 3, 0, 8, 8, "segment 2: bytes" },
	};
	for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
		struct image i = new_image();
		Elf64_Phdr *p = &i.segments[cases[k].segment];
		p->p_offset = cases[k].offset;
		p->p_paddr = cases[k].paddr;
		p->p_filesz = cases[k].filesz;
		p->p_memsz = cases[k].memsz;
		REFUSED(&i, cases[k].part);
	}
}

TEST(segments_may_touch_and_may_be_above_4_gib)
{
	struct image i = new_image();
	i.segments[1].p_paddr = X86_HIGH_RAM_START;
	i.segments[1].p_filesz = i.segments[1].p_memsz = 4;
	struct result r = load_bytes(&i, sizeof i, NULL, kit_map(64 * MIB, 4 * MIB));
	STR_EQ(r.e.text, "");
	EQ(kit_read_le(&r.mem, X86_HIGH_RAM_START, 4), get_le32(at(&i, CODE_AT)));
	mem_map_done(&r.mem);

	/* ... but there has to be something below */
	i.segments[0].p_type = PT_NULL;
	r = load_bytes(&i, sizeof i, NULL, kit_map(64 * MIB, 4 * MIB));
	STR_HAS(r.e.text, "no segment to load below 3 GiB");
	mem_map_done(&r.mem);
}

TEST(nothing_to_load_is_refused)
{
	struct image i = new_image();
	i.segments[0].p_memsz = i.segments[0].p_filesz = 0;
	i.segments[1].p_type = PT_NULL;
	REFUSED(&i, "no segment to load");
}

TEST(entries_outside_of_what_was_loaded_are_refused)
{
	static const uint64_t entries[] = { 0, LOAD - 1, LOAD + CODE_BYTES, LOAD + 0x10000, 0xffffffff, UINT64_MAX };
	for (size_t k = 0; k < ARRAY_LEN(entries); k++) {
		struct image i = new_image();
		uint64_t v = entries[k];
		i.segments[2].p_filesz = put_note(at(&i, NOTE_AT), "Xen", 18, &v, 8);
		if (v > UINT32_MAX)
			REFUSED(&i, "is not a 32-bit address");
		else
			REFUSED(&i, "PVH entry 0x");
		i.segments[2].p_type = PT_NULL;
		i.header.e_entry = v;
		REFUSED(&i, "is not in a loaded segment");
	}
}

TEST(notes_that_lie_are_refused)
{
	struct image i = new_image();
	uint64_t v = LOAD;
	put_le32(at(&i, NOTE_AT), 0xfffffff0);
	REFUSED(&i, "note 0: its sizes (4294967280, 4) pass the segment's end");

	i = new_image();
	put_le32(at(&i, NOTE_AT + 4), 0xffffffff);
	REFUSED(&i, "note 0: its sizes (6, 4294967295) pass the segment's end");

	i = new_image();
	i.segments[2].p_filesz -= 1;
	REFUSED(&i, "note 2: its sizes (4, 8) pass the segment's end");

	i = new_image();
	i.segments[2].p_filesz = 8;
	REFUSED(&i, "note 0: the segment ends inside its header");

	i = new_image();
	i.segments[2].p_filesz = put_note(at(&i, NOTE_AT), "Xen", 18, &v, 7);
	REFUSED(&i, "the PVH entry note holds 7 bytes");

	i = new_image();
	i.segments[2].p_filesz = put_note(at(&i, NOTE_AT), "Xen", 18, &v, 0);
	REFUSED(&i, "the PVH entry note holds 0 bytes");

	/* 12 bytes each, sizes 0 */
	static uint8_t many[IMAGE_BYTES + 257 * 12];
	i = new_image();
	i.segments[2].p_offset = IMAGE_BYTES;
	i.segments[2].p_filesz = 257 * 12;
	memcpy(many, &i, sizeof i);
	struct result r = load_bytes(many, sizeof many, NULL, kit_map(64 * MIB, 0));
	STR_HAS(r.e.text, "segment 2: more than 256 notes");
	mem_map_done(&r.mem);
}

TEST(a_note_is_found_behind_a_large_one)
{
	static uint8_t big[IMAGE_BYTES + 100000];
	struct image i = new_image();
	uint64_t v = LOAD + 0x80;
	i.segments[2].p_offset = IMAGE_BYTES;
	i.segments[2].p_filesz = 100000;
	memcpy(big, &i, sizeof i);
	uint8_t *p = big + IMAGE_BYTES;
	put_le32(p, 4);
	put_le32(p + 4, 99000);
	size_t n = 16 + 99000;
	n += put_note(p + n, "Xen", 18, &v, 8);
	put_le32(p + n, 4);
	put_le32(p + n + 4, 0x7fffffff); /* never looked at */
	struct result r = load_bytes(big, sizeof big, NULL, kit_map(64 * MIB, 0));
	STR_EQ(r.e.text, "");
	EQ(r.entry.protocol, X86_BOOT_PVH);
	mem_map_done(&r.mem);
}

TEST(every_truncation_is_refused_or_harmless)
{
	struct image i = new_image();
	for (size_t n = 1; n < sizeof i; n += n < 0x200 ? 1 : 61) {
		struct result r = load_bytes(&i, n, NULL, kit_map(64 * MIB, 0));
		if (r.rc == 0)
			OK(n >= NOTE_AT + i.segments[2].p_filesz);
		else
			OK(r.e.text[0] && r.rc == -r.e.code);
		mem_map_done(&r.mem);
	}
}

/* --- the other files, and memory ---------------------------------------------------------------------------------- */

TEST(an_initramfs_goes_to_the_top_of_low_ram)
{
	struct image i = new_image();
	static uint8_t bytes[5000];
	memset(bytes, 0x5a, sizeof bytes);
	struct kit_file f = kit_file(bytes, sizeof bytes);
	struct x86_payload p = { .initramfs = f.path };
	struct result r = load_bytes(&i, sizeof i, &p, kit_map(64 * MIB, 4 * MIB));
	STR_EQ(r.e.text, "");
	uint64_t list = kit_read_le(&r.mem, X86_START_INFO + 16, 8);
	EQ(kit_read_le(&r.mem, X86_START_INFO + 12, 4), 1);
	EQ(kit_read_le(&r.mem, list, 8), 64 * MIB - 8192);
	EQ(kit_read_le(&r.mem, list + 8, 8), 5000);
	EQ(kit_read_le(&r.mem, 64 * MIB - 8192, 8), 0x5a5a5a5a5a5a5a5a);
	EQ(kit_read_le(&r.mem, 64 * MIB - 8192 + 4999, 1), 0x5a);
	EQ(kit_read_le(&r.mem, 64 * MIB - 8192 + 5000, 1), 0);
	mem_map_done(&r.mem);

	i.segments[2].p_type = PT_NULL;
	r = load_bytes(&i, sizeof i, &p, kit_map(64 * MIB, 0));
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x218, 4), 64 * MIB - 8192);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x21c, 4), 5000);
	mem_map_done(&r.mem);
	kit_file_done(&f);
}

TEST(an_initramfs_that_does_not_fit_is_refused)
{
	struct image i = new_image();
	/* The kernel ends at 0x1011000; memory ends two pages and a bit above. */
	for (unsigned k = 0; k < 2; k++) {
		struct kit_file f = kit_file("x", 1);
		OK(ftruncate(f.fd, k ? 8193 : 8192) == 0);
		struct x86_payload p = { .initramfs = f.path };
		struct result r = load_bytes(&i, sizeof i, &p, kit_map(0x1013000, 64 * MIB));
		EQ(r.rc, k ? -ENOSPC : 0);
		if (k)
			STR_HAS(r.e.text, "initramfs '/proc/self/fd/");
		if (k)
			STR_HAS(r.e.text,
			        "its 0x2001 bytes do not fit in the guest's memory between the end of the kernel "
			        "(0x1011000)");
		mem_map_done(&r.mem);
		kit_file_done(&f);
	}
	struct kit_file huge = kit_file("x", 1);
	OK(ftruncate(huge.fd, INT64_MAX) == 0);
	struct x86_payload p = { .initramfs = huge.path };
	struct result r = load_bytes(&i, sizeof i, &p, kit_map(64 * MIB, 0));
	EQ(r.rc, -ENOSPC);
	mem_map_done(&r.mem);
	kit_file_done(&huge);
}

TEST(files_that_are_not_files_are_refused)
{
	struct x86_machine m = kit_machine(1);
	struct mem_map mem = kit_map(4 * MIB, 0);
	struct x86_entry entry;
	struct err e = { 0 };
	char fifo[] = "/tmp/varan-fifo-XXXXXX";

	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = "/nonexistent/kernel" }, &m, &entry, &e), -ENOENT);
	STR_EQ(e.text, "kernel '/nonexistent/kernel': cannot open: No such file or directory");
	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = "/tmp" }, &m, &entry, &e), -EINVAL);
	STR_EQ(e.text, "kernel '/tmp': not a regular file");
	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = "/dev/zero" }, &m, &entry, &e), -EINVAL);
	OK(mkdtemp(fifo));
	char path[64];
	(void)snprintf(path, sizeof path, "%s/f", fifo);
	OK(mkfifo(path, 0600) == 0);
	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = path }, &m, &entry, &e), -EINVAL);
	STR_HAS(e.text, "not a regular file");
	(void)unlink(path);
	(void)rmdir(fifo);

	struct kit_file f = kit_file("", 0);
	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = f.path }, &m, &entry, &e), -EINVAL);
	STR_HAS(e.text, "the file is empty");
	OK(write(f.fd, "#!/bin/sh\n", 10) == 10);
	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = f.path }, &m, &entry, &e), -EINVAL);
	STR_HAS(e.text, "neither an ELF file nor a bzImage");
	kit_file_done(&f);

	char long_path[300];
	memset(long_path, 'p', sizeof long_path - 1);
	long_path[sizeof long_path - 1] = '\0';
	memcpy(long_path + 280, "/the-end", 9);
	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = long_path }, &m, &entry, &e) < 0, 1);
	STR_HAS(e.text, "kernel '...ppp");
	STR_HAS(e.text, "/the-end': cannot open");

	uint8_t arm[64] = { 0 };
	memcpy(arm + 0x38, "ARM\x64", 4);
	f = kit_file(arm, sizeof arm);
	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = f.path }, &m, &entry, &e), -EINVAL);
	STR_HAS(e.text, "a kernel for arm64");
	kit_file_done(&f);
	mem_map_done(&mem);
}

TEST(memory_that_is_too_small_is_refused)
{
	struct image i = new_image();
	struct result r = load_bytes(&i, sizeof i, NULL, kit_map(MIB, 0));
	EQ(r.rc, -ENOSPC);
	STR_HAS(r.e.text, "at least 2 MiB");
	mem_map_done(&r.mem);
}

TEST(ram_is_laid_out_around_the_devices)
{
	struct x86_ram_range r[2];
	size_t n;
	x86_ram_layout(512 * MIB, r, &n);
	EQ(n, 1);
	EQ(r[0].start.v, 0);
	EQ(r[0].n_bytes, 512 * MIB);
	x86_ram_layout(X86_LOW_RAM_END, r, &n);
	EQ(n, 1);
	x86_ram_layout(X86_LOW_RAM_END + 4096, r, &n);
	EQ(n, 2);
	EQ(r[0].n_bytes, X86_LOW_RAM_END);
	EQ(r[1].start.v, X86_HIGH_RAM_START);
	EQ(r[1].n_bytes, 4096);
}

TEST(the_high_pci_window_is_what_ram_leaves)
{
	struct x86_machine m = { 0 };
	struct err e = { 0 };
	EQ(x86_pci_layout(0x40000000, 46, &m, &e), 0);
	EQ(m.pci.high_start, X86_HIGH_RAM_START);
	EQ(m.pci.high_bytes, 4ull << 40);
	EQ(m.device_memory.start, m.pci.high_start + m.pci.high_bytes);
	EQ(m.device_memory.n_bytes, 4ull << 40);
	EQ(m.pci.low_start + m.pci.low_bytes, X86_ECAM);
	EQ(x86_pci_layout(X86_HIGH_RAM_START + 4096, 40, &m, &e), 0);
	EQ(m.pci.high_start, 2 * X86_HIGH_RAM_START);
	EQ(m.pci.high_bytes, 508ull << 30); /* of 1012 GiB */
	EQ(m.device_memory.start, m.pci.high_start + m.pci.high_bytes);
	EQ(m.device_memory.start + m.device_memory.n_bytes, (1ull << 40) - (4ull << 30));
	/* Where there is little, PCI has it. */
	EQ(x86_pci_layout(52ull << 30, 36, &m, &e), 0);
	EQ(m.pci.high_bytes, 4ull << 30);
	EQ(m.device_memory.n_bytes, 4ull << 30);
	EQ(x86_pci_layout(56ull << 30, 36, &m, &e), 0);
	EQ(m.pci.high_start, 56ull << 30);
	EQ(m.pci.high_bytes, 4ull << 30);
	EQ(m.device_memory.n_bytes, 0);
	EQ(x86_pci_layout(62ull << 30, 36, &m, &e), -ENOSPC);
	STR_HAS(e.text, "no room for PCI devices in 36 physical address bits");
	EQ(x86_pci_layout(UINT64_MAX, 52, &m, &e), -ENOSPC);
}

/* --- the command line --------------------------------------------------------------------------------------------- */

static void check_cmdline(const char *in, const char *expected)
{
	struct image i = new_image();
	struct kit_file f = kit_file(&i, sizeof i);
	struct x86_machine m = kit_machine(1);
	struct mem_map mem = kit_map(64 * MIB, 0);
	struct x86_entry entry;
	struct err e = { 0 };
	char out[512] = { 0 };

	m.has_acpi = false;
	m.has_pci = false;
	m.n_mmio = 2;
	m.mmio[0] = (struct x86_mmio_device){ 0xfec20000, 4096, 10 };
	m.mmio[1] = (struct x86_mmio_device){ 0xfec21000, 4096, 11 };
	EQ(x86_boot_load(&mem, &(struct x86_payload){ .kernel = f.path, .cmdline = in }, &m, &entry, &e), 0);
	kit_read(&mem, X86_CMDLINE, out, sizeof out - 1);
	STR_EQ(out, expected);
	EQ(kit_read_le(&mem, X86_START_INFO + 32, 8), 0);   /* no RSDP */
	EQ(kit_read_le(&mem, X86_ACPI, 8), 0);
	uint8_t scanned[256];
	kit_read(&mem, X86_SMBIOS, scanned, sizeof scanned);
	OK(memmem(scanned, sizeof scanned, "_MP_", 4));
	mem_map_done(&mem);
	kit_file_done(&f);
}

TEST(virtio_devices_are_named_where_there_is_no_acpi)
{
#define WORDS " virtio_mmio.device=4K@0xfec20000:10 virtio_mmio.device=4K@0xfec21000:11"
	check_cmdline(NULL, WORDS);
	check_cmdline("", WORDS);
	check_cmdline("quiet", "quiet" WORDS);
	check_cmdline("quiet -- single", "quiet " WORDS " -- single");
	check_cmdline("quiet --", "quiet " WORDS " --");
	check_cmdline("-- single", WORDS " -- single");
	check_cmdline("a=\"b -- c\" d", "a=\"b -- c\" d" WORDS);
	check_cmdline("a=--b --c ---", "a=--b --c ---" WORDS);
#undef WORDS
}

TEST(a_command_line_that_is_too_long_is_refused)
{
	struct image i = new_image();
	static char cmdline[X86_CMDLINE_MAX_BYTES + 1];
	memset(cmdline, 'x', X86_CMDLINE_MAX_BYTES);
	struct x86_payload p = { .cmdline = cmdline };
	struct result r = load_bytes(&i, sizeof i, &p, kit_map(64 * MIB, 0));
	EQ(r.rc, -E2BIG);
	STR_EQ(r.e.text, "command line: 65536 bytes: with its terminating zero more than the limit of 65536");
	mem_map_done(&r.mem);

	cmdline[X86_CMDLINE_MAX_BYTES - 1] = '\0';
	r = load_bytes(&i, sizeof i, &p, kit_map(64 * MIB, 0));
	EQ(r.rc, 0);
	EQ(kit_read_le(&r.mem, X86_CMDLINE + X86_CMDLINE_MAX_BYTES - 2, 2), 'x');
	mem_map_done(&r.mem);
}

/* A file with holes is as one with zeroes: what is around them arrives, nothing else does. */
TEST(a_kernel_with_holes_is_loaded_around_them)
{
	const uint64_t n_big = 4u << 20, n_last = 3000, data_at = 1u << 20;
	struct image i = new_image();
	i.segments[0].p_offset = 0x10000;
	i.segments[0].p_filesz = i.segments[0].p_memsz = n_big + n_last;
	i.segments[1].p_paddr = LOAD + 2 * n_big;
	struct kit_file f = kit_file(&i, sizeof i);
	EQ(ftruncate(f.fd, (off_t)(0x10000 + n_big + n_last)), 0);
	EQ(pwrite(f.fd, "first", 5, 0x10000), 5);
	EQ(pwrite(f.fd, "middle", 6, (off_t)(0x10000 + data_at)), 6);
	EQ(pwrite(f.fd, "last", 4, (off_t)(0x10000 + n_big + n_last - 4)), 4);

	struct x86_payload p = { .kernel = f.path };
	struct x86_machine m = kit_machine(1);
	struct mem_map mem = kit_map(64 * MIB, 0);
	struct x86_entry entry;
	struct err e = { 0 };
	int rc = x86_boot_load(&mem, &p, &m, &entry, &e);
	STR_EQ(e.text, "");
	EQ(rc, 0);
	char b[8] = { 0 };
	kit_read(&mem, LOAD, b, 5);
	STR_EQ(b, "first");
	kit_read(&mem, LOAD + data_at, b, 6);
	STR_EQ(b, "middle");
	kit_read(&mem, LOAD + n_big + n_last - 4, b, 5);
	STR_EQ(b, "last");
	EQ(kit_read_le(&mem, LOAD + data_at / 2, 8), 0);
	mem_map_done(&mem);
	kit_file_done(&f);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* bzImages, good and broken; and that our offsets are those of Linux's own header. */
#include "arch/x86_64/memory_map.h"
#include "arch/x86_64/setup_header.h"
#include "base/checked.h"
#include "boot_kit.h"

#include <asm/bootparam.h>

#define N_SETUP_SECTS 3u
#define IMAGE_AT ((N_SETUP_SECTS + 1) * 512)
#define IMAGE_BYTES 0x1000u
#define FILE_BYTES (IMAGE_AT + IMAGE_BYTES)
#define LOAD 0x1000000u

struct image {
	uint8_t bytes[FILE_BYTES];
};

static struct image new_image(void)
{
	struct image i = { { 0 } };
	uint8_t *p = i.bytes;
	p[SETUP_SECTS] = N_SETUP_SECTS;
	put_le32(p + SETUP_SYSSIZE, IMAGE_BYTES / 16);
	put_le16(p + SETUP_BOOT_FLAG, 0xaa55);
	p[SETUP_JUMP] = 0xeb;
	p[SETUP_JUMP + 1] = 0x6a; /* ends at 0x26c */
	memcpy(p + SETUP_HEADER, "HdrS", 4);
	put_le16(p + SETUP_VERSION, 0x20f);
	p[SETUP_LOADFLAGS] = SETUP_LOADED_HIGH | SETUP_CAN_USE_HEAP;
	put_le32(p + SETUP_INITRD_ADDR_MAX, 0x7fffffff);
	put_le32(p + SETUP_KERNEL_ALIGNMENT, 0x200000);
	p[SETUP_RELOCATABLE_KERNEL] = 1;
	put_le16(p + SETUP_XLOADFLAGS, 0x7f);
	put_le32(p + SETUP_CMDLINE_SIZE, 2047);
	put_le64(p + SETUP_SETUP_DATA, 0xdeadbeef);
	put_le64(p + SETUP_PREF_ADDRESS, LOAD);
	put_le32(p + SETUP_INIT_SIZE, 0x400000);
	for (size_t k = 0; k < IMAGE_BYTES; k++)
		p[IMAGE_AT + k] = (uint8_t)(k * 5 + 1);
	return i;
}

struct result {
	int rc;
	struct err e;
	struct x86_entry entry;
	struct mem_map mem;
};

static struct result load_with(const struct image *i, size_t n, const char *initramfs, const char *cmdline,
                               struct mem_map mem)
{
	struct kit_file f = kit_file(i->bytes, n);
	struct x86_machine m = kit_machine(1);
	struct result r = { .mem = mem };
	r.rc = x86_boot_load(&r.mem, &(struct x86_payload){ f.path, initramfs, cmdline }, &m, &r.entry, &r.e);
	kit_file_done(&f);
	return r;
}

static struct result load(const struct image *i, size_t n)
{
	return load_with(i, n, NULL, NULL, kit_map(64 * MIB, 0));
}

#define REFUSED(image, n, part)                                 \
	do {                                                    \
		struct result r_ = load(image, n);              \
		EQ(r_.rc < 0, 1);                               \
		EQ(r_.rc, -r_.e.code);                          \
		STR_HAS(r_.e.text, part);                       \
		STR_HAS(r_.e.text, "kernel '/proc/self/fd/");   \
		mem_map_done(&r_.mem);                          \
	} while (0)

TEST(offsets_are_linuxs)
{
#define SAME(our, member) EQ(our, offsetof(struct boot_params, member))
	SAME(ZERO_PAGE_ACPI_RSDP_ADDR, acpi_rsdp_addr);
	SAME(ZERO_PAGE_E820_ENTRIES, e820_entries);
	SAME(ZERO_PAGE_E820_TABLE, e820_table);
	SAME(ZERO_PAGE_HEADER_END, edd_mbr_sig_buffer);
	SAME(SETUP_SECTS, hdr.setup_sects);
	SAME(SETUP_SYSSIZE, hdr.syssize);
	SAME(SETUP_VID_MODE, hdr.vid_mode);
	SAME(SETUP_BOOT_FLAG, hdr.boot_flag);
	SAME(SETUP_JUMP, hdr.jump);
	SAME(SETUP_HEADER, hdr.header);
	SAME(SETUP_VERSION, hdr.version);
	SAME(SETUP_TYPE_OF_LOADER, hdr.type_of_loader);
	SAME(SETUP_LOADFLAGS, hdr.loadflags);
	SAME(SETUP_RAMDISK_IMAGE, hdr.ramdisk_image);
	SAME(SETUP_RAMDISK_SIZE, hdr.ramdisk_size);
	SAME(SETUP_HEAP_END_PTR, hdr.heap_end_ptr);
	SAME(SETUP_EXT_LOADER_VER, hdr.ext_loader_ver);
	SAME(SETUP_EXT_LOADER_TYPE, hdr.ext_loader_type);
	SAME(SETUP_CMD_LINE_PTR, hdr.cmd_line_ptr);
	SAME(SETUP_INITRD_ADDR_MAX, hdr.initrd_addr_max);
	SAME(SETUP_KERNEL_ALIGNMENT, hdr.kernel_alignment);
	SAME(SETUP_RELOCATABLE_KERNEL, hdr.relocatable_kernel);
	SAME(SETUP_XLOADFLAGS, hdr.xloadflags);
	SAME(SETUP_CMDLINE_SIZE, hdr.cmdline_size);
	SAME(SETUP_HARDWARE_SUBARCH, hdr.hardware_subarch);
	SAME(SETUP_SETUP_DATA, hdr.setup_data);
	SAME(SETUP_PREF_ADDRESS, hdr.pref_address);
	SAME(SETUP_INIT_SIZE, hdr.init_size);
	EQ(sizeof(struct boot_params), ZERO_PAGE_BYTES);
	EQ(E820_MAX_ENTRIES_ZEROPAGE, ZERO_PAGE_E820_MAX);
#undef SAME
}

TEST(a_bzimage_is_loaded_at_its_preferred_address)
{
	struct image i = new_image();
	struct result r = load_with(&i, FILE_BYTES, NULL, "quiet", kit_map(64 * MIB, 0));
	STR_EQ(r.e.text, "");
	EQ(r.rc, 0);
	EQ(r.entry.protocol, X86_BOOT_LINUX64);
	EQ(r.entry.entry.v, LOAD + 0x200);
	EQ(r.entry.parameters.v, X86_ZERO_PAGE);
	uint8_t bytes[IMAGE_BYTES];
	kit_read(&r.mem, LOAD, bytes, sizeof bytes);
	MEM_EQ(bytes, i.bytes + IMAGE_AT, IMAGE_BYTES);

	struct boot_params p;
	kit_read(&r.mem, X86_ZERO_PAGE, &p, sizeof p);
	EQ(p.hdr.header, SETUP_MAGIC);
	EQ(p.hdr.version, 0x20f);
	EQ(p.hdr.type_of_loader, 0xff);
	EQ(p.hdr.loadflags, SETUP_LOADED_HIGH);
	EQ(p.hdr.vid_mode, 0xffff);
	EQ(p.hdr.cmd_line_ptr, X86_CMDLINE);
	EQ(p.hdr.setup_data, 0);
	EQ(p.hdr.init_size, 0x400000);
	EQ(p.hdr.ramdisk_size, 0);
	EQ(p.acpi_rsdp_addr, X86_ACPI);
	EQ(p.e820_entries, 5);
	EQ(p.e820_table[2].addr, MIB);
	EQ(p.e820_table[2].size, 63 * MIB);
	EQ(p.e820_table[2].type, 1);
	EQ(p.sentinel, 0);
	mem_map_done(&r.mem);
}

TEST(what_follows_the_kernel_is_not_loaded)
{
	struct image i = new_image();
	put_le32(i.bytes + SETUP_SYSSIZE, 0x800 / 16);
	struct result r = load(&i, FILE_BYTES);
	EQ(r.rc, 0);
	EQ(kit_read_le(&r.mem, LOAD + 0x7ff, 1), i.bytes[IMAGE_AT + 0x7ff]);
	EQ(kit_read_le(&r.mem, LOAD + 0x800, 8), 0);
	mem_map_done(&r.mem);

	/* An old header without a size; and a size that is rounded up. */
	put_le32(i.bytes + SETUP_SYSSIZE, 0);
	r = load(&i, FILE_BYTES);
	EQ(r.rc, 0);
	EQ(kit_read_le(&r.mem, LOAD + 0xfff, 1), i.bytes[IMAGE_AT + 0xfff]);
	mem_map_done(&r.mem);
	put_le32(i.bytes + SETUP_SYSSIZE, IMAGE_BYTES / 16);
	r = load(&i, FILE_BYTES - 15);
	EQ(r.rc, 0);
	mem_map_done(&r.mem);
	REFUSED(&i, FILE_BYTES - 16, "syssize says 0x1000 bytes, the file has 0xff0");
}

TEST(alignment_moves_a_relocatable_kernel_up)
{
	struct image i = new_image();
	put_le64(i.bytes + SETUP_PREF_ADDRESS, 0x1100000);
	struct result r = load(&i, FILE_BYTES);
	EQ(r.entry.entry.v, 0x1200000 + 0x200);
	mem_map_done(&r.mem);
	put_le64(i.bytes + SETUP_PREF_ADDRESS, 0);
	r = load(&i, FILE_BYTES);
	EQ(r.entry.entry.v, 0x200000 + 0x200);
	mem_map_done(&r.mem);
	i.bytes[SETUP_RELOCATABLE_KERNEL] = 0;
	put_le64(i.bytes + SETUP_PREF_ADDRESS, 0x1100000);
	put_le32(i.bytes + SETUP_KERNEL_ALIGNMENT, 0);
	r = load(&i, FILE_BYTES);
	EQ(r.entry.entry.v, 0x1100000 + 0x200);
	mem_map_done(&r.mem);
	put_le64(i.bytes + SETUP_PREF_ADDRESS, 0xff000);
	REFUSED(&i, FILE_BYTES, "pref_address 0xff000 is below 1 MiB");
}

TEST(headers_that_cannot_be_are_refused)
{
	static const struct {
		size_t offset;
		uint64_t v;
		size_t n;
		const char *part;
	} cases[] = {
		{ SETUP_BOOT_FLAG, 0, 2, "boot_flag 0x0, must be 0xaa55" },
		{ SETUP_VERSION, 0x20b, 2, "boot protocol 2.11, must be 2.12 or newer" },
		{ SETUP_JUMP + 1, 0x61, 1, "ends at 0x263, before init_size" },
		{ SETUP_JUMP + 1, 0, 1, "before init_size" },
		{ SETUP_LOADFLAGS, 0, 1, "a zImage, which loads low" },
		{ SETUP_XLOADFLAGS, 0x7e, 2, "xloadflags 0x7e: no 64-bit entry point" },
		{ SETUP_SECTS, 200, 1, "setup_sects 200 ends behind the end of the file" },
		{ SETUP_SYSSIZE, 0xffffffff, 4, "syssize says 0xffffffff0 bytes" },
		{ SETUP_SYSSIZE, 0x20, 4, "a kernel of 0x200 bytes ends before its 64-bit entry point" },
		{ SETUP_KERNEL_ALIGNMENT, 0, 4, "kernel_alignment 0x0 is not a power of two" },
		{ SETUP_KERNEL_ALIGNMENT, 0x300000, 4, "kernel_alignment 0x300000 is not a power of two" },
		{ SETUP_PREF_ADDRESS, UINT64_MAX, 8, "pref_address passes the end of the address space" },
		{ SETUP_PREF_ADDRESS, 0xffffffffffe00000, 8, "not all in the guest's memory below 3 GiB" },
		{ SETUP_PREF_ADDRESS, 64 * MIB, 8, "not all in the guest's memory below 3 GiB" },
		{ SETUP_INIT_SIZE, 48 * MIB + 1, 4, "needs 0x3000001 bytes at 0x1000000 (init_size at pref_address)" },
		{ SETUP_INIT_SIZE, 0xffffffff, 4, "not all in the guest's memory" },
		{ SETUP_PREF_ADDRESS, X86_HIGH_RAM_START, 8, "not all in the guest's memory below 3 GiB" },
	};
	for (size_t k = 0; k < ARRAY_LEN(cases); k++) {
		struct image i = new_image();
		put_le(i.bytes + cases[k].offset, cases[k].n, cases[k].v);
		REFUSED(&i, FILE_BYTES, cases[k].part);
	}
	struct image i = new_image();
	put_le32(i.bytes + SETUP_INIT_SIZE, 48 * MIB); /* up to the last byte */
	struct result r = load(&i, FILE_BYTES);
	EQ(r.rc, 0);
	mem_map_done(&r.mem);
}

TEST(init_size_0_still_covers_the_file)
{
	struct image i = new_image();
	put_le32(i.bytes + SETUP_INIT_SIZE, 0);
	put_le64(i.bytes + SETUP_PREF_ADDRESS, 62 * MIB);
	struct result r = load(&i, FILE_BYTES);
	EQ(r.rc, 0);
	mem_map_done(&r.mem);
	i.bytes[SETUP_RELOCATABLE_KERNEL] = 0;
	put_le64(i.bytes + SETUP_PREF_ADDRESS, 64 * MIB - 0xfff);
	REFUSED(&i, FILE_BYTES, "needs 0x1000 bytes");
}

TEST(a_header_longer_than_its_room_is_cut)
{
	struct image i = new_image();
	i.bytes[SETUP_JUMP + 1] = 0xff;
	memset(i.bytes + 0x26c, 0xcc, 0x301 - 0x26c);
	struct result r = load(&i, FILE_BYTES);
	EQ(r.rc, 0);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x28f, 1), 0xcc);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + 0x290, 8), 0);
	mem_map_done(&r.mem);
}

TEST(every_truncation_of_a_bzimage_is_refused)
{
	struct image i = new_image();
	for (size_t n = 1; n < FILE_BYTES - 15; n += n < 0x300 ? 1 : 61) {
		struct result r = load(&i, n);
		OK(r.rc < 0 && r.e.text[0]);
		mem_map_done(&r.mem);
	}
}

TEST(an_initramfs_stays_below_the_kernels_limit)
{
	struct image i = new_image();
	struct kit_file f = kit_file("0123456789", 10);
	put_le32(i.bytes + SETUP_INITRD_ADDR_MAX, 0x1ffffff);
	struct result r = load_with(&i, FILE_BYTES, f.path, NULL, kit_map(64 * MIB, 0));
	EQ(r.rc, 0);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + SETUP_RAMDISK_IMAGE, 4), 0x1fff000);
	EQ(kit_read_le(&r.mem, X86_ZERO_PAGE + SETUP_RAMDISK_SIZE, 4), 10);
	mem_map_done(&r.mem);

	/* between the end of the kernel's room at 0x1400000 and the limit nothing is left */
	put_le32(i.bytes + SETUP_INITRD_ADDR_MAX, 0x1400000);
	r = load_with(&i, FILE_BYTES, f.path, NULL, kit_map(64 * MIB, 0));
	EQ(r.rc, -ENOSPC);
	STR_HAS(r.e.text, "between the end of the kernel (0x1400000) and 0x1400001");
	mem_map_done(&r.mem);
	put_le32(i.bytes + SETUP_INITRD_ADDR_MAX, 0);
	r = load_with(&i, FILE_BYTES, f.path, NULL, kit_map(64 * MIB, 0));
	EQ(r.rc, -ENOSPC);
	mem_map_done(&r.mem);
	kit_file_done(&f);
}

TEST(the_kernels_own_command_line_limit_counts)
{
	struct image i = new_image();
	char cmdline[2049];
	memset(cmdline, 'x', sizeof cmdline);
	cmdline[2048] = '\0';
	struct result r = load_with(&i, FILE_BYTES, NULL, cmdline, kit_map(64 * MIB, 0));
	EQ(r.rc, -E2BIG);
	STR_HAS(r.e.text, "command line: 2048 bytes: kernel '/proc/self/fd/");
	STR_HAS(r.e.text, "takes at most 2047");
	mem_map_done(&r.mem);
	cmdline[2047] = '\0';
	r = load_with(&i, FILE_BYTES, NULL, cmdline, kit_map(64 * MIB, 0));
	EQ(r.rc, 0);
	mem_map_done(&r.mem);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* A bzImage by the 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst): the part after the real-mode code is
 * put at its preferred address and entered 0x200 bytes on. It then decompresses itself inside init_size bytes from
 * there. */
#include "arch/x86_64/payload.h"
#include "arch/x86_64/setup_header.h"
#include "base/bytes.h"
#include "base/checked.h"

#include <errno.h>
#include <inttypes.h>

#define SECTOR_BYTES 512u
#define ENTRY_64 0x200u
#define LOWEST_ADDRESS 0x100000ull
#define PARAGRAPH_BYTES 16u
#define MIN_VERSION 0x20c /* 2.12: xloadflags */

bool bzimage_is(const struct payload_head *h)
{
	return h->n_bytes >= SETUP_HEADER + 4 && get_le32(h->bytes + SETUP_HEADER) == SETUP_MAGIC;
}

/* Where the header ends by its own word: the target of the short jump at its start. */
static size_t header_end(const struct payload_head *h)
{
	return SETUP_HEADER + h->bytes[SETUP_JUMP + 1];
}

static int check_header(const struct payload_file *f, const struct payload_head *h, struct err *e)
{
	const uint8_t *p = h->bytes;
	if (h->n_bytes < max_u64(header_end(h), SETUP_INIT_SIZE + 4))
		return err_set(e, EINVAL, "%s: setup header: the file ends inside it", f->label);
	if (get_le16(p + SETUP_BOOT_FLAG) != SETUP_BOOT_FLAG_VALUE)
		return err_set(e, EINVAL, "%s: setup header: boot_flag 0x%x, must be 0xaa55", f->label,
		               get_le16(p + SETUP_BOOT_FLAG));
	uint16_t version = get_le16(p + SETUP_VERSION);
	if (version < MIN_VERSION)
		return err_set(e, EINVAL, "%s: setup header: boot protocol %u.%02u, must be 2.12 or newer", f->label,
		               version >> 8, version & 0xff);
	if (header_end(h) < SETUP_INIT_SIZE + 4)
		return err_set(e, EINVAL, "%s: setup header: ends at 0x%zx, before init_size", f->label, header_end(h));
	if (!(p[SETUP_LOADFLAGS] & SETUP_LOADED_HIGH))
		return err_set(e, EINVAL, "%s: setup header: loadflags 0x%x: a zImage, which loads low", f->label,
		               p[SETUP_LOADFLAGS]);
	if (!(get_le16(p + SETUP_XLOADFLAGS) & SETUP_XLF_KERNEL_64))
		return err_set(e, EINVAL, "%s: setup header: xloadflags 0x%x: no 64-bit entry point", f->label,
		               get_le16(p + SETUP_XLOADFLAGS));
	return 0;
}

/* The bytes of the file to load. */
static int find_image(const struct payload_file *f, const struct payload_head *h, uint64_t *ret_offset,
                      uint64_t *ret_n_bytes, struct err *e)
{
	/* "If setup_sects is 0, the real value is 4"; the boot sector comes before them. */
	uint32_t n_sectors = h->bytes[SETUP_SECTS] ? h->bytes[SETUP_SECTS] : 4;
	uint64_t offset = (n_sectors + 1ull) * SECTOR_BYTES;
	uint64_t n_claimed = get_le32(h->bytes + SETUP_SYSSIZE) * (uint64_t)PARAGRAPH_BYTES;

	if (offset >= f->n_bytes)
		return err_set(e, EINVAL, "%s: setup header: setup_sects %" PRIu32 " ends behind the end of the file",
		               f->label, n_sectors);
	uint64_t n_there = f->n_bytes - offset;
	if (n_claimed > n_there && n_claimed - n_there >= PARAGRAPH_BYTES)
		return err_set(e, EINVAL, "%s: setup header: syssize says 0x%" PRIx64 " bytes, the file has 0x%" PRIx64,
		               f->label, n_claimed, n_there);
	/* What comes after it is a signature, which the kernel does not want in memory. */
	uint64_t n_bytes = n_claimed ? min_u64(n_claimed, n_there) : n_there;
	if (n_bytes <= ENTRY_64)
		return err_set(e, EINVAL,
		               "%s: setup header: a kernel of 0x%" PRIx64 " bytes ends before its 64-bit entry point",
		               f->label, n_bytes);
	*ret_offset = offset;
	*ret_n_bytes = n_bytes;
	return 0;
}

/* Where it goes, and how much memory from there is the kernel's. */
static int place_image(const struct mem_map *mem, const struct payload_file *f, const struct payload_head *h,
                       uint64_t n_bytes, uint64_t *ret_at, uint64_t *ret_end, struct err *e)
{
	uint64_t at = get_le64(h->bytes + SETUP_PREF_ADDRESS);
	uint64_t n_needed = max_u64(get_le32(h->bytes + SETUP_INIT_SIZE), n_bytes);
	uint32_t align = get_le32(h->bytes + SETUP_KERNEL_ALIGNMENT);
	struct span unused;
	uint64_t end;

	/* A relocatable kernel moves itself up to its preferred address and alignment if it is not there. */
	if (h->bytes[SETUP_RELOCATABLE_KERNEL]) {
		if (!is_power_of_two(align))
			return err_set(e, EINVAL,
			               "%s: setup header: kernel_alignment 0x%" PRIx32 " is not a power of two",
			               f->label, align);
		if (!checked_align_up(max_u64(at, LOWEST_ADDRESS), align, &at))
			return err_set(e, EINVAL, "%s: setup header: pref_address passes the end of the address space",
			               f->label);
	}
	if (at < LOWEST_ADDRESS)
		return err_set(e, EINVAL,
		               "%s: setup header: pref_address 0x%" PRIx64 " is below 1 MiB, where the boot data is",
		               f->label, at);
	if (!checked_add(at, n_needed, &end) || end > X86_LOW_RAM_END || !mem_span(mem, GPA(at), n_needed, &unused))
		return err_set(e, ENOSPC,
		               "%s: needs 0x%" PRIx64 " bytes at 0x%" PRIx64 " (init_size at pref_address), which are "
		               "not all in the guest's memory below 3 GiB", f->label, n_needed, at);
	*ret_at = at;
	*ret_end = end;
	return 0;
}

int bzimage_load(const struct mem_map *mem, const struct payload_file *f, const struct payload_head *h,
                 struct kernel *ret_k, struct err *e)
{
	uint64_t offset = 0, n_bytes = 0, at = 0, end = 0;

	int rc = check_header(f, h, e);
	if (rc == 0)
		rc = find_image(f, h, &offset, &n_bytes, e);
	if (rc == 0)
		rc = place_image(mem, f, h, n_bytes, &at, &end, e);
	if (rc == 0) {
		struct payload_part whole = { .offset = offset, .n_bytes = n_bytes, .is_written = true };
		rc = payload_load(f, &whole, mem, GPA(at), e);
	}
	if (rc < 0)
		return rc;

	*ret_k = (struct kernel){
		.protocol = X86_BOOT_LINUX64,
		.entry = GPA(at + ENTRY_64),
		.end = end,
		.initramfs_end = min_u64(X86_LOW_RAM_END, get_le32(h->bytes + SETUP_INITRD_ADDR_MAX) + 1ull),
		.max_cmdline_chars = (uint32_t)min_u64(X86_CMDLINE_MAX_BYTES - 1,
		                                       get_le32(h->bytes + SETUP_CMDLINE_SIZE)),
		.setup = h->bytes + SETUP_SECTS,
		.n_setup_bytes = header_end(h) - SETUP_SECTS,
	};
	return 0;
}

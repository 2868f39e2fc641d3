/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/x86_64/payload.h"
#include "base/checked.h"

#include <errno.h>
#include <inttypes.h>

#define PAGE_BYTES 4096ull

/* The highest place: in the last region of low RAM that has room above the kernel and below the kernel's limit. */
static bool find_place(const struct mem_map *mem, const struct kernel *k, uint64_t n_bytes, uint64_t *ret_at)
{
	for (size_t i = mem->n_regions; i > 0; i--) {
		const struct mem_region *r = &mem->regions[i - 1];
		uint64_t bottom = max_u64(r->start.v, k->end);
		uint64_t top = min_u64(r->start.v + r->n_bytes, min_u64(k->initramfs_end, X86_LOW_RAM_END));
		if (top < bottom || n_bytes > top - bottom)
			continue;
		uint64_t at = align_down(top - n_bytes, PAGE_BYTES);
		if (at >= bottom) {
			*ret_at = at;
			return true;
		}
	}
	return false;
}

int initramfs_load(const struct mem_map *mem, const char *path, const struct kernel *k, struct x86_ram_range *ret_at,
                   struct err *e)
{
	struct payload_file f;
	uint64_t at = 0;

	int rc = payload_open(&f, "initramfs", path, e);
	if (rc < 0)
		return rc;
	if (!find_place(mem, k, f.n_bytes, &at))
		rc = err_set(e, ENOSPC,
		             "%s: its 0x%" PRIx64 " bytes do not fit in the guest's memory between the end of the "
		             "kernel (0x%" PRIx64 ") and 0x%" PRIx64, f.label, f.n_bytes, k->end, k->initramfs_end);
	else
		/* Linux unpacks it, and then uses its memory for other things. */
		rc = payload_load(&f, &(struct payload_part){ .n_bytes = f.n_bytes, .is_written = true }, mem, GPA(at), e);
	if (rc == 0)
		*ret_at = (struct x86_ram_range){ .start = GPA(at), .n_bytes = f.n_bytes };
	payload_close(&f);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* VHDX images and their logs; fuzz_image.h says what the input is. */
#include "fuzz_image.h"

#include "backend/block_vhdx.h"

static void seal_at(int fd, uint64_t offset, const char *signature, size_t n_bytes)
{
	static uint8_t p[1 << 20];
	if (n_bytes > sizeof p || pread(fd, p, n_bytes, (off_t)offset) != (ssize_t)n_bytes || memcmp(p, signature, 4) != 0)
		return;
	put_le32(p + 4, vhdx_checksum(p, n_bytes));
	check(pwrite(fd, p, n_bytes, (off_t)offset) == (ssize_t)n_bytes);
}

static void seal(int fd, uint64_t n_file_bytes)
{
	(void)n_file_bytes;
	for (unsigned k = 0; k < 2; k++) {
		seal_at(fd, VHDX_HEADER_OFFSET(k), "head", VHDX_HEADER_BYTES);
		seal_at(fd, VHDX_REGION_OFFSET(k), "regi", VHDX_REGION_BYTES);
	}
	/* Entries in the log's usual place, from the last to the first: one may lie in another. */
	for (uint64_t at = 2 * VHDX_MB; at > VHDX_MB; at -= VHDX_SECTOR_BYTES) {
		uint8_t head[16];
		if (pread(fd, head, sizeof head, (off_t)(at - VHDX_SECTOR_BYTES)) == (ssize_t)sizeof head &&
		    get_le32(head + 8) >= 64)
			seal_at(fd, at - VHDX_SECTOR_BYTES, "loge", get_le32(head + 8));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	return fuzz_image(data, n_bytes, BLOCK_TYPE_VHDX, seal);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* VHD images; fuzz_image.h says what the input is. */
#include "fuzz_image.h"

static void seal_at(int fd, uint64_t offset, const char *cookie, size_t n_bytes, size_t at)
{
	uint8_t p[1024];
	uint32_t sum = 0;
	if (pread(fd, p, n_bytes, (off_t)offset) != (ssize_t)n_bytes || memcmp(p, cookie, 8) != 0)
		return;
	memset(p + at, 0, 4);
	for (size_t k = 0; k < n_bytes; k++)
		sum += p[k];
	sum = htobe32(~sum);
	memcpy(p + at, &sum, 4);
	check(pwrite(fd, p, n_bytes, (off_t)offset) == (ssize_t)n_bytes);
}

static void seal(int fd, uint64_t n_file_bytes)
{
	seal_at(fd, 0, "conectix", 512, 64);
	seal_at(fd, 512, "cxsparse", 1024, 36);
	if (n_file_bytes >= 512)
		seal_at(fd, n_file_bytes - 512, "conectix", 512, 64);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	return fuzz_image(data, n_bytes, BLOCK_TYPE_VHD, seal);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* VMDK images; fuzz_image.h says what the input is. There are no other files beside the image: extents of a descriptor
 * that name some are refused, and those of zeroes are not. */
#include "fuzz_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	return fuzz_image(data, n_bytes, BLOCK_TYPE_VMDK, NULL);
}

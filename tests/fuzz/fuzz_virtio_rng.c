/* SPDX-License-Identifier: Apache-2.0 */
/* The entropy device with rings and registers by the input: from the kernel, from a device, from one that is empty. */
#include "device/virtio_rng.h"
#include "fuzz_rings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	static const char *const sources[] = { NULL, "/dev/zero", "/dev/null", "/proc/self/comm" };
	static struct loop *loop;
	if (!loop)
		MUST(loop_new(&loop, NULL) == 0);
	if (n_bytes < FUZZ_HEADER_BYTES)
		return 0;
	struct virtio_rng_params p = { .source = sources[data[0] >> 6] };
	fuzz_rings(&virtio_rng, &p, loop, data, n_bytes, NULL, NULL);
	return 0;
}

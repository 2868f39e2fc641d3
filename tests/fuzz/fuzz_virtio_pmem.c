/* SPDX-License-Identifier: Apache-2.0 */
/* The persistent memory device with rings and registers by the input. Of its image's flushes some fail, as the input's first
 * byte says. */
#include "backend/block_impl.h"
#include "device/virtio_pmem.h"
#include "fuzz_rings.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static unsigned when_failing, n_flushes;

static enum block_next prepare(struct block_lane *lane, struct block_request *r)
{
	(void)lane;
	MUST(r->op == BLOCK_FLUSH);
	r->result = when_failing && ++n_flushes % when_failing == 0 ? -EIO : 0;
	return BLOCK_NEXT_DONE;
}

static const struct block_format flushes_only = { .name = "flushes", .prepare = prepare };

static struct block_image *image(void)
{
	static struct block_image *i;
	char path[40];
	if (i)
		return i;
	int fd = memfd_create("pmem", MFD_CLOEXEC);
	MUST(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	struct block_params p = { .path = path, .has_no_io_uring = true };
	MUST(block_open_format(&p, &flushes_only, &i, NULL) == 0);
	(void)close(fd);
	return i;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	static struct loop *loop;
	struct virtio_class on_this_thread = virtio_pmem;
	if (!loop)
		MUST(loop_new(&loop, NULL) == 0);
	if (n_bytes < FUZZ_HEADER_BYTES)
		return 0;
	on_this_thread.has_queue_threads = false;
	when_failing = data[0] >> 5;
	n_flushes = 0;
	struct virtio_pmem_params p = { .image = image(), .start = GPA(1ull << 32), .n_bytes = 2 << 20 };
	fuzz_rings(&on_this_thread, &p, loop, data, n_bytes, NULL, NULL);
	return 0;
}

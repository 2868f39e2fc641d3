/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_pmem.h - the virtio persistent memory device: says where a host's file is mapped, and makes it durable when asked.
 * Spec: virtio 1.2, 5.19.
 *
 * The mapping is the machine's. Nothing of the guest's reads and writes comes by here; its flushes do, on the queue's own
 * loop, which does not wait for the host's file system. The driver is hostile: what is no request is answered with a failure,
 * and a chain without room for an answer breaks the ring (DEVICE_NEEDS_RESET). */
#pragma once
#include "backend/block.h"
#include "virtio/virtio.h"

struct virtio_pmem_params {
	struct block_image *image; /* what is mapped; borrowed, outlives the device. Read only: a flush has nothing to do. */
	struct gpa start;
	uint64_t n_bytes;
};

extern const struct virtio_class virtio_pmem;

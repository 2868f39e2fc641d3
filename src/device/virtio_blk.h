/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_blk.h - the virtio block device. Spec: virtio 1.2, 5.2.
 *
 * Each queue has a thread and a lane of the image to itself. The driver is hostile: every request is answered, with
 * IOERR or UNSUPP when it is wrong; a chain with no room for a status breaks the ring (DEVICE_NEEDS_RESET). A host that
 * fails is the guest's I/O error and a line in the log, never the VM's end. */
#pragma once
#include "backend/block.h"
#include "virtio/virtio.h"

#define VIRTIO_BLK_ID_BYTES 20

struct rate_limit;

struct virtio_blk_params {
	struct block_image *image; /* borrowed; outlives the device */
	struct rate_limit *limit;  /* likewise; of this disk's queues together, or of several disks'; NULL: none */
	bool is_readonly;          /* besides a read-only image */
	char serial[VIRTIO_BLK_ID_BYTES]; /* padded with NULs; not terminated when full */
	unsigned n_queues;         /* 1 to VIRTIO_MAX_QUEUES */
};

extern const struct virtio_class virtio_blk;

/* The image was made larger (block_resize()), v being of that class: requests are checked against its new size from now on,
 * and the driver is told, also when it has been before. Main thread; the device may be in use or paused. */
void virtio_blk_resized(struct virtio_device *v);

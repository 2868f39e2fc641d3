/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_blk_space.h - what a virtio block device tells its driver: features and configuration space. Spec: virtio 1.2, 5.2.
 * For virtio_blk.c, which keeps to it. */
#pragma once
#include "backend/block.h"
#include "device/virtio_blk_layout.h"
#include "virtio/virtio.h"

#define BLK_SECTOR_BYTES 512u

/* Ours, within what the fields can say. Zeroes may have to be written one by one, while a reset waits. */
#define BLK_MAX_SEGMENTS 16u
#define BLK_MAX_DISCARD_SECTORS (2u << 20)
#define BLK_MAX_WRITE_ZEROES_SECTORS (512u << 10)

/* Of every disk; blk_space_fill() adds what an image can do. */
#define BLK_SPACE_FEATURES                                                                                               \
	(VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_TOPOLOGY | VIRTIO_BLK_F_CONFIG_WCE)

/* For open(): v->n_queues and v->queue_size are set; offers features, and fills v->space. */
void blk_space_fill(struct virtio_device *v, const struct block_limits *l, bool is_readonly);

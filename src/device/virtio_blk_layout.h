/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_blk_layout.h - features and configuration space of block devices, whoever serves them. Spec: virtio 1.2, 5.2. */
#pragma once

/* 5.2.3 Feature bits */
#define VIRTIO_BLK_F_SIZE_MAX (1ull << 1)
#define VIRTIO_BLK_F_SEG_MAX (1ull << 2)
#define VIRTIO_BLK_F_GEOMETRY (1ull << 4)
#define VIRTIO_BLK_F_RO (1ull << 5)
#define VIRTIO_BLK_F_BLK_SIZE (1ull << 6)
#define VIRTIO_BLK_F_FLUSH (1ull << 9)
#define VIRTIO_BLK_F_TOPOLOGY (1ull << 10)
#define VIRTIO_BLK_F_CONFIG_WCE (1ull << 11)
#define VIRTIO_BLK_F_MQ (1ull << 12)
#define VIRTIO_BLK_F_DISCARD (1ull << 13)
#define VIRTIO_BLK_F_WRITE_ZEROES (1ull << 14)

/* 5.2.4 struct virtio_blk_config: offsets */
enum {
	SPACE_CAPACITY = 0,
	SPACE_SIZE_MAX = 8,
	SPACE_SEG_MAX = 12,
	SPACE_BLK_SIZE = 20,
	SPACE_PHYSICAL_BLOCK_EXP = 24,
	SPACE_MIN_IO_SIZE = 26,
	SPACE_OPT_IO_SIZE = 28,
	SPACE_WRITEBACK = 32,
	SPACE_NUM_QUEUES = 34,
	SPACE_MAX_DISCARD_SECTORS = 36,
	SPACE_MAX_DISCARD_SEG = 40,
	SPACE_DISCARD_SECTOR_ALIGNMENT = 44,
	SPACE_MAX_WRITE_ZEROES_SECTORS = 48,
	SPACE_MAX_WRITE_ZEROES_SEG = 52,
	SPACE_WRITE_ZEROES_MAY_UNMAP = 56,
	SPACE_BYTES = 60,
};

/* SPDX-License-Identifier: Apache-2.0 */
#include "device/virtio_blk_space.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <assert.h>

static void offer(struct virtio_device *v, const struct block_limits *l, bool is_readonly)
{
	if (is_readonly)
		v->offered |= VIRTIO_BLK_F_RO;
	if (v->n_queues > 1)
		v->offered |= VIRTIO_BLK_F_MQ;
	if (l->can_discard && !is_readonly)
		v->offered |= VIRTIO_BLK_F_DISCARD;
	if (l->can_write_zeroes && !is_readonly)
		v->offered |= VIRTIO_BLK_F_WRITE_ZEROES;
}

static void fill(struct virtio_device *v, const struct block_limits *l)
{
	uint8_t *s = v->space;
	uint32_t blocks_per_physical = l->physical_block_bytes / l->logical_block_bytes;
	assert(is_power_of_two(blocks_per_physical));

	put_le64(s + SPACE_CAPACITY, l->n_bytes / BLK_SECTOR_BYTES);
	/* Header and status take a descriptor each. */
	put_le32(s + SPACE_SEG_MAX, v->queue_size > 2 ? v->queue_size - 2 : 1);
	put_le32(s + SPACE_BLK_SIZE, l->logical_block_bytes);
	s[SPACE_PHYSICAL_BLOCK_EXP] = (uint8_t)__builtin_ctz(blocks_per_physical);
	put_le16(s + SPACE_MIN_IO_SIZE, (uint16_t)min_u64(blocks_per_physical, UINT16_MAX));
	put_le32(s + SPACE_OPT_IO_SIZE, l->optimal_io_bytes / l->logical_block_bytes);
	if (v->offered & VIRTIO_BLK_F_MQ)
		put_le16(s + SPACE_NUM_QUEUES, (uint16_t)v->n_queues);
	if (v->offered & VIRTIO_BLK_F_DISCARD) {
		put_le32(s + SPACE_MAX_DISCARD_SECTORS, BLK_MAX_DISCARD_SECTORS);
		put_le32(s + SPACE_MAX_DISCARD_SEG, BLK_MAX_SEGMENTS);
		put_le32(s + SPACE_DISCARD_SECTOR_ALIGNMENT, l->discard_granularity_bytes / BLK_SECTOR_BYTES);
	}
	if (v->offered & VIRTIO_BLK_F_WRITE_ZEROES) {
		put_le32(s + SPACE_MAX_WRITE_ZEROES_SECTORS, BLK_MAX_WRITE_ZEROES_SECTORS);
		put_le32(s + SPACE_MAX_WRITE_ZEROES_SEG, BLK_MAX_SEGMENTS);
		s[SPACE_WRITE_ZEROES_MAY_UNMAP] = l->can_discard;
	}
}

void blk_space_fill(struct virtio_device *v, const struct block_limits *l, bool is_readonly)
{
	offer(v, l, is_readonly);
	fill(v, l);
}

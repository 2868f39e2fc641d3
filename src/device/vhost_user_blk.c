/* SPDX-License-Identifier: Apache-2.0 */
/* What is the backend's word in the configuration space is passed on, but for what we know better: the number of queues, and
 * how many segments fit one. */
#include "device/vhost_user_blk.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "device/virtio_blk_layout.h"

#include <errno.h>

/* Some backends offer these and leave the field 0: a driver that believed them could transfer nothing. */
static int check_limit(struct vhost_user_device *d, uint64_t feature, uint32_t limit, const uint8_t *was, struct err *e)
{
	if (!(d->v.offered & feature) || limit > 0)
		return 0;
	if (was)
		return err_set(e, EINVAL, "it has segments of no bytes, or none");
	d->v.offered &= ~feature;
	d->needed &= ~feature;
	return 0;
}

/* What the driver's requests go by, with the features that make the fields be read. */
static const struct {
	uint64_t feature;
	unsigned offset;
	const char *name;
} limits[] = {
	{ VIRTIO_BLK_F_SIZE_MAX, SPACE_SIZE_MAX, "bytes of a segment" },
	{ VIRTIO_BLK_F_SEG_MAX, SPACE_SEG_MAX, "segments" },
	{ VIRTIO_BLK_F_DISCARD, SPACE_MAX_DISCARD_SECTORS, "sectors to discard" },
	{ VIRTIO_BLK_F_DISCARD, SPACE_MAX_DISCARD_SEG, "segments to discard" },
	{ VIRTIO_BLK_F_WRITE_ZEROES, SPACE_MAX_WRITE_ZEROES_SECTORS, "sectors to zero" },
	{ VIRTIO_BLK_F_WRITE_ZEROES, SPACE_MAX_WRITE_ZEROES_SEG, "segments to zero" },
};

/* A driver reads them once: they may grow, and that is for the next driver. 0 counts as no limit. */
static int check_no_less(const struct vhost_user_device *d, const uint8_t *space, const uint8_t *was, struct err *e)
{
	for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
		uint32_t now = get_le32(space + limits[i].offset), before = get_le32(was + limits[i].offset);
		if ((d->v.offered & limits[i].feature) && now - 1 < before - 1)
			return err_set(e, EINVAL, "its limit of %s has shrunk from %u to %u", limits[i].name, before, now);
	}
	return 0;
}

/* Header and status take a descriptor each; a longer chain than the queue would break the driver's ring. */
static void bound_segments(const struct vhost_user_device *d, uint8_t *space)
{
	uint64_t most = d->v.queue_size > 2 ? d->v.queue_size - 2 : 1;
	put_le32(space + SPACE_SEG_MAX, (uint32_t)min_u64(get_le32(space + SPACE_SEG_MAX), most));
}

/* -EINVAL for what is said of the disk: the connection goes on with what was said before. */
static int check_space(struct vhost_user_device *d, uint8_t *space, const uint8_t *was, struct err *e)
{
	uint64_t n_sectors = get_le64(space + SPACE_CAPACITY);
	uint32_t block_bytes = get_le32(space + SPACE_BLK_SIZE);
	bool has_blocks = (d->v.offered & VIRTIO_BLK_F_BLK_SIZE) != 0;

	if (n_sectors > UINT64_MAX / 512)
		return err_set(e, EINVAL, "it has a disk of %llu sectors", (unsigned long long)n_sectors);
	if (was && n_sectors < get_le64(was + SPACE_CAPACITY))
		return err_set(e, EINVAL, "its disk has shrunk from %llu to %llu sectors",
		               (unsigned long long)get_le64(was + SPACE_CAPACITY), (unsigned long long)n_sectors);
	if (has_blocks && (!is_power_of_two(block_bytes) || block_bytes < 512))
		return err_set(e, EINVAL, "it has blocks of %u bytes", block_bytes);
	if (was && has_blocks && block_bytes != get_le32(was + SPACE_BLK_SIZE))
		return err_set(e, EINVAL, "its blocks have %u bytes now", block_bytes);
	if (space[SPACE_WRITEBACK] > 1)
		return err_set(e, EINVAL, "its write cache is neither on nor off, but %u", space[SPACE_WRITEBACK]);
	int rc = check_limit(d, VIRTIO_BLK_F_SIZE_MAX, get_le32(space + SPACE_SIZE_MAX), was, e);
	if (rc >= 0)
		rc = check_limit(d, VIRTIO_BLK_F_SEG_MAX, get_le32(space + SPACE_SEG_MAX), was, e);
	if (rc >= 0 && (d->v.offered & VIRTIO_BLK_F_SEG_MAX))
		bound_segments(d, space);
	if (rc >= 0 && was)
		rc = check_no_less(d, space, was, e);
	if (rc < 0)
		return rc;
	put_le16(space + SPACE_NUM_QUEUES, d->v.offered & VIRTIO_BLK_F_MQ ? (uint16_t)d->v.n_queues : 0);
	return 0;
}

static bool may_write(const struct vhost_user_device *d, unsigned offset, const uint8_t *bytes, unsigned n_bytes)
{
	return offset == SPACE_WRITEBACK && n_bytes == 1 && *bytes <= 1 && virtio_has_feature(&d->v, VIRTIO_BLK_F_CONFIG_WCE);
}

static const struct vhost_user_kind disk_kind = {
	.features = VIRTIO_BLK_F_SIZE_MAX | VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_GEOMETRY | VIRTIO_BLK_F_RO |
	            VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH | VIRTIO_BLK_F_TOPOLOGY | VIRTIO_BLK_F_CONFIG_WCE |
	            VIRTIO_BLK_F_MQ | VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES,
	.restrictions = VIRTIO_BLK_F_RO,
	.check_space = check_space,
	.may_write = may_write,
};

static int disk_open(struct virtio_device *v, const void *params, struct err *e)
{
	const struct vhost_user_blk_params *p = params;
	struct vhost_user_device *d = vhost_user_device_of(v);
	d->kind = &disk_kind;
	int rc = vhost_user_open(d, &p->common, e);
	if (rc < 0)
		return rc;
	if (v->n_queues > 1 && !(v->offered & VIRTIO_BLK_F_MQ))
		return err_set(e, EINVAL, "%s: the backend at '%s' has one queue, and %u are wanted", v->id, d->socket,
		               v->n_queues);
	/* Who else could enforce it? Requests do not pass here. */
	if (p->is_readonly && !(v->offered & VIRTIO_BLK_F_RO))
		return err_set(e, EINVAL, "%s: readonly=on, but the backend at '%s' lets its disk be written", v->id, d->socket);
	return 0;
}

const struct virtio_class vhost_user_blk = {
	.name = "vhost-user-block",
	.virtio_id = VIRTIO_ID_BLOCK,
	.n_space_bytes = SPACE_BYTES,
	.size = sizeof(struct vhost_user_device),
	.queue_size = 128,
	.open = disk_open,
	.close = vhost_user_device_close,
	.start = vhost_user_device_start,
	.stop = vhost_user_device_stop,
	.reset = vhost_user_device_reset,
	.kick = vhost_user_device_kick,
	.space_write = vhost_user_device_space_write,
	.counters = vhost_user_device_counters,
};

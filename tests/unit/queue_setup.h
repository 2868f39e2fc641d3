/* SPDX-License-Identifier: Apache-2.0 */
/* queue_setup.h - all of a queue's configuration at once, as a driver writes it register by register. */
#pragma once
#include "base/checked.h"
#include "virtio/virtio.h"

/* False when something of it was refused; the rest is done all the same. */
static inline bool queue_setup(struct virtio_device *v, unsigned queue, const struct queue_config *c)
{
	const struct {
		enum virtio_queue_field field;
		uint64_t value;
	} writes[] = {
		{ VIRTIO_QUEUE_SIZE, c->size },
		{ VIRTIO_QUEUE_DESC_LOW, c->desc }, { VIRTIO_QUEUE_DESC_HIGH, c->desc >> 32 },
		{ VIRTIO_QUEUE_AVAIL_LOW, c->avail }, { VIRTIO_QUEUE_AVAIL_HIGH, c->avail >> 32 },
		{ VIRTIO_QUEUE_USED_LOW, c->used }, { VIRTIO_QUEUE_USED_HIGH, c->used >> 32 },
		{ VIRTIO_QUEUE_READY, c->is_ready },
	};
	bool is_accepted = true;
	for (size_t i = 0; i < ARRAY_LEN(writes); i++)
		is_accepted = virtio_change_queue(v, queue, writes[i].field, (uint32_t)writes[i].value) && is_accepted;
	return is_accepted;
}

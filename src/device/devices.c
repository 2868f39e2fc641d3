/* SPDX-License-Identifier: Apache-2.0 */
#include "device/devices.h"

#include "base/checked.h"
#include "device/vhost_user_blk.h"
#include "device/virtio_blk.h"
#include "device/virtio_console.h"
#include "device/virtio_pmem.h"
#include "device/virtio_rng.h"

#include <string.h>

const struct virtio_class *const virtio_classes[] = {
	&virtio_blk,
	&virtio_console,
	&virtio_pmem,
	&virtio_rng,
	&vhost_user_blk,
};

const size_t n_virtio_classes = ARRAY_LEN(virtio_classes);

const struct virtio_class *virtio_class_find(const char *name)
{
	for (size_t i = 0; i < n_virtio_classes; i++)
		if (strcmp(virtio_classes[i]->name, name) == 0)
			return virtio_classes[i];
	return NULL;
}

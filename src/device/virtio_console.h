/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_console.h - the virtio console, one port (virtio 1.2, 5.3).
 *
 * Queues belong to the I/O loop; the backend may live on another. Output that the host does not take is the backend's to
 * keep or to drop: a buffer is always given back at once, because drivers wait for it with a vCPU. */
#pragma once
#include "virtio/virtio.h"

struct char_backend;

struct virtio_console_params {
	struct char_backend *backend; /* borrowed; outlives the device */
};

extern const struct virtio_class virtio_console;

/* SPDX-License-Identifier: Apache-2.0 */
/* virtio_rng.h - the virtio entropy device (virtio 1.2, 5.4): bytes from a file or device of the host.
 *
 * Everything runs on the I/O loop, which never waits for the source. At most VIRTIO_RNG_MAX_BYTES a request. */
#pragma once
#include "virtio/virtio.h"

#define VIRTIO_RNG_MAX_BYTES (64u * 1024)

struct virtio_rng_params {
	const char *source; /* a path; NULL: /dev/urandom */
};

extern const struct virtio_class virtio_rng;

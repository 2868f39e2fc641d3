/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_user_blk.h - a disk that another process serves. Spec: virtio 1.2, 5.2. See vhost_user.h. */
#pragma once
#include "device/vhost_user.h"

struct vhost_user_blk_params {
	struct vhost_user_params common;
	bool is_readonly; /* what the backend has must be so */
};

extern const struct virtio_class vhost_user_blk;

/* SPDX-License-Identifier: Apache-2.0 */
/* generic_vhost_user.h - a virtio device of any type, whose backend is another process: the API's GenericVhostUserConfig. */
#pragma once
#include "base/forward.h"

struct schema;

struct generic_vhost_user_config {
	char *socket;
	char *id;
	uint16_t *queue_sizes;
	size_t n_queue_sizes;
	uint32_t device_type;
	uint16_t pci_segment;
	bool has_pci_device_id;
	uint8_t pci_device_id;
};

extern const struct schema generic_vhost_user_schema;

/* SPDX-License-Identifier: Apache-2.0 */
#include "config/generic_vhost_user.h"

#include "schema/schema.h"

#define T struct generic_vhost_user_config
static const struct field rows[] = {
	ROW_PATH(T, socket, .flags = ROW_REQUIRED, .help = "The backend's Unix socket"),
	ROW_U32(T, device_type, .flags = ROW_REQUIRED, .min = 1, .max = 63, .help = "virtio device ID"),
	ROW_INTEGERS(T, queue_sizes, uint16_t, .flags = ROW_REQUIRED, .max_items = 1024, .help = "Entries of each queue"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROW_U16(T, pci_segment, .help = "PCI segment"),
	ROW_U8(T, pci_device_id, .has = HAS(T, has_pci_device_id), .min = 1, .max = 31, .help = "PCI device number"),
};
const struct schema generic_vhost_user_schema =
	SCHEMA(T, rows, .name = "GenericVhostUserConfig", .option = "generic-vhost-user",
	       .help = "A device whose backend is another process");
#undef T

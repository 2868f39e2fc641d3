/* SPDX-License-Identifier: Apache-2.0 */
/* Devices of the host, given to the guest: VFIO, vfio-user and vDPA. */
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>

#define T struct device_config
static const struct field device_rows[] = {
	ROW_I32(T, fd, .flags = ROW_NO_JSON, .has = HAS(T, has_fd), .help = "Open descriptor of the device, for iommufd"),
	ROW_PATH(T, path, .flags = ROW_REQUIRED_OPTION, .instead = "fd",
	         .help = "The host device's directory in sysfs"),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
	ROW_U8(T, x_nv_gpudirect_clique, .has = HAS(T, has_x_nv_gpudirect_clique),
	       .help = "GPUs of one clique reach each other directly"),
	ROW_INTEGERS(T, x_exclude_mmap_bars, uint8_t, .max = 5, .max_items = 6,
	             .help = "BARs that the guest is not to access directly"),
	ROW_PAD(T, pad_),
};
const struct schema device_schema =
	SCHEMA(T, device_rows, .name = "DeviceConfig", .option = "device", .help = "A device of the host, by VFIO");
#undef T

int device_check(const struct device_config *d, const struct vm_config *c, struct err *e)
{
	if (d->path && d->has_fd)
		return err_set(e, EINVAL, "--device: path and fd exclude each other");
	if (!d->path && !d->has_fd)
		return err_set(e, EINVAL, "--device: path missing");
	if (d->has_fd && !(c->has_platform && c->platform.has_iommufd_fd))
		return err_set(e, EINVAL, "--device fd=%d needs --platform iommufd_fd", d->fd);
	return 0;
}

#define T struct user_device_config
static const struct field user_device_rows[] = {
	ROW_PATH(T, socket, .flags = ROW_REQUIRED, .help = "Unix socket of the device's process"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
	ROW_PAD(T, pad_),
};
const struct schema user_device_schema = SCHEMA(T, user_device_rows, .name = "UserDeviceConfig",
                                                .option = "user-device",
                                                .help = "A device of another process, by vfio-user");
#undef T

#define T struct vdpa_config
static const struct field vdpa_rows[] = {
	ROW_PATH(T, path, .flags = ROW_REQUIRED, .help = "Device node, such as /dev/vhost-vdpa-0"),
	ROW_U64(T, num_queues, .def = 1, .help = "Queues"),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
	ROW_PAD(T, pad_),
};
const struct schema vdpa_schema =
	SCHEMA(T, vdpa_rows, .name = "VdpaConfig", .option = "vdpa", .help = "A vDPA device of the host");
#undef T

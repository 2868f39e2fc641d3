/* SPDX-License-Identifier: Apache-2.0 */
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>

/* Numbers of the virtio specification, section 5, and of those reserved since; words as Cloud Hypervisor's. */
#define NAME(word_, value_) { .json = word_, .word = word_, .value = value_ }
static const struct enum_name type_names[] = {
	NAME("net", 1),
	NAME("block", 2),
	NAME("console", 3),
	NAME("rng", 4),
	NAME("balloon", 5),
	NAME("iomem", 6),
	NAME("rpmsg", 7),
	NAME("scsi", 8),
	NAME("9p", 9),
	NAME("mac80211_wlan", 10),
	NAME("rproc_serial", 11),
	NAME("caif", 12),
	NAME("memory_balloon", 13),
	NAME("gpu", 16),
	NAME("clock", 17),
	NAME("input", 18),
	NAME("vsock", 19),
	NAME("crypto", 20),
	NAME("signal_dist", 21),
	NAME("pstore", 22),
	NAME("iommu", 23),
	NAME("mem", 24),
	NAME("sound", 25),
	NAME("fs", 26),
	NAME("pmem", 27),
	NAME("rpmb", 28),
	NAME("mac80211_hwsim", 29),
	NAME("video_encoder", 30),
	NAME("video_decoder", 31),
	NAME("scmi", 32),
	NAME("nitro_sec_mod", 33),
	NAME("i2c", 34),
	NAME("watchdog", 35),
	NAME("can", 36),
	NAME("dmabuf", 37),
	NAME("param_serv", 38),
	NAME("audio_policy", 39),
	NAME("bt", 40),
	NAME("gpio", 41),
	NAME("rdma", 42),
	NAME("camera", 43),
	NAME("ism", 44),
	NAME("spi", 45),
	NAME("tee", 46),
	NAME("cpu_balloon", 47),
	NAME("media", 48),
	NAME("usb", 49),
	{ 0 },
};
#undef NAME

#define TYPE_IOMMU 23
#define TYPE_WATCHDOG 35
#define TYPE_MAX (0xffff - 0x1040) /* the PCI device number is 0x1040 and the type */

#define T struct generic_vhost_user_config
static const struct field rows[] = {
	ROW_PATH(T, socket, .flags = ROW_REQUIRED, .help = "The backend's Unix socket"),
	ROW_INTEGERS(T, queue_sizes, uint16_t, .flags = ROW_REQUIRED, .max_items = 1024, .help = "Entries of each queue"),
	ROW_U32(T, device_type, .flags = ROW_REQUIRED, .min = 1, .max = TYPE_MAX, .names = type_names,
	        .placeholder = "<number or name>", .refusal = "Invalid generic vhost-user device type: ",
	        .help = "virtio device type, such as 26 or fs; not iommu, not watchdog"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
};
const struct schema generic_vhost_user_schema =
	SCHEMA(T, rows, .name = "GenericVhostUserConfig", .option = "generic-vhost-user",
	       .help = "A device whose backend is another process");
#undef T

/* An IOMMU decides over other devices, and a watchdog over the VM: neither works from outside. */
int generic_vhost_user_check(const struct generic_vhost_user_config *g, const struct vm_config *c, struct err *e)
{
	int rc = memory_check_shared(&c->memory, e);
	if (rc < 0)
		return rc;
	if (g->device_type == TYPE_IOMMU || g->device_type == TYPE_WATCHDOG)
		return err_set(e, EINVAL, "Unsupported generic vhost-user device type: %s",
		               g->device_type == TYPE_IOMMU ? "iommu" : "watchdog");
	return placement_check(c, g->pci_segment, BEHIND_IOMMU_NEVER, e);
}

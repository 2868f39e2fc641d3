/* SPDX-License-Identifier: Apache-2.0 */
#include "config/names.h"
#include "config/placement.h"
#include "config/rate_limiter.h"
#include "config/rules.h"

#include <errno.h>

#define T struct queue_affinity_config
static const struct field queue_affinity_rows[] = {
	ROW_U16(T, queue_index, .flags = ROW_REQUIRED, .help = "The queue"),
	ROW_PAD(T, pad_),
	ROW_INTEGERS(T, host_cpus, uint64_t, .flags = ROW_REQUIRED, .help = "Host CPUs that its thread may run on"),
};
static const struct schema queue_affinity_schema =
	SCHEMA(T, queue_affinity_rows, .name = "VirtQueueAffinity", .help = "Where the thread of a queue may run");
#undef T

static const struct enum_name image_type_names[] = {
	{ .json = "Unknown", .value = IMAGE_UNKNOWN },
	{ .json = "Raw", .word = "raw", .value = IMAGE_RAW },
	{ .json = "Qcow2", .word = "qcow2", .value = IMAGE_QCOW2 },
	{ .json = "FixedVhd", .word = "vhd", .value = IMAGE_FIXED_VHD },
	{ .json = "Vhdx", .word = "vhdx", .value = IMAGE_VHDX },
	{ .json = "FlatVmdk", .word = "vmdk", .value = IMAGE_FLAT_VMDK },
	{ 0 },
};

static const struct enum_name lock_granularity_names[] = {
	{ .json = "ByteRange", .word = "byte-range", .value = LOCK_BYTE_RANGE },
	{ .json = "Full", .word = "full", .value = LOCK_FULL },
	{ 0 },
};

static const struct enum_name sync_names[] = {
	{ .json = "Full", .word = "full", .value = SYNC_FULL },
	{ .json = "Relaxed", .word = "relaxed", .value = SYNC_RELAXED },
	{ .json = "None", .word = "none", .value = SYNC_NONE },
	{ 0 },
};

#define T struct disk_config
static const struct field disk_rows[] = {
	ROW_PATH(T, path, .help = "Image file or block device"),
	ROW_BOOL(T, readonly, .help = "Refuse guest writes"),
	ROW_BOOL(T, direct, .help = "Bypass the host page cache"),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_U16(T, queue_size, .def = 128, .help = "Entries of a queue"),
	ROW_U64(T, num_queues, .def = 1, .help = "Request queues, at most one per boot vCPU"),
	ROW_BOOL(T, vhost_user, .help = "The backend is another process"),
	ROW_PATH(T, vhost_socket, .key = "socket", .help = "Its Unix socket"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROW_BOOL(T, disable_io_uring, .key = "_disable_io_uring", .help = "Do without io_uring (for tests)"),
	ROW_BOOL(T, disable_aio, .key = "_disable_aio", .help = "Do without Linux AIO (for tests)"),
	ROWS_OF_PLACEMENT(T),
	ROW_STRING(T, rate_limit_group, .help = "Share the budget of this group"),
	ROW_OBJECT(T, rate_limiter_config, struct rate_limiter_config, &rate_limiter_schema, .key = "",
	           .flags = ROW_FLAT, .has = HAS(T, has_rate_limiter_config), .is_present = rate_limiter_is_present,
	           .help = "A budget of its own"),
	ROW_STRING(T, serial, .help = "Serial number that the guest sees"),
	ROW_LIST(T, queue_affinity, struct queue_affinity_config, &queue_affinity_schema, .flags = ROW_TUPLES,
	         .placeholder = "[<queue>@[<cpus>],...]",
	         .help = "Host CPUs that the threads of the queues may run on"),
	ROW_BOOL(T, backing_files, .help = "Allow an image to name other files that it is based on"),
	ROW_BOOL(T, sparse, .def = true, .help = "Give back to the host what the guest discards"),
	ROW_ENUM(T, image_type, enum image_type, image_type_names, .def = IMAGE_UNKNOWN, .help = "Format of the image"),
	ROW_ENUM(T, lock_granularity, enum lock_granularity, lock_granularity_names, .def = LOCK_BYTE_RANGE,
	         .help = "How the image file is locked against other users"),
	ROW_ENUM(T, sync, enum disk_sync, sync_names, .def = SYNC_FULL, .flags = ROW_NOT_SAID,
	         .help = "Varan's own: what a flush of the guest's is worth. full: what was written is durable; relaxed: the same "
	                 "on Linux; none: nothing is ever synced, and a power cut may destroy the disk, but no crash of Varan's"),
	ROW_PAD(T, pad_),
};
const struct schema disk_schema =
	SCHEMA(T, disk_rows, .name = "DiskConfig", .option = "disk", .help = "A block device");
#undef T

int disk_check(const struct disk_config *d, const struct vm_config *c, const struct names *groups, struct err *e)
{
	int rc;
	if (d->vhost_socket && d->path)
		return err_set(e, EINVAL, "Disk path and vhost socket both provided");
	if (d->vhost_user && (rc = memory_check_shared(&c->memory, e)) < 0)
		return rc;
	if (d->vhost_user && !d->vhost_socket)
		return err_set(e, EINVAL, "No socket provided when using vhost-user");
	if (d->rate_limit_group && !names_have(groups, d->rate_limit_group))
		return err_set(e, EINVAL, "Invalid rate-limiter group");
	if (d->num_queues > c->cpus.boot_vcpus)
		return err_set(e, EINVAL, "Number of vCPUs is insufficient for number of queues");
	if (d->vhost_user && d->iommu)
		return err_set(e, EINVAL, "Device does not support being placed behind IOMMU");
	if ((rc = placement_check(c, d->pci_segment, d->iommu ? BEHIND_IOMMU_YES : BEHIND_IOMMU_NO, e)) < 0)
		return rc;
	if (d->has_rate_limiter_config && d->rate_limit_group)
		return err_set(e, EINVAL, "Invalid rate-limiter group");
	return 0;
}

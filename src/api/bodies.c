/* SPDX-License-Identifier: Apache-2.0 */
#include "api/bodies.h"

#include "schema/schema.h"

#define T struct resize_body
static const struct field resize_rows[] = {
	ROW_U32(T, desired_vcpus, .has = HAS(T, has_desired_vcpus), .min = 1, .help = "vCPUs that the guest shall have"),
	ROW_U64(T, desired_ram, .has = HAS(T, has_desired_ram), .help = "Bytes of RAM that the guest shall have"),
	ROW_U64(T, desired_balloon, .has = HAS(T, has_desired_balloon), .help = "Bytes that the balloon shall hold"),
	ROW_PAD(T, pad_),
};
const struct schema resize_schema =
	SCHEMA(T, resize_rows, .name = "VmResize", .help = "New sizes of a VM; what is absent stays as it is");
#undef T

#define T struct resize_disk_body
static const struct field resize_disk_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "The disk"),
	ROW_U64(T, desired_size, .flags = ROW_REQUIRED, .help = "Bytes that it shall have; no fewer than now"),
};
const struct schema resize_disk_schema =
	SCHEMA(T, resize_disk_rows, .name = "VmResizeDisk", .help = "New size of a disk");
#undef T

#define T struct resize_zone_body
static const struct field resize_zone_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "The memory zone"),
	ROW_U64(T, desired_ram, .flags = ROW_REQUIRED, .help = "Bytes of RAM that it shall have"),
};
const struct schema resize_zone_schema =
	SCHEMA(T, resize_zone_rows, .name = "VmResizeZone", .help = "New size of a memory zone");
#undef T

#define T struct remove_device_body
static const struct field remove_device_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "The device"),
};
const struct schema remove_device_schema =
	SCHEMA(T, remove_device_rows, .name = "VmRemoveDevice", .help = "The device that is to go");
#undef T

#define T struct destination_body
static const struct field snapshot_rows[] = {
	ROW_STRING(T, destination_url, .flags = ROW_REQUIRED, .help = "file:// and the folder that the snapshot is written to"),
};
const struct schema snapshot_schema =
	SCHEMA(T, snapshot_rows, .name = "VmSnapshotConfig", .help = "Where a snapshot goes");

static const struct field coredump_rows[] = {
	ROW_STRING(T, destination_url, .flags = ROW_REQUIRED, .help = "file:// and the file that the core is written to"),
};
const struct schema coredump_schema =
	SCHEMA(T, coredump_rows, .name = "VmCoredumpData", .help = "Where a core dump of the guest goes");
#undef T

#define T struct ping_answer
static const struct field ping_rows[] = {
	ROW_STRING(T, build_version, .help = "Version of the build"),
	ROW_STRING(T, version, .flags = ROW_REQUIRED, .help = "Version of the program"),
	ROW_I32(T, pid, .help = "Process identifier"),
	ROW_STRINGS(T, features, .help = "What is compiled in"),
	ROW_PAD(T, pad_),
};
const struct schema ping_schema = SCHEMA(T, ping_rows, .name = "VmmPingResponse", .help = "Who answers");
#undef T

#define T struct pci_device_answer
static const struct field pci_device_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "Device identifier"),
	ROW_STRING(T, bdf, .flags = ROW_REQUIRED, .help = "Segment, bus, device and function: 0000:00:04.0"),
};
const struct schema pci_device_schema =
	SCHEMA(T, pci_device_rows, .name = "PciDeviceInfo", .help = "Where a device is on the guest's PCI bus");
#undef T

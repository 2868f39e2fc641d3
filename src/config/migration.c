/* SPDX-License-Identifier: Apache-2.0 */
#include "config/migration.h"

#include "schema/schema.h"

static const struct enum_name memory_mode_names[] = {
	{ .json = "Precopy", .word = "precopy", .value = MIGRATION_PRECOPY },
	{ .json = "Postcopy", .word = "postcopy", .value = MIGRATION_POSTCOPY },
	{ 0 },
};

static const struct enum_name timeout_names[] = {
	{ .json = "Cancel", .word = "cancel", .value = MIGRATION_TIMEOUT_CANCEL },
	{ .json = "Ignore", .word = "ignore", .value = MIGRATION_TIMEOUT_IGNORE },
	{ 0 },
};

#define T struct send_migration_config
static const struct field send_rows[] = {
	ROW_STRING(T, destination_url, .flags = ROW_REQUIRED, .help = "Where to: unix:<path> or tcp:<host>:<port>"),
	ROW_BOOL(T, local, .help = "Hand the memory over instead of copying it; same host only"),
	ROW_U64(T, downtime_ms, .def = 300, .min = 1, .max = INT64_MAX, .help = "How long the VM may stand still, in ms"),
	ROW_U64(T, timeout_s, .def = 3600, .min = 1, .max = INT64_MAX, .help = "How long it may take to get there, in s"),
	ROW_ENUM(T, timeout_strategy, enum migration_timeout, timeout_names, .def = MIGRATION_TIMEOUT_CANCEL,
	         .help = "What then: give up, or move in spite of a longer standstill"),
	ROW_U32(T, connections, .def = 1, .min = 1, .max = 128, .help = "TCP connections side by side"),
	ROW_PATH(T, tls_dir, .help = "Directory with client-cert.pem, client-key.pem and ca-cert.pem: use TLS"),
	ROW_ENUM(T, memory_mode, enum migration_memory_mode, memory_mode_names, .def = MIGRATION_PRECOPY,
	         .help = "Move memory before the VM goes on there, or when it needs it"),
	ROW_PAD(T, pad_),
};
const struct schema send_migration_schema =
	SCHEMA(T, send_rows, .name = "SendMigrationData", .option = "send-migration", .help = "A VM's way out");
#undef T

#define T struct migrated_zone_config
static const struct field zone_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "The memory zone"),
	ROW_U32(T, host_numa_node, .flags = ROW_REQUIRED, .help = "The host's NUMA node that it is to be placed on"),
	ROW_PAD(T, pad_),
};
const struct schema migrated_zone_schema =
	SCHEMA(T, zone_rows, .name = "VmMemoryZoneUpdateData", .help = "A new place for a memory zone");
#undef T

#define T struct migrated_vfio_config
static const struct field vfio_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "The device"),
	ROW_I32(T, fd, .flags = ROW_NO_JSON, .help = "Its descriptor"),
	ROW_PAD(T, pad_),
};
const struct schema migrated_vfio_schema =
	SCHEMA(T, vfio_rows, .name = "RestoredVfioConfig", .help = "A device whose descriptor comes with the request");
#undef T

#define T struct receive_migration_config
static const struct field receive_rows[] = {
	ROW_STRING(T, receiver_url, .flags = ROW_REQUIRED, .help = "Where to listen: unix:<path> or tcp:<host>:<port>"),
	ROW_PATH(T, tls_dir, .help = "Directory with server-cert.pem, server-key.pem and ca-cert.pem: use TLS"),
	ROW_ENUM(T, memory_mode, enum migration_memory_mode, memory_mode_names, .def = MIGRATION_PRECOPY,
	         .help = "Take memory before the VM goes on here, or when it needs it"),
	ROW_LIST(T, vfio_fds, struct migrated_vfio_config, &migrated_vfio_schema, .flags = ROW_TUPLES,
	         .help = "Open descriptors for the VFIO devices"),
	ROW_I32(T, iommufd_fd, .flags = ROW_NO_JSON, .has = HAS(T, has_iommufd_fd), .help = "Open descriptor of iommufd"),
	ROW_LIST(T, zone_updates, struct migrated_zone_config, &migrated_zone_schema, .flags = ROW_TUPLES,
	         .help = "New places for memory zones"),
	ROW_PAD(T, pad_),
};
const struct schema receive_migration_schema =
	SCHEMA(T, receive_rows, .name = "ReceiveMigrationData", .option = "receive-migration", .help = "A VM's way in");
#undef T

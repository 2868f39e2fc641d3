/* SPDX-License-Identifier: Apache-2.0 */
#include "config/restore.h"

#include "schema/schema.h"

static const struct enum_name restore_mode_names[] = {
	{ .json = "Copy", .word = "copy", .value = RESTORE_COPY },
	{ .json = "OnDemand", .word = "ondemand", .value = RESTORE_ON_DEMAND },
	{ 0 },
};

#define T struct restored_net_config
static const struct field net_fds_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "The network device"),
	ROW_U64(T, num_fds, .flags = ROW_NO_OPTION | ROW_REQUIRED_JSON, .help = "How many descriptors it gets"),
	ROW_INTEGERS(T, fds, int32_t, .flags = ROW_DESCRIPTORS, .max_items = 4096, .help = "Its descriptors"),
};
static const struct schema net_fds_schema =
	SCHEMA(T, net_fds_rows, .name = "RestoredNetConfig", .help = "New descriptors for a network device");
#undef T

#define T struct restore_config
static const struct field restore_rows[] = {
	ROW_PATH(T, source_url, .flags = ROW_REQUIRED, .help = "Where the snapshot is: file:///directory"),
	ROW_BOOL(T, prefault, .help = "Bring memory in at once, instead of on first use"),
	ROW_LIST(T, net_fds, struct restored_net_config, &net_fds_schema, .flags = ROW_TUPLES, .max_items = 4096,
	         .placeholder = "[<id>@[<fd>,...],...]",
	         .help = "New descriptors for the network devices that had descriptors"),
	ROW_ENUM(T, memory_restore_mode, enum memory_restore_mode, restore_mode_names, .def = RESTORE_COPY,
	         .help = "Whether memory is read first, or on demand"),
	ROW_BOOL(T, resume, .help = "Run the restored VM, instead of leaving it paused"),
	ROW_LIST(T, zone_updates, struct migrated_zone_config, &migrated_zone_schema, .flags = ROW_TUPLES,
	         .max_items = 4096, .help = "New places for memory zones"),
	ROW_LIST(T, vfio_fds, struct migrated_vfio_config, &migrated_vfio_schema, .flags = ROW_TUPLES,
	         .max_items = 4096, .help = "Open descriptors for the VFIO devices"),
	ROW_I32(T, iommufd_fd, .flags = ROW_NO_JSON, .has = HAS(T, has_iommufd_fd), .help = "Open descriptor of iommufd"),
	ROW_PAD(T, pad_),
};
const struct schema restore_schema =
	SCHEMA(T, restore_rows, .name = "RestoreConfig", .option = "restore", .help = "A VM to start from a snapshot");
#undef T

void restore_config_count_descriptors(struct restore_config *c)
{
	for (size_t i = 0; i < c->n_net_fds; i++)
		c->net_fds[i].num_fds = c->net_fds[i].n_fds;
}

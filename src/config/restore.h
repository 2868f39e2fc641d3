/* SPDX-License-Identifier: Apache-2.0 */
/* restore.h - a VM to start from a snapshot: --restore, and the API's RestoreConfig. Plain data, as vm_config.h. */
#pragma once
#include "base/forward.h"
#include "config/migration.h"

struct schema;

enum memory_restore_mode { RESTORE_COPY, RESTORE_ON_DEMAND };

struct restored_net_config {
	char *id;
	uint64_t num_fds;
	int32_t *fds;
	size_t n_fds;
};

struct restore_config {
	char *source_url;
	struct restored_net_config *net_fds;
	size_t n_net_fds;
	struct migrated_zone_config *zone_updates;
	size_t n_zone_updates;
	struct migrated_vfio_config *vfio_fds;
	size_t n_vfio_fds;
	enum memory_restore_mode memory_restore_mode;
	int32_t iommufd_fd;
	bool has_iommufd_fd;
	bool prefault;
	bool resume;
	uint8_t pad_[5];
};

extern const struct schema restore_schema;

/* After an option string, which says the descriptors alone: num_fds of each. */
void restore_config_count_descriptors(struct restore_config *c);

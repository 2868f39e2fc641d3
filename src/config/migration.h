/* SPDX-License-Identifier: Apache-2.0 */
/* migration.h - what a VM's move to another process is told: the API's SendMigrationData and ReceiveMigrationData.
 *
 * Descriptors travel beside a request (SCM_RIGHTS), never in its JSON: here they are numbers of the process that parsed
 * the option string. */
#pragma once
#include "base/forward.h"

struct schema;

enum migration_memory_mode { MIGRATION_PRECOPY, MIGRATION_POSTCOPY };
enum migration_timeout { MIGRATION_TIMEOUT_CANCEL, MIGRATION_TIMEOUT_IGNORE };

struct send_migration_config {
	char *destination_url;
	char *tls_dir;
	uint64_t downtime_ms, timeout_s;
	uint32_t connections;
	enum migration_timeout timeout_strategy;
	enum migration_memory_mode memory_mode;
	bool local;
	uint8_t pad_[3];
};

struct migrated_zone_config {
	char *id;
	uint32_t host_numa_node;
	uint8_t pad_[4];
};

struct migrated_vfio_config {
	char *id;
	int32_t fd;
	uint8_t pad_[4];
};

struct receive_migration_config {
	char *receiver_url;
	char *tls_dir;
	struct migrated_zone_config *zone_updates;
	size_t n_zone_updates;
	struct migrated_vfio_config *vfio_fds;
	size_t n_vfio_fds;
	enum migration_memory_mode memory_mode;
	int32_t iommufd_fd;
	bool has_iommufd_fd;
	uint8_t pad_[7];
};

extern const struct schema send_migration_schema, receive_migration_schema, migrated_zone_schema, migrated_vfio_schema;

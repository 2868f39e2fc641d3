/* SPDX-License-Identifier: Apache-2.0 */
/* bodies.h - what requests and answers hold that is no part of a VM's configuration. Names as in Cloud Hypervisor's API. */
#pragma once
#include "base/forward.h"

struct schema;

struct resize_body {
	uint64_t desired_ram, desired_balloon; /* bytes */
	uint32_t desired_vcpus;
	bool has_desired_ram, has_desired_balloon, has_desired_vcpus;
	uint8_t pad_[1];
};

struct resize_disk_body {
	char *id;
	uint64_t desired_size; /* bytes */
};

struct resize_zone_body {
	char *id;
	uint64_t desired_ram; /* bytes */
};

struct remove_device_body {
	char *id;
};

struct destination_body { /* of a snapshot, of a core dump */
	char *destination_url;
};

struct ping_answer {
	char *build_version, *version;
	char **features;
	size_t n_features;
	int32_t pid;
	uint8_t pad_[4];
};

struct pci_device_answer {
	char *id, *bdf;
};

extern const struct schema resize_schema, resize_disk_schema, resize_zone_schema, remove_device_schema, snapshot_schema,
	coredump_schema, ping_schema, pci_device_schema;

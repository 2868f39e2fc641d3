/* SPDX-License-Identifier: Apache-2.0 */
/* devices.h - changing the devices of a configuration, and giving them names. */
#pragma once
#include "config/vm_config.h"

#define DEVICE_ID_BYTES 64

/* Appends a copy of *device to the list `member` of c ("disks", "net", "fs", "generic_vhost_user", "pmem", "devices",
 * "user_devices", "vdpa"), or makes it the one "vsock". The whole configuration must then hold: -EEXIST for an identifier
 * or a path that is taken, -EINVAL for another rule, texts as those of vm_config_validate(). On failure c is as before. */
int vm_config_add_device(struct vm_config *c, const char *member, const void *device, struct err *e);

/* Whether there was one. Rate limit groups, memory zones and the like are no devices. */
bool vm_config_remove_device(struct vm_config *c, const char *id);
bool vm_config_has_device(const struct vm_config *c, const char *id);

/* What a device of the list `member` has to itself, and how it is called. Strings are the configuration's. */
struct device_facts {
	const char *id;     /* NULL: none yet */
	const char *prefix; /* of made-up identifiers: "_disk" */
	const char *file;   /* on the host; NULL: none, or none that would be known by its name */
	bool only_reads;    /* the file: it may be shared with others that only read */
	int slot;           /* pci_device_id; -1: any */
};

void vm_config_describe(const char *member, const void *device, struct device_facts *ret_f);

/* All devices, in the order in which a machine makes them: for (struct device_cursor d = { 0 }; vm_config_next(c, &d);). The
 * configuration stays as it is meanwhile. */
struct device_cursor {
	size_t list, n_seen; /* its own */
	const char *member;
	const void *device;
};

bool vm_config_next(const struct vm_config *c, struct device_cursor *d);

/* A copy with this identifier, which shares all strings, that one too: free() takes it back. NULL: no memory. */
void *vm_config_with_id(const char *member, const void *device, const char *id);

/* Made-up identifiers: _disk0, _net1, ...: one count for all kinds, so that a name is not used again in the life of the
 * counter, which is that of a VM. Those that the user has taken are stepped over. */
struct device_names {
	uint32_t n_named;
};

/* -ENOSPC or -ENOMEM. */
int device_name_next(struct device_names *names, const struct vm_config *c, const char *kind,
                     char ret_id[DEVICE_ID_BYTES]);
/* Gives a name to each device without one, in the order in which a machine makes them. */
int vm_config_name_devices(struct vm_config *c, struct device_names *names, struct err *e);

/* In JSON that a client sent, the descriptors of networks mean nothing. True when there were any. */
bool vm_config_drop_descriptors(struct vm_config *c);

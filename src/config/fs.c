/* SPDX-License-Identifier: Apache-2.0 */
/* vhost-user file systems. */
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>

#define T struct fs_config
static const struct field fs_rows[] = {
	ROW_STRING(T, tag, .flags = ROW_REQUIRED, .max = 36, .too_long = "max tag length is 36",
	           .help = "What the guest mounts"),
	ROW_PATH(T, socket, .flags = ROW_REQUIRED, .help = "Unix socket of the file system's process"),
	ROW_U16(T, queue_size, .def = 1024, .help = "Entries of a queue"),
	ROW_U64(T, num_queues, .def = 1, .help = "Request queues, at most one per boot vCPU"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
	ROW_PAD(T, pad_),
};
const struct schema fs_schema =
	SCHEMA(T, fs_rows, .name = "FsConfig", .option = "fs", .help = "A file system of the host, by vhost-user");
#undef T

int fs_check(const struct fs_config *f, const struct vm_config *c, struct err *e)
{
	int rc = memory_check_shared(&c->memory, e);
	if (rc < 0)
		return rc;
	if (f->num_queues > c->cpus.boot_vcpus)
		return err_set(e, EINVAL, "Number of vCPUs is insufficient for number of queues");
	return placement_check(c, f->pci_segment, BEHIND_IOMMU_NEVER, e);
}

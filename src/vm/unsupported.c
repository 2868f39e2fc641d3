/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/unsupported.h"

#include "base/checked.h"

#include <errno.h>

struct refusal {
	bool is_asked_for;
	const char *what;
};

static int refuse(const struct refusal *list, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		if (list[i].is_asked_for)
			return err_set(e, ENOTSUP, "not supported yet: %s", list[i].what);
	}
	return 0;
}

static int refuse_disk(const struct disk_config *d, struct err *e)
{
	const struct refusal list[] = {
		{ d->vhost_user || d->vhost_socket, "--disk vhost_user" },
		{ !d->path, "--disk without a path" },
		{ d->image_type != IMAGE_UNKNOWN && d->image_type != IMAGE_RAW, "--disk image_type other than raw" },
		{ d->has_rate_limiter_config || d->rate_limit_group, "--disk rate limits" },
		{ d->n_queue_affinity > 0, "--disk queue_affinity" },
		{ d->pci_segment != 0, "--disk pci_segment" },
		{ d->has_pci_device_id, "--disk pci_device_id" },
		{ d->lock_granularity != LOCK_BYTE_RANGE, "--disk lock_granularity=full" },
		{ d->backing_files, "--disk backing_files" },
	};
	return refuse(list, ARRAY_LEN(list), e);
}

int refuse_unsupported(const struct vm_config *c, struct err *e)
{
	const struct refusal list[] = {
		{ c->payload.firmware != NULL, "--firmware" },
		{ c->cpus.max_vcpus > c->cpus.boot_vcpus, "--cpus max above boot" },
		{ c->cpus.kvm_hyperv, "--cpus kvm_hyperv" },
		{ c->cpus.n_affinity > 0, "--cpus affinity" },
		{ c->cpus.has_amx, "--cpus features=amx" },
		{ c->memory.hugepages, "--memory hugepages" },
		{ c->memory.has_hotplug_size || c->memory.has_hotplugged_size, "--memory hotplug_size" },
		{ c->memory.prefault, "--memory prefault" },
		{ c->iommu, "iommu=on" },
	};
	int rc = refuse(list, ARRAY_LEN(list), e);
	for (size_t i = 0; rc >= 0 && i < c->n_disks; i++)
		rc = refuse_disk(&c->disks[i], e);
	return rc;
}

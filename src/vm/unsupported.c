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

int refuse_unsupported_disk(const struct disk_config *d, struct err *e)
{
	const struct refusal list[] = {
		{ !d->path && !d->vhost_user, "--disk without a path" },
		{ d->vhost_user && (d->rate_limit_group || d->has_rate_limiter_config), "--disk vhost_user with a rate limit" },
		{ d->vhost_user && d->n_queue_affinity > 0, "--disk vhost_user with queue_affinity" },
		{ d->pci_segment != 0, "--disk pci_segment" },
		{ d->iommu, "--disk iommu" },
		{ d->lock_granularity != LOCK_BYTE_RANGE, "--disk lock_granularity=full" },
	};
	return refuse(list, ARRAY_LEN(list), e);
}

int refuse_unsupported_pmem(const struct pmem_config *p, struct err *e)
{
	const struct refusal list[] = {
		{ p->pci_segment != 0, "--pmem pci_segment" },
		{ p->iommu, "--pmem iommu" },
	};
	return refuse(list, ARRAY_LEN(list), e);
}

static int refuse_processor(const struct vm_config *c, struct err *e)
{
	const struct cpus_config *p = &c->cpus;
	const struct memory_config *m = &c->memory;
	const struct refusal list[] = {
		{ c->payload.firmware != NULL, "--firmware" },
		{ c->payload.igvm != NULL, "--igvm" },
		{ c->payload.host_data != NULL, "--host-data" },
		{ c->payload.has_fw_cfg_config, "--fw-cfg-config" },
		{ p->max_vcpus > p->boot_vcpus, "--cpus max above boot" },
		{ p->kvm_hyperv, "--cpus kvm_hyperv" },
		{ p->n_affinity > 0, "--cpus affinity" },
		{ p->has_amx, "--cpus features=amx" },
		{ !p->nested, "--cpus nested=off" },
		{ p->core_scheduling != CORE_SCHEDULING_OFF, "--cpus core_scheduling" },
		{ m->n_zones > 0, "--memory-zone" },
		{ m->hugepages, "--memory hugepages" },
		{ m->has_hotplug_size || m->has_hotplugged_size, "--memory hotplug_size" },
		{ m->prefault, "--memory prefault" },
		{ m->reserve, "--memory reserve" },
	};
	return refuse(list, ARRAY_LEN(list), e);
}

static int refuse_platform(const struct platform_config *p, struct err *e)
{
	const struct refusal list[] = {
		{ p->num_pci_segments > 1, "--platform num_pci_segments" },
		{ p->iommu_segments != NULL, "--platform iommu_segments" },
		{ p->iommufd, "--platform iommufd" },
		{ p->has_iommufd_fd, "--platform iommufd_fd" },
		{ p->tdx, "--platform tdx" },
		{ p->sev_snp, "--platform sev_snp" },
		{ p->serial_number || p->uuid || p->oem_strings || p->system_manufacturer || p->system_product_name ||
			  p->system_version || p->system_serial_number || p->system_uuid || p->system_sku_number ||
			  p->system_family || p->chassis_asset_tag,
		  "--platform SMBIOS identity" },
	};
	return refuse(list, ARRAY_LEN(list), e);
}

static int refuse_devices(const struct vm_config *c, struct err *e)
{
	const struct refusal list[] = {
		{ c->n_net > 0, "--net" },
		{ c->has_balloon, "--balloon" },
		{ c->n_fs > 0, "--fs" },
		{ c->n_generic_vhost_user > 0, "--generic-vhost-user" },
		{ c->console.id != NULL, "--console id" },
		{ c->console.pci_segment != 0, "--console pci_segment" },
		{ c->console.has_pci_device_id, "--console pci_device_id" },
		{ c->debug_console.mode != CONSOLE_OFF, "--debug-console" },
		{ c->n_devices > 0, "--device" },
		{ c->n_user_devices > 0, "--user-device" },
		{ c->n_vdpa > 0, "--vdpa" },
		{ c->has_vsock, "--vsock" },
		{ c->has_rtc, "--rtc" },
		{ c->has_ivshmem, "--ivshmem" },
		{ c->has_pvmemcontrol, "--pvmemcontrol" },
		{ c->pvpanic, "--pvpanic" },
		{ c->watchdog, "--watchdog" },
		{ c->has_tpm, "--tpm" },
		{ c->n_sgx_epc > 0, "--sgx-epc" },
		{ c->n_numa > 0, "--numa" },
		{ c->n_pci_segments > 0, "--pci-segment" },
		{ c->gdb, "--gdb" },
		{ c->landlock_enable, "--landlock" },
		{ c->iommu, "iommu=on" },
	};
	return refuse(list, ARRAY_LEN(list), e);
}

int refuse_unsupported(const struct vm_config *c, struct err *e)
{
	int rc = refuse_processor(c, e);
	if (rc == 0 && c->has_platform)
		rc = refuse_platform(&c->platform, e);
	if (rc == 0)
		rc = refuse_devices(c, e);
	for (size_t i = 0; rc == 0 && i < c->n_disks; i++)
		rc = refuse_unsupported_disk(&c->disks[i], e);
	for (size_t i = 0; rc == 0 && i < c->n_pmem; i++)
		rc = refuse_unsupported_pmem(&c->pmem[i], e);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The rules over a whole configuration. Their order is Cloud Hypervisor's and part of the interface: of several faults,
 * the first is what a user sees. What a rule says about one section stands in that section's file. */
#include "config/names.h"
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>
#include <string.h>

struct validation {
	const struct vm_config *c;
	struct names ids, paths, groups;
	struct err *e;
};

/* Unique among all that carry one, and not of the form that internal devices have. */
static int claim_id(struct validation *v, const char *id)
{
	uint32_t owner;
	if (!id)
		return 0;
	if (strncmp(id, "__", 2) == 0)
		return err_set(v->e, EINVAL, "Identifier %s is invalid", id);
	if (!names_add(&v->ids, id, 0, &owner))
		return err_set(v->e, EEXIST, "Identifier %s is not unique", id);
	return 0;
}

static int check_place(struct validation *v, uint16_t pci_segment, bool iommu)
{
	return placement_check(v->c, pci_segment, iommu ? BEHIND_IOMMU_YES : BEHIND_IOMMU_NO, v->e);
}

static int check_processor(struct validation *v)
{
	const struct vm_config *c = v->c;
	int rc;
	if (!c->has_payload)
		return err_set(v->e, EINVAL, "No kernel specified");
	if ((rc = console_check(&c->console, v->e)) < 0 || (rc = console_check(&c->serial, v->e)) < 0)
		return rc;
	return cpus_check_counts(&c->cpus, v->e);
}

static int check_storage_and_networks(struct validation *v)
{
	const struct vm_config *c = v->c;
	uint32_t owner;
	int rc;
	for (size_t i = 0; i < c->n_rate_limit_groups; i++) {
		if ((rc = rate_limit_group_check(&c->rate_limit_groups[i], v->e)) < 0 ||
		    (rc = claim_id(v, c->rate_limit_groups[i].id)) < 0)
			return rc;
		(void)names_add(&v->groups, c->rate_limit_groups[i].id, 0, &owner);
	}
	for (size_t i = 0; i < c->n_disks; i++)
		if ((rc = disk_check(&c->disks[i], c, &v->groups, v->e)) < 0 || (rc = claim_id(v, c->disks[i].id)) < 0)
			return rc;
	for (size_t i = 0; i < c->n_net; i++)
		if ((rc = net_check(&c->net[i], c, v->e)) < 0 || (rc = claim_id(v, c->net[i].id)) < 0)
			return rc;
	for (size_t i = 0; i < c->n_fs; i++)
		if ((rc = fs_check(&c->fs[i], c, v->e)) < 0 || (rc = claim_id(v, c->fs[i].id)) < 0)
			return rc;
	for (size_t i = 0; i < c->n_generic_vhost_user; i++)
		if ((rc = generic_vhost_user_check(&c->generic_vhost_user[i], c, v->e)) < 0 ||
		    (rc = claim_id(v, c->generic_vhost_user[i].id)) < 0)
			return rc;
	for (size_t i = 0; i < c->n_pmem; i++)
		if ((rc = check_place(v, c->pmem[i].pci_segment, c->pmem[i].iommu)) < 0 ||
		    (rc = claim_id(v, c->pmem[i].id)) < 0)
			return rc;
	return 0;
}

static int check_foreign_devices(struct validation *v)
{
	const struct vm_config *c = v->c;
	int rc;
	if (c->n_user_devices && !memory_is_shared(&c->memory))
		return err_set(v->e, EINVAL, "Using user devices requires using shared memory or huge pages");
	for (size_t i = 0; i < c->n_user_devices; i++) {
		const struct user_device_config *d = &c->user_devices[i];
		if ((rc = placement_check(c, d->pci_segment, BEHIND_IOMMU_NEVER, v->e)) < 0 ||
		    (rc = claim_id(v, d->id)) < 0)
			return rc;
	}
	for (size_t i = 0; i < c->n_vdpa; i++)
		if ((rc = check_place(v, c->vdpa[i].pci_segment, c->vdpa[i].iommu)) < 0 ||
		    (rc = claim_id(v, c->vdpa[i].id)) < 0)
			return rc;
	return 0;
}

/* Paths are compared as texts. */
static int check_passthrough(struct validation *v)
{
	const struct vm_config *c = v->c;
	for (size_t i = 0; i < c->n_devices; i++) {
		const struct device_config *d = &c->devices[i];
		uint32_t owner;
		int rc;
		if ((rc = device_check(d, c, v->e)) < 0)
			return rc;
		if (d->path && !names_add(&v->paths, d->path, 0, &owner))
			return err_set(v->e, EEXIST, "Duplicated device path: %s", d->path);
		if ((rc = check_place(v, d->pci_segment, d->iommu)) < 0 || (rc = claim_id(v, d->id)) < 0)
			return rc;
	}
	return 0;
}

static int check_vsock(struct validation *v)
{
	const struct vm_config *c = v->c;
	int rc;
	if (!c->has_vsock)
		return 0;
	rc = check_place(v, c->vsock.pci_segment, c->vsock.iommu);
	return rc < 0 ? rc : claim_id(v, c->vsock.id);
}

/* What there is one of. The serial port is not on PCI; a console that nobody placed is not asked where it is. */
static int check_single_devices(struct validation *v)
{
	const struct vm_config *c = v->c;
	int rc;
	if (c->console.pci_segment && (rc = check_place(v, c->console.pci_segment, c->console.iommu)) < 0)
		return rc;
	if ((rc = claim_id(v, c->console.id)) < 0)
		return rc;
	if (c->has_balloon && ((rc = check_place(v, c->balloon.pci_segment, c->balloon.iommu)) < 0 ||
	                       (rc = claim_id(v, c->balloon.id)) < 0))
		return rc;
	if (c->has_rtc && ((rc = check_place(v, c->rtc.pci_segment, c->rtc.iommu)) < 0 ||
	                   (rc = claim_id(v, c->rtc.id)) < 0))
		return rc;
	return 0;
}

static int check_regions(struct validation *v)
{
	const struct vm_config *c = v->c;
	int rc = numa_check(c, v->e);
	for (size_t i = 0; rc == 0 && i < c->memory.n_zones; i++)
		rc = claim_id(v, c->memory.zones[i].id);
	for (size_t i = 0; rc == 0 && i < c->n_sgx_epc; i++)
		rc = claim_id(v, c->sgx_epc[i].id);
	for (size_t i = 0; rc == 0 && i < c->n_pci_segments; i++)
		rc = pci_segment_check(&c->pci_segments[i], c, v->e);
	if (rc == 0 && c->has_platform)
		rc = platform_check(&c->platform, v->e);
	for (size_t i = 0; rc == 0 && i < c->n_landlock_rules; i++)
		rc = landlock_check(&c->landlock_rules[i], v->e);
	return rc;
}

static int check_all(struct validation *v)
{
	const struct vm_config *c = v->c;
	int rc;
	if ((rc = check_processor(v)) < 0 || (rc = check_storage_and_networks(v)) < 0 ||
	    (rc = cpus_check_topology(&c->cpus, v->e)) < 0 || (rc = memory_check(&c->memory, v->e)) < 0 ||
	    (rc = check_foreign_devices(v)) < 0)
		return rc;
	if ((c->has_vsock && (rc = vsock_check_cid(&c->vsock, v->e)) < 0) ||
	    (c->has_balloon && (rc = balloon_check(&c->balloon, &c->memory, v->e)) < 0))
		return rc;
	if ((rc = check_passthrough(v)) < 0 || (rc = check_vsock(v)) < 0 || (rc = check_single_devices(v)) < 0)
		return rc;
	return check_regions(v);
}

int vm_config_validate(const struct vm_config *c, struct err *e)
{
	struct validation v = { .c = c, .e = e };
	size_t n_ids = c->n_rate_limit_groups + c->n_disks + c->n_net + c->n_fs + c->n_generic_vhost_user +
		       c->n_pmem + c->n_user_devices + c->n_vdpa + c->n_devices + 4 + c->memory.n_zones + c->n_sgx_epc;
	int rc = names_init(&v.ids, n_ids);
	if (rc == 0)
		rc = names_init(&v.paths, c->n_devices);
	if (rc == 0)
		rc = names_init(&v.groups, c->n_rate_limit_groups);
	rc = rc < 0 ? err_set(e, ENOMEM, "out of memory") : check_all(&v);
	if (rc < 0)
		err_flatten(e);
	names_done(&v.ids);
	names_done(&v.paths);
	names_done(&v.groups);
	return rc;
}

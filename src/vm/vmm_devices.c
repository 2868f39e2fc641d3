/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that come and go, or grow.
 *
 * A disk that is added to a running guest joins the configuration, so that it is there after a reboot; one that is to be
 * removed stays until the guest has let go of it, or until the machine goes down, whichever comes first. vm.c tells. One that
 * the guest ejects without being asked stays in the configuration: it is not the guest's to say what the next boot has. */
#include "base/cleanup.h"
#include "base/text.h"
#include "config/preserved.h"
#include "vm/events.h"
#include "vm/vmm_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether the configuration would still keep every rule. */
static int check_with_disk(const struct vm_config *c, const struct disk_config *disk, struct err *e)
{
	struct vm_config copy;
	int rc = vm_config_copy(&copy, c, e);
	if (rc < 0)
		return rc;
	rc = vmm_because(vm_config_add_disk(&copy, disk, e), "Failed to validate config", e);
	vm_config_done(&copy);
	return rc;
}

/* One that is in the configuration, but on its way out of the machine, or out already because the guest has ejected it: its
 * id and what else it has are not free. */
static int refuse_clash(const struct disk_config *disk, const struct disk_config *other, bool is_leaving, struct err *e)
{
	bool is_shared = disk->readonly && other->readonly;
	bool has_its_file = !is_shared && disk->path && other->path && strcmp(disk->path, other->path) == 0;
	bool has_its_slot = disk->has_pci_device_id && other->has_pci_device_id && disk->pci_device_id == other->pci_device_id;
	bool has_its_id = strcmp(disk->id, other->id) == 0;

	if (is_leaving && has_its_id)
		return err_set(e, EEXIST, "device '%s' is being removed: its id is free once the guest has let go of it",
		               other->id);
	if (is_leaving && has_its_file)
		return err_set(e, EEXIST, "device '%s' is being removed: its file is free once the guest has let go of it",
		               other->id);
	if (!is_leaving && (has_its_id || has_its_file || has_its_slot))
		return err_set(e, has_its_id || has_its_file ? EEXIST : EINVAL,
		               "device '%s' was ejected by the guest and is back at the next boot: "
		               "its %s is free once it is removed",
		               other->id, has_its_id ? "id" : has_its_file ? "file" : "pci_device_id");
	return 0;
}

static int refuse_clashes(struct vmm *vmm, const struct disk_config *disk, struct err *e)
{
	int rc = 0;
	for (size_t i = 0; rc >= 0 && i < vmm->config->n_disks; i++) {
		const struct disk_config *other = &vmm->config->disks[i];
		bool is_leaving, is_there = vm_has_device(vmm->vm, other->id, &is_leaving);
		if (!is_there || is_leaving)
			rc = vmm_one_cause(refuse_clash(disk, other, is_leaving, e), e);
	}
	return vmm_because(rc, "Error from device manager", e);
}

/* disk has an id, and so have all of the configuration, as there is a machine. */
static int plug_disk(struct vmm *vmm, const struct disk_config *disk, struct pci_device_info *ret_info, struct err *e)
{
	int rc = refuse_clashes(vmm, disk, e); /* first: the rules would only say that the id is taken */
	if (rc >= 0)
		rc = check_with_disk(vmm->config, disk, e);
	if (rc >= 0) {
		rc = vmm_one_cause(vm_add_disk(vmm->vm, disk, ret_info, e), e);
		rc = vmm_because(rc, "Error from device manager", e);
	}
	if (rc >= 0 && vm_config_add_disk(vmm->config, disk, e) < 0) {
		/* Checked before, so it was memory: the guest has the disk, and a reboot will not know it. */
		log_error(&vmm->log, "%s: not in the configuration: %s", disk->id, e ? e->text : "no memory");
	}
	return rc;
}

static int plug_named(struct vmm *vmm, const struct disk_config *disk, struct pci_device_info *ret_info, struct err *e)
{
	struct disk_config named = *disk; /* shares its strings */
	char made_id[DEVICE_ID_BYTES];
	if (!named.id) {
		int rc = device_name_next(&vmm->names, vmm->config, "_disk", made_id);
		if (rc < 0)
			return err_set_errno(e, -rc, "no name for a device");
		named.id = made_id;
	}
	return plug_disk(vmm, &named, ret_info, e);
}

/* The configuration owns the descriptors before it is asked whether it holds, as its copies must. */
static int add_cold(struct vmm *vmm, const struct device_addition *a, struct err *e)
{
	int rc = vm_config_preserve(vmm->config, a->fds, a->n_fds, e);
	if (rc < 0)
		return rc;
	rc = vm_config_add_device(vmm->config, a->member, a->device, e);
	if (rc < 0) {
		vm_config_unpreserve(vmm->config, a->n_fds);
		return vmm_because(rc, "Failed to validate config", e);
	}
	for (size_t i = 0; i < a->n_fds; i++)
		a->fds[i] = -1;
	return 0;
}

static int add_hot(struct vmm *vmm, const struct device_addition *a, struct pci_device_info *ret_info, struct err *e)
{
	if (strcmp(a->member, "disks") == 0)
		return plug_named(vmm, a->device, ret_info, e);
	return err_set(e, ENOTSUP, "not supported yet: --%s", a->option);
}

int vmm_add_device(struct vmm *vmm, const struct device_addition *a, struct pci_device_info *ret_info, struct err *e)
{
	struct pci_device_info info = { 0 };
	text_scoped operation = TEXT_INIT;
	text_appendf(&operation, "The %s could not be added to the VM", a->noun);
	if (!vmm->config)
		return vmm_not_created(text_get(&operation), e);
	int rc = vmm_has_machine(vmm) ? add_hot(vmm, a, &info, e) : add_cold(vmm, a, e);
	if (rc < 0)
		return vmm_because(rc, text_get(&operation), e);
	*ret_info = info;
	return 0;
}

int vmm_remove_device(struct vmm *vmm, const char *id, struct err *e)
{
	static const char operation[] = "The device could not be removed from the VM";
	if (!vmm->config)
		return vmm_not_created(operation, e);
	int rc;
	bool is_leaving;
	/* One that the guest has ejected is in the configuration alone, too. */
	if (!vmm_has_machine(vmm) || (vm_config_has_device(vmm->config, id) && !vm_has_device(vmm->vm, id, &is_leaving))) {
		if (vm_config_remove_device(vmm->config, id))
			return 0;
		rc = err_set(e, ENOENT, "No device with id \"%.100s\" to remove", id);
		return vmm_because(vmm_one_cause(rc, e), operation, e);
	}
	rc = vmm_because(vmm_one_cause(vm_remove_device(vmm->vm, id, e), e), "Error from device manager", e);
	return vmm_because(rc, operation, e);
}

int vmm_resize_disk(struct vmm *vmm, const char *id, uint64_t n_bytes, struct err *e)
{
	static const char operation[] = "The disk could not be resized";
	if (!vmm->config)
		return vmm_not_created(operation, e);
	if (!vmm_has_machine(vmm))
		return vmm_not_running(operation, e);
	int rc = vmm_because(vmm_one_cause(vm_resize_disk(vmm->vm, id, n_bytes, e), e), "Error from device manager", e);
	return vmm_because(rc, operation, e);
}

/* Also while the machine goes down: what was on its way out goes with it. */
void vmm_on_device_removed(void *context, const char *id, const char *bdf, bool was_asked_for)
{
	struct vmm *vmm = context;
	if (was_asked_for)
		(void)vm_config_remove_device(vmm->config, id);
	events_emit_device(vmm->p.events, "vm", "device-removed", id, bdf);
}

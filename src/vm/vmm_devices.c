/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that come and go, or grow.
 *
 * One that is added to a running guest joins the configuration, so that it is there after a reboot; one that is to be
 * removed stays until the guest has let go of it, or until the machine goes down, whichever comes first. vm.c tells. One that
 * the guest ejects without being asked stays in the configuration: it is not the guest's to say what the next boot has. */
#include "base/cleanup.h"
#include "base/text.h"
#include "config/preserved.h"
#include "vm/events.h"
#include "vm/machine.h"
#include "vm/vmm_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Whether the configuration would still keep every rule. */
static int check_with(const struct vm_config *c, const char *member, const void *device, struct err *e)
{
	struct vm_config copy;
	int rc = vm_config_copy(&copy, c, e);
	if (rc < 0)
		return rc;
	rc = vmm_because(vm_config_add_device(&copy, member, device, e), "Failed to validate config", e);
	vm_config_done(&copy);
	return rc;
}

/* Each device makes a file of its own there. */
static bool is_folder(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool is_same_file(const struct device_facts *f, const struct device_facts *other)
{
	bool is_shared = f->only_reads && other->only_reads;
	return !is_shared && f->file && other->file && strcmp(f->file, other->file) == 0 && !is_folder(f->file);
}

/* One that is in the configuration, but on its way out of the machine, or out already because the guest has ejected it: its
 * id and what else it has are not free. */
static int refuse_clash(const struct device_facts *f, const struct device_facts *other, bool is_leaving, struct err *e)
{
	bool has_its_file = is_same_file(f, other);
	bool has_its_slot = f->slot >= 0 && f->slot == other->slot;
	bool has_its_id = strcmp(f->id, other->id) == 0;

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

static int refuse_clashes(struct vmm *vmm, const struct device_facts *f, struct err *e)
{
	int rc = 0;
	for (struct device_cursor d = { 0 }; rc >= 0 && vm_config_next(vmm->config, &d);) {
		struct device_facts other;
		vm_config_describe(d.member, d.device, &other);
		bool is_leaving, is_there = vm_has_device(vmm->vm, other.id, &is_leaving);
		if (!is_there || is_leaving)
			rc = vmm_one_cause(refuse_clash(f, &other, is_leaving, e), e);
	}
	return vmm_because(rc, "Error from device manager", e);
}

/* The device has an id, and so have all of the configuration, as there is a machine. */
static int plug(struct vmm *vmm, const char *member, const void *device, struct pci_device_info *ret_info, struct err *e)
{
	struct device_facts f;
	vm_config_describe(member, device, &f);
	int rc = refuse_clashes(vmm, &f, e); /* first: the rules would only say that the id is taken */
	if (rc >= 0)
		rc = check_with(vmm->config, member, device, e);
	if (rc >= 0) {
		rc = vmm_one_cause(vm_add_device(vmm->vm, member, device, ret_info, e), e);
		rc = vmm_because(rc, "Error from device manager", e);
	}
	if (rc >= 0 && vm_config_add_device(vmm->config, member, device, e) < 0) {
		/* Checked before, so it was memory: the guest has the device, and a reboot will not know it. */
		log_error(&vmm->log, "%s: not in the configuration: %s", f.id, e ? e->text : "no memory");
	}
	return rc;
}

static int plug_unnamed(struct vmm *vmm, const char *member, const void *device, const char *prefix,
                        struct pci_device_info *ret_info, struct err *e)
{
	char made_id[DEVICE_ID_BYTES];
	int rc = device_name_next(&vmm->names, vmm->config, prefix, made_id);
	void *named = rc < 0 ? NULL : vm_config_with_id(member, device, made_id);
	if (!named)
		return err_set_errno(e, rc < 0 ? -rc : ENOMEM, "no name for a device");
	rc = plug(vmm, member, named, ret_info, e);
	free(named);
	return rc;
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
	struct device_facts f;
	if (!machine_takes(a->member))
		return err_set(e, ENOTSUP, "not supported yet: --%s", a->option);
	vm_config_describe(a->member, a->device, &f);
	return f.id ? plug(vmm, a->member, a->device, ret_info, e)
	            : plug_unnamed(vmm, a->member, a->device, f.prefix, ret_info, e);
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

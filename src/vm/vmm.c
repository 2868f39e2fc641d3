/* SPDX-License-Identifier: Apache-2.0 */
/* Who may do what when: the configuration is there from vmm_create() to vmm_delete(), and with it the VM object and its
 * consoles; vm.c knows whether a machine runs. Texts and their order are Cloud Hypervisor's, as its clients match them.
 *
 * A disk that is added to a running guest joins the configuration, so that it is there after a reboot; one that is to be
 * removed stays until the guest has let go of it, or until the machine goes down, whichever comes first. vm.c tells. One that
 * the guest ejects without being asked stays in the configuration: it is not the guest's to say what the next boot has. */
#include "vm/vmm.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "config/devices.h"
#include "hv/hv.h"
#include "loop/loop.h"
#include "schema/schema.h"
#include "vm/events.h"
#include "vm/unsupported.h"
#include "vm/vm_info.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct vmm {
	struct vmm_params p;
	struct log log;
	struct hv *hv;
	struct vm_config *config; /* NULL: no VM; else vm is there, too */
	struct vm *vm;
	struct device_names names;

	bool is_until_poweroff, has_ended;
	_Atomic bool is_stopping;
	struct err failure;
	char *report;
};

static void on_request(void *context, enum vm_request what);
static void on_device_removed(void *context, const char *id, const char *bdf, bool was_asked_for);

int vmm_new(const struct vmm_params *p, struct vmm **ret_vmm, struct err *e)
{
	struct vmm *vmm = calloc(1, sizeof *vmm);
	if (!vmm)
		return err_set(e, ENOMEM, "no memory");
	vmm->p = *p;
	vmm->log = (struct log){ .sink = p->log_sink, .object = "vmm" };
	int rc = hv_open(&vmm->hv, &vmm->log, e);
	if (rc < 0) {
		vmm_free(vmm);
		return rc;
	}
	*ret_vmm = vmm;
	return 0;
}

static void forget_vm(struct vmm *vmm)
{
	vm_free(ptr_take(vmm->vm));
	if (vmm->config)
		vm_config_done(vmm->config);
	free(ptr_take(vmm->config));
	vmm->names = (struct device_names){ 0 };
}

/* Once: the last thing that those who listen hear. */
static void end(struct vmm *vmm)
{
	if (vmm->has_ended)
		return;
	vmm->has_ended = true;
	(void)vmm_delete(vmm, NULL);
	events_emit(vmm->p.events, "vmm", "shutdown", NULL);
}

void vmm_free(struct vmm *vmm)
{
	if (!vmm)
		return;
	if (vmm->hv)
		end(vmm);
	hv_close(vmm->hv);
	free(vmm->report);
	free(vmm);
}

struct vm *vmm_vm(struct vmm *vmm)
{
	return vmm->vm;
}

const char *vmm_report(const struct vmm *vmm)
{
	return vmm->report;
}

static void emit(const struct vmm *vmm, const char *event)
{
	events_emit(vmm->p.events, "vm", event, NULL);
}

/* --- chains of causes -------------------------------------------------------------------------------------------------- */

/* Puts the operation in front of why it failed. */
static int because(int rc, const char *operation, struct err *e)
{
	if (rc < 0)
		err_prefix(e, "%s\n", operation);
	return rc;
}

/* Of a text that names what a client chose, before an operation is put in front of it. */
static int one_cause(int rc, struct err *e)
{
	if (rc < 0)
		err_flatten(e);
	return rc;
}

/* Of a boot, or of opening the consoles, as one cause: there the codes that say "the client is wrong" (vmm.h) are the host's
 * errno by chance, and become -EIO. */
static int not_the_clients(int rc, struct err *e)
{
	(void)one_cause(rc, e);
	if (rc != -ENOENT && rc != -EEXIST && rc != -EINVAL)
		return rc;
	if (e)
		e->code = EIO;
	return -EIO;
}

static int not_created(const char *operation, struct err *e)
{
	return err_set(e, ENOENT, "%s\nVM is not created\nVmNotCreated", operation);
}

/* Also when there is no VM at all, for those operations that need one that runs. */
static int not_running(const char *operation, struct err *e)
{
	return err_set(e, EBUSY, "%s\nVM is not running\nVmNotRunning", operation);
}

static bool has_machine(const struct vmm *vmm)
{
	return vmm->vm && (vm_state(vmm->vm) == VM_RUNNING || vm_state(vmm->vm) == VM_PAUSED);
}

/* What vm_config_validate() says of a rule that is broken, as a cause. */
static int validate(const struct vm_config *c, struct err *e)
{
	return because(vm_config_validate(c, e), "Failed to validate config", e);
}

/* --- the life of a VM -------------------------------------------------------------------------------------------------- */

static int make_vm(struct vmm *vmm, struct err *e)
{
	struct vm_params p = {
		.config = vmm->config,
		.loop = vmm->p.loop,
		.hv = vmm->hv,
		.events = vmm->p.events,
		.terminal = vmm->p.terminal,
		.log_sink = vmm->p.log_sink,
		.lease_signal = vmm->p.lease_signal,
		.request = on_request,
		.device_removed = on_device_removed,
		.context = vmm,
	};
	return vm_new(&p, &vmm->vm, e);
}

int vmm_create(struct vmm *vmm, struct vm_config *config, struct err *e)
{
	static const char operation[] = "The VM could not be created";
	if (vmm->config)
		return err_set(e, EBUSY, "%s\nVM is already created\nVmAlreadyCreated", operation);
	int rc = validate(config, e);
	if (rc < 0)
		return because(rc, operation, e);

	vmm->config = malloc(sizeof *vmm->config);
	if (!vmm->config)
		return err_set(e, ENOMEM, "%s\nno memory", operation);
	memcpy(vmm->config, config, sizeof *config);
	rc = vm_config_complete(vmm->config, e);
	if (rc >= 0)
		rc = not_the_clients(make_vm(vmm, e), e);
	if (rc < 0) {
		memcpy(config, vmm->config, sizeof *config); /* the caller's again, completed as it may be */
		free(ptr_take(vmm->config));
		return because(rc, operation, e);
	}
	memset(config, 0, sizeof *config);
	return 0;
}

/* What a boot needs of the configuration alone. Before names are made for thousands of devices that no machine can have. */
static int check_bootable(const struct vm_config *c, struct err *e)
{
	int rc = validate(c, e);
	return rc < 0 ? rc : refuse_unsupported(c, e);
}

/* Ids that the user did not give are made when the machine is: they are then in vm.info, and stay over reboots. */
static int boot(struct vmm *vmm, struct err *e)
{
	int rc = check_bootable(vmm->config, e);
	if (rc >= 0)
		rc = vm_config_name_devices(vmm->config, &vmm->names, e);
	return rc < 0 ? rc : not_the_clients(vm_boot(vmm->vm, e), e);
}

int vmm_boot(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "The VM could not boot";
	int rc;
	emit(vmm, "booting");
	if (!vmm->config)
		return err_set(e, ENOENT, "%s\nVM config is missing\nVmMissingConfig", operation);
	if (vm_state(vmm->vm) == VM_RUNNING)
		return err_set(e, EBUSY, "%s\ninvalid VM state transition: Running to Running", operation);
	if (vm_state(vmm->vm) == VM_PAUSED) {
		rc = vmm_resume(vmm, e);
	} else {
		rc = because(boot(vmm, e), operation, e);
	}
	if (rc >= 0)
		emit(vmm, "booted");
	return rc;
}

/* Of what Cloud Hypervisor calls a migratable component. */
static int invalid_transition(const char *operation, const char *verb, enum vm_state from, enum vm_state to, struct err *e)
{
	return err_set(e, EBUSY,
	               "%s\nCannot %s VM\nFailed to %s migratable component\n"
	               "Invalid transition: InvalidStateTransition(%s, %s)",
	               operation, verb, verb, vm_state_name(from), vm_state_name(to));
}

int vmm_pause(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "The VM could not be paused";
	if (!has_machine(vmm))
		return not_running(operation, e);
	if (vm_state(vmm->vm) == VM_PAUSED)
		return invalid_transition(operation, "pause", VM_PAUSED, VM_PAUSED, e);
	emit(vmm, "pausing");
	int rc = because(vm_pause(vmm->vm, e), operation, e);
	if (rc >= 0)
		emit(vmm, "paused");
	return rc;
}

int vmm_resume(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "The VM could not resume";
	if (!has_machine(vmm))
		return not_running(operation, e);
	if (vm_state(vmm->vm) == VM_RUNNING)
		return invalid_transition(operation, "resume", VM_RUNNING, VM_RUNNING, e);
	emit(vmm, "resuming");
	int rc = because(vm_resume(vmm->vm, e), operation, e);
	if (rc >= 0)
		emit(vmm, "resumed");
	return rc;
}

int vmm_shutdown(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "The VM could not shutdown";
	if (!has_machine(vmm))
		return not_running(operation, e);
	int rc = because(vm_shutdown(vmm->vm, e), operation, e);
	if (rc >= 0)
		emit(vmm, "shutdown");
	return rc;
}

int vmm_reboot(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "The VM could not reboot";
	emit(vmm, "rebooting");
	if (!has_machine(vmm))
		return not_created(operation, e);
	int rc = check_bootable(vmm->config, e); /* while there is still a machine to keep */
	if (rc >= 0)
		rc = vm_shutdown(vmm->vm, e);
	if (rc < 0)
		return because(rc, operation, e);
	rc = boot(vmm, e);
	emit(vmm, rc < 0 ? "shutdown" : "rebooted");
	return because(rc, operation, e);
}

int vmm_power_button(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "Error triggering power button";
	return has_machine(vmm) ? because(vm_power_button(vmm->vm, e), operation, e) : not_running(operation, e);
}

int vmm_nmi(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "Error triggering NMI";
	return has_machine(vmm) ? because(vm_nmi(vmm->vm, e), operation, e) : not_running(operation, e);
}

int vmm_delete(struct vmm *vmm, struct err *e)
{
	if (!vmm->config)
		return 0;
	if (has_machine(vmm)) {
		int rc = because(vmm_shutdown(vmm, e), "The VM could not be deleted", e);
		if (rc < 0)
			return rc;
	}
	forget_vm(vmm);
	emit(vmm, "deleted");
	return 0;
}

/* --- devices ------------------------------------------------------------------------------------------------------------ */

/* Whether the configuration would still keep every rule. */
static int check_with_disk(const struct vm_config *c, const struct disk_config *disk, struct err *e)
{
	struct vm_config copy;
	int rc = vm_config_copy(&copy, c, e);
	if (rc < 0)
		return rc;
	rc = because(vm_config_add_disk(&copy, disk, e), "Failed to validate config", e);
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
			rc = one_cause(refuse_clash(disk, other, is_leaving, e), e);
	}
	return because(rc, "Error from device manager", e);
}

/* disk has an id, and so have all of the configuration, as there is a machine. */
static int plug_disk(struct vmm *vmm, const struct disk_config *disk, struct pci_device_info *ret_info, struct err *e)
{
	int rc = refuse_clashes(vmm, disk, e); /* first: the rules would only say that the id is taken */
	if (rc >= 0)
		rc = check_with_disk(vmm->config, disk, e);
	if (rc >= 0) {
		rc = one_cause(vm_add_disk(vmm->vm, disk, ret_info, e), e);
		rc = because(rc, "Error from device manager", e);
	}
	if (rc >= 0 && vm_config_add_disk(vmm->config, disk, e) < 0) {
		/* Checked before, so it was memory: the guest has the disk, and a reboot will not know it. */
		log_error(&vmm->log, "%s: not in the configuration: %s", disk->id, e ? e->text : "no memory");
	}
	return rc;
}

int vmm_add_disk(struct vmm *vmm, const struct disk_config *disk, struct pci_device_info *ret_info, struct err *e)
{
	static const char operation[] = "The disk could not be added to the VM";
	struct pci_device_info info = { 0 };
	struct disk_config named = *disk; /* shares its strings */
	char made_id[DEVICE_ID_BYTES];
	int rc;
	if (!vmm->config)
		return not_created(operation, e);
	if (has_machine(vmm)) {
		rc = named.id ? 0 : device_name_next(&vmm->names, vmm->config, "_disk", made_id);
		if (rc < 0)
			rc = err_set_errno(e, -rc, "no name for a device");
		else if (!named.id)
			named.id = made_id;
		if (rc >= 0)
			rc = plug_disk(vmm, &named, &info, e);
	} else {
		rc = because(vm_config_add_disk(vmm->config, disk, e), "Failed to validate config", e);
		(void)snprintf(info.id, sizeof info.id, "%s", disk->id ? disk->id : "");
	}
	if (rc < 0)
		return because(rc, operation, e);
	*ret_info = info;
	return 0;
}

int vmm_remove_device(struct vmm *vmm, const char *id, struct err *e)
{
	static const char operation[] = "The device could not be removed from the VM";
	if (!vmm->config)
		return not_created(operation, e);
	int rc;
	bool is_leaving;
	/* One that the guest has ejected is in the configuration alone, too. */
	if (!has_machine(vmm) || (vm_config_has_device(vmm->config, id) && !vm_has_device(vmm->vm, id, &is_leaving))) {
		if (vm_config_remove_device(vmm->config, id))
			return 0;
		rc = err_set(e, ENOENT, "No device with id \"%.100s\" to remove", id);
		return because(one_cause(rc, e), operation, e);
	}
	rc = because(one_cause(vm_remove_device(vmm->vm, id, e), e), "Error from device manager", e);
	return because(rc, operation, e);
}

/* Also while the machine goes down: what was on its way out goes with it. */
static void on_device_removed(void *context, const char *id, const char *bdf, bool was_asked_for)
{
	struct vmm *vmm = context;
	if (was_asked_for)
		(void)vm_config_remove_device(vmm->config, id);
	events_emit_device(vmm->p.events, "vm", "device-removed", id, bdf);
}

/* --- what is asked ------------------------------------------------------------------------------------------------------ */

int vmm_info(struct vmm *vmm, struct text *json, struct err *e)
{
	static const char operation[] = "The VM info is not available";
	if (!vmm->config)
		return not_created(operation, e);
	return because(vm_info_write(vmm->vm, vmm->config, json, e), operation, e);
}

int vmm_counters(struct vmm *vmm, struct text *json, struct err *e)
{
	if (!has_machine(vmm))
		return not_running("The VM info is not available", e);
	vm_device_counters(vmm->vm, json);
	return 0;
}

/* --- running ------------------------------------------------------------------------------------------------------------ */

static void keep_report(struct vmm *vmm)
{
	free(ptr_take(vmm->report));
	if (vm_report(vmm->vm))
		vmm->report = strdup(vm_report(vmm->vm));
}

/* The guest is no more. Either that ends the process, or the VM stays for whoever wants to boot or delete it. */
static void end_guest(struct vmm *vmm)
{
	if (vmm->is_until_poweroff) {
		loop_stop(vmm->p.loop);
		return;
	}
	bool had_machine = has_machine(vmm); /* else a reboot has failed, and said so */
	vm_ended(vmm->vm);
	if (had_machine)
		emit(vmm, "shutdown");
	if (vmm->failure.code)
		log_error(&vmm->log, "%s%s%s", vmm->failure.text, vmm->report ? "\n" : "", vmm->report ? vmm->report : "");
	vmm->failure = (struct err){ 0 };
}

static void on_request(void *context, enum vm_request what)
{
	struct vmm *vmm = context;
	if (vmm->is_stopping) /* the order to end is older than what the guest asks for */
		return;
	switch (what) {
	case VM_WANTS_RESET:
		if (vmm_reboot(vmm, &vmm->failure) < 0)
			end_guest(vmm);
		return;
	case VM_WANTS_POWEROFF:
		end_guest(vmm);
		return;
	case VM_FAILED:
		keep_report(vmm);
		(void)err_set(&vmm->failure, EIO, "the machine cannot go on");
		end_guest(vmm);
		return;
	}
}

void vmm_stop(struct vmm *vmm)
{
	vmm->is_stopping = true;
	loop_stop(vmm->p.loop);
}

int vmm_run(struct vmm *vmm, bool is_until_poweroff, struct err *e)
{
	vmm->is_until_poweroff = is_until_poweroff;
	int rc = loop_run(vmm->p.loop, e);
	if (rc >= 0 && vmm->failure.code) {
		if (e)
			*e = vmm->failure;
		rc = -vmm->failure.code;
	}
	end(vmm);
	return rc;
}

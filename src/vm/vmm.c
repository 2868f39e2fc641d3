/* SPDX-License-Identifier: Apache-2.0 */
/* Who may do what when: the configuration is there from vmm_create() to vmm_delete(), and with it the VM object and its
 * consoles; vm.c knows whether a machine runs. Texts and their order are Cloud Hypervisor's, as its clients match them. */
#include "vm/vmm_impl.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
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

static void on_request(void *context, enum vm_request what);

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

/* --- what is wrong ------------------------------------------------------------------------------------------------------ */

int vmm_because(int rc, const char *operation, struct err *e)
{
	if (rc < 0)
		err_prefix(e, "%s\n", operation);
	return rc;
}

int vmm_one_cause(int rc, struct err *e)
{
	if (rc < 0)
		err_flatten(e);
	return rc;
}

int vmm_not_created(const char *operation, struct err *e)
{
	return err_set(e, ENOENT, "%s\nVM is not created\nVmNotCreated", operation);
}

/* Of a boot, or of opening the consoles, as one cause: there the codes that say "the client is wrong" (vmm.h) are the host's
 * errno by chance, and become -EIO. */
static int not_the_clients(int rc, struct err *e)
{
	(void)vmm_one_cause(rc, e);
	if (rc != -ENOENT && rc != -EEXIST && rc != -EINVAL)
		return rc;
	if (e)
		e->code = EIO;
	return -EIO;
}

int vmm_not_running(const char *operation, struct err *e)
{
	return err_set(e, EBUSY, "%s\nVM is not running\nVmNotRunning", operation);
}

bool vmm_has_machine(const struct vmm *vmm)
{
	return vmm->vm && (vm_state(vmm->vm) == VM_RUNNING || vm_state(vmm->vm) == VM_PAUSED);
}

/* What vm_config_validate() says of a rule that is broken, as a cause. */
static int validate(const struct vm_config *c, struct err *e)
{
	return vmm_because(vm_config_validate(c, e), "Failed to validate config", e);
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
		.device_removed = vmm_on_device_removed,
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
		return vmm_because(rc, operation, e);

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
		return vmm_because(rc, operation, e);
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
		rc = vmm_because(boot(vmm, e), operation, e);
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
	if (!vmm_has_machine(vmm))
		return vmm_not_running(operation, e);
	if (vm_state(vmm->vm) == VM_PAUSED)
		return invalid_transition(operation, "pause", VM_PAUSED, VM_PAUSED, e);
	emit(vmm, "pausing");
	int rc = vmm_because(vm_pause(vmm->vm, e), operation, e);
	if (rc >= 0)
		emit(vmm, "paused");
	return rc;
}

int vmm_resume(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "The VM could not resume";
	if (!vmm_has_machine(vmm))
		return vmm_not_running(operation, e);
	if (vm_state(vmm->vm) == VM_RUNNING)
		return invalid_transition(operation, "resume", VM_RUNNING, VM_RUNNING, e);
	emit(vmm, "resuming");
	int rc = vmm_because(vm_resume(vmm->vm, e), operation, e);
	if (rc >= 0)
		emit(vmm, "resumed");
	return rc;
}

int vmm_shutdown(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "The VM could not shutdown";
	if (!vmm_has_machine(vmm))
		return vmm_not_running(operation, e);
	int rc = vmm_because(vm_shutdown(vmm->vm, e), operation, e);
	if (rc >= 0)
		emit(vmm, "shutdown");
	return rc;
}

int vmm_reboot(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "The VM could not reboot";
	emit(vmm, "rebooting");
	if (!vmm_has_machine(vmm))
		return vmm_not_created(operation, e);
	int rc = check_bootable(vmm->config, e); /* while there is still a machine to keep */
	if (rc >= 0)
		rc = vm_shutdown(vmm->vm, e);
	if (rc < 0)
		return vmm_because(rc, operation, e);
	rc = boot(vmm, e);
	emit(vmm, rc < 0 ? "shutdown" : "rebooted");
	return vmm_because(rc, operation, e);
}

int vmm_power_button(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "Error triggering power button";
	return vmm_has_machine(vmm) ? vmm_because(vm_power_button(vmm->vm, e), operation, e) : vmm_not_running(operation, e);
}

int vmm_nmi(struct vmm *vmm, struct err *e)
{
	static const char operation[] = "Error triggering NMI";
	return vmm_has_machine(vmm) ? vmm_because(vm_nmi(vmm->vm, e), operation, e) : vmm_not_running(operation, e);
}

int vmm_delete(struct vmm *vmm, struct err *e)
{
	if (!vmm->config)
		return 0;
	if (vmm_has_machine(vmm)) {
		int rc = vmm_because(vmm_shutdown(vmm, e), "The VM could not be deleted", e);
		if (rc < 0)
			return rc;
	}
	forget_vm(vmm);
	emit(vmm, "deleted");
	return 0;
}

/* --- what is asked ------------------------------------------------------------------------------------------------------ */

int vmm_info(struct vmm *vmm, struct text *json, struct err *e)
{
	static const char operation[] = "The VM info is not available";
	if (!vmm->config)
		return vmm_not_created(operation, e);
	return vmm_because(vm_info_write(vmm->vm, vmm->config, json, e), operation, e);
}

int vmm_counters(struct vmm *vmm, struct text *json, struct err *e)
{
	if (!vmm_has_machine(vmm))
		return vmm_not_running("The VM info is not available", e);
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
	bool had_machine = vmm_has_machine(vmm); /* else a reboot has failed, and said so */
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

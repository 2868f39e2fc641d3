/* SPDX-License-Identifier: Apache-2.0 */
/* vmm.h - what a process serves: no VM, or one, from its configuration to its deletion.
 *
 * The operations of Cloud Hypervisor's API, one function each, for the command line and for HTTP alike. Main thread
 * only, where nothing else is said. One that fails leaves the VM in the state in which it was; but the machine is down when
 * vmm_reboot() fails at the boot (the event vm/shutdown says so; what is wrong with the configuration is found before). Its
 * negative errno says which kind of failure it was:
 *   -ENOENT   no VM, no configuration, or no device of that id       (404)
 *   -EEXIST   an id or a path that is taken                          (409)
 *   -EINVAL   a configuration that breaks a rule                     (400)
 *   others    not allowed in this state (-EBUSY), not supported yet (-ENOTSUP), or the host failed (500)
 * The text is the whole chain of causes, outermost first, a line each, in Cloud Hypervisor's words: the operation that
 * failed ("The VM could not boot"), then what it was. Where the state is what forbids it, the last line is the name that
 * clients look for: VmNotCreated, VmNotRunning, VmMissingConfig, VmAlreadyCreated. ("Error from API", which comes first
 * in an answer, is for the API to say.) */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "vm/vm.h"

struct events;
struct text;
struct vmm;

struct vmm_params {
	struct loop *loop;         /* the main loop; outlives the VMM */
	struct terminal *terminal; /* as vm_params */
	const struct log_sink *log_sink;
	int lease_signal;       /* as vm_params */
	struct events *events;  /* vm/events.h; NULL: nobody listens */
};

/* Opens the hypervisor, and fails for no other reason but want of memory. */
int vmm_new(const struct vmm_params *p, struct vmm **ret_vmm, struct err *e);
void vmm_free(struct vmm *vmm); /* deletes the VM first */

/* Keeps the configuration, checks it, and opens the consoles; nothing runs. Takes *config over on success (all bytes are 0
 * then). */
int vmm_create(struct vmm *vmm, struct vm_config *config, struct err *e);
int vmm_boot(struct vmm *vmm, struct err *e); /* a paused VM resumes */
int vmm_pause(struct vmm *vmm, struct err *e);
int vmm_resume(struct vmm *vmm, struct err *e);
int vmm_shutdown(struct vmm *vmm, struct err *e);
int vmm_reboot(struct vmm *vmm, struct err *e);
int vmm_power_button(struct vmm *vmm, struct err *e);
int vmm_nmi(struct vmm *vmm, struct err *e);
int vmm_delete(struct vmm *vmm, struct err *e); /* fine when there is none */

/* Before boot a device becomes part of the configuration (id and bdf are then ""); later a disk is plugged into the running
 * guest; for other devices that is not supported yet. */
struct pci_device_info {
	char id[64];
	char bdf[16]; /* "0000:00:04.0" */
};
struct device_addition {
	const char *member; /* the list of the configuration that it joins: "disks", as vm_config_add_device() */
	const char *option; /* of the command line: "disk" */
	const char *noun;   /* in texts: "disk" */
	const void *device;
	int *fds; /* descriptors that `device` names; taken over on success (-1 then) */
	size_t n_fds;
};
int vmm_add_device(struct vmm *vmm, const struct device_addition *a, struct pci_device_info *ret_info, struct err *e);
/* Asks the guest to let go; the device is gone when the guest has ejected it, and the event device-removed says so. A device
 * that the guest ejected on its own account is back at the next boot, unless it is removed before: it leaves the
 * configuration at once then. */
int vmm_remove_device(struct vmm *vmm, const char *id, struct err *e);
/* Makes a disk of the running or paused guest larger. The configuration says nothing of sizes: the image has it. */
int vmm_resize_disk(struct vmm *vmm, const char *id, uint64_t n_bytes, struct err *e);

/* JSON of vm.info and of vm.counters. */
int vmm_info(struct vmm *vmm, struct text *json, struct err *e);
int vmm_counters(struct vmm *vmm, struct text *json, struct err *e);

/* The process is to end: vmm_run() returns. Any thread. */
void vmm_stop(struct vmm *vmm);
/* Runs the loop until vmm_stop(), or until the guest powers off or fails when is_until_poweroff; else a VM whose guest
 * ended stays, in the state Shutdown. A guest's reset boots again. Afterwards there is no VM. */
int vmm_run(struct vmm *vmm, bool is_until_poweroff, struct err *e);
struct vm *vmm_vm(struct vmm *vmm); /* NULL when there is none */
/* What to tell a person about the failure that vmm_run() returned: many lines, or NULL. */
const char *vmm_report(const struct vmm *vmm);

/* SPDX-License-Identifier: Apache-2.0 */
/* vm.h - a virtual machine from its configuration to its end.
 *
 * A VM belongs to the thread that made it: the main thread, which runs its loop. Consoles, locks and the hypervisor's
 * handle are the VM's and outlive reboots; guest memory, buses, devices and vCPUs are the machine's (vm/machine.h),
 * which is built anew at every boot. The library prints nothing: what happens is returned, called back or logged. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/log.h"
#include "config/vm_config.h"

struct events;
struct hv;
struct pci_device_info;
struct terminal;
struct text;
struct vm;

/* VM_SHUTDOWN: the guest powered off, or failed. One that was shut down from outside is as good as new: VM_CREATED. */
enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED, VM_SHUTDOWN };

const char *vm_state_name(enum vm_state s); /* "Created", "Running", "Paused", "Shutdown" */

/* What the guest asks for, or does to itself. */
enum vm_request { VM_WANTS_RESET, VM_WANTS_POWEROFF, VM_FAILED };

struct vm_params {
	const struct vm_config *config; /* validated; outlives the VM; devices may be added to it, and removed */
	struct loop *loop;              /* the main loop; the caller's, outlives the VM */
	struct hv *hv;                  /* outlives the VM */
	struct events *events;          /* vm/events.h; may be NULL */
	struct terminal *terminal;      /* for consoles in tty mode; may be NULL when there is none */
	const struct log_sink *log_sink;
	/* Kernel and initramfs may be mapped instead of copied (--machine map_kernel): the caller blocks this signal and calls
	 * vm_keep_files() when it comes. 0: they are always copied. */
	int lease_signal;
	/* On the main loop. The vCPU that asked waits; whoever is called takes the VM down, boots it again, or lets it
	 * wait. While the VM is paused nothing is asked: that comes after vm_resume(). */
	void (*request)(void *context, enum vm_request what);
	/* On the main loop: the guest has let go of a device, because of vm_remove_device() or on its own account. */
	void (*device_removed)(void *context, const char *id, const char *bdf, bool was_asked_for);
	void *context;
};

/* Opens the consoles; nothing runs yet. */
int vm_new(const struct vm_params *p, struct vm **ret_vm, struct err *e);
void vm_free(struct vm *vm); /* ends what runs, gives everything back */

/* Builds the machine and lets the vCPUs go. */
int vm_boot(struct vm *vm, struct err *e);
int vm_pause(struct vm *vm, struct err *e);
int vm_resume(struct vm *vm, struct err *e);
/* The guest notices a press of the power button. */
int vm_power_button(struct vm *vm, struct err *e);
int vm_nmi(struct vm *vm, struct err *e); /* to every vCPU */
/* Takes the machine down without asking the guest: what it was told is written is on its way to the disk's host file and
 * is flushed. */
int vm_shutdown(struct vm *vm, struct err *e);
/* The same, because the guest ended: the state is then VM_SHUTDOWN. */
void vm_ended(struct vm *vm);

/* Devices of the machine; only while there is one. As machine_add_device() and its neighbours. */
bool vm_has_device(struct vm *vm, const char *id, bool *ret_is_leaving);
int vm_add_device(struct vm *vm, const char *member, const void *config, struct pci_device_info *ret_info, struct err *e);
int vm_remove_device(struct vm *vm, const char *id, struct err *e);
int vm_resize_disk(struct vm *vm, const char *id, uint64_t n_bytes, struct err *e);
void vm_device_tree(struct vm *vm, struct text *json);     /* an object; {} when there is no machine */
void vm_device_counters(struct vm *vm, struct text *json); /* likewise: {"_disk0":{"read_bytes":0,...}} */

/* A file that guest memory is mapped from is about to change. */
void vm_keep_files(struct vm *vm);

enum vm_state vm_state(const struct vm *vm);
/* The window of the terminal changed (SIGWINCH); the program was stopped and goes on (SIGCONT). */
void vm_terminal_resized(struct vm *vm);
void vm_terminal_continued(struct vm *vm);
/* Where a console can be reached: the pty's device, the file, the socket; NULL otherwise. */
const char *vm_serial_path(const struct vm *vm);
const char *vm_console_path(const struct vm *vm);

/* Why VM_FAILED: many lines; NULL when it is not known. Until the next boot. */
const char *vm_report(const struct vm *vm);

/* Exits by reason and engine counters of all vCPUs, one `name: value` a line. */
void vm_counters(struct vm *vm, struct text *t);

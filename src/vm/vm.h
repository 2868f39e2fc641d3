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

struct terminal;
struct vm;

enum vm_state { VM_CREATED, VM_RUNNING, VM_PAUSED, VM_SHUTDOWN };

const char *vm_state_name(enum vm_state s); /* "Created", "Running", "Paused", "Shutdown" */

struct vm_params {
	const struct vm_config *config; /* validated; outlives the VM */
	struct loop *loop;              /* the main loop; the caller's, outlives the VM */
	struct terminal *terminal;      /* for consoles in tty mode; may be NULL when there is none */
	const struct log_sink *log_sink;
	/* Kernel and initramfs may be mapped instead of copied (--machine map_kernel): the caller blocks this signal and calls
	 * vm_keep_files() when it comes. 0: they are always copied. */
	int lease_signal;
};

/* Opens the hypervisor and the consoles; nothing runs yet. */
int vm_new(const struct vm_params *p, struct vm **ret_vm, struct err *e);
void vm_free(struct vm *vm); /* ends what runs, gives everything back */

/* Builds the machine and lets the vCPUs go. */
int vm_boot(struct vm *vm, struct err *e);
int vm_pause(struct vm *vm, struct err *e);
int vm_resume(struct vm *vm, struct err *e);
/* The guest notices a press of the power button. */
int vm_power_button(struct vm *vm, struct err *e);
int vm_reboot(struct vm *vm, struct err *e);
/* Takes the machine down without asking the guest: what it was told is written is on its way to the disk's host file and
 * is flushed. */
int vm_shutdown(struct vm *vm, struct err *e);

/* A file that guest memory is mapped from is about to change. */
void vm_keep_files(struct vm *vm);

enum vm_state vm_state(const struct vm *vm);
/* The window of the terminal changed (SIGWINCH); the program was stopped and goes on (SIGCONT). */
void vm_terminal_resized(struct vm *vm);
void vm_terminal_continued(struct vm *vm);
/* Where a console can be reached: the pty's device, the file, the socket; NULL otherwise. */
const char *vm_serial_path(const struct vm *vm);
const char *vm_console_path(const struct vm *vm);

/* Runs the main loop until the guest powers off, vm_stop() is called, or the VM fails; a guest's reset boots again, but not
 * after vm_stop(). 0, or the failure: for a vCPU that cannot go on the report is vm_report(). */
int vm_run(struct vm *vm, struct err *e);
void vm_stop(struct vm *vm);             /* any thread */
const char *vm_report(const struct vm *vm); /* many lines, or NULL */

struct text;
/* Exits by reason and engine counters of all vCPUs, one `name: value` a line. */
void vm_counters(struct vm *vm, struct text *t);

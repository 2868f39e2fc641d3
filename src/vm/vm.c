/* SPDX-License-Identifier: Apache-2.0 */
/* The state machine: Created -> Running <-> Paused; back to Created by a shutdown from outside, to Shutdown by the guest's
 * own; again Running by a new boot. What happens on vCPU threads (a reset, a power-off, a failure) becomes a message to
 * the main loop, which asks the VM's owner what to do: it alone changes the state. */
#include "vm/vm.h"

#include "backend/char.h"
#include "backend/terminal.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "loop/loop.h"
#include "vm/machine.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define NOTHING (-1)
/* Many guests are gone by then; and each piece stops the others for a moment only. */
#define SETTLE_AFTER_NS (10 * NS_PER_S)
#define SETTLE_PIECE_NS (50 * NS_PER_MS)

struct vm {
	struct vm_params p;
	struct log log;
	struct loop_thread io;
	struct char_backend *serial, *console;
	struct machine *machine;
	enum vm_state state;

	struct timer settle; /* gives the guest huge pages where its kernel was mapped, when it is past its start */

	struct loop_message message;
	_Atomic int pending;  /* enum vm_request, or NOTHING: what a vCPU thread asked for; the first one counts */
	struct log_limit triple_fault_limit;
	pthread_mutex_t lock; /* report */
	char *report;
};

const char *vm_state_name(enum vm_state s)
{
	static const char *const names[] = { "Created", "Running", "Paused", "Shutdown" };
	assert((size_t)s < ARRAY_LEN(names));
	return names[s];
}

enum vm_state vm_state(const struct vm *vm)
{
	return vm->state;
}

const char *vm_report(const struct vm *vm)
{
	return vm->report;
}

/* --- build ---------------------------------------------------------------------------------------------------------- */

struct open_console {
	struct vm *vm;
	const struct console_config *config;
	struct char_backend **ret_b;
	struct err *e;
};

static int open_console_on_loop(void *arg)
{
	static const enum char_mode modes[] = {
		[CONSOLE_OFF] = CHAR_OFF, [CONSOLE_PTY] = CHAR_PTY,   [CONSOLE_TTY] = CHAR_TTY,
		[CONSOLE_NULL] = CHAR_NULL, [CONSOLE_FILE] = CHAR_FILE, [CONSOLE_SOCKET] = CHAR_SOCKET,
	};
	struct open_console *o = arg;
	const struct console_config *c = o->config;
	struct char_params p = {
		.mode = modes[c->mode],
		.path = c->mode == CONSOLE_SOCKET ? c->socket : c->file,
		.terminal = o->vm->p.terminal,
		.log = &o->vm->log,
	};
	return char_open(&p, o->vm->io.loop, o->ret_b, o->e);
}

static int open_console(struct vm *vm, const struct console_config *c, const char *option, struct char_backend **ret_b,
                        struct err *e)
{
	if (c->mode == CONSOLE_OFF)
		return 0;
	if (c->mode == CONSOLE_TTY && !vm->p.terminal)
		return err_set(e, ENOTTY, "%s: mode tty, but there is no terminal", option);
	struct open_console o = { .vm = vm, .config = c, .ret_b = ret_b, .e = e };
	int rc = loop_call(vm->io.loop, open_console_on_loop, &o);
	if (rc < 0)
		err_prefix(e, "%s: ", option);
	return rc;
}

static int open_parts(struct vm *vm, struct err *e)
{
	int rc = loop_thread_start(&vm->io, "io", e);
	if (rc >= 0)
		rc = open_console(vm, &vm->p.config->console, "--console", &vm->console, e);
	if (rc >= 0)
		rc = open_console(vm, &vm->p.config->serial, "--serial", &vm->serial, e);
	return rc;
}

int vm_new(const struct vm_params *p, struct vm **ret_vm, struct err *e)
{
	struct vm *vm = calloc(1, sizeof *vm);
	if (!vm)
		return err_set(e, ENOMEM, "no memory");
	vm->p = *p;
	vm->log = (struct log){ .sink = p->log_sink, .object = "vm" };
	vm->pending = NOTHING;
	(void)pthread_mutex_init(&vm->lock, NULL);
	int rc = open_parts(vm, e);
	if (rc < 0) {
		vm_free(vm);
		return rc;
	}
	*ret_vm = vm;
	return 0;
}

static void take_down(struct vm *vm, enum vm_state state)
{
	timer_cancel(&vm->settle);
	machine_free(vm->machine); /* joins the vCPUs: nobody asks for anything any more */
	vm->machine = NULL;
	vm->state = state;
	vm->pending = NOTHING;
}

static int close_consoles_on_loop(void *arg)
{
	struct vm *vm = arg;
	char_close(vm->serial);
	char_close(vm->console);
	vm->serial = vm->console = NULL;
	return 0;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	take_down(vm, VM_SHUTDOWN);
	if (vm->io.loop) {
		(void)loop_call(vm->io.loop, close_consoles_on_loop, vm);
		loop_thread_stop(&vm->io);
	}
	loop_flush(vm->p.loop); /* the message may be pending; it finds nothing to do */
	free(vm->report);
	(void)pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* --- what vCPU threads say ------------------------------------------------------------------------------------------- */

static void on_message(struct loop_message *m)
{
	struct vm *vm = container_of(m, struct vm, message);
	int what = atomic_load(&vm->pending);
	/* NOTHING: overtaken, the machine it spoke of is gone. A paused VM stays as it is: vm_resume() posts again. */
	if (what != NOTHING && vm->state != VM_PAUSED)
		vm->p.request(vm->p.context, (enum vm_request)what);
}

/* The first thing asked for counts, and is the only one logged: a guest may write to a power register again and again. */
static void ask(struct vm *vm, enum vm_request what, const char *event)
{
	int nothing = NOTHING;
	if (atomic_compare_exchange_strong(&vm->pending, &nothing, (int)what)) {
		log_info(&vm->log, "%s", event);
		loop_post(vm->p.loop, &vm->message, on_message);
	}
}

/* Some kernels reboot this way on purpose; for most it is the end of something that went wrong. The limit outlives the
 * machine: a guest may do it again and again. */
static void say_triple_fault(struct vm *vm, const char *report)
{
	if (!log_limit_pass(&vm->log, &vm->triple_fault_limit))
		return;
	log_warn(&vm->log, "guest: triple fault");
	while (*report) {
		size_t n = strcspn(report, "\n");
		log_debug(&vm->log, "%.*s", (int)n, report);
		report += n + (report[n] == '\n');
	}
}

static void on_event(void *context, enum vcpu_event what, const char *report)
{
	struct vm *vm = context;
	switch (what) {
	case VCPU_RESET:
		ask(vm, VM_WANTS_RESET, "the guest resets");
		return;
	case VCPU_TRIPLE_FAULT:
		say_triple_fault(vm, report);
		ask(vm, VM_WANTS_RESET, "the guest resets");
		return;
	case VCPU_POWEROFF:
		ask(vm, VM_WANTS_POWEROFF, "the guest powers off");
		return;
	case VCPU_CRASHED:
	case VCPU_FAILED:
		(void)pthread_mutex_lock(&vm->lock);
		if (!vm->report)
			vm->report = strdup(what == VCPU_CRASHED ? "the guest says that it crashed" : report);
		(void)pthread_mutex_unlock(&vm->lock);
		ask(vm, VM_FAILED, "the machine fails");
		return;
	}
}

static void on_removed(void *context, const char *id, const char *bdf, bool was_asked_for)
{
	struct vm *vm = context;
	vm->p.device_removed(vm->p.context, id, bdf, was_asked_for);
}

/* --- the state machine, main thread ---------------------------------------------------------------------------------- */

static void on_settle(struct timer *t)
{
	struct vm *vm = container_of(t, struct vm, settle);
	int rc = machine_settle_files(vm->machine);
	if (rc > 0)
		timer_set(vm->p.loop, t, clock_now_ns() + SETTLE_PIECE_NS, on_settle);
	else if (rc < 0)
		log_warn(&vm->log, "the kernel stays mapped from its file: %s", strerrordesc_np(-rc));
	else
		log_debug(&vm->log, "the guest's memory is all its own");
}

int vm_boot(struct vm *vm, struct err *e)
{
	if (vm->machine)
		return err_set(e, EBUSY, "the VM is running already");
	free(ptr_take(vm->report)); /* of an earlier life */
	struct machine_params p = {
		.config = vm->p.config,
		.hv = vm->p.hv,
		.loop = vm->p.loop,
		.io_loop = vm->io.loop,
		.serial = vm->serial,
		.console = vm->console,
		.log_sink = vm->p.log_sink,
		.lease_signal = vm->p.lease_signal,
		.events = vm->p.events,
		.removed = on_removed,
		.event = on_event,
		.context = vm,
	};
	int rc = machine_new(&p, &vm->machine, e);
	if (rc < 0)
		return rc;
	rc = machine_start(vm->machine, e);
	if (rc < 0) {
		take_down(vm, VM_CREATED);
		return rc;
	}
	vm->state = VM_RUNNING;
	timer_set(vm->p.loop, &vm->settle, clock_now_ns() + SETTLE_AFTER_NS, on_settle);
	return 0;
}

int vm_shutdown(struct vm *vm, struct err *e)
{
	if (!vm->machine)
		return err_set(e, EINVAL, "the VM is not running");
	take_down(vm, VM_CREATED);
	return 0;
}

void vm_ended(struct vm *vm)
{
	take_down(vm, VM_SHUTDOWN);
}

int vm_pause(struct vm *vm, struct err *e)
{
	if (vm->state != VM_RUNNING)
		return err_set(e, EINVAL, "the VM is not running: it is %s", vm_state_name(vm->state));
	machine_pause(vm->machine);
	vm->state = VM_PAUSED;
	return 0;
}

int vm_resume(struct vm *vm, struct err *e)
{
	if (vm->state != VM_PAUSED)
		return err_set(e, EINVAL, "the VM is not paused: it is %s", vm_state_name(vm->state));
	machine_resume(vm->machine);
	vm->state = VM_RUNNING;
	if (atomic_load(&vm->pending) != NOTHING)
		loop_post(vm->p.loop, &vm->message, on_message);
	return 0;
}

/* A paused guest notices when it runs again. */
int vm_power_button(struct vm *vm, struct err *e)
{
	if (!vm->machine)
		return err_set(e, EINVAL, "the VM is not running: it is %s", vm_state_name(vm->state));
	if (!machine_power_button(vm->machine))
		return err_set(e, ENOTSUP, "the machine has no power button: ACPI is off");
	return 0;
}

int vm_nmi(struct vm *vm, struct err *e)
{
	if (!vm->machine)
		return err_set(e, EINVAL, "the VM is not running: it is %s", vm_state_name(vm->state));
	return machine_nmi(vm->machine, e);
}

/* --- devices ------------------------------------------------------------------------------------------------------------ */

bool vm_has_device(struct vm *vm, const char *id, bool *ret_is_leaving)
{
	enum device_presence p = vm->machine ? machine_presence(vm->machine, id) : DEVICE_ABSENT;
	*ret_is_leaving = p == DEVICE_LEAVING;
	return p != DEVICE_ABSENT;
}

int vm_add_device(struct vm *vm, const char *member, const void *config, struct pci_device_info *ret_info, struct err *e)
{
	if (!vm->machine)
		return err_set(e, EINVAL, "the VM is not running: it is %s", vm_state_name(vm->state));
	return machine_add_device(vm->machine, member, config, ret_info, e);
}

int vm_remove_device(struct vm *vm, const char *id, struct err *e)
{
	if (!vm->machine)
		return err_set(e, EINVAL, "the VM is not running: it is %s", vm_state_name(vm->state));
	return machine_remove_device(vm->machine, id, e);
}

int vm_resize_disk(struct vm *vm, const char *id, uint64_t n_bytes, struct err *e)
{
	if (!vm->machine)
		return err_set(e, EINVAL, "the VM is not running: it is %s", vm_state_name(vm->state));
	return machine_resize_disk(vm->machine, id, n_bytes, e);
}

void vm_device_tree(struct vm *vm, struct text *json)
{
	if (vm->machine)
		machine_device_tree(vm->machine, json);
	else
		text_append(json, "{}");
}

void vm_device_counters(struct vm *vm, struct text *json)
{
	if (vm->machine)
		machine_device_counters(vm->machine, json);
	else
		text_append(json, "{}");
}

void vm_keep_files(struct vm *vm)
{
	int rc = vm->machine ? machine_keep_files(vm->machine) : 0;
	if (rc < 0)
		log_error(&vm->log, "a file that guest memory is mapped from has changed: %s", strerrordesc_np(-rc));
}

/* --- consoles ---------------------------------------------------------------------------------------------------------- */

static int update_sizes(void *arg)
{
	struct vm *vm = arg;
	if (vm->serial)
		char_update_size(vm->serial);
	if (vm->console)
		char_update_size(vm->console);
	return 0;
}

static int take_terminal_again(void *arg)
{
	struct vm *vm = arg;
	terminal_refresh(vm->p.terminal);
	return update_sizes(vm);
}

void vm_terminal_continued(struct vm *vm)
{
	if (vm->p.terminal)
		(void)loop_call(vm->io.loop, take_terminal_again, vm);
}

void vm_terminal_resized(struct vm *vm)
{
	(void)loop_call(vm->io.loop, update_sizes, vm);
}

const char *vm_serial_path(const struct vm *vm)
{
	return vm->serial ? char_path(vm->serial) : NULL;
}

const char *vm_console_path(const struct vm *vm)
{
	return vm->console ? char_path(vm->console) : NULL;
}

void vm_counters(struct vm *vm, struct text *t)
{
	if (vm->machine)
		machine_counters(vm->machine, t);
}

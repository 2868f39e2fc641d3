/* SPDX-License-Identifier: Apache-2.0 */
/* The program: its names, its sub-commands, and the order in which a VMM starts and ends. Only this folder prints and
 * exits. */
#include "api/api.h"
#include "backend/terminal.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "cli/descriptors.h"
#include "cli/dry_run.h"
#include "cli/log_output.h"
#include "cli/program.h"
#include "cli/remote.h"
#include "cli/signals.h"
#include "cli/subcommands.h"
#include "cli/terminal_guard.h"
#include "config/options.h"
#include "loop/loop.h"
#include "schema/schema.h"
#include "vm/events.h"
#include "vm/vmm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define EXIT_USAGE 2

static void print_help(const struct program *p, FILE *f)
{
	text_scoped t = TEXT_INIT;
	command_line_write_help(&p->options, &t);
	if (p->has_subcommands)
		subcommands_write_help(&t);
	fputs(text_get(&t), f);
}

/* --- signals ------------------------------------------------------------------------------------------------------------ */

/* SIGUSR1 asks a running VM for its counters, on standard error: for measurements. */
static void print_counters(struct vm *vm)
{
	text_scoped t = TEXT_INIT;
	vm_counters(vm, &t);
	fputs(text_get(&t), stderr);
}

/* SIGUSR2 presses the power button. */
static void press_power_button(struct vm *vm)
{
	struct err e = { 0 };
	if (vm_power_button(vm, &e) < 0)
		fprintf(stderr, "power button: %s\n", e.text);
}

static void on_signal(void *context, int signal)
{
	struct vmm *vmm = context;
	struct vm *vm = vmm_vm(vmm);
	if (signal == SIGTERM || signal == SIGINT || signal == SIGHUP) {
		vmm_stop(vmm);
		return;
	}
	if (!vm)
		return;
	switch (signal) {
	case SIGCONT: /* back from a stop: the shell has set the terminal's mode for itself */
		vm_terminal_continued(vm);
		return;
	case SIGIO:
		vm_keep_files(vm);
		return;
	case SIGWINCH:
		vm_terminal_resized(vm);
		return;
	case SIGUSR1:
		print_counters(vm);
		return;
	case SIGUSR2:
		press_power_button(vm);
		return;
	}
}

/* --- a run -------------------------------------------------------------------------------------------------------------- */

struct run {
	const struct program *program;
	const struct command_line *line;
	struct vmm_config config;
	struct log_output log;
	struct loop *loop;
	struct events *events;
	struct terminal terminal;
	struct vmm *vmm;
	struct signals signals;
	struct api *api;
	struct err e;
	bool is_chain; /* e is of an operation of the VMM: causes, a line each */
};

static void say_where(const struct vm *vm, enum console_mode serial, enum console_mode console)
{
	if (serial == CONSOLE_PTY)
		fprintf(stderr, "serial: %s\n", vm_serial_path(vm));
	if (console == CONSOLE_PTY)
		fprintf(stderr, "console: %s\n", vm_console_path(vm));
}

static void warn_of(const struct run *r, const struct vm_config *c)
{
	const struct log log = { .sink = &r->log.sink, .object = "vm" };
	text_scoped t = TEXT_INIT;
	if (vm_config_warning(c, &t))
		log_warn(&log, "%s", text_get(&t));
}

/* The three steps below return what to say in front of r->e, NULL when all went well. */
static const char *create_and_boot(struct run *r)
{
	struct vm_config c;
	if (vm_config_from_command_line(r->line, &c, &r->e) < 0)
		return "Error parsing config";
	warn_of(r, &c);
	enum console_mode serial = c.serial.mode, console = c.console.mode;
	r->is_chain = true;
	int rc = vmm_create(r->vmm, &c, &r->e);
	vm_config_done(&c); /* empty, when it was taken */
	if (rc < 0)
		return "Error creating VM";
	say_where(vmm_vm(r->vmm), serial, console);
	return vmm_boot(r->vmm, &r->e) < 0 ? "Error booting VM" : NULL;
}

static const char *restore(struct run *r)
{
	struct restore_config c = { 0 };
	if (restore_config_from_command_line(r->line, &c, &r->e) < 0)
		return "Error parsing restore";
	schema_done(&restore_schema, &c);
	(void)err_set(&r->e, ENOTSUP, "not supported yet: --restore");
	return "Error restoring VM";
}

/* From here on there are threads. */
static const char *start(struct run *r)
{
	const struct vmm_config *c = &r->config;
	int rc = 0;

	if (loop_new(&r->loop, &r->e) < 0)
		return "Failed to start the VMM thread";
	if (c->event_monitor.is_given)
		rc = c->event_monitor.fd >= 0 ? events_open_fd(c->event_monitor.fd, &r->events, &r->e)
		                              : events_open_path(c->event_monitor.path, &r->events, &r->e);
	if (rc < 0)
		return "Error doing event monitor I/O";
	events_log_to(r->events, &r->log.sink);

	terminal_init(&r->terminal, STDIN_FILENO, STDOUT_FILENO);
	struct vmm_params v = {
		.loop = r->loop,
		.terminal = &r->terminal,
		.log_sink = &r->log.sink,
		.lease_signal = SIGIO,
		.events = r->events,
	};
	if (vmm_new(&v, &r->vmm, &r->e) < 0)
		return "Failed to open hypervisor interface (is hypervisor interface available?)";
	events_emit(r->events, "vmm", "starting", NULL);

	rc = signals_watch(&r->signals, r->loop, on_signal, r->vmm, &r->e);
	struct api_params a = {
		.loop = r->loop, .vmm = r->vmm, .path = c->api_socket.path, .fd = c->api_socket.fd, .log_sink = &r->log.sink,
		.version = program_version(r->program), .features = program_features,
	};
	if (rc >= 0 && c->api_socket.is_given)
		rc = api_open(&a, &r->api, &r->e);
	return rc < 0 ? "Failed to start the VMM thread" : NULL;
}

static const char *serve(struct run *r)
{
	const char *failed = start(r);
	if (!failed && r->config.has_payload)
		failed = create_and_boot(r);
	else if (!failed && r->config.has_restore)
		failed = restore(r);
	if (failed)
		return failed;
	r->is_chain = true;
	return vmm_run(r->vmm, !r->config.no_shutdown, &r->e) < 0 ? "VMM thread exited with error" : NULL;
}

/* The default says nothing: nobody asked for a filter. */
static void warn_of_seccomp(const struct run *r)
{
	const struct log log = { .sink = &r->log.sink, .object = "vmm" };
	if (command_line_count(r->line, "seccomp") && r->config.seccomp != SECCOMP_OFF)
		log_warn(&log, "--seccomp %s is not in force yet: system calls are not filtered",
		         command_line_value(r->line, "seccomp"));
}

static int run_vmm(struct run *r)
{
	warn_of_seccomp(r);
	const char *failed = serve(r);
	api_close(r->api);
	signals_done(&r->signals);
	char *report = r->vmm && vmm_report(r->vmm) ? strdup(vmm_report(r->vmm)) : NULL;
	vmm_free(r->vmm);
	events_free(r->events);
	loop_free(r->loop);
	/* Only now: the terminal is no longer raw. */
	if (failed && report)
		fprintf(stderr, "%s\n", report);
	free(report);
	if (!failed)
		return 0;
	return r->is_chain ? program_fail_chain(r->program, failed, &r->e) : program_fail(r->program, failed, &r->e);
}

static int run(const struct program *p, const struct command_line *line)
{
	struct run r = { .program = p, .line = line, .signals.fd = -1 };

	if (command_line_count(line, "version"))
		return program_print_version(p, command_line_count(line, "v") > 0);
	widen_descriptor_table();
	struct log_config log = log_config_from_command_line(line);
	if (command_line_count(line, "dry-run"))
		log.path = NULL; /* which touches no file */
	if (log_output_open(&r.log, p->name, &log, &r.e) < 0)
		return program_fail(p, "Error creating log file", &r.e);
	terminal_guard_install();

	int status;
	if (vmm_config_from_command_line(line, &r.config, &r.e) < 0)
		status = program_fail(p, NULL, &r.e);
	else
		status = r.config.is_dry_run ? dry_run(p, line, &r.config) : run_vmm(&r);
	vmm_config_done(&r.config);
	log_output_close(&r.log);
	return status;
}

static int with_options(const struct program *p, int argc, char **argv)
{
	struct err e = { 0 };
	struct command_line line;

	int rc = command_line_parse(argc, argv, &p->options, &line, &e);
	if (rc == -EINVAL) {
		text_scoped t = TEXT_INIT;
		command_line_write_usage_error(&p->options, &e, &t);
		fputs(text_get(&t), stderr);
		return EXIT_USAGE;
	}
	if (rc < 0)
		return program_fail(p, NULL, &e);

	int status;
	if (line.is_empty) {
		print_help(p, stderr);
		status = EXIT_USAGE;
	} else if (command_line_count(&line, "help")) {
		print_help(p, stdout);
		status = fflush(stdout) || ferror(stdout) ? 1 : 0;
	} else {
		/* Before any thread exists, so that all of them inherit it. */
		signals_block();
		status = run(p, &line);
	}
	command_line_done(&line);
	return status;
}

int main(int argc, char **argv)
{
	struct program p;

	const mode_t mask = umask(077); /* sockets, files and logs are the user's own */
	fill_standard_descriptors();
	program_init(&p, argc ? argv[0] : NULL);
	if (p.is_remote)
		return remote_main(argc, argv);
	for (size_t i = 0; p.has_subcommands && argc >= 2 && i < n_subcommands; i++) {
		if (strcmp(argv[1], subcommands[i].name) != 0)
			continue;
		if (subcommands[i].keeps_umask)
			(void)umask(mask);
		return subcommands[i].run(argc - 1, argv + 1);
	}
	return with_options(&p, argc, argv);
}

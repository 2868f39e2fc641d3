/* SPDX-License-Identifier: Apache-2.0 */
/* The program: sub-commands, and the words of Cloud Hypervisor's command line. Only this folder prints and exits. */
#include "backend/terminal.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "cli/doctor.h"
#include "cli/document.h"
#include "cli/log_output.h"
#include "cli/signals.h"
#include "cli/terminal_guard.h"
#include "config/options.h"
#include "loop/loop.h"
#include "vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define EXIT_USAGE 2

static void print_help(FILE *f)
{
	text_scoped t = TEXT_INIT;
	command_line_write_help(&varan_options, &t);
	fputs(text_get(&t), f);
	fputs("\nSub-commands:\n"
	      "  varan doctor [--json]        Can this machine run Linux guests, and why\n"
	      "  varan document man|openapi   The manual page and the API's schemas\n",
	      f);
}

static int fail(const char *what, const struct err *e)
{
	fprintf(stderr, "%s%s\n", what, e->text);
	return 1;
}

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
	struct vm *vm = context;
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
	default: /* SIGTERM, SIGINT, SIGHUP */
		vm_stop(vm);
		return;
	}
}

static void say_where(const struct vm *vm, const struct vm_config *c)
{
	if (c->serial.mode == CONSOLE_PTY)
		fprintf(stderr, "serial: %s\n", vm_serial_path(vm));
	if (c->console.mode == CONSOLE_PTY)
		fprintf(stderr, "console: %s\n", vm_console_path(vm));
}

/* What to say in front of the error; NULL when all went well. */
static const char *boot_and_run(struct vm *vm, struct signals *signals, struct loop *loop, struct err *e)
{
	if (signals_watch(signals, loop, on_signal, vm, e) < 0)
		return "Error creating VM: ";
	if (vm_boot(vm, e) < 0)
		return "Error booting VM: ";
	return vm_run(vm, e) < 0 ? "VMM thread exited with error: " : NULL;
}

static int run_vm(const struct vm_config *config, struct loop *loop, const struct log_sink *sink)
{
	struct err e = { 0 };
	struct terminal terminal;
	struct signals signals;
	struct vm *vm = NULL;

	terminal_init(&terminal, STDIN_FILENO, STDOUT_FILENO);
	struct vm_params p = { .config = config, .loop = loop, .terminal = &terminal, .log_sink = sink,
	                       .lease_signal = SIGIO };
	if (vm_new(&p, &vm, &e) < 0)
		return fail("Error creating VM: ", &e);
	say_where(vm, config);

	const char *failed = boot_and_run(vm, &signals, loop, &e);
	signals_done(&signals);
	char *report = vm_report(vm) ? strdup(vm_report(vm)) : NULL;
	vm_free(vm);
	/* Only now: the terminal is no longer raw. */
	if (failed && report)
		fprintf(stderr, "%s\n", report);
	free(report);
	return failed ? fail(failed, &e) : 0;
}

static int run_with_log(const struct command_line *line, const struct log_sink *sink)
{
	struct err e = { 0 };
	struct vm_config config;
	struct loop *loop = NULL;

	if (loop_new(&loop, &e) < 0)
		return fail("Failed to start the VMM thread: ", &e);
	if (vm_config_from_command_line(line, &config, &e) < 0) {
		loop_free(loop);
		return fail("Error parsing config: ", &e);
	}
	struct log log = { .sink = sink, .object = "vm" };
	const char *warning = vm_config_warning(&config);
	if (warning)
		log_warn(&log, "%s", warning);

	int status = run_vm(&config, loop, sink);
	vm_config_done(&config);
	loop_free(loop);
	return status;
}

static int print_version(bool is_verbose)
{
	printf("varan v%s\n", VARAN_VERSION);
	if (is_verbose)
		printf("Enabled features: [\"io_uring\", \"kvm\"]\n");
	return 0;
}

static int run(const struct command_line *line)
{
	struct err e = { 0 };
	struct log_output log;

	if (command_line_count(line, "version"))
		return print_version(command_line_count(line, "v") > 0);
	if (!command_line_value(line, "kernel") && !command_line_value(line, "firmware")) {
		/* Without a payload the program would serve the API, which is to come. */
		fprintf(stderr, "not supported yet: starting without --kernel\n");
		return 1;
	}
	if (log_output_open(&log, command_line_value(line, "log-file"), command_line_count(line, "v"), &e) < 0)
		return fail("", &e);
	terminal_guard_install();
	int status = run_with_log(line, &log.sink);
	log_output_close(&log);
	return status;
}

/* Closed standard descriptors are opened on /dev/null: nothing of ours is to get their numbers. */
static void fill_standard_descriptors(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return;
	}
}

int main(int argc, char **argv)
{
	struct err e = { 0 };
	struct command_line line;

	(void)umask(077); /* sockets, files and logs are the user's own */
	fill_standard_descriptors();
	if (argc >= 2 && strcmp(argv[1], "doctor") == 0)
		return doctor_main(argc - 1, argv + 1);
	if (argc >= 2 && strcmp(argv[1], "document") == 0)
		return document_main(argc - 1, argv + 1);

	int rc = command_line_parse(argc, argv, &varan_options, &line, &e);
	if (rc == -EINVAL) {
		text_scoped t = TEXT_INIT;
		command_line_write_usage_error(&varan_options, &e, &t);
		fputs(text_get(&t), stderr);
		return EXIT_USAGE;
	}
	if (rc < 0)
		return fail("", &e);
	/* Before any thread exists, so that all of them inherit it. */
	signals_block();

	int status;
	if (line.is_empty) {
		print_help(stderr);
		status = EXIT_USAGE;
	} else if (command_line_count(&line, "help")) {
		print_help(stdout);
		status = 0;
	} else {
		status = run(&line);
	}
	command_line_done(&line);
	return status;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* vmm_config.h - what the command line says about the process itself, rather than about its VM.
 *
 * In the order in which a run needs it: the log first, then the rest, and --restore only when nothing is to be booted.
 * Texts of errors are complete. Strings are owned; the *_done() functions take what was never filled, too, if it is
 * all 0. One thread. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "config/restore.h"

struct command_line;

enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

struct log_config {
	const char *path; /* in argv; NULL: standard error */
	unsigned verbosity; /* how often -v was given */
	enum log_format format;
};

/* Cannot fail: what --log-format may say is checked with the command line. */
struct log_config log_config_from_command_line(const struct command_line *line);

/* A socket or a file: a descriptor that was inherited, or a path (which may be the empty string). */
struct endpoint_config {
	char *path;
	int fd; /* -1: by path */
	bool is_given;
};

enum seccomp_mode { SECCOMP_TRAP, SECCOMP_OFF, SECCOMP_LOG };

struct vmm_config {
	struct endpoint_config api_socket, event_monitor;
	enum seccomp_mode seccomp;
	bool no_shutdown; /* the process outlives its VM */
	bool is_dry_run;  /* ours: print the configuration instead of running it */
	bool has_payload; /* there is something to boot; otherwise options of the VM are not even looked at */
	bool has_restore; /* and nothing to boot: see restore_config_from_command_line() */
};

int vmm_config_from_command_line(const struct command_line *line, struct vmm_config *ret_c, struct err *e);
void vmm_config_done(struct vmm_config *c);

/* Only when c->has_restore. The caller's prefix is "Error parsing restore: ". Freed by schema_done(&restore_schema). */
int restore_config_from_command_line(const struct command_line *line, struct restore_config *ret_c, struct err *e);

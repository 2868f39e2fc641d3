/* SPDX-License-Identifier: Apache-2.0 */
/* program.h - one program, several names: what differs between them. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "config/command_line.h"

/* What we answer as `cloud-hypervisor --version`, for programs that choose by it what they ask for: the release whose
 * command line, API and events ours follow. libvirt wants three numbers behind the 'v'. */
#define CLOUD_HYPERVISOR_LEVEL "53.0.0"

struct program {
	const char *name;          /* in logs, help and the version: "varan", or "cloud-hypervisor" */
	struct option_table options;
	bool is_cloud_hypervisor;
	bool is_remote;            /* "ch-remote" */
	bool has_subcommands;
};

/* By the last part of argv[0], which may be NULL. */
void program_init(struct program *ret_p, const char *argv0);
extern const char *const program_features[]; /* what is compiled in; ends with NULL */
const char *program_version(const struct program *p);
int program_print_version(const struct program *p, bool is_verbose); /* the exit status */
/* Prints why the program ends, and returns its exit status 1. `what` is what was being done; NULL: the text says
 * it. Of a chain, each line of the text is a cause, outermost first; otherwise all of it is one. */
int program_fail(const struct program *p, const char *what, const struct err *e);
int program_fail_chain(const struct program *p, const char *what, const struct err *e);

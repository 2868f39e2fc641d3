/* SPDX-License-Identifier: Apache-2.0 */
/* remote_commands.h - the client's commands: one row each, from which parsing, requests, help, manual and completion come. */
#pragma once
#include "base/err.h"
#include "base/text.h"
#include "cli/remote_show.h"
#include "config/command_line.h"

/* What a command's words make: the body of its request, and descriptors of ours to go with it. */
struct remote_body {
	struct text text; /* nothing in it: no body */
	int *fds;
	size_t n_fds;
	const char *what; /* of a failure: what was wrong, in ch-remote's words; set before anything can fail */
};

struct remote_command {
	const char *name, *about;
	const char *method, *endpoint; /* "PUT", "vm.add-disk"; NULL: nothing is asked of the API */
	const struct option_row *rows; /* its own options and word */
	size_t n_rows;
	const struct option_row *our_rows; /* options that ch-remote does not have */
	size_t n_our_rows;
	const struct schema *schema; /* of the word, when that is an option string: what write_body makes JSON of */
	const char *what;            /* when the option string is wrong, in ch-remote's words */
	int (*write_body)(const struct remote_command *c, const struct command_line *line, struct remote_body *ret_body,
	                  struct err *e);
	show_answer *show; /* NULL: nothing is said of success */
	bool is_slow;      /* takes as long as it takes: no time limit unless one is asked for */
	bool is_ours;      /* not a command of ch-remote */
};

extern const struct remote_command remote_commands[];
extern const size_t n_remote_commands;

const struct remote_command *remote_command_find(const char *name); /* or NULL */
void remote_body_done(struct remote_body *b);

/* SPDX-License-Identifier: Apache-2.0 */
/* subcommands.h - what `varan WORD ...` may be, for main(), help, manual and completion. */
#pragma once
#include "base/forward.h"

struct subcommand {
	const char *name, *words, *about;
	int (*run)(int argc, char **argv); /* argv[0] is the name; the exit status */
	bool keeps_umask; /* its files are for whom the user's umask says, and not for the user alone */
};

extern const struct subcommand subcommands[];
extern const size_t n_subcommands;

struct text;
void subcommands_write_help(struct text *t);

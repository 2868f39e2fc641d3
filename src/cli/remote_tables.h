/* SPDX-License-Identifier: Apache-2.0 */
/* remote_tables.h - the client's option tables: before the command, and behind each; its help, manual and completion. */
#pragma once
#include "cli/remote_commands.h"

#define REMOTE_MAX_ROWS 8

/* A command's own rows and those that all have. It points into itself: not to be copied. */
struct remote_table {
	struct option_table table;
	struct option_row rows[REMOTE_MAX_ROWS];
	char program[64];
};

void remote_table_init(struct remote_table *t, bool is_ch, const struct remote_command *c);
const struct option_table *remote_global_table(bool is_ch);
void remote_write_help(bool is_ch, struct text *t);
void remote_write_man(struct text *t); /* varan-remote(1) */

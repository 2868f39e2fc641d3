/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/remote_tables.h"

#include "base/checked.h"
#include "schema/schema.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define HELP_COLUMN 24

#define GROUP_OPTIONS "Options"
#define API_SOCKET                                                                                           \
	{ .name = "api-socket", .arity = OPTION_ONE, .is_path = true, .group = GROUP_OPTIONS,                \
	  .help = "Path of the Unix socket that the VMM serves its API at" }
#define JSON                                                                                                 \
	{ .name = "json", .group = GROUP_OPTIONS, .help = "Print answers as they come, in JSON, instead of tables" }
#define TIMEOUT                                                                                              \
	{ .name = "timeout", .arity = OPTION_ONE, .group = GROUP_OPTIONS,                                    \
	  .help = "Seconds to wait for an answer, 0 for without limit; the default is 60, and no limit for "  \
		  "commands that may take long" }
#define VERSION                                                                                              \
	{ .name = "version", .short_name = 'V', .stands_alone = true, .group = GROUP_OPTIONS, .help = "Print the version" }
#define HELP                                                                                                 \
	{ .name = "help", .short_name = 'h', .ends_parsing = true, .group = GROUP_OPTIONS, .help = "Print this help" }
#define COMMAND                                                                                              \
	{ .name = "command", .arity = OPTION_WORD, .is_required = true, .ends_parsing = true, .group = GROUP_OPTIONS, \
	  .help = "What to do; `<command> --help` tells more" }

static const struct option_row our_rows[] = { API_SOCKET, JSON, TIMEOUT, VERSION, HELP, COMMAND };
static const struct option_row ch_rows[] = { API_SOCKET, VERSION, HELP, COMMAND };

static const struct option_row our_common_rows[] = { API_SOCKET, JSON, TIMEOUT, HELP };
static const struct option_row ch_common_rows[] = { HELP };

#define ABOUT "Drive a running VMM through its API"
static const struct option_table our_table = { .program = "varan remote", .about = ABOUT, .rows = our_rows,
	                                       .n_rows = ARRAY_LEN(our_rows) };
static const struct option_table ch_table = { .program = "ch-remote", .about = ABOUT, .rows = ch_rows,
	                                      .n_rows = ARRAY_LEN(ch_rows) };

const struct option_table *remote_global_table(bool is_ch)
{
	return is_ch ? &ch_table : &our_table;
}

static void add_rows(struct remote_table *t, const struct option_row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert(t->table.n_rows < REMOTE_MAX_ROWS);
		struct option_row *row = &t->rows[t->table.n_rows++];
		*row = rows[i];
		if (!row->group)
			row->group = row->arity == OPTION_WORD ? "Arguments" : GROUP_OPTIONS;
	}
}

void remote_table_init(struct remote_table *t, bool is_ch, const struct remote_command *c)
{
	const struct option_table *global = remote_global_table(is_ch);
	(void)snprintf(t->program, sizeof t->program, "%s %s", global->program, c->name);
	t->table = (struct option_table){ .program = t->program, .about = c->about, .rows = t->rows };
	add_rows(t, c->rows, c->n_rows);
	if (is_ch) {
		add_rows(t, ch_common_rows, ARRAY_LEN(ch_common_rows));
	} else {
		add_rows(t, c->our_rows, c->n_our_rows);
		add_rows(t, our_common_rows, ARRAY_LEN(our_common_rows));
	}
}

void remote_write_help(bool is_ch, struct text *t)
{
	command_line_write_help(remote_global_table(is_ch), t);
	text_append(t, "\nCommands:\n");
	for (size_t i = 0; i < n_remote_commands; i++)
		if (!is_ch || !remote_commands[i].is_ours)
			text_appendf(t, "  %-*s%s\n", HELP_COLUMN, remote_commands[i].name, remote_commands[i].about);
}

/* "add-disk <disk_config>", "resize [--cpus <cpus>] ..." */
static void write_synopsis(const struct remote_command *c, struct text *t)
{
	text_append(t, c->name);
	for (size_t i = 0; i < c->n_rows; i++) {
		const struct option_row *r = &c->rows[i];
		const char *open = r->is_required ? "" : "[", *close = r->is_required ? "" : "]";
		if (r->arity == OPTION_WORD)
			text_appendf(t, " %s<%s>%s", open, r->name, close);
		else if (r->arity == OPTION_FLAG)
			text_appendf(t, " [--%s]", r->name);
		else
			text_appendf(t, " %s--%s <%s>%s", open, r->name, r->name, close);
	}
	for (size_t i = 0; i < c->n_our_rows; i++)
		text_appendf(t, " [--%s]", c->our_rows[i].name);
}

void remote_write_man(struct text *t)
{
	text_append(t, ".TH varan\\-remote 1\n.SH NAME\nvaran\\-remote, ch\\-remote \\- ");
	schema_write_roff(ABOUT, t);
	text_append(t,
	            "\n.SH SYNOPSIS\n.B varan remote\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR ...\n.br\n.B ch\\-remote\n"
	            "[\\fIOPTIONS\\fR] \\fICOMMAND\\fR ...\n.SH DESCRIPTION\n"
	            "Sends one request to the API (see\n.BR varan\\-api (7))\nand prints the answer: as a table, or with\n"
	            ".B \\-\\-json\nas it came. Called as\n.BR ch\\-remote ,\n"
	            "it always prints the answer as it came, has no time limits, and only the options and commands of the\n"
	            "program of that name.\n.SH OPTIONS\n"
	            "Options may stand before the command or behind it.\n");
	command_line_write_man_options(&our_table, t);
	text_append(t, ".SH COMMANDS\n");
	for (size_t i = 0; i < n_remote_commands; i++) {
		const struct remote_command *c = &remote_commands[i];
		text_scoped synopsis = TEXT_INIT;
		struct remote_table rows = { 0 };
		write_synopsis(c, &synopsis);
		text_append(t, ".SS ");
		schema_write_roff(text_get(&synopsis), t);
		text_append_char(t, '\n');
		schema_write_roff(c->about, t);
		text_appendf(t, "%s.\n", c->is_ours ? " (not in ch\\-remote)" : "");
		add_rows(&rows, c->rows, c->n_rows);
		add_rows(&rows, c->our_rows, c->n_our_rows);
		for (size_t k = 0; k < rows.table.n_rows; k++)
			rows.rows[k].group = NULL; /* no headings inside a section */
		rows.table.rows = rows.rows;
		command_line_write_man_options(&rows.table, t);
	}
	text_append(t, ".SH EXIT STATUS\n0 on success, 1 when something failed, 2 for a mistake on the command line.\n"
	               ".SH SEE ALSO\n.BR varan (1),\n.BR varan\\-api (7)\n");
}

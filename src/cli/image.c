/* SPDX-License-Identifier: Apache-2.0 */
/* `varan image`: its commands, their help and manual. */
#include "cli/image.h"

#include "base/checked.h"
#include "base/err.h"
#include "cli/image_impl.h"
#include "schema/schema.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define HELP_COLUMN 24

static const struct image_command *const commands[] = {
	&image_create_command, &image_info_command, &image_check_command, &image_convert_command, &image_resize_command,
	&image_commit_command,
};

static const struct option_row global_rows[] = {
	IMAGE_HELP,
	{ .name = "command", .arity = OPTION_WORD, .is_required = true, .ends_parsing = true, .group = "Arguments",
	  .help = "What to do; `<command> --help` tells more" },
};

#define ABOUT "Make, examine and change disk images"
static const struct option_table global_table = { .program = "varan image", .about = ABOUT, .rows = global_rows,
	                                          .n_rows = ARRAY_LEN(global_rows) };

const struct option_table *image_global_table(void)
{
	return &global_table;
}

const struct option_table *image_command_table(size_t n)
{
	return n < ARRAY_LEN(commands) ? &commands[n]->table : NULL;
}

const char *image_command_name(size_t n)
{
	return commands[n]->name;
}

static int print(const struct text *t, FILE *f)
{
	return t->is_out_of_memory || fputs(text_get(t), f) < 0 || fflush(f) ? IMAGE_FAILED : IMAGE_OK;
}

static int help(FILE *f)
{
	text_scoped t = TEXT_INIT;
	command_line_write_help(&global_table, &t);
	text_append(&t, "\nCommands:\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		text_appendf(&t, "  %-*s%s\n", HELP_COLUMN, commands[i]->name, commands[i]->about);
	return print(&t, f);
}

static int usage(const struct option_table *table, const struct err *e)
{
	text_scoped t = TEXT_INIT;
	command_line_write_usage_error(table, e, &t);
	(void)print(&t, stderr);
	return IMAGE_USAGE;
}

/* argv[0] is the command's name. */
static int command_main(const struct image_command *c, int argc, char **argv)
{
	struct command_line line;
	struct err e = { 0 };
	int status;
	if (command_line_parse(argc, argv, &c->table, &line, &e) < 0) {
		status = usage(&c->table, &e);
		return c->usage_status ? c->usage_status : status;
	}
	if (command_line_count(&line, "help")) {
		text_scoped t = TEXT_INIT;
		command_line_write_help(&c->table, &t);
		status = print(&t, stdout);
	} else {
		status = c->run(c, &line);
	}
	command_line_done(&line);
	return status;
}

int image_main(int argc, char **argv)
{
	struct command_line line;
	struct err e = { 0 };
	/* A limit on files, or a reader that is gone, is an error of a write, after which what is half made is removed. */
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)signal(SIGPIPE, SIG_IGN);
	if (argc <= 1) {
		(void)help(stderr);
		return IMAGE_USAGE;
	}
	if (command_line_parse(argc, argv, &global_table, &line, &e) < 0)
		return usage(&global_table, &e);
	const char *name = command_line_value(&line, "command");
	bool wants_help = command_line_count(&line, "help") || (name && strcmp(name, "help") == 0);
	int at = line.n_taken - 1;
	command_line_done(&line);
	if (wants_help)
		return help(stdout);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (strcmp(commands[i]->name, name) == 0)
			return command_main(commands[i], argc - at, argv + at);
	(void)err_set(&e, EINVAL, "unrecognized subcommand '%s'", name);
	return usage(&global_table, &e);
}

/* --- varan-image(1) --- */

static const char man_description[] =
	"\n.SH SYNOPSIS\n.B varan image\n\\fICOMMAND\\fR ...\n.SH DESCRIPTION\n"
	"Works on disk images as files, without a VM. The words are those of\n.BR qemu\\-img (1)\nwhere both have them.\n"
	".PP\n"
	"What an image names is not believed: no other file is opened unless\n.B \\-\\-backing\\-files\nsays so;\n"
	".B commit\nopens them always, for it is about them.\n.PP\n"
	"Images are locked: one that is open for writing, by a VM or another program, can neither be read nor changed, and one\n"
	"that is open for reading cannot be changed.\n.B info \\-\\-force\\-share\nlooks all the same.\n.PP\n"
	"A new image gets its name when it is complete and durable. Work that fails, or that SIGINT, SIGTERM or SIGHUP stop,\n"
	"leaves nothing.\n.PP\n"
	"Not supported yet: stream-optimized VMDK images as targets; to replace the files that a VMDK image has beside it;\n"
	"block devices as targets; images that become smaller; emptying an overlay that is committed.\n";

static const char man_end[] =
	".SH EXIT STATUS\n"
	"0 on success, 1 when something failed, 2 for a mistake on the command line. Of\n.BR check :\n"
	"0 when nothing is wrong (any more), 1 when the check could not be done, by a mistake on the command line too,\n"
	"2 when there are errors, 3 when there are leaked clusters and nothing else, 63 when the format has nothing to check.\n"
	".SH SEE ALSO\n.BR varan (1),\n.BR qemu\\-img (1)\n";

static void write_synopsis(const struct option_table *table, const char *name, struct text *t)
{
	text_append(t, name);
	for (size_t i = 0; i < table->n_rows; i++) {
		const struct option_row *r = &table->rows[i];
		if (r->arity == OPTION_WORD)
			text_appendf(t, r->is_required ? " <%s>" : " [<%s>]", r->name);
		else if (r->arity == OPTION_ONE && r->is_required)
			text_appendf(t, " --%s <%s>", r->name, r->name);
	}
}

static void write_command(const struct image_command *c, struct text *t)
{
	struct option_row rows[24];
	struct option_table table = c->table;
	text_scoped synopsis = TEXT_INIT;
	write_synopsis(&c->table, c->name, &synopsis);
	text_append(t, ".SS ");
	schema_write_roff(text_get(&synopsis), t);
	text_append_char(t, '\n');
	schema_write_roff(c->table.about, t);
	text_append(t, ".\n");
	for (table.n_rows = 0; table.n_rows < min_u64(c->table.n_rows, ARRAY_LEN(rows)); table.n_rows++) {
		rows[table.n_rows] = c->table.rows[table.n_rows];
		rows[table.n_rows].group = NULL; /* no headings inside a section */
	}
	table.rows = rows;
	command_line_write_man_options(&table, t);
}

void image_write_man(struct text *t)
{
	text_append(t, ".TH varan\\-image 1\n.SH NAME\nvaran\\-image \\- ");
	schema_write_roff(ABOUT, t);
	text_append(t, man_description);
	text_append(t, ".SH COMMANDS\n");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		write_command(commands[i], t);
	text_append(t, man_end);
}

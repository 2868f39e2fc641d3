/* SPDX-License-Identifier: Apache-2.0 */
/* command_line.h - a program's arguments against a table of options; what the values mean is not known here.
 *
 * Long options, and a few short flags. The result points into argv, which must outlive it. Nothing is printed and
 * nothing exits: command_line_parse() returns -EINVAL for a usage error (the caller prints it as
 * command_line_write_usage_error() does, and exits 2). */
#pragma once
#include "base/forward.h"
#include "base/text.h"

struct schema;

enum option_arity {
	OPTION_FLAG, /* takes no value */
	OPTION_ONE,  /* exactly one value; given at most once */
	OPTION_MANY, /* one or more values; given again, the values add up in order */
	OPTION_WORD, /* a bare word: the first goes to the first such row, and so on */
};

struct option_row {
	const char *name; /* "disk" for --disk; NULL when there is only the short form */
	char short_name;  /* 0: none */
	enum option_arity arity;
	bool is_counted;      /* FLAG: may be repeated */
	bool ends_parsing;    /* FLAG, WORD: what follows is not looked at (--help, the name of a sub-command) */
	bool is_required;     /* ONE, WORD: a usage error without it, unless an option that ends parsing or stands alone is there */
	bool is_path;         /* the value, or each of them, names a file: for completion */
	bool stands_alone;    /* FLAG: nothing else counts when it is given (--version) */
	const char *const *possible_values; /* NULL-ended; NULL: any */
	const char *def;      /* shown in the help; what command_line_value() gives when absent */
	const char *group;    /* heading in the help; rows of a group stand together */
	const char *help;
	const struct schema *schema; /* for the keys in the help; NULL: plain value */
};

struct option_table {
	const char *program, *about;
	const struct option_row *rows;
	size_t n_rows;
};

struct option_use {
	unsigned n_given;
	size_t n_values;
	const char **values;
};

struct command_line {
	const struct option_table *table;
	struct option_use *uses; /* one per row */
	int n_taken;             /* arguments that were looked at, argv[0] too */
	bool is_empty;           /* no argument at all: the caller prints the help on standard error and exits 2 */
};

int command_line_parse(int argc, char *const *argv, const struct option_table *table, struct command_line *ret_c,
                       struct err *e);
void command_line_done(struct command_line *c);

/* By long name without dashes, or by the letter of a short-only flag ("v"); the name must be in the table. */
unsigned command_line_count(const struct command_line *c, const char *name);
const char *command_line_value(const struct command_line *c, const char *name); /* or the default, or NULL */
const char *const *command_line_values(const struct command_line *c, const char *name, size_t *ret_n); /* given ones */

void command_line_write_usage_error(const struct option_table *table, const struct err *e, struct text *t);
void command_line_write_help(const struct option_table *table, struct text *t);
void command_line_write_man_options(const struct option_table *table, struct text *t); /* their entries, roff */

/* SPDX-License-Identifier: Apache-2.0 */
#include "config/command_line.h"

#include "base/err.h"
#include "schema/schema.h"

#include <string.h>

#define OPTION_INDENT 2
#define HELP_INDENT 10
#define KEY_INDENT 12

/* "-V, --version", "    --disk <disk>..." */
static void write_heading(const struct option_row *r, struct text *t)
{
	if (r->arity == OPTION_WORD) {
		text_appendf(t, r->is_required ? "<%s>" : "[%s]", r->name);
		return;
	}
	if (r->short_name)
		text_appendf(t, "-%c%s", r->short_name, r->name ? ", " : "");
	else
		text_append(t, "    ");
	if (r->name)
		text_appendf(t, "--%s", r->name);
	if (r->arity != OPTION_FLAG)
		text_appendf(t, " <%s>%s", r->name, r->arity == OPTION_MANY ? "..." : "");
	else if (r->is_counted)
		text_append(t, "...");
}

static void write_about(const struct option_row *r, struct text *t)
{
	text_append(t, r->help);
	if (r->def)
		text_appendf(t, " [default: %s]", r->def);
	for (size_t i = 0; r->possible_values && r->possible_values[i]; i++)
		text_appendf(t, "%s%s", i ? ", " : " [possible values: ", r->possible_values[i]);
	if (r->possible_values)
		text_append_char(t, ']');
}

static void write_usage(const struct option_table *table, struct text *t)
{
	text_appendf(t, "Usage: %s [OPTIONS]", table->program);
	for (size_t i = 0; i < table->n_rows; i++) {
		if (table->rows[i].arity != OPTION_WORD)
			continue;
		text_append_char(t, ' ');
		write_heading(&table->rows[i], t);
	}
	text_append_char(t, '\n');
}

void command_line_write_help(const struct option_table *table, struct text *t)
{
	const char *group = "";
	text_appendf(t, "%s\n\n", table->about);
	write_usage(table, t);
	for (size_t i = 0; i < table->n_rows; i++) {
		const struct option_row *r = &table->rows[i];
		text_scoped about = TEXT_INIT;
		if (strcmp(group, r->group) != 0) {
			group = r->group;
			text_appendf(t, "\n%s:\n", group);
		}
		text_appendf(t, "%*s", OPTION_INDENT, "");
		write_heading(r, t);
		text_appendf(t, "\n%*s", HELP_INDENT, "");
		write_about(r, &about);
		schema_write_wrapped(text_get(&about), HELP_INDENT, HELP_INDENT, t);
		if (r->schema)
			schema_write_help(r->schema, KEY_INDENT, t);
	}
}

void command_line_write_usage_error(const struct option_table *table, const struct err *e, struct text *t)
{
	text_appendf(t, "error: %s\n\n", e->text);
	write_usage(table, t);
	text_append(t, "\nFor more information, try '--help'.\n");
}

void command_line_write_man_options(const struct option_table *table, struct text *t)
{
	const char *group = "";
	for (size_t i = 0; i < table->n_rows; i++) {
		const struct option_row *r = &table->rows[i];
		text_scoped heading = TEXT_INIT, about = TEXT_INIT;
		if (r->group && strcmp(group, r->group) != 0) {
			group = r->group;
			text_appendf(t, ".SS %s\n", group);
		}
		write_heading(r, &heading);
		write_about(r, &about);
		text_append(t, ".TP\n\\fB");
		schema_write_roff(text_get(&heading) + strspn(text_get(&heading), " "), t);
		text_append(t, "\\fR\n");
		schema_write_roff(text_get(&about), t);
		text_append_char(t, '\n');
		if (r->schema) {
			text_append(t, ".RS\n");
			schema_write_man(r->schema, t);
			text_append(t, ".RE\n");
		}
	}
}

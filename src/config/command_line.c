/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments are taken from left to right, and the first fault is reported; the wordings are those of clap 4.5, because
 * scripts compare them. At any time at most one option is "pending": it still takes values. What starts with '-' (and
 * is longer than that) is never a value unless it stands behind '='. */
#include "config/command_line.h"

#include "base/checked.h"
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct parser {
	struct command_line *c;
	const struct option_row *pending; /* takes the next bare word */
	struct err *e;
};

static struct option_use *use_of(const struct command_line *c, const struct option_row *row)
{
	return &c->uses[row - c->table->rows];
}

static const struct option_row *find_long(const struct option_table *t, const char *name, size_t n_bytes)
{
	for (size_t i = 0; i < t->n_rows; i++) {
		const char *known = t->rows[i].name;
		if (known && strlen(known) == n_bytes && memcmp(known, name, n_bytes) == 0)
			return &t->rows[i];
	}
	return NULL;
}

static const struct option_row *find_short(const struct option_table *t, char letter)
{
	for (size_t i = 0; i < t->n_rows; i++)
		if (letter && t->rows[i].short_name == letter)
			return &t->rows[i];
	return NULL;
}

/* "--kernel <kernel>", "--disk <disk>...", "--pvpanic", "-v..." */
struct option_label {
	char text[96];
};

static struct option_label label_of(const struct option_row *r)
{
	struct option_label l;
	if (r->arity == OPTION_WORD)
		(void)snprintf(l.text, sizeof l.text, "<%s>", r->name);
	else if (!r->name)
		(void)snprintf(l.text, sizeof l.text, "-%c%s", r->short_name, r->is_counted ? "..." : "");
	else if (r->arity == OPTION_FLAG)
		(void)snprintf(l.text, sizeof l.text, "--%s", r->name);
	else
		(void)snprintf(l.text, sizeof l.text, "--%s <%s>%s", r->name, r->name,
		               r->arity == OPTION_MANY ? "..." : "");
	return l;
}

/* Appends the line that lists the values which an option knows. */
static int refuse_value(struct parser *p, const struct option_row *r, const char *value)
{
	struct option_label label = label_of(r);
	text_scoped list = TEXT_INIT;
	for (size_t i = 0; r->possible_values && r->possible_values[i]; i++)
		text_appendf(&list, "%s%s", i ? ", " : "\n  [possible values: ", r->possible_values[i]);
	if (list.n_bytes)
		text_append_char(&list, ']');
	if (!value)
		return err_set(p->e, EINVAL, "a value is required for '%s' but none was supplied%s", label.text,
		               text_get(&list));
	return err_set(p->e, EINVAL, "invalid value '%s' for '%s'%s", value, label.text, text_get(&list));
}

static int add_value(struct parser *p, const struct option_row *r, const char *value)
{
	struct option_use *u = use_of(p->c, r);
	bool is_possible = !r->possible_values;
	for (size_t i = 0; !is_possible && r->possible_values[i]; i++)
		is_possible = strcmp(r->possible_values[i], value) == 0;
	if (!is_possible)
		return refuse_value(p, r, value);

	const char **values = reallocarray(u->values, u->n_values + 1, sizeof *values);
	if (!values)
		return err_set(p->e, ENOMEM, "out of memory");
	values[u->n_values++] = value;
	u->values = values;
	return 0;
}

/* A pending option that got no value yet is a fault as soon as something else comes. */
static int settle(struct parser *p, size_t n_values_before)
{
	const struct option_row *r = p->pending;
	p->pending = NULL;
	return r && use_of(p->c, r)->n_values == n_values_before ? refuse_value(p, r, NULL) : 0;
}

static int begin(struct parser *p, const struct option_row *r)
{
	struct option_use *u = use_of(p->c, r);
	if (u->n_given && r->arity != OPTION_MANY && !r->is_counted)
		return err_set(p->e, EINVAL, "the argument '%s' cannot be used multiple times", label_of(r).text);
	u->n_given++;
	return 0;
}

static int refuse_flag_value(struct parser *p, const struct option_row *r, const char *value)
{
	return err_set(p->e, EINVAL, "unexpected value '%s' for '%s' found; no more were expected", value,
	               label_of(r).text);
}

/* "--name" or "--name=value". 1: the rest is not to be looked at. */
static int take_long(struct parser *p, const char *argument)
{
	const char *name = argument + 2, *equals = strchr(name, '=');
	size_t n_name = equals ? (size_t)(equals - name) : strlen(name);
	const struct option_row *r = find_long(p->c->table, name, n_name);
	if (!r || r->arity == OPTION_WORD)
		return err_set(p->e, EINVAL, "unexpected argument '--%.*s' found", (int)(n_name > 128 ? 128 : n_name),
		               name);
	int rc = begin(p, r);
	if (rc < 0)
		return rc;
	if (r->arity == OPTION_FLAG)
		return equals ? refuse_flag_value(p, r, equals + 1) : r->ends_parsing;
	if (equals)
		return add_value(p, r, equals + 1);
	p->pending = r;
	return 0;
}

/* "-vV": flags only. */
static int take_short(struct parser *p, const char *argument)
{
	for (const char *c = argument + 1; *c; c++) {
		const struct option_row *r = find_short(p->c->table, *c);
		if (!r)
			return err_set(p->e, EINVAL, "unexpected argument '-%c' found", *c);
		assert(r->arity == OPTION_FLAG);
		int rc = begin(p, r);
		if (rc < 0)
			return rc;
		if (c[1] == '=')
			return refuse_flag_value(p, r, c + 2);
		if (r->ends_parsing)
			return 1;
	}
	return 0;
}

/* A word that no option waits for. 1: the rest is not to be looked at. */
static int take_word(struct parser *p, const char *word)
{
	for (size_t i = 0; i < p->c->table->n_rows; i++) {
		const struct option_row *r = &p->c->table->rows[i];
		if (r->arity != OPTION_WORD || use_of(p->c, r)->n_given)
			continue;
		int rc = begin(p, r);
		if (rc == 0)
			rc = add_value(p, r, word);
		return rc < 0 ? rc : r->ends_parsing;
	}
	return err_set(p->e, EINVAL, "unexpected argument '%s' found", word);
}

/* Such an argument is a worse fault than that the option before it has no value. */
static bool is_unknown(const struct parser *p, const char *argument)
{
	if (strcmp(argument, "--") == 0)
		return false;
	if (argument[1] != '-')
		return !find_short(p->c->table, argument[1]);
	const struct option_row *r = find_long(p->c->table, argument + 2, strcspn(argument + 2, "="));
	return !r || r->arity == OPTION_WORD;
}

static int take_arguments(struct parser *p, int argc, char *const *argv)
{
	size_t n_before = 0; /* values of the pending option when it became pending */
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i];
		int rc;
		p->c->n_taken = i + 1;
		if (a[0] != '-' || !a[1]) {
			if (!p->pending) {
				rc = take_word(p, a);
			} else {
				rc = add_value(p, p->pending, a);
				if (rc == 0 && p->pending->arity == OPTION_ONE)
					p->pending = NULL;
			}
		} else {
			rc = is_unknown(p, a) ? 0 : settle(p, n_before);
			if (rc == 0 && strcmp(a, "--") == 0) {
				if (i + 1 < argc)
					return err_set(p->e, EINVAL, "unexpected argument '%s' found", argv[i + 1]);
				return 0;
			}
			if (rc == 0)
				rc = a[1] == '-' ? take_long(p, a) : take_short(p, a);
			n_before = p->pending ? use_of(p->c, p->pending)->n_values : 0;
		}
		if (rc)
			return rc;
	}
	return settle(p, n_before);
}

static int refuse_missing(const struct command_line *c, struct err *e)
{
	const struct option_row *missing = NULL;
	for (size_t i = 0; i < c->table->n_rows; i++) {
		const struct option_row *r = &c->table->rows[i];
		if (r->stands_alone && c->uses[i].n_given)
			return 0;
		if (r->is_required && !c->uses[i].n_given && !missing)
			missing = r;
	}
	return missing ? err_set(e, EINVAL, "the following required arguments were not provided:\n  %s", label_of(missing).text)
		       : 0;
}

int command_line_parse(int argc, char *const *argv, const struct option_table *table, struct command_line *ret_c,
                       struct err *e)
{
	struct command_line c = { .table = table, .is_empty = argc <= 1 };
	struct parser p = { .c = &c, .e = e };
	*ret_c = (struct command_line){ 0 };
	c.uses = calloc(table->n_rows, sizeof *c.uses);
	if (!c.uses)
		return err_set(e, ENOMEM, "out of memory");

	c.n_taken = argc < 1 ? argc : 1;
	int rc = take_arguments(&p, argc, argv);
	if (rc == 0)
		rc = refuse_missing(&c, e);
	if (rc < 0) {
		command_line_done(&c);
		return rc;
	}
	*ret_c = c;
	return 0;
}

void command_line_done(struct command_line *c)
{
	for (size_t i = 0; c->uses && i < c->table->n_rows; i++)
		free(c->uses[i].values);
	free(c->uses);
	*c = (struct command_line){ 0 };
}

static const struct option_row *find(const struct command_line *c, const char *name)
{
	const struct option_row *r = find_long(c->table, name, strlen(name));
	if (!r && strlen(name) == 1)
		r = find_short(c->table, *name);
	assert(r);
	return r;
}

unsigned command_line_count(const struct command_line *c, const char *name)
{
	return use_of(c, find(c, name))->n_given;
}

const char *const *command_line_values(const struct command_line *c, const char *name, size_t *ret_n)
{
	const struct option_use *u = use_of(c, find(c, name));
	*ret_n = u->n_values;
	return u->values;
}

const char *command_line_value(const struct command_line *c, const char *name)
{
	const struct option_row *r = find(c, name);
	const struct option_use *u = use_of(c, r);
	return u->n_values ? u->values[0] : r->def;
}

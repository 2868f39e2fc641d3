/* SPDX-License-Identifier: Apache-2.0 */
#include "schema/document.h"

#include <inttypes.h>
#include <stdio.h>

#define LINE_COLUMNS 80
#define KEY_COLUMNS 26 /* room for "key=<value>" before its help */
#define KEY_BYTES 64

static void visit(const struct schema *s, const char *prefix, const struct key_visitor *v)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		char key[KEY_BYTES];
		if (!field_is_in_option(f) || (f->flags & ROW_IN_MODE) || f->type == FIELD_IGNORED)
			continue; /* ROW_IN_MODE: told by its mode row */
		int n = snprintf(key, sizeof key, "%s%s", prefix, field_key(f));
		assert(n >= 0 && (size_t)n < sizeof key);
		if (f->flags & ROW_FLAT)
			visit(f->schema, key, v);
		else
			v->fn(v, f, key);
	}
}

void document_visit_keys(const struct schema *s, const struct key_visitor *v)
{
	visit(s, "", v);
}

/* The names that can be typed. */
static void write_words(const struct field *f, const char *separator, struct text *t)
{
	bool is_first = true;
	for (const struct enum_name *n = f->names; n->json; n++) {
		if (!n->word)
			continue;
		text_appendf(t, "%s%s%s", is_first ? "" : separator, n->word, n->takes_value ? "=<path>" : "");
		is_first = false;
	}
}

/* A tuple's two rows, or the parts between colons. */
static void write_parts(const struct schema *s, const char *separator, struct text *t)
{
	uint32_t at = 0;
	bool is_first = true;
	for (const struct field *f = schema_next_value_row(s, &at); f; f = schema_next_value_row(s, &at)) {
		text_appendf(t, "%s<%s>", is_first ? "" : separator, f->name);
		is_first = false;
	}
}

void document_write_placeholder(const struct field *f, struct text *t)
{
	if (f->placeholder) {
		text_append(t, f->placeholder);
		return;
	}
	switch (f->type) {
	case FIELD_BOOL:
		text_append(t, "on|off");
		break;
	case FIELD_SIZE:
		text_append(t, "<size>");
		break;
	case FIELD_ENUM:
		write_words(f, "|", t);
		break;
	case FIELD_STRING:
		text_append(t, "<text>");
		break;
	case FIELD_PATH:
		text_append(t, "<path>");
		break;
	case FIELD_MAC:
		text_append(t, "<mac>");
		break;
	case FIELD_IPV4:
		text_append(t, "<address>");
		break;
	case FIELD_INTEGERS:
		text_append(t, "[<n>,<n>-<n>,...]");
		break;
	case FIELD_STRINGS:
		text_append(t, "[<text>,...]");
		break;
	case FIELD_LIST:
		text_append_char(t, '[');
		write_parts(f->schema, "@", t);
		text_append(t, ",...]");
		break;
	case FIELD_OBJECT:
		if (f->flags & ROW_COLONS)
			write_parts(f->schema, ":", t);
		else
			text_append(t, "[<name>,...]");
		break;
	case FIELD_IGNORED:
	case FIELD_BLOB:
	case FIELD_PAD:
		text_append(t, "<anything>");
		break;
	case FIELD_U8:
	case FIELD_U16:
	case FIELD_U32:
	case FIELD_U64:
	case FIELD_I32:
		text_append(t, "<number>");
		break;
	}
}

bool document_write_default(const struct field *f, struct text *t)
{
	const struct enum_name *n;
	if (f->def_key) {
		text_appendf(t, "that of %s", f->def_key);
		return true;
	}
	if (f->has || (f->flags & (ROW_REQUIRED_OPTION | ROW_MODE)))
		return false;
	if (f->def_string) {
		text_append(t, f->def_string);
		return *f->def_string != '\0';
	}
	if (f->type == FIELD_BOOL) {
		text_append(t, f->def ? "on" : "off");
		return true;
	}
	if (f->type == FIELD_ENUM) {
		n = field_enum_name(f, f->def);
		if (n && n->word)
			text_append(t, n->word);
		return n && n->word;
	}
	if (!field_is_number(f))
		return false;
	if (f->type == FIELD_SIZE && f->def && f->def % (1u << 20) == 0)
		text_appendf(t, "%" PRIu64 "M", f->def >> 20);
	else if (f->type == FIELD_I32)
		text_appendf(t, "%" PRId64, (int64_t)f->def);
	else
		text_appendf(t, "%" PRIu64, f->def);
	return true;
}

void schema_write_wrapped(const char *words, unsigned column, unsigned indent, struct text *t)
{
	bool is_line_start = true;
	while (*words) {
		size_t n = strcspn(words, " ");
		if (!is_line_start && column + 1 + n > LINE_COLUMNS) {
			text_appendf(t, "\n%*s", (int)indent, "");
			column = indent;
			is_line_start = true;
		}
		if (!is_line_start) {
			text_append_char(t, ' ');
			column++;
		}
		text_append_n(t, words, n);
		column += (unsigned)n;
		is_line_start = false;
		words += n;
		words += strspn(words, " ");
	}
	text_append_char(t, '\n');
}

/* Help text, and what there is to know besides. */
static void write_about(const struct field *f, struct text *t)
{
	text_scoped def = TEXT_INIT;
	text_append(t, f->help);
	if (f->flags & ROW_REQUIRED_OPTION)
		text_append(t, " (required)");
	else if (document_write_default(f, &def))
		text_appendf(t, " [default: %s]", text_get(&def));
}

static void write_key(const struct field *f, const char *key, struct text *t)
{
	if (!(f->flags & ROW_MODE))
		text_appendf(t, "%s=", key);
	document_write_placeholder(f, t);
}

static void help_key(const struct key_visitor *v, const struct field *f, const char *key)
{
	text_scoped head = TEXT_INIT, about = TEXT_INIT;
	write_key(f, key, &head);
	write_about(f, &about);

	unsigned column = v->indent + KEY_COLUMNS;
	text_appendf(v->t, "%*s%s", (int)v->indent, "", text_get(&head));
	if (head.n_bytes + 1 < KEY_COLUMNS)
		text_appendf(v->t, "%*s", (int)(KEY_COLUMNS - head.n_bytes), "");
	else
		text_appendf(v->t, "\n%*s", (int)column, "");
	schema_write_wrapped(text_get(&about), column, column, v->t);
}

void schema_write_help(const struct schema *s, unsigned indent, struct text *t)
{
	const struct key_visitor v = { .fn = help_key, .t = t, .indent = indent };
	document_visit_keys(s, &v);
}

/* A backslash is roff's escape, a dot or a quote in front is a request, and a '-' would become a hyphen. */
void schema_write_roff(const char *s, struct text *t)
{
	if (*s == '.' || *s == '\'')
		text_append(t, "\\&");
	for (; *s; s++) {
		if (*s == '\\' || *s == '-')
			text_append_char(t, '\\');
		text_append_char(t, *s);
	}
}

static void man_key(const struct key_visitor *v, const struct field *f, const char *key)
{
	text_scoped head = TEXT_INIT, about = TEXT_INIT;
	write_key(f, key, &head);
	write_about(f, &about);
	text_append(v->t, ".TP\n\\fB");
	schema_write_roff(text_get(&head), v->t);
	text_append(v->t, "\\fR\n");
	schema_write_roff(text_get(&about), v->t);
	text_append_char(v->t, '\n');
}

void schema_write_man(const struct schema *s, struct text *t)
{
	const struct key_visitor v = { .fn = man_key, .t = t };
	document_visit_keys(s, &v);
}

/* "integer", "string", "list of DiskConfig". */
static void write_json_type(const struct field *f, struct text *t)
{
	switch (f->type) {
	case FIELD_BOOL:
		text_append(t, "boolean");
		break;
	case FIELD_INTEGERS:
		text_append(t, "list of integers");
		break;
	case FIELD_STRINGS:
		text_append(t, "list of strings");
		break;
	case FIELD_OBJECT:
		text_append(t, f->schema->name ? f->schema->name : "object");
		break;
	case FIELD_LIST:
		text_appendf(t, "list of %s", f->schema->name ? f->schema->name : "objects");
		break;
	case FIELD_ENUM:
		for (const struct enum_name *n = f->names; n->json; n++)
			text_appendf(t, "%s\"%s\"", n == f->names ? "" : ", ", n->json);
		break;
	default:
		text_append(t, field_is_number(f) ? "integer" : "string");
	}
}

void schema_write_man_json(const struct schema *s, struct text *t)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		text_scoped about = TEXT_INIT;
		if (!field_is_in_json(f))
			continue;
		write_json_type(f, &about);
		if (f->flags & ROW_REQUIRED_JSON)
			text_append(&about, ", required");
		if (f->help)
			text_appendf(&about, ": %s", f->help);
		text_append(t, ".TP\n\\fB");
		schema_write_roff(field_json(f), t);
		text_append(t, "\\fR\n");
		schema_write_roff(text_get(&about), t);
		text_append_char(t, '\n');
	}
}

static void write_choices(const struct field *f, struct text *t)
{
	const char *separator = "";
	for (const struct enum_name *n = f->names; n->json; n++) {
		if (!n->word)
			continue;
		text_appendf(t, "%s%s", separator, n->word);
		separator = "|";
	}
}

static void write_key_word(const struct key_visitor *v, const struct field *f, const char *key)
{
	struct text *t = v->t;
	if (f->flags & ROW_MODE) {
		for (const struct enum_name *n = f->names; n->json; n++)
			if (n->word)
				text_appendf(t, "%s%s%s", t->n_bytes ? " " : "", n->word, n->takes_value ? "=@" : "");
		return;
	}
	text_appendf(t, "%s%s=", t->n_bytes ? " " : "", key);
	if (f->type == FIELD_BOOL)
		text_append(t, "on|off");
	else if (f->type == FIELD_PATH)
		text_append(t, "@");
	else if (f->type == FIELD_ENUM)
		write_choices(f, t);
}

void schema_write_keys(const struct schema *s, struct text *t)
{
	text_scoped words = TEXT_INIT; /* of its own: whether a space is needed shows in its length */
	const struct key_visitor v = { .fn = write_key_word, .t = &words };
	document_visit_keys(s, &v);
	text_append(t, text_get(&words));
}

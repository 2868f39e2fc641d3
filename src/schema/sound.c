/* SPDX-License-Identifier: Apache-2.0 */
/* A table against itself: what the compiler cannot see about rows. The unit tests call it for every schema. */
#include "schema/field.h"

#include "base/cleanup.h"
#include "schema/words.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* Marks the bytes of a member; -EEXIST when one is taken already. */
static int mark(uint8_t *bytes, uint32_t size, uint32_t at, uint32_t n)
{
	if (at > size || n > size - at)
		return -ERANGE;
	for (uint32_t i = at; i < at + n; i++)
		if (bytes[i]++)
			return -EEXIST;
	return 0;
}

static int mark_rows(const struct schema *s, uint8_t *bytes, uint32_t size, uint32_t base)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		int rc = 0;
		if (f->type == FIELD_OBJECT)
			rc = mark_rows(f->schema, bytes, size, base + f->at);
		else if (f->type != FIELD_IGNORED)
			rc = mark(bytes, size, base + f->at, field_is_list(f) ? (uint32_t)sizeof(void *) : f->size);
		if (rc == 0 && f->has)
			rc = mark(bytes, size, base + f->has - 1, sizeof(bool));
		if (rc == 0 && f->count)
			rc = mark(bytes, size, base + f->count - 1, sizeof(size_t));
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int check_cover(const struct schema *s, struct err *e)
{
	free_scoped uint8_t *bytes = calloc(s->size, 1);
	if (!bytes)
		return err_set(e, ENOMEM, "%s: out of memory", s->name);
	int rc = mark_rows(s, bytes, s->size, 0);
	if (rc < 0)
		return err_set(e, EINVAL, "%s: rows overlap or leave the struct", s->name);
	for (uint32_t i = 0; i < s->size; i++)
		if (!bytes[i])
			return err_set(e, EINVAL, "%s: byte %" PRIu32 " of %" PRIu32 " belongs to no row", s->name, i,
			               s->size);
	return 0;
}

static bool default_is_good(const struct field *f)
{
	uint8_t bytes[8];
	if (f->def_string && f->type == FIELD_MAC)
		return word_to_mac(f->def_string, bytes);
	if (f->def_string && f->type == FIELD_IPV4)
		return word_to_ipv4(f->def_string, bytes);
	if (f->def_string)
		return field_is_text(f) && field_text_fits(f, strlen(f->def_string));
	if (f->type == FIELD_BOOL)
		return f->def <= 1;
	if (f->type == FIELD_ENUM)
		return field_enum_name(f, f->def) != NULL;
	/* An optional number needs no default, and a required one is always overwritten. */
	return !field_is_number(f) || f->has || (f->flags & ROW_REQUIRED) || field_is_within(f, f->def);
}

static unsigned count_value_rows(const struct schema *s)
{
	unsigned n = 0;
	uint32_t at = 0;
	while (schema_next_value_row(s, &at))
		n++;
	return n;
}

static const char *fault_of_form(const struct schema *s, const struct field *f)
{
	bool is_nested = f->type == FIELD_OBJECT || f->type == FIELD_LIST;
	if (is_nested != (f->schema != NULL))
		return "a nested schema, or none, where it does not belong";
	if (is_nested && f->schema->size != f->size)
		return "of another size than its schema";
	if (f->type == FIELD_ENUM ? !f->names : f->names && !(field_is_number(f) && f->placeholder))
		return "names where they do not belong, or none";
	if (f->type == FIELD_ENUM && f->size != sizeof(unsigned))
		return "an enum that is no int";
	if ((f->flags & ROW_TUPLES) && (f->type != FIELD_LIST || count_value_rows(f->schema) != 2))
		return "a tuple without two rows";
	if ((f->flags & (ROW_FLAT | ROW_COLONS | ROW_NAME_SET)) && f->type != FIELD_OBJECT)
		return "an object's flag on something else";
	if ((f->flags & ROW_MODE) && (f->type != FIELD_ENUM || !f->missing))
		return "a mode that is no enum, or has no text";
	if ((f->flags & ROW_IN_MODE) && (!field_is_text(f) || !f->missing))
		return "a mode's value that is no string, or has no text";
	if ((f->flags & ROW_NAME_SET) && !f->missing)
		return "a set of names without a text";
	const struct field *other = f->def_key ? schema_row_of_key(s, f->def_key) : NULL;
	if (f->def_key && (!other || other >= f || !field_is_number(other) || other->size != f->size))
		return "a default from a row that is not before it, or not like it";
	if (f->type != FIELD_PAD && (!f->help || !*f->help))
		return "no help";
	return default_is_good(f) ? NULL : "a default out of bounds";
}

static int check_names(const struct schema *s, const struct field *f, struct err *e)
{
	if (strlen(field_json(f)) > 48 || strlen(field_key(f)) > 24)
		return err_set(e, EINVAL, "%s.%s: a name that is too long", s->name, f->name);
	for (const struct field *g = s->fields; g < f; g++) {
		if (strcmp(g->name, f->name) == 0 && f->type != FIELD_PAD)
			return err_set(e, EINVAL, "%s.%s: two rows", s->name, f->name);
		if (field_is_in_json(f) && field_is_in_json(g) && strcmp(field_json(f), field_json(g)) == 0)
			return err_set(e, EINVAL, "%s.%s: two rows for one JSON member", s->name, field_json(f));
		if (field_is_in_option(f) && field_is_in_option(g) && strcmp(field_key(f), field_key(g)) == 0)
			return err_set(e, EINVAL, "%s.%s: two rows for one key", s->name, field_key(f));
	}
	return 0;
}

int schema_is_sound(const struct schema *s, struct err *e)
{
	if (!s->name || !s->help || s->n_fields > 256)
		return err_set(e, EINVAL, "a schema without a name or help, or with too many rows");
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		const char *fault = fault_of_form(s, f);
		int rc = fault ? err_set(e, EINVAL, "%s.%s: %s", s->name, f->name, fault) : check_names(s, f, e);
		/* Rows of ROW_HERE schemas cover a part of the enclosing struct only; the encloser's map has them. */
		if (rc == 0 && f->type == FIELD_OBJECT && f->at == 0 && f->size == s->size)
			continue;
		if (rc == 0 && f->schema)
			rc = schema_is_sound(f->schema, e);
		if (rc < 0)
			return rc;
	}
	return check_cover(s, e);
}

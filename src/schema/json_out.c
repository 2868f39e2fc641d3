/* SPDX-License-Identifier: Apache-2.0 */
/* An object as JSON, in the one canonical form: members in row order, no spaces, what is not set left out, everything
 * else written even when it is the default (but for ROW_NOT_SAID). The text must be UTF-8; a path that is not has no JSON form. */
#include "schema/field.h"

#include "schema/words.h"

#include <errno.h>
#include <inttypes.h>

struct write {
	unsigned flags;
	struct text *t;
	struct err *e;
};

static int write_object(const struct write *w, const struct schema *s, const void *object);

static int write_string(const struct write *w, const struct field *f, const char *s)
{
	if (!word_is_utf8(s, strlen(s)))
		return err_set(w->e, EILSEQ, "%s: not UTF-8, so it has no JSON form", field_json(f));
	text_append_json_string(w->t, s);
	return 0;
}

static int write_number(const struct write *w, const struct field *f, const void *at)
{
	uint64_t v = number_load(at, f->size, field_is_signed(f));
	if (field_is_signed(f)) {
		text_appendf(w->t, "%" PRId64, f->flags & ROW_DESCRIPTORS ? -1 : (int64_t)v);
		return 0;
	}
	if (v > INT64_MAX && !(w->flags & SCHEMA_LARGE_NUMBERS))
		return err_set(w->e, ERANGE, "%s: %" PRIu64 " is too large for JSON", field_json(f), v);
	text_appendf(w->t, "%" PRIu64, v);
	return 0;
}

static void write_bytes(const struct write *w, const struct field *f, const uint8_t *bytes)
{
	text_append_char(w->t, '"');
	for (uint32_t i = 0; i < f->size; i++) {
		if (f->type == FIELD_IPV4)
			text_appendf(w->t, "%s%u", i ? "." : "", bytes[i]);
		else
			text_appendf(w->t, "%s%02x", i && f->type == FIELD_MAC ? ":" : "", bytes[i]);
	}
	text_append_char(w->t, '"');
}

static int write_list(const struct write *w, const struct field *f, const void *object)
{
	size_t n;
	const char *list = field_list(f, object, &n);
	text_append_char(w->t, '[');
	for (size_t i = 0; i < n; i++) {
		const char *element = list + i * f->size;
		int rc;
		if (i)
			text_append_char(w->t, ',');
		if (f->type == FIELD_LIST)
			rc = write_object(w, f->schema, element);
		else if (f->type == FIELD_INTEGERS)
			rc = write_number(w, f, element);
		else
			rc = write_string(w, f, ((char *const *)(const void *)list)[i]);
		if (rc < 0)
			return rc;
	}
	text_append_char(w->t, ']');
	return 0;
}

static int write_enum(const struct write *w, const struct field *f, const void *object)
{
	uint64_t v = field_number(f, object);
	const struct enum_name *n = field_enum_name(f, v);
	if (!n)
		return err_set(w->e, EINVAL, "%s: no name for the value %" PRIu64, field_json(f), v);
	return write_string(w, f, n->json);
}

static int write_value(const struct write *w, const struct field *f, const void *object)
{
	switch (f->type) {
	case FIELD_BOOL:
		text_append(w->t, field_number(f, object) ? "true" : "false");
		return 0;
	case FIELD_U8:
	case FIELD_U16:
	case FIELD_U32:
	case FIELD_U64:
	case FIELD_SIZE:
	case FIELD_I32:
		return write_number(w, f, field_member_const(f, object));
	case FIELD_ENUM:
		return write_enum(w, f, object);
	case FIELD_STRING:
	case FIELD_PATH:
		return write_string(w, f, field_text(f, object));
	case FIELD_MAC:
	case FIELD_IPV4:
	case FIELD_BLOB:
		write_bytes(w, f, field_member_const(f, object));
		return 0;
	case FIELD_INTEGERS:
	case FIELD_STRINGS:
	case FIELD_LIST:
		return write_list(w, f, object);
	case FIELD_OBJECT:
		return write_object(w, f->schema, field_member_const(f, object));
	case FIELD_IGNORED:
	case FIELD_PAD:
		break;
	}
	assert(field_is_in_json(f));
	return -EINVAL;
}

static bool is_set(const struct field *f, const void *object)
{
	size_t n;
	if ((f->flags & ROW_NOT_SAID) && field_number(f, object) == f->def)
		return false;
	if (field_is_text(f))
		return field_text(f, object) != NULL;
	if (field_is_list(f))
		return field_list(f, object, &n) != NULL;
	return field_has(f, object);
}

static int write_object(const struct write *w, const struct schema *s, const void *object)
{
	bool is_first = true;
	text_append_char(w->t, '{');
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		if (!field_is_in_json(f) || !is_set(f, object))
			continue;
		text_appendf(w->t, "%s\"%s\":", is_first ? "" : ",", field_json(f));
		is_first = false;
		if ((f->flags & ROW_SECRET) && !(w->flags & SCHEMA_WITH_SECRETS)) {
			text_append(w->t, "\"***\"");
			continue;
		}
		int rc = write_value(w, f, object);
		if (rc < 0)
			return rc;
	}
	text_append_char(w->t, '}');
	return 0;
}

int schema_write_json(const struct schema *s, const void *object, unsigned flags, struct text *t, struct err *e)
{
	const struct write w = { .flags = flags, .t = t, .e = e };
	int rc = write_object(&w, s, object);
	if (rc == 0 && t->is_out_of_memory)
		rc = err_set(e, ENOMEM, "JSON: out of memory");
	if (rc < 0 && rc != -ENOMEM)
		err_prefix(e, "%s: ", s->name);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* JSON into an object: defaults first, then the members that are there, in row order.
 *
 * The text is hostile. Its size, nesting and number of values are bounded before the JSON library sees it, since the
 * library recurses per level and makes some 200 bytes of "{}". From then on recursion goes along the schema. `null` is the
 * same as an absent member where absence can be said. Every refusal names the member:
 * "disks[0].queue_size: 70000 is not within 0 to 65535". */
#include "schema/field.h"

#include "base/cleanup.h"
#include "schema/words.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

/* Where in the document we are: a list towards the top, on the stack. */
struct place {
	const struct place *up;
	const char *member; /* NULL: element `index` of the list above */
	size_t index;
};

struct read {
	unsigned flags;
	struct err *e;
};

static void write_place(const struct place *p, const char *top, struct text *t)
{
	const struct place *chain[32];
	size_t n = 0;
	for (; p && n < ARRAY_LEN(chain); p = p->up)
		chain[n++] = p;
	if (!n)
		text_append(t, top);
	while (n-- > 0) {
		if (chain[n]->member)
			text_appendf(t, "%s%s", t->n_bytes ? "." : "", chain[n]->member);
		else
			text_appendf(t, "[%zu]", chain[n]->index);
	}
}

static int refuse(const struct read *r, const struct place *at, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int refuse(const struct read *r, const struct place *at, const char *fmt, ...)
{
	char reason[200];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(reason, sizeof reason, fmt, ap);
	va_end(ap);

	text_scoped place = TEXT_INIT;
	write_place(at, "JSON", &place);
	return err_set(r->e, EINVAL, "%s: %s", text_get(&place), reason);
}

static int out_of_memory(const struct read *r)
{
	return err_set(r->e, ENOMEM, "JSON: out of memory");
}

static const char *type_name(const json_t *j)
{
	switch (json_typeof(j)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
		return "a number";
	case JSON_REAL:
		return "a number with a fraction";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	case JSON_NULL:
		return "null";
	}
	return "something else";
}

static int wrong_type(const struct read *r, const struct place *at, const char *wanted, json_t *j)
{
	return refuse(r, at, "expected %s, found %s", wanted, type_name(j));
}

static int read_object(const struct read *r, const struct schema *s, json_t *j, const struct place *at, void *object);

/* A number within the bounds of f into the n_bytes at `to`. */
static int read_number(const struct read *r, const struct field *f, json_t *j, const struct place *at, void *to)
{
	if (!json_is_integer(j))
		return wrong_type(r, at, "a number", j);
	json_int_t v = json_integer_value(j);
	if ((v < 0 && !field_is_signed(f)) || !field_is_within(f, (uint64_t)v)) {
		if (field_is_signed(f))
			return refuse(r, at, "%" JSON_INTEGER_FORMAT " is not within %" PRId64 " to %" PRId64, v,
			              (int64_t)field_min(f), (int64_t)field_max(f));
		return refuse(r, at, "%" JSON_INTEGER_FORMAT " is not within %" PRIu64 " to %" PRIu64, v, field_min(f),
		              field_max(f));
	}
	number_store(to, f->size, f->flags & ROW_DESCRIPTORS ? UINT64_MAX : (uint64_t)v);
	return 0;
}

static int read_enum(const struct read *r, const struct field *f, json_t *j, const struct place *at, void *object)
{
	const char *word = json_string_value(j);
	if (!word)
		return wrong_type(r, at, "a string", j);
	for (const struct enum_name *n = f->names; n->json; n++)
		if (strcmp(n->json, word) == 0) {
			field_set_number(f, object, n->value);
			return 0;
		}
	text_scoped known = TEXT_INIT;
	for (const struct enum_name *n = f->names; n->json; n++)
		text_appendf(&known, "%s%s", n == f->names ? "" : n[1].json ? ", " : " or ", n->json);
	return refuse(r, at, "unknown value '%.60s', expected %s", word, text_get(&known));
}

static int read_text(const struct read *r, const struct field *f, json_t *j, const struct place *at, void *object)
{
	const char *word = json_string_value(j);
	if (!word)
		return wrong_type(r, at, "a string", j);
	size_t n = json_string_length(j);
	if (!field_text_fits(f, n))
		return refuse(r, at, "%zu bytes are not within %" PRIu64 " to %" PRIu64, n, f->min,
		              f->max ? f->max : (uint64_t)FIELD_MAX_TEXT);
	return field_replace_text(f, object, word, n) < 0 ? out_of_memory(r) : 0;
}

static int read_bytes(const struct read *r, const struct field *f, json_t *j, const struct place *at, void *object)
{
	const char *word = json_string_value(j);
	void *member = field_member(f, object);
	if (!word)
		return wrong_type(r, at, "a string", j);
	if (f->type == FIELD_MAC)
		return word_to_mac(word, member) ? 0 : refuse(r, at, "'%.60s' is not a MAC address", word);
	if (f->type == FIELD_IPV4)
		return word_to_ipv4(word, member) ? 0 : refuse(r, at, "'%.60s' is not an IPv4 address", word);
	return word_to_bytes(word, f->size, member)
		       ? 0
		       : refuse(r, at, "expected %" PRIu32 " bytes in hexadecimal", f->size);
}

static int read_element(const struct read *r, const struct field *f, json_t *j, const struct place *at, char *element)
{
	if (f->type == FIELD_INTEGERS)
		return read_number(r, f, j, at, element);
	if (f->type == FIELD_LIST) {
		int rc = schema_init(f->schema, element, r->e);
		return rc < 0 ? rc : read_object(r, f->schema, j, at, element);
	}
	const char *word = json_string_value(j);
	if (!word)
		return wrong_type(r, at, "a string", j);
	char *copy = strdup(word);
	if (!copy)
		return out_of_memory(r);
	memcpy(element, &copy, sizeof copy);
	return 0;
}

static int read_list(const struct read *r, const struct field *f, json_t *j, const struct place *at, void *object)
{
	void *list;
	if (!json_is_array(j))
		return wrong_type(r, at, "an array", j);
	size_t n = json_array_size(j);
	if (n > field_max_items(f))
		return refuse(r, at, "%zu elements are more than %zu", n, field_max_items(f));
	if (field_reset(f, object) < 0 || field_new_list(f, n, &list) < 0)
		return out_of_memory(r);
	/* Elements that were not read are 0 and freeable, so the list is the object's from here on. */
	field_set_list(f, object, list, n);
	for (size_t i = 0; i < n; i++) {
		const struct place here = { .up = at, .index = i };
		int rc = read_element(r, f, json_array_get(j, i), &here, (char *)list + i * f->size);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_field(const struct read *r, const struct field *f, json_t *j, const struct place *at, void *object)
{
	switch (f->type) {
	case FIELD_BOOL:
		if (!json_is_boolean(j))
			return wrong_type(r, at, "a boolean", j);
		field_set_number(f, object, json_is_true(j));
		return 0;
	case FIELD_U8:
	case FIELD_U16:
	case FIELD_U32:
	case FIELD_U64:
	case FIELD_SIZE:
	case FIELD_I32:
		return read_number(r, f, j, at, field_member(f, object));
	case FIELD_ENUM:
		return read_enum(r, f, j, at, object);
	case FIELD_STRING:
	case FIELD_PATH:
		return read_text(r, f, j, at, object);
	case FIELD_MAC:
	case FIELD_IPV4:
	case FIELD_BLOB:
		return read_bytes(r, f, j, at, object);
	case FIELD_INTEGERS:
	case FIELD_STRINGS:
	case FIELD_LIST:
		return read_list(r, f, j, at, object);
	case FIELD_OBJECT:
		if (field_reset(f, object) < 0)
			return out_of_memory(r);
		return read_object(r, f->schema, j, at, field_member(f, object));
	case FIELD_IGNORED:
	case FIELD_PAD:
		break;
	}
	assert(field_is_in_json(f));
	return -EINVAL;
}

static int refuse_unknown(const struct read *r, const struct schema *s, json_t *j, const struct place *at)
{
	for (void *i = json_object_iter(j); i; i = json_object_iter_next(j, i)) {
		const char *name = json_object_iter_key(i);
		bool is_known = false;
		for (uint32_t k = 0; k < s->n_fields && !is_known; k++)
			is_known = field_is_in_json(&s->fields[k]) && strcmp(field_json(&s->fields[k]), name) == 0;
		if (!is_known)
			return refuse(r, at, "unknown member '%.60s'", name);
	}
	return 0;
}

/* `object` holds defaults. On failure it holds some of both, and is freeable. */
static int read_object(const struct read *r, const struct schema *s, json_t *j, const struct place *at, void *object)
{
	if (!json_is_object(j))
		return wrong_type(r, at, "an object", j);
	if (s->flags & SCHEMA_STRICT) {
		int rc = refuse_unknown(r, s, j, at);
		if (rc < 0)
			return rc;
	}
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		const struct place here = { .up = at, .member = field_json(f) };
		if (!field_is_in_json(f))
			continue;
		json_t *value = json_object_get(j, here.member);
		if (!value || (json_is_null(value) && field_can_be_absent(f))) {
			if (f->flags & ROW_REQUIRED_JSON)
				return refuse(r, at, "missing member '%s'", here.member);
			continue;
		}
		if ((f->flags & ROW_HOST) && (r->flags & SCHEMA_FROM_REMOTE))
			return refuse(r, &here, "only the host may set this");
		int rc = read_field(r, f, value, &here, object);
		if (rc < 0)
			return rc;
		field_set_has(f, object, true);
	}
	return 0;
}

/* What the JSON library would build of the text, whether it is JSON or not. */
struct extent {
	unsigned deepest;
	size_t n_values; /* at most as many: an empty list or object counts for two */
};

static struct extent measure(const char *json, size_t n_bytes)
{
	struct extent x = { .n_values = 1 };
	unsigned depth = 0;
	bool in_string = false;
	for (size_t i = 0; i < n_bytes; i++) {
		char c = json[i];
		if (in_string) {
			i += c == '\\';
			in_string = c != '"';
			continue;
		}
		in_string = c == '"';
		x.n_values += c == ',' || c == '{' || c == '[';
		if (c == '{' || c == '[')
			x.deepest = ++depth > x.deepest ? depth : x.deepest;
		else if ((c == '}' || c == ']') && depth)
			depth--;
	}
	return x;
}

int schema_parse_json(const struct schema *s, const char *json, size_t n_bytes, unsigned flags, void *object,
                      struct err *e)
{
	const struct read r = { .flags = flags, .e = e };
	if (n_bytes > SCHEMA_JSON_MAX_BYTES)
		return err_set(e, E2BIG, "JSON: %zu bytes are more than %u", n_bytes, SCHEMA_JSON_MAX_BYTES);
	const struct extent x = measure(json, n_bytes);
	if (x.deepest > SCHEMA_JSON_MAX_DEPTH)
		return err_set(e, EINVAL, "JSON: nested deeper than %u", SCHEMA_JSON_MAX_DEPTH);
	if (x.n_values > SCHEMA_JSON_MAX_VALUES)
		return err_set(e, EINVAL, "JSON: more than %u values", SCHEMA_JSON_MAX_VALUES);

	json_error_t error;
	json_t *root = json_loadb(json, n_bytes, JSON_REJECT_DUPLICATES, &error);
	if (!root)
		return err_set(e, EINVAL, "JSON: line %d: %s", error.line, error.text);
	int rc = schema_init(s, object, e);
	if (rc == 0) {
		rc = read_object(&r, s, root, NULL, object);
		if (rc < 0) {
			err_flatten(e);
			schema_done(s, object);
		}
	}
	json_decref(root);
	return rc;
}

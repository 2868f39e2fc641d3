/* SPDX-License-Identifier: Apache-2.0 */
/* One description, many consumers.
 *
 * A setting is a member of a plain struct, written by hand, and one row beside it: where the member is, what it is
 * called in JSON and in an option string, its type, default and bounds, its help. Everything that has to know about
 * settings walks the rows, so that a new setting is one member and one line:
 *
 *   schema.c         objects: defaults, freeing, copying, comparing, what may change while a VM runs
 *   option_string.c  the words of "key=value,..."; option.c turns them into an object
 *   json_in.c        JSON into an object; json_out.c the way back
 *   record.c         snapshot records, both ways
 *   document.c       --help and the manual; openapi.c the components of the API's description
 *   words.c          single values as text; field.h members as bytes
 *   sound.c          a table against itself, for the tests
 *
 * Objects nest: ROW_OBJECT for a struct inside the struct, ROW_LIST for an array with its count, each with a schema of
 * its own. What an option string makes of a nested object is a flag of the row: its keys with a prefix (ROW_FLAT),
 * parts between colons (ROW_COLONS), tuples (ROW_TUPLES), a set of names (ROW_NAME_SET); without one it has JSON only.
 * Whether a member is set at all is said by a bool beside it (.has), or by NULL for strings and lists.
 *
 * Three guards keep rows and structs together. A row with another type than its member's does not compile: _Generic in
 * FIELD_AT. A member without a row is found by the tests, since nothing here clears a struct as a whole: each byte is
 * written because a row names it, padding included (ROW_PAD), and a byte that keeps its old value has no row. And
 * objects with random contents must survive JSON and records, and fuzzers say so too.
 *
 * Recursion goes along schemas, which are constant and shallow, never along data. Rules over several settings are
 * functions named in the schema (.check); they see a complete object, and are not called while one is read. */
#include "schema/field.h"

#include "schema/words.h"

#include <errno.h>
#include <stdlib.h>

/* To "nothing here", without freeing: every byte of every row 0. */
static void clear(const struct schema *s, void *object)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		field_set_has(f, object, false);
		if (f->type == FIELD_OBJECT)
			clear(f->schema, field_member(f, object));
		else if (field_is_list(f))
			field_set_list(f, object, NULL, 0);
		else if (f->type != FIELD_IGNORED)
			memset(field_member(f, object), 0, f->size);
	}
}

int field_replace_text(const struct field *f, void *object, const char *s, size_t n_bytes)
{
	char *copy = malloc(n_bytes + 1);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, s, n_bytes);
	copy[n_bytes] = '\0';
	free(field_text(f, object));
	field_set_text(f, object, copy);
	return 0;
}

int field_new_list(const struct field *f, size_t n, void **ret_list)
{
	size_t size = f->type == FIELD_STRINGS ? sizeof(char *) : f->size;
	void *list = calloc(n ? n : 1, size);
	if (!list)
		return -ENOMEM;
	*ret_list = list;
	return 0;
}

static int set_defaults(const struct schema *s, void *object)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		void *member = field_member(f, object);
		bool is_good = true;
		int rc = 0;

		if (f->type == FIELD_OBJECT)
			rc = set_defaults(f->schema, member);
		else if (f->type == FIELD_BOOL || f->type == FIELD_ENUM || field_is_number(f))
			field_set_number(f, object, f->def);
		else if (f->def_string && field_is_text(f))
			rc = field_replace_text(f, object, f->def_string, strlen(f->def_string));
		else if (f->def_string && f->type == FIELD_MAC)
			is_good = word_to_mac(f->def_string, member);
		else if (f->def_string && f->type == FIELD_IPV4)
			is_good = word_to_ipv4(f->def_string, member);
		assert(is_good);
		if (rc < 0)
			return rc;
	}
	if (s->set_defaults)
		s->set_defaults(object);
	return 0;
}

static void free_list(const struct field *f, void *object)
{
	size_t n;
	char *list = field_list(f, object, &n);
	for (size_t i = 0; list && i < n; i++) {
		if (f->type == FIELD_LIST)
			schema_done(f->schema, list + i * f->size);
		else if (f->type == FIELD_STRINGS)
			free(((char **)(void *)list)[i]);
	}
	free(list);
}

static void free_rows(const struct schema *s, void *object)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		if (f->type == FIELD_OBJECT)
			free_rows(f->schema, field_member(f, object));
		else if (field_is_text(f))
			free(field_text(f, object));
		else if (field_is_list(f))
			free_list(f, object);
	}
}

int schema_init(const struct schema *s, void *object, struct err *e)
{
	clear(s, object);
	if (set_defaults(s, object) < 0) {
		schema_done(s, object);
		return err_set(e, ENOMEM, "%s: out of memory", s->name);
	}
	return 0;
}

void schema_done(const struct schema *s, void *object)
{
	free_rows(s, object);
	clear(s, object);
}

int field_reset(const struct field *f, void *object)
{
	const struct schema one = { .name = f->name, .fields = f, .n_fields = 1 };
	schema_done(&one, object);
	return schema_init(&one, object, NULL);
}

static int copy_rows(const struct schema *s, void *to, const void *from);

static int copy_list(const struct field *f, void *to, const void *from)
{
	size_t n;
	const char *source = field_list(f, from, &n);
	void *list;
	if (!source)
		return 0;
	if (field_new_list(f, n, &list) < 0)
		return -ENOMEM;
	/* Owned from here on: all elements are 0, which is freeable. */
	field_set_list(f, to, list, n);
	for (size_t i = 0; i < n; i++) {
		char *element = (char *)list + i * f->size;
		if (f->type == FIELD_LIST) {
			clear(f->schema, element);
			if (copy_rows(f->schema, element, source + i * f->size) < 0)
				return -ENOMEM;
		} else if (f->type == FIELD_STRINGS) {
			char *string = strdup(((char *const *)(const void *)source)[i]);
			if (!string)
				return -ENOMEM;
			memcpy(element, &string, sizeof string);
		} else {
			memcpy(element, source + i * f->size, f->size);
		}
	}
	return 0;
}

/* `to` is cleared. */
static int copy_rows(const struct schema *s, void *to, const void *from)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		int rc = 0;
		if (f->type == FIELD_OBJECT) {
			rc = copy_rows(f->schema, field_member(f, to), field_member_const(f, from));
		} else if (field_is_text(f)) {
			const char *text = field_text(f, from);
			if (text)
				rc = field_replace_text(f, to, text, strlen(text));
		} else if (field_is_list(f)) {
			rc = copy_list(f, to, from);
		} else if (f->type != FIELD_IGNORED && f->type != FIELD_PAD) {
			memcpy(field_member(f, to), field_member_const(f, from), f->size);
		}
		field_set_has(f, to, field_has(f, from));
		if (rc < 0)
			return rc;
	}
	return 0;
}

int schema_copy(const struct schema *s, void *to, const void *from, struct err *e)
{
	clear(s, to);
	if (copy_rows(s, to, from) < 0) {
		schema_done(s, to);
		return err_set(e, ENOMEM, "%s: out of memory", s->name);
	}
	return 0;
}

static bool elements_equal(const struct field *f, const void *a, const void *b)
{
	if (f->type == FIELD_LIST)
		return schema_equal(f->schema, a, b);
	if (f->type == FIELD_STRINGS)
		return strcmp(*(char *const *)a, *(char *const *)b) == 0;
	return memcmp(a, b, f->size) == 0;
}

static bool lists_equal(const struct field *f, const void *a, const void *b)
{
	size_t n_a, n_b;
	const char *list_a = field_list(f, a, &n_a), *list_b = field_list(f, b, &n_b);
	if (!list_a || !list_b)
		return !list_a && !list_b;
	if (n_a != n_b)
		return false;
	for (size_t i = 0; i < n_a; i++) {
		const char *x = list_a + i * f->size, *y = list_b + i * f->size;
		if (!elements_equal(f, x, y))
			return false;
	}
	return true;
}

static bool fields_equal(const struct field *f, const void *a, const void *b)
{
	if (f->type == FIELD_PAD || f->type == FIELD_IGNORED)
		return true;
	if (field_has(f, a) != field_has(f, b))
		return false;
	if (!field_has(f, a))
		return true;
	if (f->type == FIELD_OBJECT)
		return schema_equal(f->schema, field_member_const(f, a), field_member_const(f, b));
	if (field_is_list(f))
		return lists_equal(f, a, b);
	if (field_is_text(f)) {
		const char *x = field_text(f, a), *y = field_text(f, b);
		return x && y ? strcmp(x, y) == 0 : x == y;
	}
	return memcmp(field_member_const(f, a), field_member_const(f, b), f->size) == 0;
}

bool schema_equal(const struct schema *s, const void *a, const void *b)
{
	for (uint32_t i = 0; i < s->n_fields; i++)
		if (!fields_equal(&s->fields[i], a, b))
			return false;
	return true;
}

int schema_check(const struct schema *s, const void *object, struct err *e)
{
	return s->check ? s->check(object, e) : 0;
}

int schema_check_change(const struct schema *s, const void *from, const void *to, struct err *e)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		if ((f->flags & ROW_HOT) || fields_equal(f, from, to))
			continue;
		if (f->type == FIELD_OBJECT && field_has(f, from) && field_has(f, to)) {
			/* A row inside may be hot. */
			const void *a = field_member_const(f, from), *b = field_member_const(f, to);
			int rc = schema_check_change(f->schema, a, b, e);
			if (rc < 0)
				return rc;
			continue;
		}
		return err_set(e, EBUSY, "%s: '%s' cannot change while the VM runs", s->name, field_json(f));
	}
	return 0;
}

int schema_append(const struct schema *element, void *list, size_t *n, void **ret_element, struct err *e)
{
	char *items;
	size_t n_bytes;
	memcpy(&items, list, sizeof items);
	if (*n >= FIELD_MAX_ITEMS || !checked_mul(*n + 1, (size_t)element->size, &n_bytes))
		return err_set(e, E2BIG, "%s: too many", element->name);
	items = realloc(items, n_bytes);
	if (!items)
		return err_set(e, ENOMEM, "%s: out of memory", element->name);
	memcpy(list, &items, sizeof items);

	void *added = items + *n * element->size;
	int rc = schema_init(element, added, e);
	if (rc < 0)
		return rc;
	++*n;
	*ret_element = added;
	return 0;
}

const struct field *schema_find(const struct schema *s, const char *name)
{
	for (uint32_t i = 0; i < s->n_fields; i++)
		if (strcmp(s->fields[i].name, name) == 0)
			return &s->fields[i];
	return NULL;
}

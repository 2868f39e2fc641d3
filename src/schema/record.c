/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshot records: an object as a sequence of named values.
 *
 *   object  := entry*
 *   entry   := name length (1 byte), name, kind (1 byte), value length (4 bytes), value
 *   value   := number:  8 bytes, two's complement for signed ones     text, bytes: as they are
 *              object:  entry*                                        numbers:     8 bytes each
 *              texts, objects: (4 bytes of length, that many bytes)*
 *
 * All lengths and numbers are little-endian. Names are those of JSON. Numbers always have 8 bytes, so that a member can
 * be widened without a new format. What is absent in the object is not written; a row that is absent in the record
 * keeps its default, so a newer program reads an older record. A name that no row has is refused: what it says would be
 * lost.
 *
 * A record is hostile: each length is checked against what is left, a name may come once, numbers and counts are held
 * to the row's bounds, and memory is linear in the bytes given. Recursion goes along the schema. */
#include "schema/field.h"

#include "base/bytes.h"
#include "schema/words.h"

#include <errno.h>
#include <stdlib.h>

enum record_kind {
	RECORD_NUMBER = 1,
	RECORD_TEXT = 2,
	RECORD_BYTES = 3,
	RECORD_OBJECT = 4,
	RECORD_NUMBERS = 5,
	RECORD_TEXTS = 6,
	RECORD_OBJECTS = 7,
};

static enum record_kind kind_of(const struct field *f)
{
	switch (f->type) {
	case FIELD_STRING:
	case FIELD_PATH:
		return RECORD_TEXT;
	case FIELD_MAC:
	case FIELD_IPV4:
	case FIELD_BLOB:
		return RECORD_BYTES;
	case FIELD_OBJECT:
		return RECORD_OBJECT;
	case FIELD_INTEGERS:
		return RECORD_NUMBERS;
	case FIELD_STRINGS:
		return RECORD_TEXTS;
	case FIELD_LIST:
		return RECORD_OBJECTS;
	default:
		return RECORD_NUMBER;
	}
}

static bool is_recorded(const struct field *f)
{
	return f->type != FIELD_PAD && f->type != FIELD_IGNORED && !(f->flags & ROW_NO_RECORD);
}

/* Writing. */

static void put_number(struct text *t, uint64_t v)
{
	char bytes[8];
	put_le64(bytes, v);
	text_append_n(t, bytes, sizeof bytes);
}

/* A length that is known only when what it counts has been written. */
static size_t begin_length(struct text *t)
{
	size_t at = t->n_bytes;
	text_append_n(t, "\0\0\0\0", 4);
	return at;
}

static int end_length(struct text *t, size_t at)
{
	if (t->is_out_of_memory)
		return -ENOMEM;
	size_t n = t->n_bytes - at - 4;
	if (n > UINT32_MAX)
		return -E2BIG;
	put_le32(t->bytes + at, (uint32_t)n);
	return 0;
}

static int write_entries(const struct schema *s, const void *object, struct text *t);

static int write_list(const struct field *f, const char *list, size_t n, struct text *t)
{
	for (size_t i = 0; i < n; i++) {
		const char *element = list + i * f->size;
		int rc = 0;
		if (f->type == FIELD_INTEGERS) {
			put_number(t, number_load(element, f->size, f->is_signed));
			continue;
		}
		size_t at = begin_length(t);
		if (f->type == FIELD_LIST)
			rc = write_entries(f->schema, element, t);
		else
			text_append(t, ((char *const *)(const void *)list)[i]);
		if (rc == 0)
			rc = end_length(t, at);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int write_value(const struct field *f, const void *object, struct text *t)
{
	size_t n;
	const char *list;
	switch (kind_of(f)) {
	case RECORD_NUMBER:
		put_number(t, field_number(f, object));
		return 0;
	case RECORD_TEXT:
		text_append(t, field_text(f, object));
		return 0;
	case RECORD_BYTES:
		text_append_n(t, field_member_const(f, object), f->size);
		return 0;
	case RECORD_OBJECT:
		return write_entries(f->schema, field_member_const(f, object), t);
	case RECORD_NUMBERS:
	case RECORD_TEXTS:
	case RECORD_OBJECTS:
		list = field_list(f, object, &n);
		return write_list(f, list, n, t);
	}
	return -EINVAL;
}

static int write_entries(const struct schema *s, const void *object, struct text *t)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		size_t n;
		if (!is_recorded(f) || !field_has(f, object) || (field_is_text(f) && !field_text(f, object)) ||
		    (field_is_list(f) && !field_list(f, object, &n)))
			continue;
		const char *name = field_json(f);
		text_append_char(t, (char)strlen(name));
		text_append(t, name);
		text_append_char(t, (char)kind_of(f));
		size_t at = begin_length(t);
		int rc = write_value(f, object, t);
		if (rc == 0)
			rc = end_length(t, at);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int schema_write_record(const struct schema *s, const void *object, struct text *t, struct err *e)
{
	int rc = write_entries(s, object, t);
	if (rc == 0 && t->is_out_of_memory)
		rc = -ENOMEM;
	return rc < 0 ? err_set_errno(e, -rc, "%s: cannot write the record", s->name) : 0;
}

/* Reading. */

struct bytes {
	const char *at;
	size_t n_left;
};

static bool take(struct bytes *b, size_t n, const char **ret)
{
	if (n > b->n_left)
		return false;
	*ret = b->at;
	b->at += n;
	b->n_left -= n;
	return true;
}

static bool take_counted(struct bytes *b, struct bytes *ret)
{
	const char *length;
	if (!take(b, 4, &length))
		return false;
	ret->n_left = get_le32(length);
	return take(b, ret->n_left, &ret->at);
}

static int cut_short(const struct schema *s, struct err *e)
{
	return err_set(e, EINVAL, "%s: the record is cut short", s->name);
}

static int refuse(const struct schema *s, const struct field *f, const char *why, struct err *e)
{
	return err_set(e, EINVAL, "%s: record '%s': %s", s->name, field_json(f), why);
}

static int read_entries(const struct schema *s, struct bytes b, void *object, struct err *e);

static int read_number(const struct schema *s, const struct field *f, const char *at, void *to, struct err *e)
{
	uint64_t v = get_le64(at);
	bool is_good = field_is_within(f, v);
	if (f->type == FIELD_BOOL)
		is_good = v <= 1;
	else if (f->type == FIELD_ENUM)
		is_good = field_enum_name(f, v) != NULL;
	if (!is_good)
		return refuse(s, f, "out of bounds", e);
	number_store(to, f->size, f->flags & ROW_DESCRIPTORS ? UINT64_MAX : v);
	return 0;
}

/* An element of TEXTS or OBJECTS into zeroed bytes. */
static int read_element(const struct schema *s, const struct field *f, struct bytes b, char *element, struct err *e)
{
	if (f->type == FIELD_LIST) {
		int rc = schema_init(f->schema, element, e);
		return rc < 0 ? rc : read_entries(f->schema, b, element, e);
	}
	if (memchr(b.at, '\0', b.n_left))
		return refuse(s, f, "a NUL byte inside a string", e);
	char *copy = strndup(b.at, b.n_left);
	if (!copy)
		return err_set(e, ENOMEM, "%s: out of memory", s->name);
	memcpy(element, &copy, sizeof copy);
	return 0;
}

static int read_list(const struct schema *s, const struct field *f, struct bytes b, void *object, struct err *e)
{
	size_t n = 0;
	void *list;
	bool is_numbers = f->type == FIELD_INTEGERS;
	struct bytes rest = b, item;
	if (is_numbers && b.n_left % 8)
		return cut_short(s, e);
	while (!is_numbers && rest.n_left) {
		if (!take_counted(&rest, &item))
			return cut_short(s, e);
		n++;
	}
	n = is_numbers ? b.n_left / 8 : n;
	if (n > field_max_items(f))
		return refuse(s, f, "too many elements", e);
	if (field_reset(f, object) < 0 || field_new_list(f, n, &list) < 0)
		return err_set(e, ENOMEM, "%s: out of memory", s->name);

	field_set_list(f, object, list, n);
	for (size_t i = 0; i < n; i++) {
		char *element = (char *)list + i * f->size;
		int rc;
		if (is_numbers)
			rc = read_number(s, f, b.at + 8 * i, element, e);
		else
			rc = take_counted(&b, &item) ? read_element(s, f, item, element, e) : cut_short(s, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_value(const struct schema *s, const struct field *f, struct bytes b, void *object, struct err *e)
{
	switch (kind_of(f)) {
	case RECORD_NUMBER:
		return b.n_left == 8 ? read_number(s, f, b.at, field_member(f, object), e) : cut_short(s, e);
	case RECORD_TEXT:
		if (memchr(b.at, '\0', b.n_left))
			return refuse(s, f, "a NUL byte inside a string", e);
		if (!field_text_fits(f, b.n_left))
			return refuse(s, f, "length out of bounds", e);
		if (field_replace_text(f, object, b.at, b.n_left) < 0)
			return err_set(e, ENOMEM, "%s: out of memory", s->name);
		return 0;
	case RECORD_BYTES:
		if (b.n_left != f->size)
			return refuse(s, f, "wrong length", e);
		memcpy(field_member(f, object), b.at, f->size);
		return 0;
	case RECORD_OBJECT:
		if (field_reset(f, object) < 0)
			return err_set(e, ENOMEM, "%s: out of memory", s->name);
		return read_entries(f->schema, b, field_member(f, object), e);
	case RECORD_NUMBERS:
	case RECORD_TEXTS:
	case RECORD_OBJECTS:
		return read_list(s, f, b, object, e);
	}
	return -EINVAL;
}

static const struct field *find(const struct schema *s, const char *name, size_t n_bytes, uint32_t *ret_index)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const char *known = field_json(&s->fields[i]);
		if (is_recorded(&s->fields[i]) && strlen(known) == n_bytes && memcmp(known, name, n_bytes) == 0) {
			*ret_index = i;
			return &s->fields[i];
		}
	}
	return NULL;
}

/* A required number has its default; a required string or list must not stay absent, which nobody expects. */
static int check_required(const struct schema *s, const void *object, struct err *e)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		size_t n;
		if (!(f->flags & ROW_REQUIRED_JSON))
			continue;
		if ((field_is_text(f) && !field_text(f, object)) || (field_is_list(f) && !field_list(f, object, &n)))
			return refuse(s, f, "missing", e);
	}
	return 0;
}

/* `object` holds defaults; on failure some of both. */
static int read_entries(const struct schema *s, struct bytes b, void *object, struct err *e)
{
	uint64_t seen[4] = { 0 };
	assert(s->n_fields <= 64 * ARRAY_LEN(seen));
	while (b.n_left) {
		const char *length, *name, *kind;
		struct bytes value;
		uint32_t index = 0;
		if (!take(&b, 1, &length) || !take(&b, (uint8_t)*length, &name) || !take(&b, 1, &kind) ||
		    !take_counted(&b, &value))
			return cut_short(s, e);
		size_t n_name = (uint8_t)*length;
		const struct field *f = find(s, name, n_name, &index);
		if (!f)
			return err_set(e, EINVAL, "%s: unknown record '%.*s'", s->name, (int)n_name, name);
		if (seen[index / 64] >> (index % 64) & 1)
			return refuse(s, f, "given twice", e);
		seen[index / 64] |= 1ull << (index % 64);
		if ((uint8_t)*kind != kind_of(f))
			return refuse(s, f, "of another kind", e);
		int rc = read_value(s, f, value, object, e);
		if (rc < 0)
			return rc;
		field_set_has(f, object, true);
	}
	return check_required(s, object, e);
}

int schema_read_record(const struct schema *s, const void *record, size_t n_bytes, void *object, struct err *e)
{
	int rc = schema_init(s, object, e);
	if (rc < 0)
		return rc;
	rc = read_entries(s, (struct bytes){ .at = record, .n_left = n_bytes }, object, e);
	if (rc < 0)
		schema_done(s, object);
	return rc;
}

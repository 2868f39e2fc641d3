/* SPDX-License-Identifier: Apache-2.0 */
/* field.h - a row's member inside an object: where it is, and numbers of any width. Inside src/schema/ only.
 *
 * Objects are raw structs; a row says which bytes. Everything goes through memcpy, so the struct's own types do not
 * matter to the compiler's aliasing rules. */
#pragma once
#include "schema/schema.h"

#include <assert.h>
#include <string.h>

static inline void *field_member(const struct field *f, void *object)
{
	return (char *)object + f->at;
}

static inline const void *field_member_const(const struct field *f, const void *object)
{
	return (const char *)object + f->at;
}

static inline const char *field_json(const struct field *f)
{
	return f->json ? f->json : f->name;
}

static inline const char *field_key(const struct field *f)
{
	return f->key ? f->key : f->name;
}

static inline bool field_is_in_json(const struct field *f)
{
	return !(f->flags & ROW_NO_JSON) && f->type != FIELD_PAD && f->type != FIELD_IGNORED;
}

/* FLAT objects are reached through their own rows. */
static inline bool field_is_in_option(const struct field *f)
{
	if ((f->flags & ROW_NO_OPTION) || f->type == FIELD_PAD || f->type == FIELD_BLOB)
		return false;
	if (f->type == FIELD_OBJECT)
		return (f->flags & (ROW_FLAT | ROW_COLONS | ROW_NAME_SET)) != 0;
	return f->type != FIELD_LIST || (f->flags & ROW_TUPLES);
}

static inline bool field_is_number(const struct field *f)
{
	return f->type >= FIELD_U8 && f->type <= FIELD_I32;
}

static inline bool field_is_text(const struct field *f)
{
	return f->type == FIELD_STRING || f->type == FIELD_PATH;
}

static inline bool field_is_list(const struct field *f)
{
	return f->type == FIELD_INTEGERS || f->type == FIELD_STRINGS || f->type == FIELD_LIST;
}

/* Whether the member can say "not given". */
static inline bool field_can_be_absent(const struct field *f)
{
	return f->has || field_is_text(f) || field_is_list(f);
}

static inline bool field_has(const struct field *f, const void *object)
{
	bool has = true;
	if (f->has)
		memcpy(&has, (const char *)object + f->has - 1, sizeof has);
	return has;
}

static inline void field_set_has(const struct field *f, void *object, bool has)
{
	if (f->has)
		memcpy((char *)object + f->has - 1, &has, sizeof has);
}

static inline char *field_text(const struct field *f, const void *object)
{
	char *s;
	assert(field_is_text(f));
	memcpy(&s, field_member_const(f, object), sizeof s);
	return s;
}

static inline void field_set_text(const struct field *f, void *object, char *s)
{
	assert(field_is_text(f));
	memcpy(field_member(f, object), &s, sizeof s);
}

static inline void *field_list(const struct field *f, const void *object, size_t *ret_n)
{
	void *list;
	assert(field_is_list(f) && f->count);
	memcpy(&list, field_member_const(f, object), sizeof list);
	memcpy(ret_n, (const char *)object + f->count - 1, sizeof *ret_n);
	return list;
}

static inline void field_set_list(const struct field *f, void *object, void *list, size_t n)
{
	assert(field_is_list(f) && f->count);
	memcpy(field_member(f, object), &list, sizeof list);
	memcpy((char *)object + f->count - 1, &n, sizeof n);
}

/* Zero-extended, or sign-extended to 64 bits. */
static inline uint64_t number_load(const void *at, uint32_t n_bytes, bool is_signed)
{
	uint8_t b1;
	uint16_t b2;
	uint32_t b4;
	uint64_t b8;
	switch (n_bytes) {
	case 1:
		memcpy(&b1, at, 1);
		return b1;
	case 2:
		memcpy(&b2, at, 2);
		return b2;
	case 4:
		memcpy(&b4, at, 4);
		return is_signed ? (uint64_t)(int64_t)(int32_t)b4 : b4;
	default:
		assert(n_bytes == 8);
		memcpy(&b8, at, 8);
		return b8;
	}
}

static inline void number_store(void *at, uint32_t n_bytes, uint64_t v)
{
	uint8_t b1 = (uint8_t)v;
	uint16_t b2 = (uint16_t)v;
	uint32_t b4 = (uint32_t)v;
	switch (n_bytes) {
	case 1:
		memcpy(at, &b1, 1);
		return;
	case 2:
		memcpy(at, &b2, 2);
		return;
	case 4:
		memcpy(at, &b4, 4);
		return;
	default:
		assert(n_bytes == 8);
		memcpy(at, &v, 8);
	}
}

static inline uint64_t field_number(const struct field *f, const void *object)
{
	return number_load(field_member_const(f, object), f->size, f->type == FIELD_I32);
}

static inline void field_set_number(const struct field *f, void *object, uint64_t v)
{
	number_store(field_member(f, object), f->size, v);
}

static inline bool field_is_signed(const struct field *f)
{
	return f->type == FIELD_I32 || f->is_signed;
}

/* Bounds of the number, or of each number of the list. For signed ones both are two's complement. */
static inline uint64_t field_max(const struct field *f)
{
	if (f->max)
		return f->max;
	if (field_is_signed(f))
		return INT32_MAX;
	return f->size >= 8 ? UINT64_MAX : (1ull << (8 * f->size)) - 1;
}

static inline uint64_t field_min(const struct field *f)
{
	if (f->min || !field_is_signed(f))
		return f->min;
	return (uint64_t)(int64_t)INT32_MIN;
}

static inline bool field_is_within(const struct field *f, uint64_t v)
{
	if (field_is_signed(f))
		return (int64_t)v >= (int64_t)field_min(f) && (int64_t)v <= (int64_t)field_max(f);
	return v >= field_min(f) && v <= field_max(f);
}

static inline size_t field_max_items(const struct field *f)
{
	return f->max_items ? f->max_items : FIELD_MAX_ITEMS;
}

/* Strings without a bound of their own. */
#define FIELD_MAX_TEXT (1u << 20)

static inline bool field_text_fits(const struct field *f, size_t n_bytes)
{
	return n_bytes >= f->min && n_bytes <= (f->max ? f->max : FIELD_MAX_TEXT);
}

static inline const struct enum_name *field_enum_name(const struct field *f, uint64_t value)
{
	for (const struct enum_name *n = f->names; n->json; n++)
		if (n->value == value)
			return n;
	return NULL;
}

/* The rows of a tuple or of a colon form: those that hold something, and are not left out. */
static inline const struct field *schema_next_value_row(const struct schema *s, uint32_t *at)
{
	while (*at < s->n_fields) {
		const struct field *f = &s->fields[(*at)++];
		if (f->type != FIELD_PAD && f->type != FIELD_IGNORED && !(f->flags & ROW_NO_OPTION))
			return f;
	}
	return NULL;
}

/* The row of an option key; NULL when there is none. Keys of ROW_FLAT objects are not looked through. */
static inline const struct field *schema_row_of_key(const struct schema *s, const char *key)
{
	for (uint32_t i = 0; i < s->n_fields; i++)
		if (strcmp(field_key(&s->fields[i]), key) == 0)
			return &s->fields[i];
	return NULL;
}

/* Sets the string to a copy of n_bytes of s (no NUL inside). */
int field_replace_text(const struct field *f, void *object, const char *s, size_t n_bytes);
/* Back to the default, freeing what was there. */
int field_reset(const struct field *f, void *object);
/* Room for n elements of a list row, all zero; never NULL on success, also for n = 0. */
int field_new_list(const struct field *f, size_t n, void **ret_list);

/* SPDX-License-Identifier: Apache-2.0 */
/* Objects with random contents, made from the rows; for unit tests. */
#pragma once
#include "schema/field.h"
#include "test.h"

struct dice {
	uint64_t state;
};

/* xorshift64*: the same run from the same seed. */
static inline uint64_t dice_roll(struct dice *d, uint64_t n)
{
	d->state ^= d->state >> 12;
	d->state ^= d->state << 25;
	d->state ^= d->state >> 27;
	uint64_t v = d->state * 0x2545f4914f6cdd1dull;
	return n ? v % n : v;
}

static inline char *dice_text(struct dice *d, const struct field *f)
{
	static const char *const pieces[] = { "a",  "/",  "Z",    " ",        "\"",
		                              "\\", "\n", "\x01", "\xc3\xa9", "\xf0\x9f\x98\x80",
		                              "=",  ",",  "[",    "@" };
	size_t n_pieces = (size_t)dice_roll(d, 12);
	struct text t = TEXT_INIT;
	char *s;
	for (size_t i = 0; i < n_pieces; i++) {
		const char *p = pieces[dice_roll(d, ARRAY_LEN(pieces))];
		if (!f->max || t.n_bytes + strlen(p) <= f->max)
			text_append(&t, p);
	}
	while (t.n_bytes < f->min)
		text_append_char(&t, 'm');
	EQ(text_take(&t, &s), 0);
	return s;
}

/* JSON's integers end at 2^63 - 1. */
static inline uint64_t dice_number(struct dice *d, const struct field *f)
{
	uint64_t low = field_min(f), high = field_max(f);
	if (f->flags & ROW_DESCRIPTORS)
		return UINT64_MAX;
	if (!field_is_signed(f) && high > INT64_MAX)
		high = INT64_MAX;
	switch (dice_roll(d, 4)) {
	case 0:
		return low;
	case 1:
		return high;
	default:
		return low + dice_roll(d, high - low + 1 ? high - low + 1 : 0);
	}
}

static inline void randomise(struct dice *d, const struct schema *s, void *object);

static inline void randomise_list(struct dice *d, const struct field *f, void *object)
{
	void *list;
	if (!(f->flags & ROW_REQUIRED_JSON) && dice_roll(d, 4) == 0)
		return;
	size_t n = (size_t)dice_roll(d, 5);
	EQ(field_new_list(f, n, &list), 0);
	for (size_t i = 0; i < n; i++) {
		char *element = (char *)list + i * f->size;
		if (f->type == FIELD_INTEGERS) {
			number_store(element, f->size, dice_number(d, f));
		} else if (f->type == FIELD_STRINGS) {
			char *text = dice_text(d, f);
			memcpy(element, &text, sizeof text);
		} else {
			EQ(schema_init(f->schema, element, NULL), 0);
			randomise(d, f->schema, element);
		}
	}
	EQ(field_reset(f, object), 0);
	field_set_list(f, object, list, n);
}

/* `object` is initialised; values that no JSON and no record can hold are not made. */
static inline void randomise(struct dice *d, const struct schema *s, void *object)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		uint8_t *member = field_member(f, object);
		if (!field_is_in_json(f))
			continue;
		if (f->has) {
			field_set_has(f, object, dice_roll(d, 2));
			if (!field_has(f, object))
				continue;
		}
		if (f->type == FIELD_OBJECT) {
			randomise(d, f->schema, member);
		} else if (field_is_list(f)) {
			randomise_list(d, f, object);
		} else if (field_is_text(f)) {
			if ((f->flags & ROW_REQUIRED_JSON) || f->def_string || dice_roll(d, 3)) {
				free(field_text(f, object));
				field_set_text(f, object, dice_text(d, f));
			}
		} else if (f->type == FIELD_BOOL) {
			field_set_number(f, object, dice_roll(d, 2));
		} else if (f->type == FIELD_ENUM) {
			uint64_t n_names = 0;
			while (f->names[n_names].json)
				n_names++;
			field_set_number(f, object, f->names[dice_roll(d, n_names)].value);
		} else if (field_is_number(f)) {
			field_set_number(f, object, dice_number(d, f));
		} else {
			for (uint32_t k = 0; k < f->size; k++)
				member[k] = (uint8_t)dice_roll(d, 256);
		}
	}
}

/* Guard 2: whether rows write every byte of the struct. schema_done() leaves 0 in each byte that a row names. */
static inline void check_every_byte(const struct schema *s)
{
	uint8_t *bytes = malloc(s->size);
	static const uint8_t fillings[] = { 0x00, 0xff, 0xa5 };
	OK(bytes);
	for (size_t k = 0; k < ARRAY_LEN(fillings); k++) {
		memset(bytes, fillings[k], s->size);
		EQ(schema_init(s, bytes, NULL), 0);
		schema_done(s, bytes);
		for (uint32_t i = 0; i < s->size; i++)
			if (bytes[i])
				test_fail(__FILE__, __LINE__, "%s: byte %u of %u belongs to no row", s->name, i,
				          s->size);
	}
	free(bytes);
}

/* Guard 3: an object with random contents through JSON, through a record, and copied, is the same object. */
static inline void check_round_trips(const struct schema *s, unsigned n_rounds)
{
	struct err e = { 0 };
	struct dice d = { .state = 0x9e3779b97f4a7c15ull ^ s->size };
	uint8_t *a = malloc(s->size), *b = malloc(s->size);
	OK(a && b);
	for (unsigned i = 0; i < n_rounds; i++) {
		struct text json = TEXT_INIT, again = TEXT_INIT, record = TEXT_INIT;
		memset(a, 0xff, s->size);
		memset(b, 0xff, s->size);
		EQ(schema_init(s, a, &e), 0);
		randomise(&d, s, a);
		OK(schema_equal(s, a, a));

		EQ(schema_write_json(s, a, SCHEMA_WITH_SECRETS, &json, &e), 0);
		if (schema_parse_json(s, text_get(&json), json.n_bytes, 0, b, &e) < 0)
			test_fail(__FILE__, __LINE__, "%s: %s in %s", s->name, e.text, text_get(&json));
		if (!schema_equal(s, a, b))
			test_fail(__FILE__, __LINE__, "%s: not the same after JSON: %s", s->name, text_get(&json));
		EQ(schema_write_json(s, b, SCHEMA_WITH_SECRETS, &again, &e), 0);
		STR_EQ(text_get(&again), text_get(&json));
		schema_done(s, b);

		EQ(schema_write_record(s, a, &record, &e), 0);
		if (schema_read_record(s, text_get(&record), record.n_bytes, b, &e) < 0)
			test_fail(__FILE__, __LINE__, "%s: %s", s->name, e.text);
		OK(schema_equal(s, a, b));
		schema_done(s, b);

		EQ(schema_copy(s, b, a, &e), 0);
		OK(schema_equal(s, a, b));
		schema_done(s, a);
		schema_done(s, a); /* twice is fine */
		schema_done(s, b);
		text_done(&json);
		text_done(&again);
		text_done(&record);
	}
	free(a);
	free(b);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* An option string into an object: defaults first, then the string's keys in the order of the rows.
 *
 * The order of checks is part of the interface, since the first failure is what a user sees: does the string match up
 * (option_string_parse()), are all keys known, and then each row's conversion in row order. Texts are put together
 * here, prefix included, because a few stand without it (ROW_PLAIN_TEXT). */
#include "schema/field.h"

#include "base/cleanup.h"
#include "schema/option_string.h"
#include "schema/words.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#define KEY_BYTES 64

struct parse {
	const struct schema *schema;
	struct option_string words;
	uint64_t mode; /* of the last ROW_MODE row */
	struct err *e;
};

static int add_prefix(const struct parse *p, int rc)
{
	if (p->schema->option)
		err_prefix(p->e, "Error parsing --%s: ", p->schema->option);
	return rc;
}

/* The key of a row behind the prefix that the enclosing ROW_FLAT rows give it. */
static void make_key(char ret_key[KEY_BYTES], const char *prefix, const char *key)
{
	size_t n_prefix = strlen(prefix), n = strlen(key);
	assert(n_prefix + n < KEY_BYTES);
	memcpy(ret_key, prefix, n_prefix);
	memcpy(ret_key + n_prefix, key, n + 1);
}

static enum option_key kind_in_field(const struct field *f, const char *prefix, const char *key);

static enum option_key kind_in_rows(const struct schema *s, const char *prefix, const char *key)
{
	enum option_key kind = OPTION_KEY_UNKNOWN;
	for (uint32_t i = 0; i < s->n_fields && kind == OPTION_KEY_UNKNOWN; i++)
		if (field_is_in_option(&s->fields[i]))
			kind = kind_in_field(&s->fields[i], prefix, key);
	return kind;
}

static enum option_key kind_in_field(const struct field *f, const char *prefix, const char *key)
{
	char own[KEY_BYTES];
	make_key(own, prefix, field_key(f));
	if (f->flags & ROW_FLAT)
		return kind_in_rows(f->schema, own, key);
	if (!(f->flags & ROW_MODE))
		return strcmp(own, key) == 0 ? OPTION_KEY_VALUED : OPTION_KEY_UNKNOWN;
	for (const struct enum_name *n = f->names; n->json; n++)
		if (n->word && strcmp(n->word, key) == 0)
			return n->takes_value ? OPTION_KEY_VALUED : OPTION_KEY_WORD;
	return OPTION_KEY_UNKNOWN;
}

static enum option_key kind_of_key(const void *context, const char *key)
{
	return kind_in_rows(context, "", key);
}

/* Conversions. 0, -EINVAL (the word is not such a value) or -ENOMEM; what the member owned before is freed. */

static int convert(const struct field *f, const char *word, void *object);

/* A word that stands for a number. */
static bool is_name_of_number(const struct field *f, const char *word, uint64_t *ret_v)
{
	for (const struct enum_name *n = f->names; n && n->json; n++)
		if (strcmp(n->word, word) == 0) {
			*ret_v = n->value;
			return true;
		}
	return false;
}

static int convert_number(const struct field *f, const char *word, void *object)
{
	uint64_t v = 0;
	int32_t v32 = 0;
	bool is_good = is_name_of_number(f, word, &v);
	if (is_good)
		; /* and known */
	else if (f->type == FIELD_I32) {
		is_good = word_to_i32(word, &v32);
		v = (uint64_t)(int64_t)v32;
	} else if (f->flags & ROW_HEX) {
		is_good = word_to_hex(word, &v);
	} else {
		is_good = f->type == FIELD_SIZE ? word_to_size(word, &v) : word_to_number(word, &v);
	}
	if (!is_good || !field_is_within(f, v))
		return -EINVAL;
	field_set_number(f, object, v);
	return 0;
}

static int convert_enum(const struct field *f, const char *word, void *object)
{
	for (const struct enum_name *n = f->names; n->json; n++)
		if (n->word && strcasecmp(n->word, word) == 0) {
			field_set_number(f, object, n->value);
			return 0;
		}
	return -EINVAL;
}

/* The word without any number of brackets at both ends; the caller frees. */
static char *without_brackets(const char *word)
{
	size_t n;
	while (*word == '[' || *word == ']')
		word++;
	n = strlen(word);
	while (n && (word[n - 1] == '[' || word[n - 1] == ']'))
		n--;
	return strndup(word, n);
}

/* Cuts the next piece off *rest at separator; NULL when there is none left. */
static char *next_piece(char **rest, char separator)
{
	char *piece = *rest;
	if (!piece)
		return NULL;
	char *end = strchr(piece, separator);
	if (end)
		*end = '\0';
	*rest = end ? end + 1 : NULL;
	return piece;
}

static size_t count_char(const char *s, char c)
{
	size_t n = 0;
	for (; *s; s++)
		n += *s == c;
	return n;
}

/* "a" or "a-b" with a < b. */
static bool parse_range(const struct field *f, char *item, uint64_t *ret_first, uint64_t *ret_last)
{
	char *rest = item;
	const char *first = next_piece(&rest, '-');
	if (!word_to_number(first, ret_first))
		return false;
	*ret_last = *ret_first;
	if (rest && (!word_to_number(rest, ret_last) || *ret_first >= *ret_last))
		return false;
	/* Option strings cannot spell negative items, and the widest signed element has 32 bits. */
	return (!field_is_signed(f) || *ret_last <= INT32_MAX) && field_is_within(f, *ret_first) &&
	       field_is_within(f, *ret_last);
}

static int convert_integers(const struct field *f, const char *word, void *object)
{
	free_scoped char *items = without_brackets(word);
	free_scoped void *list = NULL;
	if (!items)
		return -ENOMEM;

	size_t n = 0, capacity = 0;
	char *rest = items;
	for (char *item = next_piece(&rest, ','); item; item = next_piece(&rest, ',')) {
		uint64_t first, last;
		if (!parse_range(f, item, &first, &last) || last - first >= field_max_items(f) - n)
			return -EINVAL;
		size_t n_after = n + (size_t)(last - first) + 1;
		if (n_after > capacity) {
			capacity = n_after * 2;
			void *grown = reallocarray(list, capacity, f->size);
			if (!grown)
				return -ENOMEM;
			list = grown;
		}
		for (; n < n_after; n++, first++)
			number_store((char *)list + n * f->size, f->size, first);
	}
	assert(n > 0); /* an empty item is not a number */
	if (field_reset(f, object) < 0)
		return -ENOMEM;
	field_set_list(f, object, ptr_take(list), n);
	return 0;
}

static int convert_strings(const struct field *f, const char *word, void *object)
{
	free_scoped char *items = without_brackets(word);
	if (!items)
		return -ENOMEM;
	size_t n = count_char(items, ',') + 1;
	void *list;
	if (n > field_max_items(f))
		return -EINVAL;
	if (field_reset(f, object) < 0 || field_new_list(f, n, &list) < 0)
		return -ENOMEM;

	field_set_list(f, object, list, n);
	char *rest = items;
	for (size_t i = 0; i < n; i++) {
		char *copy = strdup(next_piece(&rest, ','));
		if (!copy) {
			(void)field_reset(f, object);
			return -ENOMEM;
		}
		((char **)list)[i] = copy;
	}
	return 0;
}

/* "x@y" into the two rows of the element. */
static int convert_tuple(const struct schema *s, char *tuple, void *element)
{
	uint32_t at = 0;
	const struct field *first = schema_next_value_row(s, &at), *second = schema_next_value_row(s, &at);
	assert(first && second && !schema_next_value_row(s, &at));

	if (count_char(tuple, '@') != 1)
		return -EINVAL;
	char *rest = tuple;
	const char *left = next_piece(&rest, '@');
	int rc = convert(first, left, element);
	return rc < 0 ? rc : convert(second, rest, element);
}

/* Cuts the next piece off at a comma outside brackets; false through *ret_matches when brackets do not match up. */
static char *next_tuple(char **rest, bool *ret_matches)
{
	char *piece = *rest, *c;
	size_t depth = 0;
	*ret_matches = true;
	if (!piece)
		return NULL;
	for (c = piece; *c && (*c != ',' || depth); c++) {
		if (*c == ']' && depth == 0) {
			*ret_matches = false;
			return NULL;
		}
		depth += *c == '[';
		depth -= *c == ']';
	}
	*ret_matches = depth == 0;
	*rest = *c ? c + 1 : NULL;
	*c = '\0';
	return piece;
}

static int convert_tuples(const struct field *f, const char *word, void *object)
{
	size_t n_bytes = strlen(word);
	if (n_bytes < 2 || word[0] != '[' || word[n_bytes - 1] != ']')
		return -EINVAL;
	free_scoped char *body = strndup(word + 1, n_bytes - 2);
	if (!body || field_reset(f, object) < 0)
		return -ENOMEM;

	bool matches;
	char *rest = body;
	void *items = NULL;
	size_t n = 0;
	int rc = 0;
	for (char *tuple = next_tuple(&rest, &matches); tuple; tuple = next_tuple(&rest, &matches)) {
		void *element = NULL;
		bool fits = matches && n < field_max_items(f);
		rc = fits ? schema_append(f->schema, &items, &n, &element, NULL) : -EINVAL;
		if (rc == 0)
			rc = convert_tuple(f->schema, tuple, element);
		field_set_list(f, object, items, n);
		if (rc < 0)
			break;
	}
	if (rc == 0 && !matches)
		rc = -EINVAL;
	if (rc < 0)
		(void)field_reset(f, object);
	return rc;
}

static int convert_colons(const struct field *f, const char *word, void *object)
{
	free_scoped char *copy = strdup(word);
	if (!copy)
		return -ENOMEM;
	char *rest = copy;
	uint32_t at = 0;
	for (const struct field *part = schema_next_value_row(f->schema, &at); part;
	     part = schema_next_value_row(f->schema, &at)) {
		const char *value = next_piece(&rest, ':');
		int rc = value ? convert(part, value, field_member(f, object)) : -EINVAL;
		if (rc < 0)
			return rc;
	}
	return rest ? -EINVAL : 0;
}

static int convert_text(const struct field *f, const char *word, void *object)
{
	size_t n = strlen(word);
	return field_text_fits(f, n) ? field_replace_text(f, object, word, n) : -EINVAL;
}

static int convert(const struct field *f, const char *word, void *object)
{
	void *member = field_member(f, object);
	bool on;
	switch (f->type) {
	case FIELD_BOOL:
		if (!word_to_bool(word, &on))
			return -EINVAL;
		field_set_number(f, object, on);
		return 0;
	case FIELD_U8:
	case FIELD_U16:
	case FIELD_U32:
	case FIELD_U64:
	case FIELD_SIZE:
	case FIELD_I32:
		return convert_number(f, word, object);
	case FIELD_ENUM:
		return convert_enum(f, word, object);
	case FIELD_STRING:
	case FIELD_PATH:
		return convert_text(f, word, object);
	case FIELD_MAC:
		return word_to_mac(word, member) ? 0 : -EINVAL;
	case FIELD_IPV4:
		return word_to_ipv4(word, member) ? 0 : -EINVAL;
	case FIELD_INTEGERS:
		return convert_integers(f, word, object);
	case FIELD_STRINGS:
		return convert_strings(f, word, object);
	case FIELD_OBJECT:
		assert(f->flags & ROW_COLONS);
		return convert_colons(f, word, object);
	case FIELD_LIST:
		assert(f->flags & ROW_TUPLES);
		return convert_tuples(f, word, object);
	case FIELD_IGNORED:
		return 0;
	case FIELD_BLOB:
	case FIELD_PAD:
		break;
	}
	assert(field_is_in_option(f));
	return -EINVAL;
}

/* Rows. */

static int read_mode(struct parse *p, const struct field *f, void *object)
{
	for (const struct enum_name *n = f->names; n->json; n++)
		if (n->word && option_string_mentions(&p->words, n->word)) {
			p->mode = n->value;
			field_set_number(f, object, n->value);
			return 0;
		}
	return add_prefix(p, err_set(p->e, EINVAL, "%s", f->missing));
}

static int read_name_set(struct parse *p, const struct field *f, const char *word, void *object)
{
	free_scoped char *names = without_brackets(word);
	if (!names)
		return add_prefix(p, err_set(p->e, ENOMEM, "out of memory"));
	char *rest = names;
	for (const char *name = next_piece(&rest, ','); name; name = next_piece(&rest, ',')) {
		const struct field *flag = NULL;
		for (uint32_t i = 0; i < f->schema->n_fields && !flag; i++) {
			const struct field *known = &f->schema->fields[i];
			if (field_is_in_json(known) && strcmp(field_json(known), name) == 0)
				flag = known;
		}
		if (!flag) {
			int rc = err_set(p->e, EINVAL, "%s%s", f->missing, name);
			return f->flags & ROW_PLAIN_TEXT ? rc : add_prefix(p, rc);
		}
		field_set_number(flag, field_member(f, object), true);
	}
	return 0;
}

/* The key was not given, or is empty. */
static int read_absent(struct parse *p, const struct schema *s, const struct field *f, const char *key, void *object)
{
	if (f->def_key) {
		const struct field *other = schema_row_of_key(s, f->def_key);
		assert(other && field_is_number(other) && other < f);
		field_set_number(f, object, field_number(other, object));
	}
	if (!(f->flags & (ROW_REQUIRED_OPTION | ROW_IN_MODE)) ||
	    (f->instead && option_string_value(&p->words, f->instead)))
		return 0;
	int rc = f->missing ? err_set(p->e, EINVAL, "%s", f->missing) : err_set(p->e, EINVAL, "%s missing", key);
	return f->flags & ROW_PLAIN_TEXT ? rc : add_prefix(p, rc);
}

static int read_valued(struct parse *p, const struct field *f, const char *key, const char *word, void *object)
{
	int rc;
	if (f->flags & ROW_NAME_SET)
		return read_name_set(p, f, word, object);
	rc = convert(f, word, object);
	if (rc == -ENOMEM)
		return add_prefix(p, err_set(p->e, ENOMEM, "out of memory"));
	if (rc < 0 && field_is_text(f) && f->too_long)
		return add_prefix(p, err_set(p->e, EINVAL, "%s", f->too_long));
	if (rc < 0 && f->refusal) {
		rc = err_set(p->e, EINVAL, "%s%s", f->refusal, word);
		return f->flags & ROW_PLAIN_TEXT ? rc : add_prefix(p, rc);
	}
	if (rc < 0)
		return add_prefix(p, err_set(p->e, EINVAL, "unable to convert %s for %s", word, key));
	field_set_has(f, object, true);
	return 0;
}

static int read_rows(struct parse *p, const struct schema *s, const char *prefix, void *object, bool *is_given);

static int read_flat(struct parse *p, const struct field *f, const char *key, void *object, bool *is_given)
{
	bool is_inner_given = false;
	int rc = read_rows(p, f->schema, key, field_member(f, object), &is_inner_given);
	if (rc < 0)
		return rc;
	bool is_present = f->is_present ? f->is_present(field_member_const(f, object)) : is_inner_given;
	if (f->has && !is_present && field_reset(f, object) < 0)
		return add_prefix(p, err_set(p->e, ENOMEM, "out of memory"));
	field_set_has(f, object, is_present);
	*is_given |= is_inner_given;
	return 0;
}

static int read_rows(struct parse *p, const struct schema *s, const char *prefix, void *object, bool *is_given)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		char key[KEY_BYTES];
		int rc;
		if (!field_is_in_option(f) || ((f->flags & ROW_IN_MODE) && p->mode != f->mode))
			continue;
		make_key(key, prefix, field_key(f));
		if (f->flags & ROW_FLAT) {
			rc = read_flat(p, f, key, object, is_given);
		} else if (f->flags & ROW_MODE) {
			rc = read_mode(p, f, object);
		} else {
			const char *word = option_string_value(&p->words, key);
			*is_given |= word != NULL;
			rc = word ? read_valued(p, f, key, word, object) : read_absent(p, s, f, key, object);
		}
		if (rc < 0)
			return rc;
	}
	return 0;
}

int schema_parse_option(const struct schema *s, const char *text, void *object, struct err *e)
{
	struct parse p = { .schema = s, .e = e };
	bool is_given = false;
	int rc = schema_init(s, object, e);
	if (rc < 0)
		return rc;

	rc = option_string_parse(text, &p.words, e);
	if (rc == 0)
		rc = option_string_check(&p.words, kind_of_key, s, e);
	if (rc < 0)
		(void)add_prefix(&p, rc);
	else
		rc = read_rows(&p, s, "", object, &is_given);

	option_string_done(&p.words);
	if (rc < 0) {
		err_flatten(e);
		schema_done(s, object);
	}
	return rc;
}

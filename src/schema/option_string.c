/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar, in one pass over the characters:
 *
 *   '"' toggles "inside quotes" and is dropped, wherever it stands; there is no escape.
 *   '[' and ']' count a depth, also inside quotes, and are kept; it must not go below 0, and must end at 0.
 *   ',' ends a piece, except inside quotes or brackets.
 *
 * Each piece is then split at its first '='. The key is taken as it is, spaces included; the value is trimmed. A string
 * of nothing but spaces has no piece; otherwise an empty piece is a key with an empty name, which nobody knows.
 *
 * The pieces are written behind each other into one buffer as long as the text: what is dropped and what is replaced by
 * a terminator never makes it longer. */
#include "schema/option_string.h"

#include "base/cleanup.h"
#include "base/err.h"
#include "schema/words.h"

#include <assert.h>
#include <string.h>

/* Terminates s behind its last character that is not a space, and steps over the spaces in front. */
static char *trim(char *s)
{
	size_t n = strlen(s);
	while (n && word_is_space(s[n - 1]))
		n--;
	s[n] = '\0';
	while (word_is_space(*s))
		s++;
	return s;
}

/* Copies text to out with quotes dropped and separators turned into terminators. 0 pieces: does not match up. */
static size_t split_pieces(const char *text, size_t n_bytes, char *out)
{
	size_t n_pieces = 1, depth = 0;
	bool is_quoted = false;
	for (size_t i = 0; i < n_bytes; i++) {
		char c = text[i];
		if (c == '"') {
			is_quoted = !is_quoted;
			continue;
		}
		if (c == ']' && depth == 0)
			return 0;
		depth += c == '[';
		depth -= c == ']';
		if (c == ',' && depth == 0 && !is_quoted) {
			n_pieces++;
			c = '\0';
		}
		*out++ = c;
	}
	*out = '\0';
	return depth || is_quoted ? 0 : n_pieces;
}

int option_string_parse(const char *text, struct option_string *ret_o, struct err *e)
{
	*ret_o = (struct option_string){ 0 };
	const char *start = text;
	size_t n_bytes = strnlen(text, OPTION_STRING_MAX_BYTES);
	if (text[n_bytes])
		return err_set(e, E2BIG, "longer than %u bytes", OPTION_STRING_MAX_BYTES);
	while (word_is_space(*start))
		start++;
	n_bytes -= (size_t)(start - text);
	while (n_bytes && word_is_space(start[n_bytes - 1]))
		n_bytes--;
	if (!n_bytes)
		return 0;

	free_scoped char *bytes = malloc(n_bytes + 1);
	if (!bytes)
		return err_set(e, ENOMEM, "out of memory");
	size_t n_pieces = split_pieces(start, n_bytes, bytes);
	if (!n_pieces)
		return err_set(e, EINVAL, "invalid syntax:%s", text);
	struct option_pair *pairs = calloc(n_pieces, sizeof *pairs);
	if (!pairs)
		return err_set(e, ENOMEM, "out of memory");

	char *piece = bytes;
	for (size_t i = 0; i < n_pieces; i++) {
		char *next = piece + strlen(piece) + 1;
		char *equals = strchr(piece, '=');
		assert(next <= bytes + n_bytes + 1);
		if (equals)
			*equals = '\0';
		pairs[i] = (struct option_pair){ .key = piece, .value = equals ? trim(equals + 1) : NULL };
		piece = next;
	}
	*ret_o = (struct option_string){ .bytes = ptr_take(bytes), .pairs = pairs, .n_pairs = n_pieces };
	return 0;
}

void option_string_done(struct option_string *o)
{
	free(o->bytes);
	free(o->pairs);
	*o = (struct option_string){ 0 };
}

static const struct option_pair *last_with_key(const struct option_string *o, const char *key)
{
	for (size_t i = o->n_pairs; i > 0; i--)
		if (strcmp(o->pairs[i - 1].key, key) == 0)
			return &o->pairs[i - 1];
	return NULL;
}

bool option_string_mentions(const struct option_string *o, const char *key)
{
	return last_with_key(o, key) != NULL;
}

const char *option_string_value(const struct option_string *o, const char *key)
{
	const struct option_pair *p = last_with_key(o, key);
	return p && p->value && *p->value ? p->value : NULL;
}

int option_string_check(const struct option_string *o, enum option_key (*kind_of)(const void *context, const char *key),
                        const void *context, struct err *e)
{
	for (size_t i = 0; i < o->n_pairs; i++) {
		const struct option_pair *p = &o->pairs[i];
		switch (kind_of(context, p->key)) {
		case OPTION_KEY_UNKNOWN:
			return err_set(e, EINVAL, "unknown option: %s", p->key);
		case OPTION_KEY_VALUED:
			if (!p->value)
				return err_set(e, EINVAL, "invalid syntax:%s", p->key);
			break;
		case OPTION_KEY_WORD:
			break;
		}
	}
	return 0;
}

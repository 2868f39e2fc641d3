/* SPDX-License-Identifier: Apache-2.0 */
#include "base/text.h"

#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for n_more bytes and a terminator. */
static bool reserve(struct text *t, size_t n_more)
{
	size_t need;
	if (t->is_out_of_memory)
		return false;
	if (!checked_add(t->n_bytes, n_more, &need) || !checked_add(need, (size_t)1, &need)) {
		t->is_out_of_memory = true;
		return false;
	}
	if (need <= t->n_capacity)
		return true;

	size_t capacity = t->n_capacity ? t->n_capacity : 64;
	while (capacity < need) {
		if (!checked_mul(capacity, (size_t)2, &capacity)) {
			capacity = need;
			break;
		}
	}
	char *bytes = realloc(t->bytes, capacity);
	if (!bytes) {
		t->is_out_of_memory = true;
		return false;
	}
	t->bytes = bytes;
	t->n_capacity = capacity;
	return true;
}

void text_append_n(struct text *t, const char *s, size_t n_bytes)
{
	if (!reserve(t, n_bytes))
		return;
	if (n_bytes)
		memcpy(t->bytes + t->n_bytes, s, n_bytes);
	t->n_bytes += n_bytes;
	t->bytes[t->n_bytes] = '\0';
}

void text_append(struct text *t, const char *s)
{
	text_append_n(t, s, strlen(s));
}

void text_append_char(struct text *t, char c)
{
	text_append_n(t, &c, 1);
}

void text_appendf(struct text *t, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	va_list again;
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n >= 0 && reserve(t, (size_t)n)) {
		(void)vsnprintf(t->bytes + t->n_bytes, (size_t)n + 1, fmt, again);
		t->n_bytes += (size_t)n;
	}
	va_end(again);
}

const char *text_get(const struct text *t)
{
	return t->bytes ? t->bytes : "";
}

int text_take(struct text *t, char **ret_s)
{
	if (!t->is_out_of_memory && !t->bytes)
		(void)reserve(t, 0);
	if (t->is_out_of_memory) {
		text_done(t);
		return -ENOMEM;
	}
	t->bytes[t->n_bytes] = '\0';
	*ret_s = t->bytes;
	*t = TEXT_INIT;
	return 0;
}

void text_done(struct text *t)
{
	free(t->bytes);
	*t = TEXT_INIT;
}

#define ESCAPED_BYTES 8

/* A byte as it stands in a JSON string. */
static size_t escape_byte(char c, char ret[ESCAPED_BYTES])
{
	int n;
	if (c == '"' || c == '\\')
		n = snprintf(ret, ESCAPED_BYTES, "\\%c", c);
	else if ((unsigned char)c < 0x20)
		n = snprintf(ret, ESCAPED_BYTES, "\\u%04x", (unsigned)c);
	else
		n = snprintf(ret, ESCAPED_BYTES, "%c", c);
	return (size_t)n;
}

void text_append_json_string(struct text *t, const char *s)
{
	char escaped[ESCAPED_BYTES];
	text_append_char(t, '"');
	for (; *s; s++)
		text_append_n(t, escaped, escape_byte(*s, escaped));
	text_append_char(t, '"');
}

void json_escape(const char *s, bool is_utf8, char *ret, size_t n_max)
{
	size_t n = 0;
	assert(n_max > 0);
	for (; *s; s++) {
		char escaped[ESCAPED_BYTES];
		size_t n_escaped = escape_byte(!is_utf8 && (*s & 0x80) ? '?' : *s, escaped);
		if (n_escaped >= n_max - n)
			break;
		memcpy(ret + n, escaped, n_escaped);
		n += n_escaped;
	}
	/* What is left begins inside a character: its beginning goes, too. */
	if (is_utf8 && (*s & 0xc0) == 0x80) {
		while (n && (ret[n - 1] & 0xc0) == 0x80)
			n--;
		n -= n > 0;
	}
	ret[n] = '\0';
}

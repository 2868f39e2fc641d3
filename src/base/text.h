/* SPDX-License-Identifier: Apache-2.0 */
/* text.h - a string that grows: help texts, JSON, command lines.
 *
 * Running out of memory is remembered and reported once, by text_take(); appending after that does nothing. */
#pragma once
#include "base/forward.h"
#include <stdarg.h>

struct text {
	char *bytes; /* terminated when not NULL */
	size_t n_bytes;
	size_t n_capacity;
	bool is_out_of_memory;
};

#define TEXT_INIT ((struct text){ 0 })

void text_append(struct text *t, const char *s);
void text_append_n(struct text *t, const char *s, size_t n_bytes);
void text_appendf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_append_char(struct text *t, char c);
void text_append_json_string(struct text *t, const char *s); /* with its quotes; s is UTF-8 */
/* The inside of a JSON string, as much as fits, without allocating; never half a character. Where the text is no UTF-8,
 * what is not ASCII becomes question marks. */
void json_escape(const char *s, bool is_utf8, char *ret, size_t n_max);
const char *text_get(const struct text *t); /* never NULL */
int text_take(struct text *t, char **ret_s); /* the caller frees; -ENOMEM when an append failed */
void text_done(struct text *t);

#define text_scoped __attribute__((__cleanup__(text_done))) struct text

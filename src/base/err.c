/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include "base/checked.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define WHOLE_BYTES 6144u  /* a path of PATH_MAX, and words around it */
#define REASON_BYTES 128u  /* of strerror() */
#define LINE_MIN_BYTES 32u /* is left of a line that is cut */

static const char *longest_line(const char *s, size_t *ret_n)
{
	const char *longest = s;
	*ret_n = 0;
	for (const char *at = s; *at;) {
		size_t n = strcspn(at, "\n");
		if (n > *ret_n) {
			longest = at;
			*ret_n = n;
		}
		at += n + (at[n] == '\n');
	}
	return longest;
}

static bool is_inside_character(char c)
{
	return ((unsigned char)c & 0xc0) == 0x80;
}

/* Leaves the middle of the longest line out, and of the next one, until the text has n_max bytes. */
static void shorten(char *s, size_t n_max)
{
	static const char dots[] = "...";
	const size_t n_dots = sizeof dots - 1;
	for (size_t n = strlen(s); n > n_max; n = strlen(s)) {
		size_t n_line;
		char *line = s + (longest_line(s, &n_line) - s);
		if (n_line <= LINE_MIN_BYTES + n_dots) {
			s[n_max] = '\0'; /* it has very many lines */
			return;
		}
		size_t n_cut = (size_t)min_u64(n - n_max + n_dots, n_line - LINE_MIN_BYTES);
		char *from = line + (n_line - n_cut) / 2, *to = from + n_cut;
		for (int i = 0; i < 3 && is_inside_character(*from); i++)
			from--;
		for (int i = 0; i < 3 && is_inside_character(*to); i++)
			to++;
		memcpy(from, dots, n_dots);
		memmove(from + n_dots, to, strlen(to) + 1);
	}
}

static void set_whole(struct err *e, char *whole)
{
	shorten(whole, sizeof e->text - 1);
	memcpy(e->text, whole, strlen(whole) + 1);
}

void err_set_(struct err *e, int code, const char *fmt, ...)
{
	char whole[WHOLE_BYTES];
	if (!e)
		return;
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(whole, sizeof whole, fmt, ap);
	va_end(ap);
	e->code = code;
	set_whole(e, whole);
}

void err_set_errno_(struct err *e, int code, const char *fmt, ...)
{
	char whole[WHOLE_BYTES], reason[REASON_BYTES];
	if (!e)
		return;
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(whole, sizeof whole - REASON_BYTES, fmt, ap);
	va_end(ap);
	size_t n = strlen(whole);
	/* The GNU strerror_r returns the text, which need not be in the buffer. */
	(void)snprintf(whole + n, sizeof whole - n, ": %s", strerror_r(code, reason, sizeof reason));
	e->code = code;
	set_whole(e, whole);
}

void err_flatten(struct err *e)
{
	for (char *c = e ? e->text : NULL; c && *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
}

void err_prefix(struct err *e, const char *fmt, ...)
{
	if (!e)
		return;
	char whole[WHOLE_BYTES];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(whole, sizeof whole - sizeof e->text, fmt, ap);
	va_end(ap);
	size_t n = strlen(whole);
	(void)snprintf(whole + n, sizeof whole - n, "%s", e->text);
	set_whole(e, whole);
}

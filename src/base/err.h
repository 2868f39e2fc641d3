/* SPDX-License-Identifier: Apache-2.0 */
/* err.h - what went wrong, in words a user can act on.
 *
 * A function returns 0 or a positive value, or a negative errno. One that a user can see fail also takes
 * `struct err *e`, last; it may be NULL. The text lives in the caller: no allocation, so it works when memory is out. Of one
 * that is too long the middle of the longest line is left out ("..."): that is a name, and the reason stands at the end. */
#pragma once
#include "base/forward.h"

struct err {
	int code;       /* a positive errno, 0 when nothing was set */
	char text[508]; /* what was being done, to what, and why not; always terminated */
};

/* Fills e (when it is not NULL) and is -code, visibly so for the compiler's flow analysis. */
#define err_set(e, code, ...) (err_set_(e, code, __VA_ARGS__), -(code))

/* As err_set, and appends ": <strerror(code)>". */
#define err_set_errno(e, code, ...)                   \
	__extension__({                               \
		int code_ = (code); /* often errno */ \
		err_set_errno_(e, code_, __VA_ARGS__); \
		-code_;                               \
	})

/* Puts "prefix" in front of the text that e already holds; the code stays. */
void err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What e says is one cause: control characters, which only a name in it can have brought, become question marks. A line
 * break separates causes, where there are several. */
void err_flatten(struct err *e);

void err_set_(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void err_set_errno_(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 3, 0))) static void set_text(struct err *e, int code, const char *fmt, va_list ap)
{
	e->code = code;
	(void)vsnprintf(e->text, sizeof e->text, fmt, ap);
}

void err_set_(struct err *e, int code, const char *fmt, ...)
{
	if (!e)
		return;
	va_list ap;
	va_start(ap, fmt);
	set_text(e, code, fmt, ap);
	va_end(ap);
}

void err_set_errno_(struct err *e, int code, const char *fmt, ...)
{
	if (!e)
		return;
	va_list ap;
	va_start(ap, fmt);
	set_text(e, code, fmt, ap);
	va_end(ap);

	char buffer[128], reason[128];
	/* The GNU strerror_r returns the text, which need not be in the buffer. */
	int n_reason = snprintf(reason, sizeof reason, ": %s", strerror_r(code, buffer, sizeof buffer));
	size_t n = strlen(e->text), n_max = sizeof e->text - 1 - (size_t)n_reason;
	if (n > n_max) {
		n = n_max;
		memcpy(e->text + n - 3, "...", 3);
	}
	(void)snprintf(e->text + n, sizeof e->text - n, "%s", reason);
}

void err_prefix(struct err *e, const char *fmt, ...)
{
	if (!e)
		return;
	char old[sizeof e->text];
	memcpy(old, e->text, sizeof old);

	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(e->text, sizeof e->text, fmt, ap);
	va_end(ap);

	size_t n = strlen(e->text);
	(void)snprintf(e->text + n, sizeof e->text - n, "%s", old);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>

void log_write(const struct log *l, enum log_level level, const char *file, int line, const char *fmt, ...)
{
	if (!l->sink || level > l->sink->max_level)
		return;

	char text[LOG_TEXT_BYTES];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);

	struct log_record r = {
		.level = level,
		.object = l->object ? l->object : "varan",
		.file = file,
		.line = line,
		.text = text,
	};
	l->sink->write(l->sink->context, &r);
}

bool log_limit_pass(const struct log *l, struct log_limit *limit)
{
	uint64_t now = clock_now_ns();
	uint64_t start = atomic_load_explicit(&limit->period_start_ns, memory_order_relaxed);

	/* start may be later than our now: another thread has just opened the period. */
	if (start == 0 || (now > start && now - start >= LOG_LIMIT_PERIOD_NS)) {
		/* One thread wins the exchange and opens the new period; the others count in it. */
		if (atomic_compare_exchange_strong(&limit->period_start_ns, &start, now)) {
			uint32_t n = atomic_exchange(&limit->n_in_period, 0);
			if (n > LOG_LIMIT_BURST)
				log_write(l, LOG_WARN, __FILE__, __LINE__, "guest: %u more messages of this kind were dropped",
				          n - LOG_LIMIT_BURST);
		}
	}
	return atomic_fetch_add(&limit->n_in_period, 1) < LOG_LIMIT_BURST;
}

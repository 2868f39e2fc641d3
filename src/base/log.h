/* SPDX-License-Identifier: Apache-2.0 */
/* log.h - what no caller can be told: events, and what a guest does wrong.
 *
 * A sink belongs to the VM's handle and may be called from any thread; a `struct log` is a sink plus the name of the
 * object that speaks ("_disk0", "vcpu1"). No sink: silent. Nothing that a function returns is logged as well. */
#pragma once
#include "base/forward.h"
#include <stdatomic.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_TRACE };

struct log_record {
	enum log_level level;
	const char *object; /* who speaks; never NULL */
	const char *file;   /* source file, relative to the tree's top */
	int line;
	const char *text; /* no newline */
};

struct log_sink {
	void (*write)(void *context, const struct log_record *r);
	void *context;
	enum log_level max_level; /* records above are not formatted */
};

struct log {
	const struct log_sink *sink; /* NULL: silent; outlives the object */
	const char *object;
};

#define LOG_TEXT_BYTES 512

void log_write(const struct log *l, enum log_level level, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

#define log_at(l, level, ...)                                                             \
	do {                                                                              \
		if ((l)->sink && (level) <= (l)->sink->max_level)                         \
			log_write(l, level, __FILE__, __LINE__, __VA_ARGS__);             \
	} while (0)

#define log_error(l, ...) log_at(l, LOG_ERROR, __VA_ARGS__)
#define log_warn(l, ...) log_at(l, LOG_WARN, __VA_ARGS__)
#define log_info(l, ...) log_at(l, LOG_INFO, __VA_ARGS__)
#define log_debug(l, ...) log_at(l, LOG_DEBUG, __VA_ARGS__)
#define log_trace(l, ...) log_at(l, LOG_TRACE, __VA_ARGS__)

/* At most LOG_LIMIT_BURST records in LOG_LIMIT_PERIOD_NS per limit; the first of a later period is preceded by a line that
 * says how many were dropped. Any thread; not under a lock, as the sink is a callback. */
#define LOG_LIMIT_BURST 10
#define LOG_LIMIT_PERIOD_NS (5ull * 1000 * 1000 * 1000)

struct log_limit {
	_Atomic uint64_t period_start_ns;
	_Atomic uint32_t n_in_period;
};

/* For guest misbehaviour: a guest must not fill a disk. */
#define guest_warn(l, limit, ...)                                                         \
	do {                                                                              \
		if ((l)->sink && LOG_WARN <= (l)->sink->max_level && log_limit_pass(l, limit)) \
			log_write(l, LOG_WARN, __FILE__, __LINE__, "guest: " __VA_ARGS__); \
	} while (0)

bool log_limit_pass(const struct log *l, struct log_limit *limit);

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/log_output.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/text.h"
#include "schema/words.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void write_elapsed(char *text, size_t n, uint64_t ns)
{
	static const struct {
		uint64_t unit_ns;
		const char *name;
	} units[] = { { NS_PER_S, "s" }, { NS_PER_MS, "ms" }, { 1000, "µs" } };

	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (ns >= units[i].unit_ns) {
			(void)snprintf(text, n, "%.6f%s", (double)ns / (double)units[i].unit_ns, units[i].name);
			return;
		}
	}
	(void)snprintf(text, n, "%.6fns", (double)ns);
}

static const char *thread_name(char *buffer, size_t n)
{
	/* The kernel names the first thread after the program. */
	if (getpid() == gettid())
		return "main";
	return pthread_getname_np(pthread_self(), buffer, n) == 0 && buffer[0] ? buffer : "anonymous";
}

static size_t format_text(const struct log_output *o, const struct log_record *r, char *line, size_t n_max)
{
	static const char *const levels[] = { "ERROR", "WARN", "INFO", "DEBUG", "TRACE" };
	char elapsed[40], thread[16];

	write_elapsed(elapsed, sizeof elapsed, clock_now_ns() - o->start_ns);
	int n = snprintf(line, n_max, "%s: %s: <%s> %s:%s:%d -- %s: %s\r\n", o->program, elapsed,
	                 thread_name(thread, sizeof thread), levels[r->level], r->file, r->line, r->object, r->text);
	return n < 0 ? 0 : min_u64((uint64_t)n, n_max - 1);
}

/* A guest may have chosen it. */
static void escape(const char *s, char *ret, size_t n_max)
{
	json_escape(s, word_is_utf8(s, strlen(s)), ret, n_max);
}

static size_t format_json(const struct log_output *o, const struct log_record *r, char *line, size_t n_max)
{
	static const char *const levels[] = { "error", "warn", "info", "debug", "trace" };
	char thread[16], thread_json[6 * 16 + 8], object[256], text[2 * LOG_TEXT_BYTES], date[32] = "";
	struct timespec now;
	struct tm tm;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	if (gmtime_r(&now.tv_sec, &tm))
		(void)strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &tm);
	escape(thread_name(thread, sizeof thread), thread_json, sizeof thread_json);
	escape(r->object, object, sizeof object);
	escape(r->text, text, sizeof text);
	int n = snprintf(line, n_max,
	                 "{\"timestamp\":\"%s.%06ldZ\",\"elapsed_ns\":%llu,\"level\":\"%s\",\"thread\":\"%s\","
	                 "\"object\":\"%s\",\"file\":\"%s\",\"line\":%d,\"message\":\"%s\"}\n",
	                 date, now.tv_nsec / 1000, (unsigned long long)(clock_now_ns() - o->start_ns), levels[r->level],
	                 thread_json, object, r->file, r->line, text);
	return n < 0 || (size_t)n >= n_max ? 0 : (size_t)n;
}

static void write_record(void *context, const struct log_record *r)
{
	const struct log_output *o = context;
	char line[4096];
	size_t n = o->format == LOG_FORMAT_JSON ? format_json(o, r, line, sizeof line) : format_text(o, r, line, sizeof line);
	/* One write a record, so that lines of several threads do not mix. A reader that has stopped (a pager, a full pipe)
	 * must not stop the VM: what cannot be written now is lost. */
	struct pollfd p = { .fd = o->fd, .events = POLLOUT };
	if (n > 0 && poll(&p, 1, 0) == 1 && (p.revents & POLLOUT))
		(void)!write(o->fd, line, n);
}

int log_output_open(struct log_output *o, const char *program, const struct log_config *c, struct err *e)
{
	*o = (struct log_output){ .program = program, .format = c->format, .fd = STDERR_FILENO, .start_ns = clock_now_ns() };
	if (c->path) {
		o->fd = open(c->path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
		if (o->fd < 0)
			return err_set_errno(e, errno, "'%s'", c->path);
		o->owns_fd = true;
	}
	unsigned level = LOG_WARN + c->verbosity;
	o->sink = (struct log_sink){
		.write = write_record,
		.context = o,
		.max_level = level > LOG_TRACE ? LOG_TRACE : (enum log_level)level,
	};
	return 0;
}

void log_output_close(struct log_output *o)
{
	if (o->owns_fd)
		(void)close(o->fd);
	o->fd = -1;
	o->owns_fd = false;
}

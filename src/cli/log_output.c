/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/log_output.h"

#include "base/checked.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
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

static void write_record(void *context, const struct log_record *r)
{
	static const char *const levels[] = { "ERROR", "WARN", "INFO", "DEBUG", "TRACE" };
	const struct log_output *o = context;
	char elapsed[40], thread[16] = "", line[LOG_TEXT_BYTES + 256];

	write_elapsed(elapsed, sizeof elapsed, clock_now_ns() - o->start_ns);
	(void)pthread_getname_np(pthread_self(), thread, sizeof thread);
	/* The kernel names the first thread after the program. */
	bool is_main = getpid() == gettid();
	int n = snprintf(line, sizeof line, "varan: %s: <%s> %s:%s:%d -- %s: %s\r\n", elapsed,
	                 is_main ? "main" : thread[0] ? thread : "anonymous", levels[r->level], r->file, r->line, r->object,
	                 r->text);
	/* One write a record, so that lines of several threads do not mix. A reader that has stopped (a pager, a full pipe)
	 * must not stop the VM: what cannot be written now is lost. */
	struct pollfd p = { .fd = o->fd, .events = POLLOUT };
	if (n > 0 && poll(&p, 1, 0) == 1 && (p.revents & POLLOUT))
		(void)!write(o->fd, line, min_u64((uint64_t)n, sizeof line - 1));
}

int log_output_open(struct log_output *o, const char *path, unsigned verbosity, struct err *e)
{
	*o = (struct log_output){ .fd = STDERR_FILENO, .start_ns = clock_now_ns() };
	if (path) {
		o->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
		if (o->fd < 0)
			return err_set_errno(e, errno, "Error creating log file: '%s'", path);
		o->owns_fd = true;
	}
	unsigned level = LOG_WARN + verbosity;
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

/* SPDX-License-Identifier: Apache-2.0 */
/* How far long work is, for people; and signals, which end it in order: what is half made is removed first. */
#include "cli/image_impl.h"

#include "base/checked.h"
#include "base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TERMINAL_PERIOD_NS (200 * NS_PER_MS)
#define LINE_PERCENT 10u
#define LINE_PERIOD_NS (10 * NS_PER_S)

static volatile sig_atomic_t stop_signal;

static void on_signal(int signal)
{
	stop_signal = signal;
}

int image_stop_signal(void)
{
	return (int)stop_signal;
}

/* What was ignored when we started stays ignored. */
static void catch_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		struct sigaction old, a = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			(void)sigaction(signals[i], &a, NULL);
	}
}

void image_human_bytes(uint64_t n_bytes, char *ret, size_t n_max)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)n_bytes;
	size_t unit = 0;
	for (; v >= 1000 && unit + 1 < ARRAY_LEN(units); unit++)
		v /= 1024;
	(void)snprintf(ret, n_max, "%0.3g %s", v, units[unit]);
}

static void say(struct image_progress *p, uint64_t n_done, uint64_t n)
{
	char done[32], all[32];
	image_human_bytes(n_done, done, sizeof done);
	image_human_bytes(n, all, sizeof all);
	if (p->is_terminal)
		fprintf(stderr, "\r%s: %3u%% (%s of %s)\033[K", p->what, p->n_percent, done, all);
	else
		fprintf(stderr, "%s: %u%% (%s of %s)\n", p->what, p->n_percent, done, all);
	(void)fflush(stderr);
	p->has_line = true;
}

static bool step(void *context, uint64_t n_done, uint64_t n)
{
	struct image_progress *p = context;
	if (stop_signal)
		return false;
	if (!n || (!p->is_line && !p->is_terminal))
		return true;
	uint64_t now = clock_now_ns();
	unsigned percent = (unsigned)((double)n_done * 100 / (double)n);
	bool is_first = !p->said_ns, is_end = n_done >= n && p->n_percent < 100;
	bool is_time = p->is_terminal ? now - p->said_ns >= TERMINAL_PERIOD_NS :
	               percent >= p->n_percent + LINE_PERCENT || now - p->said_ns >= LINE_PERIOD_NS;
	if (!is_first && !is_end && !is_time)
		return true;
	p->n_percent = percent;
	p->said_ns = now;
	say(p, n_done, n);
	return true;
}

struct block_progress image_progress_start(struct image_progress *p, const struct image_command *c,
                                           const struct command_line *line)
{
	bool is_quiet = command_line_count(line, "quiet"), is_line = command_line_count(line, "progress");
	*p = (struct image_progress){ .what = c->table.program, .is_line = is_line && !is_quiet,
		                      .is_terminal = !is_quiet && !is_line && isatty(STDERR_FILENO) };
	catch_signals();
	return (struct block_progress){ .step = step, .context = p };
}

void image_progress_end(struct image_progress *p)
{
	if (p->has_line && p->is_terminal)
		fputc('\n', stderr);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* signals.h - the signals that mean something to a running VM, as a source of the main loop. They are blocked in every
 * thread from the start, so that only the descriptor takes them. */
#pragma once
#include "base/err.h"
#include "loop/loop.h"
#include <signal.h>

struct signals {
	struct source source;
	int fd;
	void (*fn)(void *context, int signal);
	void *context;
};

/* SIGTERM, SIGINT, SIGHUP (unless they were ignored), SIGWINCH, SIGCONT, SIGIO, SIGUSR1, SIGUSR2. SIGPIPE, SIGXFSZ and
 * SIGCHLD are ignored. */
void signals_block(void);
int signals_watch(struct signals *s, struct loop *l, void (*fn)(void *context, int signal), void *context, struct err *e);
void signals_done(struct signals *s); /* also after a failed signals_watch() */

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/signals.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

static sigset_t handled(void)
{
	sigset_t set;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)sigaddset(&set, SIGWINCH);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigaddset(&set, SIGUSR2);
	(void)sigaddset(&set, SIGCONT);
	(void)sigaddset(&set, SIGIO);
	return set;
}

void signals_block(void)
{
	sigset_t set = handled();
	/* What was ignored when we started (nohup; a shell's background jobs) stays ignored: blocked, it would be queued. */
	static const int endings[] = { SIGTERM, SIGINT, SIGHUP };
	for (size_t i = 0; i < ARRAY_LEN(endings); i++) {
		struct sigaction a;
		if (sigaction(endings[i], NULL, &a) == 0 && a.sa_handler == SIG_IGN)
			(void)sigdelset(&set, endings[i]);
	}
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	/* A console's peer that goes away is an error of that write, not the end of the VM. */
	(void)signal(SIGPIPE, SIG_IGN);
	/* Likewise a guest's write beyond RLIMIT_FSIZE. */
	(void)signal(SIGXFSZ, SIG_IGN);
	(void)signal(SIGCHLD, SIG_IGN);
}

static void on_ready(struct source *source, uint32_t events)
{
	struct signals *s = container_of(source, struct signals, source);
	struct signalfd_siginfo info;
	(void)events;
	if (read(source->fd, &info, sizeof info) == sizeof info)
		s->fn(s->context, (int)info.ssi_signo);
}

int signals_watch(struct signals *s, struct loop *l, void (*fn)(void *context, int signal), void *context, struct err *e)
{
	sigset_t set = handled();
	*s = (struct signals){ .fd = -1, .fn = fn, .context = context };
	s->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->fd < 0)
		return err_set_errno(e, errno, "cannot watch signals");
	return loop_add(l, &s->source, s->fd, EPOLLIN, on_ready, e);
}

void signals_done(struct signals *s)
{
	loop_remove(&s->source);
	fd_close(&s->fd);
}

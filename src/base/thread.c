/* SPDX-License-Identifier: Apache-2.0 */
#include "base/thread.h"

#include "base/checked.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static void block_signals(sigset_t *ret_old)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS, SIGTRAP, SIGABRT };
	sigset_t set;

	(void)sigfillset(&set);
	for (size_t i = 0; i < ARRAY_LEN(faults); i++)
		(void)sigdelset(&set, faults[i]);
	(void)pthread_sigmask(SIG_BLOCK, &set, ret_old);
}

struct begin {
	char name[16];
	void *(*fn)(void *);
	void *arg;
};

/* The thread names itself, since from outside the name would come late, when it may have logged already. */
static void *begin(void *arg)
{
	struct begin b = *(struct begin *)arg;
	free(arg);
	(void)pthread_setname_np(pthread_self(), b.name);
	return b.fn(b.arg);
}

int thread_start(pthread_t *ret_t, const char *name, size_t stack_bytes, void *(*fn)(void *), void *arg, struct err *e)
{
	sigset_t old;
	pthread_attr_t attr;

	struct begin *b = malloc(sizeof *b);
	if (!b)
		return err_set(e, ENOMEM, "cannot start the thread '%s': no memory", name);
	(void)snprintf(b->name, sizeof b->name, "%s", name);
	b->fn = fn;
	b->arg = arg;
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, (size_t)max_u64(stack_bytes, (uint64_t)PTHREAD_STACK_MIN));
	block_signals(&old);
	int code = pthread_create(ret_t, &attr, begin, b);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
	if (code) {
		free(b);
		return err_set_errno(e, code, "cannot start the thread '%s'", name);
	}
	/* And from here, since whoever has started it may look for it at once. */
	char cut[16];
	(void)snprintf(cut, sizeof cut, "%s", name);
	(void)pthread_setname_np(*ret_t, cut);
	return 0;
}

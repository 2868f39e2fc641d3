/* SPDX-License-Identifier: Apache-2.0 */
#include "base/thread.h"

#include "base/checked.h"

#include <limits.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>

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
	const char *name;
	void *(*fn)(void *);
	void *arg;
	sem_t is_named;
};

/* The thread names itself, as from outside the name would come late: when it may have logged already. */
static void *begin(void *arg)
{
	struct begin *b = arg;
	void *(*fn)(void *) = b->fn;
	void *fn_arg = b->arg;
	char name[16];
	(void)snprintf(name, sizeof name, "%s", b->name);
	(void)pthread_setname_np(pthread_self(), name);
	(void)sem_post(&b->is_named);
	return fn(fn_arg);
}

int thread_start(pthread_t *ret_t, const char *name, size_t stack_bytes, void *(*fn)(void *), void *arg, struct err *e)
{
	sigset_t old;
	pthread_attr_t attr;
	struct begin b = { .name = name, .fn = fn, .arg = arg };

	(void)sem_init(&b.is_named, 0, 0);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, (size_t)max_u64(stack_bytes, (uint64_t)PTHREAD_STACK_MIN));
	block_signals(&old);
	int code = pthread_create(ret_t, &attr, begin, &b);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
	/* Whoever has started it may look for its name at once. */
	while (!code && sem_wait(&b.is_named) < 0)
		;
	(void)sem_destroy(&b.is_named);
	return code ? err_set_errno(e, code, "cannot start the thread '%s'", name) : 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/loop.h"

#include "base/thread.h"

#include <string.h>


static void *run(void *arg)
{
	struct loop_thread *t = arg;
	/* An error here is epoll's, on our own descriptor: there is nothing a guest or user could have done. */
	(void)loop_run(t->loop, NULL);
	return NULL;
}

int loop_thread_start(struct loop_thread *t, const char *name, struct err *e)
{
	memset(t, 0, sizeof *t);
	int rc = loop_new(&t->loop, e);
	if (rc < 0)
		return rc;

	loop_expect_owner(t->loop);
	rc = thread_start(&t->thread, name, THREAD_STACK_BYTES, run, t, e);
	if (rc < 0) {
		loop_forget_owner(t->loop);
		loop_free(t->loop);
		t->loop = NULL;
		return rc;
	}
	t->is_running = true;
	return 0;
}

void loop_thread_stop(struct loop_thread *t)
{
	if (t->is_running) {
		loop_stop(t->loop);
		(void)pthread_join(t->thread, NULL);
		t->is_running = false;
	}
	loop_free(t->loop);
	t->loop = NULL;
}

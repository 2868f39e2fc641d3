/* SPDX-License-Identifier: Apache-2.0 */
/* loop.h - one thread's event loop: descriptors, timers, and calls from other threads.
 *
 * Data belongs to a loop. Owner-only functions assert loop_is_mine(); the others are marked "any thread". Sources and
 * timers are embedded in their owners; the kernel's epoll word holds slot and generation, never a pointer, so an event
 * that was collected before its source went away is dropped. Nothing here allocates after loop_new() but loop_add(),
 * when the table of sources grows. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/list.h"
#include <pthread.h>

struct source {
	int fd;
	void (*fn)(struct source *s, uint32_t epoll_events);
	/* the loop's own */
	struct loop *loop;
	uint32_t slot;
};

struct timer {
	void (*fn)(struct timer *t);
	/* the loop's own */
	uint64_t deadline_ns; /* CLOCK_MONOTONIC */
	struct list_link link;
	bool is_set;
};

/* A message that needs no answer; embedded in its sender, pending at most once: posting it again before it ran is one
 * run, and that run sees what the poster wrote before it posted. */
struct loop_message {
	void (*fn)(struct loop_message *m);
	struct loop_message *next;
	_Atomic bool is_pending;
};

/* Runs on the loop's thread each time before it waits: the place where batched work is submitted. */
struct loop_hook {
	void (*fn)(struct loop_hook *h);
	struct list_link link;
};

int loop_new(struct loop **ret_l, struct err *e);
void loop_free(struct loop *l); /* nothing may be registered, nobody inside */

/* Owner only. A loop belongs to the thread that runs it, and, before the first loop_run(), to the one that made it. */
int loop_add(struct loop *l, struct source *s, int fd, uint32_t epoll_events, void (*fn)(struct source *, uint32_t),
             struct err *e);
int loop_change(struct source *s, uint32_t epoll_events);
void loop_remove(struct source *s); /* a source that was never added, or is removed already, is left alone */
void timer_set(struct loop *l, struct timer *t, uint64_t deadline_ns, void (*fn)(struct timer *));
void timer_cancel(struct timer *t);
void loop_hook_add(struct loop *l, struct loop_hook *h, void (*fn)(struct loop_hook *));
void loop_hook_remove(struct loop_hook *h);

/* A thread is about to run the loop: from now on nobody else's calls run in place. Taken back when it did not start. */
void loop_expect_owner(struct loop *l);
void loop_forget_owner(struct loop *l);
/* Until loop_stop(); messages posted before it returns still run. Nobody may loop_call() a loop that is being stopped.
 * The calling thread becomes the owner. */
int loop_run(struct loop *l, struct err *e);
/* Handles what is ready, waiting at most timeout_ms (-1: without bound); for tests and fuzz targets. */
int loop_run_once(struct loop *l, int timeout_ms);

/* Any thread. */
void loop_stop(struct loop *l);
bool loop_is_mine(const struct loop *l);
/* Runs fn(arg) on l's thread and returns what it returned; in place when l is the caller's or has not started to run.
 * Waiting goes one way: main or vCPU threads call I/O loops, an I/O loop never calls. */
int loop_call(struct loop *l, int (*fn)(void *arg), void *arg);
void loop_post(struct loop *l, struct loop_message *m, void (*fn)(struct loop_message *));
/* Waits until m, if pending, has run; afterwards its memory may go. Same thread rule as loop_call(). */
void loop_flush(struct loop *l);

/* A thread that runs one loop. */
struct loop_thread {
	struct loop *loop;
	pthread_t thread;
	bool is_running;
};

int loop_thread_start(struct loop_thread *t, const char *name, struct err *e);
void loop_thread_stop(struct loop_thread *t); /* waits; half-started and stopped ones too */

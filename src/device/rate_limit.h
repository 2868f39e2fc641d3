/* SPDX-License-Identifier: Apache-2.0 */
/* rate_limit.h - a budget of bytes and operations, and the gates of the queues that live on it: those of one disk, or of a
 * group of disks. A queue asks its gate before each request; refused, it takes nothing more until the gate wakes it, at the
 * moment when that request fits. Nobody polls, and nobody starves: those who wait are served in turns, in order of arrival.
 *
 * A limit is any thread's; its lock is a leaf. A gate belongs to its loop. */
#pragma once
#include "base/err.h"
#include "base/list.h"
#include "base/token_bucket.h"
#include "loop/loop.h"

struct rate_limit;

int rate_limit_new(const struct token_rate *bytes, const struct token_rate *ops, struct rate_limit **ret_r, struct err *e);
void rate_limit_free(struct rate_limit *r); /* every gate is shut; NULL is fine */

struct rate_gate { /* zeroed at first */
	struct rate_limit *limit; /* NULL: shut, or nothing is limited */
	struct loop *loop;
	void (*wake)(struct rate_gate *g);
	struct timer timer;
	bool is_waiting;             /* refused, and not woken since */
	struct loop_message message; /* its turn has come */
	/* Under the limit's lock. */
	struct list_link link;
	bool is_queued;
	unsigned n_turn;             /* requests that passed since it became the first in line */
	uint64_t n_bytes;            /* of the request that waits */
	uint64_t due_ns;             /* of the first in line: when that fits */
};

/* r NULL: everything passes. wake() is called on the loop, once for each refusal; then the queue runs, and asks again. */
void rate_gate_open(struct rate_gate *g, struct rate_limit *r, struct loop *l, void (*wake)(struct rate_gate *g));
/* Gives its place in line to the next; one that was never opened too. A message may still be on its way: the memory may go
 * after loop_flush(). */
void rate_gate_shut(struct rate_gate *g);
/* True: one operation of n_bytes is paid for. False: it waits. now_ns is clock_now_ns(), or was a moment ago. */
bool rate_gate_pass(struct rate_gate *g, uint64_t n_bytes, uint64_t now_ns);
static inline bool rate_gate_is_waiting(const struct rate_gate *g)
{
	return g->is_waiting;
}
/* Ends each run of the queue: if it was not refused, it has nothing to stand in line for any more. */
void rate_gate_end_run(struct rate_gate *g);

/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * `waiting` is the line of gates that were refused. Only the first one knows when it is due, and has its loop's timer set.
 * When its timer fires it stays first, so that nobody overtakes it, until its queue asks again, and then gets what it waited
 * for. It may go on while there is more in the buckets, up to TURN requests, as each change of turns costs a thread a wake.
 * Then it goes to the end of the line, and works out when the next one is due and posts that to its loop; so does one that
 * leaves for any other reason. A gate that comes while others wait goes to the end of the line.
 *
 * A loop wakes a little late, by up to some milliseconds. While somebody waits that costs nothing: what waits is taken out
 * of the buckets as of the moment when it was due, `at_ns`, not as of the moment when its thread came to do it. Without that
 * a small bucket would stand full during each delay, and its rate never be reached. Only LATE_NS of a delay count: after a
 * long stop (of the program, or of the host) nobody is owed all that he could have had. When a run ends with nobody in line
 * the present counts again. */
#include "device/rate_limit.h"

#include "base/checked.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#define LATE_NS (100 * NS_PER_MS)
#define TURN 16u

struct rate_limit {
	pthread_mutex_t lock;
	struct token_bucket bytes, ops;
	struct list_link waiting; /* struct rate_gate */
	bool is_behind;           /* somebody waits, or has just been woken: at_ns counts */
	uint64_t at_ns;
};

int rate_limit_new(const struct token_rate *bytes, const struct token_rate *ops, struct rate_limit **ret_r, struct err *e)
{
	struct rate_limit *r = calloc(1, sizeof *r);
	if (!r)
		return err_set(e, ENOMEM, "no memory for a rate limit");
	(void)pthread_mutex_init(&r->lock, NULL);
	token_bucket_init(&r->bytes, bytes);
	token_bucket_init(&r->ops, ops);
	list_init(&r->waiting);
	*ret_r = r;
	return 0;
}

void rate_limit_free(struct rate_limit *r)
{
	if (!r)
		return;
	assert(list_is_empty(&r->waiting));
	(void)pthread_mutex_destroy(&r->lock);
	free(r);
}

/* --- the line, under the lock ---------------------------------------------------------------------------------------- */

static struct rate_gate *first_of(struct rate_limit *r)
{
	return list_is_empty(&r->waiting) ? NULL : list_entry(r->waiting.next, struct rate_gate, link);
}

/* When one operation of n_bytes fits that asks at at_ns. */
static uint64_t due_ns(struct rate_limit *r, uint64_t n_bytes, uint64_t at_ns)
{
	uint64_t wait_ns = max_u64(token_bucket_wait_ns(&r->bytes, n_bytes, at_ns), token_bucket_wait_ns(&r->ops, 1, at_ns));
	uint64_t due;
	return checked_add(at_ns, wait_ns, &due) ? due : UINT64_MAX;
}

static void on_turn(struct loop_message *m);

static void leave(struct rate_limit *r, struct rate_gate *g)
{
	if (!g->is_queued)
		return;
	bool was_first = first_of(r) == g;
	list_remove(&g->link);
	g->is_queued = false;
	g->n_turn = 0;
	struct rate_gate *next = first_of(r);
	if (was_first && next) {
		next->due_ns = due_ns(r, next->n_bytes, r->at_ns);
		loop_post(next->loop, &next->message, on_turn);
	}
}

/* As of when the first in line asks. */
static uint64_t asking_ns(const struct rate_limit *r, uint64_t now_ns)
{
	if (!r->is_behind)
		return now_ns;
	return max_u64(r->at_ns, now_ns > LATE_NS ? now_ns - LATE_NS : 0);
}

static bool pay(struct rate_limit *r, struct rate_gate *g, uint64_t n_bytes, uint64_t now_ns)
{
	uint64_t at_ns = asking_ns(r, now_ns);
	g->due_ns = due_ns(r, n_bytes, at_ns);
	bool fits = g->due_ns == at_ns || g->due_ns <= now_ns;
	r->at_ns = fits ? g->due_ns : at_ns;
	if (fits) {
		token_bucket_take(&r->bytes, n_bytes, r->at_ns);
		token_bucket_take(&r->ops, 1, r->at_ns);
	}
	return fits;
}

/* --- gates, on their loops --------------------------------------------------------------------------------------------- */

static void on_due(struct timer *t)
{
	struct rate_gate *g = container_of(t, struct rate_gate, timer);
	g->is_waiting = false;
	g->wake(g);
}

static void on_turn(struct loop_message *m)
{
	struct rate_gate *g = container_of(m, struct rate_gate, message);
	if (!g->limit || !g->is_waiting)
		return; /* shut since, or in its run */
	(void)pthread_mutex_lock(&g->limit->lock);
	bool is_first = first_of(g->limit) == g;
	uint64_t due = g->due_ns;
	(void)pthread_mutex_unlock(&g->limit->lock);
	if (is_first)
		timer_set(g->loop, &g->timer, due, on_due);
}

void rate_gate_open(struct rate_gate *g, struct rate_limit *r, struct loop *l, void (*wake)(struct rate_gate *g))
{
	assert(!g->limit && !g->is_queued && !g->is_waiting);
	g->limit = r;
	g->loop = l;
	g->wake = wake;
}

void rate_gate_shut(struct rate_gate *g)
{
	if (!g->limit)
		return;
	assert(loop_is_mine(g->loop));
	timer_cancel(&g->timer);
	g->is_waiting = false;
	rate_gate_end_run(g);
	g->limit = NULL;
}

static void stand_in_line(struct rate_limit *r, struct rate_gate *g, uint64_t n_bytes)
{
	if (g->n_turn)
		leave(r, g); /* the turn is over */
	g->n_bytes = n_bytes;
	r->is_behind = true;
	if (!g->is_queued)
		list_append(&r->waiting, &g->link);
	g->is_queued = true;
}

bool rate_gate_pass(struct rate_gate *g, uint64_t n_bytes, uint64_t now_ns)
{
	struct rate_limit *r = g->limit;
	if (!r)
		return true;
	assert(!g->is_waiting);
	(void)pthread_mutex_lock(&r->lock);
	struct rate_gate *first = first_of(r);
	bool passes = (!first || first == g) && pay(r, g, n_bytes, now_ns);
	if (!passes)
		stand_in_line(r, g, n_bytes);
	else if (g->is_queued && ++g->n_turn == TURN)
		leave(r, g);
	bool is_first = first_of(r) == g;
	uint64_t due = g->due_ns;
	(void)pthread_mutex_unlock(&r->lock);

	g->is_waiting = !passes;
	if (!passes && is_first)
		timer_set(g->loop, &g->timer, due, on_due);
	return passes;
}

void rate_gate_end_run(struct rate_gate *g)
{
	struct rate_limit *r = g->limit;
	if (!r || g->is_waiting)
		return;
	(void)pthread_mutex_lock(&r->lock);
	leave(r, g);
	if (list_is_empty(&r->waiting))
		r->is_behind = false;
	(void)pthread_mutex_unlock(&r->lock);
}

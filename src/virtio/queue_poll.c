/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * A driver that has been told that all it asked for is done often comes with more at once. A kick then costs an exit of the
 * guest, and us a wait and a wake-up. So, when nothing is in flight any more, the thread does not ask for a kick yet, but
 * looks at the ring for some microseconds. (While something is in flight it waits as ever: what the host completes wakes
 * it, and it looks at the ring then.)
 *
 * First it gives the CPU away once: where the vCPU shares it, that is when the driver runs; elsewhere that costs little. Then
 * it looks without a system call. How long is learnt: a kick soon after the thread has gone to sleep doubles the time, up
 * to 32 us; looking in vain halves it, down to none. A quiet disk costs nothing so, and a busy one few kicks. */
#include "virtio/queue_poll.h"

#include "base/checked.h"
#include "base/clock.h"

#include <assert.h>
#include <sched.h>

#define NS_PER_US 1000u
#define FIRST_LIMIT_NS (4 * NS_PER_US)
#define LAST_LIMIT_NS (32 * NS_PER_US)
#define SOON_NS (100 * NS_PER_US)
/* Looks at the ring between two looks at the clock. */
#define LOOKS 16

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

static bool look_out(const struct queue *q, uint64_t limit_ns)
{
	(void)sched_yield();
	if (queue_is_waiting(q))
		return true;
	uint64_t end_ns = clock_now_ns() + limit_ns;
	do {
		for (unsigned i = 0; i < LOOKS; i++) {
			if (queue_is_waiting(q))
				return true;
			relax();
		}
	} while (clock_now_ns() < end_ns);
	return false;
}

static void on_hook(struct loop_hook *h)
{
	struct queue_poll *p = container_of(h, struct queue_poll, hook);
	struct queue *q = p->queue;
	bool is_idle = p->was_told && q->is_started && !q->is_held && q->fault == QUEUE_OK && q->n_in_flight == 0;
	p->was_told = false;
	if (!is_idle)
		return;
	if (p->limit_ns) {
		queue_hush(q);
		bool has_found = look_out(q, p->limit_ns);
		p->run(p);
		if (has_found) {
			loop_turn_again(p->loop); /* for the hooks that submit */
			return;
		}
		p->limit_ns = p->limit_ns > FIRST_LIMIT_NS ? p->limit_ns / 2 : 0;
	}
	p->asleep_since_ns = clock_now_ns();
}

void queue_poll_start(struct queue_poll *p, struct queue *q, struct loop *l, void (*run)(struct queue_poll *p))
{
	assert(!p->loop);
	*p = (struct queue_poll){ .queue = q, .loop = l, .run = run };
	loop_hook_add(l, &p->hook, on_hook);
}

void queue_poll_stop(struct queue_poll *p)
{
	if (!p->loop)
		return;
	loop_hook_remove(&p->hook);
	p->loop = NULL;
}

void queue_poll_told(struct queue_poll *p)
{
	p->was_told = true;
}

void queue_poll_kicked(struct queue_poll *p)
{
	if (!p->loop || !p->asleep_since_ns)
		return;
	if (clock_now_ns() - p->asleep_since_ns < SOON_NS)
		p->limit_ns = p->limit_ns ? min_u64(2 * p->limit_ns, LAST_LIMIT_NS) : FIRST_LIMIT_NS;
	p->asleep_since_ns = 0;
}

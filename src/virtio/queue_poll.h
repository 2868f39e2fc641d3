/* SPDX-License-Identifier: Apache-2.0 */
/* queue_poll.h - looking out for a driver's next chain for a moment, instead of asking for a kick. The queue's loop's, which
 * is a thread of its own. */
#pragma once
#include "loop/loop.h"
#include "virtio/queue.h"

struct queue_poll {
	struct queue *queue;
	struct loop *loop;                 /* NULL: not in use */
	struct loop_hook hook;
	void (*run)(struct queue_poll *p); /* takes what is there, and asks for a kick at the next chain */
	uint64_t limit_ns;                 /* how long it looks; 0: not at all */
	uint64_t asleep_since_ns;          /* the driver was told that all is done, and nobody looks; 0: not so */
	bool was_told;
};

/* Behind the hooks that are there: theirs is what a driver is told of. */
void queue_poll_start(struct queue_poll *p, struct queue *q, struct loop *l, void (*run)(struct queue_poll *p));
void queue_poll_stop(struct queue_poll *p); /* of one that was not started, too */
/* Completions were put into the ring. */
void queue_poll_told(struct queue_poll *p);
void queue_poll_kicked(struct queue_poll *p);

// SPDX-License-Identifier: Apache-2.0
/* Theory of operation.
 *
 * A lane carries the requests of one loop. A submitted request waits in `ready` until the hook runs, before the loop
 * waits: the format says its next step, the engine takes the step, and all that gathered goes to the kernel in one
 * call. When a step's result comes back, the format either declares the request done, or it goes to `ready` again for
 * the next step. So a request is in exactly one place: `ready`, `waiting` (for a bounce buffer), parked in its image (for
 * somebody to change tables), or an engine. Who wakes a parked request, on whatever thread, leaves it with the results of
 * the lane's workers, from where it comes to `ready`.
 *
 * A bounce buffer belongs to one step: who has had its result gives it back, whatever comes next. A request that kept one
 * could be waiting, parked, for another that waits for the buffer.
 *
 * The engine is chosen at the first step: io_uring, else worker threads. A ring that fails later is replaced by
 * workers; what the kernel had not taken from it is prepared again. With no thread to be had either, steps are carried
 * out on the loop itself: slow, but no request is ever lost. */
#include "backend/block_impl.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Results that came with a submission lead to more requests at most this often before the loop turns. */
#define HOOK_ROUNDS 4
#define RETRY_NS NS_PER_MS

void *block_lane_take_bounce(struct block_lane *lane)
{
	return lane->n_bounce_free ? lane->bounce_free[--lane->n_bounce_free] : NULL;
}

static void wake_waiting(struct block_lane *lane, unsigned n)
{
	for (; n && !block_fifo_is_empty(&lane->waiting); n--)
		block_fifo_push(&lane->ready, block_fifo_pop(&lane->waiting));
}

static void give_bounce(struct block_lane *lane, struct block_request *r)
{
	if (!r->bounce)
		return;
	assert(lane->n_bounce_free < BLOCK_N_BOUNCE);
	lane->bounce_free[lane->n_bounce_free++] = r->bounce;
	r->bounce = NULL;
	wake_waiting(lane, 1);
}

static void end_sync(struct block_request *r, long result)
{
	if (r->has_sync)
		block_sync_end(r->lane->image, r->step.file, result);
	r->has_sync = false;
}

static void complete(struct block_lane *lane, struct block_request *r)
{
	assert(lane->n_in_flight > 0);
	lane->n_in_flight--;
	lane->is_batch_open = true;
	r->done(r, r->result);
}

static void end_batch(struct block_lane *lane)
{
	if (!lane->is_batch_open)
		return;
	lane->is_batch_open = false;
	if (lane->batch_end)
		lane->batch_end(lane->batch_context);
}

void block_lane_step_done(struct block_lane *lane, struct block_request *r, long result)
{
	bool is_woken = r->is_parked;
	r->is_parked = false;
	end_sync(r, result);
	bool is_done = !is_woken && lane->image->format->finish(lane, r, result);
	/* Who waited for the buffer comes first. */
	give_bounce(lane, r);
	if (is_done)
		complete(lane, r);
	else
		block_fifo_push(&lane->ready, r);
}

/* --- engines --- */

/* What stays closed when this fails is made up for by run_step(). */
static void open_workers(struct block_lane *lane)
{
	struct err e;
	if (!lane->workers.is_open && block_workers_open(lane, &e) < 0)
		log_warn(&lane->image->log, "%s", e.text);
}

static void choose_engine(struct block_lane *lane)
{
	struct err e;
	if (lane->engine != BLOCK_ENGINE_NONE)
		return;
	lane->engine = BLOCK_ENGINE_WORKERS;
	if (!lane->image->has_no_io_uring) {
		if (block_uring_open(lane, &e) >= 0)
			lane->engine = BLOCK_ENGINE_URING;
		else if (!atomic_exchange(&lane->image->has_said_workers, true))
			log_info(&lane->image->log, "%s; worker threads do its work", e.text);
	}
	if (lane->engine == BLOCK_ENGINE_WORKERS)
		open_workers(lane);
}

static void on_retry(struct timer *t)
{
	(void)t; /* the hook, which runs before the loop waits again, does the work */
}

/* Gives the kernel what has gathered. */
static void flush(struct block_lane *lane)
{
	struct block_uring *u = &lane->uring;
	if (!u->n_unsent || u->is_broken)
		return;
	int rc = block_uring_flush(u);
	if (rc == -EAGAIN) {
		timer_set(lane->loop, &lane->retry, clock_now_ns() + RETRY_NS, on_retry);
	} else if (rc < 0) {
		log_warn(&lane->image->log, "io_uring fails with error %d; worker threads do its work", -rc);
		u->is_broken = true;
		u->n_unsent = 0;
		block_fifo_move_to_front(&u->unsent, &lane->ready);
		lane->engine = BLOCK_ENGINE_WORKERS;
		open_workers(lane);
	}
}

static bool has_room(const struct block_lane *lane)
{
	return lane->engine != BLOCK_ENGINE_URING || block_uring_has_room(&lane->uring);
}

/* False: not now, and r is still the caller's. */
static bool run_step(struct block_lane *lane, struct block_request *r)
{
	bool is_for_ring = lane->engine == BLOCK_ENGINE_URING && r->step.op != BLOCK_STEP_DISCARD_DEVICE &&
	                   r->step.op != BLOCK_STEP_CALL && !lane->image->seam;
	/* What somebody else is syncing just now is waited for, by a worker. */
	if (is_for_ring && r->step.op == BLOCK_STEP_SYNC)
		is_for_ring = r->has_sync = block_sync_begin(lane->image, r->step.file, &r->step.sync_ticket);
	else if (r->step.op == BLOCK_STEP_SYNC)
		r->step.sync_ticket = block_sync_next(lane->image, r->step.file);
	if (is_for_ring)
		return block_uring_push(lane, r);
	open_workers(lane);
	if (lane->workers.is_open && block_workers_push(lane, r))
		return true;
	/* No thread is to be had: here, then, but only when nothing is left whose end the step could wait for. */
	if (lane->uring.n_in_kernel || lane->uring.n_unsent)
		return false;
	block_lane_step_done(lane, r, block_step_execute(r));
	return true;
}

/* Moves all that can move: prepares what is ready, hands it to the engine, and that to the kernel. */
static void advance(struct block_lane *lane)
{
	choose_engine(lane);
	while (!block_fifo_is_empty(&lane->ready) && has_room(lane)) {
		struct block_request *r = block_fifo_pop(&lane->ready);
		give_bounce(lane, r); /* of a step that was never carried out */
		end_sync(r, -EAGAIN);
		enum block_next next = lane->image->format->prepare(lane, r);
		if (next == BLOCK_NEXT_DONE) {
			complete(lane, r);
		} else if (next == BLOCK_NEXT_PARKED) {
			lane->workers.n_running++; /* whoever wakes it leaves it with the workers' results */
		} else if (next == BLOCK_NEXT_WAIT) {
			block_fifo_push(&lane->waiting, r);
		} else if (!run_step(lane, r)) {
			struct block_fifo back = { 0 };
			block_fifo_push(&back, r);
			block_fifo_move_to_front(&back, &lane->ready);
			break;
		}
		/* Who was woken for a buffer may have found that it needs none any more. */
		if (block_fifo_is_empty(&lane->ready))
			wake_waiting(lane, lane->n_bounce_free);
	}
	flush(lane);
}

static unsigned reap(struct block_lane *lane)
{
	unsigned n = block_uring_reap(lane);
	return lane->workers.n_running ? n + block_workers_reap(lane) : n;
}

static void on_hook(struct loop_hook *h)
{
	struct block_lane *lane = container_of(h, struct block_lane, hook);
	/* A completion interrupts the loop's wait before it makes the ring readable: one more wait would be needed to be told. */
	if (lane->uring.n_in_kernel)
		(void)block_uring_reap(lane);
	for (unsigned i = 0; !block_fifo_is_empty(&lane->ready) || lane->uring.n_unsent; i++) {
		advance(lane);
		if (i == HOOK_ROUNDS || block_uring_reap(lane) == 0)
			break;
	}
	/* A ring that broke in the last round left its requests here, and a new engine to take them. */
	if (lane->uring.is_broken && !block_fifo_is_empty(&lane->ready))
		advance(lane);
	end_batch(lane);
}

/* --- for users --- */

static bool has_direct_file(const struct block_image *i)
{
	for (unsigned k = 0; k < i->n_files; k++) {
		if (i->files[k]->is_direct)
			return true;
	}
	return false;
}

int block_lane_open(struct block_image *i, struct loop *l, unsigned n_max, struct block_lane **ret_lane, struct err *e)
{
	assert(n_max > 0);
	struct block_lane *lane = calloc(1, sizeof *lane);
	if (!lane)
		return err_set(e, ENOMEM, "block: no memory");
	lane->image = i;
	lane->loop = l;
	lane->n_max = n_max;
	lane->workers.event_fd = -1;
	if (i->format->can_park) {
		int rc = block_workers_open(lane, e);
		if (rc < 0) {
			free(lane);
			return rc;
		}
	}
	if (has_direct_file(i)) {
		size_t n = (size_t)BLOCK_BOUNCE_BYTES * BLOCK_N_BOUNCE;
		void *area = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (area == MAP_FAILED) {
			block_workers_close(lane);
			free(lane);
			return err_set(e, ENOMEM, "block: no memory");
		}
		lane->bounce_area = area;
		for (unsigned k = 0; k < BLOCK_N_BOUNCE; k++)
			lane->bounce_free[lane->n_bounce_free++] = (uint8_t *)area + (size_t)k * BLOCK_BOUNCE_BYTES;
	}
	loop_hook_add(l, &lane->hook, on_hook);
	*ret_lane = lane;
	return 0;
}

void block_lane_close(struct block_lane *lane)
{
	if (!lane)
		return;
	assert(lane->n_in_flight == 0);
	loop_hook_remove(&lane->hook);
	timer_cancel(&lane->retry);
	block_uring_close(lane);
	block_workers_close(lane);
	if (lane->bounce_area)
		(void)munmap(lane->bounce_area, (size_t)BLOCK_BOUNCE_BYTES * BLOCK_N_BOUNCE);
	free(lane);
}

const char *block_lane_engine(struct block_lane *lane)
{
	choose_engine(lane);
	return lane->engine == BLOCK_ENGINE_URING ? "io_uring" : "workers";
}

void block_lane_on_batch_end(struct block_lane *lane, void (*fn)(void *context), void *context)
{
	lane->batch_end = fn;
	lane->batch_context = context;
}

void block_submit(struct block_lane *lane, struct block_request *r)
{
	uint64_t n_disk_bytes = lane->image->n_disk_bytes;
	assert(loop_is_mine(lane->loop) && r->done);
	if (r->op != BLOCK_FLUSH) {
		assert(r->offset_bytes % 512 == 0 && r->n_bytes % 512 == 0);
		assert(r->offset_bytes <= n_disk_bytes && r->n_bytes <= n_disk_bytes - r->offset_bytes);
	}
	if (r->op != BLOCK_READ && r->op != BLOCK_FLUSH)
		lane->image->was_changed = true;
	r->lane = lane;
	r->n_done_bytes = 0;
	r->result = 0;
	r->bounce = NULL;
	r->n_retries = 0;
	r->method = 0;
	r->n_cut_bytes = 0;
	r->is_parked = r->has_sync = false;
	memset(r->scratch, 0, sizeof r->scratch);
	lane->n_in_flight++;
	block_fifo_push(&lane->ready, r);
}

static void wait_for_results(struct block_lane *lane)
{
	struct pollfd fds[2];
	nfds_t n = 0;
	if (lane->uring.n_in_kernel)
		fds[n++] = (struct pollfd){ .fd = lane->uring.ring.ring_fd, .events = POLLIN };
	if (lane->workers.n_running)
		fds[n++] = (struct pollfd){ .fd = lane->workers.event_fd, .events = POLLIN };
	assert(n || lane->uring.n_unsent);
	/* With entries that the kernel did not want just now, there is nothing that would wake us for them. */
	(void)poll(fds, n, lane->uring.n_unsent ? 1 : -1);
}

void block_drain(struct block_lane *lane)
{
	assert(loop_is_mine(lane->loop));
	while (lane->n_in_flight) {
		advance(lane);
		/* What is still ready waits for room in the ring, which only results make. */
		bool is_busy = lane->uring.n_in_kernel || lane->workers.n_running || lane->uring.n_unsent;
		if (reap(lane) == 0 && lane->n_in_flight && is_busy)
			wait_for_results(lane);
	}
	end_batch(lane);
}

unsigned block_in_flight(const struct block_lane *lane)
{
	return lane->n_in_flight;
}

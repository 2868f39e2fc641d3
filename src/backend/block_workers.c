// SPDX-License-Identifier: Apache-2.0
/* The engine where io_uring is not to be had, and for the operations that io_uring does not have: a few threads that
 * carry out steps with plain system calls.
 *
 * Steps wait in one list and results in another, both linked through the requests: nothing is allocated. A thread is
 * started when a step finds none idle, up to BLOCK_WORKERS_MAX; an idle disk has none. The worker that puts the first
 * result into an empty list writes the eventfd; the loop takes the whole list at once. */
#include "backend/block_impl.h"

#include "base/cleanup.h"
#include "base/thread.h"

#include <assert.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WORKER_STACK_BYTES (64u * 1024)

void block_workers_finish(struct block_workers *w, struct block_request *r, long result)
{
	(void)pthread_mutex_lock(&w->lock);
	r->step_result = result;
	bool was_empty = block_fifo_is_empty(&w->finished);
	block_fifo_push(&w->finished, r);
	uint64_t one = 1;
	/* Never full: one for each list that is taken. Under the lock, for the lane's sake: it may end after this. */
	if (was_empty)
		(void)!write(w->event_fd, &one, sizeof one);
	(void)pthread_mutex_unlock(&w->lock);
}

static void *work(void *arg)
{
	struct block_workers *w = arg;

	(void)pthread_mutex_lock(&w->lock);
	for (;;) {
		while (block_fifo_is_empty(&w->queued) && !w->is_stopping) {
			w->n_idle++;
			(void)pthread_cond_wait(&w->work, &w->lock);
			w->n_idle--;
		}
		struct block_request *r = block_fifo_pop(&w->queued);
		if (!r)
			break; /* stopping, and nothing is left */
		w->n_queued--;
		(void)pthread_mutex_unlock(&w->lock);

		block_workers_finish(w, r, block_step_execute(r));
		(void)pthread_mutex_lock(&w->lock);
	}
	(void)pthread_mutex_unlock(&w->lock);
	return NULL;
}

static void on_finished(struct source *s, uint32_t events)
{
	struct block_workers *w = container_of(s, struct block_workers, source);
	(void)events;
	(void)block_workers_reap(container_of(w, struct block_lane, workers));
}

int block_workers_open(struct block_lane *lane, struct err *e)
{
	struct block_workers *w = &lane->workers;
	assert(!w->is_open);
	fd_scoped fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return err_set_errno(e, errno, "block: cannot make an event descriptor");
	int rc = loop_add(lane->loop, &w->source, fd, EPOLLIN, on_finished, e);
	if (rc < 0)
		return rc;
	w->event_fd = fd_take(&fd);
	w->image = lane->image;
	(void)pthread_mutex_init(&w->lock, NULL);
	(void)pthread_cond_init(&w->work, NULL);
	w->is_open = true;
	return 0;
}

void block_workers_close(struct block_lane *lane)
{
	struct block_workers *w = &lane->workers;
	if (!w->is_open)
		return;
	assert(w->n_running == 0);
	(void)pthread_mutex_lock(&w->lock);
	w->is_stopping = true;
	(void)pthread_cond_broadcast(&w->work);
	(void)pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->n_threads; i++)
		(void)pthread_join(w->threads[i], NULL);

	loop_remove(&w->source);
	fd_close(&w->event_fd);
	(void)pthread_cond_destroy(&w->work);
	(void)pthread_mutex_destroy(&w->lock);
	w->is_open = false;
}

static void start_worker(struct block_workers *w)
{
	/* Without it the others do the work, or the loop itself. */
	if (thread_start(&w->threads[w->n_threads], "block_worker", WORKER_STACK_BYTES, work, w, NULL) == 0)
		w->n_threads++;
}

bool block_workers_push(struct block_lane *lane, struct block_request *r)
{
	struct block_workers *w = &lane->workers;
	assert(w->is_open);
	(void)pthread_mutex_lock(&w->lock);
	bool is_short = w->n_idle <= w->n_queued;
	(void)pthread_mutex_unlock(&w->lock);
	if (is_short && w->n_threads < BLOCK_WORKERS_MAX)
		start_worker(w);
	if (w->n_threads == 0)
		return false;

	(void)pthread_mutex_lock(&w->lock);
	block_fifo_push(&w->queued, r);
	w->n_queued++;
	(void)pthread_cond_signal(&w->work);
	(void)pthread_mutex_unlock(&w->lock);
	w->n_running++;
	return true;
}

unsigned block_workers_reap(struct block_lane *lane)
{
	struct block_workers *w = &lane->workers;
	if (!w->is_open)
		return 0;
	/* The counter first: a result that comes after the list was taken writes it again. */
	uint64_t n;
	(void)!read(w->event_fd, &n, sizeof n);
	(void)pthread_mutex_lock(&w->lock);
	struct block_fifo finished = w->finished;
	w->finished.first = NULL;
	(void)pthread_mutex_unlock(&w->lock);

	unsigned n_done = 0;
	for (struct block_request *r = block_fifo_pop(&finished); r; r = block_fifo_pop(&finished)) {
		assert(w->n_running > 0);
		w->n_running--;
		n_done++;
		block_lane_step_done(lane, r, r->step_result);
	}
	return n_done;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* block_impl.h - what the parts of the block backend know of each other; for block*.c, formats, and their tests.
 *
 * A format turns a request into steps on host files, one at a time, and judges each step's result; an engine carries
 * steps out. So both engines have the same semantics, and a format knows no engine. prepare() and finish() run on the
 * lane's loop; the image is shared by lanes, so what they write in it is atomic. */
#pragma once
#include "backend/block.h"
#include "base/checked.h"
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>

/* --- formats --- */

enum block_next {
	BLOCK_NEXT_STEP, /* r->step is to be carried out */
	BLOCK_NEXT_WAIT, /* a bounce buffer is needed and none is free: asked again when one is */
	BLOCK_NEXT_DONE, /* r->result is final */
};

struct block_format {
	const char *name;
	/* Asked again after a step that left more to do. Changes nothing but r, so that a step which was never carried
	 * out may be asked for again. */
	enum block_next (*prepare)(struct block_lane *lane, struct block_request *r);
	/* result: bytes moved, 0, or a negative errno. True: r->result is final. */
	bool (*finish)(struct block_lane *lane, struct block_request *r, long result);
};

extern const struct block_format block_raw_format;

/* block_open() with a format of the caller's. */
int block_open_format(const struct block_params *p, const struct block_format *f, struct block_image **ret_i,
                      struct err *e);

/* --- the image --- */

/* Written where a host cannot write zeroes itself: an anonymous mapping that is never touched costs no memory. */
#define BLOCK_ZEROES_BYTES (256u * 1024)

struct block_image {
	const struct block_format *format;
	struct log log;
	int fd;
	int buffered_fd; /* -1 unless direct I/O needs more than the 512 bytes that a guest is granted */
	struct block_limits limits;
	bool is_device, is_direct, has_no_io_uring;
	uint32_t memory_align, offset_align; /* of direct I/O */
	void *zeroes;
	/* Learned when the host refuses; never unlearned. */
	_Atomic bool has_no_punch, has_no_zero_range, has_no_discard;
	_Atomic bool has_said_workers; /* the log has been told that io_uring is not to be had */
	_Atomic bool was_changed; /* some request was more than a read */
};

/* Carries a step out on the calling thread. Bytes moved, 0, or a negative errno. */
long block_step_execute(const struct block_image *i, const struct block_step *s);

/* --- lanes --- */

struct block_fifo {
	struct block_request *first, *last;
};

static inline bool block_fifo_is_empty(const struct block_fifo *f)
{
	return !f->first;
}

static inline void block_fifo_push(struct block_fifo *f, struct block_request *r)
{
	r->next = NULL;
	if (f->first)
		f->last->next = r;
	else
		f->first = r;
	f->last = r;
}

static inline struct block_request *block_fifo_pop(struct block_fifo *f)
{
	struct block_request *r = f->first;
	if (r)
		f->first = r->next;
	return r;
}

/* f in front of what to holds; f is empty afterwards. */
static inline void block_fifo_move_to_front(struct block_fifo *f, struct block_fifo *to)
{
	if (!f->first)
		return;
	f->last->next = to->first;
	if (!to->first)
		to->last = f->last;
	to->first = f->first;
	f->first = NULL;
}

struct block_uring {
	struct io_uring ring;
	struct source source;
	struct block_fifo unsent; /* in the submission ring; the kernel has not taken them yet */
	unsigned n_unsent, n_in_kernel, n_max;
	bool is_open, is_broken, has_fixed_files;
};

#define BLOCK_WORKERS_MAX 4

struct block_workers {
	const struct block_image *image;
	pthread_mutex_t lock; /* guards the next five; a leaf */
	struct block_fifo queued, finished;
	unsigned n_queued, n_idle;
	bool is_stopping;
	pthread_cond_t work;
	struct source source;
	int event_fd;
	unsigned n_threads, n_running; /* steps handed over and not collected; the loop's */
	bool is_open;
	pthread_t threads[BLOCK_WORKERS_MAX];
};

enum block_engine { BLOCK_ENGINE_NONE, BLOCK_ENGINE_URING, BLOCK_ENGINE_WORKERS };

#define BLOCK_BOUNCE_BYTES (128u * 1024)
#define BLOCK_N_BOUNCE 4

struct block_lane {
	struct block_image *image;
	struct loop *loop;
	struct loop_hook hook;
	struct timer retry; /* the kernel was short of means: look again */
	enum block_engine engine;
	unsigned n_max, n_in_flight;
	struct block_fifo ready;   /* to be prepared */
	struct block_fifo waiting; /* for a bounce buffer */
	struct block_uring uring;
	struct block_workers workers;
	void *bounce_area;
	void *bounce_free[BLOCK_N_BOUNCE];
	unsigned n_bounce_free;
	bool is_batch_open; /* done() ran since the last end of a batch */
	void (*batch_end)(void *context);
	void *batch_context;
};

void *block_lane_take_bounce(struct block_lane *lane); /* NULL: none is free */
/* For engines: a step's result is known. */
void block_lane_step_done(struct block_lane *lane, struct block_request *r, long result);

/* --- engines; the lane's loop --- */

int block_uring_open(struct block_lane *lane, struct err *e);
void block_uring_close(struct block_lane *lane);
bool block_uring_has_room(const struct block_uring *u);
/* False: the submission ring is full and the kernel takes nothing now. */
bool block_uring_push(struct block_lane *lane, struct block_request *r);
/* 0, -EAGAIN to come again, or another error: the ring is of no use any more. */
int block_uring_flush(struct block_uring *u);
/* Hands the results that are there to the lane; how many. */
unsigned block_uring_reap(struct block_lane *lane);

int block_workers_open(struct block_lane *lane, struct err *e);
void block_workers_close(struct block_lane *lane);
/* False when there is no thread at all to carry it out. */
bool block_workers_push(struct block_lane *lane, struct block_request *r);
unsigned block_workers_reap(struct block_lane *lane);

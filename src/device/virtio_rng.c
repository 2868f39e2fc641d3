/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * A request is answered with as many bytes as the source gives at once, at least one (5.4.6.1), at most
 * VIRTIO_RNG_MAX_BYTES; a chain may list the same page a thousand times, and only its count would grow. When the source
 * has nothing now, the chain goes back into the ring, the queue is held, and the source's readiness brings us back: by
 * epoll where the source can be watched, and by a timer where it cannot or where it is at its end (a FIFO without a
 * writer, a file that was used up). Entropy is wiped from our memory once the guest has it. */
#include "device/virtio_rng.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/stat.h>

#define DEFAULT_SOURCE "/dev/urandom"
#define QUEUE_SIZE 256u
#define RUN_BYTES (256u * 1024) /* D17: then other sources of the loop get their turns */
#define RETRY_NS (500 * NS_PER_MS)

struct rng {
	struct virtio_device v;
	int fd;
	bool is_kernel; /* getrandom() instead of the descriptor */
	bool has_failed; /* told already */
	struct chain chain;
	struct source source; /* EPOLLONESHOT: armed while the source is empty */
	struct timer retry;
	uint8_t bytes[4096];
};

static struct rng *rng_of(struct virtio_device *v)
{
	return container_of(v, struct rng, v);
}

static int rng_open(struct virtio_device *v, const void *params, struct err *e)
{
	struct rng *r = rng_of(v);
	const struct virtio_rng_params *p = params;
	const char *src = p->source ? p->source : DEFAULT_SOURCE;
	struct stat st;

	/* O_NONBLOCK also lets a FIFO be opened before it has a writer. */
	r->fd = open(src, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (r->fd < 0)
		return err_set_errno(e, errno, "%s: cannot open the entropy source '%s'", v->id, src);
	if (fstat(r->fd, &st) < 0)
		return err_set_errno(e, errno, "%s: cannot examine the entropy source '%s'", v->id, src);
	if (S_ISDIR(st.st_mode))
		return err_set_errno(e, EISDIR, "%s: cannot use the entropy source '%s'", v->id, src);
	r->is_kernel = strcmp(src, DEFAULT_SOURCE) == 0;

	r->chain.iov = calloc(v->queue_size, sizeof *r->chain.iov);
	if (!r->chain.iov)
		return err_set(e, ENOMEM, "%s: no memory", v->id);
	r->chain.n_iov_capacity = v->queue_size;
	return 0;
}

static void rng_close(struct virtio_device *v)
{
	struct rng *r = rng_of(v);
	fd_close(&r->fd);
	free(r->chain.iov);
}

/* Bytes read, 0 at the source's end, or a negative errno; -EAGAIN: none now. */
static ssize_t read_source(struct rng *r, size_t n_bytes)
{
	if (r->is_kernel) {
		ssize_t n = getrandom(r->bytes, n_bytes, GRND_NONBLOCK);
		if (n >= 0)
			return n;
		if (errno == EAGAIN || errno == EINTR)
			return -EAGAIN;
		r->is_kernel = false; /* a kernel or a filter without the call: the descriptor is as good */
	}
	ssize_t n = read(r->fd, r->bytes, n_bytes);
	if (n >= 0)
		return n;
	return errno == EINTR ? -EAGAIN : -errno;
}

/* Fills the chain in hand; how many bytes it got, and in *ret_why why it did not get more: 0 or a read_source() result. */
static uint32_t fill_chain(struct rng *r, ssize_t *ret_why)
{
	uint32_t wanted = (uint32_t)min_u64(r->chain.n_in_bytes, VIRTIO_RNG_MAX_BYTES), n_done = 0;
	*ret_why = 1;
	while (n_done < wanted) {
		ssize_t n = read_source(r, (size_t)min_u64(wanted - n_done, sizeof r->bytes));
		*ret_why = n;
		if (n <= 0)
			break;
		(void)chain_write(&r->chain, n_done, r->bytes, (size_t)n);
		explicit_bzero(r->bytes, (size_t)n);
		n_done += (uint32_t)n;
	}
	return n_done;
}

static void on_retry(struct timer *t)
{
	virtio_kick_again(&container_of(t, struct rng, retry)->v, 0);
}

static void on_source(struct source *s, uint32_t events)
{
	struct rng *r = container_of(s, struct rng, source);
	/* Without EPOLLIN it is a hang-up or an error, which would come again at once: the timer paces that. */
	if (events & EPOLLIN)
		virtio_kick_again(&r->v, 0);
	else
		timer_set(s->loop, &r->retry, clock_now_ns() + RETRY_NS, on_retry);
}

static void wait_for_source(struct rng *r, ssize_t why)
{
	if (why != 0 && why != -EAGAIN && !r->has_failed) {
		struct err err;
		r->has_failed = true;
		(void)err_set_errno(&err, (int)-why, "the entropy source cannot be read");
		log_error(&r->v.log, "%s", err.text);
	} else if (why == 0 && !r->has_failed) {
		r->has_failed = true;
		log_warn(&r->v.log, "the entropy source is at its end; requests wait for more");
	}
	bool is_watched = why == -EAGAIN && r->source.loop && loop_change(&r->source, EPOLLIN | EPOLLONESHOT) == 0;
	if (!is_watched)
		timer_set(r->v.io_loop, &r->retry, clock_now_ns() + RETRY_NS, on_retry);
}

static void rng_kick(struct virtio_device *v, unsigned queue)
{
	struct rng *r = rng_of(v);
	struct queue *q = &v->queues[queue];
	uint32_t n_left = RUN_BYTES;

	while (n_left >= VIRTIO_RNG_MAX_BYTES && queue_next(q, &r->chain) > 0) {
		ssize_t why;
		uint32_t n = fill_chain(r, &why);
		/* A chain without room (5.4.6 wants device-writable buffers) goes back empty. */
		if (n == 0 && r->chain.n_in_bytes) {
			queue_undo(q, &r->chain);
			queue_hold(q);
			wait_for_source(r, why);
			return;
		}
		queue_put(q, &r->chain, n);
		n_left -= n;
	}
}

static int rng_start(struct virtio_device *v, unsigned queue, struct err *e)
{
	struct rng *r = rng_of(v);
	(void)queue;
	int rc = loop_add(v->io_loop, &r->source, r->fd, EPOLLONESHOT, on_source, e);
	return rc == -EPERM ? 0 : rc; /* a regular file cannot be watched */
}

static void rng_stop(struct virtio_device *v, unsigned queue)
{
	struct rng *r = rng_of(v);
	(void)queue;
	loop_remove(&r->source);
	timer_cancel(&r->retry);
}

const struct virtio_class virtio_rng = {
	.name = "rng",
	.virtio_id = VIRTIO_ID_ENTROPY,
	.n_queues = 1,
	.size = sizeof(struct rng),
	.queue_size = QUEUE_SIZE,
	.open = rng_open,
	.close = rng_close,
	.start = rng_start,
	.stop = rng_stop,
	.kick = rng_kick,
};

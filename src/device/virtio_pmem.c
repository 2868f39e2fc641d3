/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * A flush is one of the image: a lane of the block backend carries it out, by io_uring or a worker thread. Syncing the file
 * is enough for what was written through the mapping: a page that a vCPU may write to counts as dirty for the kernel, and is
 * made read-only for the guest before it is written back.
 *
 * Each chain in flight has a request of its own, as many as the queue is long, so that there is always one. Of the chain
 * only the four bytes of the answer are kept, which may lie in as many buffers. */
#include "device/virtio_pmem.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define QUEUE_SIZE 64u

/* 5.19.4 struct virtio_pmem_config: offsets */
enum { SPACE_START = 0, SPACE_SIZE = 8, SPACE_BYTES = 16 };

/* 5.19.6, 5.19.7: one le32 there, one back */
#define REQUEST_BYTES 4u
#define RESPONSE_BYTES 4u
#define VIRTIO_PMEM_REQ_TYPE_FLUSH 0u
#define RET_SUCCESS 0u
#define RET_FAILURE UINT32_MAX /* -1 */

struct pmem_request {
	struct block_request io;
	struct virtio_pmem *pmem;
	struct pmem_request *next_free;
	struct chain chain; /* the answer's part of it */
	struct iovec response[RESPONSE_BYTES];
};

struct virtio_pmem {
	struct virtio_device v;
	struct block_image *image;
	/* The loop's. */
	struct block_lane *lane;
	struct iovec *scratch;
	struct pmem_request *requests, *free_requests;
};

static struct virtio_pmem *pmem_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_pmem, v);
}

static void answer(struct virtio_device *v, const struct chain *c, uint32_t ret)
{
	uint8_t b[RESPONSE_BYTES];
	put_le32(b, ret);
	size_t n = chain_write(c, 0, b, sizeof b);
	assert(n == sizeof b);
	queue_put(&v->queues[0], c, sizeof b);
}

/* --- flushes --- */

static void on_flushed(struct block_request *io, int result)
{
	struct pmem_request *r = container_of(io, struct pmem_request, io);
	answer(&r->pmem->v, &r->chain, result < 0 ? RET_FAILURE : RET_SUCCESS);
	r->next_free = r->pmem->free_requests;
	r->pmem->free_requests = r;
}

static void on_batch_end(void *context)
{
	struct virtio_pmem *p = context;
	virtio_signal(&p->v, 0);
}

static void flush(struct virtio_pmem *p, const struct chain *c)
{
	struct pmem_request *r = p->free_requests;
	assert(r); /* the queue is no longer than they are many */
	p->free_requests = r->next_free;
	int n_iov = chain_slice(c, true, 0, RESPONSE_BYTES, r->response, RESPONSE_BYTES);
	assert(n_iov > 0);
	r->chain = (struct chain){
		.head = c->head, .n_in = (uint16_t)n_iov, .n_in_bytes = RESPONSE_BYTES, .iov = r->response,
		.n_iov_capacity = RESPONSE_BYTES, .may_fault = c->may_fault,
	};
	r->io = (struct block_request){ .op = BLOCK_FLUSH, .done = on_flushed };
	block_submit(p->lane, &r->io);
}

static void pmem_kick(struct virtio_device *v, unsigned queue)
{
	struct virtio_pmem *p = pmem_of(v);
	struct queue *q = &v->queues[queue];
	struct chain c = { .iov = p->scratch, .n_iov_capacity = v->queue_size };
	uint8_t b[REQUEST_BYTES];

	while (queue_next(q, &c) > 0) {
		if (c.n_in_bytes < RESPONSE_BYTES) {
			queue_break(q, QUEUE_DEVICE_RULE);
			return;
		}
		bool is_whole = chain_read(&c, 0, b, sizeof b) == sizeof b;
		if (is_whole && get_le32(b) == VIRTIO_PMEM_REQ_TYPE_FLUSH) {
			flush(p, &c);
			continue;
		}
		guest_warn(&v->log, &v->guest_limit, "a request %s", is_whole ? "of a type that does not exist" : "is cut off");
		answer(v, &c, RET_FAILURE);
	}
}

/* --- the class --- */

static int pmem_open(struct virtio_device *v, const void *params, struct err *e)
{
	const struct virtio_pmem_params *from = params;
	struct virtio_pmem *p = pmem_of(v);

	p->image = from->image;
	put_le64(v->space + SPACE_START, from->start.v);
	put_le64(v->space + SPACE_SIZE, from->n_bytes);
	p->requests = calloc(v->queue_size, sizeof *p->requests);
	p->scratch = calloc(v->queue_size, sizeof *p->scratch);
	return p->requests && p->scratch ? 0 : err_set(e, ENOMEM, "%s: no memory", v->id);
}

static void pmem_close(struct virtio_device *v)
{
	struct virtio_pmem *p = pmem_of(v);
	assert(!p->lane);
	free(p->requests);
	free(p->scratch);
}

static int pmem_start(struct virtio_device *v, unsigned queue, struct err *e)
{
	struct virtio_pmem *p = pmem_of(v);
	assert(!p->lane);
	int rc = block_lane_open(p->image, v->slots[queue].loop, v->queue_size, &p->lane, e);
	if (rc < 0)
		return rc;
	block_lane_on_batch_end(p->lane, on_batch_end, p);
	p->free_requests = NULL;
	for (unsigned i = 0; i < v->queue_size; i++) {
		p->requests[i].pmem = p;
		p->requests[i].next_free = p->free_requests;
		p->free_requests = &p->requests[i];
	}
	return 0;
}

static void pmem_stop(struct virtio_device *v, unsigned queue)
{
	struct virtio_pmem *p = pmem_of(v);
	(void)queue;
	if (!p->lane)
		return;
	block_drain(p->lane);
	block_lane_close(p->lane);
	p->lane = NULL;
}

const struct virtio_class virtio_pmem = {
	.name = "pmem",
	.virtio_id = VIRTIO_ID_PMEM,
	.n_queues = 1,
	.n_space_bytes = SPACE_BYTES,
	.size = sizeof(struct virtio_pmem),
	.queue_size = QUEUE_SIZE,
	.has_queue_threads = true, /* whose stop waits for the host, and keeps no other device waiting */
	.open = pmem_open,
	.close = pmem_close,
	.start = pmem_start,
	.stop = pmem_stop,
	.kick = pmem_kick,
};

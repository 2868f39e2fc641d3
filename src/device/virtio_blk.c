// SPDX-License-Identifier: Apache-2.0
/* Theory of operation.
 *
 * kick() walks each chain into the queue's scratch array, copies it into a request, and reads the header. The data's
 * iovecs, a second array that the backend may advance, follow the chain's in the same cells. Short chains fit in the
 * request itself; longer ones borrow one of a bounded number of slots, and when none is left the chain goes back into
 * the ring until one is. All of it lies in one mapping a queue, made in open(): pages that were never needed cost
 * nothing, and the lists hand out what was used last, so that a quiet disk touches few.
 *
 * A disk with a rate limit takes a chain only when the budget has room for it. Else the chain goes back, and the queue
 * rests, without kicks, until its gate wakes it (rate_limit.h). One request is one operation, whatever its type; reads and
 * writes cost their data besides.
 *
 * A request may be several operations of the backend, one after the other: the segments of a discard, and in
 * writethrough mode a flush behind every write (5.2.6.2, stable writes). The status is the last writable byte, wherever
 * it falls. The driver is told once for each batch of completions. */
#include "device/virtio_blk.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "device/blk_counters.h"
#include "device/rate_limit.h"
#include "device/virtio_blk_space.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* 5.2.6 Device operation */
#define HEADER_BYTES 16u
#define SEGMENT_BYTES 16u
#define VIRTIO_BLK_T_IN 0u
#define VIRTIO_BLK_T_OUT 1u
#define VIRTIO_BLK_T_FLUSH 4u
#define VIRTIO_BLK_T_GET_ID 8u
#define VIRTIO_BLK_T_DISCARD 11u
#define VIRTIO_BLK_T_WRITE_ZEROES 13u
#define VIRTIO_BLK_S_OK 0u
#define VIRTIO_BLK_S_IOERR 1u
#define VIRTIO_BLK_S_UNSUPP 2u
#define SEGMENT_F_UNMAP 1u

struct segment { /* 5.2.6, checked; takes a cell */
	uint64_t sector;
	uint32_t n_sectors, flags;
};

_Static_assert(sizeof(struct segment) == sizeof(struct iovec), "both are cells");

/* Chains of up to SMALL_IOVS buffers need no slot: twice as many cells, or room for BLK_MAX_SEGMENTS behind them. */
#define SMALL_IOVS 12u
#define SMALL_CELLS (SMALL_IOVS + BLK_MAX_SEGMENTS)
#define SLOT_AREA_BYTES (4u << 20)

_Static_assert(SMALL_CELLS >= 2 * SMALL_IOVS, "a small chain fits with its data");

struct blk_request {
	struct block_request io;
	struct blk_queue *queue;
	struct blk_request *next_free;
	struct chain chain;
	struct iovec *slot;    /* NULL: `small` */
	struct iovec *cells;   /* behind the chain's: the data's iovecs, or the segments */
	bool has_header;
	uint32_t type;         /* UINT32_MAX without a header */
	uint64_t sector;
	uint32_t n_done_bytes; /* written at the front of the writable part when all goes well */
	unsigned n_segments, n_next_segment;
	uint64_t start_ns;
	bool is_flushing;
	struct iovec small[SMALL_CELLS];
};

/* The owner loop's, from start to stop. */
struct blk_queue {
	struct virtio_blk *blk;
	unsigned index;
	struct block_lane *lane;
	void *area;
	size_t n_area_bytes;
	struct iovec *scratch;
	struct blk_request *requests, *free_requests;
	struct iovec *slots, *free_slots; /* linked by their first cell */
	unsigned n_touched_requests, n_touched_slots, n_slots;
	bool is_starved; /* a chain went back for want of a slot */
	struct rate_gate gate;
	uint64_t turn_ns; /* when the batch of kicks or completions at hand began; 0 between */
	struct blk_counters counters;
};

struct virtio_blk {
	struct virtio_device v;
	struct block_image *image;
	struct rate_limit *limit;
	bool is_readonly;
	_Atomic uint64_t n_sectors; /* grows while queues run; never beyond the image */
	uint8_t serial[VIRTIO_BLK_ID_BYTES];
	enum { WRITEBACK_DEFAULT, WRITEBACK_OFF, WRITEBACK_ON } _Atomic writeback; /* as the driver chose */
	struct log_limit host_limit;
	struct blk_queue *queues;
};

static struct virtio_blk *blk_of(struct virtio_device *v)
{
	return container_of(v, struct virtio_blk, v);
}

/* --- requests and slots --- */

static size_t cells_per_slot(const struct virtio_device *v)
{
	return 2 * (size_t)v->queue_size + BLK_MAX_SEGMENTS;
}

static int map_area(struct blk_queue *bq, struct err *e)
{
	const struct virtio_device *v = &bq->blk->v;
	size_t n_slot_bytes = cells_per_slot(v) * sizeof(struct iovec);
	size_t n_scratch_bytes = v->queue_size * sizeof(struct iovec);
	size_t n_request_bytes = v->queue_size * sizeof(struct blk_request);
	size_t n_fit = SLOT_AREA_BYTES / n_slot_bytes;

	bq->n_slots = n_fit > v->queue_size ? v->queue_size : n_fit < 2 ? 2 : (unsigned)n_fit;
	size_t n = n_scratch_bytes + n_request_bytes + bq->n_slots * n_slot_bytes;
	uint8_t *area = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED)
		return err_set(e, ENOMEM, "%s: no memory for the requests of a queue", v->id);
	bq->area = area;
	bq->n_area_bytes = n;
	bq->scratch = (void *)area;
	bq->slots = (void *)(area + n_scratch_bytes);
	bq->requests = (void *)(area + n_scratch_bytes + bq->n_slots * n_slot_bytes);
	return 0;
}

static struct iovec *take_slot(struct blk_queue *bq)
{
	struct iovec *s = bq->free_slots;
	if (s)
		bq->free_slots = s->iov_base;
	else if (bq->n_touched_slots < bq->n_slots)
		s = bq->slots + cells_per_slot(&bq->blk->v) * bq->n_touched_slots++;
	return s;
}

/* NULL: no slot for a chain that needs one. Requests themselves cannot run out: at most as many heads are in flight as
 * the queue has (D16). */
static struct blk_request *take_request(struct blk_queue *bq, const struct chain *c)
{
	unsigned n_iovs = (unsigned)c->n_out + c->n_in;
	struct iovec *slot = NULL;
	if (n_iovs > SMALL_IOVS) {
		slot = take_slot(bq);
		if (!slot)
			return NULL;
	}
	struct blk_request *r = bq->free_requests;
	if (r) {
		bq->free_requests = r->next_free;
	} else {
		assert(bq->n_touched_requests < bq->blk->v.queue_size);
		r = &bq->requests[bq->n_touched_requests++];
	}
	r->queue = bq;
	r->slot = slot;
	r->chain = *c;
	r->chain.iov = slot ? slot : r->small;
	memcpy(r->chain.iov, c->iov, n_iovs * sizeof *c->iov);
	r->cells = r->chain.iov + n_iovs;
	r->n_done_bytes = 0;
	r->n_segments = r->n_next_segment = 0;
	r->is_flushing = false;
	return r;
}

static void give_request(struct blk_request *r)
{
	struct blk_queue *bq = r->queue;
	if (r->slot) {
		r->slot->iov_base = bq->free_slots;
		bq->free_slots = r->slot;
		if (bq->is_starved)
			virtio_kick_again(&bq->blk->v, bq->index);
		bq->is_starved = false;
	}
	r->next_free = bq->free_requests;
	bq->free_requests = r;
}

/* --- answers --- */

/* One look at the clock serves a whole batch. */
static uint64_t turn_time(struct blk_queue *bq)
{
	if (!bq->turn_ns)
		bq->turn_ns = clock_now_ns();
	return bq->turn_ns;
}

static void count(struct blk_request *r)
{
	struct blk_queue *bq = r->queue;
	uint64_t latency_ns = turn_time(bq) - r->start_ns;
	if (r->type == VIRTIO_BLK_T_IN)
		blk_count(&bq->counters, BLK_READ, r->n_done_bytes, latency_ns);
	else if (r->type == VIRTIO_BLK_T_OUT)
		blk_count(&bq->counters, BLK_WRITE, r->chain.n_out_bytes - HEADER_BYTES, latency_ns);
}

/* Of a failed request no data counts, though some may have been written. */
static void finish(struct blk_request *r, uint8_t status)
{
	struct virtio_device *v = &r->queue->blk->v;
	struct chain *c = &r->chain;
	uint32_t n = status == VIRTIO_BLK_S_OK ? r->n_done_bytes : 0;
	size_t n_written = chain_write(c, c->n_in_bytes - 1, &status, 1);
	assert(n_written == 1);

	/* 2.7.8.2: the length counts bytes from the front without a gap. What lies behind one is dirty all the same. */
	if (n == c->n_in_bytes - 1) {
		n++;
	} else {
		for (unsigned i = c->n_out; i < (unsigned)c->n_out + c->n_in; i++)
			mem_mark_dirty_host(v->mem, c->iov[i].iov_base, c->iov[i].iov_len);
	}
	queue_put(&v->queues[r->queue->index], c, n);
	give_request(r);
}

/* Answers a request that the driver got wrong. */
static void refuse(struct blk_request *r, uint8_t status, const char *why)
{
	struct virtio_device *v = &r->queue->blk->v;
	guest_warn(&v->log, &v->guest_limit, "request of type %u: %s", r->type, why);
	finish(r, status);
}

/* 5.2.6.2: when the driver may take a completed write for a stable one. */
static bool is_writethrough(const struct virtio_blk *b)
{
	bool has_flush = virtio_has_feature(&b->v, VIRTIO_BLK_F_FLUSH);
	if (!virtio_has_feature(&b->v, VIRTIO_BLK_F_CONFIG_WCE))
		return !has_flush;
	/* 5.2.5.2: without FLUSH the field starts as 0. */
	return b->writeback == WRITEBACK_OFF || (b->writeback == WRITEBACK_DEFAULT && !has_flush);
}

static void submit_segment(struct blk_request *r)
{
	const struct segment *s = (const struct segment *)(const void *)r->cells + r->n_next_segment++;
	r->io.op = r->type == VIRTIO_BLK_T_DISCARD ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES;
	r->io.may_unmap = (s->flags & SEGMENT_F_UNMAP) != 0;
	r->io.offset_bytes = s->sector * BLK_SECTOR_BYTES;
	r->io.n_bytes = (uint64_t)s->n_sectors * BLK_SECTOR_BYTES;
	block_submit(r->queue->lane, &r->io);
}

static void on_io_done(struct block_request *io, int result)
{
	struct blk_request *r = container_of(io, struct blk_request, io);
	struct virtio_blk *b = r->queue->blk;

	if (result < 0) {
		if (b->v.log.sink && log_limit_pass(&b->v.log, &b->host_limit))
			log_error(&b->v.log, "I/O error: type %u, offset %llu, %llu bytes: %s", r->type,
			          (unsigned long long)io->offset_bytes, (unsigned long long)io->n_bytes,
			          strerror(-result));
		finish(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (r->n_next_segment < r->n_segments) {
		submit_segment(r);
		return;
	}
	bool is_write = r->type == VIRTIO_BLK_T_OUT || r->type == VIRTIO_BLK_T_WRITE_ZEROES;
	if (is_write && !r->is_flushing && is_writethrough(b)) {
		r->is_flushing = true;
		io->op = BLOCK_FLUSH;
		block_submit(r->queue->lane, io);
		return;
	}
	count(r);
	finish(r, VIRTIO_BLK_S_OK);
}

static void on_batch_end(void *context)
{
	struct blk_queue *bq = context;
	bq->turn_ns = 0;
	virtio_signal(&bq->blk->v, bq->index);
}

/* --- requests, as the driver wrote them --- */

static bool is_in_disk(const struct virtio_blk *b, uint64_t sector, uint64_t n_sectors)
{
	uint64_t n_disk_sectors = b->n_sectors; /* once: it may grow between two looks */
	return sector <= n_disk_sectors && n_sectors <= n_disk_sectors - sector;
}

static void read_header(struct blk_request *r)
{
	uint8_t header[HEADER_BYTES];
	r->has_header = chain_read(&r->chain, 0, header, sizeof header) == sizeof header;
	r->type = r->has_header ? get_le32(header) : UINT32_MAX;
	r->sector = r->has_header ? get_le64(header + 8) : 0;
}

/* Of a read or a write; 0 of all else. */
static uint32_t data_bytes(const struct blk_request *r)
{
	if (r->type == VIRTIO_BLK_T_IN)
		return r->chain.n_in_bytes - 1;
	return r->type == VIRTIO_BLK_T_OUT ? r->chain.n_out_bytes - HEADER_BYTES : 0;
}

static void begin_transfer(struct blk_request *r)
{
	bool is_read = r->type == VIRTIO_BLK_T_IN;
	uint32_t n_bytes = data_bytes(r);

	if (n_bytes % BLK_SECTOR_BYTES) {
		refuse(r, VIRTIO_BLK_S_IOERR, "the data is no multiple of 512 bytes");
		return;
	}
	if (!is_in_disk(r->queue->blk, r->sector, n_bytes / BLK_SECTOR_BYTES)) {
		refuse(r, VIRTIO_BLK_S_IOERR, "beyond the disk's end");
		return;
	}
	int n_max = r->chain.n_out + r->chain.n_in;
	int n_iov = chain_slice(&r->chain, is_read, is_read ? 0 : HEADER_BYTES, n_bytes, r->cells, n_max);
	assert(n_iov >= 0); /* a part of the chain is no longer than the chain */
	r->n_done_bytes = is_read ? n_bytes : 0;
	r->io.op = is_read ? BLOCK_READ : BLOCK_WRITE;
	r->io.offset_bytes = r->sector * BLK_SECTOR_BYTES;
	r->io.n_bytes = n_bytes;
	r->io.iov = r->cells;
	r->io.n_iov = n_iov;
	r->io.may_fault = r->chain.may_fault;
	r->start_ns = turn_time(r->queue);
	block_submit(r->queue->lane, &r->io);
}

static void begin_get_id(struct blk_request *r)
{
	/* The driver MUST ask for 20 bytes (5.2.6.1); one that asks for fewer gets what fits. */
	uint32_t n = (uint32_t)min_u64(r->chain.n_in_bytes - 1, VIRTIO_BLK_ID_BYTES);
	size_t n_written = chain_write(&r->chain, 0, r->queue->blk->serial, n);
	assert(n_written == n);
	r->n_done_bytes = n;
	finish(r, VIRTIO_BLK_S_OK);
}

/* All segments are copied and checked before the first is carried out. */
static uint8_t read_segments(struct blk_request *r, unsigned n_segments, const char **ret_why)
{
	bool is_discard = r->type == VIRTIO_BLK_T_DISCARD;
	uint32_t max_sectors = is_discard ? BLK_MAX_DISCARD_SECTORS : BLK_MAX_WRITE_ZEROES_SECTORS;
	struct segment *s = (struct segment *)(void *)r->cells;
	uint8_t status = VIRTIO_BLK_S_OK;

	for (unsigned i = 0; i < n_segments; i++) {
		uint8_t b[SEGMENT_BYTES];
		if (chain_read(&r->chain, HEADER_BYTES + (size_t)i * SEGMENT_BYTES, b, sizeof b) != sizeof b) {
			*ret_why = "a segment is gone";
			return VIRTIO_BLK_S_IOERR;
		}
		s[i] = (struct segment){
			.sector = get_le64(b), .n_sectors = get_le32(b + 8), .flags = get_le32(b + 12),
		};
		/* 5.2.6.2: flags first, whatever else is wrong in any segment. */
		if (s[i].flags & ~(is_discard ? 0u : SEGMENT_F_UNMAP)) {
			*ret_why = "a segment has a flag that it may not have";
			return VIRTIO_BLK_S_UNSUPP;
		}
		if (s[i].n_sectors > max_sectors || !is_in_disk(r->queue->blk, s[i].sector, s[i].n_sectors)) {
			*ret_why = "a segment is too long, or beyond the disk's end";
			status = VIRTIO_BLK_S_IOERR;
		}
	}
	return status;
}

static void begin_segments(struct blk_request *r)
{
	uint64_t feature = r->type == VIRTIO_BLK_T_DISCARD ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;
	uint32_t n_bytes = r->chain.n_out_bytes - HEADER_BYTES, n_segments = n_bytes / SEGMENT_BYTES;
	const char *why = NULL;

	if (!virtio_has_feature(&r->queue->blk->v, feature)) {
		refuse(r, VIRTIO_BLK_S_UNSUPP, "its feature was not negotiated");
		return;
	}
	if (n_bytes % SEGMENT_BYTES || n_segments == 0 || n_segments > BLK_MAX_SEGMENTS) {
		refuse(r, VIRTIO_BLK_S_IOERR, "its segments are cut off, or none, or too many");
		return;
	}
	uint8_t status = read_segments(r, n_segments, &why);
	if (status != VIRTIO_BLK_S_OK) {
		refuse(r, status, why);
		return;
	}
	r->n_segments = n_segments;
	submit_segment(r);
}

static void begin_request(struct blk_request *r)
{
	const struct virtio_blk *b = r->queue->blk;

	if (!r->has_header) {
		refuse(r, VIRTIO_BLK_S_IOERR, "its header is cut off, or gone");
		return;
	}
	r->io = (struct block_request){ .done = on_io_done };

	bool is_change = r->type == VIRTIO_BLK_T_OUT || r->type == VIRTIO_BLK_T_DISCARD ||
	                 r->type == VIRTIO_BLK_T_WRITE_ZEROES;
	if (is_change && b->is_readonly) {
		refuse(r, VIRTIO_BLK_S_IOERR, "the disk is read-only");
		return;
	}
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		begin_transfer(r);
		break;
	case VIRTIO_BLK_T_FLUSH:
		r->io.op = BLOCK_FLUSH;
		block_submit(r->queue->lane, &r->io);
		break;
	case VIRTIO_BLK_T_GET_ID:
		begin_get_id(r);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		begin_segments(r);
		break;
	default: /* SCSI commands among them: they are not for us */
		refuse(r, VIRTIO_BLK_S_UNSUPP, "not supported");
		break;
	}
}

static void take_chains(struct virtio_device *v, unsigned queue)
{
	struct blk_queue *bq = &blk_of(v)->queues[queue];
	struct queue *q = &v->queues[queue];
	struct chain c = { .iov = bq->scratch, .n_iov_capacity = v->queue_size };

	if (rate_gate_is_waiting(&bq->gate)) {
		queue_hold(q); /* a kick from before the driver saw that we are quiet; the ring waits for the gate */
		return;
	}
	while (queue_next(q, &c) > 0) {
		if (c.n_in_bytes == 0) {
			queue_break(q, QUEUE_DEVICE_RULE); /* D12: no byte to put a status in */
			return;
		}
		struct blk_request *r = take_request(bq, &c);
		if (!r) {
			queue_undo(q, &c);
			queue_hold(q);
			bq->is_starved = true; /* slots are out, so one will come back, and we with it */
			return;
		}
		read_header(r);
		if (!rate_gate_pass(&bq->gate, data_bytes(r), turn_time(bq))) {
			give_request(r);
			queue_undo(q, &c);
			queue_hold(q);
			return;
		}
		begin_request(r);
	}
}

static void on_budget(struct rate_gate *g)
{
	struct blk_queue *bq = container_of(g, struct blk_queue, gate);
	virtio_kick_again(&bq->blk->v, bq->index);
}

static void blk_kick(struct virtio_device *v, unsigned queue)
{
	struct blk_queue *bq = &blk_of(v)->queues[queue];
	take_chains(v, queue);
	rate_gate_end_run(&bq->gate);
	bq->turn_ns = 0;
}

/* --- the configuration space, under the device's lock --- */

static void blk_space_read(struct virtio_device *v, unsigned offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	memcpy(ret_bytes, v->space + offset, n_bytes);
	if (offset <= SPACE_WRITEBACK && SPACE_WRITEBACK - offset < n_bytes)
		ret_bytes[SPACE_WRITEBACK - offset] = !is_writethrough(blk_of(v));
}

static bool blk_space_write(struct virtio_device *v, unsigned offset, const uint8_t *bytes, unsigned n_bytes)
{
	bool is_writeback = offset == SPACE_WRITEBACK && n_bytes == 1 && virtio_has_feature(v, VIRTIO_BLK_F_CONFIG_WCE);
	if (!is_writeback || *bytes > 1)
		return false;
	blk_of(v)->writeback = *bytes ? WRITEBACK_ON : WRITEBACK_OFF;
	return true;
}

/* --- the class --- */

static int blk_open(struct virtio_device *v, const void *params, struct err *e)
{
	const struct virtio_blk_params *p = params;
	struct virtio_blk *b = blk_of(v);
	struct block_limits l;

	if (p->n_queues < 1 || p->n_queues > VIRTIO_MAX_QUEUES)
		return err_set(e, EINVAL, "%s: the number of queues %u is not from 1 to %u", v->id, p->n_queues,
		               VIRTIO_MAX_QUEUES);
	block_image_limits(p->image, &l);
	v->n_queues = p->n_queues;
	b->image = p->image;
	b->limit = p->limit;
	b->is_readonly = p->is_readonly || l.is_readonly;
	b->n_sectors = l.n_bytes / BLK_SECTOR_BYTES;
	memcpy(b->serial, p->serial, sizeof b->serial);

	blk_space_fill(v, &l, b->is_readonly);

	b->queues = calloc(v->n_queues, sizeof *b->queues);
	if (!b->queues)
		return err_set(e, ENOMEM, "%s: no memory", v->id);
	for (unsigned i = 0; i < v->n_queues; i++) {
		b->queues[i].blk = b;
		b->queues[i].index = i;
		int rc = map_area(&b->queues[i], e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void blk_close(struct virtio_device *v)
{
	struct virtio_blk *b = blk_of(v);
	for (unsigned i = 0; b->queues && i < v->n_queues; i++) {
		assert(!b->queues[i].lane);
		if (b->queues[i].area)
			(void)munmap(b->queues[i].area, b->queues[i].n_area_bytes);
	}
	free(b->queues);
	b->queues = NULL;
}

static int blk_start(struct virtio_device *v, unsigned queue, struct err *e)
{
	struct blk_queue *bq = &blk_of(v)->queues[queue];
	assert(!bq->lane);
	int rc = block_lane_open(blk_of(v)->image, v->slots[queue].loop, v->queues[queue].config.size, &bq->lane, e);
	if (rc < 0)
		return rc;
	block_lane_on_batch_end(bq->lane, on_batch_end, bq);
	rate_gate_open(&bq->gate, blk_of(v)->limit, v->slots[queue].loop, on_budget);
	return 0;
}

static void blk_stop(struct virtio_device *v, unsigned queue)
{
	struct blk_queue *bq = &blk_of(v)->queues[queue];
	if (!bq->lane)
		return;
	rate_gate_shut(&bq->gate);
	block_drain(bq->lane);
	block_lane_close(bq->lane);
	bq->lane = NULL;
	bq->is_starved = false;
	bq->free_requests = NULL;
	bq->free_slots = NULL;
	bq->n_touched_requests = bq->n_touched_slots = 0;
	(void)madvise(bq->area, bq->n_area_bytes, MADV_DONTNEED);
}

static void blk_counters(struct virtio_device *v, void (*add)(void *context, const char *name, uint64_t value),
                         void *context)
{
	const struct virtio_blk *b = blk_of(v);
	struct blk_sum sum = { 0 };
	for (unsigned i = 0; i < v->n_queues; i++)
		blk_sum_add(&sum, &b->queues[i].counters);
	blk_sum_report(&sum, add, context);
}

void virtio_blk_resized(struct virtio_device *v)
{
	assert(v->cls == &virtio_blk);
	struct virtio_blk *b = blk_of(v);
	struct block_limits l;
	uint8_t capacity[8];

	block_image_limits(b->image, &l);
	uint64_t n_sectors = l.n_bytes / BLK_SECTOR_BYTES;
	put_le64(capacity, n_sectors);
	/* Queues first: a driver that has seen the new capacity (5.2.4, 2.5.4) is not to be refused what lies there. */
	b->n_sectors = n_sectors;
	virtio_space_update(v, SPACE_CAPACITY, capacity, sizeof capacity);
}

static void blk_reset(struct virtio_device *v)
{
	blk_of(v)->writeback = WRITEBACK_DEFAULT;
}

const struct virtio_class virtio_blk = {
	.name = "block",
	.virtio_id = VIRTIO_ID_BLOCK,
	.features = BLK_SPACE_FEATURES,
	.n_space_bytes = SPACE_BYTES,
	.size = sizeof(struct virtio_blk),
	.queue_size = 128,
	.has_queue_threads = true,
	.open = blk_open,
	.close = blk_close,
	.start = blk_start,
	.stop = blk_stop,
	.reset = blk_reset,
	.kick = blk_kick,
	.counters = blk_counters,
	.space_read = blk_space_read,
	.space_write = blk_space_write,
};

/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * The three ring areas are checked once, as spans, when the queue starts; from then on every access is an offset into a
 * span, bounded by the size that was frozen at the same moment. A descriptor is 16 bytes and is copied in one piece
 * before any of its fields is looked at, so the driver cannot change a field between check and use.
 *
 * Indices in the rings run freely modulo 2^16; `n_next_avail` and `n_used` are ours and are never read back from guest
 * memory. A chain's head is marked in `in_flight` from queue_next() to queue_put(): a driver that offers a head again
 * before it was given back breaks its own ring, and in-flight chains can never be more than the ring's size.
 *
 * Notification both ways is by event index when negotiated (2.7.7.2, 2.7.10), by the flags of the rings otherwise. The
 * rule that avoids a lost kick is in queue_end(): publish the wish for a kick, full fence, look again. */
#include "virtio/queue.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/virtio.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define DESC_BYTES 16u
#define DESC_F_NEXT 1u
#define DESC_F_WRITE 2u
#define DESC_F_INDIRECT 4u
#define AVAIL_F_NO_INTERRUPT 1u
#define USED_F_NO_NOTIFY 1u

/* 2.7.6 and 2.7.8: flags, idx, ring, then the event field that EVENT_IDX gives a meaning. */
#define RING_FLAGS 0u
#define RING_IDX 2u
#define RING_ENTRIES 4u

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

static const char *const fault_names[] = {
	[QUEUE_OK] = "no fault",
	[QUEUE_BAD_SIZE] = "the queue's size is 0, no power of two, or above the maximum",
	[QUEUE_BAD_ALIGNMENT] = "a ring is not aligned",
	[QUEUE_BAD_ADDRESS] = "a ring is not in guest memory",
	[QUEUE_BAD_AVAIL_INDEX] = "the available index is more than a queue ahead",
	[QUEUE_BAD_HEAD] = "a head index is not below the queue's size",
	[QUEUE_BAD_NEXT] = "a next index is not below the table's size",
	[QUEUE_CHAIN_TOO_LONG] = "a descriptor chain is longer than the queue",
	[QUEUE_BAD_BUFFER] = "a buffer is not in guest memory",
	[QUEUE_TOO_MANY_BYTES] = "a chain has more than 2^32 - 1 bytes",
	[QUEUE_READABLE_AFTER_WRITABLE] = "a readable buffer follows a writable one",
	[QUEUE_BAD_FLAGS] = "a descriptor has flags that are not defined",
	[QUEUE_BAD_INDIRECT] = "an indirect descriptor breaks the rules for them",
	[QUEUE_HEAD_IN_FLIGHT] = "a head was offered again before it was given back",
	[QUEUE_EMPTY_CHAIN] = "a chain has no bytes at all",
	[QUEUE_DEVICE_RULE] = "a chain has a shape that the device cannot answer",
};

const char *queue_fault_name(enum queue_fault f)
{
	assert((size_t)f < ARRAY_LEN(fault_names) && fault_names[f]);
	return fault_names[f];
}

int queue_init(struct queue *q, unsigned max_size, struct err *e)
{
	assert(is_power_of_two(max_size) && max_size <= QUEUE_MAX_SIZE);
	memset(q, 0, sizeof *q);
	q->max_size = max_size;
	q->in_flight = calloc((max_size + 63) / 64, sizeof *q->in_flight);
	if (!q->in_flight)
		return err_set(e, ENOMEM, "virtqueue: no memory");
	return 0;
}

void queue_done(struct queue *q)
{
	free(q->in_flight);
	q->in_flight = NULL;
}

void queue_break(struct queue *q, enum queue_fault why)
{
	assert(why != QUEUE_OK);
	if (q->fault == QUEUE_OK)
		q->fault = why;
}

/* D2: aligned, whole, in one region. */
static enum queue_fault check_area(const struct mem_map *mem, uint64_t address, uint64_t n_bytes, uint64_t align,
                                   struct span *ret_s)
{
	if (address % align)
		return QUEUE_BAD_ALIGNMENT;
	return mem_span(mem, GPA(address), n_bytes, ret_s) ? QUEUE_OK : QUEUE_BAD_ADDRESS;
}

static enum queue_fault check_config(struct queue *q, const struct mem_map *mem)
{
	const struct queue_config *c = &q->config;
	uint64_t size = c->size;
	if (size > q->max_size || !is_power_of_two(size))
		return QUEUE_BAD_SIZE;

	/* The event fields at the rings' ends exist with EVENT_IDX only (2.7.6, 2.7.8). */
	enum queue_fault f = check_area(mem, c->desc, DESC_BYTES * size, 16, &q->desc);
	if (f == QUEUE_OK)
		f = check_area(mem, c->avail, RING_ENTRIES + 2 * size + (q->has_event_idx ? 2 : 0), 2, &q->avail);
	if (f == QUEUE_OK)
		f = check_area(mem, c->used, RING_ENTRIES + 8 * size + (q->has_event_idx ? 2 : 0), 4, &q->used);
	return f;
}

int queue_start(struct queue *q, const struct mem_map *mem, uint64_t features, struct err *e)
{
	assert(!q->is_started);
	q->mem = mem;
	q->has_event_idx = (features & VIRTIO_F_EVENT_IDX) != 0;
	q->has_indirect = (features & VIRTIO_F_INDIRECT_DESC) != 0;
	q->fault = check_config(q, mem);
	if (q->fault != QUEUE_OK)
		return err_set(e, EINVAL, "virtqueue: %s", queue_fault_name(q->fault));

	q->n_next_avail = q->n_used = q->n_signalled_used = 0;
	q->n_in_flight = q->n_budget = 0;
	q->is_signalled_valid = false;
	memset(q->in_flight, 0, (q->max_size + 63) / 64 * sizeof *q->in_flight);
	q->is_started = true;
	/* 2.7.10.1: with event indices the flags are 0 for good; without, until a run makes the driver quiet. */
	span_store_le16(q->used, RING_FLAGS, 0);
	return 0;
}

void queue_stop(struct queue *q)
{
	q->is_started = false;
	q->fault = QUEUE_OK;
}

void queue_begin(struct queue *q)
{
	q->n_budget = q->config.size;
	q->is_held = false;
}

void queue_hold(struct queue *q)
{
	q->is_held = true;
}

static struct desc read_desc(struct span table, uint32_t index)
{
	uint8_t b[DESC_BYTES];
	span_read(table, (uint64_t)index * DESC_BYTES, b, sizeof b);
	return (struct desc){
		.addr = get_le64(b), .len = get_le32(b + 8), .flags = get_le16(b + 12), .next = get_le16(b + 14),
	};
}

/* One walk: the table being read (the ring's, or an indirect one) and what was gathered. */
struct walk {
	struct span table;
	uint32_t n_table; /* entries */
	uint32_t n_seen;  /* descriptors, for D6 */
	bool is_indirect, has_writable;
	uint64_t n_bytes[2]; /* readable, writable */
};

static enum queue_fault add_buffer(struct queue *q, struct walk *w, const struct desc *d, struct chain *c)
{
	bool is_writable = (d->flags & DESC_F_WRITE) != 0;
	struct span s;

	if (!is_writable && w->has_writable)
		return QUEUE_READABLE_AFTER_WRITABLE;
	w->has_writable |= is_writable;
	if (!mem_span(q->mem, GPA(d->addr), d->len, &s)) {
		if (!mem_device_span(q->mem, GPA(d->addr), d->len, &s))
			return QUEUE_BAD_BUFFER;
		c->may_fault = true;
	}
	/* At most QUEUE_MAX_SIZE descriptors of less than 2^32: no overflow in 64 bits. */
	w->n_bytes[is_writable] += d->len;
	if (w->n_bytes[0] + w->n_bytes[1] > UINT32_MAX)
		return QUEUE_TOO_MANY_BYTES;
	if (d->len == 0)
		return QUEUE_OK; /* D11: counted by n_seen, but nothing to hand on */

	assert((unsigned)c->n_out + c->n_in < c->n_iov_capacity);
	c->iov[c->n_out + c->n_in] = span_iovec(s);
	if (is_writable)
		c->n_in++;
	else
		c->n_out++;
	return QUEUE_OK;
}

/* D10: 2.7.5.3.1. The table is a span of its own; its size is bounded by the queue's like any chain. */
static enum queue_fault enter_indirect(struct queue *q, struct walk *w, const struct desc *d)
{
	/* The write-only flag is ignored here, as 2.7.5.3.2 demands. */
	if (!q->has_indirect || w->is_indirect || (d->flags & DESC_F_NEXT))
		return QUEUE_BAD_INDIRECT;
	if (d->len == 0 || d->len % DESC_BYTES || d->len / DESC_BYTES > q->config.size)
		return QUEUE_BAD_INDIRECT;
	if (!mem_span(q->mem, GPA(d->addr), d->len, &w->table))
		return QUEUE_BAD_BUFFER;
	w->n_table = d->len / DESC_BYTES;
	w->is_indirect = true;
	return QUEUE_OK;
}

static enum queue_fault walk_chain(struct queue *q, uint16_t head, struct chain *c)
{
	struct walk w = { .table = q->desc, .n_table = q->config.size };
	uint32_t index = head;

	c->n_out = c->n_in = 0;
	c->may_fault = false;
	for (;;) {
		struct desc d = read_desc(w.table, index);
		if (d.flags & ~(DESC_F_NEXT | DESC_F_WRITE | DESC_F_INDIRECT))
			return QUEUE_BAD_FLAGS;
		if (d.flags & DESC_F_INDIRECT) {
			/* Direct descriptors in front of an indirect one are not Linux's way, but 2.7.5.3.2 allows them. */
			enum queue_fault f = enter_indirect(q, &w, &d);
			if (f != QUEUE_OK)
				return f;
			index = 0;
			continue;
		}
		if (++w.n_seen > q->config.size)
			return QUEUE_CHAIN_TOO_LONG;
		enum queue_fault f = add_buffer(q, &w, &d, c);
		if (f != QUEUE_OK)
			return f;
		if (!(d.flags & DESC_F_NEXT))
			break;
		if (d.next >= w.n_table)
			return QUEUE_BAD_NEXT;
		index = d.next;
	}
	if (c->n_out + c->n_in == 0)
		return QUEUE_EMPTY_CHAIN;
	c->n_out_bytes = (uint32_t)w.n_bytes[0];
	c->n_in_bytes = (uint32_t)w.n_bytes[1];
	return QUEUE_OK;
}

/* 1 when the driver has offered a chain, 0 when not, -EPROTO when its index lies (D3). */
static int has_available(struct queue *q)
{
	uint16_t n = (uint16_t)(span_load_le16(q->avail, RING_IDX) - q->n_next_avail);
	if (n > q->config.size) {
		queue_break(q, QUEUE_BAD_AVAIL_INDEX);
		return -EPROTO;
	}
	return n != 0;
}

int queue_next(struct queue *q, struct chain *c)
{
	assert(q->is_started && c->n_iov_capacity >= q->config.size);
	if (q->fault != QUEUE_OK)
		return -EPROTO;
	if (q->n_budget == 0)
		return 0;
	int rc = has_available(q);
	if (rc <= 0)
		return rc;

	uint8_t b[2];
	uint16_t mask = (uint16_t)(q->config.size - 1);
	span_read(q->avail, RING_ENTRIES + 2u * (q->n_next_avail & mask), b, sizeof b);
	uint16_t head = get_le16(b);
	if (head >= q->config.size) {
		queue_break(q, QUEUE_BAD_HEAD);
		return -EPROTO;
	}
	if (q->in_flight[head / 64] & 1ull << (head % 64)) {
		queue_break(q, QUEUE_HEAD_IN_FLIGHT);
		return -EPROTO;
	}
	enum queue_fault f = walk_chain(q, head, c);
	if (f != QUEUE_OK) {
		queue_break(q, f);
		return -EPROTO;
	}
	c->head = head;
	q->in_flight[head / 64] |= 1ull << (head % 64);
	q->n_in_flight++;
	q->n_next_avail++;
	q->n_budget--;
	return 1;
}

static void forget_head(struct queue *q, uint16_t head)
{
	assert(head < q->config.size && (q->in_flight[head / 64] & 1ull << (head % 64)));
	q->in_flight[head / 64] &= ~(1ull << (head % 64));
	q->n_in_flight--;
}

void queue_undo(struct queue *q, const struct chain *c)
{
	forget_head(q, c->head);
	q->n_next_avail--;
	q->n_budget = 0; /* nothing more in this run: the device has no means */
}

void queue_put(struct queue *q, const struct chain *c, uint32_t n_written_bytes)
{
	assert(q->is_started);
	forget_head(q, c->head);
	uint32_t n = n_written_bytes < c->n_in_bytes ? n_written_bytes : c->n_in_bytes; /* D13 */

	uint64_t left = n;
	for (unsigned i = c->n_out; left && i < (unsigned)c->n_out + c->n_in; i++) {
		uint64_t part = min_u64(left, c->iov[i].iov_len);
		mem_mark_dirty_host(q->mem, c->iov[i].iov_base, part);
		left -= part;
	}
	uint8_t element[8];
	uint16_t mask = (uint16_t)(q->config.size - 1);
	uint64_t offset = RING_ENTRIES + 8u * (q->n_used & mask);
	put_le32(element, c->head);
	put_le32(element + 4, n);
	span_write(q->used, offset, element, sizeof element);
	q->n_used++;
	span_store_le16(q->used, RING_IDX, q->n_used); /* release: the element first (M6) */
	mem_mark_dirty(q->mem, GPA(q->config.used + offset), sizeof element);
	mem_mark_dirty(q->mem, GPA(q->config.used), RING_ENTRIES);
}

bool queue_wants_signal(struct queue *q)
{
	uint16_t old = q->n_signalled_used, new = q->n_used;
	bool was_valid = q->is_signalled_valid;
	if (!q->is_started || (was_valid && old == new) || (!was_valid && new == 0))
		return false;

	/* The used index must be visible before the driver's wish is read. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!q->has_event_idx) {
		q->n_signalled_used = new;
		q->is_signalled_valid = true;
		return !(span_load_le16(q->avail, RING_FLAGS) & AVAIL_F_NO_INTERRUPT);
	}
	uint16_t event = span_load_le16(q->avail, RING_ENTRIES + 2u * q->config.size);
	q->n_signalled_used = new;
	q->is_signalled_valid = true;
	return !was_valid || (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

static void write_avail_event(struct queue *q, uint16_t v)
{
	uint64_t offset = RING_ENTRIES + 8u * q->config.size;
	span_store_le16(q->used, offset, v);
	mem_mark_dirty(q->mem, GPA(q->config.used + offset), 2);
}

void queue_quiet(struct queue *q)
{
	assert(q->is_started);
	/* With event indices an old avail_event is quiet by itself until the index comes round. */
	if (!q->has_event_idx)
		span_store_le16(q->used, RING_FLAGS, USED_F_NO_NOTIFY);
}

bool queue_end(struct queue *q)
{
	assert(q->is_started);
	if (q->fault != QUEUE_OK || q->is_held)
		return false;
	if (q->n_budget == 0 && has_available(q) > 0)
		return true; /* a run's worth is done: the caller yields and comes again */

	if (q->has_event_idx)
		write_avail_event(q, q->n_next_avail);
	else
		span_store_le16(q->used, RING_FLAGS, 0);
	atomic_thread_fence(memory_order_seq_cst);
	return has_available(q) > 0;
}

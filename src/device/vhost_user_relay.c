/* SPDX-License-Identifier: Apache-2.0 */
/* virtio 1.2, 2.7.6 and 2.7.8, from the driver's side: the backend sees neither EVENT_IDX nor flags, so that it is kicked for
 * each run and calls for each batch. What the driver wants to be told is the core's matter. */
#include "device/vhost_user_relay.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define RING_IDX 2u
#define RING_ENTRIES 4u
#define PAGE_BYTES 4096u

/* With the event fields at their ends, which some backends map whether they are used or not. */
static size_t avail_bytes(unsigned queue_size)
{
	return RING_ENTRIES + 2 * (size_t)queue_size + 2;
}

static size_t used_bytes(unsigned queue_size)
{
	return RING_ENTRIES + 8 * (size_t)queue_size + 2;
}

size_t vhost_user_relay_bytes(unsigned queue_size)
{
	return align_up(avail_bytes(queue_size), PAGE_BYTES) + align_up(used_bytes(queue_size), PAGE_BYTES);
}

static uint16_t list_of(const struct vhost_user_relay *r)
{
	return (uint16_t)r->v->queue_size; /* behind the last head; at most 32768 */
}

int vhost_user_relay_init(struct vhost_user_relay *r, struct virtio_device *v, unsigned queue, struct err *e)
{
	*r = (struct vhost_user_relay){ .v = v, .queue = queue };
	r->heads = calloc(v->queue_size + 1, sizeof *r->heads);
	if (!r->heads)
		return err_set(e, ENOMEM, "%s: no memory", v->id);
	vhost_user_relay_forget(r);
	return 0;
}

void vhost_user_relay_done(struct vhost_user_relay *r)
{
	free(r->heads);
	r->heads = NULL;
}

void vhost_user_relay_forget(struct vhost_user_relay *r)
{
	memset(r->heads, 0, (r->v->queue_size + 1) * sizeof *r->heads);
	r->heads[list_of(r)].previous = r->heads[list_of(r)].next = list_of(r);
	r->n_in_flight = 0;
}

static uint16_t ring_mask(const struct vhost_user_relay *r)
{
	return (uint16_t)(r->v->queues[r->queue].config.size - 1);
}

/* Not visible before publish(). */
static void offer(struct vhost_user_relay *r, uint16_t head)
{
	uint8_t b[2];
	put_le16(b, head);
	span_write(r->avail, RING_ENTRIES + 2u * (r->n_offered & ring_mask(r)), b, sizeof b);
	r->n_offered++;
}

static void publish(struct vhost_user_relay *r)
{
	span_store_le16(r->avail, RING_IDX, r->n_offered);
}

static struct span span_at(uint8_t *memory, size_t n_bytes)
{
	return (struct span){ .host = (guest_mem uint8_t *)(uintptr_t)memory, .n_bytes = n_bytes };
}

void vhost_user_relay_attach(struct vhost_user_relay *r, uint8_t *memory)
{
	unsigned size = r->v->queue_size;
	r->avail = span_at(memory, avail_bytes(size));
	r->used = span_at(memory + align_up(avail_bytes(size), PAGE_BYTES), used_bytes(size));
	r->n_offered = r->n_done = 0;
	for (uint16_t head = r->heads[list_of(r)].next; head != list_of(r); head = r->heads[head].next)
		offer(r, head);
	publish(r);
}

void vhost_user_relay_detach(struct vhost_user_relay *r)
{
	r->avail = r->used = (struct span){ .n_bytes = 0 };
}

static void append(struct vhost_user_relay *r, const struct chain *c)
{
	struct vhost_user_relay_head *h = &r->heads[c->head], *list = &r->heads[list_of(r)];
	assert(!h->is_in_flight);
	*h = (struct vhost_user_relay_head){
		.is_in_flight = true, .previous = list->previous, .next = list_of(r), .n_in_bytes = c->n_in_bytes,
	};
	r->heads[h->previous].next = c->head;
	list->previous = c->head;
	r->n_in_flight++;
}

bool vhost_user_relay_take(struct vhost_user_relay *r, struct iovec *scratch)
{
	struct chain c = { .iov = scratch, .n_iov_capacity = r->v->queue_size };
	bool has_new = false;
	while (queue_next(&r->v->queues[r->queue], &c) > 0) {
		append(r, &c);
		if (vhost_user_relay_is_attached(r))
			offer(r, c.head);
		has_new = true;
	}
	if (!has_new || !vhost_user_relay_is_attached(r))
		return false;
	publish(r);
	return true;
}

/* The data's pages are not marked dirty: the backend, which wrote them, would have to say so (LOG_SHMFD). */
static void put(struct vhost_user_relay *r, uint16_t head, uint32_t n_written_bytes)
{
	struct vhost_user_relay_head *h = &r->heads[head];
	struct chain c = { .head = head, .n_in_bytes = h->n_in_bytes };
	r->heads[h->previous].next = h->next;
	r->heads[h->next].previous = h->previous;
	h->is_in_flight = false;
	r->n_in_flight--;
	queue_put(&r->v->queues[r->queue], &c, n_written_bytes);
}

int vhost_user_relay_give_back(struct vhost_user_relay *r)
{
	uint16_t n = (uint16_t)(span_load_le16(r->used, RING_IDX) - r->n_done);
	if (n > (uint16_t)(r->n_offered - r->n_done))
		return -EPROTO;
	while (n--) {
		uint8_t b[8];
		span_read(r->used, RING_ENTRIES + 8u * (r->n_done & ring_mask(r)), b, sizeof b);
		uint32_t head = get_le32(b);
		if (head >= r->v->queue_size || !r->heads[head].is_in_flight)
			return -EPROTO;
		r->n_done++;
		put(r, (uint16_t)head, get_le32(b + 4));
	}
	return 0;
}

bool vhost_user_relay_is_drained(const struct vhost_user_relay *r, uint16_t base)
{
	return span_load_le16(r->used, RING_IDX) == base;
}

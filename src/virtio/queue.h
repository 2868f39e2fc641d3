/* SPDX-License-Identifier: Apache-2.0 */
/* queue.h - one split virtqueue: walk what the driver offered, give it back, tell it when it wants to be told.
 *
 * A started queue belongs to one thread, its owner loop's; nothing here locks. The driver is hostile: every descriptor
 * is copied once, then checked. Addresses and size are frozen from queue_start() to queue_stop(). A broken ring stays
 * broken until the device is reset, and its device asks for that (DEVICE_NEEDS_RESET): never silence, never the VM's end.
 * Spec: virtio 1.2, 2.6 and 2.7. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "mem/mem.h"

#define QUEUE_MAX_SIZE 32768u

struct queue_config { /* what the driver programs through the transport, before DRIVER_OK */
	uint16_t size;
	bool is_ready;
	uint64_t desc, avail, used; /* guest-physical, unchecked */
};

enum queue_fault { /* why a ring is broken; for logs and tests */
	QUEUE_OK,
	QUEUE_BAD_SIZE, QUEUE_BAD_ALIGNMENT, QUEUE_BAD_ADDRESS,
	QUEUE_BAD_AVAIL_INDEX, QUEUE_BAD_HEAD, QUEUE_BAD_NEXT, QUEUE_CHAIN_TOO_LONG, QUEUE_BAD_BUFFER, QUEUE_TOO_MANY_BYTES,
	QUEUE_READABLE_AFTER_WRITABLE, QUEUE_BAD_FLAGS, QUEUE_BAD_INDIRECT, QUEUE_HEAD_IN_FLIGHT, QUEUE_EMPTY_CHAIN,
	QUEUE_DEVICE_RULE, /* the device refused the chain's shape and cannot answer it */
};

const char *queue_fault_name(enum queue_fault f);

/* One descriptor chain, copied and checked. The iovec array is the owner's; readable buffers first, then writable ones.
 * Zero-length buffers are left out of the array. */
struct chain {
	uint16_t head;
	uint16_t n_out, n_in;         /* iov[0..n_out) is read by the device, iov[n_out..n_out+n_in) is written */
	uint32_t n_out_bytes, n_in_bytes;
	struct iovec *iov;            /* for system calls only; chain_read()/chain_write() for our own eyes */
	unsigned n_iov_capacity;      /* at least the queue's size */
	bool may_fault;               /* a buffer lies in memory of a device: it may not be there to be touched */
};

struct queue {
	const struct mem_map *mem;
	struct queue_config config;
	unsigned max_size;            /* what the device offers */
	struct span desc, avail, used;
	uint16_t n_next_avail, n_used; /* free-running, as in the rings */
	uint16_t n_signalled_used;    /* n_used when the driver was last told */
	uint16_t n_in_flight;
	uint16_t n_budget;            /* chains left in this run (D17) */
	bool has_event_idx, has_indirect;
	bool is_started;
	bool is_signalled_valid;
	bool is_held;                 /* the device leaves the rest in the ring on purpose */
	enum queue_fault fault;
	uint64_t *in_flight;          /* one bit a head */
};

int queue_init(struct queue *q, unsigned max_size, struct err *e); /* allocates the in-flight bits */
void queue_done(struct queue *q);

/* Checks size, alignment and ranges (D1, D2) and starts at the given indices (0 for a fresh device). */
int queue_start(struct queue *q, const struct mem_map *mem, uint64_t features, struct err *e);
void queue_stop(struct queue *q);

/* Opens a run of at most `size` chains. */
void queue_begin(struct queue *q);
/* 1: a chain; 0: none, or the run's budget is used up; -EPROTO: the ring is broken (q->fault says how). */
int queue_next(struct queue *q, struct chain *c);
/* Puts back the chain that queue_next() gave last, untouched, when the device has no means to serve it now. */
void queue_undo(struct queue *q, const struct chain *c);
/* The device leaves the remaining chains in the ring until it has something to put into them (receive queues): the run's
 * end neither asks for a kick nor comes again. The device comes by virtio_kick_again(). */
void queue_hold(struct queue *q);
/* Gives a chain back; n_written_bytes is clipped to the writable length (D13). Marks the written bytes dirty. The
 * driver sees it at once; telling it is queue_wants_signal()'s matter. */
void queue_put(struct queue *q, const struct chain *c, uint32_t n_written_bytes);
/* True when the driver wants an interrupt for what was put since the last call (2.7.7, 2.7.10). */
bool queue_wants_signal(struct queue *q);
/* Ends a run: asks for a kick at the next chain and re-reads the index behind a full fence. True when there is more to
 * do now (new chains, or the budget ran out): the caller comes again later without a kick. */
bool queue_end(struct queue *q);
/* Tells the driver not to kick while we are looking anyway. */
void queue_quiet(struct queue *q);
void queue_break(struct queue *q, enum queue_fault why);

/* Copies between a chain's readable (writable) bytes and our memory. Returns the bytes copied: fewer at the end, or in front
 * of a buffer to read from that is not (all) there any more. */
size_t chain_read(const struct chain *c, size_t offset, void *ret_bytes, size_t n_bytes);
size_t chain_write(const struct chain *c, size_t offset, const void *bytes, size_t n_bytes);
/* The iovecs of [offset, offset + n_bytes) of the readable (writable) part, in ret_iov; returns how many, or -ENOSPC. */
int chain_slice(const struct chain *c, bool is_writable, size_t offset, size_t n_bytes, struct iovec *ret_iov, int n_max);

/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * Input: the backend's loop puts bytes into `received`, under `input_lock`, and posts a message to the I/O loop, which
 * moves them into the driver's buffers. While the receive queue is not started, or `received` is full, bytes are refused
 * and stay with the backend, so that nothing typed is lost before the driver comes. Without bytes the queue is held:
 * the driver's buffers stay in the ring.
 *
 * Output: a chain may describe 4 GiB. It is written in pieces of RUN_BYTES a run, and stays in flight between runs, so
 * that the loop's other devices get their turns.
 *
 * An emergency write (5.3.4) comes on a vCPU thread under the device's lock, where nothing may be called: the character
 * goes into a small buffer that the I/O loop empties. */
#include "device/virtio_console.h"

#include "backend/char.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/guarded_copy.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* 5.3.3 Feature bits */
#define VIRTIO_CONSOLE_F_SIZE (1ull << 0)
#define VIRTIO_CONSOLE_F_EMERG_WRITE (1ull << 2)

/* 5.3.4 Device configuration layout */
enum { SPACE_COLS = 0, SPACE_ROWS = 2, SPACE_MAX_NR_PORTS = 4, SPACE_EMERG_WR = 8, SPACE_BYTES = 12 };

/* 5.3.2 Virtqueues */
enum { RECEIVEQ, TRANSMITQ, N_QUEUES };

#define QUEUE_SIZE 256u
#define RECEIVED_BYTES 1024u
#define EMERGENCY_BYTES 1024u
#define RUN_BYTES (64u * 1024)

struct console {
	struct virtio_device v;
	struct char_backend *backend;
	struct loop_message wake; /* input or an emergency character has come */

	pthread_mutex_t input_lock; /* a leaf: the backend's loop and the I/O loop */
	bool is_receiving;          /* the receive queue is started */
	bool is_input_refused;
	size_t n_received, received_start;
	uint8_t received[RECEIVED_BYTES];

	/* Under the device's lock. */
	size_t n_emergency;
	uint8_t emergency[EMERGENCY_BYTES];

	/* The I/O loop's. */
	struct chain rx, tx;
	bool has_tx; /* tx is in flight, written up to n_tx_bytes */
	uint32_t n_tx_bytes;
};

static struct console *console_of(struct virtio_device *v)
{
	return container_of(v, struct console, v);
}

/* --- input ----------------------------------------------------------------------------------------------------------- */

static void drain_emergency(struct console *c)
{
	uint8_t bytes[EMERGENCY_BYTES];
	(void)pthread_mutex_lock(&c->v.lock);
	size_t n = c->n_emergency;
	memcpy(bytes, c->emergency, n);
	c->n_emergency = 0;
	(void)pthread_mutex_unlock(&c->v.lock);
	if (n) {
		char_write(c->backend, bytes, n);
		char_flush(c->backend);
	}
}

static void on_wake(struct loop_message *m)
{
	struct console *c = container_of(m, struct console, wake);
	drain_emergency(c);
	(void)pthread_mutex_lock(&c->input_lock);
	bool is_receiving = c->is_receiving;
	(void)pthread_mutex_unlock(&c->input_lock);
	/* Queues start and stop on this loop: what is started now stays so until we return. */
	if (is_receiving)
		virtio_kick_again(&c->v, RECEIVEQ);
}

/* The backend's loop. */
static size_t console_input(void *context, const uint8_t *bytes, size_t n_bytes)
{
	struct console *c = context;
	(void)pthread_mutex_lock(&c->input_lock);
	size_t n = c->is_receiving ? (size_t)min_u64(n_bytes, RECEIVED_BYTES - c->n_received) : 0;
	for (size_t i = 0; i < n; i++)
		c->received[(c->received_start + c->n_received + i) % RECEIVED_BYTES] = bytes[i];
	c->n_received += n;
	c->is_input_refused = n < n_bytes;
	(void)pthread_mutex_unlock(&c->input_lock);
	if (n)
		loop_post(c->v.io_loop, &c->wake, on_wake);
	return n;
}

/* The I/O loop. Up to n_bytes of what waits, from its front; *ret_is_resume: the backend was refused before. */
static size_t take_received(struct console *c, uint8_t *ret_bytes, size_t n_bytes, bool *ret_is_resume)
{
	(void)pthread_mutex_lock(&c->input_lock);
	size_t n = (size_t)min_u64(n_bytes, c->n_received);
	for (size_t i = 0; i < n; i++)
		ret_bytes[i] = c->received[(c->received_start + i) % RECEIVED_BYTES];
	c->received_start = (c->received_start + n) % RECEIVED_BYTES;
	c->n_received -= n;
	*ret_is_resume = c->is_input_refused && c->n_received == 0;
	if (*ret_is_resume)
		c->is_input_refused = false;
	(void)pthread_mutex_unlock(&c->input_lock);
	return n;
}

static bool has_received(struct console *c)
{
	(void)pthread_mutex_lock(&c->input_lock);
	bool has = c->n_received != 0;
	(void)pthread_mutex_unlock(&c->input_lock);
	return has;
}

static void kick_receive(struct console *c)
{
	struct queue *q = &c->v.queues[RECEIVEQ];
	uint8_t bytes[RECEIVED_BYTES];

	while (has_received(c)) {
		if (queue_next(q, &c->rx) <= 0)
			return;
		bool is_resume;
		/* A chain with nothing to write into (5.3.6.2 forbids it) goes back empty. */
		size_t n = take_received(c, bytes, (size_t)min_u64(c->rx.n_in_bytes, sizeof bytes), &is_resume);
		size_t n_written = chain_write(&c->rx, 0, bytes, n);
		assert(n_written == n);
		queue_put(q, &c->rx, (uint32_t)n_written);
		if (is_resume)
			char_resume_input(c->backend);
	}
	queue_hold(q);
}

/* --- output ---------------------------------------------------------------------------------------------------------- */

/* Guest memory as plain bytes: whatever is read there is output, and nothing is decided by it. */
static void write_bytes(struct console *c, const uint8_t *bytes, uint32_t n_bytes)
{
	uint8_t copy[512];
	if (!c->tx.may_fault) {
		char_write(c->backend, bytes, n_bytes);
		return;
	}
	for (uint32_t n_done = 0; n_done < n_bytes; n_done += (uint32_t)sizeof copy) {
		uint32_t n = (uint32_t)min_u64(sizeof copy, n_bytes - n_done);
		(void)guarded_read(copy, bytes + n_done, n);
		char_write(c->backend, copy, n);
	}
}

/* Writes at most n_max bytes of the chain in flight; true when it is finished. */
static bool write_piece(struct console *c, uint32_t n_max, uint32_t *ret_n)
{
	uint32_t skip = c->n_tx_bytes, n_done = 0;
	for (unsigned i = 0; i < c->tx.n_out && n_done < n_max; i++) {
		const struct iovec *v = &c->tx.iov[i];
		if (skip >= v->iov_len) {
			skip -= (uint32_t)v->iov_len;
			continue;
		}
		uint32_t n = (uint32_t)min_u64(v->iov_len - skip, n_max - n_done);
		write_bytes(c, (const uint8_t *)v->iov_base + skip, n);
		n_done += n;
		skip = 0;
	}
	c->n_tx_bytes += n_done;
	*ret_n = n_done;
	return c->n_tx_bytes == c->tx.n_out_bytes;
}

static void kick_transmit(struct console *c)
{
	struct queue *q = &c->v.queues[TRANSMITQ];
	uint32_t n_left = RUN_BYTES, n;

	for (;;) {
		if (!c->has_tx) {
			if (queue_next(q, &c->tx) <= 0)
				break;
			c->has_tx = true;
			c->n_tx_bytes = 0;
		}
		if (!write_piece(c, n_left, &n)) {
			virtio_kick_again(&c->v, TRANSMITQ);
			break;
		}
		queue_put(q, &c->tx, 0);
		c->has_tx = false;
		n_left -= n;
	}
	char_flush(c->backend);
}

static void console_kick(struct virtio_device *v, unsigned queue)
{
	if (queue == RECEIVEQ)
		kick_receive(console_of(v));
	else
		kick_transmit(console_of(v));
}

/* --- configuration space --------------------------------------------------------------------------------------------- */

/* The backend's loop. */
static void console_resized(void *context, uint16_t n_columns, uint16_t n_rows)
{
	struct console *c = context;
	uint8_t size[4];
	put_le16(size, n_columns);
	put_le16(size + 2, n_rows);
	virtio_space_update(&c->v, SPACE_COLS, size, sizeof size);
}

/* Only emerg_wr can be written, and only its low byte means something (5.3.4). It works before any negotiation. */
static bool console_space_write(struct virtio_device *v, unsigned offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct console *c = console_of(v);
	if (offset > SPACE_EMERG_WR || offset + n_bytes <= SPACE_EMERG_WR)
		return false;
	if (c->n_emergency < EMERGENCY_BYTES)
		c->emergency[c->n_emergency++] = bytes[SPACE_EMERG_WR - offset];
	loop_post(v->io_loop, &c->wake, on_wake);
	return true;
}

/* --- life ------------------------------------------------------------------------------------------------------------ */

static int console_open(struct virtio_device *v, const void *params, struct err *e)
{
	struct console *c = console_of(v);
	const struct virtio_console_params *p = params;
	(void)pthread_mutex_init(&c->input_lock, NULL);
	c->rx.iov = calloc(v->queue_size, sizeof *c->rx.iov);
	c->tx.iov = calloc(v->queue_size, sizeof *c->tx.iov);
	if (!c->rx.iov || !c->tx.iov)
		return err_set(e, ENOMEM, "%s: no memory", v->id);
	c->rx.n_iov_capacity = c->tx.n_iov_capacity = v->queue_size;

	uint16_t n_columns, n_rows;
	if (char_size(p->backend, &n_columns, &n_rows)) {
		v->offered |= VIRTIO_CONSOLE_F_SIZE;
		put_le16(v->space + SPACE_COLS, n_columns);
		put_le16(v->space + SPACE_ROWS, n_rows);
	}
	put_le32(v->space + SPACE_MAX_NR_PORTS, 1);
	c->backend = p->backend;
	struct char_client client = { .input = console_input, .resized = console_resized, .context = c };
	char_set_client(c->backend, &client);
	return 0;
}

static void console_close(struct virtio_device *v)
{
	struct console *c = console_of(v);
	if (c->backend)
		char_set_client(c->backend, NULL);
	loop_flush(v->io_loop); /* `wake` may be pending */
	free(c->rx.iov);
	free(c->tx.iov);
	(void)pthread_mutex_destroy(&c->input_lock);
}

static void set_receiving(struct console *c, bool is_receiving)
{
	(void)pthread_mutex_lock(&c->input_lock);
	c->is_receiving = is_receiving;
	c->is_input_refused &= !is_receiving;
	(void)pthread_mutex_unlock(&c->input_lock);
}

static int console_start(struct virtio_device *v, unsigned queue, struct err *e)
{
	struct console *c = console_of(v);
	(void)e;
	if (queue == RECEIVEQ) {
		set_receiving(c, true);
		char_resume_input(c->backend);
		/* Linux's driver looks at the size only when it is told of a change. */
		uint16_t n_columns, n_rows;
		if (virtio_has_feature(v, VIRTIO_CONSOLE_F_SIZE) && char_size(c->backend, &n_columns, &n_rows))
			console_resized(c, n_columns, n_rows);
	}
	return 0;
}

/* A long transmission that is in flight is finished, up to what the backend keeps at most, and given back: the device may
 * be paused, and then goes on with the next one. */
static void console_stop(struct virtio_device *v, unsigned queue)
{
	struct console *c = console_of(v);
	if (queue == RECEIVEQ) {
		set_receiving(c, false);
	} else if (c->has_tx) {
		uint32_t n;
		(void)write_piece(c, CHAR_BUFFER_BYTES, &n);
		char_flush(c->backend);
		queue_put(&v->queues[TRANSMITQ], &c->tx, 0);
		c->has_tx = false;
		virtio_signal(v, TRANSMITQ);
	}
}

/* What was taken for the old driver is not the next one's. */
static void console_reset(struct virtio_device *v)
{
	struct console *c = console_of(v);
	(void)pthread_mutex_lock(&c->input_lock);
	c->n_received = c->received_start = 0;
	(void)pthread_mutex_unlock(&c->input_lock);
}

const struct virtio_class virtio_console = {
	.name = "console",
	.virtio_id = VIRTIO_ID_CONSOLE,
	.n_queues = N_QUEUES,
	.features = VIRTIO_CONSOLE_F_EMERG_WRITE,
	.n_space_bytes = SPACE_BYTES,
	.size = sizeof(struct console),
	.queue_size = QUEUE_SIZE,
	.open = console_open,
	.close = console_close,
	.start = console_start,
	.stop = console_stop,
	.reset = console_reset,
	.kick = console_kick,
	.space_write = console_space_write,
};

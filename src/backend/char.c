/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * Output. A guest's serial port gives one byte an exit, and a system call a byte would cost more than the exit. So
 * char_write() gathers in the ring and writes, on the calling thread, when a newline ends what came or when a batch is
 * full: a line costs one write(2), and the loop does not wake for it. What no newline follows leaves by char_flush(),
 * which devices call when the guest shows that it is done, and at the latest by a tick of the loop. The tick is asked
 * for once a burst and keeps itself going while bytes come, so that a busy guest posts to the loop once, not once a line.
 * When the host takes no more, the state is BLOCKED: writers only append, and the loop drains on EPOLLOUT.
 *
 * Input. The loop reads a piece and offers it to the client. What the client refuses stays here, marked by
 * is_input_held, and the descriptor is not watched until char_resume_input(). The mark is set before the client is
 * asked: a device that makes room, on another thread, the instant after it refused finds the mark and posts.
 *
 * "Not watched" is EPOLLET with no events, not removal: a hang-up, which epoll reports unasked, then comes once instead
 * of for ever. */
#include "backend/char_private.h"
#include "backend/terminal.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void on_message(struct loop_message *m);

void char_want(struct char_backend *b, unsigned wants)
{
	(void)atomic_fetch_or(&b->wants, wants);
	loop_post(b->loop, &b->message, on_message);
}

/* --- output ---------------------------------------------------------------------------------------------------------- */

void char_write(struct char_backend *b, const void *bytes, size_t n_bytes)
{
	const uint8_t *at = bytes;
	if (b->mode == CHAR_NULL || n_bytes == 0)
		return;

	(void)pthread_mutex_lock(&b->lock);
	b->n_writes++;
	if (n_bytes >= CHAR_BATCH_BYTES && b->n_ring == 0) {
		size_t n = char_out_try(b, at, n_bytes);
		at += n;
		n_bytes -= n;
	}
	if (n_bytes && b->out_state != CHAR_OUT_DEAD) {
		bool ends_line = at[n_bytes - 1] == '\n';
		if (n_bytes == 1)
			char_ring_append_byte(b, *at);
		else
			char_ring_append(b, at, n_bytes);
		if (ends_line || b->n_ring >= CHAR_BATCH_BYTES)
			char_ring_drain(b);
	}
	unsigned wants = char_out_wants(b);
	(void)pthread_mutex_unlock(&b->lock);
	if (wants)
		char_want(b, wants);
}

void char_flush(struct char_backend *b)
{
	if (b->mode == CHAR_NULL)
		return;
	(void)pthread_mutex_lock(&b->lock);
	char_ring_drain(b);
	unsigned wants = char_out_wants(b);
	(void)pthread_mutex_unlock(&b->lock);
	if (wants)
		char_want(b, wants);
}

void char_report_drops(struct char_backend *b)
{
	(void)pthread_mutex_lock(&b->lock);
	uint64_t n = b->n_dropped;
	int code = b->out_errno;
	b->n_dropped = 0;
	(void)pthread_mutex_unlock(&b->lock);
	if (!n || !log_limit_pass(&b->log, &b->limit))
		return;
	struct err why;
	if (code)
		(void)err_set_errno(&why, code, "%llu bytes of output were dropped", (unsigned long long)n);
	else
		(void)err_set(&why, EAGAIN, "%llu bytes of output were dropped: the reader is too slow", (unsigned long long)n);
	log_warn(&b->log, "console '%s': %s", b->path ? b->path : "terminal", why.text);
}

/* As watch() below: only changes, because each renews the one report of a hang-up. */
static void watch_out(struct char_backend *b, bool is_wanted)
{
	if (b->out.loop && b->is_out_watched != is_wanted) {
		b->is_out_watched = is_wanted;
		(void)loop_change(&b->out, is_wanted ? EPOLLOUT : EPOLLET);
	}
}

void char_on_out(struct source *s, uint32_t events)
{
	struct char_backend *b = container_of(s, struct char_backend, out);
	(void)events;
	(void)pthread_mutex_lock(&b->lock);
	if (!b->is_out_asked) {
		/* A hang-up while nobody waits, which the next write finds; or a wish that was meant for the last peer. */
		(void)pthread_mutex_unlock(&b->lock);
		watch_out(b, false);
		return;
	}
	if (b->out_state == CHAR_OUT_BLOCKED)
		b->out_state = CHAR_OUT_READY;
	char_ring_drain(b);
	bool is_done = b->out_state != CHAR_OUT_BLOCKED;
	b->is_out_asked = !is_done;
	unsigned wants = char_out_wants(b);
	(void)pthread_mutex_unlock(&b->lock);

	if (is_done) {
		watch_out(b, false);
		char_report_drops(b);
	}
	if (wants)
		char_want(b, wants);
}

static void on_tick(struct timer *t)
{
	struct char_backend *b = container_of(t, struct char_backend, tick);
	(void)pthread_mutex_lock(&b->lock);
	char_ring_drain(b);
	b->is_tick_asked = b->n_writes != 0;
	b->n_writes = 0;
	bool is_again = b->is_tick_asked;
	unsigned wants = char_out_wants(b);
	(void)pthread_mutex_unlock(&b->lock);
	if (is_again)
		timer_set(b->loop, &b->tick, clock_now_ns() + CHAR_TICK_NS, on_tick);
	if (wants)
		char_want(b, wants);
}

/* --- input ----------------------------------------------------------------------------------------------------------- */

static void watch(struct char_backend *b, bool is_wanted)
{
	if (b->is_in_pollless) {
		b->is_in_watched = is_wanted;
		if (is_wanted)
			char_want(b, CHAR_WANT_READ);
	} else if (b->in.loop && b->is_in_watched != is_wanted) {
		b->is_in_watched = is_wanted;
		(void)loop_change(&b->in, is_wanted ? EPOLLIN : EPOLLET);
	}
}

void char_watch_in(struct char_backend *b)
{
	watch(b, b->in_fd >= 0 && b->has_client && !b->has_in_ended && b->in_start == b->in_end);
}

/* Offers what was read; what is refused stays. */
static void deliver(struct char_backend *b)
{
	if (b->in_start < b->in_end && b->has_client) {
		size_t n = b->in_end - b->in_start;
		atomic_store(&b->is_input_held, true);
		size_t n_taken = b->client.input ? b->client.input(b->client.context, b->in_bytes + b->in_start, n) : n;
		assert(n_taken <= n);
		b->in_start += n_taken;
	}
	if (b->in_start == b->in_end)
		atomic_store(&b->is_input_held, false);
	char_watch_in(b);
}

static void end_input(struct char_backend *b, uint32_t events)
{
	b->has_in_ended = true;
	watch(b, false);
	/* A peer that only shut down its writing side still reads; one that hung up is gone. */
	if (b->mode == CHAR_SOCKET && (events & (EPOLLHUP | EPOLLERR)))
		char_socket_drop_peer(b);
}

static void read_in(struct char_backend *b, uint32_t events)
{
	assert(b->in_start == b->in_end);
	ssize_t n = read(b->in_fd, b->in_bytes, sizeof b->in_bytes);
	if (n > 0) {
		b->in_start = 0;
		b->in_end = (size_t)n;
		/* A pseudo-terminal's peer that was resized tells nobody on this side: look when somebody types. */
		if (b->mode == CHAR_PTY)
			char_update_size(b);
		deliver(b);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		end_input(b, events);
	} else if (b->is_in_pollless) {
		watch(b, true);
	}
}

void char_on_in(struct source *s, uint32_t events)
{
	struct char_backend *b = container_of(s, struct char_backend, in);
	if (b->is_in_watched) {
		read_in(b, events);
	} else if (b->mode == CHAR_SOCKET && (events & (EPOLLHUP | EPOLLERR))) {
		/* Hung up while its last bytes wait for the device: they are delivered, but the next peer need not wait. */
		b->is_peer_gone = true;
		if (b->has_in_ended)
			char_socket_drop_peer(b);
		else
			(void)loop_change(&b->listen, EPOLLIN);
	}
}

void char_resume_input(struct char_backend *b)
{
	if (atomic_load(&b->is_input_held))
		char_want(b, CHAR_WANT_RESUME);
}

static void on_message(struct loop_message *m)
{
	struct char_backend *b = container_of(m, struct char_backend, message);
	unsigned wants = atomic_exchange(&b->wants, 0);

	if ((wants & CHAR_WANT_DROP_PEER) && b->in_fd >= 0 && b->mode == CHAR_SOCKET) {
		/* What it sent before it left is read first, up to its end; it takes nothing any more. */
		if (b->has_in_ended || !b->has_client)
			char_socket_drop_peer(b);
	}
	if (wants & CHAR_WANT_OUT)
		watch_out(b, true);
	if (wants & CHAR_WANT_REPORT)
		char_report_drops(b);
	if (wants & CHAR_WANT_TICK)
		timer_set(b->loop, &b->tick, clock_now_ns() + CHAR_TICK_NS, on_tick);
	if (wants & CHAR_WANT_RESUME)
		deliver(b);
	if ((wants & CHAR_WANT_READ) && b->is_in_pollless && b->is_in_watched && b->in_start == b->in_end)
		read_in(b, 0);
}

/* --- the client ------------------------------------------------------------------------------------------------------ */

struct client_call {
	struct char_backend *b;
	const struct char_client *client;
};

static int set_client(void *arg)
{
	struct client_call *c = arg;
	struct char_backend *b = c->b;
	b->has_client = c->client != NULL;
	b->client = c->client ? *c->client : (struct char_client){ 0 };
	/* On the loop, not here: the client's owner may not be ready to be called before this returns. */
	if (b->has_client && b->in_start < b->in_end)
		char_want(b, CHAR_WANT_RESUME);
	char_watch_in(b);
	return 0;
}

void char_set_client(struct char_backend *b, const struct char_client *c)
{
	struct client_call call = { .b = b, .client = c };
	(void)loop_call(b->loop, set_client, &call);
}

bool char_size(const struct char_backend *b, uint16_t *ret_columns, uint16_t *ret_rows)
{
	if (b->mode == CHAR_TTY)
		return terminal_size(b->terminal, ret_columns, ret_rows);
	struct winsize w;
	if (b->mode != CHAR_PTY || ioctl(b->in_fd, TIOCGWINSZ, &w) < 0)
		return false;
	*ret_columns = w.ws_col;
	*ret_rows = w.ws_row;
	return true;
}

void char_update_size(struct char_backend *b)
{
	uint16_t n_columns, n_rows;
	if (!char_size(b, &n_columns, &n_rows) || (n_columns == b->n_columns && n_rows == b->n_rows))
		return;
	b->n_columns = n_columns;
	b->n_rows = n_rows;
	if (b->client.resized)
		b->client.resized(b->client.context, n_columns, n_rows);
}

const char *char_path(const struct char_backend *b)
{
	return b->path;
}

bool char_has_input(const struct char_backend *b)
{
	return b->mode == CHAR_TTY || b->mode == CHAR_PTY || b->mode == CHAR_SOCKET;
}

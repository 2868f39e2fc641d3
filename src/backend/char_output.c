/* SPDX-License-Identifier: Apache-2.0 */
/* The way out: a bounded ring in front of a descriptor that is only ever written when it does not block. Everything
 * here runs under the backend's lock, on vCPU threads and on the loop; a write(2) that cannot block is allowed there. */
#include "backend/char_private.h"

#include "base/checked.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A pipe whose reader is gone raises SIGPIPE in the writing thread. Whether the program ignores it is not ours to
 * decide, and a library must not end the process: hold it back, and take away the one that we caused. */
static ssize_t write_guarded(int fd, const uint8_t *bytes, size_t n_bytes)
{
	sigset_t pipe_only, old, pending;
	(void)sigemptyset(&pipe_only);
	(void)sigaddset(&pipe_only, SIGPIPE);
	(void)pthread_sigmask(SIG_BLOCK, &pipe_only, &old);
	(void)sigpending(&pending);
	bool was_pending = sigismember(&pending, SIGPIPE) == 1;

	ssize_t n = write(fd, bytes, n_bytes);
	int saved = errno;
	if (n < 0 && saved == EPIPE && !was_pending) {
		struct timespec now = { 0 };
		(void)sigtimedwait(&pipe_only, NULL, &now);
	}
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = saved;
	return n;
}

static ssize_t write_some(const struct char_backend *b, const uint8_t *bytes, size_t n_bytes)
{
	if (b->out_kind == CHAR_OUT_SOCKET)
		return send(b->out_fd, bytes, n_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (b->out_kind == CHAR_OUT_POLLED) {
		struct pollfd p = { .fd = b->out_fd, .events = POLLOUT };
		if (poll(&p, 1, 0) <= 0 || !(p.revents & (POLLOUT | POLLERR | POLLHUP))) {
			errno = EAGAIN;
			return -1;
		}
		/* Room for how much? A terminal says "some"; a pipe, a page. */
		n_bytes = min_u64(n_bytes, b->is_out_tty ? 1 : PIPE_BUF);
	}
	return b->needs_sigpipe_guard ? write_guarded(b->out_fd, bytes, n_bytes) : write(b->out_fd, bytes, n_bytes);
}

/* What the host takes now; the rest is the caller's. Bytes that can never be written count as taken. */
size_t char_out_try(struct char_backend *b, const uint8_t *bytes, size_t n_bytes)
{
	size_t n_done = 0;
	while (n_done < n_bytes && b->out_state == CHAR_OUT_READY) {
		ssize_t n = write_some(b, bytes + n_done, n_bytes - n_done);
		if (n >= 0) {
			n_done += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN && b->is_out_watchable) {
			b->out_state = CHAR_OUT_BLOCKED;
		} else if (b->mode == CHAR_SOCKET) {
			b->out_state = CHAR_OUT_ABSENT;
			b->is_peer_lost = true;
		} else if (errno == EPIPE || (errno == EIO && b->is_out_tty)) {
			b->out_state = CHAR_OUT_DEAD; /* the pipe's reader or the terminal has gone */
		} else {
			/* A full disk, say: these bytes are lost, later ones may not be. */
			b->out_errno = errno;
			b->n_dropped += n_bytes - n_done;
			return n_bytes;
		}
	}
	if (b->out_state == CHAR_OUT_DEAD)
		return n_bytes;
	return n_done;
}

void char_ring_append(struct char_backend *b, const uint8_t *bytes, size_t n_bytes)
{
	if (n_bytes > CHAR_BUFFER_BYTES) {
		size_t n_over = n_bytes - CHAR_BUFFER_BYTES;
		b->n_dropped += n_over;
		bytes += n_over;
		n_bytes = CHAR_BUFFER_BYTES;
	}
	if (n_bytes > CHAR_BUFFER_BYTES - b->n_ring) {
		size_t n_over = n_bytes - (CHAR_BUFFER_BYTES - b->n_ring);
		b->n_dropped += n_over;
		b->ring_start = (b->ring_start + n_over) % CHAR_BUFFER_BYTES;
		b->n_ring -= n_over;
	}
	size_t at = (b->ring_start + b->n_ring) % CHAR_BUFFER_BYTES;
	size_t n_first = (size_t)min_u64(n_bytes, CHAR_BUFFER_BYTES - at);
	memcpy(b->ring + at, bytes, n_first);
	memcpy(b->ring, bytes + n_first, n_bytes - n_first);
	b->n_ring += n_bytes;
	assert(b->n_ring <= CHAR_BUFFER_BYTES);
}

void char_ring_drain(struct char_backend *b)
{
	while (b->n_ring && b->out_state == CHAR_OUT_READY) {
		size_t n = (size_t)min_u64(b->n_ring, CHAR_BUFFER_BYTES - b->ring_start);
		size_t n_taken = char_out_try(b, b->ring + b->ring_start, n);
		b->ring_start = (b->ring_start + n_taken) % CHAR_BUFFER_BYTES;
		b->n_ring -= n_taken;
	}
	if (b->out_state == CHAR_OUT_DEAD)
		b->n_ring = 0;
	if (b->n_ring == 0)
		b->ring_start = 0; /* the front pages stay the only ones in use */
}

unsigned char_out_wants(struct char_backend *b)
{
	unsigned wants = 0;
	if (b->out_state == CHAR_OUT_BLOCKED && !b->is_out_asked) {
		b->is_out_asked = true;
		wants |= CHAR_WANT_OUT;
	}
	if (b->out_state == CHAR_OUT_READY && b->n_ring && !b->is_tick_asked) {
		b->is_tick_asked = true;
		wants |= CHAR_WANT_TICK;
	}
	if (b->out_errno && !b->is_errno_told) {
		b->is_errno_told = true;
		wants |= CHAR_WANT_REPORT;
	}
	if (b->is_peer_lost) {
		b->is_peer_lost = false;
		wants |= CHAR_WANT_DROP_PEER;
	}
	return wants;
}

void char_out_set(struct char_backend *b, int fd, enum char_out_kind kind, enum char_out_state state)
{
	(void)pthread_mutex_lock(&b->lock);
	b->out_fd = fd;
	b->out_kind = kind;
	b->out_state = state;
	b->is_out_watchable = b->out.loop != NULL;
	b->is_out_asked = false;
	b->is_peer_lost = false;
	char_ring_drain(b);
	unsigned wants = char_out_wants(b);
	(void)pthread_mutex_unlock(&b->lock);
	if (wants)
		char_want(b, wants);
}

void char_out_finish(struct char_backend *b)
{
	uint64_t end = clock_now_ns() + CHAR_CLOSE_WAIT_MS * NS_PER_MS;
	(void)pthread_mutex_lock(&b->lock);
	for (;;) {
		if (b->out_state == CHAR_OUT_BLOCKED)
			b->out_state = CHAR_OUT_READY;
		char_ring_drain(b);
		uint64_t now = clock_now_ns();
		if (b->out_state != CHAR_OUT_BLOCKED || now >= end)
			break;
		/* Nobody else uses the backend any more: waiting under its lock keeps nobody out. */
		struct pollfd p = { .fd = b->out_fd, .events = POLLOUT };
		(void)poll(&p, 1, (int)((end - now) / NS_PER_MS) + 1);
	}
	b->n_dropped += b->out_state == CHAR_OUT_ABSENT ? 0 : b->n_ring;
	b->n_ring = 0;
	(void)pthread_mutex_unlock(&b->lock);
}

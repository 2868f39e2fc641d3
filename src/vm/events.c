/* SPDX-License-Identifier: Apache-2.0 */
/* The queue is a buffer of whole events, under a leaf lock. The writer takes as much of it as the descriptor accepts; the
 * rest of a half-written event stays at the front and is never dropped, so that a reader can always find the next
 * event. Files are no sources of an event loop; all else is watched while it does not accept. A write that fails is tried
 * again after a while, as disks are full for a time only: but not when there is nobody who could ever read. */
#include "vm/events.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "loop/loop.h"

#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

/* How long the end of the stream waits for a reader to take the rest of a half-written event. */
#define LAST_WAIT_MS 250
#define RETRY_NS (500 * NS_PER_MS)

struct events {
	uint64_t start_ns;
	struct loop_thread thread;
	struct loop_message message;

	/* The writer's; once it has ended, the owner's. */
	int fd;
	struct source source; /* added while fd does not accept */
	struct timer retry;
	struct log log;
	bool is_watched, is_broken, has_complained;
	bool is_inside; /* the last byte written was not an event's last */

	pthread_mutex_t lock;
	uint64_t n_lost;
	size_t n_bytes;
	char bytes[EVENTS_QUEUE_BYTES];
};

/* --- the writer -------------------------------------------------------------------------------------------------------- */

static void on_writable(struct source *source, uint32_t epoll_events);

/* Copies the front of the queue; takes nothing. */
static size_t peek(struct events *ev, char *ret_bytes, size_t n_max)
{
	(void)pthread_mutex_lock(&ev->lock);
	size_t n = min_u64(ev->n_bytes, n_max);
	memcpy(ret_bytes, ev->bytes, n);
	(void)pthread_mutex_unlock(&ev->lock);
	return n;
}

static void take(struct events *ev, size_t n)
{
	(void)pthread_mutex_lock(&ev->lock);
	ev->n_bytes -= n;
	memmove(ev->bytes, ev->bytes + n, ev->n_bytes);
	(void)pthread_mutex_unlock(&ev->lock);
}

/* An end of an event inside [bytes, +n): how many bytes up to the last one. 0: none. */
static size_t whole_events(const char *bytes, size_t n)
{
	for (; n >= 2; n--) {
		if (bytes[n - 1] == '\n' && bytes[n - 2] == '\n')
			return n;
	}
	return 0;
}

static void complain(struct events *ev, int error)
{
	if (!ev->has_complained)
		log_warn(&ev->log, "events cannot be written%s: %s", ev->is_broken ? " any more" : " just now; they wait",
		         strerrordesc_np(error));
	ev->has_complained = true;
}

/* All is written; the descriptor says when it takes more; or nobody says. */
enum progress { IS_DONE, IS_FULL, HAS_FAILED };

static enum progress write_queue(struct events *ev)
{
	char chunk[4096]; /* at most PIPE_BUF: a FIFO takes such a write whole or not at all */
	for (;;) {
		size_t n = peek(ev, chunk, sizeof chunk);
		if (n == 0)
			return IS_DONE;
		/* Whole events, unless there is one that is longer than a chunk. */
		size_t n_whole = whole_events(chunk, n);
		if (n_whole)
			n = n_whole;
		ssize_t n_written = ev->is_broken ? (ssize_t)n : write(ev->fd, chunk, n);
		if (n_written < 0 && errno == EINTR)
			continue;
		if (n_written < 0 && errno == EAGAIN)
			return IS_FULL;
		if (n_written < 0) {
			int error = errno;
			ev->is_broken = error == EPIPE || error == EBADF; /* the reader has gone: nobody is to wait for that */
			complain(ev, error);
			if (!ev->is_broken)
				return HAS_FAILED;
			continue;
		}
		ev->is_inside = (size_t)n_written != whole_events(chunk, (size_t)n_written);
		take(ev, (size_t)n_written);
	}
}

static void on_retry(struct timer *t);

static void run_writer(struct events *ev)
{
	enum progress progress = write_queue(ev);
	if (progress != IS_FULL && ev->is_watched) {
		loop_remove(&ev->source);
		ev->is_watched = false;
	} else if (progress == IS_FULL && !ev->is_watched) {
		ev->is_watched = loop_add(ev->thread.loop, &ev->source, ev->fd, EPOLLOUT, on_writable, NULL) >= 0;
	}
	if (progress == HAS_FAILED && !ev->retry.is_set)
		timer_set(ev->thread.loop, &ev->retry, clock_now_ns() + RETRY_NS, on_retry);
}

static void on_retry(struct timer *t)
{
	run_writer(container_of(t, struct events, retry));
}

static void on_writable(struct source *source, uint32_t epoll_events)
{
	(void)epoll_events;
	run_writer(container_of(source, struct events, source));
}

static void on_message(struct loop_message *m)
{
	run_writer(container_of(m, struct events, message));
}

/* --- open and close ---------------------------------------------------------------------------------------------------- */

int events_open_fd(int fd, struct events **ret_ev, struct err *e)
{
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return err_set_errno(e, errno, "descriptor %d", fd);
	if ((flags & O_ACCMODE) == O_RDONLY)
		return err_set(e, EBADF, "descriptor %d: not open for writing", fd);
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_set_errno(e, errno, "descriptor %d", fd);

	struct events *ev = calloc(1, sizeof *ev);
	if (!ev)
		return err_set(e, ENOMEM, "no memory");
	int rc = loop_thread_start(&ev->thread, "event-monitor", e);
	if (rc < 0) {
		free(ev);
		return rc;
	}
	(void)pthread_mutex_init(&ev->lock, NULL);
	ev->start_ns = clock_now_ns();
	ev->fd = fd;
	*ret_ev = ev;
	return 0;
}

void events_log_to(struct events *ev, const struct log_sink *sink)
{
	if (ev)
		ev->log = (struct log){ .sink = sink, .object = "event-monitor" };
}

int events_open_path(const char *path, struct events **ret_ev, struct err *e)
{
	struct stat st;
	/* A FIFO is opened for both directions, so that no reader need be there, and one that leaves may come back. */
	bool is_fifo = stat(path, &st) == 0 && S_ISFIFO(st.st_mode);
	int access = is_fifo ? O_RDWR : O_WRONLY | O_CREAT | O_TRUNC;
	fd_scoped fd = open(path, access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set_errno(e, errno, "'%s'", path);
	int rc = events_open_fd(fd, ret_ev, e);
	if (rc >= 0)
		(void)fd_take(&fd);
	return rc;
}

static int unwatch(void *arg)
{
	struct events *ev = arg;
	if (ev->is_watched)
		loop_remove(&ev->source);
	ev->is_watched = false;
	timer_cancel(&ev->retry);
	return 0;
}

/* Of what the reader did not take, at most the rest of the event that it has the first half of. */
static void write_last(struct events *ev)
{
	uint64_t end_ns = clock_now_ns() + LAST_WAIT_MS * NS_PER_MS;
	while (write_queue(ev) == IS_FULL) {
		uint64_t now = clock_now_ns();
		struct pollfd p = { .fd = ev->fd, .events = POLLOUT };
		if (!ev->is_inside || now >= end_ns || poll(&p, 1, (int)((end_ns - now) / NS_PER_MS) + 1) < 0)
			return;
	}
}

void events_free(struct events *ev)
{
	if (!ev)
		return;
	loop_flush(ev->thread.loop); /* on_message() may watch */
	(void)loop_call(ev->thread.loop, unwatch, ev);
	loop_thread_stop(&ev->thread);
	write_last(ev);
	fd_close(&ev->fd);
	(void)pthread_mutex_destroy(&ev->lock);
	free(ev);
}

/* --- events ------------------------------------------------------------------------------------------------------------ */

/* The event as text, without what follows it; the caller frees. Steals the reference to properties. NULL when there is no
 * memory, or a word is not UTF-8. */
static char *format(const struct events *ev, const char *source, const char *event, json_t *properties)
{
	uint64_t ns = clock_now_ns() - ev->start_ns;
	json_t *o = json_pack("{s:{s:I, s:I}, s:s, s:s, s:o}", "timestamp", "secs", (json_int_t)(ns / NS_PER_S), "nanos",
	                      (json_int_t)(ns % NS_PER_S), "source", source, "event", event, "properties",
	                      properties ? properties : json_null());
	char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
	json_decref(o);
	return text;
}

/* How much of the queue an event of that source may fill. */
static size_t share_of(const char *source)
{
	return strcmp(source, "virtio-device") == 0 ? EVENTS_QUEUE_BYTES - EVENTS_RESERVE_BYTES : EVENTS_QUEUE_BYTES;
}

/* Under the lock. */
static bool append(struct events *ev, const char *text, size_t share)
{
	size_t n = strlen(text);
	if (ev->n_bytes + n + 2 > share)
		return false;
	memcpy(ev->bytes + ev->n_bytes, text, n);
	memcpy(ev->bytes + ev->n_bytes + n, "\n\n", 2);
	ev->n_bytes += n + 2;
	return true;
}

/* Under the lock. What was lost is said before anything else, or nothing is. */
static bool append_lost(struct events *ev, size_t share)
{
	if (!ev->n_lost)
		return true;
	char count[24];
	(void)snprintf(count, sizeof count, "%llu", (unsigned long long)ev->n_lost);
	free_scoped char *text = format(ev, "vmm", "events-lost", json_pack("{s:s}", "count", count));
	if (!text || !append(ev, text, share))
		return false;
	ev->n_lost = 0;
	return true;
}

static void emit(struct events *ev, const char *source, const char *event, json_t *properties)
{
	(void)pthread_mutex_lock(&ev->lock); /* time goes forward in the stream */
	free_scoped char *text = format(ev, source, event, properties);
	size_t share = share_of(source);
	if (!text || !append_lost(ev, share) || !append(ev, text, share))
		ev->n_lost++;
	(void)pthread_mutex_unlock(&ev->lock);
	loop_post(ev->thread.loop, &ev->message, on_message);
}

void events_emit(struct events *ev, const char *source, const char *event, const char *properties_json)
{
	if (ev)
		emit(ev, source, event, properties_json ? json_loads(properties_json, 0, NULL) : NULL);
}

void events_emit_device(struct events *ev, const char *source, const char *event, const char *id, const char *bdf)
{
	if (!ev)
		return;
	emit(ev, source, event, json_pack(bdf ? "{s:s, s:s}" : "{s:s}", "id", id, "bdf", bdf));
}

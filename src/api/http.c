/* SPDX-License-Identifier: Apache-2.0 */
/* Clients come in as long as there is a place. When all are taken, the next ones wait in the backlog, and a connection that
 * has been idle, or stuck in a request or an answer, for a while makes room for one of them: clients that do nothing must not
 * lock the others out. */
#include "api/http_private.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define REQUEST_NS (30 * NS_PER_S)
#define IDLE_NS (5 * NS_PER_S)
#define CLOSE_NS NS_PER_S
#define ACCEPT_AGAIN_NS (100 * NS_PER_MS)
#define ACCEPTS_PER_TURN 16

bool http_is_full(const struct http *h)
{
	return h->n_connections >= HTTP_MAX_CONNECTIONS;
}

bool http_has_waiting_client(const struct http *h)
{
	struct pollfd p = { .fd = h->listener.fd, .events = POLLIN };
	return poll(&p, 1, 0) == 1;
}

/* While the server is full, connections have shorter time limits, and only the arrival of one more client is an event. */
static void watch_listener(struct http *h)
{
	(void)loop_change(&h->listen, http_is_full(h) ? EPOLLIN | EPOLLET : EPOLLIN);
}

static void fullness_changed(struct http *h)
{
	watch_listener(h);
	list_for_each(l, &h->connections)
		connection_set_wait(list_entry(l, struct connection, link), false);
}

void http_connection_gone(struct http *h)
{
	if (h->n_connections == HTTP_MAX_CONNECTIONS - 1 && h->listen.loop)
		fullness_changed(h);
}

static void on_accept_again(struct timer *t)
{
	watch_listener(container_of(t, struct http, accept_again));
}

/* Out of descriptors or memory: who waits goes on waiting, and we look again later instead of spinning. */
static void accept_later(struct http *h, const char *why)
{
	if (log_limit_pass(&h->log, &h->limit))
		log_warn(&h->log, "cannot accept a connection: %s", why);
	(void)loop_change(&h->listen, 0);
	timer_set(h->loop, &h->accept_again, clock_now_ns() + ACCEPT_AGAIN_NS, on_accept_again);
}

/* For one who waits: of those that have stalled, the one that has for longest. */
static void make_room(struct http *h)
{
	uint64_t now = clock_now_ns();
	struct connection *oldest = NULL;
	list_for_each(l, &h->connections) {
		struct connection *c = list_entry(l, struct connection, link);
		if (connection_has_stalled(c, now) && (!oldest || c->since_ns < oldest->since_ns))
			oldest = c;
	}
	if (oldest)
		connection_give_up(oldest);
}

/* False: nobody waits, or cannot come in now. */
static bool accept_one(struct http *h)
{
	struct err e = { 0 };
	int fd = accept4(h->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			accept_later(h, strerrorname_np(errno));
		return false;
	}
	if (connection_new(h, fd, &e) < 0) {
		accept_later(h, e.text);
		return false;
	}
	if (http_is_full(h))
		fullness_changed(h);
	return true;
}

static void on_listen(struct source *s, uint32_t events)
{
	struct http *h = container_of(s, struct http, listen);
	(void)events;
	if (http_is_full(h)) {
		make_room(h);
		return;
	}
	for (int i = 0; i < ACCEPTS_PER_TURN && !http_is_full(h) && accept_one(h); i++)
		;
}

int http_open(const struct http_params *p, struct http **ret_http, struct err *e)
{
	struct http *h = calloc(1, sizeof *h);
	if (!h)
		return err_set(e, ENOMEM, "API: out of memory");
	h->loop = p->loop;
	h->handle = p->handle;
	h->context = p->context;
	h->request_ns = p->request_ns ? p->request_ns : REQUEST_NS;
	h->idle_ns = p->idle_ns ? p->idle_ns : IDLE_NS;
	h->log = (struct log){ .sink = p->log_sink, .object = "api" };
	list_init(&h->connections);
	int rc = p->fd >= 0 ? http_listen_fd(&h->listener, p->fd, e) : http_listen_path(&h->listener, p->path, e);
	if (rc == 0) {
		rc = loop_add(h->loop, &h->listen, h->listener.fd, EPOLLIN, on_listen, e);
		if (rc < 0 && p->fd >= 0)
			h->listener.fd = -1; /* stays the caller's */
		if (rc < 0)
			http_listen_close(&h->listener);
	}
	if (rc < 0) {
		free(h);
		return rc;
	}
	*ret_http = h;
	return 0;
}

/* Until all have their answers, or the time is over. */
static void flush_all(struct http *h)
{
	uint64_t end = clock_now_ns() + CLOSE_NS, now;
	while ((now = clock_now_ns()) < end) {
		struct pollfd p[HTTP_MAX_CONNECTIONS];
		nfds_t n = 0;
		list_for_each(l, &h->connections) {
			struct connection *c = list_entry(l, struct connection, link);
			if (connection_flush(c) && connection_has_output(c))
				p[n++] = (struct pollfd){ .fd = c->fd, .events = POLLOUT };
		}
		if (!n)
			return;
		(void)poll(p, n, (int)((end - now) / NS_PER_MS) + 1);
	}
}

void http_close(struct http *h)
{
	if (!h)
		return;
	assert(!h->is_handling);
	timer_cancel(&h->accept_again);
	loop_remove(&h->listen);
	flush_all(h);
	while (!list_is_empty(&h->connections))
		connection_free(list_entry(h->connections.next, struct connection, link));
	http_listen_close(&h->listener);
	free(h);
}

static void append_string(struct text *t, const char *s, size_t n)
{
	json_t *word = json_stringn(s, n);
	text_scoped plain = TEXT_INIT;
	if (!word) {
		/* A text of ours may quote a file's name, in any encoding, or be cut in the middle of a character. */
		for (size_t i = 0; i < n; i++)
			text_append_char(&plain, s[i] & 0x80 ? '?' : s[i]);
		word = json_stringn(text_get(&plain), plain.n_bytes);
	}
	char *json = word ? json_dumps(word, JSON_ENCODE_ANY) : NULL;
	text_appendf(t, "%s%s", t->n_bytes > 1 ? "," : "", json ? json : "\"out of memory\"");
	free(json);
	json_decref(word);
}

void http_answer_errors(struct http_answer *a, unsigned status, const char *lines)
{
	text_done(&a->body);
	a->status = status;
	text_append_char(&a->body, '[');
	for (const char *at = lines; *at;) {
		size_t n = strcspn(at, "\n");
		if (n)
			append_string(&a->body, at, n);
		at += n + (at[n] == '\n');
	}
	text_append_char(&a->body, ']');
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation. A turn of a connection is: take one buffer of input, serve whole requests (a bounded number), write,
 * and say what to wait for. Input is not read while answers are not taken or requests wait to be served, so that a client
 * that only sends holds at most one request and one buffer of our memory.
 *
 * Descriptors come with bytes: the kernel ends a read behind the message that carried them, so they belong to the request
 * that the last byte of that read is part of.
 *
 * A connection that we end (a malformed request, "Connection: close") is first shut down for writing and then read until the
 * client ends it too, for a bounded time: closing a Unix socket with unread input would hit the client with ECONNRESET
 * while it still sends, and it might never look at its answer. */
#include "api/http_private.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define READ_BYTES (16u << 10)
#define REQUESTS_PER_TURN 16
#define MAX_UNSENT_BYTES (64u << 10) /* then no more is served, until the client has taken some */
#define KEEP_BYTES (64u << 10)       /* buffers larger than this are given back when they are empty */
#define LINGER_NS (2 * NS_PER_S)

static void on_event(struct source *s, uint32_t events);

int connection_new(struct http *h, int fd, struct err *e)
{
	fd_scoped taken = fd;
	struct connection *c = calloc(1, sizeof *c);
	if (!c)
		return err_set(e, ENOMEM, "API connection: out of memory");
	c->http = h;
	c->since_ns = clock_now_ns();
	c->events = EPOLLIN;
	int rc = loop_add(h->loop, &c->source, fd, c->events, on_event, e);
	if (rc < 0) {
		free(c);
		return rc;
	}
	c->fd = fd_take(&taken);
	list_append(&h->connections, &c->link);
	h->n_connections++;
	return 0;
}

void connection_free(struct connection *c)
{
	struct http *h = c->http;
	timer_cancel(&c->deadline);
	loop_remove(&c->source);
	fd_close(&c->fd);
	for (size_t i = 0; i < c->n_fds; i++)
		fd_close(&c->fds[i].fd);
	free(c->fds);
	text_done(&c->in);
	text_done(&c->out);
	list_remove(&c->link);
	free(c);
	h->n_connections--;
	http_connection_gone(h);
}

/* Output. */

static void append_answer(struct connection *c, const struct http_answer *a)
{
	text_appendf(&c->out, "HTTP/1.1 %u \r\nServer: Cloud Hypervisor API\r\nConnection: %s\r\n", a->status,
	             c->is_ending ? "close" : "keep-alive");
	if (a->status != 204)
		text_appendf(&c->out, "Content-Type: application/json\r\nContent-Length: %zu\r\n", a->body.n_bytes);
	text_append(&c->out, "\r\n");
	if (a->status != 204)
		text_append_n(&c->out, text_get(&a->body), a->body.n_bytes);
}

/* The last answer of this connection. */
static void refuse(struct connection *c, unsigned status, const char *lines)
{
	struct http_answer a = { 0 };
	log_debug(&c->http->log, "a request was refused with %u: %s", status, lines);
	c->is_ending = true;
	http_answer_errors(&a, status, lines);
	append_answer(c, &a);
	text_done(&a.body);
}

/* What the client has taken makes room: one that is always a little behind must not make us keep it all. */
static void forget_output(struct connection *c)
{
	if (c->out_at < KEEP_BYTES || c->out_at < c->out.n_bytes / 2)
		return;
	c->out.n_bytes -= c->out_at;
	memmove(c->out.bytes, c->out.bytes + c->out_at, c->out.n_bytes);
	c->out_due -= min_u64(c->out_due, c->out_at);
	c->out_at = 0;
}

bool connection_flush(struct connection *c)
{
	while (connection_has_output(c)) {
		ssize_t n = send(c->fd, c->out.bytes + c->out_at, c->out.n_bytes - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			return false;
		if (n < 0) {
			forget_output(c);
			return true;
		}
		c->out_at += (size_t)n;
	}
	c->out_at = c->out.n_bytes = c->out_due = 0;
	if (c->out.n_capacity > KEEP_BYTES)
		text_done(&c->out);
	return true;
}

/* Input. */

static bool has_room_for_fd(struct connection *c)
{
	if (c->n_fds < c->n_fds_capacity)
		return true;
	size_t capacity = c->n_fds_capacity ? HTTP_MAX_FDS : 8;
	struct received_fd *fds = realloc(c->fds, capacity * sizeof *fds);
	if (!fds)
		return false;
	c->fds = fds;
	c->n_fds_capacity = capacity;
	return true;
}

/* Takes fd over. */
static void keep_fd(struct connection *c, int fd, size_t at)
{
	fd_scoped taken = fd;
	if (c->is_ending)
		return;
	if (c->n_fds == HTTP_MAX_FDS)
		c->has_many_fds = true;
	else if (!has_room_for_fd(c))
		c->has_lost_fds = true;
	else
		c->fds[c->n_fds++] = (struct received_fd){ fd_take(&taken), at };
}

static void keep_fds(struct connection *c, struct msghdr *m, size_t at)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
			keep_fd(c, fd, at);
		}
	}
	/* A message cannot carry more than we have room for; but our own table of descriptors may be full. */
	c->has_lost_fds |= (m->msg_flags & MSG_CTRUNC) != 0;
}

/* One buffer of input; false: the connection is of no use any more. */
static bool receive(struct connection *c)
{
	char bytes[READ_BYTES];
	union {
		char bytes[CMSG_SPACE(sizeof(int) * HTTP_MAX_FDS)];
		struct cmsghdr align;
	} control;
	struct iovec v = { bytes, sizeof bytes };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	ssize_t n = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	keep_fds(c, &m, c->in.n_bytes + (size_t)n - 1);
	if (n == 0)
		c->has_input_ended = true;
	else if (!c->is_ending)
		text_append_n(&c->in, bytes, (size_t)n);
	return !c->in.is_out_of_memory;
}

/* The descriptors that came with the request that ends before `end`, as an array of their own; the others stay. */
static size_t split_fds(struct connection *c, size_t end, int *fds)
{
	size_t n = 0, n_left = 0;
	for (size_t i = 0; i < c->n_fds; i++) {
		if (c->fds[i].at < end)
			fds[n++] = c->fds[i].fd;
		else
			c->fds[n_left++] = c->fds[i];
	}
	c->n_fds = n_left;
	return n;
}

static void call_handler(struct connection *c, const struct http_request *r)
{
	struct http *h = c->http;
	struct http_answer a = { .status = 400 };
	if (r->method != HTTP_OTHER) {
		h->is_handling = true;
		h->handle(h->context, r, &a);
		h->is_handling = false;
	}
	if (a.body.is_out_of_memory) {
		text_done(&a.body);
		a.status = 500;
	}
	log_debug(&h->log, "%s %s: %u",
	          r->method == HTTP_GET ? "GET" : r->method == HTTP_PUT ? "PUT" : "another method",
	          r->path, a.status);
	append_answer(c, &a);
	text_done(&a.body);
}

/* The request at in_at is whole. */
static void serve_one(struct connection *c)
{
	const struct http_parser *p = &c->parser;
	char *bytes = c->in.bytes + c->in_at;
	int fds[HTTP_MAX_FDS];
	struct http_request r = {
		.method = p->method,
		.path = "",
		.body = p->n_body_bytes ? bytes + p->n_head_bytes : NULL,
		.n_body_bytes = p->n_body_bytes,
		.fds = fds,
	};
	if (p->n_path_bytes) {
		bytes[p->path_at + p->n_path_bytes] = '\0'; /* a space of the request line, which nobody reads again */
		r.path = bytes + p->path_at;
	}
	c->in_at += p->n_head_bytes + p->n_body_bytes;
	c->is_ending = p->is_last;
	r.n_fds = split_fds(c, c->in_at, fds);
	call_handler(c, &r);
	for (size_t i = 0; i < r.n_fds; i++)
		fd_close(&fds[i]);
	c->parser = (struct http_parser){ 0 };
	c->is_continue_sent = false;
}

/* A client that asked for it sends its body only after this. */
static void send_continue(struct connection *c, size_t n_input)
{
	if (!c->parser.is_continue_expected || c->is_continue_sent || n_input > c->parser.n_head_bytes)
		return;
	text_append(&c->out, "HTTP/1.1 100 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n");
	c->is_continue_sent = true;
}

static unsigned status_of_refusal(int rc)
{
	return rc == -EOPNOTSUPP ? 411 : 400;
}

/* True when it got to the end of a request, or of the connection. */
static bool serve_next(struct connection *c)
{
	struct err e = { 0 };
	size_t n_input = c->in.n_bytes - c->in_at;
	const struct http_parser *p = &c->parser;
	if (!n_input)
		return false;
	int rc = http_parser_feed(&c->parser, c->in.bytes + c->in_at, n_input, &e);
	if (rc < 0) {
		err_prefix(&e, "Bad Request\n");
		refuse(c, status_of_refusal(rc), e.text);
		return true;
	}
	if (rc == 1 && n_input >= p->n_head_bytes + p->n_body_bytes) {
		serve_one(c);
		return true;
	}
	if (c->has_input_ended) {
		refuse(c, 400, "Bad Request\nthe request ends before its end");
		return true;
	}
	if (rc == 1)
		send_continue(c, n_input);
	return false;
}

static size_t n_unsent(const struct connection *c)
{
	return c->out.n_bytes - c->out_at;
}

/* Returns whether a request was served. */
static bool serve(struct connection *c)
{
	int n = 0;
	if (c->has_many_fds && !c->is_ending)
		refuse(c, 400, "Bad Request\ntoo many descriptors");
	else if (c->has_lost_fds && !c->is_ending)
		refuse(c, 500, "Internal Server Error\nthe descriptors of the request cannot be received: too many are open, or "
		               "memory is out");
	while (!c->is_ending && n < REQUESTS_PER_TURN && n_unsent(c) < MAX_UNSENT_BYTES && serve_next(c))
		n++;
	c->is_turn_over = !c->is_ending && (n == REQUESTS_PER_TURN || n_unsent(c) >= MAX_UNSENT_BYTES);
	return n > 0;
}

/* What was served goes out of the buffer; of a connection that ends, all of it. */
static void forget_input(struct connection *c)
{
	if (c->is_ending) {
		c->in_at = c->in.n_bytes;
		for (size_t i = 0; i < c->n_fds; i++)
			fd_close(&c->fds[i].fd);
		c->n_fds = 0;
	}
	for (size_t i = 0; i < c->n_fds; i++)
		c->fds[i].at -= c->in_at;
	c->in.n_bytes -= c->in_at;
	if (c->in.n_bytes)
		memmove(c->in.bytes, c->in.bytes + c->in_at, c->in.n_bytes);
	c->in_at = 0;
	if (c->in.n_bytes || (c->in.n_capacity <= KEEP_BYTES && !c->is_ending))
		return;
	bool is_large = c->in.n_capacity > KEEP_BYTES;
	text_done(&c->in);
	/* What was built of a large body is many times as large, and malloc would keep it for us. */
	if (is_large)
		(void)malloc_trim(0);
}

/* Time. */

static enum http_wait wait_of(const struct connection *c)
{
	if (c->is_lingering)
		return WAIT_LINGER;
	if (connection_has_output(c))
		return WAIT_WRITE;
	if (c->in.n_bytes)
		return WAIT_REQUEST;
	return http_is_full(c->http) ? WAIT_IDLE : WAIT_NOTHING;
}

static bool is_waiting(enum http_wait wait)
{
	return wait == WAIT_REQUEST || wait == WAIT_WRITE;
}

static bool has_unread_input(const struct connection *c)
{
	char byte;
	return recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
}

bool connection_has_stalled(const struct connection *c, uint64_t now_ns)
{
	if ((c->wait != WAIT_IDLE && !is_waiting(c->wait)) || now_ns - c->since_ns < c->http->idle_ns)
		return false;
	return c->wait == WAIT_WRITE || !has_unread_input(c);
}

void connection_give_up(struct connection *c)
{
	/* A client that was told to go on is still slow: one answer, if it fits into the socket, and no time to linger. */
	if (c->wait == WAIT_REQUEST) {
		refuse(c, 408, "Request Timeout\nthe request did not come to its end in time");
		(void)connection_flush(c);
	}
	connection_free(c);
}

static void on_deadline(struct timer *t);

/* `from` is when the time begins, or began. */
static void set_deadline(struct connection *c, uint64_t from)
{
	struct http *h = c->http;
	uint64_t ns = h->idle_ns;
	if (c->wait == WAIT_LINGER)
		ns = LINGER_NS;
	else if (is_waiting(c->wait))
		ns = http_is_full(h) ? min_u64(h->idle_ns, h->request_ns) : h->request_ns;
	uint64_t end = from + ns;
	if (is_waiting(c->wait))
		end = min_u64(end, c->since_ns + h->request_ns);
	timer_set(h->loop, &c->deadline, end, on_deadline);
}

static void on_deadline(struct timer *t)
{
	struct connection *c = container_of(t, struct connection, deadline);
	uint64_t now = clock_now_ns();
	bool is_over = c->wait == WAIT_LINGER || (is_waiting(c->wait) && now - c->since_ns >= c->http->request_ns);
	if (is_over || (connection_has_stalled(c, now) && http_has_waiting_client(c->http)))
		connection_give_up(c);
	else
		set_deadline(c, now);
}

static bool is_nothing(enum http_wait wait)
{
	return wait == WAIT_NOTHING || wait == WAIT_IDLE;
}

void connection_set_wait(struct connection *c, bool is_new)
{
	enum http_wait wait = wait_of(c);
	bool is_same = wait == c->wait || (is_nothing(wait) && is_nothing(c->wait));
	c->wait = wait;
	if (is_new || !is_same) {
		c->since_ns = clock_now_ns();
		c->out_due = c->out.n_bytes;
	}
	timer_cancel(&c->deadline);
	/* While the server is full, the time of those may be over that have been slow for long already: the longest goes first. */
	if (wait != WAIT_NOTHING)
		set_deadline(c, c->since_ns);
}

static void watch(struct connection *c)
{
	uint32_t events = 0;
	if (connection_has_output(c) || c->is_turn_over)
		events |= EPOLLOUT;
	if (!c->has_input_ended && (c->is_lingering || (!c->is_ending && !c->is_turn_over)))
		events |= EPOLLIN;
	if (events != c->events)
		(void)loop_change(&c->source, events);
	c->events = events;
}

/* False: the connection has come to its end. */
static bool turn(struct connection *c)
{
	if (!c->has_input_ended && (c->is_lingering || (!c->is_ending && !c->is_turn_over)) && !receive(c))
		return false;
	bool has_served = serve(c);
	forget_input(c);
	if (c->out.is_out_of_memory || !connection_flush(c))
		return false;
	if (!connection_has_output(c)) {
		if (c->has_input_ended && !c->in.n_bytes)
			return false;
		if (c->is_ending && !c->is_lingering) {
			c->is_lingering = true;
			(void)shutdown(c->fd, SHUT_WR);
		}
	}
	watch(c);
	/* Bytes that are taken now and then do not renew the time of an answer; an answer that was taken does. */
	connection_set_wait(c, c->wait == WAIT_WRITE ? c->out_at >= c->out_due : has_served);
	return true;
}

static void on_event(struct source *s, uint32_t events)
{
	struct connection *c = container_of(s, struct connection, source);
	(void)events;
	if (!turn(c))
		connection_free(c);
}

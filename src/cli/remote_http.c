/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.1 as far as the API needs it (RFC 9112): an answer has a status line whose reason phrase may be missing, a head,
 * and a body that Content-Length or the end of the connection ends. There is no chunked coding, and no redirection. */
#include "cli/remote_http.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MAX_FDS 253 /* SCM_MAX_FD of the kernel */
#define READ_BYTES 16384

struct exchange {
	struct http_client *c;
	uint64_t deadline_ns; /* UINT64_MAX: none */
	struct err *e;
	struct text in; /* all that came and is not used up */
	bool is_end;    /* the peer has closed its side */
};

struct head {
	unsigned status;
	size_t n_bytes; /* with the empty line */
	bool has_length, is_closing;
	uint64_t n_body;
};

#define fault_set(x, fault_, code, ...) ((x)->c->fault = (fault_), err_set((x)->e, code, __VA_ARGS__))

void http_client_init(struct http_client *c, const char *path, int timeout_ms)
{
	*c = (struct http_client){ .path = path, .timeout_ms = timeout_ms, .fd = -1 };
}

void http_client_done(struct http_client *c)
{
	fd_close(&c->fd);
}

void http_answer_done(struct http_answer *a)
{
	free(a->body);
	*a = (struct http_answer){ 0 };
}

int http_client_connect(struct http_client *c, struct err *e)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t n = strlen(c->path);

	if (c->fd >= 0)
		return 0;
	c->fault = HTTP_NO_CONNECTION;
	if (!n || n >= sizeof address.sun_path)
		return err_set(e, n ? ENAMETOOLONG : EINVAL, "the socket's path \"%.60s%s\" must have 1 to %zu bytes", c->path,
		               n > 60 ? "..." : "", sizeof address.sun_path - 1);
	memcpy(address.sun_path, c->path, n);

	fd_scoped fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(e, errno, "cannot make a socket");
	if (c->timeout_ms >= 0) {
		/* The time that connect() waits for a listener whose queue is full. */
		struct timeval limit = { .tv_sec = c->timeout_ms / 1000, .tv_usec = c->timeout_ms % 1000 * 1000 + 1 };
		(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	}
	if (connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
		int code = errno;
		if (code == ENOENT)
			return err_set(e, code, "there is no socket at %s", c->path);
		if (code == ECONNREFUSED)
			return err_set(e, code, "nobody listens at %s: it is not a socket, or what a dead process left", c->path);
		if (code == EAGAIN)
			return err_set(e, ETIMEDOUT, "the server at %s did not take the connection within %d ms", c->path,
			               c->timeout_ms);
		return err_set_errno(e, code, "cannot connect to %s", c->path);
	}
	c->fd = fd_take(&fd);
	c->fault = HTTP_NO_FAULT;
	return 0;
}

static int wait_for(struct exchange *x, short events)
{
	struct pollfd p = { .fd = x->c->fd, .events = events };
	for (;;) {
		int wait_ms = -1;
		if (x->deadline_ns != UINT64_MAX) {
			uint64_t now = clock_now_ns();
			/* Rounded up: poll() must not return before the deadline again and again. */
			wait_ms = now >= x->deadline_ns ? 0 : (int)((x->deadline_ns - now) / NS_PER_MS + 1);
		}
		int n = poll(&p, 1, wait_ms);
		if (n > 0)
			return 0;
		if (n == 0)
			return fault_set(x, HTTP_IO, ETIMEDOUT, "no whole answer within %d ms", x->c->timeout_ms);
		if (errno != EINTR)
			return x->c->fault = HTTP_IO, err_set_errno(x->e, errno, "cannot wait for the server");
	}
}

/* The descriptors go with the first byte. 1: the peer does not read any more, but may have answered already. */
static int send_all(struct exchange *x, const char *bytes, size_t n, const int *fds, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * MAX_FDS)];
	} control = { 0 };

	while (n) {
		struct iovec part = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = n };
		struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1 };
		if (n_fds) {
			m.msg_control = &control;
			m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
			struct cmsghdr *h = CMSG_FIRSTHDR(&m);
			*h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
			                       .cmsg_len = CMSG_LEN(sizeof(int) * n_fds) };
			memcpy(CMSG_DATA(h), fds, sizeof(int) * n_fds);
		}
		ssize_t sent = sendmsg(x->c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent >= 0) {
			bytes += sent;
			n -= (size_t)sent;
			n_fds = 0;
			continue;
		}
		if (errno == EPIPE || errno == ECONNRESET)
			return 1;
		if (errno == EAGAIN || errno == EINTR) {
			int rc = wait_for(x, POLLOUT);
			if (rc < 0)
				return rc;
			continue;
		}
		x->c->fault = n_fds ? HTTP_DESCRIPTORS : HTTP_IO;
		return n_fds ? err_set_errno(x->e, errno, "cannot send %zu file descriptors", n_fds) :
			       err_set_errno(x->e, errno, "cannot write to the server");
	}
	return 0;
}

static int send_request(struct exchange *x, const struct http_request *q)
{
	text_scoped out = TEXT_INIT;
	if (q->n_fds > MAX_FDS)
		return fault_set(x, HTTP_DESCRIPTORS, EINVAL, "%zu file descriptors; at most %d can be sent", q->n_fds, MAX_FDS);
	text_appendf(&out, "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n", q->method, q->path);
	if (q->body)
		text_appendf(&out, "Content-Length: %zu\r\n", q->n_body);
	text_append(&out, "\r\n");
	if (q->body)
		text_append_n(&out, q->body, q->n_body);
	if (out.is_out_of_memory)
		return err_set(x->e, ENOMEM, "out of memory");
	return send_all(x, out.bytes, out.n_bytes, q->fds, q->n_fds);
}

/* Adds what has come to x->in; sets is_end at the end. */
static int receive_some(struct exchange *x)
{
	char bytes[READ_BYTES];
	int rc = wait_for(x, POLLIN);
	if (rc < 0)
		return rc;
	ssize_t n = recv(x->c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	/* A peer that closes with some of our request unread resets the connection: an end like any other. */
	if (n < 0 && errno != ECONNRESET)
		return x->c->fault = HTTP_IO, err_set_errno(x->e, errno, "cannot read from the server");
	if (n <= 0)
		x->is_end = true;
	else
		text_append_n(&x->in, bytes, (size_t)n);
	return x->in.is_out_of_memory ? err_set(x->e, ENOMEM, "out of memory") : 0;
}

/* "HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 200 OK". */
static int parse_status(struct exchange *x, const char *line, size_t n, unsigned *ret_status)
{
	if (n < 9 || memcmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') || line[8] != ' ')
		return fault_set(x, HTTP_NOT_HTTP, EPROTO, "what answers at %s does not speak HTTP", x->c->path);
	unsigned status = 0, i;
	for (i = 9; i < n && i < 12 && isdigit((unsigned char)line[i]); i++)
		status = 10 * status + (unsigned)(line[i] - '0');
	if (i != 12 || status < 100 || (n > 12 && line[12] != ' '))
		return fault_set(x, HTTP_BAD_STATUS, EPROTO, "the answer's status line is broken");
	*ret_status = status;
	return 0;
}

static bool is_named(const char *line, size_t n_name, const char *name)
{
	return strlen(name) == n_name && strncasecmp(line, name, n_name) == 0;
}

static int parse_length(struct exchange *x, const char *value, size_t n, struct head *h)
{
	uint64_t length = 0;
	bool is_good = n > 0;
	for (size_t i = 0; is_good && i < n; i++)
		is_good = isdigit((unsigned char)value[i]) && checked_mul(length, 10u, &length) &&
			  checked_add(length, (uint64_t)(value[i] - '0'), &length);
	if (!is_good || (h->has_length && h->n_body != length))
		return fault_set(x, HTTP_BAD_LENGTH, EPROTO, "the answer's Content-Length is broken");
	h->has_length = true;
	h->n_body = length;
	return 0;
}

static int parse_field(struct exchange *x, const char *line, size_t n, struct head *h)
{
	const char *colon = memchr(line, ':', n);
	if (!colon || colon == line)
		return fault_set(x, HTTP_NOT_HTTP, EPROTO, "a line of the answer's head is broken");
	size_t n_name = (size_t)(colon - line), n_value;
	const char *value = colon + 1;
	n_value = n - n_name - 1;
	for (; n_value && (*value == ' ' || *value == '\t'); n_value--)
		value++;
	while (n_value && (value[n_value - 1] == ' ' || value[n_value - 1] == '\t'))
		n_value--;
	if (is_named(line, n_name, "Content-Length"))
		return parse_length(x, value, n_value, h);
	if (is_named(line, n_name, "Transfer-Encoding"))
		return fault_set(x, HTTP_NOT_HTTP, EPROTO, "the answer has a transfer coding, which this client does not know");
	if (is_named(line, n_name, "Connection"))
		h->is_closing = is_named(value, n_value, "close");
	return 0;
}

static int parse_head(struct exchange *x, size_t n_bytes, struct head *h)
{
	const char *at = x->in.bytes, *end = at + n_bytes - 2; /* behind it stands the empty line */
	*h = (struct head){ .n_bytes = n_bytes };
	for (bool is_first = true; at < end; is_first = false) {
		const char *line_end = memmem(at, (size_t)(end - at), "\r\n", 2);
		assert(line_end);
		size_t n = (size_t)(line_end - at);
		int rc = is_first ? parse_status(x, at, n, &h->status) : parse_field(x, at, n, h);
		if (rc < 0)
			return rc;
		at = line_end + 2;
	}
	return 0;
}

static int refuse_end(struct exchange *x, const char *where)
{
	if (!x->in.n_bytes)
		return fault_set(x, HTTP_CUT, EPIPE, "the server closed the connection without an answer");
	return fault_set(x, HTTP_CUT, EPIPE, "the answer is cut: the connection ended %s", where);
}

static int receive_head(struct exchange *x, struct head *h)
{
	static const char protocol[] = "HTTP/";
	for (;;) {
		size_t n = x->in.n_bytes;
		/* Said as soon as it is known: such a peer may well wait for us to say more. */
		if (n && memcmp(x->in.bytes, protocol, n < 5 ? n : 5) != 0)
			return fault_set(x, HTTP_NOT_HTTP, EPROTO, "what answers at %s does not speak HTTP", x->c->path);
		const char *end = n ? memmem(x->in.bytes, n, "\r\n\r\n", 4) : NULL;
		size_t n_head = end ? (size_t)(end - x->in.bytes) + 4 : 0;
		if (n_head > HTTP_MAX_HEAD_BYTES || (!end && n > HTTP_MAX_HEAD_BYTES))
			return fault_set(x, HTTP_NOT_HTTP, EMSGSIZE, "the answer's head has more than %u bytes",
			                 HTTP_MAX_HEAD_BYTES);
		if (end)
			return parse_head(x, n_head, h);
		if (x->is_end)
			return refuse_end(x, "in its head");
		int rc = receive_some(x);
		if (rc < 0)
			return rc;
	}
}

/* Drops what was used up. */
static void consume(struct exchange *x, size_t n)
{
	memmove(x->in.bytes, x->in.bytes + n, x->in.n_bytes - n);
	x->in.n_bytes -= n;
}

static int receive_body(struct exchange *x, struct head *h)
{
	bool until_end = !h->has_length && h->is_closing && h->status != 204;
	uint64_t n_expected = h->status == 204 ? 0 : h->n_body;

	if (n_expected > HTTP_MAX_BODY_BYTES)
		return fault_set(x, HTTP_BAD_LENGTH, EMSGSIZE, "the answer's body has %llu bytes; at most %u are taken",
		                 (unsigned long long)n_expected, HTTP_MAX_BODY_BYTES);
	while (until_end ? !x->is_end : x->in.n_bytes < n_expected) {
		char where[64];
		(void)snprintf(where, sizeof where, "after %zu of %llu bytes of its body", x->in.n_bytes,
		               (unsigned long long)n_expected);
		if (x->is_end)
			return fault_set(x, HTTP_CUT, EPIPE, "the answer is cut: the connection ended %s", where);
		int rc = receive_some(x);
		if (rc < 0)
			return rc;
		if (until_end && x->in.n_bytes > HTTP_MAX_BODY_BYTES)
			return fault_set(x, HTTP_BAD_LENGTH, EMSGSIZE, "the answer's body has more than %u bytes",
			                 HTTP_MAX_BODY_BYTES);
	}
	if (!until_end && x->in.n_bytes > n_expected)
		return fault_set(x, HTTP_NOT_HTTP, EPROTO, "the server sent more than the answer it announced");
	return 0;
}

static int exchange_run(struct exchange *x, const struct http_request *q, struct head *h)
{
	int rc = send_request(x, q);
	if (rc < 0)
		return rc;
	bool is_closed = rc > 0;
	do {
		rc = receive_head(x, h);
		if (rc < 0)
			return rc;
		consume(x, h->n_bytes);
	} while (h->status < 200); /* "100 Continue" says that there is an answer to come */
	rc = receive_body(x, h);
	h->is_closing |= is_closed || x->is_end;
	return rc;
}

int http_client_request(struct http_client *c, const struct http_request *q, struct http_answer *ret_answer,
                        struct err *e)
{
	struct exchange x = { .c = c, .deadline_ns = UINT64_MAX, .e = e };
	struct head h = { 0 };
	int rc = http_client_connect(c, e);
	if (rc < 0)
		return rc;
	c->fault = HTTP_NO_FAULT;
	if (c->timeout_ms >= 0)
		x.deadline_ns = clock_now_ns() + (uint64_t)(unsigned)c->timeout_ms * NS_PER_MS;

	rc = exchange_run(&x, q, &h);
	struct http_answer a = { .status = h.status, .n_body = x.in.n_bytes };
	if (rc == 0 && a.n_body)
		rc = text_take(&x.in, &a.body);
	text_done(&x.in);
	if (rc < 0 || h.is_closing)
		fd_close(&c->fd);
	if (rc < 0)
		return rc;
	*ret_answer = a;
	return 0;
}

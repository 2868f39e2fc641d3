/* SPDX-License-Identifier: Apache-2.0 */
/* http_bench.h - a server on the test's own loop, with a handler that remembers what it was asked. */
#pragma once
#include "api/http.h"
#include "http_kit.h"

#include <stdlib.h>

#define HEAD(status, connection) "HTTP/1.1 " status " \r\nServer: Cloud Hypervisor API\r\nConnection: " connection "\r\n"
#define JSON(n) "Content-Type: application/json\r\nContent-Length: " n "\r\n\r\n"
#define OK_ANSWER HEAD("200", "keep-alive") JSON("2") "{}"
#define BARE_400 HEAD("400", "keep-alive") JSON("0")

#define BIG_BYTES (1u << 20)

struct bench {
	struct loop *loop;
	struct http *http;
	struct http_params params;
	char folder[64], path[80], lock[96];
	unsigned n_calls;
	char last_path[64];
	char *last_body;
	size_t n_last_body;
	size_t n_last_fds, n_total_fds;
	int taken_fd;
};

static inline void handle(void *context, const struct http_request *r, struct http_answer *a)
{
	struct bench *b = context;
	b->n_calls++;
	(void)snprintf(b->last_path, sizeof b->last_path, "%s", r->path);
	free(b->last_body);
	b->last_body = r->body ? strndup(r->body, r->n_body_bytes) : NULL;
	b->n_last_body = r->n_body_bytes;
	b->n_last_fds = r->n_fds;
	b->n_total_fds += r->n_fds;
	for (size_t i = 0; i < r->n_fds; i++)
		OK(fcntl(r->fds[i], F_GETFD) == FD_CLOEXEC);
	if (strcmp(r->path, "/take") == 0 && r->n_fds) {
		b->taken_fd = r->fds[0];
		r->fds[0] = -1;
	}
	a->status = strcmp(r->path, "/none") == 0 ? 204 : 200;
	if (strcmp(r->path, "/empty") == 0 || a->status == 204)
		return;
	if (strcmp(r->path, "/big") == 0)
		for (unsigned i = 0; i < BIG_BYTES / 16; i++)
			text_append(&a->body, "0123456789abcdef");
	else
		text_append(&a->body, "{}");
}

static inline void bench_init(struct bench *b)
{
	memset(b, 0, sizeof *b);
	b->taken_fd = -1;
	(void)snprintf(b->folder, sizeof b->folder, "/tmp/varan-http-XXXXXX");
	OK(mkdtemp(b->folder));
	(void)snprintf(b->path, sizeof b->path, "%s/sock", b->folder);
	(void)snprintf(b->lock, sizeof b->lock, "%s.lock", b->path);
	EQ(loop_new(&b->loop, NULL), 0);
	b->params = (struct http_params){ .loop = b->loop, .path = b->path, .fd = -1, .handle = handle, .context = b };
}

static inline void bench_open(struct bench *b)
{
	struct err e = { 0 };
	if (http_open(&b->params, &b->http, &e) != 0)
		test_fail(__FILE__, __LINE__, "http_open: %s", e.text);
}

static inline void bench_done(struct bench *b)
{
	http_close(b->http);
	loop_free(b->loop);
	free(b->last_body);
	/* Nothing is left behind. */
	if (rmdir(b->folder) != 0)
		test_fail(__FILE__, __LINE__, "%s: %s", b->folder, strerror(errno));
}

/* Sends, and expects exactly that. */
static inline void talk(struct bench *b, int fd, const char *request, const char *answer)
{
	char bytes[8192];
	bool is_end;
	OK(client_send(b->loop, fd, request));
	(void)client_read(b->loop, fd, bytes, sizeof bytes, &is_end);
	STR_EQ(bytes, answer);
	OK(!is_end);
}

/* Expects an answer that begins like that, holds these words, and then the end. */
static inline void expect_end(struct bench *b, int fd, const char *begin, const char *words)
{
	char bytes[8192];
	bool is_end;
	(void)client_read(b->loop, fd, bytes, sizeof bytes, &is_end);
	OK(is_end); /* at once, and not when somebody's time is over */
	if (strncmp(bytes, begin, strlen(begin)) != 0)
		test_fail(__FILE__, __LINE__, "the answer is \"%s\"", bytes);
	STR_HAS(bytes, words);
	close(fd);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP requests from a hostile client. The first byte says in what pieces they come. The head's parser must say the same of
 * the pieces as of the whole; the server must answer in HTTP's form and, once the client has ended, end too. */
#include "api/http.h"
#include "loop/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static size_t piece(uint8_t how, size_t left)
{
	size_t n = how % 64 ? how % 64 : left;
	return n < left ? n : left;
}

static void check_parser(uint8_t how, const char *bytes, size_t n)
{
	struct err e = { 0 }, whole_e = { 0 };
	struct http_parser p = { 0 }, whole = { 0 };
	int whole_rc = http_parser_feed(&whole, bytes, n, &whole_e), rc = 0;
	for (size_t at = 0; at < n && rc == 0;) {
		at += piece(how, n - at);
		/* A buffer of exactly that size: reading behind it is seen. */
		char *copy = malloc(at);
		require(copy != NULL);
		memcpy(copy, bytes, at);
		rc = http_parser_feed(&p, copy, at, &e);
		free(copy);
	}
	require(rc == whole_rc && strcmp(e.text, whole_e.text) == 0);
	require((rc < 0) == (e.text[0] != '\0'));
	if (rc == 1) {
		require(memcmp(&p.method, &whole.method, sizeof p.method) == 0 && p.path_at == whole.path_at);
		require(p.n_head_bytes == whole.n_head_bytes && p.n_head_bytes <= n && p.n_head_bytes <= HTTP_MAX_HEAD_BYTES);
		require(p.n_body_bytes == whole.n_body_bytes && p.n_body_bytes <= HTTP_MAX_BODY_BYTES);
		require(p.path_at + p.n_path_bytes < p.n_head_bytes);
		require(p.is_last == whole.is_last && p.is_continue_expected == whole.is_continue_expected);
	}
}

static void handle(void *context, const struct http_request *r, struct http_answer *a)
{
	(void)context;
	require(r->method != HTTP_OTHER && !r->n_fds);
	require(!r->path[0] || r->path[0] == '/');
	require(!r->body == !r->n_body_bytes);
	a->status = strlen(r->path) % 2 ? 200 : 204;
	if (r->n_body_bytes % 2)
		http_answer_errors(a, 400, r->path);
}

struct bench {
	struct loop *loop;
	struct http *http;
	struct sockaddr_un address;
	socklen_t n_address;
};

static void bench_init(struct bench *b)
{
	struct sockaddr_un any = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	b->n_address = sizeof b->address;
	require(bind(fd, (const struct sockaddr *)&any, sizeof(sa_family_t)) == 0 && listen(fd, 1) == 0);
	require(getsockname(fd, (struct sockaddr *)&b->address, &b->n_address) == 0);
	require(loop_new(&b->loop, NULL) == 0);
	const struct http_params p = { .loop = b->loop, .fd = fd, .handle = handle };
	require(http_open(&p, &b->http, NULL) == 0);
}

static void turn(struct bench *b)
{
	while (loop_run_once(b->loop, 0) > 0)
		;
}

static void check_server(struct bench *b, uint8_t how, const char *bytes, size_t n)
{
	char answer[1u << 16];
	size_t n_answer = 0;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	require(connect(fd, (const struct sockaddr *)&b->address, b->n_address) == 0);
	for (size_t at = 0; at < n;) {
		size_t n_piece = piece(how, n - at);
		if (send(fd, bytes + at, n_piece, MSG_NOSIGNAL) < 0)
			break;
		at += n_piece;
		turn(b);
	}
	(void)shutdown(fd, SHUT_WR);
	for (;;) {
		turn(b);
		ssize_t done = recv(fd, answer + n_answer, sizeof answer - n_answer, 0);
		require(done >= 0 || errno != EAGAIN);
		if (done <= 0)
			break;
		if (n_answer == 0)
			require(done > 9 && memcmp(answer, "HTTP/1.1 ", 9) == 0);
		n_answer += (size_t)done;
		if (n_answer == sizeof answer)
			n_answer = 9;
	}
	close(fd);
	turn(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct bench bench;
	if (!bench.loop)
		bench_init(&bench);
	if (!size)
		return 0;
	check_parser(data[0], (const char *)data + 1, size - 1);
	check_server(&bench, data[0], (const char *)data + 1, size - 1);
	return 0;
}

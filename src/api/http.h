/* SPDX-License-Identifier: Apache-2.0 */
/* http.h - an HTTP/1.1 server on a Unix stream socket, on somebody's loop: requests in, answers out; knows no routes.
 *
 * Owner of the loop only. Clients are hostile: heads, bodies, descriptors, connections and time are bounded, and buffers
 * grow only by bytes that have really come. The answer has the exact bytes of Cloud Hypervisor's server. */
#pragma once
#include "api/http_parse.h"
#include "base/text.h"

struct http;
struct log_sink;

#define HTTP_MAX_CONNECTIONS 64u /* more wait in the backlog */
#define HTTP_MAX_FDS 253u        /* of a request: as many as one message can carry (SCM_MAX_FD) */

struct http_request {
	enum http_method method;
	const char *path; /* terminated; "" when the target has none */
	const char *body; /* terminated; NULL when there is none */
	size_t n_body_bytes;
	int *fds; /* in the order in which they came; what the handler takes it replaces by -1, the others are closed */
	size_t n_fds;
};

struct http_answer {
	unsigned status;  /* 200 without a body is an empty body; 204 has none */
	struct text body; /* JSON */
};

struct http_params {
	struct loop *loop;
	const struct log_sink *log_sink;
	const char *path; /* where the socket is made; mode 0600 */
	int fd;           /* >= 0: an inherited listening socket instead; taken over on success */
	/* Called for each whole request with one other than GET and PUT answered already; fills the answer. */
	void (*handle)(void *context, const struct http_request *r, struct http_answer *a);
	void *context;
	uint64_t request_ns; /* from a request's first byte to its last, and for an answer to be taken; 0: 30 s */
	uint64_t idle_ns;    /* the same, and of a connection without a request, while others wait for a place; 0: 5 s */
};

int http_open(const struct http_params *p, struct http **ret_http, struct err *e);
/* Writes what has been answered, for at most a second, and closes. Not from inside handle(). */
void http_close(struct http *h);

/* A JSON array of strings, one a line of `lines`. */
void http_answer_errors(struct http_answer *a, unsigned status, const char *lines);

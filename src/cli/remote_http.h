/* SPDX-License-Identifier: Apache-2.0 */
/* remote_http.h - one connection to the API's Unix socket, one request at a time.
 *
 * Blocking, for the client's program. What answers at the socket is not trusted: heads and bodies are bounded, nothing
 * is allocated by a length that the peer names, and all of a request ends within the time limit. After any failure the
 * connection is closed, so that no late answer is taken for the next request's; the next request opens a new one. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

#define HTTP_MAX_HEAD_BYTES (64u << 10)
#define HTTP_MAX_BODY_BYTES (32u << 20)

/* What went wrong, for callers that have words of their own; struct err has ours. */
enum http_fault {
	HTTP_NO_FAULT,
	HTTP_NO_CONNECTION, /* no socket there, or nobody listens */
	HTTP_IO,            /* while writing or reading; also too late */
	HTTP_DESCRIPTORS,   /* the descriptors could not be sent */
	HTTP_CUT,           /* the peer closed the connection before its answer was whole */
	HTTP_NOT_HTTP,
	HTTP_BAD_STATUS,
	HTTP_BAD_LENGTH,
};

struct http_client {
	const char *path;
	int timeout_ms; /* of one request with its answer; negative: none */
	int fd;         /* -1: not connected */
	enum http_fault fault; /* of the last request */
};

struct http_request {
	const char *method, *path; /* "PUT", "/api/v1/vm.boot" */
	const char *body;          /* NULL: none */
	size_t n_body;
	const int *fds; /* sent as SCM_RIGHTS beside the first byte */
	size_t n_fds;
};

struct http_answer {
	unsigned status;
	char *body; /* terminated; NULL when there was none */
	size_t n_body;
};

void http_client_init(struct http_client *c, const char *path, int timeout_ms);
void http_client_done(struct http_client *c);
int http_client_connect(struct http_client *c, struct err *e); /* fine when connected */
/* Success means that a whole answer came, whatever its status. */
int http_client_request(struct http_client *c, const struct http_request *q, struct http_answer *ret_answer,
                        struct err *e);
void http_answer_done(struct http_answer *a);

/* SPDX-License-Identifier: Apache-2.0 */
/* http_parse.h - the head of an HTTP/1.1 request (RFC 9112), as its bytes come in.
 *
 * Pure: no descriptors, no memory. The bytes are hostile; they may be cut anywhere, and each is looked at once. Offsets
 * count from the first byte of the request, so that the buffer may move in between. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

#define HTTP_MAX_HEAD_BYTES (16u << 10)
#define HTTP_MAX_BODY_BYTES (4u << 20)

enum http_method { HTTP_GET, HTTP_PUT, HTTP_OTHER };

/* All zero: nothing seen yet. */
struct http_parser {
	enum http_method method;
	size_t path_at, n_path_bytes; /* the absolute path; n is 0 when the target has none */
	size_t n_head_bytes;          /* with the empty line */
	size_t n_body_bytes;
	bool is_continue_expected; /* the client waits for "100 Continue" before it sends the body */
	bool is_last;              /* the connection ends with the answer */
	/* the parser's own */
	size_t at, line_at;
	bool has_request_line, has_length, is_keep_alive_asked, is_http_1_0, is_whole;
};

/* `bytes` is all that has come of the request. 1: the head is whole; 0: more bytes are needed; otherwise a negative errno
 * with words for the client: -EINVAL, -EMSGSIZE for a body that is too long, -EOPNOTSUPP for one without a length. */
int http_parser_feed(struct http_parser *p, const char *bytes, size_t n_bytes, struct err *e);

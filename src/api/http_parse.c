/* SPDX-License-Identifier: Apache-2.0 */
/* Strict where leniency would let two readers disagree: lines end in CR LF, names touch their colon, lines are not folded,
 * lengths are digits only and agree with each other. What we do not know is skipped. */
#include "api/http_parse.h"

#include "base/checked.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

/* A piece of a line. */
struct word {
	const char *s;
	size_t n;
};

static bool word_is(struct word w, const char *s)
{
	return w.n == strlen(s) && memcmp(w.s, s, w.n) == 0;
}

static bool word_is_nocase(struct word w, const char *s)
{
	return w.n == strlen(s) && strncasecmp(w.s, s, w.n) == 0;
}

/* What stands before the separator, which is dropped; false when there is none. */
static bool word_cut(struct word *rest, char separator, struct word *ret_first)
{
	const char *at = memchr(rest->s, separator, rest->n);
	if (!at)
		return false;
	*ret_first = (struct word){ rest->s, (size_t)(at - rest->s) };
	*rest = (struct word){ at + 1, rest->n - ret_first->n - 1 };
	return true;
}

static struct word word_trim(struct word w)
{
	while (w.n && (*w.s == ' ' || *w.s == '\t')) {
		w.s++;
		w.n--;
	}
	while (w.n && (w.s[w.n - 1] == ' ' || w.s[w.n - 1] == '\t'))
		w.n--;
	return w;
}

/* RFC 9110, 5.6.2 */
static bool word_is_token(struct word w)
{
	for (size_t i = 0; i < w.n; i++)
		if (!isalnum((unsigned char)w.s[i]) && !memchr("!#$%&'*+-.^_`|~", w.s[i], 15))
			return false;
	return w.n > 0;
}

/* No control characters but the tab: what is left of a line may be quoted in a log. */
static bool word_is_text(struct word w)
{
	for (size_t i = 0; i < w.n; i++)
		if (((unsigned char)w.s[i] < ' ' && w.s[i] != '\t') || w.s[i] == 0x7f)
			return false;
	return true;
}

/* The absolute path of the target: itself, or what follows the authority of "http://...". */
static struct word path_of(struct word target)
{
	static const char scheme[] = "http://";
	const size_t n_scheme = sizeof scheme - 1;
	if (target.n >= n_scheme && strncasecmp(target.s, scheme, n_scheme) == 0) {
		const char *slash = memchr(target.s + n_scheme, '/', target.n - n_scheme);
		return slash ? (struct word){ slash, target.n - (size_t)(slash - target.s) } : (struct word){ target.s, 0 };
	}
	return *target.s == '/' ? target : (struct word){ target.s, 0 };
}

static int parse_request_line(struct http_parser *p, struct word line, const char *bytes, struct err *e)
{
	struct word method, target;
	if (!word_cut(&line, ' ', &method) || !word_cut(&line, ' ', &target) || !word_is_token(method) || !target.n)
		return err_set(e, EINVAL, "the request line is not 'METHOD TARGET VERSION'");
	if (word_is(line, "HTTP/1.0"))
		p->is_http_1_0 = true;
	else if (!word_is(line, "HTTP/1.1"))
		return err_set(e, EINVAL, "the version is not HTTP/1.1");
	p->method = word_is(method, "GET") ? HTTP_GET : word_is(method, "PUT") ? HTTP_PUT : HTTP_OTHER;
	struct word path = path_of(target);
	p->path_at = (size_t)(path.s - bytes);
	p->n_path_bytes = path.n;
	p->has_request_line = true;
	return 0;
}

static int parse_length(struct http_parser *p, struct word value, struct err *e)
{
	uint64_t n = 0;
	bool fits = true;
	for (size_t i = 0; i < value.n; i++) {
		if (!isdigit((unsigned char)value.s[i]))
			return err_set(e, EINVAL, "Content-Length is not a number");
		fits = fits && checked_mul(n, 10, &n) && checked_add(n, (uint64_t)(value.s[i] - '0'), &n);
	}
	if (!value.n)
		return err_set(e, EINVAL, "Content-Length is not a number");
	if (!fits || n > HTTP_MAX_BODY_BYTES)
		return err_set(e, EMSGSIZE, "Request payload with size %.*s is larger than the limit of %u allowed by server.",
		               (int)min_u64(value.n, 24), value.s, HTTP_MAX_BODY_BYTES);
	if (p->has_length && p->n_body_bytes != n)
		return err_set(e, EINVAL, "two Content-Length fields differ");
	p->has_length = true;
	p->n_body_bytes = (size_t)n;
	return 0;
}

static void parse_connection(struct http_parser *p, struct word value)
{
	struct word option;
	bool has_more = true;
	while (has_more) {
		has_more = word_cut(&value, ',', &option);
		option = word_trim(has_more ? option : value);
		p->is_last |= word_is_nocase(option, "close");
		p->is_keep_alive_asked |= word_is_nocase(option, "keep-alive");
	}
}

static int parse_field(struct http_parser *p, struct word line, struct err *e)
{
	struct word name;
	if (!word_cut(&line, ':', &name) || !word_is_token(name))
		return err_set(e, EINVAL, "a header line is not 'Name: value'");
	struct word value = word_trim(line);
	if (word_is_nocase(name, "Content-Length"))
		return parse_length(p, value, e);
	if (word_is_nocase(name, "Transfer-Encoding") && !word_is_nocase(value, "identity"))
		return err_set(e, EOPNOTSUPP, "Transfer-Encoding is not supported: a body must come with Content-Length");
	if (word_is_nocase(name, "Connection"))
		parse_connection(p, value);
	else if (word_is_nocase(name, "Expect"))
		p->is_continue_expected |= word_is_nocase(value, "100-continue");
	return 0;
}

static void end_head(struct http_parser *p)
{
	p->is_whole = true;
	p->n_head_bytes = p->at;
	p->is_last |= p->is_http_1_0 && !p->is_keep_alive_asked;
	/* RFC 9110, 10.1.1: an HTTP/1.0 client cannot understand it, and without a body nobody waits. */
	p->is_continue_expected &= !p->is_http_1_0 && p->n_body_bytes > 0;
}

int http_parser_feed(struct http_parser *p, const char *bytes, size_t n_bytes, struct err *e)
{
	size_t end = (size_t)min_u64(n_bytes, HTTP_MAX_HEAD_BYTES);
	while (!p->is_whole && p->at < end) {
		const char *lf = memchr(bytes + p->at, '\n', end - p->at);
		if (!lf) {
			p->at = end;
			break;
		}
		p->at = (size_t)(lf - bytes) + 1;
		struct word line = { bytes + p->line_at, p->at - p->line_at - 1 };
		p->line_at = p->at;
		if (!line.n || line.s[--line.n] != '\r' || !word_is_text(line))
			return err_set(e, EINVAL, "a line does not end in CR LF, or holds a control character");
		int rc = 0;
		if (!line.n && p->has_request_line)
			end_head(p);
		else if (!p->has_request_line && line.n) /* RFC 9112, 2.2: empty lines before it are skipped */
			rc = parse_request_line(p, line, bytes, e);
		else if (line.n)
			rc = parse_field(p, line, e);
		if (rc < 0)
			return rc;
	}
	if (!p->is_whole && p->at >= HTTP_MAX_HEAD_BYTES)
		return err_set(e, EINVAL, "the head of the request is longer than %u bytes", HTTP_MAX_HEAD_BYTES);
	return p->is_whole;
}

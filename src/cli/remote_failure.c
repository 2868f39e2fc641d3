/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/remote_failure.h"

#include "base/checked.h"
#include "cli/remote_show.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define CHAIN "Error: ch-remote exited with the following chain of errors:\n"
#define MAX_SHOWN_BYTES 1000 /* of a body that is not what it should be */

static const struct {
	unsigned status;
	const char *name;
} statuses[] = {
	{ 100, "Continue" },        { 200, "Ok" },
	{ 204, "NoContent" },       { 400, "BadRequest" },
	{ 404, "NotFound" },        { 409, "Conflict" },
	{ 429, "TooManyRequests" }, { 500, "InternalServerError" },
	{ 501, "NotImplemented" },
};

static const char *status_name(unsigned status)
{
	for (size_t i = 0; i < ARRAY_LEN(statuses); i++)
		if (statuses[i].status == status)
			return statuses[i].name;
	return "Unknown";
}

static void print_cause(unsigned level, const char *cause)
{
	fprintf(stderr, "  %u: ", level);
	show_text(cause, stderr);
	fprintf(stderr, "\n");
}

int remote_fail_words(bool is_ch, const char *command, const char *what, const struct err *e)
{
	if (is_ch) {
		fprintf(stderr, CHAIN);
		print_cause(0, *what ? what : "Error parsing arguments");
		print_cause(1, e->text);
		return 1;
	}
	fprintf(stderr, "varan remote: %s: %s%s", command, what, *what ? ": " : "");
	show_text(e->text, stderr);
	fprintf(stderr, "\n");
	return 1;
}

int remote_fail_http(bool is_ch, const char *command, const struct http_client *c, const struct err *e)
{
	static const char *const causes[] = {
		[HTTP_IO] = "Error writing to or reading from HTTP socket",
		[HTTP_CUT] = "Error writing to or reading from HTTP socket",
		[HTTP_DESCRIPTORS] = "Error sending file descriptors",
		[HTTP_NOT_HTTP] = "HTTP output is missing protocol statement",
		[HTTP_BAD_STATUS] = "Error parsing HTTP status code",
		[HTTP_BAD_LENGTH] = "Error parsing HTTP Content-Length field",
	};
	if (!is_ch) {
		fprintf(stderr, "varan remote: %s: ", command);
		show_text(e->text, stderr);
		fprintf(stderr, "\n");
		return 1;
	}
	if (c->fault == HTTP_NO_CONNECTION) {
		fprintf(stderr, "Error opening HTTP socket: %s (os error %d)\n", strerror(e->code), e->code);
		return 1;
	}
	fprintf(stderr, CHAIN);
	print_cause(0, "http client error");
	if (c->fault < ARRAY_LEN(causes) && causes[c->fault])
		print_cause(1, causes[c->fault]);
	print_cause(2, e->text);
	return 1;
}

/* The causes, one a line; false when there are none to be read. */
static bool print_causes(const json_t *list, unsigned level, bool is_ch)
{
	const json_t *cause;
	size_t i;
	if (!json_is_array(list) || !json_array_size(list))
		return false;
	json_array_foreach(list, i, cause)
		if (!json_is_string(cause))
			return false;
	json_array_foreach(list, i, cause) {
		if (is_ch) {
			print_cause(level++, json_string_value(cause));
			continue;
		}
		fprintf(stderr, "  ");
		show_text(json_string_value(cause), stderr);
		fprintf(stderr, "\n");
	}
	return true;
}

static void print_start(const struct http_answer *a)
{
	char start[MAX_SHOWN_BYTES + 1];
	size_t n = a->body ? min_u64(a->n_body, MAX_SHOWN_BYTES) : 0;
	if (n)
		memcpy(start, a->body, n);
	start[n] = '\0';
	show_text(start, stderr);
	if (n < a->n_body)
		fprintf(stderr, "...");
}

int remote_fail_answer(bool is_ch, const char *command, const struct http_answer *a)
{
	json_error_t why = { .text = "an empty answer" };
	json_t *list = a->body ? json_loadb(a->body, a->n_body, 0, &why) : NULL;

	if (is_ch) {
		fprintf(stderr, CHAIN);
		print_cause(0, "http client error");
	} else {
		fprintf(stderr, "varan remote: %s: refused with status %u (%s)\n", command, a->status, status_name(a->status));
	}
	if (is_ch && json_is_array(list)) {
		char line[64];
		(void)snprintf(line, sizeof line, "Server responded with %s", status_name(a->status));
		print_cause(1, line);
	}
	if (!print_causes(list, 2, is_ch) && (is_ch || a->body)) {
		if (is_ch)
			fprintf(stderr, "  X: Can't get remote's error messages from JSON response: %s: body='",
			        list ? "not a list of strings" : why.text);
		else
			fprintf(stderr, "  ");
		print_start(a);
		fprintf(stderr, is_ch ? "'\n" : "\n");
	}
	json_decref(list);
	return 1;
}

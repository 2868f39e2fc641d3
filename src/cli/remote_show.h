/* SPDX-License-Identifier: Apache-2.0 */
/* remote_show.h - the API's answers for people. An answer comes from another process: it may hold anything. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

#include <stdio.h>

/* Prints one kind of answer on standard output; NULL body: there was none. -EPROTO when it is not what it should be. */
typedef int show_answer(const char *body, size_t n_body, struct err *e);

show_answer show_ping, show_info, show_counters, show_added;

/* Text of another process: what would move a terminal's cursor, or do worse, becomes '?': control characters of both sets,
 * and what is not UTF-8. */
void show_text(const char *s, FILE *f);
void show_cell(const char *s, size_t width, FILE *f); /* with spaces behind it, up to that many characters */

/* Succeeds when it is a JSON object, whose reference is the caller's. Whole numbers that no json_int_t holds are strings. */
struct json_t;
int answer_parse(const char *body, size_t n_body, struct json_t **ret_json, struct err *e);

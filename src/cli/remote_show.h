/* SPDX-License-Identifier: Apache-2.0 */
/* remote_show.h - the API's answers for people. An answer comes from another process: it may hold anything. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

#include <stdio.h>

/* Prints one kind of answer on standard output; NULL body: there was none. -EPROTO when it is not what it should be. */
typedef int show_answer(const char *body, size_t n_body, struct err *e);

show_answer show_ping, show_info, show_counters, show_added;

/* Text of another process: what would move a terminal's cursor, or do worse, becomes '?'. */
void show_text(const char *s, FILE *f);

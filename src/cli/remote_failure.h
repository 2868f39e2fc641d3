/* SPDX-License-Identifier: Apache-2.0 */
/* remote_failure.h - what is said, on standard error, of a command that failed. All return the exit status. */
#pragma once
#include "base/err.h"
#include "cli/remote_http.h"

/* The words were wrong; `what` says it as ch-remote does. */
int remote_fail_words(bool is_ch, const char *command, const char *what, const struct err *e);
/* There was no answer. */
int remote_fail_http(bool is_ch, const char *command, const struct http_client *c, const struct err *e);
/* The answer says no: its body is a list of causes, outermost first. */
int remote_fail_answer(bool is_ch, const char *command, const struct http_answer *a);

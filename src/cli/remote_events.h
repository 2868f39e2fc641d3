/* SPDX-License-Identifier: Apache-2.0 */
/* remote_events.h - `varan remote events`: the event stream of --event-monitor, an event a line. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

struct events_options {
	const char *path; /* a file or a FIFO */
	bool is_json;     /* one compact JSON object a line, instead of words */
	bool is_once;     /* what is there, without waiting for more */
};

/* Prints until the VMM says that it is shutting down, or the last writer of a FIFO is gone. */
int events_follow(const struct events_options *o, struct err *e);

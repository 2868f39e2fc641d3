/* SPDX-License-Identifier: Apache-2.0 */
/* log_output.h - the log's destination: a file or standard error, one line a record, in Cloud Hypervisor's form:
 * `varan: 12.345678ms: <vcpu0> INFO:src/vm/vm.c:100 -- _disk0: opened`, ended by CR LF because a guest's console may have
 * put the terminal in raw mode. Any thread may log. */
#pragma once
#include "base/err.h"
#include "base/log.h"

struct log_output {
	struct log_sink sink; /* hand this out */
	int fd;               /* -1: nothing is written */
	bool owns_fd;
	uint64_t start_ns;
};

/* verbosity: the number of -v. path NULL: standard error. */
int log_output_open(struct log_output *o, const char *path, unsigned verbosity, struct err *e);
void log_output_close(struct log_output *o);

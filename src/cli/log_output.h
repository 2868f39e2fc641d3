/* SPDX-License-Identifier: Apache-2.0 */
/* log_output.h - the log's destination: a file or standard error, one line a record, in Cloud Hypervisor's form:
 * `varan: 12.345678ms: <vcpu0> INFO:src/vm/vm.c:100 -- _disk0: opened`, ended by CR LF because a guest's console may have
 * put the terminal in raw mode; or one JSON object a line, ended by LF:
 * {"timestamp":"2030-01-31T12:00:00.123456Z","elapsed_ns":12345678,"level":"info","thread":"vcpu0","object":"_disk0",
 * "file":"src/vm/vm.c","line":100,"message":"opened"}. Any thread may log. */
#pragma once
#include "base/err.h"
#include "base/log.h"
#include "config/vmm_config.h"

struct log_output {
	struct log_sink sink; /* hand this out */
	const char *program;  /* what lines begin with; outlives the output */
	enum log_format format;
	int fd;               /* -1: nothing is written */
	bool owns_fd;
	uint64_t start_ns;
};

int log_output_open(struct log_output *o, const char *program, const struct log_config *c, struct err *e);
void log_output_close(struct log_output *o);

/* SPDX-License-Identifier: Apache-2.0 */
/* debug_port.h - where firmware and kernels leave marks: POST codes at port 0x80, a debug console at 0x402 or 0xe9.
 *
 * vCPU threads. Codes are logged with the time since the machine started, at a limited rate: old kernels also write to
 * port 0x80 for the delay that it costs. */
#pragma once
#include "base/forward.h"
#include "base/log.h"
#include "bus/bus.h"
#include <pthread.h>

#define DEBUG_PORT 0x80u
#define DEBUG_PORT_BYTES 1u
#define DEBUG_CONSOLE_FIRMWARE_PORT 0x402u
#define DEBUG_CONSOLE_PORT 0xe9u
#define DEBUG_CONSOLE_PORT_BYTES 1u

struct char_backend;

struct debug_port {
	struct log log;
	struct log_limit limit;
	uint64_t start_ns;
};

void debug_port_init(struct debug_port *d, const struct log *log);
/* "Firmware", "Bootloader", "Kernel", "Userspace" or "Custom": whose range a code is in. */
const char *debug_port_range(uint8_t code);

#define DEBUG_CONSOLE_LINE_BYTES 120u

struct debug_console {
	struct char_backend *backend; /* NULL: lines go to the log, at its debug level */
	struct log log;
	pthread_mutex_t lock;
	char line[DEBUG_CONSOLE_LINE_BYTES + 1];
	unsigned n_bytes;
};

void debug_console_init(struct debug_console *d, struct char_backend *backend, const struct log *log);
void debug_console_done(struct debug_console *d);

extern const struct bus_ops debug_port_bus_ops;    /* context: struct debug_port */
extern const struct bus_ops debug_console_bus_ops; /* context: struct debug_console */

/* SPDX-License-Identifier: Apache-2.0 */
#include "device/debug_port.h"

#include "backend/char.h"
#include "base/clock.h"

#include <string.h>

void debug_port_init(struct debug_port *d, const struct log *log)
{
	memset(d, 0, sizeof *d);
	if (log)
		d->log = *log;
	d->start_ns = clock_now_ns();
}

const char *debug_port_range(uint8_t code)
{
	static const char *const names[] = { "Firmware", "Bootloader", "Kernel", "Userspace" };
	return code < 0x80 ? names[code >> 5] : "Custom";
}

static void debug_port_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct debug_port *d = context;
	(void)offset;
	if (n_bytes < 1 || !log_limit_pass(&d->log, &d->limit))
		return;
	uint64_t ns = clock_now_ns() - d->start_ns;
	log_warn(&d->log, "[Debug I/O port: %s code 0x%x] %llu.%06llu seconds", debug_port_range(bytes[0]), bytes[0],
	         (unsigned long long)(ns / NS_PER_S), (unsigned long long)(ns % NS_PER_S / 1000));
}

/* Reads give zeroes. */
static void debug_port_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	(void)context;
	(void)offset;
	memset(ret_bytes, 0, n_bytes);
}

const struct bus_ops debug_port_bus_ops = { .read = debug_port_read, .write = debug_port_write };

/* By this value a guest finds out that the console is there. */
#define CONSOLE_PRESENT 0xe9u

static void debug_console_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	(void)context;
	(void)offset;
	memset(ret_bytes, CONSOLE_PRESENT, n_bytes);
}

void debug_console_init(struct debug_console *d, struct char_backend *backend, const struct log *log)
{
	memset(d, 0, sizeof *d);
	d->backend = backend;
	if (log)
		d->log = *log;
	(void)pthread_mutex_init(&d->lock, NULL);
}

void debug_console_done(struct debug_console *d)
{
	(void)pthread_mutex_destroy(&d->lock);
}

/* One byte into the line; true when the line is whole, which is then in ret_line. */
static bool add_to_line(struct debug_console *d, uint8_t byte, char *ret_line)
{
	(void)pthread_mutex_lock(&d->lock);
	bool is_end = byte == '\n' || d->n_bytes == DEBUG_CONSOLE_LINE_BYTES;
	if (is_end) {
		memcpy(ret_line, d->line, d->n_bytes);
		ret_line[d->n_bytes] = '\0';
		d->n_bytes = 0;
	}
	if (byte != '\n' && byte != '\r') /* what a terminal would take for a command stays out of the log */
		d->line[d->n_bytes++] = byte >= ' ' && byte < 0x7f ? (char)byte : '?';
	(void)pthread_mutex_unlock(&d->lock);
	return is_end;
}

static void debug_console_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct debug_console *d = context;
	char line[DEBUG_CONSOLE_LINE_BYTES + 1];
	(void)offset;
	if (d->backend) {
		char_write(d->backend, bytes, n_bytes);
		return;
	}
	for (unsigned i = 0; i < n_bytes; i++) {
		if (add_to_line(d, bytes[i], line))
			log_debug(&d->log, "guest: %s", line);
	}
}

const struct bus_ops debug_console_bus_ops = { .read = debug_console_read, .write = debug_console_write };

/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A, driven by an input of two-byte steps: an access (register, direction, width) or bytes from the host.
 * Checked all the way: the transmitter is always empty, IIR is one of its values, a source that becomes pending is told. */
#include "backend/char.h"
#include "backend/terminal.h"
#include "bus/irq.h"
#include "device/serial.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define MUST(cond) ((cond) ? (void)0 : abort())

/* Made once: the serial port in front changes with every input, its backend survives, as it does a machine's reset. */
struct host {
	struct loop *loop;
	struct char_backend *b;
	struct terminal terminal;
	struct irq_line line;
	int keys;
};

static struct host *host(void)
{
	static struct host h;
	if (h.loop)
		return &h;
	int in[2], out = open("/dev/null", O_WRONLY | O_CLOEXEC);
	MUST(out >= 0 && pipe2(in, O_CLOEXEC | O_NONBLOCK) == 0 && loop_new(&h.loop, NULL) == 0);
	h.keys = in[1];
	h.line = (struct irq_line){ .event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
	terminal_init(&h.terminal, in[0], out);
	struct char_params p = { .mode = CHAR_TTY, .terminal = &h.terminal };
	MUST(char_open(&p, h.loop, &h.b, NULL) == 0);
	return &h;
}

static bool is_iir(uint8_t v)
{
	uint8_t id = v & 0x0f, fifos = v & 0xf0;
	return (fifos == 0 || fifos == 0xc0) && (id == 0 || id == 1 || id == 2 || id == 4 || id == 6 || id == 12);
}

static void access_port(struct serial *s, uint8_t what, uint8_t value)
{
	unsigned offset = what & 7, n = 1 + (what >> 5 & 3) * 2;
	uint8_t bytes[8];
	memset(bytes, value, sizeof bytes);
	if (offset + n > SERIAL_PORT_BYTES)
		n = SERIAL_PORT_BYTES - offset;
	if (what & 8) {
		serial_bus_ops.write(s, offset, bytes, n);
		return;
	}
	serial_bus_ops.read(s, offset, bytes, n);
	if (offset <= 5 && offset + n > 5)
		MUST((bytes[5 - offset] & 0x60) == 0x60);
	if (offset <= 2 && offset + n > 2)
		MUST(is_iir(bytes[2 - offset]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	struct host *h = host();
	struct serial s;
	uint64_t n_pulses;

	serial_init(&s, &h->line, h->b);
	for (size_t i = 0; i + 1 < n_bytes && i < 512; i += 2) {
		uint8_t pending = s.pending;
		(void)!read(h->line.event_fd, &n_pulses, sizeof n_pulses);
		if (data[i] & 0x10) {
			uint8_t keys[32];
			memset(keys, data[i + 1], sizeof keys);
			(void)!write(h->keys, keys, data[i] % sizeof keys + 1);
			(void)loop_run_once(h->loop, 0);
		} else {
			access_port(&s, data[i], data[i + 1]);
		}
		MUST(s.n_received <= SERIAL_FIFO_BYTES);
		if (s.pending & ~pending)
			MUST(read(h->line.event_fd, &n_pulses, sizeof n_pulses) == sizeof n_pulses);
		if (i % 64 == 0)
			(void)loop_run_once(h->loop, 0);
	}
	serial_done(&s);
	(void)loop_run_once(h->loop, 0);
	return 0;
}

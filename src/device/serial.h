/* SPDX-License-Identifier: Apache-2.0 */
/* serial.h - a 16550A UART at eight ports (National PC16550D data sheet), its interrupt an edge line.
 *
 * Registers are accessed by vCPU threads, input comes on the backend's loop; one lock, a leaf. The guest is hostile: the
 * host never waits for it and holds at most a FIFO of its bytes. Transmission takes no time: the transmitter is always
 * empty, and what the host cannot take is the backend's matter. */
#pragma once
#include "base/forward.h"
#include "bus/bus.h"
#include <pthread.h>

#define SERIAL_PORT_COM1 0x3f8u
#define SERIAL_PORT_BYTES 8u
#define SERIAL_FIFO_BYTES 16u

struct char_backend;
struct irq_line;

struct serial {
	struct irq_line *line;        /* edge; NULL: no interrupt */
	struct char_backend *backend; /* NULL: nobody at the other end */

	pthread_mutex_t lock;
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	uint8_t lsr_errors; /* the bits that a read clears */
	uint8_t msr_deltas;
	bool is_thr_pending;    /* "transmitter empty" has not been seen yet */
	uint8_t pending;        /* enabled interrupt sources, as last told by the line */
	bool is_input_refused;  /* the backend waits for room */
	bool has_unflushed;     /* bytes after the last newline */
	uint8_t n_received, received_start;
	uint8_t received[SERIAL_FIFO_BYTES];
};

/* Becomes the backend's client. Neither line nor backend is owned; both outlive it. */
void serial_init(struct serial *s, struct irq_line *line, struct char_backend *backend);
void serial_done(struct serial *s);

extern const struct bus_ops serial_bus_ops; /* context: struct serial */

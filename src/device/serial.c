/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * `pending` is the set of enabled interrupt sources as of the last change. The line is an edge: it is pulsed when a
 * source joins the set, and also whenever the host's bytes arrive, so that a driver that left data behind and returned
 * is called again. A source that stays pending needs no second pulse: the driver has not looked at IIR since the first.
 * That makes one interrupt for a FIFO full of output, and loses none.
 *
 * The character time-out (data below the trigger level, idle for four characters) is reported at once: the host's bytes
 * come in pieces, and the end of a piece is where the line goes idle.
 *
 * No callback runs under the lock: an access notes what it wants done in `struct effects`, and that is done afterwards. */
#include "device/serial.h"

#include "backend/char.h"
#include "bus/irq.h"

#include <assert.h>
#include <string.h>

enum { RBR_THR_DLL, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

#define IER_RDI 0x01u
#define IER_THRI 0x02u
#define IER_RLSI 0x04u
#define IER_MSI 0x08u

#define IIR_NO_INT 0x01u
#define IIR_MSI 0x00u
#define IIR_THRI 0x02u
#define IIR_RDI 0x04u
#define IIR_RLSI 0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFOS 0xc0u

#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_TRIGGER_SHIFT 6

#define LCR_DLAB 0x80u

#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u
#define MCR_LOOP 0x10u

#define LSR_DR 0x01u
#define LSR_OE 0x02u
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u

#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u
#define MSR_TERI 0x04u

/* What an access wants done once the lock is gone. */
struct effects {
	bool is_pulse, is_resume, is_flush;
	uint8_t n_sent;
	uint8_t sent[8];
};

static unsigned fifo_bytes(const struct serial *s)
{
	return s->fcr & FCR_ENABLE ? SERIAL_FIFO_BYTES : 1;
}

static unsigned trigger_bytes(const struct serial *s)
{
	static const uint8_t levels[4] = { 1, 4, 8, 14 };
	return s->fcr & FCR_ENABLE ? levels[s->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* The sources of IER's layout that are pending and enabled. */
static uint8_t sources(const struct serial *s)
{
	unsigned v = 0;
	if (s->lsr_errors)
		v |= IER_RLSI;
	if (s->n_received)
		v |= IER_RDI;
	if (s->is_thr_pending)
		v |= IER_THRI;
	if (s->msr_deltas)
		v |= IER_MSI;
	return (uint8_t)(v & s->ier);
}

/* After each change. On a PC the interrupt leaves through a gate that OUT2 opens. */
static void update(struct serial *s, struct effects *f)
{
	uint8_t now = s->mcr & MCR_OUT2 ? sources(s) : 0;
	if (now & ~s->pending)
		f->is_pulse = true;
	s->pending = now;
}

static void ask_for_input(struct serial *s, struct effects *f)
{
	if (s->is_input_refused) {
		s->is_input_refused = false;
		f->is_resume = true;
	}
}

static void clear_received(struct serial *s, struct effects *f)
{
	s->n_received = s->received_start = 0;
	ask_for_input(s, f);
}

/* One byte off the wire, only in loopback: the host's bytes come when there is room. */
static void receive(struct serial *s, uint8_t byte)
{
	if (s->n_received == fifo_bytes(s)) {
		s->lsr_errors |= LSR_OE;
		/* Without FIFOs the new character takes the old one's place; with them it is lost. */
		if (!(s->fcr & FCR_ENABLE))
			s->received[s->received_start] = byte;
		return;
	}
	s->received[(s->received_start + s->n_received) % SERIAL_FIFO_BYTES] = byte;
	s->n_received++;
}

static uint8_t read_received(struct serial *s, struct effects *f)
{
	if (s->n_received == 0)
		return 0;
	uint8_t byte = s->received[s->received_start];
	s->received_start = (uint8_t)((s->received_start + 1) % SERIAL_FIFO_BYTES);
	if (--s->n_received == 0)
		ask_for_input(s, f);
	return byte;
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t now = sources(s), id = IIR_NO_INT;
	if (now & IER_RLSI) {
		id = IIR_RLSI;
	} else if (now & IER_RDI) {
		id = s->n_received >= trigger_bytes(s) ? IIR_RDI : IIR_TIMEOUT;
	} else if (now & IER_THRI) {
		id = IIR_THRI;
		s->is_thr_pending = false;
	} else if (now & IER_MSI) {
		id = IIR_MSI;
	}
	return (uint8_t)(id | (s->fcr & FCR_ENABLE ? IIR_FIFOS : 0));
}

/* The four inputs: in loopback they are the four outputs, otherwise a peer that is always ready. */
static uint8_t modem_inputs(const struct serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (uint8_t)((s->mcr & MCR_RTS ? MSR_CTS : 0) | (s->mcr & MCR_DTR ? MSR_DSR : 0) |
	                 (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static uint8_t read_register(struct serial *s, unsigned reg, struct effects *f)
{
	uint8_t v = 0;
	switch (reg) {
	case RBR_THR_DLL:
		v = s->lcr & LCR_DLAB ? s->dll : read_received(s, f);
		break;
	case IER_DLM:
		v = s->lcr & LCR_DLAB ? s->dlm : s->ier;
		break;
	case IIR_FCR:
		v = read_iir(s);
		break;
	case LCR:
		v = s->lcr;
		break;
	case MCR:
		v = s->mcr;
		break;
	case LSR:
		v = (uint8_t)((s->n_received ? LSR_DR : 0) | s->lsr_errors | LSR_THRE | LSR_TEMT);
		s->lsr_errors = 0;
		break;
	case MSR:
		v = (uint8_t)(modem_inputs(s) | s->msr_deltas);
		s->msr_deltas = 0;
		break;
	case SCR:
		v = s->scr;
		break;
	default:
		break;
	}
	update(s, f);
	return v;
}

static void transmit(struct serial *s, uint8_t byte, struct effects *f)
{
	if (s->mcr & MCR_LOOP) {
		receive(s, byte);
	} else {
		f->sent[f->n_sent++] = byte;
		s->has_unflushed = byte != '\n';
	}
	/* Empty, full, and empty again in no time. */
	s->is_thr_pending = true;
}

static void write_ier(struct serial *s, uint8_t v, struct effects *f)
{
	v &= IER_RDI | IER_THRI | IER_RLSI | IER_MSI;
	/* Enabling the source with the transmitter empty raises it, seen before or not. */
	if ((v & ~s->ier) & IER_THRI)
		s->is_thr_pending = true;
	/* A driver that stops wanting "transmitter empty" has nothing more to send for now. */
	if ((s->ier & ~v) & IER_THRI && s->has_unflushed) {
		s->has_unflushed = false;
		f->is_flush = true;
	}
	s->ier = v;
}

static void write_fcr(struct serial *s, uint8_t v, struct effects *f)
{
	/* Turning the FIFOs on or off empties them; the other bits count only together with the enable bit. */
	if ((v ^ s->fcr) & FCR_ENABLE || ((v & FCR_ENABLE) && (v & FCR_CLEAR_RX)))
		clear_received(s, f);
	s->fcr = v & FCR_ENABLE ? v & (FCR_ENABLE | 3u << FCR_TRIGGER_SHIFT) : 0;
}

static void write_mcr(struct serial *s, uint8_t v, struct effects *f)
{
	uint8_t before = modem_inputs(s), was_loop = s->mcr & MCR_LOOP;
	s->mcr = v & (MCR_DTR | MCR_RTS | MCR_OUT1 | MCR_OUT2 | MCR_LOOP);
	uint8_t after = modem_inputs(s), changed = (uint8_t)((before ^ after) >> 4);
	/* Deltas have the order of the inputs; the ring indicator counts only when it ends. */
	if (!((before & ~after) & MSR_RI))
		changed &= (uint8_t)~MSR_TERI;
	s->msr_deltas |= changed;
	if (was_loop && !(s->mcr & MCR_LOOP))
		ask_for_input(s, f);
}

static void write_register(struct serial *s, unsigned reg, uint8_t v, struct effects *f)
{
	bool has_dlab = (s->lcr & LCR_DLAB) != 0;
	switch (reg) {
	case RBR_THR_DLL:
		if (has_dlab)
			s->dll = v;
		else
			transmit(s, v, f);
		break;
	case IER_DLM:
		if (has_dlab)
			s->dlm = v;
		else
			write_ier(s, v, f);
		break;
	case IIR_FCR:
		write_fcr(s, v, f);
		break;
	case LCR:
		s->lcr = v;
		break;
	case MCR:
		write_mcr(s, v, f);
		break;
	case SCR:
		s->scr = v;
		break;
	default: /* LSR and MSR are for reading */
		break;
	}
	update(s, f);
}

static void apply(struct serial *s, const struct effects *f)
{
	if (s->backend) {
		if (f->n_sent)
			char_write(s->backend, f->sent, f->n_sent);
		if (f->is_flush)
			char_flush(s->backend);
		if (f->is_resume)
			char_resume_input(s->backend);
	}
	if (f->is_pulse && s->line)
		irq_line_pulse(s->line);
}

/* An access of several bytes is one access to each port, lowest first, as a PC's bus would split it. */
static void serial_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct serial *s = context;
	struct effects f = { 0 };
	assert(n_bytes <= 8 && offset + n_bytes <= SERIAL_PORT_BYTES);
	(void)pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < n_bytes; i++)
		ret_bytes[i] = read_register(s, (unsigned)offset + i, &f);
	(void)pthread_mutex_unlock(&s->lock);
	apply(s, &f);
}

static void serial_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct serial *s = context;
	struct effects f = { 0 };
	assert(n_bytes <= 8 && offset + n_bytes <= SERIAL_PORT_BYTES);
	(void)pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < n_bytes; i++)
		write_register(s, (unsigned)offset + i, bytes[i], &f);
	(void)pthread_mutex_unlock(&s->lock);
	apply(s, &f);
}

const struct bus_ops serial_bus_ops = { .read = serial_read, .write = serial_write };

static size_t serial_input(void *context, const uint8_t *bytes, size_t n_bytes)
{
	struct serial *s = context;
	struct effects f = { 0 };
	size_t n = 0;
	(void)pthread_mutex_lock(&s->lock);
	/* In loopback the receiver is not connected to the wire. */
	while (n < n_bytes && s->n_received < fifo_bytes(s) && !(s->mcr & MCR_LOOP))
		receive(s, bytes[n++]);
	s->is_input_refused = n < n_bytes;
	update(s, &f);
	bool is_pulse = f.is_pulse || (n && (s->pending & IER_RDI));
	(void)pthread_mutex_unlock(&s->lock);
	if (is_pulse && s->line)
		irq_line_pulse(s->line);
	return n;
}

static void set_defaults(struct serial *s)
{
	s->ier = s->fcr = s->lcr = s->mcr = s->scr = s->dlm = 0;
	s->dll = 0x0c; /* 9600 baud: what firmware leaves */
	s->lsr_errors = s->msr_deltas = s->pending = 0;
	s->is_thr_pending = s->has_unflushed = false;
}

void serial_init(struct serial *s, struct irq_line *line, struct char_backend *backend)
{
	memset(s, 0, sizeof *s);
	assert(!line || !line->is_level);
	s->line = line;
	s->backend = backend;
	(void)pthread_mutex_init(&s->lock, NULL);
	set_defaults(s);
	struct char_client c = { .input = serial_input, .context = s };
	if (backend)
		char_set_client(backend, &c);
}

void serial_done(struct serial *s)
{
	if (s->backend)
		char_set_client(s->backend, NULL);
	(void)pthread_mutex_destroy(&s->lock);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "device/power.h"

#include <string.h>

/* ACPI 6.4, 4.8.3.7: SLP_TYPx in bits 2 to 4, SLP_EN in bit 5. The type that \_S5 names is 5. Bit 0 is reserved there and
 * is the reset register's value; bit 7 is the status register's WAK_STS, which drivers clear before they sleep. */
#define SLEEP_MASK 0x3cu
#define SLEEP_S5 0x34u
#define RESET_VALUE 0x01u

static void power_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct power *p = context;
	if (offset != 0 || n_bytes < 1)
		return;
	if ((bytes[0] & SLEEP_MASK) == SLEEP_S5)
		p->request(p->context, POWER_OFF);
	else if (bytes[0] == RESET_VALUE)
		p->request(p->context, POWER_RESET);
}

/* Reads give zeroes: never woken, nothing pending. */
static void power_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	(void)context;
	(void)offset;
	memset(ret_bytes, 0, n_bytes);
}

const struct bus_ops power_bus_ops = { .read = power_read, .write = power_write };

/* --- ports 0x60 to 0x64 ------------------------------------------------------------------------------------------------ */

enum { KEYBOARD_DATA = 0, SYSTEM_CONTROL_B = 1, KEYBOARD_STATUS = 4 };

/* Output buffer full, input buffer empty. A driver that looks for a controller drains its output, finds that this never
 * ends, and concludes after a few reads that there is none; a driver that wants to pulse the reset line waits for the
 * input buffer to be empty, and need not. All ones would make the latter wait for its whole time-out. */
#define STATUS_ABSENT 0x01u

/* Port 0x61: the speaker's two bits can be written; refresh toggles with every read; timer 2 has always run out, so that
 * nobody calibrates by it without end; no NMI reason. */
#define PORT_61_WRITABLE 0x03u
#define PORT_61_REFRESH 0x10u
#define PORT_61_TIMER_2 0x20u

/* 0xf0 to 0xff pulse the lines whose bit is 0: bit 0 is the processor's reset. */
#define PULSE_MASK 0xf1u
#define PULSE_RESET 0xf0u
#define WRITE_OUTPUT_PORT 0xd1u
#define OUTPUT_PORT_NO_RESET 0x01u

static void keyboard_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct power *p = context;
	for (unsigned i = 0; i < n_bytes; i++) {
		switch (offset + i) {
		case SYSTEM_CONTROL_B:
			ret_bytes[i] = (uint8_t)(atomic_fetch_xor(&p->port_61, PORT_61_REFRESH) | PORT_61_TIMER_2);
			break;
		case KEYBOARD_STATUS:
			ret_bytes[i] = STATUS_ABSENT;
			break;
		default:
			ret_bytes[i] = 0xff;
			break;
		}
	}
}

static void keyboard_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct power *p = context;
	for (unsigned i = 0; i < n_bytes; i++) {
		uint8_t v = bytes[i];
		switch (offset + i) {
		case KEYBOARD_DATA:
			if (atomic_exchange(&p->is_output_port_next, false) && !(v & OUTPUT_PORT_NO_RESET))
				p->request(p->context, POWER_RESET);
			break;
		case SYSTEM_CONTROL_B:
			atomic_store(&p->port_61, v & PORT_61_WRITABLE);
			break;
		case KEYBOARD_STATUS:
			atomic_store(&p->is_output_port_next, v == WRITE_OUTPUT_PORT);
			if ((v & PULSE_MASK) == PULSE_RESET)
				p->request(p->context, POWER_RESET);
			break;
		default:
			break;
		}
	}
}

const struct bus_ops power_keyboard_ops = { .read = keyboard_read, .write = keyboard_write };

/* --- port 0xcf9 -------------------------------------------------------------------------------------------------------- */

/* Reset control register of Intel's south bridges: bit 1 chooses a system reset, bit 2 going from 0 to 1 does it. */
#define RESET_CPU 0x04u

static void reset_control_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct power *p = context;
	memset(ret_bytes, 0, n_bytes);
	if (offset == 0 && n_bytes)
		ret_bytes[0] = atomic_load(&p->reset_control);
}

static void reset_control_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct power *p = context;
	if (offset != 0 || n_bytes < 1)
		return;
	/* The bit is never kept: the next write of it is a rising edge again. */
	atomic_store(&p->reset_control, bytes[0] & (uint8_t)~RESET_CPU);
	if (bytes[0] & RESET_CPU)
		p->request(p->context, POWER_RESET);
}

const struct bus_ops power_reset_control_ops = { .read = reset_control_read, .write = reset_control_write };

void power_init(struct power *p, void (*request)(void *context, enum power_request what), void *context)
{
	memset(p, 0, sizeof *p);
	p->request = request;
	p->context = context;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* power.h - the registers by which a guest turns its machine off or resets it.
 *
 * power_bus_ops: the ACPI sleep control, sleep status and reset register, one byte (ACPI 6.4, 4.8.3.7, 4.8.3.6).
 * power_keyboard_ops: ports 0x60 to 0x64, a keyboard controller that is absent but for its reset line, and port 0x61.
 * power_reset_control_ops: port 0xcf9, for machines without a PCI bus; with one, 0xcf8 to 0xcff are the bus's.
 * vCPU threads; requests are made on them, under no lock, and may come more than once. */
#pragma once
#include "base/forward.h"
#include "bus/bus.h"
#include <stdatomic.h>

#define POWER_PORT_BYTES 1u
#define POWER_KEYBOARD_PORT 0x60u
#define POWER_KEYBOARD_PORT_BYTES 5u
#define POWER_RESET_CONTROL_PORT 0xcf9u
#define POWER_RESET_CONTROL_PORT_BYTES 1u

enum power_request { POWER_OFF, POWER_RESET };

struct power {
	void (*request)(void *context, enum power_request what);
	void *context;
	_Atomic uint8_t port_61;          /* the bits that hold what is written, and the refresh toggle */
	_Atomic bool is_output_port_next; /* 0xd1 was written to 0x64 */
	_Atomic uint8_t reset_control;
};

void power_init(struct power *p, void (*request)(void *context, enum power_request what), void *context);

extern const struct bus_ops power_bus_ops, power_keyboard_ops, power_reset_control_ops; /* context: struct power */

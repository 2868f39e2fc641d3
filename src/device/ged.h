/* SPDX-License-Identifier: Apache-2.0 */
/* ged.h - the register behind the ACPI generic event device (ACPI 6.4, 5.6.9): which events have happened.
 *
 * One 32-bit register of event bits. Its edge interrupt runs the device's _EVT method, which reads the register and
 * notifies the objects concerned; the read clears what it gave, in the same step, so that no event is lost or told
 * twice. Events are raised by any thread, the register is read by vCPU threads. No lock: one atomic word. */
#pragma once
#include "base/forward.h"
#include "bus/bus.h"
#include <stdatomic.h>

#define GED_REGISTER_BYTES 4u

/* The bits are an agreement with the _EVT method alone. */
#define GED_EVENT_POWER_BUTTON 0x1u

struct irq_line;

struct ged {
	struct irq_line *line; /* edge */
	_Atomic uint32_t events;
};

void ged_init(struct ged *g, struct irq_line *line);
void ged_raise(struct ged *g, uint32_t events);

extern const struct bus_ops ged_bus_ops; /* context: struct ged */

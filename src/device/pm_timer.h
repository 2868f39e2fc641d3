/* SPDX-License-Identifier: Apache-2.0 */
/* pm_timer.h - the ACPI power management timer (ACPI 6.4, 4.8.3.3): 32 bits at 3.579545 MHz, from the host's monotonic
 * clock. Reading is all that it can do; it has no state but where it started. Any thread. */
#pragma once
#include "base/forward.h"
#include "bus/bus.h"

#define PM_TIMER_PORT_BYTES 4u
#define PM_TIMER_HZ 3579545ull

struct pm_timer {
	uint64_t start_ns;
};

void pm_timer_init(struct pm_timer *t);
uint32_t pm_timer_value(const struct pm_timer *t, uint64_t now_ns);

extern const struct bus_ops pm_timer_bus_ops; /* context: struct pm_timer */

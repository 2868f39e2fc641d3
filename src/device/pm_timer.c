/* SPDX-License-Identifier: Apache-2.0 */
#include "device/pm_timer.h"

#include "base/clock.h"

void pm_timer_init(struct pm_timer *t)
{
	t->start_ns = clock_now_ns();
}

uint32_t pm_timer_value(const struct pm_timer *t, uint64_t now_ns)
{
	uint64_t ns = now_ns - t->start_ns;
	/* Seconds and the rest apart: the product of the whole would overflow after some hours. */
	return (uint32_t)(ns / NS_PER_S * PM_TIMER_HZ + ns % NS_PER_S * PM_TIMER_HZ / NS_PER_S);
}

static void pm_timer_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	uint32_t v = pm_timer_value(context, clock_now_ns());
	for (unsigned i = 0; i < n_bytes; i++)
		ret_bytes[i] = offset + i < PM_TIMER_PORT_BYTES ? (uint8_t)(v >> (8 * (offset + i))) : 0;
}

const struct bus_ops pm_timer_bus_ops = { .read = pm_timer_read };

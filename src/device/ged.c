/* SPDX-License-Identifier: Apache-2.0 */
#include "device/ged.h"

#include "bus/irq.h"

#include <assert.h>

void ged_init(struct ged *g, struct irq_line *line)
{
	assert(!line || !line->is_level);
	g->line = line;
	atomic_init(&g->events, 0);
}

void ged_raise(struct ged *g, uint32_t events)
{
	/* Pulsed also when the bits were set already: the guest may have lost the first, before its driver was there. */
	(void)atomic_fetch_or(&g->events, events);
	if (g->line)
		irq_line_pulse(g->line);
}

/* Of the bits, those that the access covers are given and cleared: a driver that reads one byte leaves the others. */
static void ged_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct ged *g = context;
	uint32_t mask = 0;
	for (unsigned i = 0; i < n_bytes; i++)
		if (offset + i < GED_REGISTER_BYTES)
			mask |= 0xffu << (8 * (offset + i));
	uint32_t events = atomic_fetch_and(&g->events, ~mask) & mask;
	for (unsigned i = 0; i < n_bytes; i++)
		ret_bytes[i] = offset + i < GED_REGISTER_BYTES ? (uint8_t)(events >> (8 * (offset + i))) : 0;
}

const struct bus_ops ged_bus_ops = { .read = ged_read };

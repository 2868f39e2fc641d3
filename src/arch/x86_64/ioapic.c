/* SPDX-License-Identifier: Apache-2.0 */
/* ioapic.c - theory of operation.
 *
 * Each pin has a redirection entry, and each entry says what a message for a local APIC says: vector, delivery mode,
 * destination. An entry is therefore turned into such a message, and the pin's line decides who sends it:
 *
 *   edge line    The message is the route of the line's irqfd while the entry is not masked, and there is none while it
 *                is: an edge at a masked pin is lost, as the datasheet says (3.2.4, bit 16).
 *   level line   The message is sent from here when the line is high, the entry is not masked and its Remote IRR is clear;
 *                sending sets Remote IRR, the EOI clears it. The route is kept as well, masked or not: it is
 *                from the table of routes that the hypervisor learns for which vectors an EOI concerns us, and Linux
 *                ends a threaded interrupt while the entry is masked.
 *
 * An entry changes under the lock; the table of routes is set without it, and a level interrupt that became deliverable
 * is sent only after that, so that its EOI cannot come before the hypervisor knows whom to tell. */
#include "arch/x86_64/ioapic.h"

#include "base/bytes.h"
#include "base/checked.h"

#include <assert.h>
#include <string.h>

/* 3.0 Register description: memory-mapped; the EOI register came with version 0x20. */
#define IOREGSEL 0x00u
#define IOWIN 0x10u
#define IOAPIC_EOIR 0x40u

/* 3.2 I/O APIC registers, by their index in IOREGSEL. */
#define IOAPICID 0x00u
#define IOAPICVER 0x01u
#define IOAPICARB 0x02u
#define IOREDTBL 0x10u

#define VERSION (0x20u | (IRQ_N_PINS - 1) << 16)
#define ID_SHIFT 24
#define ID_MASK 0xfu

/* 3.2.4 IOREDTBL */
#define VECTOR 0xffull
#define DELIVERY_MODE_SHIFT 8
#define DELIVERY_MODE 7ull
#define LOGICAL_DESTINATION (1ull << 11)
#define REMOTE_IRR (1ull << 14)
#define LEVEL_TRIGGERED (1ull << 15)
#define MASKED (1ull << 16)
#define DESTINATION_SHIFT 56
/* KVM_FEATURE_MSI_EXT_DEST_ID: destination bits 8..14, for guests that were told so. */
#define EXTENDED_DESTINATION_SHIFT 49
#define EXTENDED_DESTINATION 0x7full
/* Delivery status (12) and Remote IRR are read-only; delivery from here is immediate, so that 12 is always 0. */
#define WRITABLE (0xfffull | 1ull << 13 | LEVEL_TRIGGERED | MASKED | ~0ull << EXTENDED_DESTINATION_SHIFT)

/* Intel SDM 3, 11.11 Message Signalled Interrupts */
#define MSI_ADDRESS 0xfee00000ull
#define MSI_DESTINATION_SHIFT 12
#define MSI_EXTENDED_DESTINATION_SHIFT 5
#define MSI_LOGICAL_DESTINATION (1ull << 2)
#define MSI_LEVEL_ASSERT (1u << 14)
#define MSI_LEVEL_TRIGGERED (1u << 15)

static struct hv_msi message_of(uint64_t entry)
{
	struct hv_msi m = { .address = MSI_ADDRESS };
	m.address |= entry >> DESTINATION_SHIFT << MSI_DESTINATION_SHIFT;
	m.address |= (entry >> EXTENDED_DESTINATION_SHIFT & EXTENDED_DESTINATION) << MSI_EXTENDED_DESTINATION_SHIFT;
	if (entry & LOGICAL_DESTINATION)
		m.address |= MSI_LOGICAL_DESTINATION;
	m.data = (uint32_t)(entry & VECTOR) | (uint32_t)(entry >> DELIVERY_MODE_SHIFT & DELIVERY_MODE) << DELIVERY_MODE_SHIFT;
	if (entry & LEVEL_TRIGGERED)
		m.data |= MSI_LEVEL_TRIGGERED | MSI_LEVEL_ASSERT;
	return m;
}

/* Under the lock. */
static void update_route(struct ioapic *io, uint32_t pin)
{
	uint64_t entry = io->entries[pin];
	bool has_route = (io->edge_lines >> pin & 1) ? !(entry & MASKED)
	                                             : (io->level_lines >> pin & 1) && (entry & LEVEL_TRIGGERED);
	struct hv_msi m = message_of(entry);
	irq_set_pin_route(io->router, pin, has_route ? &m : NULL);
}

/* Under the lock. A level interrupt that no local APIC took does not set Remote IRR: nobody would ever clear it. */
static void deliver_level(struct ioapic *io, uint32_t pin)
{
	uint64_t *entry = &io->entries[pin];
	if (!(io->levels >> pin & 1) || (*entry & (MASKED | REMOTE_IRR)) || !(*entry & LEVEL_TRIGGERED))
		return;
	if (io->n_writers[pin])
		return;
	struct hv_msi m = message_of(*entry);
	if (irq_send(io->router, &m) > 0)
		*entry |= REMOTE_IRR;
}

void ioapic_set_level(struct ioapic *io, uint32_t pin, bool level)
{
	assert(pin < IRQ_N_PINS);
	uint32_t bit = 1u << pin;

	(void)pthread_mutex_lock(&io->lock);
	bool was = io->levels & bit;
	io->levels = level ? io->levels | bit : io->levels & ~bit;
	uint64_t entry = io->entries[pin];
	if (entry & LEVEL_TRIGGERED) {
		deliver_level(io, pin);
	} else if (level && !was && !(entry & MASKED)) {
		/* A level line at an entry that the guest programmed for edges: its rise is one. */
		struct hv_msi m = message_of(entry);
		(void)irq_send(io->router, &m);
	}
	(void)pthread_mutex_unlock(&io->lock);
}

void ioapic_end_of_interrupt(struct ioapic *io, uint8_t vector)
{
	(void)pthread_mutex_lock(&io->lock);
	for (uint32_t pin = 0; pin < IRQ_N_PINS; pin++) {
		uint64_t *entry = &io->entries[pin];
		if (!(*entry & LEVEL_TRIGGERED) || (*entry & VECTOR) != vector)
			continue;
		*entry &= ~REMOTE_IRR;
		deliver_level(io, pin);
	}
	(void)pthread_mutex_unlock(&io->lock);
}

/* --- registers -------------------------------------------------------------------------------------------------- */

/* Under the lock. */
static uint32_t read_register(const struct ioapic *io)
{
	switch (io->select) {
	case IOAPICID:
	case IOAPICARB: /* 3.2.3: there is no APIC bus; the arbitration id is loaded from the id */
		return io->id << ID_SHIFT;
	case IOAPICVER:
		return VERSION;
	default:
		break;
	}
	uint32_t pin = (io->select - IOREDTBL) / 2;
	if (io->select < IOREDTBL || pin >= IRQ_N_PINS)
		return 0;
	return (uint32_t)(io->select & 1 ? io->entries[pin] >> 32 : io->entries[pin]);
}

static void write_entry(struct ioapic *io, uint32_t pin, bool is_high, uint32_t value)
{
	(void)pthread_mutex_lock(&io->lock);
	uint64_t old = io->entries[pin];
	uint64_t entry = is_high ? (old & UINT32_MAX) | (uint64_t)value << 32 : (old & ~(uint64_t)UINT32_MAX) | value;
	entry = (entry & WRITABLE) | (old & REMOTE_IRR);
	/* Linux turns an entry to edge and back to clear a Remote IRR that got stuck. */
	if (!(entry & LEVEL_TRIGGERED))
		entry &= ~REMOTE_IRR;
	io->entries[pin] = entry;
	if (entry != old)
		update_route(io, pin);
	io->n_writers[pin]++;
	(void)pthread_mutex_unlock(&io->lock);

	irq_commit_or_log(io->router);

	(void)pthread_mutex_lock(&io->lock);
	io->n_writers[pin]--;
	deliver_level(io, pin);
	(void)pthread_mutex_unlock(&io->lock);
}

static void write_register(struct ioapic *io, uint32_t value)
{
	(void)pthread_mutex_lock(&io->lock);
	uint32_t select = io->select;
	if (select == IOAPICID)
		io->id = value >> ID_SHIFT & ID_MASK;
	(void)pthread_mutex_unlock(&io->lock);

	uint32_t pin = (select - IOREDTBL) / 2;
	if (select >= IOREDTBL && pin < IRQ_N_PINS)
		write_entry(io, pin, select & 1, value);
}

static void bus_read_register(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct ioapic *io = context;
	uint32_t v = 0;

	(void)pthread_mutex_lock(&io->lock);
	if (offset == IOREGSEL)
		v = io->select;
	else if (offset == IOWIN)
		v = read_register(io);
	(void)pthread_mutex_unlock(&io->lock);
	put_le(ret_bytes, n_bytes, v);
}

/* 3.0: registers are accessed by 32 bits. Narrower writes select a register (there are only 8 bits of it), but program
 * nothing. */
static void bus_write_register(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct ioapic *io = context;
	uint32_t v = (uint32_t)get_le(bytes, n_bytes);

	if (offset == IOREGSEL) {
		(void)pthread_mutex_lock(&io->lock);
		io->select = v & 0xff;
		(void)pthread_mutex_unlock(&io->lock);
	} else if (offset == IOWIN && n_bytes >= 4) {
		write_register(io, v);
	} else if (offset == IOAPIC_EOIR && n_bytes >= 4) {
		ioapic_end_of_interrupt(io, (uint8_t)v);
	}
}

const struct bus_ops ioapic_bus_ops = { .read = bus_read_register, .write = bus_write_register };

/* --- life ------------------------------------------------------------------------------------------------------- */

static void controller_set_level(struct irq_controller *c, uint32_t pin, bool level)
{
	ioapic_set_level(container_of(c, struct ioapic, controller), pin, level);
}

static void controller_add_line(struct irq_controller *c, uint32_t pin, bool is_level)
{
	struct ioapic *io = container_of(c, struct ioapic, controller);
	uint32_t bit = 1u << pin;

	(void)pthread_mutex_lock(&io->lock);
	io->edge_lines = is_level ? io->edge_lines & ~bit : io->edge_lines | bit;
	io->level_lines = is_level ? io->level_lines | bit : io->level_lines & ~bit;
	io->levels &= ~bit;
	update_route(io, pin);
	(void)pthread_mutex_unlock(&io->lock);
}

static void clear(struct ioapic *io)
{
	io->id = 0;
	io->select = 0;
	for (uint32_t pin = 0; pin < IRQ_N_PINS; pin++)
		io->entries[pin] = MASKED;
}

int ioapic_init(struct ioapic *io, struct irq_router *r, struct err *e)
{
	(void)e;
	assert(r->irqchip == HV_IRQCHIP_SPLIT && !r->controller);
	*io = (struct ioapic){
		.controller = { .set_level = controller_set_level, .add_line = controller_add_line },
		.router = r,
	};
	(void)pthread_mutex_init(&io->lock, NULL);
	clear(io);
	r->controller = &io->controller;
	return 0;
}

void ioapic_done(struct ioapic *io)
{
	if (!io || !io->router)
		return;
	io->router->controller = NULL;
	(void)pthread_mutex_destroy(&io->lock);
	*io = (struct ioapic){ 0 };
}

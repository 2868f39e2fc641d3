/* SPDX-License-Identifier: Apache-2.0 */
/* ioapic.h - the 82093AA I/O APIC in user space, for the split irqchip (Intel 82093AA datasheet; version 0x11 + EOI as 0x20).
 *
 * Registers are accessed by vCPU threads through the MMIO bus at 0xfec00000, pins are set by any thread; one lock, under
 * which only the router's is taken. An edge pin's redirection entry becomes an MSI route, so that its irqfd needs no
 * trip through here; level pins are delivered from here and re-delivered at the guest's EOI. What the guest programs is
 * hostile; it can harm only its own interrupts. Lives as long as the router. */
#pragma once
#include "bus/bus.h"
#include "bus/irq.h"

#define IOAPIC_ADDRESS 0xfec00000ull
#define IOAPIC_BYTES 0x1000ull

struct ioapic {
	struct irq_controller controller;
	pthread_mutex_t lock;
	struct irq_router *router;
	uint32_t id, select;
	uint64_t entries[IRQ_N_PINS]; /* redirection table, as the guest sees it */
	uint32_t levels;              /* one bit a pin: the line's present level */
	uint32_t edge_lines;          /* one bit a pin: its line is edge-triggered, delivered by irqfd */
	uint32_t level_lines;         /* one bit a pin: its line is level-triggered, delivered from here */
	uint16_t n_writers[IRQ_N_PINS]; /* vCPUs between changing the entry and its commit: nothing is delivered */
};

int ioapic_init(struct ioapic *io, struct irq_router *r, struct err *e); /* before any line is made */
void ioapic_done(struct ioapic *io);
void ioapic_set_level(struct ioapic *io, uint32_t pin, bool level);
/* From an HV_EXIT_EOI: the guest ended the interrupt of this vector. */
void ioapic_end_of_interrupt(struct ioapic *io, uint8_t vector);
extern const struct bus_ops ioapic_bus_ops; /* context: struct ioapic */

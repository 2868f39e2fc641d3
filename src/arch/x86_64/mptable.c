/* SPDX-License-Identifier: Apache-2.0 */
/* The MP table (Intel MultiProcessor Specification 1.4, chapter 4), for guests without ACPI: the floating pointer, and
 * right behind it the configuration table. It knows APIC IDs of 8 bits and no x2APIC. */
#include "arch/x86_64/ioapic.h"
#include "arch/x86_64/tables.h"

#include <errno.h>

#define POINTER_BYTES 16u
#define HEADER_BYTES 44u
#define LAPIC_ADDRESS 0xfee00000u
#define LAPIC_VERSION 0x14
#define IOAPIC_VERSION 0x20 /* what its version register says */
#define SPEC_REV 4          /* 1.4 */
#define MAX_APIC_ID 253u    /* the next is the I/O APIC's; 255 is "all" */
#define ALL_APICS 0xff
#define PCI_N_SLOTS 32u

enum entry_type { PROCESSOR = 0, BUS = 1, IO_APIC = 2, IO_INTERRUPT = 3, LOCAL_INTERRUPT = 4 };
enum interrupt_type { INT = 0, NMI = 1, EXTINT = 3 };

/* 4.3.4: polarity and trigger mode; 0 is what the bus has: ISA edge and high, PCI level and low. */
#define CONFORMS 0

struct mptable {
	struct table_buffer *t;
	uint16_t n_entries;
	uint8_t ioapic_id, isa_bus;
};

static void begin_entry(struct mptable *p, enum entry_type type)
{
	table_put8(p->t, (uint8_t)type);
	p->n_entries++;
}

static void put_processors(struct mptable *p, const struct x86_machine *m)
{
	for (unsigned i = 0; i < m->n_vcpus; i++) {
		begin_entry(p, PROCESSOR);
		table_put8(p->t, (uint8_t)x86_apic_id(m, i));
		table_put8(p->t, LAPIC_VERSION);
		table_put8(p->t, i == 0 ? 3 : 1); /* enabled; the first is the boot processor */
		table_put32(p->t, 0x600);         /* signature and features: guests ask CPUID */
		table_put32(p->t, 0x201);         /* FPU, APIC */
		table_put64(p->t, 0);
	}
}

static void put_bus(struct mptable *p, uint8_t id, const char *name)
{
	begin_entry(p, BUS);
	table_put8(p->t, id);
	table_put(p->t, name, 6);
}

static void put_interrupt(struct mptable *p, enum entry_type entry, enum interrupt_type type, uint8_t bus,
                          uint8_t source, uint8_t apic, uint8_t pin)
{
	begin_entry(p, entry);
	table_put8(p->t, (uint8_t)type);
	table_put16(p->t, CONFORMS);
	table_put8(p->t, bus);
	table_put8(p->t, source);
	table_put8(p->t, apic);
	table_put8(p->t, pin);
}

/* ISA interrupt n is on pin n, also for the pins from 16 on where virtio over MMIO may be; those are PCI's if there is
 * PCI. */
static void put_interrupts(struct mptable *p, const struct x86_machine *m)
{
	unsigned n_isa_pins = m->has_pci ? X86_PIN_PCI_INTX : IRQ_N_PINS;
	for (unsigned pin = 0; pin < n_isa_pins; pin++)
		put_interrupt(p, IO_INTERRUPT, INT, p->isa_bus, (uint8_t)pin, p->ioapic_id, (uint8_t)pin);
	for (unsigned slot = 0; m->has_pci && slot < PCI_N_SLOTS; slot++)
		put_interrupt(p, IO_INTERRUPT, INT, 0, (uint8_t)(slot << 2), p->ioapic_id, /* D.3: INTA of the slot */
		              (uint8_t)(X86_PIN_PCI_INTX + slot % X86_N_PCI_INTX));
	put_interrupt(p, LOCAL_INTERRUPT, EXTINT, p->isa_bus, 0, ALL_APICS, 0);
	put_interrupt(p, LOCAL_INTERRUPT, NMI, p->isa_bus, 0, ALL_APICS, 1);
}

/* 4.1 */
static void fill_pointer(uint8_t *bytes, uint64_t address)
{
	memcpy(bytes, "_MP_", 4);
	put_le32(bytes + 4, (uint32_t)address + POINTER_BYTES);
	bytes[8] = POINTER_BYTES / 16;
	bytes[9] = SPEC_REV;
	bytes[10] = table_checksum(bytes, POINTER_BYTES);
}

/* 4.2 */
static void fill_header(uint8_t *bytes, size_t n_bytes, uint16_t n_entries)
{
	memcpy(bytes, "PCMP", 4);
	put_le16(bytes + 4, (uint16_t)n_bytes);
	bytes[6] = SPEC_REV;
	memcpy(bytes + 8, "VARAN   ", 8);
	memcpy(bytes + 16, "VARAN VM    ", 12);
	put_le16(bytes + 34, n_entries);
	put_le32(bytes + 36, LAPIC_ADDRESS);
	bytes[7] = table_checksum(bytes, n_bytes);
}

int mptable_build(struct table_buffer *t, uint64_t address, const struct x86_machine *m, struct err *e)
{
	uint32_t last_id = x86_apic_id(m, m->n_vcpus - 1);
	if (last_id > MAX_APIC_ID)
		return err_set(e, ENOSPC, "mp table: %u vCPUs have APIC IDs up to %u, without ACPI the last is %u",
		               m->n_vcpus, last_id, MAX_APIC_ID);

	struct mptable p = { .t = t, .ioapic_id = (uint8_t)(last_id + 1), .isa_bus = m->has_pci ? 1 : 0 };
	size_t start = t->n_bytes, table = start + POINTER_BYTES;
	assert(address % 16 == 0);
	(void)table_grow(t, POINTER_BYTES + HEADER_BYTES);
	put_processors(&p, m);
	if (m->has_pci)
		put_bus(&p, 0, "PCI   ");
	put_bus(&p, p.isa_bus, "ISA   ");
	begin_entry(&p, IO_APIC);
	table_put8(t, p.ioapic_id);
	table_put8(t, IOAPIC_VERSION);
	table_put8(t, 1); /* usable */
	table_put32(t, (uint32_t)IOAPIC_ADDRESS);
	put_interrupts(&p, m);
	if (t->is_overfull)
		return err_set(e, ENOSPC, "mp table: it does not fit in %zu bytes", t->n_capacity);

	fill_header(t->bytes + table, t->n_bytes - table, p.n_entries);
	fill_pointer(t->bytes + start, address);
	return 0;
}

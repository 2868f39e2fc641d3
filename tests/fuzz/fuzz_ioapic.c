/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O APIC: register accesses, levels, ends of interrupts. Steps of up to seven bytes. Reserved bits stay zero, and an
 * entry that is not level-triggered has no Remote IRR. */
#include "arch/x86_64/ioapic.h"
#include "fuzz_bus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

static void check(const struct ioapic *io)
{
	for (unsigned pin = 0; pin < IRQ_N_PINS; pin++) {
		uint64_t entry = io->entries[pin];
		MUST(!(entry & 0x0001fffffffe1000));
		MUST((entry & 1u << 15) || !(entry & 1u << 14));
		MUST(io->n_writers[pin] == 0);
	}
	MUST(io->select <= 0xff && io->id <= 0xf);
	MUST(!(io->edge_lines & io->level_lines));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	struct input in = { data, n_bytes };
	struct irq_router router;
	struct ioapic io;
	struct bus bus;
	struct irq_line edge, level;
	const struct bus_range range = { IOAPIC_ADDRESS, IOAPIC_BYTES, &ioapic_bus_ops, &io, "ioapic" };

	MUST(irq_router_init(&router, NULL, HV_IRQCHIP_SPLIT, NULL, NULL) == 0);
	MUST(ioapic_init(&io, &router, NULL) == 0);
	bus_init(&bus);
	MUST(bus_add(&bus, &range, NULL) == 0);
	MUST(irq_line_init(&edge, &router, 4, false, NULL) == 0);
	MUST(irq_line_init(&level, &router, 16, true, NULL) == 0);

	while (in.n_bytes) {
		unsigned what = (unsigned)take(&in, 1);
		switch (what % 8) {
		case 0: /* a register, as a driver would */
		case 1:
			fuzz_write(&bus, IOAPIC_ADDRESS, 4, take(&in, 1));
			fuzz_write(&bus, IOAPIC_ADDRESS + 0x10, 4, take(&in, 4));
			break;
		case 2:
			fuzz_write(&bus, IOAPIC_ADDRESS + take(&in, 1), width_of(what >> 3), take(&in, 4));
			break;
		case 3:
			(void)fuzz_read(&bus, IOAPIC_ADDRESS + take(&in, 1), width_of(what >> 3));
			break;
		case 4:
			irq_line_set(&level, what >> 3 & 1);
			break;
		case 5:
			ioapic_set_level(&io, (what >> 3) % IRQ_N_PINS, take(&in, 1) & 1);
			break;
		case 6:
			ioapic_end_of_interrupt(&io, (uint8_t)take(&in, 1));
			break;
		default:
			irq_line_pulse(&edge);
			break;
		}
		check(&io);
	}

	irq_line_done(&edge);
	irq_line_done(&level);
	bus_done(&bus);
	ioapic_done(&io);
	irq_router_done(&router);
	return 0;
}

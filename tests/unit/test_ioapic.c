/* SPDX-License-Identifier: Apache-2.0 */
#include "arch/x86_64/ioapic.h"
#include "base/bytes.h"
#include "fake_hv.h"
#include "test.h"

#include <unistd.h>

#define MASKED (1u << 16)
#define LEVEL (1u << 15)
#define REMOTE_IRR (1u << 14)
#define LOGICAL (1u << 11)

struct machine {
	struct hv_vm vm;
	struct irq_router router;
	struct ioapic io;
	struct bus bus;
};

static void machine_init(struct machine *m)
{
	const struct bus_range r = { IOAPIC_ADDRESS, IOAPIC_BYTES, &ioapic_bus_ops, &m->io, "ioapic" };
	*m = (struct machine){ .vm = FAKE_VM };
	EQ(irq_router_init(&m->router, &m->vm, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	EQ(ioapic_init(&m->io, &m->router, NULL), 0);
	bus_init(&m->bus);
	EQ(bus_add(&m->bus, &r, NULL), 0);
}

static void machine_done(struct machine *m)
{
	bus_done(&m->bus);
	ioapic_done(&m->io);
	irq_router_done(&m->router);
}

static void write32(struct machine *m, uint64_t offset, uint32_t v)
{
	uint8_t bytes[4];
	put_le32(bytes, v);
	OK(bus_write(&m->bus, IOAPIC_ADDRESS + offset, bytes, 4));
}

static uint32_t read32(struct machine *m, uint64_t offset)
{
	uint8_t bytes[4];
	OK(bus_read(&m->bus, IOAPIC_ADDRESS + offset, bytes, 4));
	return get_le32(bytes);
}

static void set_register(struct machine *m, uint8_t index, uint32_t v)
{
	write32(m, 0x00, index);
	write32(m, 0x10, v);
}

static uint32_t get_register(struct machine *m, uint8_t index)
{
	write32(m, 0x00, index);
	return read32(m, 0x10);
}

/* As Linux does: the high half first, then the low one, which unmasks. */
static void program(struct machine *m, unsigned pin, uint32_t high, uint32_t low)
{
	set_register(m, (uint8_t)(0x11 + 2 * pin), high);
	set_register(m, (uint8_t)(0x10 + 2 * pin), low);
}

static uint32_t low_of(struct machine *m, unsigned pin)
{
	return get_register(m, (uint8_t)(0x10 + 2 * pin));
}

TEST(registers_after_reset)
{
	struct machine m;
	machine_init(&m);
	EQ(get_register(&m, 0), 0);
	EQ(get_register(&m, 1), 0x170020);
	EQ(get_register(&m, 2), 0);
	for (unsigned pin = 0; pin < IRQ_N_PINS; pin++) {
		EQ(low_of(&m, pin), MASKED);
		EQ(get_register(&m, (uint8_t)(0x11 + 2 * pin)), 0);
	}
	EQ(get_register(&m, 3), 0);
	EQ(get_register(&m, 0x0f), 0);
	EQ(get_register(&m, 0x40), 0);
	EQ(get_register(&m, 0xff), 0);
	EQ(m.vm.n_set_routes, 0);
	machine_done(&m);
}

TEST(reserved_and_read_only_bits)
{
	struct machine m;
	machine_init(&m);
	set_register(&m, 0, UINT32_MAX);
	EQ(get_register(&m, 0), 0x0f000000);
	EQ(get_register(&m, 2), 0x0f000000);
	set_register(&m, 1, 0);
	EQ(get_register(&m, 1), 0x170020);
	program(&m, 3, UINT32_MAX, UINT32_MAX);
	EQ(get_register(&m, 0x17), 0xfffe0000);
	EQ(low_of(&m, 3), 0x1afff); /* without delivery status and Remote IRR */
	set_register(&m, 0x40, 0xffff); /* the pin after the last */
	set_register(&m, 0xff, 0xffff);
	write32(&m, 0x00, 0x12345610);
	EQ(read32(&m, 0x00), 0x10);
	machine_done(&m);
}

TEST(widths_and_offsets)
{
	struct machine m;
	uint8_t bytes[8] = { 0x10, 0, 0, 0, 0xff, 0xff, 0xff, 0xff };
	machine_init(&m);
	OK(bus_write(&m.bus, IOAPIC_ADDRESS, bytes, 1));
	EQ(read32(&m, 0), 0x10);
	OK(bus_write(&m.bus, IOAPIC_ADDRESS + 0x10, bytes, 2)); /* too narrow to program */
	EQ(read32(&m, 0x10), MASKED);
	OK(bus_write(&m.bus, IOAPIC_ADDRESS + 0x12, bytes, 4));
	EQ(read32(&m, 0x10), MASKED);
	OK(bus_write(&m.bus, IOAPIC_ADDRESS + 0x10, bytes, 8));
	EQ(read32(&m, 0x10), 0x10);
	EQ(read32(&m, 0x20), 0);
	EQ(read32(&m, 0x40), 0);
	machine_done(&m);
}

TEST(edge_pin_is_a_route_while_unmasked)
{
	struct machine m;
	struct irq_line line;
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 4, false, NULL), 0);
	EQ(fake_irqfd_of(&m.vm, 4), line.event_fd);

	program(&m, 4, 0x05000000, MASKED | 0x34);
	EQ(m.vm.n_set_routes, 0);
	program(&m, 4, 0x05000000, 0x34);
	EQ(m.vm.n_set_routes, 1);
	EQ(m.vm.n_routes, 1);
	EQ(m.vm.routes[0].gsi, 4);
	EQ(m.vm.routes[0].msi.address, 0xfee05000);
	EQ(m.vm.routes[0].msi.data, 0x34);

	/* The same again costs nothing; a mask takes the route away. */
	program(&m, 4, 0x05000000, 0x34);
	EQ(m.vm.n_set_routes, 1);
	program(&m, 4, 0x05000000, MASKED | 0x34);
	EQ(m.vm.n_set_routes, 2);
	EQ(m.vm.n_routes, 0);
	irq_line_pulse(&line);
	EQ(m.vm.n_messages, 0);

	irq_line_done(&line);
	machine_done(&m);
}

TEST(pins_without_a_line_cost_nothing)
{
	struct machine m;
	machine_init(&m);
	for (unsigned pin = 0; pin < IRQ_N_PINS; pin++)
		program(&m, pin, 0x01000000, 0x30 + pin);
	EQ(m.vm.n_set_routes, 0);
	/* A line that comes later finds what was programmed. */
	struct irq_line line;
	EQ(irq_line_init(&line, &m.router, 7, false, NULL), 0);
	EQ(irq_commit(&m.router, NULL), 0);
	EQ(fake_route(&m.vm, 7)->msi.data, 0x37);
	irq_line_done(&line);
	machine_done(&m);
}

TEST(messages_carry_mode_and_destination)
{
	struct machine m;
	struct irq_line line;
	const struct { uint32_t high, low; uint64_t address; uint32_t data; } cases[] = {
		{ 0xff000000, 0x20, 0xfeeff000, 0x20 },
		{ 0x03000000, LOGICAL | 0x100 | 0x41, 0xfee03004, 0x141 }, /* logical, lowest priority */
		{ 0x01000000, 0x400, 0xfee01000, 0x400 },                  /* NMI */
		{ 0x01000000, 1u << 13 | 0x55, 0xfee01000, 0x55 },         /* polarity is the line's matter */
		{ 0x01020000, 0x61, 0xfee01020, 0x61 },                    /* destination 0x101 */
		{ 0xfffe0000, 0x62, 0xfeefffe0, 0x62 },                    /* destination 0x7fff */
		{ 0x01000000, LEVEL | 0x63, 0xfee01000, 0xc063 },
	};
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 10, false, NULL), 0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		program(&m, 10, cases[i].high, cases[i].low);
		EQ(fake_route(&m.vm, 10)->msi.address, cases[i].address);
		EQ(fake_route(&m.vm, 10)->msi.data, cases[i].data);
	}
	irq_line_done(&line);
	machine_done(&m);
}

TEST(level_is_delivered_once_until_its_end)
{
	struct machine m;
	struct irq_line line;
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 17, true, NULL), 0);
	program(&m, 17, 0x02000000, LEVEL | 0x51);
	/* The hypervisor learns from the route that the EOI of 0x51 is wanted. */
	EQ(fake_route(&m.vm, 17)->msi.data, 0xc051);
	EQ(m.vm.n_irqfds, 0);

	irq_line_set(&line, true);
	EQ(m.vm.n_messages, 1);
	EQ(m.vm.messages[0].address, 0xfee02000);
	EQ(m.vm.messages[0].data, 0xc051);
	EQ(low_of(&m, 17), LEVEL | REMOTE_IRR | 0x51);
	irq_line_set(&line, true);
	EQ(m.vm.n_messages, 1);

	ioapic_end_of_interrupt(&m.io, 0x50);
	EQ(m.vm.n_messages, 1);
	ioapic_end_of_interrupt(&m.io, 0x51); /* still high: again */
	EQ(m.vm.n_messages, 2);
	EQ(low_of(&m, 17), LEVEL | REMOTE_IRR | 0x51);
	irq_line_set(&line, false);
	ioapic_end_of_interrupt(&m.io, 0x51);
	EQ(m.vm.n_messages, 2);
	EQ(low_of(&m, 17), LEVEL | 0x51);

	/* Writing the entry does not change Remote IRR. */
	irq_line_set(&line, true);
	program(&m, 17, 0x02000000, LEVEL | 0x51);
	EQ(low_of(&m, 17), LEVEL | REMOTE_IRR | 0x51);
	EQ(m.vm.n_messages, 3);
	irq_line_done(&line);
	machine_done(&m);
}

TEST(masked_level_waits_for_the_unmask)
{
	struct machine m;
	struct irq_line line;
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 16, true, NULL), 0);
	irq_line_set(&line, true);
	program(&m, 16, 0, MASKED | LEVEL | 0x44);
	EQ(m.vm.n_messages, 0);
	program(&m, 16, 0, LEVEL | 0x44);
	EQ(m.vm.n_messages, 1);

	/* Linux ends a threaded interrupt masked, and unmasks when the thread is done. */
	unsigned n_set_routes = m.vm.n_set_routes;
	program(&m, 16, 0, MASKED | LEVEL | 0x44);
	OK(fake_route(&m.vm, 16));
	ioapic_end_of_interrupt(&m.io, 0x44);
	EQ(low_of(&m, 16), MASKED | LEVEL | 0x44);
	EQ(m.vm.n_messages, 1);
	program(&m, 16, 0, LEVEL | 0x44);
	EQ(m.vm.n_messages, 2);
	EQ(m.vm.n_set_routes, n_set_routes);
	irq_line_done(&line);
	machine_done(&m);
}

TEST(eoi_register_and_the_edge_trick_clear_remote_irr)
{
	struct machine m;
	struct irq_line line;
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 18, true, NULL), 0);
	program(&m, 18, 0, LEVEL | 0x61);
	irq_line_set(&line, true);
	irq_line_set(&line, false);
	EQ(low_of(&m, 18) & REMOTE_IRR, REMOTE_IRR);
	write32(&m, 0x40, 0x61);
	EQ(low_of(&m, 18) & REMOTE_IRR, 0);

	irq_line_set(&line, true);
	irq_line_set(&line, false);
	program(&m, 18, 0, MASKED | 0x61);
	program(&m, 18, 0, MASKED | LEVEL | 0x61);
	EQ(low_of(&m, 18) & REMOTE_IRR, 0);
	irq_line_done(&line);
	machine_done(&m);
}

TEST(level_that_nobody_took_is_not_stuck)
{
	struct machine m;
	struct irq_line line;
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 19, true, NULL), 0);
	program(&m, 19, 0x09000000, LEVEL | 0x71);
	m.vm.signal_rc = 0;
	irq_line_set(&line, true);
	EQ(low_of(&m, 19) & REMOTE_IRR, 0);
	m.vm.signal_rc = 1;
	program(&m, 19, 0x01000000, LEVEL | 0x71);
	EQ(low_of(&m, 19) & REMOTE_IRR, REMOTE_IRR);
	EQ(m.vm.messages[m.vm.n_messages - 1].address, 0xfee01000);
	irq_line_done(&line);
	machine_done(&m);
}

TEST(level_line_at_an_edge_entry_sends_its_rise)
{
	struct machine m;
	struct irq_line line;
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 20, true, NULL), 0);
	program(&m, 20, 0, 0x66);
	EQ(m.vm.n_set_routes, 0);
	irq_line_set(&line, true);
	irq_line_set(&line, true);
	EQ(m.vm.n_messages, 1);
	EQ(m.vm.messages[0].data, 0x66);
	irq_line_set(&line, false);
	program(&m, 20, 0, MASKED | 0x66);
	irq_line_set(&line, true); /* lost, as the datasheet says */
	program(&m, 20, 0, 0x66);
	EQ(m.vm.n_messages, 1);
	irq_line_done(&line);
	machine_done(&m);
}

TEST(commit_failure_does_not_stop_levels)
{
	struct machine m;
	struct irq_line line;
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 16, true, NULL), 0);
	m.vm.routes_rc = -ENOMEM;
	irq_line_set(&line, true);
	program(&m, 16, 0, LEVEL | 0x31);
	EQ(m.vm.n_messages, 1);
	irq_line_done(&line);
	machine_done(&m);
}

/* Two vCPUs program the same pins while a device moves its line. */
struct racer {
	struct machine *m;
	unsigned index;
};

static void *race_program(void *arg)
{
	struct racer *r = arg;
	for (unsigned i = 0; i < 400; i++) {
		uint8_t bytes[4];
		put_le32(bytes, 0x10 + 2 * (16 + i % 2) + i / 2 % 2);
		(void)bus_write(&r->m->bus, IOAPIC_ADDRESS, bytes, 4);
		put_le32(bytes, i * 0x1357u + r->index);
		(void)bus_write(&r->m->bus, IOAPIC_ADDRESS + 0x10, bytes, 4);
		ioapic_end_of_interrupt(&r->m->io, (uint8_t)i);
	}
	return NULL;
}

TEST(entries_race_with_lines)
{
	static struct machine m;
	struct irq_line line;
	pthread_t threads[2];
	struct racer racers[2] = { { &m, 0 }, { &m, 1 } };
	machine_init(&m);
	EQ(irq_line_init(&line, &m.router, 16, true, NULL), 0);
	for (unsigned i = 0; i < 2; i++)
		EQ(pthread_create(&threads[i], NULL, race_program, &racers[i]), 0);
	for (unsigned i = 0; i < 1000; i++)
		irq_line_set(&line, i % 2);
	for (unsigned i = 0; i < 2; i++)
		EQ(pthread_join(threads[i], NULL), 0);

	/* Whatever came of it, the line works afterwards. */
	irq_line_set(&line, false);
	program(&m, 16, 0, MASKED | 0x31);
	program(&m, 16, 0, LEVEL | 0x31);
	unsigned n = m.vm.n_messages;
	irq_line_set(&line, true);
	EQ(m.vm.n_messages, n + 1);
	EQ(fake_route(&m.vm, 16)->msi.data, 0xc031);
	irq_line_done(&line);
	machine_done(&m);
}

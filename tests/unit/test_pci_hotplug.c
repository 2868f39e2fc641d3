/* SPDX-License-Identifier: Apache-2.0 */
/* The hotplug registers, and slots that are used again and again. */
#include "bus/pci_hotplug.h"
#include "base/bytes.h"
#include "bus/pci_regs.h"
#include "fake_hv.h"
#include "test.h"

#define ECAM 0xe8000000ull
#define LOW 0xc0000000ull
#define LOW_BYTES 0x1000000ull
#define HIGH 0x4000000000ull
#define HIGH_BYTES 0x100000ull
#define REGISTERS 0xfec11000ull
#define BAR_BYTES 0x8000u
#define N_VECTORS 5u

struct machine {
	struct hv_vm vm;
	struct irq_router router;
	struct bus mmio, ports;
	struct pci_bus pci;
	struct pci_hotplug hotplug;
	unsigned n_ejections;
};

static void on_ejection(void *context)
{
	struct machine *m = context;
	m->n_ejections++;
}

static void machine_init(struct machine *m)
{
	*m = (struct machine){ .vm = FAKE_VM };
	EQ(irq_router_init(&m->router, &m->vm, HV_IRQCHIP_KERNEL, NULL, NULL), 0);
	bus_init(&m->mmio);
	bus_init(&m->ports);
	const struct pci_bus_params p = {
		.ecam = ECAM, .low = { LOW, LOW_BYTES }, .high = { HIGH, HIGH_BYTES }, .router = &m->router,
	};
	EQ(pci_bus_init(&m->pci, &p, &m->mmio, &m->ports, NULL), 0);
	pci_hotplug_init(&m->hotplug, &m->pci, on_ejection, m);
	const struct bus_range r = { REGISTERS, PCI_HOTPLUG_BYTES, &pci_hotplug_bus_ops, &m->hotplug, "hotplug" };
	EQ(bus_add(&m->mmio, &r, NULL), 0);
}

static void machine_done(struct machine *m)
{
	pci_hotplug_done(&m->hotplug);
	bus_remove(&m->mmio, REGISTERS);
	pci_bus_done(&m->pci);
	EQ(m->mmio.n_ranges, 0);
	bus_done(&m->mmio);
	bus_done(&m->ports);
	irq_router_done(&m->router);
	EQ(m->vm.n_irqfds, 0);
}

static uint64_t get(struct machine *m, uint64_t address, unsigned n_bytes)
{
	uint8_t bytes[8] = { 0 };
	OK(bus_read(&m->mmio, address, bytes, n_bytes));
	return get_le(bytes, n_bytes);
}

static void set(struct machine *m, uint64_t address, unsigned n_bytes, uint64_t v)
{
	uint8_t bytes[8];
	put_le(bytes, n_bytes, v);
	(void)bus_write(&m->mmio, address, bytes, n_bytes);
}

static uint64_t reg(struct machine *m, unsigned offset)
{
	return get(m, REGISTERS + offset, 4);
}

static void toy_write(struct pci_device *d, unsigned bar, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	(void)bar;
	(void)msix_bar_write(d, offset, bytes, n_bytes);
}

static const struct pci_class toy_class = { .bar_write = toy_write };

static int toy_init(struct pci_device *d, struct machine *m, int slot, struct err *e)
{
	pci_device_init(d, &toy_class, "toy", 0x1234, 0x5678, 0xff0001, 0x4321, 0x8765, 2);
	pci_device_bar(d, 0, BAR_BYTES, true, false);
	EQ(pci_device_msix(d, &m->router, N_VECTORS, 0, 0, 0x4000, e), 0);
	int rc = pci_bus_attach(&m->pci, d, slot, e);
	if (rc < 0)
		pci_device_done(d);
	return rc;
}

static void toy_done(struct pci_device *d)
{
	pci_bus_detach(d);
	pci_device_done(d);
}

TEST(news_is_told_once)
{
	struct machine m;
	machine_init(&m);
	EQ(reg(&m, PCI_HOTPLUG_UP), 0);
	pci_hotplug_filled(&m.hotplug, 4, true);
	pci_hotplug_filled(&m.hotplug, 9, true);
	pci_hotplug_filled(&m.hotplug, 5, false); /* was there at boot */
	EQ(pci_hotplug_unread(&m.hotplug), 1 << 4 | 1 << 9);
	EQ(reg(&m, PCI_HOTPLUG_UP), 1 << 4 | 1 << 9);
	EQ(reg(&m, PCI_HOTPLUG_UP), 0);
	pci_hotplug_ask(&m.hotplug, 5);
	EQ(pci_hotplug_unread(&m.hotplug), 1 << 5);
	OK(!pci_hotplug_is_heard(&m.hotplug, 5));
	EQ(reg(&m, PCI_HOTPLUG_UP), 0);
	EQ(reg(&m, PCI_HOTPLUG_DOWN), 1 << 5);
	OK(pci_hotplug_is_heard(&m.hotplug, 5));
	EQ(reg(&m, PCI_HOTPLUG_DOWN), 0);
	EQ(pci_hotplug_unread(&m.hotplug), 0);
	EQ(m.n_ejections, 0);
	machine_done(&m);
}

TEST(a_partial_read_leaves_the_other_bytes)
{
	struct machine m;
	machine_init(&m);
	for (unsigned slot = 1; slot < 32; slot += 10) /* 1, 11, 21, 31 */
		pci_hotplug_filled(&m.hotplug, slot, true);
	EQ(get(&m, REGISTERS + 1, 1), 1 << 3);
	EQ(get(&m, REGISTERS + 1, 1), 0);
	EQ(get(&m, REGISTERS + 2, 2), 1 << 5 | 1 << 15);
	pci_hotplug_ask(&m.hotplug, 1);
	/* One that crosses into the next register is of the first alone. */
	EQ(get(&m, REGISTERS, 8), 1 << 1);
	EQ(reg(&m, PCI_HOTPLUG_DOWN), 1 << 1);
	pci_hotplug_ask(&m.hotplug, 31);
	EQ(get(&m, REGISTERS + 3, 7), 0);
	EQ(get(&m, REGISTERS + 7, 3), 0x80);
	machine_done(&m);
}

TEST(an_ejection_is_one_message_and_hides_the_slot)
{
	struct machine m;
	struct pci_device d;
	machine_init(&m);
	EQ(toy_init(&d, &m, 3, NULL), 0);
	pci_hotplug_filled(&m.hotplug, 3, false);
	EQ(get(&m, ECAM + 3 * 0x8000, 4), 0x56781234);
	set(&m, REGISTERS + PCI_HOTPLUG_EJECT, 4, 1 << 3);
	EQ(m.n_ejections, 1);
	EQ(get(&m, ECAM + 3 * 0x8000, 4), 0xffffffff);
	set(&m, ECAM + 3 * 0x8000 + 4, 2, 0);
	EQ(get_le16(&d.config[4]), PCI_COMMAND_MEMORY); /* no write finds it either */
	set(&m, REGISTERS + PCI_HOTPLUG_EJECT, 4, 1 << 3);
	EQ(m.n_ejections, 1); /* it was let go before */
	EQ(reg(&m, PCI_HOTPLUG_EJECT), 0);
	EQ(pci_hotplug_take_ejected(&m.hotplug), 1 << 3);
	EQ(pci_hotplug_take_ejected(&m.hotplug), 0);
	toy_done(&d);
	pci_hotplug_emptied(&m.hotplug, 3);
	set(&m, REGISTERS + PCI_HOTPLUG_EJECT, 4, 1 << 3);
	EQ(m.n_ejections, 1); /* nothing is there any more */
	/* The next one in the slot is in sight again. */
	EQ(toy_init(&d, &m, 3, NULL), 0);
	EQ(get(&m, ECAM + 3 * 0x8000, 4), 0x56781234);
	toy_done(&d);
	machine_done(&m);
}

TEST(what_a_guest_may_not_eject_stays)
{
	struct machine m;
	struct pci_device fixed;
	machine_init(&m);
	EQ(toy_init(&fixed, &m, 2, NULL), 0);
	set(&m, REGISTERS + PCI_HOTPLUG_EJECT, 4, 0xffffffff);
	EQ(m.n_ejections, 0);
	EQ(get(&m, ECAM, 4), 0x0d578086); /* the host bridge */
	EQ(get(&m, ECAM + 2 * 0x8000, 4), 0x56781234);
	EQ(pci_hotplug_take_ejected(&m.hotplug), 0);
	toy_done(&fixed);
	machine_done(&m);
}

TEST(an_emptied_slot_has_no_news)
{
	struct machine m;
	machine_init(&m);
	pci_hotplug_filled(&m.hotplug, 7, true);
	pci_hotplug_ask(&m.hotplug, 7);
	set(&m, REGISTERS + PCI_HOTPLUG_EJECT, 4, 1 << 7);
	EQ(m.n_ejections, 1);
	pci_hotplug_emptied(&m.hotplug, 7);
	EQ(pci_hotplug_unread(&m.hotplug), 0);
	EQ(reg(&m, PCI_HOTPLUG_UP), 0);
	EQ(reg(&m, PCI_HOTPLUG_DOWN), 0);
	EQ(pci_hotplug_take_ejected(&m.hotplug), 0);
	machine_done(&m);
}

TEST(other_segments_have_no_slots)
{
	struct machine m;
	machine_init(&m);
	pci_hotplug_filled(&m.hotplug, 1, true);
	pci_hotplug_ask(&m.hotplug, 1);
	EQ(reg(&m, PCI_HOTPLUG_SEGMENT), 0);
	set(&m, REGISTERS + PCI_HOTPLUG_SEGMENT, 4, 0xffffffff);
	set(&m, REGISTERS + PCI_HOTPLUG_SEGMENT + 1, 2, 0x1234);
	EQ(reg(&m, PCI_HOTPLUG_SEGMENT), 0xff1234ff);
	EQ(reg(&m, PCI_HOTPLUG_UP), 0);
	EQ(reg(&m, PCI_HOTPLUG_DOWN), 0);
	set(&m, REGISTERS + PCI_HOTPLUG_EJECT, 4, 1 << 1);
	EQ(m.n_ejections, 0);
	set(&m, REGISTERS + PCI_HOTPLUG_SEGMENT, 4, 0);
	EQ(reg(&m, PCI_HOTPLUG_UP), 1 << 1);
	EQ(reg(&m, PCI_HOTPLUG_DOWN), 1 << 1);
	machine_done(&m);
}

TEST(hostile_accesses_of_every_width_and_place)
{
	struct machine m;
	machine_init(&m);
	for (unsigned slot = 1; slot < 32; slot++)
		pci_hotplug_filled(&m.hotplug, slot, false);
	/* UP and DOWN cannot be written: nothing is ever news that we did not say. */
	for (unsigned offset = 0; offset < PCI_HOTPLUG_EJECT; offset++)
		for (unsigned n = 1; n <= 8 && offset + n <= PCI_HOTPLUG_BYTES; n++)
			set(&m, REGISTERS + offset, n, UINT64_MAX);
	EQ(pci_hotplug_unread(&m.hotplug), 0);
	EQ(pci_hotplug_take_ejected(&m.hotplug), 0);
	/* A byte of EJECT is the slots of that byte. */
	set(&m, REGISTERS + PCI_HOTPLUG_EJECT + 1, 1, 0x81);
	EQ(pci_hotplug_take_ejected(&m.hotplug), 1 << 8 | 1 << 15);
	set(&m, REGISTERS + PCI_HOTPLUG_EJECT + 3, 5, UINT64_MAX); /* crosses into SEGMENT: EJECT's last byte alone */
	EQ(pci_hotplug_take_ejected(&m.hotplug), 0xff000000);
	EQ(reg(&m, PCI_HOTPLUG_SEGMENT), 0);
	for (unsigned offset = 0; offset < PCI_HOTPLUG_BYTES; offset++)
		for (unsigned n = 1; n <= 8 && offset + n <= PCI_HOTPLUG_BYTES; n++)
			EQ(get(&m, REGISTERS + offset, n), 0);
	machine_done(&m);
}

TEST(slots_are_used_again_without_a_leak)
{
	struct machine m;
	struct pci_device first, d;
	machine_init(&m);
	EQ(toy_init(&first, &m, -1, NULL), 0);
	uint32_t n_gsis = 0;
	uint64_t address = 0;
	for (unsigned i = 0; i < 100; i++) {
		EQ(toy_init(&d, &m, -1, NULL), 0);
		EQ(d.slot, 2);
		pci_hotplug_filled(&m.hotplug, d.slot, true);
		/* The driver turns MSI-X on, so that vectors have routes and descriptors are bound. */
		set(&m, d.bars[0].address + 12, 4, 0);
		set(&m, d.bars[0].address, 4, 0xfee00000);
		set(&m, ECAM + 2 * 0x8000 + d.msix.capability + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
		EQ(m.vm.n_irqfds, 1);
		if (i == 0) {
			n_gsis = m.router.n_gsis;
			address = d.bars[0].address;
		}
		EQ(m.router.n_gsis, n_gsis);
		EQ(d.bars[0].address, address);
		EQ(m.pci.n_mappings, 2);
		set(&m, REGISTERS + PCI_HOTPLUG_EJECT, 4, 1 << 2);
		EQ(pci_hotplug_take_ejected(&m.hotplug), 1 << 2);
		toy_done(&d);
		pci_hotplug_emptied(&m.hotplug, 2);
		EQ(m.vm.n_irqfds, 0);
		EQ(m.pci.n_mappings, 1);
		EQ(m.mmio.n_ranges, 4);
	}
	EQ(m.n_ejections, 100);
	toy_done(&first);
	machine_done(&m);
}

TEST(a_full_bus_and_full_windows_say_so)
{
	static struct pci_device all[31], one;
	struct machine m;
	struct err e = { 0 };
	machine_init(&m);
	for (unsigned i = 0; i < 31; i++)
		EQ(toy_init(&all[i], &m, -1, &e), 0);
	EQ(toy_init(&one, &m, -1, &e), -ENOSPC);
	STR_HAS(e.text, "all 32 slots are in use");
	EQ(toy_init(&one, &m, 5, &e), -EEXIST);
	uint32_t n_gsis = m.router.n_gsis;
	toy_done(&all[12]);
	EQ(toy_init(&all[12], &m, -1, &e), 0);
	EQ(all[12].slot, 13);
	EQ(m.router.n_gsis, n_gsis);
	for (unsigned i = 0; i < 31; i++)
		toy_done(&all[i]);
	machine_done(&m);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over PCI against the device requirements of virtio 1.2, 4.1. */
#include "bus/pci_regs.h"
#include "transport_kit.h"
#include "virtio/pci.h"

#include <errno.h>

#define ECAM 0xe8000000ull
#define LOW 0xc0000000ull
#define LOW_BYTES 0x20000000ull
#define HIGH 0x4000000000ull
#define HIGH_BYTES 0x100000000ull
#define SLOT 5
#define PIN (PCI_INTX_FIRST_PIN + SLOT)
#define NO_VECTOR 0xffffu

#define ISR 0x2000u
#define SPACE 0x4000u
#define NOTIFY 0x6000u
#define TABLE 0x8000u
#define PBA 0x48000u

struct machine {
	struct bench b;
	struct bus ports;
	struct pci_bus pci;
	struct virtio_pci *transport;
};

static void machine_init(struct machine *m)
{
	bench_init(&m->b);
	bus_init(&m->ports);
	const struct pci_bus_params p = {
		.ecam = ECAM, .low = { LOW, LOW_BYTES }, .high = { HIGH, HIGH_BYTES }, .router = &m->b.router,
	};
	EQ(pci_bus_init(&m->pci, &p, &m->b.bus, &m->ports, NULL), 0);
	EQ(virtio_pci_new(m->b.v, &m->pci, &m->b.router, &m->b.vm, SLOT, &m->transport, NULL), 0);
}

static void machine_done(struct machine *m)
{
	virtio_pci_free(m->transport);
	pci_bus_done(&m->pci);
	bus_done(&m->ports);
	bench_done(&m->b);
}

static uint64_t cfg(unsigned offset)
{
	return ECAM + SLOT * 0x8000ull + offset;
}

static uint64_t rd(struct machine *m, unsigned offset, unsigned n_bytes)
{
	return get(&m->b, HIGH + offset, n_bytes);
}

static void wr(struct machine *m, unsigned offset, unsigned n_bytes, uint64_t v)
{
	set(&m->b, HIGH + offset, n_bytes, v);
}

static uint64_t n_fired(struct machine *m, unsigned vector)
{
	return drain(m->pci.slots[SLOT]->msix.vectors[vector].msi.event_fd);
}

static void enable_msix(struct machine *m)
{
	unsigned control = m->pci.slots[SLOT]->msix.capability + PCI_MSIX_FLAGS;
	set(&m->b, cfg(control), 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	for (unsigned i = 0; i <= TOY_QUEUES; i++) {
		wr(m, TABLE + 16 * i, 8, 0xfee00000);
		wr(m, TABLE + 16 * i + 8, 8, 0x40 + i);
	}
	set(&m->b, cfg(control), 2, PCI_MSIX_FLAGS_ENABLE);
}

/* As Linux's driver starts a device with one queue. */
static void start(struct machine *m, struct ring *r)
{
	wr(m, 0x14, 1, 0);
	EQ(rd(m, 0x14, 1), 0);
	wr(m, 0x14, 1, 1);
	wr(m, 0x14, 1, 3);
	wr(m, 0x08, 4, 0);
	wr(m, 0x0c, 4, 0);
	wr(m, 0x08, 4, 1);
	wr(m, 0x0c, 4, 1);
	wr(m, 0x14, 1, 11);
	EQ(rd(m, 0x14, 1), 11);
	wr(m, 0x10, 2, 0);
	wr(m, 0x16, 2, 0);
	EQ(rd(m, 0x1c, 2), 0);
	EQ(rd(m, 0x18, 2), TOY_QUEUE_SIZE);
	ring_init(r, &m->b.mem, 0, 8);
	wr(m, 0x18, 2, 8);
	wr(m, 0x20, 4, (uint32_t)r->desc);
	wr(m, 0x24, 4, r->desc >> 32);
	wr(m, 0x28, 4, (uint32_t)r->avail);
	wr(m, 0x2c, 4, r->avail >> 32);
	wr(m, 0x30, 4, (uint32_t)r->used);
	wr(m, 0x34, 4, r->used >> 32);
	wr(m, 0x1a, 2, 1);
	EQ(rd(m, 0x1a, 2), 1);
	wr(m, 0x1c, 2, 1);
	EQ(rd(m, 0x1c, 2), 1);
	wr(m, 0x14, 1, 15);
	EQ(rd(m, 0x14, 1), 15);
}

/* --- what a driver finds ---------------------------------------------------------------------------------------- */

TEST(identity)
{
	struct machine m;
	machine_init(&m);
	EQ(get(&m.b, cfg(0), 4), (0x1040u + TOY_ID) << 16 | 0x1af4);
	EQ(get(&m.b, cfg(8), 4), 0xff000001);
	EQ(get(&m.b, cfg(0x2c), 4), (0x1040u + TOY_ID) << 16 | 0x1af4);
	EQ(get(&m.b, cfg(0x3c), 2), 0x100 | PIN);
	set(&m.b, cfg(0x10), 8, UINT64_MAX);
	EQ(get(&m.b, cfg(0x10), 8), (int64_t)0xfffffffffff80004);
	machine_done(&m);
}

/* Walks the list as a driver does; the offset of the capability, or 0. */
static unsigned find_capability(struct machine *m, uint8_t id, uint8_t type)
{
	unsigned at = (unsigned)get(&m->b, cfg(0x34), 1);
	for (unsigned i = 0; i < 16 && at; i++) {
		if (get(&m->b, cfg(at), 1) == id && (id != PCI_CAP_ID_VNDR || get(&m->b, cfg(at + 3), 1) == type))
			return at;
		at = (unsigned)get(&m->b, cfg(at + 1), 1);
	}
	return 0;
}

TEST(capabilities)
{
	struct machine m;
	machine_init(&m);
	const struct { uint8_t type, n_bytes; uint32_t offset, length; } caps[] = {
		{ 1, 16, 0x0, 56 }, { 2, 20, NOTIFY, 0x1000 }, { 3, 16, ISR, 1 }, { 4, 16, SPACE, 0x1000 }, { 5, 20, 0, 0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(caps); i++) {
		unsigned at = find_capability(&m, PCI_CAP_ID_VNDR, caps[i].type);
		OK(at);
		EQ(at % 4, 0);
		EQ(get(&m.b, cfg(at + 2), 1), caps[i].n_bytes);
		EQ(get(&m.b, cfg(at + 4), 1), 0); /* BAR */
		EQ(get(&m.b, cfg(at + 8), 4), caps[i].offset);
		EQ(get(&m.b, cfg(at + 12), 4), caps[i].length);
		if (caps[i].type == 2)
			EQ(get(&m.b, cfg(at + 16), 4), 4);
	}
	unsigned at = find_capability(&m, PCI_CAP_ID_MSIX, 0);
	OK(at);
	EQ(get(&m.b, cfg(at + 2), 2), TOY_QUEUES); /* one more than that */
	EQ(get(&m.b, cfg(at + 4), 4), TABLE);
	EQ(get(&m.b, cfg(at + 8), 4), PBA);
	machine_done(&m);
}

TEST(feature_words)
{
	struct machine m;
	machine_init(&m);
	const struct { uint32_t select, bits; } words[] = {
		{ 0, 1u << 3 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC }, { 1, 1u << 8 | 1 }, { 2, 0 }, { 0xffffffff, 0 },
	};
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		wr(&m, 0x00, 4, words[i].select);
		EQ(rd(&m, 0x00, 4), words[i].select);
		EQ(rd(&m, 0x04, 4), words[i].bits);
	}
	wr(&m, 0x14, 1, 3);
	wr(&m, 0x08, 4, 1);
	wr(&m, 0x0c, 4, 0x101);
	EQ(rd(&m, 0x08, 4), 1);
	EQ(rd(&m, 0x0c, 4), 0x101);
	wr(&m, 0x08, 4, 7);
	EQ(rd(&m, 0x0c, 4), 0);
	wr(&m, 0x04, 4, 0); /* read-only */
	EQ(rd(&m, 0x12, 2), TOY_QUEUES);
	EQ(m.b.v->acked, 0x101ull << 32);
	machine_done(&m);
}

TEST(queue_registers)
{
	struct machine m;
	machine_init(&m);
	wr(&m, 0x16, 2, 2);
	EQ(rd(&m, 0x16, 2), 2);
	EQ(rd(&m, 0x1e, 2), 2); /* queue_notify_off */
	const uint16_t bad[] = { 0, 3, 32, 0x8000, 0xffff };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		wr(&m, 0x18, 2, bad[i]);
		EQ(rd(&m, 0x18, 2), TOY_QUEUE_SIZE);
	}
	wr(&m, 0x18, 2, 2);
	EQ(rd(&m, 0x18, 2), 2);
	/* Halves, and the whole. */
	wr(&m, 0x20, 4, 0x11111110);
	wr(&m, 0x24, 4, 0x22222222);
	wr(&m, 0x28, 8, 0x4444444433333330);
	wr(&m, 0x34, 4, 0x66666666);
	EQ(rd(&m, 0x20, 8), 0x2222222211111110);
	EQ(rd(&m, 0x28, 4), 0x33333330);
	EQ(rd(&m, 0x2c, 4), 0x44444444);
	EQ(rd(&m, 0x30, 8), 0x6666666600000000);
	EQ(m.b.v->queues[2].config.avail, 0x4444444433333330);
	wr(&m, 0x1c, 2, 2);
	EQ(rd(&m, 0x1c, 2), 0);
	wr(&m, 0x1c, 2, 1);
	EQ(rd(&m, 0x1c, 2), 1);
	wr(&m, 0x1c, 2, 0); /* a driver must not; nothing happens */
	EQ(rd(&m, 0x1c, 2), 1);
	wr(&m, 0x1e, 2, 7);
	wr(&m, 0x12, 2, 7);
	wr(&m, 0x15, 1, 7);
	EQ(rd(&m, 0x1e, 2), 2);
	EQ(rd(&m, 0x12, 2), TOY_QUEUES);
	EQ(rd(&m, 0x38, 2), 0); /* queue_notify_data, queue_reset: not offered */
	wr(&m, 0x3a, 2, 1);
	EQ(rd(&m, 0x3a, 2), 0);
	EQ(rd(&m, 0x1c, 2), 1);
	machine_done(&m);
}

TEST(queue_select_out_of_range)
{
	struct machine m;
	machine_init(&m);
	const uint16_t selects[] = { TOY_QUEUES, 64, 65, 0x8000, 0xffff };
	for (size_t i = 0; i < ARRAY_LEN(selects); i++) {
		wr(&m, 0x16, 2, selects[i]);
		for (unsigned offset = 0x18; offset < 0x38; offset += 2)
			wr(&m, offset, offset < 0x20 ? 2 : 4, 1);
		EQ(rd(&m, 0x16, 2), selects[i]);
		EQ(rd(&m, 0x18, 2), 0);
		EQ(rd(&m, 0x1a, 2), NO_VECTOR);
		EQ(rd(&m, 0x1c, 2), 0);
		EQ(rd(&m, 0x1e, 2), 0);
		EQ(rd(&m, 0x20, 8), 0);
	}
	for (unsigned i = 0; i < TOY_QUEUES; i++) {
		wr(&m, 0x16, 2, i);
		EQ(rd(&m, 0x18, 2), TOY_QUEUE_SIZE);
		EQ(rd(&m, 0x1a, 2), NO_VECTOR);
		EQ(rd(&m, 0x20, 8), 0);
	}
	machine_done(&m);
}

TEST(vectors)
{
	struct machine m;
	machine_init(&m);
	EQ(rd(&m, 0x10, 2), NO_VECTOR);
	EQ(rd(&m, 0x1a, 2), NO_VECTOR);
	wr(&m, 0x10, 2, TOY_QUEUES);
	EQ(rd(&m, 0x10, 2), TOY_QUEUES);
	wr(&m, 0x10, 2, TOY_QUEUES + 1);
	EQ(rd(&m, 0x10, 2), NO_VECTOR);
	for (unsigned i = 0; i < TOY_QUEUES; i++) {
		wr(&m, 0x16, 2, i);
		wr(&m, 0x1a, 2, i);
		EQ(rd(&m, 0x1a, 2), i);
		wr(&m, 0x1a, 2, 0x7ff);
		EQ(rd(&m, 0x1a, 2), NO_VECTOR);
		wr(&m, 0x1a, 2, 0);
		wr(&m, 0x1a, 2, NO_VECTOR);
		EQ(rd(&m, 0x1a, 2), NO_VECTOR);
	}
	machine_done(&m);
}

TEST(unnatural_widths_do_nothing)
{
	struct machine m;
	machine_init(&m);
	const struct { unsigned offset, n_bytes; } accesses[] = {
		{ 0x00, 1 }, { 0x00, 2 }, { 0x00, 8 }, { 0x02, 4 }, { 0x10, 4 }, { 0x12, 1 }, { 0x14, 2 }, { 0x14, 4 }, { 0x16, 1 },
		{ 0x18, 4 }, { 0x18, 8 }, { 0x1e, 4 }, { 0x20, 2 }, { 0x22, 4 }, { 0x24, 8 }, { 0x34, 8 }, { 0x36, 4 }, { 0x37, 8 },
	};
	for (size_t i = 0; i < ARRAY_LEN(accesses); i++) {
		wr(&m, accesses[i].offset, accesses[i].n_bytes, 0x0101010101010101);
		EQ(rd(&m, accesses[i].offset, accesses[i].n_bytes), 0);
	}
	EQ(rd(&m, 0x14, 1), 0);
	EQ(rd(&m, 0x16, 2), 0);
	EQ(rd(&m, 0x18, 2), TOY_QUEUE_SIZE);
	EQ(rd(&m, 0x20, 8), 0);
	machine_done(&m);
}

TEST(configuration_space_and_holes)
{
	struct machine m;
	machine_init(&m);
	EQ(rd(&m, SPACE, 1), 0x10);
	EQ(rd(&m, SPACE + 2, 2), 0x1312);
	EQ(rd(&m, SPACE + 4, 4), 0x17161514);
	EQ(rd(&m, SPACE + 8, 4), 0x1b1a1918);
	EQ(rd(&m, SPACE + 10, 4), 0);
	EQ(rd(&m, SPACE + 0xffe, 4), 0);
	wr(&m, SPACE + 8, 4, 0xaabbccdd);
	EQ(rd(&m, SPACE + 8, 4), 0xaabbccdd);
	uint64_t before = rd(&m, 0x15, 1);
	virtio_space_update(m.b.v, 0, "\x77", 1);
	OK(rd(&m, 0x15, 1) != before);
	const unsigned holes[] = { 0x38, 0x1000, 0x2001, 0x3ffc, 0x5000, 0x7000, 0x48800, 0x7fff8 };
	for (size_t i = 0; i < ARRAY_LEN(holes); i++) {
		wr(&m, holes[i], 4, 0xffffffff);
		EQ(rd(&m, holes[i], 4), 0);
	}
	EQ(rd(&m, NOTIFY, 2), 0);
	machine_done(&m);
}

/* --- kicks ------------------------------------------------------------------------------------------------------ */

TEST(kick_binds_its_event_and_follows_the_bar)
{
	struct machine m;
	struct ring r;
	struct ring_used u;
	machine_init(&m);
	start(&m, &r);
	EQ(m.b.vm.n_ioevents, 0);

	offer_buffer(&r);
	wr(&m, NOTIFY, 2, 0);
	EQ(m.b.vm.n_ioevents, 1);
	EQ(m.b.vm.ioevents[0].address, HIGH + NOTIFY);
	EQ(m.b.vm.ioevents[0].n_bytes, 0);
	OK(!m.b.vm.ioevents[0].has_datamatch);
	EQ(m.b.vm.ioevents[0].event_fd, virtio_kick_fd(m.b.v, 0));
	turn(&m.b);
	OK(ring_take(&r, &u));
	EQ(u.len, 64);
	wr(&m, NOTIFY, 2, 0);
	EQ(m.b.vm.n_ioevent_calls, 1);
	wr(&m, NOTIFY + 8, 4, 0x12345678); /* the address says which queue */
	EQ(m.b.vm.n_ioevents, 2);
	EQ(m.b.vm.ioevents[1].event_fd, virtio_kick_fd(m.b.v, 2));
	wr(&m, NOTIFY + 2, 2, 0);
	wr(&m, NOTIFY + 4 * TOY_QUEUES, 2, 0);
	wr(&m, NOTIFY + 0xffc, 2, 0);
	EQ(m.b.vm.n_ioevent_calls, 2);

	/* Decoding off: nothing stays behind. Moved: bound anew at the first kick. */
	set(&m.b, cfg(4), 2, 0);
	EQ(m.b.vm.n_ioevents, 0);
	set(&m.b, cfg(0x10), 4, 0xd0000000);
	set(&m.b, cfg(0x14), 4, 0);
	set(&m.b, cfg(4), 2, PCI_COMMAND_MEMORY);
	EQ(m.b.vm.n_ioevents, 0);
	offer_buffer(&r);
	set(&m.b, 0xd0000000 + NOTIFY, 2, 0);
	EQ(m.b.vm.n_ioevents, 1);
	EQ(m.b.vm.ioevents[0].address, 0xd0000000 + NOTIFY);
	turn(&m.b);
	OK(ring_take(&r, &u));

	/* With decoding on, in two halves. */
	set(&m.b, cfg(0x10), 4, 0);
	EQ(m.b.vm.n_ioevents, 0);
	set(&m.b, cfg(0x14), 4, HIGH >> 32);
	wr(&m, NOTIFY, 2, 0);
	EQ(m.b.vm.n_ioevents, 1);
	EQ(m.b.vm.ioevents[0].address, HIGH + NOTIFY);
	machine_done(&m);
}

TEST(kick_without_any_width_events)
{
	struct machine m;
	struct ring r;
	machine_init(&m);
	start(&m, &r);
	m.b.vm.any_width_rc = -ENOTSUP;
	wr(&m, NOTIFY, 2, 0);
	EQ(m.b.vm.n_ioevents, 1);
	EQ(m.b.vm.ioevents[0].n_bytes, 2);
	OK(!m.b.vm.ioevents[0].has_datamatch);
	set(&m.b, cfg(4), 2, 0);
	EQ(m.b.vm.n_ioevents, 0);
	set(&m.b, cfg(4), 2, PCI_COMMAND_MEMORY);

	m.b.vm.ioevent_rc = -ENOSPC;
	unsigned n = m.b.vm.n_ioevent_calls;
	struct ring_used u;
	offer_buffer(&r);
	wr(&m, NOTIFY, 2, 0);
	wr(&m, NOTIFY, 2, 0);
	EQ(m.b.vm.n_ioevent_calls, n + 2);
	turn(&m.b);
	OK(ring_take(&r, &u));
	machine_done(&m);
}

/* --- interrupts ------------------------------------------------------------------------------------------------- */

TEST(interrupts_by_msix)
{
	struct machine m;
	struct ring r;
	machine_init(&m);
	enable_msix(&m);
	start(&m, &r);
	offer_buffer(&r);
	wr(&m, NOTIFY, 2, 0);
	turn(&m.b);
	EQ(n_fired(&m, 1), 1);
	EQ(n_fired(&m, 0), 0);
	EQ(rd(&m, ISR, 1), 0); /* unused with MSI-X, for queues */
	virtio_space_update(m.b.v, 0, "x", 1);
	EQ(n_fired(&m, 0), 1);
	EQ(m.b.vm.lines, 0);
	EQ(rd(&m, ISR, 1), 2); /* 4.1.4.5.1: set before the notification, whichever way that goes */
	EQ(rd(&m, ISR, 1), 0);

	/* Unmapped events are silent, also on the line. */
	wr(&m, 0x16, 2, 0);
	wr(&m, 0x1a, 2, NO_VECTOR);
	wr(&m, 0x10, 2, NO_VECTOR);
	m.b.v->ops->signal_queue(m.b.v->transport, 0);
	m.b.v->ops->signal_config(m.b.v->transport);
	for (unsigned i = 0; i <= TOY_QUEUES; i++)
		EQ(n_fired(&m, i), 0);
	EQ(m.b.vm.lines, 0);
	machine_done(&m);
}

TEST(interrupts_by_intx)
{
	struct machine m;
	struct ring r;
	machine_init(&m);
	start(&m, &r);
	offer_buffer(&r);
	wr(&m, NOTIFY, 2, 0);
	turn(&m.b);
	EQ(m.b.vm.lines, 1u << PIN);
	EQ(get(&m.b, cfg(PCI_STATUS), 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	virtio_space_update(m.b.v, 0, "x", 1);
	EQ(rd(&m, ISR, 1), 3);
	EQ(m.b.vm.lines, 0);
	EQ(get(&m.b, cfg(PCI_STATUS), 2) & PCI_STATUS_INTERRUPT, 0);
	EQ(rd(&m, ISR, 1), 0);

	m.b.v->ops->signal_queue(m.b.v->transport, 2);
	EQ(m.b.vm.lines, 1u << PIN);
	wr(&m, 0x14, 1, 0);
	EQ(m.b.vm.lines, 0);
	EQ(rd(&m, ISR, 1), 0);
	machine_done(&m);
}

/* --- reset ------------------------------------------------------------------------------------------------------ */

TEST(reset_unmaps_and_stops)
{
	struct machine m;
	struct ring r;
	machine_init(&m);
	enable_msix(&m);
	start(&m, &r);
	OK(m.b.v->is_started);
	wr(&m, 0x14, 1, 0);
	OK(!m.b.v->is_started);
	EQ(rd(&m, 0x14, 1), 0);
	EQ(rd(&m, 0x10, 2), NO_VECTOR);
	EQ(rd(&m, 0x16, 2), 0);
	EQ(rd(&m, 0x1a, 2), NO_VECTOR);
	EQ(rd(&m, 0x1c, 2), 0);
	EQ(rd(&m, 0x18, 2), TOY_QUEUE_SIZE);
	OK(msix_is_enabled(m.pci.slots[SLOT])); /* PCI's, not virtio's */

	start(&m, &r);
	machine_done(&m);
}

/* --- the window in configuration space -------------------------------------------------------------------------- */

static void aim(struct machine *m, unsigned cap, uint8_t bar, uint32_t offset, uint32_t n_bytes)
{
	set(&m->b, cfg(cap + 4), 1, bar);
	set(&m->b, cfg(cap + 8), 4, offset);
	set(&m->b, cfg(cap + 12), 4, n_bytes);
}

TEST(window_reaches_the_bar)
{
	struct machine m;
	machine_init(&m);
	unsigned cap = find_capability(&m, PCI_CAP_ID_VNDR, 5);
	set(&m.b, cfg(4), 2, 0); /* also with decoding off */

	aim(&m, cap, 0, 0x12, 2);
	EQ(get(&m.b, cfg(cap + 16), 2), TOY_QUEUES);
	aim(&m, cap, 0, SPACE + 4, 4);
	EQ(get(&m.b, cfg(cap + 16), 4), 0x17161514);
	EQ(get(&m.b, cfg(cap + 17), 1), 0x15);
	aim(&m, cap, 0, 0x14, 1);
	set(&m.b, cfg(cap + 16), 4, 0xffffff03);
	EQ(virtio_status(m.b.v), 3);
	EQ(get(&m.b, cfg(cap + 16), 4), 0xffffff03); /* only the first byte comes from there */
	aim(&m, cap, 0, 0x14, 1);
	set(&m.b, cfg(cap + 16), 1, 0);
	EQ(virtio_status(m.b.v), 0);
	/* A write of a part takes the rest from what is there. */
	aim(&m, cap, 0, 0x20, 4);
	set(&m.b, cfg(cap + 16), 4, 0x11223340);
	set(&m.b, cfg(cap + 17), 1, 0x55);
	EQ(m.b.v->queues[0].config.desc, 0x11225540);
	aim(&m, cap, 0, NOTIFY, 2);
	set(&m.b, cfg(cap + 16), 2, 0);
	EQ(m.b.vm.n_ioevents, 0); /* the BAR is nowhere */
	EQ(drain(virtio_kick_fd(m.b.v, 0)), 1);

	/* An ISR read through it clears, as any. */
	set(&m.b, cfg(4), 2, PCI_COMMAND_MEMORY);
	m.b.v->ops->signal_queue(m.b.v->transport, 0);
	aim(&m, cap, 0, ISR, 1);
	EQ(get(&m.b, cfg(cap + 16), 1), 1);
	EQ(m.b.vm.lines, 0);
	EQ(get(&m.b, cfg(cap + 16), 1), 0);
	machine_done(&m);
}

TEST(window_aimed_at_nothing)
{
	struct machine m;
	machine_init(&m);
	unsigned cap = find_capability(&m, PCI_CAP_ID_VNDR, 5);
	const struct { uint8_t bar; uint32_t offset, n_bytes; } bad[] = {
		{ 1, 0x14, 1 },     { 0xff, 0x14, 1 },       { 0, 0x14, 0 },       { 0, 0x14, 3 },       { 0, 0x14, 8 },
		{ 0, 0x14, 1u << 31 }, { 0, 0x7fffe, 4 },    { 0, 0x80000, 1 },    { 0, 0xffffffff, 1 }, { 0, 0xfffffffc, 4 },
		{ 0, 0x13, 2 },     { 0, 0x16, 4 },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		aim(&m, cap, bad[i].bar, bad[i].offset, bad[i].n_bytes);
		set(&m.b, cfg(cap + 16), 4, 0x01010101);
		EQ(get(&m.b, cfg(cap + 16), 4), 0x01010101); /* bytes that lead nowhere */
		EQ(virtio_status(m.b.v), 0);
	}
	EQ(get(&m.b, cfg(cap), 4), cap + 0x14 < 0x100 ? (0x05140009u | (uint32_t)get(&m.b, cfg(cap + 1), 1) << 8) : 0);
	machine_done(&m);
}

/* --- build ------------------------------------------------------------------------------------------------------ */

TEST(slot_must_be_free)
{
	struct machine m;
	struct virtio_device *v;
	struct virtio_pci *other;
	struct err e = { 0 };
	machine_init(&m);
	const struct virtio_params p = { .id = "_toy1", .mem = &m.b.mem, .io_loop = m.b.loop };
	EQ(virtio_device_new(&toy_class, &p, NULL, &v, NULL), 0);
	EQ(virtio_pci_new(v, &m.pci, &m.b.router, NULL, SLOT, &other, &e), -EEXIST);
	STR_HAS(e.text, "'_toy1'");
	STR_HAS(e.text, "'_toy0'");
	EQ(virtio_pci_new(v, &m.pci, &m.b.router, NULL, -1, &other, &e), 0);
	EQ(m.pci.slots[1]->slot, 1);
	EQ(m.pci.slots[1]->bars[0].address, HIGH + 0x80000);
	/* Without a VM: kicks work, nothing is bound. */
	set(&m.b, HIGH + 0x80000 + NOTIFY, 2, 0);
	EQ(drain(virtio_kick_fd(v, 0)), 1);
	EQ(m.b.vm.n_ioevents, 0);
	virtio_pci_free(other);
	virtio_pci_free(NULL);
	virtio_device_free(v);
	machine_done(&m);
}

/* --- several vCPUs and the device's loop at once ---------------------------------------------------------------- */

enum { N_ROUNDS = 300 };

static void *drive(void *arg)
{
	struct machine *m = arg;
	for (unsigned i = 0; i < N_ROUNDS; i++) {
		wr(m, 0x14, 1, i % 32 ? 11 : 0);
		wr(m, 0x16, 2, i % 5);
		wr(m, 0x18, 2, 8);
		wr(m, 0x1a, 2, i % 6);
		wr(m, 0x10, 2, i % 6);
		wr(m, 0x20, 8, RING_AREA(0));
		wr(m, NOTIFY + 4 * (i % 4), 2, 0);
		(void)rd(m, ISR, 1);
		wr(m, TABLE + 16 * (i % 4) + 8, 8, i % 2 ? 1ull << 32 | i : i);
		if (i % 16 == 7)
			set(&m->b, cfg(4), 2, i % 32 == 7 ? 0 : PCI_COMMAND_MEMORY);
		if (i % 50 == 9)
			enable_msix(m);
	}
	return NULL;
}

static void *tell(void *arg)
{
	struct machine *m = arg;
	for (unsigned i = 0; i < N_ROUNDS; i++) {
		m->b.v->ops->signal_queue(m->b.v->transport, i % TOY_QUEUES);
		virtio_space_update(m->b.v, i % TOY_SPACE_BYTES, "y", 1);
	}
	return NULL;
}

TEST(vcpus_race)
{
	static struct machine m;
	pthread_t threads[3];
	machine_init(&m);
	EQ(pthread_create(&threads[0], NULL, drive, &m), 0);
	EQ(pthread_create(&threads[1], NULL, drive, &m), 0);
	EQ(pthread_create(&threads[2], NULL, tell, &m), 0);
	for (unsigned i = 0; i < 3; i++)
		EQ(pthread_join(threads[i], NULL), 0);
	set(&m.b, cfg(4), 2, PCI_COMMAND_MEMORY);
	wr(&m, 0x14, 1, 0);
	EQ(rd(&m, 0x14, 1), 0);
	EQ(rd(&m, ISR, 1), 0);
	EQ(m.b.vm.lines, 0);
	machine_done(&m);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bytes.h"
#include "bus/pci.h"
#include "bus/pci_regs.h"
#include "fake_hv.h"
#include "test.h"

#include <errno.h>
#include <unistd.h>

#define ECAM 0xe8000000ull
#define LOW 0xc0000000ull
#define LOW_BYTES 0x20000000ull
#define HIGH 0x4000000000ull
#define HIGH_BYTES 0x100000000ull
#define BAR_BYTES 0x10000ull
#define TABLE 0x8000u
#define PBA 0xc000u
#define N_VECTORS 70u

/* A device that notes what reaches it. As any device, it locks its registers itself; its moves come one at a time. */
struct toy {
	struct pci_device pci;
	pthread_mutex_t lock;
	unsigned n_reads, n_writes, bar;
	uint64_t offset;
	uint8_t last[8];
	unsigned n_moves;
	uint64_t old_address, new_address;
};

static struct toy *toy_of(struct pci_device *d)
{
	return (struct toy *)d;
}

static void toy_read(struct pci_device *d, unsigned bar, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct toy *t = toy_of(d);
	if (d->msix.n_vectors && bar == d->msix.table_bar && msix_bar_read(d, offset, ret_bytes, n_bytes))
		return;
	(void)pthread_mutex_lock(&t->lock);
	t->n_reads++;
	t->bar = bar;
	t->offset = offset;
	(void)pthread_mutex_unlock(&t->lock);
	memset(ret_bytes, 0xa0 | (int)d->slot, n_bytes);
}

static void toy_write(struct pci_device *d, unsigned bar, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct toy *t = toy_of(d);
	if (d->msix.n_vectors && bar == d->msix.table_bar && msix_bar_write(d, offset, bytes, n_bytes))
		return;
	(void)pthread_mutex_lock(&t->lock);
	t->n_writes++;
	t->bar = bar;
	t->offset = offset;
	memcpy(t->last, bytes, n_bytes);
	(void)pthread_mutex_unlock(&t->lock);
}

static void toy_moved(struct pci_device *d, unsigned bar, uint64_t old_address, uint64_t new_address)
{
	struct toy *t = toy_of(d);
	(void)bar;
	t->n_moves++;
	t->old_address = old_address;
	t->new_address = new_address;
}

static const struct pci_class toy_class = {
	.bar_read = toy_read, .bar_write = toy_write, .bar_moved = toy_moved,
};

struct machine {
	struct hv_vm vm;
	struct irq_router router;
	struct bus mmio, ports;
	struct pci_bus pci;
};

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
}

static void machine_done(struct machine *m)
{
	pci_bus_done(&m->pci);
	EQ(m->mmio.n_ranges, 0);
	EQ(m->ports.n_ranges, 0);
	bus_done(&m->mmio);
	bus_done(&m->ports);
	irq_router_done(&m->router);
	EQ(m->vm.n_irqfds, 0);
}

static void toy_init(struct toy *t, struct machine *m, bool has_msix)
{
	*t = (struct toy){ .lock = PTHREAD_MUTEX_INITIALIZER };
	pci_device_init(&t->pci, &toy_class, "toy", 0x1234, 0x5678, 0xff0001, 0x4321, 0x8765, 2);
	pci_device_bar(&t->pci, 0, BAR_BYTES, true, false);
	pci_device_bar(&t->pci, 3, 0x1000, false, false);
	if (has_msix)
		EQ(pci_device_msix(&t->pci, &m->router, N_VECTORS, 0, TABLE, PBA, NULL), 0);
	EQ(pci_bus_attach(&m->pci, &t->pci, -1, NULL), 0);
}

static void toy_done(struct toy *t)
{
	pci_bus_detach(&t->pci);
	pci_device_done(&t->pci);
}

static uint64_t get(struct machine *m, uint64_t address, unsigned n_bytes)
{
	uint8_t bytes[8] = { 0 };
	(void)bus_read(&m->mmio, address, bytes, n_bytes);
	return get_le(bytes, n_bytes);
}

static void set(struct machine *m, uint64_t address, unsigned n_bytes, uint64_t v)
{
	uint8_t bytes[8];
	put_le(bytes, n_bytes, v);
	(void)bus_write(&m->mmio, address, bytes, n_bytes);
}

static uint64_t cfg(unsigned slot, unsigned offset)
{
	return ECAM + slot * 0x8000ull + offset;
}

static uint32_t port_get(struct machine *m, uint16_t port, unsigned n_bytes)
{
	uint8_t bytes[4] = { 0 };
	(void)bus_read(&m->ports, port, bytes, n_bytes);
	return (uint32_t)get_le(bytes, n_bytes);
}

static void port_set(struct machine *m, uint16_t port, unsigned n_bytes, uint32_t v)
{
	uint8_t bytes[4];
	put_le(bytes, n_bytes, v);
	(void)bus_write(&m->ports, port, bytes, n_bytes);
}

static uint64_t drain(int fd)
{
	uint64_t n = 0;
	return read(fd, &n, sizeof n) == sizeof n ? n : 0;
}

/* --- configuration space ---------------------------------------------------------------------------------------- */

TEST(header_and_host_bridge)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, false);
	EQ(t.pci.slot, 1);
	EQ(get(&m, cfg(0, 0), 4), 0x0d578086);
	EQ(get(&m, cfg(0, 8), 4), 0x06000000);
	EQ(get(&m, cfg(0, 0x10), 4), 0);
	EQ(get(&m, cfg(1, 0), 4), 0x56781234);
	EQ(get(&m, cfg(1, 0), 8), 0x0000000256781234ull); /* with command and status: decoding is on */
	EQ(get(&m, cfg(1, 8), 4), 0xff000102);
	EQ(get(&m, cfg(1, 0x0e), 1), 0);
	EQ(get(&m, cfg(1, 0x2c), 4), 0x87654321);
	EQ(get(&m, cfg(1, 0x3c), 2), 0x0111); /* pin 17, INTA# */
	EQ(get(&m, cfg(1, 0x34), 1), 0);
	EQ(get(&m, cfg(1, 0x100), 4), 0);
	toy_done(&t);
	machine_done(&m);
}

TEST(absent_slots_and_functions_read_ones)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, false);
	EQ(get(&m, cfg(2, 0), 4), 0xffffffff);
	EQ(get(&m, cfg(31, 0x100), 8), (int64_t)-1);
	EQ(get(&m, cfg(1, 0) + 0x1000, 4), 0xffffffff);
	EQ(get(&m, cfg(1, 0) + 0x7000, 2), 0xffff);
	set(&m, cfg(1, 4) + 0x1000, 2, 0);
	set(&m, cfg(2, 4), 2, 0);
	EQ(get(&m, cfg(1, 4), 2), PCI_COMMAND_MEMORY);
	toy_done(&t);
	machine_done(&m);
}

TEST(accesses_of_any_width_and_offset)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, false);
	EQ(get(&m, cfg(1, 1), 2), 0x7812);
	EQ(get(&m, cfg(1, 3), 1), 0x56);
	EQ(get(&m, cfg(1, 0xfe), 4), 0);
	EQ(get(&m, cfg(1, 0xffe), 4), 0xffff0000); /* into the next function */
	EQ(get(&m, cfg(31, 0) + 0x7ffc, 4), 0xffffffff);
	/* Crossing the end of what is meaningful, and of the function: no harm. */
	set(&m, cfg(1, 0xff), 8, UINT64_MAX);
	set(&m, cfg(1, 0xffc), 8, UINT64_MAX);
	set(&m, cfg(1, 0x3c), 4, 0xffffffff);
	EQ(get(&m, cfg(1, 0x3c), 4), 0x000001ff);
	toy_done(&t);
	machine_done(&m);
}

TEST(read_only_and_reserved_bits)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, true);
	uint8_t before[256], after[256];
	for (unsigned i = 0; i < 256; i++)
		before[i] = (uint8_t)get(&m, cfg(1, i), 1);
	for (unsigned i = 0; i < 256; i += 4)
		set(&m, cfg(1, i), 4, 0xffffffff);
	for (unsigned i = 0; i < 256; i++) {
		after[i] = (uint8_t)get(&m, cfg(1, i), 1);
		EQ(after[i] & ~t.pci.writable[i], before[i] & ~t.pci.writable[i]);
		EQ(after[i] & t.pci.writable[i], t.pci.writable[i]);
	}
	EQ(get(&m, cfg(1, PCI_COMMAND), 2), 0x546);
	EQ(get(&m, cfg(1, 0x30), 4), 0); /* no expansion ROM */
	EQ(get(&m, cfg(1, 0x40), 4), 0xc0000011 | (N_VECTORS - 1) << 16);
	toy_done(&t);
	machine_done(&m);
}

TEST(config_ports)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, false);

	/* Linux's probe for mechanism 1. */
	port_set(&m, 0xcfb, 1, 1);
	port_set(&m, 0xcf8, 4, 0x80000000);
	EQ(port_get(&m, 0xcf8, 4), 0x80000000);
	EQ(port_get(&m, 0xcfc, 4), 0x0d578086);

	/* Only a double word is CONFIG_ADDRESS. */
	port_set(&m, 0xcf8, 1, 0x12);
	port_set(&m, 0xcf8, 2, 0x1234);
	port_set(&m, 0xcfa, 2, 0x1234);
	EQ(port_get(&m, 0xcf8, 4), 0x80000000);
	EQ(port_get(&m, 0xcf8, 1), 0xff);
	EQ(port_get(&m, 0xcfa, 4), 0xffffffff);

	port_set(&m, 0xcf8, 4, 0xffffffff);
	EQ(port_get(&m, 0xcf8, 4), 0x80fffffc);
	EQ(port_get(&m, 0xcfc, 4), 0xffffffff);

	port_set(&m, 0xcf8, 4, 0x80000000 | 1 << 11 | 0x2c);
	EQ(port_get(&m, 0xcfc, 4), 0x87654321);
	EQ(port_get(&m, 0xcfd, 1), 0x43);
	EQ(port_get(&m, 0xcfe, 2), 0x8765);
	EQ(port_get(&m, 0xcff, 1), 0x87);
	EQ(port_get(&m, 0xcfe, 4), 0xffffffff);
	port_set(&m, 0xcf8, 4, 0x80000000 | 1 << 11 | 0x3c);
	port_set(&m, 0xcfc, 1, 0x42);
	EQ(get(&m, cfg(1, 0x3c), 1), 0x42);

	port_set(&m, 0xcf8, 4, 1 << 11 | 0x3c); /* not enabled */
	port_set(&m, 0xcfc, 1, 0x43);
	EQ(port_get(&m, 0xcfc, 4), 0xffffffff);
	port_set(&m, 0xcf8, 4, 0x80010000); /* bus 1 */
	EQ(port_get(&m, 0xcfc, 4), 0xffffffff);
	port_set(&m, 0xcf8, 4, 0x80000000 | 1 << 11 | 1 << 8); /* function 1 */
	EQ(port_get(&m, 0xcfc, 4), 0xffffffff);
	EQ(get(&m, cfg(1, 0x3c), 1), 0x42);
	toy_done(&t);
	machine_done(&m);
}

static void count_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	EQ(offset, 0);
	EQ(n_bytes, 1);
	*(unsigned *)context += bytes[0];
}

TEST(reset_control_lies_between)
{
	static const struct bus_ops ops = { .write = count_write };
	struct bus mmio, ports;
	struct pci_bus b;
	unsigned sum = 0;
	const uint8_t bytes[4] = { 6 };
	uint8_t byte;
	const struct pci_bus_params p = { .ecam = ECAM, .low = { LOW, LOW_BYTES }, .reset_control = &ops,
		                          .reset_control_context = &sum };
	bus_init(&mmio);
	bus_init(&ports);
	EQ(pci_bus_init(&b, &p, &mmio, &ports, NULL), 0);
	OK(bus_write(&ports, 0xcf9, bytes, 1));
	OK(bus_write(&ports, 0xcf9, bytes, 2));
	OK(bus_write(&ports, 0xcf8, bytes, 4));
	OK(bus_write(&ports, 0xcfd, bytes, 1));
	EQ(sum, 6);
	OK(bus_read(&ports, 0xcf9, &byte, 1));
	EQ(byte, 0xff);
	pci_bus_done(&b);
	bus_done(&mmio);
	bus_done(&ports);
}

TEST(capability_list)
{
	struct machine m;
	struct toy t = { 0 };
	machine_init(&m);
	pci_device_init(&t.pci, &toy_class, "toy", 1, 2, 3, 4, 5, 6);
	const uint8_t bytes[5] = { 7, 1, 2, 3, 4 }, writable[5] = { 0, 0, 0xf0, 0, 0 };
	EQ(pci_device_capability(&t.pci, PCI_CAP_ID_VNDR, bytes, writable, 5), 0x40);
	EQ(pci_device_capability(&t.pci, PCI_CAP_ID_VNDR, bytes, NULL, 2), 0x48);
	EQ(pci_bus_attach(&m.pci, &t.pci, 9, NULL), 0);
	EQ(get(&m, cfg(9, PCI_STATUS), 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
	EQ(get(&m, cfg(9, 0x34), 1), 0x40);
	EQ(get(&m, cfg(9, 0x40), 4), 0x01074809);
	EQ(get(&m, cfg(9, 0x48), 4), 0x01070009);
	set(&m, cfg(9, 0x40), 8, UINT64_MAX);
	EQ(get(&m, cfg(9, 0x40), 8), 0x000403f201074809ull);
	toy_done(&t);
	machine_done(&m);
}

/* --- BARs ------------------------------------------------------------------------------------------------------- */

TEST(bars_are_placed_and_answer)
{
	struct machine m;
	struct toy a, b;
	machine_init(&m);
	toy_init(&a, &m, false);
	toy_init(&b, &m, false);
	EQ(a.pci.bars[0].address, HIGH);
	EQ(b.pci.bars[0].address, HIGH + BAR_BYTES);
	EQ(a.pci.bars[3].address, LOW);
	EQ(b.pci.bars[3].address, LOW + 0x1000);
	EQ(a.n_moves, 2);
	EQ(get(&m, cfg(1, 0x10), 8), HIGH | 4);
	EQ(get(&m, cfg(1, 0x1c), 4), LOW);

	EQ(get(&m, HIGH + 0x123, 2), 0xa1a1);
	EQ(a.offset, 0x123);
	EQ(a.bar, 0);
	EQ(get(&m, LOW + 0x1ffc, 4), 0xa2a2a2a2);
	EQ(b.bar, 3);
	EQ(b.offset, 0xffc);
	set(&m, HIGH + BAR_BYTES - 8, 8, 0x1122334455667788);
	EQ(a.n_writes, 1);
	EQ(get_le64(a.last), 0x1122334455667788);

	/* Nobody there, and across an end. */
	EQ(get(&m, HIGH + 2 * BAR_BYTES, 4), 0xffffffff);
	EQ(get(&m, HIGH + BAR_BYTES - 2, 4), 0xffffffff);
	EQ(a.n_reads + b.n_reads, 2);
	toy_done(&a);
	EQ(a.pci.cls, NULL);
	EQ(get(&m, HIGH, 4), 0xffffffff);
	/* The place is free again. */
	toy_init(&a, &m, false);
	EQ(a.pci.bars[0].address, HIGH);
	toy_done(&a);
	toy_done(&b);
	machine_done(&m);
}

TEST(sizing_as_linux_does)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, false);
	set(&m, cfg(1, 4), 2, 0);
	EQ(t.pci.bars[0].address, 0);
	EQ(get(&m, HIGH, 4), 0xffffffff);
	unsigned n_moves = t.n_moves;
	set(&m, cfg(1, 0x10), 4, 0xffffffff);
	EQ(get(&m, cfg(1, 0x10), 4), 0xffff0004);
	set(&m, cfg(1, 0x10), 4, 4);
	set(&m, cfg(1, 0x14), 4, 0xffffffff);
	EQ(get(&m, cfg(1, 0x14), 4), 0xffffffff);
	set(&m, cfg(1, 0x14), 4, HIGH >> 32);
	set(&m, cfg(1, 0x1c), 4, 0xffffffff);
	EQ(get(&m, cfg(1, 0x1c), 4), 0xfffff000);
	set(&m, cfg(1, 0x1c), 4, LOW);
	set(&m, cfg(1, 0x18), 4, 0xffffffff); /* absent */
	EQ(get(&m, cfg(1, 0x18), 4), 0);
	EQ(t.n_moves, n_moves);
	set(&m, cfg(1, 4), 2, PCI_COMMAND_MEMORY);
	EQ(t.n_moves, n_moves + 2);
	EQ(get(&m, HIGH, 1), 0xa1);
	toy_done(&t);
	machine_done(&m);
}

TEST(sizing_with_decoding_on)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, false);
	set(&m, cfg(1, 0x10), 4, 0xffffffff);
	EQ(t.pci.bars[0].address, 0);
	set(&m, cfg(1, 0x10), 4, 0);
	EQ(t.pci.bars[0].address, HIGH);
	set(&m, cfg(1, 0x14), 4, 0xffffffff);
	EQ(t.pci.bars[0].address, 0);
	set(&m, cfg(1, 0x14), 4, HIGH >> 32);
	EQ(t.pci.bars[0].address, HIGH);
	/* Both halves at all ones, and back. */
	set(&m, cfg(1, 0x10), 8, UINT64_MAX);
	EQ(get(&m, cfg(1, 0x10), 8), (int64_t)0xffffffffffff0004);
	set(&m, cfg(1, 0x10), 4, 0);
	set(&m, cfg(1, 0x14), 4, HIGH >> 32);
	EQ(t.pci.bars[0].address, HIGH);
	toy_done(&t);
	machine_done(&m);
}

TEST(half_written_address_maps_nowhere_wrong)
{
	struct machine m;
	struct toy a, b;
	machine_init(&m);
	toy_init(&a, &m, false);
	toy_init(&b, &m, false);
	unsigned n_moves = b.n_moves;
	/* b goes into the low window; its new low half with its old high one would cover a. */
	set(&m, cfg(1, 0x10), 4, 0x80000000);
	set(&m, cfg(1, 0x14), 4, HIGH >> 32);
	EQ(a.pci.bars[0].address, HIGH + 0x80000000);
	set(&m, cfg(2, 0x10), 4, 0xd0000000);
	EQ(b.pci.bars[0].address, 0);
	EQ(get(&m, HIGH + 0x80000000, 1), 0xa1);
	set(&m, cfg(2, 0x14), 4, 0);
	EQ(b.pci.bars[0].address, 0xd0000000);
	EQ(get(&m, 0xd0000000, 1), 0xa2);
	EQ(b.n_moves, n_moves + 2);
	EQ(b.old_address, 0);
	EQ(b.new_address, 0xd0000000);

	/* A driver that wants to change the low half only is served at the first access that would find nobody. */
	set(&m, cfg(2, 0x10), 4, 0xd0010000);
	EQ(b.pci.bars[0].address, 0);
	EQ(get(&m, 0xd0010004, 1), 0xa2);
	EQ(b.offset, 4);
	EQ(b.pci.bars[0].address, 0xd0010000);
	EQ(b.new_address, 0xd0010000);

	/* And turning decoding off and on is an end of it, too. */
	set(&m, cfg(2, 0x10), 4, 0xd0020000);
	set(&m, cfg(2, 4), 2, 0);
	set(&m, cfg(2, 4), 2, PCI_COMMAND_MEMORY);
	EQ(b.pci.bars[0].address, 0xd0020000);
	toy_done(&a);
	toy_done(&b);
	machine_done(&m);
}

TEST(addresses_outside_the_windows_map_nowhere)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, false);
	const uint64_t bad[] = { 0, 0x1000, LOW - 0x1000, LOW + LOW_BYTES, 0xfec00000, 0xfffff000 };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		set(&m, cfg(1, 0x1c), 4, bad[i]);
		EQ(t.pci.bars[3].address, 0);
	}
	set(&m, cfg(1, 0x1c), 4, LOW + LOW_BYTES - 0x1000);
	EQ(t.pci.bars[3].address, LOW + LOW_BYTES - 0x1000);
	set(&m, cfg(1, 0x10), 8, HIGH + HIGH_BYTES - BAR_BYTES);
	EQ(t.pci.bars[0].address, HIGH + HIGH_BYTES - BAR_BYTES);
	set(&m, cfg(1, 0x10), 8, HIGH + HIGH_BYTES);
	EQ(t.pci.bars[0].address, 0);
	toy_done(&t);
	machine_done(&m);
}

TEST(overlapping_bars_lowest_slot_wins)
{
	struct machine m;
	struct toy a, b;
	machine_init(&m);
	toy_init(&a, &m, false);
	toy_init(&b, &m, false);
	set(&m, cfg(2, 0x1c), 4, LOW);
	EQ(get(&m, LOW, 1), 0xa1);
	set(&m, cfg(1, 4), 2, 0);
	EQ(get(&m, LOW, 1), 0xa2);
	set(&m, cfg(1, 4), 2, PCI_COMMAND_MEMORY);
	EQ(get(&m, LOW, 1), 0xa1);
	/* Of one device, the lowest BAR. */
	set(&m, cfg(1, 0x10), 8, LOW);
	EQ(get(&m, LOW, 1), 0xa1);
	EQ(a.bar, 0);
	toy_done(&a);
	toy_done(&b);
	machine_done(&m);
}

TEST(attach_errors_name_the_device)
{
	struct machine m;
	struct toy t, u = { 0 };
	struct err e = { 0 };
	machine_init(&m);
	toy_init(&t, &m, false);
	pci_device_init(&u.pci, &toy_class, "late", 1, 2, 3, 4, 5, 6);
	EQ(pci_bus_attach(&m.pci, &u.pci, 1, &e), -EEXIST);
	STR_HAS(e.text, "'late'");
	STR_HAS(e.text, "'toy'");
	EQ(pci_bus_attach(&m.pci, &u.pci, 32, &e), -EINVAL);
	pci_device_bar(&u.pci, 0, 0x40000000, false, false);
	EQ(pci_bus_attach(&m.pci, &u.pci, -1, &e), -ENOSPC);
	STR_HAS(e.text, "BAR 0");
	EQ(u.pci.bus, NULL);
	pci_device_done(&u.pci);

	struct toy many[PCI_N_SLOTS - 2];
	for (unsigned i = 0; i < PCI_N_SLOTS - 2; i++)
		toy_init(&many[i], &m, false);
	pci_device_init(&u.pci, &toy_class, "late", 1, 2, 3, 4, 5, 6);
	EQ(pci_bus_attach(&m.pci, &u.pci, -1, &e), -ENOSPC);
	STR_HAS(e.text, "all 32 slots");
	pci_device_done(&u.pci);
	for (unsigned i = 0; i < PCI_N_SLOTS - 2; i++)
		toy_done(&many[i]);
	toy_done(&t);
	machine_done(&m);
}

TEST(bus_needs_its_ranges)
{
	struct machine m;
	struct pci_bus second;
	struct err e = { 0 };
	machine_init(&m);
	const struct pci_bus_params p = { .segment = 1, .ecam = ECAM + PCI_ECAM_BYTES, .low = { LOW, 0x1000 } };
	EQ(pci_bus_init(&second, &p, &m.mmio, NULL, &e), -EEXIST);
	STR_HAS(e.text, "pci-low-window");
	const struct pci_bus_params q = { .segment = 1, .ecam = ECAM + PCI_ECAM_BYTES };
	EQ(pci_bus_init(&second, &q, &m.mmio, NULL, &e), 0);
	EQ(get(&m, ECAM + PCI_ECAM_BYTES, 4), 0x0d578086);
	pci_bus_done(&second);
	pci_bus_done(&second);
	EQ(get(&m, LOW, 4), 0xffffffff);
	machine_done(&m);
}

/* --- MSI-X ------------------------------------------------------------------------------------------------------ */

#define CONTROL 0x42u

static uint64_t entry(unsigned vector, unsigned field)
{
	return HIGH + TABLE + 16 * vector + field;
}

static void program(struct machine *m, unsigned vector, uint32_t data)
{
	set(m, entry(vector, 0), 4, 0xfee01000);
	set(m, entry(vector, 4), 4, 0);
	set(m, entry(vector, 8), 4, data);
}

TEST(msix_table_as_linux_uses_it)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, true);
	EQ(irq_commit(&m.router, NULL), 0);
	unsigned n = m.vm.n_set_routes;

	EQ(get(&m, cfg(1, CONTROL), 2), N_VECTORS - 1);
	EQ(get(&m, cfg(1, CONTROL + 2), 4), TABLE);
	EQ(get(&m, cfg(1, CONTROL + 6), 4), PBA);
	OK(!msix_raise(&t.pci, 0));
	set(&m, cfg(1, CONTROL), 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	EQ(get(&m, cfg(1, CONTROL), 2), PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL | (N_VECTORS - 1));
	OK(msix_is_enabled(&t.pci));
	for (unsigned i = 0; i < N_VECTORS; i++) {
		EQ(get(&m, entry(i, 12), 4), 1);
		program(&m, i, 0x40 + i);
	}
	for (unsigned i = 0; i < 3; i++)
		set(&m, entry(i, 12), 4, 0);
	EQ(m.vm.n_set_routes, n);
	EQ(m.vm.n_irqfd_calls, 0);

	/* Three vectors go live by one call. */
	set(&m, cfg(1, CONTROL), 2, PCI_MSIX_FLAGS_ENABLE);
	EQ(m.vm.n_set_routes, n + 1);
	EQ(m.vm.n_irqfds, 3);
	EQ(m.vm.n_routes, IRQ_N_PINS + 3);
	EQ(fake_route(&m.vm, t.pci.msix.vectors[2].msi.gsi)->msi.data, 0x42);
	OK(msix_raise(&t.pci, 2));
	EQ(drain(t.pci.msix.vectors[2].msi.event_fd), 1);
	OK(!msix_raise(&t.pci, N_VECTORS));

	/* Mask and unmask with nothing changed: no call. With a new address: one. */
	set(&m, entry(2, 12), 4, 1);
	set(&m, entry(2, 12), 4, 0);
	EQ(m.vm.n_set_routes, n + 1);
	set(&m, entry(2, 12), 4, 1);
	program(&m, 2, 0x77);
	EQ(m.vm.n_set_routes, n + 1);
	set(&m, entry(2, 12), 4, 0);
	EQ(m.vm.n_set_routes, n + 2);
	EQ(fake_route(&m.vm, t.pci.msix.vectors[2].msi.gsi)->msi.data, 0x77);
	toy_done(&t);
	machine_done(&m);
}

TEST(msix_pending_bits)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, true);
	set(&m, cfg(1, CONTROL), 2, PCI_MSIX_FLAGS_ENABLE);
	for (unsigned i = 0; i < N_VECTORS; i++)
		program(&m, i, i);
	OK(msix_raise(&t.pci, 1));
	OK(msix_raise(&t.pci, 40));
	OK(msix_raise(&t.pci, 69));
	OK(msix_raise(&t.pci, 69));
	EQ(get(&m, HIGH + PBA, 8), 1ull << 40 | 2);
	EQ(get(&m, HIGH + PBA, 4), 2);
	EQ(get(&m, HIGH + PBA + 4, 4), 1 << 8);
	EQ(get(&m, HIGH + PBA + 8, 8), 1 << 5);
	set(&m, HIGH + PBA, 8, 0);
	EQ(get(&m, HIGH + PBA, 8), 1ull << 40 | 2);
	EQ(get(&m, HIGH + PBA + 16, 4), 0xa1a1a1a1); /* behind the end: the device's own */

	set(&m, entry(1, 12), 4, 0);
	EQ(get(&m, HIGH + PBA, 4), 0);
	EQ(m.vm.n_messages + drain(t.pci.msix.vectors[1].msi.event_fd), 1);

	/* The function's mask holds all, and lets go of all. */
	set(&m, cfg(1, CONTROL), 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	OK(msix_raise(&t.pci, 1));
	EQ(get(&m, HIGH + PBA, 4), 2);
	set(&m, entry(69, 12), 4, 0);
	EQ(get(&m, HIGH + PBA + 8, 4), 1 << 5);
	unsigned n = m.vm.n_messages;
	set(&m, cfg(1, CONTROL), 2, PCI_MSIX_FLAGS_ENABLE);
	EQ(get(&m, HIGH + PBA, 4), 0);
	EQ(get(&m, HIGH + PBA + 8, 4), 0);
	EQ(drain(t.pci.msix.vectors[1].msi.event_fd), 1);
	EQ(m.vm.n_messages, n + 1); /* 69 is new to the engine */

	/* Nothing is left for the next driver. */
	EQ(get(&m, HIGH + PBA + 4, 4), 1 << 8);
	set(&m, cfg(1, CONTROL), 2, 0);
	EQ(get(&m, HIGH + PBA + 4, 4), 0);
	OK(!msix_raise(&t.pci, 1));
	toy_done(&t);
	machine_done(&m);
}

TEST(msix_table_widths)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, true);
	set(&m, entry(5, 0), 8, 0x00000001fee03003ull);
	EQ(get(&m, entry(5, 0), 8), 0x00000001fee03000ull);
	set(&m, entry(5, 8), 8, 0xffffffff00000055ull);
	EQ(get(&m, entry(5, 8), 8), 0x0000000100000055ull);
	set(&m, entry(5, 8), 8, 0x55);
	EQ(get(&m, entry(5, 12), 4), 0);
	/* Undefined, and safe: nothing is written, what is there is read. */
	set(&m, entry(5, 8), 1, 0x66);
	set(&m, entry(5, 8), 2, 0x6666);
	set(&m, entry(5, 6), 4, 0x66666666);
	set(&m, entry(5, 4), 8, 0x6666666666666666);
	EQ(get(&m, entry(5, 8), 4), 0x55);
	EQ(get(&m, entry(5, 1), 2), 0xe030);
	EQ(get(&m, entry(5, 6), 4), 0x00550000);
	EQ(get(&m, entry(N_VECTORS - 1, 12), 8), 1); /* behind the end: zeroes */
	set(&m, entry(N_VECTORS - 1, 12), 8, 0);
	toy_done(&t);
	machine_done(&m);
}

TEST(msix_change_while_live_takes_effect)
{
	struct machine m;
	struct toy t;
	machine_init(&m);
	toy_init(&t, &m, true);
	set(&m, cfg(1, CONTROL), 2, PCI_MSIX_FLAGS_ENABLE);
	program(&m, 0, 0x31);
	set(&m, entry(0, 12), 4, 0);
	set(&m, entry(0, 8), 4, 0x32);
	EQ(fake_route(&m.vm, t.pci.msix.vectors[0].msi.gsi)->msi.data, 0x32);
	set(&m, entry(0, 4), 4, 1); /* no local APIC there */
	OK(!fake_route(&m.vm, t.pci.msix.vectors[0].msi.gsi));
	toy_done(&t);
	machine_done(&m);
}

/* --- INTx ------------------------------------------------------------------------------------------------------- */

TEST(intx_is_shared_and_can_be_disabled)
{
	struct machine m;
	struct toy t[9];
	machine_init(&m);
	for (unsigned i = 0; i < 9; i++)
		toy_init(&t[i], &m, i == 0);
	/* Slots 1 and 9 share pin 17. */
	pci_intx_set(&t[0].pci, true);
	EQ(m.vm.lines, 1u << 17);
	EQ(get(&m, cfg(1, PCI_STATUS), 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	pci_intx_set(&t[8].pci, true);
	pci_intx_set(&t[8].pci, true);
	EQ(m.vm.n_line_calls, 1);
	pci_intx_set(&t[0].pci, false);
	EQ(m.vm.lines, 1u << 17);
	EQ(get(&m, cfg(1, PCI_STATUS), 2) & PCI_STATUS_INTERRUPT, 0);
	pci_intx_set(&t[8].pci, false);
	EQ(m.vm.lines, 0);

	/* Disabled: the status says so, the line does not. */
	set(&m, cfg(2, 4), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	pci_intx_set(&t[1].pci, true);
	EQ(m.vm.lines, 0);
	EQ(get(&m, cfg(2, PCI_STATUS), 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	set(&m, cfg(2, 4), 2, PCI_COMMAND_MEMORY);
	EQ(m.vm.lines, 1u << 18);
	set(&m, cfg(2, 4), 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	EQ(m.vm.lines, 0);

	/* MSI-X and INTx exclude each other. */
	pci_intx_set(&t[0].pci, true);
	set(&m, cfg(1, CONTROL), 2, PCI_MSIX_FLAGS_ENABLE);
	EQ(m.vm.lines, 0);
	EQ(get(&m, cfg(1, PCI_STATUS), 2) & PCI_STATUS_INTERRUPT, 0);
	set(&m, cfg(1, CONTROL), 2, 0);
	EQ(m.vm.lines, 1u << 17);

	/* A device that leaves takes its level along. */
	toy_done(&t[0]);
	EQ(m.vm.lines, 0);
	for (unsigned i = 1; i < 9; i++)
		toy_done(&t[i]);
	machine_done(&m);
}

/* --- several vCPUs at once -------------------------------------------------------------------------------------- */

enum { N_ROUNDS = 400 };

static void *move_bars(void *arg)
{
	struct machine *m = arg;
	for (unsigned i = 0; i < N_ROUNDS; i++) {
		set(m, cfg(1, 0x10), i % 3 ? 4 : 8, i % 2 ? HIGH : LOW + 0x100000 * (i % 5));
		set(m, cfg(1, 0x14), 4, i % 2 ? HIGH >> 32 : 0);
		set(m, cfg(1, 4), 2, i % 4 ? PCI_COMMAND_MEMORY : 0);
		(void)get(m, HIGH + i, 1);
		set(m, cfg(1, CONTROL), 2, i % 8 < 4 ? PCI_MSIX_FLAGS_ENABLE : 0);
		program(m, i % N_VECTORS, i);
		set(m, entry(i % N_VECTORS, 12), 4, i % 2);
	}
	return NULL;
}

static void *raise_all(void *arg)
{
	struct toy *t = arg;
	for (unsigned i = 0; i < N_ROUNDS; i++) {
		if (!msix_raise(&t->pci, i % N_VECTORS))
			pci_intx_set(&t->pci, i % 2);
	}
	return NULL;
}

TEST(vcpus_race)
{
	static struct machine m;
	static struct toy t;
	pthread_t threads[3];
	machine_init(&m);
	toy_init(&t, &m, true);
	EQ(pthread_create(&threads[0], NULL, move_bars, &m), 0);
	EQ(pthread_create(&threads[1], NULL, move_bars, &m), 0);
	EQ(pthread_create(&threads[2], NULL, raise_all, &t), 0);
	for (unsigned i = 0; i < 3; i++)
		EQ(pthread_join(threads[i], NULL), 0);
	/* What was told last is what is. */
	set(&m, cfg(1, 4), 2, 0);
	set(&m, cfg(1, 0x10), 8, HIGH);
	set(&m, cfg(1, 4), 2, PCI_COMMAND_MEMORY);
	EQ(t.pci.bars[0].told_address, HIGH);
	toy_done(&t);
	EQ(m.vm.lines, 0);
	machine_done(&m);
}

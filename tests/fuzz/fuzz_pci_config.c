/* SPDX-License-Identifier: Apache-2.0 */
/* A PCI bus with two devices: configuration by both ways, windows, MSI-X, INTx, hotplug. Whatever the guest writes,
 * read-only bits stay, BARs answer only inside the windows, the device is told of each place where it answers, and only
 * what can be removed is ever ejected. */
#include "bus/pci.h"
#include "bus/pci_hotplug.h"
#include "bus/pci_regs.h"
#include "fuzz_bus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define ECAM 0xe8000000ull
#define LOW 0xc0000000ull
#define LOW_BYTES 0x8000000ull
#define HIGH 0x4000000000ull
#define HIGH_BYTES 0x10000000ull
#define TABLE 0x800u
#define PBA 0xc00u
#define N_VECTORS 3u
#define N_DEVICES 2u
#define HOTPLUG 0xfec11000ull
#define HOTPLUG_STEP 0xffu /* all bits of a step's first byte; the other steps are told by their low bits */

struct toy {
	struct pci_device pci;
	uint8_t attached[256]; /* its configuration bytes, as attaching left them */
	uint64_t told[PCI_N_BARS];
};

static void toy_read(struct pci_device *d, unsigned bar, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	MUST(offset + n_bytes <= d->bars[bar].n_bytes && d->bars[bar].address);
	if (bar != 0 || !msix_bar_read(d, offset, ret_bytes, n_bytes))
		memset(ret_bytes, 0x5a, n_bytes);
}

static void toy_write(struct pci_device *d, unsigned bar, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	MUST(offset + n_bytes <= d->bars[bar].n_bytes && d->bars[bar].address);
	if (bar == 0)
		(void)msix_bar_write(d, offset, bytes, n_bytes);
}

static void toy_moved(struct pci_device *d, unsigned bar, uint64_t old_address, uint64_t new_address)
{
	struct toy *t = (struct toy *)d;
	MUST(t->told[bar] == old_address && old_address != new_address);
	t->told[bar] = new_address;
}

static const struct pci_class toy_class = { .bar_read = toy_read, .bar_write = toy_write, .bar_moved = toy_moved };

static bool is_inside(uint64_t address, uint64_t n_bytes)
{
	return (address >= LOW && address + n_bytes <= LOW + LOW_BYTES) ||
	       (address >= HIGH && address + n_bytes <= HIGH + HIGH_BYTES);
}

static void check(const struct pci_bus *b, const struct toy *toys)
{
	for (unsigned n = 0; n < N_DEVICES; n++) {
		const struct pci_device *d = &toys[n].pci;
		for (unsigned i = 0; i < 256; i++) {
			uint8_t changed = d->config[i] ^ toys[n].attached[i];
			MUST(!(changed & ~d->writable[i] & ~(i == PCI_STATUS ? PCI_STATUS_INTERRUPT : 0u)));
		}
		for (unsigned i = 0; i < PCI_N_BARS; i++) {
			const struct pci_bar *bar = &d->bars[i];
			MUST(!bar->address || is_inside(bar->address, bar->n_bytes));
			MUST(bar->address % (bar->n_bytes ? bar->n_bytes : 1) == 0);
			MUST(toys[n].told[i] == bar->address);
		}
		MUST(d->is_intx_asserted <= d->is_intx_raised);
	}
	for (unsigned i = 0; i < b->n_mappings; i++)
		MUST(b->mappings[i].device->bars[b->mappings[i].bar].address == b->mappings[i].start);
	MUST(!(b->config_address & 0x7f000003));
}

/* Hotplug: the first toy can be removed, the second one stays. */
static struct pci_hotplug hotplug;
static bool has_ejection;

static void on_ejection(void *context)
{
	(void)context;
	MUST(hotplug.ejected);
	has_ejection = true;
}

static void attach(struct pci_bus *b, struct toy *t)
{
	MUST(pci_bus_attach(b, &t->pci, -1, NULL) == 0);
	memcpy(t->attached, t->pci.config, sizeof t->attached);
}

/* An address near what matters. */
static uint64_t address_of(const struct toy *toys, unsigned choice, struct input *in)
{
	const struct pci_device *d = &toys[choice & 1].pci;
	uint64_t offset = take(in, 2);
	switch (choice >> 1 & 3) {
	case 0:
		return d->bars[0].address + offset;
	case 1:
		return d->bars[2].address + offset;
	case 2:
		return LOW + (offset << 11);
	default:
		return HIGH + (offset << 12);
	}
}

/* The removable toy leaves, as the main thread would have it, and comes again. */
static void plug_again(struct pci_bus *b, struct toy *t)
{
	pci_hotplug_emptied(&hotplug, t->pci.slot);
	pci_bus_detach(&t->pci);
	attach(b, t);
	pci_hotplug_filled(&hotplug, t->pci.slot, true);
}

static void hotplug_step(struct pci_bus *b, const struct bus *mmio, struct toy *toys, struct input *in)
{
	unsigned what = (unsigned)take(in, 1), width = width_of(what >> 4), offset = (unsigned)take(in, 1) % PCI_HOTPLUG_BYTES;
	uint32_t slot_bit = 1u << toys[0].pci.slot;

	switch (what % 4) {
	case 0:
		pci_hotplug_ask(&hotplug, toys[0].pci.slot);
		MUST(pci_hotplug_unread(&hotplug) & slot_bit);
		break;
	case 1:
		fuzz_write(mmio, HOTPLUG + offset, width, take(in, width));
		break;
	case 2:
		(void)fuzz_read(mmio, HOTPLUG + offset, width);
		break;
	default:
		break;
	}
	MUST(!(hotplug.ejected & ~slot_bit) && !(hotplug.up & ~slot_bit) && !(hotplug.down & ~slot_bit));
	MUST((b->hidden_slots & ~slot_bit) == 0);
	MUST(has_ejection == (hotplug.ejected != 0));
	if (has_ejection && what % 4 == 3) {
		has_ejection = false;
		MUST(fuzz_read(mmio, ECAM + toys[0].pci.slot * 0x8000ull, 4) == 0xffffffff);
		MUST(pci_hotplug_take_ejected(&hotplug) == slot_bit);
		plug_again(b, &toys[0]);
		MUST(fuzz_read(mmio, ECAM + toys[0].pci.slot * 0x8000ull, 4) == 0x56781234);
	}
}

static void step(struct pci_bus *b, const struct bus *mmio, const struct bus *ports, struct toy *toys, struct input *in)
{
	unsigned what = (unsigned)take(in, 1), width = width_of(what >> 4);
	struct pci_device *d = &toys[what >> 3 & 1].pci;
	uint64_t address;

	if (what == HOTPLUG_STEP) {
		hotplug_step(b, mmio, toys, in);
		return;
	}
	switch (what % 8) {
	case 0: /* a device's first bytes, which matter most */
		address = ECAM + d->slot * 0x8000ull + take(in, 1);
		fuzz_write(mmio, address, width, take(in, width));
		(void)fuzz_read(mmio, address, width);
		break;
	case 1:
		address = ECAM + (take(in, 3) & 0xfffff);
		fuzz_write(mmio, address, width, take(in, width));
		(void)fuzz_read(mmio, address, width);
		break;
	case 2:
		fuzz_write(ports, 0xcf8 + (what >> 4) % 8, what & 8 ? 4 : width, take(in, 4));
		(void)fuzz_read(ports, 0xcf8 + take(in, 1) % 8, width);
		break;
	case 3:
		address = address_of(toys, what >> 3, in);
		fuzz_write(mmio, address, 1u << (what >> 6), take(in, 1u << (what >> 6)));
		break;
	case 4:
		(void)fuzz_read(mmio, address_of(toys, what >> 3, in), 1u << (what >> 6));
		break;
	case 5:
		(void)msix_raise(d, (what >> 4) % (N_VECTORS + 1));
		break;
	case 6:
		pci_intx_set(d, what >> 4 & 1);
		break;
	default:
		if (what >> 4 <= 1) {
			struct toy *t = &toys[what >> 3 & 1];
			has_ejection &= t != &toys[0];
			if (t == &toys[0]) {
				plug_again(b, t);
			} else {
				pci_bus_detach(d);
				attach(b, t);
			}
		}
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	struct input in = { data, n_bytes };
	static struct pci_bus b;
	static struct toy toys[N_DEVICES];
	struct irq_router router;
	struct bus mmio, ports;
	const struct pci_bus_params p = {
		.ecam = ECAM, .low = { LOW, LOW_BYTES }, .high = { HIGH, HIGH_BYTES }, .router = &router,
	};

	MUST(irq_router_init(&router, NULL, HV_IRQCHIP_SPLIT, NULL, NULL) == 0);
	bus_init(&mmio);
	bus_init(&ports);
	MUST(pci_bus_init(&b, &p, &mmio, &ports, NULL) == 0);
	for (unsigned i = 0; i < N_DEVICES; i++) {
		struct pci_device *d = &toys[i].pci;
		memset(&toys[i], 0, sizeof toys[i]);
		pci_device_init(d, &toy_class, "toy", 0x1234, 0x5678, 0xff0000, 1, 2, 3);
		pci_device_bar(d, 0, 0x1000, true, false);
		pci_device_bar(d, 2, 0x20000, i == 0, true);
		MUST(pci_device_msix(d, &router, N_VECTORS, 0, TABLE, PBA, NULL) == 0);
		attach(&b, &toys[i]);
	}
	pci_hotplug_init(&hotplug, &b, on_ejection, NULL);
	has_ejection = false;
	pci_hotplug_filled(&hotplug, toys[0].pci.slot, false);
	const struct bus_range registers = { HOTPLUG, PCI_HOTPLUG_BYTES, &pci_hotplug_bus_ops, &hotplug, "hotplug" };
	MUST(bus_add(&mmio, &registers, NULL) == 0);
	check(&b, toys);
	while (in.n_bytes) {
		step(&b, &mmio, &ports, toys, &in);
		check(&b, toys);
	}
	for (unsigned i = 0; i < N_DEVICES; i++) {
		pci_bus_detach(&toys[i].pci);
		pci_device_done(&toys[i].pci);
		for (unsigned bar = 0; bar < PCI_N_BARS; bar++)
			MUST(!toys[i].told[bar]);
	}
	for (unsigned i = 0; i < 8; i++)
		MUST(b.intx_raised[i] == 0);
	pci_hotplug_done(&hotplug);
	pci_bus_done(&b);
	bus_done(&mmio);
	bus_done(&ports);
	irq_router_done(&router);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of virtio over PCI, by the BAR and by configuration space, with the core and a device behind them. */
#include "fuzz_transport.h"
#include "virtio/pci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define ECAM 0xe8000000ull
#define LOW 0xc0000000ull
#define LOW_BYTES 0x8000000ull
#define CONFIG (ECAM + 0x8000ull) /* slot 1 */

/* The parts of the BAR, each with the bytes around its start. */
static const uint32_t parts[8] = { 0x0, 0x0, 0x2000, 0x4000, 0x6000, 0x8000, 0x48000, 0x7ff00 };

static void step(struct guest *g, const struct bus *bus, const struct pci_device *d, struct input *in)
{
	unsigned what = (unsigned)take(in, 1), width;
	uint64_t at = d->bars[0].address;

	switch (what % 8) {
	case 0: /* common configuration by the widths of its fields */
	case 1:
		width = 1u << (what >> 3) % 4;
		fuzz_write(bus, at + take(in, 1) % 64, width, what & 0x80 ? take(in, width) : take(in, 1));
		break;
	case 2:
		fuzz_write(bus, at + parts[(what >> 3) % 8] + take(in, 1), what & 0x80 ? 8 : 4, take(in, 8));
		break;
	case 3:
		width = width_of(what >> 3);
		fuzz_write(bus, at + parts[take(in, 1) % 8] + take(in, 1), width, take(in, width));
		break;
	case 4:
		(void)fuzz_read(bus, at + parts[(what >> 3) % 8] + take(in, 1), what & 0x80 ? 8 : 4);
		break;
	case 5:
		width = width_of(what >> 3);
		(void)fuzz_read(bus, at + parts[take(in, 1) % 8] + take(in, 1), width);
		break;
	case 6:
		width = width_of(what >> 4);
		if (what & 8)
			fuzz_write(bus, CONFIG + take(in, 1), width, take(in, width));
		else
			(void)fuzz_read(bus, CONFIG + take(in, 1), width);
		break;
	default:
		guest_step(g, what >> 3, in);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	struct input in = { data, n_bytes };
	static struct pci_bus b;
	struct guest g;
	struct irq_router router;
	struct bus mmio, ports;
	struct virtio_pci *t;
	const struct pci_bus_params p = { .ecam = ECAM, .low = { LOW, LOW_BYTES }, .router = &router };

	MUST(irq_router_init(&router, NULL, HV_IRQCHIP_SPLIT, NULL, NULL) == 0);
	bus_init(&mmio);
	bus_init(&ports);
	MUST(pci_bus_init(&b, &p, &mmio, &ports, NULL) == 0);
	guest_init(&g);
	MUST(virtio_pci_new(g.v, &b, &router, NULL, -1, &t, NULL) == 0);
	const struct pci_device *d = b.slots[1];

	while (in.n_bytes) {
		step(&g, &mmio, d, &in);
		guest_check(&g);
		MUST(fuzz_read(&mmio, CONFIG, 4) == 0x106a1af4);
	}
	/* The driver's reset, where it still reaches the device. */
	fuzz_write(&mmio, d->bars[0].address + 0x14, 1, 0);
	MUST(!d->bars[0].address || fuzz_read(&mmio, d->bars[0].address + 0x2000, 1) == 0);

	virtio_pci_free(t);
	guest_done(&g);
	pci_bus_done(&b);
	bus_done(&mmio);
	bus_done(&ports);
	irq_router_done(&router);
	return 0;
}

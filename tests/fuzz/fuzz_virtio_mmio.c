/* SPDX-License-Identifier: Apache-2.0 */
/* Registers of virtio over MMIO, with the core and a device behind them. */
#include "fuzz_transport.h"
#include "virtio/mmio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define AT 0xfec20000ull

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	struct input in = { data, n_bytes };
	struct guest g;
	struct irq_router router;
	struct bus bus;
	struct virtio_mmio *t;

	MUST(irq_router_init(&router, NULL, HV_IRQCHIP_SPLIT, NULL, NULL) == 0);
	bus_init(&bus);
	guest_init(&g);
	MUST(virtio_mmio_new(g.v, &bus, AT, &router, 10, NULL, &t, NULL) == 0);

	while (in.n_bytes) {
		unsigned what = (unsigned)take(&in, 1), offset;
		switch (what % 4) {
		case 0: /* a control register by its own width */
			offset = (unsigned)take(&in, 1) & 0xfcu;
			fuzz_write(&bus, AT + offset, 4, what & 0x80 ? take(&in, 4) : take(&in, 1));
			break;
		case 1:
			offset = (unsigned)take(&in, 2) & 0xfffu;
			fuzz_write(&bus, AT + offset, width_of(what >> 2), take(&in, 8));
			break;
		case 2:
			offset = (unsigned)take(&in, 2) & 0xfffu;
			(void)fuzz_read(&bus, AT + offset, width_of(what >> 2));
			break;
		default:
			guest_step(&g, what >> 2, &in);
			break;
		}
		guest_check(&g);
		MUST(fuzz_read(&bus, AT, 4) == 0x74726976);
		MUST(fuzz_read(&bus, AT + 0x60, 4) <= 3);
	}
	fuzz_write(&bus, AT + 0x70, 4, 0);
	MUST(fuzz_read(&bus, AT + 0x70, 4) == 0 && fuzz_read(&bus, AT + 0x60, 4) == 0);

	virtio_mmio_free(t);
	guest_done(&g);
	bus_done(&bus);
	irq_router_done(&router);
	return 0;
}

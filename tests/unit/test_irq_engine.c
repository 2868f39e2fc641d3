/* SPDX-License-Identifier: Apache-2.0 */
/* What router, I/O APIC and transports ask of the hypervisor, asked of the real one: it must take all of it and complain of
 * nothing. There is no vCPU: who gets an interrupt is the system tests' matter. */
#include "arch/x86_64/ioapic.h"
#include "base/bytes.h"
#include "bus/irq.h"
#include "bus/pci.h"
#include "test.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"

#include <stdatomic.h>

#define ECAM 0xe8000000ull
#define LOW 0xc0000000ull
#define MMIO 0xfec20000ull

static void count_log(void *context, const struct log_record *r)
{
	printf("# %s: %s\n", r->object, r->text);
	atomic_fetch_add((_Atomic int *)context, 1);
}

static void no_kick(struct virtio_device *v, unsigned queue)
{
	(void)v;
	(void)queue;
}

static const struct virtio_class idle_class = {
	.name = "idle", .virtio_id = 42, .n_queues = 3, .size = sizeof(struct virtio_device), .queue_size = 16, .kick = no_kick,
};

struct machine {
	_Atomic int n_logs;
	struct log_sink sink;
	struct log log;
	struct hv *hv;
	struct hv_vm *vm;
	struct irq_router router;
	struct ioapic io;
	struct bus mmio, ports;
	struct pci_bus pci;
	struct mem_map mem;
	struct loop *loop;
};

static void machine_init(struct machine *m, enum hv_irqchip irqchip)
{
	struct err e = { 0 };
	*m = (struct machine){ .n_logs = 0 };
	m->sink = (struct log_sink){ .write = count_log, .context = &m->n_logs, .max_level = LOG_WARN };
	m->log = (struct log){ .sink = &m->sink, .object = "test" };
	if (hv_open(&m->hv, &m->log, &e) < 0)
		test_skip(e.text);
	const struct hv_vm_params p = { .irqchip = irqchip, .n_ioapic_pins = IRQ_N_PINS, .log = &m->log };
	EQ(hv_vm_new(m->hv, &p, &m->vm, &e), 0);
	EQ(irq_router_init(&m->router, m->vm, irqchip, &m->log, &e), 0);
	bus_init(&m->mmio);
	bus_init(&m->ports);
	if (irqchip == HV_IRQCHIP_SPLIT) {
		const struct bus_range r = { IOAPIC_ADDRESS, IOAPIC_BYTES, &ioapic_bus_ops, &m->io, "ioapic" };
		EQ(ioapic_init(&m->io, &m->router, &e), 0);
		EQ(bus_add(&m->mmio, &r, &e), 0);
	}
	const struct pci_bus_params b = { .ecam = ECAM, .low = { LOW, 0x8000000 }, .router = &m->router, .log = &m->log };
	EQ(pci_bus_init(&m->pci, &b, &m->mmio, &m->ports, &e), 0);
	mem_map_init(&m->mem);
	EQ(loop_new(&m->loop, &e), 0);
}

static void machine_done(struct machine *m)
{
	loop_free(m->loop);
	mem_map_done(&m->mem);
	pci_bus_done(&m->pci);
	ioapic_done(&m->io);
	irq_router_done(&m->router);
	bus_done(&m->mmio);
	bus_done(&m->ports);
	hv_vm_free(m->vm);
	hv_close(m->hv);
	EQ(m->n_logs, 0);
}

static void set(struct machine *m, uint64_t address, unsigned n_bytes, uint64_t v)
{
	uint8_t bytes[8];
	put_le(bytes, n_bytes, v);
	OK(bus_write(&m->mmio, address, bytes, n_bytes));
}

static struct virtio_device *new_device(struct machine *m, const char *id)
{
	struct virtio_device *v;
	const struct virtio_params p = { .id = id, .mem = &m->mem, .io_loop = m->loop, .log_sink = &m->sink };
	EQ(virtio_device_new(&idle_class, &p, NULL, &v, NULL), 0);
	return v;
}

/* Two transports on one machine: vectors, lines and kick events appear, move and go. */
static void use_all(struct machine *m)
{
	struct virtio_device *a = new_device(m, "_a"), *b = new_device(m, "_b");
	struct virtio_pci *pci;
	struct virtio_mmio *mmio;
	EQ(virtio_pci_new(a, &m->pci, &m->router, m->vm, 1, &pci, NULL), 0);
	EQ(virtio_mmio_new(b, &m->mmio, MMIO, &m->router, 10, m->vm, &mmio, NULL), 0);
	struct pci_device *d = m->pci.slots[1];
	uint64_t config = ECAM + 0x8000, bar = d->bars[0].address;

	set(m, config + d->msix.capability + 2, 2, 0x8000);
	for (unsigned i = 0; i < 4; i++) {
		set(m, bar + 0x8000 + 16 * i, 8, 0xfee00000);
		set(m, bar + 0x8000 + 16 * i + 8, 8, 0x41 + i);
		OK(msix_raise(d, i));
		OK(atomic_load(&d->msix.vectors[i].msi.is_bound));
	}
	/* Whatever a guest writes there, the table stays one that the engine takes. */
	set(m, bar + 0x8000, 8, 0x00000001fee00000ull);
	set(m, bar + 0x8000, 8, UINT64_MAX);
	set(m, bar + 0x8000, 8, 0xfeefffe0);
	set(m, bar + 0x8008, 4, UINT32_MAX);

	for (unsigned i = 0; i < 3; i++) {
		set(m, bar + 0x6000 + 4 * i, 2, i);
		set(m, MMIO + 0x50, 4, i);
	}
	set(m, config + 0x10, 8, LOW + 0x4000000);
	set(m, LOW + 0x4000000 + 0x6000, 2, 0);
	set(m, config + 4, 2, 0);
	set(m, config + 4, 2, 2);
	set(m, LOW + 0x4000000 + 0x6008, 2, 0);
	b->ops->signal_queue(b->transport, 0);
	a->ops->signal_config(a->transport);
	set(m, config + d->msix.capability + 2, 2, 0);
	pci_intx_set(d, true);
	pci_intx_set(d, false);

	virtio_mmio_free(mmio);
	virtio_pci_free(pci);
	virtio_device_free(a);
	virtio_device_free(b);
}

TEST(split_irqchip)
{
	static struct machine m;
	struct irq_line serial;
	machine_init(&m, HV_IRQCHIP_SPLIT);
	EQ(irq_line_init(&serial, &m.router, 4, false, NULL), 0);
	for (unsigned pin = 0; pin < IRQ_N_PINS; pin++) {
		set(&m, IOAPIC_ADDRESS, 4, 0x11 + 2 * pin);
		set(&m, IOAPIC_ADDRESS + 0x10, 4, 0x01fe0000);
		set(&m, IOAPIC_ADDRESS, 4, 0x10 + 2 * pin);
		set(&m, IOAPIC_ADDRESS + 0x10, 4, pin < 16 ? 0x30 + pin : 0xa030 + pin);
	}
	irq_line_pulse(&serial);
	use_all(&m);
	irq_line_done(&serial);
	machine_done(&m);
}

TEST(irqchip_in_the_kernel)
{
	static struct machine m;
	struct irq_line serial;
	machine_init(&m, HV_IRQCHIP_KERNEL);
	EQ(irq_commit(&m.router, NULL), 0);
	EQ(irq_line_init(&serial, &m.router, 4, false, NULL), 0);
	irq_line_pulse(&serial);
	use_all(&m);
	irq_line_done(&serial);
	machine_done(&m);
}

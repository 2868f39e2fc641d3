/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio.h"

/* virtio 1.2, 4.1.4.3: struct virtio_pci_common_cfg */
enum common {
	DEVICE_FEATURE_SELECT = 0, DEVICE_FEATURE = 4, DRIVER_FEATURE_SELECT = 8, DRIVER_FEATURE = 12, MSIX_CONFIG = 16,
	NUM_QUEUES = 18, DEVICE_STATUS = 20, CONFIG_GENERATION = 21, QUEUE_SELECT = 22, QUEUE_SIZE = 24, QUEUE_MSIX_VECTOR = 26,
	QUEUE_ENABLE = 28, QUEUE_NOTIFY_OFF = 30, QUEUE_DESC = 32, QUEUE_DRIVER = 40, QUEUE_DEVICE = 48,
};

/* virtio 1.2, 4.2.2 */
enum mmio {
	M_MAGIC = 0, M_DEVICE_ID = 8, M_DEVICE_FEATURES = 0x10, M_DEVICE_FEATURES_SEL = 0x14, M_DRIVER_FEATURES = 0x20,
	M_DRIVER_FEATURES_SEL = 0x24, M_QUEUE_SEL = 0x30, M_QUEUE_NUM_MAX = 0x34, M_QUEUE_NUM = 0x38, M_QUEUE_READY = 0x44,
	M_QUEUE_NOTIFY = 0x50, M_STATUS = 0x70, M_QUEUE_DESC = 0x80, M_QUEUE_DRIVER = 0x90, M_QUEUE_DEVICE = 0xa0,
	M_CONFIG = 0x100,
};

uint32_t pci_read(unsigned slot, unsigned offset)
{
	out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
	return in32(0xcfc);
}

void pci_write(unsigned slot, unsigned offset, uint32_t v)
{
	out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
	out32(0xcfc, v);
}

static const char *name_of(unsigned type)
{
	return type == 2 ? "block" : type == 3 ? "console" : type == 4 ? "entropy" : type == 1 ? "net" : "other";
}

static uint64_t bar_address(unsigned slot, unsigned bar)
{
	uint32_t low = pci_read(slot, 0x10 + 4 * bar);
	uint64_t a = low & ~15u;
	if ((low & 6) == 4)
		a |= (uint64_t)pci_read(slot, 0x14 + 4 * bar) << 32;
	return a;
}

static void read_capabilities(struct device *d)
{
	unsigned at = pci_read(d->slot, 0x34) & 0xfc;
	for (int i = 0; at && i < 48; i++) {
		uint32_t head = pci_read(d->slot, at);
		if ((head & 0xff) == 9) { /* vendor-specific: struct virtio_pci_cap */
			unsigned kind = head >> 24, bar = pci_read(d->slot, at + 4) & 0xff;
			uint32_t offset = pci_read(d->slot, at + 8);
			if (kind == 1)
				d->common = bar_address(d->slot, bar) + offset;
			if (kind == 2) {
				d->notify = bar_address(d->slot, bar) + offset;
				d->notify_multiplier = pci_read(d->slot, at + 16);
			}
			if (kind == 3)
				d->isr = bar_address(d->slot, bar) + offset;
			if (kind == 4)
				d->space = bar_address(d->slot, bar) + offset;
			if (kind == 1)
				d->bar = bar_address(d->slot, bar);
		}
		at = head >> 8 & 0xfc;
	}
	d->bar_bytes = 0x80000;
}

static bool find_pci(unsigned slot, struct device *ret_d)
{
	uint32_t id = pci_read(slot, 0);
	if ((id & 0xffff) != 0x1af4 || id >> 16 < 0x1040)
		return false;
	*ret_d = (struct device){ .is_pci = true, .slot = (uint8_t)slot, .type = (id >> 16) - 0x1040 };
	ret_d->name = name_of(ret_d->type);
	pci_write(slot, 4, pci_read(slot, 4) | 6); /* memory, bus master */
	read_capabilities(ret_d);
	return ret_d->common && ret_d->notify;
}

unsigned devices_find(struct device *ret_d, const char *cmdline)
{
	unsigned n = 0;
	for (unsigned slot = 0; slot < 32 && n < MAX_DEVICES; slot++)
		n += find_pci(slot, &ret_d[n]);

	const char *at = cmdline;
	while (n < MAX_DEVICES && (at = find(at, "virtio_mmio.device=4K@"))) {
		uint64_t registers = parse_number(at, NULL);
		if (MMIO32(registers + M_MAGIC) != 0x74726976 || !MMIO32(registers + M_DEVICE_ID))
			continue;
		unsigned type = MMIO32(registers + M_DEVICE_ID);
		ret_d[n++] = (struct device){ .registers = registers, .type = type, .name = name_of(type) };
	}
	return n;
}

uint32_t device_status(const struct device *d)
{
	return d->is_pci ? MMIO8(d->common + DEVICE_STATUS) : MMIO32(d->registers + M_STATUS);
}

void device_set_status(const struct device *d, uint32_t status)
{
	if (d->is_pci)
		MMIO8(d->common + DEVICE_STATUS) = (uint8_t)status;
	else
		MMIO32(d->registers + M_STATUS) = status;
}

uint64_t device_features(const struct device *d)
{
	uint64_t f = 0;
	for (unsigned word = 0; word < 2; word++) {
		if (d->is_pci) {
			MMIO32(d->common + DEVICE_FEATURE_SELECT) = word;
			f |= (uint64_t)MMIO32(d->common + DEVICE_FEATURE) << (32 * word);
		} else {
			MMIO32(d->registers + M_DEVICE_FEATURES_SEL) = word;
			f |= (uint64_t)MMIO32(d->registers + M_DEVICE_FEATURES) << (32 * word);
		}
	}
	return f;
}

void device_accept(const struct device *d, uint64_t features)
{
	for (unsigned word = 0; word < 2; word++) {
		if (d->is_pci) {
			MMIO32(d->common + DRIVER_FEATURE_SELECT) = word;
			MMIO32(d->common + DRIVER_FEATURE) = (uint32_t)(features >> (32 * word));
		} else {
			MMIO32(d->registers + M_DRIVER_FEATURES_SEL) = word;
			MMIO32(d->registers + M_DRIVER_FEATURES) = (uint32_t)(features >> (32 * word));
		}
	}
}

void device_kick(const struct device *d, unsigned queue)
{
	if (!d->is_pci) {
		MMIO32(d->registers + M_QUEUE_NOTIFY) = queue;
		return;
	}
	MMIO16(d->common + QUEUE_SELECT) = (uint16_t)queue;
	uint16_t offset = MMIO16(d->common + QUEUE_NOTIFY_OFF);
	MMIO16(d->notify + (uint64_t)offset * d->notify_multiplier) = (uint16_t)queue;
}

unsigned device_queue_max(const struct device *d, unsigned queue)
{
	if (!d->is_pci) {
		MMIO32(d->registers + M_QUEUE_SEL) = queue;
		return MMIO32(d->registers + M_QUEUE_NUM_MAX);
	}
	MMIO16(d->common + QUEUE_SELECT) = (uint16_t)queue;
	return MMIO16(d->common + QUEUE_SIZE);
}

static void write_address(uint64_t at, uint64_t v)
{
	MMIO32(at) = (uint32_t)v;
	MMIO32(at + 4) = (uint32_t)(v >> 32);
}

void device_set_queue(const struct device *d, unsigned queue, unsigned size, uint64_t desc, uint64_t avail, uint64_t used)
{
	if (d->is_pci) {
		MMIO16(d->common + QUEUE_SELECT) = (uint16_t)queue;
		MMIO16(d->common + QUEUE_SIZE) = (uint16_t)size;
		write_address(d->common + QUEUE_DESC, desc);
		write_address(d->common + QUEUE_DRIVER, avail);
		write_address(d->common + QUEUE_DEVICE, used);
		MMIO16(d->common + QUEUE_ENABLE) = 1;
	} else {
		MMIO32(d->registers + M_QUEUE_SEL) = queue;
		MMIO32(d->registers + M_QUEUE_NUM) = size;
		write_address(d->registers + M_QUEUE_DESC, desc);
		write_address(d->registers + M_QUEUE_DRIVER, avail);
		write_address(d->registers + M_QUEUE_DEVICE, used);
		MMIO32(d->registers + M_QUEUE_READY) = 1;
	}
}

void device_write_space(const struct device *d, unsigned offset, uint32_t v)
{
	if (d->is_pci)
		MMIO32(d->space + offset) = v;
	else
		MMIO32(d->registers + M_CONFIG + offset) = v;
}

bool device_start(const struct device *d, struct ring *r, unsigned queue, uint64_t features)
{
	device_set_status(d, 0);
	if (device_status(d) != 0)
		return false;
	fill(r, 0, sizeof *r); /* not before the reset: the device may still write to the ring of its old life */
	device_set_status(d, ACKNOWLEDGE);
	device_set_status(d, ACKNOWLEDGE | DRIVER);
	device_accept(d, features | F_VERSION_1);
	device_set_status(d, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	if (!(device_status(d) & FEATURES_OK))
		return false;
	device_set_queue(d, queue, QSIZE, (uintptr_t)r->desc, (uintptr_t)&r->avail, (uintptr_t)&r->used);
	device_set_status(d, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
	return (device_status(d) & (DRIVER_OK | NEEDS_RESET)) == DRIVER_OK;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Garbage from a seed. What would rightly end the VM is left out: the power and reset ports. */
#include "attack.h"

static void access_at_random(uint64_t a)
{
	uint64_t v = random_u64();
	switch (random_below(8)) {
	case 0: MMIO8(a) = (uint8_t)v; break;
	case 1: MMIO16(a & ~1ull) = (uint16_t)v; break;
	case 2: MMIO32(a & ~3ull) = (uint32_t)v; break;
	case 3: MMIO64(a & ~7ull) = v; break;
	case 4: (void)MMIO8(a); break;
	case 5: (void)MMIO16(a); break; /* unaligned ones too */
	case 6: (void)MMIO32(a); break;
	default: (void)MMIO64(a); break;
	}
}

static void device_registers(const struct device *d)
{
	uint64_t start = d->is_pci ? d->bar : d->registers, n_bytes = d->is_pci ? d->bar_bytes : 4096;
	for (int i = 0; i < 24; i++) {
		/* Half of it where something is. */
		uint64_t offset = random_below(random_below(2) ? n_bytes - 8 : 256);
		access_at_random(start + offset);
	}
}

static void configuration_space(const struct device *d)
{
	if (!d->is_pci)
		return;
	for (int i = 0; i < 8; i++) {
		unsigned offset = (unsigned)random_below(256) & ~3u;
		uint32_t old = pci_read(d->slot, offset);
		pci_write(d->slot, offset, (uint32_t)random_u64());
		device_kick(d, 0);
		pci_write(d->slot, offset, old); /* BARs and decoding come back, so that the device can be found */
	}
	for (int i = 0; i < 8; i++) /* the configuration ports themselves, at odd widths and places */
		switch (random_below(4)) {
		case 0: out8((uint16_t)(0xcfa + random_below(2)), (uint8_t)random_u64()); break; /* neither reset nor data */
		case 1: (void)in16((uint16_t)(0xcf8 + random_below(7))); break;
		case 2: (void)in32((uint16_t)(0xcfa + random_below(4))); break;
		default: (void)in8((uint16_t)(0xcf8 + random_below(8))); break;
		}
}

static bool ends_the_vm(unsigned port)
{
	return (port >= 0x600 - 3 && port <= 0x603) || (port >= 0x60 - 3 && port <= 0x64) || (port >= 0xcf8 - 3 && port <= 0xcff) ||
	       (port >= 0x3f8 - 3 && port <= 0x3ff);
}

static void other_ports(void)
{
	for (int i = 0; i < 16; i++) {
		unsigned port = (unsigned)random_below(random_below(2) ? 0x10000 - 4 : 0x700);
		if (ends_the_vm(port))
			continue;
		switch (random_below(4)) {
		case 0: out8((uint16_t)port, (uint8_t)random_u64()); break;
		case 1: out32((uint16_t)port, (uint32_t)random_u64()); break;
		case 2: (void)in8((uint16_t)port); break;
		default: (void)in32((uint16_t)port); break;
		}
	}
	for (int i = 0; i < 4; i++) /* the I/O APIC, masked entries included */
		access_at_random(0xfec00000 + random_below(0x40) * 4);
}

static uint64_t interesting_address(struct ring *r)
{
	switch (random_below(6)) {
	case 0: return random_u64();
	case 1: return random_below(1ull << 33);
	case 2: return (uintptr_t)r + random_below(sizeof *r);
	default: return (uintptr_t)r->data + random_below(sizeof r->data);
	}
}

static void garbage_ring(const struct device *d, struct ring *r)
{
	unsigned queue = (unsigned)random_below(3);
	if (!device_start(d, r, queue, random_u64() & device_features(d)))
		return;
	if (random_below(4) == 0)
		fill_random((void *)(uintptr_t)r->desc, sizeof r->desc);
	for (unsigned i = 0; i < QSIZE; i++) {
		r->desc[i].addr = interesting_address(r);
		r->desc[i].len = (uint32_t)(random_below(4) ? random_below(1024) : random_u64());
		r->desc[i].flags = (uint16_t)(random_below(8) ? random_below(4) : random_below(16));
		r->desc[i].next = (uint16_t)random_below(random_below(8) ? QSIZE : 65536);
		r->table[i] = r->desc[i];
		r->avail.ring[i] = (uint16_t)random_below(random_below(8) ? QSIZE : 65536);
	}
	fill_random(r->data, 64); /* request headers */
	for (int i = 0; i < 4; i++) {
		r->avail.idx = (uint16_t)(r->avail.idx + random_below(QSIZE));
		device_kick(d, queue);
	}
}

/* What the registers say, for whoever has to find out. */
static void report(const struct device *d)
{
	print("status ");
	print_hex(device_status(d));
	for (unsigned i = 0; d->is_pci && i < 10; i++) {
		print(i ? " " : ", configuration space ");
		print_hex(pci_read(d->slot, 4 * i));
	}
	print("\n");
}

unsigned attack_at_random(const struct device *d, unsigned n_devices, struct ring *r, uint64_t n_rounds)
{
	unsigned n_failed = 0;
	for (uint64_t round = 0; round < n_rounds; round++) {
		const struct device *one = &d[random_below(n_devices)];
		garbage_ring(one, r);
		device_registers(one);
		configuration_space(one);
		other_ports();
		if (round % 8 == 7 && !is_alive(one, r))
			n_failed += verdict(one, "random", "WEDGED");
	}
	for (unsigned i = 0; i < n_devices; i++) {
		bool lives = is_alive(&d[i], r);
		if (!lives)
			report(&d[i]);
		n_failed += verdict(&d[i], "random", lives ? "PASS" : "WEDGED");
	}
	return n_failed;
}

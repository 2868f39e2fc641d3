/* SPDX-License-Identifier: Apache-2.0 */
/* virtio.h - the driver's side of virtio 1.2 for one device at a time, over PCI or MMIO; it does as it is told, also what
 * the specification forbids. */
#pragma once
#include "kit.h"

#define ACKNOWLEDGE 1u
#define DRIVER 2u
#define DRIVER_OK 4u
#define FEATURES_OK 8u
#define NEEDS_RESET 64u

#define F_INDIRECT (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define F_VERSION_1 (1ull << 32)

#define D_NEXT 1u
#define D_WRITE 2u
#define D_INDIRECT 4u

#define QSIZE 16u

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct avail {
	uint16_t flags, idx, ring[QSIZE], used_event;
};

struct used {
	uint16_t flags, idx;
	struct { uint32_t id, len; } ring[QSIZE];
	uint16_t avail_event;
};

/* One ring in our memory. */
struct ring {
	volatile struct desc desc[QSIZE] __attribute__((aligned(4096)));
	volatile struct avail avail __attribute__((aligned(4096)));
	volatile struct used used __attribute__((aligned(4096)));
	uint8_t data[8192] __attribute__((aligned(4096)));
	struct desc table[2 * QSIZE] __attribute__((aligned(4096)));
};

struct device {
	bool is_pci;
	unsigned type;                /* virtio ID */
	const char *name;
	uint8_t slot;
	uint64_t common, notify, isr, space; /* PCI: addresses of the capability windows */
	uint32_t notify_multiplier;
	uint64_t bar, bar_bytes;
	uint64_t registers;           /* MMIO */
};

#define MAX_DEVICES 16

/* Finds all virtio devices: on PCI bus 0, and those that the command line names. Returns how many. */
unsigned devices_find(struct device *ret_d, const char *cmdline);

uint32_t pci_read(unsigned slot, unsigned offset);
void pci_write(unsigned slot, unsigned offset, uint32_t v);

uint32_t device_status(const struct device *d);
void device_set_status(const struct device *d, uint32_t status);
uint64_t device_features(const struct device *d);
void device_accept(const struct device *d, uint64_t features);
void device_kick(const struct device *d, unsigned queue);
unsigned device_queue_max(const struct device *d, unsigned queue);
/* Any size and addresses. */
void device_set_queue(const struct device *d, unsigned queue, unsigned size, uint64_t desc, uint64_t avail, uint64_t used);
void device_write_space(const struct device *d, unsigned offset, uint32_t v);

/* Reset; then, with these features, up to DRIVER_OK with r as queue `queue`. False when the device does not play along. */
bool device_start(const struct device *d, struct ring *r, unsigned queue, uint64_t features);

/* SPDX-License-Identifier: Apache-2.0 */
/* machine_internal.h - a machine as its own files see it: assembly (machine.c), virtio devices (machine_devices.c), the
 * rate limits of disks (machine_limits.c), coming and going while the guest runs (machine_hotplug.c), and what is told of
 * devices (machine_tree.c). Main thread. */
#pragma once
#include "arch/x86_64/boot.h"
#include "arch/x86_64/ioapic.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "bus/pci.h"
#include "bus/pci_hotplug.h"
#include "device/debug_port.h"
#include "device/ged.h"
#include "device/pm_timer.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "hv/hv.h"
#include "loop/loop.h"
#include "mem/file_map.h"
#include "virtio/mmio.h"
#include "virtio/pci.h"
#include "virtio/virtio.h"
#include "vm/machine.h"

#define MAX_VIRTIO_DEVICES 64u
#define PREFIX_PCI_ID "_virtio-pci-" /* before a device's id: that of its PCI function */

struct block_image;
struct rate_limit;

/* One virtio device on its transport. */
struct attached {
	struct list_link link;
	struct machine *m;
	char *id;
	struct virtio_device *v;
	struct virtio_pci *pci;
	struct virtio_mmio *mmio;
	struct block_image *image; /* of a disk */
	struct rate_limit *own_limit; /* of a disk that has one to itself */
	bool is_removable;
	bool is_leaving;   /* the guest was asked for it */
	uint64_t asked_ns; /* when; the last time */
	struct log_limit change_limit;
};

struct machine {
	struct machine_params p;
	struct log log;

	struct mem_map mem;
	struct mem_files files;
	struct hv_vm *vm;
	struct bus mmio, ports;

	struct irq_router router;
	struct ioapic ioapic;
	struct pci_bus pci;
	bool has_router, has_ioapic, has_pci;

	struct serial serial;
	struct rtc rtc;
	struct pm_timer pm_timer;
	struct power power;
	struct debug_port debug_port;
	struct debug_console debug_console;
	struct ged ged;
	struct pci_hotplug hotplug;
	struct irq_line serial_line, ged_line;
	bool has_serial, has_rtc, has_debug_console, has_hotplug;

	struct rate_limit **limits; /* of the configuration's groups, in their order */
	size_t n_limits;
	struct list_link devices; /* struct attached, in the order in which they came */
	size_t n_devices;
	struct machine_ejection *ejection; /* NULL without hotplug */
	struct timer retry;                /* while the guest has not read what it was told */
	uint64_t retry_ns;
	uint32_t wary_slots; /* a guest may still be about to eject something there, though it has done so */

	struct x86_machine x86;
	struct hv_cpuid supported; /* too large for a stack */
	struct hv_cpuid cpuid;
	struct x86_entry entry;
	uint32_t apic_ids[256]; /* boot_vcpus is 8 bits wide */
	struct vcpus vcpus;
};

/* --- machine_devices.c ---------------------------------------------------------------------------------------------- */

int machine_add_virtio_devices(struct machine *m, struct err *e);
/* By its id, or, when that is nobody's, by that of its PCI function. */
struct attached *machine_find_device(struct machine *m, const char *id);
/* The lowest free slot, or the one that c asks for. Errors are in words for whoever asked. */
int machine_choose_slot(const struct machine *m, const struct disk_config *c, struct err *e);
/* c has an id. Opens the image and makes the device, on no transport yet; it is in the list of devices then. */
int machine_open_disk(struct machine *m, const struct disk_config *c, struct attached **ret_a, struct err *e);
/* Onto the transport; vCPUs do not run. On failure the device stays as it was. slot: of PCI. */
int machine_plug(struct machine *m, struct attached *a, int slot, struct err *e);
/* vCPUs do not run, or its transport is gone already. */
void machine_free_device(struct machine *m, struct attached *a);

/* The codes that speak of what was asked for are not the host's to use: -EIO instead. */
int machine_hosts_error(int rc, struct err *e);

/* --- machine_limits.c ----------------------------------------------------------------------------------------------- */

int machine_make_limits(struct machine *m, struct err *e);
void machine_free_limits(struct machine *m); /* after the devices */
/* Its group's, one of its own, or none (NULL). What is its own is a's from now on. */
int machine_limit_disk(struct machine *m, struct attached *a, const struct disk_config *c, struct rate_limit **ret_r,
                       struct err *e);

/* --- machine_hotplug.c ---------------------------------------------------------------------------------------------- */

/* After the devices of the configuration are there. */
int machine_start_hotplug(struct machine *m, struct err *e);
/* vCPUs have ended: what was on its way out goes, and whoever wants to know is told. */
void machine_end_hotplug(struct machine *m);

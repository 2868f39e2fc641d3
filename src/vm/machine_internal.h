/* SPDX-License-Identifier: Apache-2.0 */
/* machine_internal.h - a machine as its own files see it: assembly (machine.c), virtio devices (machine_devices.c), the
 * kinds of which there may be many (machine_disk.c with the rate limits in machine_limits.c, machine_pmem.c), memory that they
 * bring (machine_memory.c), coming and going while the guest runs (machine_hotplug.c), and what is told of devices
 * (machine_tree.c). Main thread. */
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

struct attached;
struct rate_limit;

/* A kind of devices that the configuration lists, and that come and go while the guest runs. A new one is a row in
 * machine_devices.c. */
struct device_kind {
	const char *member; /* its list, as vm_config_add_device() */
	const char *option; /* what the user has to look at: "--disk" */
	/* config is an item of the list. */
	int (*refuse)(const void *config, struct err *e); /* what is not supported yet */
	/* Takes what is the host's (a->backend) and makes the device by machine_make_virtio(). close() follows when it fails. */
	int (*open)(struct machine *m, struct attached *a, const void *config, struct err *e);
	void (*close)(struct attached *a); /* what open() took; the device is gone already */
};

#define DEVICE_MEMORY_ALIGN (2ull << 20) /* a huge page; what Linux can take of such memory */

/* What a device brings into the guest's address space, if anything: a kind's open() says it, the machine maps it. */
struct device_memory {
	struct gpa start;
	uint64_t n_bytes; /* 0: it brings none */
	int fd;           /* the kind's; from its first byte on */
	bool is_private;  /* what is written stays out of the file */
	bool is_mapped;
	size_t index;     /* when it is: in the map's device_regions */
	struct mem_region taken; /* out of the map, and still to be unmapped, while the guest runs again */
};

/* One virtio device on its transport. */
struct attached {
	struct list_link link;
	struct machine *m;
	char *id;
	struct virtio_device *v;
	struct virtio_pci *pci;
	struct virtio_mmio *mmio;
	const struct device_kind *kind; /* NULL: of no list, and not removable */
	void *backend;                  /* the kind's own */
	struct device_memory memory;
	bool is_leaving;                /* the guest was asked for it */
	uint64_t asked_ns;              /* when; the last time */
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

/* --- machine.c ------------------------------------------------------------------------------------------------------ */

/* Nobody is in guest memory any more, neither vCPUs nor the host's I/O on their behalf. True: they were running, and want a
 * machine_resume(). */
bool machine_quiesce(struct machine *m);

/* --- machine_devices.c ---------------------------------------------------------------------------------------------- */

int machine_add_virtio_devices(struct machine *m, struct err *e);
/* By its id, or, when that is nobody's, by that of its PCI function. */
struct attached *machine_find_device(struct machine *m, const char *id);
bool machine_has_kind(const struct machine *m, const struct device_kind *k);
bool machine_has_vhost_disk(const struct machine *m); /* machine_disk.c */
const struct device_kind *machine_find_kind(const char *member); /* NULL: not supported yet */
/* The lowest free slot, or the one that is asked for (-1: none is). Errors are in words for whoever asked. */
int machine_choose_slot(const struct machine *m, int asked_for, struct err *e);
/* Opens what config asks for and makes the device, on no transport yet; it is in the list of devices then. */
int machine_open_device(struct machine *m, const struct device_kind *k, const char *id, const void *config,
                        struct attached **ret_a, struct err *e);
/* For open() of a kind: makes a->v. how: of its queues; the rest is the machine's. */
int machine_make_virtio(struct machine *m, struct attached *a, const struct virtio_class *cls,
                        const struct virtio_params *how, const void *params, struct err *e);
/* Onto the transport, with its memory; vCPUs do not run, and nothing does where it brings some. On failure the device is off
 * the transport, and its memory unmapped. slot: of PCI. */
int machine_plug(struct machine *m, struct attached *a, int slot, struct err *e);
/* vCPUs do not run, or its transport is gone already. What machine_unmap_memory() took from the guest is given
 * back here. */
void machine_free_device(struct machine *m, struct attached *a);

/* The codes that speak of what was asked for are not the host's to use: -EIO instead. */
int machine_hosts_error(int rc, struct err *e);

/* --- kinds ---------------------------------------------------------------------------------------------------------- */

extern const struct device_kind machine_disks, machine_pmem;

/* --- machine_memory.c ----------------------------------------------------------------------------------------------- */

/* For open() of a kind: fills a->memory but for the file. No address is taken twice. */
int machine_place_memory(struct machine *m, struct attached *a, uint64_t n_bytes, struct err *e);
/* Between machine_quiesce() and machine_resume(), or before the machine starts. */
int machine_map_memory(struct machine *m, struct attached *a, struct err *e);
/* Out of the guest, if it is there; machine_free_device() gives its pages back, while the guest runs again. */
void machine_unmap_memory(struct machine *m, struct attached *a);

/* --- machine_limits.c ----------------------------------------------------------------------------------------------- */

int machine_make_limits(struct machine *m, struct err *e);
void machine_free_limits(struct machine *m); /* after the devices */
/* Its group's, one of its own, or none (NULL). What is its own is the caller's as well, in ret_own. */
int machine_limit_disk(struct machine *m, const struct disk_config *c, struct rate_limit **ret_own,
                       struct rate_limit **ret_r, struct err *e);

/* --- machine_hotplug.c ---------------------------------------------------------------------------------------------- */

/* After the devices of the configuration are there. */
int machine_start_hotplug(struct machine *m, struct err *e);
/* vCPUs have ended: what was on its way out goes, and whoever wants to know is told. */
void machine_end_hotplug(struct machine *m);

/* SPDX-License-Identifier: Apache-2.0 */
/* machine.h - what the guest sees, assembled in one visible order: memory, hypervisor, interrupts, buses, devices, boot
 * data, vCPUs. Built anew at every boot, taken down as a whole. Main thread, but for the callback. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/log.h"
#include "config/vm_config.h"
#include "vm/vcpu.h"

struct char_backend;
struct events;
struct hv;
struct machine;
struct pci_device_info;
struct text;

struct machine_params {
	const struct vm_config *config;
	struct hv *hv;
	struct loop *loop; /* the main loop: its thread alone calls the functions below */
	struct loop *io_loop;
	struct char_backend *serial, *console; /* NULL: the device does not exist */
	const struct log_sink *log_sink;
	struct events *events; /* vm/events.h; may be NULL */
	int lease_signal;      /* as vm_params */
	/* The guest reset, powered off, crashed, or a vCPU failed. vCPU threads. */
	void (*event)(void *context, enum vcpu_event what, const char *report);
	/* A device has left: the guest has let go of it, or the machine has ended while it was asked to. Its id and its slot are
	 * free. was_asked_for: not the guest alone wanted it. Main loop, also from machine_free(); the machine may not be freed
	 * in it. May be NULL. */
	void (*removed)(void *context, const char *id, const char *bdf, bool was_asked_for);
	void *context;
};

int machine_new(const struct machine_params *p, struct machine **ret_m, struct err *e); /* vCPUs do not run yet */
void machine_free(struct machine *m);                                                   /* stops everything; NULL is fine */
int machine_start(struct machine *m, struct err *e);
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);
/* False when the guest has no way to notice (no ACPI). */
bool machine_power_button(struct machine *m);
int machine_nmi(struct machine *m, struct err *e); /* to every vCPU */

/* A mapped file is about to change: copies take the place of its pages. */
int machine_keep_files(struct machine *m);
/* A huge page takes the place of mapped pages, where they are to stay for a while only. 1: there are more. */
int machine_settle_files(struct machine *m);

/* Of the devices on virtio transports, by their own ids. */
enum device_presence { DEVICE_ABSENT, DEVICE_THERE, DEVICE_LEAVING };
enum device_presence machine_presence(struct machine *m, const char *id);
/* Whether devices of this list of the configuration are supported: those may be added. */
bool machine_takes(const char *member);
/* config: one of that list's, with an id. After machine_start(), running or paused. The guest is told and may use the device
 * from now on. -EEXIST: the id is taken, perhaps by a device that is being removed; -EINVAL: the place on the bus is, or the
 * id is too long; -ENOTSUP: without PCI and ACPI. What the host refuses is none of these. */
int machine_add_device(struct machine *m, const char *member, const void *config, struct pci_device_info *ret_info,
                       struct err *e);
/* Asks the guest, which answers when it likes: removed() tells. -ENOENT: there is none; -EBUSY: it has been asked already;
 * -ENOTSUP: not one that can leave. */
int machine_remove_device(struct machine *m, const char *id, struct err *e);

/* Makes a disk larger under a guest, which is told; running or paused. Waits for the image's I/O. -ENOENT: there is no such
 * disk; whatever else fails is none of the codes above but -ENOTSUP, and nothing has changed then. */
int machine_resize_disk(struct machine *m, const char *id, uint64_t n_bytes, struct err *e);

/* JSON objects: {"_disk0": {"id": "_disk0", "resources": [], "parent": "_virtio-pci-_disk0", "children": [],
 * "pci_bdf": null}, ...}, and "being_removed": true in what is on its way out; {"_disk0": {"read_bytes": 0, ...}, ...}. */
void machine_device_tree(struct machine *m, struct text *json);
void machine_device_counters(struct machine *m, struct text *json);
void machine_counters(struct machine *m, struct text *t);

/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio devices of a machine: from the configuration to an open backend, a device and a place on a transport. */
#include "base/checked.h"
#include "config/devices.h"
#include "device/virtio_console.h"
#include "device/virtio_rng.h"
#include "vm/events.h"
#include "vm/machine_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct device_kind *const kinds[] = { &machine_disks, &machine_pmem };

const struct device_kind *machine_find_kind(const char *member)
{
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		if (strcmp(kinds[i]->member, member) == 0)
			return kinds[i];
	}
	return NULL;
}

bool machine_has_kind(const struct machine *m, const struct device_kind *k)
{
	list_for_each(l, &m->devices) {
		if (list_entry(l, struct attached, link)->kind == k)
			return true;
	}
	return false;
}

/* Says which option the user has to look at. */
static int with_option(int rc, const char *option, struct err *e)
{
	if (rc < 0)
		err_prefix(e, "%s: ", option);
	return rc;
}

struct attached *machine_find_device(struct machine *m, const char *id)
{
	list_for_each(l, &m->devices) {
		struct attached *a = list_entry(l, struct attached, link);
		if (strcmp(a->id, id) == 0)
			return a;
	}
	if (strncmp(id, PREFIX_PCI_ID, strlen(PREFIX_PCI_ID)) != 0)
		return NULL;
	list_for_each(l, &m->devices) {
		struct attached *a = list_entry(l, struct attached, link);
		if (a->pci && strcmp(a->id, id + strlen(PREFIX_PCI_ID)) == 0)
			return a;
	}
	return NULL;
}

/* --- transports ------------------------------------------------------------------------------------------------------- */

static int plug_mmio(struct machine *m, struct attached *a, struct err *e)
{
	if (m->x86.n_mmio == X86_MAX_MMIO_DEVICES || X86_PIN_VIRTIO_MMIO + m->x86.n_mmio >= IRQ_N_PINS)
		return err_set(e, ENOSPC, "%s: no interrupt pin is left for another virtio-mmio device (%u at most)", a->v->id,
		               IRQ_N_PINS - X86_PIN_VIRTIO_MMIO);
	struct x86_mmio_device d = {
		.address = X86_VIRTIO_MMIO + m->x86.n_mmio * VIRTIO_MMIO_BYTES,
		.n_bytes = VIRTIO_MMIO_BYTES,
		.pin = X86_PIN_VIRTIO_MMIO + (uint32_t)m->x86.n_mmio,
	};
	m->x86.mmio[m->x86.n_mmio++] = d;
	return virtio_mmio_new(a->v, &m->mmio, d.address, &m->router, d.pin, m->vm, &a->mmio, e);
}

/* Slots that devices of the configuration ask for by number. */
static uint32_t slots_asked_for(const struct vm_config *c)
{
	uint32_t slots = 0;
	for (struct device_cursor d = { 0 }; vm_config_next(c, &d);) {
		struct device_facts f;
		vm_config_describe(d.member, d.device, &f);
		if (f.slot >= 0 && f.slot < PCI_N_SLOTS)
			slots |= 1u << f.slot;
	}
	return slots;
}

static int lowest_free(const struct machine *m, uint32_t but_these)
{
	for (int slot = 0; slot < PCI_N_SLOTS; slot++) {
		if (!m->pci.slots[slot] && !(but_these >> slot & 1))
			return slot;
	}
	return -1;
}

int machine_choose_slot(const struct machine *m, int asked_for, struct err *e)
{
	int slot = asked_for;
	if (!m->has_pci)
		return 0; /* there is no choice */
	if (slot >= 0) {
		if (slot < 1 || slot >= PCI_N_SLOTS)
			return err_set(e, EINVAL, "pci_device_id=%d is not a number from 1 to %d", slot, PCI_N_SLOTS - 1);
		if (m->pci.slots[slot])
			return err_set(e, EINVAL, "pci_device_id=%d is taken by '%s'", slot, m->pci.slots[slot]->name);
		return slot;
	}
	uint32_t taken = slots_asked_for(m->p.config);
	slot = lowest_free(m, taken | m->wary_slots);
	if (slot < 0)
		slot = lowest_free(m, taken);
	if (slot < 0)
		slot = lowest_free(m, 0);
	if (slot < 0)
		return err_set(e, ENOSPC, "all %d slots of the PCI bus are in use", PCI_N_SLOTS);
	return slot;
}

int machine_plug(struct machine *m, struct attached *a, int slot, struct err *e)
{
	int rc = machine_map_memory(m, a, e);
	if (rc < 0)
		return rc;
	rc = m->has_pci ? virtio_pci_new(a->v, &m->pci, &m->router, m->vm, slot, &a->pci, e) : plug_mmio(m, a, e);
	if (rc < 0)
		machine_unmap_memory(m, a);
	return rc;
}

/* --- devices ------------------------------------------------------------------------------------------------------------ */

/* Any thread. A guest can reset a device as often as it likes, and is not to fill the host's disk with that: what is above
 * the limit is counted in the log. */
static void on_change(void *context, const struct virtio_device *v, bool is_active)
{
	struct attached *a = context;
	const struct log log = { .sink = a->m->p.log_sink, .object = v->id };
	if (log_limit_pass(&log, &a->change_limit))
		events_emit_device(a->m->p.events, "virtio-device", is_active ? "activated" : "reset", v->id, NULL);
}

/* In the list from the start: machine_free_device() takes it down, whatever is there of it. */
static int new_device(struct machine *m, const char *id, struct attached **ret_a, struct err *e)
{
	if (m->n_devices == MAX_VIRTIO_DEVICES)
		return err_set(e, ENOSPC, "%s: more than %u virtio devices", id, MAX_VIRTIO_DEVICES);
	struct attached *a = calloc(1, sizeof *a);
	if (a)
		a->id = strdup(id);
	if (!a || !a->id) {
		free(a);
		return err_set(e, ENOMEM, "%s: no memory", id);
	}
	a->m = m;
	list_append(&m->devices, &a->link);
	m->n_devices++;
	*ret_a = a;
	return 0;
}

int machine_make_virtio(struct machine *m, struct attached *a, const struct virtio_class *cls,
                        const struct virtio_params *how, const void *params, struct err *e)
{
	struct virtio_params p = {
		.id = a->id,
		.mem = &m->mem,
		.io_loop = m->p.io_loop,
		.log_sink = m->p.log_sink,
		.queue_size = how->queue_size,
		.queue_cpus = how->queue_cpus,
		.n_queue_cpus = how->n_queue_cpus,
		.changed = on_change,
		.context = a,
	};
	return virtio_device_new(cls, &p, params, &a->v, e);
}

void machine_free_device(struct machine *m, struct attached *a)
{
	/* First what the guest could still reach, then the device (its reset drains), then what it used. */
	if (a->v)
		virtio_device_reset(a->v);
	virtio_pci_free(a->pci);
	virtio_mmio_free(a->mmio);
	virtio_device_free(a->v);
	mem_region_unmap(&a->memory.taken);
	if (a->kind)
		a->kind->close(a);
	list_remove(&a->link);
	m->n_devices--;
	free(a->id);
	free(a);
}

int machine_open_device(struct machine *m, const struct device_kind *k, const char *id, const void *config,
                        struct attached **ret_a, struct err *e)
{
	struct attached *a = NULL;
	assert(id); /* given, or made for the configuration */
	int rc = new_device(m, id, &a, e);
	if (rc < 0)
		return rc;
	a->kind = k;
	rc = k->open(m, a, config, e);
	if (rc < 0) {
		machine_free_device(m, a);
		return rc;
	}
	*ret_a = a;
	return 0;
}

int machine_hosts_error(int rc, struct err *e)
{
	if (rc != -EINVAL && rc != -EEXIST && rc != -ENOENT)
		return rc;
	if (e)
		e->code = EIO;
	return -EIO;
}

/* One of the configuration's. */
static int add_listed(struct machine *m, const struct device_kind *k, const void *config, struct err *e)
{
	struct attached *a = NULL;
	struct device_facts f;
	vm_config_describe(k->member, config, &f);
	int slot = machine_choose_slot(m, f.slot, e);
	int rc = slot < 0 ? slot : machine_open_device(m, k, f.id, config, &a, e);
	return rc < 0 ? rc : machine_plug(m, a, slot, e);
}

static int add_other(struct machine *m, const struct virtio_class *cls, const char *id, const void *params, struct err *e)
{
	struct attached *a = NULL;
	int slot = machine_choose_slot(m, -1, e);
	int rc = slot < 0 ? slot : new_device(m, id, &a, e);
	if (rc >= 0)
		rc = machine_make_virtio(m, a, cls, &(struct virtio_params){ 0 }, params, e);
	return rc < 0 ? rc : machine_plug(m, a, slot, e);
}

int machine_add_virtio_devices(struct machine *m, struct err *e)
{
	const struct vm_config *c = m->p.config;
	struct virtio_rng_params rng = { .source = c->rng.src };
	struct virtio_console_params console = { .backend = m->p.console };
	int rc = 0;

	for (struct device_cursor d = { 0 }; rc >= 0 && vm_config_next(c, &d);) {
		const struct device_kind *k = machine_find_kind(d.member);
		if (!k)
			return err_set(e, ENOTSUP, "not supported yet: %s", d.member);
		rc = with_option(add_listed(m, k, d.device, e), k->option, e);
	}
	if (rc >= 0 && m->p.console)
		rc = with_option(add_other(m, &virtio_console, "__console", &console, e), "--console", e);
	if (rc >= 0)
		rc = with_option(add_other(m, &virtio_rng, "__rng", &rng, e), "--rng", e);
	return rc;
}

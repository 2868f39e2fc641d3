/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio devices of a machine: from the configuration to an open backend, a device and a place on a transport. */
#include "backend/block.h"
#include "base/checked.h"
#include "base/clock.h"
#include "device/rate_limit.h"
#include "device/vhost_user_blk.h"
#include "device/virtio_blk.h"
#include "device/virtio_console.h"
#include "device/virtio_rng.h"
#include "vm/events.h"
#include "vm/machine_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Backends are often started together with the machine. */
#define BACKEND_WAIT_NS (5 * NS_PER_S)

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

/* Slots that disks of the configuration ask for by number. */
static uint32_t slots_asked_for(const struct vm_config *c)
{
	uint32_t slots = 0;
	for (size_t i = 0; i < c->n_disks; i++) {
		if (c->disks[i].has_pci_device_id && c->disks[i].pci_device_id < PCI_N_SLOTS)
			slots |= 1u << c->disks[i].pci_device_id;
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

int machine_choose_slot(const struct machine *m, const struct disk_config *c, struct err *e)
{
	if (!m->has_pci)
		return 0; /* there is no choice */
	if (c && c->has_pci_device_id) {
		int slot = c->pci_device_id;
		if (slot < 1 || slot >= PCI_N_SLOTS)
			return err_set(e, EINVAL, "pci_device_id=%d is not a number from 1 to %d", slot, PCI_N_SLOTS - 1);
		if (m->pci.slots[slot])
			return err_set(e, EINVAL, "pci_device_id=%d is taken by '%s'", slot, m->pci.slots[slot]->name);
		return slot;
	}
	uint32_t asked_for = slots_asked_for(m->p.config);
	int slot = lowest_free(m, asked_for | m->wary_slots);
	if (slot < 0)
		slot = lowest_free(m, asked_for);
	if (slot < 0)
		slot = lowest_free(m, 0);
	if (slot < 0)
		return err_set(e, ENOSPC, "all %d slots of the PCI bus are in use", PCI_N_SLOTS);
	return slot;
}

int machine_plug(struct machine *m, struct attached *a, int slot, struct err *e)
{
	return m->has_pci ? virtio_pci_new(a->v, &m->pci, &m->router, m->vm, slot, &a->pci, e) : plug_mmio(m, a, e);
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

/* how: of its queues; the rest is the machine's. */
static int make_virtio(struct machine *m, struct attached *a, const struct virtio_class *cls, const struct virtio_params *how,
                       const void *params, struct err *e)
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

static int make_disk(struct machine *m, struct attached *a, const struct disk_config *c, struct rate_limit *limit, struct err *e)
{
	struct virtio_blk_params p = {
		.image = a->image, .limit = limit, .is_readonly = c->readonly, .n_queues = (unsigned)c->num_queues,
	};
	if (c->serial)
		memcpy(p.serial, c->serial, strnlen(c->serial, sizeof p.serial));

	struct virtio_queue_cpus *cpus = calloc(c->n_queue_affinity + 1, sizeof *cpus);
	if (!cpus)
		return err_set(e, ENOMEM, "%s: no memory", a->id);
	for (size_t i = 0; i < c->n_queue_affinity; i++) {
		const struct queue_affinity_config *from = &c->queue_affinity[i];
		cpus[i] = (struct virtio_queue_cpus){ from->queue_index, from->host_cpus, from->n_host_cpus };
	}
	struct virtio_params how = { .queue_size = c->queue_size, .queue_cpus = cpus, .n_queue_cpus = c->n_queue_affinity };
	int rc = make_virtio(m, a, &virtio_blk, &how, &p, e);
	free(cpus);
	return rc;
}

/* One that another process serves: what else is said of the image is said to that process. */
static int make_vhost_disk(struct machine *m, struct attached *a, const struct disk_config *c, struct err *e)
{
	struct vhost_user_blk_params p = {
		.common = { .socket = c->vhost_socket, .n_queues = (unsigned)c->num_queues, .connect_wait_ns = BACKEND_WAIT_NS },
		.is_readonly = c->readonly,
	};
	struct virtio_params how = { .queue_size = c->queue_size };
	return make_virtio(m, a, &vhost_user_blk, &how, &p, e);
}

void machine_free_device(struct machine *m, struct attached *a)
{
	/* First what the guest could still reach, then the device (its reset drains), then what it used. */
	if (a->v)
		virtio_device_reset(a->v);
	virtio_pci_free(a->pci);
	virtio_mmio_free(a->mmio);
	virtio_device_free(a->v);
	block_close(a->image);
	rate_limit_free(a->own_limit);
	list_remove(&a->link);
	m->n_devices--;
	free(a->id);
	free(a);
}

static enum block_type block_type_of(enum image_type type)
{
	switch (type) {
	case IMAGE_UNKNOWN:
		break;
	case IMAGE_RAW:
		return BLOCK_TYPE_RAW;
	case IMAGE_QCOW2:
		return BLOCK_TYPE_QCOW2;
	case IMAGE_FIXED_VHD:
		return BLOCK_TYPE_VHD;
	case IMAGE_VHDX:
		return BLOCK_TYPE_VHDX;
	case IMAGE_FLAT_VMDK:
		return BLOCK_TYPE_VMDK;
	}
	return BLOCK_TYPE_AUTO;
}

static int open_image(struct machine *m, struct attached *a, const struct disk_config *c, struct err *e)
{
	struct log log = { .sink = m->p.log_sink, .object = a->id };
	struct block_params b = {
		.path = c->path,
		.is_readonly = c->readonly,
		.is_direct = c->direct,
		.has_no_io_uring = c->disable_io_uring,
		.has_discard = c->sparse,
		.image_type = block_type_of(c->image_type),
		.may_use_backing_files = c->backing_files,
		.log = &log,
	};
	return block_open(&b, &a->image, e);
}

static int make_image_disk(struct machine *m, struct attached *a, const struct disk_config *c, struct err *e)
{
	struct rate_limit *limit = NULL;
	int rc = machine_limit_disk(m, a, c, &limit, e);
	if (rc >= 0)
		rc = open_image(m, a, c, e);
	return rc < 0 ? rc : make_disk(m, a, c, limit, e);
}

int machine_open_disk(struct machine *m, const struct disk_config *c, struct attached **ret_a, struct err *e)
{
	assert(c->id); /* given, or made for the configuration */
	if (c->queue_size == 0) /* which would mean the class's own */
		return err_set(e, EINVAL, "%s: queue_size 0 is not a power of two from 2 to %u", c->id, QUEUE_MAX_SIZE);

	struct attached *a = NULL;
	int rc = new_device(m, c->id, &a, e);
	if (rc < 0)
		return rc;
	a->is_removable = true;
	rc = c->vhost_user ? make_vhost_disk(m, a, c, e) : make_image_disk(m, a, c, e);
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

/* On the main thread, which waits for the image as it does when a disk comes or goes: vCPUs and queues go on meanwhile. A raw
 * file grows at once; a qcow2 image writes its header, perhaps a longer table, and waits for the host's file system. */
int machine_resize_disk(struct machine *m, const char *id, uint64_t n_bytes, struct err *e)
{
	struct attached *a = machine_find_device(m, id);
	if (a && a->v->cls == &vhost_user_blk)
		return err_set(e, ENOTSUP, "disk '%s' is another process's, and is resized there", id);
	if (!a || !a->image)
		return err_set(e, ENOENT, "there is no disk '%s'", id);
	int rc = machine_hosts_error(block_resize(a->image, n_bytes, e), e);
	if (rc < 0)
		return rc;
	virtio_blk_resized(a->v);
	log_info(&m->log, "'%s' has %llu bytes now", a->id, (unsigned long long)n_bytes);
	return 0;
}

static int add_disk(struct machine *m, const struct disk_config *c, struct err *e)
{
	struct attached *a = NULL;
	int slot = machine_choose_slot(m, c, e);
	int rc = slot < 0 ? slot : machine_open_disk(m, c, &a, e);
	return rc < 0 ? rc : machine_plug(m, a, slot, e);
}

static int add_other(struct machine *m, const struct virtio_class *cls, const char *id, const void *params, struct err *e)
{
	struct attached *a = NULL;
	int slot = machine_choose_slot(m, NULL, e);
	int rc = slot < 0 ? slot : new_device(m, id, &a, e);
	if (rc >= 0)
		rc = make_virtio(m, a, cls, &(struct virtio_params){ 0 }, params, e);
	return rc < 0 ? rc : machine_plug(m, a, slot, e);
}

int machine_add_virtio_devices(struct machine *m, struct err *e)
{
	const struct vm_config *c = m->p.config;
	struct virtio_rng_params rng = { .source = c->rng.src };
	struct virtio_console_params console = { .backend = m->p.console };
	int rc = 0;

	for (size_t i = 0; rc >= 0 && i < c->n_disks; i++)
		rc = with_option(add_disk(m, &c->disks[i], e), "--disk", e);
	if (rc >= 0 && m->p.console)
		rc = with_option(add_other(m, &virtio_console, "__console", &console, e), "--console", e);
	if (rc >= 0)
		rc = with_option(add_other(m, &virtio_rng, "__rng", &rng, e), "--rng", e);
	return rc;
}

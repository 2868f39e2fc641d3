/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over PCI (virtio 1.2, 4.1). What the driver may and may not do is the core's matter (virtio.c); here are only
 * the registers that the PCI transport adds: selectors, MSI-X vectors, the ISR, and the ways to them.
 *
 * Two locks: `registers` around selectors and the change of one field of a queue's configuration, taken before the
 * device's own lock; `signals` around ISR and INTx, taken by whoever tells the driver something, under which no function
 * of the core is called. A status change waits for the queues' loops, which may be about to tell: neither is held then. */
#include "virtio/pci.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "bus/pci_regs.h"
#include "virtio/kick_events.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BAR 0u
#define BAR_BYTES 0x80000u
#define COMMON_OFFSET 0x0u
#define COMMON_BYTES 56u
#define ISR_OFFSET 0x2000u
#define DEVICE_OFFSET 0x4000u
#define DEVICE_BYTES 0x1000u
#define NOTIFY_OFFSET 0x6000u
#define NOTIFY_BYTES 0x1000u
#define NOTIFY_MULTIPLIER 4u
#define MSIX_TABLE_OFFSET 0x8000u
#define MSIX_PBA_OFFSET 0x48000u

/* 4.1.2 PCI device discovery */
#define VIRTIO_PCI_VENDOR 0x1af4u
#define VIRTIO_PCI_FIRST_DEVICE 0x1040u
#define VIRTIO_PCI_REVISION 1u

/* 4.1.4 Virtio structure PCI capabilities */
#define VIRTIO_PCI_CAP_COMMON_CFG 1u
#define VIRTIO_PCI_CAP_NOTIFY_CFG 2u
#define VIRTIO_PCI_CAP_ISR_CFG 3u
#define VIRTIO_PCI_CAP_DEVICE_CFG 4u
#define VIRTIO_PCI_CAP_PCI_CFG 5u
#define CAP_BYTES 16u /* struct virtio_pci_cap */
#define CAP_BAR 4u
#define CAP_OFFSET 8u
#define CAP_LENGTH 12u
#define CAP_EXTRA 16u

/* 4.1.4.3 Common configuration structure layout */
#define DEVICE_FEATURE_SELECT 0x00u
#define DEVICE_FEATURE 0x04u
#define DRIVER_FEATURE_SELECT 0x08u
#define DRIVER_FEATURE 0x0cu
#define CONFIG_MSIX_VECTOR 0x10u
#define NUM_QUEUES 0x12u
#define DEVICE_STATUS 0x14u
#define CONFIG_GENERATION 0x15u
#define QUEUE_SELECT 0x16u
#define QUEUE_SIZE 0x18u
#define QUEUE_MSIX_VECTOR 0x1au
#define QUEUE_ENABLE 0x1cu
#define QUEUE_NOTIFY_OFF 0x1eu
#define QUEUE_DESC 0x20u
#define QUEUE_DRIVER 0x28u
#define QUEUE_DEVICE 0x30u

/* 4.1.4.5 ISR status */
#define ISR_QUEUE 1u
#define ISR_CONFIG 2u

struct virtio_pci {
	struct pci_device pci;
	struct virtio_device *v;
	struct kick_events kicks;
	unsigned window; /* offset of the PCI_CFG capability */

	pthread_mutex_t registers;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;

	pthread_mutex_t signals;
	uint8_t isr;
	_Atomic uint16_t config_vector;
	_Atomic uint16_t queue_vectors[VIRTIO_MAX_QUEUES];
};

const struct pci_device *virtio_pci_function(const struct virtio_pci *t)
{
	return &t->pci;
}

static struct virtio_pci *transport_of(struct pci_device *d)
{
	return container_of(d, struct virtio_pci, pci);
}

/* --- to the driver: any thread ---------------------------------------------------------------------------------- */

/* 4.1.5.3 and 4.1.4.5.1: with MSI-X the vector, if the event has one; without, the ISR bit and INTx. The ISR's
 * configuration bit is set in both cases. */
static void tell_driver(struct virtio_pci *t, uint8_t isr_bit, uint16_t vector)
{
	bool has_msix = msix_is_enabled(&t->pci);
	if (!has_msix || isr_bit == ISR_CONFIG) {
		(void)pthread_mutex_lock(&t->signals);
		t->isr |= isr_bit;
		pci_intx_set(&t->pci, true);
		(void)pthread_mutex_unlock(&t->signals);
	}
	if (has_msix && vector != VIRTIO_NO_VECTOR)
		(void)msix_raise(&t->pci, vector);
}

static void signal_queue(void *transport, unsigned queue)
{
	struct virtio_pci *t = transport;
	assert(queue < VIRTIO_MAX_QUEUES);
	tell_driver(t, ISR_QUEUE, t->queue_vectors[queue]);
}

static void signal_config(void *transport)
{
	struct virtio_pci *t = transport;
	tell_driver(t, ISR_CONFIG, t->config_vector);
}

/* 4.1.4.5.1: reading clears it and de-asserts the interrupt. */
static uint8_t take_isr(struct virtio_pci *t)
{
	(void)pthread_mutex_lock(&t->signals);
	uint8_t isr = t->isr;
	t->isr = 0;
	pci_intx_set(&t->pci, false);
	(void)pthread_mutex_unlock(&t->signals);
	return isr;
}

/* Nothing runs any more that could set it, and status does not read 0 yet. */
static void forget_isr(void *transport)
{
	(void)take_isr(transport);
}

static const struct virtio_transport_ops transport_ops = {
	.signal_queue = signal_queue, .signal_config = signal_config, .reset = forget_isr,
};

/* --- reset ------------------------------------------------------------------------------------------------------ */

/* 4.1.5.1.2.1: all events are unmapped upon reset. */
static void reset_registers(struct virtio_pci *t)
{
	(void)pthread_mutex_lock(&t->registers);
	t->device_feature_select = t->driver_feature_select = 0;
	t->queue_select = 0;
	(void)pthread_mutex_unlock(&t->registers);
	t->config_vector = VIRTIO_NO_VECTOR;
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++)
		t->queue_vectors[i] = VIRTIO_NO_VECTOR;
}

/* 4.1.4.3.1: status reads 0 only once the reset is done, so that our own registers go first; the ISR in its course. */
static void set_status(struct virtio_pci *t, uint8_t status)
{
	if (status == 0)
		reset_registers(t);
	virtio_set_status(t->v, status);
}

/* --- common configuration --------------------------------------------------------------------------------------- */

/* 4.1.3.1: fields are accessed by their own width, 64-bit ones by halves. 0: no field starts there. */
static const uint8_t common_widths[COMMON_BYTES] = {
	[DEVICE_FEATURE_SELECT] = 4, [DEVICE_FEATURE] = 4, [DRIVER_FEATURE_SELECT] = 4, [DRIVER_FEATURE] = 4,
	[CONFIG_MSIX_VECTOR] = 2, [NUM_QUEUES] = 2, [DEVICE_STATUS] = 1, [CONFIG_GENERATION] = 1, [QUEUE_SELECT] = 2,
	[QUEUE_SIZE] = 2, [QUEUE_MSIX_VECTOR] = 2, [QUEUE_ENABLE] = 2, [QUEUE_NOTIFY_OFF] = 2,
	[QUEUE_DESC] = 4, [QUEUE_DESC + 4] = 4, [QUEUE_DRIVER] = 4, [QUEUE_DRIVER + 4] = 4,
	[QUEUE_DEVICE] = 4, [QUEUE_DEVICE + 4] = 4,
};

static bool is_whole_address(uint64_t offset, unsigned n_bytes)
{
	return n_bytes == 8 && (offset == QUEUE_DESC || offset == QUEUE_DRIVER || offset == QUEUE_DEVICE);
}

static uint16_t selected_queue(struct virtio_pci *t)
{
	(void)pthread_mutex_lock(&t->registers);
	uint16_t queue = t->queue_select;
	(void)pthread_mutex_unlock(&t->registers);
	return queue;
}

/* The fields of the selected queue; zeroes when there is no such queue. */
static uint32_t read_queue(struct virtio_pci *t, uint64_t offset)
{
	uint16_t queue = selected_queue(t);
	bool exists = queue < t->v->n_queues;
	struct queue_config c = virtio_queue_config(t->v, queue, NULL);

	switch (offset) {
	case QUEUE_SIZE:
		return c.size;
	case QUEUE_MSIX_VECTOR:
		return exists ? t->queue_vectors[queue] : VIRTIO_NO_VECTOR;
	case QUEUE_ENABLE:
		return c.is_ready;
	case QUEUE_NOTIFY_OFF:
		return exists ? queue : 0;
	case QUEUE_DESC:
		return (uint32_t)c.desc;
	case QUEUE_DESC + 4:
		return (uint32_t)(c.desc >> 32);
	case QUEUE_DRIVER:
		return (uint32_t)c.avail;
	case QUEUE_DRIVER + 4:
		return (uint32_t)(c.avail >> 32);
	case QUEUE_DEVICE:
		return (uint32_t)c.used;
	default:
		return (uint32_t)(c.used >> 32);
	}
}

static uint32_t read_common(struct virtio_pci *t, uint64_t offset)
{
	(void)pthread_mutex_lock(&t->registers);
	uint32_t device_select = t->device_feature_select, driver_select = t->driver_feature_select;
	(void)pthread_mutex_unlock(&t->registers);

	switch (offset) {
	case DEVICE_FEATURE_SELECT:
		return device_select;
	case DEVICE_FEATURE:
		return virtio_features(t->v, device_select);
	case DRIVER_FEATURE_SELECT:
		return driver_select;
	case DRIVER_FEATURE:
		return virtio_acked_features(t->v, driver_select);
	case CONFIG_MSIX_VECTOR:
		return t->config_vector;
	case NUM_QUEUES:
		return t->v->n_queues;
	case DEVICE_STATUS:
		return virtio_status(t->v);
	case CONFIG_GENERATION:
		return virtio_config_generation(t->v);
	case QUEUE_SELECT:
		return selected_queue(t);
	default:
		return read_queue(t, offset);
	}
}

static const enum virtio_queue_field queue_fields[COMMON_BYTES] = {
	[QUEUE_SIZE] = VIRTIO_QUEUE_SIZE, [QUEUE_ENABLE] = VIRTIO_QUEUE_READY,
	[QUEUE_DESC] = VIRTIO_QUEUE_DESC_LOW, [QUEUE_DESC + 4] = VIRTIO_QUEUE_DESC_HIGH,
	[QUEUE_DRIVER] = VIRTIO_QUEUE_AVAIL_LOW, [QUEUE_DRIVER + 4] = VIRTIO_QUEUE_AVAIL_HIGH,
	[QUEUE_DEVICE] = VIRTIO_QUEUE_USED_LOW, [QUEUE_DEVICE + 4] = VIRTIO_QUEUE_USED_HIGH,
};

static void write_queue(struct virtio_pci *t, uint64_t offset, uint32_t value)
{
	uint16_t queue = selected_queue(t);
	assert(offset < COMMON_BYTES);
	/* 4.1.4.3.2: a driver never writes 0 to queue_enable; only a reset disables a queue. */
	bool is_disable = offset == QUEUE_ENABLE && value == 0;
	if (is_disable || !virtio_change_queue(t->v, queue, queue_fields[offset], value))
		guest_warn(&t->v->log, &t->v->guest_limit, "queue %u: register 0x%" PRIx64 " may not become 0x%x", queue, offset,
		           value);
}

/* 4.1.5.1.2.1: a vector that does not exist is answered by NO_VECTOR. */
static uint16_t valid_vector(const struct virtio_pci *t, uint32_t vector)
{
	return vector < t->pci.msix.n_vectors ? (uint16_t)vector : VIRTIO_NO_VECTOR;
}

static void write_common(struct virtio_pci *t, uint64_t offset, uint32_t value)
{
	uint16_t queue;

	switch (offset) {
	case DEVICE_FEATURE_SELECT:
	case DRIVER_FEATURE_SELECT:
	case QUEUE_SELECT:
		(void)pthread_mutex_lock(&t->registers);
		if (offset == DEVICE_FEATURE_SELECT)
			t->device_feature_select = value;
		else if (offset == DRIVER_FEATURE_SELECT)
			t->driver_feature_select = value;
		else
			t->queue_select = (uint16_t)value;
		(void)pthread_mutex_unlock(&t->registers);
		break;
	case DRIVER_FEATURE:
		(void)pthread_mutex_lock(&t->registers);
		virtio_ack_features(t->v, t->driver_feature_select, value);
		(void)pthread_mutex_unlock(&t->registers);
		break;
	case CONFIG_MSIX_VECTOR:
		t->config_vector = valid_vector(t, value);
		break;
	case QUEUE_MSIX_VECTOR:
		queue = selected_queue(t);
		if (queue < t->v->n_queues)
			t->queue_vectors[queue] = valid_vector(t, value);
		break;
	case DEVICE_STATUS:
		set_status(t, (uint8_t)value);
		break;
	case DEVICE_FEATURE:
	case NUM_QUEUES:
	case CONFIG_GENERATION:
		guest_warn(&t->v->log, &t->v->guest_limit, "read-only register 0x%" PRIx64 " is written", offset);
		break;
	default:
		write_queue(t, offset, value);
		break;
	}
}

static bool is_common_access(struct virtio_pci *t, uint64_t offset, unsigned n_bytes)
{
	assert(offset < COMMON_BYTES);
	if (common_widths[offset] == n_bytes || is_whole_address(offset, n_bytes))
		return true;
	guest_warn(&t->v->log, &t->v->guest_limit, "common configuration is accessed at 0x%" PRIx64 " by %u bytes", offset,
	           n_bytes);
	return false;
}

/* --- the BAR ---------------------------------------------------------------------------------------------------- */

static void bar_read(struct pci_device *d, unsigned bar, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct virtio_pci *t = transport_of(d);
	assert(bar == BAR && offset < BAR_BYTES);

	if (offset >= MSIX_TABLE_OFFSET) {
		(void)msix_bar_read(d, offset, ret_bytes, n_bytes);
	} else if (offset >= DEVICE_OFFSET && offset < DEVICE_OFFSET + DEVICE_BYTES) {
		virtio_space_read(t->v, offset - DEVICE_OFFSET, ret_bytes, n_bytes);
	} else if (offset == ISR_OFFSET) {
		ret_bytes[0] = take_isr(t);
	} else if (offset < COMMON_BYTES && is_common_access(t, offset, n_bytes)) {
		for (unsigned i = 0; i < n_bytes; i += 4)
			put_le(&ret_bytes[i], n_bytes < 4 ? n_bytes : 4, read_common(t, offset + i));
	}
	/* All else, and notifications, read zeroes. */
}

static void bar_write(struct pci_device *d, unsigned bar, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct virtio_pci *t = transport_of(d);
	assert(bar == BAR && offset < BAR_BYTES);

	if (offset >= MSIX_TABLE_OFFSET) {
		(void)msix_bar_write(d, offset, bytes, n_bytes);
	} else if (offset >= NOTIFY_OFFSET && offset < NOTIFY_OFFSET + NOTIFY_BYTES) {
		/* 4.1.5.2: the address says which queue. */
		if ((offset - NOTIFY_OFFSET) % NOTIFY_MULTIPLIER == 0)
			kick_events_slow(&t->kicks, (unsigned)(offset - NOTIFY_OFFSET) / NOTIFY_MULTIPLIER);
	} else if (offset >= DEVICE_OFFSET && offset < DEVICE_OFFSET + DEVICE_BYTES) {
		virtio_space_write(t->v, offset - DEVICE_OFFSET, bytes, n_bytes);
	} else if (offset < COMMON_BYTES && is_common_access(t, offset, n_bytes)) {
		for (unsigned i = 0; i < n_bytes; i += 4)
			write_common(t, offset + i, (uint32_t)get_le(&bytes[i], n_bytes < 4 ? n_bytes : 4));
	}
}

static void bar_moved(struct pci_device *d, unsigned bar, uint64_t old_address, uint64_t new_address)
{
	struct virtio_pci *t = transport_of(d);
	assert(bar == BAR);
	(void)old_address;
	kick_events_move(&t->kicks, new_address ? new_address + NOTIFY_OFFSET : 0);
}

/* --- the PCI_CFG capability (4.1.4.9): a window to the BAR, in configuration space ------------------------------ */

struct window {
	uint32_t offset, n_bytes;
};

/* Where the driver has aimed it; false when that is nowhere. Under the bus's lock. */
static bool window_get(const struct virtio_pci *t, struct window *ret_w)
{
	const uint8_t *cap = &t->pci.config[t->window];
	uint32_t offset = get_le32(&cap[CAP_OFFSET]), n_bytes = get_le32(&cap[CAP_LENGTH]);
	if (cap[CAP_BAR] != BAR || (n_bytes != 1 && n_bytes != 2 && n_bytes != 4))
		return false;
	if (offset % n_bytes != 0 || offset >= BAR_BYTES || n_bytes > BAR_BYTES - offset)
		return false;
	*ret_w = (struct window){ .offset = offset, .n_bytes = n_bytes };
	return true;
}

/* The access lies in the capability and touches pci_cfg_data. */
static bool is_window_access(const struct virtio_pci *t, unsigned offset, unsigned n_bytes)
{
	return offset >= t->window && offset + n_bytes <= t->window + CAP_EXTRA + 4 && offset + n_bytes > t->window + CAP_EXTRA;
}

/* Fetches what the window shows into the capability; the bus then answers from there. */
static bool config_read(struct pci_device *d, unsigned offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct virtio_pci *t = transport_of(d);
	(void)ret_bytes;
	if (!is_window_access(t, offset, n_bytes))
		return false;

	struct window w;
	(void)pthread_mutex_lock(&d->bus->lock);
	bool is_open = window_get(t, &w);
	(void)pthread_mutex_unlock(&d->bus->lock);
	if (!is_open)
		return false;

	uint8_t data[4] = { 0 };
	bar_read(d, BAR, w.offset, data, w.n_bytes);
	(void)pthread_mutex_lock(&d->bus->lock);
	memcpy(&d->config[t->window + CAP_EXTRA], data, w.n_bytes);
	(void)pthread_mutex_unlock(&d->bus->lock);
	return false;
}

static bool config_write(struct pci_device *d, unsigned offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct virtio_pci *t = transport_of(d);
	if (!is_window_access(t, offset, n_bytes))
		return false;

	struct window w;
	uint8_t data[4];
	(void)pthread_mutex_lock(&d->bus->lock);
	for (unsigned i = offset; i < offset + n_bytes; i++)
		d->config[i] = (uint8_t)((d->config[i] & ~d->writable[i]) | (bytes[i - offset] & d->writable[i]));
	bool is_open = window_get(t, &w);
	memcpy(data, &d->config[t->window + CAP_EXTRA], sizeof data);
	(void)pthread_mutex_unlock(&d->bus->lock);
	if (is_open)
		bar_write(d, BAR, w.offset, data, w.n_bytes);
	return true;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static const struct pci_class virtio_pci_class = {
	.bar_read = bar_read,
	.bar_write = bar_write,
	.bar_moved = bar_moved,
	.config_read = config_read,
	.config_write = config_write,
};

/* PCI Code and ID Assignment Specification: what the device would be if it were not virtio. */
static uint32_t class_code_of(uint32_t virtio_id)
{
	switch (virtio_id) {
	case VIRTIO_ID_NET:
		return 0x020000; /* Ethernet controller */
	case VIRTIO_ID_BLOCK:
		return 0x018000; /* other mass storage controller */
	case VIRTIO_ID_CONSOLE:
		return 0x078000; /* other communication device */
	default:
		return 0xff0000; /* fits no defined class */
	}
}

/* Returns the offset of the capability (4.1.4). */
static unsigned add_capability(struct virtio_pci *t, uint8_t type, uint32_t offset, uint32_t n_bytes, unsigned n_extra_bytes,
                               const uint8_t *extra, const uint8_t *writable)
{
	uint8_t bytes[CAP_BYTES + 4] = { 0 };
	bytes[2] = (uint8_t)(CAP_BYTES + n_extra_bytes);
	bytes[3] = type;
	bytes[CAP_BAR] = BAR;
	put_le32(&bytes[CAP_OFFSET], offset);
	put_le32(&bytes[CAP_LENGTH], n_bytes);
	memcpy(&bytes[CAP_EXTRA], extra, n_extra_bytes);
	return pci_device_capability(&t->pci, PCI_CAP_ID_VNDR, &bytes[2], writable ? &writable[2] : NULL,
	                             CAP_BYTES + n_extra_bytes - 2);
}

static void add_capabilities(struct virtio_pci *t)
{
	static const uint8_t multiplier[4] = { NOTIFY_MULTIPLIER }, no_data[4] = { 0 };
	uint8_t writable[CAP_BYTES + 4] = { 0 };
	writable[CAP_BAR] = 0xff;
	memset(&writable[CAP_OFFSET], 0xff, sizeof writable - CAP_OFFSET);

	(void)add_capability(t, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFFSET, COMMON_BYTES, 0, no_data, NULL);
	(void)add_capability(t, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFFSET, 1, 0, no_data, NULL);
	(void)add_capability(t, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFFSET, DEVICE_BYTES, 0, no_data, NULL);
	(void)add_capability(t, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_OFFSET, NOTIFY_BYTES, 4, multiplier, NULL);
	t->window = add_capability(t, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4, no_data, writable);
}

int virtio_pci_new(struct virtio_device *v, struct pci_bus *bus, struct irq_router *router, struct hv_vm *vm, int slot,
                   struct virtio_pci **ret_t, struct err *e)
{
	assert(v->n_queues <= NOTIFY_BYTES / NOTIFY_MULTIPLIER);
	struct virtio_pci *t = calloc(1, sizeof *t);
	if (!t)
		return err_set(e, ENOMEM, "%s: no memory for its PCI registers", v->id);
	t->v = v;
	(void)pthread_mutex_init(&t->registers, NULL);
	(void)pthread_mutex_init(&t->signals, NULL);
	kick_events_init(&t->kicks, v, vm, 0, NOTIFY_MULTIPLIER);
	reset_registers(t);

	uint16_t id = (uint16_t)(VIRTIO_PCI_FIRST_DEVICE + v->cls->virtio_id);
	pci_device_init(&t->pci, &virtio_pci_class, v->id, VIRTIO_PCI_VENDOR, id, class_code_of(v->cls->virtio_id),
	                VIRTIO_PCI_VENDOR, id, VIRTIO_PCI_REVISION);
	pci_device_bar(&t->pci, BAR, BAR_BYTES, true, false);
	add_capabilities(t);
	int rc = pci_device_msix(&t->pci, router, v->n_queues + 1, BAR, MSIX_TABLE_OFFSET, MSIX_PBA_OFFSET, e);
	if (rc == 0)
		rc = pci_bus_attach(bus, &t->pci, slot, e);
	if (rc < 0) {
		virtio_pci_free(t);
		return rc;
	}
	virtio_bind_transport(v, &transport_ops, t);
	*ret_t = t;
	return 0;
}

void virtio_pci_free(struct virtio_pci *t)
{
	if (!t)
		return;
	/* Afterwards no loop tells us anything. */
	if (t->v->transport == t) {
		virtio_device_reset(t->v);
		virtio_bind_transport(t->v, NULL, NULL);
	}
	pci_bus_detach(&t->pci);
	pci_device_done(&t->pci);
	kick_events_done(&t->kicks);
	(void)pthread_mutex_destroy(&t->signals);
	(void)pthread_mutex_destroy(&t->registers);
	free(t);
}

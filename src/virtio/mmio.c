/* SPDX-License-Identifier: Apache-2.0 */
/* virtio over MMIO, version 2 (virtio 1.2, 4.2). What the driver may and may not do is the core's matter (virtio.c); here
 * are the registers.
 *
 * The interrupt is an edge, so that nothing may depend on one edge alone: each event pulses the line, also while the
 * driver has not acknowledged an earlier one, and an acknowledgement that leaves bits behind pulses it again (an event
 * came between the driver's look and its answer). `registers` is taken before the device's own lock, not while the status
 * register is written. The interrupt status needs no lock: a driver that a pulse has woken would find it held by who
 * pulses. */
#include "virtio/mmio.h"

#include "base/bytes.h"
#include "virtio/kick_events.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

/* 4.2.2 MMIO device register layout */
#define MAGIC_VALUE 0x000u
#define VERSION 0x004u
#define DEVICE_ID 0x008u
#define VENDOR_ID 0x00cu
#define DEVICE_FEATURES 0x010u
#define DEVICE_FEATURES_SEL 0x014u
#define DRIVER_FEATURES 0x020u
#define DRIVER_FEATURES_SEL 0x024u
#define QUEUE_SEL 0x030u
#define QUEUE_NUM_MAX 0x034u
#define QUEUE_NUM 0x038u
#define QUEUE_READY 0x044u
#define QUEUE_NOTIFY 0x050u
#define INTERRUPT_STATUS 0x060u
#define INTERRUPT_ACK 0x064u
#define STATUS 0x070u
#define QUEUE_DESC_LOW 0x080u
#define QUEUE_DESC_HIGH 0x084u
#define QUEUE_DRIVER_LOW 0x090u
#define QUEUE_DRIVER_HIGH 0x094u
#define QUEUE_DEVICE_LOW 0x0a0u
#define QUEUE_DEVICE_HIGH 0x0a4u
#define SHM_SEL 0x0acu
#define SHM_LEN_LOW 0x0b0u
#define SHM_LEN_HIGH 0x0b4u
#define SHM_BASE_LOW 0x0b8u
#define SHM_BASE_HIGH 0x0bcu
#define CONFIG_GENERATION 0x0fcu
#define CONFIG 0x100u

#define MAGIC 0x74726976u  /* "virt" */
#define VENDOR 0x4e524156u /* "VARN" */

#define INTERRUPT_QUEUE 1u
#define INTERRUPT_CONFIG 2u

struct virtio_mmio {
	struct virtio_device *v;
	struct bus *bus; /* NULL: not on one */
	uint64_t address;
	struct irq_line line;
	struct kick_events kicks;

	pthread_mutex_t registers;
	uint32_t device_features_sel, driver_features_sel, queue_sel;

	_Atomic uint32_t interrupt_status;
};

/* --- to the driver: any thread ---------------------------------------------------------------------------------- */

static void tell_driver(struct virtio_mmio *t, uint32_t bit)
{
	(void)atomic_fetch_or(&t->interrupt_status, bit);
	irq_line_pulse(&t->line);
}

static void signal_queue(void *transport, unsigned queue)
{
	(void)queue;
	tell_driver(transport, INTERRUPT_QUEUE);
}

static void signal_config(void *transport)
{
	tell_driver(transport, INTERRUPT_CONFIG);
}

static uint32_t interrupt_status(struct virtio_mmio *t)
{
	return atomic_load(&t->interrupt_status);
}

static void acknowledge(struct virtio_mmio *t, uint32_t bits)
{
	if (atomic_fetch_and(&t->interrupt_status, ~bits) & ~bits)
		irq_line_pulse(&t->line);
}

/* 4.2.2.1: a reset clears InterruptStatus; no queue runs any more, and Status does not read 0 yet. A resize that comes now
 * may set its bit again: the next driver asks needlessly. */
static void forget_interrupts(void *transport)
{
	acknowledge(transport, UINT32_MAX);
}

static const struct virtio_transport_ops transport_ops = {
	.signal_queue = signal_queue, .signal_config = signal_config, .reset = forget_interrupts,
};

static void set_status(struct virtio_mmio *t, uint32_t status)
{
	if (status == 0) {
		(void)pthread_mutex_lock(&t->registers);
		t->device_features_sel = t->driver_features_sel = t->queue_sel = 0;
		(void)pthread_mutex_unlock(&t->registers);
	}
	virtio_set_status(t->v, status);
}

/* --- registers -------------------------------------------------------------------------------------------------- */

static uint32_t selected(struct virtio_mmio *t, const uint32_t *selector)
{
	(void)pthread_mutex_lock(&t->registers);
	uint32_t v = *selector;
	(void)pthread_mutex_unlock(&t->registers);
	return v;
}

static uint32_t queue_num_max(struct virtio_mmio *t)
{
	unsigned max_size;
	(void)virtio_queue_config(t->v, selected(t, &t->queue_sel), &max_size);
	return max_size;
}

static bool queue_ready(struct virtio_mmio *t)
{
	return virtio_queue_config(t->v, selected(t, &t->queue_sel), NULL).is_ready;
}

static uint32_t read_register(struct virtio_mmio *t, uint64_t offset)
{
	switch (offset) {
	case MAGIC_VALUE:
		return MAGIC;
	case VERSION:
		return 2;
	case DEVICE_ID:
		return t->v->cls->virtio_id;
	case VENDOR_ID:
		return VENDOR;
	case DEVICE_FEATURES:
		return virtio_features(t->v, selected(t, &t->device_features_sel));
	case QUEUE_NUM_MAX:
		return queue_num_max(t);
	case QUEUE_READY:
		return queue_ready(t);
	case INTERRUPT_STATUS:
		return interrupt_status(t);
	case STATUS:
		return virtio_status(t->v);
	case CONFIG_GENERATION:
		return virtio_config_generation(t->v);
	case SHM_LEN_LOW:
	case SHM_LEN_HIGH:
	case SHM_BASE_LOW:
	case SHM_BASE_HIGH:
		return UINT32_MAX; /* no shared memory region exists, whatever SHMSel says */
	default:
		guest_warn(&t->v->log, &t->v->guest_limit, "register 0x%" PRIx64 " is read", offset);
		return 0;
	}
}

static const enum virtio_queue_field queue_fields[CONFIG] = {
	[QUEUE_NUM] = VIRTIO_QUEUE_SIZE, [QUEUE_READY] = VIRTIO_QUEUE_READY,
	[QUEUE_DESC_LOW] = VIRTIO_QUEUE_DESC_LOW, [QUEUE_DESC_HIGH] = VIRTIO_QUEUE_DESC_HIGH,
	[QUEUE_DRIVER_LOW] = VIRTIO_QUEUE_AVAIL_LOW, [QUEUE_DRIVER_HIGH] = VIRTIO_QUEUE_AVAIL_HIGH,
	[QUEUE_DEVICE_LOW] = VIRTIO_QUEUE_USED_LOW, [QUEUE_DEVICE_HIGH] = VIRTIO_QUEUE_USED_HIGH,
};

static void write_queue(struct virtio_mmio *t, uint64_t offset, uint32_t value)
{
	uint32_t queue = selected(t, &t->queue_sel);
	assert(offset < CONFIG);
	if (!virtio_change_queue(t->v, queue, queue_fields[offset], value))
		guest_warn(&t->v->log, &t->v->guest_limit, "queue %u: register 0x%" PRIx64 " may not become 0x%x", queue, offset,
		           value);
}

static void write_selector(struct virtio_mmio *t, uint32_t *selector, uint32_t value)
{
	(void)pthread_mutex_lock(&t->registers);
	*selector = value;
	(void)pthread_mutex_unlock(&t->registers);
}

static void write_register(struct virtio_mmio *t, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case DEVICE_FEATURES_SEL:
		write_selector(t, &t->device_features_sel, value);
		break;
	case DRIVER_FEATURES_SEL:
		write_selector(t, &t->driver_features_sel, value);
		break;
	case QUEUE_SEL:
		write_selector(t, &t->queue_sel, value);
		break;
	case DRIVER_FEATURES:
		(void)pthread_mutex_lock(&t->registers);
		virtio_ack_features(t->v, t->driver_features_sel, value);
		(void)pthread_mutex_unlock(&t->registers);
		break;
	case QUEUE_NOTIFY:
		kick_events_slow(&t->kicks, value);
		break;
	case INTERRUPT_ACK:
		acknowledge(t, value);
		break;
	case STATUS:
		set_status(t, value);
		break;
	case SHM_SEL:
		break; /* there is nothing to select */
	default:
		write_queue(t, offset, value);
		break;
	}
}

/* 4.2.2.2: control registers are accessed by aligned 32 bits. */
static bool is_register_access(struct virtio_mmio *t, uint64_t offset, unsigned n_bytes)
{
	if (n_bytes == 4 && offset % 4 == 0)
		return true;
	guest_warn(&t->v->log, &t->v->guest_limit, "register 0x%" PRIx64 " is accessed by %u bytes", offset, n_bytes);
	return false;
}

static void bus_read_page(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct virtio_mmio *t = context;
	if (offset >= CONFIG)
		virtio_space_read(t->v, offset - CONFIG, ret_bytes, n_bytes);
	else if (is_register_access(t, offset, n_bytes))
		put_le32(ret_bytes, read_register(t, offset));
}

static void bus_write_page(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct virtio_mmio *t = context;
	if (offset >= CONFIG)
		virtio_space_write(t->v, offset - CONFIG, bytes, n_bytes);
	else if (is_register_access(t, offset, n_bytes))
		write_register(t, offset, get_le32(bytes));
}

static const struct bus_ops page_ops = { .read = bus_read_page, .write = bus_write_page };

/* --- life ------------------------------------------------------------------------------------------------------- */

int virtio_mmio_new(struct virtio_device *v, struct bus *mmio, uint64_t address, struct irq_router *router, uint32_t pin,
                    struct hv_vm *vm, struct virtio_mmio **ret_t, struct err *e)
{
	struct virtio_mmio *t = calloc(1, sizeof *t);
	if (!t)
		return err_set(e, ENOMEM, "%s: no memory for its registers", v->id);
	t->v = v;
	t->address = address;
	(void)pthread_mutex_init(&t->registers, NULL);
	kick_events_init(&t->kicks, v, vm, address + QUEUE_NOTIFY, 0);

	int rc = irq_line_init(&t->line, router, pin, false, e);
	if (rc == 0) {
		const struct bus_range page = { address, VIRTIO_MMIO_BYTES, &page_ops, t, v->id };
		rc = bus_add(mmio, &page, e);
	}
	if (rc < 0) {
		virtio_mmio_free(t);
		return rc;
	}
	t->bus = mmio;
	virtio_bind_transport(v, &transport_ops, t);
	*ret_t = t;
	return 0;
}

void virtio_mmio_free(struct virtio_mmio *t)
{
	if (!t)
		return;
	/* Afterwards no loop tells us anything. */
	if (t->v->transport == t) {
		virtio_device_reset(t->v);
		virtio_bind_transport(t->v, NULL, NULL);
	}
	if (t->bus)
		bus_remove(t->bus, t->address);
	kick_events_done(&t->kicks);
	irq_line_done(&t->line);
	(void)pthread_mutex_destroy(&t->registers);
	free(t);
}

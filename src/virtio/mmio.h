/* SPDX-License-Identifier: Apache-2.0 */
/* mmio.h - virtio over MMIO, version 2 (virtio 1.2, 4.2): one page of registers and one edge interrupt a device.
 *
 * Registers are the guest's, from any vCPU; made and freed while no vCPU runs. With vm NULL (tests, fuzzing) no ioeventfd
 * is bound: kicks take the register's way. */
#pragma once
#include "bus/bus.h"
#include "bus/irq.h"
#include "hv/hv.h"
#include "virtio/virtio.h"

#define VIRTIO_MMIO_BYTES 0x1000ull

struct virtio_mmio;

/* Does not own the device; the device outlives it. */
int virtio_mmio_new(struct virtio_device *v, struct bus *mmio, uint64_t address, struct irq_router *router, uint32_t pin,
                    struct hv_vm *vm, struct virtio_mmio **ret_t, struct err *e);
void virtio_mmio_free(struct virtio_mmio *t); /* resets the device first */

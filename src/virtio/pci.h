/* SPDX-License-Identifier: Apache-2.0 */
/* pci.h - virtio over PCI, modern only (virtio 1.2, 4.1): vendor 0x1af4, device 0x1040 + type.
 *
 * One 64-bit BAR 0 of 512 KiB: common configuration 0x0, ISR 0x2000, device configuration 0x4000, notifications 0x6000
 * (4 bytes a queue), MSI-X table 0x8000, PBA 0x48000. Kicks are ioeventfds at the notification addresses and follow the
 * BAR when the guest moves it. Registers are the guest's, from any vCPU; made and freed while no vCPU runs. With vm NULL
 * (tests, fuzzing) no ioeventfd is bound: kicks take the register's way. */
#pragma once
#include "bus/pci.h"
#include "hv/hv.h"
#include "virtio/virtio.h"

struct virtio_pci;

/* Does not own the device; the device outlives it. */
int virtio_pci_new(struct virtio_device *v, struct pci_bus *bus, struct irq_router *router, struct hv_vm *vm, int slot,
                   struct virtio_pci **ret_t, struct err *e);
void virtio_pci_free(struct virtio_pci *t); /* resets the device first */
const struct pci_device *virtio_pci_function(const struct virtio_pci *t); /* its place on the bus */

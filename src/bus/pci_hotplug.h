/* SPDX-License-Identifier: Apache-2.0 */
/* pci_hotplug.h - the registers behind ACPI's PCI hotplug: which slots have got a device, which are to lose theirs, and
 * what the guest has let go. One bit a slot.
 *
 * The guest's side (vCPU threads, hostile) is the four registers; the DSDT's methods are their driver. Our side is the
 * main thread's: it says what is there and what is to go, and takes what was ejected. An ejection frees nothing here:
 * ejection() is called under no lock, on the vCPU's thread, and is to tell the main thread. The lock is a leaf. */
#pragma once
#include "bus/pci.h"

/* Registers of 32 bits: an agreement with the DSDT alone, in the order of Cloud Hypervisor's. */
#define PCI_HOTPLUG_UP 0x0u      /* read: slots with a new device; reading takes the bits */
#define PCI_HOTPLUG_DOWN 0x4u    /* read: slots whose device the guest is asked for; reading takes the bits */
#define PCI_HOTPLUG_EJECT 0x8u   /* write: the guest lets go of the devices in these slots */
#define PCI_HOTPLUG_SEGMENT 0xcu /* which PCI segment the others speak of */
#define PCI_HOTPLUG_BYTES 0x10u

struct pci_hotplug {
	pthread_mutex_t lock;
	struct pci_bus *bus; /* NULL: there is no hotplug */
	uint32_t segment;    /* the guest's choice, any number */
	uint32_t removable;  /* slots whose device may go */
	uint32_t up, down;   /* what the guest has not read yet */
	uint32_t ejected;    /* what the guest has let go, and we have not taken yet */
	void (*ejection)(void *context);
	void *context;
};

/* ejection() says that pci_hotplug_take_ejected() has something to give: any vCPU thread. */
void pci_hotplug_init(struct pci_hotplug *h, struct pci_bus *bus, void (*ejection)(void *context), void *context);
void pci_hotplug_done(struct pci_hotplug *h); /* a zeroed one is left alone */

/* A device that can be removed is in the slot; is_news: the guest has to be told, by the event that follows. */
void pci_hotplug_filled(struct pci_hotplug *h, unsigned slot, bool is_news);
/* The slot's device was detached: nothing that was said of it holds any longer. */
void pci_hotplug_emptied(struct pci_hotplug *h, unsigned slot);
/* The guest is asked to let go of the slot's device, by the event that follows. */
void pci_hotplug_ask(struct pci_hotplug *h, unsigned slot);
/* Slots whose news the guest has not read yet. */
uint32_t pci_hotplug_unread(struct pci_hotplug *h);
/* The guest has read what it was asked last of this slot. */
bool pci_hotplug_is_heard(struct pci_hotplug *h, unsigned slot);
uint32_t pci_hotplug_take_ejected(struct pci_hotplug *h);

extern const struct bus_ops pci_hotplug_bus_ops; /* context: struct pci_hotplug */

/* SPDX-License-Identifier: Apache-2.0 */
/* pci.h - the PCI bus of one segment: configuration space, BARs that the guest may move, MSI-X (PCI Local Bus 3.0; PCIe 5.0 7).
 *
 * Configuration space comes by ECAM and by ports 0xcf8/0xcfc on vCPU threads. The bus owns the address windows: the
 * MMIO table holds the windows as one range each, and the bus finds device and BAR inside, under its own lock, so
 * that a guest may move BARs while vCPUs run. A device is attached and detached only while no vCPU runs. Locks are taken
 * in this order: a device's, the bus's, MSI-X's, the interrupt controller's, the router's; none is held across a class's
 * function. Nothing allocates after a device is built. */
#pragma once
#include "base/log.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include <pthread.h>

#define PCI_N_SLOTS 32
#define PCI_N_BARS 6
#define PCI_BDF_CHARS 13 /* with the terminator */
#define PCI_CONFIG_BYTES 4096 /* with the extended space; only the first 256 hold anything */
#define PCI_ECAM_BYTES 0x100000ull /* one bus */

struct pci_device;

struct pci_class {
	/* Reads and writes inside a BAR; offset + n_bytes is inside. vCPU threads; the device locks for itself. ret_bytes is
	 * zeroed before. */
	void (*bar_read)(struct pci_device *d, unsigned bar, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes);
	void (*bar_write)(struct pci_device *d, unsigned bar, uint64_t offset, const uint8_t *bytes, unsigned n_bytes);
	/* A BAR appeared, moved or vanished (memory decoding off): move ioeventfds. address 0: gone. Called under no lock
	 * of the bus, one change at a time a device. May be NULL. */
	void (*bar_moved)(struct pci_device *d, unsigned bar, uint64_t old_address, uint64_t new_address);
	/* Device-specific configuration space, for capabilities that are more than bytes (virtio's PCI_CFG). Return true
	 * when handled. offset + n_bytes <= 256. May be NULL. */
	bool (*config_read)(struct pci_device *d, unsigned offset, uint8_t *ret_bytes, unsigned n_bytes);
	bool (*config_write)(struct pci_device *d, unsigned offset, const uint8_t *bytes, unsigned n_bytes);
};

struct pci_bar {
	uint64_t n_bytes; /* a power of two; 0: absent */
	bool is_64bit, is_prefetchable;
	uint64_t address; /* where it answers now; 0 while decoding is off or the address is no window's */
	/* the bus's own */
	uint64_t told_address;    /* what bar_moved() was told last */
	uint64_t settled_address; /* the last one whose halves were both written */
	uint8_t half_written;     /* one half of a 64-bit address was written: 1 the low, 2 the high */
};

struct msix_vector {
	struct irq_msi msi;
	uint32_t address_low, address_high, data;
	bool is_masked, is_pending;
};

struct msix {
	unsigned n_vectors; /* 0: no MSI-X */
	unsigned table_bar, pba_bar;
	uint32_t table_offset, pba_offset;
	unsigned capability; /* offset in configuration space */
	_Atomic bool is_enabled;
	bool is_function_masked;
	struct msix_vector *vectors;
	struct irq_router *router;
	pthread_mutex_t lock;
};

struct pci_device {
	const struct pci_class *cls;
	const char *name;
	struct pci_bus *bus; /* NULL: not attached */
	unsigned slot;
	uint8_t config[256];     /* what reads give */
	uint8_t writable[256];   /* one bit set for each bit that the guest may change */
	struct pci_bar bars[PCI_N_BARS];
	unsigned n_next_capability; /* where the next capability goes */
	uint8_t *last_capability;   /* its "next" byte; NULL before the first */
	struct msix msix;
	struct irq_line *intx; /* shared by slots; NULL when there is none */
	bool is_intx_raised;   /* by the device */
	bool is_intx_asserted; /* what of that reaches the line */
	bool is_telling;       /* a thread is inside bar_moved() */
};

struct pci_window {
	uint64_t start, n_bytes; /* n_bytes 0: none */
};

struct pci_window_range { /* what the MMIO table's handlers know of a window */
	struct pci_bus *bus;
	uint64_t start;
};

struct pci_mapping { /* a BAR that answers */
	uint64_t start, n_bytes;
	struct pci_device *device;
	unsigned bar;
};

struct pci_bus {
	pthread_mutex_t lock; /* devices' configuration bytes, BAR addresses, INTx, the address port */
	uint16_t segment;
	struct pci_device *slots[PCI_N_SLOTS];
	_Atomic uint32_t hidden_slots; /* one bit each: their devices are let go, and no configuration access finds them */
	struct pci_device host_bridge; /* slot 0 */
	struct pci_window low, high; /* 32-bit and 64-bit MMIO windows */
	struct pci_window_range low_range, high_range;
	struct pci_mapping mappings[PCI_N_SLOTS * PCI_N_BARS]; /* by slot, then BAR: where they overlap, the first wins */
	unsigned n_mappings;
	bool has_half_written; /* some BAR waits for the other half of its address */
	uint64_t ecam;
	uint32_t config_address; /* port 0xcf8 */
	struct irq_line intx[8]; /* level lines shared by the slots; pins 16..23 */
	unsigned intx_raised[8]; /* how many devices raise each */
	bool has_intx;
	struct log log;
	const struct bus_ops *reset_control;
	void *reset_control_context;
	struct bus *mmio, *ports; /* where the bus's ranges are; NULL: not there */
};

struct pci_bus_params {
	uint16_t segment;
	uint64_t ecam; /* 1 MiB for one bus */
	struct pci_window low, high;
	struct irq_router *router; /* for INTx; NULL: no INTx */
	const struct log *log;     /* NULL: silent */
	/* Byte accesses to port 0xcf9, between the bytes of CONFIG_ADDRESS: the chip set's reset control. NULL: nobody. */
	const struct bus_ops *reset_control;
	void *reset_control_context;
};

#define PCI_INTX_FIRST_PIN 16u /* a slot's line is at pin 16 + slot % 8 */

/* ports NULL: configuration by ECAM only (segments above 0). */
int pci_bus_init(struct pci_bus *b, const struct pci_bus_params *p, struct bus *mmio, struct bus *ports, struct err *e);
void pci_bus_done(struct pci_bus *b); /* after its devices were detached; a zeroed one is left alone */

/* A device fills its header, BARs and capabilities, then is attached: slot -1 takes the lowest free one. Initial BAR
 * addresses are assigned and decoding is on, as firmware would leave it. */
void pci_device_init(struct pci_device *d, const struct pci_class *cls, const char *name, uint16_t vendor, uint16_t device,
                     uint32_t class_code, uint16_t subsystem_vendor, uint16_t subsystem, uint8_t revision);
void pci_device_bar(struct pci_device *d, unsigned bar, uint64_t n_bytes, bool is_64bit, bool is_prefetchable);
/* Appends a capability (id, then the bytes after the next pointer); returns its offset. writable may be NULL. */
unsigned pci_device_capability(struct pci_device *d, uint8_t id, const uint8_t *bytes, const uint8_t *writable, unsigned n_bytes);
int pci_device_msix(struct pci_device *d, struct irq_router *r, unsigned n_vectors, unsigned bar, uint32_t table_offset,
                    uint32_t pba_offset, struct err *e);
int pci_bus_attach(struct pci_bus *b, struct pci_device *d, int slot, struct err *e);
void pci_bus_detach(struct pci_device *d); /* one that is not attached is left alone */
/* The guest has ejected the devices in these slots, one bit each: they are not to be found while they wait for their
 * detachment. Any thread. */
void pci_bus_hide(struct pci_bus *b, uint32_t slots);
/* "0000:00:04.0": segment, bus, slot, function. */
void pci_device_bdf(const struct pci_device *d, char ret_bdf[PCI_BDF_CHARS]);
uint64_t pci_bar_address(const struct pci_device *d, unsigned bar); /* as it is programmed, decoding or not */
void pci_device_done(struct pci_device *d); /* detached before; a zeroed one is left alone */

/* Of the BAR that holds the table and the PBA; true when [offset, +n_bytes) was theirs. */
bool msix_bar_read(struct pci_device *d, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes);
bool msix_bar_write(struct pci_device *d, uint64_t offset, const uint8_t *bytes, unsigned n_bytes);
/* Any thread. Raises the vector, or sets its pending bit while masked. False when MSI-X is off or vector is out of range. */
bool msix_raise(struct pci_device *d, unsigned vector);
static inline bool msix_is_enabled(const struct pci_device *d)
{
	return d->msix.is_enabled;
}
/* INTx, when MSI-X is off; remembered while it is on. Any thread. */
void pci_intx_set(struct pci_device *d, bool level);

extern const struct bus_ops pci_ecam_ops, pci_port_ops; /* context: struct pci_bus */

/* --- between the files of this module --------------------------------------------------------------------------- */

/* Under the bus's lock: recomputes where d's BARs answer, and what reaches its line. */
void pci_bars_update(struct pci_device *d, unsigned offset, unsigned n_bytes);
void pci_intx_update(struct pci_device *d);
/* Under no lock: bar_moved() for what changed. */
void pci_bars_tell(struct pci_device *d);
/* Under the bus's lock: the message control word was written. Then, under none, msix_commit(). */
void msix_control_changed(struct pci_device *d);
void msix_commit(struct pci_device *d);
void msix_done(struct pci_device *d);

/* SPDX-License-Identifier: Apache-2.0 */
/* Ours: how the machine is put together. */
#include "config/vm_config.h"
#include "schema/schema.h"

static const struct enum_name transport_names[] = {
	{ .json = "Pci", .word = "pci", .value = TRANSPORT_PCI },
	{ .json = "Mmio", .word = "mmio", .value = TRANSPORT_MMIO },
	{ 0 },
};

static const struct enum_name irqchip_names[] = {
	{ .json = "Split", .word = "split", .value = IRQCHIP_SPLIT },
	{ .json = "Kernel", .word = "kernel", .value = IRQCHIP_KERNEL },
	{ 0 },
};

static const struct enum_name map_kernel_names[] = {
	{ .json = "Off", .word = "off", .value = MAP_KERNEL_OFF },
	{ .json = "Readonly", .word = "readonly", .value = MAP_KERNEL_READONLY },
	{ .json = "All", .word = "all", .value = MAP_KERNEL_ALL },
	{ 0 },
};

#define T struct machine_config
static const struct field machine_rows[] = {
	ROW_ENUM(T, transport, enum machine_transport, transport_names, .def = TRANSPORT_PCI,
	         .help = "What virtio devices are attached to"),
	ROW_ENUM(T, irqchip, enum machine_irqchip, irqchip_names, .def = IRQCHIP_SPLIT,
	         .help = "Whether the IOAPIC is the VMM's own, or the kernel's"),
	ROW_ENUM(T, map_kernel, enum machine_map_kernel, map_kernel_names, .def = MAP_KERNEL_READONLY,
	         .help = "What to map of an ELF kernel's file instead of copying it: nothing; what the guest only reads, until "
	                 "huge pages take its place after some seconds; or all of it and the initramfs for good, which starts "
	                 "soonest and shares memory with other guests, but has small pages there"),
	ROW_BOOL(T, acpi, .def = true, .help = "Describe the machine to the guest by ACPI tables"),
	ROW_PAD(T, pad_),
};
const struct schema machine_schema =
	SCHEMA(T, machine_rows, .name = "MachineConfig", .option = "machine",
	       .help = "Varan's own: how the machine is put together");

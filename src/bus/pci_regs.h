/* SPDX-License-Identifier: Apache-2.0 */
/* pci_regs.h - names of the PCI Local Bus Specification 3.0 for configuration space: 6.1, 6.2, 6.8.2. */
#pragma once

#define PCI_VENDOR_ID 0x00u
#define PCI_DEVICE_ID 0x02u
#define PCI_COMMAND 0x04u
#define PCI_COMMAND_MEMORY 0x2u
#define PCI_COMMAND_MASTER 0x4u
#define PCI_COMMAND_PARITY 0x40u
#define PCI_COMMAND_SERR 0x100u
#define PCI_COMMAND_INTX_DISABLE 0x400u
#define PCI_STATUS 0x06u
#define PCI_STATUS_INTERRUPT 0x08u
#define PCI_STATUS_CAP_LIST 0x10u
#define PCI_REVISION_ID 0x08u
#define PCI_CLASS_PROG 0x09u
#define PCI_CACHE_LINE_SIZE 0x0cu
#define PCI_LATENCY_TIMER 0x0du
#define PCI_BASE_ADDRESS_0 0x10u
#define PCI_BASE_ADDRESS_64BIT 0x4u
#define PCI_BASE_ADDRESS_PREFETCH 0x8u
#define PCI_SUBSYSTEM_VENDOR_ID 0x2cu
#define PCI_SUBSYSTEM_ID 0x2eu
#define PCI_CAPABILITY_LIST 0x34u
#define PCI_INTERRUPT_LINE 0x3cu
#define PCI_INTERRUPT_PIN 0x3du
#define PCI_FIRST_CAPABILITY 0x40u

#define PCI_CAP_ID_VNDR 0x09u
#define PCI_CAP_ID_MSIX 0x11u

/* 6.8.2: offsets from the capability, and the bits of the message control word. */
#define PCI_MSIX_FLAGS 2u
#define PCI_MSIX_FLAGS_MASKALL 0x4000u
#define PCI_MSIX_FLAGS_ENABLE 0x8000u
#define PCI_MSIX_ENTRY_BYTES 16u
#define PCI_MSIX_MAX_VECTORS 2048u

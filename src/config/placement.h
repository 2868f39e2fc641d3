/* SPDX-License-Identifier: Apache-2.0 */
/* placement.h - where a device of the configuration sits on PCI: the rows, and the rules that need the platform.
 * Inside src/config/ only. */
#pragma once
#include "config/vm_config.h"
#include "schema/schema.h"

#define PCI_MAX_SEGMENTS 96

/* Also the order in which they are converted. */
#define ROWS_OF_PLACEMENT(T)                                                                              \
	ROW_U16(T, pci_segment, .help = "PCI segment"),                                                   \
	ROW_U8(T, pci_device_id, .has = HAS(T, has_pci_device_id), .min = 1, .max = 31, .help = "PCI device number")

/* The device cannot be behind the IOMMU, or it is, or it is not. */
enum behind_iommu { BEHIND_IOMMU_NO, BEHIND_IOMMU_YES, BEHIND_IOMMU_NEVER };

int placement_check(const struct vm_config *c, uint16_t pci_segment, enum behind_iommu behind, struct err *e);
uint16_t placement_segments(const struct vm_config *c); /* 1 without --platform */

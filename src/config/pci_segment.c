/* SPDX-License-Identifier: Apache-2.0 */
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>
#include <inttypes.h>

#define T struct pci_segment_config
static const struct field pci_segment_rows[] = {
	ROW_U16(T, pci_segment, .help = "The segment"),
	ROW_U32(T, mmio32_aperture_weight, .def = 1, .help = "Its share of the address space below 4 GiB"),
	ROW_U32(T, mmio64_aperture_weight, .def = 1, .help = "Its share of the address space above"),
	ROW_PAD(T, pad_),
};
const struct schema pci_segment_schema =
	SCHEMA(T, pci_segment_rows, .name = "PciSegmentConfig", .option = "pci-segment",
	       .help = "Share of the address space for devices that a PCI segment gets");
#undef T

int pci_segment_check(const struct pci_segment_config *s, const struct vm_config *c, struct err *e)
{
	if (s->pci_segment >= placement_segments(c))
		return err_set(e, EINVAL, "Invalid PCI segment id: %u", s->pci_segment);
	if (!s->mmio32_aperture_weight || !s->mmio64_aperture_weight)
		return err_set(e, EINVAL, "Invalid PCI segment aperture weight: 0");
	return 0;
}

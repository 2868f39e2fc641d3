/* SPDX-License-Identifier: Apache-2.0 */
#include "config/placement.h"

#include <errno.h>

uint16_t placement_segments(const struct vm_config *c)
{
	return c->has_platform ? c->platform.num_pci_segments : 1;
}

static bool is_iommu_segment(const struct vm_config *c, uint16_t segment)
{
	for (size_t i = 0; c->has_platform && i < c->platform.n_iommu_segments; i++)
		if (c->platform.iommu_segments[i] == segment)
			return true;
	return false;
}

int placement_check(const struct vm_config *c, uint16_t pci_segment, enum behind_iommu behind, struct err *e)
{
	if (pci_segment >= placement_segments(c))
		return err_set(e, EINVAL, "Invalid PCI segment id: %u", pci_segment);
	if (behind == BEHIND_IOMMU_YES || !is_iommu_segment(c, pci_segment))
		return 0;
	return err_set(e, EINVAL, "Device is on an IOMMU PCI segment (%u) but %s", pci_segment,
	               behind == BEHIND_IOMMU_NO ? "not placed behind IOMMU"
	                                         : "does not support being placed behind IOMMU");
}

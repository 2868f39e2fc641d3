/* SPDX-License-Identifier: Apache-2.0 */
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>

#define MAX_IOMMU_ADDRESS_WIDTH 64

#define T struct platform_config
static const struct field platform_rows[] = {
	ROW_U16(T, num_pci_segments, .def = 1, .help = "PCI segments, 1 to 96"),
	ROW_INTEGERS(T, iommu_segments, uint16_t, .max_items = 4096,
	             .help = "Segments that are wholly behind the IOMMU"),
	ROW_U8(T, iommu_address_width, .json = "iommu_address_width_bits", .def = MAX_IOMMU_ADDRESS_WIDTH,
	       .help = "Bits of an address before the IOMMU"),
	ROW_STRING(T, serial_number, .help = "Older name of system_serial_number"),
	ROW_STRING(T, uuid, .help = "Older name of system_uuid"),
	ROW_STRINGS(T, oem_strings, .max_items = 255, .help = "SMBIOS: strings of the maker"),
	ROW_STRING(T, system_manufacturer, .help = "SMBIOS: maker of the system"),
	ROW_STRING(T, system_product_name, .help = "SMBIOS: name of the system"),
	ROW_STRING(T, system_version, .help = "SMBIOS: version of the system"),
	ROW_STRING(T, system_serial_number, .help = "SMBIOS: serial number of the system"),
	ROW_STRING(T, system_uuid, .help = "SMBIOS: UUID of the system"),
	ROW_STRING(T, system_sku_number, .help = "SMBIOS: stock number of the system"),
	ROW_STRING(T, system_family, .help = "SMBIOS: family of the system"),
	ROW_STRING(T, chassis_asset_tag, .help = "SMBIOS: asset tag of the chassis"),
	ROW_BOOL(T, iommufd, .help = "Passthrough by iommufd instead of VFIO containers"),
	ROW_BOOL(T, vfio_p2p_dma, .def = true, .help = "Let passthrough devices reach each other"),
	ROW_I32(T, iommufd_fd, .flags = ROW_NO_JSON, .has = HAS(T, has_iommufd_fd), .help = "Open descriptor of iommufd"),
	/* Words of builds with these features; any build reads them in JSON, so that it can refuse them. */
	ROW_BOOL(T, tdx, .flags = ROW_NO_OPTION, .help = "Intel TDX guest"),
	ROW_BOOL(T, sev_snp, .flags = ROW_NO_OPTION, .help = "AMD SEV-SNP guest"),
	ROW_PAD(T, pad_),
};
const struct schema platform_schema = SCHEMA(T, platform_rows, .name = "PlatformConfig", .option = "platform",
                                             .help = "PCI segments, IOMMU segments, SMBIOS identity");
#undef T

int platform_check(const struct platform_config *p, struct err *e)
{
	if (!p->num_pci_segments || p->num_pci_segments > PCI_MAX_SEGMENTS)
		return err_set(e, EINVAL, "Number of PCI segments (%u) not in range of 1 to %u", p->num_pci_segments,
		               PCI_MAX_SEGMENTS);
	for (size_t i = 0; i < p->n_iommu_segments; i++)
		if (p->iommu_segments[i] >= p->num_pci_segments)
			return err_set(e, EINVAL, "Invalid PCI segment id: %u", p->iommu_segments[i]);
	if (p->iommu_address_width > MAX_IOMMU_ADDRESS_WIDTH)
		return err_set(e, EINVAL, "IOMMU address width in bits (%u) should be less than or equal to %u",
		               p->iommu_address_width, MAX_IOMMU_ADDRESS_WIDTH);
	return 0;
}

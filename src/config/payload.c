/* SPDX-License-Identifier: Apache-2.0 */
/* What boots. On the command line each member is an option of its own, taken as plain text. */
#include "config/vm_config.h"
#include "schema/schema.h"

#define T struct fw_cfg_item_config
static const struct field fw_cfg_item_rows[] = {
	ROW_STRING(T, name, .flags = ROW_REQUIRED_JSON | ROW_NO_OPTION, .help = "Name of the item"),
	ROW_PATH(T, file, .flags = ROW_NO_OPTION, .help = "Its contents are those of this file"),
	ROW_STRING(T, string, .flags = ROW_NO_OPTION, .help = "Its contents"),
};
static const struct schema fw_cfg_item_schema =
	SCHEMA(T, fw_cfg_item_rows, .name = "FwCfgItem", .help = "An item that the firmware finds");
#undef T

#define T struct fw_cfg_config
static const struct field fw_cfg_rows[] = {
	ROW_BOOL(T, e820, .def = true, .flags = ROW_NO_OPTION, .help = "Pass the map of memory"),
	ROW_BOOL(T, kernel, .def = true, .flags = ROW_NO_OPTION, .help = "Pass the kernel"),
	ROW_BOOL(T, cmdline, .def = true, .flags = ROW_NO_OPTION, .help = "Pass the kernel command line"),
	ROW_BOOL(T, initramfs, .def = true, .flags = ROW_NO_OPTION, .help = "Pass the initramfs"),
	ROW_BOOL(T, acpi_table, .def = true, .flags = ROW_NO_OPTION, .help = "Pass the ACPI tables"),
	ROW_LIST(T, items, struct fw_cfg_item_config, &fw_cfg_item_schema, .flags = ROW_NO_OPTION, .max_items = 256,
	         .help = "Items besides"),
	ROW_PAD(T, pad_),
};
static const struct schema fw_cfg_schema =
	SCHEMA(T, fw_cfg_rows, .name = "FwCfgConfig", .help = "What a firmware is told by the fw_cfg interface");
#undef T

#define T struct payload_config
static const struct field payload_rows[] = {
	ROW_PATH(T, firmware, .flags = ROW_NO_OPTION, .help = "Firmware image"),
	ROW_PATH(T, kernel, .flags = ROW_NO_OPTION, .help = "Kernel image: bzImage, or ELF with a PVH entry"),
	ROW_STRING(T, cmdline, .flags = ROW_NO_OPTION, .help = "Kernel command line"),
	ROW_PATH(T, initramfs, .flags = ROW_NO_OPTION, .help = "Initramfs image"),
	ROW_PATH(T, igvm, .flags = ROW_NO_OPTION, .help = "IGVM file"),
	ROW_STRING(T, host_data, .flags = ROW_NO_OPTION, .help = "Host data for an SEV-SNP guest"),
	ROW_OBJECT(T, fw_cfg_config, struct fw_cfg_config, &fw_cfg_schema, .has = HAS(T, has_fw_cfg_config),
	           .flags = ROW_NO_OPTION, .help = "What a firmware is told by the fw_cfg interface"),
	ROW_PAD(T, pad_),
};
const struct schema payload_schema = SCHEMA(T, payload_rows, .name = "PayloadConfig", .help = "What boots");

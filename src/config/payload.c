/* SPDX-License-Identifier: Apache-2.0 */
/* What boots. On the command line each member is an option of its own, taken as plain text. */
#include "config/vm_config.h"
#include "schema/schema.h"

#define T struct payload_config
static const struct field payload_rows[] = {
	ROW_PATH(T, firmware, .flags = ROW_NO_OPTION, .help = "Firmware image"),
	ROW_PATH(T, kernel, .flags = ROW_NO_OPTION, .help = "Kernel image: bzImage, or ELF with a PVH entry"),
	ROW_STRING(T, cmdline, .flags = ROW_NO_OPTION, .help = "Kernel command line"),
	ROW_PATH(T, initramfs, .flags = ROW_NO_OPTION, .help = "Initramfs image"),
	ROW_PATH(T, igvm, .flags = ROW_NO_OPTION, .help = "IGVM file"),
	ROW_STRING(T, host_data, .flags = ROW_NO_OPTION, .help = "Host data for an SEV-SNP guest"),
};
const struct schema payload_schema = SCHEMA(T, payload_rows, .name = "PayloadConfig", .help = "What boots");

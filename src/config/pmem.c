/* SPDX-License-Identifier: Apache-2.0 */
#include "config/placement.h"

#define T struct pmem_config
static const struct field pmem_rows[] = {
	ROW_PATH(T, file, .flags = ROW_REQUIRED, .help = "Backing file or directory"),
	ROW_SIZE(T, size, .has = HAS(T, has_size), .help = "Size [default: that of the file]"),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_BOOL(T, discard_writes, .help = "Keep what the guest writes out of the file"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
	ROW_PAD(T, pad_),
};
const struct schema pmem_schema =
	SCHEMA(T, pmem_rows, .name = "PmemConfig", .option = "pmem", .help = "A persistent memory device");

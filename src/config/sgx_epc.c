/* SPDX-License-Identifier: Apache-2.0 */
#include "config/vm_config.h"
#include "schema/schema.h"

#define T struct sgx_epc_config
static const struct field sgx_epc_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "Name of the section"),
	ROW_SIZE(T, size, .help = "Its size"),
	ROW_BOOL(T, prefault, .help = "Populate it at start"),
	ROW_PAD(T, pad_),
};
const struct schema sgx_epc_schema = SCHEMA(T, sgx_epc_rows, .name = "SgxEpcConfig", .option = "sgx-epc",
                                            .help = "A section of memory for SGX enclaves");

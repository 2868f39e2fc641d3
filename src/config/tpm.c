/* SPDX-License-Identifier: Apache-2.0 */
#include "config/vm_config.h"
#include "schema/schema.h"

#define T struct tpm_config
static const struct field tpm_rows[] = {
	/* The text is Cloud Hypervisor's, although the key is another. */
	ROW_PATH(T, socket, .flags = ROW_REQUIRED, .missing = "path missing", .help = "Unix socket of swtpm"),
};
const struct schema tpm_schema =
	SCHEMA(T, tpm_rows, .name = "TpmConfig", .option = "tpm", .help = "TPM, emulated by swtpm");

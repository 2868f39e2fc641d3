/* SPDX-License-Identifier: Apache-2.0 */
#include "config/vm_config.h"
#include "schema/schema.h"

#define T struct rng_config
static const struct field rng_rows[] = {
	ROW_PATH(T, src, .def_string = "/dev/urandom", .flags = ROW_REQUIRED_JSON,
	         .help = "Where the entropy comes from"),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_PAD(T, pad_),
};
const struct schema rng_schema = SCHEMA(T, rng_rows, .name = "RngConfig", .option = "rng", .help = "Entropy device");

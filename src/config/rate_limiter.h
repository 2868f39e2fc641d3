/* SPDX-License-Identifier: Apache-2.0 */
/* rate_limiter.h - the rows of struct rate_limiter_config, for every device that has one. */
#pragma once
#include "config/vm_config.h"
#include "schema/schema.h"

extern const struct schema rate_limiter_schema;

/* For .is_present of the row: whether there is a bucket at all. */
bool rate_limiter_is_present(const void *object);

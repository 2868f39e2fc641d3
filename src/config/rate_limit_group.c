/* SPDX-License-Identifier: Apache-2.0 */
#include "config/rate_limiter.h"
#include "config/rules.h"

#include <errno.h>

#define T struct rate_limit_group_config
static const struct field group_rows[] = {
	ROW_STRING(T, id, .def_string = "", .help = "Name of the group"),
	ROW_OBJECT(T, rate_limiter_config, struct rate_limiter_config, &rate_limiter_schema, .key = "",
	           .flags = ROW_FLAT, .help = "The budget"),
};
const struct schema rate_limit_group_schema =
	SCHEMA(T, group_rows, .name = "RateLimitGroupConfig", .option = "rate-limit-group",
	       .help = "A budget of I/O that disks share");
#undef T

int rate_limit_group_check(const struct rate_limit_group_config *g, struct err *e)
{
	if (!rate_limiter_is_present(&g->rate_limiter_config) || !*g->id)
		return err_set(e, EINVAL, "Invalid rate-limiter group");
	return 0;
}

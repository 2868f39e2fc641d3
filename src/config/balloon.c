/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>
#include <inttypes.h>

#define T struct balloon_config
static const struct field balloon_rows[] = {
	ROW_SIZE(T, size, .flags = ROW_REQUIRED_JSON, .help = "Memory taken away from the guest"),
	ROW_BOOL(T, deflate_on_oom, .help = "The guest may take it back when it runs out of memory"),
	ROW_BOOL(T, free_page_reporting, .help = "The guest reports pages that it does not use"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_PAD(T, pad_),
};
const struct schema balloon_schema =
	SCHEMA(T, balloon_rows, .name = "BalloonConfig", .option = "balloon", .help = "Memory balloon");
#undef T

/* What can be plugged in later does not count. A balloon as large as RAM is refused, too. */
int balloon_check(const struct balloon_config *b, const struct memory_config *m, struct err *e)
{
	uint64_t ram = m->size;
	for (size_t i = 0; i < m->n_zones; i++)
		if (!checked_add(ram, m->zones[i].size, &ram))
			ram = UINT64_MAX;
	if (b->size >= ram)
		return err_set(e, EINVAL, "Ballon size (%" PRIu64 ") greater than RAM (%" PRIu64 ")", b->size, ram);
	return 0;
}

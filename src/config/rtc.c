/* SPDX-License-Identifier: Apache-2.0 */
#include "config/placement.h"

#define T struct rtc_config
static const struct field rtc_rows[] = {
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_PAD(T, pad_),
};
const struct schema rtc_schema =
	SCHEMA(T, rtc_rows, .name = "RtcConfig", .option = "rtc", .help = "Clock of the host, as a virtio device");
#undef T

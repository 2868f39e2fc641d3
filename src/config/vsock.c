/* SPDX-License-Identifier: Apache-2.0 */
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>
#include <inttypes.h>

#define T struct vsock_config
static const struct field vsock_rows[] = {
	ROW_PATH(T, socket, .flags = ROW_REQUIRED, .help = "Unix socket that stands for the guest on the host"),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_U32(T, cid, .flags = ROW_REQUIRED, .help = "Context identifier of the guest, at least 3"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROWS_OF_PLACEMENT(T),
	ROW_PAD(T, pad_),
};
const struct schema vsock_schema =
	SCHEMA(T, vsock_rows, .name = "VsockConfig", .option = "vsock", .help = "Sockets between host and guest");
#undef T

int vsock_check_cid(const struct vsock_config *v, struct err *e)
{
	/* The hypervisor, local communication, the host; and "any". */
	if (v->cid <= 2 || v->cid == UINT32_MAX)
		return err_set(e, EINVAL, "%" PRIu32 " is a special VSOCK CID", v->cid);
	return 0;
}

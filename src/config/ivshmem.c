/* SPDX-License-Identifier: Apache-2.0 */
/* Devices of Cloud Hypervisor's optional features. Only JSON has them; they are read so that they can be refused. */
#include "config/vm_config.h"
#include "schema/schema.h"

#define T struct ivshmem_config
static const struct field ivshmem_rows[] = {
	ROW_PATH(T, path, .flags = ROW_REQUIRED_JSON | ROW_NO_OPTION, .help = "File that is the shared memory"),
	ROW_SIZE(T, size, .def = 128 << 20, .flags = ROW_NO_OPTION, .help = "Its size, a power of two"),
};
const struct schema ivshmem_schema =
	SCHEMA(T, ivshmem_rows, .name = "IvshmemConfig", .help = "Memory that VMs share");
#undef T

#define T struct pvmemcontrol_config
static const struct field pvmemcontrol_rows[] = { ROW_PAD(T, pad_) };
const struct schema pvmemcontrol_schema =
	SCHEMA(T, pvmemcontrol_rows, .name = "PvmemcontrolConfig", .help = "Control of the host's backing of memory");
#undef T

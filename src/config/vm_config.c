/* SPDX-License-Identifier: Apache-2.0 */
#include "config/vm_config.h"

#include "config/rules.h"
#include "schema/schema.h"

#include <errno.h>
#include <string.h>

static int check(const void *object, struct err *e)
{
	return vm_config_validate(object, e);
}

#define T struct vm_config
static const struct field vm_rows[] = {
	ROW_OBJECT(T, cpus, struct cpus_config, &cpus_schema, .help = "Virtual CPUs"),
	ROW_OBJECT(T, memory, struct memory_config, &memory_schema, .help = "Guest RAM"),
	ROW_OBJECT(T, payload, struct payload_config, &payload_schema, .has = HAS(T, has_payload),
	           .help = "What boots"),
	ROW_LIST(T, disks, struct disk_config, &disk_schema, .max_items = 4096, .help = "Block devices"),
	ROW_OBJECT(T, rng, struct rng_config, &rng_schema, .help = "Entropy device"),
	ROW_OBJECT(T, serial, struct console_config, &serial_schema, .help = "Legacy serial port"),
	ROW_OBJECT(T, console, struct console_config, &console_schema, .help = "virtio console"),
	ROW_OBJECT(T, machine, struct machine_config, &machine_schema, .help = "How the machine is put together"),
	ROW_BOOL(T, iommu, .help = "Whether there is an IOMMU for the devices that ask for one"),
	ROW_PAD(T, pad_),
};
const struct schema vm_config_schema =
	SCHEMA(T, vm_rows, .name = "VmConfig", .help = "Description of a VM", .check = check);
#undef T

int vm_config_init(struct vm_config *c, struct err *e)
{
	return schema_init(&vm_config_schema, c, e);
}

void vm_config_done(struct vm_config *c)
{
	schema_done(&vm_config_schema, c);
}

/* Unique among all that carry one, and not of the internal devices' form. Devices come in their order. */
static int check_id(const struct vm_config *c, size_t disk, struct err *e)
{
	const char *id = c->disks[disk].id;
	if (!id)
		return 0;
	if (strncmp(id, "__", 2) == 0)
		return err_set(e, EINVAL, "Identifier %s is invalid", id);
	for (size_t i = 0; i < disk; i++)
		if (c->disks[i].id && strcmp(c->disks[i].id, id) == 0)
			return err_set(e, EINVAL, "Identifier %s is not unique", id);
	return 0;
}

/* The order is Cloud Hypervisor's: what comes first is what a user sees. */
int vm_config_validate(const struct vm_config *c, struct err *e)
{
	int rc;
	if (!c->has_payload)
		return err_set(e, EINVAL, "No kernel specified");
	if ((rc = console_check(&c->console, e)) < 0 || (rc = console_check(&c->serial, e)) < 0)
		return rc;
	if ((rc = cpus_check_counts(&c->cpus, e)) < 0)
		return rc;
	for (size_t i = 0; i < c->n_disks; i++)
		if ((rc = disk_check(&c->disks[i], c, e)) < 0 || (rc = check_id(c, i, e)) < 0)
			return rc;
	if ((rc = cpus_check_topology(&c->cpus, e)) < 0)
		return rc;
	return memory_check(&c->memory, e);
}

/* Not by the serial port: its iommu has no effect. */
bool vm_config_needs_iommu(const struct vm_config *c)
{
	for (size_t i = 0; i < c->n_disks; i++)
		if (c->disks[i].iommu)
			return true;
	return c->rng.iommu || c->console.iommu;
}

const char *vm_config_warning(const struct vm_config *c)
{
	if (c->console.mode == CONSOLE_TTY && c->serial.mode == CONSOLE_TTY)
		return "Using TTY output for multiple consoles: [\"virtio-console\", \"serial-console\"]";
	return NULL;
}

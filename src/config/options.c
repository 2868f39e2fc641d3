/* SPDX-License-Identifier: Apache-2.0 */
#include "config/options.h"

#include "schema/schema.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_VM "VM configuration"
#define GROUP_LOGGING "Logging"
#define GROUP_OTHER "Other"

static const char *const seccomp_modes[] = { "true", "false", "log", NULL };

static const struct option_row rows[] = {
	{ .name = "kernel", .arity = OPTION_ONE, .group = GROUP_VM,
	  .help = "Path of the kernel: a bzImage, or an ELF file with a PVH entry" },
	{ .name = "firmware", .arity = OPTION_ONE, .group = GROUP_VM, .help = "Path of a firmware image" },
	{ .name = "initramfs", .arity = OPTION_ONE, .group = GROUP_VM, .help = "Path of an initramfs image" },
	{ .name = "cmdline", .arity = OPTION_ONE, .group = GROUP_VM, .help = "Kernel command line" },
	{ .name = "cpus", .arity = OPTION_ONE, .def = "boot=1,max_phys_bits=46", .group = GROUP_VM,
	  .help = "Virtual CPUs",
	  .schema = &cpus_schema },
	{ .name = "memory", .arity = OPTION_ONE, .def = "size=512M", .group = GROUP_VM,
	  .help = "Guest RAM", .schema = &memory_schema },
	{ .name = "disk", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Block devices, one value each", .schema = &disk_schema },
	{ .name = "rng", .arity = OPTION_ONE, .def = "src=/dev/urandom", .group = GROUP_VM,
	  .help = "Entropy device", .schema = &rng_schema },
	{ .name = "serial", .arity = OPTION_ONE, .def = "null", .group = GROUP_VM,
	  .help = "Legacy serial port", .schema = &serial_schema },
	{ .name = "console", .arity = OPTION_ONE, .def = "tty", .group = GROUP_VM,
	  .help = "virtio console", .schema = &console_schema },
	{ .name = "machine", .arity = OPTION_ONE, .def = "transport=pci,irqchip=split,acpi=on,map_kernel=readonly",
	  .group = GROUP_VM, .help = "How the machine is put together", .schema = &machine_schema },
	{ .short_name = 'v', .is_counted = true, .group = GROUP_LOGGING,
	  .help = "More log output: once adds info, twice debug, three times trace" },
	{ .name = "log-file", .arity = OPTION_ONE, .group = GROUP_LOGGING,
	  .help = "Path of the log file, instead of standard error" },
	{ .name = "version", .short_name = 'V', .stands_alone = true, .group = GROUP_OTHER,
	  .help = "Print the version; with -v, the features that are in" },
	{ .name = "help", .short_name = 'h', .ends_parsing = true, .group = GROUP_OTHER, .help = "Print this help" },

	/* Known, and to come. */
	{ .name = "platform", .arity = OPTION_ONE, .is_unsupported = true },
	{ .name = "memory-zone", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "rate-limit-group", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "net", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "balloon", .arity = OPTION_ONE, .is_unsupported = true },
	{ .name = "fs", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "pmem", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "device", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "user-device", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "vdpa", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "vsock", .arity = OPTION_ONE, .is_unsupported = true },
	{ .name = "pvpanic", .is_unsupported = true },
	{ .name = "numa", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "pci-segment", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "watchdog", .is_unsupported = true },
	{ .name = "api-socket", .arity = OPTION_ONE, .is_unsupported = true },
	{ .name = "event-monitor", .arity = OPTION_ONE, .is_unsupported = true },
	{ .name = "restore", .arity = OPTION_ONE, .is_unsupported = true },
	{ .name = "seccomp", .arity = OPTION_ONE, .possible_values = seccomp_modes, .is_unsupported = true },
	{ .name = "tpm", .arity = OPTION_ONE, .is_unsupported = true },
#ifdef __x86_64__
	{ .name = "sgx-epc", .arity = OPTION_MANY, .is_unsupported = true },
	{ .name = "debug-console", .arity = OPTION_ONE, .is_unsupported = true },
#endif
};

const struct option_table varan_options = {
	.program = "varan",
	.about = "Virtual machine monitor for Linux guests on KVM",
	.rows = rows,
	.n_rows = ARRAY_LEN(rows),
};

/* One option with one value into its object, which holds the defaults and keeps them when the option is absent. */
static int read_one(const struct command_line *line, const char *name, const struct schema *s, void *object,
                    struct err *e)
{
	size_t n;
	const char *const *values = command_line_values(line, name, &n);
	if (!n)
		return 0;
	schema_done(s, object);
	return schema_parse_option(s, values[0], object, e);
}

static int read_disks(const struct command_line *line, struct vm_config *c, struct err *e)
{
	size_t n;
	const char *const *values = command_line_values(line, "disk", &n);
	for (size_t i = 0; i < n; i++) {
		void *disk;
		int rc = schema_append(&disk_schema, &c->disks, &c->n_disks, &disk, e);
		if (rc < 0)
			return rc;
		schema_done(&disk_schema, disk);
		rc = schema_parse_option(&disk_schema, values[i], disk, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_text(const struct command_line *line, const char *name, char **ret_text, struct err *e)
{
	const char *value = command_line_value(line, name);
	if (!value)
		return 0;
	*ret_text = strdup(value);
	return *ret_text ? 0 : err_set(e, ENOMEM, "out of memory");
}

/* There is a payload when something is to be booted; the rest belongs to it. */
static int read_payload(const struct command_line *line, struct vm_config *c, struct err *e)
{
	struct payload_config *p = &c->payload;
	int rc;
	if (!command_line_count(line, "kernel") && !command_line_count(line, "firmware"))
		return 0;
	c->has_payload = true;
	if ((rc = read_text(line, "kernel", &p->kernel, e)) < 0 ||
	    (rc = read_text(line, "firmware", &p->firmware, e)) < 0 ||
	    (rc = read_text(line, "initramfs", &p->initramfs, e)) < 0)
		return rc;
	return read_text(line, "cmdline", &p->cmdline, e);
}

/* The order is part of the interface: of several faulty options, this one's fault is reported. */
static int read_options(const struct command_line *line, struct vm_config *c, struct err *e)
{
	int rc;
	if ((rc = read_disks(line, c, e)) < 0 || (rc = read_one(line, "rng", &rng_schema, &c->rng, e)) < 0 ||
	    (rc = read_one(line, "console", &console_schema, &c->console, e)) < 0 ||
	    (rc = read_one(line, "serial", &serial_schema, &c->serial, e)) < 0 ||
	    (rc = read_one(line, "cpus", &cpus_schema, &c->cpus, e)) < 0 ||
	    (rc = read_one(line, "memory", &memory_schema, &c->memory, e)) < 0 ||
	    (rc = read_one(line, "machine", &machine_schema, &c->machine, e)) < 0)
		return rc;
	return read_payload(line, c, e);
}

int vm_config_from_command_line(const struct command_line *line, struct vm_config *ret_c, struct err *e)
{
	struct vm_config c;
	int rc = vm_config_init(&c, e);
	if (rc < 0)
		return rc;
	rc = read_options(line, &c, e);
	if (rc == 0) {
		rc = vm_config_validate(&c, e);
		if (rc < 0)
			err_prefix(e, "Error validating configuration: ");
	}
	if (rc < 0) {
		vm_config_done(&c);
		return rc;
	}
	c.iommu = vm_config_needs_iommu(&c);
	*ret_c = c;
	return 0;
}

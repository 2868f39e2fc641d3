/* SPDX-License-Identifier: Apache-2.0 */
/* The words are Cloud Hypervisor's, for a build without its optional features (guest_debug, dbus_api, igvm, sev_snp, tdx):
 * their options do not exist. What begins with "Varan's own" is ours. */
#include "config/options.h"

#include "base/checked.h"
#include "config/vmm_config.h"
#include "schema/schema.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GROUP_VM "VM configuration"
#define GROUP_VMM "The process"
#define GROUP_LOGGING "Logging"
#define GROUP_OTHER "Other"

static const char *const seccomp_modes[] = { "true", "false", "log", NULL };
static const char *const log_formats[] = { "text", "json", NULL };

static const struct option_row rows[] = {
	{ .name = "kernel", .arity = OPTION_ONE, .group = GROUP_VM, .is_path = true,
	  .help = "Path of the kernel: a bzImage, or an ELF file with a PVH entry" },
	{ .name = "firmware", .arity = OPTION_ONE, .group = GROUP_VM, .is_path = true,
	  .help = "Path of a firmware image" },
	{ .name = "initramfs", .arity = OPTION_ONE, .group = GROUP_VM, .is_path = true,
	  .help = "Path of an initramfs image" },
	{ .name = "cmdline", .arity = OPTION_ONE, .group = GROUP_VM, .help = "Kernel command line" },
	{ .name = "cpus", .arity = OPTION_ONE, .def = "boot=1,max_phys_bits=46", .group = GROUP_VM,
	  .help = "Virtual CPUs", .schema = &cpus_schema },
	{ .name = "platform", .arity = OPTION_ONE, .group = GROUP_VM,
	  .help = "PCI segments, IOMMU segments, SMBIOS identity", .schema = &platform_schema },
	{ .name = "memory", .arity = OPTION_ONE, .def = "size=512M", .group = GROUP_VM,
	  .help = "Guest RAM", .schema = &memory_schema },
	{ .name = "memory-zone", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Regions of guest RAM, one value each, instead of a size of --memory",
	  .schema = &memory_zone_schema },
	{ .name = "rate-limit-group", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Budgets of I/O that disks share, one value each", .schema = &rate_limit_group_schema },
	{ .name = "disk", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Block devices, one value each", .schema = &disk_schema },
	{ .name = "net", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Network devices, one value each", .schema = &net_schema },
	{ .name = "rng", .arity = OPTION_ONE, .def = "src=/dev/urandom", .group = GROUP_VM,
	  .help = "Entropy device", .schema = &rng_schema },
	{ .name = "balloon", .arity = OPTION_ONE, .group = GROUP_VM,
	  .help = "Memory balloon", .schema = &balloon_schema },
	{ .name = "fs", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "File systems of the host by vhost-user, one value each", .schema = &fs_schema },
	{ .name = "generic-vhost-user", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Devices of any type by vhost-user, one value each", .schema = &generic_vhost_user_schema },
	{ .name = "pmem", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Persistent memory devices, one value each", .schema = &pmem_schema },
	{ .name = "serial", .arity = OPTION_ONE, .def = "null", .group = GROUP_VM,
	  .help = "Legacy serial port", .schema = &serial_schema },
	{ .name = "console", .arity = OPTION_ONE, .def = "tty", .group = GROUP_VM,
	  .help = "virtio console", .schema = &console_schema },
#ifdef __x86_64__
	{ .name = "debug-console", .arity = OPTION_ONE, .def = "off,iobase=0xe9", .group = GROUP_VM,
	  .help = "Debug port console", .schema = &debug_console_schema },
#endif
	{ .name = "device", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Devices of the host by VFIO, one value each", .schema = &device_schema },
	{ .name = "user-device", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Devices of other processes by vfio-user, one value each", .schema = &user_device_schema },
	{ .name = "vdpa", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "vDPA devices of the host, one value each", .schema = &vdpa_schema },
	{ .name = "vsock", .arity = OPTION_ONE, .group = GROUP_VM,
	  .help = "Sockets between host and guest", .schema = &vsock_schema },
	{ .name = "rtc", .arity = OPTION_ONE, .group = GROUP_VM,
	  .help = "Clock of the host, as a virtio device", .schema = &rtc_schema },
	{ .name = "pvpanic", .group = GROUP_VM, .help = "A device by which the guest reports that it panics" },
	{ .name = "watchdog", .group = GROUP_VM, .help = "A device that resets a guest that stopped feeding it" },
	{ .name = "tpm", .arity = OPTION_ONE, .group = GROUP_VM,
	  .help = "TPM, emulated by swtpm", .schema = &tpm_schema },
#ifdef __x86_64__
	{ .name = "sgx-epc", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Sections of memory for SGX enclaves, one value each", .schema = &sgx_epc_schema },
#endif
	{ .name = "numa", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "NUMA nodes of the guest, one value each", .schema = &numa_schema },
	{ .name = "pci-segment", .arity = OPTION_MANY, .group = GROUP_VM,
	  .help = "Shares of the address space for devices, one value per PCI segment",
	  .schema = &pci_segment_schema },
	{ .name = "machine", .arity = OPTION_ONE, .def = "transport=pci,irqchip=split,acpi=on,map_kernel=readonly",
	  .group = GROUP_VM, .help = "Varan's own: how the machine is put together", .schema = &machine_schema },
	{ .name = "api-socket", .arity = OPTION_ONE, .group = GROUP_VMM, .is_path = true,
	  .help = "Serve the REST API: path=<path> of a Unix socket to make, or the path alone, or fd=<number> of a "
	          "socket that listens" },
	{ .name = "event-monitor", .arity = OPTION_ONE, .group = GROUP_VMM,
	  .help = "Report what happens to the VM: path=<path> of a file, or fd=<number>" },
	{ .name = "restore", .arity = OPTION_ONE, .group = GROUP_VMM,
	  .help = "Start from a snapshot; without effect when there is something to boot",
	  .schema = &restore_schema },
	{ .name = "seccomp", .arity = OPTION_ONE, .possible_values = seccomp_modes, .def = "true", .group = GROUP_VMM,
	  .help = "Filter the system calls of the process: end it, let it be, or log. Not in force yet: there is no filter" },
	{ .name = "landlock", .group = GROUP_VMM,
	  .help = "Confine the process to the files that its VM is made of" },
	{ .name = "landlock-rules", .arity = OPTION_MANY, .group = GROUP_VMM,
	  .help = "What else it may use, one value each", .schema = &landlock_schema },
	{ .name = "no-shutdown", .group = GROUP_VMM, .help = "Stay when the guest has powered off" },
	{ .name = "dry-run", .group = GROUP_VMM,
	  .help = "Varan's own: check the configuration, print it as JSON, and end" },
	{ .short_name = 'v', .is_counted = true, .group = GROUP_LOGGING,
	  .help = "More log output: once adds info, twice debug, three times trace" },
	{ .name = "log-file", .arity = OPTION_ONE, .group = GROUP_LOGGING, .is_path = true,
	  .help = "Path of the log file, instead of standard error" },
	{ .name = "log-format", .arity = OPTION_ONE, .possible_values = log_formats, .def = "text",
	  .group = GROUP_LOGGING, .help = "Varan's own values: lines for people, or a JSON object each" },
	{ .name = "version", .short_name = 'V', .stands_alone = true, .group = GROUP_OTHER,
	  .help = "Print the version; with -v, the features that are in" },
	{ .name = "help", .short_name = 'h', .ends_parsing = true, .group = GROUP_OTHER, .help = "Print this help" },
};

const struct option_table varan_options = {
	.program = "varan",
	.about = "Virtual machine monitor for Linux guests on KVM",
	.rows = rows,
	.n_rows = ARRAY_LEN(rows),
};

/* One option with one value into its object, which holds the defaults and keeps them when the option is absent. */
static int read_one(const struct command_line *line, const char *name, const struct schema *s, void *object,
                    bool *has, struct err *e)
{
	size_t n;
	const char *const *values = command_line_values(line, name, &n);
	if (!n)
		return 0;
	schema_done(s, object);
	int rc = schema_parse_option(s, values[0], object, e);
	if (rc == 0 && has)
		*has = true;
	return rc;
}

/* How many of them a configuration may have: the bound that JSON has, too. */
static size_t max_of(const struct schema *of, const struct schema *element)
{
	for (uint32_t i = 0; i < of->n_fields; i++)
		if (of->fields[i].schema == element)
			return of->fields[i].max_items ? of->fields[i].max_items : FIELD_MAX_ITEMS;
	assert(false);
	return 0;
}

/* Each value into an element of the list. */
static int read_many(const struct command_line *line, const char *name, const struct schema *s, void *list, size_t *n,
                     struct err *e)
{
	size_t n_values;
	const char *const *values = command_line_values(line, name, &n_values);
	size_t max = max_of(s == &memory_zone_schema ? &memory_schema : &vm_config_schema, s);
	if (n_values > max)
		return err_set(e, EINVAL, "Error parsing --%s: %zu are more than %zu", name, n_values, max);
	for (size_t i = 0; i < n_values; i++) {
		void *element;
		int rc = schema_append(s, list, n, &element, e);
		if (rc < 0)
			return rc;
		schema_done(s, element);
		rc = schema_parse_option(s, values[i], element, e);
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

/* What exists on x86-64 only. */
static int read_debug_console(const struct command_line *line, struct vm_config *c, struct err *e)
{
#ifdef __x86_64__
	return read_one(line, "debug-console", &debug_console_schema, &c->debug_console, NULL, e);
#else
	(void)line, (void)c, (void)e;
	return 0;
#endif
}

static int read_sgx_epc(const struct command_line *line, struct vm_config *c, struct err *e)
{
#ifdef __x86_64__
	return read_many(line, "sgx-epc", &sgx_epc_schema, &c->sgx_epc, &c->n_sgx_epc, e);
#else
	(void)line, (void)c, (void)e;
	return 0;
#endif
}

/* The order is part of the interface: of several faulty options, this one's fault is reported. Storage to consoles... */
static int read_first_half(const struct command_line *line, struct vm_config *c, struct err *e)
{
	int rc;
	if ((rc = read_many(line, "rate-limit-group", &rate_limit_group_schema, &c->rate_limit_groups,
	                    &c->n_rate_limit_groups, e)) < 0 ||
	    (rc = read_many(line, "disk", &disk_schema, &c->disks, &c->n_disks, e)) < 0 ||
	    (rc = read_many(line, "net", &net_schema, &c->net, &c->n_net, e)) < 0 ||
	    (rc = read_one(line, "rng", &rng_schema, &c->rng, NULL, e)) < 0 ||
	    (rc = read_one(line, "balloon", &balloon_schema, &c->balloon, &c->has_balloon, e)) < 0 ||
	    (rc = read_many(line, "fs", &fs_schema, &c->fs, &c->n_fs, e)) < 0 ||
	    (rc = read_many(line, "generic-vhost-user", &generic_vhost_user_schema, &c->generic_vhost_user,
	                    &c->n_generic_vhost_user, e)) < 0 ||
	    (rc = read_many(line, "pmem", &pmem_schema, &c->pmem, &c->n_pmem, e)) < 0 ||
	    (rc = read_one(line, "console", &console_schema, &c->console, NULL, e)) < 0 ||
	    (rc = read_one(line, "serial", &serial_schema, &c->serial, NULL, e)) < 0)
		return rc;
	return read_debug_console(line, c, e);
}

/* ... and devices of others to memory; then what is ours. */
static int read_second_half(const struct command_line *line, struct vm_config *c, struct err *e)
{
	int rc;
	if ((rc = read_many(line, "device", &device_schema, &c->devices, &c->n_devices, e)) < 0 ||
	    (rc = read_many(line, "user-device", &user_device_schema, &c->user_devices, &c->n_user_devices, e)) < 0 ||
	    (rc = read_many(line, "vdpa", &vdpa_schema, &c->vdpa, &c->n_vdpa, e)) < 0 ||
	    (rc = read_one(line, "vsock", &vsock_schema, &c->vsock, &c->has_vsock, e)) < 0 ||
	    (rc = read_one(line, "rtc", &rtc_schema, &c->rtc, &c->has_rtc, e)) < 0 ||
	    (rc = read_many(line, "pci-segment", &pci_segment_schema, &c->pci_segments, &c->n_pci_segments, e)) < 0 ||
	    (rc = read_one(line, "platform", &platform_schema, &c->platform, &c->has_platform, e)) < 0 ||
	    (rc = read_sgx_epc(line, c, e)) < 0 ||
	    (rc = read_many(line, "numa", &numa_schema, &c->numa, &c->n_numa, e)) < 0 ||
	    (rc = read_one(line, "tpm", &tpm_schema, &c->tpm, &c->has_tpm, e)) < 0 ||
	    (rc = read_one(line, "cpus", &cpus_schema, &c->cpus, NULL, e)) < 0 ||
	    (rc = read_one(line, "memory", &memory_schema, &c->memory, NULL, e)) < 0 ||
	    (rc = read_many(line, "memory-zone", &memory_zone_schema, &c->memory.zones, &c->memory.n_zones, e)) < 0 ||
	    (rc = read_many(line, "landlock-rules", &landlock_schema, &c->landlock_rules, &c->n_landlock_rules, e)) < 0)
		return rc;
	return read_one(line, "machine", &machine_schema, &c->machine, NULL, e);
}

static int read_options(const struct command_line *line, struct vm_config *c, struct err *e)
{
	int rc;
	if ((rc = read_first_half(line, c, e)) < 0 || (rc = read_second_half(line, c, e)) < 0)
		return rc;
	c->pvpanic = command_line_count(line, "pvpanic") > 0;
	c->watchdog = command_line_count(line, "watchdog") > 0;
	c->landlock_enable = command_line_count(line, "landlock") > 0;
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
	if (rc == 0)
		rc = vm_config_complete(&c, e);
	if (rc < 0) {
		vm_config_done(&c);
		return rc;
	}
	*ret_c = c;
	return 0;
}

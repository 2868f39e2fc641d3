/* SPDX-License-Identifier: Apache-2.0 */
#include "config/rules.h"
#include "schema/schema.h"

#include <errno.h>

#define T struct cpu_topology_config
static const struct field topology_rows[] = {
	ROW_U8(T, threads_per_core, .def = 1, .flags = ROW_REQUIRED_JSON, .help = "Threads of a core"),
	ROW_U8(T, cores_per_die, .def = 1, .flags = ROW_REQUIRED_JSON, .help = "Cores of a die"),
	ROW_U8(T, dies_per_package, .def = 1, .flags = ROW_REQUIRED_JSON, .help = "Dies of a package"),
	ROW_U8(T, packages, .def = 1, .flags = ROW_REQUIRED_JSON, .help = "Packages (sockets)"),
};
static const struct schema topology_schema =
	SCHEMA(T, topology_rows, .name = "CpuTopology", .help = "What the guest is told about its CPUs");
#undef T

#define T struct cpu_affinity_config
static const struct field affinity_rows[] = {
	ROW_U8(T, vcpu, .flags = ROW_REQUIRED, .help = "The vCPU"),
	ROW_PAD(T, pad_),
	ROW_INTEGERS(T, host_cpus, uint64_t, .flags = ROW_REQUIRED, .help = "Host CPUs that it may run on"),
};
static const struct schema affinity_schema =
	SCHEMA(T, affinity_rows, .name = "CpuAffinity", .help = "Where a vCPU may run");
#undef T

static const struct enum_name core_scheduling_names[] = {
	{ .json = "Off", .word = "off", .value = CORE_SCHEDULING_OFF },
	{ .json = "Vm", .word = "vm", .value = CORE_SCHEDULING_VM },
	{ .json = "Vcpu", .word = "vcpu", .value = CORE_SCHEDULING_VCPU },
	{ 0 },
};

static const struct enum_name profile_names[] = {
	{ .json = "host", .word = "host", .value = CPU_PROFILE_HOST },
	{ 0 },
};

#define T struct cpus_config
static const struct field feature_rows[] = {
#ifdef __x86_64__
	ROW_BOOL(T, has_amx, .json = "amx", .help = "Advanced Matrix Extensions"),
#else
	/* No feature can be asked for; the member is there all the same. */
	ROW_BOOL(T, has_amx, .flags = ROW_NO_JSON | ROW_NO_OPTION, .help = "Advanced Matrix Extensions"),
#endif
};
static const struct schema features_schema =
	SCHEMA(T, feature_rows, .name = "CpuFeatures", .help = "CPU features that are off unless asked for");

static const struct field cpus_rows[] = {
	ROW_U8(T, boot_vcpus, .key = "boot", .def = 1, .flags = ROW_REQUIRED_JSON, .help = "vCPUs present at boot"),
	ROW_U8(T, max_vcpus, .key = "max", .def = 1, .def_key = "boot", .flags = ROW_REQUIRED_JSON,
	       .help = "Most vCPUs that the VM may have; more than at boot allows CPU hotplug"),
	ROW_OBJECT(T, topology, struct cpu_topology_config, &topology_schema, .flags = ROW_COLONS,
	           .has = HAS(T, has_topology), .placeholder = "<threads>:<cores>:<dies>:<packages>",
	           .help = "What the guest is told about its CPUs; the product must equal the most vCPUs"),
	ROW_BOOL(T, kvm_hyperv, .help = "Offer the Hyper-V enlightenments that a Windows guest expects"),
	ROW_U8(T, max_phys_bits, .def = 46, .help = "Upper limit of the bits of a guest physical address"),
	ROW_LIST(T, affinity, struct cpu_affinity_config, &affinity_schema, .flags = ROW_TUPLES, .max_items = 256,
	         .placeholder = "[<vcpu>@[<cpus>],...]",
	         .help = "Host CPUs that a vCPU may run on; vCPUs that are not listed may run anywhere"),
	ROW_HERE(T, "features", &features_schema, .flags = ROW_NAME_SET | ROW_PLAIN_TEXT,
	         .missing = "Invalid feature in --cpus features list: ",
	         .help = "CPU features to enable; 'amx' is known"),
	ROW_BOOL(T, nested, .def = true, .help = "Let the guest run guests of its own, where the host can"),
	ROW_ENUM(T, core_scheduling, enum core_scheduling, core_scheduling_names, .def = CORE_SCHEDULING_OFF,
	         .help = "Who may share a core with a vCPU: nobody (vcpu), its VM (vm), or anybody (off)"),
	ROW_ENUM(T, profile, enum cpu_profile, profile_names, .def = CPU_PROFILE_HOST,
	         .help = "Which CPU the guest sees: the host's, as far as it can be passed on"),
	ROW_PAD(T, pad2_),
	ROW_PAD(T, pad_),
};
const struct schema cpus_schema =
	SCHEMA(T, cpus_rows, .name = "CpusConfig", .option = "cpus", .help = "Virtual CPUs");
#undef T

int cpus_check_counts(const struct cpus_config *c, struct err *e)
{
	if (c->max_vcpus < c->boot_vcpus)
		return err_set(e, EINVAL, "Max CPUs lower than boot CPUs");
	/* Cloud Hypervisor accepts it and fails later. */
	if (!c->boot_vcpus)
		return err_set(e, EINVAL, "Number of boot vCPUs is zero");
	return 0;
}

int cpus_check_topology(const struct cpus_config *c, struct err *e)
{
	const struct cpu_topology_config *t = &c->topology;
	if (!c->has_topology)
		return 0;
	if (!t->threads_per_core || !t->cores_per_die || !t->dies_per_package || !t->packages)
		return err_set(e, EINVAL, "No part of the CPU topology can be zero");
#ifdef __aarch64__
	if (t->dies_per_package != 1)
		return err_set(e, EINVAL, "Dies per package must be 1");
#endif
	/* Four bytes multiplied fit in 32 bits. */
	uint32_t product = (uint32_t)t->threads_per_core * t->cores_per_die * t->dies_per_package * t->packages;
	if (product != c->max_vcpus)
		return err_set(e, EINVAL, "Product of CPU topology parts does not match maximum vCPUs");
	return 0;
}

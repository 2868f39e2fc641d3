/* SPDX-License-Identifier: Apache-2.0 */
/* cpuid.h - one vCPU's CPUID while it is made, and the vCPU's place in the topology.
 *
 * Entries come from the hypervisor, which is trusted; leaf numbers and bits are those of the Intel SDM (volume 2A,
 * CPUID) and of AMD's manual (volume 3, appendix E). The thread that builds the VM. */
#pragma once
#include "arch/x86_64/boot.h"

/* A level's count and the bits that its number takes in the APIC ID; bits add up from the thread upwards. */
struct cpu_levels {
	unsigned n_threads, n_cores, n_dies; /* per core, per die, per package */
	unsigned core_shift, die_shift, package_shift;
};

struct cpu_place {
	struct cpu_levels levels;
	unsigned core, die, package; /* core in its die, die in its package */
	uint32_t apic_id;
};

struct cpu_place cpu_place(const struct x86_machine *m, unsigned index);
static inline unsigned n_threads_per_package(const struct cpu_levels *l)
{
	return l->n_threads * l->n_cores * l->n_dies;
}

/* NULL: no such entry. The subleaf counts only where it is significant. */
struct hv_cpuid_entry *cpuid_find(struct hv_cpuid *c, uint32_t leaf, uint32_t subleaf);
/* False: the table is full. */
bool cpuid_add(struct hv_cpuid *c, const struct hv_cpuid_entry *entry);
bool cpuid_is_amd(struct hv_cpuid *c); /* or Hygon */

/* Every leaf that tells of the topology. False: the table is full. */
bool cpuid_set_topology(struct hv_cpuid *c, const struct cpu_place *p);

/* SPDX-License-Identifier: Apache-2.0 */
/* Threads, cores, dies and packages: the APIC ID has a bit field for each, wide enough for the numbers 0 to count - 1,
 * and CPUID says the same in five different ways. */
#include "arch/x86_64/cpuid.h"
#include "base/checked.h"

#include <assert.h>

/* CPUID leaf 0xb and 0x1f, ecx[15:8] */
enum level_type { LEVEL_NONE = 0, LEVEL_SMT = 1, LEVEL_CORE = 2, LEVEL_DIE = 5 };

#define INTEL_TOPOLOGY_V1 0xbu
#define INTEL_TOPOLOGY_V2 0x1fu
#define AMD_CACHES 0x8000001du
#define AMD_TOPOLOGY 0x8000001eu

static unsigned bits_for(unsigned count)
{
	return count <= 1 ? 0 : 32u - (unsigned)__builtin_clz(count - 1);
}

static struct cpu_levels levels_of(const struct x86_machine *m)
{
	const struct x86_topology *t = &m->topology;
	struct cpu_levels l = { .n_threads = t->n_threads_per_core, .n_cores = t->n_cores_per_die,
	                        .n_dies = t->n_dies_per_package };

	assert(t->n_threads_per_core && t->n_cores_per_die && t->n_dies_per_package && t->n_packages);
	/* Nothing was asked for: guests, and licences, prefer many cores to many packages. */
	if (n_threads_per_package(&l) * t->n_packages == 1)
		l.n_cores = m->n_vcpus;
	l.core_shift = bits_for(l.n_threads);
	l.die_shift = l.core_shift + bits_for(l.n_cores);
	l.package_shift = l.die_shift + bits_for(l.n_dies);
	return l;
}

struct cpu_place cpu_place(const struct x86_machine *m, unsigned index)
{
	struct cpu_place p = { .levels = levels_of(m) };
	const struct cpu_levels *l = &p.levels;
	unsigned thread = index % l->n_threads, rest = index / l->n_threads;

	p.core = rest % l->n_cores;
	rest /= l->n_cores;
	p.die = rest % l->n_dies;
	p.package = rest / l->n_dies;
	p.apic_id = thread | p.core << l->core_shift | p.die << l->die_shift | p.package << l->package_shift;
	return p;
}

uint32_t x86_apic_id(const struct x86_machine *m, unsigned index)
{
	return cpu_place(m, index).apic_id;
}

/* Largest APIC ID less smallest among those that agree above `shift`. */
static uint32_t id_mask(unsigned shift, uint32_t max)
{
	return (uint32_t)min_u64((1ull << shift) - 1, max);
}

static void set_field(uint32_t *reg, unsigned low_bit, unsigned n_bits, uint32_t v)
{
	uint32_t mask = (uint32_t)(((1ull << n_bits) - 1) << low_bit);
	*reg = (*reg & ~mask) | (v << low_bit & mask);
}

static void set_leaf_1(struct hv_cpuid *c, const struct cpu_place *p, bool is_amd)
{
	struct hv_cpuid_entry *e = cpuid_find(c, 1, 0);
	unsigned n = n_threads_per_package(&p->levels);
	if (!e)
		return;
	set_field(&e->ebx, 24, 8, p->apic_id);
	/* Intel counts IDs, AMD processors. */
	set_field(&e->ebx, 16, 8,
	          is_amd ? (uint32_t)min_u64(n, 255) : (uint32_t)min_u64(1ull << p->levels.package_shift, 255));
	set_field(&e->edx, 28, 1, n > 1); /* HTT */
}

/* The caches of Intel's leaf 4 and AMD's 0x8000001d have the same fields for who shares them: threads of a core, but
 * from the third level on all of a die. */
static void set_caches(struct hv_cpuid *c, uint32_t leaf, const struct cpu_place *p, bool is_intel)
{
	for (size_t i = 0; i < c->n; i++) {
		struct hv_cpuid_entry *e = &c->e[i];
		if (e->leaf != leaf || (e->eax & 0x1f) == 0)
			continue;
		unsigned level = e->eax >> 5 & 7;
		set_field(&e->eax, 14, 12, id_mask(level >= 3 ? p->levels.die_shift : p->levels.core_shift, 0xfff));
		if (is_intel)
			set_field(&e->eax, 26, 6, id_mask(p->levels.package_shift - p->levels.core_shift, 0x3f));
	}
}

static bool add_level(struct hv_cpuid *c, uint32_t leaf, uint32_t subleaf, enum level_type type, unsigned shift,
                      unsigned n_processors, uint32_t apic_id)
{
	const struct hv_cpuid_entry e = {
		.leaf = leaf,
		.subleaf = subleaf,
		.has_subleaf = true,
		.eax = shift,
		.ebx = n_processors,
		.ecx = (uint32_t)type << 8 | subleaf,
		.edx = apic_id,
	};
	return cpuid_add(c, &e);
}

static bool add_intel_topology(struct hv_cpuid *c, const struct cpu_place *p, bool has_v2)
{
	const struct cpu_levels *l = &p->levels;
	unsigned n_die = l->n_threads * l->n_cores, n_package = n_threads_per_package(l);

	/* The older leaf has no dies: its cores are all of the package. */
	bool ok = add_level(c, INTEL_TOPOLOGY_V1, 0, LEVEL_SMT, l->core_shift, l->n_threads, p->apic_id) &&
	          add_level(c, INTEL_TOPOLOGY_V1, 1, LEVEL_CORE, l->package_shift, n_package, p->apic_id) &&
	          add_level(c, INTEL_TOPOLOGY_V1, 2, LEVEL_NONE, 0, 0, p->apic_id);
	if (!has_v2)
		return ok;
	return ok && add_level(c, INTEL_TOPOLOGY_V2, 0, LEVEL_SMT, l->core_shift, l->n_threads, p->apic_id) &&
	       add_level(c, INTEL_TOPOLOGY_V2, 1, LEVEL_CORE, l->die_shift, n_die, p->apic_id) &&
	       add_level(c, INTEL_TOPOLOGY_V2, 2, LEVEL_DIE, l->package_shift, n_package, p->apic_id) &&
	       add_level(c, INTEL_TOPOLOGY_V2, 3, LEVEL_NONE, 0, 0, p->apic_id);
}

static void set_amd_topology(struct hv_cpuid *c, const struct cpu_place *p)
{
	const struct cpu_levels *l = &p->levels;
	unsigned n = n_threads_per_package(l);
	struct hv_cpuid_entry *e = cpuid_find(c, 0x80000001, 0);
	if (e)
		set_field(&e->ecx, 1, 1, n > 1); /* CmpLegacy */
	e = cpuid_find(c, 0x80000008, 0);
	if (e) {
		set_field(&e->ecx, 0, 8, (uint32_t)min_u64(n - 1, 255)); /* NC */
		set_field(&e->ecx, 12, 4, l->package_shift);             /* ApicIdCoreIdSize */
	}
	e = cpuid_find(c, AMD_TOPOLOGY, 0);
	if (!e)
		return;
	e->eax = p->apic_id;
	e->ebx = 0;
	set_field(&e->ebx, 0, 8, p->die * l->n_cores + p->core);
	set_field(&e->ebx, 8, 8, l->n_threads - 1);
	e->ecx = 0;
	set_field(&e->ecx, 0, 8, p->package * l->n_dies + p->die); /* node: a die */
	set_field(&e->ecx, 8, 3, l->n_dies - 1);
}

bool cpuid_set_topology(struct hv_cpuid *c, const struct cpu_place *p)
{
	bool is_amd = cpuid_is_amd(c);
	struct hv_cpuid_entry *basic = cpuid_find(c, 0, 0);
	bool has_v2 = basic && basic->eax >= INTEL_TOPOLOGY_V2;

	if (basic && basic->eax < INTEL_TOPOLOGY_V1)
		basic->eax = INTEL_TOPOLOGY_V1;
	set_leaf_1(c, p, is_amd);
	if (is_amd) {
		set_amd_topology(c, p);
		set_caches(c, AMD_CACHES, p, false);
	} else {
		set_caches(c, 4, p, true);
	}
	return add_intel_topology(c, p, has_v2);
}

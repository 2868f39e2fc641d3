/* SPDX-License-Identifier: Apache-2.0 */
/* A vCPU's CPUID and its place in the topology; and its first registers, against a hypervisor that only takes notes. */
#include "arch/x86_64/cpuid.h"
#include "arch/x86_64/memory_map.h"
#include "base/checked.h"
#include "boot_kit.h"

/* --- the hypervisor that takes notes ------------------------------------------------------------------------------ */

struct hv_vcpu {
	struct hv_cpuid cpuid;
	struct hv_regs regs;
	bool has_regs, is_waiting;
	struct hv_msr msrs[64];
	size_t n_msrs;
	uint32_t lint0, lint1, mxcsr;
	uint16_t fcw;
	unsigned n_calls, fail_at; /* the call that fails, from 1 */
};

static int call(struct hv_vcpu *c, struct err *e)
{
	return ++c->n_calls == c->fail_at ? err_set(e, EIO, "call %u", c->n_calls) : 0;
}

int hv_vcpu_set_cpuid(struct hv_vcpu *c, const struct hv_cpuid *cpuid, struct err *e)
{
	OK(c->n_msrs == 0 && !c->has_regs); /* the first of all */
	c->cpuid = *cpuid;
	return call(c, e);
}

int hv_vcpu_set_msrs(struct hv_vcpu *c, const struct hv_msr *msrs, size_t n, struct err *e)
{
	OK(n <= ARRAY_LEN(c->msrs));
	memcpy(c->msrs, msrs, n * sizeof *msrs);
	c->n_msrs = n;
	return call(c, e);
}

int hv_vcpu_set_regs(struct hv_vcpu *c, const struct hv_regs *r, struct err *e)
{
	c->regs = *r;
	c->has_regs = true;
	return call(c, e);
}

int hv_vcpu_set_fpu(struct hv_vcpu *c, uint16_t fcw, uint32_t mxcsr, struct err *e)
{
	c->fcw = fcw;
	c->mxcsr = mxcsr;
	return call(c, e);
}

int hv_vcpu_set_lapic(struct hv_vcpu *c, uint32_t offset, uint32_t v, struct err *e)
{
	OK(offset == 0x350 || offset == 0x360);
	*(offset == 0x350 ? &c->lint0 : &c->lint1) = v;
	return call(c, e);
}

int hv_vcpu_set_waiting(struct hv_vcpu *c, bool is_waiting_for_sipi, struct err *e)
{
	c->is_waiting = is_waiting_for_sipi;
	return call(c, e);
}

/* --- CPUID -------------------------------------------------------------------------------------------------------- */

static struct hv_cpuid intel(void)
{
	return (struct hv_cpuid){
		.n = 22,
		.e = {
			{ 0, 0, false, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69 },
			{ 1, 0, false, 0x806f8, 0x44100800, 1u << 27 | 1u << 5, 0 },
			{ 4, 0, true, 0xfc004121, 0x2c0003f, 0x3f, 0 },
			{ 4, 1, true, 0xfc004122, 0x1c0003f, 0x3f, 0 },
			{ 4, 2, true, 0xfc004143, 0x3c0003f, 0x7ff, 0 },
			{ 4, 3, true, 0xfc1fc163, 0x380003f, 0x1ffff, 4 },
			{ 4, 4, true, 0, 0, 0, 0 },
			{ 7, 0, true, 1, 1u << 2 | 1u << 5, 1u << 30 | 1u << 4 | 1u << 3, 7u << 22 | 1u << 10 },
			{ 7, 1, true, 1u << 21 | 1u << 4, 0, 0, 1u << 8 },
			{ 0xb, 0, true, 1, 2, 0x100, 77 },
			{ 0xb, 1, true, 7, 128, 0x201, 77 },
			{ 0xd, 0, true, 1u << 17 | 1u << 18 | 0xe7, 11008, 11008, 0 },
			{ 0xd, 2, true, 256, 576, 0, 0 },
			{ 0xd, 9, true, 8, 2688, 0, 0 },
			{ 0xd, 11, true, 16, 0, 1, 0 },
			{ 0xd, 17, true, 64, 2752, 2, 0 },
			{ 0xd, 18, true, 8192, 2816, 6, 0 },
			{ 0x1d, 0, true, 1, 0, 0, 0 },
			{ 0x40000000, 0, false, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d },
			{ 0x40000001, 0, false, 0x1007efb, 0, 0, 0 },
			{ 0x80000000, 0, false, 0x80000008, 0, 0, 0 },
			{ 0x80000008, 0, false, 0x00343034, 0, 0, 0 },
		},
	};
}

static struct hv_cpuid amd(void)
{
	return (struct hv_cpuid){
		.n = 11,
		.e = {
			{ 0, 0, false, 0xd, 0x68747541, 0x444d4163, 0x69746e65 },
			{ 1, 0, false, 0x830f10, 0x800, 0, 1u << 28 },
			{ 0x40000000, 0, false, 0, 0x4b4d564b, 0x564b4d56, 0x4d },
			{ 0x40000001, 0, false, 0xfb, 0, 0, 0 },
			{ 0x80000000, 0, false, 0x8000001f, 0, 0, 0 },
			{ 0x80000001, 0, false, 0, 0, 1u << 22 | 1u << 2 | 1u << 1, 0 },
			{ 0x80000002, 0, false, 1, 2, 3, 4 },
			{ 0x80000008, 0, false, 0x3028, 0, 0x707f, 0 },
			{ 0x8000001d, 0, true, 0x121, 0, 0, 0 },
			{ 0x8000001d, 3, true, 0x163, 0, 0, 0 },
			{ 0x8000001e, 0, false, 0, 0, 0, 0 },
		},
	};
}

static struct hv_cpuid cpuid_of(const struct hv_cpuid *supported, const struct x86_machine *m, unsigned index)
{
	struct hv_cpuid c;
	struct err e;
	OK(x86_cpuid_for(supported, m, index, 2500000, &c, &e) == 0);
	return c;
}

static struct hv_cpuid_entry leaf(struct hv_cpuid *c, uint32_t leaf, uint32_t subleaf)
{
	const struct hv_cpuid_entry *e = cpuid_find(c, leaf, subleaf);
	if (!e)
		test_fail(__FILE__, __LINE__, "no leaf 0x%x.%u", leaf, subleaf);
	return *e;
}

TEST(apic_ids_have_a_field_for_each_level)
{
	struct x86_machine m = kit_machine(64);
	for (unsigned i = 0; i < 64; i++)
		EQ(x86_apic_id(&m, i), i);

	m.topology = (struct x86_topology){ 2, 3, 2, 4 };
	m.n_vcpus = 48;
	/* 1 bit of threads, 2 of cores, 1 of dies */
	EQ(x86_apic_id(&m, 0), 0);
	EQ(x86_apic_id(&m, 1), 1);
	EQ(x86_apic_id(&m, 5), 5);
	EQ(x86_apic_id(&m, 6), 8);
	EQ(x86_apic_id(&m, 11), 13);
	EQ(x86_apic_id(&m, 12), 16);
	EQ(x86_apic_id(&m, 47), 0x3d);
	for (unsigned i = 0; i < 48; i++)
		for (unsigned j = 0; j < i; j++)
			OK(x86_apic_id(&m, i) != x86_apic_id(&m, j));
}

TEST(intel_topology_leaves_agree)
{
	struct hv_cpuid s = intel();
	struct x86_machine m = kit_machine(12);
	m.topology = (struct x86_topology){ 2, 3, 2, 1 };
	struct hv_cpuid c = cpuid_of(&s, &m, 7); /* die 1, core 0, thread 1 */
	EQ(x86_apic_id(&m, 7), 9);
	EQ(leaf(&c, 1, 0).ebx, 9u << 24 | 16u << 16 | 0x800);
	EQ(leaf(&c, 1, 0).edx >> 28 & 1, 1);

	static const struct hv_cpuid_entry expected[] = {
		{ 0xb, 0, true, 1, 2, 0x100, 9 },
		{ 0xb, 1, true, 4, 12, 0x201, 9 },
		{ 0xb, 2, true, 0, 0, 2, 9 },
		{ 0x1f, 0, true, 1, 2, 0x100, 9 },
		{ 0x1f, 1, true, 3, 6, 0x201, 9 },
		{ 0x1f, 2, true, 4, 12, 0x502, 9 },
		{ 0x1f, 3, true, 0, 0, 3, 9 },
	};
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		struct hv_cpuid_entry e = leaf(&c, expected[i].leaf, expected[i].subleaf);
		EQ(e.has_subleaf, 1);
		EQ(e.eax, expected[i].eax);
		EQ(e.ebx, expected[i].ebx);
		EQ(e.ecx, expected[i].ecx);
		EQ(e.edx, expected[i].edx);
	}
	/* caches: L1 and L2 are a core's, L3 is a die's; 8 core IDs in the package */
	EQ(leaf(&c, 4, 0).eax, 7u << 26 | 1u << 14 | 0x121);
	EQ(leaf(&c, 4, 2).eax, 7u << 26 | 1u << 14 | 0x143);
	EQ(leaf(&c, 4, 3).eax, 7u << 26 | 7u << 14 | 0x163);
	EQ(leaf(&c, 4, 4).eax, 0);
	unsigned n_b = 0;
	for (size_t i = 0; i < c.n; i++)
		n_b += c.e[i].leaf == 0xb;
	EQ(n_b, 3); /* the host's are gone */
}

TEST(without_a_topology_vcpus_are_cores_of_one_package)
{
	struct hv_cpuid s = intel();
	struct x86_machine m = kit_machine(5);
	struct hv_cpuid c = cpuid_of(&s, &m, 4);
	EQ(leaf(&c, 0xb, 0).eax, 0);
	EQ(leaf(&c, 0xb, 0).ebx, 1);
	EQ(leaf(&c, 0xb, 1).eax, 3);
	EQ(leaf(&c, 0xb, 1).ebx, 5);
	EQ(leaf(&c, 0xb, 1).edx, 4);

	m = kit_machine(1);
	c = cpuid_of(&s, &m, 0);
	EQ(leaf(&c, 1, 0).edx >> 28 & 1, 0);
	EQ(leaf(&c, 1, 0).ebx >> 16 & 0xff, 1);
	EQ(leaf(&c, 0xb, 1).ebx, 1);
}

TEST(amd_topology_leaves_agree)
{
	struct hv_cpuid s = amd();
	struct x86_machine m = kit_machine(16);
	m.topology = (struct x86_topology){ 2, 2, 2, 2 };
	struct hv_cpuid c = cpuid_of(&s, &m, 13); /* package 1, die 1, core 0, thread 1 */
	EQ(x86_apic_id(&m, 13), 13);
	EQ(leaf(&c, 1, 0).ebx, 13u << 24 | 8u << 16 | 0x800);
	EQ(leaf(&c, 0x80000008, 0).ecx, 3u << 12 | 7);
	EQ(leaf(&c, 0x8000001e, 0).eax, 13);
	EQ(leaf(&c, 0x8000001e, 0).ebx, 1u << 8 | 2);
	EQ(leaf(&c, 0x8000001e, 0).ecx, 1u << 8 | 3);
	EQ(leaf(&c, 0x8000001d, 0).eax, 1u << 14 | 0x121);
	EQ(leaf(&c, 0x8000001d, 3).eax, 3u << 14 | 0x163);
	EQ(leaf(&c, 0x80000001, 0).ecx >> 1 & 1, 1);
	EQ(leaf(&c, 0, 0).eax, 0xd);
	EQ(leaf(&c, 0xb, 1).eax, 3);
	OK(!cpuid_find(&c, 0x1f, 0));

	m = kit_machine(1);
	c = cpuid_of(&s, &m, 0);
	EQ(leaf(&c, 0x80000001, 0).ecx >> 1 & 1, 0);
	EQ(leaf(&c, 1, 0).edx >> 28 & 1, 0);
	EQ(leaf(&c, 0x80000001, 0).ecx >> 2 & 1, 1); /* SVM as supported */
}

/* 3 bits of threads and 6 of cores: the last of 255 vCPUs has ID 50 << 3 | 4. */
TEST(apic_ids_above_255_are_whole_where_there_is_room)
{
	struct hv_cpuid s = intel(), a = amd();
	struct x86_machine m = kit_machine(255);
	m.topology = (struct x86_topology){ 5, 51, 1, 1 };
	EQ(x86_apic_id(&m, 159), 252);
	EQ(x86_apic_id(&m, 160), 256);
	EQ(x86_apic_id(&m, 254), 404);

	struct hv_cpuid c = cpuid_of(&s, &m, 254);
	EQ(leaf(&c, 1, 0).ebx >> 24, 404 & 0xff);
	EQ(leaf(&c, 1, 0).ebx >> 16 & 0xff, 255);
	static const uint32_t leaves[] = { 0xb, 0x1f };
	for (size_t i = 0; i < ARRAY_LEN(leaves); i++) {
		EQ(leaf(&c, leaves[i], 0).eax, 3);
		EQ(leaf(&c, leaves[i], 0).ebx, 5);
		EQ(leaf(&c, leaves[i], 1).eax, 9);
		EQ(leaf(&c, leaves[i], 1).ebx, 255);
		for (uint32_t level = 0; level < 3; level++)
			EQ(leaf(&c, leaves[i], level).edx, 404);
	}
	EQ(leaf(&c, 0x1f, 2).eax, 9);
	EQ(leaf(&c, 0x1f, 2).ebx, 255);
	EQ(leaf(&c, 0x1f, 3).edx, 404);
	EQ(leaf(&c, 4, 3).eax, 63u << 26 | 511u << 14 | 0x163);

	c = cpuid_of(&a, &m, 254);
	EQ(leaf(&c, 1, 0).ebx >> 16, (404 & 0xff) << 8 | 255);
	EQ(leaf(&c, 0x80000008, 0).ecx, 9u << 12 | 254);
	EQ(leaf(&c, 0x8000001e, 0).eax, 404);
	EQ(leaf(&c, 0x8000001e, 0).ebx, 4u << 8 | 50);
	EQ(leaf(&c, 0xb, 1).eax, 9);
	EQ(leaf(&c, 0xb, 1).ebx, 255);
	EQ(leaf(&c, 0xb, 1).edx, 404);
}

TEST(features_are_those_of_a_guest)
{
	struct hv_cpuid s = intel();
	struct x86_machine m = kit_machine(1);
	struct hv_cpuid c = cpuid_of(&s, &m, 0);
	uint32_t ecx = leaf(&c, 1, 0).ecx;
	EQ(ecx >> 31, 1);
	EQ(ecx >> 27 & 1, 0);
	EQ(ecx >> 24 & 1, 1);
	EQ(ecx >> 21 & 1, 1);
	EQ(ecx >> 5 & 1, 1); /* VMX as supported */
	EQ(leaf(&c, 1, 0).edx >> 12 & 1, 1);

	EQ(leaf(&c, 7, 0).ebx, 1u << 5);
	EQ(leaf(&c, 7, 0).ecx, 1u << 3);
	EQ(leaf(&c, 7, 0).edx, 1u << 10 | 1u << 23);
	EQ(leaf(&c, 7, 1).eax, 1u << 4);
	EQ(leaf(&c, 7, 1).edx, 0);
	EQ(leaf(&c, 0xd, 0).eax, 0xe7);
	EQ(leaf(&c, 0xd, 0).ecx, 2696);
	OK(!cpuid_find(&c, 0xd, 17) && !cpuid_find(&c, 0xd, 18) && !cpuid_find(&c, 0x1d, 0));
}

TEST(hypervisor_leaves_tell_the_tsc_frequency)
{
	struct hv_cpuid s = intel(), c;
	struct x86_machine m = kit_machine(1);
	struct err e;
	c = cpuid_of(&s, &m, 0);
	EQ(leaf(&c, 0x40000000, 0).eax, 0x40000010);
	EQ(leaf(&c, 0x40000000, 0).ebx, 0x4b4d564b);
	EQ(leaf(&c, 0x40000001, 0).eax, 0x1007efb | 1u << 15);
	EQ(leaf(&c, 0x40000010, 0).eax, 2500000);
	EQ(leaf(&c, 0x40000010, 0).ebx, 1000000);
	m.has_split_irqchip = false; /* the kernel's I/O APIC knows 8 bits of a destination */
	c = cpuid_of(&s, &m, 0);
	EQ(leaf(&c, 0x40000001, 0).eax, 0x1007efb);
	EQ(x86_cpuid_for(&s, &m, 0, 0, &c, &e), 0);
	EQ(leaf(&c, 0x40000000, 0).eax, 0x40000001);
	OK(!cpuid_find(&c, 0x40000010, 0));
}

TEST(physical_address_bits_are_clamped)
{
	struct hv_cpuid s = intel();
	struct x86_machine m = kit_machine(1);
	EQ(x86_phys_bits(&s, 0), 52);
	EQ(x86_phys_bits(&s, 46), 46);
	EQ(x86_phys_bits(&s, 60), 52);
	struct hv_cpuid c = cpuid_of(&s, &m, 0);
	EQ(leaf(&c, 0x80000008, 0).eax, 0x2e302e);
	m.max_phys_bits = 0;
	c = cpuid_of(&s, &m, 0);
	EQ(leaf(&c, 0x80000008, 0).eax, 0x343034);
	struct hv_cpuid none = { 0 };
	EQ(x86_phys_bits(&none, 46), 36);
}

TEST(an_old_cpu_gets_the_topology_leaf_all_the_same)
{
	struct hv_cpuid s = { .n = 2, .e = { { 0, 0, false, 7, 0x756e6547, 0, 0 }, { 1, 0, false, 0, 0, 0, 0 } } };
	struct x86_machine m = kit_machine(2);
	struct hv_cpuid c = cpuid_of(&s, &m, 1);
	EQ(leaf(&c, 0, 0).eax, 0xb);
	EQ(leaf(&c, 0xb, 1).ebx, 2);
}

TEST(the_brand_is_the_hypervisors_or_the_hosts)
{
	struct hv_cpuid s = amd();
	struct x86_machine m = kit_machine(1);
	struct hv_cpuid c = cpuid_of(&s, &m, 0);
	EQ(leaf(&c, 0x80000002, 0).ecx, 3);
	OK(!cpuid_find(&c, 0x80000003, 0));
	s.e[6].eax = s.e[6].ebx = s.e[6].ecx = s.e[6].edx = 0;
	c = cpuid_of(&s, &m, 0);
	OK(leaf(&c, 0x80000002, 0).eax != 0);
}

TEST(a_full_table_is_an_error)
{
	struct hv_cpuid s = intel(), c;
	struct x86_machine m = kit_machine(1);
	struct err e = { 0 };
	while (s.n < HV_MAX_CPUID)
		s.e[s.n++] = (struct hv_cpuid_entry){ .leaf = 0x90000000, .subleaf = (uint32_t)s.n,
		                                      .has_subleaf = true };
	EQ(x86_cpuid_for(&s, &m, 0, 1, &c, &e), -ENOSPC);
	STR_HAS(e.text, "cpuid: vcpu0: more than 256 entries");
}

/* --- the first registers ------------------------------------------------------------------------------------------ */

static uint64_t msr(const struct hv_vcpu *c, uint32_t index)
{
	for (size_t i = 0; i < c->n_msrs; i++)
		if (c->msrs[i].index == index)
			return c->msrs[i].value;
	test_fail(__FILE__, __LINE__, "MSR 0x%x is not set", index);
}

static struct hv_vcpu setup(unsigned index, enum x86_protocol protocol, const struct mem_map *mem)
{
	struct hv_vcpu c = { .lint0 = 0, .is_waiting = index == 0 };
	const struct x86_entry entry = { protocol, GPA(0x1000123), GPA(0x6000) };
	struct hv_cpuid s = intel();
	struct err e;
	OK(x86_vcpu_setup(&c, index, &s, &entry, mem, &e) == 0);
	EQ(c.cpuid.n, s.n);
	EQ(msr(&c, 0x2ff), 0x806);
	EQ(msr(&c, 0x1a0), 1);
	EQ(msr(&c, 0x10), 0);
	EQ(msr(&c, 0xc0000102), 0);
	EQ(c.lint0, 0x700);
	EQ(c.lint1, 0x400);
	EQ(c.fcw, 0x37f);
	EQ(c.mxcsr, 0x1f80);
	EQ(c.is_waiting, index != 0);
	EQ(c.has_regs, index == 0);
	return c;
}

/* The descriptor in memory says what the register says. */
static void check_segment(const struct mem_map *mem, const struct hv_regs *r, const struct hv_segment *s,
                          unsigned access)
{
	uint64_t d = kit_read_le(mem, r->gdt.base + s->selector, 8);
	OK((size_t)s->selector + 7 <= r->gdt.limit);
	EQ(d >> 40 & 0xf0ff, access);
	unsigned has = (unsigned)(s->type | s->s << 4 | s->dpl << 5 | s->present << 7 | s->avl << 12 | s->l << 13);
	EQ(access, has | (unsigned)(s->db << 14 | s->g << 15));
	uint64_t limit = (d & 0xffff) | (d >> 32 & 0xf0000);
	EQ(s->g ? limit << 12 | 0xfff : limit, s->limit);
	EQ(s->base, 0);
}

TEST(pvh_starts_in_flat_32_bit_mode)
{
	struct mem_map mem = kit_map(4 * MIB, 0);
	struct hv_vcpu c = setup(0, X86_BOOT_PVH, &mem);
	const struct hv_regs *r = &c.regs;
	EQ(r->rip, 0x1000123);
	EQ(r->rbx, 0x6000);
	EQ(r->rsi, 0);
	EQ(r->rflags, 2);
	EQ(r->cr0 & ~0x10ull, 1);
	EQ(r->cr4, 0);
	EQ(r->efer, 0);
	check_segment(&mem, r, &r->cs, 0xc09b);
	check_segment(&mem, r, &r->ds, 0xc093);
	check_segment(&mem, r, &r->ss, 0xc093);
	check_segment(&mem, r, &r->tr, 0x008b);
	EQ(r->tr.limit, 0x67);
	EQ(r->cs.limit, 0xffffffff);
	EQ(r->ldt.present, 0);
	EQ(kit_read_le(&mem, X86_PML4, 8), 0); /* no paging */
	mem_map_done(&mem);
}

/* Walks our tables as the CPU does; 0: not mapped. */
static uint64_t walk(const struct mem_map *mem, uint64_t cr3, uint64_t address)
{
	uint64_t at = cr3;
	for (unsigned shift = 39; shift >= 21; shift -= 9) {
		uint64_t e = kit_read_le(mem, at + 8 * (address >> shift & 511), 8);
		if ((e & 3) != 3)
			return 0;
		at = e & ~0xfffull;
		if (shift == 21)
			return e & 0x80 ? at | (address & 0x1fffff) : 0;
	}
	return 0;
}

TEST(linux_starts_in_long_mode_with_low_ram_mapped)
{
	struct mem_map mem = kit_map((2ull << 30) + 8192, 4 * MIB);
	struct hv_vcpu c = setup(0, X86_BOOT_LINUX64, &mem);
	const struct hv_regs *r = &c.regs;
	EQ(r->rip, 0x1000123);
	EQ(r->rsi, 0x6000);
	EQ(r->cr0 & ~0x10ull, 0x80000001);
	EQ(r->cr4, 0x20);
	EQ(r->efer, 0x500);
	EQ(r->cs.selector, 0x10);
	EQ(r->ds.selector, 0x18);
	check_segment(&mem, r, &r->cs, 0xa09b);
	check_segment(&mem, r, &r->ds, 0xc093);
	check_segment(&mem, r, &r->tr, 0x008b);
	static const uint64_t mapped[] = { 0x7000, 0x20000, 0x1000123, (1ull << 30) - 1, 1ull << 30,
	                                   (2ull << 30) + 8191 };
	for (size_t i = 0; i < ARRAY_LEN(mapped); i++)
		EQ(walk(&mem, r->cr3, mapped[i]), mapped[i]);
	EQ(walk(&mem, r->cr3, 3ull << 30), 0);
	EQ(walk(&mem, r->cr3, 512ull << 30), 0);
	mem_map_done(&mem);
}

TEST(other_vcpus_wait)
{
	struct mem_map mem = kit_map(4 * MIB, 0);
	(void)setup(1, X86_BOOT_LINUX64, &mem);
	EQ(kit_read_le(&mem, X86_PML4, 8), 0);
	mem_map_done(&mem);
}

TEST(every_failure_of_the_hypervisor_is_passed_on)
{
	struct mem_map mem = kit_map(4 * MIB, 0);
	struct hv_cpuid s = intel();
	const struct x86_entry entry = { X86_BOOT_PVH, GPA(0), GPA(0) };
	for (unsigned k = 1; k <= 7; k++) {
		struct hv_vcpu c = { .fail_at = k };
		struct err e = { 0 };
		EQ(x86_vcpu_setup(&c, 0, &s, &entry, &mem, &e), -EIO);
		EQ(c.n_calls, k);
		OK(e.text[0]);
	}
	mem_map_done(&mem);
}

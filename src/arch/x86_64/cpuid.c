/* SPDX-License-Identifier: Apache-2.0 */
/* A guest's CPUID: what the hypervisor supports, less what this machine does not have, plus what only the machine
 * knows. First entries are copied or left out, then bits are changed in place, then leaves of our own are added. */
#include "arch/x86_64/cpuid.h"

#include "base/checked.h"

#include <assert.h>
#include <cpuid.h>
#include <errno.h>
#include <string.h>

#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_X2APIC (1u << 21)
#define LEAF1_ECX_OSXSAVE (1u << 27) /* follow CR4: the engine keeps these two */
#define LEAF7_ECX_OSPKE (1u << 4)
#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF1_EDX_MTRR (1u << 12)

#define LEAF7_EBX_SGX (1u << 2)
#define LEAF7_ECX_SGX_LC (1u << 30)
#define LEAF7_EDX_AMX (1u << 22 | 1u << 24 | 1u << 25) /* BF16, TILE, INT8 */
#define LEAF7_1_EAX_AMX_FP16 (1u << 21)
#define LEAF7_1_EDX_AMX_COMPLEX (1u << 8)

#define LEAF_SGX 0x12u
#define LEAF_XSAVE 0xdu
#define LEAF_TILE 0x1du
#define LEAF_TMUL 0x1eu
#define XSAVE_TILECFG 17u
#define XSAVE_TILEDATA 18u
#define XSAVE_LEGACY_BYTES 576u /* the x87 and SSE area and the header */

/* Linux, Documentation/virt/kvm/x86/cpuid.rst; the timing leaf is VMware's, and others' by imitation. */
#define LEAF_KVM_SIGNATURE 0x40000000u
#define LEAF_KVM_FEATURES 0x40000001u
#define LEAF_KVM_TIMING 0x40000010u
#define KVM_FEATURE_MSI_EXT_DEST_ID (1u << 15)
#define APIC_BUS_KHZ 1000000u

struct hv_cpuid_entry *cpuid_find(struct hv_cpuid *c, uint32_t leaf, uint32_t subleaf)
{
	for (size_t i = 0; i < c->n; i++) {
		struct hv_cpuid_entry *e = &c->e[i];
		if (e->leaf == leaf && (!e->has_subleaf || e->subleaf == subleaf))
			return e;
	}
	return NULL;
}

bool cpuid_add(struct hv_cpuid *c, const struct hv_cpuid_entry *entry)
{
	if (c->n == HV_MAX_CPUID)
		return false;
	c->e[c->n++] = *entry;
	return true;
}

bool cpuid_is_amd(struct hv_cpuid *c)
{
	const struct hv_cpuid_entry *e = cpuid_find(c, 0, 0);
	/* "Auth" of AuthenticAMD, "Hygo" of HygonGenuine */
	return e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948);
}

/* AMX state is 8 KiB a thread, which a guest gets only when it is asked for; there is no memory for enclaves. */
static bool is_left_out(const struct hv_cpuid_entry *e)
{
	switch (e->leaf) {
	case 0xb: /* topology: made anew, or left unsaid */
	case 0x1f:
	case 0x80000026:
	case LEAF_SGX:
	case LEAF_TILE:
	case LEAF_TMUL:
	case LEAF_KVM_TIMING:
		return true;
	case LEAF_XSAVE:
		return e->subleaf == XSAVE_TILECFG || e->subleaf == XSAVE_TILEDATA;
	default:
		return false;
	}
}

static void copy_supported(const struct hv_cpuid *supported, struct hv_cpuid *ret_c)
{
	assert(supported->n <= HV_MAX_CPUID);
	ret_c->n = 0;
	for (size_t i = 0; i < supported->n; i++) {
		if (!is_left_out(&supported->e[i]))
			ret_c->e[ret_c->n++] = supported->e[i];
	}
}

/* What a guest needs at most for the state that is left: the end of the last component (Intel SDM 1, 13.5.1). */
static uint32_t xsave_bytes(const struct hv_cpuid *c)
{
	uint32_t n = XSAVE_LEGACY_BYTES;
	for (size_t i = 0; i < c->n; i++) {
		const struct hv_cpuid_entry *e = &c->e[i];
		bool is_user = e->leaf == LEAF_XSAVE && e->subleaf >= 2 && !(e->ecx & 1); /* not a supervisor state */
		if (is_user && e->eax + e->ebx > n)
			n = e->eax + e->ebx;
	}
	return n;
}

static void set_features(struct hv_cpuid *c)
{
	struct hv_cpuid_entry *e = cpuid_find(c, 1, 0);
	if (e) {
		e->ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_X2APIC;
		e->ecx &= ~LEAF1_ECX_OSXSAVE;
		e->edx |= LEAF1_EDX_MTRR;
	}
	e = cpuid_find(c, 7, 0);
	if (e) {
		e->ebx &= ~LEAF7_EBX_SGX;
		e->ecx &= ~(LEAF7_ECX_SGX_LC | LEAF7_ECX_OSPKE);
		e->edx &= ~LEAF7_EDX_AMX;
	}
	e = cpuid_find(c, 7, 1);
	if (e) {
		e->eax &= ~LEAF7_1_EAX_AMX_FP16;
		e->edx &= ~LEAF7_1_EDX_AMX_COMPLEX;
	}
	e = cpuid_find(c, LEAF_XSAVE, 0);
	if (e && e->eax & (1u << XSAVE_TILECFG | 1u << XSAVE_TILEDATA)) {
		e->eax &= ~(1u << XSAVE_TILECFG | 1u << XSAVE_TILEDATA);
		e->ecx = xsave_bytes(c);
	}
}

static void set_phys_bits(struct hv_cpuid *c, unsigned n_bits)
{
	struct hv_cpuid_entry *e = cpuid_find(c, 0x80000008, 0);
	if (!e)
		return;
	e->eax = (e->eax & ~0xffu) | n_bits;
	/* What the guest's own nested page tables may reach: 0, or no more than the above. */
	if ((e->eax >> 16 & 0xff) > n_bits)
		e->eax = (e->eax & ~0xff0000u) | n_bits << 16;
}

static bool is_empty(const struct hv_cpuid_entry *e)
{
	return !(e->eax | e->ebx | e->ecx | e->edx);
}

/* A leaf that the hypervisor left empty or out gets the host's words. CPUID is slow inside a VM, so not otherwise. */
static bool fill_from_host(struct hv_cpuid *c, uint32_t leaf)
{
	struct hv_cpuid_entry host = { .leaf = leaf };
	struct hv_cpuid_entry *e = cpuid_find(c, leaf, 0);
	if (e && !is_empty(e))
		return true;
	if (!__get_cpuid(leaf, &host.eax, &host.ebx, &host.ecx, &host.edx))
		return true;
	if (!e)
		return cpuid_add(c, &host);
	*e = host;
	return true;
}

static bool set_host_description(struct hv_cpuid *c)
{
	const struct hv_cpuid_entry *extended = cpuid_find(c, 0x80000000, 0);
	if (!extended || extended->eax < 0x80000006)
		return true;
	struct hv_cpuid_entry *brand = cpuid_find(c, 0x80000002, 0);
	bool ok = true;
	if (!brand || is_empty(brand)) {
		for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; leaf++)
			ok = fill_from_host(c, leaf) && ok;
	}
	/* First-level caches: Intel has nothing there. */
	if (cpuid_is_amd(c))
		ok = fill_from_host(c, 0x80000005) && ok;
	return fill_from_host(c, 0x80000006) && ok;
}

static bool set_hypervisor_leaves(struct hv_cpuid *c, bool has_split_irqchip, uint64_t tsc_khz)
{
	struct hv_cpuid_entry *e = cpuid_find(c, LEAF_KVM_FEATURES, 0);
	/* Whoever makes MSIs of I/O APIC pins has to know the destination's upper bits: ours does, the kernel's does not. */
	if (e)
		e->eax = has_split_irqchip ? e->eax | KVM_FEATURE_MSI_EXT_DEST_ID : e->eax & ~KVM_FEATURE_MSI_EXT_DEST_ID;
	e = cpuid_find(c, LEAF_KVM_SIGNATURE, 0);
	if (!e || tsc_khz == 0 || tsc_khz > UINT32_MAX)
		return true;
	if (e->eax < LEAF_KVM_TIMING)
		e->eax = LEAF_KVM_TIMING;
	const struct hv_cpuid_entry timing = { .leaf = LEAF_KVM_TIMING, .eax = (uint32_t)tsc_khz, .ebx = APIC_BUS_KHZ };
	return cpuid_add(c, &timing);
}

int x86_cpuid_for(const struct hv_cpuid *supported, const struct x86_machine *m, unsigned index, uint64_t tsc_khz,
                  struct hv_cpuid *ret_c, struct err *e)
{
	assert(index < m->n_vcpus);
	const struct cpu_place place = cpu_place(m, index);

	copy_supported(supported, ret_c);
	set_features(ret_c);
	set_phys_bits(ret_c, x86_phys_bits(supported, m->max_phys_bits));
	if (!set_host_description(ret_c) || !set_hypervisor_leaves(ret_c, m->has_split_irqchip, tsc_khz) ||
	    !cpuid_set_topology(ret_c, &place))
		return err_set(e, ENOSPC, "cpuid: vcpu%u: more than %d entries", index, HV_MAX_CPUID);
	return 0;
}

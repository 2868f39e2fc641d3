/* SPDX-License-Identifier: Apache-2.0 */
/* x86-64: what KVM needs to know before vCPUs, and the registers of one. */
#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "hv/kvm_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Three pages and one that KVM keeps in guest-physical space for Intel CPUs that cannot run real mode; unused elsewhere.
 * The memory map of arch/x86_64/boot.h leaves them out: X86_TSS, X86_IDENTITY_MAP. */
#define TSS_ADDRESS 0xf8000000ul
#define IDENTITY_MAP_ADDRESS 0xf8003000ull

int kvm_arch_open(struct hv *hv, struct err *e)
{
	static const struct kvm_capability wanted[] = {
		{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
		{ KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR" },
		{ KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR" },
		{ KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP" },
		{ KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER" },
		{ KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ" },
		{ KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK" },
		{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
		{ KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI" },
		{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
		{ KVM_CAP_XCRS, "KVM_CAP_XCRS" },
		{ KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS" },
	};
	int rc = kvm_require(hv->fd, wanted, ARRAY_LEN(wanted), e);
	if (rc < 0)
		return rc;

	/* APIC IDs of 32 bits, in MSIs too, and 0xff an ID like others: needed beyond 254 vCPUs, harmless below. */
	int flags = kvm_check(hv->fd, KVM_CAP_X2APIC_API);
	if (flags > 0)
		hv->x2apic_flags = (uint32_t)flags & (KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
	return 0;
}

static int enable(struct hv_vm *vm, uint32_t capability, const char *what, uint64_t argument, struct err *e)
{
	struct kvm_enable_cap cap = { .cap = capability, .args = { argument } };
	int rc = kvm_call(vm->fd, KVM_ENABLE_CAP, &cap);
	return rc < 0 ? err_set_errno(e, -rc, "kvm: cannot turn on %s", what) : 0;
}

static int create_irqchip(struct hv_vm *vm, struct err *e)
{
	if (vm->irqchip == HV_IRQCHIP_SPLIT)
		return enable(vm, KVM_CAP_SPLIT_IRQCHIP, "the split interrupt controller", vm->n_ioapic_pins, e);

	int rc = kvm_call_value(vm->fd, KVM_CREATE_IRQCHIP, 0);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot create the interrupt controllers");
	/* Who asks for all of a PC's interrupt controllers has a guest that expects them: one with 8259s calibrates its
	 * clocks by the 8254 and its port 0x61 (the "speaker dummy") unless told otherwise. It costs a kernel thread for
	 * each VM, one reason more why the split irqchip is the default. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	rc = kvm_call(vm->fd, KVM_CREATE_PIT2, &pit);
	return rc < 0 ? err_set_errno(e, -rc, "kvm: cannot create the interval timer") : 0;
}

/* The extended destination ID (bits 8 to 14 of the APIC ID) stands in address bits 5 to 11, where a guest without interrupt
 * remapping can put it (KVM_FEATURE_MSI_EXT_DEST_ID). With 32-bit IDs, KVM wants it in bits 40 to 46. */
uint64_t kvm_arch_msi_address(const struct hv_vm *vm, uint64_t address)
{
	const uint64_t extended = 0xfe0;
	if (!(vm->hv->x2apic_flags & KVM_X2APIC_API_USE_32BIT_IDS))
		return address;
	return (address & ~extended) | (address & extended) << 35;
}

int kvm_arch_vm_init(struct hv_vm *vm, struct err *e)
{
	uint64_t identity_map = IDENTITY_MAP_ADDRESS;

	int rc = kvm_call_value(vm->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot place the TSS pages at 0x%lx", TSS_ADDRESS);
	rc = kvm_call(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot place the identity map at 0x%llx", IDENTITY_MAP_ADDRESS);
	if (vm->hv->x2apic_flags) {
		rc = enable(vm, KVM_CAP_X2APIC_API, "32-bit APIC IDs", vm->hv->x2apic_flags, e);
		if (rc < 0)
			return rc;
	}
	rc = create_irqchip(vm, e);
	if (rc < 0)
		return rc;

	if (!vm->hv->tsc_khz) {
		int khz = kvm_call_value(vm->fd, KVM_GET_TSC_KHZ, 0);
		vm->hv->tsc_khz = khz > 0 ? (uint64_t)khz : 0;
	}
	return 0;
}

/* --- CPUID ---------------------------------------------------------------------------------------------------------- */

static struct kvm_cpuid2 *new_cpuid(size_t n)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof *c + n * sizeof c->entries[0]);
	if (c)
		c->nent = (uint32_t)n;
	return c;
}

int hv_supported_cpuid(struct hv *hv, struct hv_cpuid *ret_c, struct err *e)
{
	/* As large as struct hv_cpuid, which is as large as KVM's own limit: there is nothing to grow to on E2BIG. */
	free_scoped struct kvm_cpuid2 *supported = new_cpuid(HV_MAX_CPUID);
	if (!supported)
		return err_set(e, ENOMEM, "kvm: no memory for the CPUID table");
	int rc = kvm_call(hv->fd, KVM_GET_SUPPORTED_CPUID, supported);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot read the supported CPUID (%d entries)", HV_MAX_CPUID);

	assert(supported->nent <= HV_MAX_CPUID);
	ret_c->n = supported->nent;
	for (size_t i = 0; i < ret_c->n; i++) {
		const struct kvm_cpuid_entry2 *k = &supported->entries[i];
		ret_c->e[i] = (struct hv_cpuid_entry){
			.leaf = k->function,
			.subleaf = k->index,
			.has_subleaf = k->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.eax = k->eax,
			.ebx = k->ebx,
			.ecx = k->ecx,
			.edx = k->edx,
		};
	}
	return 0;
}

int hv_vcpu_set_cpuid(struct hv_vcpu *c, const struct hv_cpuid *cpuid, struct err *e)
{
	assert(cpuid->n <= HV_MAX_CPUID);
	free_scoped struct kvm_cpuid2 *k = new_cpuid(cpuid->n);
	if (!k)
		return err_set(e, ENOMEM, "kvm: vcpu%u: no memory for the CPUID table", c->index);

	for (size_t i = 0; i < cpuid->n; i++) {
		const struct hv_cpuid_entry *from = &cpuid->e[i];
		k->entries[i] = (struct kvm_cpuid_entry2){
			.function = from->leaf,
			.index = from->subleaf,
			.flags = from->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
			.eax = from->eax,
			.ebx = from->ebx,
			.ecx = from->ecx,
			.edx = from->edx,
		};
	}
	/* A vCPU that has run keeps its CPUID. Kernels differ in whether they take the same one again, so they
	 * are not asked. */
	if (c->cpuid && c->cpuid->nent == k->nent &&
	    memcmp(c->cpuid->entries, k->entries, k->nent * sizeof k->entries[0]) == 0)
		return 0;
	int rc = kvm_call(c->fd, KVM_SET_CPUID2, k);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: vcpu%u: cannot set %zu CPUID entries", c->index, cpuid->n);
	free(c->cpuid);
	c->cpuid = ptr_take(k);
	return 0;
}

/* --- general and system registers ----------------------------------------------------------------------------------- */

static struct hv_segment segment_from(const struct kvm_segment *k)
{
	return (struct hv_segment){
		.base = k->base, .limit = k->limit, .selector = k->selector, .type = k->type, .present = k->present,
		.dpl = k->dpl, .db = k->db, .s = k->s, .l = k->l, .g = k->g, .avl = k->avl,
	};
}

static struct kvm_segment segment_to(const struct hv_segment *h)
{
	return (struct kvm_segment){
		.base = h->base, .limit = h->limit, .selector = h->selector, .type = h->type, .present = h->present,
		.dpl = h->dpl, .db = h->db, .s = h->s, .l = h->l, .g = h->g, .avl = h->avl, .unusable = !h->present,
	};
}

static int read_regs(struct hv_vcpu *c, struct hv_regs *ret_r)
{
	struct kvm_regs k;
	struct kvm_sregs s;
	int rc = kvm_call(c->fd, KVM_GET_REGS, &k);
	if (rc >= 0)
		rc = kvm_call(c->fd, KVM_GET_SREGS, &s);
	if (rc < 0)
		return rc;
	*ret_r = (struct hv_regs){
		.rax = k.rax, .rbx = k.rbx, .rcx = k.rcx, .rdx = k.rdx, .rsi = k.rsi, .rdi = k.rdi, .rsp = k.rsp, .rbp = k.rbp,
		.r8 = k.r8, .r9 = k.r9, .r10 = k.r10, .r11 = k.r11, .r12 = k.r12, .r13 = k.r13, .r14 = k.r14, .r15 = k.r15,
		.rip = k.rip, .rflags = k.rflags,
		.cs = segment_from(&s.cs), .ds = segment_from(&s.ds), .es = segment_from(&s.es), .fs = segment_from(&s.fs),
		.gs = segment_from(&s.gs), .ss = segment_from(&s.ss), .tr = segment_from(&s.tr), .ldt = segment_from(&s.ldt),
		.gdt = { s.gdt.base, s.gdt.limit }, .idt = { s.idt.base, s.idt.limit },
		.cr0 = s.cr0, .cr2 = s.cr2, .cr3 = s.cr3, .cr4 = s.cr4, .efer = s.efer,
	};
	return 0;
}

int hv_vcpu_get_regs(struct hv_vcpu *c, struct hv_regs *ret_r, struct err *e)
{
	int rc = read_regs(c, ret_r);
	return rc < 0 ? err_set_errno(e, -rc, "kvm: vcpu%u: cannot read the registers", c->index) : 0;
}

int hv_vcpu_set_regs(struct hv_vcpu *c, const struct hv_regs *r, struct err *e)
{
	const struct kvm_regs k = {
		.rax = r->rax, .rbx = r->rbx, .rcx = r->rcx, .rdx = r->rdx, .rsi = r->rsi, .rdi = r->rdi, .rsp = r->rsp,
		.rbp = r->rbp, .r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13,
		.r14 = r->r14, .r15 = r->r15, .rip = r->rip, .rflags = r->rflags,
	};
	struct kvm_sregs s;
	int rc = kvm_call(c->fd, KVM_GET_SREGS, &s);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: vcpu%u: cannot read the system registers", c->index);

	s.cs = segment_to(&r->cs), s.ds = segment_to(&r->ds), s.es = segment_to(&r->es), s.fs = segment_to(&r->fs);
	s.gs = segment_to(&r->gs), s.ss = segment_to(&r->ss), s.tr = segment_to(&r->tr), s.ldt = segment_to(&r->ldt);
	s.gdt = (struct kvm_dtable){ .base = r->gdt.base, .limit = r->gdt.limit };
	s.idt = (struct kvm_dtable){ .base = r->idt.base, .limit = r->idt.limit };
	s.cr0 = r->cr0, s.cr2 = r->cr2, s.cr3 = r->cr3, s.cr4 = r->cr4, s.efer = r->efer;
	rc = kvm_call(c->fd, KVM_SET_SREGS, &s);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: vcpu%u: cannot set the system registers (cr0 0x%" PRIx64 " cr4 0x%" PRIx64
		                     " efer 0x%" PRIx64 ")", c->index, r->cr0, r->cr4, r->efer);
	rc = kvm_call(c->fd, KVM_SET_REGS, &k);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: vcpu%u: cannot set the general registers", c->index);
	return 0;
}

int hv_vcpu_set_fpu(struct hv_vcpu *c, uint16_t fcw, uint32_t mxcsr, struct err *e)
{
	const struct kvm_fpu fpu = { .fcw = fcw, .mxcsr = mxcsr };
	int rc = kvm_call(c->fd, KVM_SET_FPU, &fpu);
	return rc < 0 ? err_set_errno(e, -rc, "kvm: vcpu%u: cannot set the FPU", c->index) : 0;
}

static void report_segment(struct text *t, const char *name, const struct hv_segment *s)
{
	text_appendf(t, "  %-3s %04x base %016" PRIx64 " limit %08x type %x s %u dpl %u p %u db %u l %u g %u\n", name, s->selector,
	             s->base, s->limit, s->type, s->s, s->dpl, s->present, s->db, s->l, s->g);
}

#define EFER_LMA (1ull << 10)

int kvm_arch_report_registers(struct hv_vcpu *c, struct text *t, uint64_t *ret_linear_ip)
{
	struct hv_regs r;
	int rc = read_regs(c, &r);
	if (rc < 0)
		return rc;

#define X "%016" PRIx64
	text_appendf(t, "  rip " X " rflags " X "\n", r.rip, r.rflags);
	text_appendf(t, "  rax " X " rbx " X " rcx " X " rdx " X "\n", r.rax, r.rbx, r.rcx, r.rdx);
	text_appendf(t, "  rsi " X " rdi " X " rsp " X " rbp " X "\n", r.rsi, r.rdi, r.rsp, r.rbp);
	text_appendf(t, "  r8  " X " r9  " X " r10 " X " r11 " X "\n", r.r8, r.r9, r.r10, r.r11);
	text_appendf(t, "  r12 " X " r13 " X " r14 " X " r15 " X "\n", r.r12, r.r13, r.r14, r.r15);
	text_appendf(t, "  cr0 " X " cr2 " X " cr3 " X " cr4 " X "\n", r.cr0, r.cr2, r.cr3, r.cr4);
	text_appendf(t, "  efer " X "\n", r.efer);
	report_segment(t, "cs", &r.cs);
	report_segment(t, "ds", &r.ds);
	report_segment(t, "es", &r.es);
	report_segment(t, "fs", &r.fs);
	report_segment(t, "gs", &r.gs);
	report_segment(t, "ss", &r.ss);
	report_segment(t, "tr", &r.tr);
	report_segment(t, "ldt", &r.ldt);
	text_appendf(t, "  gdt base " X " limit %04x, idt base " X " limit %04x\n", r.gdt.base, r.gdt.limit, r.idt.base,
	             r.idt.limit);
#undef X

	/* 64-bit code ignores the base of CS; other code wraps at 4 GiB (Intel SDM volume 3, 3.4.4; volume 1, 3.3.7). */
	bool is_64bit = (r.efer & EFER_LMA) && r.cs.l;
	*ret_linear_ip = is_64bit ? r.rip : (uint32_t)(r.cs.base + r.rip);
	return 0;
}

/* --- model-specific registers --------------------------------------------------------------------------------------- */

/* Those that a kernel may refuse, with the CPU features or the module that it has, and that a guest does without. */
static const struct {
	uint32_t index;
	const char *name;
} msr_optional[] = {
	{ 0x0000003a, "IA32_FEATURE_CONTROL" },    /* only with VMX or SGX in CPUID */
	{ 0x0000003b, "IA32_TSC_ADJUST" },         /* only with its CPUID bit */
	{ 0x00000048, "IA32_SPEC_CTRL" },          /* only with its CPUID bits */
	{ 0x000000e1, "IA32_UMWAIT_CONTROL" },     /* only with WAITPKG */
	{ 0x0000010a, "IA32_ARCH_CAPABILITIES" },  /* refused by some engines that have no hardware virtualization */
	{ 0x00000da0, "IA32_XSS" },                /* only with XSAVES */
	{ 0xc0000083, "CSTAR" },                   /* nothing to Intel CPUs in 64-bit mode */
	{ 0xc0000103, "TSC_AUX" },                 /* only with RDTSCP or RDPID */
	{ 0x4b564d00, "MSR_KVM_WALL_CLOCK_NEW" },  /* these only when their bit of leaf 0x40000001 is offered */
	{ 0x4b564d01, "MSR_KVM_SYSTEM_TIME_NEW" },
	{ 0x4b564d02, "MSR_KVM_ASYNC_PF_EN" },
	{ 0x4b564d03, "MSR_KVM_STEAL_TIME" },
	{ 0x4b564d04, "MSR_KVM_PV_EOI_EN" },
	{ 0x4b564d05, "MSR_KVM_POLL_CONTROL" },
};

static const char *optional_name(uint32_t index)
{
	for (size_t i = 0; i < ARRAY_LEN(msr_optional); i++) {
		if (msr_optional[i].index == index)
			return msr_optional[i].name;
	}
	return NULL;
}

/* One entry behind the header that the kernel wants. */
struct one_msr {
	_Alignas(struct kvm_msrs) uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

static struct kvm_msrs *one_msr_init(struct one_msr *m, uint32_t index, uint64_t value)
{
	struct kvm_msrs *k = (struct kvm_msrs *)(void *)m->bytes;
	memset(m, 0, sizeof *m);
	k->nmsrs = 1;
	k->entries[0].index = index;
	k->entries[0].data = value;
	return k;
}

int hv_vcpu_set_msrs(struct hv_vcpu *c, const struct hv_msr *msrs, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		/* KVM_SET_MSRS returns how many it set: given one at a time, 0 tells which it refused. */
		struct one_msr one;
		int rc = kvm_call(c->fd, KVM_SET_MSRS, one_msr_init(&one, msrs[i].index, msrs[i].value));
		if (rc == 1)
			continue;
		if (rc < 0)
			return err_set_errno(e, -rc, "kvm: vcpu%u: cannot set MSR 0x%x", c->index, msrs[i].index);

		const char *name = optional_name(msrs[i].index);
		if (!name)
			return err_set(e, EINVAL, "kvm: vcpu%u: the kernel refused to set MSR 0x%x to 0x%" PRIx64, c->index,
			               msrs[i].index, msrs[i].value);
		log_debug(c->vm->log, "vcpu%u: the kernel refused to set MSR 0x%x (%s), which guests do without", c->index,
		          msrs[i].index, name);
	}
	return 0;
}

int hv_vcpu_get_msr(struct hv_vcpu *c, uint32_t index, uint64_t *ret_v, struct err *e)
{
	struct one_msr one;
	struct kvm_msrs *k = one_msr_init(&one, index, 0);
	int rc = kvm_call(c->fd, KVM_GET_MSRS, k);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: vcpu%u: cannot read MSR 0x%x", c->index, index);
	if (rc == 0)
		return err_set(e, EINVAL, "kvm: vcpu%u: the kernel refused to read MSR 0x%x", c->index, index);
	*ret_v = k->entries[0].data;
	return 0;
}

/* --- local APIC ----------------------------------------------------------------------------------------------------- */

static int get_lapic(struct hv_vcpu *c, struct kvm_lapic_state *ret_s, struct err *e)
{
	int rc = kvm_call(c->fd, KVM_GET_LAPIC, ret_s);
	return rc < 0 ? err_set_errno(e, -rc, "kvm: vcpu%u: cannot read the local APIC", c->index) : 0;
}

static int set_lapic(struct hv_vcpu *c, const struct kvm_lapic_state *s, struct err *e)
{
	int rc = kvm_call(c->fd, KVM_SET_LAPIC, s);
	return rc < 0 ? err_set_errno(e, -rc, "kvm: vcpu%u: cannot set the local APIC", c->index) : 0;
}

int hv_vcpu_set_lapic(struct hv_vcpu *c, uint32_t offset, uint32_t v, struct err *e)
{
	struct kvm_lapic_state s;
	assert(offset % 4 == 0 && offset + 4 <= sizeof s.regs);
	int rc = get_lapic(c, &s, e);
	if (rc < 0)
		return rc;
	put_le32(s.regs + offset, v);
	return set_lapic(c, &s, e);
}

int hv_vcpu_set_waiting(struct hv_vcpu *c, bool is_waiting_for_sipi, struct err *e)
{
	const struct kvm_mp_state state = {
		.mp_state = is_waiting_for_sipi ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE,
	};
	int rc = kvm_call(c->fd, KVM_SET_MP_STATE, &state);
	return rc < 0 ? err_set_errno(e, -rc, "kvm: vcpu%u: cannot make it %s", c->index,
	                              is_waiting_for_sipi ? "wait for its start" : "ready to run") : 0;
}

int hv_vcpu_nmi(struct hv_vcpu *c, struct err *e)
{
	int rc = kvm_call_value(c->fd, KVM_NMI, 0);
	return rc < 0 ? err_set_errno(e, -rc, "kvm: vcpu%u: cannot raise an NMI", c->index) : 0;
}

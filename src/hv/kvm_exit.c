/* SPDX-License-Identifier: Apache-2.0 */
/* From KVM's exit reasons to ours (api.rst, 5). Every reason that the kernel's interface names is here: what cannot
 * happen because we never asked for it is answered so that the guest goes on where that is possible, and ends the vCPU
 * with a report where it is not. Sizes and offsets are the kernel's and therefore asserted; what they describe (ports,
 * addresses, data) is the guest's. */
#include "base/checked.h"
#include "hv/kvm_internal.h"

#include <assert.h>

#define NAME(r) [KVM_EXIT_##r] = "KVM_EXIT_" #r

static const char *const names[] = {
	NAME(UNKNOWN), NAME(EXCEPTION), NAME(IO), NAME(HYPERCALL), NAME(DEBUG), NAME(HLT), NAME(MMIO), NAME(IRQ_WINDOW_OPEN),
	NAME(SHUTDOWN), NAME(FAIL_ENTRY), NAME(INTR), NAME(SET_TPR), NAME(TPR_ACCESS), NAME(S390_SIEIC), NAME(S390_RESET),
	NAME(DCR), NAME(NMI), NAME(INTERNAL_ERROR), NAME(OSI), NAME(PAPR_HCALL), NAME(S390_UCONTROL), NAME(WATCHDOG),
	NAME(S390_TSCH), NAME(EPR), NAME(SYSTEM_EVENT), NAME(S390_STSI), NAME(IOAPIC_EOI), NAME(HYPERV), NAME(ARM_NISV),
	NAME(X86_RDMSR), NAME(X86_WRMSR), NAME(DIRTY_RING_FULL), NAME(AP_RESET_HOLD), NAME(X86_BUS_LOCK), NAME(XEN),
	NAME(RISCV_SBI), NAME(RISCV_CSR), NAME(NOTIFY), [38] = "KVM_EXIT_LOONGARCH_IOCSR", NAME(MEMORY_FAULT),
};

_Static_assert(ARRAY_LEN(names) < KVM_N_REASONS, "each exit has a counter, and the unknown ones the last");

/* Later than the headers of Debian 12 (api.rst, 5, KVM_EXIT_SYSTEM_EVENT). */
#define SYSTEM_EVENT_TDX_FATAL 7

/* What a hypercall answers that nobody serves: KVM_ENOSYS (include/uapi/linux/kvm_para.h). */
#define HYPERCALL_NOT_THERE ((uint64_t)-1000)
/* HV_STATUS_INVALID_HYPERCALL_CODE (Hyper-V Top Level Functional Specification, appendix B). */
#define HYPERV_NOT_THERE 2

const char *kvm_exit_name(uint32_t reason)
{
	return reason < ARRAY_LEN(names) ? names[reason] : NULL;
}

static void decode_port(struct hv_vcpu *c, struct hv_exit *ret)
{
	const struct kvm_run *run = c->run;
	uint64_t n_total = (uint64_t)run->io.size * run->io.count;

	assert(run->io.size == 1 || run->io.size == 2 || run->io.size == 4);
	assert(run->io.count > 0);
	assert(run->io.data_offset <= c->run_bytes && n_total <= c->run_bytes - run->io.data_offset);
	*ret = (struct hv_exit){
		.kind = HV_EXIT_PORT,
		.is_write = run->io.direction == KVM_EXIT_IO_OUT,
		.n_bytes = run->io.size,
		.n_repeat = run->io.count,
		.address = run->io.port,
		.data = (uint8_t *)c->run + run->io.data_offset,
	};
}

static void decode_mmio(struct hv_vcpu *c, struct hv_exit *ret)
{
	struct kvm_run *run = c->run;

	assert(run->mmio.len >= 1 && run->mmio.len <= sizeof run->mmio.data);
	*ret = (struct hv_exit){
		.kind = HV_EXIT_MMIO,
		.is_write = run->mmio.is_write,
		.n_bytes = (uint8_t)run->mmio.len,
		.n_repeat = 1,
		.address = run->mmio.phys_addr,
		.data = run->mmio.data,
	};
}

static enum hv_exit_kind decode_system_event(const struct kvm_run *run)
{
	switch (run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		return HV_EXIT_POWEROFF;
	case KVM_SYSTEM_EVENT_RESET:
		return HV_EXIT_RESET;
	case KVM_SYSTEM_EVENT_CRASH:
	case KVM_SYSTEM_EVENT_SEV_TERM:
	case SYSTEM_EVENT_TDX_FATAL:
		return HV_EXIT_CRASH;
	case KVM_SYSTEM_EVENT_WAKEUP:
	case KVM_SYSTEM_EVENT_SUSPEND:
		return HV_EXIT_NONE;
	default:
		return HV_EXIT_FAILED;
	}
}

/* Exits that the guest can only cause when we turned them on, which we do not: it gets what it would get elsewhere. */
static enum hv_exit_kind answer_uninvited(struct kvm_run *run)
{
	switch (run->exit_reason) {
	case KVM_EXIT_HYPERCALL:
		run->hypercall.ret = HYPERCALL_NOT_THERE;
		return HV_EXIT_NONE;
	case KVM_EXIT_HYPERV:
		if (run->hyperv.type == KVM_EXIT_HYPERV_HCALL)
			run->hyperv.u.hcall.result = HYPERV_NOT_THERE;
		return HV_EXIT_NONE;
	case KVM_EXIT_XEN:
		run->xen.u.hcall.result = (uint64_t)-ENOSYS;
		return HV_EXIT_NONE;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		run->msr.error = 1; /* #GP */
		return HV_EXIT_NONE;
	default:
		/* Among them KVM_EXIT_DIRTY_RING_FULL, which would come back for ever, and those of other architectures. */
		return HV_EXIT_FAILED;
	}
}

void kvm_exit_decode(struct hv_vcpu *c, struct hv_exit *ret)
{
	struct kvm_run *run = c->run;

	ret->kind = HV_EXIT_NONE;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		decode_port(c, ret);
		break;
	case KVM_EXIT_MMIO:
		decode_mmio(c, ret);
		break;
	case KVM_EXIT_IOAPIC_EOI:
		ret->kind = HV_EXIT_EOI;
		ret->vector = run->eoi.vector;
		break;
	case KVM_EXIT_HLT:
		ret->kind = HV_EXIT_HALT;
		break;
	case KVM_EXIT_SHUTDOWN:
		ret->kind = HV_EXIT_TRIPLE_FAULT;
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		ret->kind = decode_system_event(run);
		break;
	case KVM_EXIT_DEBUG:
		ret->kind = HV_EXIT_DEBUG;
		break;
	case KVM_EXIT_NOTIFY:
		ret->kind = run->notify.flags & KVM_NOTIFY_CONTEXT_INVALID ? HV_EXIT_FAILED : HV_EXIT_NONE;
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_NMI:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR:
	case KVM_EXIT_TPR_ACCESS:
	case KVM_EXIT_AP_RESET_HOLD:
	case KVM_EXIT_X86_BUS_LOCK:
		break;
	case KVM_EXIT_UNKNOWN:
	case KVM_EXIT_EXCEPTION:
	case KVM_EXIT_FAIL_ENTRY:
	case KVM_EXIT_INTERNAL_ERROR:
	case KVM_EXIT_MEMORY_FAULT:
		ret->kind = HV_EXIT_FAILED;
		break;
	default:
		ret->kind = answer_uninvited(run);
	}
}

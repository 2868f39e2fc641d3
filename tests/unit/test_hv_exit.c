/* SPDX-License-Identifier: Apache-2.0 */
/* The exits that no guest of ours can cause on demand: what the kernel would leave in the shared pages is put there by
 * hand, and nothing is open behind. */
#include "base/checked.h"
#include "base/text.h"
#include "hv/kvm_internal.h"
#include "test.h"

struct fake {
	struct hv hv;
	struct hv_vm vm;
	struct hv_vcpu c;
	union {
		struct kvm_run run;
		uint8_t bytes[3 * 4096];
	} pages;
};

static struct fake *fake_new(uint32_t reason)
{
	struct fake *f = calloc(1, sizeof *f);
	OK(f);
	f->vm.hv = &f->hv;
	f->c.vm = &f->vm;
	f->c.fd = -1;
	f->c.index = 3;
	f->c.run = &f->pages.run;
	f->c.run_bytes = sizeof f->pages;
	f->c.has_exited = true;
	f->pages.run.exit_reason = reason;
	return f;
}

static struct hv_exit decode(struct fake *f)
{
	struct hv_exit x = { .kind = HV_EXIT_NONE, .n_repeat = 1 };
	kvm_exit_decode(&f->c, &x);
	return x;
}

static enum hv_exit_kind kind_of(uint32_t reason)
{
	struct fake *f = fake_new(reason);
	enum hv_exit_kind kind = decode(f).kind;
	free(f);
	return kind;
}

TEST(each_reason_has_its_kind)
{
	static const struct {
		uint32_t reason;
		enum hv_exit_kind kind;
	} rows[] = {
		{ KVM_EXIT_UNKNOWN, HV_EXIT_FAILED },
		{ KVM_EXIT_EXCEPTION, HV_EXIT_FAILED },
		{ KVM_EXIT_HYPERCALL, HV_EXIT_NONE },
		{ KVM_EXIT_DEBUG, HV_EXIT_DEBUG },
		{ KVM_EXIT_HLT, HV_EXIT_HALT },
		{ KVM_EXIT_IRQ_WINDOW_OPEN, HV_EXIT_NONE },
		{ KVM_EXIT_SHUTDOWN, HV_EXIT_TRIPLE_FAULT },
		{ KVM_EXIT_FAIL_ENTRY, HV_EXIT_FAILED },
		{ KVM_EXIT_INTR, HV_EXIT_NONE },
		{ KVM_EXIT_SET_TPR, HV_EXIT_NONE },
		{ KVM_EXIT_TPR_ACCESS, HV_EXIT_NONE },
		{ KVM_EXIT_S390_SIEIC, HV_EXIT_FAILED },
		{ KVM_EXIT_NMI, HV_EXIT_NONE },
		{ KVM_EXIT_INTERNAL_ERROR, HV_EXIT_FAILED },
		{ KVM_EXIT_WATCHDOG, HV_EXIT_FAILED },
		{ KVM_EXIT_HYPERV, HV_EXIT_NONE },
		{ KVM_EXIT_ARM_NISV, HV_EXIT_FAILED },
		{ KVM_EXIT_X86_RDMSR, HV_EXIT_NONE },
		{ KVM_EXIT_X86_WRMSR, HV_EXIT_NONE },
		{ KVM_EXIT_DIRTY_RING_FULL, HV_EXIT_FAILED },
		{ KVM_EXIT_AP_RESET_HOLD, HV_EXIT_NONE },
		{ KVM_EXIT_X86_BUS_LOCK, HV_EXIT_NONE },
		{ KVM_EXIT_XEN, HV_EXIT_NONE },
		{ KVM_EXIT_NOTIFY, HV_EXIT_NONE },
		{ KVM_EXIT_MEMORY_FAULT, HV_EXIT_FAILED },
		{ KVM_N_REASONS - 1, HV_EXIT_FAILED },
		{ 4711, HV_EXIT_FAILED },
		{ UINT32_MAX, HV_EXIT_FAILED },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (kind_of(rows[i].reason) != rows[i].kind)
			test_fail(__FILE__, __LINE__, "exit reason %u gives kind %d", rows[i].reason, kind_of(rows[i].reason));
	}
}

TEST(system_events)
{
	static const struct {
		uint32_t type;
		enum hv_exit_kind kind;
	} rows[] = {
		{ KVM_SYSTEM_EVENT_SHUTDOWN, HV_EXIT_POWEROFF },
		{ KVM_SYSTEM_EVENT_RESET, HV_EXIT_RESET },
		{ KVM_SYSTEM_EVENT_CRASH, HV_EXIT_CRASH },
		{ KVM_SYSTEM_EVENT_WAKEUP, HV_EXIT_NONE },
		{ KVM_SYSTEM_EVENT_SUSPEND, HV_EXIT_NONE },
		{ KVM_SYSTEM_EVENT_SEV_TERM, HV_EXIT_CRASH },
		{ 7, HV_EXIT_CRASH },
		{ 99, HV_EXIT_FAILED },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fake *f = fake_new(KVM_EXIT_SYSTEM_EVENT);
		f->pages.run.system_event.type = rows[i].type;
		EQ(decode(f).kind, rows[i].kind);
		free(f);
	}
}

TEST(uninvited_exits_are_answered)
{
	struct fake *f = fake_new(KVM_EXIT_X86_RDMSR);
	EQ(decode(f).kind, HV_EXIT_NONE);
	EQ(f->pages.run.msr.error, 1);
	free(f);

	f = fake_new(KVM_EXIT_HYPERV);
	f->pages.run.hyperv.type = KVM_EXIT_HYPERV_HCALL;
	EQ(decode(f).kind, HV_EXIT_NONE);
	EQ(f->pages.run.hyperv.u.hcall.result, 2);
	free(f);

	f = fake_new(KVM_EXIT_HYPERV);
	f->pages.run.hyperv.type = KVM_EXIT_HYPERV_SYNIC;
	EQ(decode(f).kind, HV_EXIT_NONE);
	EQ(f->pages.run.hyperv.u.hcall.result, 0);
	free(f);

	f = fake_new(KVM_EXIT_HYPERCALL);
	EQ(decode(f).kind, HV_EXIT_NONE);
	EQ(f->pages.run.hypercall.ret, (uint64_t)-1000);
	free(f);
}

TEST(an_end_of_interrupt_has_its_vector)
{
	struct fake *f = fake_new(KVM_EXIT_IOAPIC_EOI);
	f->pages.run.eoi.vector = 0xef;
	struct hv_exit x = decode(f);
	EQ(x.kind, HV_EXIT_EOI);
	EQ(x.vector, 0xef);
	free(f);
}

TEST(a_lost_context_ends_the_vcpu)
{
	struct fake *f = fake_new(KVM_EXIT_NOTIFY);
	f->pages.run.notify.flags = KVM_NOTIFY_CONTEXT_INVALID;
	EQ(decode(f).kind, HV_EXIT_FAILED);
	free(f);
}

TEST(accesses_are_handed_out_whole)
{
	struct fake *f = fake_new(KVM_EXIT_IO);
	f->pages.run.io.direction = KVM_EXIT_IO_OUT;
	f->pages.run.io.size = 4;
	f->pages.run.io.port = 0xffff;
	f->pages.run.io.count = 1024;
	f->pages.run.io.data_offset = 4096;
	struct hv_exit x = decode(f);
	EQ(x.kind, HV_EXIT_PORT);
	OK(x.is_write);
	EQ(x.n_bytes, 4);
	EQ(x.n_repeat, 1024);
	EQ(x.address, 0xffff);
	OK(x.data == f->pages.bytes + 4096);
	free(f);

	f = fake_new(KVM_EXIT_MMIO);
	f->pages.run.mmio.phys_addr = UINT64_MAX - 2;
	f->pages.run.mmio.len = 3;
	x = decode(f);
	EQ(x.kind, HV_EXIT_MMIO);
	OK(!x.is_write);
	EQ(x.n_bytes, 3);
	EQ(x.n_repeat, 1);
	EQ(x.address, UINT64_MAX - 2);
	OK(x.data == f->pages.run.mmio.data);
	free(f);
}

/* --- reports -------------------------------------------------------------------------------------------------------- */

static void report_has(struct fake *f, const char *part)
{
	struct text t = TEXT_INIT;
	hv_vcpu_report(&f->c, NULL, &t);
	STR_HAS(text_get(&t), "vcpu3: ");
	STR_HAS(text_get(&t), part);
	/* Nothing is behind the descriptor: the report goes as far as it can. */
	STR_HAS(text_get(&t), "the registers cannot be read: Bad file descriptor");
	text_done(&t);
}

TEST(reports_name_the_reason)
{
	struct fake *f = fake_new(KVM_EXIT_FAIL_ENTRY);
	f->pages.run.fail_entry.hardware_entry_failure_reason = 0x80000021;
	report_has(f, "KVM_EXIT_FAIL_ENTRY (exit reason 9)\n");
	report_has(f, "reason 0x80000021");

	f->pages.run.exit_reason = KVM_EXIT_UNKNOWN;
	f->pages.run.hw.hardware_exit_reason = 0x1234;
	report_has(f, "hardware exit reason 0x1234");

	f->pages.run.exit_reason = 4711;
	report_has(f, "an exit unknown to this program (exit reason 4711)");

	f->pages.run.exit_reason = KVM_EXIT_SHUTDOWN;
	report_has(f, "triple fault");

	f->pages.run.exit_reason = KVM_EXIT_EXCEPTION;
	f->pages.run.ex.exception = 18;
	report_has(f, "exception 18");

	f->pages.run.exit_reason = KVM_EXIT_SYSTEM_EVENT;
	f->pages.run.system_event.type = 3;
	f->pages.run.system_event.ndata = 1000; /* more than there is room for */
	f->pages.run.system_event.data[15] = 0xabc;
	report_has(f, "data[15] 0x0000000000000abc");

	f->pages.run.exit_reason = KVM_EXIT_X86_WRMSR;
	f->pages.run.msr.index = 0x1b;
	report_has(f, "MSR 0x1b");
	free(f);
}

TEST(reports_show_what_could_not_be_emulated)
{
	struct fake *f = fake_new(KVM_EXIT_INTERNAL_ERROR);
	f->pages.run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	f->pages.run.emulation_failure.ndata = 3;
	f->pages.run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
	f->pages.run.emulation_failure.insn_size = 200; /* more than there is room for */
	memset(f->pages.run.emulation_failure.insn_bytes, 0xc5, sizeof f->pages.run.emulation_failure.insn_bytes);
	report_has(f, "suberror 1: an instruction that KVM cannot emulate\n");
	report_has(f, "instruction c5 c5 c5");
	f->pages.run.emulation_failure.suberror = 77;
	report_has(f, "suberror 77: unknown");
	free(f);
}

TEST(reports_have_the_errno)
{
	struct fake *f = fake_new(KVM_EXIT_MEMORY_FAULT);
	const uint64_t fault[] = { 8, 0xfee1000, 0x2000 };
	memcpy(f->pages.run.padding, fault, sizeof fault);
	f->c.run_errno = EFAULT;
	report_has(f, "KVM_RUN failed: Bad address (errno 14)\n");
	report_has(f, "no memory for the guest at 0xfee1000, 0x2000 bytes (flags 0x8)");
	f->c.run_errno = ENOEXEC;
	report_has(f, "KVM_RUN failed: Exec format error (errno 8)\n");
	free(f);
}

TEST(stats_without_the_kernels)
{
	struct fake *f = fake_new(KVM_EXIT_IO);
	struct text t = TEXT_INIT;
	atomic_store(&f->c.n_exits[KVM_EXIT_MMIO], 7);
	atomic_store(&f->c.n_exits[KVM_N_REASONS - 1], 2);
	atomic_store(&f->c.n_kicks, 1);
	EQ(hv_vcpu_stats(&f->c, &t), 0);
	STR_EQ(text_get(&t), "KVM_EXIT_MMIO: 7\nKVM_EXIT_other: 2\nkicks: 1\n");
	text_done(&t);
	free(f);
}

#ifdef __x86_64__
#include <linux/kvm.h>

TEST(extended_destination_ids_reach_the_kernel_in_its_form)
{
	struct hv hv = { .x2apic_flags = KVM_X2APIC_API_USE_32BIT_IDS };
	struct hv_vm vm = { .hv = &hv };
	EQ(kvm_arch_msi_address(&vm, 0xfee01000), 0xfee01000);             /* ID 1 */
	EQ(kvm_arch_msi_address(&vm, 0xfee01020), 0x10000000000 + 0xfee01000); /* ID 0x101 */
	EQ(kvm_arch_msi_address(&vm, 0xfeefffe0), 0x7f0000000000 + 0xfeeff000);
	hv.x2apic_flags = 0;
	EQ(kvm_arch_msi_address(&vm, 0xfee01020), 0xfee01020);
}
#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The probe's guest: 64-bit code in ring 0, identity-mapped by one page of 2 MiB, without an IDT, so that whatever the
 * engine cannot do ends in a triple fault or a failed exit. It asks by a port how often to go round a loop, as long as
 * the answer is not 0; then it does what engines without hardware virtualization were seen to fail at, which stock
 * kernels do early (SLUB's cmpxchg16b, the FPU's xrstor), saying after each by a port that it got there. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/checked.h"
#include "hv/kvm_internal.h"
#include "mem/mem.h"

#include <cpuid.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PORT_LOOPS 0x10
#define PORT_STEP 0x11
#define STEP_CMPXCHG16B 1
#define STEP_XRSTOR 2

#define GUEST_BYTES 0x10000u
#define GUEST_PML4 0x1000u
#define GUEST_PDPT 0x2000u
#define GUEST_PD 0x3000u
#define GUEST_CODE 0x4000u
#define GUEST_PAIR 0x5000u  /* 16 bytes for cmpxchg16b */
#define GUEST_STACK 0x7000u
#define GUEST_STATE 0x8000u /* for xsave: up to GUEST_BYTES */

extern const uint8_t probe_code[], probe_code_end[] __attribute__((visibility("hidden")));

/* rdi: the pair; rsi: the FPU's area; rbp: 1 when there is XSAVE, 0 for FXSAVE. Ports and steps as above. */
__asm__(".pushsection .rodata\n"
        "probe_code:\n"
        "1:	in $0x10, %eax\n"
        "	test %eax, %eax\n"
        "	jz 3f\n"
        "2:	dec %eax\n"
        "	jnz 2b\n"
        "	jmp 1b\n"
        "3:	lock cmpxchg16b (%rdi)\n"
        "	mov $1, %al\n"
        "	out %al, $0x11\n"
        "	mov $1, %eax\n"
        "	xor %edx, %edx\n"
        "	test %ebp, %ebp\n"
        "	jz 4f\n"
        "	xsave (%rsi)\n"
        "	xrstor (%rsi)\n"
        "	jmp 5f\n"
        "4:	fxsave (%rsi)\n"
        "	fxrstor (%rsi)\n"
        "5:	mov $2, %al\n"
        "	out %al, $0x11\n"
        "6:	jmp 6b\n"
        "probe_code_end:\n"
        "	.popsection\n");

#define INSTRUCTIONS_PER_LOOP 2u

static void host_loop(uint32_t n)
{
	__asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(n) : : "cc");
}

/* --- the guest ------------------------------------------------------------------------------------------------------ */

struct guest {
	struct mem_map mem;
	struct hv_vm *vm;
	struct hv_vcpu *vcpu;
};

static struct hv_segment flat(bool is_code)
{
	return (struct hv_segment){ .limit = 0xffffffff, .selector = is_code ? 8 : 16, .type = is_code ? 0xb : 3,
		                    .present = 1, .db = !is_code, .s = 1, .l = is_code, .g = 1 };
}

static int guest_set_registers(struct guest *g, bool has_xsave, struct err *e)
{
	struct hv_regs r;
	int rc = hv_vcpu_get_regs(g->vcpu, &r, e);
	if (rc < 0)
		return rc;
	r.cs = flat(true);
	r.ds = r.es = r.fs = r.gs = r.ss = flat(false);
	r.cr0 = 0x80000033; /* PG NE ET MP PE */
	r.cr3 = GUEST_PML4;
	r.cr4 = 0x620 | (has_xsave ? 0x40000u : 0); /* PAE OSFXSR OSXMMEXCPT, OSXSAVE */
	r.efer = 0x500;                            /* LME LMA */
	r.idt.limit = 0;
	r.rip = GUEST_CODE;
	r.rsp = GUEST_STACK;
	r.rflags = 2;
	r.rdi = GUEST_PAIR;
	r.rsi = GUEST_STATE;
	r.rbp = has_xsave;
	return hv_vcpu_set_regs(g->vcpu, &r, e);
}

/* Present and writable; the last level is a page of 2 MiB. */
static bool guest_fill(const struct mem_map *m)
{
	uint8_t entry[8];
	put_le64(entry, GUEST_PDPT | 3);
	if (!mem_write(m, GPA(GUEST_PML4), entry, sizeof entry))
		return false;
	put_le64(entry, GUEST_PD | 3);
	if (!mem_write(m, GPA(GUEST_PDPT), entry, sizeof entry))
		return false;
	put_le64(entry, 0x83);
	return mem_write(m, GPA(GUEST_PD), entry, sizeof entry) &&
	       mem_write(m, GPA(GUEST_CODE), probe_code, (size_t)(probe_code_end - probe_code));
}

static int guest_init(struct guest *g, struct hv *hv, struct err *e)
{
	struct hv_cpuid cpuid;
	bool has_xsave = false;

	int rc = mem_map_add(&g->mem, &(struct mem_region_params){ .n_bytes = GUEST_BYTES }, e);
	if (rc == 0 && !guest_fill(&g->mem))
		rc = err_set(e, EFAULT, "the probe's guest does not fit");
	if (rc == 0)
		rc = hv_vm_new(hv, &(struct hv_vm_params){ .irqchip = HV_IRQCHIP_SPLIT, .n_ioapic_pins = 24 }, &g->vm, e);
	if (rc == 0)
		rc = hv_vm_map(g->vm, 0, &g->mem.regions[0], false, true, e);
	if (rc == 0)
		rc = hv_vcpu_new(g->vm, 0, &g->vcpu, e);
	if (rc == 0)
		rc = hv_supported_cpuid(hv, &cpuid, e);
	for (size_t i = 0; rc == 0 && i < cpuid.n; i++)
		has_xsave |= cpuid.e[i].leaf == 1 && (cpuid.e[i].ecx & bit_XSAVE);
	if (rc == 0)
		rc = hv_vcpu_set_cpuid(g->vcpu, &cpuid, e);
	if (rc == 0)
		rc = guest_set_registers(g, has_xsave, e);
	if (rc == 0)
		rc = hv_vcpu_attach_thread(g->vcpu, e);
	return rc;
}

static void guest_done(struct guest *g)
{
	hv_vcpu_free(g->vcpu);
	hv_vm_free(g->vm);
	mem_map_done(&g->mem);
}

/* --- the clock ------------------------------------------------------------------------------------------------------ */

/* A loop of 1 measures what the exit costs; one of 1000 tells slow from fast; only fast ones need long loops to be
 * measured, and slow ones would take long. */
#define N_SHORT 3u
#define N_LONG 3u
#define LOOPS_COARSE 1000u
#define LOOPS_LONG 50000u
#define SLOW_PS 100000u

struct timing {
	unsigned round;
	uint32_t n_loops; /* what the guest is busy with; 0: nothing yet */
	uint64_t start_ns, exit_ns, coarse_ps, ps;
};

static void timing_add(struct timing *t, uint64_t elapsed_ns)
{
	if (t->n_loops == 1) {
		t->exit_ns = t->exit_ns ? min_u64(t->exit_ns, elapsed_ns) : elapsed_ns;
		return;
	}
	uint64_t loop_ns = elapsed_ns > t->exit_ns ? elapsed_ns - t->exit_ns : 0;
	uint64_t ps = max_u64(loop_ns * 1000 / ((t->n_loops - 1) * INSTRUCTIONS_PER_LOOP), 1);
	if (t->n_loops == LOOPS_COARSE)
		t->coarse_ps = t->ps = ps;
	else
		t->ps = t->round == N_SHORT + 1 ? ps : min_u64(t->ps, ps);
}

/* The answer to the guest's question; 0 ends the loops. */
static uint32_t timing_next(struct timing *t)
{
	if (t->n_loops) {
		timing_add(t, clock_now_ns() - t->start_ns);
		t->round++;
	}
	if (t->round < N_SHORT)
		t->n_loops = 1;
	else if (t->round == N_SHORT)
		t->n_loops = LOOPS_COARSE;
	else if (t->round <= N_SHORT + N_LONG && t->coarse_ps < SLOW_PS)
		t->n_loops = LOOPS_LONG;
	else
		t->n_loops = 0;
	t->start_ns = clock_now_ns();
	return t->n_loops;
}

static uint64_t time_host(void)
{
	uint64_t best = UINT64_MAX;
	for (unsigned i = 0; i < N_LONG; i++) {
		uint64_t start = clock_now_ns();
		host_loop(LOOPS_LONG);
		best = min_u64(best, (clock_now_ns() - start) * 1000 / (LOOPS_LONG * INSTRUCTIONS_PER_LOOP));
	}
	return max_u64(best, 1);
}

/* --- the run -------------------------------------------------------------------------------------------------------- */

#define LIMIT_MS 2000

struct watchdog {
	struct hv_vcpu *vcpu;
	int done_fd; /* written when the guest has ended */
	pthread_t thread;
};

static void *watchdog_run(void *arg)
{
	struct watchdog *w = arg;
	struct pollfd done = { .fd = w->done_fd, .events = POLLIN };
	if (poll(&done, 1, LIMIT_MS) == 0)
		hv_vcpu_kick(w->vcpu);
	return NULL;
}

static const char *kind_name(enum hv_exit_kind kind)
{
	switch (kind) {
	case HV_EXIT_KICKED:
		return "no progress in 2 s";
	case HV_EXIT_TRIPLE_FAULT:
		return "triple fault";
	case HV_EXIT_FAILED:
		return "the engine failed";
	default:
		return "unexpected exit";
	}
}

/* Until the guest's last step, or until it fails. */
static void run_guest(struct guest *g, struct kvm_probe *p)
{
	static const char *const doing[] = { "64-bit kernel code", "`lock cmpxchg16b`", "`xrstor`" };
	struct timing t = { 0 };
	unsigned step = 0;
	struct hv_exit x;

	while (step < STEP_XRSTOR) {
		int rc = hv_vcpu_run(g->vcpu, &x);
		if (rc == 0 && x.kind == HV_EXIT_NONE)
			continue;
		bool is_port = rc == 0 && x.kind == HV_EXIT_PORT && x.n_repeat == 1;
		if (is_port && x.address == PORT_LOOPS && !x.is_write && x.n_bytes == 4) {
			put_le32(x.data, timing_next(&t));
		} else if (is_port && x.address == PORT_STEP && x.is_write && x.data[0] == step + 1) {
			step++;
		} else {
			unsigned at = t.round > 0 && t.n_loops == 0 ? step + 1 : 0;
			(void)snprintf(p->failure, sizeof p->failure, "%s fails (%s)", doing[at], kind_name(x.kind));
			break;
		}
	}
	p->is_complete = step == STEP_XRSTOR;
	p->guest_ps = t.ps;
	if (t.ps)
		p->host_ps = time_host();
}

static void run_guarded(struct guest *g, struct kvm_probe *p)
{
	const uint64_t one = 1;
	struct watchdog w = { .vcpu = g->vcpu, .done_fd = eventfd(0, EFD_CLOEXEC) };

	if (w.done_fd < 0 || pthread_create(&w.thread, NULL, watchdog_run, &w) != 0) {
		(void)snprintf(p->failure, sizeof p->failure, "no thread to watch it");
	} else {
		run_guest(g, p);
		/* An event descriptor at zero takes a write of one at once. */
		if (write(w.done_fd, &one, sizeof one) != (ssize_t)sizeof one)
			p->is_complete = false;
		(void)pthread_join(w.thread, NULL);
	}
	if (w.done_fd >= 0)
		(void)close(w.done_fd);
}

void kvm_arch_probe(struct kvm_probe *p)
{
	struct guest g = { 0 };
	struct err e = { 0 };
	sigset_t mask;
	uint64_t dirty = 0;

	/* The thread is the caller's: its signals are as before afterwards. */
	(void)pthread_sigmask(SIG_SETMASK, NULL, &mask);
	mem_map_init(&g.mem);
	if (guest_init(&g, p->hv, &e) < 0) {
		(void)snprintf(p->failure, sizeof p->failure, "%.*s", (int)sizeof p->failure - 1, e.text);
	} else {
		run_guarded(&g, p);
		p->has_dirty_log = hv_vm_dirty_log(g.vm, 0, &dirty, NULL) == 0;
	}
	guest_done(&g);
	(void)pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

const char *kvm_arch_vendor_module(void)
{
	uint32_t eax, ebx, ecx, edx;
	/* AMD64 APM volume 3, E.4.2: SVM; Intel SDM volume 2, CPUID, leaf 1: VMX. */
	if (__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) && (ecx & (1u << 2)))
		return "kvm_amd";
	if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (1u << 5)))
		return "kvm_intel";
	return NULL;
}

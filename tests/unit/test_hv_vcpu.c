/* SPDX-License-Identifier: Apache-2.0 */
/* hv against the machine's own /dev/kvm: events, interrupts, and the state of vCPUs. */
#include "base/bytes.h"
#include "hv/kvm_internal.h"
#include "hv_box.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* --- events and interrupts ------------------------------------------------------------------------------------------ */

static int new_event(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	OK(fd >= 0);
	return fd;
}

static uint64_t take_event(int fd)
{
	uint64_t n = 0;
	return read(fd, &n, sizeof n) == (ssize_t)sizeof n ? n : 0;
}

GUEST(guest_events, 16,
      "mov $0x600, %dx\n"
      "mov $1, %ax\n out %ax, %dx\n"
      "mov $2, %ax\n out %ax, %dx\n"
      "movl $0x10, 0x50\n"
      "movb $0x10, 0x54\n"
      "movw $0x10, 0x54\n"
      "out %al, $0x80\n"
      "mov $1, %ax\n out %ax, %dx\n"
      "movl $0x10, 0x50\n"
      "1: jmp 1b\n");

TEST(ioeventfds_take_writes_from_the_vcpu)
{
	struct box b;
	struct hv_exit x;
	struct err e = { 0 };
	box_init(&b);
	const struct hv_ioevent port = { .space = HV_SPACE_PORT, .address = 0x600, .n_bytes = 2, .has_datamatch = true,
		                         .datamatch = 2, .event_fd = new_event() };
	const struct hv_ioevent mmio = { .space = HV_SPACE_MMIO, .address = MMIO_AT + 0x50, .n_bytes = 4, .event_fd = new_event() };
	const struct hv_ioevent any = { .space = HV_SPACE_MMIO, .address = MMIO_AT + 0x54, .event_fd = new_event() };
	EQ(hv_vm_ioeventfd(b.vm, &port, NULL), 0);
	EQ(hv_vm_ioeventfd(b.vm, &mmio, NULL), 0);
	EQ(hv_vm_ioeventfd(b.vm, &any, NULL), 0);
	EQ(hv_vm_ioeventfd(b.vm, &mmio, &e), -EEXIST);
	STR_HAS(e.text, "0xd0050");

	box_start16(&b, guest_events, guest_events_end);
	box_expect_out(&b, 0x600, 2, 1); /* not the value that matches */
	box_expect_port(&b, true, 0x80, 1, NULL);
	EQ(take_event(port.event_fd), 1);
	EQ(take_event(mmio.event_fd), 1);
	EQ(take_event(any.event_fd), 2);

	EQ(hv_vm_ioeventfd_unset(b.vm, &port, NULL), 0);
	EQ(hv_vm_ioeventfd_unset(b.vm, &mmio, NULL), 0);
	EQ(hv_vm_ioeventfd_unset(b.vm, &any, NULL), 0);
	EQ(hv_vm_ioeventfd_unset(b.vm, &any, &e), -ENOENT);
	box_expect_out(&b, 0x600, 2, 1);
	box_expect_mmio(&b, true, MMIO_AT + 0x50, 4, &x);
	close(port.event_fd);
	close(mmio.event_fd);
	close(any.event_fd);
	box_done(&b);
}

/* Turns on its local APIC (spurious vector register), says that it is ready and waits; each interrupt's handler tells
 * its vector by a port, ends it and waits for the next: it does not return, since interpreting engines lack iret. */
#define HANDLER_END "movl $0, 0xfee000b0\n mov $0x1ff0, %esp\n sti\n 1: hlt\n jmp 1b\n"
GUEST(guest_interrupts, 32,
      "movl $0x1ff, 0xfee000f0\n"
      "movl $0, 0xfee00080\n"
      "sti\n"
      "out %al, $0x80\n"
      "1: hlt\n"
      "jmp 1b\n");
GUEST(handler_40, 32, "mov $0x40, %al\n out %al, $0x81\n" HANDLER_END);
GUEST(handler_41, 32, "mov $0x41, %al\n out %al, $0x81\n" HANDLER_END);
#define HANDLER_40_AT 0x3000u
#define HANDLER_41_AT 0x3100u

static void start_interrupts(struct box *b)
{
	box_start32(b, guest_interrupts, guest_interrupts_end);
	OK(mem_write(&b->mem, GPA(HANDLER_40_AT), handler_40, (size_t)(handler_40_end - handler_40)));
	OK(mem_write(&b->mem, GPA(HANDLER_41_AT), handler_41, (size_t)(handler_41_end - handler_41)));
	box_put_gate(b, 0x40, HANDLER_40_AT);
	box_put_gate(b, 0x41, HANDLER_41_AT);
	box_expect_port(b, true, 0x80, 1, NULL);
}

#define MSI_TO_0 0xfee00000ull
#define MSI_LEVEL 0xc000u /* level-triggered, asserted */

TEST(signalled_msis_arrive)
{
	struct box b;
	box_init(&b);
	start_interrupts(&b);
	for (unsigned i = 0; i < 10; i++) {
		OK(hv_vm_signal_msi(b.vm, &(struct hv_msi){ .address = MSI_TO_0, .data = 0x40 + i % 2 }) > 0);
		box_expect_out(&b, 0x81, 1, 0x40 + i % 2);
	}
	/* Nobody has APIC ID 9. */
	OK(hv_vm_signal_msi(b.vm, &(struct hv_msi){ .address = MSI_TO_0 | 9 << 12, .data = 0x40 }) <= 0);
	box_done(&b);
}

/* Interrupts are off: only an NMI gets through. Its handler does not return, as above. */
GUEST(guest_deaf, 32, "cli\n out %al, $0x80\n 1: hlt\n jmp 1b\n");
GUEST(handler_nmi, 32, "mov $0x02, %al\n out %al, $0x81\n 1: hlt\n jmp 1b\n");

TEST(an_nmi_arrives_with_interrupts_off)
{
	struct box b;
	struct err e = { 0 };
	box_init(&b);
	box_start32(&b, guest_deaf, guest_deaf_end);
	OK(mem_write(&b.mem, GPA(HANDLER_40_AT), handler_nmi, (size_t)(handler_nmi_end - handler_nmi)));
	box_put_gate(&b, 2, HANDLER_40_AT);
	box_expect_port(&b, true, 0x80, 1, NULL);
	EQ(hv_vcpu_nmi(b.vcpu, &e), 0);
	box_expect_out(&b, 0x81, 1, 0x02);
	box_done(&b);
}

TEST(irqfds_follow_the_routes)
{
	struct box b;
	struct err e = { 0 };
	const uint64_t one = 1;
	int fd = new_event();
	box_init(&b);
	struct hv_route routes[] = {
		{ .gsi = 24, .kind = HV_ROUTE_MSI, .msi = { .address = MSI_TO_0, .data = 0x40 } },
		{ .gsi = 4000, .kind = HV_ROUTE_MSI, .msi = { .address = MSI_TO_0, .data = 0x40 } },
	};
	EQ(hv_vm_set_routes(b.vm, routes, 2, NULL), 0);
	EQ(hv_vm_irqfd(b.vm, fd, 24, NULL), 0);
	EQ(hv_vm_irqfd(b.vm, fd, 24, &e), -EBUSY);
	STR_HAS(e.text, "interrupt 24");
	start_interrupts(&b);
	EQ(write(fd, &one, sizeof one), (ssize_t)sizeof one);
	box_expect_out(&b, 0x81, 1, 0x40);
	/* Another vector by the same descriptor. */
	routes[0].msi.data = 0x41;
	EQ(hv_vm_set_routes(b.vm, routes, 1, NULL), 0);
	EQ(write(fd, &one, sizeof one), (ssize_t)sizeof one);
	box_expect_out(&b, 0x81, 1, 0x41);
	/* Detached, it is a counter like others. */
	EQ(hv_vm_irqfd_unset(b.vm, fd, 24, NULL), 0);
	EQ(write(fd, &one, sizeof one), (ssize_t)sizeof one);
	EQ(take_event(fd), 1);
	EQ(hv_vm_set_routes(b.vm, NULL, 0, NULL), 0);
	close(fd);
	box_done(&b);
}

TEST(the_table_of_routes_has_an_end)
{
	struct box b;
	struct err e = { 0 };
	const size_t n = 100000;
	struct hv_route *routes = calloc(n, sizeof *routes);
	OK(routes);
	for (size_t i = 0; i < n; i++)
		routes[i] = (struct hv_route){ .gsi = (uint32_t)i, .kind = HV_ROUTE_MSI,
			                       .msi = { .address = MSI_TO_0, .data = 0x40 } };
	box_init(&b);
	EQ(hv_vm_set_routes(b.vm, routes, 1024, NULL), 0);
	EQ(hv_vm_set_routes(b.vm, routes, n, &e), -ENOSPC);
	STR_HAS(e.text, "interrupt routing");
	/* A GSI that the kernel has no number for. */
	routes[0].gsi = 0xffffffff;
	OK(hv_vm_set_routes(b.vm, routes, 1, &e) < 0);
	free(routes);
	box_done(&b);
}

TEST(the_end_of_a_level_interrupt_is_told)
{
	struct box b;
	struct hv_exit x;
	box_init(&b);
	const struct hv_route route = { .gsi = 5, .kind = HV_ROUTE_MSI, .msi = { .address = MSI_TO_0, .data = MSI_LEVEL | 0x40 } };
	EQ(hv_vm_set_routes(b.vm, &route, 1, NULL), 0);
	start_interrupts(&b);
	OK(hv_vm_signal_msi(b.vm, &route.msi) > 0);
	box_expect_out(&b, 0x81, 1, 0x40);
	x = box_run(&b);
	EQ(x.kind, HV_EXIT_EOI);
	EQ(x.vector, 0x40);
	/* An edge-triggered one ends in silence. */
	OK(hv_vm_signal_msi(b.vm, &(struct hv_msi){ .address = MSI_TO_0, .data = 0x41 }) > 0);
	box_expect_out(&b, 0x81, 1, 0x41);
	OK(hv_vm_signal_msi(b.vm, &(struct hv_msi){ .address = MSI_TO_0, .data = 0x41 }) > 0);
	box_expect_out(&b, 0x81, 1, 0x41);
	box_done(&b);
}

/* Pin 4 of the in-kernel I/O APIC to vector 0x40, edge-triggered; no interrupts by the 8259s (LINT0). */
GUEST(guest_ioapic, 32,
      "movl $0x1ff, 0xfee000f0\n"
      "movl $0x10000, 0xfee00350\n"
      "movl $0x18, 0xfec00000\n movl $0x40, 0xfec00010\n"
      "movl $0x19, 0xfec00000\n movl $0, 0xfec00010\n"
      "sti\n"
      "out %al, $0x80\n"
      "1: hlt\n"
      "jmp 1b\n");

TEST(the_kernels_irqchip_takes_lines)
{
	struct box b;
	box_init_irqchip(&b, HV_IRQCHIP_KERNEL, NULL);
	struct hv_route routes[N_PINS];
	for (uint32_t i = 0; i < N_PINS; i++)
		routes[i] = (struct hv_route){ .gsi = i, .kind = HV_ROUTE_PIN, .pin = i };
	EQ(hv_vm_set_routes(b.vm, routes, N_PINS, NULL), 0);
	box_start32(&b, guest_ioapic, guest_ioapic_end);
	OK(mem_write(&b.mem, GPA(HANDLER_40_AT), handler_40, (size_t)(handler_40_end - handler_40)));
	box_put_gate(&b, 0x40, HANDLER_40_AT);
	box_expect_port(&b, true, 0x80, 1, NULL);
	for (unsigned i = 0; i < 3; i++) {
		EQ(hv_vm_irq_line(b.vm, 4, true), 0);
		EQ(hv_vm_irq_line(b.vm, 4, false), 0);
		box_expect_out(&b, 0x81, 1, 0x40);
	}
	box_done(&b);
}

GUEST(guest_out, 16, "mov $0x3f8, %dx\n mov $0x11, %al\n out %al, %dx\n 1: jmp 1b\n");
GUEST(guest_write64, 64, "mov $0xd0000, %esi\n mov %rsi, (%rsi)\n 1: jmp 1b\n");

/* --- vCPUs ---------------------------------------------------------------------------------------------------------- */

/* INIT and start-up IPI, page 9, to APIC ID 1; then waits. */
GUEST(guest_starts_another, 32,
      "movl $0x1ff, 0xfee000f0\n"
      "movl $0x01000000, 0xfee00310\n movl $0x4500, 0xfee00300\n"
      "movl $0x01000000, 0xfee00310\n movl $0x4609, 0xfee00300\n"
      "out %al, $0x80\n"
      "1: jmp 1b\n");
GUEST(guest_started, 16, "mov $0x77, %al\n out %al, $0x82\n 1: jmp 1b\n");

struct second {
	struct hv_vcpu *vcpu;
	_Atomic bool is_attached;
	struct hv_exit exit;
	uint8_t byte;
};

static void *second_run(void *arg)
{
	struct second *s = arg;
	if (hv_vcpu_attach_thread(s->vcpu, NULL) < 0)
		return NULL;
	atomic_store(&s->is_attached, true);
	s->exit = run_vcpu(s->vcpu);
	s->byte = s->exit.kind == HV_EXIT_PORT ? s->exit.data[0] : 0;
	return NULL;
}

TEST(a_second_vcpu_waits_for_its_start)
{
	struct box b;
	struct second s = { 0 };
	pthread_t thread;
	box_init(&b);
	EQ(hv_vcpu_new(b.vm, 1, &s.vcpu, NULL), 0);
	EQ(hv_vcpu_set_waiting(s.vcpu, true, NULL), 0);

	/* Waiting, it can be kicked. */
	EQ(pthread_create(&thread, NULL, second_run, &s), 0);
	while (!atomic_load(&s.is_attached))
		(void)poll(NULL, 0, 1);
	(void)poll(NULL, 0, 10);
	hv_vcpu_kick(s.vcpu);
	EQ(pthread_join(thread, NULL), 0);
	EQ(s.exit.kind, HV_EXIT_KICKED);

	OK(mem_write(&b.mem, GPA(0x9000), guest_started, (size_t)(guest_started_end - guest_started)));
	EQ(pthread_create(&thread, NULL, second_run, &s), 0);
	box_start32(&b, guest_starts_another, guest_starts_another_end);
	box_expect_port(&b, true, 0x80, 1, NULL);
	EQ(pthread_join(thread, NULL), 0);
	EQ(s.exit.kind, HV_EXIT_PORT);
	EQ(s.exit.address, 0x82);
	EQ(s.byte, 0x77);
	hv_vcpu_free(s.vcpu);
	box_done(&b);
}

TEST(vcpu_numbers_are_checked)
{
	struct box b;
	struct hv_vcpu *c;
	struct err e = { 0 };
	box_init(&b);
	EQ(hv_vcpu_new(b.vm, 0, &c, &e), -EEXIST);
	STR_HAS(e.text, "vcpu0");
	EQ(hv_vcpu_new(b.vm, 0x7fffffff, &c, &e), -EINVAL);
	STR_HAS(e.text, "vcpu2147483647");
	box_done(&b);
}

TEST(registers_come_back_as_set)
{
	struct box b;
	struct hv_regs r, back;
	box_init(&b);
	box_start32(&b, guest_out, guest_out_end);
	EQ(hv_vcpu_get_regs(b.vcpu, &r, NULL), 0);
	r.rax = 1, r.rbx = 2, r.rcx = 3, r.rdx = 4, r.rsi = 5, r.rdi = 6, r.rsp = 7, r.rbp = 8, r.r8 = 9, r.r9 = 10, r.r10 = 11;
	r.r11 = 12, r.r12 = 13, r.r13 = 14, r.r14 = 15, r.r15 = 16, r.cr2 = 0x1234;
	r.fs.base = 0x5678, r.idt.base = 0x700;
	EQ(hv_vcpu_set_regs(b.vcpu, &r, NULL), 0);
	memset(&back, 0xff, sizeof back);
	EQ(hv_vcpu_get_regs(b.vcpu, &back, NULL), 0);
	MEM_EQ(&back, &r, offsetof(struct hv_regs, cs));
	EQ(back.cr2, 0x1234);
	EQ(back.fs.base, 0x5678);
	EQ(back.idt.base, 0x700);
	EQ(back.gdt.base, GDT_AT);
	EQ(back.cs.selector, 8);
	EQ(back.cs.limit, 0xffffffff);
	EQ(back.cs.type, 0xb);
	EQ(back.cs.db, 1);
	EQ(back.cr0 & 1, 1);
	EQ(hv_vcpu_set_fpu(b.vcpu, 0x37f, 0x1f80, NULL), 0);

	EQ(hv_vcpu_set_lapic(b.vcpu, 0x350, 0x700, NULL), 0); /* LINT0: external */
	struct kvm_lapic_state lapic;
	EQ(ioctl(b.vcpu->fd, KVM_GET_LAPIC, &lapic), 0);
	EQ(get_le32((const uint8_t *)lapic.regs + 0x350), 0x700);
	box_done(&b);
}

TEST(impossible_registers_are_refused)
{
	struct box b;
	struct hv_regs r;
	struct err e = { 0 };
	box_init(&b);
	EQ(hv_vcpu_get_regs(b.vcpu, &r, NULL), 0);
	r.efer = 0x500;
	r.cr0 = 0x80000011;
	r.cr4 = 0; /* long mode without PAE */
	int rc = hv_vcpu_set_regs(b.vcpu, &r, &e);
	if (rc < 0)
		STR_HAS(e.text, "cr4 0x0");
	box_done(&b);
}

GUEST(guest_cpuid, 32, "mov $0x40000000, %eax\n cpuid\n mov %ebx, %eax\n out %eax, $0x80\n 1: jmp 1b\n");

TEST(the_guest_sees_its_cpuid)
{
	struct box b;
	struct err e = { 0 };
	box_init(&b);
	struct hv_cpuid *c = calloc(1, sizeof *c);
	OK(c);
	EQ(hv_supported_cpuid(b.hv, c, NULL), 0);
	OK(c->n > 4 && c->n <= HV_MAX_CPUID);
	bool has_leaf_0 = false;
	for (size_t i = 0; i < c->n; i++) {
		has_leaf_0 |= c->e[i].leaf == 0;
		if (c->e[i].leaf == 0x40000000)
			c->e[i].ebx = 0x6e617256;
	}
	OK(has_leaf_0);
	if (hv_vcpu_set_cpuid(b.vcpu, c, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	box_start32(&b, guest_cpuid, guest_cpuid_end);
	box_expect_out(&b, 0x80, 4, 0x6e617256);
	free(c);
	box_done(&b);
}

struct captured {
	char text[LOG_TEXT_BYTES];
	unsigned n;
};

static void capture(void *context, const struct log_record *r)
{
	struct captured *c = context;
	c->n++;
	(void)snprintf(c->text, sizeof c->text, "%s", r->text);
}

static bool is_ignoring_msrs(void)
{
	FILE *f = fopen("/sys/module/kvm/parameters/ignore_msrs", "re");
	int c = f ? fgetc(f) : 'N';
	if (f)
		fclose(f);
	return c == 'Y';
}

TEST(a_refused_msr_is_named)
{
	struct box b;
	struct err e = { 0 };
	uint64_t v = 0;
	if (is_ignoring_msrs())
		test_skip("this KVM ignores unknown MSRs (ignore_msrs)");
	box_init(&b);
	const struct hv_msr msrs[] = { { 0x174, 0x10 }, { 0x12345678, 1 }, { 0x175, 0x20 } };
	OK(hv_vcpu_set_msrs(b.vcpu, msrs, 3, &e) < 0);
	STR_HAS(e.text, "MSR 0x12345678");
	EQ(hv_vcpu_get_msr(b.vcpu, 0x174, &v, NULL), 0);
	EQ(v, 0x10); /* those before it are set */
	OK(hv_vcpu_get_msr(b.vcpu, 0x12345678, &v, &e) < 0);
	STR_HAS(e.text, "MSR 0x12345678");
	box_done(&b);
}

TEST(an_optional_msr_may_be_refused)
{
	struct box b;
	struct captured captured = { 0 };
	const struct log_sink sink = { .write = capture, .context = &captured, .max_level = LOG_DEBUG };
	const struct log log = { .sink = &sink, .object = "vm" };
	if (is_ignoring_msrs())
		test_skip("this KVM ignores unknown MSRs (ignore_msrs)");
	box_init_irqchip(&b, HV_IRQCHIP_SPLIT, &log);
	/* No bit of IA32_XSS may be set before CPUID offers XSAVES. */
	const struct hv_msr msrs[] = { { 0xda0, 1ull << 62 }, { 0x175, 0x20 } };
	uint64_t v = 0;
	EQ(hv_vcpu_set_msrs(b.vcpu, msrs, 2, NULL), 0);
	EQ(captured.n, 1);
	STR_HAS(captured.text, "MSR 0xda0 (IA32_XSS)");
	EQ(hv_vcpu_get_msr(b.vcpu, 0x175, &v, NULL), 0);
	EQ(v, 0x20);
	box_done(&b);
}

/* --- reset ---------------------------------------------------------------------------------------------------------- */


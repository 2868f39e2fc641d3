/* SPDX-License-Identifier: Apache-2.0 */
/* hv against the machine's own /dev/kvm: the engine, exits, kicks, and how things end. */
#include "base/bytes.h"
#include "base/text.h"
#include "hv_box.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* --- the engine ----------------------------------------------------------------------------------------------------- */

TEST(opens_and_tells_what_it_is)
{
	struct hv *hv;
	struct err e = { 0 };
	box_need_kvm();
	if (hv_open(&hv, NULL, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	OK(hv_max_vcpus(hv) >= 1);
	OK(hv_tsc_khz(hv) > 100000); /* of a VM made for the question */
	EQ(hv_tsc_khz(hv), hv_tsc_khz(hv));
	hv_close(hv);
	hv_close(NULL);
	hv_vm_free(NULL);
	hv_vcpu_free(NULL);
}

TEST(failures_to_open_say_why)
{
	struct hv *hv = NULL;
	struct err e = { 0 };
	struct rlimit before, none = { 0 };
	box_need_kvm();
	EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
	none.rlim_max = before.rlim_max;
	EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
	int rc = hv_open(&hv, NULL, &e);
	EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
	EQ(rc, -EMFILE);
	STR_EQ(e.text, "kvm: cannot open /dev/kvm: Too many open files");
	OK(!hv);
}

TEST(probe_judges_the_machine)
{
	struct hv_report r;
	struct err e = { 0 };
	box_need_kvm();
	if (hv_probe(&r, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	printf("# %s: %s\n", r.vendor_module, r.reason);
	STR_EQ(r.name, "kvm");
	EQ(r.api_version, 12);
	OK(r.has_irqfd && r.has_ioeventfd && r.has_split_irqchip && r.has_immediate_exit && r.has_dirty_log);
	OK(strlen(r.reason) > 10);
	OK(r.probe_ns_per_instruction_x1000 > 0);
	/* The vendors' modules mean that the CPU, or one that is emulated whole, runs the guest. */
	if (strcmp(r.vendor_module, "kvm_amd") == 0 || strcmp(r.vendor_module, "kvm_intel") == 0)
		OK(r.has_hardware_virtualization);
	if (r.has_hardware_virtualization)
		STR_HAS(r.reason, "runs on the CPU");
	else
		OK(strstr(r.reason, "interpreted") || strstr(r.reason, "fails"));
}

TEST(probe_leaves_the_thread_as_it_was)
{
	struct hv_report r;
	sigset_t before, after;
	box_need_kvm();
	(void)sigemptyset(&before);
	(void)sigaddset(&before, SIGRTMIN);
	EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
	EQ(hv_probe(&r, NULL), 0);
	EQ(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
	EQ(sigismember(&after, SIGRTMIN), 1);
}

/* --- ports ---------------------------------------------------------------------------------------------------------- */

GUEST(guest_ports, 16,
      "mov $0x3f8, %dx\n"
      "mov $0x11, %al\n out %al, %dx\n"
      "mov $0x2233, %ax\n out %ax, %dx\n"
      "mov $0x44556677, %eax\n out %eax, %dx\n"
      "in $0x60, %al\n"
      "in $0x61, %ax\n"
      "out %ax, $0x80\n"
      "in $0x62, %eax\n"
      "out %eax, $0x80\n"
      "in $0x60, %al\n"
      "out %eax, $0x80\n"
      "1: jmp 1b\n");

TEST(ports_of_each_width)
{
	struct box b;
	struct hv_exit x;
	box_init(&b);
	box_start16(&b, guest_ports, guest_ports_end);
	box_expect_out(&b, 0x3f8, 1, 0x11);
	box_expect_out(&b, 0x3f8, 2, 0x2233);
	box_expect_out(&b, 0x3f8, 4, 0x44556677);
	box_expect_port(&b, false, 0x60, 1, &x);
	x.data[0] = 0x99;
	box_expect_port(&b, false, 0x61, 2, &x);
	put_le16(x.data, 0x1234);
	box_expect_out(&b, 0x80, 2, 0x1234);
	box_expect_port(&b, false, 0x62, 4, &x);
	put_le32(x.data, 0xdeadbeef);
	box_expect_out(&b, 0x80, 4, 0xdeadbeef);
	/* A byte changes a byte of the register. */
	box_expect_port(&b, false, 0x60, 1, &x);
	x.data[0] = 0x42;
	box_expect_out(&b, 0x80, 4, 0xdeadbe42);
	box_done(&b);
}

GUEST(guest_strings, 16,
      "xor %ax, %ax\n mov %ax, %ds\n mov %ax, %es\n cld\n"
      "mov $0x8000, %di\n mov $100, %cx\n mov $0x70, %dx\n rep insb\n"
      "mov $0x8000, %si\n mov $100, %cx\n rep outsb\n"
      "mov $0x9000, %di\n mov $7, %cx\n rep insw\n"
      "mov $0x9000, %si\n mov $3, %cx\n rep outsl\n"
      "out %al, $0x80\n"
      "1: jmp 1b\n");

/* The whole of a string instruction, in however many exits; fills or checks counting bytes. */
static void expect_string(struct box *b, bool is_write, uint16_t port, unsigned n_bytes, unsigned n_total)
{
	uint8_t next = 0;
	while (n_total > 0) {
		struct hv_exit x = box_run(b);
		EQ(x.kind, HV_EXIT_PORT);
		EQ(x.is_write, is_write);
		EQ(x.address, port);
		EQ(x.n_bytes, n_bytes);
		OK(x.n_repeat >= 1 && x.n_repeat <= n_total);
		for (unsigned i = 0; i < x.n_bytes * x.n_repeat; i++) {
			if (is_write)
				EQ(x.data[i], next);
			else
				x.data[i] = next;
			next++;
		}
		n_total -= x.n_repeat;
	}
}

TEST(string_instructions)
{
	struct box b;
	box_init(&b);
	box_start16(&b, guest_strings, guest_strings_end);
	expect_string(&b, false, 0x70, 1, 100);
	expect_string(&b, true, 0x70, 1, 100);
	expect_string(&b, false, 0x70, 2, 7);
	expect_string(&b, true, 0x70, 4, 3);
	box_expect_port(&b, true, 0x80, 1, NULL);
	box_done(&b);
}

/* --- MMIO ----------------------------------------------------------------------------------------------------------- */

GUEST(guest_mmio, 16,
      "movb $0x12, 0x10\n"
      "movw $0x3456, 0x20\n"
      "movl $0x789abcde, 0x30\n"
      "mov 0x40, %al\n out %al, $0x80\n"
      "mov 0x42, %ax\n out %ax, $0x80\n"
      "mov 0x44, %eax\n out %eax, $0x80\n"
      "movl $0x11223344, 0xffd\n" /* three bytes in one page, one in the next */
      "1: jmp 1b\n");

TEST(mmio_of_each_width)
{
	struct box b;
	struct hv_exit x;
	box_init(&b);
	box_start16(&b, guest_mmio, guest_mmio_end);
	box_expect_mmio(&b, true, MMIO_AT + 0x10, 1, &x);
	EQ(x.data[0], 0x12);
	box_expect_mmio(&b, true, MMIO_AT + 0x20, 2, &x);
	EQ(get_le16(x.data), 0x3456);
	box_expect_mmio(&b, true, MMIO_AT + 0x30, 4, &x);
	EQ(get_le32(x.data), 0x789abcde);
	box_expect_mmio(&b, false, MMIO_AT + 0x40, 1, &x);
	x.data[0] = 0x77;
	box_expect_out(&b, 0x80, 1, 0x77);
	box_expect_mmio(&b, false, MMIO_AT + 0x42, 2, &x);
	put_le16(x.data, 0x7788);
	box_expect_out(&b, 0x80, 2, 0x7788);
	box_expect_mmio(&b, false, MMIO_AT + 0x44, 4, &x);
	put_le32(x.data, 0xcafe0123);
	box_expect_out(&b, 0x80, 4, 0xcafe0123);
	box_done(&b);
}

TEST(mmio_over_a_page_end_comes_in_pieces)
{
	struct box b;
	struct hv_exit x;
	uint8_t bytes[4];
	unsigned n = 0;
	box_init(&b);
	box_start16(&b, guest_mmio, guest_mmio_end);
	do {
		x = box_run(&b);
		if (x.kind == HV_EXIT_MMIO && x.is_write && x.address >= MMIO_AT + 0xffd) {
			EQ(x.address, MMIO_AT + 0xffd + n);
			OK(n + x.n_bytes <= 4);
			memcpy(bytes + n, x.data, x.n_bytes);
			n += x.n_bytes;
		}
	} while (n < 4);
	EQ(get_le32(bytes), 0x11223344);
	box_done(&b);
}

GUEST(guest_mmio64, 64,
      "mov $0xd0000, %esi\n"
      "movabs $0x1122334455667788, %rax\n"
      "mov %rax, 8(%rsi)\n"
      "mov 16(%rsi), %rbx\n"
      "mov %rbx, 24(%rsi)\n"
      "1: jmp 1b\n");

TEST(mmio_of_eight_bytes)
{
	struct box b;
	struct hv_exit x;
	box_init(&b);
	box_start64(&b, guest_mmio64, guest_mmio64_end);
	box_expect_mmio(&b, true, MMIO_AT + 8, 8, &x);
	EQ(get_le64(x.data), 0x1122334455667788);
	box_expect_mmio(&b, false, MMIO_AT + 16, 8, &x);
	put_le64(x.data, 0xfedcba9876543210);
	box_expect_mmio(&b, true, MMIO_AT + 24, 8, &x);
	EQ(get_le64(x.data), 0xfedcba9876543210);
	box_done(&b);
}

GUEST(guest_writes, 16,
      "movl $0x55, 0x10\n"
      "movl $0x66, 0x1010\n"
      "mov 0x2000, %eax\n"
      "out %al, $0x80\n"
      "1: jmp 1b\n");

TEST(a_readonly_slot_gives_writes_to_us)
{
	struct box b;
	struct hv_exit x;
	uint8_t byte = 0xa5;
	box_init(&b);
	EQ(mem_map_add(&b.mem, &(struct mem_region_params){ .start = GPA(MMIO_AT), .n_bytes = 0x4000 }, NULL), 0);
	OK(mem_write(&b.mem, GPA(MMIO_AT + 0x2000), &byte, 1));
	EQ(hv_vm_map(b.vm, 1, mem_map_find(&b.mem, GPA(MMIO_AT)), true, false, NULL), 0);
	box_start16(&b, guest_writes, guest_writes_end);
	box_expect_mmio(&b, true, MMIO_AT + 0x10, 4, &x);
	EQ(get_le32(x.data), 0x55);
	box_expect_mmio(&b, true, MMIO_AT + 0x1010, 4, &x);
	box_expect_out(&b, 0x80, 1, 0xa5);
	OK(mem_read(&b.mem, GPA(MMIO_AT + 0x10), &byte, 1));
	EQ(byte, 0);
	box_done(&b);
}

TEST(dirty_log_has_the_pages_written)
{
	struct box b;
	uint64_t bits = ~0ull;
	struct err e = { 0 };
	box_init(&b);
	EQ(mem_map_add(&b.mem, &(struct mem_region_params){ .start = GPA(MMIO_AT), .n_bytes = 0x4000 }, NULL), 0);
	EQ(hv_vm_map(b.vm, 1, mem_map_find(&b.mem, GPA(MMIO_AT)), false, true, NULL), 0);
	EQ(hv_vm_dirty_log(b.vm, 1, &bits, NULL), 0);
	EQ(bits, 0);
	box_start16(&b, guest_writes, guest_writes_end);
	box_expect_port(&b, true, 0x80, 1, NULL);
	EQ(hv_vm_dirty_log(b.vm, 1, &bits, NULL), 0);
	EQ(bits, 3); /* the two written; the one read is not there */
	EQ(hv_vm_dirty_log(b.vm, 1, &bits, NULL), 0);
	EQ(bits, 0);
	/* A slot that keeps no log, and one that does not exist. */
	OK(hv_vm_dirty_log(b.vm, 0, &bits, &e) < 0);
	STR_HAS(e.text, "memory slot 0");
	OK(hv_vm_dirty_log(b.vm, 7, &bits, &e) < 0);
	box_done(&b);
}

TEST(unmapped_memory_is_mmio_again)
{
	struct box b;
	struct hv_exit x;
	struct err e = { 0 };
	box_init(&b);
	EQ(mem_map_add(&b.mem, &(struct mem_region_params){ .start = GPA(MMIO_AT), .n_bytes = 0x4000 }, NULL), 0);
	EQ(hv_vm_map(b.vm, 1, mem_map_find(&b.mem, GPA(MMIO_AT)), false, false, NULL), 0);
	EQ(hv_vm_unmap(b.vm, 1, NULL), 0);
	box_start16(&b, guest_writes, guest_writes_end);
	box_expect_mmio(&b, true, MMIO_AT + 0x10, 4, &x);
	/* Errors name the slot. */
	OK(hv_vm_map(b.vm, 0xffffffff, &b.mem.regions[0], false, false, &e) < 0);
	STR_HAS(e.text, "memory slot 4294967295");
	OK(hv_vm_map(b.vm, 2, &b.mem.regions[0], false, false, &e) < 0); /* overlaps slot 0 */
	EQ(e.code, EEXIST);
	STR_HAS(e.text, "memory slot 2");
	box_done(&b);
}

/* --- ends and failures ---------------------------------------------------------------------------------------------- */

GUEST(guest_triple_fault, 32, "lidt 0x8000\n ud2\n 1: jmp 1b\n");

TEST(a_triple_fault_is_a_reset)
{
	struct box b;
	box_init(&b);
	box_start32(&b, guest_triple_fault, guest_triple_fault_end); /* the IDT at 0x8000: limit 0 */
	EQ(box_run(&b).kind, HV_EXIT_TRIPLE_FAULT);
	box_done(&b);
}

GUEST(guest_lost, 32, "mov $0x1234abcd, %ebx\n jmp *%eax\n");

TEST(code_outside_memory_fails_with_a_report)
{
	struct box b;
	struct text t = TEXT_INIT;
	struct hv_regs r;
	box_init(&b);
	box_start32(&b, guest_lost, guest_lost_end);
	EQ(hv_vcpu_get_regs(b.vcpu, &r, NULL), 0);
	r.rax = MMIO_AT;
	EQ(hv_vcpu_set_regs(b.vcpu, &r, NULL), 0);
	EQ(run_vcpu(b.vcpu).kind, HV_EXIT_FAILED);
	hv_vcpu_report(b.vcpu, &b.mem, &t);
	STR_HAS(text_get(&t), "vcpu0: KVM_EXIT_INTERNAL_ERROR (exit reason 17)\n");
	STR_HAS(text_get(&t), "suberror ");
	STR_HAS(text_get(&t), "rbx 000000001234abcd");
	STR_HAS(text_get(&t), "bytes at 0xd0000: cannot be read");
	text_done(&t);
	box_done(&b);
}

TEST(memory_gone_from_under_a_slot_fails_with_the_errno)
{
	struct box b;
	struct text t = TEXT_INIT;
	struct mem_region r = { .start = GPA(MMIO_AT), .n_bytes = 0x4000, .zone = "", .fd = -1 };
	box_init(&b);
	void *p = mmap(NULL, r.n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	OK(p != MAP_FAILED);
	r.host = (guest_mem uint8_t *)(uintptr_t)p;
	EQ(hv_vm_map(b.vm, 1, &r, false, false, NULL), 0);
	EQ(mprotect(p, r.n_bytes, PROT_NONE), 0);
	box_start16(&b, guest_writes, guest_writes_end);
	struct hv_exit x = run_vcpu(b.vcpu);
	if (x.kind == HV_EXIT_MMIO)
		test_skip("this engine interprets the guest's writes, and takes what it cannot write for MMIO");
	EQ(x.kind, HV_EXIT_FAILED);
	hv_vcpu_report(b.vcpu, &b.mem, &t);
	STR_HAS(text_get(&t), "KVM_RUN failed: Bad address");
	text_done(&t);
	EQ(munmap(p, r.n_bytes), 0);
	box_done(&b);
}

TEST(a_report_has_the_bytes_at_rip)
{
	struct box b;
	struct text t = TEXT_INIT;
	char wanted[64];
	box_init(&b);

	hv_vcpu_report(b.vcpu, NULL, &t);
	STR_HAS(text_get(&t), "vcpu0: has not left the guest yet\n");
	STR_HAS(text_get(&t), "rip 000000000000fff0");
	text_done(&t);

	box_start64(&b, guest_mmio64, guest_mmio64_end);
	EQ(box_run(&b).kind, HV_EXIT_MMIO);
	hv_vcpu_report(b.vcpu, &b.mem, &t);
	STR_HAS(text_get(&t), "KVM_EXIT_MMIO (exit reason 6)");
	STR_HAS(text_get(&t), "write to 0xd0008, 8 bytes");
	STR_HAS(text_get(&t), "efer 0000000000000500");
	STR_HAS(text_get(&t), "cs  0008 base 0000000000000000");
	text_done(&t);

	/* RIP is at this access, or past it. */
	struct hv_regs r;
	hv_vcpu_report(b.vcpu, &b.mem, &t);
	EQ(hv_vcpu_get_regs(b.vcpu, &r, NULL), 0);
	OK(r.rip >= CODE_AT && r.rip < CODE_AT + (uint64_t)(guest_mmio64_end - guest_mmio64));
	const uint8_t *at = guest_mmio64 + (r.rip - CODE_AT);
	(void)snprintf(wanted, sizeof wanted, "bytes at 0x%llx: %02x %02x %02x", (unsigned long long)r.rip, at[0], at[1], at[2]);
	STR_HAS(text_get(&t), wanted);
	text_done(&t);
	box_done(&b);
}

TEST(stats_are_lines_of_name_and_value)
{
	struct box b;
	struct text t = TEXT_INIT;
	box_init(&b);
	box_start16(&b, guest_ports, guest_ports_end);
	box_expect_out(&b, 0x3f8, 1, 0x11);
	box_expect_out(&b, 0x3f8, 2, 0x2233);
	EQ(hv_vcpu_stats(b.vcpu, &t), 0);
	STR_HAS(text_get(&t), "KVM_EXIT_IO: 2\n");
	STR_HAS(text_get(&t), "\nio_exits: ");
	OK(!strstr(text_get(&t), "KVM_EXIT_MMIO"));
	for (const char *line = text_get(&t); *line; line = strchr(line, '\n') + 1) {
		const char *colon = strstr(line, ": "), *end = strchr(line, '\n');
		OK(end && colon && colon > line && colon < end);
		OK(strspn(colon + 2, "0123456789") == (size_t)(end - colon - 2));
	}
	text_done(&t);
	box_done(&b);
}

/* --- completion ----------------------------------------------------------------------------------------------------- */

GUEST(guest_in, 16, "in $0x60, %al\n 1: jmp 1b\n");

TEST(complete_ends_a_read)
{
	struct box b;
	struct hv_exit x;
	struct hv_regs r;
	box_init(&b);
	box_start16(&b, guest_in, guest_in_end);
	box_expect_port(&b, false, 0x60, 1, &x);
	x.data[0] = 0x5a;
	EQ(hv_vcpu_complete(b.vcpu), 0);
	EQ(hv_vcpu_get_regs(b.vcpu, &r, NULL), 0);
	EQ(r.rax & 0xff, 0x5a);
	EQ(r.rip, CODE_AT + 2);
	/* Nothing pending: nothing happens. */
	EQ(hv_vcpu_complete(b.vcpu), 0);
	EQ(hv_vcpu_get_regs(b.vcpu, &r, NULL), 0);
	EQ(r.rip, CODE_AT + 2);
	box_done(&b);
}

GUEST(guest_crossing_read, 16, "mov 0xffe, %eax\n out %eax, $0x80\n 1: jmp 1b\n");

TEST(complete_hands_out_the_rest_of_an_access)
{
	struct box b;
	struct hv_exit x;
	struct hv_regs r;
	box_init(&b);
	box_start16(&b, guest_crossing_read, guest_crossing_read_end);
	box_expect_mmio(&b, false, MMIO_AT + 0xffe, 2, &x);
	put_le16(x.data, 0x2211);
	int rc = hv_vcpu_complete(b.vcpu);
	EQ(rc, 1);
	EQ(hv_vcpu_complete(b.vcpu), 1); /* until it was handed out */
	box_expect_mmio(&b, false, MMIO_AT + 0x1000, 2, &x);
	put_le16(x.data, 0x4433);
	EQ(hv_vcpu_complete(b.vcpu), 0);
	EQ(hv_vcpu_get_regs(b.vcpu, &r, NULL), 0);
	EQ(r.rax, 0x44332211);
	box_expect_out(&b, 0x80, 4, 0x44332211);
	box_done(&b);
}

/* --- kicks ---------------------------------------------------------------------------------------------------------- */

GUEST(guest_spin, 16, "1: jmp 1b\n");
GUEST(guest_exits, 16, "1: out %al, $0x80\n jmp 1b\n");
GUEST(guest_halt, 16, "cli\n 1: hlt\n jmp 1b\n");

struct runner {
	struct hv_vcpu *vcpu;
	_Atomic unsigned n_kicked;
	_Atomic bool is_ready, is_stopping;
	_Atomic unsigned n_other;
};

static void *runner_run(void *arg)
{
	struct runner *r = arg;
	struct hv_exit x;
	if (hv_vcpu_attach_thread(r->vcpu, NULL) < 0)
		return NULL;
	atomic_store(&r->is_ready, true);
	while (!atomic_load(&r->is_stopping)) {
		if (hv_vcpu_run(r->vcpu, &x) < 0 || x.kind == HV_EXIT_FAILED)
			return NULL;
		if (x.kind == HV_EXIT_KICKED)
			atomic_fetch_add(&r->n_kicked, 1);
		else
			atomic_fetch_add(&r->n_other, 1);
	}
	return NULL;
}

/* Each kick is seen before the next, in at most 10 s. */
static void kick_and_wait(struct runner *r)
{
	unsigned before = atomic_load(&r->n_kicked);
	hv_vcpu_kick(r->vcpu);
	for (unsigned i = 0; i < 1000000 && atomic_load(&r->n_kicked) == before; i++) {
		if (i > 100)
			(void)poll(NULL, 0, i > 1000 ? 1 : 0);
		if (i > 11000)
			break;
	}
	EQ(atomic_load(&r->n_kicked), before + 1);
}

static void kick_many(const uint8_t *code, const uint8_t *end, unsigned n)
{
	struct box b;
	pthread_t thread;
	box_init(&b);
	box_start16(&b, code, end);
	struct runner r = { .vcpu = b.vcpu };
	EQ(pthread_create(&thread, NULL, runner_run, &r), 0);
	for (unsigned i = 0; i < n; i++) {
		kick_and_wait(&r);
		/* Now and then with the vCPU deep in the guest, mostly on its way in. */
		if (i % 64 == 0)
			(void)poll(NULL, 0, 1);
	}
	atomic_store(&r.is_stopping, true);
	hv_vcpu_kick(b.vcpu);
	EQ(pthread_join(thread, NULL), 0);
	OK(atomic_load(&r.is_ready));
	box_done(&b);
}

TEST(kicks_reach_a_spinning_vcpu)
{
	kick_many(guest_spin, guest_spin_end, 1000);
}

TEST(kicks_reach_a_vcpu_that_goes_in_and_out)
{
	kick_many(guest_exits, guest_exits_end, 1000);
}

TEST(kicks_reach_a_halted_vcpu)
{
	kick_many(guest_halt, guest_halt_end, 200);
}

TEST(a_kick_before_the_run_is_kept)
{
	struct box b;
	box_init(&b);
	box_start16(&b, guest_ports, guest_ports_end);
	hv_vcpu_kick(b.vcpu);
	hv_vcpu_kick(b.vcpu); /* two are one */
	EQ(box_run(&b).kind, HV_EXIT_KICKED);
	box_expect_out(&b, 0x3f8, 1, 0x11);
	/* Between an exit and its completion, also through hv_vcpu_complete(). */
	hv_vcpu_kick(b.vcpu);
	EQ(hv_vcpu_complete(b.vcpu), 0);
	EQ(box_run(&b).kind, HV_EXIT_KICKED);
	box_expect_out(&b, 0x3f8, 2, 0x2233);
	box_done(&b);
}

static void other_handler(int n)
{
	(void)n;
}

TEST(a_signal_in_use_is_not_taken_away)
{
	struct box b;
	struct err e = { 0 };
	struct sigaction other = { .sa_handler = other_handler }, now;
	box_init(&b);
	EQ(hv_vcpu_attach_thread(b.vcpu, NULL), 0); /* again is fine */
	EQ(sigaction(SIGRTMIN, &other, NULL), 0);
	EQ(hv_vcpu_attach_thread(b.vcpu, &e), -EBUSY);
	STR_HAS(e.text, "SIGRTMIN");
	EQ(sigaction(SIGRTMIN, NULL, &now), 0);
	OK(now.sa_handler == other_handler);
	box_done(&b);
}

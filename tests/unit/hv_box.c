/* SPDX-License-Identifier: Apache-2.0 */
#include "hv_box.h"

#include "base/bytes.h"
#include "base/text.h"

#include <unistd.h>

void box_need_kvm(void)
{
	if (access("/dev/kvm", F_OK) != 0)
		test_skip("there is no /dev/kvm");
}

void box_init_irqchip(struct box *b, enum hv_irqchip irqchip, const struct log *log)
{
	struct err e = { 0 };
	box_need_kvm();
	memset(b, 0, sizeof *b);
	if (hv_open(&b->hv, log, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	mem_map_init(&b->mem);
	EQ(mem_map_add(&b->mem, &(struct mem_region_params){ .n_bytes = RAM_BYTES }, NULL), 0);
	if (hv_vm_new(b->hv, &(struct hv_vm_params){ .irqchip = irqchip, .n_ioapic_pins = N_PINS, .log = log }, &b->vm, &e) < 0 ||
	    hv_vm_map(b->vm, 0, &b->mem.regions[0], false, false, &e) < 0 || hv_vcpu_new(b->vm, 0, &b->vcpu, &e) < 0 ||
	    hv_vcpu_attach_thread(b->vcpu, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
}

void box_init(struct box *b)
{
	box_init_irqchip(b, HV_IRQCHIP_SPLIT, NULL);
}

void box_done(struct box *b)
{
	hv_vcpu_free(b->vcpu);
	hv_vm_free(b->vm);
	mem_map_done(&b->mem);
	hv_close(b->hv);
}

static void put_code(struct box *b, const uint8_t *code, const uint8_t *end)
{
	OK(mem_write(&b->mem, GPA(CODE_AT), code, (size_t)(end - code)));
}

void box_start16(struct box *b, const uint8_t *code, const uint8_t *end)
{
	struct hv_regs r;
	EQ(hv_vcpu_get_regs(b->vcpu, &r, NULL), 0);
	r.cs.base = r.cs.selector = 0;
	r.ds.base = MMIO_AT;
	r.ds.selector = MMIO_AT >> 4;
	r.rip = CODE_AT;
	r.rsp = STACK_AT;
	r.rflags = 2;
	EQ(hv_vcpu_set_regs(b->vcpu, &r, NULL), 0);
	put_code(b, code, end);
}

static struct hv_segment flat(uint16_t selector, bool is_code, bool is_long)
{
	return (struct hv_segment){ .limit = 0xffffffff, .selector = selector, .type = is_code ? 0xb : 3, .present = 1,
		                    .db = !is_long || !is_code, .s = 1, .l = is_long && is_code, .g = 1 };
}

void box_start32(struct box *b, const uint8_t *code, const uint8_t *end)
{
	static const uint64_t gdt[] = { 0, 0x00cf9b000000ffffull, 0x00cf93000000ffffull };
	struct hv_regs r;
	EQ(hv_vcpu_get_regs(b->vcpu, &r, NULL), 0);
	OK(mem_write(&b->mem, GPA(GDT_AT), gdt, sizeof gdt));
	r.gdt = (struct hv_table){ GDT_AT, sizeof gdt - 1 };
	r.idt = (struct hv_table){ IDT_AT, 256 * 8 - 1 };
	r.cs = flat(8, true, false);
	r.ds = r.es = r.fs = r.gs = r.ss = flat(16, false, false);
	r.cr0 = 0x11;
	r.rip = CODE_AT;
	r.rsp = STACK_AT;
	r.rflags = 2;
	EQ(hv_vcpu_set_regs(b->vcpu, &r, NULL), 0);
	put_code(b, code, end);
}

void box_start64(struct box *b, const uint8_t *code, const uint8_t *end)
{
	static const uint64_t pml4 = PDPT_AT | 3, pdpt = PD_AT | 3, pd[] = { 0x83, 0x200083 };
	struct hv_regs r;
	EQ(hv_vcpu_get_regs(b->vcpu, &r, NULL), 0);
	OK(mem_write(&b->mem, GPA(PML4_AT), &pml4, sizeof pml4));
	OK(mem_write(&b->mem, GPA(PDPT_AT), &pdpt, sizeof pdpt));
	OK(mem_write(&b->mem, GPA(PD_AT), pd, sizeof pd));
	r.cs = flat(8, true, true);
	r.ds = r.es = r.fs = r.gs = r.ss = flat(16, false, true);
	r.cr0 = 0x80000011;
	r.cr3 = PML4_AT;
	r.cr4 = 0x20;
	r.efer = 0x500;
	r.rip = CODE_AT;
	r.rsp = STACK_AT;
	r.rflags = 2;
	EQ(hv_vcpu_set_regs(b->vcpu, &r, NULL), 0);
	put_code(b, code, end);
}

void box_put_gate(struct box *b, unsigned vector, uint32_t handler)
{
	uint64_t gate = (handler & 0xffff) | (8ull << 16) | (0x8e00ull << 32) | ((uint64_t)(handler >> 16) << 48);
	OK(mem_write(&b->mem, GPA(IDT_AT + 8 * vector), &gate, sizeof gate));
}

struct hv_exit run_vcpu(struct hv_vcpu *c)
{
	struct hv_exit x;
	do
		EQ(hv_vcpu_run(c, &x), 0);
	while (x.kind == HV_EXIT_NONE);
	return x;
}

struct hv_exit box_run(struct box *b)
{
	struct hv_exit x = run_vcpu(b->vcpu);
	if (x.kind == HV_EXIT_FAILED) {
		struct text t = TEXT_INIT;
		hv_vcpu_report(b->vcpu, &b->mem, &t);
		printf("# %s\n", text_get(&t));
		text_done(&t);
	}
	return x;
}

void box_expect_port(struct box *b, bool is_write, uint16_t port, unsigned n_bytes, struct hv_exit *ret)
{
	struct hv_exit x = box_run(b);
	EQ(x.kind, HV_EXIT_PORT);
	EQ(x.is_write, is_write);
	EQ(x.address, port);
	EQ(x.n_bytes, n_bytes);
	EQ(x.n_repeat, 1);
	if (ret)
		*ret = x;
}

void box_expect_out(struct box *b, uint16_t port, unsigned n_bytes, uint64_t value)
{
	struct hv_exit x;
	box_expect_port(b, true, port, n_bytes, &x);
	EQ(get_le(x.data, n_bytes), value);
}

void box_expect_mmio(struct box *b, bool is_write, uint64_t address, unsigned n_bytes, struct hv_exit *ret)
{
	struct hv_exit x = box_run(b);
	EQ(x.kind, HV_EXIT_MMIO);
	EQ(x.is_write, is_write);
	EQ(x.address, address);
	EQ(x.n_bytes, n_bytes);
	EQ(x.n_repeat, 1);
	*ret = x;
}

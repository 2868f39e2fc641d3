/* SPDX-License-Identifier: Apache-2.0 */
/* The first state of a vCPU: what firmware would have set up on every processor, and on the boot processor what the
 * kernel's entry protocol demands (PVH: Xen, docs/misc/pvh; Linux: Documentation/arch/x86/boot.rst, "64-bit boot
 * protocol"), with the tables in memory that these registers point to. */
#include "arch/x86_64/memory_map.h"
#include "base/bytes.h"
#include "base/checked.h"

#include <assert.h>

#define CR0_PE (1ull << 0)
#define CR0_ET (1ull << 4)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define RFLAGS_FIXED 2ull

/* Intel SDM 3, 3.4.5: access rights as in a descriptor's bits 40 to 55. */
#define ACCESS_CODE32 0xc09bu
#define ACCESS_CODE64 0xa09bu
#define ACCESS_DATA 0xc093u
#define ACCESS_TSS 0x008bu /* busy; 32 bits or 64, by the mode */

/* Selectors of the Linux protocol, which do for PVH as well. */
#define BOOT_CS 0x10
#define BOOT_DS 0x18
#define BOOT_TR 0x20
#define N_DESCRIPTORS 6u /* a TSS takes two in long mode */
#define TSS_LIMIT 0x67u

#define PAGE_PRESENT 0x1ull
#define PAGE_WRITABLE 0x2ull
#define LARGE_PAGE (0x80ull | PAGE_PRESENT | PAGE_WRITABLE)
#define ENTRIES_PER_TABLE 512u
#define TABLE_BYTES 4096ull
#define LARGE_PAGE_BYTES (2ull << 20)
#define GIB (1ull << 30)

/* Intel SDM 3, 11.5.1: registers of the local APIC. */
#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define APIC_MODE_NMI 0x400u
#define APIC_MODE_EXTINT 0x700u

#define FPU_CONTROL_WORD 0x37f
#define FPU_MXCSR 0x1f80

static const struct hv_msr msrs[] = {
	{ 0x174, 0 },      /* IA32_SYSENTER_CS, ESP, EIP */
	{ 0x175, 0 },
	{ 0x176, 0 },
	{ 0xc0000081, 0 }, /* STAR, LSTAR, CSTAR, SFMASK */
	{ 0xc0000082, 0 },
	{ 0xc0000083, 0 },
	{ 0xc0000084, 0 },
	{ 0xc0000102, 0 }, /* KERNEL_GS_BASE */
	{ 0x10, 0 },       /* IA32_TIME_STAMP_COUNTER */
	{ 0x1a0, 1 },      /* IA32_MISC_ENABLE: fast strings */
	{ 0x2ff, 0x806 },  /* IA32_MTRR_DEF_TYPE: on, write-back */
};

static struct hv_segment segment(uint16_t selector, uint16_t access, uint32_t limit)
{
	return (struct hv_segment){
		.selector = selector,
		.limit = limit,
		.type = access & 0xf,
		.s = access >> 4 & 1,
		.dpl = access >> 5 & 3,
		.present = access >> 7 & 1,
		.avl = access >> 12 & 1,
		.l = access >> 13 & 1,
		.db = access >> 14 & 1,
		.g = access >> 15 & 1,
	};
}

/* With base 0; the limit in bytes, or in pages where the access rights say so. */
static uint64_t descriptor(uint16_t access, uint32_t limit)
{
	return (limit & 0xffffull) | (uint64_t)access << 40 | (uint64_t)(limit >> 16 & 0xf) << 48;
}

static void write_gdt(const struct mem_map *mem, uint16_t code_access)
{
	const uint64_t gdt[N_DESCRIPTORS] = {
		[BOOT_CS / 8] = htole64(descriptor(code_access, 0xfffff)),
		[BOOT_DS / 8] = htole64(descriptor(ACCESS_DATA, 0xfffff)),
		[BOOT_TR / 8] = htole64(descriptor(ACCESS_TSS, TSS_LIMIT)),
	};
	bool is_ram = mem_write(mem, GPA(X86_GDT), gdt, sizeof gdt);
	assert(is_ram);
}

/* Low RAM, rounded up to GiBs, where it is: kernel, initramfs, command line and zero page are all there. */
static void write_page_tables(const struct mem_map *mem)
{
	uint64_t n_gib = (low_ram_end(mem) + GIB - 1) / GIB;
	uint64_t table[ENTRIES_PER_TABLE];
	uint64_t pdpt[4] = { 0 }, pml4 = htole64(X86_PDPT | PAGE_PRESENT | PAGE_WRITABLE);
	bool is_ram = true;

	assert(n_gib >= 1 && n_gib <= ARRAY_LEN(pdpt));
	for (uint64_t i = 0; i < n_gib; i++) {
		uint64_t at = X86_PAGE_DIRECTORIES + i * TABLE_BYTES;
		for (uint64_t j = 0; j < ENTRIES_PER_TABLE; j++)
			table[j] = htole64((i * GIB + j * LARGE_PAGE_BYTES) | LARGE_PAGE);
		is_ram = mem_write(mem, GPA(at), table, sizeof table) && is_ram;
		pdpt[i] = htole64(at | PAGE_PRESENT | PAGE_WRITABLE);
	}
	is_ram = mem_write(mem, GPA(X86_PDPT), pdpt, sizeof pdpt) && is_ram;
	is_ram = mem_write(mem, GPA(X86_PML4), &pml4, sizeof pml4) && is_ram;
	assert(is_ram);
}

static int set_entry_registers(struct hv_vcpu *c, const struct x86_entry *entry, const struct mem_map *mem,
                               struct err *e)
{
	bool is_long = entry->protocol == X86_BOOT_LINUX64;
	uint16_t code_access = is_long ? ACCESS_CODE64 : ACCESS_CODE32;
	struct hv_segment data = segment(BOOT_DS, ACCESS_DATA, 0xffffffff);
	struct hv_regs r = {
		.rip = entry->entry.v,
		.rflags = RFLAGS_FIXED,
		.rsp = X86_BOOT_STACK,
		.cs = segment(BOOT_CS, code_access, 0xffffffff),
		.ds = data, .es = data, .fs = data, .gs = data, .ss = data,
		.tr = segment(BOOT_TR, ACCESS_TSS, TSS_LIMIT),
		.ldt = { .type = 2 }, /* not present */
		.gdt = { .base = X86_GDT, .limit = N_DESCRIPTORS * 8 - 1 },
		.cr0 = CR0_PE | CR0_ET,
	};

	write_gdt(mem, code_access);
	if (is_long) {
		write_page_tables(mem);
		r.rsi = entry->parameters.v;
		r.cr0 |= CR0_PG;
		r.cr3 = X86_PML4;
		r.cr4 = CR4_PAE;
		r.efer = EFER_LME | EFER_LMA;
	} else {
		r.rbx = entry->parameters.v;
	}
	return hv_vcpu_set_regs(c, &r, e);
}

int x86_vcpu_setup(struct hv_vcpu *c, unsigned index, const struct hv_cpuid *cpuid, const struct x86_entry *entry,
                   const struct mem_map *mem, struct err *e)
{
	/* CPUID first: it decides which MSRs and registers there are. */
	int rc = hv_vcpu_set_cpuid(c, cpuid, e);
	if (rc >= 0)
		rc = hv_vcpu_set_msrs(c, msrs, ARRAY_LEN(msrs), e);
	if (rc >= 0 && index == 0)
		rc = set_entry_registers(c, entry, mem, e);
	if (rc >= 0)
		rc = hv_vcpu_set_fpu(c, FPU_CONTROL_WORD, FPU_MXCSR, e);
	if (rc >= 0)
		rc = hv_vcpu_set_lapic(c, APIC_LVT_LINT0, APIC_MODE_EXTINT, e);
	if (rc >= 0)
		rc = hv_vcpu_set_lapic(c, APIC_LVT_LINT1, APIC_MODE_NMI, e);
	if (rc >= 0)
		rc = hv_vcpu_set_waiting(c, index != 0, e);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* hv.h - the hypervisor that runs vCPUs. KVM implements it; no name of KVM's appears here, so that another engine can.
 *
 * hv_open() and hv_vm_*() belong to the thread that builds the VM, except where "any thread" is said. hv_vcpu_*()
 * belongs to the vCPU's own thread once it runs. The kernel's answers are trusted; what a guest puts into an exit
 * (addresses, sizes, data) is not. x86 register layouts are those of the architecture's manuals. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/log.h"
#include "mem/mem.h"

struct hv;
struct hv_vm;
struct hv_vcpu;

/* --- the machine's hypervisor ------------------------------------------------------------------------------------ */

int hv_open(struct hv **ret_hv, const struct log *log, struct err *e);
void hv_close(struct hv *hv);
unsigned hv_max_vcpus(const struct hv *hv);

struct hv_report { /* what `varan doctor` prints */
	char name[16];
	int api_version;
	char vendor_module[32];       /* "kvm_amd", "kvm_intel", "" when unknown */
	bool has_hardware_virtualization; /* by what the hypervisor reports and a short probe */
	bool has_nested_paging;
	bool has_irqfd, has_ioeventfd, has_split_irqchip, has_immediate_exit, has_dirty_log;
	uint64_t probe_ns_per_instruction_x1000; /* of ring-0 guest code, measured; 0 when the probe could not run */
	char reason[200];             /* why has_hardware_virtualization is what it is, one sentence */
};

/* Runs a tiny guest for some milliseconds. Fails only when the hypervisor cannot be opened at all. */
int hv_probe(struct hv_report *ret_r, struct err *e);

/* --- x86 CPU identification --------------------------------------------------------------------------------------- */

struct hv_cpuid_entry {
	uint32_t leaf, subleaf;
	bool has_subleaf; /* subleaf is significant */
	uint32_t eax, ebx, ecx, edx;
};

#define HV_MAX_CPUID 256

struct hv_cpuid {
	size_t n;
	struct hv_cpuid_entry e[HV_MAX_CPUID];
};

int hv_supported_cpuid(struct hv *hv, struct hv_cpuid *ret_c, struct err *e);
uint64_t hv_tsc_khz(struct hv *hv); /* of a VM's clock as created; 0 when unknown */

/* --- a VM ---------------------------------------------------------------------------------------------------------- */

enum hv_irqchip {
	HV_IRQCHIP_SPLIT,  /* local APICs in the hypervisor; the I/O APIC is ours, no PIC, no PIT */
	HV_IRQCHIP_KERNEL, /* all in the hypervisor */
};

struct hv_vm_params {
	enum hv_irqchip irqchip;
	unsigned n_ioapic_pins; /* routes 0..n-1 are reserved for them */
	const struct log *log;  /* outlives the VM */
};

int hv_vm_new(struct hv *hv, const struct hv_vm_params *p, struct hv_vm **ret_vm, struct err *e);
void hv_vm_free(struct hv_vm *vm); /* after its vCPUs */

int hv_vm_map(struct hv_vm *vm, unsigned slot, const struct mem_region *r, bool is_readonly, bool has_dirty_log, struct err *e);
int hv_vm_unmap(struct hv_vm *vm, unsigned slot, struct err *e);
/* Reads and clears the hypervisor's dirty bits of a slot; ret_bits as for mem_dirty_collect(). */
int hv_vm_dirty_log(struct hv_vm *vm, unsigned slot, uint64_t *ret_bits, struct err *e);

/* Interrupts. A GSI is the hypervisor's number for an interrupt source; 0..n_ioapic_pins-1 are I/O APIC pins. */
struct hv_msi {
	uint64_t address;
	uint32_t data;
	uint32_t device_id; /* arm64: the ITS's DeviceID */
};

struct hv_route {
	uint32_t gsi;
	enum { HV_ROUTE_MSI, HV_ROUTE_PIN } kind; /* PIN: a pin of the in-kernel I/O APIC (and, for GSIs below 16, the PICs) */
	struct hv_msi msi;
	uint32_t pin;
};

/* The whole table, in one call of the kernel and without allocating; any thread. The level-triggered pins of a split
 * irqchip must be in it, with the trigger mode in their data (bit 15): the hypervisor finds by them which vectors' EOIs
 * to report. */
int hv_vm_set_routes(struct hv_vm *vm, const struct hv_route *routes, size_t n_routes, struct err *e);
/* Makes writes to the event descriptor raise the GSI, until unset. */
int hv_vm_irqfd(struct hv_vm *vm, int event_fd, uint32_t gsi, struct err *e);
int hv_vm_irqfd_unset(struct hv_vm *vm, int event_fd, uint32_t gsi, struct err *e);
int hv_vm_signal_msi(struct hv_vm *vm, const struct hv_msi *m); /* any thread; >0 delivered, 0 blocked by the guest, <0 */
int hv_vm_irq_line(struct hv_vm *vm, uint32_t pin, bool level); /* HV_IRQCHIP_KERNEL only; any thread */

enum hv_space { HV_SPACE_MMIO, HV_SPACE_PORT };

struct hv_ioevent {
	enum hv_space space;
	uint64_t address;
	uint32_t n_bytes;      /* 1, 2, 4, 8; 0: a write of any width (MMIO only) */
	bool has_datamatch;
	uint64_t datamatch;
	int event_fd;
};

int hv_vm_ioeventfd(struct hv_vm *vm, const struct hv_ioevent *i, struct err *e);
int hv_vm_ioeventfd_unset(struct hv_vm *vm, const struct hv_ioevent *i, struct err *e);

/* --- a vCPU -------------------------------------------------------------------------------------------------------- */

/* x86: index is also the APIC ID that the vCPU starts with, and 0 is the boot vCPU. */
int hv_vcpu_new(struct hv_vm *vm, unsigned index, struct hv_vcpu **ret_c, struct err *e);
void hv_vcpu_free(struct hv_vcpu *c);

/* A vCPU that has run keeps its CPUID: setting the same again is fine, another one is refused. */
int hv_vcpu_set_cpuid(struct hv_vcpu *c, const struct hv_cpuid *cpuid, struct err *e);

struct hv_segment {
	uint64_t base;
	uint32_t limit;
	uint16_t selector;
	uint8_t type, present, dpl, db, s, l, g, avl;
};

struct hv_table {
	uint64_t base;
	uint16_t limit;
};

struct hv_regs {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
	struct hv_segment cs, ds, es, fs, gs, ss, tr, ldt;
	struct hv_table gdt, idt;
	uint64_t cr0, cr2, cr3, cr4, efer;
};

int hv_vcpu_get_regs(struct hv_vcpu *c, struct hv_regs *ret_r, struct err *e);
/* Starts from the vCPU's present values for what struct hv_regs does not name. */
int hv_vcpu_set_regs(struct hv_vcpu *c, const struct hv_regs *r, struct err *e);
int hv_vcpu_set_fpu(struct hv_vcpu *c, uint16_t fcw, uint32_t mxcsr, struct err *e);

struct hv_msr {
	uint32_t index;
	uint64_t value;
};

/* One by one. A refused one fails with its index in the text, unless it is in the explicit list of those that may be
 * missing (hv/msr_optional in the engine), which is logged. */
int hv_vcpu_set_msrs(struct hv_vcpu *c, const struct hv_msr *msrs, size_t n, struct err *e);
int hv_vcpu_get_msr(struct hv_vcpu *c, uint32_t index, uint64_t *ret_v, struct err *e);
/* Local APIC: 4-byte register at a byte offset of its page. */
int hv_vcpu_set_lapic(struct hv_vcpu *c, uint32_t offset, uint32_t v, struct err *e);

/* The boot vCPU runs at once; the others wait for a start-up IPI. */
int hv_vcpu_set_waiting(struct hv_vcpu *c, bool is_waiting_for_sipi, struct err *e);
enum hv_exit_kind {
	HV_EXIT_NONE,     /* nothing to do: run again (a signal, a spurious wake-up, an exit the engine dealt with) */
	HV_EXIT_KICKED,   /* hv_vcpu_kick() was called */
	HV_EXIT_PORT,
	HV_EXIT_MMIO,
	HV_EXIT_EOI,      /* split irqchip: the guest ended the level interrupt of `vector` */
	HV_EXIT_HALT,     /* only without local APICs */
	HV_EXIT_RESET,    /* the guest asked by a system event */
	HV_EXIT_TRIPLE_FAULT, /* a reset on hardware; AMD forgets the registers at that */
	HV_EXIT_POWEROFF, /* the guest asked by a system event */
	HV_EXIT_CRASH,    /* the guest reported that it crashed */
	HV_EXIT_DEBUG,
	HV_EXIT_FAILED,   /* the vCPU cannot go on: hv_vcpu_report() says why */
};

struct hv_exit {
	enum hv_exit_kind kind;
	bool is_write;
	uint8_t n_bytes;   /* of one access: PORT 1, 2 or 4; MMIO 1 to 8, also 3 (an access over a page's end comes in pieces) */
	uint32_t n_repeat; /* PORT: string instructions repeat; 1 otherwise */
	uint64_t address;  /* port or guest-physical */
	uint8_t *data;     /* n_bytes * n_repeat; reads fill it before the next run */
	uint8_t vector;
};

/* 0 and an exit, or a negative errno when the call itself failed in a way that is not the guest's. */
int hv_vcpu_run(struct hv_vcpu *c, struct hv_exit *ret_exit);
/* Any thread: makes the present or next hv_vcpu_run() return HV_EXIT_KICKED soon. */
void hv_vcpu_kick(struct hv_vcpu *c);
/* On the thread that will run it, before the first run: lets kicks reach it. */
int hv_vcpu_attach_thread(struct hv_vcpu *c, struct err *e);
/* x86: a non-maskable interrupt, taken when the guest next runs. Any thread, while the vCPU is out of the guest: the engine
 * keeps the caller waiting otherwise. */
int hv_vcpu_nmi(struct hv_vcpu *c, struct err *e);
/* Completes a pending port or MMIO access without entering the guest, so that state can be read. 1: the access goes on,
 * the next hv_vcpu_run() hands out its rest, and only after that is the state whole; 0: it is. */
int hv_vcpu_complete(struct hv_vcpu *c);

struct text;
/* A report for a person: exit reason by name, registers, the bytes at RIP when they can be read. mem may be NULL. */
void hv_vcpu_report(struct hv_vcpu *c, const struct mem_map *mem, struct text *t);

/* Counters for benches, a line `name: value` each: exits by reason, where the engine can tell. Any thread, while the
 * vCPU is out of the guest: the engine keeps the caller waiting otherwise. */
int hv_vcpu_stats(struct hv_vcpu *c, struct text *t);

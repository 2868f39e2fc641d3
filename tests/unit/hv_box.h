/* SPDX-License-Identifier: Apache-2.0 */
/* hv_box.h - a VM with one vCPU and 256 KiB of memory, for guests of a few instructions written in the test itself.
 *
 * Its vCPU belongs to the thread that made the box. Guests use what engines without hardware virtualization can run,
 * too. A function that meets something else than it expects fails the test. */
#pragma once
#include "hv/hv.h"
#include "test.h"

#define RAM_BYTES 0x40000ull
#define IDT_AT 0x400u  /* 256 gates of 8 bytes */
#define GDT_AT 0xc00u
#define CODE_AT 0x2000u
#define STACK_AT 0x1ff0u
#define PML4_AT 0x4000u
#define PDPT_AT 0x5000u
#define PD_AT 0x6000u
#define DATA_AT 0x8000u
#define MMIO_AT 0xd0000u /* past RAM */
#define N_PINS 24u

#define GUEST(name, bits, text)                                                           \
	extern const uint8_t name[], name##_end[] __attribute__((visibility("hidden")));  \
	__asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\n" #name      \
		"_end:\n.code64\n.popsection\n")

struct box {
	struct hv *hv;
	struct mem_map mem;
	struct hv_vm *vm;
	struct hv_vcpu *vcpu;
};

void box_need_kvm(void); /* skips the test where there is none */
void box_init(struct box *b); /* the split irqchip, no log */
void box_init_irqchip(struct box *b, enum hv_irqchip irqchip, const struct log *log);
void box_done(struct box *b);

/* Put the code at CODE_AT and the vCPU in front of it: in real mode with DS at MMIO_AT and the others at 0; in flat 32-bit
 * protected mode with an IDT at IDT_AT; in flat 64-bit mode, identity-mapped up to 4 MiB. */
void box_start16(struct box *b, const uint8_t *code, const uint8_t *end);
void box_start32(struct box *b, const uint8_t *code, const uint8_t *end);
void box_start64(struct box *b, const uint8_t *code, const uint8_t *end);
void box_put_gate(struct box *b, unsigned vector, uint32_t handler); /* a 32-bit interrupt gate */

struct hv_exit run_vcpu(struct hv_vcpu *c); /* to the next exit that is one */
struct hv_exit box_run(struct box *b);      /* the same, and prints a report when it failed */
void box_expect_port(struct box *b, bool is_write, uint16_t port, unsigned n_bytes, struct hv_exit *ret);
void box_expect_out(struct box *b, uint16_t port, unsigned n_bytes, uint64_t value);
void box_expect_mmio(struct box *b, bool is_write, uint64_t address, unsigned n_bytes, struct hv_exit *ret);

/* SPDX-License-Identifier: Apache-2.0 */
/* boot.h - from files to a machine that can start: kernel, initramfs, command line, tables, first registers.
 *
 * Kernels and initramfs are hostile input: every number in them is checked before use, and a bad one gets an error that
 * names the file and the rule. Everything here runs on the thread that builds the VM, before vCPUs run. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "hv/hv.h"
#include "mem/mem.h"

/* Guest-physical layout. RAM: [0, 0xa0000) and [1 MiB, 3 GiB) and [4 GiB, ...). What lies between 0xa0000 and 1 MiB is
 * memory too, of the same region; the guest is told that [0xe0000, 1 MiB) is reserved: the tables are there. */
#define X86_LOW_RAM_END 0xc0000000ull
#define X86_PCI_LOW_START 0xc0000000ull
#define X86_PCI_LOW_BYTES 0x28000000ull
#define X86_ECAM 0xe8000000ull
#define X86_ECAM_BYTES 0x10000000ull
#define X86_TSS 0xf8000000ull         /* the engine's own pages */
#define X86_IDENTITY_MAP 0xf8003000ull
#define X86_GED 0xfec10000ull         /* our event device's registers */
#define X86_PCI_HOTPLUG 0xfec11000ull /* the registers of PCI hotplug (bus/pci_hotplug.h) */
#define X86_VIRTIO_MMIO 0xfec20000ull /* one page a device, after the other */
#define X86_HIGH_RAM_START 0x100000000ull
#define X86_CMDLINE 0x20000ull
#define X86_CMDLINE_MAX_BYTES 65536u
#define X86_ACPI 0xe0000ull   /* RSDP, then the tables that it leads to */
#define X86_RESET_VECTOR 0xffff0ull
#define X86_SMBIOS 0xf0000ull /* then the MP table, when there is one; up to 1 MiB */

/* Interrupt pins and ports. A pin's number is its GSI. All lines are edge, active high, except PCI's INTx: level, on
 * pin 16 + slot % 8. (ACPI cannot call a routed INTx active high, and a guest programs it as active low: that polarity
 * is one of wires that do not exist here, "raised" is raised.) */
#define X86_PIN_SERIAL 4u
#define X86_PIN_GED 9u
#define X86_PIN_VIRTIO_MMIO 10u /* and the ones after; 16..23 are PCI INTx while there is a PCI bus */
#define X86_PIN_PCI_INTX 16u
#define X86_N_PCI_INTX 8u
#define X86_PORT_POWER 0x600u /* FADT: sleep control, sleep status and reset register */
#define X86_PORT_PM_TIMER 0x608u
#define X86_POWER_S5 0x34u    /* SLP_EN | SLP_TYP 5 */
#define X86_POWER_RESET 0x01u

/* The event device's one register, 32 bits at X86_GED: pending events, one bit each. Reading takes them all. */
#define X86_GED_BYTES 4u
#define X86_GED_POWER_BUTTON 0x01u
#define X86_GED_PCI_HOTPLUG 0x02u

struct x86_topology { /* 1s when nothing was asked for */
	uint8_t n_threads_per_core, n_cores_per_die, n_dies_per_package, n_packages;
};

struct x86_mmio_device {
	uint64_t address, n_bytes;
	uint32_t pin;
};

#define X86_MAX_MMIO_DEVICES 14 /* one pin each: X86_PIN_VIRTIO_MMIO to 23, the I/O APIC's last */

struct x86_machine { /* what the tables tell the guest; filled by the VM's assembly */
	unsigned n_vcpus;
	struct x86_topology topology;
	uint8_t max_phys_bits;  /* 0: as many as the host has */
	bool has_acpi;          /* off: MP table, and devices by command line */
	bool has_pci;
	bool has_serial;        /* COM1 */
	bool has_split_irqchip; /* the I/O APIC is ours: MSIs with 15-bit destinations can be taken at their word */
	struct { uint64_t low_start, low_bytes, high_start, high_bytes, ecam; } pci;
	struct { uint64_t start, n_bytes; } device_memory; /* where memory that devices bring goes; in no table */
	uint32_t fixed_slots;   /* of the PCI bus, one bit each: their devices stay, so that they have no way to eject them */
	struct x86_mmio_device mmio[X86_MAX_MMIO_DEVICES]; /* virtio over MMIO */
	size_t n_mmio;
	const char *smbios_serial, *smbios_uuid; /* NULL: none */
};

struct x86_payload {
	const char *kernel, *initramfs, *cmdline; /* initramfs, cmdline may be NULL */
};

enum x86_protocol { X86_BOOT_PVH, X86_BOOT_LINUX64 };

struct x86_entry {
	enum x86_protocol protocol;
	struct gpa entry;      /* PVH: 32-bit; Linux: 64-bit */
	struct gpa parameters; /* PVH: start info; Linux: zero page */
};

/* Where RAM of a size goes: below X86_LOW_RAM_END, the rest from X86_HIGH_RAM_START. */
struct x86_ram_range {
	struct gpa start;
	uint64_t n_bytes;
};

void x86_ram_layout(uint64_t n_total_bytes, struct x86_ram_range ret_ranges[2], size_t *ret_n);

/* Physical address bits of the guest's CPUs: the host's, but at most max_phys_bits (0: no limit). */
unsigned x86_phys_bits(const struct hv_cpuid *supported, unsigned max_phys_bits);

/* Fills m->pci and m->device_memory. From the end of RAM to the end of what n_phys_bits reach, in steps of 4 GiB and less
 * room at the top for platform devices, the first half is PCI's high window, the second is for memory that devices bring;
 * either has 4 TiB at most, as Linux maps such memory only where it is not far from RAM. Where there is one step, PCI has it;
 * an error where there is none. */
int x86_pci_layout(uint64_t ram_end, unsigned n_phys_bits, struct x86_machine *m, struct err *e);

/* Loads kernel (ELF with a PVH note; ELF x86-64 without one through the 64-bit protocol; bzImage by the 64-bit
 * protocol), initramfs and command line (plus virtio_mmio.device= words when ACPI is off, before a "--": what follows
 * it is for init), and writes e820, ACPI or MP table, SMBIOS, zero page or start info.
 *
 * Guest memory is fresh: all zeroes. So bss and the unused parts of pages are left alone. Low RAM starts at 0 and is
 * one region at least as far as the kernel and the tables go. */
int x86_boot_load(const struct mem_map *mem, const struct x86_payload *p, const struct x86_machine *m,
                  struct x86_entry *ret_entry, struct err *e);

/* The CPUID that vCPU `index` gets, from what the hypervisor supports: topology, APIC id, TSC frequency, KVM leaves. */
int x86_cpuid_for(const struct hv_cpuid *supported, const struct x86_machine *m, unsigned index, uint64_t tsc_khz,
                  struct hv_cpuid *ret_c, struct err *e);
/* Threads, cores, dies and packages of `index`, each in a bit field of its own. A vCPU has to be made with this number
 * (hv_vcpu_new), because the local APIC's ID is the engine's vCPU number. Without a topology: n cores of one package,
 * and the number is the index. */
uint32_t x86_apic_id(const struct x86_machine *m, unsigned index);

/* CPUID, MSRs, LINT pins, FPU; and for the boot vCPU (index 0) entry registers, with the GDT and the page tables that
 * they refer to. The vCPU is fresh, or was reset by the engine. */
int x86_vcpu_setup(struct hv_vcpu *c, unsigned index, const struct hv_cpuid *cpuid, const struct x86_entry *entry,
                   const struct mem_map *mem, struct err *e);

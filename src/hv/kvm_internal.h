/* SPDX-License-Identifier: Apache-2.0 */
/* kvm_internal.h - what the files of the KVM engine share. Only src/hv/kvm*.c include it, and so <linux/kvm.h>.
 *
 * kvm.c opens the engine, kvm_vm.c has memory slots and interrupts, kvm_vcpu.c runs and kicks, kvm_exit.c names and
 * decodes exits, kvm_report.c speaks to people, kvm_probe.c judges the machine. All that an architecture must bring is
 * below, under kvm_arch_*(): kvm_x86*.c have it, and the functions of hv.h about registers, for x86-64. */
#pragma once
#include "hv/hv.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/types.h>

/* Exit reasons that we can name and count one by one; later ones share the last counter. */
#define KVM_N_REASONS 48u

/* Since Linux 6.8; older headers lack it. The layout follows Documentation/virt/kvm/api.rst, 5. */
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

struct hv {
	int fd;
	const struct log *log; /* never NULL */
	size_t run_bytes;      /* of a vCPU's shared pages */
	unsigned n_max_vcpus, n_max_vcpu_ids, n_max_slots, n_max_routes;
	bool has_readonly_slots, has_any_length_ioeventfd, has_stats;
	uint32_t x2apic_flags; /* x86: those of KVM_CAP_X2APIC_API that we want and the kernel has */
	uint64_t tsc_khz;      /* 0: not known yet */
};

struct hv_vm {
	struct hv *hv;
	int fd;
	const struct log *log; /* never NULL */
	enum hv_irqchip irqchip;
	unsigned n_ioapic_pins;
	unsigned n_vcpus; /* alive: the VM goes last */
	/* The table for KVM_SET_GSI_ROUTING: as large as it can get from the start, since routes change on vCPU threads;
	 * pages that were never used cost nothing. */
	pthread_mutex_t routes_lock;
	struct kvm_irq_routing *routes;
};

struct hv_vcpu {
	struct hv_vm *vm;
	int fd;
	unsigned index;
	struct kvm_run *run; /* shared with the kernel; the guest cannot write to it */
	size_t run_bytes;
	bool has_pending_exit; /* hv_vcpu_complete() met an exit that hv_vcpu_run() is still to hand out */
	int run_errno;         /* why KVM_RUN itself failed last; 0: it did not */
	bool has_exited;       /* run->exit_reason means something */
	struct kvm_cpuid2 *cpuid; /* x86: as set last; NULL: never */
	pthread_t thread;      /* valid when thread_id is not 0 */
	_Atomic pid_t thread_id;
	_Atomic bool is_kicked;
	_Atomic bool is_in_guest; /* is, or is about to be, inside KVM_RUN */
	/* Written by the vCPU's thread alone, read by any. */
	_Atomic uint64_t n_exits[KVM_N_REASONS];
	_Atomic uint64_t n_kicks, n_interruptions, n_errors;
};

/* ioctl() that is repeated when a signal interrupted it; 0 or more, or a negative errno. Not for KVM_RUN. */
static inline int kvm_call(int fd, unsigned long request, const void *arg)
{
	int rc;
	do
		rc = ioctl(fd, request, arg);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : rc;
}

static inline int kvm_call_value(int fd, unsigned long request, unsigned long value)
{
	int rc;
	do
		rc = ioctl(fd, request, value);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : rc;
}

static inline int kvm_check(int fd, long capability)
{
	return kvm_call_value(fd, KVM_CHECK_EXTENSION, (unsigned long)capability);
}

struct kvm_capability {
	long number;
	const char *name;
};

int kvm_require(int fd, const struct kvm_capability *wanted, size_t n, struct err *e);

/* --- exits -------------------------------------------------------------------------------------------------------- */

const char *kvm_exit_name(uint32_t reason); /* "KVM_EXIT_IO"; NULL when unknown */
/* What the shared pages say after KVM_RUN returned 0. */
void kvm_exit_decode(struct hv_vcpu *c, struct hv_exit *ret_exit);

/* --- what an architecture brings ------------------------------------------------------------------------------------ */

struct text;

int kvm_arch_open(struct hv *hv, struct err *e); /* required capabilities, facts */
int kvm_arch_vm_init(struct hv_vm *vm, struct err *e); /* interrupt controllers; before vCPUs */
uint64_t kvm_arch_msi_address(const struct hv_vm *vm, uint64_t address); /* the kernel's form of a guest's */
/* Appends the registers; the linear address of the next instruction on success, or a negative errno. */
int kvm_arch_report_registers(struct hv_vcpu *c, struct text *t, uint64_t *ret_linear_ip);

struct kvm_probe {
	struct hv *hv;
	uint64_t guest_ps, host_ps; /* picoseconds per instruction of one loop, in ring 0 of a guest and here; 0: not measured */
	bool is_complete;           /* the guest ran to its end */
	bool has_dirty_log;
	char failure[160];          /* otherwise what it could not do: "`lock cmpxchg16b` fails (triple fault)" */
};

void kvm_arch_probe(struct kvm_probe *p);
const char *kvm_arch_vendor_module(void); /* "kvm_amd": by the CPU's own extensions; NULL: it has none that we know */

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "hv/kvm_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define N_IP_BYTES 16u

/* --- why ------------------------------------------------------------------------------------------------------------ */

static const char *suberror_name(uint32_t suberror)
{
	switch (suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		return "an instruction that KVM cannot emulate";
	case KVM_INTERNAL_ERROR_SIMUL_EX:
		return "exceptions at the same time";
	case KVM_INTERNAL_ERROR_DELIVERY_EV:
		return "an exit while an event was being delivered";
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
		return "an unexpected hardware exit";
	default:
		return "unknown";
	}
}

static void report_bytes(struct text *t, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		text_appendf(t, " %02x", bytes[i]);
	text_append_char(t, '\n');
}

static void report_internal_error(const struct kvm_run *run, struct text *t)
{
	uint32_t n = (uint32_t)min_u64(run->internal.ndata, ARRAY_LEN(run->internal.data));

	text_appendf(t, "  suberror %u: %s\n", run->internal.suberror, suberror_name(run->internal.suberror));
	for (uint32_t i = 0; i < n; i++)
		text_appendf(t, "  data[%u] 0x%016" PRIx64 "\n", i, (uint64_t)run->internal.data[i]);
	/* Three words hold flags, and the instruction where a flag says so. */
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && n >= 3 &&
	    (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		text_append(t, "  instruction");
		report_bytes(t, run->emulation_failure.insn_bytes,
		             (size_t)min_u64(run->emulation_failure.insn_size, sizeof run->emulation_failure.insn_bytes));
	}
}

static void report_memory_fault(const struct kvm_run *run, struct text *t)
{
	struct {
		uint64_t flags, gpa, n_bytes;
	} fault;
	memcpy(&fault, run->padding, sizeof fault);
	text_appendf(t, "  no memory for the guest at 0x%" PRIx64 ", 0x%" PRIx64 " bytes (flags 0x%" PRIx64 ")\n", fault.gpa,
	             fault.n_bytes, fault.flags);
}

static void report_details(const struct kvm_run *run, struct text *t)
{
	uint32_t n;

	switch (run->exit_reason) {
	case KVM_EXIT_UNKNOWN:
		text_appendf(t, "  hardware exit reason 0x%" PRIx64 "\n", (uint64_t)run->hw.hardware_exit_reason);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		text_appendf(t, "  the hardware refused to enter the guest: reason 0x%" PRIx64 " on host CPU %u\n",
		             (uint64_t)run->fail_entry.hardware_entry_failure_reason, run->fail_entry.cpu);
		break;
	case KVM_EXIT_EXCEPTION:
		text_appendf(t, "  exception %u, error code 0x%x\n", run->ex.exception, run->ex.error_code);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		report_internal_error(run, t);
		break;
	case KVM_EXIT_IO:
		text_appendf(t, "  %s port 0x%x, %u bytes, %u times\n",
		             run->io.direction == KVM_EXIT_IO_OUT ? "write to" : "read of", run->io.port, run->io.size,
		             run->io.count);
		break;
	case KVM_EXIT_MMIO:
		text_appendf(t, "  %s 0x%" PRIx64 ", %u bytes\n", run->mmio.is_write ? "write to" : "read of",
		             (uint64_t)run->mmio.phys_addr, run->mmio.len);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		n = (uint32_t)min_u64(run->system_event.ndata, ARRAY_LEN(run->system_event.data));
		text_appendf(t, "  type %u\n", run->system_event.type);
		for (uint32_t i = 0; i < n; i++)
			text_appendf(t, "  data[%u] 0x%016" PRIx64 "\n", i, (uint64_t)run->system_event.data[i]);
		break;
	case KVM_EXIT_NOTIFY:
		text_appendf(t, "  flags 0x%x%s\n", run->notify.flags,
		             run->notify.flags & KVM_NOTIFY_CONTEXT_INVALID ? ": the guest's state is lost" : "");
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		text_appendf(t, "  MSR 0x%x\n", run->msr.index);
		break;
	case KVM_EXIT_SHUTDOWN:
		text_append(t, "  triple fault\n");
		break;
	case KVM_EXIT_MEMORY_FAULT:
		report_memory_fault(run, t);
		break;
	default:
		break;
	}
}

static void report_reason(const struct hv_vcpu *c, struct text *t)
{
	const struct kvm_run *run = c->run;

	text_appendf(t, "vcpu%u: ", c->index);
	if (c->run_errno) {
		char reason[128];
		text_appendf(t, "KVM_RUN failed: %s (errno %d)\n", strerror_r(c->run_errno, reason, sizeof reason),
		             c->run_errno);
		/* The one exit that comes with an error; for others the shared pages hold what an earlier exit left. */
		if ((c->run_errno == EFAULT || c->run_errno == EHWPOISON) && run->exit_reason == KVM_EXIT_MEMORY_FAULT)
			report_memory_fault(run, t);
		if (c->run_errno == EFAULT)
			text_append(t, "  guest memory is not there: if a file is mapped into it, has that been cut off, or has "
			               "its file system run full?\n");
		return;
	}
	if (!c->has_exited) {
		text_append(t, "has not left the guest yet\n");
		return;
	}
	const char *name = kvm_exit_name(run->exit_reason);
	text_appendf(t, "%s (exit reason %u)\n", name ? name : "an exit unknown to this program", run->exit_reason);
	report_details(run, t);
}

/* --- where ---------------------------------------------------------------------------------------------------------- */

/* One byte at a guest's linear address. */
static bool read_linear(struct hv_vcpu *c, const struct mem_map *mem, uint64_t address, uint8_t *ret_byte)
{
	struct kvm_translation at = { .linear_address = address };

	if (kvm_call(c->fd, KVM_TRANSLATE, &at) < 0 || !at.valid)
		return false;
	return mem_read(mem, GPA(at.physical_address), ret_byte, 1);
}

static void report_ip_bytes(struct hv_vcpu *c, const struct mem_map *mem, uint64_t address, struct text *t)
{
	uint8_t bytes[N_IP_BYTES];
	size_t n = 0;

	while (n < N_IP_BYTES && read_linear(c, mem, address + n, &bytes[n]))
		n++;
	text_appendf(t, "  bytes at 0x%" PRIx64 ":", address);
	if (n)
		report_bytes(t, bytes, n);
	else
		text_append(t, " cannot be read: no memory is mapped there\n");
}

void hv_vcpu_report(struct hv_vcpu *c, const struct mem_map *mem, struct text *t)
{
	char reason[128];
	uint64_t linear_ip;

	report_reason(c, t);
	int rc = kvm_arch_report_registers(c, t, &linear_ip);
	if (rc < 0)
		text_appendf(t, "  the registers cannot be read: %s\n", strerror_r(-rc, reason, sizeof reason));
	else if (mem)
		report_ip_bytes(c, mem, linear_ip, t);
}

/* --- how often ------------------------------------------------------------------------------------------------------ */

#define MAX_STATS 512u
#define MAX_STAT_NAME 128u

/* KVM's own counters (api.rst, 4.134): a header, descriptors with names, and the data. Only plain numbers are shown. */
static int report_kernel_stats(int fd, struct text *t)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc desc; /* its name follows it */
	char bytes[sizeof desc + MAX_STAT_NAME + 1];

	if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header)
		return -EIO;
	if (header.name_size > MAX_STAT_NAME)
		return -ENOTSUP;

	for (uint32_t i = 0; i < header.num_desc && i < MAX_STATS; i++) {
		uint64_t value;
		size_t n_bytes = sizeof desc + header.name_size;
		if (pread(fd, bytes, n_bytes, (off_t)(header.desc_offset + i * n_bytes)) != (ssize_t)n_bytes)
			return -EIO;
		bytes[n_bytes] = '\0';
		memcpy(&desc, bytes, sizeof desc);
		if (desc.size != 1)
			continue;
		if (pread(fd, &value, sizeof value, (off_t)header.data_offset + desc.offset) != (ssize_t)sizeof value)
			return -EIO;
		text_appendf(t, "%s: %" PRIu64 "\n", bytes + sizeof desc, value);
	}
	return 0;
}

static void report_count(struct text *t, const char *name, const _Atomic uint64_t *counter)
{
	uint64_t n = atomic_load_explicit(counter, memory_order_relaxed);
	if (n)
		text_appendf(t, "%s: %" PRIu64 "\n", name, n);
}

int hv_vcpu_stats(struct hv_vcpu *c, struct text *t)
{
	for (uint32_t i = 0; i < KVM_N_REASONS; i++) {
		const char *name = kvm_exit_name(i);
		report_count(t, name ? name : "KVM_EXIT_other", &c->n_exits[i]);
	}
	report_count(t, "kicks", &c->n_kicks);
	report_count(t, "interruptions", &c->n_interruptions);
	report_count(t, "errors", &c->n_errors);
	if (!c->vm->hv->has_stats)
		return 0;

	fd_scoped fd = kvm_call_value(c->fd, KVM_GET_STATS_FD, 0);
	return fd < 0 ? fd : report_kernel_stats(fd, t);
}

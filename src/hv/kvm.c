/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "hv/kvm_internal.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>

#define KVM_DEVICE "/dev/kvm"
/* "Applications should refuse to run if KVM_GET_API_VERSION returns a value other than 12" (api.rst, 4.1). */
#define KVM_API 12
/* Upper bounds for what we size by an answer of the kernel. */
#define MAX_RUN_BYTES (1u << 20)
#define MAX_ROUTES (1u << 16)

static const struct log silent = { .sink = NULL, .object = "hv" };

int kvm_require(int fd, const struct kvm_capability *wanted, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		if (kvm_check(fd, wanted[i].number) <= 0)
			return err_set(e, ENOTSUP, "kvm: %s lacks %s, which Varan needs: a newer host kernel may have it",
			               KVM_DEVICE, wanted[i].name);
	}
	return 0;
}

/* A count that the kernel tells by a capability; where it does not, what api.rst says to assume. */
static unsigned count_of(int fd, long capability, unsigned otherwise)
{
	int n = kvm_check(fd, capability);
	return n > 0 ? (unsigned)n : otherwise;
}

static int open_device(int *ret_fd, struct err *e)
{
	fd_scoped fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, ENOENT, "kvm: there is no %s: the kernel lacks KVM, or kvm_amd or kvm_intel is not loaded",
		               KVM_DEVICE);
	if (fd < 0 && (errno == EACCES || errno == EPERM))
		return err_set(e, EACCES, "kvm: no permission to open %s: is this user in the group kvm?", KVM_DEVICE);
	if (fd < 0)
		return err_set_errno(e, errno, "kvm: cannot open %s", KVM_DEVICE);

	int version = kvm_call_value(fd, KVM_GET_API_VERSION, 0);
	if (version < 0)
		return err_set_errno(e, -version, "kvm: %s does not answer as KVM", KVM_DEVICE);
	if (version != KVM_API)
		return err_set(e, ENOTSUP, "kvm: %s speaks version %d of the API, not %d", KVM_DEVICE, version, KVM_API);
	*ret_fd = fd_take(&fd);
	return 0;
}

static int read_facts(struct hv *hv, struct err *e)
{
	static const struct kvm_capability wanted[] = {
		{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" }, { KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
		{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },     { KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
		{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },       { KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
		{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },   { KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	};
	int rc = kvm_require(hv->fd, wanted, ARRAY_LEN(wanted), e);
	if (rc < 0)
		return rc;

	int run_bytes = kvm_call_value(hv->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (run_bytes < (int)sizeof(struct kvm_run) || run_bytes > (int)MAX_RUN_BYTES)
		return err_set(e, ENOTSUP, "kvm: a vCPU's shared pages of %d bytes are not what this program knows", run_bytes);
	hv->run_bytes = (size_t)run_bytes;
	hv->n_max_vcpus = count_of(hv->fd, KVM_CAP_MAX_VCPUS, 4);
	hv->n_max_vcpu_ids = count_of(hv->fd, KVM_CAP_MAX_VCPU_ID, hv->n_max_vcpus);
	hv->n_max_slots = count_of(hv->fd, KVM_CAP_NR_MEMSLOTS, 32);
	hv->n_max_routes = (unsigned)min_u64(count_of(hv->fd, KVM_CAP_IRQ_ROUTING, 1), MAX_ROUTES);
	hv->has_readonly_slots = kvm_check(hv->fd, KVM_CAP_READONLY_MEM) > 0;
	hv->has_any_length_ioeventfd = kvm_check(hv->fd, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
	hv->has_stats = kvm_check(hv->fd, KVM_CAP_BINARY_STATS_FD) > 0;
	return 0;
}

int hv_open(struct hv **ret_hv, const struct log *log, struct err *e)
{
	struct hv *hv = calloc(1, sizeof *hv);
	if (!hv)
		return err_set(e, ENOMEM, "kvm: no memory");
	hv->fd = -1;
	hv->log = log ? log : &silent;

	int rc = open_device(&hv->fd, e);
	if (rc == 0)
		rc = read_facts(hv, e);
	if (rc == 0)
		rc = kvm_arch_open(hv, e);
	if (rc < 0) {
		hv_close(hv);
		return rc;
	}
	*ret_hv = hv;
	return 0;
}

void hv_close(struct hv *hv)
{
	if (!hv)
		return;
	fd_close(&hv->fd);
	free(hv);
}

unsigned hv_max_vcpus(const struct hv *hv)
{
	return hv->n_max_vcpus;
}

/* The kernel tells the frequency of a VM, or of a vCPU where it is older than 5.16; hv_vm_new() and hv_vcpu_new() leave
 * it in hv->tsc_khz, so that a VM is made for the question only when none was made before. */
uint64_t hv_tsc_khz(struct hv *hv)
{
	if (hv->tsc_khz)
		return hv->tsc_khz;

	struct hv_vm *vm;
	struct hv_vcpu *c;
	if (hv_vm_new(hv, &(struct hv_vm_params){ .irqchip = HV_IRQCHIP_SPLIT, .n_ioapic_pins = 24 }, &vm, NULL) < 0)
		return 0;
	if (!hv->tsc_khz && hv_vcpu_new(vm, 0, &c, NULL) == 0)
		hv_vcpu_free(c);
	hv_vm_free(vm);
	return hv->tsc_khz;
}

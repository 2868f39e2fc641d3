/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "hv/kvm_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int hv_vm_new(struct hv *hv, const struct hv_vm_params *p, struct hv_vm **ret_vm, struct err *e)
{
	struct hv_vm *vm = calloc(1, sizeof *vm);
	if (!vm)
		return err_set(e, ENOMEM, "kvm: no memory for a VM");
	vm->hv = hv;
	vm->log = p->log ? p->log : hv->log;
	vm->irqchip = p->irqchip;
	vm->n_ioapic_pins = p->n_ioapic_pins;
	(void)pthread_mutex_init(&vm->routes_lock, NULL);

	/* Creating a VM takes locks that a signal may interrupt: kvm_call() tries again. */
	vm->fd = kvm_call_value(hv->fd, KVM_CREATE_VM, 0);
	int rc = vm->fd;
	if (rc < 0)
		(void)err_set_errno(e, -rc, "kvm: cannot create a VM");
	if (rc >= 0) {
		vm->routes = calloc(1, sizeof *vm->routes + hv->n_max_routes * sizeof vm->routes->entries[0]);
		if (!vm->routes)
			rc = err_set(e, ENOMEM, "kvm: no memory for %u interrupt routes", hv->n_max_routes);
	}
	if (rc >= 0)
		rc = kvm_arch_vm_init(vm, e);
	if (rc < 0) {
		hv_vm_free(vm);
		return rc;
	}
	*ret_vm = vm;
	return 0;
}

void hv_vm_free(struct hv_vm *vm)
{
	if (!vm)
		return;
	assert(vm->n_vcpus == 0);
	fd_close(&vm->fd);
	free(vm->routes);
	(void)pthread_mutex_destroy(&vm->routes_lock);
	free(vm);
}

/* --- memory slots --------------------------------------------------------------------------------------------------- */

int hv_vm_map(struct hv_vm *vm, unsigned slot, const struct mem_region *r, bool is_readonly, bool has_dirty_log, struct err *e)
{
	if (slot >= vm->hv->n_max_slots)
		return err_set(e, ENOSPC, "kvm: memory slot %u: there are only %u", slot, vm->hv->n_max_slots);
	if (is_readonly && !vm->hv->has_readonly_slots)
		return err_set(e, ENOTSUP, "kvm: memory slot %u: this kernel has no read-only slots", slot);

	struct kvm_userspace_memory_region m = {
		.slot = slot,
		.flags = (is_readonly ? KVM_MEM_READONLY : 0u) | (has_dirty_log ? KVM_MEM_LOG_DIRTY_PAGES : 0u),
		.guest_phys_addr = r->start.v,
		.memory_size = r->n_bytes,
		.userspace_addr = (uintptr_t)r->host,
	};
	int rc = kvm_call(vm->fd, KVM_SET_USER_MEMORY_REGION, &m);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot map 0x%" PRIx64 " bytes at 0x%" PRIx64 " as memory slot %u", r->n_bytes,
		                     r->start.v, slot);
	return 0;
}

int hv_vm_unmap(struct hv_vm *vm, unsigned slot, struct err *e)
{
	/* A size of zero deletes the slot (api.rst, 4.35). */
	struct kvm_userspace_memory_region m = { .slot = slot };
	int rc = kvm_call(vm->fd, KVM_SET_USER_MEMORY_REGION, &m);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot unmap memory slot %u", slot);
	return 0;
}

int hv_vm_dirty_log(struct hv_vm *vm, unsigned slot, uint64_t *ret_bits, struct err *e)
{
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = ret_bits };
	int rc = kvm_call(vm->fd, KVM_GET_DIRTY_LOG, &log);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot read the dirty log of memory slot %u", slot);
	return 0;
}

/* --- interrupts ----------------------------------------------------------------------------------------------------- */

static struct kvm_irq_routing_entry msi_entry(const struct hv_vm *vm, uint32_t gsi, const struct hv_msi *m)
{
	struct kvm_irq_routing_entry entry = { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };
	uint64_t address = kvm_arch_msi_address(vm, m->address);
	entry.u.msi.address_lo = (uint32_t)address;
	entry.u.msi.address_hi = (uint32_t)(address >> 32);
	entry.u.msi.data = m->data;
	if (m->device_id) {
		entry.flags = KVM_MSI_VALID_DEVID;
		entry.u.msi.devid = m->device_id;
	}
	return entry;
}

static struct kvm_irq_routing_entry pin_entry(uint32_t gsi, uint32_t irqchip, uint32_t pin)
{
	struct kvm_irq_routing_entry entry = { .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP };
	entry.u.irqchip.irqchip = irqchip;
	entry.u.irqchip.pin = pin;
	return entry;
}

#if defined(__x86_64__)
#define PIC_PINS 8u

/* A pin below 16 is wired to the I/O APIC and to one of the two 8259s, as on a PC; the guest masks the one that it does
 * not use. Returns how many entries were written: 1 or 2. */
static unsigned add_pin_entries(const struct hv_route *r, struct kvm_irq_routing_entry *ret_entries)
{
	ret_entries[0] = pin_entry(r->gsi, KVM_IRQCHIP_IOAPIC, r->pin);
	if (r->gsi >= 2 * PIC_PINS)
		return 1;
	ret_entries[1] = r->gsi < PIC_PINS ? pin_entry(r->gsi, KVM_IRQCHIP_PIC_MASTER, r->gsi)
	                                   : pin_entry(r->gsi, KVM_IRQCHIP_PIC_SLAVE, r->gsi - PIC_PINS);
	return 2;
}
#else
static unsigned add_pin_entries(const struct hv_route *r, struct kvm_irq_routing_entry *ret_entries)
{
	ret_entries[0] = pin_entry(r->gsi, 0, r->pin);
	return 1;
}
#endif

#define MAX_ENTRIES_PER_ROUTE 2u

int hv_vm_set_routes(struct hv_vm *vm, const struct hv_route *routes, size_t n_routes, struct err *e)
{
	unsigned n_max = vm->hv->n_max_routes, n = 0;
	int rc = 0;

	(void)pthread_mutex_lock(&vm->routes_lock);
	for (size_t i = 0; i < n_routes && rc == 0; i++) {
		const struct hv_route *r = &routes[i];
		struct kvm_irq_routing_entry entries[MAX_ENTRIES_PER_ROUTE];
		unsigned n_entries = 1;
		if (r->kind == HV_ROUTE_MSI) {
			entries[0] = msi_entry(vm, r->gsi, &r->msi);
		} else {
			/* Ours to keep apart: with the split irqchip there are no pins in the kernel. */
			assert(vm->irqchip == HV_IRQCHIP_KERNEL);
			n_entries = add_pin_entries(r, entries);
		}
		if (n_entries > n_max - n) {
			rc = err_set(e, ENOSPC, "kvm: interrupt routing: more than %u entries", n_max);
		} else {
			memcpy(&vm->routes->entries[n], entries, n_entries * sizeof entries[0]);
			n += n_entries;
		}
	}
	if (rc == 0) {
		vm->routes->nr = n;
		vm->routes->flags = 0;
		rc = kvm_call(vm->fd, KVM_SET_GSI_ROUTING, vm->routes);
		if (rc < 0)
			(void)err_set_errno(e, -rc, "kvm: cannot set %u interrupt routes", n);
	}
	(void)pthread_mutex_unlock(&vm->routes_lock);
	return rc < 0 ? rc : 0;
}

static int set_irqfd(struct hv_vm *vm, int event_fd, uint32_t gsi, uint32_t flags, struct err *e)
{
	assert(event_fd >= 0);
	struct kvm_irqfd i = { .fd = (uint32_t)event_fd, .gsi = gsi, .flags = flags };
	int rc = kvm_call(vm->fd, KVM_IRQFD, &i);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot %s an event descriptor %s interrupt %u",
		                     flags & KVM_IRQFD_FLAG_DEASSIGN ? "detach" : "attach",
		                     flags & KVM_IRQFD_FLAG_DEASSIGN ? "from" : "to", gsi);
	return 0;
}

int hv_vm_irqfd(struct hv_vm *vm, int event_fd, uint32_t gsi, struct err *e)
{
	return set_irqfd(vm, event_fd, gsi, 0, e);
}

int hv_vm_irqfd_unset(struct hv_vm *vm, int event_fd, uint32_t gsi, struct err *e)
{
	return set_irqfd(vm, event_fd, gsi, KVM_IRQFD_FLAG_DEASSIGN, e);
}

int hv_vm_signal_msi(struct hv_vm *vm, const struct hv_msi *m)
{
	uint64_t address = kvm_arch_msi_address(vm, m->address);
	struct kvm_msi msi = {
		.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = m->data,
		.flags = m->device_id ? KVM_MSI_VALID_DEVID : 0,
		.devid = m->device_id,
	};
	return kvm_call(vm->fd, KVM_SIGNAL_MSI, &msi);
}

int hv_vm_irq_line(struct hv_vm *vm, uint32_t pin, bool level)
{
	assert(vm->irqchip == HV_IRQCHIP_KERNEL);
	struct kvm_irq_level line = { .irq = pin, .level = level };
	return kvm_call(vm->fd, KVM_IRQ_LINE, &line);
}

static int set_ioeventfd(struct hv_vm *vm, const struct hv_ioevent *i, uint32_t flags, struct err *e)
{
	assert(i->event_fd >= 0);
	assert(i->n_bytes <= 8 && (i->n_bytes == 0 || is_power_of_two(i->n_bytes)));
	assert(!(i->n_bytes == 0 && i->has_datamatch));
	const char *space = i->space == HV_SPACE_PORT ? "port" : "address";

	if (i->n_bytes == 0 && !vm->hv->has_any_length_ioeventfd)
		return err_set(e, ENOTSUP, "kvm: %s 0x%" PRIx64 ": this kernel has no events for writes of any width", space,
		               i->address);
	struct kvm_ioeventfd event = {
		.datamatch = i->has_datamatch ? i->datamatch : 0,
		.addr = i->address,
		.len = i->n_bytes,
		.fd = i->event_fd,
		.flags = flags | (i->has_datamatch ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0u) |
		         (i->space == HV_SPACE_PORT ? KVM_IOEVENTFD_FLAG_PIO : 0u),
	};
	int rc = kvm_call(vm->fd, KVM_IOEVENTFD, &event);
	if (rc < 0)
		return err_set_errno(e, -rc, "kvm: cannot %s an event descriptor %s %s 0x%" PRIx64,
		                     flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? "detach" : "attach",
		                     flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? "from" : "to", space, i->address);
	return 0;
}

int hv_vm_ioeventfd(struct hv_vm *vm, const struct hv_ioevent *i, struct err *e)
{
	return set_ioeventfd(vm, i, 0, e);
}

int hv_vm_ioeventfd_unset(struct hv_vm *vm, const struct hv_ioevent *i, struct err *e)
{
	return set_ioeventfd(vm, i, KVM_IOEVENTFD_FLAG_DEASSIGN, e);
}

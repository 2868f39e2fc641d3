/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that come and go while the guest runs. Theory of operation.
 *
 * Coming: what is the host's is opened and the device made while the guest runs; then the vCPUs pause (and all devices, when
 * this one brings memory) for the moment in which the function takes its place on the bus, and the guest is told by the event
 * device. Its BARs have addresses already, as at boot; a guest may give them others.
 *
 * Going is up to the guest. machine_remove_device() asks; the guest's driver lets go and writes to the eject register,
 * perhaps never. That write comes on a vCPU's thread, which cannot free what it is using: it posts a message, and the main
 * thread takes the device down, first what is in flight, while the guest goes on, then, with the vCPUs paused, the
 * function. The same happens when a guest ejects on its own account, but then nobody wanted the device gone for good: it is
 * back after a reboot. A machine that ends takes what was on its way out with it: after a reboot that is gone.
 *
 * A guest that is asked twice may eject twice, and the second time what is in the slot by then, which may be somebody
 * else's new device. So it is asked again only by a user who insists, long after it read the first time; such a slot is then
 * the last to be used again. What may be repeated is the interrupt, and is, until the guest has read what it means: a
 * guest that is still booting has no driver for it. */
#include "base/clock.h"
#include "config/devices.h"
#include "vm/machine_internal.h"
#include "vm/vmm.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_RETRY_NS (250 * NS_PER_MS)
#define LAST_RETRY_NS (8 * NS_PER_S)
#define ASK_AGAIN_NS (5 * NS_PER_S)

/* Outlives the machine while it is pending in the main loop. */
struct machine_ejection {
	struct loop_message message;
	struct machine *m; /* NULL: the machine is gone */
};

static unsigned slot_of(const struct attached *a)
{
	return virtio_pci_function(a->pci)->slot;
}

static struct attached *device_in_slot(struct machine *m, unsigned slot)
{
	list_for_each(l, &m->devices) {
		struct attached *a = list_entry(l, struct attached, link);
		if (a->pci && slot_of(a) == slot)
			return a;
	}
	return NULL;
}

/* For a moment: vCPUs, and where memory comes or goes all that could be in it. */
static bool hold(struct machine *m, bool with_devices)
{
	return with_devices ? machine_quiesce(m) : vcpus_pause(&m->vcpus);
}

static void go_on(struct machine *m, bool with_devices)
{
	if (with_devices)
		machine_resume(m);
	else
		vcpus_resume(&m->vcpus);
}

/* --- telling the guest -------------------------------------------------------------------------------------------------- */

static void on_retry(struct timer *t)
{
	struct machine *m = container_of(t, struct machine, retry);
	if (!pci_hotplug_unread(&m->hotplug))
		return;
	ged_raise(&m->ged, X86_GED_PCI_HOTPLUG);
	if (m->retry_ns < LAST_RETRY_NS)
		m->retry_ns *= 2;
	timer_set(m->p.loop, &m->retry, clock_now_ns() + m->retry_ns, on_retry);
}

static void tell_guest(struct machine *m)
{
	ged_raise(&m->ged, X86_GED_PCI_HOTPLUG);
	m->retry_ns = FIRST_RETRY_NS;
	timer_set(m->p.loop, &m->retry, clock_now_ns() + m->retry_ns, on_retry);
}

/* --- going -------------------------------------------------------------------------------------------------------------- */

/* Takes the device down, whose slot and id are free then, and tells whoever wants to know. */
static void finish_removal(struct machine *m, struct attached *a)
{
	char bdf[PCI_BDF_CHARS];
	unsigned slot = slot_of(a);
	char *id = a->id;
	bool was_asked_for = a->is_leaving;
	a->id = NULL; /* ours now; logs of the device may still point there */
	pci_device_bdf(virtio_pci_function(a->pci), bdf);

	virtio_device_reset(a->v); /* waits for what is in flight while the guest runs */
	bool brings_memory = a->memory.is_mapped;
	bool was_running = hold(m, brings_memory);
	virtio_pci_free(a->pci);
	a->pci = NULL;
	pci_hotplug_emptied(&m->hotplug, slot);
	machine_unmap_memory(m, a);
	if (was_running)
		go_on(m, brings_memory);
	machine_free_device(m, a);

	log_info(&m->log, "'%s' is removed from slot %u", id, slot);
	if (m->p.removed)
		m->p.removed(m->p.context, id, bdf, was_asked_for);
	free(id);
}

static void take_ejected(struct machine *m)
{
	uint32_t slots = pci_hotplug_take_ejected(&m->hotplug);
	for (unsigned slot = 0; slot < PCI_N_SLOTS; slot++) {
		struct attached *a = slots >> slot & 1 ? device_in_slot(m, slot) : NULL;
		if (a)
			finish_removal(m, a);
	}
}

static void on_message(struct loop_message *message)
{
	struct machine_ejection *x = container_of(message, struct machine_ejection, message);
	if (x->m)
		take_ejected(x->m);
	else
		free(x);
}

/* On a vCPU's thread. */
static void on_ejection(void *context)
{
	struct machine *m = context;
	loop_post(m->p.loop, &m->ejection->message, on_message);
}

/* --- life --------------------------------------------------------------------------------------------------------------- */

int machine_start_hotplug(struct machine *m, struct err *e)
{
	if (!m->has_pci || !m->x86.has_acpi)
		return 0;
	assert(m->p.loop);
	m->ejection = calloc(1, sizeof *m->ejection);
	if (!m->ejection)
		return err_set(e, ENOMEM, "no memory for PCI hotplug");
	m->ejection->m = m;
	pci_hotplug_init(&m->hotplug, &m->pci, on_ejection, m);
	m->has_hotplug = true;

	uint32_t removable = 0, used = 0;
	for (unsigned slot = 0; slot < PCI_N_SLOTS; slot++) {
		struct attached *a = device_in_slot(m, slot);
		used |= m->pci.slots[slot] ? 1u << slot : 0;
		removable |= a && a->kind ? 1u << slot : 0;
		if (removable >> slot & 1)
			pci_hotplug_filled(&m->hotplug, slot, false);
	}
	m->x86.fixed_slots = used & ~removable;
	struct bus_range r = {
		.start = X86_PCI_HOTPLUG,
		.n_bytes = PCI_HOTPLUG_BYTES,
		.ops = &pci_hotplug_bus_ops,
		.context = &m->hotplug,
		.name = "PCI hotplug",
	};
	return bus_add(&m->mmio, &r, e);
}

void machine_end_hotplug(struct machine *m)
{
	if (!m->has_hotplug)
		return;
	take_ejected(m);
	struct list_link *next;
	for (struct list_link *l = m->devices.next; l != &m->devices; l = next) {
		next = l->next;
		struct attached *a = list_entry(l, struct attached, link);
		if (a->is_leaving)
			finish_removal(m, a);
	}
	timer_cancel(&m->retry);
	if (atomic_load(&m->ejection->message.is_pending))
		m->ejection->m = NULL;
	else
		free(m->ejection);
	m->ejection = NULL;
	pci_hotplug_done(&m->hotplug);
	m->has_hotplug = false;
}

/* --- for the VM ----------------------------------------------------------------------------------------------------------- */

static int need_hotplug(const struct machine *m, struct err *e)
{
	return m->has_hotplug ? 0 : err_set(e, ENOTSUP, "hotplug needs PCI and ACPI (--machine transport=pci,acpi=on)");
}

static int check_id(struct machine *m, const char *id, struct err *e)
{
	const struct attached *a = machine_find_device(m, id);
	if (a && a->is_leaving)
		return err_set(e, EEXIST, "device '%s' is being removed: its id is free once the guest has let go of it", a->id);
	if (a)
		return err_set(e, EEXIST, "there is a device '%s' already", a->id);
	if (strlen(id) >= sizeof((struct pci_device_info *)NULL)->id)
		return err_set(e, EINVAL, "the id '%.32s...' is longer than %zu bytes", id,
		               sizeof((struct pci_device_info *)NULL)->id - 1);
	return 0;
}

enum device_presence machine_presence(struct machine *m, const char *id)
{
	const struct attached *a = machine_find_device(m, id);
	if (!a || strcmp(a->id, id) != 0)
		return DEVICE_ABSENT;
	return a->is_leaving ? DEVICE_LEAVING : DEVICE_THERE;
}

bool machine_takes(const char *member)
{
	return machine_find_kind(member) != NULL;
}

int machine_add_device(struct machine *m, const char *member, const void *config, struct pci_device_info *ret_info,
                       struct err *e)
{
	const struct device_kind *k = machine_find_kind(member);
	struct device_facts f;
	assert(k);
	vm_config_describe(member, config, &f);
	int rc = need_hotplug(m, e);
	if (rc >= 0)
		rc = k->refuse(config, e);
	if (rc >= 0)
		rc = check_id(m, f.id, e);
	int slot = rc < 0 ? rc : machine_choose_slot(m, f.slot, e);
	struct attached *a = NULL;
	rc = slot < 0 ? slot : machine_hosts_error(machine_open_device(m, k, f.id, config, &a, e), e);
	if (rc < 0)
		return rc;

	bool brings_memory = a->memory.n_bytes > 0;
	bool was_running = hold(m, brings_memory);
	rc = machine_hosts_error(machine_plug(m, a, slot, e), e);
	if (rc >= 0)
		pci_hotplug_filled(&m->hotplug, (unsigned)slot, true);
	else
		machine_free_device(m, a);
	if (was_running)
		go_on(m, brings_memory);
	else if (rc >= 0)
		virtio_device_pause(a->v); /* as the others are: they are resumed together */
	if (rc < 0)
		return rc;

	(void)snprintf(ret_info->id, sizeof ret_info->id, "%s", a->id);
	pci_device_bdf(virtio_pci_function(a->pci), ret_info->bdf);
	log_info(&m->log, "'%s' is added in slot %d", a->id, slot);
	tell_guest(m);
	return 0;
}

/* It is on its way out already. The guest is asked again when it has had its time: it may have refused. */
static int insist(struct machine *m, struct attached *a, struct err *e)
{
	unsigned slot = slot_of(a);
	if (!pci_hotplug_is_heard(&m->hotplug, slot) || clock_now_ns() - a->asked_ns < ASK_AGAIN_NS)
		return err_set(e, EBUSY, "device '%s' is being removed already: the guest has been asked for it", a->id);
	a->asked_ns = clock_now_ns();
	m->wary_slots |= 1u << slot;
	pci_hotplug_ask(&m->hotplug, slot);
	tell_guest(m);
	return err_set(e, EBUSY,
	               "device '%s' is being removed already, but the guest has not let go of it: it has been asked again", a->id);
}

int machine_remove_device(struct machine *m, const char *id, struct err *e)
{
	struct attached *a = machine_find_device(m, id);
	bool is_board = (m->has_serial && strcmp(id, "__serial") == 0) || (m->has_ioapic && strcmp(id, "__ioapic") == 0);
	if (!a && !is_board)
		return err_set(e, ENOENT, "there is no device '%s'", id);
	if (!a || !a->kind)
		return err_set(e, ENOTSUP, "device '%s' cannot be removed", id);
	int rc = need_hotplug(m, e);
	if (rc < 0)
		return rc;
	if (a->is_leaving)
		return insist(m, a, e);
	a->is_leaving = true;
	a->asked_ns = clock_now_ns();
	pci_hotplug_ask(&m->hotplug, slot_of(a));
	tell_guest(m);
	return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that devices bring: a place among the guest's addresses, a mapping, and a slot of the hypervisor's.
 *
 * The map of guest memory is read by every vCPU and every device's loop, without a lock: it changes only while all of them
 * are out (machine_quiesce()). A device that leaves takes its memory along, once nobody is in it any more. When the whole
 * machine ends, the mappings stay until all devices are gone: the I/O of one may be on its way to the memory of another. */
#include "base/checked.h"
#include "vm/machine_internal.h"

#include <errno.h>
#include <inttypes.h>

/* Slots of the hypervisor's behind those of RAM, which are numbered as its regions are. */
static unsigned slot_of(const struct device_memory *d)
{
	return (unsigned)(MEM_MAX_REGIONS + d->index);
}

/* Behind all that lie in the way of n_bytes at start, or start itself. */
static uint64_t step_over(const struct machine *m, uint64_t start, uint64_t n_bytes)
{
	list_for_each(l, &m->devices) {
		const struct device_memory *d = &list_entry(l, struct attached, link)->memory;
		uint64_t end = d->start.v + d->n_bytes;
		if (d->n_bytes && start < end && d->start.v < start + n_bytes)
			return align_up(end, DEVICE_MEMORY_ALIGN);
	}
	/* One whose device is gone, but which the engine did not let go of. */
	for (size_t i = 0; i < MEM_MAX_DEVICE_REGIONS; i++) {
		const struct mem_region *r = &m->mem.device_regions[i];
		if (r->n_bytes && start < r->start.v + r->n_bytes && r->start.v < start + n_bytes)
			return align_up(r->start.v + r->n_bytes, DEVICE_MEMORY_ALIGN);
	}
	return start;
}

int machine_place_memory(struct machine *m, struct attached *a, uint64_t n_bytes, struct err *e)
{
	uint64_t window = m->x86.device_memory.start, left = m->x86.device_memory.n_bytes, start, next = window;
	do {
		start = next;
		if (n_bytes > left || start - window > left - n_bytes)
			return err_set(e, ENOSPC,
			               "%s: no room for 0x%" PRIx64 " bytes among the 0x%" PRIx64 " bytes of guest addresses that "
			               "are for devices' memory", a->id, n_bytes, left);
		next = step_over(m, start, n_bytes);
	} while (next != start);
	a->memory.start = GPA(start);
	a->memory.n_bytes = n_bytes;
	return 0;
}

int machine_map_memory(struct machine *m, struct attached *a, struct err *e)
{
	struct device_memory *d = &a->memory;
	struct mem_device_params p = { .start = d->start, .n_bytes = d->n_bytes, .fd = d->fd, .is_private = d->is_private };
	if (d->n_bytes == 0)
		return 0;
	int rc = mem_map_add_device(&m->mem, &p, &d->index, e);
	if (rc < 0)
		return rc;
	rc = hv_vm_map(m->vm, slot_of(d), &m->mem.device_regions[d->index], false, false, e);
	if (rc < 0)
		mem_map_remove_device(&m->mem, d->index);
	d->is_mapped = rc >= 0;
	return rc;
}

void machine_unmap_memory(struct machine *m, struct attached *a)
{
	struct device_memory *d = &a->memory;
	struct err e;
	if (!d->is_mapped)
		return;
	d->is_mapped = false;
	/* With the slot still there the guest could go on, and so its memory must be. */
	if (hv_vm_unmap(m->vm, slot_of(d), &e) < 0)
		log_error(&m->log, "'%s' is gone, but its memory stays: %s", a->id ? a->id : "a device", e.text);
	else
		d->taken = mem_map_take_device(&m->mem, d->index);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The assembly, in one order from top to bottom: machine_new() reads like a list of parts. What the configuration may
 * not ask for yet is refused first, so that nothing half-made has to be explained. */
#include "vm/machine_internal.h"

#include "base/checked.h"
#include "base/text.h"

#include <errno.h>
#include <stdlib.h>

/* --- guest memory and the hypervisor's VM --------------------------------------------------------------------------- */

static int add_memory(struct machine *m, struct err *e)
{
	const struct memory_config *c = &m->p.config->memory;
	struct x86_ram_range ranges[2];
	size_t n;

	if (c->size == 0 || c->size % MEM_PAGE_BYTES)
		return err_set(e, EINVAL, "--memory: size=%llu: guest memory is a multiple of 4096 bytes, and not nothing",
		               (unsigned long long)c->size);
	x86_ram_layout(c->size, ranges, &n);
	enum machine_map_kernel map_kernel = m->p.config->machine.map_kernel;
	m->files.maps_written = map_kernel == MAP_KERNEL_ALL;
	if (m->p.lease_signal && map_kernel != MAP_KERNEL_OFF && !c->shared)
		m->mem.files = &m->files;
	for (size_t i = 0; i < n; i++) {
		struct mem_region_params p = {
			.start = ranges[i].start,
			.n_bytes = ranges[i].n_bytes,
			.is_shared = c->shared,
			.is_mergeable = c->mergeable,
			.has_thp = c->thp,
		};
		int rc = mem_map_add(&m->mem, &p, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Also without a PCI bus: the tables say where nothing else may go. */
static int place_pci(struct machine *m, struct err *e)
{
	const struct mem_region *last = &m->mem.regions[m->mem.n_regions - 1];
	unsigned n_phys_bits = x86_phys_bits(&m->supported, m->x86.max_phys_bits);
	return x86_pci_layout(last->start.v + last->n_bytes, n_phys_bits, &m->x86, e);
}

static int make_vm(struct machine *m, struct err *e)
{
	bool is_split = m->p.config->machine.irqchip == IRQCHIP_SPLIT;
	struct hv_vm_params p = {
		.irqchip = is_split ? HV_IRQCHIP_SPLIT : HV_IRQCHIP_KERNEL,
		.n_ioapic_pins = IRQ_N_PINS,
		.log = &m->log,
	};
	int rc = hv_vm_new(m->p.hv, &p, &m->vm, e);
	for (size_t i = 0; rc >= 0 && i < m->mem.n_regions; i++)
		rc = hv_vm_map(m->vm, (unsigned)i, &m->mem.regions[i], false, false, e);
	return rc;
}

/* --- interrupts and buses --------------------------------------------------------------------------------------------- */

static int add_bus(struct bus *b, uint64_t start, uint64_t n_bytes, const struct bus_ops *ops, void *context,
                   const char *name, struct err *e)
{
	struct bus_range r = { .start = start, .n_bytes = n_bytes, .ops = ops, .context = context, .name = name };
	return bus_add(b, &r, e);
}

static int make_interrupts(struct machine *m, struct err *e)
{
	bool is_split = m->p.config->machine.irqchip == IRQCHIP_SPLIT;
	int rc = irq_router_init(&m->router, m->vm, is_split ? HV_IRQCHIP_SPLIT : HV_IRQCHIP_KERNEL, &m->log, e);
	if (rc < 0)
		return rc;
	m->has_router = true;
	if (!is_split)
		return irq_commit(&m->router, e);

	rc = ioapic_init(&m->ioapic, &m->router, e);
	if (rc < 0)
		return rc;
	m->has_ioapic = true;
	return add_bus(&m->mmio, IOAPIC_ADDRESS, IOAPIC_BYTES, &ioapic_bus_ops, &m->ioapic, "ioapic", e);
}

static int make_pci(struct machine *m, struct err *e)
{
	struct pci_bus_params p = {
		.ecam = X86_ECAM,
		.low = { .start = X86_PCI_LOW_START, .n_bytes = X86_PCI_LOW_BYTES },
		.high = { .start = m->x86.pci.high_start, .n_bytes = m->x86.pci.high_bytes },
		.router = &m->router,
		.reset_control = &power_reset_control_ops,
		.reset_control_context = &m->power,
		.log = &m->log,
	};
	int rc = pci_bus_init(&m->pci, &p, &m->mmio, &m->ports, e);
	m->has_pci = rc >= 0;
	return rc;
}

/* --- devices that are not virtio ---------------------------------------------------------------------------------------- */

static void on_power_request(void *context, enum power_request what)
{
	struct machine *m = context;
	vcpus_end(&m->vcpus);
	m->p.event(m->p.context, what == POWER_OFF ? VCPU_POWEROFF : VCPU_RESET, NULL);
}

static int add_serial(struct machine *m, struct err *e)
{
	if (!m->p.serial)
		return 0;
	int rc = irq_line_init(&m->serial_line, &m->router, X86_PIN_SERIAL, false, e);
	if (rc < 0)
		return rc;
	serial_init(&m->serial, &m->serial_line, m->p.serial);
	m->has_serial = true;
	return add_bus(&m->ports, SERIAL_PORT_COM1, SERIAL_PORT_BYTES, &serial_bus_ops, &m->serial, "serial", e);
}

static int add_clock_and_power(struct machine *m, struct err *e)
{
	uint64_t n_low = m->mem.regions[0].n_bytes;
	struct rtc_params r = { .n_low_ram_bytes = n_low, .n_high_ram_bytes = m->mem.n_total_bytes - n_low };
	rtc_init(&m->rtc, &r);
	m->has_rtc = true;
	pm_timer_init(&m->pm_timer);
	power_init(&m->power, on_power_request, m);

	int rc = add_bus(&m->ports, RTC_PORT, RTC_PORT_BYTES, &rtc_bus_ops, &m->rtc, "rtc", e);
	if (rc >= 0)
		rc = add_bus(&m->ports, X86_PORT_PM_TIMER, PM_TIMER_PORT_BYTES, &pm_timer_bus_ops, &m->pm_timer, "pm timer", e);
	if (rc >= 0)
		rc = add_bus(&m->ports, X86_PORT_POWER, POWER_PORT_BYTES, &power_bus_ops, &m->power, "power", e);
	if (rc >= 0)
		rc = add_bus(&m->ports, POWER_KEYBOARD_PORT, POWER_KEYBOARD_PORT_BYTES, &power_keyboard_ops, &m->power,
		             "keyboard controller", e);
	if (rc >= 0 && !m->has_pci)
		rc = add_bus(&m->ports, POWER_RESET_CONTROL_PORT, POWER_RESET_CONTROL_PORT_BYTES, &power_reset_control_ops,
		             &m->power, "reset control", e);
	return rc;
}

static int add_debug_ports(struct machine *m, struct err *e)
{
	debug_port_init(&m->debug_port, &m->log);
	debug_console_init(&m->debug_console, NULL, &m->log);
	m->has_debug_console = true;
	int rc = add_bus(&m->ports, DEBUG_PORT, DEBUG_PORT_BYTES, &debug_port_bus_ops, &m->debug_port, "debug port", e);
	if (rc >= 0)
		rc = add_bus(&m->ports, DEBUG_CONSOLE_FIRMWARE_PORT, DEBUG_CONSOLE_PORT_BYTES, &debug_console_bus_ops,
		             &m->debug_console, "firmware debug console", e);
	if (rc >= 0)
		rc = add_bus(&m->ports, DEBUG_CONSOLE_PORT, DEBUG_CONSOLE_PORT_BYTES, &debug_console_bus_ops, &m->debug_console,
		             "debug console", e);
	return rc;
}

static int add_event_device(struct machine *m, struct err *e)
{
	if (!m->x86.has_acpi)
		return 0;
	int rc = irq_line_init(&m->ged_line, &m->router, X86_PIN_GED, false, e);
	if (rc < 0)
		return rc;
	ged_init(&m->ged, &m->ged_line);
	return add_bus(&m->mmio, X86_GED, GED_REGISTER_BYTES, &ged_bus_ops, &m->ged, "event device", e);
}

/* --- boot data and vCPUs ------------------------------------------------------------------------------------------------- */

static void describe(struct machine *m)
{
	const struct vm_config *c = m->p.config;
	m->x86 = (struct x86_machine){
		.n_vcpus = c->cpus.boot_vcpus,
		.topology = { 1, 1, 1, 1 },
		.max_phys_bits = c->cpus.max_phys_bits,
		.has_acpi = c->machine.acpi,
		.has_pci = c->machine.transport == TRANSPORT_PCI,
		.has_serial = m->p.serial != NULL,
		.has_split_irqchip = c->machine.irqchip == IRQCHIP_SPLIT,
	};
	if (c->cpus.has_topology)
		m->x86.topology = (struct x86_topology){
			.n_threads_per_core = c->cpus.topology.threads_per_core,
			.n_cores_per_die = c->cpus.topology.cores_per_die,
			.n_dies_per_package = c->cpus.topology.dies_per_package,
			.n_packages = c->cpus.topology.packages,
		};
}

static int load(struct machine *m, struct err *e)
{
	const struct payload_config *c = &m->p.config->payload;
	struct x86_payload p = { .kernel = c->kernel, .initramfs = c->initramfs, .cmdline = c->cmdline };
	return x86_boot_load(&m->mem, &p, &m->x86, &m->entry, e);
}

static void end_of_interrupt(void *interrupts, uint8_t vector)
{
	ioapic_end_of_interrupt(interrupts, vector);
}

static int make_vcpus(struct machine *m, struct err *e)
{
	struct vcpus_params p = {
		.vm = m->vm,
		.n = m->x86.n_vcpus,
		.engine_ids = m->apic_ids,
		.mmio = &m->mmio,
		.ports = &m->ports,
		.mem = &m->mem,
		.end_of_interrupt = m->has_ioapic ? end_of_interrupt : NULL,
		.interrupts = &m->ioapic,
		.event = m->p.event,
		.context = m->p.context,
		.log = &m->log,
	};
	if (p.n > hv_max_vcpus(m->p.hv))
		return err_set(e, EINVAL, "--cpus: boot=%u, but the hypervisor runs at most %u vCPUs", p.n, hv_max_vcpus(m->p.hv));
	for (unsigned i = 0; i < p.n; i++)
		m->apic_ids[i] = x86_apic_id(&m->x86, i);
	int rc = vcpus_init(&m->vcpus, &p, e);
	for (unsigned i = 0; rc >= 0 && i < p.n; i++) {
		rc = x86_cpuid_for(&m->supported, &m->x86, i, hv_tsc_khz(m->p.hv), &m->cpuid, e);
		if (rc >= 0)
			rc = x86_vcpu_setup(m->vcpus.all[i].hv, i, &m->cpuid, &m->entry, &m->mem, e);
	}
	return rc;
}

/* --- the whole ------------------------------------------------------------------------------------------------------------ */

static int assemble(struct machine *m, struct err *e)
{
	int rc = hv_supported_cpuid(m->p.hv, &m->supported, e);
	if (rc < 0)
		return rc;

	describe(m);
	rc = add_memory(m, e);
	if (rc >= 0)
		rc = place_pci(m, e);
	if (rc >= 0)
		rc = make_vm(m, e);
	if (rc >= 0)
		rc = make_interrupts(m, e);
	if (rc >= 0 && m->x86.has_pci)
		rc = make_pci(m, e);
	if (rc >= 0)
		rc = add_serial(m, e);
	if (rc >= 0)
		rc = add_clock_and_power(m, e);
	if (rc >= 0)
		rc = add_debug_ports(m, e);
	if (rc >= 0)
		rc = add_event_device(m, e);
	if (rc >= 0)
		rc = machine_make_limits(m, e);
	if (rc >= 0)
		rc = machine_add_virtio_devices(m, e);
	if (rc >= 0)
		rc = machine_start_hotplug(m, e);
	if (rc >= 0)
		rc = load(m, e);
	if (rc >= 0)
		rc = make_vcpus(m, e);
	return rc;
}

int machine_new(const struct machine_params *p, struct machine **ret_m, struct err *e)
{
	struct machine *m = calloc(1, sizeof *m);
	if (!m)
		return err_set(e, ENOMEM, "no memory for a machine");
	m->p = *p;
	m->log = (struct log){ .sink = p->log_sink, .object = "machine" };
	mem_map_init(&m->mem);
	mem_files_init(&m->files, p->lease_signal);
	bus_init(&m->mmio);
	bus_init(&m->ports);
	list_init(&m->devices);

	int rc = assemble(m, e);
	if (rc < 0) {
		machine_free(m);
		return rc;
	}
	*ret_m = m;
	return 0;
}

static int detach_serial(void *arg)
{
	serial_done(arg);
	return 0;
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	vcpus_stop(&m->vcpus);
	machine_end_hotplug(m);
	while (!list_is_empty(&m->devices))
		machine_free_device(m, list_entry(m->devices.prev, struct attached, link));
	machine_free_limits(m);
	if (m->has_serial)
		(void)loop_call(m->p.io_loop, detach_serial, &m->serial);
	if (m->has_rtc)
		rtc_done(&m->rtc);
	if (m->has_debug_console)
		debug_console_done(&m->debug_console);
	if (m->has_pci)
		pci_bus_done(&m->pci);
	irq_line_done(&m->serial_line);
	irq_line_done(&m->ged_line);
	if (m->has_ioapic)
		ioapic_done(&m->ioapic);
	if (m->has_router)
		irq_router_done(&m->router);
	vcpus_done(&m->vcpus);
	hv_vm_free(m->vm);
	bus_done(&m->mmio);
	bus_done(&m->ports);
	mem_map_done(&m->mem);
	mem_files_done(&m->files);
	free(m);
}

int machine_start(struct machine *m, struct err *e)
{
	return vcpus_start(&m->vcpus, e);
}

static void pause_devices(struct machine *m)
{
	list_for_each(l, &m->devices)
		virtio_device_pause(list_entry(l, struct attached, link)->v);
}

bool machine_quiesce(struct machine *m)
{
	bool was_running = vcpus_pause(&m->vcpus);
	pause_devices(m);
	return was_running;
}

void machine_pause(struct machine *m)
{
	(void)machine_quiesce(m);
}

void machine_resume(struct machine *m)
{
	list_for_each(l, &m->devices)
		virtio_device_resume(list_entry(l, struct attached, link)->v);
	vcpus_resume(&m->vcpus);
}

bool machine_power_button(struct machine *m)
{
	if (!m->x86.has_acpi)
		return false;
	ged_raise(&m->ged, X86_GED_POWER_BUTTON);
	return true;
}

int machine_nmi(struct machine *m, struct err *e)
{
	/* The engine looks at a vCPU's state only while it is out of the guest: an idle one would make us wait for ever. */
	bool was_running = vcpus_pause(&m->vcpus);
	int rc = 0;
	for (unsigned i = 0; rc >= 0 && i < m->vcpus.p.n; i++)
		rc = hv_vcpu_nmi(m->vcpus.all[i].hv, e);
	if (was_running)
		vcpus_resume(&m->vcpus);
	return rc;
}

/* Memory changes its pages. */
static int keep_files(struct machine *m, int (*keep)(struct mem_files *f))
{
	if (m->files.n_files == 0)
		return 0;
	bool was_running = machine_quiesce(m);
	int rc = keep(&m->files);
	if (was_running)
		machine_resume(m);
	return rc;
}

int machine_keep_files(struct machine *m)
{
	return keep_files(m, mem_files_keep);
}

int machine_settle_files(struct machine *m)
{
	return m->files.maps_written ? 0 : keep_files(m, mem_files_keep_piece);
}

void machine_counters(struct machine *m, struct text *t)
{
	/* The engine opens a vCPU's counters only while it is out of the guest: an idle guest would make us wait for ever. */
	bool was_running = vcpus_pause(&m->vcpus);
	for (unsigned i = 0; i < m->vcpus.p.n; i++) {
		text_appendf(t, "%s\n", m->vcpus.all[i].name);
		(void)hv_vcpu_stats(m->vcpus.all[i].hv, t);
	}
	if (was_running)
		vcpus_resume(&m->vcpus);
}

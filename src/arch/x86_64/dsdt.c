/* SPDX-License-Identifier: Apache-2.0 */
/* The devices that no bus can find, in AML. `iasl -d` shows it as text. */
#include "arch/x86_64/aml.h"
#include "bus/pci_hotplug.h"

#include <stdio.h>

#define SERIAL_PORT 0x3f8
#define RTC_PORT 0x70
#define PCI_CONFIG_PORT 0xcf8

/* What an object is told (ACPI 6.5, 5.6.6). */
#define NOTIFY_DEVICE_CHECK 1
#define NOTIFY_EJECT_REQUEST 3
#define NOTIFY_BUTTON_PRESSED 0x80

/* If (value & bits) */
static struct aml_mark if_bits(struct table_buffer *t, enum aml_op value, uint64_t bits)
{
	struct aml_mark m = aml_if(t);
	aml_op(t, AML_AND);
	aml_op(t, value);
	aml_integer(t, bits);
	aml_op(t, AML_NO_TARGET);
	return m;
}

static void put_notify(struct table_buffer *t, const char *object, uint64_t what)
{
	aml_op(t, AML_NOTIFY);
	aml_path(t, object);
	aml_integer(t, what);
}

/* The power button, and the generic event device that tells of it (ACPI 6.5, 4.8.2.2.1.2 and 5.6.9). */
static void put_events(struct table_buffer *t, const struct x86_machine *m)
{
	struct aml_mark button = aml_device(t, "PWRB");
	aml_name_eisa_id(t, "_HID", "PNP0C0C");
	aml_name_integer(t, "_UID", 0);
	aml_end(t, button);

	struct aml_mark device = aml_device(t, "GED_");
	aml_name_string(t, "_HID", "ACPI0013");
	aml_name_integer(t, "_UID", 0);
	aml_name(t, "_CRS");
	struct aml_mark resources = aml_resources(t);
	aml_interrupt_edge(t, X86_PIN_GED);
	aml_resources_end(t, resources);

	static const char *const registers[] = { "EVTS" };
	aml_memory_registers(t, "EREG", X86_GED, registers, 1);
	/* Reading takes the events, so once: Local0 = EVTS; If (Local0 & 1) { Notify(PWRB, 0x80) } ... */
	struct aml_mark method = aml_method(t, "_EVT", 1);
	aml_op(t, AML_STORE);
	aml_path(t, "EVTS");
	aml_op(t, AML_LOCAL0);
	struct aml_mark is_pressed = if_bits(t, AML_LOCAL0, X86_GED_POWER_BUTTON);
	put_notify(t, "\\_SB.PWRB", NOTIFY_BUTTON_PRESSED);
	aml_end(t, is_pressed);
	if (m->has_pci) {
		struct aml_mark is_hotplug = if_bits(t, AML_LOCAL0, X86_GED_PCI_HOTPLUG);
		aml_path(t, "\\_SB.PCI0.SCAN");
		aml_end(t, is_hotplug);
	}
	aml_end(t, method);
	aml_end(t, device);
}

static void put_legacy_devices(struct table_buffer *t, const struct x86_machine *m)
{
	struct aml_mark resources;
	if (m->has_serial) {
		struct aml_mark serial = aml_device(t, "COM1");
		aml_name_eisa_id(t, "_HID", "PNP0501");
		aml_name_integer(t, "_UID", 0);
		aml_name(t, "_CRS");
		resources = aml_resources(t);
		aml_port(t, SERIAL_PORT, 8);
		aml_interrupt_edge(t, X86_PIN_SERIAL);
		aml_resources_end(t, resources);
		aml_end(t, serial);
	}

	/* It has no interrupt. */
	struct aml_mark rtc = aml_device(t, "RTC_");
	aml_name_eisa_id(t, "_HID", "PNP0B00");
	aml_name(t, "_CRS");
	resources = aml_resources(t);
	aml_port(t, RTC_PORT, 2);
	aml_resources_end(t, resources);
	aml_end(t, rtc);
}

static void put_virtio_devices(struct table_buffer *t, const struct x86_machine *m)
{
	for (unsigned i = 0; i < m->n_mmio; i++) {
		const struct x86_mmio_device *d = &m->mmio[i];
		char name[5];
		(void)snprintf(name, sizeof name, "VR%02X", i & 0xffu);

		struct aml_mark device = aml_device(t, name);
		aml_name_string(t, "_HID", "LNRO0005"); /* Linux's virtio_mmio */
		aml_name_integer(t, "_UID", i);
		aml_name_integer(t, "_CCA", 1);
		aml_name(t, "_CRS");
		struct aml_mark resources = aml_resources(t);
		aml_memory32(t, (uint32_t)d->address, (uint32_t)d->n_bytes);
		aml_interrupt_edge(t, d->pin);
		aml_resources_end(t, resources);
		aml_end(t, device);
	}
}

/* What the guest's PCI code may take charge of (PCI Firmware 3.3, 4.5). Of the features that it could ask for there is
 * one, the control over PCI Express capability structures: there is no firmware that would want it. */
static void put_osc(struct table_buffer *t)
{
	const uint64_t capability_control = 0x10;
	const uint64_t unknown_uuid = 0x04, unknown_revision = 0x08, is_masked = 0x10;

	struct aml_mark method = aml_method(t, "_OSC", 4);
	aml_create_dword_field(t, AML_ARG3, 0, "CDW1");
	struct aml_mark is_ours = aml_if(t);
	aml_op(t, AML_EQUAL);
	aml_op(t, AML_ARG0);
	aml_uuid(t, "33db4d5b-1ff7-401c-9657-7441c03dd766");
	{
		aml_create_dword_field(t, AML_ARG3, 8, "CDW3");
		aml_op(t, AML_AND); /* Local0 = CDW3 & capability_control */
		aml_path(t, "CDW3");
		aml_integer(t, capability_control);
		aml_op(t, AML_LOCAL0);

		struct aml_mark is_other = aml_if(t);
		aml_op(t, AML_NOT);
		aml_op(t, AML_EQUAL);
		aml_op(t, AML_ARG1);
		aml_integer(t, 1);
		aml_op(t, AML_OR); /* CDW1 |= unknown_revision */
		aml_path(t, "CDW1");
		aml_integer(t, unknown_revision);
		aml_path(t, "CDW1");
		aml_end(t, is_other);

		struct aml_mark is_more = aml_if(t);
		aml_op(t, AML_NOT);
		aml_op(t, AML_EQUAL);
		aml_path(t, "CDW3");
		aml_op(t, AML_LOCAL0);
		aml_op(t, AML_OR); /* CDW1 |= is_masked */
		aml_path(t, "CDW1");
		aml_integer(t, is_masked);
		aml_path(t, "CDW1");
		aml_end(t, is_more);

		aml_op(t, AML_STORE);
		aml_op(t, AML_LOCAL0);
		aml_path(t, "CDW3");
	}
	aml_end(t, is_ours);
	struct aml_mark is_not_ours = aml_else(t);
	aml_op(t, AML_OR);
	aml_path(t, "CDW1");
	aml_integer(t, unknown_uuid);
	aml_path(t, "CDW1");
	aml_end(t, is_not_ours);
	aml_op(t, AML_RETURN);
	aml_op(t, AML_ARG3);
	aml_end(t, method);
}

/* INTA of each slot (6.2.13): devices have one function, and one pin. Guests read the whole list once for each device
 * that they turn on, so it has no entries for pins that do not exist. */
static void put_prt(struct table_buffer *t)
{
	aml_name(t, "_PRT");
	struct aml_mark all = aml_package(t, PCI_N_SLOTS);
	for (unsigned slot = 0; slot < PCI_N_SLOTS; slot++) {
		struct aml_mark one = aml_package(t, 4);
		aml_integer(t, slot << 16 | 0xffff); /* any function */
		aml_integer(t, 0);                   /* INTA */
		aml_integer(t, 0);                   /* no link device: what follows is a GSI */
		aml_integer(t, X86_PIN_PCI_INTX + slot % X86_N_PCI_INTX);
		aml_end(t, one);
	}
	aml_end(t, all);
}

/* --- PCI hotplug: the guest's half of bus/pci_hotplug.c ------------------------------------------------------------ */

/* The registers, and EJCT(slots, segment), which lets go. The mutex is around the choice of a segment and its use. */
static void put_hotplug_registers(struct table_buffer *t)
{
	static const char *const registers[] = { "PCIU", "PCID", "B0EJ", "PSEG" };

	struct aml_mark device = aml_device(t, "PHPR");
	aml_name_eisa_id(t, "_HID", "PNP0A06");
	aml_name_string(t, "_UID", "PCI hotplug");
	aml_name(t, "_CRS");
	struct aml_mark resources = aml_resources(t);
	aml_memory32(t, (uint32_t)X86_PCI_HOTPLUG, PCI_HOTPLUG_BYTES);
	aml_resources_end(t, resources);
	aml_memory_registers(t, "PREG", X86_PCI_HOTPLUG, registers, sizeof registers / sizeof registers[0]);
	aml_mutex(t, "PLCK");

	struct aml_mark eject = aml_method(t, "EJCT", 2);
	aml_acquire(t, "PLCK");
	aml_op(t, AML_STORE);
	aml_op(t, AML_ARG1);
	aml_path(t, "PSEG");
	aml_op(t, AML_STORE);
	aml_op(t, AML_ARG0);
	aml_path(t, "B0EJ");
	aml_release(t, "PLCK");
	aml_end(t, eject);
	aml_end(t, device);
}

static const char *name_of_slot(unsigned slot, char ret_name[5])
{
	(void)snprintf(ret_name, 5, "S%03u", slot & 0x1fu);
	return ret_name;
}

/* Slots are there for good, occupied or not; a guest finds out by their functions' configuration space. The host bridge's
 * is none, and those of devices that stay have no ejection, which tells a guest that they are not for hotplug (6.3.3). */
static void put_slots(struct table_buffer *t, const struct x86_machine *m)
{
	char name[5];

	for (unsigned slot = 1; slot < PCI_N_SLOTS; slot++) {
		struct aml_mark device = aml_device(t, name_of_slot(slot, name));
		aml_name_integer(t, "_ADR", slot << 16);
		aml_name_integer(t, "_SUN", slot);
		if (!(m->fixed_slots >> slot & 1)) {
			struct aml_mark eject = aml_method(t, "_EJ0", 1);
			aml_path(t, "\\_SB.PHPR.EJCT");
			aml_integer(t, 1u << slot);
			aml_integer(t, 0); /* the bridge's _SEG */
			aml_end(t, eject);
		}
		aml_end(t, device);
	}
}

/* Local0 = register; TELL(Local0, what): reading takes the bits, so once. */
static void put_tell(struct table_buffer *t, const char *slots, uint64_t what)
{
	aml_op(t, AML_STORE);
	aml_path(t, slots);
	aml_op(t, AML_LOCAL0);
	aml_path(t, "TELL");
	aml_op(t, AML_LOCAL0);
	aml_integer(t, what);
}

/* TELL(slots, what) notifies each slot; SCAN() asks the registers for news and passes it on: first what came, then what is
 * to go. */
static void put_scan(struct table_buffer *t, const struct x86_machine *m)
{
	char name[5];

	struct aml_mark tell = aml_method(t, "TELL", 2);
	for (unsigned slot = 1; slot < PCI_N_SLOTS; slot++) {
		if (m->fixed_slots >> slot & 1)
			continue;
		struct aml_mark is_meant = if_bits(t, AML_ARG0, 1u << slot);
		aml_op(t, AML_NOTIFY);
		aml_path(t, name_of_slot(slot, name));
		aml_op(t, AML_ARG1);
		aml_end(t, is_meant);
	}
	aml_end(t, tell);

	struct aml_mark scan = aml_method(t, "SCAN", 0);
	aml_acquire(t, "\\_SB.PHPR.PLCK");
	aml_op(t, AML_STORE);
	aml_integer(t, 0);
	aml_path(t, "\\_SB.PHPR.PSEG");
	put_tell(t, "\\_SB.PHPR.PCIU", NOTIFY_DEVICE_CHECK);
	put_tell(t, "\\_SB.PHPR.PCID", NOTIFY_EJECT_REQUEST);
	aml_release(t, "\\_SB.PHPR.PLCK");
	aml_end(t, scan);
}

static void put_pci(struct table_buffer *t, const struct x86_machine *m)
{
	put_hotplug_registers(t);
	struct aml_mark bridge = aml_device(t, "PCI0");
	aml_name_eisa_id(t, "_HID", "PNP0A08");
	aml_name_eisa_id(t, "_CID", "PNP0A03");
	aml_name_integer(t, "_UID", 0);
	aml_name_integer(t, "_SEG", 0);
	aml_name_integer(t, "_BBN", 0);
	aml_name_integer(t, "_CCA", 1);
	aml_name(t, "_CRS");
	struct aml_mark resources = aml_resources(t);
	aml_bus_numbers(t, 0, 0);
	aml_port(t, PCI_CONFIG_PORT, 8);
	aml_port_window(t, 0, PCI_CONFIG_PORT - 1);
	aml_port_window(t, PCI_CONFIG_PORT + 8, 0xffff);
	aml_memory_window32(t, (uint32_t)m->pci.low_start, (uint32_t)(m->pci.low_start + m->pci.low_bytes - 1));
	if (m->pci.high_bytes)
		aml_memory_window64(t, m->pci.high_start, m->pci.high_start + m->pci.high_bytes - 1);
	aml_resources_end(t, resources);
	put_osc(t);
	put_prt(t);
	put_slots(t, m);
	put_scan(t, m);
	aml_end(t, bridge);

	/* The configuration space, which a guest uses only when it is reserved (PCI Firmware 3.3, 4.1.2). */
	struct aml_mark board = aml_device(t, "MBRD");
	aml_name_eisa_id(t, "_HID", "PNP0C02");
	aml_name_integer(t, "_UID", 0);
	aml_name(t, "_CRS");
	resources = aml_resources(t);
	aml_memory32(t, (uint32_t)m->pci.ecam, (uint32_t)X86_ECAM_BYTES);
	aml_resources_end(t, resources);
	aml_end(t, board);
}

void dsdt_build(struct table_buffer *t, const struct x86_machine *m)
{
	/* Soft off: its type is what X86_POWER_S5 has in SLP_TYP. */
	_Static_assert(X86_POWER_S5 == (5 << 2 | 0x20), "SLP_TYP, SLP_EN");
	aml_name(t, "\\_S5");
	struct aml_mark s5 = aml_package(t, 4);
	aml_integer(t, 5);
	aml_integer(t, 5);
	aml_integer(t, 0);
	aml_integer(t, 0);
	aml_end(t, s5);

	struct aml_mark system_bus = aml_scope(t, "\\_SB");
	put_legacy_devices(t, m);
	if (m->has_pci)
		put_pci(t, m);
	put_events(t, m);
	put_virtio_devices(t, m);
	aml_end(t, system_bus);
}

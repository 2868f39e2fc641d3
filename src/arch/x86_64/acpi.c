/* SPDX-License-Identifier: Apache-2.0 */
/* The ACPI tables of a hardware-reduced machine (ACPI 6.5, 4.1 and 5.2), all in one piece from X86_ACPI:
 *
 *	RSDP -> XSDT -> FADT -> DSDT
 *	             -> MADT
 *	             -> MCFG (with PCI)
 *
 * There are no processor objects in the DSDT. The MADT is enough to start vCPUs, and a guest that finds none leaves
 * idling to its paravirtual code instead of an ACPI driver that knows only HLT. */
#include "arch/x86_64/ioapic.h"
#include "arch/x86_64/tables.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>

#define OEM_ID "VARAN "
#define OEM_TABLE_ID "VARANVM "
#define CREATOR_ID "VRAN"
#define HYPERVISOR_VENDOR_ID "VARAN   "
#define HEADER_BYTES 36u
#define RSDP_BYTES 36u
#define RSDP_V1_BYTES 20u
#define TABLE_ALIGN 16u
#define AREA_BYTES (X86_SMBIOS - X86_ACPI)
#define LAPIC_ADDRESS 0xfee00000u

/* 5.2.9 FADT: offsets, so that the many fields that hardware-reduced machines lack need not be spelt out. */
#define FADT_BYTES 276u
#define FADT_DSDT 40
#define FADT_CENTURY 108
#define FADT_IAPC_BOOT_ARCH 109
#define FADT_FLAGS 112
#define FADT_RESET_REG 116
#define FADT_RESET_VALUE 128
#define FADT_MINOR_VERSION 131
#define FADT_X_DSDT 140
#define FADT_PM_TMR_BLK 76
#define FADT_PM_TMR_LEN 91
#define FADT_X_PM_TMR_BLK 208
#define FADT_SLEEP_CONTROL_REG 244
#define FADT_SLEEP_STATUS_REG 256
#define FADT_HYPERVISOR_VENDOR 268

#define FADT_WBINVD (1u << 0)
#define FADT_PROC_C1 (1u << 2)
#define FADT_PWR_BUTTON (1u << 4) /* not a fixed feature */
#define FADT_SLP_BUTTON (1u << 5) /* likewise */
#define FADT_FIX_RTC (1u << 6)    /* its wake status is not in fixed registers */
#define FADT_TMR_VAL_EXT (1u << 8)
#define FADT_RESET_REG_SUP (1u << 10)
#define FADT_HEADLESS (1u << 12)
#define FADT_HW_REDUCED_ACPI (1u << 20)

/* 5.2.9.3: there is no keyboard controller (bit 1), MSIs work (bit 3), there is a CMOS clock (bit 5). */
#define BOOT_LEGACY_DEVICES (1u << 0)
#define BOOT_VGA_NOT_PRESENT (1u << 2)
#define BOOT_PCIE_ASPM_CONTROLS (1u << 4) /* leave link power management alone */

#define RTC_CENTURY 0x32 /* the clock's register, as in PCs */

struct acpi {
	struct table_buffer t;
	uint64_t tables[8]; /* for the XSDT */
	unsigned n_tables;
};

static uint64_t address_of(size_t offset)
{
	return X86_ACPI + offset;
}

/* 5.2.6: length and checksum are filled in by end_table(). */
static size_t begin_table(struct table_buffer *t, const char *signature, uint8_t revision)
{
	table_align(t, TABLE_ALIGN);
	size_t at = t->n_bytes;
	table_put(t, signature, 4);
	table_put32(t, 0);
	table_put8(t, revision);
	table_put8(t, 0);
	table_put(t, OEM_ID, 6);
	table_put(t, OEM_TABLE_ID, 8);
	table_put32(t, 1);
	table_put(t, CREATOR_ID, 4);
	table_put32(t, 1);
	return at;
}

static void end_table(struct table_buffer *t, size_t at)
{
	if (t->is_overfull)
		return;
	size_t n = t->n_bytes - at;
	assert(n >= HEADER_BYTES);
	put_le32(t->bytes + at + 4, (uint32_t)n);
	t->bytes[at + 9] = table_checksum(t->bytes + at, n);
}

static void list_table(struct acpi *a, size_t at)
{
	assert(a->n_tables < sizeof a->tables / sizeof a->tables[0]);
	a->tables[a->n_tables++] = address_of(at);
}

/* 5.2.3.2 Generic Address Structure: a port. */
static void put_port_gas(uint8_t *p, uint8_t n_bits, uint8_t access_size, uint16_t port)
{
	p[0] = 1; /* system I/O space */
	p[1] = n_bits;
	p[2] = 0;
	p[3] = access_size;
	put_le64(p + 4, port);
}

static void build_fadt(struct acpi *a, size_t dsdt)
{
	size_t at = begin_table(&a->t, "FACP", 6);
	uint8_t *p = table_grow(&a->t, FADT_BYTES - HEADER_BYTES);
	if (!p)
		return;
	p -= HEADER_BYTES;
	put_le32(p + FADT_DSDT, (uint32_t)address_of(dsdt));
	put_le64(p + FADT_X_DSDT, address_of(dsdt));
	p[FADT_MINOR_VERSION] = 5;
	p[FADT_CENTURY] = RTC_CENTURY;
	put_le16(p + FADT_IAPC_BOOT_ARCH, BOOT_LEGACY_DEVICES | BOOT_VGA_NOT_PRESENT | BOOT_PCIE_ASPM_CONTROLS);
	put_le32(p + FADT_FLAGS, FADT_WBINVD | FADT_PROC_C1 | FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_FIX_RTC |
	                             FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP | FADT_HEADLESS | FADT_HW_REDUCED_ACPI);
	put_port_gas(p + FADT_RESET_REG, 8, 1, X86_PORT_POWER);
	p[FADT_RESET_VALUE] = X86_POWER_RESET;
	put_port_gas(p + FADT_SLEEP_CONTROL_REG, 8, 1, X86_PORT_POWER);
	put_port_gas(p + FADT_SLEEP_STATUS_REG, 8, 1, X86_PORT_POWER);
	put_le32(p + FADT_PM_TMR_BLK, X86_PORT_PM_TIMER);
	p[FADT_PM_TMR_LEN] = 4;
	put_port_gas(p + FADT_X_PM_TMR_BLK, 32, 3, X86_PORT_PM_TIMER);
	memcpy(p + FADT_HYPERVISOR_VENDOR, HYPERVISOR_VENDOR_ID, 8);
	end_table(&a->t, at);
	list_table(a, at);
}

/* 5.2.12. An APIC ID below 255 has to be in an entry of the older kind. ISA interrupts are on the pins of their
 * numbers with ISA's polarity and trigger mode, which is what a guest assumes when no entry says otherwise. */
static void build_madt(struct acpi *a, const struct x86_machine *m)
{
	struct table_buffer *t = &a->t;
	size_t at = begin_table(t, "APIC", 5);
	table_put32(t, LAPIC_ADDRESS);
	table_put32(t, 0); /* no pair of 8259s */

	for (unsigned i = 0; i < m->n_vcpus; i++) {
		uint32_t id = x86_apic_id(m, i);
		if (id < 255) { /* the index is never above it */
			table_put8(t, 0); /* processor local APIC */
			table_put8(t, 8);
			table_put8(t, (uint8_t)i);
			table_put8(t, (uint8_t)id);
			table_put32(t, 1); /* enabled */
		} else {
			table_put8(t, 9); /* processor local x2APIC */
			table_put8(t, 16);
			table_put16(t, 0);
			table_put32(t, id);
			table_put32(t, 1);
			table_put32(t, i);
		}
	}
	table_put8(t, 1); /* I/O APIC; its ID only has to differ from other I/O APICs' */
	table_put8(t, 12);
	table_put8(t, 0);
	table_put8(t, 0);
	table_put32(t, (uint32_t)IOAPIC_ADDRESS);
	table_put32(t, 0); /* first GSI */

	table_put8(t, 4); /* local APIC NMI: LINT1 of every processor */
	table_put8(t, 6);
	table_put8(t, 0xff);
	table_put16(t, 0);
	table_put8(t, 1);
	end_table(t, at);
	list_table(a, at);
}

/* PCI Firmware 3.3, 4.1.2: one segment with one bus. */
static void build_mcfg(struct acpi *a, const struct x86_machine *m)
{
	struct table_buffer *t = &a->t;
	size_t at = begin_table(t, "MCFG", 1);
	table_put64(t, 0);
	table_put64(t, m->pci.ecam);
	table_put16(t, 0); /* segment */
	table_put8(t, 0);  /* first bus */
	table_put8(t, 0);  /* last bus */
	table_put32(t, 0);
	end_table(t, at);
	list_table(a, at);
}

/* 5.2.5.3; its place was left free at the start. */
static void fill_rsdp(struct acpi *a, size_t xsdt)
{
	uint8_t *p = a->t.bytes;
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, OEM_ID, 6);
	p[15] = 2;
	put_le32(p + 20, RSDP_BYTES);
	put_le64(p + 24, address_of(xsdt));
	p[8] = table_checksum(p, RSDP_V1_BYTES);
	p[32] = table_checksum(p, RSDP_BYTES);
}

static void build_all(struct acpi *a, const struct x86_machine *m)
{
	(void)table_grow(&a->t, RSDP_BYTES);
	size_t dsdt = begin_table(&a->t, "DSDT", 2);
	dsdt_build(&a->t, m);
	end_table(&a->t, dsdt);

	build_fadt(a, dsdt);
	build_madt(a, m);
	if (m->has_pci)
		build_mcfg(a, m);

	size_t xsdt = begin_table(&a->t, "XSDT", 1);
	for (unsigned i = 0; i < a->n_tables; i++)
		table_put64(&a->t, a->tables[i]);
	end_table(&a->t, xsdt);
	if (!a->t.is_overfull)
		fill_rsdp(a, xsdt);
}

int acpi_write(const struct mem_map *mem, const struct x86_machine *m, struct err *e)
{
	free_scoped uint8_t *bytes = malloc(AREA_BYTES);
	if (!bytes)
		return err_set(e, ENOMEM, "acpi: no memory for the tables");
	struct acpi a = { .t = { .bytes = bytes, .n_capacity = AREA_BYTES } };

	build_all(&a, m);
	if (a.t.is_overfull)
		return err_set(e, ENOSPC, "acpi: the tables of %u vCPUs do not fit in %u bytes", m->n_vcpus,
		               (unsigned)AREA_BYTES);
	bool is_ram = mem_write(mem, GPA(X86_ACPI), a.t.bytes, a.t.n_bytes);
	assert(is_ram);
	return 0;
}

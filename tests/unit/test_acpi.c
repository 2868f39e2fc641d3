/* SPDX-License-Identifier: Apache-2.0 */
/* The firmware tables: ACPI (also as iasl sees them), SMBIOS, the MP table. */
#include "arch/x86_64/aml.h"
#include "arch/x86_64/tables.h"
#include "boot_kit.h"

#include <fcntl.h>
#include <sys/wait.h>

static uint8_t sum_of(const uint8_t *bytes, size_t n)
{
	return (uint8_t)-table_checksum(bytes, n);
}

static struct mem_map tables_of(const struct x86_machine *m)
{
	struct mem_map mem = kit_map(2 * MIB, 0);
	struct err e = { 0 };
	if (acpi_write(&mem, m, &e) < 0)
		test_fail(__FILE__, __LINE__, "acpi_write: %s", e.text);
	return mem;
}

/* A whole table, its checksum checked; the caller frees it. */
static uint8_t *read_table(const struct mem_map *mem, uint64_t gpa, size_t *ret_n)
{
	size_t n = (size_t)kit_read_le(mem, gpa + 4, 4);
	OK(n >= 36 && gpa >= X86_ACPI && gpa + n <= X86_SMBIOS);
	uint8_t *p = malloc(n);
	OK(p);
	kit_read(mem, gpa, p, n);
	EQ(sum_of(p, n), 0);
	MEM_EQ(p + 10, "VARAN ", 6);
	*ret_n = n;
	return p;
}

static uint64_t xsdt_address(const struct mem_map *mem)
{
	uint8_t rsdp[36];
	kit_read(mem, X86_ACPI, rsdp, sizeof rsdp);
	MEM_EQ(rsdp, "RSD PTR ", 8);
	EQ(sum_of(rsdp, 20), 0);
	EQ(sum_of(rsdp, 36), 0);
	EQ(rsdp[15], 2);
	EQ(get_le32(rsdp + 20), 36);
	return get_le64(rsdp + 24);
}

/* NULL when the XSDT does not list it. */
static uint8_t *find_table(const struct mem_map *mem, const char *signature, size_t *ret_n)
{
	size_t n;
	uint8_t *xsdt = read_table(mem, xsdt_address(mem), &n), *found = NULL;
	MEM_EQ(xsdt, "XSDT", 4);
	for (size_t at = 36; at + 8 <= n; at += 8) {
		uint64_t gpa = get_le64(xsdt + at);
		char here[5] = { 0 };
		kit_read(mem, gpa, here, 4);
		EQ(gpa % 16, 0);
		if (strcmp(here, signature) == 0) {
			OK(!found);
			found = read_table(mem, gpa, ret_n);
		}
	}
	free(xsdt);
	return found;
}

static uint8_t *find_dsdt(const struct mem_map *mem, size_t *ret_n)
{
	size_t n;
	uint8_t *fadt = find_table(mem, "FACP", &n);
	OK(fadt);
	uint64_t gpa = get_le64(fadt + 140);
	EQ(get_le32(fadt + 40), gpa);
	free(fadt);
	uint8_t *dsdt = read_table(mem, gpa, ret_n);
	MEM_EQ(dsdt, "DSDT", 4);
	return dsdt;
}

TEST(the_fadt_says_hardware_reduced_with_its_ports)
{
	struct x86_machine m = kit_machine(1);
	struct mem_map mem = tables_of(&m);
	size_t n;
	uint8_t *p = find_table(&mem, "FACP", &n);
	OK(p);
	EQ(n, 276);
	EQ(p[8], 6);
	uint32_t flags = get_le32(p + 112);
	EQ(flags >> 20 & 1, 1); /* HW_REDUCED_ACPI */
	EQ(flags >> 10 & 1, 1); /* RESET_REG_SUP */
	EQ(flags >> 8 & 1, 1);  /* TMR_VAL_EXT */
	EQ(flags >> 4 & 1, 1);  /* the button is a device */
	EQ(get_le16(p + 109) & 0x2e, 0x04); /* no VGA; no 8042, MSIs and the CMOS clock are there */
	const uint8_t power[12] = { 1, 8, 0, 1, 0x00, 0x06 };
	MEM_EQ(p + 116, power, 12);
	EQ(p[128], 1);
	MEM_EQ(p + 244, power, 12);
	MEM_EQ(p + 256, power, 12);
	const uint8_t timer[12] = { 1, 32, 0, 3, 0x08, 0x06 };
	MEM_EQ(p + 208, timer, 12);
	MEM_EQ(p + 268, "VARAN   ", 8);
	free(p);
	mem_map_done(&mem);
}

TEST(the_madt_lists_every_vcpu_once)
{
	struct x86_machine m = kit_machine(300);
	struct mem_map mem = tables_of(&m);
	size_t n;
	uint8_t *p = find_table(&mem, "APIC", &n);
	unsigned n_cpus = 0, n_ioapics = 0, n_nmis = 0;
	OK(p);
	EQ(get_le32(p + 36), 0xfee00000);
	for (size_t at = 44; at < n; at += p[at + 1]) {
		OK(p[at + 1] >= 6 && at + p[at + 1] <= n);
		switch (p[at]) {
		case 0:
			EQ(p[at + 2], n_cpus);
			EQ(p[at + 3], n_cpus);
			OK(n_cpus < 255);
			EQ(get_le32(p + at + 4), 1);
			n_cpus++;
			break;
		case 9:
			EQ(get_le32(p + at + 4), n_cpus);
			EQ(get_le32(p + at + 12), n_cpus);
			OK(n_cpus >= 255);
			n_cpus++;
			break;
		case 1:
			EQ(get_le32(p + at + 4), 0xfec00000);
			EQ(get_le32(p + at + 8), 0);
			n_ioapics++;
			break;
		case 4:
			n_nmis++;
			EQ(p[at + 5], 1);
			break;
		default:
			test_fail(__FILE__, __LINE__, "entry of type %u", p[at]);
		}
	}
	EQ(n_cpus, 300);
	EQ(n_ioapics, 1);
	EQ(n_nmis, 1);
	free(p);
	mem_map_done(&mem);
}

TEST(the_madt_uses_packed_apic_ids)
{
	struct x86_machine m = kit_machine(6);
	m.topology = (struct x86_topology){ 1, 3, 1, 2 };
	struct mem_map mem = tables_of(&m);
	const uint8_t ids[6] = { 0, 1, 2, 4, 5, 6 };
	size_t n;
	uint8_t *p = find_table(&mem, "APIC", &n);
	for (size_t i = 0; i < 6; i++)
		EQ(p[44 + 8 * i + 3], ids[i]);
	free(p);
	mem_map_done(&mem);
}

TEST(apic_ids_above_254_are_x2apic_entries)
{
	struct x86_machine m = kit_machine(255);
	m.topology = (struct x86_topology){ 5, 51, 1, 1 };
	struct mem_map mem = tables_of(&m);
	unsigned n_old = 0, n_new = 0;
	size_t n;
	uint8_t *p = find_table(&mem, "APIC", &n);
	OK(p);
	for (size_t at = 44; at < n; at += p[at + 1]) {
		OK(p[at + 1] >= 6 && at + p[at + 1] <= n);
		unsigned i = n_old + n_new, id = i / 5 << 3 | i % 5;
		if (p[at] == 0) {
			EQ(p[at + 1], 8);
			EQ(p[at + 2], i);
			EQ(p[at + 3], id);
			EQ(get_le32(p + at + 4), 1);
			n_old++;
		} else if (p[at] == 9) {
			EQ(p[at + 1], 16);
			EQ(get_le32(p + at + 4), id);
			EQ(get_le32(p + at + 8), 1);
			EQ(get_le32(p + at + 12), i);
			n_new++;
		}
	}
	EQ(n_old, 160); /* 32 cores */
	EQ(n_new, 95);
	free(p);
	mem_map_done(&mem);
}

TEST(the_mcfg_is_there_with_pci_only)
{
	struct x86_machine m = kit_machine(1);
	struct mem_map mem = tables_of(&m);
	size_t n;
	uint8_t *p = find_table(&mem, "MCFG", &n);
	OK(p);
	EQ(n, 60);
	EQ(get_le64(p + 44), X86_ECAM);
	EQ(get_le64(p + 52), 0);
	free(p);
	mem_map_done(&mem);

	m.has_pci = false;
	mem = tables_of(&m);
	OK(!find_table(&mem, "MCFG", &n));
	mem_map_done(&mem);
}

TEST(tables_that_do_not_fit_are_an_error)
{
	struct x86_machine m = kit_machine(5000);
	struct mem_map mem = kit_map(2 * MIB, 0);
	struct err e = { 0 };
	EQ(acpi_write(&mem, &m, &e), -ENOSPC);
	STR_HAS(e.text, "5000 vCPUs");
	EQ(kit_read_le(&mem, X86_ACPI, 8), 0);
	mem_map_done(&mem);
}

/* --- the DSDT, as iasl sees it ------------------------------------------------------------------------------------ */

static void write_file(const char *folder, const char *name, const uint8_t *bytes, size_t n)
{
	char path[128];
	(void)snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "wb");
	OK(f && fwrite(bytes, 1, n, f) == n);
	(void)fclose(f);
}

static char *read_text(const char *folder, const char *name)
{
	char path[128];
	static char text[256 * 1024];
	(void)snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "rb");
	OK(f);
	size_t n = fread(text, 1, sizeof text - 1, f);
	(void)fclose(f);
	text[n] = '\0';
	return text;
}

/* Runs a program in the folder, its output in the file `log` there; with NULL here, its output nowhere. The exit status,
 * -1 when it did not exit. */
static int run(const char *folder, const char *const arguments[])
{
	pid_t child = fork();
	OK(child >= 0);
	if (child == 0) {
		int fd = -1;
		if (!folder || chdir(folder) == 0)
			fd = open(folder ? "log" : "/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		if (fd >= 0 && dup2(fd, 1) >= 0 && dup2(fd, 2) >= 0)
			(void)execvp(arguments[0], (char *const *)(uintptr_t)arguments);
		_exit(127);
	}
	int status;
	OK(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define RUN(folder, ...) run(folder, (const char *const[]){ __VA_ARGS__, NULL })

static void need_iasl(void)
{
	if (RUN(NULL, "iasl", "-v") == 127)
		test_skip("there is no iasl (package acpica-tools)");
}

/* A folder for iasl's files. */
struct folder {
	char path[32];
};

static struct folder new_folder(void)
{
	struct folder f = { "/tmp/varan-acpi-XXXXXX" };
	OK(mkdtemp(f.path));
	return f;
}

static void remove_folder(const struct folder *f)
{
	EQ(RUN(NULL, "rm", "-r", f->path), 0);
}

/* Disassembles and recompiles one table, where iasl has nothing to warn of; returns the disassembly. */
static const char *check_with_iasl(const uint8_t *table, size_t n)
{
	struct folder f = new_folder();
	write_file(f.path, "table.aml", table, n);
	EQ(RUN(f.path, "iasl", "-d", "table.aml"), 0);
	/* -we: warnings are errors */
	int rc = RUN(f.path, "iasl", "-we", "-p", "again", "table.dsl");
	const char *text = read_text(f.path, "log");
	if (rc != 0 || !strstr(text, "0 Errors, 0 Warnings"))
		test_fail(__FILE__, __LINE__, "iasl: %s", text);
	text = read_text(f.path, "table.dsl");
	remove_folder(&f);
	return text;
}

static const char *check_dsdt(const struct x86_machine *m)
{
	struct mem_map mem = tables_of(m);
	size_t n;
	uint8_t *dsdt = find_dsdt(&mem, &n);
	const char *text = check_with_iasl(dsdt, n);
	free(dsdt);
	mem_map_done(&mem);
	return text;
}

TEST(iasl_finds_nothing_wrong_with_the_dsdt)
{
	need_iasl();
	struct x86_machine m = kit_machine(4);
	const char *text = check_dsdt(&m);
	static const char *const parts[] = {
		"Name (\\_S5, Package (0x04)", "Device (PWRB)", "EisaId (\"PNP0C0C\")", "\"ACPI0013\"",
		"OperationRegion (EREG, SystemMemory, 0xFEC10000, 0x04)", "Method (_EVT, 1, Serialized)",
		"Notify (\\_SB.PWRB, 0x80)", "EisaId (\"PNP0501\")", "EisaId (\"PNP0B00\")", "EisaId (\"PNP0A08\")",
		"EisaId (\"PNP0C02\")", "ToUUID (\"33db4d5b-1ff7-401c-9657-7441c03dd766\")",
		"Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )", "QWordMemory (ResourceProducer",
		"0xC0000000,         // Range Minimum", "0xE7FFFFFF,         // Range Maximum",
		"Name (_PRT, Package (0x20)",
	};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
		STR_HAS(text, parts[i]);
	OK(!strstr(text, "LNRO0005"));
}

/* `part` within the braces of the first block that begins with `head`. */
static bool block_has(const char *text, const char *head, const char *part)
{
	const char *at = strstr(text, head);
	OK(at);
	const char *end = strchr(at, '{');
	OK(end);
	unsigned depth = 0;
	do {
		depth += *end == '{' ? 1u : *end == '}' ? -1u : 0u;
		end++;
	} while (depth);
	const char *found = strstr(at, part);
	return found && found < end;
}

TEST(pci_slots_can_be_ejected_unless_their_device_stays)
{
	need_iasl();
	struct x86_machine m = kit_machine(1);
	m.fixed_slots = 1u << 2 | 1u << 31;
	const char *text = check_dsdt(&m);
	STR_HAS(text, "OperationRegion (PREG, SystemMemory, 0xFEC11000, 0x10)");
	static const char *const registers[] = { "PCIU,   32", "PCID,   32", "B0EJ,   32", "PSEG,   32" };
	const char *at = strstr(text, "Field (PREG, DWordAcc, NoLock, Preserve)");
	for (size_t i = 0; i < 4; i++) {
		OK(block_has(text, "Field (PREG", registers[i]));
		at = strstr(at, registers[i]); /* in this order */
		OK(at);
	}
	OK(block_has(text, "Method (_EVT", "\\_SB.PCI0.SCAN ()"));
	OK(block_has(text, "Method (SCAN", "Local0 = \\_SB.PHPR.PCIU"));
	OK(block_has(text, "Method (SCAN", "Local0 = \\_SB.PHPR.PCID"));
	OK(block_has(text, "Method (SCAN", "TELL (Local0, One)"));
	OK(block_has(text, "Method (SCAN", "TELL (Local0, 0x03)"));
	OK(block_has(text, "Device (PCI0)", "Device (S031)"));
	OK(!strstr(text, "Device (S000)"));
	for (unsigned slot = 1; slot < 32; slot++) {
		char head[20], address[40], number[40], eject[60], notify[40];
		(void)snprintf(head, sizeof head, "Device (S%03u)", slot);
		(void)snprintf(address, sizeof address, "Name (_ADR, 0x%08X)", slot << 16);
		(void)snprintf(number, sizeof number, slot == 1 ? "Name (_SUN, One)" : "Name (_SUN, 0x%02X)", slot);
		(void)snprintf(eject, sizeof eject, "EJCT (0x%0*X, Zero)", slot < 8 ? 2 : slot < 16 ? 4 : 8, 1u << slot);
		(void)snprintf(notify, sizeof notify, "Notify (S%03u, Arg1)", slot);
		bool is_fixed = m.fixed_slots >> slot & 1;
		if (slot == 1)
			OK(block_has(text, head, "Name (_ADR, 0x00010000)"));
		OK(block_has(text, head, address));
		OK(block_has(text, head, number));
		EQ(block_has(text, head, eject), !is_fixed);
		EQ(block_has(text, head, "Method (_EJ0, 1, Serialized)"), !is_fixed);
		EQ(block_has(text, "Method (TELL", notify), !is_fixed);
	}
}

TEST(iasl_finds_nothing_wrong_with_virtio_over_mmio)
{
	need_iasl();
	struct x86_machine m = kit_machine(1);
	m.has_pci = false;
	m.has_serial = false;
	m.n_mmio = X86_MAX_MMIO_DEVICES;
	for (uint32_t i = 0; i < m.n_mmio; i++)
		m.mmio[i] = (struct x86_mmio_device){ X86_VIRTIO_MMIO + i * 0x1000, 0x1000,
		                                      X86_PIN_VIRTIO_MMIO + i };
	const char *text = check_dsdt(&m);
	STR_HAS(text, "Device (VR00)");
	STR_HAS(text, "Device (VR0D)");
	STR_HAS(text, "Memory32Fixed (ReadWrite,\n                    0xFEC2D000,         // Address Base");
	OK(!strstr(text, "PNP0A08") && !strstr(text, "PNP0501") && !strstr(text, "PHPR") && !strstr(text, "SCAN"));
}

TEST(iasl_reads_the_data_tables)
{
	need_iasl();
	struct x86_machine m = kit_machine(2);
	struct mem_map mem = tables_of(&m);
	static const char *const names[] = { "FACP", "APIC", "MCFG" };
	for (size_t i = 0; i < 3; i++) {
		size_t n;
		uint8_t *p = find_table(&mem, names[i], &n);
		STR_HAS(check_with_iasl(p, n), "[000h 0000   4]");
		free(p);
	}
	mem_map_done(&mem);
}

TEST(aml_encodes_names_and_numbers)
{
	uint8_t bytes[64];
	struct table_buffer t = { .bytes = bytes, .n_capacity = sizeof bytes };
	aml_name_eisa_id(&t, "_HID", "PNP0A03");
	const uint8_t hid[] = { 0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x0a, 0x03 };
	EQ(t.n_bytes, sizeof hid);
	MEM_EQ(bytes, hid, sizeof hid);

	static const struct { uint64_t v; size_t n; } numbers[] = {
		{ 0, 1 }, { 1, 1 }, { 2, 2 }, { 0xff, 2 }, { 0x100, 3 }, { 0x10000, 5 }, { 0x100000000, 9 },
	};
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		t.n_bytes = 0;
		aml_integer(&t, numbers[i].v);
		EQ(t.n_bytes, numbers[i].n);
	}

	t.n_bytes = 0;
	aml_path(&t, "\\_SB.A");
	MEM_EQ(bytes, "\\\x2e_SB_A___", 10);
	EQ(t.n_bytes, 10);
	t.n_bytes = 0;
	aml_path(&t, "\\_SB.PCI0.S031");
	MEM_EQ(bytes, "\\\x2f\x03_SB_PCI0S031", 15);
	EQ(t.n_bytes, 15);
}

TEST(a_full_buffer_is_noticed_and_never_passed)
{
	uint8_t bytes[32];
	memset(bytes, 0xee, sizeof bytes);
	struct table_buffer t = { .bytes = bytes, .n_capacity = 20 };
	struct aml_mark m = aml_scope(&t, "\\_SB");
	for (int i = 0; i < 10; i++)
		aml_name_integer(&t, "_UID", 0x12345678);
	struct aml_mark r = aml_resources(&t);
	aml_port(&t, 1, 1);
	aml_resources_end(&t, r);
	aml_end(&t, m);
	OK(t.is_overfull);
	for (size_t i = 20; i < sizeof bytes; i++)
		EQ(bytes[i], 0xee);
}

TEST(uuids_are_parsed_strictly)
{
	uint8_t b[16];
	const uint8_t expected[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	OK(aml_parse_uuid("00010203-0405-0607-0809-0a0b0c0d0e0F", b));
	MEM_EQ(b, expected, 16);
	static const char *const bad[] = {
		"", "0", "00010203", "00010203-0405-0607-0809-0a0b0c0d0e0", "00010203-0405-0607-0809-0a0b0c0d0e0f0",
		"00010203-0405-0607-0809-0a0b0c0d0e0g", "0001020304050607-0809-0a0b0c0d0e0f--",
		"{0010203-0405-0607-0809-0a0b0c0d0e0f",
	};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		OK(!aml_parse_uuid(bad[i], b));
}

/* --- SMBIOS and MP table ------------------------------------------------------------------------------------------ */

static struct table_buffer new_buffer(size_t n)
{
	struct table_buffer t = { .bytes = malloc(n), .n_capacity = n };
	OK(t.bytes);
	memset(t.bytes, 0xee, n);
	return t;
}

TEST(smbios_structures_are_a_chain_to_the_end)
{
	struct x86_machine m = kit_machine(1);
	m.smbios_serial = "serial=1;x";
	m.smbios_uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f";
	struct table_buffer t = new_buffer(4096);
	struct err e = { 0 };
	EQ(smbios_build(&t, &m, &e), 0);
	MEM_EQ(t.bytes, "_SM3_", 5);
	EQ(sum_of(t.bytes, 24), 0);
	EQ(get_le64(t.bytes + 16), X86_SMBIOS + 32);
	EQ(get_le32(t.bytes + 12), t.n_bytes - 32);

	const uint8_t types[] = { 0, 1, 3, 127 };
	size_t at = 32, i = 0;
	for (; at < t.n_bytes; i++) {
		OK(i < sizeof types);
		EQ(t.bytes[at], types[i]);
		if (t.bytes[at] == 1) {
			EQ(get_le32(t.bytes + at + 8), 0x00010203);
			EQ(t.bytes[at + 7], 4);
		}
		at += t.bytes[at + 1];
		while (get_le16(t.bytes + at) != 0)
			at++;
		at += 2;
	}
	EQ(i, sizeof types);
	EQ(at, t.n_bytes);
	OK(memmem(t.bytes, t.n_bytes, "serial=1;x", 11));
	free(t.bytes);
}

TEST(smbios_refuses_what_is_no_serial_or_uuid)
{
	struct x86_machine m = kit_machine(1);
	struct err e = { 0 };
	struct table_buffer t = new_buffer(4096);
	m.smbios_uuid = "nonsense";
	EQ(smbios_build(&t, &m, &e), -EINVAL);
	STR_HAS(e.text, "'nonsense' is not a UUID");

	m.smbios_uuid = NULL;
	m.smbios_serial = "a\nb";
	EQ(smbios_build(&t, &m, &e), -EINVAL);
	STR_HAS(e.text, "control character at byte 1");

	char *s = malloc(2000);
	OK(s);
	memset(s, 'x', 1999);
	s[1999] = '\0';
	m.smbios_serial = s;
	EQ(smbios_build(&t, &m, &e), -EINVAL);
	STR_HAS(e.text, "more than 1024 bytes");
	free(s);

	m.smbios_serial = ""; /* as if there were none */
	EQ(smbios_build(&t, &m, &e), 0);
	free(t.bytes);
}

static void check_mptable(const struct x86_machine *m, unsigned n_isa, unsigned n_pci)
{
	static const uint8_t sizes[] = { 20, 8, 8, 8, 8 };
	unsigned n_of[5] = { 0 }, n = 0, n_isa_seen = 0, n_pci_seen = 0;
	struct table_buffer t = new_buffer(65536);
	struct err e = { 0 };
	EQ(mptable_build(&t, X86_SMBIOS, m, &e), 0);
	MEM_EQ(t.bytes, "_MP_", 4);
	EQ(sum_of(t.bytes, 16), 0);
	EQ(get_le32(t.bytes + 4), X86_SMBIOS + 16);
	uint8_t *p = t.bytes + 16;
	size_t n_bytes = get_le16(p + 4);
	MEM_EQ(p, "PCMP", 4);
	EQ(sum_of(p, n_bytes), 0);
	EQ(n_bytes, t.n_bytes - 16);
	for (size_t at = 44; at < n_bytes; at += sizes[p[at]]) {
		OK(p[at] < 5);
		n_of[p[at]]++;
		n++;
		if (p[at] == 3) {
			bool is_pci = m->has_pci && p[at + 4] == 0;
			unsigned source = p[at + 5];
			EQ(p[at + 7], is_pci ? 16 + (source >> 2) % 8 : source);
			*(is_pci ? &n_pci_seen : &n_isa_seen) += 1;
		}
	}
	EQ(n, get_le16(p + 34));
	EQ(n_of[0], m->n_vcpus);
	EQ(n_of[1], m->has_pci ? 2 : 1);
	EQ(n_of[2], 1);
	EQ(n_of[4], 2);
	EQ(n_isa_seen, n_isa);
	EQ(n_pci_seen, n_pci);
	EQ(p[44 + 3], 3); /* the first processor is the boot processor */
	free(t.bytes);
}

TEST(the_mp_table_lists_processors_and_interrupts)
{
	struct x86_machine m = kit_machine(3);
	check_mptable(&m, 16, 32);
	m.has_pci = false;
	check_mptable(&m, 24, 0);
	m.n_vcpus = 254;
	check_mptable(&m, 24, 0);
}

TEST(the_mp_table_ends_at_254_processors)
{
	struct x86_machine m = kit_machine(255);
	struct table_buffer t = new_buffer(65536);
	struct err e = { 0 };
	EQ(mptable_build(&t, X86_SMBIOS, &m, &e), -ENOSPC);
	STR_HAS(e.text, "255 vCPUs");
	m.n_vcpus = 200;
	t.n_capacity = 100;
	EQ(mptable_build(&t, X86_SMBIOS, &m, &e), -ENOSPC);
	STR_HAS(e.text, "does not fit");
	free(t.bytes);
}

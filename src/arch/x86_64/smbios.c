/* SPDX-License-Identifier: Apache-2.0 */
/* SMBIOS 3.0 (DMTF DSP0134 3.0.0): the 64-bit entry point at X86_SMBIOS, where guests scan for it, and behind it the
 * structures BIOS, system, chassis and end. */
#include "arch/x86_64/aml.h"
#include "arch/x86_64/tables.h"

#include <errno.h>

#define ENTRY_BYTES 24u
#define ENTRY_ROOM 32u /* structures start on a 16-byte boundary */
#define MAX_SERIAL_CHARS 1024u

#define MANUFACTURER "Varan"
#define PRODUCT "Varan VM"
#define VERSION "1.0"

enum { BIOS_INFORMATION = 0, SYSTEM_INFORMATION = 1, SYSTEM_ENCLOSURE = 3, END_OF_TABLE = 127 };

static void put_header(struct table_buffer *t, uint8_t type, uint8_t n_bytes)
{
	table_put8(t, type);
	table_put8(t, n_bytes);
	table_put16(t, type); /* handle: there is one structure of each type */
}

static void put_string(struct table_buffer *t, const char *s)
{
	table_put(t, s, strlen(s) + 1);
}

/* 7.1 */
static void put_bios(struct table_buffer *t)
{
	put_header(t, BIOS_INFORMATION, 0x18);
	table_put8(t, 1);      /* vendor: first string */
	table_put8(t, 2);      /* version */
	table_put16(t, 0);     /* it is nowhere in the first megabyte */
	table_put8(t, 0);      /* release date: none */
	table_put8(t, 0);      /* ROM size: 64 KiB is the least that can be said */
	table_put64(t, 1 << 3); /* characteristics: not supported */
	table_put8(t, 0);
	table_put8(t, 1 << 4); /* this describes a virtual machine */
	table_put8(t, 0);      /* release 0.0 */
	table_put8(t, 0);
	table_put8(t, 0xff);   /* no embedded controller */
	table_put8(t, 0xff);
	put_string(t, MANUFACTURER);
	put_string(t, VERSION);
	table_put8(t, 0);
}

/* 7.2 */
static void put_system(struct table_buffer *t, const char *serial, const uint8_t uuid[16])
{
	put_header(t, SYSTEM_INFORMATION, 0x1b);
	table_put8(t, 1); /* manufacturer */
	table_put8(t, 2); /* product */
	table_put8(t, 3); /* version */
	table_put8(t, serial ? 4 : 0);
	table_put(t, uuid, 16);
	table_put8(t, 6); /* woken by the power switch */
	table_put8(t, 0); /* no SKU */
	table_put8(t, 0); /* no family */
	put_string(t, MANUFACTURER);
	put_string(t, PRODUCT);
	put_string(t, VERSION);
	if (serial)
		put_string(t, serial);
	table_put8(t, 0);
}

/* 7.4 */
static void put_enclosure(struct table_buffer *t)
{
	put_header(t, SYSTEM_ENCLOSURE, 0x16);
	table_put8(t, 1); /* manufacturer */
	table_put8(t, 1); /* type: other */
	table_put8(t, 0); /* version, serial number, asset tag: none */
	table_put8(t, 0);
	table_put8(t, 0);
	table_put8(t, 3); /* boot-up, power supply and thermal state: safe */
	table_put8(t, 3);
	table_put8(t, 3);
	table_put8(t, 2); /* security: unknown */
	table_put32(t, 0);
	table_put8(t, 0); /* height, power cords, elements, their length, SKU: none */
	table_put8(t, 0);
	table_put8(t, 0);
	table_put8(t, 0);
	table_put8(t, 0);
	put_string(t, MANUFACTURER);
	table_put8(t, 0);
}

/* 6.1.3: strings are text, and an empty one would end its structure. */
static int check_serial(const char *serial, struct err *e)
{
	size_t n = strnlen(serial, MAX_SERIAL_CHARS + 1);
	if (n > MAX_SERIAL_CHARS)
		return err_set(e, EINVAL, "smbios: the serial number has more than %u bytes", MAX_SERIAL_CHARS);
	for (size_t i = 0; i < n; i++) {
		if ((uint8_t)serial[i] < ' ')
			return err_set(e, EINVAL, "smbios: the serial number has a control character at byte %zu", i);
	}
	return 0;
}

/* 5.2.2 SMBIOS 3.0 (64-bit) entry point */
static void fill_entry(struct table_buffer *t)
{
	uint8_t *p = t->bytes;
	memcpy(p, "_SM3_", 5);
	p[6] = ENTRY_BYTES;
	p[7] = 3;  /* 3.0.0 */
	p[8] = 0;
	p[9] = 0;
	p[10] = 1; /* entry point revision */
	put_le32(p + 12, (uint32_t)(t->n_bytes - ENTRY_ROOM));
	put_le64(p + 16, X86_SMBIOS + ENTRY_ROOM);
	p[5] = table_checksum(p, ENTRY_BYTES);
}

int smbios_build(struct table_buffer *t, const struct x86_machine *m, struct err *e)
{
	/* 7.2.1: all zeroes means that there is none. */
	uint8_t uuid[16] = { 0 };
	const char *serial = m->smbios_serial && *m->smbios_serial ? m->smbios_serial : NULL;

	assert(t->n_bytes == 0);
	if (serial) {
		int rc = check_serial(serial, e);
		if (rc < 0)
			return rc;
	}
	if (m->smbios_uuid && !aml_parse_uuid(m->smbios_uuid, uuid))
		return err_set(e, EINVAL, "smbios: '%.64s' is not a UUID", m->smbios_uuid);

	(void)table_grow(t, ENTRY_ROOM);
	put_bios(t);
	put_system(t, serial, uuid);
	put_enclosure(t);
	put_header(t, END_OF_TABLE, 4);
	table_put16(t, 0); /* no strings */
	if (t->is_overfull)
		return err_set(e, ENOSPC, "smbios: the tables do not fit in %zu bytes", t->n_capacity);
	fill_entry(t);
	return 0;
}

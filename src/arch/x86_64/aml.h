/* SPDX-License-Identifier: Apache-2.0 */
/* aml.h - writes ACPI machine language (ACPI 6.5, 20.2), top-down into one buffer.
 *
 * A block is opened by a function that returns a mark and closed by aml_end(mark); between them stand its contents.
 * Names are written as in ASL, segments of up to four letters: "_HID", "\\_SB.PWRB". Functions for expressions write
 * an opcode and leave its operands to the calls that follow, in AML's order. Numbers are ours; what does not fit is
 * left out and the buffer says so (tables.h). */
#pragma once
#include "arch/x86_64/tables.h"

/* A block whose length is not known yet: where its PkgLength is. */
struct aml_mark {
	size_t at;
};

struct aml_mark aml_scope(struct table_buffer *t, const char *path);
struct aml_mark aml_device(struct table_buffer *t, const char *name);
struct aml_mark aml_method(struct table_buffer *t, const char *name, unsigned n_arguments);
struct aml_mark aml_if(struct table_buffer *t); /* then the condition */
struct aml_mark aml_else(struct table_buffer *t);
struct aml_mark aml_package(struct table_buffer *t, unsigned n_elements);
void aml_end(struct table_buffer *t, struct aml_mark m);

/* Name(...): then its value. */
void aml_name(struct table_buffer *t, const char *name);
void aml_name_integer(struct table_buffer *t, const char *name, uint64_t v);
void aml_name_eisa_id(struct table_buffer *t, const char *name, const char *id); /* "PNP0501" */
void aml_name_string(struct table_buffer *t, const char *name, const char *s);

void aml_path(struct table_buffer *t, const char *path); /* a reference; of a method, a call: then its arguments */
void aml_integer(struct table_buffer *t, uint64_t v);
void aml_buffer(struct table_buffer *t, const uint8_t *bytes, size_t n_bytes);
/* "33db4d5b-1ff7-401c-9657-7441c03dd766" as a buffer (ASL's ToUUID). */
void aml_uuid(struct table_buffer *t, const char *uuid);
/* The 16 bytes of a UUID in SMBIOS's and ACPI's mixed byte order; false when it is not one. */
bool aml_parse_uuid(const char *uuid, uint8_t ret_bytes[16]);

enum aml_op { /* 20.2.5 */
	AML_LOCAL0 = 0x60,
	AML_ARG0 = 0x68,
	AML_ARG1 = 0x69,
	AML_ARG3 = 0x6b,
	AML_STORE = 0x70,   /* value, target */
	AML_AND = 0x7b,     /* a, b, target */
	AML_OR = 0x7d,      /* a, b, target */
	AML_NOTIFY = 0x86,  /* object, value */
	AML_EQUAL = 0x93,   /* a, b */
	AML_NOT = 0x92,     /* condition */
	AML_RETURN = 0xa4,  /* value */
	AML_NO_TARGET = 0x00,
};

void aml_op(struct table_buffer *t, enum aml_op op);
void aml_create_dword_field(struct table_buffer *t, enum aml_op buffer, unsigned offset, const char *name);
/* An operation region in system memory: 32-bit registers, one after the other. */
void aml_memory_registers(struct table_buffer *t, const char *region, uint64_t address, const char *const fields[],
                          unsigned n_fields);
void aml_mutex(struct table_buffer *t, const char *name);
void aml_acquire(struct table_buffer *t, const char *path); /* waits without a limit */
void aml_release(struct table_buffer *t, const char *path);

/* --- resource templates (ACPI 6.4) -------------------------------------------------------------------------------- */

struct aml_mark aml_resources(struct table_buffer *t);
void aml_resources_end(struct table_buffer *t, struct aml_mark m);
void aml_port(struct table_buffer *t, uint16_t start, uint8_t n_bytes);
void aml_memory32(struct table_buffer *t, uint32_t start, uint32_t n_bytes);
void aml_interrupt_edge(struct table_buffer *t, uint32_t gsi);
/* Windows of a bridge; both ends inclusive. */
void aml_bus_numbers(struct table_buffer *t, uint16_t first, uint16_t last);
void aml_port_window(struct table_buffer *t, uint16_t first, uint16_t last);
void aml_memory_window32(struct table_buffer *t, uint32_t first, uint32_t last);
void aml_memory_window64(struct table_buffer *t, uint64_t first, uint64_t last);

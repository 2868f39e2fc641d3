/* SPDX-License-Identifier: Apache-2.0 */
/* The schemas that a fuzz input chooses from by its first byte, and what must hold for every object that was accepted.
 */
#pragma once
#include "config/rate_limiter.h"
#include "config/restore.h"
#include "config/vm_config.h"
#include "schema/schema.h"

#include <stdlib.h>
#include <string.h>

static const struct schema *choose_schema(uint8_t byte)
{
	static const struct schema *const all[] = {
		&vm_config_schema, &cpus_schema,      &memory_schema,        &disk_schema,
		&rng_schema,       &console_schema,   &serial_schema,        &machine_schema,
		&payload_schema,   &platform_schema,  &memory_zone_schema,   &rate_limit_group_schema,
		&net_schema,       &balloon_schema,   &fs_schema,            &pmem_schema,
		&device_schema,    &user_device_schema, &debug_console_schema, &vdpa_schema,
		&vsock_schema,     &sgx_epc_schema,   &numa_schema,          &pci_segment_schema,
		&tpm_schema,       &landlock_schema,  &restore_schema,
	};
	return all[byte % ARRAY_LEN(all)];
}

static void require(bool holds)
{
	if (!holds)
		abort();
}

/* Descriptors leave and enter as -1 (ROW_DESCRIPTORS): of such an object, what came back once is what must stay. */
static void forget_descriptors(const struct schema *s, void *object)
{
	struct text record = TEXT_INIT;
	require(schema_write_record(s, object, &record, NULL) == 0);
	schema_done(s, object);
	require(schema_read_record(s, text_get(&record), record.n_bytes, object, NULL) == 0);
	text_done(&record);
}

/* Numbers and switches that JSON does not carry (ROW_NO_JSON) as if they had not been given. */
static void forget_what_json_lacks(const struct schema *s, void *object)
{
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		uint8_t *at = (uint8_t *)object + f->at;
		if ((f->flags & ROW_NO_JSON) && f->type <= FIELD_I32) {
			memset(at, 0, f->size);
			if (f->has)
				*((uint8_t *)object + f->has - 1) = 0;
		} else if (f->type == FIELD_OBJECT) {
			forget_what_json_lacks(f->schema, at);
		} else if (f->type == FIELD_LIST) {
			size_t n;
			uint8_t *items;
			memcpy(&n, (uint8_t *)object + f->count - 1, sizeof n);
			memcpy(&items, at, sizeof items);
			for (size_t j = 0; j < n; j++)
				forget_what_json_lacks(f->schema, items + j * f->size);
		}
	}
}

/* Accepted means: copies, records and JSON of it are the same object again. Consumes it. */
static void check_object(const struct schema *s, void *object)
{
	void *other = malloc(s->size);
	struct text json = TEXT_INIT, record = TEXT_INIT;
	require(other != NULL);
	memset(other, 0xff, s->size);
	require(schema_copy(s, other, object, NULL) == 0 && schema_equal(s, object, other));
	schema_done(s, other);

	forget_descriptors(s, object);
	require(schema_write_record(s, object, &record, NULL) == 0);
	require(schema_read_record(s, text_get(&record), record.n_bytes, other, NULL) == 0 &&
	        schema_equal(s, object, other));
	schema_done(s, other);

	forget_what_json_lacks(s, object);
	/* There is no JSON form of what is not UTF-8, of numbers above 2^63 - 1, or of more than SCHEMA_JSON_MAX_BYTES.
	 */
	if (schema_write_json(s, object, SCHEMA_WITH_SECRETS, &json, NULL) == 0 &&
	    json.n_bytes <= SCHEMA_JSON_MAX_BYTES) {
		require(schema_parse_json(s, text_get(&json), json.n_bytes, 0, other, NULL) == 0);
		require(schema_equal(s, object, other));
		schema_done(s, other);
	}
	struct err e = { 0 };
	int rc = schema_check(s, object, &e);
	require(rc == 0 || e.text[0]);
	schema_done(s, object);
	text_done(&json);
	text_done(&record);
	free(other);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* document.h - the words that rows are described with, shared by help, manual and OpenAPI. Inside src/schema/ only. */
#pragma once
#include "schema/field.h"

/* Option keys of a schema in order, those of ROW_FLAT objects in their place. */
struct key_visitor {
	void (*fn)(const struct key_visitor *v, const struct field *f, const char *key);
	struct text *t;
	unsigned indent;
};
void document_visit_keys(const struct schema *s, const struct key_visitor *v);

/* "on|off", "<size>", "[<vcpu>@<host_cpus>,...]": what stands behind the '='. */
void document_write_placeholder(const struct field *f, struct text *t);
/* The default as it would be typed; false when there is none to speak of. */
bool document_write_default(const struct field *f, struct text *t);

/* SPDX-License-Identifier: Apache-2.0 */
/* Components of an OpenAPI 3.0 document. Strings are written in double quotes with JSON's escapes, which YAML shares,
 * so that no help text can be taken for syntax. A nested schema is a component of its own, referred to by name. */
#include "schema/document.h"

#include <inttypes.h>
#include <stdio.h>

#define MAX_COMPONENTS 128

struct component {
	struct text *t;
	unsigned indent;
};

static void line(const struct component *c, unsigned deeper, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void line(const struct component *c, unsigned deeper, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	assert(n >= 0 && (size_t)n < sizeof text);
	text_appendf(c->t, "%*s%s\n", (int)(c->indent + deeper), "", text);
}

static void describe(const struct component *c, unsigned deeper, const char *words)
{
	text_appendf(c->t, "%*sdescription: \"", (int)(c->indent + deeper), "");
	for (; words && *words; words++)
		text_appendf(c->t, "%s%c", *words == '"' || *words == '\\' ? "\\" : "", *words);
	text_append(c->t, "\"\n");
}

static void write_number(const struct component *c, unsigned deeper, const struct field *f)
{
	uint64_t max = field_max(f);
	line(c, deeper, "type: integer");
	if (f->size == 8)
		line(c, deeper, "format: int64");
	else if (f->size == 4)
		line(c, deeper, "format: %s", field_is_signed(f) ? "int32" : "int64");
	if (field_is_signed(f)) {
		line(c, deeper, "minimum: %" PRId64, (int64_t)field_min(f));
		line(c, deeper, "maximum: %" PRId64, (int64_t)max);
		return;
	}
	line(c, deeper, "minimum: %" PRIu64, field_min(f));
	if (max <= INT64_MAX)
		line(c, deeper, "maximum: %" PRIu64, max);
}

static void write_default(const struct component *c, unsigned deeper, const struct field *f)
{
	const struct enum_name *n;
	if (f->has || (f->flags & ROW_REQUIRED_JSON))
		return;
	if (f->def_string)
		line(c, deeper, "default: \"%s\"", f->def_string);
	else if (f->type == FIELD_BOOL)
		line(c, deeper, "default: %s", f->def ? "true" : "false");
	else if (f->type == FIELD_ENUM && (n = field_enum_name(f, f->def)))
		line(c, deeper, "default: \"%s\"", n->json);
	else if (f->type == FIELD_I32)
		line(c, deeper, "default: %" PRId64, (int64_t)f->def);
	else if (field_is_number(f))
		line(c, deeper, "default: %" PRIu64, f->def);
}

static void write_text_bounds(const struct component *c, unsigned deeper, const struct field *f)
{
	if (f->min)
		line(c, deeper, "minLength: %" PRIu64, f->min);
	if (f->max)
		line(c, deeper, "maxLength: %" PRIu64, f->max);
}

static void write_type(const struct component *c, unsigned deeper, const struct field *f)
{
	switch (f->type) {
	case FIELD_BOOL:
		line(c, deeper, "type: boolean");
		break;
	case FIELD_U8:
	case FIELD_U16:
	case FIELD_U32:
	case FIELD_U64:
	case FIELD_SIZE:
	case FIELD_I32:
		write_number(c, deeper, f);
		break;
	case FIELD_ENUM:
		line(c, deeper, "type: string");
		line(c, deeper, "enum:");
		for (const struct enum_name *n = f->names; n->json; n++)
			line(c, deeper + 2, "- \"%s\"", n->json);
		break;
	case FIELD_STRING:
	case FIELD_PATH:
		line(c, deeper, "type: string");
		write_text_bounds(c, deeper, f);
		break;
	case FIELD_MAC:
	case FIELD_IPV4:
	case FIELD_BLOB:
		line(c, deeper, "type: string");
		if (f->type == FIELD_IPV4)
			line(c, deeper, "format: ipv4");
		else if (f->type == FIELD_BLOB)
			line(c, deeper, "pattern: \"^[0-9a-fA-F]{%" PRIu32 "}$\"", 2 * f->size);
		else
			line(c, deeper, "pattern: \"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$\"");
		break;
	case FIELD_INTEGERS:
	case FIELD_STRINGS:
	case FIELD_LIST:
		line(c, deeper, "type: array");
		line(c, deeper, "maxItems: %zu", field_max_items(f));
		line(c, deeper, "items:");
		if (f->type == FIELD_INTEGERS)
			write_number(c, deeper + 2, f);
		else if (f->type == FIELD_STRINGS)
			line(c, deeper + 2, "type: string");
		else
			line(c, deeper + 2, "$ref: \"#/components/schemas/%s\"", f->schema->name);
		break;
	case FIELD_OBJECT: /* nothing may stand beside a $ref */
		line(c, deeper, "allOf:");
		line(c, deeper + 2, "- $ref: \"#/components/schemas/%s\"", f->schema->name);
		break;
	case FIELD_IGNORED:
	case FIELD_PAD:
		break;
	}
}

void schema_write_openapi(const struct schema *s, unsigned indent, struct text *t)
{
	const struct component c = { .t = t, .indent = indent };
	bool has_required = false;
	line(&c, 0, "%s:", s->name);
	describe(&c, 2, s->help);
	line(&c, 2, "type: object");
	if (s->flags & SCHEMA_STRICT)
		line(&c, 2, "additionalProperties: false");
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		if (!field_is_in_json(f) || !(f->flags & ROW_REQUIRED_JSON))
			continue;
		if (!has_required)
			line(&c, 2, "required:");
		has_required = true;
		line(&c, 4, "- %s", field_json(f));
	}
	bool has_properties = false;
	for (uint32_t i = 0; i < s->n_fields; i++) {
		const struct field *f = &s->fields[i];
		if (!field_is_in_json(f))
			continue;
		if (!has_properties)
			line(&c, 2, "properties:");
		has_properties = true;
		line(&c, 4, "%s:", field_json(f));
		describe(&c, 6, f->help);
		write_type(&c, 6, f);
		write_default(&c, 6, f);
	}
}

void schema_write_openapi_all(const struct schema *const *schemas, size_t n, unsigned indent, struct text *t)
{
	const struct schema *found[MAX_COMPONENTS];
	size_t n_found = 0;
	/* Breadth first; each schema once. */
	for (size_t i = 0; i < n; i++) {
		assert(n_found < MAX_COMPONENTS);
		found[n_found++] = schemas[i];
	}
	for (size_t i = 0; i < n_found; i++) {
		schema_write_openapi(found[i], indent, t);
		for (uint32_t k = 0; k < found[i]->n_fields; k++) {
			const struct schema *inner = found[i]->fields[k].schema;
			size_t at = 0;
			while (inner && at < n_found && found[at] != inner)
				at++;
			if (!inner || at < n_found)
				continue;
			assert(n_found < MAX_COMPONENTS);
			found[n_found++] = inner;
		}
	}
}

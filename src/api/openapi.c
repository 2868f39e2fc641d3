/* SPDX-License-Identifier: Apache-2.0 */
/* The OpenAPI document of the routes. The schemas of bodies and of simple answers are rows; the two answers that hold maps
 * from identifiers have no rows and stand here. */
#include "api/api.h"

#include "api/bodies.h"
#include "api/routes.h"
#include "base/checked.h"
#include "config/vm_config.h"
#include "schema/schema.h"

#include <ctype.h>
#include <string.h>

static const char answer_components[] =
	"    VmInfo:\n"
	"      description: \"A VM: its configuration, and what has become of it\"\n"
	"      type: object\n"
	"      required:\n"
	"        - config\n"
	"        - state\n"
	"      properties:\n"
	"        config:\n"
	"          description: \"The configuration, all defaults filled in\"\n"
	"          allOf:\n"
	"            - $ref: \"#/components/schemas/VmConfig\"\n"
	"        state:\n"
	"          description: \"What the VM does\"\n"
	"          type: string\n"
	"          enum:\n"
	"            - \"Created\"\n"
	"            - \"Running\"\n"
	"            - \"Shutdown\"\n"
	"            - \"Paused\"\n"
	"            - \"BreakPoint\"\n"
	"        memory_actual_size:\n"
	"          description: \"Bytes of RAM that the guest has now\"\n"
	"          type: integer\n"
	"          format: int64\n"
	"        device_tree:\n"
	"          description: \"The devices, by identifier\"\n"
	"          type: object\n"
	"          additionalProperties:\n"
	"            $ref: \"#/components/schemas/DeviceNode\"\n"
	"    DeviceNode:\n"
	"      description: \"A device\"\n"
	"      type: object\n"
	"      required:\n"
	"        - id\n"
	"      properties:\n"
	"        id:\n"
	"          description: \"Device identifier\"\n"
	"          type: string\n"
	"        resources:\n"
	"          description: \"What of the machine it occupies\"\n"
	"          type: array\n"
	"          items:\n"
	"            type: object\n"
	"        parent:\n"
	"          description: \"The device that it belongs to\"\n"
	"          type: string\n"
	"          nullable: true\n"
	"        children:\n"
	"          description: \"The devices that belong to it\"\n"
	"          type: array\n"
	"          items:\n"
	"            type: string\n"
	"        pci_bdf:\n"
	"          description: \"Segment, bus, device and function: 0000:00:04.0\"\n"
	"          type: string\n"
	"          nullable: true\n"
	"    VmCounters:\n"
	"      description: \"Counters by name, by device\"\n"
	"      type: object\n"
	"      additionalProperties:\n"
	"        type: object\n"
	"        additionalProperties:\n"
	"          type: integer\n"
	"          format: int64\n"
	"    ErrorChain:\n"
	"      description: \"What went wrong, and why: the outermost first\"\n"
	"      type: array\n"
	"      items:\n"
	"        type: string\n";

static void write_content(struct text *t, const char *component)
{
	text_appendf(t,
	             "          content:\n"
	             "            application/json:\n"
	             "              schema:\n"
	             "                $ref: \"#/components/schemas/%s\"\n",
	             component);
}

static void write_response(struct text *t, unsigned status, const char *description, const char *component)
{
	text_appendf(t,
	             "        \"%u\":\n"
	             "          description: \"%s\"\n",
	             status, description);
	if (component)
		write_content(t, component);
}

static void write_responses(struct text *t, const struct route *r)
{
	text_append(t, "      responses:\n");
	if (r->answer)
		write_response(t, 200, r->flags & ROUTE_ADDS ? "Plugged into the running VM" : "The answer", r->answer);
	else if (r->flags & ROUTE_EMPTY_200)
		write_response(t, 200, "Done; there is no body", NULL);
	if (r->flags & ROUTE_ADDS)
		write_response(t, 204, "Part of the configuration of a VM that does not run yet", NULL);
	else if (!r->answer && !(r->flags & ROUTE_EMPTY_200))
		write_response(t, 204, "Done", NULL);
	write_response(t, 400, "The request is malformed, or breaks a rule of the configuration", "ErrorChain");
	if (r->flags & ROUTE_NEEDS_VM)
		write_response(t, 404,
		               r->flags & ROUTE_BY_ID ? "There is no VM, or nothing of that identifier" : "There is no VM",
		               "ErrorChain");
	if (r->flags & (ROUTE_ADDS | ROUTE_MAY_CONFLICT))
		write_response(t, 409, "The identifier or the path is taken", "ErrorChain");
	write_response(t, 500, "Not possible in this state, not supported yet, or the host failed", "ErrorChain");
}

/* As generators of clients would name it: VmAddDiskPut. */
static void write_operation(struct text *t, const struct route *r)
{
	text_append(t, "      operationId: ");
	if (r->operation) {
		text_appendf(t, "%s\n", r->operation);
		return;
	}
	bool is_first = true; /* of a word */
	for (const char *at = r->name; *at; at++) {
		if (isalnum((unsigned char)*at))
			text_append_char(t, is_first && at != r->name ? (char)toupper((unsigned char)*at) : *at);
		is_first = !isalnum((unsigned char)*at);
	}
	text_append(t, r->method == HTTP_GET ? "Get\n" : "Put\n");
}

static void write_route(struct text *t, const struct route *r)
{
	text_appendf(t,
	             "  /%s:\n"
	             "    %s:\n"
	             "      summary: \"%s\"\n",
	             r->name, r->method == HTTP_GET ? "get" : "put", r->summary);
	if (!r->run)
		text_append(t, "      description: \"Not supported yet: what is valid is answered with 500\"\n"
		               "      x-not-supported-yet: true\n");
	if (r->flags & ROUTE_COLD_ONLY)
		text_append(t, "      description: \"Before boot only, yet: 500 while the VM runs\"\n");
	write_operation(t, r);
	if (r->body)
		text_appendf(t,
		             "      requestBody:\n"
		             "        required: true\n"
		             "        content:\n"
		             "          application/json:\n"
		             "            schema:\n"
		             "              $ref: \"#/components/schemas/%s\"\n",
		             r->body->name);
	write_responses(t, r);
}

void api_write_openapi_paths(struct text *t)
{
	const struct schema *roots[64] = { &vm_config_schema, &ping_schema, &pci_device_schema };
	size_t n = 3;
	text_append(t, "servers:\n"
	               "  - url: http://localhost/api/v1\n"
	               "paths:\n");
	for (size_t i = 0; i < api_n_routes; i++) {
		const struct route *r = &api_routes[i];
		write_route(t, r);
		/* What the configuration reaches is written with it. */
		bool is_known = !r->body;
		for (size_t k = 0; k < n && !is_known; k++)
			is_known = roots[k] == r->body;
		if (!is_known && n < ARRAY_LEN(roots))
			roots[n++] = r->body;
	}
	text_append(t, "components:\n"
	               "  schemas:\n");
	text_append(t, answer_components);
	schema_write_openapi_all(roots, n, 4, t);
}

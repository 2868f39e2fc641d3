/* SPDX-License-Identifier: Apache-2.0 */
/* varan-api(7): the routes, and what they take. */
#include "api/api.h"

#include "api/bodies.h"
#include "api/routes.h"
#include "base/checked.h"
#include "config/vm_config.h"
#include "schema/schema.h"

#include <string.h>

#define MAX_OBJECTS 96

static const char start[] =
	".TH varan\\-api 7\n.SH NAME\nvaran\\-api \\- the HTTP API of a VMM\n.SH SYNOPSIS\n.nf\n"
	"varan \\-\\-api\\-socket path=/run/vm.sock\n"
	"curl \\-\\-unix\\-socket /run/vm.sock http://localhost" API_ROOT "vmm.ping\n"
	"curl \\-\\-unix\\-socket /run/vm.sock \\-X PUT \\-d @vm.json http://localhost" API_ROOT "vm.create\n"
	".fi\n.SH DESCRIPTION\n"
	"A VMM that is started with\n.B \\-\\-api\\-socket\nserves HTTP/1.1 on a Unix socket, below\n.BR " API_ROOT " .\n"
	"Connections are kept, and may carry one request after the other. Bodies are JSON, of at most 4 MiB and\n"
	"131072 values. What\n"
	"succeeds is answered with 200 and a body, or with 204 and none; what fails, with a body that is a list of\n"
	"strings: what was to be done, and then the causes, each of the one before it.\n"
	"File descriptors come as ancillary data (SCM_RIGHTS) with the first byte of a request.\n"
	".BR varan\\-remote (1)\nis a client.\n.PP\n"
	"The status of a failure is 400 for a request that is malformed or breaks a rule of the configuration, 404\n"
	"for an unknown path, a VM or a device that does not exist, 409 for an identifier or a path that is taken,\n"
	"429 for a change that has to wait for the one before it, and 500 for all else, as not possible in the\n"
	"present state of the VM.\n";

static const char end[] = ".SH SEE ALSO\n.BR varan (1),\n.BR varan\\-remote (1)\n";

static void write_route(const struct route *r, struct text *t)
{
	text_appendf(t, ".TP\n\\fB%s ", r->method == HTTP_GET ? "GET" : "PUT");
	schema_write_roff(r->name, t);
	text_append(t, "\\fR\n");
	schema_write_roff(r->summary, t);
	text_append(t, ".\n");
	if (r->body)
		text_appendf(t, "Takes a %s.\n", r->body->name);
	if (r->answer)
		text_appendf(t, "Answers with a %s%s.\n", r->answer,
		             r->flags & ROUTE_ADDS ? ", or with 204 as long as the VM has not booted" : "");
	if (r->flags & ROUTE_EMPTY_200)
		text_append(t, "Answers with 200 and no body.\n");
	if (r->flags & ROUTE_TAKES_FDS)
		text_append(t, "File descriptors may come with the request.\n");
	if (!r->run)
		text_append(t, "Not supported yet.\n");
	if (r->flags & ROUTE_COLD_ONLY)
		text_append(t, "Before boot only, yet.\n");
}

struct objects {
	const struct schema *seen[MAX_OBJECTS];
	size_t n;
};

/* Adds it and all that it refers to, each once. */
static void collect(struct objects *o, const struct schema *s)
{
	for (size_t i = 0; i < o->n; i++)
		if (o->seen[i] == s)
			return;
	if (!s->name || o->n == MAX_OBJECTS)
		return;
	o->seen[o->n++] = s;
	for (uint32_t i = 0; i < s->n_fields; i++)
		if (s->fields[i].schema && !(s->fields[i].flags & ROW_NO_JSON))
			collect(o, s->fields[i].schema);
}

void api_write_man(struct text *t)
{
	struct objects o = { .n = 0 };
	text_append(t, start);
	text_append(t, ".SH ROUTES\n");
	for (size_t i = 0; i < api_n_routes; i++)
		write_route(&api_routes[i], t);
	for (size_t i = 0; i < api_n_routes; i++)
		if (api_routes[i].body)
			collect(&o, api_routes[i].body);
	collect(&o, &ping_schema);
	collect(&o, &pci_device_schema);
	text_append(t, ".SH OBJECTS\nAn object may leave out what is not required.\n");
	for (size_t i = 0; i < o.n; i++) {
		text_appendf(t, ".SS %s\n", o.seen[i]->name);
		if (o.seen[i]->help) {
			schema_write_roff(o.seen[i]->help, t);
			text_append(t, ".\n");
		}
		schema_write_man_json(o.seen[i], t);
	}
	text_append(t, end);
}

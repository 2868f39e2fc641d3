/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/document.h"

#include "base/checked.h"
#include "base/text.h"
#include "config/options.h"
#include "schema/schema.h"

#include <stdio.h>
#include <string.h>

static void write_openapi(struct text *t)
{
	static const struct schema *const roots[] = { &vm_config_schema };

	text_appendf(t,
	             "openapi: 3.0.1\n"
	             "info:\n"
	             "  title: Varan\n"
	             "  description: The configuration of a virtual machine. The routes come with the API server.\n"
	             "  license:\n"
	             "    name: Apache-2.0\n"
	             "  version: %s\n"
	             "paths: {}\n"
	             "components:\n"
	             "  schemas:\n",
	             VARAN_VERSION);
	schema_write_openapi_all(roots, ARRAY_LEN(roots), 4, t);
}

int document_main(int argc, char **argv)
{
	text_scoped t = TEXT_INIT;

	if (argc == 2 && strcmp(argv[1], "man") == 0) {
		command_line_write_man(&varan_options, &t);
	} else if (argc == 2 && strcmp(argv[1], "openapi") == 0) {
		write_openapi(&t);
	} else {
		fprintf(stderr, "Usage: varan document man|openapi\n");
		return 2;
	}
	return fputs(text_get(&t), stdout) < 0 || fflush(stdout) ? 1 : 0;
}

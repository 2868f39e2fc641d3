/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/document.h"

#include "api/api.h"
#include "base/checked.h"
#include "base/text.h"
#include "cli/completion.h"
#include "cli/remote_tables.h"
#include "config/options.h"

#include <stdio.h>
#include <string.h>

static void write_openapi(struct text *t)
{
	text_appendf(t,
	             "openapi: 3.0.1\n"
	             "info:\n"
	             "  title: Varan\n"
	             "  description: \"One VM: made, run, changed and ended by HTTP over a Unix socket\"\n"
	             "  license:\n"
	             "    name: Apache-2.0\n"
	             "  version: %s\n",
	             VARAN_VERSION);
	api_write_openapi_paths(t);
}

static void write_man(struct text *t)
{
	command_line_write_man(&varan_options, t);
}

static const struct {
	const char *name;
	void (*write)(struct text *t);
} documents[] = {
	{ "man", write_man },
	{ "man-remote", remote_write_man },
	{ "man-api", api_write_man },
	{ "openapi", write_openapi },
	{ "completion", completion_write_bash },
};

void document_write_names(const char *separator, struct text *t)
{
	for (size_t i = 0; i < ARRAY_LEN(documents); i++)
		text_appendf(t, "%s%s", i ? separator : "", documents[i].name);
}

int document_main(int argc, char **argv)
{
	text_scoped t = TEXT_INIT;

	for (size_t i = 0; argc == 2 && i < ARRAY_LEN(documents); i++)
		if (strcmp(argv[1], documents[i].name) == 0)
			documents[i].write(&t);
	if (!t.n_bytes && !t.is_out_of_memory) {
		document_write_names("|", &t);
		fprintf(stderr, "Usage: varan document %s\n", text_get(&t));
		return 2;
	}
	return t.is_out_of_memory || fputs(text_get(&t), stdout) < 0 || fflush(stdout) ? 1 : 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/document.h"

#include "api/api.h"
#include "base/checked.h"
#include "base/text.h"
#include "cli/completion.h"
#include "cli/image.h"
#include "cli/remote_tables.h"
#include "cli/subcommands.h"
#include "config/options.h"
#include "schema/schema.h"

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

static const char man_description[] =
	".SH DESCRIPTION\n"
	"Runs one VM: a Linux guest on KVM. With something to boot on the command line, the VM boots at once. Without, and\n"
	"with\n.B \\-\\-api\\-socket ,\nthe process waits to be told by its API what the VM is (see\n.BR varan\\-api (7)).\n"
	"The guest's virtio console is the terminal of the process, unless\n.B \\-\\-console\nsays otherwise.\n.PP\n"
	"Called as\n.BR cloud\\-hypervisor ,\nit has the same options, no sub-commands, and answers\n.B \\-\\-version\n"
	"with the release of that program whose interface it has; called as\n.BR ch\\-remote ,\nit is the client of the API.\n";

static const char man_end[] =
	".SH EXIT STATUS\n"
	".TP\n0\nThe guest has powered off, a signal or the API has ended the VM in order, or what was asked for is printed.\n"
	".TP\n1\nSomething failed; why is on standard error.\n"
	".TP\n2\nThe command line is not understood.\n"
	".SH SIGNALS\n"
	".TP\nSIGTERM, SIGINT, SIGHUP\nEnd the VM and the process in order, as if the power was cut. Ignored where the caller\n"
	"ignored them.\n"
	".TP\nSIGUSR1\nPrint the counters of the VM on standard error.\n"
	".TP\nSIGUSR2\nPress the power button of the guest.\n"
	".SH FILES\n"
	".TP\n.I /dev/kvm\nThe hypervisor, which the process must be allowed to read and write.\n"
	".SH SEE ALSO\n.BR varan\\-remote (1),\n.BR varan\\-image (1),\n.BR varan\\-api (7)\n";

static void write_man_subcommands(struct text *t)
{
	text_append(t, ".SH SUB-COMMANDS\n");
	for (size_t i = 0; i < n_subcommands; i++) {
		text_append(t, ".TP\n\\fBvaran ");
		schema_write_roff(subcommands[i].name, t);
		text_append(t, "\\fR ");
		schema_write_roff(subcommands[i].words, t);
		text_append_char(t, '\n');
		schema_write_roff(subcommands[i].about, t);
		text_append(t, ".\n");
	}
}

static void write_man(struct text *t)
{
	text_append(t, ".TH varan 1\n.SH NAME\nvaran, cloud\\-hypervisor \\- ");
	schema_write_roff(varan_options.about, t);
	text_append(t, "\n.SH SYNOPSIS\n.B varan\n[\\fIOPTIONS\\fR]\n.br\n.B cloud\\-hypervisor\n[\\fIOPTIONS\\fR]\n");
	for (size_t i = 0; i < n_subcommands; i++) {
		text_append(t, ".br\n.B varan ");
		schema_write_roff(subcommands[i].name, t);
		text_append_char(t, '\n');
		schema_write_roff(subcommands[i].words, t);
		text_append_char(t, '\n');
	}
	text_append(t, man_description);
	text_append(t, ".SH OPTIONS\n");
	command_line_write_man_options(&varan_options, t);
	write_man_subcommands(t);
	text_append(t, man_end);
}

static const struct {
	const char *name;
	void (*write)(struct text *t);
} documents[] = {
	{ "man", write_man },
	{ "man-remote", remote_write_man },
	{ "man-image", image_write_man },
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

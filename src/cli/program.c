/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/program.h"

#include "config/options.h"

#include <stdio.h>
#include <string.h>

void program_init(struct program *ret_p, const char *argv0)
{
	const char *slash = argv0 ? strrchr(argv0, '/') : NULL;
	const char *name = slash ? slash + 1 : argv0 ? argv0 : "";
	bool is_cloud_hypervisor = strcmp(name, "cloud-hypervisor") == 0;

	*ret_p = (struct program){
		.name = is_cloud_hypervisor ? "cloud-hypervisor" : "varan",
		.options = varan_options,
		.is_cloud_hypervisor = is_cloud_hypervisor,
		.is_remote = strcmp(name, "ch-remote") == 0,
		.has_subcommands = !is_cloud_hypervisor,
	};
	ret_p->options.program = ret_p->name;
}

const char *const program_features[] = { "io_uring", "kvm", NULL };

const char *program_version(const struct program *p)
{
	return p->is_cloud_hypervisor ? CLOUD_HYPERVISOR_LEVEL : VARAN_VERSION;
}

int program_print_version(const struct program *p, bool is_verbose)
{
	printf("%s v%s\n", p->name, program_version(p));
	if (is_verbose) {
		printf("Enabled features: [");
		for (size_t i = 0; program_features[i]; i++)
			printf("%s\"%s\"", i ? ", " : "", program_features[i]);
		printf("]\n");
	}
	return fflush(stdout) ? 1 : 0;
}

/* Numbered, a cause a line. */
static void print_chain(const char *what, const char *text)
{
	unsigned n = 0;
	fputs("Error: Cloud Hypervisor exited with the following chain of errors:\n", stderr);
	if (what)
		fprintf(stderr, "  %u: %s\n", n++, what);
	while (*text) {
		size_t length = strcspn(text, "\n");
		fprintf(stderr, "  %u: %.*s\n", n++, (int)length, text);
		text += length + (text[length] == '\n');
	}
}

/* On one line; `what` says already what the chain's first cause says. */
static void print_line(const char *what, const char *text)
{
	const char *first_end = strchr(text, '\n');
	if (what && first_end)
		text = first_end + 1;
	fprintf(stderr, "%s%s", what ? what : "", what ? ": " : "");
	while (*text) {
		size_t length = strcspn(text, "\n");
		bool has_more = text[length] == '\n';
		fprintf(stderr, "%.*s%s", (int)length, text, has_more ? ": " : "");
		text += length + has_more;
	}
	fputc('\n', stderr);
}

int program_fail(const struct program *p, const char *what, const struct err *e)
{
	struct err one = *e;
	err_flatten(&one);
	return program_fail_chain(p, what, &one);
}

int program_fail_chain(const struct program *p, const char *what, const struct err *e)
{
	if (p->is_cloud_hypervisor)
		print_chain(what, e->text);
	else
		print_line(what, e->text);
	return 1;
}

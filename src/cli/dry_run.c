/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/dry_run.h"

#include "cli/program.h"
#include "config/options.h"
#include "schema/schema.h"

#include <stdio.h>

static int print(const struct program *p, const struct schema *s, const void *object)
{
	struct err e = { 0 };
	text_scoped t = TEXT_INIT;
	if (schema_write_json(s, object, SCHEMA_LARGE_NUMBERS, &t, &e) < 0)
		return program_fail(p, "Error printing config", &e);
	return puts(text_get(&t)) < 0 || fflush(stdout) ? 1 : 0;
}

static int print_restore(const struct program *p, const struct command_line *line)
{
	struct err e = { 0 };
	struct restore_config c;
	if (restore_config_from_command_line(line, &c, &e) < 0)
		return program_fail(p, "Error parsing restore", &e);
	int status = print(p, &restore_schema, &c);
	schema_done(&restore_schema, &c);
	return status;
}

int dry_run(const struct program *p, const struct command_line *line, const struct vmm_config *c)
{
	struct err e = { 0 };
	struct vm_config vm;
	if (c->has_restore)
		return print_restore(p, line);
	if (!c->has_payload) { /* as in a run, options of the VM are not looked at */
		fprintf(stderr, "%s: there is nothing to boot: no --kernel, no --firmware\n", p->name);
		return puts("null") < 0 || fflush(stdout) ? 1 : 0;
	}
	if (vm_config_from_command_line(line, &vm, &e) < 0)
		return program_fail(p, "Error parsing config", &e);
	int status = print(p, &vm_config_schema, &vm);
	vm_config_done(&vm);
	return status;
}

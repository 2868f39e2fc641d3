/* SPDX-License-Identifier: Apache-2.0 */
/* dry_run.h - --dry-run: everything that a run checks before it makes something, and then the configuration as JSON. */
#pragma once
#include "config/command_line.h"
#include "config/vmm_config.h"

struct program;

/* The exit status. Standard output gets what vm.info would say about the VM's configuration, or the RestoreConfig when the
 * VM would be restored, or null when nothing would be started. */
int dry_run(const struct program *p, const struct command_line *line, const struct vmm_config *c);

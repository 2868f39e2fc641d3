/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - the options of the program `varan`, and the way from its command line to a struct vm_config. */
#pragma once
#include "config/command_line.h"
#include "config/vm_config.h"

extern const struct option_table varan_options;

/* Parses each option's string in Cloud Hypervisor's order, then validates. Texts are complete but for the caller's
 * "Error parsing config: ". On failure there is nothing to free. */
int vm_config_from_command_line(const struct command_line *line, struct vm_config *ret_c, struct err *e);

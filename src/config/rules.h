/* SPDX-License-Identifier: Apache-2.0 */
/* rules.h - the rules of one section of the configuration, called by vm_config_validate() in its order. Inside
 * src/config/ only. Each returns 0, or -EINVAL with Cloud Hypervisor's text. */
#pragma once
#include "config/vm_config.h"

int cpus_check_counts(const struct cpus_config *c, struct err *e);
int cpus_check_topology(const struct cpus_config *c, struct err *e);
int memory_check(const struct memory_config *m, struct err *e);
bool memory_is_shared(const struct memory_config *m);
int console_check(const struct console_config *c, struct err *e);
int disk_check(const struct disk_config *d, const struct vm_config *c, struct err *e);

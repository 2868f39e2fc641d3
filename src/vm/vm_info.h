/* SPDX-License-Identifier: Apache-2.0 */
/* vm_info.h - what vm.info answers. Main thread. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

struct text;
struct vm;
struct vm_config;

/* {"config":{..},"state":"..","memory_actual_size":..,"device_tree":{..}}; the tree only while there is a machine. In the
 * configuration, consoles on a pseudo-terminal have its path as their file. */
int vm_info_write(struct vm *vm, const struct vm_config *c, struct text *json, struct err *e);

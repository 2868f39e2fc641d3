/* SPDX-License-Identifier: Apache-2.0 */
/* unsupported.h - what a configuration may say, but no machine can be built for yet. One list, so that the README's table
 * and the program agree; an entry goes when its device comes. */
#pragma once
#include "base/err.h"
#include "config/vm_config.h"

/* 0, or -ENOTSUP with "not supported yet: --option key=value". */
int refuse_unsupported(const struct vm_config *c, struct err *e);
/* Of that, for one device. */
int refuse_unsupported_disk(const struct disk_config *d, struct err *e);
int refuse_unsupported_pmem(const struct pmem_config *p, struct err *e);

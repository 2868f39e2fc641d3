/* SPDX-License-Identifier: Apache-2.0 */
/* preserved.h - open descriptors that a configuration owns, for the devices that name them. */
#pragma once
#include "config/vm_config.h"

/* Takes n descriptors over, in front of those that are there already. -EMFILE, -ENOMEM: they stay the caller's. */
int vm_config_preserve(struct vm_config *c, const int32_t *fds, size_t n, struct err *e);
/* Gives the first n back to the caller: undoes the latest vm_config_preserve(). */
void vm_config_unpreserve(struct vm_config *c, size_t n);
/* Closes those of `fds` that c owns. */
void vm_config_close_preserved(struct vm_config *c, const int32_t *fds, size_t n);

/* For vm_config.c. A copy owns duplicates, and its devices name them. On failure the copy owns none. */
int preserved_copy(struct vm_config *copy, struct err *e);
void preserved_done(struct vm_config *c);

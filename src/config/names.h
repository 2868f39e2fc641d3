/* SPDX-License-Identifier: Apache-2.0 */
/* names.h - which names are taken, and by whom; for rules over long lists. Names are borrowed. Inside src/config/ only. */
#pragma once
#include "base/forward.h"

struct names {
	struct name_entry *entries; /* hashed, open addressing; a power of two, never more than half full */
	size_t n_entries;
};

int names_init(struct names *n, size_t n_names); /* room for that many; -ENOMEM */
void names_done(struct names *n);
/* False when the name is taken: its owner is left in *ret_owner. */
bool names_add(struct names *n, const char *name, uint32_t owner, uint32_t *ret_owner);
bool names_have(const struct names *n, const char *name);

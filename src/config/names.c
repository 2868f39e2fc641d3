/* SPDX-License-Identifier: Apache-2.0 */
#include "config/names.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct name_entry {
	const char *name;
	uint32_t owner;
};

int names_init(struct names *n, size_t n_names)
{
	size_t size = 16;
	while (size / 2 < n_names)
		size *= 2;
	n->n_entries = size;
	n->entries = calloc(size, sizeof *n->entries);
	return n->entries ? 0 : -ENOMEM;
}

void names_done(struct names *n)
{
	free(n->entries);
	*n = (struct names){ 0 };
}

/* FNV-1a, 64 bits. Whoever chooses names so that they collide slows down the building of his own VM only. */
static uint64_t hash(const char *name)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3u;
	return h;
}

/* Where the name is, or where it would be put. */
static struct name_entry *entry_of(const struct names *n, const char *name)
{
	size_t mask = n->n_entries - 1;
	for (size_t i = hash(name) & mask, tried = 0;; i = (i + 1) & mask, tried++) {
		struct name_entry *entry = &n->entries[i];
		assert(tried < n->n_entries);
		if (!entry->name || strcmp(entry->name, name) == 0)
			return entry;
	}
}

bool names_add(struct names *n, const char *name, uint32_t owner, uint32_t *ret_owner)
{
	struct name_entry *entry = entry_of(n, name);
	if (entry->name) {
		*ret_owner = entry->owner;
		return false;
	}
	*entry = (struct name_entry){ .name = name, .owner = owner };
	return true;
}

bool names_have(const struct names *n, const char *name)
{
	return entry_of(n, name)->name != NULL;
}

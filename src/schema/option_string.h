/* SPDX-License-Identifier: Apache-2.0 */
/* option_string.h - the words of one "key=value,key,..." argument, before anybody knows what they mean.
 *
 * Also for options that are not objects (--api-socket). The text is hostile; all memory is linear in its length.
 * Any thread; the result owns its strings. */
#pragma once
#include "base/forward.h"

#define OPTION_STRING_MAX_BYTES (1u << 20)

struct option_pair {
	const char *key;   /* as written: case and spaces count */
	const char *value; /* without surrounding spaces; NULL when there was no '=' */
};

struct option_string {
	char *bytes;
	struct option_pair *pairs; /* in the order given */
	size_t n_pairs;
};

/* -EINVAL with "invalid syntax:<text>" when quotes or brackets do not match. */
int option_string_parse(const char *text, struct option_string *ret_o, struct err *e);
void option_string_done(struct option_string *o);

/* Whether the key was mentioned at all, with a value or without. */
bool option_string_mentions(const struct option_string *o, const char *key);
/* The last one given; NULL when absent or empty, which is the same thing. */
const char *option_string_value(const struct option_string *o, const char *key);

enum option_key { OPTION_KEY_UNKNOWN, OPTION_KEY_VALUED, OPTION_KEY_WORD };
/* Refuses the first pair whose key is unknown ("unknown option: K") or lacks its value ("invalid syntax:K"). */
int option_string_check(const struct option_string *o, enum option_key (*kind_of)(const void *context, const char *key),
                        const void *context, struct err *e);

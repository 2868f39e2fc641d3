/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_bus.h - accesses as an input spells them: one byte says what, then address, width and value. One include a program. */
#pragma once
#include "base/bytes.h"
#include "base/log.h"
#include "bus/bus.h"

#include <stdlib.h>
#include <string.h>

#define MUST(cond) ((cond) ? (void)0 : abort())

struct input {
	const uint8_t *bytes;
	size_t n_bytes;
};

static inline uint64_t take(struct input *in, unsigned n_bytes)
{
	uint8_t bytes[8] = { 0 };
	for (unsigned i = 0; i < n_bytes && in->n_bytes; i++) {
		bytes[i] = *in->bytes++;
		in->n_bytes--;
	}
	return get_le(bytes, n_bytes);
}

/* What the bus promises a handler, it must be promised whatever the guest does; and a handler keeps inside the access. */
static inline uint64_t fuzz_read(const struct bus *b, uint64_t address, unsigned n_bytes)
{
	uint8_t bytes[16];
	memset(bytes, 0xee, sizeof bytes);
	(void)bus_read(b, address, bytes, n_bytes);
	for (unsigned i = n_bytes; i < sizeof bytes; i++)
		MUST(bytes[i] == 0xee);
	return get_le(bytes, n_bytes);
}

static inline void fuzz_write(const struct bus *b, uint64_t address, unsigned n_bytes, uint64_t v)
{
	uint8_t bytes[8];
	put_le(bytes, n_bytes, v);
	(void)bus_write(b, address, bytes, n_bytes);
}

/* 1, 2, 4 and 8 mostly; any from 1 to 8 sometimes. */
static inline unsigned width_of(unsigned choice)
{
	return choice & 8 ? choice % 8 + 1 : 1u << choice % 4;
}

static inline void log_nowhere(void *context, const struct log_record *r)
{
	(void)context;
	MUST(r->text[0] != 0);
}

/* Messages are formatted, so that their arguments are looked at. */
static const struct log_sink nowhere = { .write = log_nowhere, .max_level = LOG_TRACE };

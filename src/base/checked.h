/* SPDX-License-Identifier: Apache-2.0 */
/* checked.h - arithmetic on numbers that somebody else chose. Each returns false, and writes nothing useful, on overflow. */
#pragma once
#include "base/forward.h"

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

#define checked_add(a, b, ret) (!__builtin_add_overflow(a, b, ret))
#define checked_sub(a, b, ret) (!__builtin_sub_overflow(a, b, ret))
#define checked_mul(a, b, ret) (!__builtin_mul_overflow(a, b, ret))

static inline bool is_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* align is a power of two; the caller knows that v + align does not overflow (our own sizes only). */
static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return (v + align - 1) & ~(align - 1);
}

static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

/* For v from outside: false when the aligned value does not fit. */
static inline bool checked_align_up(uint64_t v, uint64_t align, uint64_t *ret)
{
	uint64_t t;
	if (!checked_add(v, align - 1, &t))
		return false;
	*ret = t & ~(align - 1);
	return true;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

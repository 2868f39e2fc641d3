/* SPDX-License-Identifier: Apache-2.0 */
/* test.h - the unit tests' kit: each TEST runs in a process of its own with a hang guard, output is TAP.
 *
 * A failed check ends its test only. Every test also fails when it leaves a file descriptor open. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
	const char *name;
	void (*fn)(void);
	struct test *next;
};

void test_register(struct test *t);
void test_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4), noreturn));
void test_skip(const char *why) __attribute__((noreturn));
void test_forbid_call(long number, int error); /* a system call fails so from now on: for tests in a process of their own */

/* For a while in which nothing is to happen; never to wait for something that is. */
void test_sleep_us(unsigned us);

#define TEST(name_)                                                                        \
	static void test_##name_(void);                                                    \
	__attribute__((constructor)) static void register_##name_(void)                    \
	{                                                                                  \
		static struct test t = { .name = #name_, .fn = test_##name_ };             \
		test_register(&t);                                                         \
	}                                                                                  \
	static void test_##name_(void)

#define OK(cond)                                                              \
	do {                                                                  \
		if (!(cond))                                                  \
			test_fail(__FILE__, __LINE__, "%s is false", #cond);  \
	} while (0)

/* Integers; both sides are printed. */
#define EQ(a, b)                                                                                                       \
	do {                                                                                                           \
		long long a_ = (long long)(a), b_ = (long long)(b);                                                    \
		if (a_ != b_)                                                                                          \
			test_fail(__FILE__, __LINE__, "%s is %lld (0x%llx), %s is %lld (0x%llx)", #a, a_,              \
			          (unsigned long long)a_, #b, b_, (unsigned long long)b_);                             \
	} while (0)

#define STR_EQ(a, b)                                                                                    \
	do {                                                                                            \
		const char *a_ = (a), *b_ = (b);                                                        \
		if (!a_ || !b_ || strcmp(a_, b_) != 0)                                                  \
			test_fail(__FILE__, __LINE__, "%s is \"%s\", expected \"%s\"", #a, a_ ? a_ : "(null)", \
			          b_ ? b_ : "(null)");                                                  \
	} while (0)

#define STR_HAS(a, part)                                                                                       \
	do {                                                                                                   \
		const char *a_ = (a), *b_ = (part);                                                            \
		if (!a_ || !strstr(a_, b_))                                                                    \
			test_fail(__FILE__, __LINE__, "%s is \"%s\", which lacks \"%s\"", #a, a_ ? a_ : "(null)", b_); \
	} while (0)

#define MEM_EQ(a, b, n)                                                                     \
	do {                                                                                \
		if (memcmp(a, b, n) != 0)                                                   \
			test_fail(__FILE__, __LINE__, "%s and %s differ", #a, #b);          \
	} while (0)

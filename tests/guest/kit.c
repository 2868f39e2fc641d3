/* SPDX-License-Identifier: Apache-2.0 */
#include "kit.h"

#define COM1 0x3f8
#define POWER_PORT 0x600 /* the sleep control register of our FADT */
#define POWER_S5 0x34

static uint64_t page_map[512] __attribute__((aligned(4096)));
static uint64_t page_directories[512] __attribute__((aligned(4096)));
static uint64_t state;

void kit_start(uint64_t seed)
{
	state = seed * 2654435761u + 88172645463325252ull;
	for (uint64_t i = 0; i < 512; i++)
		page_directories[i] = i << 30 | 0x83; /* present, writable, 1 GiB */
	page_map[0] = (uint64_t)(uintptr_t)page_directories | 3;
	__asm__ volatile("mov %0, %%cr3" : : "r"(page_map) : "memory");
}

void print(const char *s)
{
	for (; *s; s++)
		out8(COM1, (uint8_t)*s);
}

void print_hex(uint64_t v)
{
	print("0x");
	bool has_begun = false;
	for (int shift = 60; shift >= 0; shift -= 4) {
		unsigned digit = (unsigned)(v >> shift & 15);
		has_begun |= digit || shift == 0;
		if (has_begun)
			out8(COM1, (uint8_t)"0123456789abcdef"[digit]);
	}
}

void print_number(uint64_t v)
{
	char b[24];
	int n = 0;
	do {
		b[n++] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	while (n--)
		out8(COM1, (uint8_t)b[n]);
}

/* xorshift64: reproducible from the seed. */
uint64_t random_u64(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

void fill(void *p, uint8_t v, size_t n)
{
	volatile uint8_t *b = p;
	while (n--)
		*b++ = v;
}

void fill_random(void *p, size_t n)
{
	volatile uint8_t *b = p;
	while (n--)
		*b++ = (uint8_t)(random_u64() >> 24);
}

bool equal(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;
	for (; n; n--) {
		if (*x++ != *y++)
			return false;
	}
	return true;
}

const char *find(const char *text, const char *part)
{
	for (; *text; text++) {
		const char *a = text, *b = part;
		while (*b && *a == *b) {
			a++;
			b++;
		}
		if (!*b)
			return a;
	}
	return NULL;
}

uint64_t parse_number(const char *s, const char **ret_end)
{
	uint64_t v = 0;
	unsigned base = 10;
	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	}
	for (;; s++) {
		unsigned digit = 99;
		if (*s >= '0' && *s <= '9')
			digit = (unsigned)(*s - '0');
		else if (*s >= 'a' && *s <= 'f')
			digit = (unsigned)(*s - 'a' + 10);
		if (digit >= base)
			break;
		v = v * base + digit;
	}
	if (ret_end)
		*ret_end = s;
	return v;
}

uint64_t option(const char *cmdline, const char *key, uint64_t def)
{
	const char *value = find(cmdline, key);
	return value ? parse_number(value, NULL) : def;
}

void power_off(void)
{
	for (;;) {
		out8(POWER_PORT, POWER_S5);
		__asm__ volatile("pause");
	}
}

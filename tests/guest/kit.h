/* SPDX-License-Identifier: Apache-2.0 */
/* kit.h - what a freestanding guest needs: ports, the serial line, time, random numbers, memory. One vCPU, ring 0, identity
 * mapping of the first 512 GiB. Nothing of Varan's own sources is used here: the payload knows the specifications only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline void out8(uint16_t port, uint8_t v) { __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port)); }
static inline void out16(uint16_t port, uint16_t v) { __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port)); }
static inline void out32(uint16_t port, uint32_t v) { __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port)); }

static inline uint8_t in8(uint16_t port)
{
	uint8_t v;
	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint16_t in16(uint16_t port)
{
	uint16_t v;
	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t v;
	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

#define MMIO8(a) (*(volatile uint8_t *)(a))
#define MMIO16(a) (*(volatile uint16_t *)(a))
#define MMIO32(a) (*(volatile uint32_t *)(a))
#define MMIO64(a) (*(volatile uint64_t *)(a))

void kit_start(uint64_t seed); /* page tables, random numbers */
void print(const char *s);
void print_hex(uint64_t v);
void print_number(uint64_t v);
uint64_t random_u64(void);
static inline uint64_t random_below(uint64_t n) { return random_u64() % n; }
void fill(void *p, uint8_t v, size_t n);
void fill_random(void *p, size_t n);
bool equal(const void *a, const void *b, size_t n);
/* The number behind `key=` on the command line, or def. */
uint64_t option(const char *cmdline, const char *key, uint64_t def);
const char *find(const char *text, const char *part);
uint64_t parse_number(const char *s, const char **ret_end);
__attribute__((noreturn)) void power_off(void);

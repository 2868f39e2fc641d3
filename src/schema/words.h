/* SPDX-License-Identifier: Apache-2.0 */
/* words.h - single values between text and numbers, with the exact spellings of option strings (any thread; pure). */
#pragma once
#include "base/forward.h"

bool word_is_space(char c);
/* Decimal digits with at most one leading '+'. */
bool word_to_number(const char *word, uint64_t *ret);
/* "0x" and hexadecimal digits. */
bool word_to_hex(const char *word, uint64_t *ret);
/* As word_to_number, or one leading '-'; 32 bits. */
bool word_to_i32(const char *word, int32_t *ret);
/* A number with at most one of K, M, G behind it; false when the product does not fit. */
bool word_to_size(const char *word, uint64_t *ret);
bool word_to_bool(const char *word, bool *ret);
bool word_to_mac(const char *word, uint8_t ret[6]);
bool word_to_ipv4(const char *word, uint8_t ret[4]);
bool word_to_bytes(const char *hex, size_t n_bytes, uint8_t *ret); /* exactly 2 * n_bytes digits */
bool word_is_utf8(const char *s, size_t n_bytes);

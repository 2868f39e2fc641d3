/* SPDX-License-Identifier: Apache-2.0 */
#include "schema/words.h"

#include "base/checked.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

bool word_is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Digits only, at least one; *ret_end is behind the last. */
static bool digits(const char *s, uint64_t *ret, const char **ret_end)
{
	uint64_t v = 0;
	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++)
		if (!checked_mul(v, (uint64_t)10, &v) || !checked_add(v, (uint64_t)(*s - '0'), &v))
			return false;
	*ret = v;
	*ret_end = s;
	return true;
}

bool word_to_number(const char *word, uint64_t *ret)
{
	const char *end;
	uint64_t v;
	if (!digits(word + (*word == '+'), &v, &end) || *end)
		return false;
	*ret = v;
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool word_to_hex(const char *word, uint64_t *ret)
{
	uint64_t v = 0;
	if (word[0] != '0' || word[1] != 'x' || !word[2])
		return false;
	for (const char *c = word + 2; *c; c++) {
		int digit = hex_digit(*c);
		if (digit < 0 || v > UINT64_MAX >> 4)
			return false;
		v = v << 4 | (uint64_t)digit;
	}
	*ret = v;
	return true;
}

bool word_to_i32(const char *word, int32_t *ret)
{
	const char *end;
	uint64_t v;
	bool is_negative = *word == '-';
	if (!digits(word + (*word == '+' || is_negative), &v, &end) || *end)
		return false;
	if (v > (uint64_t)INT32_MAX + is_negative)
		return false;
	*ret = (int32_t)(is_negative ? -(int64_t)v : (int64_t)v);
	return true;
}

bool word_to_size(const char *word, uint64_t *ret)
{
	const char *end;
	uint64_t v;
	if (!digits(word + (*word == '+'), &v, &end))
		return false;
	uint64_t unit = 1;
	if (*end) {
		unit = *end == 'K' ? 1ull << 10 : *end == 'M' ? 1ull << 20 : *end == 'G' ? 1ull << 30 : 0;
		if (!unit || end[1])
			return false;
	}
	return checked_mul(v, unit, ret);
}

bool word_to_bool(const char *word, bool *ret)
{
	*ret = strcasecmp(word, "on") == 0 || strcasecmp(word, "true") == 0;
	return *ret || strcasecmp(word, "off") == 0 || strcasecmp(word, "false") == 0;
}

static bool hex_byte(const char *two, uint8_t *ret)
{
	int high = hex_digit(two[0]);
	int low = high < 0 ? -1 : hex_digit(two[1]);
	if (low < 0)
		return false;
	*ret = (uint8_t)(high << 4 | low);
	return true;
}

bool word_to_mac(const char *word, uint8_t ret[6])
{
	uint8_t mac[6];
	if (strlen(word) != 17)
		return false;
	for (size_t i = 0; i < 6; i++)
		if (!hex_byte(word + 3 * i, &mac[i]) || (i < 5 && word[3 * i + 2] != ':'))
			return false;
	memcpy(ret, mac, sizeof mac);
	return true;
}

bool word_to_ipv4(const char *word, uint8_t ret[4])
{
	uint8_t address[4];
	for (size_t i = 0; i < 4; i++) {
		const char *end;
		uint64_t v;
		if (!digits(word, &v, &end) || v > 255 || end - word > 3 || (*word == '0' && end - word > 1))
			return false;
		if (*end != (i < 3 ? '.' : '\0'))
			return false;
		address[i] = (uint8_t)v;
		word = end + 1;
	}
	memcpy(ret, address, sizeof address);
	return true;
}

bool word_to_bytes(const char *hex, size_t n_bytes, uint8_t *ret)
{
	if (strlen(hex) != 2 * n_bytes)
		return false;
	for (size_t i = 0; i < n_bytes; i++)
		if (!hex_byte(hex + 2 * i, &ret[i]))
			return false;
	return true;
}

/* RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
bool word_is_utf8(const char *s, size_t n_bytes)
{
	size_t i = 0;
	while (i < n_bytes) {
		uint8_t lead = (uint8_t)s[i++];
		if (lead < 0x80)
			continue;
		size_t n_more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
		if (lead < 0xc2 || lead > 0xf4 || n_bytes - i < n_more)
			return false;
		uint8_t next = (uint8_t)s[i];
		if ((lead == 0xe0 && next < 0xa0) || (lead == 0xed && next > 0x9f) || (lead == 0xf0 && next < 0x90) ||
		    (lead == 0xf4 && next > 0x8f))
			return false;
		for (; n_more; n_more--, i++)
			if (((uint8_t)s[i] & 0xc0) != 0x80)
				return false;
	}
	return true;
}

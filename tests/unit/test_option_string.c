/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar of option strings, and the spellings of single values. */
#include "base/err.h"
#include "base/forward.h"
#include "schema/option_string.h"
#include "schema/words.h"
#include "test.h"

/* The pairs of a string as "key=value;word;..." */
static void check_pairs(const char *text, const char *expected)
{
	struct option_string o;
	struct err e = { 0 };
	char found[256] = "";
	if (option_string_parse(text, &o, &e) < 0)
		test_fail(__FILE__, __LINE__, "'%s': %s", text, e.text);
	for (size_t i = 0; i < o.n_pairs; i++) {
		size_t n = strlen(found);
		(void)snprintf(found + n, sizeof found - n, "%s%s%s;", o.pairs[i].key, o.pairs[i].value ? "=" : "",
		               o.pairs[i].value ? o.pairs[i].value : "");
	}
	STR_EQ(found, expected);
	option_string_done(&o);
}

TEST(pairs_are_split_at_commas_and_the_first_equals_sign)
{
	check_pairs("", "");
	check_pairs(" \t ", "");
	check_pairs("a", "a;");
	check_pairs("a=1,b=2,c", "a=1;b=2;c;");
	check_pairs("a=b=c", "a=b=c;");
	check_pairs("=x", "=x;");
	check_pairs("a=", "a=;");
	check_pairs(",", ";;");
	check_pairs("a=1,", "a=1;;");
	check_pairs("a=1,,b=2", "a=1;;b=2;");
}

TEST(values_are_trimmed_and_keys_are_not)
{
	check_pairs("  a = 1  2 ,\tb=\n3 ", "a =1  2;\tb=3;");
	check_pairs(" a", "a;");
	check_pairs("a,b ", "a;b;");
}

TEST(quotes_protect_commas_and_vanish)
{
	check_pairs("\"a=1\"", "a=1;");
	check_pairs("a=\"1,2\",b", "a=1,2;b;");
	check_pairs("a=1\",\"2", "a=1,2;");
	check_pairs("a=\"\"", "a=;");
	check_pairs("\"\"", ";");
	check_pairs("a=\" 1 \"", "a=1;");
}

TEST(brackets_protect_commas_and_stay)
{
	check_pairs("a=[1,2],b=3", "a=[1,2];b=3;");
	check_pairs("a=[[1,2],[3]],b", "a=[[1,2],[3]];b;");
	check_pairs("a=[\"x,y\",z]", "a=[x,y,z];");
	check_pairs("[a,b]", "[a,b];");
}

TEST(unbalanced_strings_are_refused_whole)
{
	static const char *const bad[] = { "a=[1",     "a=1]", "a=][",     "a=\"1", "a=\"[\"",
		                           "a=\"][\"", "\"",   "a=[0@[0]", " a=[ " };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct option_string o;
		struct err e = { 0 };
		char expected[64];
		(void)snprintf(expected, sizeof expected, "invalid syntax:%s", bad[i]);
		EQ(option_string_parse(bad[i], &o, &e), -22);
		STR_EQ(e.text, expected);
	}
}

TEST(the_last_one_wins_and_empty_is_absent)
{
	struct option_string o;
	EQ(option_string_parse("a=1,a=2,b=1,b=,c,d=", &o, NULL), 0);
	STR_EQ(option_string_value(&o, "a"), "2");
	OK(!option_string_value(&o, "b") && option_string_mentions(&o, "b"));
	OK(!option_string_value(&o, "c") && option_string_mentions(&o, "c"));
	OK(!option_string_value(&o, "d") && option_string_mentions(&o, "d"));
	OK(!option_string_value(&o, "e") && !option_string_mentions(&o, "e"));
	option_string_done(&o);
}

static enum option_key kind_of(const void *context, const char *key)
{
	(void)context;
	return strcmp(key, "valued") == 0 ? OPTION_KEY_VALUED
	       : strcmp(key, "word") == 0 ? OPTION_KEY_WORD
	                                  : OPTION_KEY_UNKNOWN;
}

TEST(keys_are_checked_from_left_to_right)
{
	static const struct {
		const char *text, *error;
	} cases[] = {
		{ "valued=1,word", NULL },      { "word=1", NULL },
		{ "valued", "invalid syntax:valued" },
		{ "x,valued", "unknown option: x" },
		{ "valued,x", "invalid syntax:valued" },
		{ "Valued=1", "unknown option: Valued" },
		{ "word,", "unknown option: " },
		{ "valued =1", "unknown option: valued " },
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct option_string o;
		struct err e = { 0 };
		EQ(option_string_parse(cases[i].text, &o, &e), 0);
		EQ(option_string_check(&o, kind_of, NULL, &e), cases[i].error ? -22 : 0);
		STR_EQ(e.text, cases[i].error ? cases[i].error : "");
		option_string_done(&o);
	}
}

TEST(a_string_that_is_too_long_is_refused)
{
	struct option_string o;
	struct err e = { 0 };
	char *s = malloc(OPTION_STRING_MAX_BYTES + 2);
	OK(s);
	memset(s, ',', OPTION_STRING_MAX_BYTES + 1);
	s[OPTION_STRING_MAX_BYTES + 1] = '\0';
	OK(option_string_parse(s, &o, &e) < 0);
	s[OPTION_STRING_MAX_BYTES] = '\0';
	EQ(option_string_parse(s, &o, &e), 0);
	EQ(o.n_pairs, OPTION_STRING_MAX_BYTES + 1);
	option_string_done(&o);
	free(s);
}

TEST(numbers)
{
	uint64_t v;
	int32_t i;
	OK(word_to_number("0", &v) && v == 0);
	OK(word_to_number("+7", &v) && v == 7);
	OK(word_to_number("007", &v) && v == 7);
	OK(word_to_number("18446744073709551615", &v) && v == UINT64_MAX);
	static const char *const bad[] = { "",
		                           "+",
		                           "++1",
		                           "-0",
		                           "-1",
		                           " 1",
		                           "1 ",
		                           "1.5",
		                           "0x10",
		                           "1K",
		                           "18446744073709551616",
		                           "99999999999999999999" };
	for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++)
		OK(!word_to_number(bad[k], &v));
	OK(word_to_i32("-2147483648", &i) && i == INT32_MIN);
	OK(word_to_i32("+2147483647", &i) && i == INT32_MAX);
	OK(!word_to_i32("2147483648", &i) && !word_to_i32("-2147483649", &i) && !word_to_i32("-", &i) &&
	   !word_to_i32("+-1", &i));
}

TEST(sizes)
{
	uint64_t v;
	OK(word_to_size("0", &v) && v == 0);
	OK(word_to_size("1024K", &v) && v == 1u << 20);
	OK(word_to_size("+3M", &v) && v == 3u << 20);
	OK(word_to_size("4G", &v) && v == 4ull << 30);
	OK(word_to_size("18446744073709551615", &v) && v == UINT64_MAX);
	OK(word_to_size("17179869183G", &v) && v == 17179869183ull << 30);
	static const char *const bad[] = { "",
		                           "K",
		                           "+K",
		                           "1k",
		                           "1T",
		                           "1KB",
		                           "1GiB",
		                           "1KM",
		                           "1GG",
		                           "1 G",
		                           "1.5G",
		                           "0x10",
		                           "-1",
		                           "17179869184G",
		                           "18446744073709551615K",
		                           "18446744073709551616" };
	for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++)
		OK(!word_to_size(bad[k], &v));
}

TEST(toggles)
{
	bool on;
	OK(word_to_bool("on", &on) && on);
	OK(word_to_bool("TRUE", &on) && on);
	OK(word_to_bool("Off", &on) && !on);
	OK(word_to_bool("false", &on) && !on);
	OK(!word_to_bool("1", &on) && !word_to_bool("yes", &on) && !word_to_bool("", &on) && !word_to_bool("on ", &on));
}

TEST(addresses)
{
	uint8_t mac[6], ip[4];
	OK(word_to_mac("de:AD:be:ef:12:34", mac));
	MEM_EQ(mac, "\xde\xad\xbe\xef\x12\x34", 6);
	static const char *const bad_macs[] = { "",
		                                "de-ad-be-ef-12-34",
		                                "de:ad:be:ef:12",
		                                "de:ad:be:ef:12:3",
		                                "de:ad:be:ef:12:3g",
		                                "de:ad:be:ef:12:+3",
		                                "de:ad:be:ef:12:34:",
		                                "dead:be:ef:12:3:4" };
	for (size_t i = 0; i < sizeof bad_macs / sizeof bad_macs[0]; i++)
		OK(!word_to_mac(bad_macs[i], mac));
	OK(word_to_ipv4("192.168.0.255", ip));
	MEM_EQ(ip, "\xc0\xa8\x00\xff", 4);
	static const char *const bad_ips[] = { "",        "1.2.3",      "1.2.3.4.5", "256.0.0.1", "192.168.001.1",
		                               "::1",     "1.2.3.4/24", " 1.2.3.4",  "1..3.4",    "00.1.1.1",
		                               "+1.2.3.4" };
	for (size_t i = 0; i < sizeof bad_ips / sizeof bad_ips[0]; i++)
		OK(!word_to_ipv4(bad_ips[i], ip));
}

TEST(utf8)
{
	static const char *const good[] = { "",
		                            "abc",
		                            "\xc3\xa9",
		                            "\xe2\x82\xac",
		                            "\xf0\x9f\x98\x80",
		                            "\xef\xbf\xbf",
		                            "\xf4\x8f\xbf\xbf",
		                            "\xed\x9f\xbf" };
	static const char *const bad[] = { "\x80",
		                           "\xc0\x80",
		                           "\xc1\xbf",
		                           "\xc3",
		                           "\xe0\x80\x80",
		                           "\xed\xa0\x80",
		                           "\xf0\x80\x80\x80",
		                           "\xf4\x90\x80\x80",
		                           "\xf5\x80\x80\x80",
		                           "\xff",
		                           "a\xe2\x82",
		                           "\xc3\x28" };
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
		OK(word_is_utf8(good[i], strlen(good[i])));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		OK(!word_is_utf8(bad[i], strlen(bad[i])));
}

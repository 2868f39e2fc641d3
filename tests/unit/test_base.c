/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "test.h"

#include <errno.h>

TEST(err_set_fills_code_and_text_and_is_negative)
{
	struct err e = { 0 };
	EQ(err_set(&e, EINVAL, "disk: '%s' is %d bytes", "/x", 3), -EINVAL);
	EQ(e.code, EINVAL);
	STR_EQ(e.text, "disk: '/x' is 3 bytes");
}

TEST(err_set_errno_appends_the_reason)
{
	struct err e = { 0 };
	EQ(err_set_errno(&e, ENOENT, "cannot open '%s'", "/x"), -ENOENT);
	STR_EQ(e.text, "cannot open '/x': No such file or directory");
}

TEST(err_accepts_null)
{
	EQ(err_set(NULL, EIO, "nobody reads this"), -EIO);
	err_prefix(NULL, "x");
}

static const char *fill(char *s, size_t n, char c)
{
	memset(s, c, n);
	s[n] = '\0';
	return s;
}

TEST(err_text_is_cut_in_its_middle_and_terminated)
{
	struct err e;
	char big[10000];
	for (size_t n = 400; n < sizeof big; n += n < 700 ? 1 : 331) {
		(void)err_set(&e, EIO, "disk '%s' is bad", fill(big, n, 'x'));
		EQ(strlen(e.text), n + 14 < sizeof e.text ? n + 14 : sizeof e.text - 1);
		EQ(strncmp(e.text, "disk 'xxx", 9), 0);
		if (n < 6000) /* what is longer than any path loses its end */
			STR_HAS(e.text, "xxx' is bad");
		err_prefix(&e, "prefix: ");
		OK(strlen(e.text) < sizeof e.text);
		EQ(strncmp(e.text, "prefix: disk 'xxx", 17), 0);
	}
	EQ(e.code, EIO);
}

TEST(err_keeps_the_reason_of_a_long_text)
{
	struct err e;
	char big[10000];
	for (size_t n = 400; n < sizeof big; n += n < 700 ? 1 : 331) {
		EQ(err_set_errno(&e, ENOENT, "cannot open '%s'", fill(big, n, 'x')), -ENOENT);
		OK(strlen(e.text) < sizeof e.text);
		EQ(strncmp(e.text, "cannot open 'xxx", 16), 0);
		STR_HAS(e.text, n < 6000 ? "xxx': No such file or directory" : "x: No such file or directory");
	}
}

/* Two paths of containers, and all that comes in front of a reason on its way. */
TEST(err_prefix_keeps_the_reason)
{
	struct err e;
	char path[201], other[4001];
	(void)err_set_errno(&e, ENOENT, "cannot open '%s'", fill(path, 200, 'p'));
	err_prefix(&e, "Error validating configuration: ");
	err_prefix(&e, "Error booting VM\n");
	STR_HAS(e.text, path); /* whole */
	STR_HAS(e.text, "Error booting VM\nError validating configuration: cannot open 'ppp");
	err_prefix(&e, "--disk path=%s: ", fill(other, 4000, 'q'));
	EQ(strlen(e.text), sizeof e.text - 1);
	EQ(strncmp(e.text, "--disk path=qqq", 15), 0);
	STR_HAS(e.text, "...");
	STR_HAS(e.text, "pp': No such file or directory");
	/* Again and again: the ends stay. */
	for (int i = 0; i < 50; i++)
		err_prefix(&e, "%s", "more words: ");
	EQ(strncmp(e.text, "more words: ", 12), 0);
	STR_HAS(e.text, "pp': No such file or directory");
}

TEST(err_cuts_the_longest_line_first)
{
	struct err e;
	char a[601], b[401];
	(void)err_set(&e, EIO, "first\n%s\nlast", fill(a, 600, 'a'));
	EQ(strncmp(e.text, "first\naaa", 9), 0);
	STR_HAS(e.text, "a...a");
	STR_HAS(e.text, "a\nlast");
	(void)err_set(&e, EIO, "%s\n%s\nlast", fill(a, 600, 'a'), fill(b, 400, 'b'));
	STR_HAS(e.text, "a...a");
	STR_HAS(e.text, "b\nlast");
	/* Nothing but short lines. */
	char lines[3000];
	for (size_t i = 0; i < sizeof lines - 1; i++)
		lines[i] = i % 10 == 9 ? '\n' : 'z';
	lines[sizeof lines - 1] = '\0';
	(void)err_set(&e, EIO, "%s", lines);
	EQ(strlen(e.text), sizeof e.text - 1);
	EQ(strncmp(e.text, lines, sizeof e.text - 1), 0);
}

TEST(err_cuts_between_characters)
{
	struct err e;
	char name[1201];
	for (size_t i = 0; i < 1200; i += 3)
		memcpy(name + i, "\xe2\x82\xac", 3);
	name[1200] = '\0';
	for (int shift = 0; shift < 6; shift++) {
		(void)err_set(&e, EIO, "%.*s%s!", shift, "......", name);
		const char *dots = strstr(e.text + shift, "...");
		OK(dots && (size_t)(dots - e.text - shift) % 3 == 0);
		EQ((strlen(dots + 3) - 1) % 3, 0);
		EQ(strncmp(dots + 3, "\xe2\x82\xac", 3), 0);
	}
}

TEST(text_grows_and_is_taken)
{
	text_scoped t = TEXT_INIT;
	STR_EQ(text_get(&t), "");
	for (int i = 0; i < 1000; i++)
		text_appendf(&t, "%d,", i % 10);
	EQ(t.n_bytes, 2000);
	char *s;
	EQ(text_take(&t, &s), 0);
	EQ(strlen(s), 2000);
	EQ(strncmp(s, "0,1,2,", 6), 0);
	free(s);
	STR_EQ(text_get(&t), "");
}

TEST(text_take_of_an_empty_text_is_the_empty_string)
{
	struct text t = TEXT_INIT;
	char *s;
	EQ(text_take(&t, &s), 0);
	STR_EQ(s, "");
	free(s);
}

static int n_records;
static char last_text[LOG_TEXT_BYTES];

static void count_record(void *context, const struct log_record *r)
{
	(void)context;
	n_records++;
	(void)snprintf(last_text, sizeof last_text, "%s: %s", r->object, r->text);
}

TEST(log_reaches_the_sink_up_to_its_level)
{
	struct log_sink sink = { .write = count_record, .max_level = LOG_INFO };
	struct log l = { .sink = &sink, .object = "_disk0" };
	log_info(&l, "opened %d", 7);
	STR_EQ(last_text, "_disk0: opened 7");
	log_debug(&l, "not this");
	EQ(n_records, 1);
	struct log silent = { 0 };
	log_error(&silent, "nowhere");
	EQ(n_records, 1);
}

TEST(guest_messages_are_limited_by_count)
{
	struct log_sink sink = { .write = count_record, .max_level = LOG_INFO };
	struct log l = { .sink = &sink, .object = "_disk0" };
	struct log_limit limit = { 0 };
	for (int i = 0; i < 100000; i++)
		guest_warn(&l, &limit, "bad descriptor %d", i);
	EQ(n_records, LOG_LIMIT_BURST);
	STR_EQ(last_text, "_disk0: guest: bad descriptor 9");
}

/* As much as fits, in whole characters: of one that does not fit, nothing; of the one before it, everything. */
TEST(json_is_escaped_within_bounds)
{
	static const struct {
		const char *in;
		size_t n_max;
		const char *out;
	} cases[] = {
		{ "a\"\\\n", 64, "a\\\"\\\\\\u000a" }, { "a\nb", 7, "a" },	       { "a\nb", 8, "a\\u000a" },
		{ "\xc3\xa4\xc3\xb6", 5, "\xc3\xa4\xc3\xb6" }, { "\xc3\xa4\xc3\xb6", 4, "\xc3\xa4" },
		{ "\xc3\xa4\xc3\xb6", 3, "\xc3\xa4" },         { "\xc3\xa4\xc3\xb6", 2, "" },
		{ "\xc3\xa4" "b", 3, "\xc3\xa4" },             { "x\xe2\x82\xac", 4, "x" },
		{ "abc", 1, "" },
	};
	char out[64];
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		json_escape(cases[i].in, true, out, cases[i].n_max);
		STR_EQ(out, cases[i].out);
	}
	json_escape("a\xff\xc3\xa4", false, out, sizeof out);
	STR_EQ(out, "a???");
}

TEST(err_flatten_leaves_one_line)
{
	struct err e = { 0 };
	(void)err_set(&e, EINVAL, "a\nb\x1b\x7f \xc3\xa4");
	err_flatten(&e);
	STR_EQ(e.text, "a?b?? \xc3\xa4");
	err_flatten(NULL);
}

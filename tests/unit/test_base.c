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

TEST(err_text_is_cut_and_terminated)
{
	struct err e;
	char big[1000];
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	(void)err_set(&e, EIO, "%s", big);
	EQ(strlen(e.text), sizeof e.text - 1);
	err_prefix(&e, "prefix: ");
	EQ(strlen(e.text), sizeof e.text - 1);
	EQ(strncmp(e.text, "prefix: xxx", 11), 0);
}

TEST(err_keeps_the_reason_of_a_long_text)
{
	struct err e;
	char big[1000];
	memset(big, 'x', sizeof big - 1);
	big[sizeof big - 1] = '\0';
	errno = ENOENT;
	EQ(err_set_errno(&e, errno, "cannot open '%s'", big), -ENOENT);
	EQ(strlen(e.text), sizeof e.text - 1);
	STR_HAS(e.text, "...: No such file or directory");
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

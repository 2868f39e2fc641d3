/* SPDX-License-Identifier: Apache-2.0 */
/* The token bucket on a clock that the tests turn: exact counts, and against a reference in floating point. */
#include "base/token_bucket.h"
#include "base/checked.h"
#include "base/clock.h"
#include "test.h"

typedef unsigned __int128 u128;

static struct token_bucket bucket(uint64_t size, uint64_t refill_ms, uint64_t burst)
{
	struct token_bucket b;
	token_bucket_init(&b, &(struct token_rate){ .size = size, .one_time_burst = burst, .refill_ms = refill_ms });
	return b;
}

static bool take(struct token_bucket *b, uint64_t n, uint64_t now_ns)
{
	if (token_bucket_wait_ns(b, n, now_ns))
		return false;
	token_bucket_take(b, n, now_ns);
	return true;
}

/* Requests of n tokens, as fast as they go, within [start, start + span]; says how many. */
static uint64_t run(struct token_bucket *b, uint64_t n, uint64_t start_ns, uint64_t span_ns)
{
	uint64_t count = 0;
	for (uint64_t now = start_ns;;) {
		uint64_t wait = token_bucket_wait_ns(b, n, now);
		if (wait > start_ns + span_ns - now)
			return count;
		if (wait > 1)
			OK(token_bucket_wait_ns(b, n, now + wait - 1) == 1); /* not a nanosecond earlier */
		now += wait;
		OK(take(b, n, now));
		count++;
	}
}

/* A full bucket, and what comes in span_ns: not a token more or less. */
static void is_exact(uint64_t size, uint64_t refill_ms, uint64_t n, uint64_t span_ns)
{
	struct token_bucket b = bucket(size, refill_ms, 0);
	u128 refill_ns = (u128)refill_ms * NS_PER_MS;
	EQ(run(&b, n, 77 * NS_PER_S, span_ns), (uint64_t)((size * refill_ns + (u128)size * span_ns) / (n * refill_ns)));
}

TEST(ten_seconds_are_exact)
{
	is_exact(1000, 100, 1, 10 * NS_PER_S);
	is_exact(10 << 20, 1000, 4096, 10 * NS_PER_S);
	is_exact(10000000, 1000, 1280 << 10, 10 * NS_PER_S);
	is_exact(1000003, 999, 4096, 10 * NS_PER_S);
	is_exact(7, 3, 1, 10 * NS_PER_S);
	is_exact(3, 70001, 1, 300 * NS_PER_S);
	is_exact(100ull << 30, 1, 1 << 30, 10 * NS_PER_S / 100);
}

TEST(a_day_does_not_drift)
{
	is_exact(7, 300, 1, 24 * 3600 * NS_PER_S);
	is_exact(999983, 1009, 65536, 24 * 3600 * NS_PER_S);
}

TEST(looking_often_changes_nothing)
{
	struct token_bucket often = bucket(1000, 7, 0), once = often;
	OK(take(&often, 1000, 5) && take(&once, 1000, 5));
	uint64_t now = 5;
	for (unsigned i = 0; i < 1000000; i++)
		(void)token_bucket_wait_ns(&often, 1, ++now);
	for (unsigned i = 0; i < 10; i++)
		(void)token_bucket_wait_ns(&often, 1, now); /* the clock stands still */
	EQ(token_bucket_wait_ns(&often, 900, now), token_bucket_wait_ns(&once, 900, now));
	OK(often.level == once.level && often.remainder == once.remainder);
}

TEST(no_size_or_no_time_is_no_limit)
{
	for (unsigned k = 0; k < 3; k++) {
		struct token_bucket b = bucket(k == 1 ? 5 : 0, k == 2 ? 5 : 0, 5);
		for (unsigned i = 0; i < 100; i++)
			OK(take(&b, UINT64_MAX, 1));
	}
}

TEST(the_burst_comes_first_and_once)
{
	struct token_bucket b = bucket(10, 1000, 25);
	for (unsigned i = 0; i < 5; i++)
		OK(take(&b, 4, NS_PER_S)); /* 20 of 25 */
	OK(take(&b, 7, NS_PER_S));         /* 5, and 2 of 10 */
	OK(take(&b, 8, NS_PER_S));
	EQ(token_bucket_wait_ns(&b, 1, NS_PER_S), 100 * NS_PER_MS);
	OK(take(&b, 10, 1000 * NS_PER_S)); /* never more than the bucket again */
	EQ(token_bucket_wait_ns(&b, 1, 1000 * NS_PER_S), 100 * NS_PER_MS);

	/* What does not fit leaves the burst as it is. */
	b = bucket(10, 1000, 5);
	OK(take(&b, 5, 1));
	OK(take(&b, 10, 1));
	OK(!take(&b, 1, 1));
	b = bucket(10, 1000, 5);
	OK(take(&b, 100, 1)); /* 5, 10, and a debt of 85 */
	EQ(token_bucket_wait_ns(&b, 1, 1), 8600 * NS_PER_MS);
}

TEST(more_than_the_bucket_goes_into_debt)
{
	struct token_bucket b = bucket(1000, 100, 0);
	OK(take(&b, 1, 1));
	EQ(token_bucket_wait_ns(&b, 4096, 1), NS_PER_MS / 10); /* when it is full */
	OK(take(&b, 4096, 1 + NS_PER_MS / 10));
	EQ(token_bucket_wait_ns(&b, 1, 1 + NS_PER_MS / 10), 309700000);
	EQ(token_bucket_wait_ns(&b, 4096, 1 + NS_PER_MS / 10), 409600000);
	/* The rate is kept all the same. */
	b = bucket(1000, 100, 0);
	EQ(run(&b, 4096, 1, 10 * NS_PER_S), 1 + 100000 / 4096);
}

TEST(huge_numbers)
{
	struct token_bucket b = bucket(UINT64_MAX, UINT64_MAX, 0);
	OK(take(&b, UINT64_MAX, 1));
	EQ(token_bucket_wait_ns(&b, 1, 1), 1000000); /* a token a millisecond */
	EQ(token_bucket_wait_ns(&b, 1000, 1), 1000 * NS_PER_MS);
	EQ(token_bucket_wait_ns(&b, UINT64_MAX, 1), UINT64_MAX);
	EQ(token_bucket_wait_ns(&b, (INT64_MAX - 1) / 1000000, INT64_MAX), 0);

	b = bucket(UINT64_MAX, 1, UINT64_MAX);
	OK(take(&b, UINT64_MAX, 1) && take(&b, UINT64_MAX, 1));
	EQ(token_bucket_wait_ns(&b, UINT64_MAX, 1), NS_PER_MS);
	EQ(token_bucket_wait_ns(&b, UINT64_MAX, 1 + NS_PER_MS), 0);

	b = bucket(1, UINT64_MAX, 0);
	OK(take(&b, UINT64_MAX, 1));
	EQ(token_bucket_wait_ns(&b, 1, 1), UINT64_MAX);
	EQ(token_bucket_wait_ns(&b, 1, UINT64_MAX), UINT64_MAX);
}

TEST(clocks_that_jump)
{
	struct token_bucket b = bucket(100, 1000, 0);
	OK(take(&b, 100, 10 * NS_PER_S));
	EQ(token_bucket_wait_ns(&b, 1, 5 * NS_PER_S), 5010 * NS_PER_MS); /* back: nothing comes, nothing goes */
	EQ(token_bucket_wait_ns(&b, 1, 10 * NS_PER_S + 5 * NS_PER_MS), 5 * NS_PER_MS);
	OK(take(&b, 100, 100000 * NS_PER_S)); /* forward: full, and no more */
	OK(!take(&b, 1, 100000 * NS_PER_S));
	OK(take(&b, 100, UINT64_MAX));
	OK(!take(&b, 1, UINT64_MAX));
}

/* --- against a reference ---------------------------------------------------------------------------------------------- */

struct reference {
	long double size, rate, burst, level; /* rate: tokens a nanosecond */
};

static long double smaller(long double a, long double b)
{
	return a < b ? a : b;
}

static long double distance(long double a, long double b)
{
	return a < b ? b - a : a - b;
}

static long double wait_of(const struct reference *r, uint64_t n)
{
	long double rest = (long double)n - r->burst;
	long double need = rest <= 0 ? 0 : smaller(rest, r->size);
	return need <= 0 || r->level >= need ? 0 : (need - r->level) / r->rate;
}

static uint64_t random_below(uint64_t *seed, uint64_t limit)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (*seed >> 20) % limit;
}

static void compare(uint64_t seed)
{
	uint64_t size = 1 + random_below(&seed, 1ull << (1 + random_below(&seed, 34)));
	uint64_t refill_ms = 1 + random_below(&seed, 1ull << (1 + random_below(&seed, 16)));
	uint64_t burst = random_below(&seed, 3) ? 0 : random_below(&seed, 3 * size);
	struct token_bucket b = bucket(size, refill_ms, burst);
	struct reference r = { (long double)size, (long double)size / ((long double)refill_ms * NS_PER_MS), (long double)burst,
		               (long double)size };
	uint64_t now = 1;
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t step = random_below(&seed, refill_ms * NS_PER_MS / (1 + random_below(&seed, 50)) + 1);
		now += step;
		r.level = smaller(r.size, r.level + (long double)step * r.rate);
		uint64_t n = random_below(&seed, 8) ? random_below(&seed, size + 1) : random_below(&seed, 4 * size);
		uint64_t wait = token_bucket_wait_ns(&b, n, now);
		long double expected = wait_of(&r, n);
		if (distance((long double)wait, expected) > 2 + expected * 1e-9L + 1e-6L / r.rate)
			test_fail(__FILE__, __LINE__, "size %llu, %llu ms, step %u: waits %llu, expected %.1Lf",
			          (unsigned long long)size, (unsigned long long)refill_ms, i, (unsigned long long)wait, expected);
		if (wait)
			continue;
		token_bucket_take(&b, n, now);
		long double from_burst = smaller(r.burst, (long double)n);
		r.burst -= from_burst;
		r.level -= (long double)n - from_burst;
	}
}

TEST(random_sequences_agree_with_a_reference)
{
	for (uint64_t seed = 1; seed <= 500; seed++)
		compare(seed * 0x9e3779b97f4a7c15ull);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* In t nanoseconds come t * size / refill_ns tokens. The product's quotient goes into `level`, its rest into `remainder`,
 * which the next product starts from. With 63 bits of time the sum stays below 2^128: size is below 2^64, refill_ns, which
 * bounds the remainder, below 2^84. */
#include "base/token_bucket.h"

#include "base/checked.h"
#include "base/clock.h"

#include <assert.h>

typedef unsigned __int128 u128;

void token_bucket_init(struct token_bucket *b, const struct token_rate *r)
{
	*b = (struct token_bucket){ 0 };
	if (!r->size || !r->refill_ms)
		return;
	b->size = r->size;
	b->n_burst = r->one_time_burst;
	b->refill_ns = (u128)r->refill_ms * NS_PER_MS;
	b->level = r->size;
}

static void refill(struct token_bucket *b, uint64_t now_ns)
{
	if (now_ns <= b->at_ns)
		return;
	uint64_t elapsed_ns = min_u64(now_ns - b->at_ns, INT64_MAX);
	b->at_ns = now_ns;
	u128 sum = (u128)elapsed_ns * b->size + b->remainder;
	u128 gain = sum / b->refill_ns, room = (u128)(b->size - b->level);
	if (gain >= room) { /* what does not fit is lost, the part of a token with it */
		b->level = b->size;
		b->remainder = 0;
	} else {
		b->level += (__int128)gain;
		b->remainder = sum % b->refill_ns;
	}
}

/* What must be in the bucket for n tokens to go. */
static uint64_t need_for(const struct token_bucket *b, uint64_t n)
{
	return n <= b->n_burst ? 0 : min_u64(n - b->n_burst, b->size);
}

uint64_t token_bucket_wait_ns(struct token_bucket *b, uint64_t n, uint64_t now_ns)
{
	if (!b->size)
		return 0;
	refill(b, now_ns);
	uint64_t need = need_for(b, n);
	if (need == 0 || b->level >= need)
		return 0;
	u128 missing = (u128)(need - b->level), product;
	if (__builtin_mul_overflow(missing, b->refill_ns, &product))
		return UINT64_MAX;
	u128 wait_ns = (product - b->remainder - 1) / b->size + 1 + (b->at_ns - now_ns); /* at_ns is now, or later */
	return wait_ns < UINT64_MAX ? (uint64_t)wait_ns : UINT64_MAX;
}

void token_bucket_take(struct token_bucket *b, uint64_t n, uint64_t now_ns)
{
	if (!b->size)
		return;
	refill(b, now_ns);
	uint64_t need = need_for(b, n), n_burst = min_u64(n, b->n_burst);
	assert(need == 0 || b->level >= need);
	b->n_burst -= n_burst;
	b->level -= n - n_burst;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* token_bucket.h - a budget that refills at a steady rate: `size` tokens in `refill_ms`, at most `size` saved up.
 *
 * In integers, and exact: what is less than a token is kept, so that nothing drifts. A request larger than the bucket fits
 * when the bucket is full, and leaves a debt that is paid before anything else fits. The burst is used first, and never
 * comes back; the bucket stays full until it is gone. Times are the caller's, of any clock that counts nanoseconds; one that
 * stands still or goes back gives nothing, one that jumps gives what the jump is worth. Nothing locks. */
#pragma once
#include "base/forward.h"

struct token_rate {
	uint64_t size, one_time_burst, refill_ms; /* without a limit when size or refill_ms is 0 */
};

struct token_bucket {
	uint64_t size;               /* 0: no limit */
	uint64_t n_burst;            /* left of it */
	unsigned __int128 refill_ns; /* for `size` tokens */
	__int128 level;              /* below 0: debt */
	unsigned __int128 remainder; /* of a token, in 1/refill_ns; below 1 */
	uint64_t at_ns;              /* when level was that */
};

void token_bucket_init(struct token_bucket *b, const struct token_rate *r); /* full */
/* How long after now_ns n tokens fit; 0: now. UINT64_MAX: in 584 years or later. */
uint64_t token_bucket_wait_ns(struct token_bucket *b, uint64_t n, uint64_t now_ns);
/* Only what fits now. */
void token_bucket_take(struct token_bucket *b, uint64_t n, uint64_t now_ns);

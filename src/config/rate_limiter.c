/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets of I/O: at most one bucket of bytes and one of operations. As keys of another option, bw_* and ops_*; a
 * bucket is there only when both its size and its refill time are not 0. */
#include "config/rate_limiter.h"

#define T struct token_bucket_config
static const struct field bucket_rows[] = {
	ROW_U64(T, size, .flags = ROW_REQUIRED_JSON, .help = "Tokens that the bucket holds, and gets per refill time"),
	ROW_U64(T, one_time_burst, .help = "Tokens more at the start, which never come back"),
	ROW_U64(T, refill_time, .flags = ROW_REQUIRED_JSON, .help = "Milliseconds in which an empty bucket fills"),
};
static const struct schema bucket_schema =
	SCHEMA(T, bucket_rows, .name = "TokenBucket", .help = "A budget that refills at a steady rate");
#undef T

static bool bucket_is_present(const void *object)
{
	const struct token_bucket_config *b = object;
	return b->size && b->refill_time;
}

#define T struct rate_limiter_config
static const struct field limiter_rows[] = {
	ROW_OBJECT(T, bandwidth, struct token_bucket_config, &bucket_schema, .key = "bw_", .flags = ROW_FLAT,
	           .has = HAS(T, has_bandwidth), .is_present = bucket_is_present, .help = "Budget of bytes read and written"),
	ROW_OBJECT(T, ops, struct token_bucket_config, &bucket_schema, .key = "ops_", .flags = ROW_FLAT,
	           .has = HAS(T, has_ops), .is_present = bucket_is_present, .help = "Budget of requests, whatever they ask for"),
	ROW_PAD(T, pad_),
};
const struct schema rate_limiter_schema = SCHEMA(T, limiter_rows, .name = "RateLimiterConfig", .flags = SCHEMA_STRICT,
                                                 .help = "Limits of the rate of I/O");
#undef T

bool rate_limiter_is_present(const void *object)
{
	const struct rate_limiter_config *r = object;
	return r->has_bandwidth || r->has_ops;
}

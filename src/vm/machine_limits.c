/* SPDX-License-Identifier: Apache-2.0 */
/* The rate limits of disks: a group's is the machine's, and stays when its disks leave; a disk's own goes with it. */
#include "vm/machine_internal.h"

#include "device/rate_limit.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct token_rate rate_of(bool has, const struct token_bucket_config *c)
{
	if (!has)
		return (struct token_rate){ 0 };
	return (struct token_rate){ .size = c->size, .one_time_burst = c->one_time_burst, .refill_ms = c->refill_time };
}

static int make(const struct rate_limiter_config *c, struct rate_limit **ret_r, struct err *e)
{
	struct token_rate bytes = rate_of(c->has_bandwidth, &c->bandwidth), ops = rate_of(c->has_ops, &c->ops);
	return rate_limit_new(&bytes, &ops, ret_r, e);
}

int machine_make_limits(struct machine *m, struct err *e)
{
	const struct vm_config *c = m->p.config;
	if (c->n_rate_limit_groups == 0)
		return 0;
	m->limits = calloc(c->n_rate_limit_groups, sizeof *m->limits);
	if (!m->limits)
		return err_set(e, ENOMEM, "no memory for rate limits");
	for (size_t i = 0; i < c->n_rate_limit_groups; i++) {
		struct rate_limit *r = NULL;
		int rc = make(&c->rate_limit_groups[i].rate_limiter_config, &r, e);
		if (rc < 0)
			return rc;
		m->limits[m->n_limits++] = r;
	}
	return 0;
}

void machine_free_limits(struct machine *m)
{
	while (m->n_limits)
		rate_limit_free(m->limits[--m->n_limits]);
	free(m->limits);
	m->limits = NULL;
}

int machine_limit_disk(struct machine *m, const struct disk_config *c, struct rate_limit **ret_own,
                       struct rate_limit **ret_r, struct err *e)
{
	*ret_r = NULL;
	if (c->has_rate_limiter_config) {
		int rc = make(&c->rate_limiter_config, ret_own, e);
		if (rc >= 0)
			*ret_r = *ret_own;
		return rc;
	}
	if (!c->rate_limit_group)
		return 0;
	const struct vm_config *vm = m->p.config;
	assert(m->n_limits == vm->n_rate_limit_groups); /* groups do not come and go */
	for (size_t i = 0; i < m->n_limits; i++) {
		if (strcmp(vm->rate_limit_groups[i].id, c->rate_limit_group) == 0)
			*ret_r = m->limits[i];
	}
	return *ret_r ? 0 : err_set(e, EINVAL, "%s: there is no rate limit group '%s'", c->id, c->rate_limit_group);
}

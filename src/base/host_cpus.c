/* SPDX-License-Identifier: Apache-2.0 */
#include "base/host_cpus.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

struct host_cpus {
	cpu_set_t sets[HOST_CPUS_MAX / CPU_SETSIZE]; /* one set, longer than the C library's */
};

int host_cpus_new(const uint64_t *numbers, size_t n, struct host_cpus **ret_c, struct err *e)
{
	struct host_cpus *c = calloc(1, sizeof *c);
	if (!c)
		return err_set(e, ENOMEM, "no memory for a set of CPUs");
	for (size_t i = 0; i < n; i++) {
		if (numbers[i] >= HOST_CPUS_MAX) {
			free(c);
			return err_set(e, EINVAL, "there is no host CPU %llu: %u is the highest number",
			               (unsigned long long)numbers[i], HOST_CPUS_MAX - 1);
		}
		CPU_SET_S((size_t)numbers[i], sizeof c->sets, c->sets);
	}
	*ret_c = c;
	return 0;
}

void host_cpus_free(struct host_cpus *c)
{
	free(c);
}

int host_cpus_bind(const struct host_cpus *c, pthread_t t)
{
	return -pthread_setaffinity_np(t, sizeof c->sets, c->sets);
}

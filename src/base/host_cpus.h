/* SPDX-License-Identifier: Apache-2.0 */
/* host_cpus.h - a set of the host's CPUs, and threads that may run on no others. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include <pthread.h>

#define HOST_CPUS_MAX 8192u /* as many as Linux can be built for */

struct host_cpus;

/* By their numbers; those that the host does not have are no CPUs to run on. -EINVAL: a number that no host has. */
int host_cpus_new(const uint64_t *numbers, size_t n, struct host_cpus **ret_c, struct err *e);
void host_cpus_free(struct host_cpus *c);

/* A thread that t makes from now on is bound likewise. A negative errno, and t goes on where it was: -EINVAL when there is none
 * of these CPUs, or none that this process may use. */
int host_cpus_bind(const struct host_cpus *c, pthread_t t);

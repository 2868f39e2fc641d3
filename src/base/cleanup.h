/* SPDX-License-Identifier: Apache-2.0 */
/* cleanup.h - resources that end with their scope, and the way to take them out of it. */
#pragma once
#include "base/forward.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* close() that keeps errno and accepts -1. */
static inline void fd_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		(void)close(*fd);
		errno = saved;
		*fd = -1;
	}
}

static inline void free_ptr(void *pp)
{
	void **p = pp;
	free(*p);
	*p = NULL;
}

#define fd_scoped __attribute__((__cleanup__(fd_close))) int
#define free_scoped __attribute__((__cleanup__(free_ptr)))

static inline int fd_take(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

/* The value of the pointer variable p, which becomes NULL. */
#define ptr_take(p)                            \
	__extension__({                        \
		__typeof__(p) taken_ = (p);    \
		(p) = NULL;                    \
		taken_;                        \
	})

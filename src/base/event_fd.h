/* SPDX-License-Identifier: Apache-2.0 */
/* event_fd.h - event descriptors that another process has, too: O_NONBLOCK belongs to both, and it may clear it. */
#pragma once
#include "base/forward.h"
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

/* Takes the counter; false: it was 0. Never waits. */
static inline bool event_fd_take(int fd)
{
	uint64_t n;
	struct iovec iov = { &n, sizeof n };
	return preadv2(fd, &iov, 1, -1, RWF_NOWAIT) == (ssize_t)sizeof n;
}

/* Does not wait, unless another process fills the counter between the two calls: writing knows no RWF_NOWAIT. A full counter
 * is as good as one more. */
static inline void event_fd_raise(int fd)
{
	uint64_t one = 1;
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	if (poll(&p, 1, 0) == 1 && (p.revents & POLLOUT))
		(void)!write(fd, &one, sizeof one);
}

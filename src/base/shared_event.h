/* SPDX-License-Identifier: Apache-2.0 */
/* shared_event.h - event descriptors that another process has, too: O_NONBLOCK belongs to both, and it may clear it. */
#pragma once
#include "base/forward.h"
#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

static inline bool shared_event_is(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	return poll(&p, 1, 0) == 1 && (p.revents & events);
}

/* Takes the counter; false: it was 0. Does not wait; before Linux 5.8, which knows no RWF_NOWAIT here, another process that
 * takes it between two calls could make it. */
static inline bool shared_event_take(int fd)
{
	uint64_t n;
	struct iovec iov = { &n, sizeof n };
	ssize_t rc = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
	if (rc < 0 && errno == EOPNOTSUPP && shared_event_is(fd, POLLIN))
		rc = read(fd, &n, sizeof n);
	return rc == (ssize_t)sizeof n;
}

/* Does not wait, unless another process fills the counter between the two calls: writing knows no RWF_NOWAIT. A full counter
 * is as good as one more. */
static inline void shared_event_raise(int fd)
{
	uint64_t one = 1;
	if (shared_event_is(fd, POLLOUT))
		(void)!write(fd, &one, sizeof one);
}

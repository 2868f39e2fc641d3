/* SPDX-License-Identifier: Apache-2.0 */
/* http_kit.h - clients of a server on a Unix socket that runs on the test's own loop. Nothing waits for long: a client's
 * read() turns the loop until nothing more happens. */
#pragma once
#include "base/clock.h"
#include "loop/loop.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static inline void turn(struct loop *l)
{
	for (int i = 0; i < 100000 && loop_run_once(l, 0) > 0; i++)
		;
}

static inline int client_connect(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	OK(fd >= 0);
	if (connect(fd, (const struct sockaddr *)&a, sizeof a) < 0)
		test_fail(__FILE__, __LINE__, "connect: %s", strerror(errno));
	return fd;
}

/* All of it, turning the loop when the socket is full; false when the server has closed. */
static inline bool client_send_n(struct loop *l, int fd, const char *bytes, size_t n)
{
	uint64_t end = clock_now_ns() + 20 * NS_PER_S;
	while (n) {
		ssize_t done = send(fd, bytes, n, MSG_NOSIGNAL);
		if (done < 0 && errno != EAGAIN)
			return false;
		if (done > 0) {
			bytes += done;
			n -= (size_t)done;
		}
		OK(clock_now_ns() < end);
		turn(l);
	}
	return true;
}

static inline bool client_send(struct loop *l, int fd, const char *text)
{
	return client_send_n(l, fd, text, strlen(text));
}

/* With descriptors. */
static inline void client_send_fds(int fd, const char *text, const int *fds, size_t n_fds)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * 253)];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec v = { (char *)(uintptr_t)text, strlen(text) };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control,
		            .msg_controllen = CMSG_SPACE(sizeof(int) * n_fds) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	EQ(sendmsg(fd, &m, MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* What has come so far. `ret_is_end`: the server has closed. */
static inline size_t client_read(struct loop *l, int fd, char *bytes, size_t n_max, bool *ret_is_end)
{
	size_t n = 0;
	*ret_is_end = false;
	for (;;) {
		turn(l);
		ssize_t done = recv(fd, bytes + n, n_max - 1 - n, 0);
		if (done <= 0) {
			*ret_is_end = done == 0 || errno != EAGAIN;
			bytes[n] = '\0';
			return n;
		}
		n += (size_t)done;
		OK(n < n_max - 1);
	}
}

/* Turns the loop until the server has closed; what came is appended to bytes. */
static inline void client_read_to_end(struct loop *l, int fd, char *bytes, size_t n_max)
{
	uint64_t end = clock_now_ns() + 20 * NS_PER_S;
	size_t n = 0;
	bool is_end = false;
	while (!is_end) {
		n += client_read(l, fd, bytes + n, n_max - n, &is_end);
		OK(clock_now_ns() < end);
		if (!is_end)
			(void)loop_run_once(l, 20);
	}
}

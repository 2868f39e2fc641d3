/* SPDX-License-Identifier: Apache-2.0 */
/* A Unix socket that is listened on: one peer at a time, the next waits in the backlog. Output while nobody is connected
 * stays in the backend's ring, and the next peer gets it. */
#include "backend/char_private.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 4

#define ACCEPT_AGAIN_NS (100 * NS_PER_MS)

static void listen_again(struct char_backend *b, bool is_wanted)
{
	(void)loop_change(&b->listen, is_wanted ? EPOLLIN : EPOLLET);
}

void char_socket_drop_peer(struct char_backend *b)
{
	if (b->in_fd < 0)
		return;
	int out_fd = b->out_fd;
	loop_remove(&b->in);
	loop_remove(&b->out);
	char_out_set(b, -1, CHAR_OUT_SOCKET, CHAR_OUT_ABSENT);
	fd_close(&b->in_fd);
	fd_close(&out_fd);
	b->is_in_watched = b->is_out_watched = b->has_in_ended = b->is_peer_gone = false;
	listen_again(b, true);
	log_debug(&b->log, "the peer of '%s' has gone", b->path);
}

/* Half-made connections are simply dropped: the peer sees its connection end. */
static void take_peer(struct char_backend *b, int in_fd)
{
	fd_scoped in = in_fd;
	fd_scoped out = fcntl(in, F_DUPFD_CLOEXEC, 3);
	struct err err = { 0 };
	if (out < 0)
		(void)err_set_errno(&err, errno, "cannot duplicate a descriptor");
	if (err.code || loop_add(b->loop, &b->in, in, EPOLLET, char_on_in, &err) < 0 ||
	    loop_add(b->loop, &b->out, out, EPOLLET, char_on_out, &err) < 0) {
		loop_remove(&b->in);
		loop_remove(&b->out);
		if (log_limit_pass(&b->log, &b->limit))
			log_warn(&b->log, "'%s': a connection was refused: %s", b->path, err.text);
		return;
	}
	/* Input of the last peer that the device has not taken yet stays in front of this one's. */
	b->in_fd = fd_take(&in);
	b->is_in_watched = b->has_in_ended = false;
	listen_again(b, false);
	char_out_set(b, fd_take(&out), CHAR_OUT_SOCKET, CHAR_OUT_READY);
	char_report_drops(b);
	char_watch_in(b);
}

static void on_accept_again(struct timer *t)
{
	listen_again(container_of(t, struct char_backend, accept_again), true);
}

static void on_listen(struct source *s, uint32_t events)
{
	struct char_backend *b = container_of(s, struct char_backend, listen);
	(void)events;
	if (b->in_fd >= 0 && !b->is_peer_gone)
		return;
	int fd = accept4(b->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		/* Out of descriptors: the connection waits, and we look again later instead of spinning. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			if (log_limit_pass(&b->log, &b->limit))
				log_warn(&b->log, "'%s': cannot accept a connection: %s", b->path, strerrorname_np(errno));
			listen_again(b, false);
			timer_set(b->loop, &b->accept_again, clock_now_ns() + ACCEPT_AGAIN_NS, on_accept_again);
		}
		return;
	}
	if (b->in_fd >= 0)
		char_socket_drop_peer(b);
	take_peer(b, fd);
}

/* An address in use may be a file that a process left behind when it died: nobody listens there. */
static bool is_stale(const struct sockaddr_un *a)
{
	struct stat st;
	if (lstat(a->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd_scoped probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	return probe >= 0 && connect(probe, (const struct sockaddr *)a, sizeof *a) < 0 && errno == ECONNREFUSED;
}

int char_socket_open(struct char_backend *b, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	size_t n = strlen(b->path);
	if (n >= sizeof a.sun_path)
		return err_set(e, ENAMETOOLONG, "the socket path '%.100s...' is longer than %zu bytes", b->path,
		               sizeof a.sun_path - 1);
	memcpy(a.sun_path, b->path, n + 1);

	fd_scoped fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set_errno(e, errno, "cannot make a socket");
	int rc = bind(fd, (const struct sockaddr *)&a, sizeof a);
	if (rc < 0 && errno == EADDRINUSE && is_stale(&a)) {
		(void)unlink(a.sun_path);
		rc = bind(fd, (const struct sockaddr *)&a, sizeof a);
	}
	struct stat st;
	if (rc < 0 || stat(a.sun_path, &st) < 0)
		return err_set_errno(e, errno, "cannot bind a socket to '%s'", b->path);
	b->socket_device = st.st_dev;
	b->socket_inode = st.st_ino;
	b->listen_fd = fd_take(&fd);
	if (listen(b->listen_fd, BACKLOG) < 0)
		return err_set_errno(e, errno, "cannot listen on '%s'", b->path);
	b->out_kind = CHAR_OUT_SOCKET;
	return loop_add(b->loop, &b->listen, b->listen_fd, EPOLLIN, on_listen, e);
}

void char_socket_close(struct char_backend *b)
{
	if (b->listen_fd < 0)
		return;
	loop_remove(&b->listen);
	/* Only the file that we made: somebody may have put another in its place. */
	struct stat st;
	if (stat(b->path, &st) == 0 && st.st_dev == b->socket_device && st.st_ino == b->socket_inode)
		(void)unlink(b->path);
	fd_close(&b->listen_fd);
}

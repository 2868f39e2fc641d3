/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation. Between the question "does anybody serve this path?" and bind() another process may ask the same.
 * So who wants the path first takes a lock on `<path>.lock`, the same lock as Cloud Hypervisor's, and only its holder looks,
 * unlinks and binds. The kernel drops the lock with the process, whatever its end. A socket that somebody serves without
 * holding the lock is found by connecting to it.
 *
 * The lock file goes with its holder. Who opened it before, and gets the lock after, holds a lock on a file without a name:
 * it sees that the path is another file now, and begins again. */
#include "api/http_listen.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 128
#define LOCK_TRIES 100

static int in_use(const char *path, struct err *e)
{
	return err_set(e, EADDRINUSE, "API socket '%s' is already in use by another process", path);
}

/* Whether `path` is the file behind fd. */
static bool is_file_of(const char *path, int fd)
{
	struct stat a, b;
	return stat(path, &a) == 0 && fstat(fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int take_lock(struct http_listener *l, struct err *e)
{
	for (int i = 0; i < LOCK_TRIES; i++) {
		fd_scoped fd = open(l->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
		if (fd < 0)
			return err_set_errno(e, errno, "cannot open the lock file '%s' of the API socket", l->lock_path);
		struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		if (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
			if (errno == EAGAIN || errno == EACCES)
				return in_use(l->path, e);
			return err_set_errno(e, errno, "cannot lock '%s'", l->lock_path);
		}
		if (is_file_of(l->lock_path, fd)) {
			l->lock_fd = fd_take(&fd);
			return 0;
		}
	}
	return in_use(l->path, e);
}

/* The lock is ours: what is there is stale, or served by somebody who does not know the lock, or not a socket. */
static int clear_path(const struct http_listener *l, const struct sockaddr_un *a, struct err *e)
{
	struct stat st;
	if (lstat(l->path, &st) < 0)
		return errno == ENOENT ? 0 : err_set_errno(e, errno, "API socket '%s'", l->path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, EEXIST, "API socket '%s': there is another file of that name", l->path);
	fd_scoped probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (probe < 0)
		return err_set_errno(e, errno, "cannot make a socket");
	/* EAGAIN: somebody listens, and the backlog is full. */
	if (connect(probe, (const struct sockaddr *)a, sizeof *a) == 0 || errno == EAGAIN)
		return in_use(l->path, e);
	if (errno != ECONNREFUSED && errno != ENOENT)
		return err_set_errno(e, errno, "API socket '%s'", l->path);
	if (unlink(l->path) < 0 && errno != ENOENT)
		return err_set_errno(e, errno, "cannot remove the old API socket '%s'", l->path);
	return 0;
}

static int bind_path(struct http_listener *l, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	size_t n = strlen(l->path);
	if (!n || n >= sizeof a.sun_path)
		return err_set(e, ENAMETOOLONG, "the path of the API socket '%.100s' has %zu bytes, and not 1 to %zu", l->path, n,
		               sizeof a.sun_path - 1);
	memcpy(a.sun_path, l->path, n + 1);
	int rc = take_lock(l, e);
	if (rc < 0 || (rc = clear_path(l, &a, e)) < 0)
		return rc;
	fd_scoped fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* bind() gives the file the socket's mode: at no time may others connect, whatever the umask. */
	if (fd < 0 || fchmod(fd, 0600) < 0)
		return err_set_errno(e, errno, "cannot make a socket");
	struct stat st;
	if (bind(fd, (const struct sockaddr *)&a, sizeof a) < 0)
		return err_set_errno(e, errno, "cannot bind the API socket to '%s'", l->path);
	if (lstat(l->path, &st) == 0) {
		l->device = st.st_dev;
		l->inode = st.st_ino;
	}
	l->fd = fd_take(&fd);
	if (listen(l->fd, BACKLOG) < 0)
		return err_set_errno(e, errno, "cannot listen on the API socket '%s'", l->path);
	return 0;
}

int http_listen_path(struct http_listener *l, const char *path, struct err *e)
{
	*l = (struct http_listener){ .fd = -1, .lock_fd = -1 };
	l->path = strdup(path);
	if (!l->path || asprintf(&l->lock_path, "%s.lock", path) < 0) {
		l->lock_path = NULL;
		http_listen_close(l);
		return err_set(e, ENOMEM, "API socket: out of memory");
	}
	int rc = bind_path(l, e);
	if (rc < 0)
		http_listen_close(l);
	return rc;
}

static int socket_option(int fd, int name)
{
	int value = -1;
	socklen_t n = sizeof value;
	return getsockopt(fd, SOL_SOCKET, name, &value, &n) < 0 ? -1 : value;
}

int http_listen_fd(struct http_listener *l, int fd, struct err *e)
{
	*l = (struct http_listener){ .fd = -1, .lock_fd = -1 };
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return err_set_errno(e, errno, "API socket: descriptor %d", fd);
	if (socket_option(fd, SO_DOMAIN) != AF_UNIX || socket_option(fd, SO_TYPE) != SOCK_STREAM ||
	    socket_option(fd, SO_ACCEPTCONN) != 1)
		return err_set(e, EINVAL, "API socket: descriptor %d is not a Unix stream socket that is listened on", fd);
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_set_errno(e, errno, "API socket: descriptor %d", fd);
	l->fd = fd;
	return 0;
}

void http_listen_close(struct http_listener *l)
{
	struct stat st;
	/* Before the descriptor is closed: as long as it is open, the inode's number is nobody else's. */
	if (l->fd >= 0 && l->inode && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
		(void)unlink(l->path);
	fd_close(&l->fd);
	if (l->lock_fd >= 0 && is_file_of(l->lock_path, l->lock_fd))
		(void)unlink(l->lock_path);
	fd_close(&l->lock_fd);
	free(l->path);
	free(l->lock_path);
	*l = (struct http_listener){ .fd = -1, .lock_fd = -1 };
}

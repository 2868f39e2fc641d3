/* SPDX-License-Identifier: Apache-2.0 */
/* How each mode comes to its descriptors, and how it gives them back.
 *
 * A descriptor that the user gave us (standard input and output) may share its open file description with the shell:
 * O_NONBLOCK set there would outlive us and break others. So it is opened a second time through /proc/self/fd, which
 * makes a description of our own; where that is not allowed it is duplicated, and polled before each write. */
#include "backend/char_private.h"
#include "backend/terminal.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* Opening these again gives something else: a new pseudo-terminal. */
static bool is_pty_master(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && major(st->st_rdev) == 5 && minor(st->st_rdev) == 2;
}

/* A descriptor of ours for the same file. *ret_is_own: its description is ours, and does not block. */
static int open_again(int fd, int flags, bool *ret_is_own, struct stat *ret_st, struct err *e)
{
	if (fstat(fd, ret_st) < 0)
		return err_set_errno(e, errno, "cannot use descriptor %d", fd);
	*ret_is_own = false;
	/* A regular file never blocks, and a second description would lose the offset that is shared with others. */
	if (!S_ISREG(ret_st->st_mode) && !S_ISSOCK(ret_st->st_mode) && !is_pty_master(ret_st)) {
		char path[32];
		(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		int own = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (own >= 0) {
			*ret_is_own = true;
			return own;
		}
	}
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return copy >= 0 ? copy : err_set_errno(e, errno, "cannot duplicate descriptor %d", fd);
}

/* Adds the sources for fresh descriptors and makes them known; they are the backend's from here on, on failure too. */
static int attach(struct char_backend *b, int in_fd, int out_fd, enum char_out_kind kind, struct err *e)
{
	b->in_fd = in_fd;
	b->out_fd = out_fd;
	b->has_in_ended = in_fd < 0;
	if (in_fd >= 0) {
		int rc = loop_add(b->loop, &b->in, in_fd, EPOLLET, char_on_in, e);
		if (rc == -EPERM)
			b->is_in_pollless = true; /* a regular file: always ready */
		else if (rc < 0)
			return rc;
	}
	struct err out_err = { 0 };
	int rc = kind == CHAR_OUT_PLAIN ? 0 : loop_add(b->loop, &b->out, out_fd, EPOLLET, char_on_out, &out_err);
	if (rc < 0 && rc != -EPERM) { /* EPERM: a device without poll, which does not block */
		if (e)
			*e = out_err;
		return rc;
	}
	char_out_set(b, out_fd, kind, CHAR_OUT_READY);
	return 0;
}

static bool is_sigpipe_deadly(const struct stat *st)
{
	struct sigaction a;
	return S_ISFIFO(st->st_mode) && (sigaction(SIGPIPE, NULL, &a) < 0 || a.sa_handler != SIG_IGN);
}

static enum char_out_kind kind_of(const struct stat *st, bool is_own)
{
	if (S_ISREG(st->st_mode))
		return CHAR_OUT_PLAIN;
	if (S_ISSOCK(st->st_mode))
		return CHAR_OUT_SOCKET;
	return is_own ? CHAR_OUT_NONBLOCK : CHAR_OUT_POLLED;
}

static int open_tty(struct char_backend *b, struct err *e)
{
	struct stat st, in_st;
	bool is_out_own, is_in_own;
	assert(b->terminal);
	fd_scoped out = open_again(b->terminal->out_fd, O_WRONLY, &is_out_own, &st, e);
	if (out < 0)
		return out;
	fd_scoped in = -1;
	if (terminal_take_input(b->terminal, b)) {
		b->has_terminal_input = true;
		in = open_again(b->terminal->in_fd, O_RDONLY, &is_in_own, &in_st, e);
		if (in < 0)
			return in;
	}
	int rc = terminal_acquire(b->terminal, e);
	if (rc < 0)
		return rc;
	b->holds_terminal = true;
	b->is_out_tty = isatty(out) == 1;
	b->needs_sigpipe_guard = is_sigpipe_deadly(&st);
	return attach(b, fd_take(&in), fd_take(&out), kind_of(&st, is_out_own), e);
}

static int open_file(struct char_backend *b, struct err *e)
{
	/* O_NONBLOCK matters for FIFOs and devices only. The process's umask says who else may read. */
	int flags = O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	fd_scoped fd = open(b->path, O_WRONLY | flags, 0666);
	/* A FIFO without a reader yet: opened for both sides it never lacks one. */
	if (fd < 0 && errno == ENXIO)
		fd = open(b->path, O_RDWR | flags, 0666);
	if (fd < 0)
		return err_set_errno(e, errno, "cannot open '%s' for output", b->path);
	struct stat st;
	if (fstat(fd, &st) < 0)
		return err_set_errno(e, errno, "cannot examine '%s'", b->path);
	b->is_out_tty = isatty(fd) == 1;
	b->needs_sigpipe_guard = is_sigpipe_deadly(&st);
	return attach(b, -1, fd_take(&fd), kind_of(&st, true), e);
}

/* The slave side stays open here too: the master then never sees EIO or an endless hang-up when the peer leaves, and
 * the raw mode that is set below survives it. */
static int open_pty(struct char_backend *b, struct err *e)
{
	char path[64];
	fd_scoped master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0 || ptsname_r(master, path, sizeof path) != 0)
		return err_set_errno(e, errno, "cannot make a pseudo-terminal");
	b->peer_fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (b->peer_fd < 0)
		return err_set_errno(e, errno, "cannot open '%s'", path);

	/* Cooked mode would echo the guest's output back to it as input. */
	struct termios raw;
	if (tcgetattr(b->peer_fd, &raw) < 0)
		return err_set_errno(e, errno, "cannot read the mode of '%s'", path);
	cfmakeraw(&raw);
	if (tcsetattr(b->peer_fd, TCSANOW, &raw) < 0)
		return err_set_errno(e, errno, "cannot set raw mode of '%s'", path);
	b->path = strdup(path);
	if (!b->path)
		return err_set(e, ENOMEM, "no memory");

	fd_scoped out = fcntl(master, F_DUPFD_CLOEXEC, 3);
	if (out < 0)
		return err_set_errno(e, errno, "cannot duplicate the pseudo-terminal");
	return attach(b, fd_take(&master), fd_take(&out), CHAR_OUT_NONBLOCK, e);
}

static int open_mode(struct char_backend *b, const struct char_params *p, struct err *e)
{
	if (p->mode == CHAR_FILE || p->mode == CHAR_SOCKET) {
		if (!p->path || !*p->path)
			return err_set(e, EINVAL, "a path is needed");
		b->path = strdup(p->path);
		if (!b->path)
			return err_set(e, ENOMEM, "no memory");
	}
	switch (p->mode) {
	case CHAR_TTY: return open_tty(b, e);
	case CHAR_FILE: return open_file(b, e);
	case CHAR_PTY: return open_pty(b, e);
	case CHAR_SOCKET: return char_socket_open(b, e);
	case CHAR_OFF:
	case CHAR_NULL: break;
	}
	return 0;
}

int char_open(const struct char_params *p, struct loop *l, struct char_backend **ret_b, struct err *e)
{
	struct char_backend *b = calloc(1, sizeof *b);
	if (!b)
		return err_set(e, ENOMEM, "no memory");
	b->mode = p->mode == CHAR_OFF ? CHAR_NULL : p->mode;
	b->loop = l;
	if (p->log)
		b->log = *p->log;
	b->terminal = p->terminal;
	b->peer_fd = b->listen_fd = b->in_fd = b->out_fd = -1;
	b->out_state = CHAR_OUT_ABSENT;
	(void)pthread_mutex_init(&b->lock, NULL);

	int rc = 0;
	if (b->mode != CHAR_NULL) {
		b->ring = malloc(CHAR_BUFFER_BYTES);
		rc = b->ring ? open_mode(b, p, e) : err_set(e, ENOMEM, "no memory");
	}
	if (rc < 0) {
		char_close(b);
		return rc;
	}
	(void)char_size(b, &b->n_columns, &b->n_rows);
	*ret_b = b;
	return 0;
}

void char_close(struct char_backend *b)
{
	if (!b)
		return;
	/* Whatever was asked of the loop is done, or void. */
	atomic_store(&b->wants, 0);
	loop_flush(b->loop);
	timer_cancel(&b->tick);
	timer_cancel(&b->accept_again);
	if (b->ring)
		char_out_finish(b);
	char_report_drops(b);

	loop_remove(&b->in);
	loop_remove(&b->out);
	char_socket_close(b);
	fd_close(&b->in_fd);
	fd_close(&b->out_fd);
	fd_close(&b->peer_fd);
	if (b->has_terminal_input)
		terminal_give_input(b->terminal, b);
	if (b->holds_terminal)
		terminal_release(b->terminal);
	(void)pthread_mutex_destroy(&b->lock);
	free(b->ring);
	free(b->path);
	free(b);
}

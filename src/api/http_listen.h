/* SPDX-License-Identifier: Apache-2.0 */
/* http_listen.h - the socket that clients connect to: made at a path, or inherited. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include <sys/types.h>

struct http_listener {
	int fd;
	int lock_fd; /* -1: inherited */
	char *path, *lock_path;
	dev_t device; /* of the socket file that we made */
	ino_t inode;
};

/* At a path: refused while another process serves it; the file that a dead one left is replaced. */
int http_listen_path(struct http_listener *l, const char *path, struct err *e);
/* Takes fd over on success. */
int http_listen_fd(struct http_listener *l, int fd, struct err *e);
/* Takes away the socket file if it is still ours. A listener that was never opened, all zero but for fds of -1, is fine. */
void http_listen_close(struct http_listener *l);

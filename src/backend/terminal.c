/* SPDX-License-Identifier: Apache-2.0 */
#include "backend/terminal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void terminal_init(struct terminal *t, int in_fd, int out_fd)
{
	memset(t, 0, sizeof *t);
	t->in_fd = in_fd;
	t->out_fd = out_fd;
	t->is_tty = isatty(in_fd) == 1;
}

/* Entirely raw, as the guest's own terminal driver does what ours would: no signals from ^C, no echo, and no output
 * processing (the guest sends its own carriage returns). */
static int make_raw(const struct terminal *t)
{
	struct termios raw = t->saved;
	cfmakeraw(&raw);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	return tcsetattr(t->in_fd, TCSANOW, &raw);
}

/* A job in the background does not touch the shell's terminal. (The kernel would stop us with SIGTTOU, but not a thread
 * that has it blocked, as ours have.) Terminals that are not the session's own have no foreground. */
static bool is_in_background(const struct terminal *t)
{
	pid_t foreground = tcgetpgrp(t->in_fd);
	return foreground > 0 && foreground != getpgrp();
}

int terminal_acquire(struct terminal *t, struct err *e)
{
	if (t->is_tty && t->n_users == 0) {
		if (tcgetattr(t->in_fd, &t->saved) < 0)
			return err_set_errno(e, errno, "cannot read the terminal's mode");
		if (!is_in_background(t) && make_raw(t) < 0)
			return err_set_errno(e, errno, "cannot set the terminal's raw mode");
	}
	t->n_users++;
	return 0;
}

void terminal_refresh(struct terminal *t)
{
	if (t->is_tty && t->n_users > 0 && !is_in_background(t))
		(void)make_raw(t);
}

void terminal_release(struct terminal *t)
{
	assert(t->n_users > 0);
	/* TCSANOW waits for nothing: the terminal may be one that is stopped or gone. */
	if (--t->n_users == 0 && t->is_tty && !is_in_background(t))
		(void)tcsetattr(t->in_fd, TCSANOW, &t->saved);
}

bool terminal_take_input(struct terminal *t, const void *owner)
{
	if (!t->input_owner)
		t->input_owner = owner;
	return t->input_owner == owner;
}

void terminal_give_input(struct terminal *t, const void *owner)
{
	if (t->input_owner == owner)
		t->input_owner = NULL;
}

bool terminal_size(const struct terminal *t, uint16_t *ret_columns, uint16_t *ret_rows)
{
	struct winsize w;
	if (ioctl(t->out_fd, TIOCGWINSZ, &w) < 0 && ioctl(t->in_fd, TIOCGWINSZ, &w) < 0)
		return false;
	*ret_columns = w.ws_col;
	*ret_rows = w.ws_row;
	return true;
}

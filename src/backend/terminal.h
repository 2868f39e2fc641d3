/* SPDX-License-Identifier: Apache-2.0 */
/* terminal.h - the user's terminal, shared by the consoles that use it: raw mode while somebody does, restored after the
 * last. Descriptors that are no terminal (pipes, files) work too; they have no mode and no size. Belongs to the loop of the
 * consoles that use it. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include <termios.h>

struct terminal {
	int in_fd, out_fd; /* borrowed, usually 0 and 1 */
	bool is_tty;       /* in_fd is a terminal */
	struct termios saved;
	unsigned n_users;
	const void *input_owner; /* who reads in_fd: the first that asked; NULL: nobody */
};

void terminal_init(struct terminal *t, int in_fd, int out_fd);
/* The first user puts it in raw mode. Input stays blocking for others: flags of the open file are not changed. */
int terminal_acquire(struct terminal *t, struct err *e);
void terminal_release(struct terminal *t);
/* Raw mode again, if somebody uses it and this process is in the foreground: after SIGCONT. */
void terminal_refresh(struct terminal *t);
/* Typed bytes go to one console: true when `owner` has it now. */
bool terminal_take_input(struct terminal *t, const void *owner);
void terminal_give_input(struct terminal *t, const void *owner);
bool terminal_size(const struct terminal *t, uint16_t *ret_columns, uint16_t *ret_rows);

/* SPDX-License-Identifier: Apache-2.0 */
/* char.h - the host's side of a character device: nothing, the terminal, a file, a pseudo-terminal, a Unix socket.
 *
 * Belongs to one loop; char_write() may be called by any thread (a vCPU writes a byte) and never blocks: what the host
 * does not take yet waits in a bounded buffer, whose oldest bytes are dropped (and counted) when it is full, so that a
 * guest can neither stall nor fill memory. Survives the guest's reboots: its owner is the VM, not the machine. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/log.h"
#include "loop/loop.h"

enum char_mode { CHAR_OFF, CHAR_NULL, CHAR_TTY, CHAR_FILE, CHAR_PTY, CHAR_SOCKET };

struct char_params {
	enum char_mode mode;
	const char *path; /* FILE, SOCKET */
	struct terminal *terminal; /* TTY: shared by all who use it; outlives them */
	const struct log *log;
};

struct char_backend;
struct terminal;

/* The device in front. All on the loop. */
struct char_client {
	/* Bytes from the host; returns how many it took. When fewer than all, input stops until char_resume_input(). */
	size_t (*input)(void *context, const uint8_t *bytes, size_t n_bytes);
	/* The terminal's size changed or became known. May be NULL. */
	void (*resized)(void *context, uint16_t n_columns, uint16_t n_rows);
	void *context;
};

#define CHAR_BUFFER_BYTES (64u * 1024)
#define CHAR_BATCH_BYTES 1024u
#define CHAR_TICK_NS (4ull * 1000 * 1000)
#define CHAR_CLOSE_WAIT_MS 250 /* how long char_close() waits for a slow reader to take the last bytes */

int char_open(const struct char_params *p, struct loop *l, struct char_backend **ret_b, struct err *e);
void char_close(struct char_backend *b); /* restores the terminal, removes the socket; on the loop or after it ended */
const char *char_path(const struct char_backend *b); /* PTY: the device's path; FILE, SOCKET: as given; else NULL */
bool char_has_input(const struct char_backend *b);   /* TTY, PTY, SOCKET */

/* NULL detaches. By loop_call(): on the loop, before it runs, or from main. No call is under way when it returns. */
void char_set_client(struct char_backend *b, const struct char_client *c);
/* Any thread. Gathers: a line, or CHAR_BATCH_BYTES, costs one system call; what is less leaves within CHAR_TICK_NS. */
void char_write(struct char_backend *b, const void *bytes, size_t n_bytes);
void char_flush(struct char_backend *b); /* any thread: the device knows that nothing follows soon */
void char_resume_input(struct char_backend *b);                             /* any thread */
bool char_size(const struct char_backend *b, uint16_t *ret_columns, uint16_t *ret_rows); /* TTY, PTY */
void char_update_size(struct char_backend *b); /* on the loop: SIGWINCH arrived */

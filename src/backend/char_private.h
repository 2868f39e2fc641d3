/* SPDX-License-Identifier: Apache-2.0 */
/* char_private.h - what the files of the character backend share: char.c (input, batching), char_output.c (the buffer and
 * the descriptor behind it), char_open.c (how each mode comes to its descriptors), char_socket.c (the listener).
 *
 * The loop owns everything but the fields below `lock`, which any thread changes under it; the lock is a leaf. */
#pragma once
#include "backend/char.h"
#include <pthread.h>
#include <sys/types.h>

enum char_out_kind {
	CHAR_OUT_PLAIN,    /* a regular file: never "would block" */
	CHAR_OUT_NONBLOCK, /* an open file description of our own, with O_NONBLOCK */
	CHAR_OUT_SOCKET,   /* MSG_DONTWAIT */
	CHAR_OUT_POLLED,   /* somebody else's open file description: poll first, then write what is sure to fit */
};

enum char_out_state {
	CHAR_OUT_READY,
	CHAR_OUT_BLOCKED, /* the loop waits for EPOLLOUT */
	CHAR_OUT_ABSENT,  /* no peer: bytes wait in the buffer */
	CHAR_OUT_DEAD,    /* no peer, and none will come: bytes are dropped */
};

/* What other threads ask the loop to do. */
#define CHAR_WANT_OUT 1u      /* watch for EPOLLOUT */
#define CHAR_WANT_TICK 2u     /* bytes wait that no newline followed */
#define CHAR_WANT_RESUME 4u   /* the device takes input again */
#define CHAR_WANT_DROP_PEER 8u /* a write found the peer gone */
#define CHAR_WANT_REPORT 32u  /* the host refused bytes for good */
#define CHAR_WANT_READ 16u    /* input that epoll cannot watch (regular files): look again */

#define CHAR_INPUT_BYTES 4096u

struct char_backend {
	enum char_mode mode;
	struct loop *loop;
	struct log log;
	struct log_limit limit;
	char *path;

	struct terminal *terminal;
	bool holds_terminal, has_terminal_input;
	int peer_fd; /* PTY: the slave side, held open */
	uint16_t n_columns, n_rows; /* last seen */

	int listen_fd;
	struct source listen;
	dev_t socket_device;
	ino_t socket_inode;

	struct char_client client;
	bool has_client;

	int in_fd;
	struct source in;
	bool is_in_pollless; /* a regular file as input */
	bool is_in_watched;  /* EPOLLIN is asked for */
	bool has_in_ended;
	bool is_peer_gone;   /* SOCKET: hung up, with input left to deliver */
	size_t in_start, in_end;
	uint8_t in_bytes[CHAR_INPUT_BYTES];
	_Atomic bool is_input_held; /* the client did not take everything */

	struct source out;
	bool is_out_watched; /* EPOLLOUT is asked for */
	struct timer tick;
	struct timer accept_again; /* SOCKET: when there were no descriptors */
	struct loop_message message;
	_Atomic unsigned wants;

	pthread_mutex_t lock;
	int out_fd;
	enum char_out_kind out_kind;
	enum char_out_state out_state;
	bool is_out_tty, is_out_watchable, needs_sigpipe_guard;
	bool is_out_asked, is_tick_asked; /* the loop has been told, and has not ended it yet */
	bool is_peer_lost;
	int out_errno;         /* why bytes were refused for good */
	bool is_errno_told;
	uint32_t n_writes;     /* calls since the last tick */
	size_t ring_start, n_ring;
	uint64_t n_dropped;    /* since the last report */
	uint8_t *ring;         /* CHAR_BUFFER_BYTES */
};

/* char.c; the loop */
void char_on_in(struct source *s, uint32_t events);
void char_on_out(struct source *s, uint32_t events);
void char_watch_in(struct char_backend *b);
void char_report_drops(struct char_backend *b);
/* Any thread. */
void char_want(struct char_backend *b, unsigned wants);

/* char_output.c; under the lock */
size_t char_out_try(struct char_backend *b, const uint8_t *bytes, size_t n_bytes);
void char_ring_append(struct char_backend *b, const uint8_t *bytes, size_t n_bytes);
/* One byte, as a serial port sends it: the case that a guest's boot is made of. */
static inline void char_ring_append_byte(struct char_backend *b, uint8_t byte)
{
	if (b->n_ring < CHAR_BUFFER_BYTES)
		b->ring[(b->ring_start + b->n_ring++) % CHAR_BUFFER_BYTES] = byte;
	else
		char_ring_append(b, &byte, 1);
}
void char_ring_drain(struct char_backend *b);
/* What the state of the buffer asks of the loop, each once. */
unsigned char_out_wants(struct char_backend *b);
/* The loop, without the lock. The source `out` is added before, if it can be; -1 takes the descriptor away, and the
 * caller closes it. */
void char_out_set(struct char_backend *b, int fd, enum char_out_kind kind, enum char_out_state state);
void char_out_finish(struct char_backend *b); /* before closing: the last bytes, for a bounded time */

/* char_socket.c; the loop */
int char_socket_open(struct char_backend *b, struct err *e);
void char_socket_close(struct char_backend *b);
void char_socket_drop_peer(struct char_backend *b);

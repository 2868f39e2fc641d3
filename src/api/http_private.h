/* SPDX-License-Identifier: Apache-2.0 */
/* http_private.h - what the server (http.c) and its connections (http_connection.c) know of each other. */
#pragma once
#include "api/http.h"
#include "api/http_listen.h"
#include "base/list.h"
#include "base/log.h"
#include "loop/loop.h"

struct http {
	struct loop *loop;
	void (*handle)(void *context, const struct http_request *r, struct http_answer *a);
	void *context;
	uint64_t request_ns, idle_ns;
	struct http_listener listener;
	struct source listen;
	struct timer accept_again;
	struct list_link connections;
	unsigned n_connections;
	bool is_handling;
	struct log log;
	struct log_limit limit;
};

/* What a connection's time runs for. */
enum http_wait {
	WAIT_NOTHING,
	WAIT_REQUEST, /* the rest of a request */
	WAIT_WRITE,   /* the client to take its answers */
	WAIT_IDLE,    /* a first byte, while others may need the place */
	WAIT_LINGER,  /* the end of a client that has its last answer */
};

struct received_fd {
	int fd;
	size_t at; /* index in `in` of the last byte that came with it */
};

struct connection {
	struct http *http;
	struct list_link link;
	struct source source;
	struct timer deadline;
	enum http_wait wait;
	uint64_t since_ns; /* it waits for that */
	int fd;
	uint32_t events;
	struct text in; /* the current request is at in_at */
	size_t in_at;
	struct http_parser parser;
	struct received_fd *fds;
	size_t n_fds, n_fds_capacity;
	struct text out; /* written up to out_at */
	size_t out_at;
	size_t out_due;     /* the client has the time of WAIT_WRITE to take it up to here */
	bool has_input_ended;
	bool is_continue_sent;
	bool is_ending;    /* no more requests: the last answer is in `out` */
	bool is_lingering; /* and has been written: what still comes is thrown away */
	bool has_many_fds; /* more descriptors came than a request may have */
	bool has_lost_fds; /* descriptors came that we had no room for */
	bool is_turn_over; /* whole requests wait for the next turn */
};

/* Takes fd over, also when it fails. */
int connection_new(struct http *h, int fd, struct err *e);
void connection_free(struct connection *c);
/* Writes what it can without waiting; false: the peer has gone. */
bool connection_flush(struct connection *c);
/* By what the connection waits for now, and by whether the server is full: only then idle ones have a time limit, and those
 * who are slow a shorter one. A wait that goes on keeps its time, unless it is a new one of the same kind. */
void connection_set_wait(struct connection *c, bool is_new);

/* For idle_ns it has done nothing, or not come to the end of a request or to take its answers; and no byte of it waits to be
 * read. In a full server its place may go to another. */
bool connection_has_stalled(const struct connection *c, uint64_t now_ns);
/* To one that is slow with a request we still say that. */
void connection_give_up(struct connection *c);

static inline bool connection_has_output(const struct connection *c)
{
	return c->out_at < c->out.n_bytes;
}

/* http.c */
void http_connection_gone(struct http *h);
bool http_is_full(const struct http *h);
bool http_has_waiting_client(const struct http *h);

/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_backend.h - a vhost-user backend for tests: a disk of memory, served by a thread, that answers by the protocol or
 * as wrongly as it is told, gives requests back in whatever order, and can be ended and begun again at any moment.
 *
 * It is a process of its own as far as the front end can tell: it maps memory anew at each start and knows of its former
 * life nothing but the disk. */
#pragma once
#include "base/forward.h"
#include <pthread.h>

#define VHOST_BACKEND_MAX_QUEUES 4u
#define VHOST_BACKEND_MAX_SIZE 256u
#define VHOST_BACKEND_MAX_SECTORS 4096u

enum vhost_backend_wrong { /* what becomes of the answer to one kind of request */
	ANSWER_RIGHT,
	ANSWER_SHORT, ANSWER_LONG, ANSWER_HUGE, ANSWER_OTHER_REQUEST, ANSWER_NOT_A_REPLY, ANSWER_WITH_FD, ANSWER_HANG_UP,
	ANSWER_OTHER_VALUE, /* all ones: a refusal, or nonsense */
	ANSWER_NEVER,
	N_ANSWERS
};

struct vhost_backend_how {
	uint64_t features, protocol_features; /* 0: the usual */
	uint64_t n_queues;
	_Atomic uint64_t n_sectors; /* these may change while it runs */
	_Atomic uint32_t seg_max, discard_max;
	bool has_inflight;
	bool blocks; /* makes the event descriptors that it is given blocking ones */
	uint32_t wrong_request;
	enum vhost_backend_wrong wrong;
};

struct vhost_backend_queue {
	uint32_t size;
	uint8_t *desc, *avail, *used;
	uint16_t n_next_avail, n_used;
	int kick_fd, call_fd;
	int old_kick_fd, old_call_fd; /* of the last connection: a process that ought to be dead still has them */
	uint8_t *inflight; /* its part of the account */
	uint64_t counter;
	uint16_t held[VHOST_BACKEND_MAX_SIZE];
	unsigned n_held;
	bool is_stopped; /* GET_VRING_BASE has come */
};

struct vhost_backend_region {
	uint64_t gpa, n_bytes, user_address;
	uint8_t *host;
};

struct vhost_backend {
	char dir[64], path[80];
	struct vhost_backend_how how;
	uint8_t disk[VHOST_BACKEND_MAX_SECTORS * 512];
	/* What the test says while it runs */
	_Atomic uint64_t held_from; /* requests to sectors from here on are not given back */
	_Atomic bool releases_at_stop; /* held ones are, some time after GET_VRING_BASE */
	_Atomic uint32_t slow_request, slow_ms; /* how long the answer to requests of this kind takes; 0: no kind */
	_Atomic bool holds_config; /* GET_CONFIG is counted, and answered when this is false again */
	_Atomic bool asks_at_stop; /* and awaits the answer, before it answers GET_VRING_BASE */
	_Atomic bool is_mute; /* gives back without a call */
	_Atomic bool lies;   /* gives back a head that it does not have */
	/* What the test may look at */
	_Atomic unsigned n_done, n_held, n_connections, n_given_configs;
	_Atomic unsigned n_refused_regions; /* it has them already */
	_Atomic uint64_t driver_features;
	_Atomic int writeback; /* as SET_CONFIG said last; -1: it did not */

	/* The thread's */
	pthread_t thread;
	int stop_fd, listen_fd, fd, request_fd;
	uint64_t protocol_features;
	struct vhost_backend_queue queues[VHOST_BACKEND_MAX_QUEUES];
	struct vhost_backend_region regions[16];
	unsigned n_regions;
	uint8_t *inflight;
	uint64_t n_inflight_bytes, release_ns;
	_Atomic bool wants_config_change;
};

void vhost_backend_init(struct vhost_backend *b); /* makes its folder */
void vhost_backend_done(struct vhost_backend *b); /* it does not run */
void vhost_backend_start(struct vhost_backend *b);
void vhost_backend_kill(struct vhost_backend *b); /* what it has in flight is gone with it */
/* A byte of the disk, of a request that was given back. */
uint8_t vhost_backend_byte(const struct vhost_backend *b, uint64_t offset);
/* Says that the configuration space has changed, after the test has changed b->how. */
void vhost_backend_change_config(struct vhost_backend *b);

/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_user.h - a connection to another process that serves a device's rings, as its front end.
 * Spec: QEMU's docs/interop/vhost-user.rst.
 *
 * Knows messages and their answers; what the rings are for is the device's matter. The backend is not trusted: each answer
 * is checked for its kind, length and descriptors, and has to come before the deadline. After any failure the connection is
 * of no more use: the caller closes it. One thread at a time; functions wait for the backend, at most until the deadline. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

#define VHOST_USER_F_PROTOCOL_FEATURES (1ull << 30) /* among the device's features */

#define VHOST_USER_PROTOCOL_F_MQ (1ull << 0)
#define VHOST_USER_PROTOCOL_F_REPLY_ACK (1ull << 3)
#define VHOST_USER_PROTOCOL_F_BACKEND_REQ (1ull << 5)
#define VHOST_USER_PROTOCOL_F_CONFIG (1ull << 9)
#define VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD (1ull << 12)
#define VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS (1ull << 15)

#define VHOST_USER_MAX_TABLE 8u          /* regions that one SET_MEM_TABLE holds */
#define VHOST_USER_MAX_CONFIG_BYTES 256u

/* What the backend asks of us. */
#define VHOST_USER_BACKEND_CONFIG_CHANGE_MSG 2u

struct vhost_user_region { /* memory that both sides map */
	int fd; /* borrowed */
	uint64_t fd_offset;
	uint64_t gpa, n_bytes;
	uint64_t user_address; /* ours: rings are given by it */
};

struct vhost_user_ring {
	unsigned index;
	uint16_t size, base; /* base: of the available ring, free-running */
	uint64_t desc, avail, used; /* user addresses */
	int kick_fd, call_fd; /* borrowed */
};

/* Where a backend notes what it has in flight, for the one that comes after it. We keep it and never look into it. */
struct vhost_user_inflight {
	int fd; /* -1: none */
	uint64_t offset, n_bytes;
	uint16_t n_queues, queue_size;
};

struct vhost_user {
	int fd;         /* -1: not connected; nothing is to be read there but answers */
	int request_fd; /* where the backend asks us; -1: it cannot */
	uint64_t features;          /* the device's, as the backend offers them */
	uint64_t protocol_features; /* in force */
	uint64_t deadline_ns;       /* for all answers until it is set anew */
	uint8_t request[12 + 64];   /* as much as has come of a request */
	unsigned n_request_bytes;
	/* What a request is answered with: 0 is good. Also in the midst of any function that waits: nothing may be asked of the
	 * backend here. Set it after connecting; NULL: all are refused. */
	uint64_t (*on_request)(struct vhost_user *c, uint32_t request);
};

void vhost_user_init(struct vhost_user *c);
/* Does not wait: a backend whose queue of connections is full counts as absent. */
int vhost_user_connect(struct vhost_user *c, const char *path, struct err *e);
void vhost_user_close(struct vhost_user *c); /* an unconnected one is left alone */

/* SET_OWNER, and the features: of protocol_features all that the backend offers of `wanted`. The first thing to do. */
int vhost_user_negotiate(struct vhost_user *c, uint64_t wanted_protocol_features, struct err *e);
/* Without VHOST_USER_PROTOCOL_F_MQ, 1. */
int vhost_user_queue_num(struct vhost_user *c, uint64_t *ret_n, struct err *e);
int vhost_user_get_config(struct vhost_user *c, void *ret_space, uint32_t n_bytes, struct err *e);
int vhost_user_set_config(struct vhost_user *c, uint32_t offset, const void *bytes, uint32_t n_bytes, struct err *e);
/* Lets the backend ask us, when the feature is in force: c->request_fd. */
int vhost_user_open_requests(struct vhost_user *c, struct err *e);

int vhost_user_set_features(struct vhost_user *c, uint64_t features, struct err *e);
/* All of the shared memory; once a connection when there are more than VHOST_USER_MAX_TABLE, which need MEM_SLOTS. */
int vhost_user_set_memory(struct vhost_user *c, const struct vhost_user_region *regions, size_t n, struct err *e);
/* The descriptor is the caller's. */
int vhost_user_get_inflight(struct vhost_user *c, uint16_t n_queues, uint16_t queue_size,
                            struct vhost_user_inflight *ret_i, struct err *e);
int vhost_user_set_inflight(struct vhost_user *c, const struct vhost_user_inflight *i, struct err *e);
/* Hands the ring over and enables it. */
int vhost_user_start_ring(struct vhost_user *c, const struct vhost_user_ring *r, struct err *e);
/* The backend takes nothing more from the ring; base: where it would go on. Some have not finished by then what they took. */
int vhost_user_stop_ring(struct vhost_user *c, unsigned index, uint16_t *ret_base, struct err *e);

/* When c->request_fd is readable: 1: a request came and is answered; 0: none is whole yet. */
int vhost_user_serve(struct vhost_user *c, struct err *e);

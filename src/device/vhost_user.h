/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_user.h - what every device has in common whose rings another process serves (vhost-user): its connection, the
 * handing over of rings and their return, and the backend's restart.
 *
 * A device class starts with a struct vhost_user_device and gives its callbacks to the core as they are declared here; of its
 * own it says which features and which configuration space it may have (struct vhost_user_kind). Each device has a thread
 * with a loop, which alone uses the connection and may wait for the backend, for seconds at most; vCPUs and the main thread
 * wait for it only while the device starts, stops or resets. The backend is not trusted, and may go and come back at any time:
 * the guest's requests wait for it. */
#pragma once
#include "backend/vhost_user.h"
#include "device/vhost_user_relay.h"
#include "virtio/virtio.h"

struct vhost_user_device;

struct vhost_user_kind {
	uint64_t features; /* that the backend may offer to the driver, besides those of rings */
	uint64_t restrictions; /* among them: what a backend may not have when the first one did not */
	/* A configuration space that came from the backend: makes of it what the driver is to read, or refuses it. was: what
	 * the driver reads so far; NULL: nothing, the device is being made. Main thread then, else the device's loop. */
	int (*check_space)(struct vhost_user_device *d, uint8_t *space, const uint8_t *was, struct err *e);
	/* Under the device's lock: whether the driver may write that. NULL: it may not write. */
	bool (*may_write)(const struct vhost_user_device *d, unsigned offset, const uint8_t *bytes, unsigned n_bytes);
};

struct vhost_user_params {
	const char *socket;
	unsigned n_queues;
	uint64_t connect_wait_ns; /* how long the backend may be absent when the device is made */
};

struct vhost_user_queue { /* the loop's */
	struct vhost_user_device *d;
	unsigned index;
	bool is_wanted;  /* the driver has it in use */
	bool is_running; /* the backend has it */
	bool has_run;    /* since the driver's reset */
	bool has_base;   /* the backend said where it would go on, and has finished what was before it */
	uint16_t base;
	int kick_fd, call_fd; /* while it runs; kick_fd: of relayed rings */
	struct source call;
	struct vhost_user_relay relay;
};

#define VHOST_USER_MAX_WRITE 8u

struct vhost_user_device {
	struct virtio_device v; /* first */
	const struct vhost_user_kind *kind;
	char *socket;
	struct loop_thread thread;
	bool is_relayed;       /* for good: decided by what the first backend can do */
	uint64_t needed;       /* features that each backend has to have */
	uint64_t barred;       /* and that none may */

	/* The loop's */
	struct vhost_user c;
	struct source connection, requests;
	struct timer retry;
	uint64_t retry_ns, lost_ns, connected_ns;
	bool is_set_up; /* the backend has features and memory */
	bool is_stopping;             /* whether queues are being stopped or started: one transition after the other */
	uint64_t transition_waited_ns; /* for the backend, over all queues of the present one */
	bool is_made;     /* the connection is the loop's alone */
	bool is_outdated; /* the backend says that its configuration space has changed */
	struct loop_message outdated;
	struct vhost_user_inflight inflight;
	uint8_t *rings; /* of all relayed queues, one after the other */
	int rings_fd;
	struct vhost_user_queue *queues;
	struct iovec *scratch;
	struct log_limit host_limit;
	_Atomic uint64_t n_reconnects;

	/* Under the device's lock: what the driver wrote last into the configuration space */
	unsigned written_offset, n_written;
	uint8_t written[VHOST_USER_MAX_WRITE];
	struct loop_message write_space;
};

static inline struct vhost_user_device *vhost_user_device_of(struct virtio_device *v)
{
	return (struct vhost_user_device *)v;
}

/* In open(): connects, and offers to the driver what the backend offers. d->kind is set. Waits for the backend. */
int vhost_user_open(struct vhost_user_device *d, const struct vhost_user_params *p, struct err *e);

/* The class's. */
void vhost_user_device_close(struct virtio_device *v);
int vhost_user_device_start(struct virtio_device *v, unsigned queue, struct err *e);
void vhost_user_device_stop(struct virtio_device *v, unsigned queue);
void vhost_user_device_reset(struct virtio_device *v);
void vhost_user_device_kick(struct virtio_device *v, unsigned queue);
bool vhost_user_device_space_write(struct virtio_device *v, unsigned offset, const uint8_t *bytes, unsigned n_bytes);
void vhost_user_device_counters(struct virtio_device *v, void (*add)(void *context, const char *name, uint64_t value),
                                void *context);

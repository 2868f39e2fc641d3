/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_user_relay.h - a queue of ours between the driver's ring and a backend's, for backends that keep no account of what
 * they have in flight (no INFLIGHT_SHMFD).
 *
 * Such a backend gets available and used rings in memory of ours; descriptors and data stay the guest's. What it took and
 * has not given back is known here, whatever the order in which it works, and is offered again to the one that comes after
 * it. The ring's memory is shared with the backend, which is not trusted: each index is read once, then checked. The
 * loop's that owns the queue. */
#pragma once
#include "mem/mem.h"
#include "virtio/virtio.h"

struct vhost_user_relay_head { /* of a chain that the driver offered */
	bool is_in_flight;
	uint16_t previous, next; /* in the order in which they were taken */
	uint32_t n_in_bytes;
};

struct vhost_user_relay {
	struct virtio_device *v;
	unsigned queue;
	struct vhost_user_relay_head *heads; /* queue_size of them, and the list's own */
	unsigned n_in_flight;
	/* While attached */
	struct span avail, used; /* without bytes: detached */
	uint16_t n_offered, n_done; /* free-running */
};

size_t vhost_user_relay_bytes(unsigned queue_size); /* of memory that a queue's two rings take, in whole pages */
int vhost_user_relay_init(struct vhost_user_relay *r, struct virtio_device *v, unsigned queue, struct err *e);
void vhost_user_relay_done(struct vhost_user_relay *r); /* a zeroed one is left alone */
/* Forgets what is in flight: the driver has reset the device. */
void vhost_user_relay_forget(struct vhost_user_relay *r);

/* New rings, all zeroes, from now on; what is in flight is in them already, and their available ring starts at 0. */
void vhost_user_relay_attach(struct vhost_user_relay *r, uint8_t *memory);
void vhost_user_relay_detach(struct vhost_user_relay *r);
static inline bool vhost_user_relay_is_attached(const struct vhost_user_relay *r)
{
	return r->used.n_bytes != 0;
}

/* In the class's kick(): takes all chains of the run. True when the backend is to be kicked. */
bool vhost_user_relay_take(struct vhost_user_relay *r, struct iovec *scratch);
/* Gives back what the backend has done, for virtio_signal() to tell. -EPROTO: it gave back what it does not have. */
int vhost_user_relay_give_back(struct vhost_user_relay *r);
/* The backend has given back all that it took before `base`. */
bool vhost_user_relay_is_drained(const struct vhost_user_relay *r, uint16_t base);

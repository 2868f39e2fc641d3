/* SPDX-License-Identifier: Apache-2.0 */
/* vhost_user_impl.h - between the files that make up a vhost-user device. On the device's loop. */
#pragma once
#include "base/clock.h"
#include "device/vhost_user.h"

#define VHOST_USER_HAND_OVER_NS (5 * NS_PER_S)

static inline void vhost_user_set_deadline(struct vhost_user_device *d, uint64_t ns)
{
	d->c.deadline_ns = clock_now_ns() + ns;
}

static inline void vhost_user_nap(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };
	(void)nanosleep(&t, NULL);
}

/* The connection ends, and a timer tries for another. Without one: nothing. */
void vhost_user_lose(struct vhost_user_device *d, const char *why);
/* To the backend that is connected; the deadline is set. */
int vhost_user_hand_over(struct vhost_user_queue *q, struct err *e);
/* The backend is gone: nothing runs any more. What a relayed queue has in flight stays known. */
void vhost_user_drop_rings(struct vhost_user_device *d);

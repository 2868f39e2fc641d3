/* SPDX-License-Identifier: Apache-2.0 */
/* The connection: its handshake, its end, and the next one. What becomes of the rings: vhost_user_rings.c, and the theory of
 * operation there. */
#include "device/vhost_user_impl.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define HANDSHAKE_NS (3 * NS_PER_S)
#define REQUEST_NS NS_PER_S
#define FIRST_RETRY_NS (50 * NS_PER_MS)
#define LAST_RETRY_NS NS_PER_S
#define STABLE_NS NS_PER_S /* a connection that lasts so long is no reason to wait before the next */

#define RING_FEATURES (VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)

/* --- the handshake ---------------------------------------------------------------------------------------------------- */

static size_t n_regions(const struct vhost_user_device *d)
{
	return d->v.mem->n_regions + 1; /* relayed rings */
}

static int check_backend(struct vhost_user_device *d, struct err *e)
{
	uint64_t n_queues, missing = d->needed & ~d->c.features;
	if (missing)
		return err_set(e, EPROTO, "the backend lacks features 0x%llx", (unsigned long long)missing);
	if (d->c.features & d->barred)
		return err_set(e, EPROTO, "the backend has features 0x%llx, which its predecessor had not",
		               (unsigned long long)(d->c.features & d->barred));
	if (!(d->c.protocol_features & VHOST_USER_PROTOCOL_F_CONFIG))
		return err_set(e, EPROTO, "the backend has no configuration space (protocol feature CONFIG)");
	if (d->v.has_foreign_rings && !(d->c.protocol_features & VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD))
		return err_set(e, EPROTO, "the backend does not keep account of what is in flight (INFLIGHT_SHMFD)");
	int rc = vhost_user_queue_num(&d->c, &n_queues, e);
	if (rc >= 0 && n_queues < d->v.n_queues)
		rc = err_set(e, EPROTO, "the backend has %llu queues, and %u are wanted", (unsigned long long)n_queues,
		             d->v.n_queues);
	return rc;
}

/* was: as for check_space(). */
static int fetch_space(struct vhost_user_device *d, uint8_t *ret_space, const uint8_t *was, struct err *e)
{
	int rc = vhost_user_get_config(&d->c, ret_space, d->v.cls->n_space_bytes, e);
	return rc < 0 ? rc : d->kind->check_space(d, ret_space, was, e);
}

static uint64_t on_asked(struct vhost_user *c, uint32_t request);

static int shake_hands(struct vhost_user_device *d, struct err *e)
{
	uint64_t wanted = VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_BACKEND_REQ |
	                  VHOST_USER_PROTOCOL_F_CONFIG | VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
	if (d->is_relayed) /* rings of ours start without an account, which backends that promise one do not take */
		wanted &= ~VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
	if (n_regions(d) > VHOST_USER_MAX_TABLE)
		wanted |= VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
	int rc = vhost_user_connect(&d->c, d->socket, e);
	vhost_user_set_deadline(d, HANDSHAKE_NS);
	if (rc >= 0)
		rc = vhost_user_negotiate(&d->c, wanted, e);
	if (rc >= 0)
		rc = check_backend(d, e);
	d->c.on_request = on_asked;
	if (rc >= 0)
		rc = vhost_user_open_requests(&d->c, e);
	return rc;
}

/* --- losing the backend, and finding it again ------------------------------------------------------------------------- */

static void on_retry(struct timer *t);

static void try_later(struct vhost_user_device *d)
{
	timer_set(d->thread.loop, &d->retry, clock_now_ns() + d->retry_ns, on_retry);
	d->retry_ns = min_u64(2 * d->retry_ns, LAST_RETRY_NS);
}

static void disconnect(struct vhost_user_device *d)
{
	vhost_user_drop_rings(d);
	loop_remove(&d->connection);
	loop_remove(&d->requests);
	vhost_user_close(&d->c);
}

static bool may_log(struct vhost_user_device *d)
{
	return d->v.log.sink && log_limit_pass(&d->v.log, &d->host_limit);
}

void vhost_user_lose(struct vhost_user_device *d, const char *why)
{
	if (d->c.fd < 0)
		return;
	disconnect(d);
	d->lost_ns = clock_now_ns();
	if (d->lost_ns - d->connected_ns > STABLE_NS)
		d->retry_ns = FIRST_RETRY_NS;
	if (may_log(d))
		log_warn(&d->v.log, "the backend at '%s' is lost: %s; requests wait for it to come back", d->socket, why);
	try_later(d);
}

static void on_connection(struct source *s, uint32_t events)
{
	struct vhost_user_device *d = container_of(s, struct vhost_user_device, connection);
	bool has_ended = (events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0;
	vhost_user_lose(d, has_ended ? "it has closed the connection" : "it says what nobody asked for");
}

static void copy_space(struct vhost_user_device *d, uint8_t *ret_space)
{
	(void)pthread_mutex_lock(&d->v.lock);
	memcpy(ret_space, d->v.space, d->v.cls->n_space_bytes);
	(void)pthread_mutex_unlock(&d->v.lock);
}

/* The driver's own last word in it is kept: also one of a moment ago. */
static void take_space(struct vhost_user_device *d, uint8_t *space)
{
	struct virtio_device *v = &d->v;
	bool is_told = false;
	(void)pthread_mutex_lock(&v->lock);
	memcpy(space + d->written_offset, d->written, d->n_written);
	if (memcmp(space, v->space, v->cls->n_space_bytes) != 0)
		is_told = virtio_space_put(v, 0, space, v->cls->n_space_bytes);
	(void)pthread_mutex_unlock(&v->lock);
	if (is_told)
		virtio_signal_config(v);
}

/* 0 also when there is nothing to tell. */
static int tell_written(struct vhost_user_device *d, struct err *e)
{
	uint8_t bytes[VHOST_USER_MAX_WRITE];
	(void)pthread_mutex_lock(&d->v.lock);
	unsigned offset = d->written_offset, n_bytes = d->n_written;
	memcpy(bytes, d->written, sizeof bytes);
	(void)pthread_mutex_unlock(&d->v.lock);
	return n_bytes ? vhost_user_set_config(&d->c, offset, bytes, n_bytes, e) : 0;
}

static int refresh_space(struct vhost_user_device *d, struct err *e)
{
	uint8_t was[VIRTIO_MAX_SPACE_BYTES], space[VIRTIO_MAX_SPACE_BYTES];
	d->is_outdated = false;
	int rc = tell_written(d, e);
	copy_space(d, was);
	if (rc >= 0)
		rc = fetch_space(d, space, was, e);
	if (rc >= 0)
		take_space(d, space);
	return rc;
}

static void on_request(struct source *s, uint32_t events)
{
	struct vhost_user_device *d = container_of(s, struct vhost_user_device, requests);
	struct err e = { 0 };
	(void)events;
	vhost_user_set_deadline(d, REQUEST_NS);
	if (vhost_user_serve(&d->c, &e) < 0)
		vhost_user_lose(d, e.text);
}

static void on_outdated(struct loop_message *m)
{
	struct vhost_user_device *d = container_of(m, struct vhost_user_device, outdated);
	struct err e = { 0 };
	if (d->c.fd < 0 || !d->is_outdated)
		return; /* a reconnection asks anyway */
	vhost_user_set_deadline(d, HANDSHAKE_NS);
	int rc = refresh_space(d, &e);
	if (rc == -EINVAL && may_log(d)) /* the space itself is not acceptable; the connection is well */
		log_warn(&d->v.log, "the backend's new configuration is not taken over: %s", e.text);
	else if (rc < 0 && rc != -EINVAL)
		vhost_user_lose(d, e.text);
}

/* Main thread while the device is made, else the loop's: the backend may say so while it is asked for something else. */
static uint64_t on_asked(struct vhost_user *c, uint32_t request)
{
	struct vhost_user_device *d = container_of(c, struct vhost_user_device, c);
	if (request != VHOST_USER_BACKEND_CONFIG_CHANGE_MSG)
		return 1;
	d->is_outdated = true;
	if (d->is_made)
		loop_post(d->thread.loop, &d->outdated, on_outdated);
	return 0;
}

static int watch(struct vhost_user_device *d, struct err *e)
{
	int rc = loop_add(d->thread.loop, &d->connection, d->c.fd, EPOLLIN | EPOLLRDHUP, on_connection, e);
	if (rc >= 0 && d->c.request_fd >= 0)
		rc = loop_add(d->thread.loop, &d->requests, d->c.request_fd, EPOLLIN, on_request, e);
	return rc;
}

static int reconnect(struct vhost_user_device *d, struct err *e)
{
	int rc = shake_hands(d, e);
	if (rc >= 0)
		rc = refresh_space(d, e);
	if (rc >= 0)
		rc = watch(d, e);
	vhost_user_set_deadline(d, VHOST_USER_HAND_OVER_NS); /* all together */
	for (unsigned i = 0; rc >= 0 && i < d->v.n_queues; i++)
		rc = d->queues[i].is_wanted ? vhost_user_hand_over(&d->queues[i], e) : 0;
	return rc;
}

static void on_retry(struct timer *t)
{
	struct vhost_user_device *d = container_of(t, struct vhost_user_device, retry);
	struct err e = { 0 };
	int rc = reconnect(d, &e);
	uint64_t now = clock_now_ns();
	if (rc < 0) {
		bool is_absent = rc == -ENOENT || rc == -ECONNREFUSED || rc == -EAGAIN;
		if (!is_absent && may_log(d))
			log_warn(&d->v.log, "the backend at '%s' is not taken back: %s", d->socket, e.text);
		disconnect(d);
		try_later(d);
		return;
	}
	d->connected_ns = now;
	d->n_reconnects++;
	if (may_log(d))
		log_info(&d->v.log, "the backend at '%s' is back after %llu ms", d->socket,
		         (unsigned long long)((now - d->lost_ns) / NS_PER_MS));
}

static void on_space_written(struct loop_message *m)
{
	struct vhost_user_device *d = container_of(m, struct vhost_user_device, write_space);
	struct err e = { 0 };
	if (d->c.fd < 0)
		return; /* a reconnection tells it */
	vhost_user_set_deadline(d, HANDSHAKE_NS);
	if (tell_written(d, &e) < 0)
		vhost_user_lose(d, e.text);
}

bool vhost_user_device_space_write(struct virtio_device *v, unsigned offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct vhost_user_device *d = vhost_user_device_of(v);
	if (n_bytes > sizeof d->written || !d->kind->may_write || !d->kind->may_write(d, offset, bytes, n_bytes))
		return false;
	memcpy(v->space + offset, bytes, n_bytes);
	memcpy(d->written, bytes, n_bytes);
	d->written_offset = offset;
	d->n_written = n_bytes;
	loop_post(d->thread.loop, &d->write_space, on_space_written);
	return true;
}

void vhost_user_device_counters(struct virtio_device *v, void (*add)(void *context, const char *name, uint64_t value),
                                void *context)
{
	add(context, "reconnects", vhost_user_device_of(v)->n_reconnects);
}

/* --- life ------------------------------------------------------------------------------------------------------------- */

static int connect_first(struct vhost_user_device *d, uint64_t wait_ns, struct err *e)
{
	uint64_t end = clock_now_ns() + wait_ns;
	for (;;) {
		int rc = shake_hands(d, e);
		bool is_absent = rc == -ENOENT || rc == -ECONNREFUSED || rc == -EAGAIN;
		if (!is_absent || clock_now_ns() >= end)
			return rc;
		vhost_user_nap(FIRST_RETRY_NS);
	}
}

static int make_queues(struct vhost_user_device *d, struct err *e)
{
	struct virtio_device *v = &d->v;
	d->queues = calloc(v->n_queues, sizeof *d->queues);
	d->scratch = calloc(v->queue_size, sizeof *d->scratch);
	if (!d->queues || !d->scratch)
		return err_set(e, ENOMEM, "%s: no memory", v->id);
	for (unsigned i = 0; i < v->n_queues; i++)
		d->queues[i] = (struct vhost_user_queue){ .d = d, .index = i, .kick_fd = -1, .call_fd = -1 };
	for (unsigned i = 0; i < v->n_queues; i++) {
		int rc = vhost_user_relay_init(&d->queues[i].relay, v, i, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int start_loop(struct vhost_user_device *d, struct err *e)
{
	char name[48];
	(void)snprintf(name, sizeof name, "%s_vhost", d->v.id);
	int rc = loop_thread_start(&d->thread, name, e);
	if (rc >= 0)
		d->v.io_loop = d->thread.loop;
	return rc;
}

static int watch_first(void *arg)
{
	struct vhost_user_device *d = arg;
	struct err e = { 0 };
	d->connected_ns = clock_now_ns();
	d->is_made = true;
	if (watch(d, &e) < 0)
		vhost_user_lose(d, e.text);
	else if (d->is_outdated)
		loop_post(d->thread.loop, &d->outdated, on_outdated);
	return 0;
}

static void offer_features(struct vhost_user_device *d)
{
	uint64_t rings = RING_FEATURES & d->c.features;
	d->is_relayed = !(d->c.protocol_features & VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
	d->v.has_foreign_rings = !d->is_relayed;
	d->needed = rings | (d->kind->features & d->c.features);
	d->barred = d->kind->restrictions & ~d->c.features;
	d->v.offered = d->needed;
	if (d->is_relayed) { /* between the driver and us */
		d->v.offered |= VIRTIO_F_EVENT_IDX;
		d->needed &= ~VIRTIO_F_EVENT_IDX;
	}
}

int vhost_user_open(struct vhost_user_device *d, const struct vhost_user_params *p, struct err *e)
{
	struct virtio_device *v = &d->v;
	vhost_user_init(&d->c);
	d->inflight.fd = d->rings_fd = -1;
	d->retry_ns = FIRST_RETRY_NS;
	d->needed = VIRTIO_F_VERSION_1;
	if (p->n_queues < 1 || p->n_queues > VIRTIO_MAX_QUEUES)
		return err_set(e, EINVAL, "%s: the number of queues %u is not from 1 to %u", v->id, p->n_queues,
		               VIRTIO_MAX_QUEUES);
	v->n_queues = p->n_queues;
	for (size_t i = 0; i < v->mem->n_regions; i++) {
		if (v->mem->regions[i].fd < 0)
			return err_set(e, EINVAL, "%s: vhost-user needs shared memory (--memory shared=on)", v->id);
	}
	d->socket = strdup(p->socket);
	if (!d->socket)
		return err_set(e, ENOMEM, "%s: no memory", v->id);
	int rc = make_queues(d, e);
	if (rc >= 0)
		rc = start_loop(d, e);
	if (rc < 0)
		return rc;
	rc = connect_first(d, p->connect_wait_ns, e);
	if (rc >= 0) {
		offer_features(d);
		rc = fetch_space(d, v->space, NULL, e);
	}
	if (rc < 0) {
		err_prefix(e, "%s: vhost-user backend at '%s': ", v->id, d->socket);
		return rc;
	}
	return loop_call(d->thread.loop, watch_first, d);
}

static int end_on_loop(void *arg)
{
	struct vhost_user_device *d = arg;
	timer_cancel(&d->retry);
	disconnect(d);
	return 0;
}

void vhost_user_device_close(struct virtio_device *v)
{
	struct vhost_user_device *d = vhost_user_device_of(v);
	if (!d->socket) /* hardly begun */
		return;
	if (d->thread.is_running) {
		(void)loop_call(d->thread.loop, end_on_loop, d);
		loop_thread_stop(&d->thread);
	}
	for (unsigned i = 0; d->queues && i < v->n_queues; i++)
		vhost_user_relay_done(&d->queues[i].relay);
	fd_close(&d->inflight.fd);
	free(ptr_take(d->queues));
	free(ptr_take(d->scratch));
	free(ptr_take(d->socket));
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * A queue that the driver has started is *wanted*; one that the backend has is *running*. Each connection begins with a
 * handshake (features, configuration space); the first wanted queue sets it up (the driver's features, memory), and each
 * is handed over. When the connection ends, nothing runs, a timer tries again, and a new backend gets all wanted queues.
 * What one backend began, the next has to finish. There are two ways.
 *
 * A backend with INFLIGHT_SHMFD keeps its account of what is in flight in memory that outlives it, and resumes from that:
 * its rings are the driver's own (*foreign* to the core), kicked through the ioeventfd without us. Where it stood is the
 * used ring's index: the account has the rest.
 *
 * Without that account, the rings alone do not tell: of a backend that does not work in order, an old request may be in
 * flight whose place in the available ring has been used again, while newer ones are done, and to do those twice would
 * write to memory that the guest has given to others. So such a backend gets rings of ours (*relayed*, vhost_user_relay.h).
 *
 * GET_VRING_BASE ends a ring, but some backends answer it while what they took is still being worked on. Pause and reset
 * need more: they wait until the used index has come to the base, which nobody passes.
 *
 * Interrupts pass through the loop in both cases: the backend's event descriptor is read here, and the transport does what
 * the vector's mask asks for. */
#include "device/vhost_user.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define HANDSHAKE_NS (3 * NS_PER_S)
#define HAND_OVER_NS (5 * NS_PER_S)
#define STOP_NS (10 * NS_PER_S) /* slow storage may need some of it */
#define SLOW_STOP_NS (5 * NS_PER_S)
#define REQUEST_NS NS_PER_S
#define FIRST_RETRY_NS (50 * NS_PER_MS)
#define LAST_RETRY_NS (2 * NS_PER_S)
#define STABLE_NS (10 * NS_PER_S) /* a connection that lasts so long is no reason to wait before the next */
#define LOOK_AGAIN_NS (500 * 1000)

#define RING_FEATURES (VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX)
#define RING_IDX 2u

static void set_deadline(struct vhost_user_device *d, uint64_t ns)
{
	d->c.deadline_ns = clock_now_ns() + ns;
}

static void nap(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S) };
	(void)nanosleep(&t, NULL);
}

static uint64_t address_of(struct span s)
{
	return (uint64_t)(uintptr_t)s.host;
}

static void raise_event(int fd)
{
	uint64_t one = 1;
	(void)!write(fd, &one, sizeof one); /* a full counter is as good */
}

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
	if (!(d->c.protocol_features & VHOST_USER_PROTOCOL_F_CONFIG))
		return err_set(e, EPROTO, "the backend has no configuration space (protocol feature CONFIG)");
	if (d->v.has_foreign_rings && !(d->c.protocol_features & VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD))
		return err_set(e, EPROTO, "the backend keeps no account of what is in flight (INFLIGHT_SHMFD), as its predecessor did");
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

static int shake_hands(struct vhost_user_device *d, struct err *e)
{
	uint64_t wanted = VHOST_USER_PROTOCOL_F_MQ | VHOST_USER_PROTOCOL_F_REPLY_ACK | VHOST_USER_PROTOCOL_F_BACKEND_REQ |
	                  VHOST_USER_PROTOCOL_F_CONFIG | VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
	if (n_regions(d) > VHOST_USER_MAX_TABLE)
		wanted |= VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS;
	int rc = vhost_user_connect(&d->c, d->socket, e);
	set_deadline(d, HANDSHAKE_NS);
	if (rc >= 0)
		rc = vhost_user_negotiate(&d->c, wanted, e);
	if (rc >= 0)
		rc = check_backend(d, e);
	if (rc >= 0)
		rc = vhost_user_open_requests(&d->c, e);
	return rc;
}

/* --- memory and rings of a connection --------------------------------------------------------------------------------- */

static size_t ring_bytes(const struct vhost_user_device *d)
{
	return vhost_user_relay_bytes(d->v.queue_size);
}

/* Fresh ones each time: a process that was a backend once may still write to the old. Sealed, so that it cannot take the
 * pages away. */
static int make_rings(struct vhost_user_device *d, struct err *e)
{
	size_t n = ring_bytes(d) * d->v.n_queues;
	fd_scoped fd = memfd_create("varan-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)n) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_set_errno(e, errno, "cannot make memory for rings");
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return err_set_errno(e, errno, "cannot map memory for rings");
	d->rings = p;
	d->rings_fd = fd_take(&fd);
	return 0;
}

static void free_rings(struct vhost_user_device *d)
{
	for (unsigned i = 0; i < d->v.n_queues; i++)
		vhost_user_relay_detach(&d->queues[i].relay);
	if (d->rings)
		(void)munmap(d->rings, ring_bytes(d) * d->v.n_queues);
	d->rings = NULL;
	fd_close(&d->rings_fd);
}

static int send_memory(struct vhost_user_device *d, struct err *e)
{
	const struct mem_map *m = d->v.mem;
	struct vhost_user_region regions[MEM_MAX_REGIONS + 1];
	uint64_t end = 0;
	size_t n = 0;

	for (; n < m->n_regions; n++) {
		const struct mem_region *r = &m->regions[n];
		regions[n] = (struct vhost_user_region){
			.fd = r->fd,
			.fd_offset = r->fd_offset,
			.gpa = r->start.v,
			.n_bytes = r->n_bytes,
			.user_address = (uint64_t)(uintptr_t)r->host,
		};
		end = r->start.v + r->n_bytes;
	}
	if (d->is_relayed) {
		/* Backends want a guest address for it, too. It is only rings that a guest could reach by that, its own. */
		regions[n++] = (struct vhost_user_region){
			.fd = d->rings_fd,
			.gpa = align_up(end + 1, 1ull << 40),
			.n_bytes = ring_bytes(d) * d->v.n_queues,
			.user_address = (uint64_t)(uintptr_t)d->rings,
		};
	}
	return vhost_user_set_memory(&d->c, regions, n, e);
}

/* One account a driver's life: begun by the first backend, handed on to all others. */
static int send_inflight(struct vhost_user_device *d, struct err *e)
{
	int rc = 0;
	if (d->inflight.fd < 0)
		rc = vhost_user_get_inflight(&d->c, (uint16_t)d->v.n_queues, (uint16_t)d->v.queue_size, &d->inflight, e);
	return rc < 0 ? rc : vhost_user_set_inflight(&d->c, &d->inflight, e);
}

static int set_up(struct vhost_user_device *d, struct err *e)
{
	uint64_t features = (d->v.acked & d->c.features) | VHOST_USER_F_PROTOCOL_FEATURES;
	int rc = 0;

	free_rings(d); /* an earlier driver's */
	if (d->is_relayed) {
		features &= ~VIRTIO_F_EVENT_IDX;
		rc = make_rings(d, e);
	}
	if (rc >= 0)
		rc = vhost_user_set_features(&d->c, features, e);
	if (rc >= 0)
		rc = send_memory(d, e);
	if (rc >= 0 && !d->is_relayed)
		rc = send_inflight(d, e);
	d->is_set_up = rc >= 0;
	return rc;
}

static uint16_t used_index(const struct vhost_user_queue *q)
{
	return span_load_le16(q->d->v.queues[q->index].used, RING_IDX);
}

static int start_ring(struct vhost_user_queue *q, struct err *e)
{
	struct vhost_user_device *d = q->d;
	const struct queue *vq = &d->v.queues[q->index];
	struct vhost_user_ring r = {
		.index = q->index,
		.size = vq->config.size,
		.desc = address_of(vq->desc),
		.call_fd = q->call_fd,
	};
	if (d->is_relayed) {
		if (!vhost_user_relay_is_attached(&q->relay)) {
			vhost_user_relay_attach(&q->relay, d->rings + q->index * ring_bytes(d));
			q->has_base = false;
		}
		r.avail = address_of(q->relay.avail);
		r.used = address_of(q->relay.used);
		r.kick_fd = q->kick_fd;
		r.base = q->has_base ? q->base : 0;
	} else {
		r.avail = address_of(vq->avail);
		r.used = address_of(vq->used);
		r.kick_fd = d->v.slots[q->index].kick_fd;
		r.base = q->has_base ? q->base : q->has_run ? used_index(q) : 0;
	}
	int rc = vhost_user_start_ring(&d->c, &r, e);
	if (rc < 0)
		return rc;
	/* There may be chains of before, and the last backend may have died between its work and its call. */
	raise_event(r.kick_fd);
	if (q->has_run && !d->is_relayed)
		virtio_signal_foreign(&d->v, q->index);
	q->is_running = q->has_run = true;
	q->has_base = false;
	return 0;
}

/* The deadline is set. */
static int hand_over(struct vhost_user_queue *q, struct err *e)
{
	int rc = q->d->is_set_up ? 0 : set_up(q->d, e);
	return rc < 0 ? rc : start_ring(q, e);
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
	for (unsigned i = 0; i < d->v.n_queues; i++) {
		struct vhost_user_queue *q = &d->queues[i];
		if (q->is_running && d->is_relayed) {
			(void)vhost_user_relay_give_back(&q->relay);
			virtio_signal(&d->v, i);
		}
		q->is_running = false;
	}
	free_rings(d);
	loop_remove(&d->connection);
	loop_remove(&d->requests);
	vhost_user_close(&d->c);
	d->is_set_up = false;
}

static bool may_log(struct vhost_user_device *d)
{
	return d->v.log.sink && log_limit_pass(&d->v.log, &d->host_limit);
}

static void lose(struct vhost_user_device *d, const char *why)
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
	lose(d, has_ended ? "it has closed the connection" : "it says what nobody asked for");
}

static void copy_space(struct vhost_user_device *d, uint8_t *ret_space)
{
	(void)pthread_mutex_lock(&d->v.lock);
	memcpy(ret_space, d->v.space, d->v.cls->n_space_bytes);
	(void)pthread_mutex_unlock(&d->v.lock);
}

/* The driver's own last word in it is kept. */
static int refresh_space(struct vhost_user_device *d, struct err *e)
{
	uint8_t was[VIRTIO_MAX_SPACE_BYTES], space[VIRTIO_MAX_SPACE_BYTES], written[VHOST_USER_MAX_WRITE];
	(void)pthread_mutex_lock(&d->v.lock);
	unsigned offset = d->written_offset, n_written = d->n_written;
	memcpy(written, d->written, sizeof written);
	(void)pthread_mutex_unlock(&d->v.lock);

	int rc = n_written ? vhost_user_set_config(&d->c, offset, written, n_written, e) : 0;
	copy_space(d, was);
	if (rc >= 0)
		rc = fetch_space(d, space, was, e);
	if (rc < 0)
		return rc;
	memcpy(space + offset, written, n_written);
	if (memcmp(space, was, d->v.cls->n_space_bytes) != 0)
		virtio_space_update(&d->v, 0, space, d->v.cls->n_space_bytes);
	return 0;
}

static void on_request(struct source *s, uint32_t events)
{
	struct vhost_user_device *d = container_of(s, struct vhost_user_device, requests);
	struct err e = { 0 };
	uint32_t request;
	(void)events;

	set_deadline(d, REQUEST_NS);
	int rc = vhost_user_take_request(&d->c, &request, &e);
	if (rc == 0)
		return;
	bool is_known = rc > 0 && request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
	if (rc > 0)
		rc = vhost_user_answer(&d->c, !is_known, &e);
	if (rc < 0) {
		lose(d, e.text);
		return;
	}
	if (!is_known)
		return;
	set_deadline(d, HANDSHAKE_NS);
	rc = refresh_space(d, &e);
	if (rc == -EINVAL && may_log(d)) /* the space itself is not acceptable; the connection is well */
		log_warn(&d->v.log, "the backend's new configuration is not taken over: %s", e.text);
	else if (rc < 0 && rc != -EINVAL)
		lose(d, e.text);
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
	set_deadline(d, HAND_OVER_NS); /* all together */
	for (unsigned i = 0; rc >= 0 && i < d->v.n_queues; i++)
		rc = d->queues[i].is_wanted ? hand_over(&d->queues[i], e) : 0;
	return rc;
}

static void on_retry(struct timer *t)
{
	struct vhost_user_device *d = container_of(t, struct vhost_user_device, retry);
	struct err e = { 0 };
	int rc = reconnect(d, &e);
	uint64_t now = clock_now_ns();
	if (rc < 0) {
		bool is_absent = rc == -ENOENT || rc == -ECONNREFUSED;
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

/* --- the class's: on the loop ------------------------------------------------------------------------------------------ */

static void on_call(struct source *s, uint32_t events)
{
	struct vhost_user_queue *q = container_of(s, struct vhost_user_queue, call);
	uint64_t n;
	(void)events;
	if (read(s->fd, &n, sizeof n) != sizeof n || !q->is_running)
		return;
	if (!q->d->is_relayed) {
		virtio_signal_foreign(&q->d->v, q->index);
		return;
	}
	int rc = vhost_user_relay_give_back(&q->relay);
	virtio_signal(&q->d->v, q->index);
	if (rc < 0)
		lose(q->d, "it gives back requests that it does not have");
}

void vhost_user_device_kick(struct virtio_device *v, unsigned queue)
{
	struct vhost_user_device *d = vhost_user_device_of(v);
	struct vhost_user_queue *q = &d->queues[queue];
	assert(d->is_relayed);
	if (vhost_user_relay_take(&q->relay, d->scratch) && q->is_running)
		raise_event(q->kick_fd);
}

int vhost_user_device_start(struct virtio_device *v, unsigned queue, struct err *e)
{
	struct vhost_user_device *d = vhost_user_device_of(v);
	struct vhost_user_queue *q = &d->queues[queue];
	struct err why = { 0 };
	int rc = loop_add(v->io_loop, &q->call, q->call_fd, EPOLLIN, on_call, e);
	if (rc < 0)
		return rc;
	q->is_wanted = true;
	set_deadline(d, HAND_OVER_NS);
	if (d->c.fd >= 0 && hand_over(q, &why) < 0)
		lose(d, why.text); /* the driver's device is well, it only has to wait */
	return 0;
}

static bool is_drained(const struct vhost_user_queue *q, uint16_t base)
{
	return q->d->is_relayed ? vhost_user_relay_is_drained(&q->relay, base) : used_index(q) == base;
}

static int take_back(struct vhost_user_queue *q, struct err *e)
{
	struct vhost_user_device *d = q->d;
	set_deadline(d, STOP_NS);
	int rc = vhost_user_stop_ring(&d->c, q->index, &q->base, e);
	if (rc < 0)
		return rc;
	while (!is_drained(q, q->base)) {
		if (clock_now_ns() >= d->c.deadline_ns)
			return err_set(e, ETIMEDOUT, "queue %u: it does not finish what it has begun", q->index);
		nap(LOOK_AGAIN_NS);
	}
	q->has_base = true;
	if (d->is_relayed && vhost_user_relay_give_back(&q->relay) < 0)
		return err_set(e, EPROTO, "queue %u: it gives back requests that it does not have", q->index);
	return 0;
}

void vhost_user_device_stop(struct virtio_device *v, unsigned queue)
{
	struct vhost_user_device *d = vhost_user_device_of(v);
	struct vhost_user_queue *q = &d->queues[queue];
	struct err e = { 0 };
	loop_remove(&q->call);
	q->is_wanted = false;
	if (!q->is_running)
		return;
	uint64_t start = clock_now_ns();
	if (take_back(q, &e) < 0) {
		lose(d, e.text);
		return;
	}
	q->is_running = false;
	if (clock_now_ns() - start > SLOW_STOP_NS)
		lose(d, "it takes long to stop a queue, and we do not wait like that for each");
	/* What was done last may not have been called for: the backend's descriptor is gone by then. */
	if (d->is_relayed)
		virtio_signal(v, queue);
	else
		virtio_signal_foreign(v, queue);
}

static int reset_on_loop(void *arg)
{
	struct vhost_user_device *d = arg;
	for (unsigned i = 0; i < d->v.n_queues; i++) {
		struct vhost_user_queue *q = &d->queues[i];
		uint64_t n;
		assert(!q->is_wanted && !q->is_running);
		q->has_run = q->has_base = false;
		if (d->is_relayed)
			vhost_user_relay_forget(&q->relay);
		(void)!read(q->call_fd, &n, sizeof n); /* a call for the old life */
		(void)!read(q->kick_fd, &n, sizeof n);
	}
	free_rings(d);
	fd_close(&d->inflight.fd);
	d->is_set_up = false;
	(void)pthread_mutex_lock(&d->v.lock);
	d->n_written = 0;
	(void)pthread_mutex_unlock(&d->v.lock);
	return 0;
}

void vhost_user_device_reset(struct virtio_device *v)
{
	struct vhost_user_device *d = vhost_user_device_of(v);
	(void)loop_call(d->thread.loop, reset_on_loop, d);
}

static void on_space_written(struct loop_message *m)
{
	struct vhost_user_device *d = container_of(m, struct vhost_user_device, write_space);
	uint8_t bytes[VHOST_USER_MAX_WRITE];
	struct err e = { 0 };
	(void)pthread_mutex_lock(&d->v.lock);
	unsigned offset = d->written_offset, n_bytes = d->n_written;
	memcpy(bytes, d->written, sizeof bytes);
	(void)pthread_mutex_unlock(&d->v.lock);
	if (n_bytes == 0 || d->c.fd < 0)
		return; /* a reconnection tells it */
	set_deadline(d, HANDSHAKE_NS);
	if (vhost_user_set_config(&d->c, offset, bytes, n_bytes, &e) < 0)
		lose(d, e.text);
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
		nap(FIRST_RETRY_NS);
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
		struct vhost_user_queue *q = &d->queues[i];
		q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->kick_fd < 0 || q->call_fd < 0)
			return err_set_errno(e, errno, "%s: cannot make an event descriptor", v->id);
		int rc = vhost_user_relay_init(&q->relay, v, i, e);
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
	if (watch(d, &e) < 0)
		lose(d, e.text);
	return 0;
}

static void offer_features(struct vhost_user_device *d)
{
	uint64_t rings = RING_FEATURES & d->c.features;
	d->is_relayed = !(d->c.protocol_features & VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
	d->v.has_foreign_rings = !d->is_relayed;
	d->needed = rings | (d->kind->features & d->c.features);
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
	for (unsigned i = 0; d->queues && i < v->n_queues; i++) {
		fd_close(&d->queues[i].kick_fd);
		fd_close(&d->queues[i].call_fd);
		vhost_user_relay_done(&d->queues[i].relay);
	}
	fd_close(&d->inflight.fd);
	free(ptr_take(d->queues));
	free(ptr_take(d->scratch));
	free(ptr_take(d->socket));
}

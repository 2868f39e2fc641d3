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
 * need more: they wait until the used index has come to the base, and no longer: a guest may write there, too.
 *
 * Interrupts pass through the loop in both cases: the backend's event descriptor is read here, and the transport does what
 * the vector's mask asks for. */
#include "device/vhost_user_impl.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/shared_event.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define STOP_NS (10 * NS_PER_S) /* slow storage may need some of it */
#define LOOK_AGAIN_MS 1

#define RING_IDX 2u

static uint64_t address_of(struct span s)
{
	return (uint64_t)(uintptr_t)s.host;
}

/* --- memory ----------------------------------------------------------------------------------------------------------- */

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

/* --- rings ------------------------------------------------------------------------------------------------------------ */

static uint16_t used_index(const struct vhost_user_queue *q)
{
	return span_load_le16(q->d->v.queues[q->index].used, RING_IDX);
}

static void on_call(struct source *s, uint32_t events);

static void close_events(struct vhost_user_queue *q)
{
	loop_remove(&q->call);
	fd_close(&q->call_fd);
	fd_close(&q->kick_fd);
}

/* Fresh ones each time, as memory: a process that was a backend once would take kicks from the one that is.
 * Not yet so for kicks of the driver's own rings: theirs is the ioeventfd, which each backend gets in turn. */
static int open_events(struct vhost_user_queue *q, struct err *e)
{
	struct vhost_user_device *d = q->d;
	close_events(q);
	q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->is_relayed)
		q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->call_fd < 0 || (d->is_relayed && q->kick_fd < 0))
		return err_set_errno(e, errno, "cannot make an event descriptor");
	return loop_add(d->thread.loop, &q->call, q->call_fd, EPOLLIN, on_call, e);
}

static int start_ring(struct vhost_user_queue *q, struct err *e)
{
	struct vhost_user_device *d = q->d;
	const struct queue *vq = &d->v.queues[q->index];
	int rc = open_events(q, e);
	if (rc < 0)
		return rc;
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
	rc = vhost_user_start_ring(&d->c, &r, e);
	if (rc < 0)
		return rc;
	/* There may be chains of before, and the last backend may have worked on while we had given it up. */
	shared_event_raise(r.kick_fd);
	if (q->has_run && !d->is_relayed)
		virtio_signal_foreign(&d->v, q->index);
	q->is_running = q->has_run = true;
	q->has_base = false;
	return 0;
}

int vhost_user_hand_over(struct vhost_user_queue *q, struct err *e)
{
	int rc = q->d->is_set_up ? 0 : set_up(q->d, e);
	return rc < 0 ? rc : start_ring(q, e);
}

void vhost_user_drop_rings(struct vhost_user_device *d)
{
	for (unsigned i = 0; i < d->v.n_queues; i++) {
		struct vhost_user_queue *q = &d->queues[i];
		if (q->is_running && d->is_relayed) {
			(void)vhost_user_relay_give_back(&q->relay);
			virtio_signal(&d->v, i);
		} else if (q->is_running) { /* it may have died between its work and its call */
			virtio_signal_foreign(&d->v, i);
		}
		q->is_running = false;
		close_events(q);
	}
	free_rings(d);
	d->is_set_up = false;
}

/* --- the class's: on the loop ------------------------------------------------------------------------------------------ */

static void on_call(struct source *s, uint32_t events)
{
	struct vhost_user_queue *q = container_of(s, struct vhost_user_queue, call);
	(void)events;
	if (!shared_event_take(s->fd) || !q->is_running)
		return;
	if (!q->d->is_relayed) {
		virtio_signal_foreign(&q->d->v, q->index);
		return;
	}
	int rc = vhost_user_relay_give_back(&q->relay);
	virtio_signal(&q->d->v, q->index);
	if (rc < 0)
		vhost_user_lose(q->d, "it gives back requests that it does not have");
}

void vhost_user_device_kick(struct virtio_device *v, unsigned queue)
{
	struct vhost_user_device *d = vhost_user_device_of(v);
	struct vhost_user_queue *q = &d->queues[queue];
	assert(d->is_relayed);
	if (vhost_user_relay_take(&q->relay, d->scratch) && q->is_running)
		shared_event_raise(q->kick_fd);
}

/* Each queue of a transition may wait for what the ones before it have left: whoever waits for all of them does so for no
 * longer than for one. Queues are started all, then stopped all. */
static uint64_t begin_wait(struct vhost_user_device *d, bool is_stopping, uint64_t budget_ns)
{
	if (d->is_stopping != is_stopping)
		d->transition_waited_ns = 0;
	d->is_stopping = is_stopping;
	vhost_user_set_deadline(d, budget_ns - min_u64(budget_ns, d->transition_waited_ns));
	return clock_now_ns();
}

static void end_wait(struct vhost_user_device *d, uint64_t began_ns)
{
	d->transition_waited_ns += clock_now_ns() - began_ns;
}

int vhost_user_device_start(struct virtio_device *v, unsigned queue, struct err *e)
{
	struct vhost_user_device *d = vhost_user_device_of(v);
	struct vhost_user_queue *q = &d->queues[queue];
	struct err why = { 0 };
	(void)e;
	q->is_wanted = true;
	uint64_t start = begin_wait(d, false, VHOST_USER_HAND_OVER_NS);
	if (d->c.fd >= 0 && vhost_user_hand_over(q, &why) < 0)
		vhost_user_lose(d, why.text); /* the driver's device is well, it only has to wait */
	end_wait(d, start);
	return 0;
}

static bool is_drained(const struct vhost_user_queue *q, uint16_t base)
{
	return q->d->is_relayed ? vhost_user_relay_is_drained(&q->relay, base) : used_index(q) == base;
}

static int take_back(struct vhost_user_queue *q, struct err *e)
{
	struct vhost_user_device *d = q->d;
	int rc = vhost_user_stop_ring(&d->c, q->index, &q->base, e);
	if (rc < 0)
		return rc;
	while (!is_drained(q, q->base)) {
		if (clock_now_ns() >= d->c.deadline_ns)
			return err_set(e, ETIMEDOUT, "queue %u: it does not finish what it has begun", q->index);
		struct pollfd p = { .fd = d->c.fd, .events = POLLRDHUP };
		if (poll(&p, 1, LOOK_AGAIN_MS) > 0)
			return err_set(e, EPIPE, "queue %u: it ends before it has finished what it has begun", q->index);
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
	q->is_wanted = false;
	uint64_t start = begin_wait(d, true, STOP_NS);
	if (!q->is_running)
		return;
	int rc = take_back(q, &e);
	end_wait(d, start);
	if (rc < 0) {
		vhost_user_lose(d, e.text);
		return;
	}
	q->is_running = false;
	close_events(q);
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
		assert(!q->is_wanted && !q->is_running);
		q->has_run = q->has_base = false;
		if (d->is_relayed)
			vhost_user_relay_forget(&q->relay);
	}
	free_rings(d);
	fd_close(&d->inflight.fd);
	/* Regions that do not fit a table are said once a connection. */
	if (d->is_set_up && d->v.mem->n_regions + d->is_relayed > VHOST_USER_MAX_TABLE)
		vhost_user_lose(d, "it is left, to learn of the memory anew");
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

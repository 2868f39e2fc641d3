/* SPDX-License-Identifier: Apache-2.0 */
/* The device side that is the same for all: status, features, queue configuration, configuration space, and the way
 * from a kick to a class's kick(). virtio 1.2, 2.1 to 2.6 and 3.1.
 *
 * Who may touch what: `lock` guards the registers; `transition` is held by the vCPU (or main) thread that starts, stops
 * or resets, while it waits for the queues' loops; a started queue is its loop's. Queue configuration and acked features
 * do not change while queues are started, which is why loops read them without the lock. */
#include "virtio/virtio.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/shared_event.h"
#include "base/host_cpus.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* --- build and take down -------------------------------------------------------------------------------------------- */

static int new_queues(struct virtio_device *v, struct err *e)
{
	assert(v->n_queues >= 1 && v->n_queues <= VIRTIO_MAX_QUEUES);
	v->queues = calloc(v->n_queues, sizeof *v->queues);
	v->slots = calloc(v->n_queues, sizeof *v->slots);
	for (unsigned i = 0; v->slots && i < v->n_queues; i++)
		v->slots[i].kick_fd = -1;
	if (!v->queues || !v->slots)
		return err_set(e, ENOMEM, "%s: no memory", v->id);

	for (unsigned i = 0; i < v->n_queues; i++) {
		struct virtio_queue_slot *s = &v->slots[i];
		s->v = v;
		s->index = i;
		int rc = queue_init(&v->queues[i], v->queue_size, e);
		if (rc < 0)
			return rc;
		v->queues[i].config.size = (uint16_t)v->queue_size;
		s->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (s->kick_fd < 0)
			return err_set_errno(e, errno, "%s: cannot make an event descriptor", v->id);
	}
	return 0;
}

static int set_queue_cpus(struct virtio_device *v, const struct virtio_queue_cpus *list, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		if (list[i].queue >= v->n_queues) {
			log_warn(&v->log, "CPUs are given for queue %u: there are %u queues", list[i].queue, v->n_queues);
			continue;
		}
		struct virtio_queue_slot *s = &v->slots[list[i].queue];
		host_cpus_free(ptr_take(s->cpus));
		int rc = host_cpus_new(list[i].cpus, list[i].n_cpus, &s->cpus, e);
		if (rc < 0) {
			err_prefix(e, "%s: queue %u: ", v->id, s->index);
			return rc;
		}
	}
	return 0;
}

int virtio_device_new(const struct virtio_class *cls, const struct virtio_params *p, const void *params,
                      struct virtio_device **ret_v, struct err *e)
{
	assert(cls->size >= sizeof(struct virtio_device) && cls->n_space_bytes <= VIRTIO_MAX_SPACE_BYTES);
	if (p->queue_size && (!is_power_of_two(p->queue_size) || p->queue_size < 2 || p->queue_size > QUEUE_MAX_SIZE))
		return err_set(e, EINVAL, "%s: queue_size %u is not a power of two from 2 to %u", p->id, p->queue_size,
		               QUEUE_MAX_SIZE);

	struct virtio_device *v = calloc(1, cls->size);
	char *id = strdup(p->id);
	if (!v || !id) {
		free(v);
		free(id);
		return err_set(e, ENOMEM, "%s: no memory", p->id);
	}
	v->cls = cls;
	v->id = id;
	v->log = (struct log){ .sink = p->log_sink, .object = v->id };
	v->mem = p->mem;
	v->io_loop = p->io_loop;
	v->changed = p->changed;
	v->context = p->context;
	v->n_queues = cls->n_queues;
	v->queue_size = p->queue_size ? p->queue_size : cls->queue_size;
	v->offered = cls->features | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC;
	(void)pthread_mutex_init(&v->lock, NULL);
	(void)pthread_mutex_init(&v->transition, NULL);

	int rc = cls->open ? cls->open(v, params, e) : 0;
	if (rc >= 0)
		rc = new_queues(v, e);
	if (rc >= 0)
		rc = set_queue_cpus(v, p->queue_cpus, p->n_queue_cpus, e);
	if (rc < 0) {
		virtio_device_free(v);
		return rc;
	}
	*ret_v = v;
	return 0;
}

void virtio_device_free(struct virtio_device *v)
{
	if (!v)
		return;
	if (v->is_started)
		virtio_device_reset(v);
	if (v->cls->close)
		v->cls->close(v);
	for (unsigned i = 0; v->slots && i < v->n_queues; i++) {
		fd_close(&v->slots[i].kick_fd);
		host_cpus_free(v->slots[i].cpus);
	}
	for (unsigned i = 0; v->queues && i < v->n_queues; i++)
		queue_done(&v->queues[i]);
	(void)pthread_mutex_destroy(&v->transition);
	(void)pthread_mutex_destroy(&v->lock);
	free(v->slots);
	free(v->queues);
	free(v->id);
	free(v);
}

struct bind_call {
	struct virtio_device *v;
	const struct virtio_transport_ops *ops;
	void *transport;
};

static int bind_on_loop(void *arg)
{
	const struct bind_call *c = arg;
	c->v->ops = c->ops;
	c->v->transport = c->transport;
	return 0;
}

void virtio_bind_transport(struct virtio_device *v, const struct virtio_transport_ops *ops, void *transport)
{
	/* On the shared loop, where backends tell of new sizes at any moment (virtio_space_update()). */
	struct bind_call c = { .v = v, .ops = ops, .transport = transport };
	(void)loop_call(v->io_loop, bind_on_loop, &c);
}

/* --- from a kick to the class, on the queue's loop ------------------------------------------------------------------ */

static void run_again(struct loop_message *m);

static void run_queue(struct virtio_queue_slot *s)
{
	struct virtio_device *v = s->v;
	struct queue *q = &v->queues[s->index];
	if (!q->is_started || q->fault != QUEUE_OK || s->is_paused || v->has_foreign_rings)
		return;

	queue_quiet(q);
	queue_begin(q);
	v->cls->kick(v, s->index);
	virtio_signal(v, s->index);
	bool has_more = queue_end(q);
	if (q->fault != QUEUE_OK)
		virtio_needs_reset(v, s->index, q->fault);
	else if (has_more)
		loop_post(s->loop, &s->again, run_again); /* other sources of the loop get their turn first (D17) */
}

static void run_again(struct loop_message *m)
{
	run_queue(container_of(m, struct virtio_queue_slot, again));
}

static void on_kick(struct source *source, uint32_t events)
{
	struct virtio_queue_slot *s = container_of(source, struct virtio_queue_slot, kick_source);
	(void)events;
	run_queue(s);
}

void virtio_signal(struct virtio_device *v, unsigned queue)
{
	if (queue_wants_signal(&v->queues[queue]) && v->ops)
		v->ops->signal_queue(v->transport, queue);
}

void virtio_signal_foreign(struct virtio_device *v, unsigned queue)
{
	assert(v->has_foreign_rings);
	if (v->ops)
		v->ops->signal_queue(v->transport, queue);
}

void virtio_kick_again(struct virtio_device *v, unsigned queue)
{
	struct virtio_queue_slot *s = &v->slots[queue];
	if (s->loop)
		loop_post(s->loop, &s->again, run_again);
}

void virtio_needs_reset(struct virtio_device *v, unsigned queue, enum queue_fault why)
{
	queue_break(&v->queues[queue], why);
	guest_warn(&v->log, &v->guest_limit, "queue %u: %s; the device needs a reset", queue, queue_fault_name(why));

	(void)pthread_mutex_lock(&v->lock);
	bool is_new = !(v->status & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
	v->status |= VIRTIO_STATUS_DEVICE_NEEDS_RESET;
	atomic_fetch_add(&v->config_generation, 1);
	(void)pthread_mutex_unlock(&v->lock);
	if (is_new && v->ops)
		v->ops->signal_config(v->transport);
}

/* --- start, stop, reset: a vCPU or the main thread waits, under `transition` ----------------------------------------- */

struct start_call {
	struct virtio_queue_slot *slot;
	struct err err;
};

static int start_on_loop(void *arg)
{
	struct start_call *c = arg;
	struct virtio_queue_slot *s = c->slot;
	struct virtio_device *v = s->v;

	int rc = queue_start(&v->queues[s->index], v->mem, v->acked, &c->err);
	if (rc < 0)
		return rc;
	if (v->cls->start)
		rc = v->cls->start(v, s->index, &c->err);
	/* By edges, each kick being one: the counter need not be read. */
	if (rc >= 0 && !v->has_foreign_rings)
		rc = loop_add(s->loop, &s->kick_source, s->kick_fd, EPOLLIN | EPOLLET, on_kick, &c->err);
	if (rc < 0) {
		if (v->cls->stop)
			v->cls->stop(v, s->index);
		queue_stop(&v->queues[s->index]);
		return rc;
	}
	/* The driver may have put chains in before DRIVER_OK. */
	loop_post(s->loop, &s->again, run_again);
	return 0;
}

static int stop_on_loop(void *arg)
{
	struct virtio_queue_slot *s = arg;
	struct virtio_device *v = s->v;
	loop_remove(&s->kick_source);
	if (v->cls->stop && !s->is_paused)
		v->cls->stop(v, s->index);
	s->is_paused = false;
	queue_stop(&v->queues[s->index]);
	return 0;
}

/* Before the thread makes others: those of an image's engine are bound with it. A host that lacks these CPUs, or takes them
 * away, has a guest that runs on others. */
static void bind_queue(struct virtio_queue_slot *s)
{
	struct virtio_device *v = s->v;
	int rc = s->cpus ? host_cpus_bind(s->cpus, s->thread.thread) : 0;
	if (rc < 0 && v->log.sink && log_limit_pass(&v->log, &v->guest_limit))
		log_error(&v->log, "queue %u is not on the CPUs that it was given: %s", s->index, strerrordesc_np(-rc));
}

static int start_queue(struct virtio_queue_slot *s, struct err *e)
{
	struct virtio_device *v = s->v;
	s->loop = v->io_loop;
	if (v->cls->has_queue_threads) {
		char name[48];
		(void)snprintf(name, sizeof name, "%s_q%u", v->id, s->index);
		int rc = loop_thread_start(&s->thread, name, e);
		if (rc < 0) {
			s->loop = NULL;
			return rc;
		}
		s->loop = s->thread.loop;
		bind_queue(s);
	}
	struct start_call c = { .slot = s };
	int rc = loop_call(s->loop, start_on_loop, &c);
	if (rc < 0) {
		if (e)
			*e = c.err;
		loop_thread_stop(&s->thread);
		s->loop = NULL;
	}
	return rc;
}

static void stop_queues(struct virtio_device *v)
{
	for (unsigned i = 0; i < v->n_queues; i++) {
		struct virtio_queue_slot *s = &v->slots[i];
		if (!s->loop)
			continue;
		(void)loop_call(s->loop, stop_on_loop, s);
		loop_flush(s->loop); /* `again` may be pending */
		loop_thread_stop(&s->thread);
		s->loop = NULL;
		(void)shared_event_take(s->kick_fd); /* a kick for the old life */
	}
	v->is_started = v->is_paused = false;
}

static void start_queues(struct virtio_device *v)
{
	struct err e = { 0 };
	v->is_started = true;
	for (unsigned i = 0; i < v->n_queues; i++) {
		if (!v->queues[i].config.is_ready)
			continue;
		if (start_queue(&v->slots[i], &e) < 0) {
			/* What it was is in the text; the driver sees that the device is not well. */
			guest_warn(&v->log, &v->guest_limit, "queue %u cannot start: %s", i, e.text);
			virtio_needs_reset(v, i, v->queues[i].fault != QUEUE_OK ? v->queues[i].fault : QUEUE_DEVICE_RULE);
		}
	}
}

static int pause_on_loop(void *arg)
{
	struct virtio_queue_slot *s = arg;
	struct virtio_device *v = s->v;
	if (v->cls->stop)
		v->cls->stop(v, s->index);
	s->is_paused = true; /* the ring keeps its place; kicks are dropped until resume looks for itself */
	return 0;
}

static int resume_on_loop(void *arg)
{
	struct start_call *c = arg;
	struct virtio_queue_slot *s = c->slot;
	struct virtio_device *v = s->v;
	int rc = v->cls->start ? v->cls->start(v, s->index, &c->err) : 0;
	if (rc < 0) {
		if (v->cls->stop)
			v->cls->stop(v, s->index);
		return rc; /* it stays paused */
	}
	s->is_paused = false;
	loop_post(s->loop, &s->again, run_again);
	return 0;
}

void virtio_device_pause(struct virtio_device *v)
{
	(void)pthread_mutex_lock(&v->transition);
	for (unsigned i = 0; v->is_started && !v->is_paused && i < v->n_queues; i++) {
		if (v->slots[i].loop)
			(void)loop_call(v->slots[i].loop, pause_on_loop, &v->slots[i]);
	}
	v->is_paused = true;
	(void)pthread_mutex_unlock(&v->transition);
}

void virtio_device_resume(struct virtio_device *v)
{
	(void)pthread_mutex_lock(&v->transition);
	for (unsigned i = 0; v->is_started && v->is_paused && i < v->n_queues; i++) {
		struct start_call c = { .slot = &v->slots[i] };
		if (v->slots[i].loop && loop_call(v->slots[i].loop, resume_on_loop, &c) < 0) {
			log_error(&v->log, "queue %u does not start again: %s", i, c.err.text);
			virtio_needs_reset(v, i, QUEUE_DEVICE_RULE);
		}
	}
	v->is_paused = false;
	(void)pthread_mutex_unlock(&v->transition);
}

static void reset_in_transition(struct virtio_device *v)
{
	if (v->is_started)
		stop_queues(v);
	if (v->cls->reset)
		v->cls->reset(v);
	/* Before status reads 0: a driver that sees it may start again, and its first interrupt is not to be forgotten. */
	if (v->ops && v->ops->reset)
		v->ops->reset(v->transport);

	(void)pthread_mutex_lock(&v->lock);
	for (unsigned i = 0; i < v->n_queues; i++) {
		v->queues[i].config = (struct queue_config){ .size = (uint16_t)v->queue_size };
		v->queues[i].fault = QUEUE_OK;
	}
	v->acked = 0;
	v->status = 0;
	(void)pthread_mutex_unlock(&v->lock);
}

void virtio_device_reset(struct virtio_device *v)
{
	(void)pthread_mutex_lock(&v->transition);
	reset_in_transition(v);
	(void)pthread_mutex_unlock(&v->transition);
}

/* --- registers, on vCPU threads ------------------------------------------------------------------------------------- */

uint32_t virtio_status(struct virtio_device *v)
{
	return v->status;
}

/* 3.1.1: which of the newly set bits hold. Under the lock: what there is to complain of is said after it. */
static uint32_t accept_status(const struct virtio_device *v, uint32_t old, uint32_t wanted, const char **ret_complaint)
{
	uint32_t known = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_FEATURES_OK |
	                 VIRTIO_STATUS_FAILED;
	/* A driver must not clear bits but by reset (2.1.1): old ones stay. */
	uint32_t status = old | (wanted & known);

	if ((status & VIRTIO_STATUS_FEATURES_OK) && !(old & VIRTIO_STATUS_FEATURES_OK)) {
		if ((v->acked & ~v->offered) || !(v->acked & VIRTIO_F_VERSION_1)) {
			*ret_complaint = "features are accepted that were not offered, or VERSION_1 is not";
			status &= ~VIRTIO_STATUS_FEATURES_OK;
		}
	}
	if ((status & VIRTIO_STATUS_DRIVER_OK) && !(old & VIRTIO_STATUS_DRIVER_OK)) {
		bool is_ready = (status & VIRTIO_STATUS_FEATURES_OK) &&
		                !(old & (VIRTIO_STATUS_DEVICE_NEEDS_RESET | VIRTIO_STATUS_FAILED));
		if (!is_ready) {
			*ret_complaint = "DRIVER_OK comes before FEATURES_OK, or while a reset is needed";
			status &= ~VIRTIO_STATUS_DRIVER_OK;
		}
	}
	return status;
}

void virtio_set_status(struct virtio_device *v, uint32_t wanted)
{
	(void)pthread_mutex_lock(&v->transition);
	bool was_active = v->is_started;
	if (wanted == 0) {
		reset_in_transition(v);
	} else {
		const char *complaint = NULL;
		(void)pthread_mutex_lock(&v->lock);
		uint32_t old = v->status, status = accept_status(v, old, wanted, &complaint);
		v->status = status;
		if (status & ~old & VIRTIO_STATUS_DRIVER)
			v->driver_generation = v->config_generation;
		/* Drivers read their configuration before they are ready to be told that it has changed. */
		bool is_outdated = (status & ~old & VIRTIO_STATUS_DRIVER_OK) && v->driver_generation != v->config_generation;
		(void)pthread_mutex_unlock(&v->lock);
		if (complaint)
			guest_warn(&v->log, &v->guest_limit, "status 0x%x, then 0x%x: %s", old, wanted, complaint);
		if (status & ~old & VIRTIO_STATUS_DRIVER_OK)
			start_queues(v);
		if (is_outdated && v->ops)
			v->ops->signal_config(v->transport);
	}
	bool is_active = v->is_started;
	(void)pthread_mutex_unlock(&v->transition);
	if (v->changed && is_active != was_active)
		v->changed(v->context, v, is_active);
}

uint32_t virtio_features(struct virtio_device *v, unsigned word)
{
	return word < 2 ? (uint32_t)(v->offered >> (32 * word)) : 0;
}

void virtio_ack_features(struct virtio_device *v, unsigned word, uint32_t bits)
{
	(void)pthread_mutex_lock(&v->lock);
	bool is_late = (v->status & VIRTIO_STATUS_FEATURES_OK) != 0;
	if (!is_late && word < 2)
		v->acked = (v->acked & ~(0xffffffffull << (32 * word))) | (uint64_t)bits << (32 * word);
	(void)pthread_mutex_unlock(&v->lock);
	if (is_late)
		guest_warn(&v->log, &v->guest_limit, "features are written after FEATURES_OK");
	else if (word >= 2 && bits)
		guest_warn(&v->log, &v->guest_limit, "features above bit 63 are written");
}

uint32_t virtio_acked_features(struct virtio_device *v, unsigned word)
{
	(void)pthread_mutex_lock(&v->lock);
	uint32_t bits = word < 2 ? (uint32_t)(v->acked >> (32 * word)) : 0;
	(void)pthread_mutex_unlock(&v->lock);
	return bits;
}

struct queue_config virtio_queue_config(struct virtio_device *v, unsigned queue, unsigned *ret_max_size)
{
	struct queue_config c = { 0 };
	unsigned max_size = 0;
	if (queue < v->n_queues) {
		(void)pthread_mutex_lock(&v->lock);
		c = v->queues[queue].config;
		max_size = v->queues[queue].max_size;
		(void)pthread_mutex_unlock(&v->lock);
	}
	if (ret_max_size)
		*ret_max_size = max_size;
	return c;
}

static void set_low(uint64_t *v, uint32_t low)
{
	*v = (*v & ~(uint64_t)UINT32_MAX) | low;
}

static void set_high(uint64_t *v, uint32_t high)
{
	*v = (*v & UINT32_MAX) | (uint64_t)high << 32;
}

static bool set_field(struct queue_config *c, unsigned max_size, enum virtio_queue_field field, uint32_t value)
{
	switch (field) {
	case VIRTIO_QUEUE_SIZE: /* 2.7: a power of two; 4.1.4.3.2, 4.2.2.2: no more than the device offers */
		if (!is_power_of_two(value) || value > max_size)
			return false;
		c->size = (uint16_t)value;
		return true;
	case VIRTIO_QUEUE_READY:
		if (value > 1)
			return false;
		c->is_ready = value == 1;
		return true;
	case VIRTIO_QUEUE_DESC_LOW:
		set_low(&c->desc, value);
		return true;
	case VIRTIO_QUEUE_DESC_HIGH:
		set_high(&c->desc, value);
		return true;
	case VIRTIO_QUEUE_AVAIL_LOW:
		set_low(&c->avail, value);
		return true;
	case VIRTIO_QUEUE_AVAIL_HIGH:
		set_high(&c->avail, value);
		return true;
	case VIRTIO_QUEUE_USED_LOW:
		set_low(&c->used, value);
		return true;
	case VIRTIO_QUEUE_USED_HIGH:
		set_high(&c->used, value);
		return true;
	case VIRTIO_QUEUE_NO_FIELD:
		break;
	}
	return false;
}

bool virtio_change_queue(struct virtio_device *v, unsigned queue, enum virtio_queue_field field, uint32_t value)
{
	if (queue >= v->n_queues)
		return false;
	struct queue *q = &v->queues[queue];
	(void)pthread_mutex_lock(&v->lock);
	/* Frozen at DRIVER_OK (M5): from there the loops read the configuration without the lock. */
	bool is_accepted = !(v->status & VIRTIO_STATUS_DRIVER_OK) && set_field(&q->config, q->max_size, field, value);
	(void)pthread_mutex_unlock(&v->lock);
	return is_accepted;
}

/* 2.5: whole accesses inside the space; anything else reads zeroes and writes nothing. */
static bool is_in_space(const struct virtio_device *v, uint64_t offset, unsigned n_bytes)
{
	return offset < v->cls->n_space_bytes && n_bytes <= v->cls->n_space_bytes - offset;
}

void virtio_space_read(struct virtio_device *v, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	memset(ret_bytes, 0, n_bytes);
	if (!is_in_space(v, offset, n_bytes))
		return;
	(void)pthread_mutex_lock(&v->lock);
	if (v->cls->space_read)
		v->cls->space_read(v, (unsigned)offset, ret_bytes, n_bytes);
	else
		memcpy(ret_bytes, v->space + offset, n_bytes);
	(void)pthread_mutex_unlock(&v->lock);
}

void virtio_space_write(struct virtio_device *v, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	bool is_accepted = false;
	if (v->cls->space_write && is_in_space(v, offset, n_bytes)) {
		(void)pthread_mutex_lock(&v->lock);
		is_accepted = v->cls->space_write(v, (unsigned)offset, bytes, n_bytes);
		(void)pthread_mutex_unlock(&v->lock);
	}
	if (!is_accepted)
		guest_warn(&v->log, &v->guest_limit, "%u bytes of configuration space are written at 0x%llx", n_bytes,
		           (unsigned long long)offset);
}

bool virtio_space_put(struct virtio_device *v, unsigned offset, const void *bytes, unsigned n_bytes)
{
	assert(is_in_space(v, offset, n_bytes));
	memcpy(v->space + offset, bytes, n_bytes);
	atomic_fetch_add(&v->config_generation, 1);
	return (v->status & VIRTIO_STATUS_DRIVER_OK) != 0;
}

void virtio_signal_config(struct virtio_device *v)
{
	if (v->ops)
		v->ops->signal_config(v->transport);
}

void virtio_space_update(struct virtio_device *v, unsigned offset, const void *bytes, unsigned n_bytes)
{
	(void)pthread_mutex_lock(&v->lock);
	bool is_told = virtio_space_put(v, offset, bytes, n_bytes);
	(void)pthread_mutex_unlock(&v->lock);
	if (is_told)
		virtio_signal_config(v);
}

uint32_t virtio_config_generation(struct virtio_device *v)
{
	return v->config_generation;
}

int virtio_kick_fd(struct virtio_device *v, unsigned queue)
{
	return queue < v->n_queues ? v->slots[queue].kick_fd : -1;
}

void virtio_kick(struct virtio_device *v, unsigned queue)
{
	if (queue >= v->n_queues) {
		guest_warn(&v->log, &v->guest_limit, "queue %u is kicked; there are %u", queue, v->n_queues);
		return;
	}
	shared_event_raise(v->slots[queue].kick_fd);
}

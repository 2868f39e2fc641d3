/* SPDX-License-Identifier: Apache-2.0 */
#include "virtio/kick_events.h"

#include <assert.h>

_Static_assert(VIRTIO_MAX_QUEUES <= 64, "one bit a queue");

void kick_events_init(struct kick_events *k, struct virtio_device *v, struct hv_vm *vm, uint64_t base, unsigned stride_bytes)
{
	*k = (struct kick_events){ .v = v, .vm = vm, .base = base, .stride_bytes = stride_bytes };
	(void)pthread_mutex_init(&k->lock, NULL);
}

static struct hv_ioevent event_of(const struct kick_events *k, unsigned queue)
{
	struct hv_ioevent i = {
		.space = HV_SPACE_MMIO,
		.address = k->base + (uint64_t)queue * k->stride_bytes,
		.event_fd = virtio_kick_fd(k->v, queue),
	};
	if (k->stride_bytes) {
		/* The address says which queue; what is written there says nothing, whatever its width. */
		i.n_bytes = k->bound_narrow >> queue & 1 ? 2 : 0;
	} else {
		i.n_bytes = 4;
		i.has_datamatch = true;
		i.datamatch = queue;
	}
	return i;
}

/* Under the lock. False: the engine refuses it now, and is not asked again before the registers move. */
static bool bind(struct kick_events *k, unsigned queue, struct err *e)
{
	uint64_t bit = 1ull << queue;
	if (!k->vm || !k->base || ((k->bound | k->refused) & bit))
		return true;

	struct hv_ioevent i = event_of(k, queue);
	int rc = hv_vm_ioeventfd(k->vm, &i, e);
	if (rc < 0 && i.n_bytes == 0) {
		k->bound_narrow |= bit;
		i = event_of(k, queue);
		rc = hv_vm_ioeventfd(k->vm, &i, e);
	}
	if (rc == 0)
		k->bound |= bit;
	else
		k->refused |= bit;
	return rc == 0;
}

static void unbind_all(struct kick_events *k)
{
	for (unsigned queue = 0; queue < k->v->n_queues; queue++) {
		struct err e = { 0 };
		struct hv_ioevent i = event_of(k, queue);
		if ((k->bound >> queue & 1) && hv_vm_ioeventfd_unset(k->vm, &i, &e) < 0)
			log_warn(&k->v->log, "queue %u: %s", queue, e.text);
	}
	k->bound = k->refused = k->bound_narrow = 0;
}

void kick_events_done(struct kick_events *k)
{
	if (!k->v)
		return;
	unbind_all(k);
	(void)pthread_mutex_destroy(&k->lock);
	*k = (struct kick_events){ 0 };
}

void kick_events_move(struct kick_events *k, uint64_t new_base)
{
	(void)pthread_mutex_lock(&k->lock);
	unbind_all(k);
	k->base = new_base;
	(void)pthread_mutex_unlock(&k->lock);
}

void kick_events_slow(struct kick_events *k, unsigned queue)
{
	if (queue < k->v->n_queues) {
		struct err e = { 0 };
		(void)pthread_mutex_lock(&k->lock);
		bool is_bound = bind(k, queue, &e);
		(void)pthread_mutex_unlock(&k->lock);
		if (!is_bound)
			guest_warn(&k->v->log, &k->v->guest_limit, "queue %u is kicked the slow way: %s", queue, e.text);
	}
	virtio_kick(k->v, queue); /* says so when there is no such queue */
}

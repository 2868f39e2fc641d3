/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/vcpu.h"

#include "base/checked.h"
#include "base/text.h"
#include "base/thread.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int vcpus_init(struct vcpus *s, const struct vcpus_params *p, struct err *e)
{
	memset(s, 0, sizeof *s);
	s->p = *p;
	s->order = VCPU_PAUSE;
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_cond_init(&s->changed, NULL);
	s->all = calloc(p->n, sizeof *s->all);
	if (!s->all)
		return err_set(e, ENOMEM, "no memory for %u vCPUs", p->n);

	for (unsigned i = 0; i < p->n; i++) {
		struct vcpu *c = &s->all[i];
		c->set = s;
		c->index = i;
		(void)snprintf(c->name, sizeof c->name, "vcpu%u", i);
		c->log = (struct log){ .sink = p->log->sink, .object = c->name };
		int rc = hv_vcpu_new(p->vm, p->engine_ids[i], &c->hv, e);
		if (rc < 0)
			return rc;
	}
	return 0;
}

void vcpus_done(struct vcpus *s)
{
	if (!s->p.vm)
		return;
	vcpus_stop(s);
	for (unsigned i = 0; s->all && i < s->p.n; i++)
		hv_vcpu_free(s->all[i].hv);
	free(s->all);
	(void)pthread_cond_destroy(&s->changed);
	(void)pthread_mutex_destroy(&s->lock);
	memset(s, 0, sizeof *s);
}

/* --- on a vCPU's thread ------------------------------------------------------------------------------------------- */

/* Waits while the order is not to run; with may_resume false, until it is to stop. */
static enum vcpu_order park(struct vcpus *s, bool may_resume)
{
	(void)pthread_mutex_lock(&s->lock);
	s->n_parked++;
	(void)pthread_cond_broadcast(&s->changed);
	while (s->order == VCPU_PAUSE || (s->order == VCPU_RUN && !may_resume))
		(void)pthread_cond_wait(&s->changed, &s->lock);
	s->n_parked--;
	enum vcpu_order order = (enum vcpu_order)s->order;
	(void)pthread_mutex_unlock(&s->lock);
	return order;
}

static void handle_port(struct vcpus *s, const struct hv_exit *x)
{
	for (uint32_t i = 0; i < x->n_repeat; i++) {
		uint8_t *data = x->data + (size_t)i * x->n_bytes;
		if (x->is_write)
			(void)bus_write(s->p.ports, x->address, data, x->n_bytes);
		else
			(void)bus_read(s->p.ports, x->address, data, x->n_bytes);
	}
}

static void handle_mmio(struct vcpu *c, const struct hv_exit *x)
{
	bool is_known = x->is_write ? bus_write(c->set->p.mmio, x->address, x->data, x->n_bytes)
	                            : bus_read(c->set->p.mmio, x->address, x->data, x->n_bytes);
	if (!is_known)
		guest_warn(&c->log, &c->guest_limit, "%s of %u bytes at 0x%llx, where nothing is", x->is_write ? "write" : "read",
		           x->n_bytes, (unsigned long long)x->address);
}

void vcpus_end(struct vcpus *s)
{
	if (atomic_exchange(&s->is_over, true))
		return;
	for (unsigned i = 0; i < s->p.n; i++)
		hv_vcpu_kick(s->all[i].hv);
}

static void tell(struct vcpu *c, enum vcpu_event what, const char *report)
{
	vcpus_end(c->set);
	c->set->p.event(c->set->p.context, what, report);
}

static void tell_failed(struct vcpu *c, int code)
{
	text_scoped t = TEXT_INIT;
	text_appendf(&t, "%s cannot go on", c->name);
	if (code < 0) {
		char reason[128];
		text_appendf(&t, ": %s", strerror_r(-code, reason, sizeof reason));
	}
	text_append(&t, "\n");
	hv_vcpu_report(c->hv, c->set->p.mem, &t);
	tell(c, VCPU_FAILED, text_get(&t));
}

static void tell_triple_fault(struct vcpu *c)
{
	text_scoped t = TEXT_INIT;
	hv_vcpu_report(c->hv, c->set->p.mem, &t);
	tell(c, VCPU_TRIPLE_FAULT, text_get(&t));
}

static void handle_exit(struct vcpu *c, const struct hv_exit *x)
{
	switch (x->kind) {
	case HV_EXIT_PORT:
		handle_port(c->set, x);
		return;
	case HV_EXIT_MMIO:
		handle_mmio(c, x);
		return;
	case HV_EXIT_EOI:
		if (c->set->p.end_of_interrupt)
			c->set->p.end_of_interrupt(c->set->p.interrupts, x->vector);
		return;
	case HV_EXIT_NONE:
	case HV_EXIT_KICKED:
	case HV_EXIT_HALT:
		return;
	case HV_EXIT_TRIPLE_FAULT:
		tell_triple_fault(c);
		return;
	case HV_EXIT_RESET:
		tell(c, VCPU_RESET, NULL);
		return;
	case HV_EXIT_POWEROFF:
		tell(c, VCPU_POWEROFF, NULL);
		return;
	case HV_EXIT_CRASH:
		tell(c, VCPU_CRASHED, NULL);
		return;
	case HV_EXIT_DEBUG:
	case HV_EXIT_FAILED:
		break;
	}
	tell_failed(c, 0);
}

static void run_guest(struct vcpu *c)
{
	struct vcpus *s = c->set;
	for (;;) {
		if (atomic_load_explicit(&s->is_over, memory_order_acquire)) {
			(void)park(s, false);
			return;
		}
		if (atomic_load_explicit(&s->order, memory_order_acquire) != VCPU_RUN) {
			/* A port or MMIO access that was dispatched is completed, so that state can be looked at. */
			(void)hv_vcpu_complete(c->hv);
			if (park(s, true) == VCPU_STOP)
				return;
			continue;
		}
		struct hv_exit x;
		int rc = hv_vcpu_run(c->hv, &x);
		if (rc < 0)
			tell_failed(c, rc);
		else
			handle_exit(c, &x);
	}
}

static void *thread_main(void *arg)
{
	struct vcpu *c = arg;
	struct err e = { 0 };
	if (hv_vcpu_attach_thread(c->hv, &e) < 0) {
		tell(c, VCPU_FAILED, e.text);
		(void)park(c->set, false);
	} else {
		run_guest(c);
	}
	return NULL;
}

/* --- on the main thread --------------------------------------------------------------------------------------------- */

static int start_thread(struct vcpu *c, struct err *e)
{
	int rc = thread_start(&c->thread, c->name, THREAD_STACK_BYTES, thread_main, c, e);
	if (rc < 0)
		return rc;
	c->has_thread = true;
	c->set->n_threads++;
	return 0;
}

static void set_order(struct vcpus *s, enum vcpu_order order)
{
	(void)pthread_mutex_lock(&s->lock);
	s->order = (int)order;
	(void)pthread_cond_broadcast(&s->changed);
	(void)pthread_mutex_unlock(&s->lock);
	if (order == VCPU_RUN)
		return;
	for (unsigned i = 0; i < s->p.n; i++) {
		if (s->all[i].has_thread)
			hv_vcpu_kick(s->all[i].hv);
	}
}

int vcpus_start(struct vcpus *s, struct err *e)
{
	assert(s->n_threads == 0);
	set_order(s, VCPU_RUN);
	for (unsigned i = 0; i < s->p.n; i++) {
		int rc = start_thread(&s->all[i], e);
		if (rc < 0) {
			vcpus_stop(s);
			return rc;
		}
	}
	return 0;
}

bool vcpus_pause(struct vcpus *s)
{
	bool was_running = s->order == VCPU_RUN;
	set_order(s, VCPU_PAUSE);
	(void)pthread_mutex_lock(&s->lock);
	while (s->n_parked < s->n_threads)
		(void)pthread_cond_wait(&s->changed, &s->lock);
	(void)pthread_mutex_unlock(&s->lock);
	return was_running;
}

void vcpus_resume(struct vcpus *s)
{
	set_order(s, VCPU_RUN);
}

void vcpus_stop(struct vcpus *s)
{
	if (!s->all)
		return;
	set_order(s, VCPU_STOP);
	for (unsigned i = 0; i < s->p.n; i++) {
		if (!s->all[i].has_thread)
			continue;
		(void)pthread_join(s->all[i].thread, NULL);
		s->all[i].has_thread = false;
	}
	s->n_threads = 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* vcpu.h - the vCPUs of a machine: one thread each, which only runs the guest and dispatches its exits.
 *
 * The set is commanded by the main thread: start, pause, resume, stop. When nothing is left to do (the guest reset, powered
 * off or broke) the owner is told by the callback, and all vCPUs park until the set is stopped: the one whose instruction it
 * was executes no other, as a processor that is being reset does not. A kernel that found itself alive behind a write to a
 * reset register would try the next way, and the last one is a triple fault. Handlers of exits run on vCPU threads, several
 * at once. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/log.h"
#include "bus/bus.h"
#include "hv/hv.h"
#include <pthread.h>

enum vcpu_event { VCPU_RESET, VCPU_TRIPLE_FAULT, VCPU_POWEROFF, VCPU_CRASHED, VCPU_FAILED };

struct vcpus_params {
	struct hv_vm *vm;
	unsigned n;
	const uint32_t *engine_ids; /* n numbers: what the engine calls each (x86: its APIC ID) */
	const struct bus *mmio, *ports;
	const struct mem_map *mem; /* for reports */
	/* The guest ended a level interrupt; may be NULL. vCPU threads. */
	void (*end_of_interrupt)(void *interrupts, uint8_t vector);
	void *interrupts;
	/* Says what made a vCPU stop; report is NULL but for VCPU_FAILED. vCPU threads. */
	void (*event)(void *context, enum vcpu_event what, const char *report);
	void *context;
	const struct log *log;
};

enum vcpu_order { VCPU_RUN, VCPU_PAUSE, VCPU_STOP };

struct vcpus;

struct vcpu {
	struct vcpus *set;
	unsigned index;
	struct hv_vcpu *hv;
	pthread_t thread;
	bool has_thread;
	char name[16];
	struct log log;
	struct log_limit guest_limit;
};

struct vcpus {
	struct vcpus_params p;
	struct vcpu *all;
	unsigned n_threads;
	pthread_mutex_t lock;     /* order, n_parked */
	pthread_cond_t changed;
	_Atomic int order;        /* enum vcpu_order */
	_Atomic bool is_over;     /* no vCPU enters the guest any more */
	unsigned n_parked;
};

int vcpus_init(struct vcpus *s, const struct vcpus_params *p, struct err *e); /* makes the vCPUs, paused */
void vcpus_done(struct vcpus *s);                                             /* stops them first */
int vcpus_start(struct vcpus *s, struct err *e);                              /* threads, running */
bool vcpus_pause(struct vcpus *s);  /* returns when no vCPU is in the guest or in a handler: true if they ran before */
void vcpus_resume(struct vcpus *s);
void vcpus_end(struct vcpus *s);    /* any thread, a handler of an exit too: no vCPU resumes; does not wait */
void vcpus_stop(struct vcpus *s);   /* and joins the threads */

/* SPDX-License-Identifier: Apache-2.0 */
/* irq.h - from a device to a vCPU: lines to I/O APIC pins, message-signalled vectors, and the routing table between.
 *
 * A line is edge or level for good. Edge lines and MSI vectors leave by irqfd (an event descriptor that any thread
 * writes); level lines go through the I/O APIC's state. The hypervisor's table is set whole, in one call, when routes
 * changed: irq_commit(). Locks here are leaves. Messages are the guest's choice: hostile. Without a VM (vm NULL: tests,
 * fuzzing) routes are kept and event descriptors are written, but no engine is called. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/list.h"
#include "hv/hv.h"
#include <pthread.h>

#define IRQ_N_PINS 24u
#define IRQ_MAX_GSIS 4096u /* pins first, then MSI vectors */

/* The interrupt controller in user space that owns the pins, where there is one (x86: the I/O APIC). Any thread. */
struct irq_controller {
	void (*set_level)(struct irq_controller *c, uint32_t pin, bool level);
	/* A line was made for this pin: edge lines are delivered by irqfd, through a route that the controller keeps. */
	void (*add_line)(struct irq_controller *c, uint32_t pin, bool is_level);
};

struct irq_router {
	pthread_mutex_t lock;        /* all below */
	pthread_mutex_t commit_lock; /* before `lock`: tables reach the engine in the order in which they were packed */
	struct hv_vm *vm;
	enum hv_irqchip irqchip;
	struct irq_controller *controller; /* NULL: the pins are the hypervisor's own */
	_Atomic uint64_t n_changes;   /* of routes, ever */
	_Atomic uint64_t n_committed; /* of those, how many the engine has */
	uint32_t n_gsis;              /* those above were never used */
	struct hv_route *routes; /* one a GSI; valid where has_route */
	uint8_t *has_route;      /* one byte a GSI */
	uint8_t *is_used;        /* one byte a GSI: allocated; of a pin: how many edge lines, or IRQ_PIN_LEVEL */
	struct hv_route *scratch; /* the packed table for the engine: no allocation when routes change */
	struct list_link unbound; /* of struct irq_msi: irqfds to bind with the next commit */
	const struct log *log;
	struct log_limit limit; /* for what guests can make fail again and again */
};

#define IRQ_PIN_LEVEL 0xffu

/* The log may be NULL: silent. */
int irq_router_init(struct irq_router *r, struct hv_vm *vm, enum hv_irqchip irqchip, const struct log *log, struct err *e);
void irq_router_done(struct irq_router *r); /* after its lines and vectors */

/* For the interrupt controller: where an edge pin's irqfd leads (NULL: nowhere, it is masked). Takes effect with irq_commit(). */
void irq_set_pin_route(struct irq_router *r, uint32_t pin, const struct hv_msi *msi);
/* Delivers a message at once: >0 delivered, 0 not accepted by the guest, or a negative errno. Any thread. */
int irq_send(struct irq_router *r, const struct hv_msi *msi);

/* One message-signalled vector: an event descriptor bound to a GSI of its own. */
struct irq_msi {
	struct irq_router *router;
	uint32_t gsi;
	int event_fd; /* -1: not allocated */
	_Atomic bool is_bound; /* the irqfd is registered */
	bool is_set;           /* route is valid */
	struct hv_msi route;
	_Atomic uint64_t change; /* the number of this route's last change */
	struct list_link link;   /* in router->unbound */
};

int irq_msi_alloc(struct irq_router *r, struct irq_msi *m, struct err *e);
void irq_msi_free(struct irq_msi *m); /* a zeroed or freed one is left alone */
/* Sets where the vector goes; takes effect at once for irq_msi_raise(), with irq_commit() for the event descriptor. A
 * message that addresses no local APIC leads nowhere. */
void irq_msi_set(struct irq_msi *m, const struct hv_msi *msi);
void irq_msi_unset(struct irq_msi *m);
/* One engine call for all changes since the last; does nothing when there are none. Also binds new irqfds. Any thread
 * that may wait (not an I/O loop). */
int irq_commit(struct irq_router *r, struct err *e);
/* As irq_commit(), and a failure, which a guest can cause, is logged at a bounded rate. */
void irq_commit_or_log(struct irq_router *r);
/* Any thread. One that the engine does not know yet, or has refused, is delivered as a single message. */
void irq_msi_raise(struct irq_msi *m);

/* A line to an I/O APIC pin. */
struct irq_line {
	struct irq_router *router; /* NULL: no line */
	uint32_t pin;
	bool is_level;
	int event_fd; /* edge lines: written to raise; -1 for level lines */
};

/* Edge lines may share a pin; a level line has its own (-EBUSY). After the controller is in place. */
int irq_line_init(struct irq_line *l, struct irq_router *r, uint32_t pin, bool is_level, struct err *e);
void irq_line_done(struct irq_line *l); /* a zeroed or done one is left alone */
void irq_line_pulse(struct irq_line *l);          /* edge; any thread */
void irq_line_set(struct irq_line *l, bool level); /* level; any thread */

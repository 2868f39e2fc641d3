/* SPDX-License-Identifier: Apache-2.0 */
/* fake_hv.h - a hypervisor that only takes notes: the second engine that hv.h promises room for. Defines the interrupt half
 * of hv.h, so that a test program that includes it does not link the real one. One include a program. */
#pragma once
#include "hv/hv.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define FAKE_MAX 256u

struct fake_irqfd {
	int event_fd;
	uint32_t gsi;
};

struct hv_vm {
	pthread_mutex_t lock;
	unsigned n_set_routes; /* calls */
	struct hv_route routes[FAKE_MAX];
	size_t n_routes;
	struct fake_irqfd irqfds[FAKE_MAX];
	unsigned n_irqfds, n_irqfd_calls;
	struct hv_msi messages[FAKE_MAX];
	unsigned n_messages;
	struct hv_ioevent ioevents[FAKE_MAX];
	unsigned n_ioevents, n_ioevent_calls;
	uint32_t lines;
	unsigned n_line_calls;
	/* what fails, and how */
	int routes_rc, irqfd_rc, ioevent_rc, any_width_rc;
	int signal_rc; /* FAKE_VM: 1 */
};

#define FAKE_VM ((struct hv_vm){ .lock = PTHREAD_MUTEX_INITIALIZER, .signal_rc = 1 })

static inline const struct hv_route *fake_route(const struct hv_vm *vm, uint32_t gsi)
{
	for (size_t i = 0; i < vm->n_routes; i++)
		if (vm->routes[i].gsi == gsi)
			return &vm->routes[i];
	return NULL;
}

static inline int fake_irqfd_of(const struct hv_vm *vm, uint32_t gsi)
{
	for (unsigned i = 0; i < vm->n_irqfds; i++)
		if (vm->irqfds[i].gsi == gsi)
			return vm->irqfds[i].event_fd;
	return -1;
}

int hv_vm_set_routes(struct hv_vm *vm, const struct hv_route *routes, size_t n_routes, struct err *e)
{
	(void)pthread_mutex_lock(&vm->lock);
	vm->n_set_routes++;
	int rc = vm->routes_rc;
	if (rc == 0 && n_routes <= FAKE_MAX) {
		memcpy(vm->routes, routes, n_routes * sizeof *routes);
		vm->n_routes = n_routes;
	}
	(void)pthread_mutex_unlock(&vm->lock);
	return rc < 0 ? err_set(e, -rc, "fake: no routes") : 0;
}

int hv_vm_irqfd(struct hv_vm *vm, int event_fd, uint32_t gsi, struct err *e)
{
	(void)pthread_mutex_lock(&vm->lock);
	vm->n_irqfd_calls++;
	int rc = vm->irqfd_rc;
	if (rc == 0 && vm->n_irqfds < FAKE_MAX)
		vm->irqfds[vm->n_irqfds++] = (struct fake_irqfd){ .event_fd = event_fd, .gsi = gsi };
	(void)pthread_mutex_unlock(&vm->lock);
	return rc < 0 ? err_set(e, -rc, "fake: no irqfd") : 0;
}

int hv_vm_irqfd_unset(struct hv_vm *vm, int event_fd, uint32_t gsi, struct err *e)
{
	int rc = -ENOENT;
	(void)pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < vm->n_irqfds && rc < 0; i++)
		if (vm->irqfds[i].event_fd == event_fd && vm->irqfds[i].gsi == gsi) {
			vm->irqfds[i] = vm->irqfds[--vm->n_irqfds];
			rc = 0;
		}
	(void)pthread_mutex_unlock(&vm->lock);
	return rc < 0 ? err_set(e, -rc, "fake: no such irqfd") : 0;
}

int hv_vm_signal_msi(struct hv_vm *vm, const struct hv_msi *m)
{
	(void)pthread_mutex_lock(&vm->lock);
	int rc = vm->signal_rc;
	vm->messages[vm->n_messages++ % FAKE_MAX] = *m;
	(void)pthread_mutex_unlock(&vm->lock);
	return rc;
}

int hv_vm_irq_line(struct hv_vm *vm, uint32_t pin, bool level)
{
	(void)pthread_mutex_lock(&vm->lock);
	vm->n_line_calls++;
	vm->lines = level ? vm->lines | 1u << pin : vm->lines & ~(1u << pin);
	(void)pthread_mutex_unlock(&vm->lock);
	return 0;
}

static inline bool fake_same_ioevent(const struct hv_ioevent *a, const struct hv_ioevent *b)
{
	return a->space == b->space && a->address == b->address && a->n_bytes == b->n_bytes &&
	       a->has_datamatch == b->has_datamatch && a->datamatch == b->datamatch && a->event_fd == b->event_fd;
}

int hv_vm_ioeventfd(struct hv_vm *vm, const struct hv_ioevent *i, struct err *e)
{
	(void)pthread_mutex_lock(&vm->lock);
	vm->n_ioevent_calls++;
	int rc = vm->ioevent_rc ? vm->ioevent_rc : i->n_bytes == 0 ? vm->any_width_rc : 0;
	if (rc == 0 && vm->n_ioevents < FAKE_MAX)
		vm->ioevents[vm->n_ioevents++] = *i;
	(void)pthread_mutex_unlock(&vm->lock);
	return rc < 0 ? err_set(e, -rc, "fake: no ioeventfd") : 0;
}

int hv_vm_ioeventfd_unset(struct hv_vm *vm, const struct hv_ioevent *i, struct err *e)
{
	int rc = -ENOENT;
	(void)pthread_mutex_lock(&vm->lock);
	for (unsigned n = 0; n < vm->n_ioevents && rc < 0; n++)
		if (fake_same_ioevent(&vm->ioevents[n], i)) {
			vm->ioevents[n] = vm->ioevents[--vm->n_ioevents];
			rc = 0;
		}
	(void)pthread_mutex_unlock(&vm->lock);
	return rc < 0 ? err_set(e, -rc, "fake: no such ioeventfd") : 0;
}

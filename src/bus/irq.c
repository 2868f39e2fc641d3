/* SPDX-License-Identifier: Apache-2.0 */
/* irq.c - theory of operation.
 *
 * Each source of edges owns an event descriptor that the engine listens to (an irqfd) and that leads, through the
 * engine's table of routes, to a message for a local APIC. Setting the table costs a system call that waits for all
 * readers of the old one, so it is done once for many changes, and never when nothing changed: each change of a route
 * takes the next number (n_changes), and a commit that succeeded remembers up to which number it reached (n_committed).
 * A vector whose last change has a higher number is one that the engine does not know yet. Raising such a vector sends
 * its message by a call of its own. So neither the moment of a commit nor its failure can lose an interrupt or send one
 * to where the vector led before.
 *
 * `lock` guards the tables and is held for moments only. A commit packs the table under it and calls the engine without
 * it, but under `commit_lock`: a slow engine delays other commits, never a device that raises or a guest that masks. */
#include "bus/irq.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static const struct log silent = { .sink = NULL, .object = "irq" };

static int event_fd_open(const char *what, uint32_t number, struct err *e)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return err_set_errno(e, errno, "irq: cannot make an event descriptor for %s %u", what, number);
	return fd;
}

/* A full counter says that an interrupt is pending already, which is all that this one would say. */
static void event_fd_raise(int fd)
{
	uint64_t one = 1;
	ssize_t n = write(fd, &one, sizeof one);
	(void)n;
}

/* --- the router ------------------------------------------------------------------------------------------------- */

int irq_router_init(struct irq_router *r, struct hv_vm *vm, enum hv_irqchip irqchip, const struct log *log, struct err *e)
{
	*r = (struct irq_router){ .vm = vm, .irqchip = irqchip, .n_gsis = IRQ_N_PINS, .log = log ? log : &silent };
	(void)pthread_mutex_init(&r->lock, NULL);
	(void)pthread_mutex_init(&r->commit_lock, NULL);
	list_init(&r->unbound);
	r->routes = calloc(IRQ_MAX_GSIS, sizeof *r->routes);
	r->scratch = calloc(IRQ_MAX_GSIS, sizeof *r->scratch);
	r->has_route = calloc(IRQ_MAX_GSIS, 1);
	r->is_used = calloc(IRQ_MAX_GSIS, 1);
	if (!r->routes || !r->scratch || !r->has_route || !r->is_used) {
		irq_router_done(r);
		return err_set(e, ENOMEM, "irq: no memory for a table of %u routes", IRQ_MAX_GSIS);
	}
	if (irqchip == HV_IRQCHIP_KERNEL) {
		for (uint32_t pin = 0; pin < IRQ_N_PINS; pin++) {
			r->routes[pin] = (struct hv_route){ .gsi = pin, .kind = HV_ROUTE_PIN, .pin = pin };
			r->has_route[pin] = 1;
		}
		r->n_changes = 1;
	}
	return 0;
}

void irq_router_done(struct irq_router *r)
{
	if (!r || !r->log)
		return;
	assert(list_is_empty(&r->unbound));
	free(r->routes);
	free(r->scratch);
	free(r->has_route);
	free(r->is_used);
	(void)pthread_mutex_destroy(&r->commit_lock);
	(void)pthread_mutex_destroy(&r->lock);
	*r = (struct irq_router){ 0 };
}

static bool messages_equal(const struct hv_msi *a, const struct hv_msi *b)
{
	return a->address == b->address && a->data == b->data && a->device_id == b->device_id;
}

/* Under the lock. NULL: no route. False when that is what it was. */
static bool change_route(struct irq_router *r, uint32_t gsi, const struct hv_msi *msi)
{
	assert(gsi < r->n_gsis);
	if (!msi && !r->has_route[gsi])
		return false;
	if (msi && r->has_route[gsi] && messages_equal(&r->routes[gsi].msi, msi))
		return false;
	if (msi)
		r->routes[gsi] = (struct hv_route){ .gsi = gsi, .kind = HV_ROUTE_MSI, .msi = *msi };
	r->has_route[gsi] = msi != NULL;
	atomic_fetch_add_explicit(&r->n_changes, 1, memory_order_relaxed);
	return true;
}

void irq_set_pin_route(struct irq_router *r, uint32_t pin, const struct hv_msi *msi)
{
	assert(pin < IRQ_N_PINS && r->irqchip == HV_IRQCHIP_SPLIT);
	(void)pthread_mutex_lock(&r->lock);
	(void)change_route(r, pin, msi);
	(void)pthread_mutex_unlock(&r->lock);
}

int irq_send(struct irq_router *r, const struct hv_msi *msi)
{
	return r->vm ? hv_vm_signal_msi(r->vm, msi) : 1;
}

/* --- commit ----------------------------------------------------------------------------------------------------- */

/* Under commit_lock. */
static int commit_routes(struct irq_router *r, struct err *e)
{
	size_t n = 0;

	(void)pthread_mutex_lock(&r->lock);
	uint64_t n_changes = atomic_load_explicit(&r->n_changes, memory_order_relaxed);
	if (n_changes == atomic_load_explicit(&r->n_committed, memory_order_relaxed)) {
		(void)pthread_mutex_unlock(&r->lock);
		return 0;
	}
	for (uint32_t gsi = 0; gsi < r->n_gsis; gsi++)
		if (r->has_route[gsi])
			r->scratch[n++] = r->routes[gsi];
	(void)pthread_mutex_unlock(&r->lock);

	int rc = r->vm ? hv_vm_set_routes(r->vm, r->scratch, n, e) : 0;
	if (rc < 0)
		return rc;
	atomic_store_explicit(&r->n_committed, n_changes, memory_order_release);
	return 0;
}

static struct irq_msi *take_unbound(struct irq_router *r)
{
	struct irq_msi *m = NULL;

	(void)pthread_mutex_lock(&r->lock);
	if (!list_is_empty(&r->unbound)) {
		m = list_entry(r->unbound.next, struct irq_msi, link);
		list_remove(&m->link);
	}
	(void)pthread_mutex_unlock(&r->lock);
	return m;
}

/* Under commit_lock, after the routes: a descriptor that already counts fires when it is bound, and must find its way.
 * One that the engine refuses stays unbound for good; its vector goes by single messages. */
static int bind_new(struct irq_router *r, struct err *e)
{
	int rc = 0;
	struct irq_msi *m;

	while ((m = take_unbound(r)) != NULL) {
		struct err bind_err = { 0 };
		int bind_rc = r->vm ? hv_vm_irqfd(r->vm, m->event_fd, m->gsi, &bind_err) : 0;
		if (bind_rc == 0) {
			atomic_store_explicit(&m->is_bound, true, memory_order_release);
		} else if (rc == 0) {
			rc = bind_rc;
			if (e)
				*e = bind_err;
		}
	}
	return rc;
}

int irq_commit(struct irq_router *r, struct err *e)
{
	/* The caller's own changes are visible to it, so that this early look misses none of them. Unbound vectors have a
	 * change that is not committed, too. */
	if (atomic_load_explicit(&r->n_changes, memory_order_relaxed) ==
	    atomic_load_explicit(&r->n_committed, memory_order_acquire))
		return 0;

	(void)pthread_mutex_lock(&r->commit_lock);
	int rc = commit_routes(r, e);
	if (rc == 0)
		rc = bind_new(r, e);
	(void)pthread_mutex_unlock(&r->commit_lock);
	return rc;
}

void irq_commit_or_log(struct irq_router *r)
{
	struct err e = { 0 };
	if (irq_commit(r, &e) < 0)
		guest_warn(r->log, &r->limit, "interrupt routes: %s", e.text);
}

/* --- vectors ---------------------------------------------------------------------------------------------------- */

int irq_msi_alloc(struct irq_router *r, struct irq_msi *m, struct err *e)
{
	*m = (struct irq_msi){ .event_fd = -1 };
	list_init(&m->link);

	uint32_t gsi = IRQ_N_PINS;
	(void)pthread_mutex_lock(&r->lock);
	while (gsi < IRQ_MAX_GSIS && r->is_used[gsi])
		gsi++;
	if (gsi < IRQ_MAX_GSIS) {
		r->is_used[gsi] = 1;
		if (gsi >= r->n_gsis)
			r->n_gsis = gsi + 1;
	}
	(void)pthread_mutex_unlock(&r->lock);
	if (gsi == IRQ_MAX_GSIS)
		return err_set(e, ENOSPC, "irq: cannot allocate a vector: all %u are in use", IRQ_MAX_GSIS - IRQ_N_PINS);

	int fd = event_fd_open("interrupt", gsi, e);
	if (fd < 0) {
		(void)pthread_mutex_lock(&r->lock);
		r->is_used[gsi] = 0;
		(void)pthread_mutex_unlock(&r->lock);
		return fd;
	}
	m->router = r;
	m->gsi = gsi;
	m->event_fd = fd;
	return 0;
}

void irq_msi_free(struct irq_msi *m)
{
	struct irq_router *r = m->router;
	if (!r)
		return;
	/* Not while a commit binds it. */
	(void)pthread_mutex_lock(&r->commit_lock);
	(void)pthread_mutex_lock(&r->lock);
	list_remove(&m->link);
	(void)change_route(r, m->gsi, NULL);
	r->is_used[m->gsi] = 0;
	(void)pthread_mutex_unlock(&r->lock);

	struct err e = { 0 };
	if (m->is_bound && r->vm && hv_vm_irqfd_unset(r->vm, m->event_fd, m->gsi, &e) < 0)
		log_warn(r->log, "irq: %s", e.text);
	(void)pthread_mutex_unlock(&r->commit_lock);
	fd_close(&m->event_fd);
	*m = (struct irq_msi){ .event_fd = -1 };
}

/* A guest may write any address into a vector; only those of local APICs make an interrupt (Intel SDM 3, 11.11), all
 * others are memory writes that we do not perform. The engine must not see them: one bad entry fails the whole table. */
static bool is_interrupt(const struct hv_msi *msi)
{
#if defined(__x86_64__)
	return (msi->address & ~0xfffffull) == 0xfee00000ull;
#else
	(void)msi;
	return true;
#endif
}

void irq_msi_set(struct irq_msi *m, const struct hv_msi *msi)
{
	struct irq_router *r = m->router;
	if (!is_interrupt(msi)) {
		irq_msi_unset(m);
		return;
	}
	(void)pthread_mutex_lock(&r->lock);
	m->route = *msi;
	m->is_set = true;
	if (change_route(r, m->gsi, msi)) {
		atomic_store_explicit(&m->change, atomic_load_explicit(&r->n_changes, memory_order_relaxed),
		                      memory_order_relaxed);
		if (!m->is_bound && list_is_empty(&m->link))
			list_append(&r->unbound, &m->link);
	}
	(void)pthread_mutex_unlock(&r->lock);
}

void irq_msi_unset(struct irq_msi *m)
{
	struct irq_router *r = m->router;
	(void)pthread_mutex_lock(&r->lock);
	m->is_set = false;
	if (change_route(r, m->gsi, NULL))
		atomic_store_explicit(&m->change, atomic_load_explicit(&r->n_changes, memory_order_relaxed),
		                      memory_order_relaxed);
	(void)pthread_mutex_unlock(&r->lock);
}

void irq_msi_raise(struct irq_msi *m)
{
	struct irq_router *r = m->router;
	bool is_known = atomic_load_explicit(&m->is_bound, memory_order_acquire) &&
	                atomic_load_explicit(&m->change, memory_order_relaxed) <=
	                        atomic_load_explicit(&r->n_committed, memory_order_acquire);
	if (is_known || !r->vm) {
		event_fd_raise(m->event_fd);
		return;
	}
	(void)pthread_mutex_lock(&r->lock);
	bool is_set = m->is_set;
	struct hv_msi route = m->route;
	(void)pthread_mutex_unlock(&r->lock);
	if (!is_set)
		return;
	int rc = hv_vm_signal_msi(r->vm, &route);
	if (rc < 0)
		guest_warn(r->log, &r->limit, "interrupt %u: the hypervisor refused its message: %s", m->gsi, strerror(-rc));
}

/* --- lines ------------------------------------------------------------------------------------------------------ */

static int claim_pin(struct irq_router *r, uint32_t pin, bool is_level, struct err *e)
{
	int rc = 0;

	(void)pthread_mutex_lock(&r->lock);
	uint8_t *used = &r->is_used[pin];
	if (is_level ? *used != 0 : *used >= IRQ_PIN_LEVEL - 1)
		rc = err_set(e, EBUSY, "irq: cannot make %s line for pin %u: %s", is_level ? "a level" : "an edge", pin,
		             *used == IRQ_PIN_LEVEL ? "it has a level line" : "it has edge lines");
	else
		*used = is_level ? IRQ_PIN_LEVEL : (uint8_t)(*used + 1);
	(void)pthread_mutex_unlock(&r->lock);
	return rc;
}

static void release_pin(struct irq_router *r, uint32_t pin)
{
	(void)pthread_mutex_lock(&r->lock);
	uint8_t *used = &r->is_used[pin];
	*used = *used == IRQ_PIN_LEVEL ? 0 : (uint8_t)(*used - 1);
	(void)pthread_mutex_unlock(&r->lock);
}

int irq_line_init(struct irq_line *l, struct irq_router *r, uint32_t pin, bool is_level, struct err *e)
{
	*l = (struct irq_line){ .pin = pin, .is_level = is_level, .event_fd = -1 };
	if (pin >= IRQ_N_PINS)
		return err_set(e, EINVAL, "irq: cannot make a line for pin %u: there are %u", pin, IRQ_N_PINS);
	int rc = claim_pin(r, pin, is_level, e);
	if (rc < 0)
		return rc;

	fd_scoped fd = -1;
	if (!is_level) {
		fd = event_fd_open("pin", pin, e);
		rc = fd < 0 ? fd : 0;
		if (rc == 0 && r->vm)
			rc = hv_vm_irqfd(r->vm, fd, pin, e);
		if (rc < 0) {
			release_pin(r, pin);
			return rc;
		}
	}
	l->event_fd = fd_take(&fd);
	l->router = r;
	if (r->controller)
		r->controller->add_line(r->controller, pin, is_level);
	return 0;
}

void irq_line_done(struct irq_line *l)
{
	struct irq_router *r = l->router;
	if (!r)
		return;
	struct err e = { 0 };
	if (l->event_fd >= 0 && r->vm && hv_vm_irqfd_unset(r->vm, l->event_fd, l->pin, &e) < 0)
		log_warn(r->log, "irq: %s", e.text);
	if (l->event_fd >= 0)
		fd_close(&l->event_fd);
	release_pin(r, l->pin);
	*l = (struct irq_line){ .event_fd = -1 };
}

void irq_line_pulse(struct irq_line *l)
{
	assert(!l->is_level && l->event_fd >= 0);
	event_fd_raise(l->event_fd);
}

void irq_line_set(struct irq_line *l, bool level)
{
	struct irq_router *r = l->router;
	assert(l->is_level && r);
	if (r->controller) {
		r->controller->set_level(r->controller, l->pin, level);
		return;
	}
	if (!r->vm || r->irqchip != HV_IRQCHIP_KERNEL)
		return;
	int rc = hv_vm_irq_line(r->vm, l->pin, level);
	if (rc < 0)
		guest_warn(r->log, &r->limit, "pin %u: the hypervisor refused a level: %s", l->pin, strerror(-rc));
}

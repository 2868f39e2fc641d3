/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * A loop waits in epoll_wait() for the descriptors in its table. The 64-bit word that the kernel keeps for each holds
 * the slot's index and the slot's generation: when an event arrives for a source that a handler of the same batch has
 * removed, the generation differs and the event is dropped. A slot's generation grows each time the slot is reused.
 *
 * Timers are a list sorted by deadline; there are few. The wait's time-out is the first deadline: no timerfd, no system
 * call for setting a timer.
 *
 * Other threads reach the loop by a lock-free stack of messages and one eventfd. The eventfd is written only by the
 * poster that finds the stack empty, so a burst of messages costs one write. loop_call() posts a message from the
 * caller's stack and waits for it. */
#include "loop/loop.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BATCH 32

struct slot {
	struct source *source; /* NULL: free */
	uint32_t generation;
};

struct loop {
	int epoll_fd, wake_fd;
	struct slot *slots;
	uint32_t n_slots;
	struct list_link timers, hooks;
	struct source wake;
	_Atomic(struct loop_message *) messages; /* newest first */
	_Atomic bool is_stopping, has_owner;
	_Atomic(pthread_t) owner;
};

static void run_messages(struct loop *l)
{
	struct loop_message *newest = atomic_exchange_explicit(&l->messages, NULL, memory_order_acquire);
	struct loop_message *oldest = NULL;
	while (newest) {
		struct loop_message *next = newest->next;
		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	while (oldest) {
		struct loop_message *m = oldest;
		oldest = m->next;
		/* From here on it may be posted again, or, when it was a caller's, cease to exist after fn. */
		void (*fn)(struct loop_message *) = m->fn;
		/* An exchange, not a store: fn's reads may not overtake it, or what a poster wrote that still found the message
		 * pending would be missed. */
		(void)atomic_exchange(&m->is_pending, false);
		fn(m);
	}
}

static void on_wake(struct source *s, uint32_t events)
{
	(void)events;
	uint64_t n;
	/* Reset before the stack is taken: a message that comes after that writes again. */
	(void)!read(s->fd, &n, sizeof n);
	run_messages(s->loop);
}

int loop_new(struct loop **ret_l, struct err *e)
{
	struct loop *l = calloc(1, sizeof *l);
	if (!l)
		return err_set(e, ENOMEM, "event loop: no memory");
	list_init(&l->timers);
	list_init(&l->hooks);
	l->wake_fd = -1;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll_fd >= 0)
		l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->epoll_fd < 0 || l->wake_fd < 0) {
		int rc = err_set_errno(e, errno, "event loop: cannot create");
		loop_free(l);
		return rc;
	}
	atomic_store(&l->owner, pthread_self());
	int rc = loop_add(l, &l->wake, l->wake_fd, EPOLLIN, on_wake, e);
	if (rc < 0) {
		loop_free(l);
		return rc;
	}
	*ret_l = l;
	return 0;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	if (l->wake.loop)
		loop_remove(&l->wake);
	for (uint32_t i = 0; i < l->n_slots; i++)
		assert(!l->slots[i].source);
	assert(list_is_empty(&l->timers) && list_is_empty(&l->hooks) && !atomic_load(&l->messages));
	fd_close(&l->wake_fd);
	fd_close(&l->epoll_fd);
	free(l->slots);
	free(l);
}

bool loop_is_mine(const struct loop *l)
{
	return pthread_equal(atomic_load_explicit(&l->owner, memory_order_relaxed), pthread_self());
}

/* True when the caller may touch the loop's tables: its owner, or anybody while no thread runs it. */
static bool may_touch(const struct loop *l)
{
	return loop_is_mine(l) || !atomic_load(&l->has_owner);
}

static int free_slot(struct loop *l, uint32_t *ret_slot)
{
	for (uint32_t i = 0; i < l->n_slots; i++) {
		if (!l->slots[i].source) {
			*ret_slot = i;
			return 0;
		}
	}
	uint32_t n = l->n_slots ? l->n_slots * 2 : 8;
	struct slot *slots = realloc(l->slots, n * sizeof *slots);
	if (!slots)
		return -ENOMEM;
	memset(slots + l->n_slots, 0, (n - l->n_slots) * sizeof *slots);
	*ret_slot = l->n_slots;
	l->slots = slots;
	l->n_slots = n;
	return 0;
}

static uint64_t epoll_word(const struct loop *l, uint32_t slot)
{
	return (uint64_t)l->slots[slot].generation << 32 | slot;
}

int loop_add(struct loop *l, struct source *s, int fd, uint32_t epoll_events, void (*fn)(struct source *, uint32_t),
             struct err *e)
{
	assert(may_touch(l) && !s->loop && fd >= 0);
	uint32_t slot;
	if (free_slot(l, &slot) < 0)
		return err_set(e, ENOMEM, "event loop: no memory");
	l->slots[slot].generation++;

	struct epoll_event ev = { .events = epoll_events, .data.u64 = epoll_word(l, slot) };
	if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return err_set_errno(e, errno, "event loop: cannot watch descriptor %d", fd);
	l->slots[slot].source = s;
	s->fd = fd;
	s->fn = fn;
	s->loop = l;
	s->slot = slot;
	return 0;
}

int loop_change(struct source *s, uint32_t epoll_events)
{
	assert(s->loop && may_touch(s->loop));
	struct epoll_event ev = { .events = epoll_events, .data.u64 = epoll_word(s->loop, s->slot) };
	return epoll_ctl(s->loop->epoll_fd, EPOLL_CTL_MOD, s->fd, &ev) < 0 ? -errno : 0;
}

void loop_remove(struct source *s)
{
	struct loop *l = s->loop;
	if (!l)
		return;
	assert(may_touch(l) && l->slots[s->slot].source == s);
	(void)epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	l->slots[s->slot].source = NULL;
	l->slots[s->slot].generation++;
	s->loop = NULL;
}

void timer_set(struct loop *l, struct timer *t, uint64_t deadline_ns, void (*fn)(struct timer *))
{
	assert(may_touch(l));
	timer_cancel(t);
	t->deadline_ns = deadline_ns;
	t->fn = fn;
	t->is_set = true;

	struct list_link *at = l->timers.next;
	while (at != &l->timers && list_entry(at, struct timer, link)->deadline_ns <= deadline_ns)
		at = at->next;
	list_insert_before(at, &t->link);
}

void timer_cancel(struct timer *t)
{
	if (!t->is_set)
		return;
	list_remove(&t->link);
	t->is_set = false;
}

void loop_hook_add(struct loop *l, struct loop_hook *h, void (*fn)(struct loop_hook *))
{
	assert(may_touch(l));
	h->fn = fn;
	list_append(&l->hooks, &h->link);
}

void loop_hook_remove(struct loop_hook *h)
{
	if (h->link.next)
		list_remove(&h->link);
}

static void run_hooks(struct loop *l)
{
	struct list_link *next;
	for (struct list_link *at = l->hooks.next; at != &l->hooks; at = next) {
		next = at->next; /* a hook may remove itself */
		struct loop_hook *h = list_entry(at, struct loop_hook, link);
		h->fn(h);
	}
}

static void run_timers(struct loop *l)
{
	if (list_is_empty(&l->timers))
		return;
	uint64_t now = clock_now_ns();
	while (!list_is_empty(&l->timers)) {
		struct timer *t = list_entry(l->timers.next, struct timer, link);
		if (t->deadline_ns > now)
			return;
		timer_cancel(t);
		t->fn(t);
	}
}

/* Rounded up, so that the wait never ends just before the deadline and spins. */
static int time_to_wait_ms(const struct loop *l, int timeout_ms)
{
	if (list_is_empty(&l->timers))
		return timeout_ms;
	uint64_t deadline = list_entry(l->timers.next, struct timer, link)->deadline_ns, now = clock_now_ns();
	if (deadline <= now)
		return 0;
	uint64_t ms = (deadline - now + NS_PER_MS - 1) / NS_PER_MS;
	if (timeout_ms >= 0 && ms > (uint64_t)timeout_ms)
		return timeout_ms;
	return ms > INT_MAX ? INT_MAX : (int)ms;
}

int loop_run_once(struct loop *l, int timeout_ms)
{
	assert(may_touch(l));
	struct epoll_event events[BATCH];
	run_hooks(l);
	int n = epoll_wait(l->epoll_fd, events, BATCH, time_to_wait_ms(l, timeout_ms));
	if (n < 0)
		return errno == EINTR ? 0 : -errno;

	for (int i = 0; i < n; i++) {
		uint32_t slot = (uint32_t)events[i].data.u64, generation = (uint32_t)(events[i].data.u64 >> 32);
		if (slot < l->n_slots && l->slots[slot].source && l->slots[slot].generation == generation) {
			struct source *s = l->slots[slot].source;
			s->fn(s, events[i].events);
		}
	}
	run_timers(l);
	return n;
}

void loop_expect_owner(struct loop *l)
{
	atomic_store(&l->owner, (pthread_t)0);
	atomic_store(&l->has_owner, true);
}

void loop_forget_owner(struct loop *l)
{
	atomic_store(&l->owner, pthread_self());
	atomic_store(&l->has_owner, false);
}

int loop_run(struct loop *l, struct err *e)
{
	atomic_store(&l->owner, pthread_self());
	atomic_store(&l->has_owner, true);
	int rc = 0;
	while (!atomic_load_explicit(&l->is_stopping, memory_order_acquire)) {
		rc = loop_run_once(l, -1);
		if (rc < 0) {
			rc = err_set_errno(e, -rc, "event loop: cannot wait");
			break;
		}
	}
	run_hooks(l);
	run_messages(l);
	atomic_store(&l->is_stopping, false);
	atomic_store(&l->has_owner, false);
	return rc < 0 ? rc : 0;
}

static void wake(struct loop *l)
{
	uint64_t one = 1;
	/* EAGAIN means that the counter is full: the loop is as good as woken. */
	(void)!write(l->wake_fd, &one, sizeof one);
}

void loop_stop(struct loop *l)
{
	atomic_store_explicit(&l->is_stopping, true, memory_order_release);
	wake(l);
}

void loop_post(struct loop *l, struct loop_message *m, void (*fn)(struct loop_message *))
{
	if (atomic_exchange_explicit(&m->is_pending, true, memory_order_acq_rel))
		return;
	m->fn = fn;
	struct loop_message *head = atomic_load_explicit(&l->messages, memory_order_relaxed);
	do {
		m->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&l->messages, &head, m, memory_order_release, memory_order_relaxed));
	if (!head)
		wake(l);
}

struct call {
	struct loop_message message;
	int (*fn)(void *arg);
	void *arg;
	int result;
	_Atomic uint32_t is_done;
};

static void run_call(struct loop_message *m)
{
	struct call *c = container_of(m, struct call, message);
	c->result = c->fn(c->arg);
	_Atomic uint32_t *done = &c->is_done;
	/* After the store the caller may return and *c be gone; waking a futex needs its address only. */
	atomic_store_explicit(done, 1, memory_order_release);
	(void)syscall(SYS_futex, done, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

int loop_call(struct loop *l, int (*fn)(void *arg), void *arg)
{
	if (may_touch(l))
		return fn(arg);
	struct call c = { .fn = fn, .arg = arg };
	loop_post(l, &c.message, run_call);
	while (!atomic_load_explicit(&c.is_done, memory_order_acquire))
		(void)syscall(SYS_futex, &c.is_done, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return c.result;
}

static int do_nothing(void *arg)
{
	(void)arg;
	return 0;
}

void loop_flush(struct loop *l)
{
	if (may_touch(l))
		run_messages(l);
	else
		(void)loop_call(l, do_nothing, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "loop/loop.h"
#include "test.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

struct pair {
	struct source a, b;
	int n;
	struct loop *l;
};

static void count(struct source *s, uint32_t events)
{
	(void)events;
	struct pair *p = container_of(s, struct pair, a);
	uint64_t v;
	OK(read(s->fd, &v, sizeof v) == sizeof v);
	p->n++;
}

static void remove_other(struct source *s, uint32_t events)
{
	(void)events;
	struct pair *p = container_of(s, struct pair, a);
	p->n++;
	loop_remove(&p->b);
	loop_remove(&p->a);
}

static void remove_other_b(struct source *s, uint32_t events)
{
	(void)events;
	struct pair *p = container_of(s, struct pair, b);
	p->n++;
	loop_remove(&p->b);
	loop_remove(&p->a);
}

TEST(sources_fire_and_stop_firing)
{
	struct pair p = { 0 };
	EQ(loop_new(&p.l, NULL), 0);
	int fd = eventfd(1, EFD_CLOEXEC);
	EQ(loop_add(p.l, &p.a, fd, EPOLLIN, count, NULL), 0);
	EQ(loop_run_once(p.l, 0), 1);
	EQ(p.n, 1);
	EQ(loop_run_once(p.l, 0), 0);
	OK(eventfd_write(fd, 1) == 0);
	EQ(loop_change(&p.a, 0), 0);
	EQ(loop_run_once(p.l, 0), 0);
	EQ(loop_change(&p.a, EPOLLIN), 0);
	EQ(loop_run_once(p.l, 0), 1);
	loop_remove(&p.a);
	loop_remove(&p.a); /* twice is once */
	OK(eventfd_write(fd, 1) == 0);
	EQ(loop_run_once(p.l, 0), 0);
	close(fd);
	loop_free(p.l);
}

TEST(an_event_for_a_source_that_went_away_in_the_same_batch_is_dropped)
{
	struct pair p = { 0 };
	EQ(loop_new(&p.l, NULL), 0);
	int a = eventfd(1, EFD_CLOEXEC), b = eventfd(1, EFD_CLOEXEC);
	EQ(loop_add(p.l, &p.a, a, EPOLLIN, remove_other, NULL), 0);
	EQ(loop_add(p.l, &p.b, b, EPOLLIN, remove_other_b, NULL), 0);
	EQ(loop_run_once(p.l, 0), 2); /* both were ready */
	EQ(p.n, 1);                   /* one ran */
	close(a);
	close(b);
	loop_free(p.l);
}

struct tick {
	struct timer t;
	int order;
};

static int next_order;

static void on_tick(struct timer *t)
{
	container_of(t, struct tick, t)->order = ++next_order;
}

TEST(timers_run_in_order_and_can_be_cancelled)
{
	struct loop *l;
	struct tick t[4] = { 0 };
	EQ(loop_new(&l, NULL), 0);
	uint64_t now = clock_now_ns();
	timer_set(l, &t[0].t, now + 3000000, on_tick);
	timer_set(l, &t[1].t, now + 1000000, on_tick);
	timer_set(l, &t[2].t, now + 2000000, on_tick);
	timer_set(l, &t[3].t, now + 1500000, on_tick);
	timer_cancel(&t[3].t);
	timer_set(l, &t[1].t, now + 4000000, on_tick); /* moved */
	while (next_order < 3)
		EQ(loop_run_once(l, 1000), 0);
	EQ(t[2].order, 1);
	EQ(t[0].order, 2);
	EQ(t[1].order, 3);
	EQ(t[3].order, 0);
	OK(clock_now_ns() >= now + 4000000);
	loop_free(l);
}

struct shared {
	struct loop *l;
	int n; /* belongs to the loop: TSan would see a second thread */
	struct loop_message m;
	_Atomic int n_posted_runs;
};

static int increment(void *arg)
{
	struct shared *s = arg;
	OK(loop_is_mine(s->l));
	return ++s->n;
}

static void *call_often(void *arg)
{
	struct shared *s = arg;
	for (int i = 0; i < 2000; i++)
		OK(loop_call(s->l, increment, s) > 0);
	return NULL;
}

TEST(calls_from_many_threads_all_run_on_the_loop)
{
	struct loop_thread lt;
	pthread_t t[4];
	EQ(loop_thread_start(&lt, "test-loop", NULL), 0);
	struct shared s = { .l = lt.loop };
	for (int i = 0; i < 4; i++)
		EQ(pthread_create(&t[i], NULL, call_often, &s), 0);
	for (int i = 0; i < 4; i++)
		EQ(pthread_join(t[i], NULL), 0);
	OK(!loop_is_mine(lt.loop));
	loop_thread_stop(&lt);
	EQ(s.n, 8000);
}

TEST(a_call_before_the_loop_runs_is_made_in_place)
{
	struct shared s = { 0 };
	EQ(loop_new(&s.l, NULL), 0);
	EQ(loop_call(s.l, increment, &s), 1);
	loop_free(s.l);
}

static void posted(struct loop_message *m)
{
	container_of(m, struct shared, m)->n_posted_runs++;
}

TEST(a_posted_message_runs_at_least_once_after_the_last_post)
{
	struct loop_thread lt;
	EQ(loop_thread_start(&lt, "test-loop", NULL), 0);
	struct shared s = { .l = lt.loop };
	for (int i = 0; i < 1000; i++) {
		int before = s.n_posted_runs;
		loop_post(lt.loop, &s.m, posted);
		loop_flush(lt.loop);
		OK(s.n_posted_runs > before);
	}
	loop_thread_stop(&lt);
}

struct hooked {
	struct loop_hook h;
	int n;
};

static void on_hook(struct loop_hook *h)
{
	container_of(h, struct hooked, h)->n++;
}

TEST(hooks_run_before_each_wait)
{
	struct loop *l;
	struct hooked h = { 0 };
	EQ(loop_new(&l, NULL), 0);
	loop_hook_add(l, &h.h, on_hook);
	EQ(loop_run_once(l, 0), 0);
	EQ(loop_run_once(l, 0), 0);
	EQ(h.n, 2);
	loop_hook_remove(&h.h);
	loop_hook_remove(&h.h);
	EQ(loop_run_once(l, 0), 0);
	EQ(h.n, 2);
	loop_free(l);
}

TEST(a_bad_descriptor_is_an_error)
{
	struct loop *l;
	struct source s = { 0 };
	struct err e = { 0 };
	EQ(loop_new(&l, NULL), 0);
	EQ(loop_add(l, &s, 12345, EPOLLIN, remove_other, &e), -EBADF);
	STR_HAS(e.text, "12345");
	loop_free(l);
}

TEST(thread_names_are_cut_to_what_the_kernel_takes)
{
	struct loop_thread lt;
	EQ(loop_thread_start(&lt, "_a_very_long_disk_name_q0", NULL), 0);
	char name[16];
	EQ(pthread_getname_np(lt.thread, name, sizeof name), 0);
	STR_EQ(name, "_a_very_long_di");
	loop_thread_stop(&lt);
	loop_thread_stop(&lt);
}

/* The sanitizers' own memory would fall under the limit. */
#ifdef __has_feature
#define HAS_CLANG_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define HAS_CLANG_SANITIZER 0
#endif
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !HAS_CLANG_SANITIZER
TEST(a_thread_that_cannot_start_is_an_error)
{
	struct loop_thread lt;
	struct err e = { 0 };
	struct rlimit none = { 0, 0 };
	EQ(setrlimit(RLIMIT_AS, &none), 0); /* no room for a stack */
	OK(loop_thread_start(&lt, "test-loop", &e) < 0);
	STR_HAS(e.text, "test-loop");
	loop_thread_stop(&lt);
}
#endif

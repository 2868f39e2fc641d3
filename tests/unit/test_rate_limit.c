/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits: gates in line, on a clock that the tests turn and on threads; and disks that wait for their budget. */
#include "device/rate_limit.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "device/virtio_blk.h"
#include "ring.h"
#include "test.h"
#include "vm/machine_internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#define FOREVER_MS 1000000000ull

static struct rate_limit *limit_of(struct token_rate bytes, struct token_rate ops)
{
	struct rate_limit *r = NULL;
	EQ(rate_limit_new(&bytes, &ops, &r, NULL), 0);
	return r;
}

#define OPS(n, ms) limit_of((struct token_rate){ 0 }, (struct token_rate){ .size = n, .refill_ms = ms })
#define BYTES(n, ms) limit_of((struct token_rate){ .size = n, .refill_ms = ms }, (struct token_rate){ 0 })

/* --- gates on a loop that turns when told to; the time is a number, and all timers are due for the loop ------------------ */

#define MAX_USERS 4

struct user { /* a queue that always has a request of n_bytes */
	struct rate_gate gate;
	uint64_t n_bytes, n_passed;
	bool is_idle;
	unsigned n_wakes;
	struct crowd *crowd;
};

struct crowd {
	struct loop *loop;
	struct rate_limit *limit;
	struct user users[MAX_USERS];
	unsigned n_users;
	uint64_t now_ns, late_ns;
};

static void run_user(struct user *u)
{
	while (!u->is_idle && rate_gate_pass(&u->gate, u->n_bytes, u->crowd->now_ns))
		u->n_passed++;
	rate_gate_end_run(&u->gate);
}

static void on_wake(struct rate_gate *g)
{
	struct user *u = container_of(g, struct user, gate);
	u->n_wakes++;
	run_user(u);
}

static void crowd_open(struct crowd *c, struct rate_limit *limit, unsigned n_users)
{
	memset(c, 0, sizeof *c);
	EQ(loop_new(&c->loop, NULL), 0);
	c->limit = limit;
	c->n_users = n_users;
	c->now_ns = NS_PER_MS;
	for (unsigned i = 0; i < n_users; i++) {
		c->users[i] = (struct user){ .n_bytes = 1, .crowd = c };
		rate_gate_open(&c->users[i].gate, limit, c->loop, on_wake);
	}
}

static void turn(struct crowd *c)
{
	for (unsigned i = 0; i < 4; i++)
		(void)loop_run_once(c->loop, 0);
}

static void crowd_close(struct crowd *c)
{
	for (unsigned i = 0; i < c->n_users; i++)
		rate_gate_shut(&c->users[i].gate);
	turn(c);
	loop_free(c->loop);
	rate_limit_free(c->limit);
}

/* The one user whose timer is set: nobody else's may be. */
static struct user *next_due(struct crowd *c)
{
	struct user *found = NULL;
	for (unsigned i = 0; i < c->n_users; i++) {
		if (c->users[i].gate.timer.is_set) {
			OK(!found);
			found = &c->users[i];
		}
	}
	return found;
}

/* Lets time pass from timer to timer, each of which is seen late_ns late if it was not due already. */
static void run_until(struct crowd *c, uint64_t end_ns)
{
	for (struct user *u; (u = next_due(c));) {
		uint64_t due_ns = u->gate.timer.deadline_ns, at_ns = due_ns > c->now_ns ? due_ns + c->late_ns : c->now_ns;
		if (at_ns > end_ns)
			return;
		c->now_ns = at_ns;
		timer_cancel(&u->gate.timer);
		u->gate.timer.fn(&u->gate.timer);
		/* The next one's turn is a message; its timer would fire at once on this loop, so it is the loop's clock that must
		 * not be asked: only what is posted runs. */
		loop_flush(c->loop);
	}
}

static uint64_t passed(const struct crowd *c)
{
	uint64_t n = 0;
	for (unsigned i = 0; i < c->n_users; i++)
		n += c->users[i].n_passed;
	return n;
}

TEST(a_timer_at_the_exact_moment)
{
	struct crowd c;
	crowd_open(&c, OPS(10, 1000), 1);
	run_user(&c.users[0]);
	EQ(c.users[0].n_passed, 10);
	OK(rate_gate_is_waiting(&c.users[0].gate));
	EQ(c.users[0].gate.timer.deadline_ns, c.now_ns + 100 * NS_PER_MS);
	run_until(&c, c.now_ns + 100 * NS_PER_MS - 1);
	EQ(c.users[0].n_wakes, 0);
	run_until(&c, c.now_ns + 100 * NS_PER_MS);
	EQ(c.users[0].n_wakes, 1);
	EQ(c.users[0].n_passed, 11);
	EQ(c.users[0].gate.timer.deadline_ns, c.now_ns + 100 * NS_PER_MS);
	crowd_close(&c);
}

TEST(both_buckets_count)
{
	struct crowd c;
	crowd_open(&c, limit_of((struct token_rate){ .size = 1000, .refill_ms = 1000 },
	                        (struct token_rate){ .size = 10, .refill_ms = 1000 }), 1);
	struct rate_gate *g = &c.users[0].gate;
	OK(rate_gate_pass(g, 1000, c.now_ns));
	for (unsigned i = 0; i < 9; i++)
		OK(rate_gate_pass(g, 0, c.now_ns));
	OK(!rate_gate_pass(g, 50, c.now_ns)); /* 50 ms for the bytes, 100 for the operation */
	EQ(g->timer.deadline_ns, c.now_ns + 100 * NS_PER_MS);
	crowd_close(&c);
	/* What is refused for its bytes has not paid for its operation. */
	crowd_open(&c, limit_of((struct token_rate){ .size = 100, .refill_ms = 1000 },
	                        (struct token_rate){ .size = 2, .refill_ms = FOREVER_MS }), 1);
	g = &c.users[0].gate;
	OK(rate_gate_pass(g, 100, c.now_ns));
	OK(!rate_gate_pass(g, 100, c.now_ns));
	timer_cancel(&g->timer);
	g->is_waiting = false;
	OK(rate_gate_pass(g, 0, c.now_ns));
	crowd_close(&c);
}

TEST(turns_go_round_and_the_sum_is_exact)
{
	struct crowd c;
	crowd_open(&c, BYTES(1 << 20, 100), 4);
	for (unsigned i = 0; i < 4; i++)
		c.users[i].n_bytes = 65536;
	uint64_t start_ns = c.now_ns;
	for (unsigned i = 0; i < 4; i++)
		run_user(&c.users[i]);
	EQ(c.users[0].n_passed, 16); /* the bucket was full, and nobody else there */
	EQ(passed(&c), 16);
	run_until(&c, start_ns + 10 * NS_PER_S);
	EQ(passed(&c), 16 + 16 * 100);
	for (unsigned i = 1; i < 4; i++)
		EQ(c.users[i].n_passed, 400);
	crowd_close(&c);
}

TEST(nobody_starves_behind_larger_or_more_eager_ones)
{
	struct crowd c;
	crowd_open(&c, BYTES(4096, 10), 3);
	c.users[0].n_bytes = 1 << 20; /* far more than the bucket holds */
	c.users[1].n_bytes = 512;
	c.users[2].n_bytes = 4096;
	uint64_t start_ns = c.now_ns;
	for (unsigned i = 0; i < 3; i++)
		run_user(&c.users[i]);
	run_until(&c, start_ns + 100 * NS_PER_S);
	uint64_t n = c.users[0].n_passed;
	OK(n >= 38 && n <= 40);
	/* The first had one before the others came, and may have one more at the end. */
	OK(c.users[1].n_passed + 2 >= n && c.users[1].n_passed <= n);
	OK(c.users[2].n_passed + 2 >= n && c.users[2].n_passed <= n);
	uint64_t n_bytes = 0;
	for (unsigned i = 0; i < 3; i++)
		n_bytes += c.users[i].n_passed * c.users[i].n_bytes;
	OK(n_bytes <= 4096 + 100 * 409600 + (1 << 20)); /* the last one's debt */
	OK(n_bytes + (1 << 20) + 4096 >= 100 * 409600);
	crowd_close(&c);
}

/* Each thread looks at the clock for itself, some time before it asks. */
TEST(clocks_of_two_threads_differ_a_little)
{
	struct crowd c;
	crowd_open(&c, OPS(10, 100), 2);
	uint64_t start_ns = c.now_ns += NS_PER_S;
	run_user(&c.users[0]);
	rate_gate_shut(&c.users[0].gate);
	c.now_ns -= NS_PER_MS;
	run_user(&c.users[1]);
	EQ(c.users[1].n_passed, 0);
	EQ(next_due(&c)->gate.timer.deadline_ns, start_ns + 10 * NS_PER_MS);
	run_until(&c, start_ns + 100 * NS_PER_MS);
	EQ(c.users[1].n_passed, 10);
	crowd_close(&c);
}

TEST(late_wakes_lose_nothing)
{
	for (unsigned n_users = 1; n_users <= 3; n_users++) {
		struct crowd c;
		crowd_open(&c, OPS(1, 1), n_users);
		c.late_ns = 2300000; /* more than two of its periods */
		uint64_t start_ns = c.now_ns;
		for (unsigned i = 0; i < n_users; i++)
			run_user(&c.users[i]);
		run_until(&c, start_ns + 10 * NS_PER_S);
		OK(passed(&c) <= 10001 && passed(&c) >= 9995);
		for (unsigned i = 0; i < n_users; i++) {
			uint64_t share = passed(&c) / n_users, n = c.users[i].n_passed;
			OK(n + share / 50 >= share && n <= share + share / 50);
		}
		crowd_close(&c);
	}
}

TEST(after_a_long_stop_little_is_owed)
{
	struct crowd c;
	crowd_open(&c, OPS(1, 1), 1);
	run_user(&c.users[0]);
	c.now_ns += 3600 * NS_PER_S;
	run_until(&c, c.now_ns);
	OK(c.users[0].n_passed >= 100 && c.users[0].n_passed <= 103);
	crowd_close(&c);
}

TEST(an_idle_queue_saves_up_no_more_than_the_bucket)
{
	struct crowd c;
	crowd_open(&c, OPS(5, 5), 1);
	run_user(&c.users[0]);
	EQ(c.users[0].n_passed, 5);
	c.users[0].is_idle = true;
	run_until(&c, c.now_ns + NS_PER_S);
	OK(!rate_gate_is_waiting(&c.users[0].gate));
	c.users[0].is_idle = false;
	c.now_ns += 50 * NS_PER_MS;
	run_user(&c.users[0]);
	EQ(c.users[0].n_passed, 10);
	crowd_close(&c);
}

/* The first in line goes, or finds nothing to do when its turn comes: the next has its turn. */
TEST(a_place_in_line_is_handed_on)
{
	for (unsigned way = 0; way < 4; way++) {
		struct crowd c;
		crowd_open(&c, OPS(1, 100), 3);
		for (unsigned i = 0; i < 3; i++)
			run_user(&c.users[i]);
		OK(next_due(&c) == &c.users[0]);
		if (way == 0)
			rate_gate_shut(&c.users[0].gate); /* the first */
		else if (way == 1)
			rate_gate_shut(&c.users[1].gate); /* one in the middle */
		else if (way == 2)
			c.users[0].is_idle = true;
		else
			c.users[1].is_idle = true;
		loop_flush(c.loop);
		run_until(&c, c.now_ns + 1000 * NS_PER_MS);
		EQ(passed(&c), 11);
		unsigned gone = way % 2;
		OK(c.users[gone].n_passed <= 1 && c.users[1 - gone].n_passed >= 5 && c.users[2].n_passed == 5);
		crowd_close(&c);
	}
}

TEST(a_gate_that_was_shut_with_its_turn_on_the_way)
{
	struct crowd c;
	crowd_open(&c, OPS(1, 100), 2);
	for (unsigned i = 0; i < 2; i++)
		run_user(&c.users[i]);
	rate_gate_shut(&c.users[0].gate);
	rate_gate_shut(&c.users[1].gate); /* the message is posted, and has not run */
	turn(&c);
	OK(!next_due(&c));
	rate_gate_open(&c.users[1].gate, c.limit, c.loop, on_wake);
	run_user(&c.users[1]);
	OK(next_due(&c) == &c.users[1]);
	crowd_close(&c);
	struct rate_gate never = { 0 };
	rate_gate_shut(&never);
	OK(rate_gate_pass(&never, 1, 1) && !rate_gate_is_waiting(&never));
	rate_limit_free(NULL);
}

/* --- on threads -------------------------------------------------------------------------------------------------------- */

struct worker {
	struct loop_thread thread;
	struct rate_gate gate;
	struct loop_message go;
	_Atomic uint64_t n_passed;
};

static void work(struct worker *w)
{
	while (rate_gate_pass(&w->gate, 0, clock_now_ns()))
		w->n_passed++;
	rate_gate_end_run(&w->gate);
}

static void on_worker_wake(struct rate_gate *g)
{
	work(container_of(g, struct worker, gate));
}

static void on_go(struct loop_message *m)
{
	work(container_of(m, struct worker, go));
}

static int shut_worker(void *arg)
{
	rate_gate_shut(arg);
	return 0;
}

TEST(two_loops_share_evenly)
{
	struct rate_limit *limit = OPS(1, 2);
	struct worker w[2] = { 0 };
	for (unsigned i = 0; i < 2; i++)
		EQ(loop_thread_start(&w[i].thread, "gate", NULL), 0);
	for (unsigned i = 0; i < 2; i++)
		rate_gate_open(&w[i].gate, limit, w[i].thread.loop, on_worker_wake);
	uint64_t start_ns = clock_now_ns();
	loop_post(w[0].thread.loop, &w[0].go, on_go);
	loop_flush(w[0].thread.loop);
	loop_post(w[1].thread.loop, &w[1].go, on_go);
	loop_flush(w[1].thread.loop); /* both wait now */
	uint64_t n_second = w[1].n_passed, n_first = w[0].n_passed;
	OK(n_second == 0 || n_first > 1); /* the first had the one token; both only if the machine slept */
	while (w[0].n_passed + w[1].n_passed < 200) {
		OK(clock_now_ns() - start_ns < 60 * NS_PER_S);
		test_sleep_us(2000);
	}
	for (unsigned i = 0; i < 2; i++)
		(void)loop_call(w[i].thread.loop, shut_worker, &w[i].gate);
	uint64_t elapsed_ns = clock_now_ns() - start_ns, a = w[0].n_passed, b = w[1].n_passed;
	OK(a + b <= 1 + elapsed_ns / (2 * NS_PER_MS) + 1);
	OK(a - n_first <= 16 * (b + 2) && b <= 16 * (a - n_first + 2)); /* a turn each, of 1 to 16 */
	for (unsigned i = 0; i < 2; i++)
		loop_thread_stop(&w[i].thread);
	rate_limit_free(limit);
}

/* Gates that come and go on two loops, while the others' turns are on the way. */
static int reopen_worker(void *arg)
{
	struct worker *w = arg;
	struct rate_limit *limit = w->gate.limit;
	rate_gate_shut(&w->gate);
	rate_gate_open(&w->gate, limit, w->thread.loop, on_worker_wake);
	work(w);
	return 0;
}

TEST(coming_and_going_loses_no_turn)
{
	struct rate_limit *limit = OPS(20, 1);
	struct worker w[4] = { 0 };
	for (unsigned i = 0; i < 4; i++) {
		EQ(loop_thread_start(&w[i].thread, "gate", NULL), 0);
		rate_gate_open(&w[i].gate, limit, w[i].thread.loop, on_worker_wake);
		loop_post(w[i].thread.loop, &w[i].go, on_go);
	}
	for (unsigned i = 0; i < 2000; i++)
		(void)loop_call(w[i % 3].thread.loop, reopen_worker, &w[i % 3]);
	uint64_t before = w[3].n_passed, start_ns = clock_now_ns();
	while (w[3].n_passed < before + 10) {
		OK(clock_now_ns() - start_ns < 60 * NS_PER_S);
		test_sleep_us(1000);
	}
	for (unsigned i = 0; i < 4; i++) {
		(void)loop_call(w[i].thread.loop, shut_worker, &w[i].gate);
		loop_thread_stop(&w[i].thread);
	}
	rate_limit_free(limit);
}

/* --- which limit a disk has, by the configuration ------------------------------------------------------------------------ */

TEST(groups_are_shared_and_a_disks_own_is_not)
{
	const struct token_bucket_config one = { .size = 1, .refill_time = 1000 };
	struct rate_limit_group_config groups[2] = {
		{ .id = (char[]){ "a" }, .rate_limiter_config = { .has_ops = true, .ops = one } },
		{ .id = (char[]){ "b" }, .rate_limiter_config = { .has_bandwidth = true, .bandwidth = one } },
	};
	struct vm_config config = { .rate_limit_groups = groups, .n_rate_limit_groups = 2 };
	struct machine *m = calloc(1, sizeof *m);
	OK(m);
	m->p.config = &config;
	EQ(machine_make_limits(m, NULL), 0);

	struct disk_config none = { .id = (char[]){ "d" } }, a = none, b = none, own = none, wrong = none;
	a.rate_limit_group = groups[0].id;
	b.rate_limit_group = groups[1].id;
	wrong.rate_limit_group = (char[]){ "c" };
	own.has_rate_limiter_config = true;
	own.rate_limiter_config = groups[0].rate_limiter_config;
	struct rate_limit *first = NULL, *second = NULL; /* own ones */
	struct rate_limit *r[6] = { 0 };
	struct err e = { 0 };
	EQ(machine_limit_disk(m, &a, &first, &r[0], &e), 0);
	EQ(machine_limit_disk(m, &a, &first, &r[1], &e), 0);
	EQ(machine_limit_disk(m, &b, &first, &r[2], &e), 0);
	OK(r[0] && r[0] == r[1] && r[2] && r[2] != r[0] && !first);
	EQ(machine_limit_disk(m, &none, &first, &r[3], &e), 0);
	OK(!r[3]);
	EQ(machine_limit_disk(m, &own, &first, &r[4], &e), 0);
	EQ(machine_limit_disk(m, &own, &second, &r[5], &e), 0);
	OK(r[4] == first && r[5] == second && r[4] && r[5] && r[4] != r[5]);
	EQ(machine_limit_disk(m, &wrong, &first, &r[3], &e), -EINVAL);
	STR_EQ(e.text, "d: there is no rate limit group 'c'");

	/* The numbers arrive: one operation a second. */
	struct crowd c;
	crowd_open(&c, r[4], 1);
	run_user(&c.users[0]);
	EQ(c.users[0].n_passed, 1);
	EQ(c.users[0].gate.timer.deadline_ns, c.now_ns + NS_PER_S);
	crowd_close(&c); /* with first */
	rate_limit_free(second);
	machine_free_limits(m);
	free(m);
}

/* --- disks ---------------------------------------------------------------------------------------------------------------- */

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_ID = 8 };

#define F_FLUSH (1ull << 9)
#define SECTOR 512u
#define QUEUE_SIZE 256u
#define N_SLOTS 64u /* requests a queue that a test offers at a time: of three descriptors each */

/* Of request i. */
#define HEADER(i) (RING_DATA + 0x40ull * (i))
#define STATUS(i) (RING_DATA + 0x40ull * (i) + 0x20)
#define DATA (RING_DATA + 0x10000)

struct disk {
	struct rig g;
	struct block_image *image;
	char path[64];
	unsigned n_offered;
};

static void disk_open(struct disk *d, struct rate_limit *limit, uint64_t features)
{
	struct err e = { 0 };
	memset(d, 0, sizeof *d);
	(void)snprintf(d->path, sizeof d->path, "/var/tmp/varan-limit-XXXXXX");
	int fd = mkstemp(d->path);
	OK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	close(fd);
	struct block_params bp = { .path = d->path };
	if (block_open(&bp, &d->image, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	struct virtio_blk_params vp = { .image = d->image, .limit = limit, .n_queues = 1 };
	rig_open(&d->g, &virtio_blk, &vp, QUEUE_SIZE);
	rig_start(&d->g, features | F_FLUSH);
}

static void disk_close(struct disk *d)
{
	rig_close(&d->g);
	block_close(d->image);
	unlink(d->path);
}

/* No kick. */
static void offer(struct disk *d, uint32_t type, uint32_t n_bytes)
{
	struct ring *r = &d->g.rings[0];
	unsigned i = d->n_offered++ % N_SLOTS;
	uint16_t head = (uint16_t)(3 * i), next = head;
	uint8_t h[16] = { 0 };
	put_le32(h, type);
	OK(mem_write(&d->g.mem, GPA(HEADER(i)), h, sizeof h));
	uint8_t none = 0xee;
	OK(mem_write(&d->g.mem, GPA(STATUS(i)), &none, 1));
	ring_put(r, next, (struct ring_desc){ .addr = HEADER(i), .len = 16, .flags = DESC_NEXT, .next = (uint16_t)(next + 1) });
	next++;
	if (n_bytes) {
		uint16_t flags = type == T_OUT ? DESC_NEXT : DESC_NEXT | DESC_WRITE;
		ring_put(r, next, (struct ring_desc){ .addr = DATA, .len = n_bytes, .flags = flags, .next = (uint16_t)(next + 1) });
		next++;
	}
	ring_put(r, next, (struct ring_desc){ .addr = STATUS(i), .len = 1, .flags = DESC_WRITE });
	ring_offer(r, head);
}

static unsigned n_used(const struct disk *d)
{
	return ring_used_idx(&d->g.rings[0]);
}

static void wait_used(const struct disk *d, unsigned n)
{
	uint64_t start_ns = clock_now_ns();
	while (n_used(d) < n) {
		OK(clock_now_ns() - start_ns < 60 * NS_PER_S);
		test_sleep_us(500);
	}
}

static void all_went_well(struct disk *d)
{
	struct ring_used u;
	while (ring_take(&d->g.rings[0], &u)) {
		uint8_t status;
		OK(mem_read(&d->g.mem, GPA(STATUS(u.id / 3)), &status, 1));
		EQ(status, 0);
	}
}

/* What the device wrote into the used ring, at an offset. */
static uint16_t used_field(struct disk *d, uint64_t offset)
{
	struct span s;
	OK(mem_span(&d->g.mem, GPA(d->g.rings[0].used), offset + 2, &s));
	return span_load_le16(s, offset);
}

static uint16_t avail_event(struct disk *d)
{
	return used_field(d, 4 + 8 * QUEUE_SIZE);
}

static uint16_t used_flags(struct disk *d)
{
	return used_field(d, 0);
}

TEST(a_disk_keeps_to_its_operations)
{
	struct disk d;
	struct rate_limit *limit = OPS(10, 100);
	disk_open(&d, limit, 0);
	for (unsigned i = 0; i < 40; i++)
		offer(&d, i % 4 == 3 ? T_FLUSH : i % 4, i % 4 == 3 ? 0 : i % 4 == 2 ? 20 : SECTOR);
	/* 2 is no request type that we know: an operation all the same. */
	uint64_t start_ns = clock_now_ns();
	rig_kick(&d.g, 0);
	wait_used(&d, 40);
	OK(clock_now_ns() - start_ns >= 300 * NS_PER_MS);
	disk_close(&d);
	rate_limit_free(limit);
}

TEST(a_disk_keeps_to_its_bytes)
{
	struct disk d;
	struct rate_limit *limit = BYTES(64 << 10, 100);
	disk_open(&d, limit, 0);
	for (unsigned i = 0; i < 64; i++)
		offer(&d, i % 2 ? T_IN : T_OUT, 4096);
	uint64_t start_ns = clock_now_ns();
	rig_kick(&d.g, 0);
	wait_used(&d, 64);
	OK(clock_now_ns() - start_ns >= 300 * NS_PER_MS);
	all_went_well(&d);
	disk_close(&d);
	rate_limit_free(limit);
}

TEST(only_data_costs_bytes)
{
	struct disk d;
	struct rate_limit *limit = BYTES(8192, FOREVER_MS);
	disk_open(&d, limit, 0);
	offer(&d, T_IN, 4096);
	offer(&d, T_OUT, 4096);
	for (unsigned i = 0; i < 5; i++)
		offer(&d, T_FLUSH, 0);
	offer(&d, T_ID, 20);
	offer(&d, T_OUT, 512);
	rig_kick(&d.g, 0);
	wait_used(&d, 8);
	test_sleep_us(20000);
	EQ(n_used(&d), 8);
	all_went_well(&d);
	disk_close(&d); /* while one waits */
	rate_limit_free(limit);
}

TEST(more_than_the_bucket_passes_in_the_end)
{
	struct disk d;
	struct rate_limit *limit = BYTES(4096, 10);
	disk_open(&d, limit, 0);
	for (unsigned i = 0; i < 3; i++)
		offer(&d, T_IN, 64 << 10);
	uint64_t start_ns = clock_now_ns();
	rig_kick(&d.g, 0);
	wait_used(&d, 3);
	OK(clock_now_ns() - start_ns >= 320 * NS_PER_MS);
	all_went_well(&d);
	disk_close(&d);
	rate_limit_free(limit);
}

/* Offers, and kicks if the device wants that (2.7.10, 2.7.13.3.1). */
static void offer_as_told(struct disk *d)
{
	struct ring *r = &d->g.rings[0];
	uint16_t old = r->n_offered;
	offer(d, T_IN, SECTOR);
	atomic_thread_fence(memory_order_seq_cst);
	uint16_t n_new = (uint16_t)(r->n_offered - old), n_behind_event = (uint16_t)(r->n_offered - avail_event(d) - 1);
	if (r->has_event_idx ? n_behind_event < n_new : used_flags(d) == 0)
		rig_kick(&d->g, 0);
}

/* While it waits it asks for no kicks, and needs none; then it asks again. A driver that kicks all the same gains nothing. */
static void check_quiet(bool has_event_idx, bool has_storm)
{
	struct disk d;
	struct rate_limit *limit = OPS(2, 200);
	disk_open(&d, limit, has_event_idx ? VIRTIO_F_EVENT_IDX : 0);
	for (unsigned i = 0; i < 3; i++)
		offer(&d, T_IN, SECTOR);
	uint64_t start_ns = clock_now_ns();
	rig_kick(&d.g, 0);
	wait_used(&d, 2);
	test_sleep_us(10000);
	for (unsigned i = 0; has_storm && i < 100; i++)
		rig_kick(&d.g, 0);
	test_sleep_us(10000);
	bool is_quiet = has_event_idx ? avail_event(&d) == 0 : used_flags(&d) == 1;
	unsigned n = n_used(&d);
	if (clock_now_ns() - start_ns < 90 * NS_PER_MS) /* else the machine was busy elsewhere, and the third may be served */
		OK(is_quiet && n == 2);
	offer_as_told(&d);
	wait_used(&d, 4);
	OK(clock_now_ns() - start_ns >= 200 * NS_PER_MS);
	offer_as_told(&d);
	wait_used(&d, 5);
	all_went_well(&d);
	disk_close(&d);
	rate_limit_free(limit);
}

TEST(a_waiting_queue_is_quiet_and_loses_no_request)
{
	for (unsigned way = 0; way < 4; way++)
		check_quiet(way & 1, way & 2);
}

TEST(reset_while_waiting)
{
	struct disk d;
	struct rate_limit *limit = OPS(3, FOREVER_MS);
	disk_open(&d, limit, 0);
	for (unsigned i = 0; i < 5; i++)
		offer(&d, T_IN, SECTOR);
	rig_kick(&d.g, 0);
	wait_used(&d, 3);
	virtio_set_status(d.g.v, 0);
	EQ(virtio_status(d.g.v), 0);
	/* Another life of the disk, on the same budget. */
	ring_init(&d.g.rings[0], &d.g.mem, 0, QUEUE_SIZE);
	uint8_t zero[2] = { 0 };
	OK(mem_write(&d.g.mem, GPA(d.g.rings[0].avail + 2), zero, 2));
	OK(mem_write(&d.g.mem, GPA(d.g.rings[0].used + 2), zero, 2));
	d.n_offered = 0;
	rig_start(&d.g, F_FLUSH);
	offer(&d, T_IN, SECTOR);
	rig_kick(&d.g, 0);
	test_sleep_us(20000);
	EQ(n_used(&d), 0);
	disk_close(&d);
	rate_limit_free(limit);
}

TEST(pause_and_resume_while_waiting)
{
	struct disk d;
	struct rate_limit *limit = OPS(1, 50);
	disk_open(&d, limit, VIRTIO_F_EVENT_IDX);
	for (unsigned i = 0; i < 4; i++)
		offer(&d, T_IN, SECTOR);
	rig_kick(&d.g, 0);
	wait_used(&d, 1);
	virtio_device_pause(d.g.v);
	unsigned n = n_used(&d);
	test_sleep_us(200000);
	EQ(n_used(&d), n);
	offer(&d, T_IN, SECTOR); /* by a driver that does not know */
	rig_kick(&d.g, 0);
	virtio_device_resume(d.g.v);
	wait_used(&d, 5);
	all_went_well(&d);

	/* Again and again, in all states of the gate. */
	for (unsigned i = 0; i < 20; i++) {
		offer(&d, T_IN, SECTOR);
		rig_kick(&d.g, 0);
		virtio_device_pause(d.g.v);
		virtio_device_resume(d.g.v);
	}
	wait_used(&d, 25);
	virtio_device_pause(d.g.v);
	disk_close(&d);
	rate_limit_free(limit);
}

TEST(two_disks_of_a_group_share)
{
	struct disk d[2];
	struct rate_limit *limit = OPS(10, 100);
	for (unsigned i = 0; i < 2; i++)
		disk_open(&d[i], limit, VIRTIO_F_EVENT_IDX);
	uint64_t start_ns = clock_now_ns();
	for (unsigned i = 0; i < 2; i++) {
		for (unsigned k = 0; k < 25; k++)
			offer(&d[i], T_IN, SECTOR);
		rig_kick(&d[i].g, 0);
	}
	for (unsigned i = 0; i < 2; i++)
		wait_used(&d[i], 25);
	OK(clock_now_ns() - start_ns >= 400 * NS_PER_MS);
	for (unsigned i = 0; i < 2; i++) {
		all_went_well(&d[i]);
		disk_close(&d[i]);
	}
	rate_limit_free(limit);
}

/* The first in line is reset, or goes away: the other disk has its turn. */
TEST(a_disk_that_goes_hands_its_turn_on)
{
	for (unsigned way = 0; way < 2; way++) {
		struct disk d[2];
		struct rate_limit *limit = OPS(1, 300);
		for (unsigned i = 0; i < 2; i++)
			disk_open(&d[i], limit, 0);
		uint64_t start_ns = clock_now_ns();
		offer(&d[0], T_IN, SECTOR);
		offer(&d[0], T_IN, SECTOR);
		rig_kick(&d[0].g, 0);
		wait_used(&d[0], 1);
		offer(&d[1], T_IN, SECTOR);
		rig_kick(&d[1].g, 0);
		test_sleep_us(20000);
		if (way)
			disk_close(&d[0]);
		else
			virtio_set_status(d[0].g.v, 0);
		wait_used(&d[1], 1);
		OK(clock_now_ns() - start_ns >= 300 * NS_PER_MS);
		if (!way)
			disk_close(&d[0]);
		disk_close(&d[1]);
		rate_limit_free(limit);
	}
}

/* A driver that takes its request back, or breaks its ring, while it is first in line keeps nobody waiting. */
TEST(a_broken_ring_hands_its_turn_on)
{
	struct disk d[2];
	struct rate_limit *limit = OPS(1, 100);
	for (unsigned i = 0; i < 2; i++)
		disk_open(&d[i], limit, 0);
	offer(&d[0], T_IN, SECTOR);
	offer(&d[0], T_IN, SECTOR);
	rig_kick(&d[0].g, 0);
	wait_used(&d[0], 1);
	offer(&d[1], T_IN, SECTOR);
	rig_kick(&d[1].g, 0);
	ring_set_avail_idx(&d[0].g.rings[0], 30000);
	rig_kick(&d[0].g, 0); /* if it should wait no longer */
	wait_used(&d[1], 1);
	uint64_t start_ns = clock_now_ns();
	while (!(virtio_status(d[0].g.v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET)) {
		OK(clock_now_ns() - start_ns < 60 * NS_PER_S);
		test_sleep_us(500);
	}
	for (unsigned i = 0; i < 2; i++)
		disk_close(&d[i]);
	rate_limit_free(limit);
}

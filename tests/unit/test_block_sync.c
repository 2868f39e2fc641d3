/* SPDX-License-Identifier: Apache-2.0 */
/* What a flush is worth: how often the host is asked to make something durable, and what every flush is told when that
 * failed. That an image outlives its process without any sync is block_crash's. */
#include "block_kit.h"

#include <poll.h>

#include <pthread.h>

#define MB (1024ull * 1024)
#define DISK_BYTES (8 * MB)

static const enum block_type types[] = { BLOCK_TYPE_RAW, BLOCK_TYPE_QCOW2, BLOCK_TYPE_VHD, BLOCK_TYPE_VHDX, BLOCK_TYPE_VMDK };

static struct kit new_disk(enum block_type type, enum block_sync sync, int mode)
{
	struct kit k = { .type = type, .sync = sync, .mode = mode };
	struct err e = { 0 };
	(void)snprintf(k.path, sizeof k.path, "%s/disk", kit_folder);
	struct block_create_params p = { .path = k.path, .type = type, .n_bytes = DISK_BYTES, .may_replace = true };
	if (block_create(&p, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	return k;
}

/* --- how often --- */

static _Atomic unsigned n_syncs;

static _Atomic bool is_sync_bad, is_write_bad;

static long count(void *context, const struct block_step *s)
{
	(void)context;
	long n = -1;
	if ((s->op == BLOCK_STEP_SYNC && is_sync_bad) || (s->op == BLOCK_STEP_WRITE && is_write_bad))
		return -EIO;
	if (s->op == BLOCK_STEP_SYNC) {
		n_syncs++;
		return 0;
	}
	int fd = s->is_buffered ? s->file->buffered_fd : s->file->fd;
	if (s->op == BLOCK_STEP_READ)
		n = preadv(fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
	else if (s->op == BLOCK_STEP_WRITE)
		n = pwritev(fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
	else if (s->op == BLOCK_STEP_FALLOCATE)
		n = fallocate(fd, s->mode, (off_t)s->offset_bytes, (off_t)s->n_bytes);
	return n < 0 ? -errno : n;
}

static const struct block_seam counting = { .execute = count };

/* Until the last flush, and all of it. */
static void use(enum block_type type, enum block_sync sync, unsigned *ret_n_flushed, unsigned *ret_n)
{
	struct kit k = new_disk(type, sync, 0);
	uint8_t *bytes = malloc(MB);
	memset(bytes, 0x5a, MB);
	n_syncs = 0;
	kit_open(&k);
	k.image->seam = &counting;
	for (unsigned n = 0; n < 3; n++) {
		EQ(kit_do(&k, BLOCK_WRITE, 2 * n * MB, bytes, MB), 0);
		EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
	}
	EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0); /* with nothing to write */
	*ret_n_flushed = n_syncs;
	EQ(kit_do(&k, BLOCK_WRITE, 7 * MB, bytes, MB), 0);
	kit_close(&k);
	*ret_n = n_syncs;
	/* And all that was written is there. */
	kit_open(&k);
	for (unsigned n = 0; n < 8; n++) {
		EQ(kit_do(&k, BLOCK_READ, n * MB, bytes, MB), 0);
		EQ(bytes[MB - 1], n == 7 || (n % 2 == 0 && n < 6) ? 0x5a : 0);
	}
	kit_close(&k);
	free(bytes);
}

TEST(without_sync_nothing_is_ever_synced)
{
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(types); n++) {
		unsigned full, full_end, relaxed, relaxed_end, none, none_end;
		use(types[n], BLOCK_SYNC_FULL, &full, &full_end);
		use(types[n], BLOCK_SYNC_RELAXED, &relaxed, &relaxed_end);
		use(types[n], BLOCK_SYNC_NONE, &none, &none_end);
		OK(full >= 4 && full_end > full);
		EQ(relaxed, full);
		EQ(relaxed_end, full_end);
		EQ(none, 0);
		EQ(none_end, 0);
	}
	kit_folder_done();
}

/* By whichever engine: a pipe cannot be synced. */
TEST(without_sync_a_flush_asks_the_host_for_nothing)
{
	for (unsigned n = 0; n < 2 * ARRAY_LEN(types); n++) {
		int ends[2];
		kit_folder_new(0);
		struct kit k = new_disk(types[n / 2], BLOCK_SYNC_NONE, n % 2 ? KIT_WORKERS : 0);
		kit_open(&k);
		int fd = k.image->file->fd, saved = dup(fd);
		EQ(pipe(ends), 0);
		EQ(dup2(ends[1], fd), fd);
		EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
		EQ(dup2(saved, fd), fd);
		kit_close(&k);
		close(saved);
		close(ends[0]);
		close(ends[1]);
		kit_folder_done();
	}
}

/* --- what two are told --- */

/* As the kernel does it: what could not be written is told once, to whoever comes first; and the sync that is told takes longer
 * than another that began with it. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned n_inside, n_max, n_done;
	bool has_error;
} kernel = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* Until n_done reaches n, or for a while. */
static void wait_for_another(unsigned n)
{
	struct timespec end;
	(void)clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += 200 * 1000 * 1000;
	end.tv_sec += end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	while (kernel.n_done < n && pthread_cond_clockwait(&kernel.changed, &kernel.lock, CLOCK_MONOTONIC, &end) != ETIMEDOUT)
		;
}

static long tell_once(void *context, const struct block_step *s)
{
	if (s->op != BLOCK_STEP_SYNC)
		return count(context, s);
	(void)pthread_mutex_lock(&kernel.lock);
	kernel.n_inside++;
	kernel.n_max = kernel.n_inside > kernel.n_max ? kernel.n_inside : kernel.n_max;
	bool is_told = kernel.has_error;
	kernel.has_error = false;
	if (is_told)
		wait_for_another(1);
	kernel.n_inside--;
	kernel.n_done++;
	(void)pthread_cond_broadcast(&kernel.changed);
	(void)pthread_mutex_unlock(&kernel.lock);
	return is_told ? -EIO : 0;
}

static const struct block_seam telling = { .execute = tell_once };

TEST(each_flush_that_overlaps_a_failed_sync_fails)
{
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(types); n++) {
		struct kit k = new_disk(types[n], BLOCK_SYNC_FULL, 0);
		struct kit_op flushes[4] = { 0 };
		uint8_t sector[512] = { 1 };
		kit_open(&k);
		k.image->seam = &telling;
		EQ(kit_do(&k, BLOCK_WRITE, 0, sector, sizeof sector), 0);
		EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
		kernel.n_done = kernel.n_max = 0;
		kernel.has_error = true;
		for (unsigned j = 0; j < ARRAY_LEN(flushes); j++)
			kit_submit(&k, j % KIT_LANES, &flushes[j], BLOCK_FLUSH, 0, 0);
		kit_wait(&k, flushes, ARRAY_LEN(flushes));
		for (unsigned j = 0; j < ARRAY_LEN(flushes); j++)
			EQ(flushes[j].result, -EIO);
		EQ(kernel.n_max, 1);
		kit_close(&k);
	}
	kit_folder_done();
}

static struct {
	_Atomic unsigned n_begun;
	_Atomic bool is_held;
} slow;

static long sync_slowly(void *context, const struct block_step *s)
{
	if (s->op != BLOCK_STEP_SYNC)
		return count(context, s);
	slow.n_begun++;
	while (slow.is_held)
		(void)poll(NULL, 0, 1);
	return 0;
}

static const struct block_seam slowly = { .execute = sync_slowly };

/* Those that came while one was under way need another, but no more than one together. */
TEST(one_sync_answers_all_flushes_that_waited_for_it)
{
	kit_folder_new(0);
	struct kit k = new_disk(BLOCK_TYPE_RAW, BLOCK_SYNC_FULL, 0);
	struct kit_op flushes[24] = { 0 };
	uint8_t sector[512] = { 1 };
	kit_open(&k);
	k.image->seam = &slowly;
	EQ(kit_do(&k, BLOCK_WRITE, 0, sector, sizeof sector), 0);
	slow.n_begun = 0;
	slow.is_held = true;
	kit_submit(&k, 0, &flushes[0], BLOCK_FLUSH, 0, 0);
	while (slow.n_begun == 0)
		OK(loop_run_once(k.loops[0], 1) >= 0);
	for (unsigned j = 1; j < ARRAY_LEN(flushes); j++)
		kit_submit(&k, j % KIT_LANES, &flushes[j], BLOCK_FLUSH, 0, 0);
	for (int i = 0; i < 20; i++)
		OK(loop_run_once(k.loops[i % KIT_LANES], 1) >= 0);
	slow.is_held = false;
	kit_wait(&k, flushes, ARRAY_LEN(flushes));
	for (unsigned j = 0; j < ARRAY_LEN(flushes); j++)
		EQ(flushes[j].result, 0);
	EQ(slow.n_begun, 2);
	kit_close(&k);
	kit_folder_done();
}

/* The ring takes one, and workers wait for it with the others. */
TEST(many_flushes_at_once_all_end)
{
	kit_folder_new(KIT_DIRECT);
	for (size_t n = 0; n < ARRAY_LEN(types); n++) {
		struct kit k = new_disk(types[n], BLOCK_SYNC_FULL, 0);
		struct kit_op ops[24] = { 0 };
		uint8_t sector[512] = { 1 };
		kit_open(&k);
		for (unsigned round = 0; round < 10; round++) {
			for (unsigned j = 0; j < ARRAY_LEN(ops); j++) {
				bool is_flush = j % 3 != 0;
				ops[j].buffer = sector;
				kit_submit(&k, j % KIT_LANES, &ops[j], is_flush ? BLOCK_FLUSH : BLOCK_WRITE,
				           is_flush ? 0 : (round * 24 + j) * 4096ull, is_flush ? 0 : 512);
			}
			kit_wait(&k, ops, ARRAY_LEN(ops));
			for (unsigned j = 0; j < ARRAY_LEN(ops); j++)
				EQ(ops[j].result, 0);
		}
		EQ(k.image->file->is_syncing, 0);
		kit_close(&k);
	}
	kit_folder_done();
}

/* --- the end --- */

static int close_durably(struct kit *k, struct err *e)
{
	for (unsigned l = 0; l < KIT_LANES; l++)
		block_lane_close(k->lanes[l]);
	int rc = block_close_durably(k->image, e);
	for (unsigned l = 0; l < KIT_LANES; l++)
		loop_free(k->loops[l]);
	return rc;
}

/* What is written at the end: tables, and the marks that say that an image is in use. */
TEST(an_image_that_cannot_be_closed_in_order_says_so)
{
	uint8_t *bytes = malloc(MB);
	memset(bytes, 0x5a, MB);
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(types); n++) {
		for (unsigned bad = 0; bad < 3; bad++) {
			struct kit k = new_disk(types[n], BLOCK_SYNC_FULL, 0);
			struct err e = { 0 };
			kit_open(&k);
			k.image->seam = &counting;
			EQ(kit_do(&k, BLOCK_WRITE, MB, bytes, MB), 0);
			is_sync_bad = bad == 1;
			is_write_bad = bad == 2;
			/* A raw image has nothing to write at the end. */
			bool is_failing = bad == 1 || (bad == 2 && types[n] != BLOCK_TYPE_RAW);
			kit_log[0] = 0;
			EQ(close_durably(&k, &e), is_failing ? -EIO : 0);
			is_sync_bad = is_write_bad = false;
			if (is_failing) {
				STR_HAS(e.text, "cannot make all that was written to");
				OK(kit_log[0]);
			}
			kit_open(&k); /* it is one still */
			EQ(kit_do(&k, BLOCK_READ, MB, bytes, MB), 0);
			kit_close(&k);
			memset(bytes, 0x5a, MB);
		}
	}
	free(bytes);
	kit_folder_done();
}

/* All is flushed: what is left is the mark. */
TEST(a_mark_that_cannot_be_taken_off_is_told)
{
	static const enum block_type marked[] = { BLOCK_TYPE_VHDX, BLOCK_TYPE_VMDK };
	uint8_t bytes[4096] = { 1 };
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(marked); n++) {
		struct kit k = new_disk(marked[n], BLOCK_SYNC_FULL, 0);
		struct err e = { 0 };
		kit_open(&k);
		k.image->seam = &counting;
		EQ(kit_do(&k, BLOCK_WRITE, MB, bytes, sizeof bytes), 0);
		EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
		is_write_bad = true;
		EQ(close_durably(&k, &e), -EIO);
		is_write_bad = false;
		/* Who opens it next finds what was flushed. */
		kit_open(&k);
		EQ(kit_do(&k, BLOCK_READ, MB, bytes, sizeof bytes), 0);
		EQ(bytes[0], 1);
		kit_close(&k);
	}
	kit_folder_done();
}

struct watch {
	struct loop_hook h;
	const struct kit_op *o;
	bool was_done;
};

static void on_watch(struct loop_hook *h)
{
	struct watch *w = container_of(h, struct watch, h);
	w->was_done = w->o->is_done;
}

/* The loop's wait is a system call, and what interrupts it is often the completion itself. */
TEST(what_is_complete_is_taken_before_the_loop_waits)
{
	struct kit_op o = { 0 };
	struct watch w = { .o = &o };
	kit_folder_new(KIT_DIRECT); /* not in memory: the sync is done by the kernel's workers, and never at once */
	struct kit k = new_disk(BLOCK_TYPE_RAW, BLOCK_SYNC_FULL, 0);
	kit_open(&k);
	kit_submit(&k, 0, &o, BLOCK_FLUSH, 0, 0);
	(void)loop_run_once(k.loops[0], 0);
	if (strcmp(block_lane_engine(k.lanes[0]), "io_uring") != 0)
		test_skip("there is no io_uring");
	struct pollfd ring = { .fd = k.lanes[0]->uring.ring.ring_fd, .events = POLLIN };
	OK(o.is_done || poll(&ring, 1, 20000) == 1);
	loop_hook_add(k.loops[0], &w.h, on_watch);
	OK(loop_run_once(k.loops[0], 0) >= 0);
	OK(w.was_done);
	EQ(o.result, 0);
	loop_hook_remove(&w.h);
	kit_close(&k);
	kit_folder_done();
}

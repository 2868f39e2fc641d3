// SPDX-License-Identifier: Apache-2.0
/* The engine by io_uring: one ring a lane, made on the lane's thread.
 *
 * Theory of operation. block_uring_push() fills a submission entry; block_uring_flush() gives all of them to the kernel
 * in one system call, before the loop waits. The ring's own descriptor is in the loop's epoll set, readable while
 * completions wait: taking them costs no system call, and what completed within the submission (cached data) is taken
 * right after it without a wait. At most as many requests are in the ring as the completion ring has room for, so it
 * cannot overflow. A request that the kernel has not taken stays in `unsent`: when the ring turns out to be of no use
 * (a filter, a limit), the lane carries those out by other means. */
#include "backend/block_impl.h"

#include "base/host_cpus.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Submission entries, 64 bytes each; full is normal. */
#define MAX_ENTRIES 128u
#define REAP_BATCH 32u
/* Of an image and what it is based on; those with more do without. */
#define MAX_FIXED_FILES 64u

static void on_completions(struct source *s, uint32_t events)
{
	struct block_uring *u = container_of(s, struct block_uring, source);
	(void)events;
	(void)block_uring_reap(container_of(u, struct block_lane, uring));
}

/* COOP_TASKRUN spares the interrupt of a thread that is in user space; Linux 5.19. */
static int set_up_ring(struct io_uring *ring, unsigned n_entries)
{
	int rc = io_uring_queue_init(n_entries, ring, IORING_SETUP_COOP_TASKRUN);
	if (rc == -EINVAL)
		rc = io_uring_queue_init(n_entries, ring, 0);
	return rc;
}

/* Two places for each file of the tree; -1 is an empty one. */
static bool register_files(struct block_lane *lane)
{
	const struct block_image *i = lane->image;
	int fds[2 * MAX_FIXED_FILES];
	if (i->n_files > MAX_FIXED_FILES)
		return false;
	for (unsigned k = 0; k < i->n_files; k++) {
		fds[2 * k] = i->files[k]->fd;
		fds[2 * k + 1] = i->files[k]->buffered_fd;
	}
	return io_uring_register_files(&lane->uring.ring, fds, 2 * i->n_files) == 0;
}

/* The kernel's workers, which do what would block (each sync, for one), run anywhere but where they are told. They are to run
 * where the lane's thread may, if that is less than what the program may use. An old kernel has no word for it. */
static void bind_workers(struct io_uring *ring)
{
	struct {
		cpu_set_t sets[HOST_CPUS_MAX / CPU_SETSIZE];
	} own = { 0 }, all = { 0 };
	if (sched_getaffinity(0, sizeof own, own.sets) == 0 && sched_getaffinity(getpid(), sizeof all, all.sets) == 0 &&
	    memcmp(&own, &all, sizeof own) != 0)
		(void)io_uring_register_iowq_aff(ring, sizeof own, own.sets);
}

int block_uring_open(struct block_lane *lane, struct err *e)
{
	struct block_uring *u = &lane->uring;
	unsigned n_entries = lane->n_max < MAX_ENTRIES ? lane->n_max : MAX_ENTRIES;
	assert(!u->is_open);

	int rc = set_up_ring(&u->ring, n_entries);
	if (rc < 0)
		return err_set_errno(e, -rc, "block: cannot set up io_uring");
	/* All operations used here are in Linux 5.6, which this feature marks. */
	if (!(u->ring.features & IORING_FEAT_CUR_PERSONALITY)) {
		io_uring_queue_exit(&u->ring);
		return err_set(e, ENOSYS, "block: this kernel's io_uring is too old");
	}

	bind_workers(&u->ring);
	u->has_fixed_files = register_files(lane);
	rc = loop_add(lane->loop, &u->source, u->ring.ring_fd, EPOLLIN, on_completions, e);
	if (rc < 0) {
		io_uring_queue_exit(&u->ring);
		return rc;
	}
	u->n_max = u->ring.cq.ring_entries;
	u->is_open = true;
	return 0;
}

void block_uring_close(struct block_lane *lane)
{
	struct block_uring *u = &lane->uring;
	if (!u->is_open)
		return;
	assert(u->n_in_kernel == 0 && u->n_unsent == 0);
	loop_remove(&u->source);
	io_uring_queue_exit(&u->ring);
	u->is_open = false;
}

bool block_uring_has_room(const struct block_uring *u)
{
	return u->n_unsent + u->n_in_kernel < u->n_max;
}

static void fill_entry(const struct block_lane *lane, struct io_uring_sqe *sqe, const struct block_step *s)
{
	const struct block_uring *u = &lane->uring;
	int fd = s->is_buffered ? s->file->buffered_fd : s->file->fd;
	if (u->has_fixed_files)
		fd = (int)(2 * s->file->index + s->is_buffered);
	bool is_single = s->n_iov == 1;
	/* More than the kernel moves at once comes back short, and is continued. */
	unsigned n_single = is_single ? (unsigned)min_u64(s->iov->iov_len, 1u << 30) : 0;

	switch (s->op) {
	case BLOCK_STEP_READ:
		if (is_single)
			io_uring_prep_read(sqe, fd, s->iov->iov_base, n_single, s->offset_bytes);
		else
			io_uring_prep_readv(sqe, fd, s->iov, (unsigned)s->n_iov, s->offset_bytes);
		break;
	case BLOCK_STEP_WRITE:
		if (is_single)
			io_uring_prep_write(sqe, fd, s->iov->iov_base, n_single, s->offset_bytes);
		else
			io_uring_prep_writev(sqe, fd, s->iov, (unsigned)s->n_iov, s->offset_bytes);
		break;
	case BLOCK_STEP_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case BLOCK_STEP_FALLOCATE:
		io_uring_prep_fallocate(sqe, fd, s->mode, (off_t)s->offset_bytes, (off_t)s->n_bytes);
		break;
	case BLOCK_STEP_DISCARD_DEVICE:
	case BLOCK_STEP_CALL:
		assert(false); /* not for the ring */
		break;
	}
	if (u->has_fixed_files)
		io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
}

bool block_uring_push(struct block_lane *lane, struct block_request *r)
{
	struct block_uring *u = &lane->uring;
	assert(u->is_open && !u->is_broken && block_uring_has_room(u));
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
	if (!sqe && block_uring_flush(u) == 0)
		sqe = io_uring_get_sqe(&u->ring);
	if (!sqe)
		return false;
	fill_entry(lane, sqe, &r->step);
	io_uring_sqe_set_data(sqe, r);
	block_fifo_push(&u->unsent, r);
	u->n_unsent++;
	return true;
}

int block_uring_flush(struct block_uring *u)
{
	while (u->n_unsent) {
		int n = io_uring_submit(&u->ring);
		if (n == -EINTR)
			continue;
		if (n == 0 || n == -EBUSY || n == -ENOMEM)
			return -EAGAIN;
		if (n < 0)
			return n;
		assert((unsigned)n <= u->n_unsent);
		for (int i = 0; i < n; i++)
			(void)block_fifo_pop(&u->unsent);
		u->n_unsent -= (unsigned)n;
		u->n_in_kernel += (unsigned)n;
	}
	return 0;
}

unsigned block_uring_reap(struct block_lane *lane)
{
	struct block_uring *u = &lane->uring;
	unsigned n_done = 0;
	if (!u->is_open)
		return 0;

	struct io_uring_cqe *cqes[REAP_BATCH];
	/* Bounded: what is submitted meanwhile is taken the next time. */
	unsigned n_expected = u->n_in_kernel;
	while (n_done < n_expected) {
		unsigned n = io_uring_peek_batch_cqe(&u->ring, cqes, REAP_BATCH);
		if (n == 0)
			break;
		struct block_request *requests[REAP_BATCH];
		int results[REAP_BATCH];
		for (unsigned i = 0; i < n; i++) {
			requests[i] = io_uring_cqe_get_data(cqes[i]);
			results[i] = cqes[i]->res;
		}
		io_uring_cq_advance(&u->ring, n);
		assert(n <= u->n_in_kernel);
		u->n_in_kernel -= n;
		n_done += n;
		for (unsigned i = 0; i < n; i++) {
			const struct block_step *s = &requests[i]->step;
			bool is_sync = s->op == BLOCK_STEP_SYNC;
			block_lane_step_done(lane, requests[i],
			                     is_sync ? block_file_synced(lane->image, s->file, results[i]) : results[i]);
		}
	}
	return n_done;
}

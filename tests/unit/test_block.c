/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of a disk: both engines, buffered and direct, against a model in memory, with the host's faults let
 * in by a format that judges some results otherwise than they were. */
#include "backend/block_impl.h"
#include "base/clock.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- the bench --- */

struct bench {
	char path[64];
	struct block_image *image;
	struct block_lane *lane;
	struct loop *loop;
	unsigned n_batches;
};

enum mode { BUFFERED = 0, WORKERS = 1, DIRECT = 2 };

static char last_log[LOG_TEXT_BYTES];

static void keep_log(void *context, const struct log_record *r)
{
	(void)context;
	(void)snprintf(last_log, sizeof last_log, "%s", r->text);
}

static const struct log_sink sink = { .write = keep_log, .max_level = LOG_DEBUG };
static const struct log test_log = { .sink = &sink, .object = "_disk0" };

static void make_file(char *ret_path, size_t n_path, const char *folder, uint64_t n_bytes)
{
	(void)snprintf(ret_path, n_path, "%s/varan-block-XXXXXX", folder);
	int fd = mkstemp(ret_path);
	OK(fd >= 0);
	EQ(ftruncate(fd, (off_t)n_bytes), 0);
	close(fd);
}

static struct block_params params_for(const struct bench *b, int mode)
{
	return (struct block_params){
		.path = b->path, .is_direct = mode & DIRECT, .has_no_io_uring = mode & WORKERS, .has_discard = true,
		.log = &test_log,
	};
}

static void count_batch(void *context)
{
	((struct bench *)context)->n_batches++;
}

static void bench_open(struct bench *b, const char *folder, uint64_t n_bytes, int mode, const struct block_format *f)
{
	struct err e = { 0 };
	memset(b, 0, sizeof *b);
	make_file(b->path, sizeof b->path, folder, n_bytes);
	struct block_params p = params_for(b, mode);
	if (block_open_format(&p, f ? f : &block_raw_format, &b->image, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	EQ(loop_new(&b->loop, NULL), 0);
	EQ(block_lane_open(b->image, b->loop, 64, &b->lane, &e), 0);
	block_lane_on_batch_end(b->lane, count_batch, b);
}

static void bench_close(struct bench *b)
{
	block_lane_close(b->lane);
	block_close(b->image);
	loop_free(b->loop);
	unlink(b->path);
}

#define MAX_IOVS 3000

struct op {
	struct block_request r;
	int result;
	bool is_done;
	struct iovec iov[MAX_IOVS];
};

static bool is_submitting;

static void op_done(struct block_request *r, int result)
{
	struct op *o = container_of(r, struct op, r);
	OK(!is_submitting && !o->is_done);
	o->result = result;
	o->is_done = true;
}

static void submit(struct bench *b, struct op *o, enum block_op op, uint64_t offset, uint64_t n_bytes)
{
	o->is_done = false;
	o->r.op = op;
	o->r.offset_bytes = offset;
	o->r.n_bytes = n_bytes;
	o->r.done = op_done;
	o->r.iov = o->iov;
	is_submitting = true;
	block_submit(b->lane, &o->r);
	is_submitting = false;
}

static int wait_for(struct bench *b, struct op *o)
{
	uint64_t end = clock_now_ns() + 20 * NS_PER_S;
	while (!o->is_done) {
		/* Short: what completed in the hook leaves nothing to wait for. */
		OK(loop_run_once(b->loop, 1) >= 0);
		OK(clock_now_ns() < end);
	}
	return o->result;
}

static int run_op(struct bench *b, enum block_op op, uint64_t offset, void *buffer, uint64_t n_bytes)
{
	struct op *o = calloc(1, sizeof *o);
	o->iov[0] = (struct iovec){ .iov_base = buffer, .iov_len = (size_t)n_bytes };
	o->r.n_iov = 1;
	submit(b, o, op, offset, n_bytes);
	int result = wait_for(b, o);
	free(o);
	return result;
}

static uint64_t n_allocated(const struct bench *b)
{
	struct stat st;
	EQ(stat(b->path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* xorshift64*: the same numbers everywhere. */
static uint64_t seed = 88172645463325252ull;

static uint64_t chance(uint64_t n)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (seed * 2685821657736338717ull) % n;
}

static void fill(uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)chance(256);
}

static uint8_t *page_buffer(size_t n)
{
	void *p;
	EQ(posix_memalign(&p, 4096, n), 0);
	memset(p, 0, n);
	return p;
}

/* --- faults --- */

/* How finish() lies; results are only made smaller or errors, so that what was really moved is moved again. */
enum fault { NO_FAULT, FAULT_MIX, FAULT_EIO, FAULT_ENOSPC, FAULT_ALWAYS_EAGAIN, FAULT_NOTHING, FAULT_NO_FALLOCATE, FAULT_SLOW };
static enum fault fault;
static unsigned n_steps[6], n_finishes;

static enum block_next faulty_prepare(struct block_lane *lane, struct block_request *r)
{
	return block_raw_format.prepare(lane, r);
}

static bool faulty_finish(struct block_lane *lane, struct block_request *r, long result)
{
	n_steps[r->step.op]++;
	n_finishes++;
	switch (fault) {
	case FAULT_MIX:
		if (chance(4) == 0)
			result = chance(2) ? -EINTR : -EAGAIN;
		else if (result > 512 && chance(2))
			result = 512 + (long)chance((uint64_t)result - 512); /* no multiple of anything */
		break;
	case FAULT_SLOW:
		result = n_finishes % 2 ? -EAGAIN : 512;
		break;
	case FAULT_EIO:
		result = -EIO;
		break;
	case FAULT_ENOSPC:
		result = r->step.op == BLOCK_STEP_WRITE ? -ENOSPC : result;
		break;
	case FAULT_ALWAYS_EAGAIN:
		result = -EAGAIN;
		break;
	case FAULT_NOTHING:
		result = 0;
		break;
	case FAULT_NO_FALLOCATE:
		result = r->step.op == BLOCK_STEP_FALLOCATE ? -EOPNOTSUPP : result;
		break;
	case NO_FAULT:
		break;
	}
	return block_raw_format.finish(lane, r, result);
}

static const struct block_format faulty_format = {
	.name = "faulty", .prepare = faulty_prepare, .finish = faulty_finish,
};

/* --- opening --- */

static int open_error(const char *path, bool is_readonly, bool is_direct, struct err *e)
{
	struct block_params p = { .path = path, .is_readonly = is_readonly, .is_direct = is_direct };
	struct block_image *i = NULL;
	int rc = block_open(&p, &i, e);
	OK(rc < 0 && !i);
	return rc;
}

TEST(what_is_no_image_is_refused_with_its_name)
{
	struct err e;
	EQ(open_error("/nowhere/disk.img", false, false, &e), -ENOENT);
	STR_HAS(e.text, "/nowhere/disk.img");
	EQ(open_error("/tmp", true, false, &e), -EINVAL);
	STR_HAS(e.text, "neither a regular file nor a block device");
	EQ(open_error("/dev/null", false, false, &e), -EINVAL);

	char fifo[64];
	(void)snprintf(fifo, sizeof fifo, "/tmp/varan-fifo-%d", getpid());
	EQ(mkfifo(fifo, 0600), 0);
	EQ(open_error(fifo, true, false, &e), -EINVAL); /* and at once: nobody writes to it */
	STR_HAS(e.text, fifo);
	unlink(fifo);
}

TEST(capacity_is_whole_sectors)
{
	struct bench b;
	struct block_limits l;
	bench_open(&b, "/tmp", 512 * 7 + 100, BUFFERED, NULL);
	block_image_limits(b.image, &l);
	EQ(l.n_bytes, 512 * 7);
	EQ(l.logical_block_bytes, 512);
	EQ(l.physical_block_bytes, 4096);
	OK(!l.is_readonly && l.can_write_zeroes);
	STR_HAS(last_log, "last 100 bytes are left out");
	EQ(fcntl(b.image->file->fd, F_GETFL) & (O_NONBLOCK | O_ACCMODE), O_RDWR);
	EQ(fcntl(b.image->file->fd, F_GETFD), FD_CLOEXEC);
	uint8_t buffer[512];
	EQ(run_op(&b, BLOCK_READ, 512 * 6, buffer, 512), 0);
	bench_close(&b);

	bench_open(&b, "/tmp", 0, BUFFERED, NULL);
	block_image_limits(b.image, &l);
	EQ(l.n_bytes, 0);
	EQ(run_op(&b, BLOCK_READ, 0, buffer, 0), 0);
	bench_close(&b);
}

TEST(one_writer_or_many_readers)
{
	struct bench b;
	struct err e;
	struct block_image *first, *second;
	bench_open(&b, "/tmp", 4096, BUFFERED, NULL);
	EQ(open_error(b.path, false, false, &e), -EBUSY);
	STR_HAS(e.text, "in use by another process");
	EQ(open_error(b.path, true, false, &e), -EBUSY);

	/* The lock goes with the image, though the ring that had the file may take its time to go. */
	EQ(run_op(&b, BLOCK_FLUSH, 0, NULL, 0), 0);
	block_lane_close(b.lane);
	block_close(b.image);
	struct block_params p = { .path = b.path, .is_readonly = true };
	EQ(block_open(&p, &first, &e), 0);
	EQ(block_open(&p, &second, &e), 0);
	EQ(open_error(b.path, false, false, &e), -EBUSY);
	block_close(first);
	block_close(second);
	loop_free(b.loop);
	unlink(b.path);
}

TEST(another_process_is_kept_out)
{
	struct bench b;
	bench_open(&b, "/tmp", 4096, BUFFERED, NULL);
	pid_t pid = fork();
	if (pid == 0) {
		struct err e;
		_exit(open_error(b.path, false, false, &e) == -EBUSY ? 0 : 1);
	}
	int status;
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, 0);
	bench_close(&b);
}

TEST(a_readonly_image_is_never_written)
{
	for (int mode = BUFFERED; mode <= WORKERS; mode++) {
		struct bench b;
		struct block_image *i;
		struct block_lane *lane;
		struct block_limits l;
		uint8_t buffer[512] = { 1 };
		bench_open(&b, "/tmp", 4096, mode, NULL);
		block_lane_close(b.lane);
		block_close(b.image);

		struct block_params p = params_for(&b, mode);
		p.is_readonly = true;
		EQ(block_open(&p, &i, NULL), 0);
		EQ(block_lane_open(i, b.loop, 4, &lane, NULL), 0);
		b.image = i;
		b.lane = lane;
		block_image_limits(i, &l);
		OK(l.is_readonly && !l.can_discard && !l.can_write_zeroes);
		EQ(fcntl(i->file->fd, F_GETFL) & O_ACCMODE, O_RDONLY);
		EQ(run_op(&b, BLOCK_WRITE, 0, buffer, 512), -EROFS);
		EQ(run_op(&b, BLOCK_WRITE_ZEROES, 0, NULL, 512), -EROFS);
		EQ(run_op(&b, BLOCK_DISCARD, 0, NULL, 512), -EROFS);
		EQ(run_op(&b, BLOCK_FLUSH, 0, NULL, 0), 0);
		EQ(run_op(&b, BLOCK_READ, 0, buffer, 512), 0);
		EQ(buffer[0], 0);
		bench_close(&b);
	}
}

TEST(direct_io_is_refused_where_there_is_none)
{
	struct err e;
	char path[64];
	make_file(path, sizeof path, "/dev/shm", 4096);
	struct block_params p = { .path = path, .is_direct = true };
	struct block_image *i;
	int rc = block_open(&p, &i, &e);
	if (rc >= 0) { /* newer kernels' tmpfs does it */
		block_close(i);
	} else {
		STR_HAS(e.text, "does not do direct I/O");
		STR_HAS(e.text, path);
	}
	unlink(path);
}

/* --- the engines --- */

TEST(the_engine_is_io_uring_when_it_is_to_be_had)
{
	struct bench b;
	bench_open(&b, "/tmp", 4096, BUFFERED, NULL);
	struct io_uring probe;
	bool has_uring = io_uring_queue_init(2, &probe, 0) == 0;
	if (has_uring)
		io_uring_queue_exit(&probe);
	STR_EQ(block_lane_engine(b.lane), has_uring ? "io_uring" : "workers");
	bench_close(&b);

	bench_open(&b, "/tmp", 4096, WORKERS, NULL);
	STR_EQ(block_lane_engine(b.lane), "workers");
	EQ(b.lane->workers.n_threads, 0); /* an idle disk has none */
	EQ(run_op(&b, BLOCK_FLUSH, 0, NULL, 0), 0);
	EQ(b.lane->workers.n_threads, 1);
	bench_close(&b);
}

TEST(workers_do_the_work_where_io_uring_is_forbidden)
{
	struct bench b;
	uint8_t out[1024], in[1024] = { 0 };
	fill(out, sizeof out);
	bench_open(&b, "/tmp", 4096, BUFFERED, NULL);
	test_forbid_call(SYS_io_uring_setup, EPERM);
	EQ(run_op(&b, BLOCK_WRITE, 512, out, sizeof out), 0);
	EQ(run_op(&b, BLOCK_READ, 512, in, sizeof in), 0);
	MEM_EQ(out, in, sizeof in);
	STR_EQ(block_lane_engine(b.lane), "workers");
	STR_HAS(last_log, "worker threads do its work");
	bench_close(&b);
}

/* Out of descriptors: no ring, no threads' eventfd. The loop does it itself. */
TEST(no_request_is_lost_without_any_engine)
{
	struct bench b;
	uint8_t out[1024], in[1024] = { 0 };
	struct rlimit old, none = { .rlim_cur = 0 };
	fill(out, sizeof out);
	bench_open(&b, "/tmp", 4096, BUFFERED, NULL);
	EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
	none.rlim_max = old.rlim_max;
	EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
	EQ(run_op(&b, BLOCK_WRITE, 512, out, sizeof out), 0);
	EQ(run_op(&b, BLOCK_READ, 512, in, sizeof in), 0);
	MEM_EQ(out, in, sizeof in);
	OK(!b.lane->uring.is_open && !b.lane->workers.is_open);
	EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
	bench_close(&b);
}

static void break_ring(struct bench *b)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	OK(dup2(fd, b->lane->uring.ring.ring_fd) >= 0);
	close(fd);
}

TEST(a_ring_that_breaks_is_replaced_by_workers)
{
	for (int is_draining = 0; is_draining < 2; is_draining++) {
		struct bench b;
		struct op ops[8];
		uint8_t out[512 * 8], in[512 * 8] = { 0 };
		memset(ops, 0, sizeof ops);
		fill(out, sizeof out);
		bench_open(&b, "/tmp", 8192, BUFFERED, NULL);
		if (strcmp(block_lane_engine(b.lane), "io_uring") != 0)
			test_skip("io_uring is not to be had");
		EQ(run_op(&b, BLOCK_FLUSH, 0, NULL, 0), 0);
		break_ring(&b);
		for (unsigned k = 0; k < 8; k++) {
			ops[k].iov[0] = (struct iovec){ .iov_base = out + 512 * k, .iov_len = 512 };
			ops[k].r.n_iov = 1;
			submit(&b, &ops[k], BLOCK_WRITE, 512 * k, 512);
		}
		if (is_draining)
			block_drain(b.lane);
		for (unsigned k = 0; k < 8; k++)
			EQ(wait_for(&b, &ops[k]), 0);
		STR_EQ(block_lane_engine(b.lane), "workers");
		EQ(run_op(&b, BLOCK_READ, 0, in, sizeof in), 0);
		MEM_EQ(in, out, sizeof in);
		bench_close(&b);
	}
}

TEST(drain_waits_for_all_without_the_loop)
{
	for (int mode = 0; mode < 4; mode++) {
		struct bench b;
		enum { N = 200 };
		struct op *ops = calloc(N, sizeof *ops);
		uint8_t *data = page_buffer(N * 512 + 4096);
		bench_open(&b, "/var/tmp", N * 512, mode, NULL);
		for (unsigned k = 0; k < N; k++) {
			ops[k].iov[0] = (struct iovec){ .iov_base = data + 1 + 512 * k, .iov_len = 512 };
			ops[k].r.n_iov = 1;
			submit(&b, &ops[k], k % 3 ? BLOCK_WRITE : BLOCK_FLUSH, 512 * k, 512);
		}
		EQ(block_in_flight(b.lane), N);
		block_drain(b.lane);
		EQ(block_in_flight(b.lane), 0);
		EQ(b.n_batches, 1);
		for (unsigned k = 0; k < N; k++)
			OK(ops[k].is_done && ops[k].result == 0);
		block_drain(b.lane); /* nothing: at once */
		OK(b.lane->workers.n_threads <= BLOCK_WORKERS_MAX);
		bench_close(&b);
		free(data);
		free(ops);
	}
}

TEST(what_completes_together_is_one_batch)
{
	struct bench b;
	enum { N = 64 };
	static struct op ops[N];
	static uint8_t data[N * 512];
	bench_open(&b, "/tmp", N * 512, BUFFERED, NULL);
	if (strcmp(block_lane_engine(b.lane), "io_uring") != 0)
		test_skip("io_uring is not to be had");
	EQ(run_op(&b, BLOCK_READ, 0, data, sizeof data), 0); /* now it is cached */
	b.n_batches = 0;
	for (unsigned k = 0; k < N; k++) {
		ops[k].iov[0] = (struct iovec){ .iov_base = data + 512 * k, .iov_len = 512 };
		ops[k].r.n_iov = 1;
		submit(&b, &ops[k], BLOCK_READ, 512 * k, 512);
	}
	EQ(b.n_batches, 0);
	/* Cached data is there when the submission returns: no turn of the loop is needed to find that out. */
	OK(loop_run_once(b.loop, 0) >= 0);
	EQ(b.n_batches, 1);
	for (unsigned k = 0; k < N; k++)
		EQ(wait_for(&b, &ops[k]), 0);
	EQ(b.n_batches, 1);
	bench_close(&b);
}

/* --- transfers --- */

TEST(more_buffers_than_one_system_call_takes)
{
	OK(MAX_IOVS > 2 * IOV_MAX);
	for (int mode = 0; mode < 4; mode++) {
		struct bench b;
		struct op *o = calloc(1, sizeof *o);
		uint8_t *out = page_buffer(MAX_IOVS * 512), *in = page_buffer(MAX_IOVS * 512);
		bench_open(&b, "/var/tmp", MAX_IOVS * 512, mode, NULL);
		fill(out, MAX_IOVS * 512);
		for (int way = 0; way < 2; way++) {
			for (size_t k = 0; k < MAX_IOVS; k++)
				o->iov[k] = (struct iovec){ .iov_base = (way ? in : out) + 512 * k, .iov_len = 512 };
			o->r.n_iov = MAX_IOVS;
			submit(&b, o, way ? BLOCK_READ : BLOCK_WRITE, 0, MAX_IOVS * 512);
			EQ(wait_for(&b, o), 0);
		}
		MEM_EQ(in, out, MAX_IOVS * 512);
		bench_close(&b);
		free(in);
		free(out);
		free(o);
	}
}

TEST(a_file_that_shrank_is_an_error_and_not_zeroes)
{
	for (int mode = 0; mode < 4; mode++) {
		struct bench b;
		uint8_t *data = page_buffer(16384);
		bench_open(&b, "/var/tmp", 65536, mode, NULL);
		EQ(truncate(b.path, 8192 + 512), 0);
		EQ(run_op(&b, BLOCK_READ, 4096, data, 16384), -EIO);
		EQ(run_op(&b, BLOCK_READ, 32768, data, 4096), -EIO);
		EQ(run_op(&b, BLOCK_READ, 0, data, 8192), 0);
		bench_close(&b);
		free(data);
	}
}

TEST(errors_of_the_host_come_back_as_they_are)
{
	for (int mode = 0; mode < 2; mode++) {
		struct bench b;
		uint8_t data[1024];
		bench_open(&b, "/tmp", 8192, mode, &faulty_format);
		fault = FAULT_EIO;
		EQ(run_op(&b, BLOCK_READ, 0, data, 1024), -EIO);
		EQ(run_op(&b, BLOCK_WRITE, 0, data, 1024), -EIO);
		EQ(run_op(&b, BLOCK_FLUSH, 0, NULL, 0), -EIO);
		EQ(run_op(&b, BLOCK_DISCARD, 0, NULL, 1024), -EIO);
		EQ(run_op(&b, BLOCK_WRITE_ZEROES, 0, NULL, 1024), -EIO);
		fault = FAULT_ENOSPC;
		EQ(run_op(&b, BLOCK_WRITE, 0, data, 1024), -ENOSPC);
		fault = FAULT_NOTHING;
		EQ(run_op(&b, BLOCK_WRITE, 0, data, 1024), -EIO);
		EQ(run_op(&b, BLOCK_READ, 0, data, 1024), -EIO);
		fault = FAULT_ALWAYS_EAGAIN; /* not for ever */
		EQ(run_op(&b, BLOCK_WRITE, 0, data, 1024), -EAGAIN);
		fault = NO_FAULT;
		EQ(run_op(&b, BLOCK_WRITE, 0, data, 1024), 0);
		bench_close(&b);
	}
}

/* Retries are counted from the last progress, not from the start. */
TEST(slow_progress_is_progress)
{
	struct bench b;
	enum { N = 2000 };
	uint8_t *data = page_buffer(N * 512);
	bench_open(&b, "/tmp", N * 512, BUFFERED, &faulty_format);
	fault = FAULT_SLOW;
	EQ(run_op(&b, BLOCK_READ, 0, data, N * 512), 0);
	OK(n_finishes >= 2 * N);
	bench_close(&b);
	free(data);
}

/* --- against the model --- */

#define DISK_BYTES (4u << 20)
#define N_LANES 16
#define PART_BYTES (DISK_BYTES / N_LANES)

struct model {
	struct bench b;
	uint8_t *disk;               /* what it must hold */
	uint8_t *buffers[N_LANES];   /* PART_BYTES + a page each */
	struct op *ops[N_LANES];
	uint64_t part_offset[N_LANES];
};

/* Cuts a request's bytes into buffers; unaligned ones when asked for. */
static void cut_buffers(struct op *o, uint8_t *buffer, uint64_t n_bytes, bool is_odd)
{
	uint64_t at = 0;
	uint8_t *p = buffer + (is_odd ? chance(4095) + 1 : 0);
	o->r.n_iov = 0;
	while (at < n_bytes) {
		uint64_t n = n_bytes - at;
		if (o->r.n_iov < 40 && n > 1024)
			n = is_odd ? 1 + chance(n) : 512 * (1 + chance(n / 512));
		o->iov[o->r.n_iov++] = (struct iovec){ .iov_base = p + at, .iov_len = (size_t)n };
		at += n;
	}
}

/* Within part k, which no other request touches: order between requests is nobody's promise. */
static void begin_op(struct model *m, unsigned k)
{
	struct op *o = m->ops[k];
	uint64_t n = 512 * (1 + chance(chance(8) ? 32 : PART_BYTES / 512));
	uint64_t offset = k * (uint64_t)PART_BYTES + 512 * chance((PART_BYTES - n) / 512 + 1);
	enum block_op op = (enum block_op[]){ BLOCK_READ, BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE,
		                              BLOCK_DISCARD, BLOCK_WRITE_ZEROES }[chance(7)];
	if (chance(200) == 0)
		op = BLOCK_FLUSH; /* few: they cost more than all the rest */
	bool is_odd = chance(3) == 0;

	if (op == BLOCK_READ || op == BLOCK_WRITE)
		cut_buffers(o, m->buffers[k], n, is_odd);
	if (op == BLOCK_WRITE) {
		uint8_t *p = o->iov[0].iov_base;
		fill(p, (size_t)n);
		memcpy(m->disk + offset, p, (size_t)n);
	}
	if (op == BLOCK_DISCARD || op == BLOCK_WRITE_ZEROES)
		memset(m->disk + offset, 0, (size_t)n); /* of a regular file, discarded ranges read as zeroes */
	o->r.may_unmap = chance(2);
	m->part_offset[k] = (uint64_t)((uint8_t *)o->iov[0].iov_base - m->buffers[k]);
	submit(&m->b, o, op, offset, n);
}

static void check_op(struct model *m, unsigned k)
{
	struct op *o = m->ops[k];
	EQ(wait_for(&m->b, o), 0);
	if (o->r.op == BLOCK_READ)
		MEM_EQ(m->buffers[k] + m->part_offset[k], m->disk + o->r.offset_bytes, (size_t)o->r.n_bytes);
}

static void compare_with_model(const char *folder, int mode, enum fault f, unsigned n_rounds,
                               void (*prepare)(struct bench *b))
{
	struct model m;
	seed = 88172645463325252ull + (uint64_t)mode * 977 + (uint64_t)f;
	m.disk = calloc(1, DISK_BYTES);
	bench_open(&m.b, folder, DISK_BYTES, mode, &faulty_format);
	if (prepare)
		prepare(&m.b);
	fault = f;
	for (unsigned k = 0; k < N_LANES; k++) {
		m.buffers[k] = page_buffer(PART_BYTES + 4096);
		m.ops[k] = calloc(1, sizeof *m.ops[k]);
	}
	for (unsigned round = 0; round < n_rounds; round++) {
		unsigned n = 1 + (unsigned)chance(N_LANES);
		for (unsigned k = 0; k < n; k++)
			begin_op(&m, k);
		if (chance(10) == 0)
			block_drain(m.b.lane);
		for (unsigned k = 0; k < n; k++)
			check_op(&m, k);
	}
	fault = NO_FAULT;
	uint8_t *all = page_buffer(DISK_BYTES);
	EQ(run_op(&m.b, BLOCK_READ, 0, all, DISK_BYTES), 0);
	MEM_EQ(all, m.disk, DISK_BYTES);
	int fd = open(m.b.path, O_RDONLY);
	EQ(pread(fd, all, DISK_BYTES, 0), DISK_BYTES);
	close(fd);
	MEM_EQ(all, m.disk, DISK_BYTES);

	free(all);
	free(m.disk);
	for (unsigned k = 0; k < N_LANES; k++) {
		free(m.buffers[k]);
		free(m.ops[k]);
	}
	bench_close(&m.b);
}

TEST(model_io_uring_buffered) { compare_with_model("/var/tmp", BUFFERED, NO_FAULT, 150, NULL); }
TEST(model_io_uring_direct) { compare_with_model("/var/tmp", DIRECT, NO_FAULT, 100, NULL); }
TEST(model_workers_buffered) { compare_with_model("/var/tmp", WORKERS, NO_FAULT, 150, NULL); }
TEST(model_workers_direct) { compare_with_model("/var/tmp", WORKERS | DIRECT, NO_FAULT, 100, NULL); }
TEST(model_io_uring_buffered_faults) { compare_with_model("/var/tmp", BUFFERED, FAULT_MIX, 150, NULL); }
TEST(model_io_uring_direct_faults) { compare_with_model("/var/tmp", DIRECT, FAULT_MIX, 100, NULL); }
TEST(model_workers_buffered_faults) { compare_with_model("/var/tmp", WORKERS, FAULT_MIX, 150, NULL); }
TEST(model_workers_direct_faults) { compare_with_model("/var/tmp", WORKERS | DIRECT, FAULT_MIX, 100, NULL); }
/* tmpfs zeroes no ranges: they are written. */
TEST(model_tmpfs) { compare_with_model("/dev/shm", BUFFERED, NO_FAULT, 150, NULL); }
TEST(model_tmpfs_workers_faults) { compare_with_model("/dev/shm", WORKERS, FAULT_MIX, 100, NULL); }

/* As if the file lay on a device of 4096-byte sectors: single sectors go by the second descriptor. */
static void make_coarse(struct bench *b)
{
	struct block_image *i = b->image;
	i->file->offset_align = 4096;
	i->file->memory_align = 4096;
	i->file->buffered_fd = open(b->path, O_RDWR | O_CLOEXEC);
	OK(i->file->buffered_fd >= 0);
}

TEST(model_coarse_direct) { compare_with_model("/var/tmp", DIRECT, NO_FAULT, 100, make_coarse); }
TEST(model_coarse_direct_workers) { compare_with_model("/var/tmp", WORKERS | DIRECT, NO_FAULT, 60, make_coarse); }

TEST(many_large_requests_share_few_bounce_buffers)
{
	for (int mode = DIRECT; mode <= (DIRECT | WORKERS); mode++) {
		struct bench b;
		enum { N = 12, BYTES = 3 * BLOCK_BOUNCE_BYTES + 512 };
		struct op *ops = calloc(N, sizeof *ops);
		uint8_t *out = page_buffer(N * BYTES + 4096), *in = page_buffer(N * BYTES + 4096);
		bench_open(&b, "/var/tmp", N * BYTES, mode, NULL);
		fill(out, N * BYTES);
		for (int way = 0; way < 2; way++) {
			for (unsigned k = 0; k < N; k++) {
				uint8_t *base = (way ? in : out) + 3 + (size_t)k * BYTES;
				ops[k].iov[0] = (struct iovec){ .iov_base = base, .iov_len = BYTES };
				ops[k].r.n_iov = 1;
				submit(&b, &ops[k], way ? BLOCK_READ : BLOCK_WRITE, (uint64_t)k * BYTES, BYTES);
			}
			for (unsigned k = 0; k < N; k++)
				EQ(wait_for(&b, &ops[k]), 0);
			EQ(b.lane->n_bounce_free, BLOCK_N_BOUNCE);
		}
		MEM_EQ(in + 3, out + 3, N * BYTES);
		bench_close(&b);
		free(in);
		free(out);
		free(ops);
	}
}

/* --- who waits for a buffer, and who waits for those --- */

#define PARKING_BYTES (2 * BLOCK_BOUNCE_BYTES)
static _Atomic unsigned n_first_parked, n_last_done, n_middle_done;

static long wait_for_first(struct block_request *r)
{
	(void)r;
	for (unsigned n = 0; n_first_parked < 4 && n < 10000; n++)
		test_sleep_us(1000);
	return 0;
}

/* By place on the disk: the first four write half by a buffer each, and park until the last four are done. Those first
 * let them do so, and then want buffers. The next four wait for a buffer and, when there is one, park after all until the
 * one in the middle is done, which waits for a buffer behind them. */
static enum block_next parking_prepare(struct block_lane *lane, struct block_request *r)
{
	struct block_image *i = lane->image;
	uint64_t k = r->offset_bytes / PARKING_BYTES;
	block_lock(i);
	bool parks = (k < 4 && r->n_done_bytes && n_last_done < 4) || (k >= 4 && k < 8 && r->method++ && !n_middle_done);
	if (parks)
		block_park(i, r);
	n_first_parked += parks && k < 4;
	block_unlock(i);
	if (parks)
		return BLOCK_NEXT_PARKED;
	if (k > 8 && !r->method++) {
		r->step = (struct block_step){ .op = BLOCK_STEP_CALL, .call = wait_for_first };
		return BLOCK_NEXT_STEP;
	}
	return block_transfer_prepare(lane, r, i->file, r->offset_bytes + r->n_done_bytes, r->n_bytes - r->n_done_bytes);
}

static bool parking_finish(struct block_lane *lane, struct block_request *r, long result)
{
	uint64_t k = r->offset_bytes / PARKING_BYTES;
	if (r->step.op == BLOCK_STEP_CALL)
		return false;
	OK(block_transfer_finish(lane, r, result) > 0);
	if (r->n_done_bytes < r->n_bytes)
		return false;
	block_lock(lane->image);
	n_last_done += k > 8;
	n_middle_done += k == 8;
	struct block_request *woken = block_unpark(lane->image);
	block_unlock(lane->image);
	block_wake(woken);
	return true;
}

TEST(no_bounce_buffer_is_kept_while_its_request_waits)
{
	static const struct block_format parking = {
		.name = "parking", .prepare = parking_prepare, .finish = parking_finish, .can_park = true,
	};
	enum { N = 13 };
	for (int mode = DIRECT; mode <= (DIRECT | WORKERS); mode++) {
		struct bench b;
		struct op *ops = calloc(N, sizeof *ops);
		uint8_t *data = page_buffer(PARKING_BYTES + 4096);
		bench_open(&b, "/var/tmp", N * PARKING_BYTES, mode, &parking);
		n_first_parked = n_last_done = n_middle_done = 0;
		for (unsigned k = 0; k < N; k++) {
			ops[k].iov[0] = (struct iovec){ .iov_base = data + 1, .iov_len = PARKING_BYTES };
			ops[k].r.n_iov = 1;
			submit(&b, &ops[k], BLOCK_WRITE, (uint64_t)k * PARKING_BYTES, PARKING_BYTES);
		}
		for (unsigned k = 0; k < N; k++)
			EQ(wait_for(&b, &ops[k]), 0);
		EQ(b.lane->n_bounce_free, BLOCK_N_BOUNCE);
		bench_close(&b);
		free(data);
		free(ops);
	}
}

/* --- holes and zeroes --- */

TEST(discard_gives_blocks_back)
{
	for (int mode = 0; mode < 4; mode++) {
		struct bench b;
		uint8_t *data = page_buffer(1 << 20);
		memset(data, 0x5a, 1 << 20);
		bench_open(&b, "/var/tmp", 1 << 20, mode, NULL);
		EQ(run_op(&b, BLOCK_WRITE, 0, data, 1 << 20), 0);
		EQ(run_op(&b, BLOCK_FLUSH, 0, NULL, 0), 0);
		uint64_t before = n_allocated(&b);
		OK(before >= 1 << 20);
		EQ(run_op(&b, BLOCK_DISCARD, 1 << 18, NULL, 1 << 19), 0);
		OK(n_allocated(&b) <= before - (1 << 19));
		EQ(run_op(&b, BLOCK_READ, 0, data, 1 << 20), 0);
		EQ(data[(1 << 18) - 1], 0x5a);
		EQ(data[1 << 18], 0);
		struct stat st;
		EQ(stat(b.path, &st), 0);
		EQ(st.st_size, 1 << 20);
		bench_close(&b);
		free(data);
	}
}

TEST(zeroes_deallocate_only_when_they_may)
{
	struct bench b;
	uint8_t *data = page_buffer(1 << 20);
	memset(data, 0x5a, 1 << 20);
	bench_open(&b, "/var/tmp", 1 << 20, BUFFERED, NULL);
	EQ(run_op(&b, BLOCK_WRITE, 0, data, 1 << 20), 0);
	EQ(run_op(&b, BLOCK_FLUSH, 0, NULL, 0), 0);
	uint64_t before = n_allocated(&b);
	EQ(run_op(&b, BLOCK_WRITE_ZEROES, 0, NULL, 1 << 19), 0);
	OK(n_allocated(&b) >= before);
	struct op *o = calloc(1, sizeof *o);
	o->r.may_unmap = true;
	submit(&b, o, BLOCK_WRITE_ZEROES, 1 << 19, 1 << 19);
	EQ(wait_for(&b, o), 0);
	OK(n_allocated(&b) <= before - (1 << 19));
	EQ(run_op(&b, BLOCK_READ, 0, data, 1 << 20), 0);
	for (unsigned k = 0; k < 1 << 20; k++)
		EQ(data[k], 0);
	free(o);
	free(data);
	bench_close(&b);
}

TEST(zeroes_are_written_where_the_host_has_no_better_way)
{
	for (int mode = 0; mode < 4; mode++) {
		struct bench b;
		uint8_t *data = page_buffer(2 << 20);
		memset(data, 0x5a, 2 << 20);
		bench_open(&b, "/var/tmp", 2 << 20, mode, &faulty_format);
		EQ(run_op(&b, BLOCK_WRITE, 0, data, 2 << 20), 0);
		fault = FAULT_NO_FALLOCATE;
		memset(n_steps, 0, sizeof n_steps);
		/* The lie comes after the deed: put the bytes back between the refusals and the writes that count. */
		EQ(run_op(&b, BLOCK_WRITE_ZEROES, 512, NULL, 512), 0);
		EQ(run_op(&b, BLOCK_DISCARD, 0, NULL, 512), 0);
		OK(b.image->file->has_no_zero_range && b.image->file->has_no_punch);
		OK(n_steps[BLOCK_STEP_FALLOCATE] <= 3 && n_steps[BLOCK_STEP_WRITE] >= 1);
		n_steps[BLOCK_STEP_FALLOCATE] = 0;
		EQ(run_op(&b, BLOCK_WRITE_ZEROES, 1536, NULL, (2 << 20) - 2048), 0);
		EQ(run_op(&b, BLOCK_DISCARD, 0, NULL, 4096), 0); /* advice: it succeeds, and asks no more */
		EQ(n_steps[BLOCK_STEP_FALLOCATE], 0);
		fault = NO_FAULT;
		EQ(run_op(&b, BLOCK_READ, 0, data, 2 << 20), 0);
		EQ(data[1024], 0x5a);
		EQ(data[1535], 0x5a);
		for (unsigned k = 1536; k < (2 << 20) - 512; k++)
			EQ(data[k], 0);
		EQ(data[(2 << 20) - 512], 0x5a);
		bench_close(&b);
		free(data);
	}
}

/* --- block devices --- */

struct loop_disk {
	int fd;
	char path[32];
};

static void loop_disk_open(struct loop_disk *d, const char *file, unsigned block_bytes)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		test_skip("no loop devices");
	int n = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	(void)snprintf(d->path, sizeof d->path, "/dev/loop%d", n);
	d->fd = n < 0 ? -1 : open(d->path, O_RDWR | O_CLOEXEC);
	int file_fd = open(file, O_RDWR | O_CLOEXEC);
	/* Autoclear: gone with its last descriptor, also when the test fails. */
	struct loop_config c = { .fd = (uint32_t)file_fd, .block_size = block_bytes, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	int rc = d->fd < 0 ? -1 : ioctl(d->fd, LOOP_CONFIGURE, &c);
	close(file_fd);
	unlink(file);
	if (rc < 0)
		test_skip("no loop device can be set up");
}

static void check_device(unsigned block_bytes, int mode)
{
	struct loop_disk d;
	struct bench b = { 0 };
	char file[64];
	struct err e = { 0 };
	struct block_limits l;
	uint8_t *out = page_buffer(65536 + 4096), *in = page_buffer(65536 + 4096);
	make_file(file, sizeof file, "/var/tmp", 1 << 20);
	loop_disk_open(&d, file, block_bytes);

	struct block_params p = params_for(&b, mode);
	p.path = d.path;
	if (block_open(&p, &b.image, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	EQ(loop_new(&b.loop, NULL), 0);
	EQ(block_lane_open(b.image, b.loop, 64, &b.lane, NULL), 0);
	block_image_limits(b.image, &l);
	EQ(l.n_bytes, 1 << 20);
	EQ(l.logical_block_bytes, block_bytes);
	OK(l.physical_block_bytes >= block_bytes);
	OK(l.can_discard);

	fill(out, 65536);
	EQ(run_op(&b, BLOCK_WRITE, 4096, out, 65536), 0);
	EQ(run_op(&b, BLOCK_WRITE, 4096 + 512, out + 512, 1024), 0); /* single sectors, whatever its blocks are */
	EQ(run_op(&b, BLOCK_READ, 4096, in + 1, 65536), 0);
	MEM_EQ(in + 1, out, 65536);
	EQ(run_op(&b, BLOCK_READ, 4096 + 512, in, 512), 0);
	MEM_EQ(in, out + 512, 512);
	EQ(run_op(&b, BLOCK_FLUSH, 0, NULL, 0), 0);
	EQ(run_op(&b, BLOCK_WRITE_ZEROES, 8192, NULL, 8192), 0);
	EQ(run_op(&b, BLOCK_WRITE_ZEROES, 512, NULL, 512), 0);
	EQ(run_op(&b, BLOCK_DISCARD, 16384, NULL, 8192), 0);
	EQ(run_op(&b, BLOCK_DISCARD, 512, NULL, 512), 0);
	EQ(run_op(&b, BLOCK_READ, 8192, in, 8192), 0);
	for (unsigned k = 0; k < 8192; k++)
		EQ(in[k], 0);
	EQ(run_op(&b, BLOCK_READ, 4096, in, 4096), 0);
	MEM_EQ(in, out, 4096);

	block_lane_close(b.lane);
	block_close(b.image);
	loop_free(b.loop);
	close(d.fd);
	free(in);
	free(out);
}

TEST(block_device_of_512_buffered) { check_device(512, BUFFERED); }
TEST(block_device_of_512_direct) { check_device(512, DIRECT); }
TEST(block_device_of_512_workers) { check_device(512, WORKERS); }
TEST(block_device_of_4096_buffered) { check_device(4096, BUFFERED); }
TEST(block_device_of_4096_direct) { check_device(4096, DIRECT); }
TEST(block_device_of_4096_direct_workers) { check_device(4096, DIRECT | WORKERS); }

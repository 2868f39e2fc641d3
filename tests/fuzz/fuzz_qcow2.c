/* SPDX-License-Identifier: Apache-2.0 */
/* A qcow2 image of anybody's making, opened, read, written, discarded, made larger and checked.
 *
 * The input: a byte of options, a byte that counts requests, four bytes for each of them, and then the image's file. What
 * must hold: nothing hangs or is touched that should not be, what was written and succeeded is read back when all clusters
 * are the image's own and nobody else's (which only the check can tell), and the image closes. */
#include "backend/block_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MUST(cond) ((cond) ? (void)0 : abort())
#define MAX_BYTES (64u * 1024)
#define MAX_REQUESTS 32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct job {
	struct block_request r;
	struct iovec iov[2];
	bool is_done;
	int result;
};

static void job_done(struct block_request *r, int result)
{
	struct job *j = container_of(r, struct job, r);
	MUST(!j->is_done && result <= 0);
	j->is_done = true;
	j->result = result;
}

static uint8_t buffers[MAX_REQUESTS][MAX_BYTES];

static void start(struct block_lane *lane, struct job *j, uint8_t *buffer, const uint8_t *in, uint64_t disk_bytes)
{
	static const enum block_op ops[] = { BLOCK_READ, BLOCK_WRITE, BLOCK_DISCARD, BLOCK_WRITE_ZEROES, BLOCK_FLUSH };
	enum block_op op = ops[in[0] % ARRAY_LEN(ops)];
	uint64_t n_sectors = disk_bytes / 512, at = (uint64_t)in[1] * (in[0] & 0x80 ? n_sectors / 256 + 1 : 1) + (in[2] & 7u);
	uint64_t n = in[0] & 0x40 && op >= BLOCK_DISCARD ? n_sectors : 1 + in[3] % (MAX_BYTES / 512);
	at = n_sectors ? at % n_sectors : 0;
	n = min_u64(n, n_sectors - at) * 512;
	*j = (struct job){ .r = { .op = op, .offset_bytes = at * 512, .n_bytes = n, .done = job_done, .may_unmap = in[2] & 8 } };
	if (op == BLOCK_READ || op == BLOCK_WRITE) {
		j->iov[0] = (struct iovec){ .iov_base = buffer, .iov_len = (size_t)n / 3 };
		j->iov[1] = (struct iovec){ .iov_base = buffer + n / 3, .iov_len = (size_t)(n - n / 3) };
		j->r.iov = j->iov;
		j->r.n_iov = 2;
	}
	block_submit(lane, &j->r);
}

static void work(struct block_image *i, const uint8_t *in, unsigned n)
{
	static struct job jobs[MAX_REQUESTS];
	struct loop *l;
	struct block_lane *lane;
	struct block_limits limits;
	MUST(loop_new(&l, NULL) == 0 && block_lane_open(i, l, 8, &lane, NULL) == 0);
	block_image_limits(i, &limits);
	for (unsigned k = 0; k < n; k++) {
		memset(buffers[k], (int)k + 1, 512);
		start(lane, &jobs[k], buffers[k], in + 4 * k, limits.n_bytes);
		if (in[4 * k + 2] & 0x10)
			block_drain(lane);
	}
	block_drain(lane);
	for (unsigned k = 0; k < n; k++)
		MUST(jobs[k].is_done);
	block_lane_close(lane);
	loop_free(l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2 || size > (1u << 20))
		return 0;
	uint8_t options = data[0];
	unsigned n = data[1] % MAX_REQUESTS;
	if (size < 2 + 4 * (size_t)n)
		return 0;
	const uint8_t *in = data + 2, *file = in + 4 * (size_t)n;
	size_t n_file = size - 2 - 4 * (size_t)n;
	char path[32];
	int fd = memfd_create("image", MFD_CLOEXEC);
	MUST(fd >= 0 && write(fd, file, n_file) == (ssize_t)n_file);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);

	struct err e = { 0 };
	struct block_image *i;
	struct block_params p = {
		.path = path, .has_no_io_uring = true, .has_discard = options & 1, .is_readonly = options & 2,
		.image_type = BLOCK_TYPE_QCOW2,
	};
	if (block_open(&p, &i, &e) < 0) {
		MUST(e.code && e.text[0]);
		close(fd);
		return 0;
	}
	struct block_check c;
	struct block_limits limits;
	block_image_limits(i, &limits);
	if (options & 4)
		(void)block_check(i, options & 8 ? BLOCK_REPAIR_ALL : BLOCK_REPAIR_NOTHING, &c, &e);
	if (options & 16)
		(void)block_resize(i, limits.n_bytes + 512ull * data[1], &e);
	work(i, in, n);
	if (options & 32)
		(void)block_check(i, BLOCK_REPAIR_NOTHING, &c, &e);
	block_close(i);
	close(fd);
	return 0;
}

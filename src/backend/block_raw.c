// SPDX-License-Identifier: Apache-2.0
/* Raw images: byte n of the disk is byte n of the file.
 *
 * Theory of operation. A read or write is one step when the kernel moves all of it. When it moves less, the request's
 * iovecs are advanced and the rest is asked for again; nothing moved at all is an error (the end of a file that
 * somebody made shorter), so a request always ends. Direct I/O wants file offsets, lengths and buffers aligned. A step
 * whose buffers are not goes through a bounce buffer of the lane, in pieces; one whose offset or length is not (a guest
 * that ignores the block size it was told) goes by the second, buffered descriptor: the kernel keeps both coherent.
 *
 * Zeroes are written by the cheapest way that the host has: a hole, a zeroed range, plain writes of a page of zeroes.
 * What turns out not to be supported is remembered in the image. Discarding is advice: where it is not supported it
 * succeeds and does nothing (virtio 1.2, 5.2.6.2: the device MAY deallocate). */
#include "backend/block_impl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A signal or a shortage repeats a step; this many times in a row without progress is an error like any other. */
#define MAX_RETRIES 1000

enum zero_method { ZERO_BY_HOLE, ZERO_BY_RANGE, ZERO_BY_WRITES };

/* --- buffers --- */

static void advance_iov(struct block_request *r, size_t n_bytes)
{
	while (n_bytes) {
		assert(r->n_iov > 0);
		if (r->iov->iov_len > n_bytes) {
			r->iov->iov_base = (uint8_t *)r->iov->iov_base + n_bytes;
			r->iov->iov_len -= n_bytes;
			return;
		}
		n_bytes -= r->iov->iov_len;
		r->iov++;
		r->n_iov--;
	}
}

/* Between the first n_bytes of the request's buffers and the bounce buffer. */
static void copy_bounce(struct block_request *r, size_t n_bytes, bool is_to_bounce)
{
	uint8_t *at = r->bounce;
	for (int i = 0; n_bytes; i++) {
		assert(i < r->n_iov);
		size_t n = (size_t)min_u64(r->iov[i].iov_len, n_bytes);
		if (is_to_bounce)
			memcpy(at, r->iov[i].iov_base, n);
		else
			memcpy(r->iov[i].iov_base, at, n);
		at += n;
		n_bytes -= n;
	}
}

static bool has_aligned_buffers(const struct block_image *i, const struct block_request *r)
{
	uintptr_t bases = 0;
	size_t lengths = 0;
	for (int k = 0; k < r->n_iov; k++) {
		bases |= (uintptr_t)r->iov[k].iov_base;
		lengths |= r->iov[k].iov_len;
	}
	return !(bases & (i->memory_align - 1)) && !(lengths & (i->offset_align - 1));
}

/* --- reads and writes --- */

static enum block_next prepare_transfer(struct block_lane *lane, struct block_request *r)
{
	const struct block_image *i = lane->image;
	uint64_t left = r->n_bytes - r->n_done_bytes, offset = r->offset_bytes + r->n_done_bytes;

	r->step = (struct block_step){
		.op = r->op == BLOCK_READ ? BLOCK_STEP_READ : BLOCK_STEP_WRITE,
		.iov = r->iov,
		.n_iov = r->n_iov < IOV_MAX ? r->n_iov : IOV_MAX,
		.offset_bytes = offset,
		.n_bytes = left,
	};
	if (!i->is_direct)
		return BLOCK_NEXT_STEP;
	if ((offset | left) & (i->offset_align - 1)) {
		assert(i->buffered_fd >= 0); /* or every multiple of 512 is aligned */
		r->step.is_buffered = true;
		return BLOCK_NEXT_STEP;
	}
	if (has_aligned_buffers(i, r))
		return BLOCK_NEXT_STEP;

	if (!r->bounce)
		r->bounce = block_lane_take_bounce(lane);
	if (!r->bounce)
		return BLOCK_NEXT_WAIT;
	size_t n = (size_t)min_u64(left, BLOCK_BOUNCE_BYTES);
	if (r->op == BLOCK_WRITE)
		copy_bounce(r, n, true);
	r->bounce_iov = (struct iovec){ .iov_base = r->bounce, .iov_len = n };
	r->step.iov = &r->bounce_iov;
	r->step.n_iov = 1;
	r->step.n_bytes = n;
	return BLOCK_NEXT_STEP;
}

/* How many of the bytes that a step moved count: in direct I/O the next step must start aligned. */
static uint64_t usable_bytes(const struct block_image *i, const struct block_request *r, uint64_t n_moved)
{
	if (!i->is_direct || r->step.is_buffered || r->n_done_bytes + n_moved == r->n_bytes)
		return n_moved;
	return align_down(n_moved, i->offset_align);
}

static bool finish_transfer(struct block_lane *lane, struct block_request *r, long result)
{
	if (result < 0) {
		r->result = (int)result;
		return true;
	}
	assert((uint64_t)result <= r->step.n_bytes);
	uint64_t n = usable_bytes(lane->image, r, (uint64_t)result);
	if (n == 0) {
		r->result = -EIO; /* the end of the file, before the end of the disk */
		return true;
	}
	r->n_retries = 0;
	if (r->op != BLOCK_WRITE_ZEROES) {
		if (r->op == BLOCK_READ && r->step.iov == &r->bounce_iov)
			copy_bounce(r, (size_t)n, false);
		advance_iov(r, (size_t)n);
	}
	r->n_done_bytes += n;
	assert(r->n_done_bytes <= r->n_bytes);
	r->result = 0;
	return r->n_done_bytes == r->n_bytes;
}

/* --- holes and zeroes --- */

static bool is_unsupported(long result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY;
}

static void learn(struct block_image *i, _Atomic bool *has_no, const char *what)
{
	if (!atomic_exchange(has_no, true))
		log_info(&i->log, "the image's host does not support %s", what);
}

static enum block_next prepare_discard(struct block_lane *lane, struct block_request *r)
{
	struct block_image *i = lane->image;
	if (i->is_device ? i->has_no_discard : i->has_no_punch) {
		r->result = 0;
		return BLOCK_NEXT_DONE;
	}
	r->step = (struct block_step){
		.op = i->is_device ? BLOCK_STEP_DISCARD_DEVICE : BLOCK_STEP_FALLOCATE,
		.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		.offset_bytes = r->offset_bytes,
		.n_bytes = r->n_bytes,
	};
	return BLOCK_NEXT_STEP;
}

static bool finish_discard(struct block_lane *lane, struct block_request *r, long result)
{
	struct block_image *i = lane->image;
	if (is_unsupported(result)) {
		learn(i, i->is_device ? &i->has_no_discard : &i->has_no_punch, "discarding");
		result = 0;
	}
	/* A range that is not a multiple of what the device discards. */
	if (result == -EINVAL && i->is_device)
		result = 0;
	r->result = (int)result;
	return true;
}

static enum block_next prepare_zeroes(struct block_lane *lane, struct block_request *r)
{
	struct block_image *i = lane->image;
	if (r->method == ZERO_BY_HOLE && (!r->may_unmap || !i->limits.can_discard || i->has_no_punch))
		r->method = ZERO_BY_RANGE;
	if (r->method == ZERO_BY_RANGE && i->has_no_zero_range)
		r->method = ZERO_BY_WRITES;

	uint64_t left = r->n_bytes - r->n_done_bytes, offset = r->offset_bytes + r->n_done_bytes;
	r->step = (struct block_step){
		.op = BLOCK_STEP_FALLOCATE,
		.mode = FALLOC_FL_KEEP_SIZE | (r->method == ZERO_BY_HOLE ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
		.offset_bytes = offset,
		.n_bytes = left,
	};
	if (r->method == ZERO_BY_WRITES) {
		size_t n = (size_t)min_u64(left, BLOCK_ZEROES_BYTES);
		r->bounce_iov = (struct iovec){ .iov_base = i->zeroes, .iov_len = n };
		r->step.op = BLOCK_STEP_WRITE;
		r->step.iov = &r->bounce_iov;
		r->step.n_iov = 1;
		r->step.n_bytes = n;
		r->step.is_buffered = i->is_direct && ((offset | n) & (i->offset_align - 1));
		assert(!r->step.is_buffered || i->buffered_fd >= 0);
	}
	return BLOCK_NEXT_STEP;
}

static bool finish_zeroes(struct block_lane *lane, struct block_request *r, long result)
{
	struct block_image *i = lane->image;
	if (r->method == ZERO_BY_WRITES)
		return finish_transfer(lane, r, result);

	/* EINVAL: a device that wants larger multiples; this request only. */
	if (is_unsupported(result) || result == -EINVAL) {
		if (result != -EINVAL && r->method == ZERO_BY_HOLE)
			learn(i, &i->has_no_punch, "holes");
		else if (result != -EINVAL)
			learn(i, &i->has_no_zero_range, "zeroing a range");
		r->method++;
		return false;
	}
	r->result = (int)result;
	return true;
}

/* --- the format --- */

static enum block_next raw_prepare(struct block_lane *lane, struct block_request *r)
{
	bool is_flush = r->op == BLOCK_FLUSH;
	r->result = 0;
	if (is_flush ? lane->image->limits.is_readonly : r->n_bytes == 0)
		return BLOCK_NEXT_DONE;
	if (lane->image->limits.is_readonly && r->op != BLOCK_READ) {
		r->result = -EROFS;
		return BLOCK_NEXT_DONE;
	}
	switch (r->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return prepare_transfer(lane, r);
	case BLOCK_DISCARD:
		return prepare_discard(lane, r);
	case BLOCK_WRITE_ZEROES:
		return prepare_zeroes(lane, r);
	case BLOCK_FLUSH:
		break;
	}
	r->step = (struct block_step){ .op = BLOCK_STEP_SYNC };
	return BLOCK_NEXT_STEP;
}

static bool raw_finish(struct block_lane *lane, struct block_request *r, long result)
{
	if ((result == -EINTR || result == -EAGAIN) && r->n_retries < MAX_RETRIES) {
		r->n_retries++;
		return false;
	}
	switch (r->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		return finish_transfer(lane, r, result);
	case BLOCK_DISCARD:
		return finish_discard(lane, r, result);
	case BLOCK_WRITE_ZEROES:
		return finish_zeroes(lane, r, result);
	case BLOCK_FLUSH:
		break;
	}
	r->result = (int)result;
	return true;
}

const struct block_format block_raw_format = {
	.name = "raw",
	.prepare = raw_prepare,
	.finish = raw_finish,
};

long block_step_execute(const struct block_image *i, const struct block_step *s)
{
	int fd = s->is_buffered ? i->buffered_fd : i->fd;
	uint64_t range[2] = { s->offset_bytes, s->n_bytes };
	ssize_t n = -1;

	switch (s->op) {
	case BLOCK_STEP_READ:
		n = preadv(fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
		break;
	case BLOCK_STEP_WRITE:
		n = pwritev(fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
		break;
	case BLOCK_STEP_SYNC:
		n = fdatasync(fd);
		break;
	case BLOCK_STEP_FALLOCATE:
		n = fallocate(fd, s->mode, (off_t)s->offset_bytes, (off_t)s->n_bytes);
		break;
	case BLOCK_STEP_DISCARD_DEVICE:
		n = ioctl(fd, BLKDISCARD, range);
		break;
	}
	return n < 0 ? -errno : (long)n;
}

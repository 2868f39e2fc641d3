// SPDX-License-Identifier: Apache-2.0
/* Moving a request's bytes: what all formats have in common.
 *
 * Theory of operation. A format knows where the next run of a request's bytes is in which file; block_transfer_prepare()
 * makes a step of it. When the kernel moves less than the step asked for, the request's iovecs are advanced by what was
 * moved and the format is asked again. A step that ends before the request does borrows the end of its last iovec
 * (n_cut_bytes) until its result is known. Direct I/O wants file offsets, lengths and buffers aligned. A step whose
 * buffers are not goes through a bounce buffer of the lane, in pieces; one whose offset or length is not (a guest that
 * ignores the block size it was told, a format's odd alignment) goes by the second, buffered descriptor: the kernel keeps
 * both coherent.
 *
 * Reads of formats with tables are wholly here: ask the map, move or fill, until the request is whole. The map may be in
 * another image of the chain; what it needs to read first, or to unpack, is done by a call on a worker thread. */
#include "backend/block_impl.h"

#include "base/guarded_copy.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* A signal or a shortage repeats a step; this many times in a row without progress is an error like any other. */
#define MAX_RETRIES 1000

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

/* These three: false when the guest's memory is not there. */
static bool take_bytes(const struct block_request *r, void *ret_bytes, const void *from, size_t n_bytes)
{
	if (r->may_fault)
		return guarded_read(ret_bytes, from, n_bytes);
	memcpy(ret_bytes, from, n_bytes);
	return true;
}

static bool give_zeroes(const struct block_request *r, uint8_t *to, size_t n_bytes)
{
	static const uint8_t zeroes[4096];
	bool is_there = true;
	if (!r->may_fault)
		memset(to, 0, n_bytes);
	for (size_t n = 0; r->may_fault && is_there && n < n_bytes; n += sizeof zeroes)
		is_there = guarded_write(to + n, zeroes, (size_t)min_u64(sizeof zeroes, n_bytes - n));
	return is_there;
}

/* bytes NULL: zeroes. */
static bool give_bytes(const struct block_request *r, void *to, const void *bytes, size_t n_bytes)
{
	if (!bytes)
		return give_zeroes(r, to, n_bytes);
	if (r->may_fault)
		return guarded_write(to, bytes, n_bytes);
	memcpy(to, bytes, n_bytes);
	return true;
}

/* Between the first n_bytes of the request's buffers and the bounce buffer. */
static bool copy_bounce(struct block_request *r, size_t n_bytes, bool is_to_bounce)
{
	uint8_t *at = r->bounce;
	bool is_there = true;
	for (int i = 0; n_bytes; i++) {
		assert(i < r->n_iov);
		size_t n = (size_t)min_u64(r->iov[i].iov_len, n_bytes);
		is_there &= is_to_bounce ? take_bytes(r, at, r->iov[i].iov_base, n) : give_bytes(r, r->iov[i].iov_base, at, n);
		at += n;
		n_bytes -= n;
	}
	return is_there;
}

bool block_transfer_fill(struct block_request *r, const uint8_t *bytes, uint64_t n_bytes)
{
	assert(n_bytes <= r->n_bytes - r->n_done_bytes);
	uint64_t left = n_bytes;
	bool is_there = true;
	for (int k = 0; left; k++) {
		assert(k < r->n_iov);
		size_t n = (size_t)min_u64(r->iov[k].iov_len, left);
		is_there &= give_bytes(r, r->iov[k].iov_base, bytes, n);
		if (bytes)
			bytes += n;
		left -= n;
	}
	advance_iov(r, (size_t)n_bytes);
	r->n_done_bytes += n_bytes;
	return is_there;
}

void block_transfer_skip(struct block_request *r, uint64_t n_bytes)
{
	assert(n_bytes <= r->n_bytes - r->n_done_bytes);
	advance_iov(r, (size_t)n_bytes);
	r->n_done_bytes += n_bytes;
}

bool block_transfer_peek(const struct block_request *r, uint8_t *ret_bytes, uint64_t n_bytes)
{
	bool is_there = true;
	for (int k = 0; n_bytes; k++) {
		assert(k < r->n_iov);
		size_t n = (size_t)min_u64(r->iov[k].iov_len, n_bytes);
		is_there &= take_bytes(r, ret_bytes, r->iov[k].iov_base, n);
		ret_bytes += n;
		n_bytes -= n;
	}
	return is_there;
}

/* The next n_bytes, which may end within an iovec: the rest of that one is borrowed. */
static void cut_iov(struct block_request *r, uint64_t n_bytes)
{
	struct block_step *s = &r->step;
	uint64_t n = 0;
	s->iov = r->iov;
	for (s->n_iov = 0; n < n_bytes && s->n_iov < IOV_MAX; s->n_iov++) {
		assert(s->n_iov < r->n_iov);
		n += r->iov[s->n_iov].iov_len;
	}
	s->n_bytes = min_u64(n, n_bytes);
	if (n > n_bytes) {
		r->n_cut_bytes = (size_t)(n - n_bytes);
		r->iov[s->n_iov - 1].iov_len -= r->n_cut_bytes;
	}
}

void block_transfer_cancel(struct block_request *r)
{
	if (r->n_cut_bytes) {
		r->step.iov[r->step.n_iov - 1].iov_len += r->n_cut_bytes;
		r->n_cut_bytes = 0;
	}
}

static bool has_aligned_buffers(const struct block_file *f, const struct block_step *s)
{
	uintptr_t bases = 0;
	size_t lengths = 0;
	for (int k = 0; k < s->n_iov; k++) {
		bases |= (uintptr_t)s->iov[k].iov_base;
		lengths |= s->iov[k].iov_len;
	}
	return !(bases & (f->memory_align - 1)) && !(lengths & (f->offset_align - 1));
}

/* --- transfers --- */

bool block_should_retry(struct block_request *r, long result)
{
	if ((result != -EINTR && result != -EAGAIN) || r->n_retries >= MAX_RETRIES)
		return false;
	r->n_retries++;
	return true;
}

enum block_next block_transfer_prepare_buffered(struct block_request *r, const struct block_file *f,
                                                uint64_t offset_bytes, uint64_t n_bytes)
{
	block_transfer_cancel(r);
	assert(n_bytes && n_bytes <= r->n_bytes - r->n_done_bytes);
	assert(!f->is_direct || f->buffered_fd >= 0);
	r->step = (struct block_step){
		.op = r->op == BLOCK_READ ? BLOCK_STEP_READ : BLOCK_STEP_WRITE,
		.file = f,
		.is_buffered = f->is_direct,
		.offset_bytes = offset_bytes,
	};
	cut_iov(r, n_bytes);
	return BLOCK_NEXT_STEP;
}

enum block_next block_transfer_prepare(struct block_lane *lane, struct block_request *r, const struct block_file *f,
                                       uint64_t offset_bytes, uint64_t n_bytes)
{
	/* Where there is no second descriptor, every multiple of 512 is aligned. */
	if (!f->is_direct || ((offset_bytes | n_bytes) & (f->offset_align - 1)))
		return block_transfer_prepare_buffered(r, f, offset_bytes, n_bytes);
	block_transfer_cancel(r);
	assert(n_bytes && n_bytes <= r->n_bytes - r->n_done_bytes);
	r->step = (struct block_step){
		.op = r->op == BLOCK_READ ? BLOCK_STEP_READ : BLOCK_STEP_WRITE,
		.file = f,
		.offset_bytes = offset_bytes,
	};
	cut_iov(r, n_bytes);
	if (has_aligned_buffers(f, &r->step))
		return BLOCK_NEXT_STEP;

	block_transfer_cancel(r);
	assert(!r->bounce); /* the lane took the last step's back */
	r->bounce = block_lane_take_bounce(lane);
	if (!r->bounce)
		return BLOCK_NEXT_WAIT;
	size_t n = (size_t)min_u64(n_bytes, BLOCK_BOUNCE_BYTES);
	/* Without the guest's bytes the step is to fail as it would on the guest's own buffers: its address is nobody's. */
	bool is_there = r->op != BLOCK_WRITE || copy_bounce(r, n, true);
	r->bounce_iov = (struct iovec){ .iov_base = is_there ? r->bounce : NULL, .iov_len = n };
	r->step.iov = &r->bounce_iov;
	r->step.n_iov = 1;
	r->step.n_bytes = n;
	return BLOCK_NEXT_STEP;
}

long block_transfer_finish(struct block_lane *lane, struct block_request *r, long result)
{
	const struct block_step *s = &r->step;
	(void)lane;
	block_transfer_cancel(r);
	if (result < 0)
		return result;
	uint64_t n = (uint64_t)result;
	assert(n <= s->n_bytes);
	/* In direct I/O the next step must start aligned. */
	if (s->file->is_direct && !s->is_buffered && n < s->n_bytes) {
		uint64_t n_aligned = align_down(n, s->file->offset_align);
		/* The last bytes of an odd file: the next step is a buffered one. */
		if (n_aligned || s->file->buffered_fd < 0)
			n = n_aligned;
	}
	if (n == 0)
		return 0;
	r->n_retries = 0;
	if (r->op != BLOCK_WRITE_ZEROES) {
		if (r->op == BLOCK_READ && s->iov == &r->bounce_iov && !copy_bounce(r, (size_t)n, false))
			return -EFAULT;
		advance_iov(r, (size_t)n);
	}
	r->n_done_bytes += n;
	assert(r->n_done_bytes <= r->n_bytes);
	return (long)n;
}

/* --- the map --- */

static int map_one(struct block_image *i, uint64_t offset, uint64_t n_bytes, bool can_block, struct block_extent *x)
{
	*x = (struct block_extent){ .kind = BLOCK_EXTENT_DATA, .image = i, .file = i->file, .offset_bytes = offset,
		                    .disk_offset_bytes = offset, .n_bytes = n_bytes };
	return i->format->map ? i->format->map(i, offset, n_bytes, can_block, x) : 0;
}

int block_map(struct block_image *i, uint64_t offset_bytes, uint64_t n_bytes, bool can_block, struct block_extent *ret_x)
{
	for (;;) {
		int rc = map_one(i, offset_bytes, n_bytes, can_block, ret_x);
		if (rc < 0)
			return rc;
		assert(ret_x->n_bytes && ret_x->n_bytes <= n_bytes);
		if (ret_x->kind != BLOCK_EXTENT_HOLE)
			return 0;
		n_bytes = ret_x->n_bytes;
		i = ret_x->image->backing;
		uint64_t size = i ? i->n_disk_bytes : 0;
		if (offset_bytes >= size) {
			ret_x->kind = BLOCK_EXTENT_ZERO;
			return 0;
		}
		n_bytes = min_u64(n_bytes, size - offset_bytes);
	}
}

int block_read_blocking(struct block_image *i, uint64_t offset_bytes, void *ret_bytes, size_t n_bytes)
{
	uint8_t *at = ret_bytes;
	while (n_bytes) {
		struct block_extent x;
		uint64_t size = i->n_disk_bytes;
		if (offset_bytes >= size) {
			memset(at, 0, n_bytes);
			return 0;
		}
		int rc = block_map(i, offset_bytes, min_u64(n_bytes, size - offset_bytes), true, &x);
		if (rc >= 0 && x.kind == BLOCK_EXTENT_DATA)
			rc = block_file_read_padded(i, x.file, at, (size_t)x.n_bytes, x.offset_bytes);
		else if (rc >= 0 && x.kind == BLOCK_EXTENT_PACKED)
			rc = x.image->format->read_packed(x.image, &x, at);
		else if (rc >= 0)
			memset(at, 0, (size_t)x.n_bytes);
		if (rc < 0)
			return rc;
		at += x.n_bytes;
		offset_bytes += x.n_bytes;
		n_bytes -= (size_t)x.n_bytes;
	}
	return 0;
}

/* --- reads --- */

struct read_state {
	struct block_extent x;
	struct block_hold hold;
};

_Static_assert(sizeof(struct read_state) <= BLOCK_SCRATCH_BYTES, "the scratch area is too small");

static struct read_state *read_state_of(struct block_request *r)
{
	return (struct read_state *)(void *)r->scratch;
}

/* On a worker: tables are read, or a compressed run is unpacked into the guest's buffers. */
static long read_call(struct block_request *r)
{
	struct block_extent x;
	struct block_image *i = r->lane->image;
	uint64_t offset = r->offset_bytes + r->n_done_bytes;
	int rc = block_map(i, offset, r->n_bytes - r->n_done_bytes, true, &x);
	if (rc < 0 || x.kind != BLOCK_EXTENT_PACKED)
		return rc; /* the loop asks the map again */
	if (x.n_bytes > BLOCK_MAX_PACKED_BYTES)
		return -EIO;
	uint8_t *bytes = malloc((size_t)x.n_bytes);
	if (!bytes)
		return -ENOMEM;
	rc = x.image->format->read_packed(x.image, &x, bytes);
	if (rc >= 0 && !block_transfer_fill(r, bytes, x.n_bytes))
		rc = -EFAULT;
	free(bytes);
	return rc;
}

static enum block_next fail_read(struct block_request *r, int rc)
{
	r->result = rc;
	return BLOCK_NEXT_DONE;
}

enum block_next block_read_prepare(struct block_lane *lane, struct block_request *r)
{
	struct block_extent *x = &read_state_of(r)->x;
	struct block_hold *hold = &read_state_of(r)->hold;
	block_transfer_cancel(r);
	block_hold(lane->image, hold);
	while (r->n_done_bytes < r->n_bytes) {
		int rc = block_map(lane->image, r->offset_bytes + r->n_done_bytes, r->n_bytes - r->n_done_bytes, false, x);
		if (rc == -EAGAIN || (rc >= 0 && x->kind == BLOCK_EXTENT_PACKED)) {
			r->step = (struct block_step){ .op = BLOCK_STEP_CALL, .call = read_call };
			return BLOCK_NEXT_STEP;
		}
		if (rc < 0) {
			block_release(lane->image, hold);
			return fail_read(r, rc);
		}
		if (x->kind == BLOCK_EXTENT_DATA)
			return block_transfer_prepare(lane, r, x->file, x->offset_bytes, x->n_bytes);
		if (!block_transfer_fill(r, NULL, x->n_bytes)) {
			block_release(lane->image, hold);
			return fail_read(r, -EFAULT);
		}
	}
	block_release(lane->image, hold);
	r->result = 0;
	return BLOCK_NEXT_DONE;
}

bool block_read_finish(struct block_lane *lane, struct block_request *r, long result)
{
	struct block_extent *x = &read_state_of(r)->x;
	block_release(lane->image, &read_state_of(r)->hold);
	if (block_should_retry(r, result)) {
		block_transfer_cancel(r);
		return false;
	}
	if (r->step.op != BLOCK_STEP_CALL) {
		result = block_transfer_finish(lane, r, result);
		/* Behind the end of a file that is an image's: its last cluster may be there in part only. */
		if (result == 0 && !block_transfer_fill(r, NULL, x->n_bytes))
			result = -EFAULT;
	}
	r->result = result < 0 ? (int)result : 0;
	return result < 0 || r->n_done_bytes == r->n_bytes;
}

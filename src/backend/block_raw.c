// SPDX-License-Identifier: Apache-2.0
/* Raw images: byte n of the disk is byte n of the file.
 *
 * Theory of operation. Moving bytes is block_transfer.c's. Nothing moved at all is an error (the end of a file that
 * somebody made shorter), so a request always ends. When nobody said that the image is raw, its first sector is written
 * apart from the rest, by a call, which refuses what would be taken for another format the next time: a header may name
 * files of the host. More is refused than block_probe() knows, because the next to open the disk may be QEMU.
 *
 * Zeroes are written by the cheapest way that the host has: a hole, a zeroed range, plain writes of a page of zeroes.
 * What turns out not to be supported is remembered in the image. Discarding is advice: where it is not supported it
 * succeeds and does nothing (virtio 1.2, 5.2.6.2: the device MAY deallocate). */
#include "backend/block_impl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <unistd.h>

#define SECTOR_BYTES 512u
#define MAX_ALIGN 4096 /* of direct I/O */

enum zero_method { ZERO_BY_HOLE, ZERO_BY_RANGE, ZERO_BY_WRITES };

/* --- the first sector --- */

/* VMDK's descriptor as QEMU recognizes it, and a little more: comments and blank lines, then the version. Ours begins
 * with a certain comment, whatever follows. */
static bool is_vmdk_text(const uint8_t *sector)
{
	const char *at = (const char *)sector, *end = at + SECTOR_BYTES;
	static const char title[] = "# Disk DescriptorFile", version[] = "version=";
	if (strncasecmp(at, title, sizeof title - 1) == 0)
		return true;
	while (at < end) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		const char *stop = newline ? newline : end, *text = at;
		while (text < stop && (*text == ' ' || *text == '\t' || *text == '\r'))
			text++;
		if (text < stop && *text != '#')
			return (size_t)(stop - text) >= sizeof version - 1 &&
			       strncasecmp(text, version, sizeof version - 1) == 0;
		if (!newline)
			return false;
		at = newline + 1;
	}
	return false;
}

/* By what QEMU, 7 to 10, finds images; whatever version they claim to be. */
static bool looks_like_an_image(const uint8_t *sector)
{
	static const struct {
		uint16_t at, n;
		const char *bytes;
	} signs[] = {
		{ 0, 4, "QFI\xfb" },                  /* qcow, and qcow2 */
		{ 0, 4, "QED\0" },
		{ 0, 16, "WithoutFreeSpace" },        /* Parallels */
		{ 0, 16, "WithouFreSpacExt" },
		{ 64, 4, "\x7f\x10\xda\xbe" },       /* VDI */
		{ 0, 22, "Bochs Virtual HD Image" },
		{ 0, 22, "#!/bin/sh\n#V2.0 Format" }, /* cloop */
		{ 0, 8, "LUKS\xba\xbe\0\1" },        /* but not version 2: QEMU leaves that to the guest */
	};
	for (size_t k = 0; k < ARRAY_LEN(signs); k++) {
		if (memcmp(sector + signs[k].at, signs[k].bytes, signs[k].n) == 0)
			return true;
	}
	return block_probe(sector, SECTOR_BYTES) != BLOCK_TYPE_RAW || is_vmdk_text(sector);
}

/* On a worker. The guest may change its buffer at any time: what is judged is the copy, and the copy is written. */
static long write_first_sector(struct block_request *r)
{
	struct block_image *i = r->lane->image;
	_Alignas(MAX_ALIGN) uint8_t sector[SECTOR_BYTES];
	if (!block_transfer_peek(r, sector, sizeof sector))
		return -EFAULT;
	if (looks_like_an_image(sector)) {
		if (!atomic_exchange(&i->has_said_refused, true))
			log_warn(&i->log, "a write was refused that would make the raw image look like one of another "
			                  "format; image_type=raw allows it");
		return -EPERM;
	}
	/* With direct I/O where that can be: in one page of the host's cache both ways would be in each other's way. */
	const struct block_file *f = i->file;
	struct iovec iov = { .iov_base = sector, .iov_len = sizeof sector };
	struct block_step s = {
		.op = BLOCK_STEP_WRITE, .iov = &iov, .n_iov = 1, .file = f, .n_bytes = sizeof sector,
		.is_buffered = f->is_direct && f->offset_align > SECTOR_BYTES,
	};
	long rc = block_step_run(i, &s);
	return rc < 0 || rc == (long)SECTOR_BYTES ? rc : -EIO;
}

/* --- reads and writes --- */

static enum block_next prepare_transfer(struct block_lane *lane, struct block_request *r)
{
	uint64_t left = r->n_bytes - r->n_done_bytes, offset = r->offset_bytes + r->n_done_bytes;
	if (r->op == BLOCK_WRITE && lane->image->was_probed && offset < SECTOR_BYTES) {
		r->step = (struct block_step){ .op = BLOCK_STEP_CALL, .call = write_first_sector };
		return BLOCK_NEXT_STEP;
	}
	return block_transfer_prepare(lane, r, lane->image->file, offset, left);
}

static bool finish_transfer(struct block_lane *lane, struct block_request *r, long result)
{
	if (r->step.op == BLOCK_STEP_CALL) {
		if (result > 0)
			block_transfer_skip(r, (uint64_t)result);
	} else {
		result = block_transfer_finish(lane, r, result);
		if (result == 0)
			result = -EIO; /* the end of the file, before the end of the disk */
	}
	r->result = result < 0 ? (int)result : 0;
	return result < 0 || r->n_done_bytes == r->n_bytes;
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
	if (i->file->is_device ? i->file->has_no_discard : i->file->has_no_punch) {
		r->result = 0;
		return BLOCK_NEXT_DONE;
	}
	r->step = (struct block_step){
		.file = i->file,
		.op = i->file->is_device ? BLOCK_STEP_DISCARD_DEVICE : BLOCK_STEP_FALLOCATE,
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
		learn(i, i->file->is_device ? &i->file->has_no_discard : &i->file->has_no_punch, "discarding");
		result = 0;
	}
	/* A range that is not a multiple of what the device discards. */
	if (result == -EINVAL && i->file->is_device)
		result = 0;
	r->result = (int)result;
	return true;
}

static enum block_next prepare_zeroes(struct block_lane *lane, struct block_request *r)
{
	struct block_image *i = lane->image;
	if (r->method == ZERO_BY_HOLE && (!r->may_unmap || !i->limits.can_discard || i->file->has_no_punch))
		r->method = ZERO_BY_RANGE;
	if (r->method == ZERO_BY_RANGE && i->file->has_no_zero_range)
		r->method = ZERO_BY_WRITES;

	uint64_t left = r->n_bytes - r->n_done_bytes, offset = r->offset_bytes + r->n_done_bytes;
	const struct block_file *f = i->file;
	r->step = (struct block_step){
		.op = BLOCK_STEP_FALLOCATE,
		.file = f,
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
		r->step.is_buffered = f->is_direct && ((offset | n) & (f->offset_align - 1));
		assert(!r->step.is_buffered || f->buffered_fd >= 0);
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
			learn(i, &i->file->has_no_punch, "holes");
		else if (result != -EINVAL)
			learn(i, &i->file->has_no_zero_range, "zeroing a range");
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
	if (is_flush ? lane->image->limits.is_readonly || lane->image->has_no_sync : r->n_bytes == 0)
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
	r->step = (struct block_step){ .op = BLOCK_STEP_SYNC, .file = lane->image->file };
	return BLOCK_NEXT_STEP;
}

static bool raw_finish(struct block_lane *lane, struct block_request *r, long result)
{
	if (block_should_retry(r, result)) {
		block_transfer_cancel(r);
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

static int raw_open(struct block_image *i, const struct block_params *p, struct err *e)
{
	(void)e;
	if (i->was_probed && !p->is_readonly)
		log_info(&i->log, "no image_type is given for '%s', which looks raw: what would change that is refused in "
		                  "its first sector", p->path);
	return 0;
}

/* Asked before: the kernel would say so by SIGXFSZ, which ends processes. */
static bool is_beyond_limit(uint64_t n_bytes)
{
	struct rlimit l;
	bool has_limit = getrlimit(RLIMIT_FSIZE, &l) == 0 && l.rlim_cur != RLIM_INFINITY;
	return n_bytes > INT64_MAX || (has_limit && n_bytes > l.rlim_cur);
}

static int raw_resize(struct block_image *i, uint64_t n_bytes, struct err *e)
{
	uint64_t now;
	int rc = block_file_size(i->file, &now);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot find the size of '%s'", i->file->path);
	/* A device is grown by others, and then is what it is: a part of it would be all of it at the next boot. */
	if (i->file->is_device && now != n_bytes)
		return err_set(e, now < n_bytes ? ENOSPC : EINVAL, "cannot resize '%s': the device has %llu bytes",
		               i->file->path, (unsigned long long)now);
	/* Likewise a file that somebody has made longer. What is there may be wanted: nothing is cut off. */
	if (now > n_bytes)
		return err_set(e, EINVAL, "cannot resize '%s': the file has %llu bytes already", i->file->path,
		               (unsigned long long)now);
	if (now < n_bytes && is_beyond_limit(n_bytes))
		return err_set(e, EFBIG, "cannot resize '%s': files of this process cannot be that large",
		               i->file->path);
	if (now < n_bytes && ftruncate(i->file->fd, (off_t)n_bytes) < 0)
		return err_set_errno(e, errno, "cannot resize '%s'", i->file->path);
	i->was_changed = true;
	return 0;
}

const struct block_format block_raw_format = {
	.name = "raw",
	.open = raw_open,
	.prepare = raw_prepare,
	.finish = raw_finish,
	.resize = raw_resize,
};

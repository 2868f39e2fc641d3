/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_image.h - a made-up image is opened, read and written. Whatever is in it, opening ends with an error that has a
 * text or with an image, and requests end with a result.
 *
 * An image is mostly zeroes, so the input says what is not: one byte of flags (bit 0 read only), the file's size in
 * sectors (u32), then records: offset in sectors (u32), length (u16), bytes. A record of length 0 ends them; the rest is
 * requests of 8 bytes: kind and length, then where. Before it is opened, `seal` makes the checksums right. */
#include "backend/block_impl.h"

#include "base/bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_SECTORS (64u * 2048)
#define MAX_OP_BYTES (64u * 1024)

static void check(bool ok)
{
	if (!ok)
		abort();
}

static void on_done(struct block_request *r, int result)
{
	check(result <= 0);
	r->result = 1; /* the driver's sign that it came */
}

static void run_request(struct block_lane *lane, const uint8_t *p, const struct block_limits *l)
{
	static uint8_t buffer[MAX_OP_BYTES];
	uint64_t n = (1 + (uint64_t)p[1] % 128) * 512, where = get_le64(p) >> 16;
	struct iovec iov[2] = { { buffer, 512 }, { buffer + 512, n - 512 } };
	struct block_request r = {
		.op = (enum block_op)(p[0] % 5), .may_unmap = p[0] & 0x80, .iov = iov, .n_iov = n > 512 ? 2 : 1, .done = on_done,
	};
	if (l->n_bytes == 0)
		return;
	r.n_bytes = n < l->n_bytes ? n : l->n_bytes;
	/* Half of them near the start, where there is something. */
	r.offset_bytes = p[0] & 0x40 ? where * 512 % (l->n_bytes - r.n_bytes + 512) : where % 8192 * 512;
	r.offset_bytes = min_u64(r.offset_bytes, l->n_bytes - r.n_bytes) & ~511ull;
	if (r.op == BLOCK_FLUSH)
		r.offset_bytes = r.n_bytes = 0;
	iov[0].iov_len = r.n_bytes < 512 ? (size_t)r.n_bytes : 512;
	iov[1].iov_len = (size_t)r.n_bytes - iov[0].iov_len;
	block_submit(lane, &r);
	block_drain(lane);
	check(r.result == 1);
}

static void run_image(const char *path, enum block_type type, bool is_readonly, const uint8_t *ops, size_t n_bytes)
{
	struct err e = { 0 };
	struct block_image *i;
	struct block_lane *lane = NULL;
	struct loop *loop;
	struct block_limits l;
	struct block_params p = { .path = path, .image_type = type, .is_readonly = is_readonly, .has_discard = true,
		                  .has_no_io_uring = true, .may_use_backing_files = true };
	int rc = block_open(&p, &i, &e);
	if (rc < 0) {
		check(e.text[0] && rc == -e.code);
		return;
	}
	block_image_limits(i, &l);
	check(l.n_bytes % 512 == 0);
	check(loop_new(&loop, NULL) == 0 && block_lane_open(i, loop, 4, &lane, NULL) == 0);
	for (size_t at = 0; at + 8 <= n_bytes && at < 32 * 8; at += 8)
		run_request(lane, ops + at, &l);
	block_lane_close(lane);
	block_close(i);
	loop_free(loop);
}

static int fuzz_image(const uint8_t *data, size_t n_bytes, enum block_type type,
                      void (*seal)(int fd, uint64_t n_file_bytes))
{
	char path[40];
	if (n_bytes < 5)
		return 0;
	uint64_t n_file_bytes = get_le32(data + 1) % MAX_SECTORS * 512ull;
	size_t at = 5;
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	check(fd >= 0 && ftruncate(fd, (off_t)n_file_bytes) == 0);
	while (at + 6 <= n_bytes) {
		uint64_t offset = get_le32(data + at) * 512ull;
		size_t n = get_le16(data + at + 4);
		at += 6;
		if (n == 0)
			break;
		n = n < n_bytes - at ? n : n_bytes - at;
		if (offset + n <= n_file_bytes)
			check(pwrite(fd, data + at, n, (off_t)offset) == (ssize_t)n);
		at += n;
	}
	if (seal)
		seal(fd, n_file_bytes);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	run_image(path, type, data[0] & 1, data + at, n_bytes - at);
	(void)close(fd);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

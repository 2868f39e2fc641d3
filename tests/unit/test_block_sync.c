/* SPDX-License-Identifier: Apache-2.0 */
/* What a flush is worth: how often the host is asked to make something durable, and what every flush is told when that
 * failed. That an image outlives its process without any sync is block_crash's. */
#include "block_kit.h"

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

static long count(void *context, const struct block_step *s)
{
	(void)context;
	long n = -1;
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

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

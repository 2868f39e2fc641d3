/* SPDX-License-Identifier: Apache-2.0 */
/* block_kit.h - images of QEMU's making, and random requests on them against a model in memory. */
#pragma once
#include "backend/block_impl.h"
#include "base/clock.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KIT_WORKERS = 1, KIT_DIRECT = 2 };

#define KIT_LANES 2

static char kit_log[LOG_TEXT_BYTES];

static void kit_keep_log(void *context, const struct log_record *r)
{
	(void)context;
	(void)snprintf(kit_log, sizeof kit_log, "%s", r->text);
}

static const struct log_sink kit_sink = { .write = kit_keep_log, .max_level = LOG_DEBUG };
static const struct log kit_logger = { .sink = &kit_sink, .object = "_disk0" };

/* xorshift64*: the same numbers everywhere. */
static uint64_t kit_seed = 88172645463325252ull;

static uint64_t kit_chance(uint64_t n)
{
	kit_seed ^= kit_seed >> 12;
	kit_seed ^= kit_seed << 25;
	kit_seed ^= kit_seed >> 27;
	return (kit_seed * 2685821657736338717ull) % n;
}

/* --- how much --- */

/* All kinds of images in every test take minutes: that is VARAN_TESTS=whole. Otherwise the plain build, the one with the
 * address sanitizer and the one with the thread sanitizer take a third of the kinds each, and fewer rounds. */
#define KIT_SHARES 3
#if defined(__SANITIZE_ADDRESS__)
#define KIT_SHARE 1
#elif defined(__SANITIZE_THREAD__)
#define KIT_SHARE 2
#else
#define KIT_SHARE 0
#endif

static bool kit_is_whole(void)
{
	const char *how = getenv("VARAN_TESTS");
	return how && strcmp(how, "whole") == 0;
}

__attribute__((unused)) static bool kit_is_mine(size_t n)
{
	return n % KIT_SHARES == KIT_SHARE || kit_is_whole();
}

__attribute__((unused)) static unsigned kit_rounds(unsigned n)
{
	return kit_is_whole() ? n : (n + 3) / 4;
}

/* --- programs --- */

__attribute__((format(printf, 1, 2))) static int kit_try(const char *fmt, ...)
{
	char command[8192], quiet[8300];
	va_list ap;
	va_start(ap, fmt);
	OK((size_t)vsnprintf(command, sizeof command, fmt, ap) < sizeof command);
	va_end(ap);
	(void)snprintf(quiet, sizeof quiet, "{ %s; } >/dev/null 2>&1", command);
	int status = system(quiet);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define kit_run(...)                                                                                  \
	do {                                                                                          \
		int rc_ = kit_try(__VA_ARGS__);                                                       \
		if (rc_ != 0) {                                                                       \
			char command_[8192];                                                          \
			(void)snprintf(command_, sizeof command_, __VA_ARGS__);                       \
			test_fail(__FILE__, __LINE__, "exit status %d of: %s", rc_, command_);        \
		}                                                                                     \
	} while (0)

__attribute__((unused)) static void kit_need_qemu(void)
{
	if (kit_try("command -v qemu-img && command -v qemu-io") != 0)
		test_skip("qemu-img and qemu-io are not installed");
}

/* A folder of the test's own, removed by kit_folder_done(). */
static char kit_folder[64];

/* In memory, where syncing costs nothing, unless direct I/O is to be had. */
static void kit_folder_new(int mode)
{
	bool is_in_memory = !(mode & KIT_DIRECT) && access("/dev/shm", W_OK) == 0;
	(void)snprintf(kit_folder, sizeof kit_folder, "%s/varan-images-XXXXXX", is_in_memory ? "/dev/shm" : "/tmp");
	OK(mkdtemp(kit_folder) != NULL);
}

static void kit_folder_done(void)
{
	kit_run("rm -rf %s", kit_folder);
}

/* --- an open image --- */

struct kit {
	char path[128];
	enum block_type type;
	int mode;
	enum block_sync sync;
	bool is_readonly;
	struct block_image *image;
	struct loop *loops[KIT_LANES];
	struct block_lane *lanes[KIT_LANES];
};

static struct block_params kit_params(const struct kit *k)
{
	return (struct block_params){
		.path = k->path, .is_direct = k->mode & KIT_DIRECT, .has_no_io_uring = k->mode & KIT_WORKERS,
		.has_discard = true, .image_type = k->type, .may_use_backing_files = true, .is_readonly = k->is_readonly,
		.sync = k->sync, .log = &kit_logger,
	};
}

__attribute__((unused)) static void kit_open(struct kit *k)
{
	struct err e = { 0 };
	struct block_params p = kit_params(k);
	if (block_open(&p, &k->image, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	for (unsigned l = 0; l < KIT_LANES; l++) {
		EQ(loop_new(&k->loops[l], NULL), 0);
		EQ(block_lane_open(k->image, k->loops[l], 32, &k->lanes[l], &e), 0);
	}
}

__attribute__((unused)) static void kit_close(struct kit *k)
{
	for (unsigned l = 0; l < KIT_LANES; l++)
		block_lane_close(k->lanes[l]);
	block_close(k->image);
	for (unsigned l = 0; l < KIT_LANES; l++)
		loop_free(k->loops[l]);
}

/* What opening says, which must fail. */
__attribute__((unused)) static int kit_open_error(const struct kit *k, struct err *e)
{
	struct block_params p = kit_params(k);
	struct block_image *i = NULL;
	int rc = block_open(&p, &i, e);
	if (rc >= 0)
		test_fail(__FILE__, __LINE__, "%s: opened", k->path);
	OK(!i);
	return rc;
}

/* --- requests --- */

struct kit_op {
	struct block_request r;
	struct iovec iov[3];
	uint8_t *buffer;
	int result;
	bool is_done;
};

static void kit_done(struct block_request *r, int result)
{
	struct kit_op *o = container_of(r, struct kit_op, r);
	OK(!o->is_done);
	o->result = result;
	o->is_done = true;
}

static void kit_submit(struct kit *k, unsigned lane, struct kit_op *o, enum block_op op, uint64_t offset, uint64_t n)
{
	o->is_done = false;
	o->r.op = op;
	o->r.offset_bytes = offset;
	o->r.n_bytes = n;
	o->r.iov = o->iov;
	o->r.done = kit_done;
	/* In pieces, so that runs end within them. */
	size_t first = (size_t)n / 1024 * 512;
	o->iov[0] = (struct iovec){ .iov_base = o->buffer, .iov_len = first };
	o->iov[1] = (struct iovec){ .iov_base = o->buffer + first, .iov_len = (size_t)n - first };
	o->r.n_iov = 2;
	block_submit(k->lanes[lane], &o->r);
}

static void kit_wait(struct kit *k, struct kit_op *ops, unsigned n)
{
	uint64_t end = clock_now_ns() + 60 * NS_PER_S;
	for (unsigned done = 0; done < n;) {
		for (unsigned l = 0; l < KIT_LANES; l++)
			OK(loop_run_once(k->loops[l], done + 1 == n ? 1 : 0) >= 0);
		for (done = 0; done < n && ops[done].is_done;)
			done++;
		OK(clock_now_ns() < end);
	}
}

static int kit_do(struct kit *k, enum block_op op, uint64_t offset, void *buffer, uint64_t n)
{
	struct kit_op o = { .buffer = buffer };
	o.r.may_unmap = true;
	kit_submit(k, 0, &o, op, offset, n);
	kit_wait(k, &o, 1);
	return o.result;
}

/* --- random work --- */

/* A window of the disk, and what is in it. */
struct kit_model {
	uint64_t start_bytes, n_bytes;
	uint8_t *bytes;
};

__attribute__((unused)) static void kit_model_new(struct kit_model *m, uint64_t start, uint64_t n_bytes)
{
	void *p;
	EQ(posix_memalign(&p, 4096, (size_t)n_bytes), 0);
	memset(p, 0, (size_t)n_bytes);
	*m = (struct kit_model){ .start_bytes = start, .n_bytes = n_bytes, .bytes = p };
}

#define KIT_BATCH 12u
#define KIT_MAX_OP_BYTES (384u * 1024)

static bool kit_meets(const struct kit_op *ops, unsigned n, uint64_t offset, uint64_t n_bytes)
{
	for (unsigned j = 0; j < n; j++) {
		const struct block_request *r = &ops[j].r;
		if (r->op != BLOCK_FLUSH && offset < r->offset_bytes + r->n_bytes && r->offset_bytes < offset + n_bytes)
			return true;
	}
	return false;
}

static void kit_random_range(const struct kit_model *m, uint64_t *ret_offset, uint64_t *ret_n)
{
	uint64_t max = kit_chance(4) ? 64 : KIT_MAX_OP_BYTES / 512;
	uint64_t n = (1 + kit_chance(max)) * 512;
	*ret_offset = m->start_bytes + kit_chance((m->n_bytes - n) / 512 + 1) * 512;
	*ret_n = n;
}

static void kit_prepare_op(struct kit_op *o, enum block_op op, struct kit_model *m, uint64_t offset, uint64_t n)
{
	uint8_t *at = m->bytes + (offset - m->start_bytes);
	o->r.may_unmap = kit_chance(2);
	if (op == BLOCK_WRITE) {
		uint64_t stamp = kit_chance(UINT64_MAX);
		for (uint64_t k = 0; k < n; k += 8, stamp += 0x9e3779b97f4a7c15ull)
			memcpy(o->buffer + k, &stamp, 8);
		memcpy(at, o->buffer, (size_t)n);
	} else if (op == BLOCK_WRITE_ZEROES) {
		memset(at, 0, (size_t)n);
	} else if (op == BLOCK_READ) {
		memset(o->buffer, 0xee, (size_t)n);
	}
}

static void kit_check_op(const struct kit_op *o, const struct kit_model *m)
{
	EQ(o->result, 0);
	if (o->r.op == BLOCK_READ)
		MEM_EQ(o->buffer, m->bytes + (o->r.offset_bytes - m->start_bytes), (size_t)o->r.n_bytes);
}

/* n requests that do not meet, on all lanes at once, a dozen at a time. No discards: what they leave is not said. */
__attribute__((unused)) static void kit_work(struct kit *k, struct kit_model *m, unsigned n)
{
	struct kit_op ops[KIT_BATCH];
	memset(ops, 0, sizeof ops);
	for (unsigned j = 0; j < KIT_BATCH; j++) {
		void *p;
		EQ(posix_memalign(&p, 4096, KIT_MAX_OP_BYTES), 0);
		ops[j].buffer = p;
	}
	for (unsigned done = 0; done < n; done += KIT_BATCH) {
		for (unsigned j = 0; j < KIT_BATCH; j++) {
			static const enum block_op kinds[] = { BLOCK_READ, BLOCK_READ, BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE,
				                               BLOCK_WRITE, BLOCK_WRITE_ZEROES, BLOCK_FLUSH };
			enum block_op op = kinds[kit_chance(ARRAY_LEN(kinds))];
			uint64_t offset, bytes;
			do
				kit_random_range(m, &offset, &bytes);
			while (kit_meets(ops, j, offset, bytes));
			if (op == BLOCK_FLUSH)
				offset = bytes = 0;
			kit_prepare_op(&ops[j], op, m, offset, bytes);
			kit_submit(k, (unsigned)kit_chance(KIT_LANES), &ops[j], op, offset, bytes);
		}
		kit_wait(k, ops, KIT_BATCH);
		for (unsigned j = 0; j < KIT_BATCH; j++)
			kit_check_op(&ops[j], m);
	}
	for (unsigned j = 0; j < KIT_BATCH; j++)
		free(ops[j].buffer);
}

/* All of the window, as we read it. */
__attribute__((unused)) static void kit_compare(struct kit *k, const struct kit_model *m)
{
	uint8_t *buffer = malloc(1 << 20);
	for (uint64_t at = 0; at < m->n_bytes; at += 1 << 20) {
		uint64_t n = min_u64(1 << 20, m->n_bytes - at);
		EQ(kit_do(k, BLOCK_READ, m->start_bytes + at, buffer, n), 0);
		MEM_EQ(buffer, m->bytes + at, (size_t)n);
	}
	free(buffer);
}

/* All of the disk, as QEMU reads it. */
__attribute__((unused)) static void kit_qemu_compare(const struct kit *k, const char *qemu_format,
                                                     const struct kit_model *m, uint64_t n_bytes)
{
	char raw[160];
	(void)snprintf(raw, sizeof raw, "%s.raw", k->path);
	int fd = open(raw, O_RDWR | O_CREAT | O_TRUNC, 0600);
	OK(fd >= 0);
	EQ(ftruncate(fd, (off_t)n_bytes), 0);
	for (uint64_t at = 0; at < m->n_bytes;) {
		ssize_t n = pwrite(fd, m->bytes + at, (size_t)(m->n_bytes - at), (off_t)(m->start_bytes + at));
		OK(n > 0);
		at += (uint64_t)n;
	}
	close(fd);
	kit_run("qemu-img compare -f %s -F raw %s %s", qemu_format, k->path, raw);
	unlink(raw);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 against QEMU's own tools: images that they made are read and written here at random, on both engines and several
 * lanes, against a model in memory, and are sound and the same to them afterwards. */
#include "backend/block_qcow2.h"
#include "block_kit.h"

#define DISK_BYTES (11ull * 1024 * 1024 + 512 * 37)

struct kind {
	const char *name;
	const char *options; /* of the top */
	const char *base;    /* qemu-img convert options of what is below or in it; NULL: none */
	bool is_backing;     /* else base is the image itself */
	bool is_chain;       /* an empty image in between */
};

static const struct kind kinds[] = {
	{ "v2", "-o compat=0.10", NULL, false, false },
	{ "v3", "-o compat=1.1", NULL, false, false },
	{ "clusters of 512", "-o cluster_size=512", NULL, false, false },
	{ "clusters of 4096", "-o cluster_size=4096", NULL, false, false },
	{ "clusters of 2M", "-o cluster_size=2M", NULL, false, false },
	{ "refcounts of 1 bit", "-o refcount_bits=1,cluster_size=1024", NULL, false, false },
	{ "refcounts of 2 bits", "-o refcount_bits=2,cluster_size=512", NULL, false, false },
	{ "refcounts of 4 bits", "-o refcount_bits=4", NULL, false, false },
	{ "refcounts of 8 bits", "-o refcount_bits=8", NULL, false, false },
	{ "refcounts of 32 bits", "-o refcount_bits=32,cluster_size=512", NULL, false, false },
	{ "refcounts of 64 bits", "-o refcount_bits=64,cluster_size=512", NULL, false, false },
	{ "lazy", "-o lazy_refcounts=on", NULL, false, false },
	{ "subclusters", "-o extended_l2=on", NULL, false, false },
	{ "small subclusters", "-o extended_l2=on,cluster_size=16k", NULL, false, false },
	{ "metadata", "-o preallocation=metadata", NULL, false, false },
	{ "full", "-o preallocation=full", NULL, false, false },
	{ "zlib", "", "-O qcow2 -c", false, false },
	{ "zlib in small clusters", "", "-O qcow2 -c -o cluster_size=4096", false, false },
	{ "zlib in large clusters", "", "-O qcow2 -c -o cluster_size=2M", false, false },
	{ "zstd", "", "-O qcow2 -c -o compression_type=zstd", false, false },
	{ "v2 zlib", "", "-O qcow2 -c -o compat=0.10", false, false },
	{ "subclusters zstd", "", "-O qcow2 -c -o compression_type=zstd,extended_l2=on", false, false },
	{ "on raw", "", "-O raw", true, false },
	{ "v2 on raw", "-o compat=0.10", "-O raw", true, false },
	{ "on qcow2", "-o cluster_size=4096", "-O qcow2", true, false },
	{ "on zlib on nothing", "", "-O qcow2 -c", true, true },
	{ "subclusters on raw", "-o extended_l2=on", "-O raw", true, true },
	{ "on a longer one", "-o cluster_size=2M", "-O qcow2 -o cluster_size=512", true, true },
};

static void write_model(const struct kit_model *m, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	OK(fd >= 0);
	EQ(write(fd, m->bytes, (size_t)m->n_bytes), (long long)m->n_bytes);
	close(fd);
}

/* Random runs of bytes and of zeroes, some that can be compressed. */
static void fill_model(struct kit_model *m)
{
	for (uint64_t at = 0; at < m->n_bytes;) {
		uint64_t n = min_u64(m->n_bytes - at, (1 + kit_chance(400)) * 512), how = kit_chance(3), v = kit_chance(UINT64_MAX);
		for (uint64_t k = 0; k < n && how; k += 8, v += how == 1 ? 0x9e3779b97f4a7c15ull : k % 64 == 0)
			memcpy(m->bytes + at + k, &v, 8);
		at += n;
	}
}

static void make(struct kit *k, struct kit_model *m, const struct kind *kind, int mode, uint64_t n_bytes)
{
	memset(k, 0, sizeof *k);
	k->mode = mode;
	k->type = BLOCK_TYPE_QCOW2;
	(void)snprintf(k->path, sizeof k->path, "%s/top", kit_folder);
	kit_run("rm -f %s/*", kit_folder);
	kit_model_new(m, 0, n_bytes);
	if (!kind->base) {
		kit_run("qemu-img create -f qcow2 %s %s %llu", kind->options, k->path, (unsigned long long)n_bytes);
		return;
	}
	fill_model(m);
	char raw[128];
	(void)snprintf(raw, sizeof raw, "%s/model", kit_folder);
	write_model(m, raw);
	if (!kind->is_backing) {
		kit_run("qemu-img convert -f raw %s %s %s", kind->base, raw, k->path);
		return;
	}
	const char *format = strstr(kind->base, "raw") ? "raw" : "qcow2";
	kit_run("qemu-img convert -f raw %s %s %s/base", kind->base, raw, kit_folder);
	if (kind->is_chain) {
		kit_run("qemu-img create -f qcow2 -b base -F %s %s/middle", format, kit_folder);
		format = "qcow2";
	}
	kit_run("qemu-img create -f qcow2 %s -b %s -F %s %s %llu", kind->options, kind->is_chain ? "middle" : "base", format,
	        k->path, (unsigned long long)n_bytes);
}

static void must_be_sound(const struct kit *k)
{
	if (kit_try("qemu-img check -f qcow2 %s", k->path) != 0) {
		test_fail(__FILE__, __LINE__, "qemu-img check is not content");
	}
}

static void work_on(const struct kind *kind, int mode)
{
	struct kit k;
	struct kit_model m;
	make(&k, &m, kind, mode, DISK_BYTES);
	for (unsigned turn = 0; turn < 2; turn++) {
		kit_open(&k);
		kit_compare(&k, &m);
		kit_work(&k, &m, 120);
		kit_compare(&k, &m);
		kit_close(&k);
		if (kit_try("qemu-img check -f qcow2 %s", k.path) != 0)
			test_fail(__FILE__, __LINE__, "%s: qemu-img check is not content", kind->name);
	}
	kit_qemu_compare(&k, "qcow2", &m, DISK_BYTES);
	free(m.bytes);
}

/* What differs between engines is the same for every kind: one takes all of them, the others some. */
static void work_on_all(int mode, unsigned first, unsigned step)
{
	kit_need_qemu();
	kit_folder_new(mode);
	for (size_t n = first; n < ARRAY_LEN(kinds); n += step)
		if (kit_is_mine(n / step))
			work_on(&kinds[n], mode);
	kit_folder_done();
}

TEST(random_work_on_io_uring)
{
	work_on_all(0, 0, 1);
}

TEST(random_work_on_workers)
{
	work_on_all(KIT_WORKERS, 0, 3);
}

TEST(random_work_direct)
{
	work_on_all(KIT_DIRECT, 1, 3);
}

/* Where a copied rest and its neighbour, written directly, would share a page of the host's cache. */
TEST(small_units_are_not_written_directly)
{
	static const struct {
		struct kind kind;
		bool is_direct;
	} how[] = {
		{ { "", "", NULL, false, false }, true },
		{ { "", "-o cluster_size=4096", NULL, false, false }, true },
		{ { "", "-o cluster_size=2048", NULL, false, false }, false },
		{ { "", "-o extended_l2=on,cluster_size=128k", NULL, false, false }, true },
		{ { "", "-o extended_l2=on", NULL, false, false }, false },
	};
	kit_need_qemu();
	kit_folder_new(KIT_DIRECT);
	for (size_t n = 0; n < ARRAY_LEN(how); n++) {
		struct kit k;
		struct kit_model m;
		make(&k, &m, &how[n].kind, KIT_DIRECT, DISK_BYTES);
		kit_open(&k);
		if (k.image->file->is_direct != how[n].is_direct)
			test_fail(__FILE__, __LINE__, "%s: %s", how[n].kind.options, how[n].is_direct ? "not direct" : "direct");
		if (!how[n].is_direct)
			STR_HAS(kit_log, "are too small");
		kit_close(&k);
		free(m.bytes);
	}
	kit_folder_done();
}

TEST(we_read_what_qemu_wrote)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++) {
		if (!kit_is_mine(n))
			continue;
		struct kit k;
		struct kit_model m;
		make(&k, &m, &kinds[n], n % 2 ? KIT_WORKERS : 0, DISK_BYTES);
		for (unsigned turn = 0; turn < 2; turn++) {
			char commands[4096] = "";
			size_t used = 0;
			for (unsigned j = 0; j < 24; j++) {
				uint64_t offset, bytes;
				unsigned pattern = (unsigned)kit_chance(255) + 1;
				kit_random_range(&m, &offset, &bytes);
				bool is_zero = kit_chance(4) == 0;
				char what[16];
				(void)snprintf(what, sizeof what, is_zero ? "-z" : "-P %u", pattern);
				used += (size_t)snprintf(commands + used, sizeof commands - used, " -c 'write %s %llu %llu'", what,
				                         (unsigned long long)offset, (unsigned long long)bytes);
				memset(m.bytes + offset, is_zero ? 0 : (int)pattern, (size_t)bytes);
			}
			kit_run("qemu-io -f qcow2%s %s", commands, k.path);
			kit_open(&k);
			kit_compare(&k, &m);
			kit_work(&k, &m, 48);
			kit_close(&k);
			must_be_sound(&k);
		}
		free(m.bytes);
	}
	kit_folder_done();
}

/* --- discards --- */

static uint64_t n_allocated(const char *path)
{
	struct stat st;
	EQ(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

TEST(discards_give_space_back_and_read_as_zeroes)
{
	static const struct kind how[] = {
		{ "v3", "", NULL, false, false }, { "v2", "-o compat=0.10", NULL, false, false },
		{ "zlib", "", "-O qcow2 -c", false, false }, { "on raw", "", "-O raw", true, false },
		{ "subclusters on raw", "-o extended_l2=on", "-O raw", true, false },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(how); n++) {
		if (!kit_is_mine(n))
			continue;
		struct kit k;
		struct kit_model m;
		make(&k, &m, &how[n], n % 2 ? KIT_WORKERS : 0, DISK_BYTES);
		kit_open(&k);
		kit_work(&k, &m, 120);
		for (unsigned j = 0; j < 60; j++) {
			uint64_t offset, bytes;
			kit_random_range(&m, &offset, &bytes);
			EQ(kit_do(&k, BLOCK_DISCARD, offset, NULL, bytes), 0);
			uint64_t first = align_up(offset, 65536), end = align_down(offset + bytes, 65536);
			if (end > first)
				memset(m.bytes + first, 0, (size_t)(end - first));
			if (j % 10 == 0)
				kit_work(&k, &m, 12);
		}
		kit_compare(&k, &m);
		/* The last cluster is a part only, and stays: the disk may grow meanwhile. */
		EQ(kit_do(&k, BLOCK_DISCARD, 0, NULL, DISK_BYTES), 0);
		memset(m.bytes, 0, align_down(DISK_BYTES, 65536));
		kit_compare(&k, &m);
		kit_close(&k);
		must_be_sound(&k);
		kit_qemu_compare(&k, "qcow2", &m, DISK_BYTES);
		OK(n_allocated(k.path) < 2u << 20);
		/* And the space is used again. */
		uint64_t n_before = 0;
		for (unsigned turn = 0; turn < 3; turn++) {
			struct stat st;
			kit_open(&k);
			for (uint64_t at = 0; at < 8u << 20; at += 1u << 20)
				EQ(kit_do(&k, BLOCK_WRITE, at, m.bytes, 1u << 20), 0);
			EQ(kit_do(&k, BLOCK_DISCARD, 0, NULL, DISK_BYTES), 0);
			kit_close(&k);
			EQ(stat(k.path, &st), 0);
			OK(turn == 0 || (uint64_t)st.st_size <= n_before);
			n_before = (uint64_t)st.st_size;
		}
		must_be_sound(&k);
		free(m.bytes);
	}
	kit_folder_done();
}

TEST(snapshots_keep_what_they_hold)
{
	kit_need_qemu();
	kit_folder_new(0);
	static const struct kind how[] = { { "v3", "-o cluster_size=4096", NULL, false, false },
		                           { "zlib", "", "-O qcow2 -c -o cluster_size=4096", false, false },
		                           { "sub", "-o extended_l2=on,cluster_size=16k", NULL, false, false } };
	for (size_t n = 0; n < ARRAY_LEN(how); n++) {
		if (!kit_is_mine(n))
			continue;
		struct kit k;
		struct kit_model m;
		make(&k, &m, &how[n], 0, DISK_BYTES);
		kit_open(&k);
		kit_work(&k, &m, 120);
		kit_close(&k);
		kit_run("qemu-img snapshot -c one %s", k.path);
		char model[128];
		(void)snprintf(model, sizeof model, "%s/snapshot-model", kit_folder);
		write_model(&m, model);
		kit_open(&k);
		kit_work(&k, &m, 240);
		kit_compare(&k, &m);
		kit_close(&k);
		must_be_sound(&k);
		kit_qemu_compare(&k, "qcow2", &m, DISK_BYTES);
		kit_run("qemu-img convert -l one -O raw %s %s.one && cmp %s.one %s", k.path, k.path, k.path, model);
		free(m.bytes);
	}
	kit_folder_done();
}

/* --- many writers --- */

#define N_WRITERS 4
#define STRIPE 4096u /* less than a cluster: the writers meet in every one */
#define WRITER_OPS 1500u
#define WRITER_DEPTH 8u

struct writer {
	unsigned n;
	struct block_image *image;
	struct kit_model *m;
	uint64_t seed;
	const char *error;
	bool may_discard;
};

struct writer_op {
	struct block_request r;
	struct iovec iov;
	uint8_t *buffer;
	uint64_t stripe;
	int result;
	bool is_done, is_busy;
};

static void writer_done(struct block_request *r, int result)
{
	struct writer_op *o = container_of(r, struct writer_op, r);
	o->result = result;
	o->is_done = true;
}

static uint64_t writer_chance(struct writer *w, uint64_t n)
{
	w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
	return (w->seed >> 33) % n;
}

static void writer_start(struct writer *w, struct block_lane *lane, struct writer_op *ops, struct writer_op *o)
{
	uint64_t n_stripes = w->m->n_bytes / STRIPE / N_WRITERS;
	bool is_taken;
	do {
		o->stripe = writer_chance(w, n_stripes) * N_WRITERS + w->n;
		is_taken = false;
		for (unsigned j = 0; j < WRITER_DEPTH; j++)
			is_taken |= &ops[j] != o && ops[j].is_busy && ops[j].stripe == o->stripe;
	} while (is_taken);
	uint8_t *model = w->m->bytes + o->stripe * STRIPE;
	static const enum block_op what[] = { BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE_ZEROES, BLOCK_FLUSH,
		                              BLOCK_DISCARD, BLOCK_DISCARD };
	o->r = (struct block_request){ .op = what[writer_chance(w, w->may_discard ? 8 : 6)], .done = writer_done, .iov = &o->iov,
		                       .n_iov = 1, .offset_bytes = o->stripe * STRIPE, .n_bytes = STRIPE, .may_unmap = true };
	o->iov = (struct iovec){ .iov_base = o->buffer, .iov_len = STRIPE };
	o->is_done = false;
	o->is_busy = true;
	if (o->r.op == BLOCK_WRITE) {
		memset(o->buffer, (int)writer_chance(w, 255) + 1, STRIPE);
		memcpy(model, o->buffer, STRIPE);
	} else if (o->r.op == BLOCK_WRITE_ZEROES || o->r.op == BLOCK_DISCARD) {
		memset(model, 0, STRIPE);
	}
	block_submit(lane, &o->r);
}

static void *writer_run(void *arg)
{
	struct writer *w = arg;
	struct loop *l;
	struct block_lane *lane;
	struct writer_op ops[WRITER_DEPTH];
	memset(ops, 0, sizeof ops);
	if (loop_new(&l, NULL) < 0 || block_lane_open(w->image, l, WRITER_DEPTH, &lane, NULL) < 0) {
		w->error = "cannot open a lane";
		return NULL;
	}
	for (unsigned j = 0; j < WRITER_DEPTH; j++) {
		void *p;
		if (posix_memalign(&p, 4096, STRIPE) == 0)
			ops[j].buffer = p;
	}
	unsigned n_started = 0, n_ended = 0;
	while (n_ended < WRITER_OPS && !w->error) {
		for (unsigned j = 0; j < WRITER_DEPTH; j++) {
			struct writer_op *o = &ops[j];
			if (o->is_busy && o->is_done) {
				if (o->result < 0)
					w->error = "a request failed";
				if (o->r.op == BLOCK_READ && memcmp(o->buffer, w->m->bytes + o->stripe * STRIPE, STRIPE) != 0)
					w->error = "a read found other bytes";
				o->is_busy = false;
				n_ended++;
			}
			if (!o->is_busy && n_started < WRITER_OPS) {
				n_started++;
				writer_start(w, lane, ops, o);
			}
		}
		(void)loop_run_once(l, 1);
	}
	block_drain(lane);
	block_lane_close(lane);
	loop_free(l);
	for (unsigned j = 0; j < WRITER_DEPTH; j++)
		free(ops[j].buffer);
	return NULL;
}

static void write_from_many(const struct kind *kind, int mode)
{
	struct kit k;
	struct kit_model m;
	struct writer writers[N_WRITERS];
	pthread_t threads[N_WRITERS];
	make(&k, &m, kind, mode, 8u << 20);
	struct block_params p = kit_params(&k);
	struct err e = { 0 };
	if (block_open(&p, &k.image, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	for (unsigned n = 0; n < N_WRITERS; n++) {
		/* Where a stripe is whole clusters, what a discard leaves is known. */
		writers[n] = (struct writer){ .n = n, .image = k.image, .m = &m, .seed = 77 + n,
			                      .may_discard = strstr(kind->options, "cluster_size=512") ||
			                                     strstr(kind->options, "cluster_size=4096") };
		EQ(pthread_create(&threads[n], NULL, writer_run, &writers[n]), 0);
	}
	/* The disk grows meanwhile. */
	for (unsigned n = 1; n <= 4; n++) {
		if (block_resize(k.image, m.n_bytes + n * (1u << 20), &e) < 0)
			test_fail(__FILE__, __LINE__, "%s: %s", kind->name, e.text);
		test_sleep_us(2000);
	}
	for (unsigned n = 0; n < N_WRITERS; n++)
		EQ(pthread_join(threads[n], NULL), 0);
	for (unsigned n = 0; n < N_WRITERS; n++) {
		if (writers[n].error)
			test_fail(__FILE__, __LINE__, "%s: writer %u: %s", kind->name, n, writers[n].error);
	}
	block_close(k.image);
	must_be_sound(&k);
	kit_qemu_compare(&k, "qcow2", &m, m.n_bytes + (4u << 20));
	free(m.bytes);
}

TEST(many_writers_share_clusters)
{
	static const struct kind how[] = {
		{ "v3", "", NULL, false, false }, { "small", "-o cluster_size=512", NULL, false, false },
		{ "stripes", "-o cluster_size=4096", NULL, false, false },
		{ "large", "-o cluster_size=2M", NULL, false, false }, { "lazy", "-o lazy_refcounts=on", NULL, false, false },
		{ "on raw", "", "-O raw", true, false }, { "zlib", "", "-O qcow2 -c", false, false },
		{ "subclusters on raw", "-o extended_l2=on", "-O raw", true, false },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(how); n++) {
		if (!kit_is_mine(n))
			continue;
		write_from_many(&how[n], 0);
		write_from_many(&how[n], KIT_WORKERS);
	}
	kit_folder_done();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 when things go wrong: the host ends at any write, the host's I/O fails, the image was made to do harm, and what
 * the rules about backing files, marked images and first sectors say. */
#include "backend/block_qcow2.h"
#include "block_kit.h"

#define DISK_BYTES (6ull << 20)

/* --- a host that remembers, or fails --- */

struct record {
	uint64_t offset, n;
	uint8_t *bytes; /* NULL: a sync */
};

struct host {
	struct block_seam seam;
	pthread_mutex_t lock;
	struct record *records;
	unsigned n_records;
	bool is_recording;
	unsigned one_in; /* steps fail; 0: none does */
	bool fails_syncs; /* them as well */
	uint64_t seed;
	unsigned n_failed, n_failed_syncs;
	/* Reads of this place are counted, and do not return while they are stopped. 0: none */
	uint64_t watched;
	_Atomic unsigned n_watched;
	_Atomic bool is_stopped;
};

static void keep(struct host *h, const struct block_step *s, uint64_t n)
{
	h->records = realloc(h->records, (h->n_records + 1) * sizeof *h->records);
	struct record *r = &h->records[h->n_records++];
	*r = (struct record){ .offset = s->offset_bytes, .n = n };
	if (s->op == BLOCK_STEP_SYNC)
		return;
	r->bytes = calloc(1, n + 1);
	size_t at = 0;
	for (int k = 0; s->op == BLOCK_STEP_WRITE && k < s->n_iov && at < n; k++) {
		size_t part = (size_t)min_u64(s->iov[k].iov_len, n - at);
		memcpy(r->bytes + at, s->iov[k].iov_base, part);
		at += part;
	}
}

static long host_execute(void *context, const struct block_step *s)
{
	struct host *h = context;
	if (s->op == BLOCK_STEP_READ && h->watched && s->offset_bytes == h->watched) {
		h->n_watched++;
		while (h->is_stopped)
			test_sleep_us(500);
	}
	(void)pthread_mutex_lock(&h->lock);
	h->seed = h->seed * 6364136223846793005ull + 1442695040888963407ull;
	long n = 0;
	bool may_fail = h->one_in && (s->op != BLOCK_STEP_SYNC || h->fails_syncs);
	if (may_fail && (h->seed >> 33) % h->one_in == 0) {
		h->n_failed++;
		h->n_failed_syncs += s->op == BLOCK_STEP_SYNC;
		n = (h->seed >> 50) % 3 ? -EIO : -ENOSPC;
	} else if (s->op == BLOCK_STEP_READ) {
		n = preadv(s->file->fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
	} else if (s->op == BLOCK_STEP_WRITE) {
		n = pwritev(s->file->fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
	} else if (s->op == BLOCK_STEP_FALLOCATE) {
		n = fallocate(s->file->fd, s->mode, (off_t)s->offset_bytes, (off_t)s->n_bytes);
	}
	if (h->is_recording && n >= 0 && s->op != BLOCK_STEP_READ)
		keep(h, s, s->op == BLOCK_STEP_WRITE ? (uint64_t)n : s->n_bytes);
	(void)pthread_mutex_unlock(&h->lock);
	return n;
}

static void host_init(struct host *h, struct kit *k)
{
	*h = (struct host){ .seam = { .execute = host_execute, .context = h }, .seed = 4711 };
	(void)pthread_mutex_init(&h->lock, NULL);
	k->image->seam = &h->seam;
}

static void host_done(struct host *h)
{
	for (unsigned n = 0; n < h->n_records; n++)
		free(h->records[n].bytes);
	free(h->records);
}

/* 0: sound; 1: leaks only; else it is corrupt. */
static int qemu_check(const char *path)
{
	int rc = kit_try("qemu-img check -f qcow2 %s", path);
	return rc == 3 ? 1 : rc;
}

static void make(struct kit *k, struct kit_model *m, const char *options, const char *convert)
{
	memset(k, 0, sizeof *k);
	k->type = BLOCK_TYPE_QCOW2;
	(void)snprintf(k->path, sizeof k->path, "%s/top", kit_folder);
	kit_model_new(m, 0, DISK_BYTES);
	if (!convert) {
		kit_run("qemu-img create -f qcow2 %s %s %llu", options, k->path, DISK_BYTES);
		return;
	}
	for (uint64_t at = 0; at < DISK_BYTES; at += 8)
		m->bytes[at] = (uint8_t)(at >> 12);
	int fd = open(k->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	EQ(write(fd, m->bytes, DISK_BYTES), (long long)DISK_BYTES);
	close(fd);
	kit_run("mv %s %s/raw && qemu-img convert -f raw %s %s/raw %s", k->path, kit_folder, convert, kit_folder, k->path);
}

static void poke(const char *path, uint64_t at, unsigned n, uint64_t v)
{
	uint8_t b[8];
	for (unsigned k = n; k-- > 0; v >>= 8)
		b[k] = (uint8_t)v;
	int fd = open(path, O_WRONLY);
	OK(fd >= 0);
	EQ(pwrite(fd, b, n, (off_t)at), n);
	close(fd);
}

static void file_read(const char *path, uint64_t at, void *ret_bytes, size_t n)
{
	int fd = open(path, O_RDONLY);
	OK(fd >= 0);
	EQ(pread(fd, ret_bytes, n, (off_t)at), (long long)n);
	close(fd);
}

/* --- ends at any write --- */

struct epoch {
	unsigned n_records; /* when its flush was through */
	uint8_t *before;    /* the disk then */
};

static void apply(int fd, const struct record *r)
{
	if (r->bytes)
		EQ(pwrite(fd, r->bytes, (size_t)r->n, (off_t)r->offset), (long long)r->n);
}

/* The image as it was at first, with all writes until the last sync before n, and all (or some, as a disk's cache may
 * have it) of those behind. */
static void make_crashed(const struct host *h, const char *from, const char *to, unsigned n, bool has_cache)
{
	kit_run("cp %s %s", from, to);
	int fd = open(to, O_WRONLY);
	OK(fd >= 0);
	unsigned synced = 0;
	for (unsigned k = 0; k < n; k++)
		synced = h->records[k].bytes ? synced : k;
	for (unsigned k = 0; k < n; k++) {
		if (!has_cache || k <= synced || kit_chance(2))
			apply(fd, &h->records[k]);
	}
	close(fd);
}

/* Each sector is as it was flushed, or as it became before the next flush. */
static void must_hold(const char *path, const uint8_t *flushed, const uint8_t *later)
{
	struct kit c = { .type = BLOCK_TYPE_QCOW2, .mode = KIT_WORKERS };
	OK(strlen(path) < sizeof c.path);
	memcpy(c.path, path, strlen(path) + 1);
	uint8_t *buffer = malloc(DISK_BYTES);
	kit_open(&c); /* repairs what is marked dirty */
	EQ(kit_do(&c, BLOCK_READ, 0, buffer, DISK_BYTES), 0);
	for (uint64_t at = 0; at < DISK_BYTES; at += 512) {
		if (memcmp(buffer + at, flushed + at, 512) != 0 && memcmp(buffer + at, later + at, 512) != 0)
			test_fail(__FILE__, __LINE__, "sector %llu is neither what was flushed nor what was written later",
			          (unsigned long long)at / 512);
	}
	EQ(kit_do(&c, BLOCK_WRITE, 0, buffer, 65536), 0);
	kit_close(&c);
	OK(qemu_check(path) <= 1);
	free(buffer);
}

#define N_EPOCHS 8

static void write_epochs(struct kit *k, struct kit_model *m, struct host *h, struct epoch *epochs)
{
	for (unsigned n = 0; n < N_EPOCHS; n++) {
		epochs[n] = (struct epoch){ .n_records = h->n_records, .before = malloc(DISK_BYTES) };
		memcpy(epochs[n].before, m->bytes, DISK_BYTES);
		if (n + 1 == N_EPOCHS)
			break;
		/* One batch: its requests do not meet. */
		kit_work(k, m, KIT_BATCH);
		EQ(kit_do(k, BLOCK_FLUSH, 0, NULL, 0), 0);
	}
}

static void crash_anywhere(const char *options, const char *convert, bool is_lazy)
{
	struct kit k;
	struct kit_model m;
	struct host h;
	struct epoch epochs[N_EPOCHS];
	char start[160], crashed[128];
	make(&k, &m, options, convert);
	(void)snprintf(start, sizeof start, "%s.start", k.path);
	(void)snprintf(crashed, sizeof crashed, "%s/crashed", kit_folder);
	kit_run("cp %s %s", k.path, start);
	kit_open(&k);
	host_init(&h, &k);
	h.is_recording = true;
	write_epochs(&k, &m, &h, epochs);
	kit_close(&k);

	unsigned step = h.n_records / kit_rounds(40) + 1;
	for (unsigned n = (unsigned)kit_chance(step); n <= h.n_records; n += 1 + (unsigned)kit_chance(2 * step - 1)) {
		bool has_cache = kit_chance(2);
		make_crashed(&h, start, crashed, n, has_cache);
		if (!is_lazy && qemu_check(crashed) > 1)
			test_fail(__FILE__, __LINE__, "%s: corrupt after %u of %u writes%s", options, n, h.n_records,
			          has_cache ? ", of which some were lost in a cache" : "");
		unsigned e = 0;
		while (e + 1 < N_EPOCHS && epochs[e + 1].n_records <= n)
			e++;
		must_hold(crashed, epochs[e].before, e + 1 < N_EPOCHS ? epochs[e + 1].before : m.bytes);
	}
	for (unsigned e = 0; e < N_EPOCHS; e++)
		free(epochs[e].before);
	host_done(&h);
	free(m.bytes);
}

struct made {
	const char *options, *convert;
};

static void crash_all(const struct made *all, size_t n, bool is_lazy)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t k = 0; k < n; k++)
		if (kit_is_mine(k))
			crash_anywhere(all[k].options, all[k].convert, is_lazy);
	kit_folder_done();
}

TEST(a_crash_after_any_write_leaves_a_sound_image)
{
	static const struct made how[] = {
		{ "", NULL },
		{ "-o cluster_size=512", NULL },
		{ "-o cluster_size=4096,refcount_bits=64", NULL },
		{ "-o extended_l2=on,cluster_size=16k", NULL },
		{ "", "-O qcow2 -c" },
	};
	crash_all(how, ARRAY_LEN(how), false);
}

TEST(a_crash_with_lazy_refcounts_is_repaired)
{
	static const struct made how[] = {
		{ "-o lazy_refcounts=on", NULL },
		{ "-o lazy_refcounts=on,cluster_size=1024", NULL },
		{ "-o lazy_refcounts=on,cluster_size=512", NULL },
	};
	crash_all(how, ARRAY_LEN(how), true);
}

/* What a write needs is there and counted already: nothing but its data and an entry changes. */
static void write_in_place(const char *options)
{
	struct kit k;
	struct kit_model m;
	struct host h;
	uint8_t *b = calloc(1, 65536), entry[8];
	make(&k, &m, options, NULL);
	kit_open(&k);
	memset(b, 1, 65536);
	EQ(kit_do(&k, BLOCK_WRITE, 0, b, 65536), 0);
	struct kit_op o = { .buffer = b }; /* may not unmap */
	kit_submit(&k, 0, &o, BLOCK_WRITE_ZEROES, 0, 65536);
	kit_wait(&k, &o, 1);
	EQ(o.result, 0);
	EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
	uint64_t l2 = qcow2_of(k.image)->l1.entries[0] & QCOW2_OFFSET_MASK;
	file_read(k.path, l2, entry, sizeof entry);
	uint64_t place = qcow2_load64(entry) & QCOW2_OFFSET_MASK;
	EQ(qcow2_load64(entry), place | QCOW2_OFLAG_COPIED | (qcow2_of(k.image)->has_extl2 ? 0 : QCOW2_OFLAG_ZERO));
	OK(place > 0);

	host_init(&h, &k);
	h.is_recording = true;
	EQ(kit_do(&k, BLOCK_WRITE, 8192, b, 4096), 0);
	EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
	bool is_written = false, is_durable = false;
	unsigned n_entries = 0;
	for (unsigned n = 0; n < h.n_records; n++) {
		const struct record *r = &h.records[n];
		bool is_data = r->bytes && r->offset >= place && r->offset < place + 65536;
		is_written = is_written || is_data;
		is_durable = !r->bytes || (is_durable && !is_data);
		if (!r->bytes || r->offset < l2 || r->offset >= l2 + 65536)
			continue;
		n_entries++;
		if (!is_written || !is_durable)
			test_fail(__FILE__, __LINE__, "%s: an entry before what it names", options);
	}
	OK(n_entries > 0);
	kit_close(&k);
	host_done(&h);
	free(b);
	free(m.bytes);
}

TEST(data_are_durable_before_what_names_them)
{
	kit_need_qemu();
	kit_folder_new(0);
	write_in_place("");
	write_in_place("-o extended_l2=on");
	kit_folder_done();
}

static void crash_while_growing(const char *options, uint64_t n_bytes)
{
	struct kit k;
	struct kit_model m;
	struct host h;
	char start[160], crashed[128];
	make(&k, &m, options, NULL);
	(void)snprintf(start, sizeof start, "%s.start", k.path);
	(void)snprintf(crashed, sizeof crashed, "%s/crashed", kit_folder);
	kit_run("cp %s %s", k.path, start);
	kit_open(&k);
	host_init(&h, &k);
	h.is_recording = true;
	EQ(block_resize(k.image, n_bytes, NULL), 0);
	kit_close(&k);
	for (unsigned n = 0; n <= h.n_records; n++) {
		bool has_cache = kit_chance(2);
		make_crashed(&h, start, crashed, n, has_cache);
		if (qemu_check(crashed) > 1)
			test_fail(__FILE__, __LINE__, "%s: corrupt after %u of %u writes%s", options, n, h.n_records,
			          has_cache ? ", of which some were lost in a cache" : "");
	}
	host_done(&h);
	free(m.bytes);
}

TEST(a_crash_while_an_idle_disk_grows_leaves_a_sound_image)
{
	kit_need_qemu();
	kit_folder_new(0);
	crash_while_growing("", 5ull << 30);
	crash_while_growing("-o cluster_size=4096", 40u << 20);
	crash_while_growing("-o cluster_size=512,refcount_bits=64", 12u << 20);
	kit_folder_done();
}

/* --- I/O that takes its time --- */

static void submit_stopped_read(struct kit *k, struct host *h, struct kit_op *o, uint64_t offset)
{
	struct block_extent x;
	EQ(qcow2_map(k->image, offset, 512, true, &x), 0);
	OK(x.kind == BLOCK_EXTENT_DATA);
	host_init(h, k);
	h->watched = x.offset_bytes;
	h->is_stopped = true;
	kit_submit(k, 1, o, BLOCK_READ, offset, 512);
	for (unsigned n = 0; n < 10000 && !h->n_watched; n++)
		OK(loop_run_once(k->loops[1], 1) >= 0);
	EQ(h->n_watched, 1);
}

static void wait_until_parked(struct kit *k)
{
	for (unsigned n = 0; n < 20000; n++) {
		OK(loop_run_once(k->loops[n % KIT_LANES], 1) >= 0);
		block_lock(k->image);
		bool is_parked = k->image->parked && !k->image->is_turn_taken;
		block_unlock(k->image);
		if (is_parked)
			return;
	}
	test_fail(__FILE__, __LINE__, "nobody was parked");
}

/* Each of the compressed clusters is given up by itself: there is no room for so many at once. */
TEST(a_discard_in_many_pieces_leaks_nothing)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (unsigned is_held = 0; is_held < 2; is_held++) {
		struct kit k;
		struct kit_model m;
		struct host h = { 0 };
		struct kit_op ops[2] = { 0 };
		uint8_t b[512];
		const uint64_t last = DISK_BYTES - 512;
		make(&k, &m, "", "-O qcow2 -c -o cluster_size=512");
		kit_open(&k);
		memset(b, 9, sizeof b);
		EQ(kit_do(&k, BLOCK_WRITE, last, b, sizeof b), 0);
		memset(b, 0, sizeof b);
		ops[0].buffer = b;
		if (is_held)
			submit_stopped_read(&k, &h, &ops[0], last);
		kit_submit(&k, 0, &ops[1], BLOCK_DISCARD, 0, DISK_BYTES);
		/* Who reads may still be where the first clusters were: the rest waits, and takes nobody's turn meanwhile. */
		if (is_held) {
			wait_until_parked(&k);
			OK(!ops[0].is_done && !ops[1].is_done);
			EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
			wait_until_parked(&k);
		}
		h.is_stopped = false;
		kit_wait(&k, is_held ? ops : ops + 1, is_held ? 2 : 1);
		OK(ops[0].result == 0 && ops[1].result == 0);
		EQ(b[511], is_held ? 9 : 0);
		EQ(kit_do(&k, BLOCK_READ, last, b, sizeof b), 0);
		EQ(b[0], 0);
		kit_close(&k);
		EQ(qemu_check(k.path), 0);
		free(m.bytes);
	}
	kit_folder_done();
}

TEST(a_disk_that_cannot_grow_now_says_so)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	struct host h;
	struct kit_op o = { 0 };
	struct err e = { 0 };
	uint8_t b[1024];
	/* Clusters behind the disk's end, and a backing file that is longer. */
	make(&k, &m, "", "-O qcow2 -c -o cluster_size=1024");
	kit_run("cd %s && qemu-img rebase -u -f qcow2 -b raw -F raw %s", kit_folder, k.path);
	poke(k.path, 24, 8, 65536);
	kit_open(&k);
	memset(b, 9, sizeof b);
	EQ(kit_do(&k, BLOCK_WRITE, 0, b, sizeof b), 0);
	o.buffer = b;
	submit_stopped_read(&k, &h, &o, 0);
	OK(block_resize(k.image, DISK_BYTES, &e) < 0);
	STR_HAS(e.text, "busy");
	h.is_stopped = false;
	kit_wait(&k, &o, 1);
	EQ(block_resize(k.image, DISK_BYTES, &e), 0);
	for (uint64_t at = 65536; at < DISK_BYTES; at += 65536) {
		EQ(kit_do(&k, BLOCK_READ, at, b, 512), 0);
		EQ(b[0], 0);
	}
	kit_close(&k);
	EQ(qemu_check(k.path), 0);
	free(m.bytes);
	kit_folder_done();
}

/* While a part of a table is being read, others come and go. */
TEST(what_was_read_of_a_table_is_used)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	struct host h;
	struct kit_op o = { 0 };
	uint8_t b[512], other[512];
	make(&k, &m, "-o preallocation=metadata,cluster_size=512", NULL);
	kit_open(&k);
	struct qcow2 *q = qcow2_of(k.image);
	q->l2.n_max = 4;
	host_init(&h, &k);
	h.watched = q->l1.entries[0] & QCOW2_OFFSET_MASK;
	h.is_stopped = true;
	o.buffer = b;
	kit_submit(&k, 1, &o, BLOCK_READ, 0, 512);
	for (unsigned n = 0; n < 10000 && !h.n_watched; n++)
		OK(loop_run_once(k.loops[1], 1) >= 0);
	for (unsigned n = 1; n < 16; n++)
		EQ(kit_do(&k, BLOCK_READ, n * (64ull * 512), other, 512), 0);
	h.is_stopped = false;
	kit_wait(&k, &o, 1);
	EQ(o.result, 0);
	EQ(h.n_watched, 1);
	kit_close(&k);
	free(m.bytes);
	kit_folder_done();
}

/* --- I/O that fails --- */

/* Errors may come; whatever a failed request touched is unknown from then on. */
static void work_with_faults(struct kit *k, struct kit_model *m, uint8_t *unknown, unsigned n, unsigned *n_errors)
{
	struct kit_op o = { .buffer = malloc(KIT_MAX_OP_BYTES) };
	for (unsigned j = 0; j < n; j++) {
		static const enum block_op what[] = { BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE_ZEROES, BLOCK_DISCARD,
			                              BLOCK_FLUSH };
		enum block_op op = what[kit_chance(ARRAY_LEN(what))];
		uint64_t offset = 0, bytes = 0;
		if (op != BLOCK_FLUSH)
			kit_random_range(m, &offset, &bytes);
		uint64_t stamp = kit_chance(256);
		memset(o.buffer, (int)stamp, (size_t)bytes);
		o.r.may_unmap = true;
		kit_submit(k, j % KIT_LANES, &o, op, offset, bytes);
		kit_wait(k, &o, 1);
		bool is_change = op == BLOCK_WRITE || op == BLOCK_WRITE_ZEROES || op == BLOCK_DISCARD;
		*n_errors += o.result < 0;
		OK(o.result == 0 || o.result == -EIO || o.result == -ENOSPC);
		for (uint64_t at = offset; at < offset + bytes; at += 512) {
			if (op == BLOCK_READ && o.result == 0 && !unknown[at / 512])
				MEM_EQ(o.buffer + (at - offset), m->bytes + at, 512);
			if (is_change)
				unknown[at / 512] = o.result < 0 || op == BLOCK_DISCARD;
			if (is_change)
				memset(m->bytes + at, op == BLOCK_WRITE ? (int)stamp : 0, 512);
		}
	}
	free(o.buffer);
}

static void fail_often(const char *options, const char *convert, unsigned one_in, bool fails_syncs)
{
	struct kit k;
	struct kit_model m;
	struct host h;
	unsigned n_errors = 0;
	uint8_t *unknown = calloc(1, DISK_BYTES / 512), *buffer = malloc(DISK_BYTES);
	make(&k, &m, options, convert);
	kit_open(&k);
	host_init(&h, &k);
	h.one_in = one_in;
	h.fails_syncs = fails_syncs;
	work_with_faults(&k, &m, unknown, 300, &n_errors);
	OK(h.n_failed > 0 && n_errors > 0);
	h.one_in = 0;
	n_errors = 0;
	if (h.n_failed_syncs) { /* what was lost then stays lost: see block_file_synced() */
		OK(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0) < 0);
	} else { /* the host is well again: so is the disk */
		work_with_faults(&k, &m, unknown, 100, &n_errors);
		EQ(n_errors, 0);
	}
	EQ(kit_do(&k, BLOCK_READ, 0, buffer, DISK_BYTES), 0);
	kit_close(&k);
	for (uint64_t at = 0; at < DISK_BYTES; at += 512) {
		if (!unknown[at / 512])
			MEM_EQ(buffer + at, m.bytes + at, 512);
	}
	if (qemu_check(k.path) > 1)
		test_fail(__FILE__, __LINE__, "%s: corrupt after I/O errors", options);
	host_done(&h);
	free(unknown);
	free(buffer);
	free(m.bytes);
}

TEST(io_errors_reach_the_guest_and_nothing_else)
{
	static const struct made how[] = {
		{ "", NULL },
		{ "-o cluster_size=512", NULL },
		{ "-o cluster_size=4096,refcount_bits=1", NULL },
		{ "-o lazy_refcounts=on", NULL },
		{ "-o extended_l2=on", NULL },
		{ "", "-O qcow2 -c -o cluster_size=4096" },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (unsigned one_in = 4; one_in < 40; one_in *= 3)
		for (size_t n = 0; n < ARRAY_LEN(how); n++)
			if (kit_is_mine(n))
				for (unsigned fails_syncs = 0; fails_syncs <= (one_in == 12); fails_syncs++)
					fail_often(how[n].options, how[n].convert, one_in, fails_syncs);
	kit_folder_done();
}

/* --- images made to do harm --- */

TEST(impossible_headers_are_refused_in_words)
{
	static const struct {
		uint64_t at;
		unsigned n;
		uint64_t v;
		const char *words;
	} bad[] = {
		{ 0, 4, 0, "no qcow2 image" },
		{ 4, 4, 4, "qcow2 version 4" },
		{ 8, 8, 50, "outside of the header" },
		{ 8, 8, 65536, "backing file has 0 bytes" },
		{ 20, 4, 8, "clusters have 2^8 bytes" },
		{ 20, 4, 22, "clusters have 2^22 bytes" },
		{ 20, 4, 0xffffffff, "clusters have 2^" },
		{ 24, 8, UINT64_MAX, "its disk has" },
		{ 24, 8, 1ull << 40, "a disk of 1099511627776 bytes needs" },
		{ 32, 4, 1, "encrypted" },
		{ 36, 4, 0xffffffff, "at most 4194304" },
		{ 36, 4, 0, "L1 table has 0 entries" },
		{ 40, 8, 0x30001, "L1 table is at 0x30001" },
		{ 40, 8, 0, "L1 table is at 0x0" },
		{ 40, 8, 1ull << 55, "beyond the end of the file" },
		{ 40, 8, UINT64_MAX & ~0xffffull, "L1 table is at" },
		{ 40, 8, 0x10000, "overlap" },
		{ 48, 8, 0x10001, "refcount table is at" },
		{ 48, 8, 1ull << 50, "beyond the end of the file" },
		{ 56, 4, 0, "no refcount table" },
		{ 56, 4, 0xffffffff, "at most 8 MiB" },
		{ 60, 4, 0xffffffff, "snapshots" },
		{ 60, 4, 1, "snapshot table is at 0x0" },
		{ 72, 8, 1ull << 63, "features 0x8000000000000000" },
		{ 72, 8, 4, "external data file" },
		{ 72, 8, 8, "contradicts" },
		{ 72, 8, 2, "marked as corrupt" },
		{ 96, 4, 7, "2^7 bits" },
		{ 100, 4, 96, "length of 96" },
		{ 100, 4, 108, "length of 108" },
		{ 100, 4, 0x20000, "length of 131072" },
		{ 104, 1, 1, "contradicts" },
		{ 112, 8, 0xe2792acafffffff0, "beyond the header" },
		{ 112, 8, 0xe2792aca00000020, "a name of 32 bytes" },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(bad); n++) {
		struct kit k;
		struct kit_model m;
		struct err e = { 0 };
		make(&k, &m, "", NULL);
		poke(k.path, bad[n].at, bad[n].n, bad[n].v);
		(void)kit_open_error(&k, &e);
		STR_HAS(e.text, bad[n].words);
		STR_HAS(e.text, k.path);
		free(m.bytes);
	}
	kit_folder_done();
}

TEST(entries_that_cannot_be_fail_their_request_only)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	uint8_t b[512];
	make(&k, &m, "", "-O qcow2");
	/* The first L2 table is where the L1 table's first entry says: at 0x30000's 8 bytes. */
	int fd = open(k.path, O_RDONLY);
	uint8_t l1[8];
	EQ(pread(fd, l1, 8, 0x30000), 8);
	close(fd);
	uint64_t l2 = qcow2_load64(l1) & QCOW2_OFFSET_MASK;
	poke(k.path, l2, 8, QCOW2_OFLAG_COPIED | 0x10200);            /* within a cluster */
	poke(k.path, l2 + 8, 8, QCOW2_OFLAG_COPIED | 0x30000);        /* the L1 table */
	poke(k.path, l2 + 16, 8, QCOW2_OFLAG_COMPRESSED | 0x50000);   /* no compressed data */
	poke(k.path, l2 + 24, 8, QCOW2_OFLAG_COPIED | (1ull << 50));  /* behind the end */
	kit_open(&k);
	memset(b, 1, sizeof b);
	EQ(kit_do(&k, BLOCK_READ, 0, b, 512), -EIO);
	EQ(kit_do(&k, BLOCK_WRITE, 0, b, 512), -EIO);
	EQ(kit_do(&k, BLOCK_WRITE, 65536, b, 512), -EIO);
	EQ(kit_do(&k, BLOCK_READ, 2 * 65536, b, 512), -EIO);
	EQ(kit_do(&k, BLOCK_READ, 3 * 65536, b, 512), 0);
	EQ(b[0], 0);
	EQ(kit_do(&k, BLOCK_READ, 4 * 65536, b, 512), 0);
	MEM_EQ(b, m.bytes + 4 * 65536, 512);
	STR_HAS(kit_log, "is damaged");
	kit_close(&k);
	free(m.bytes);
	kit_folder_done();
}

TEST(tables_are_not_a_guests_to_use_or_to_free)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	uint8_t *b = calloc(1, 2 * 65536), before[8192], now[8192];
	make(&k, &m, "", "-O qcow2");
	file_read(k.path, 0x30000, before, 8);
	uint64_t l2 = qcow2_load64(before) & QCOW2_OFFSET_MASK;
	/* Zeroes that have a place: a refcount block, and the L1 table behind it. */
	poke(k.path, l2, 8, QCOW2_OFLAG_COPIED | QCOW2_OFLAG_ZERO | 0x20000);
	poke(k.path, l2 + 8, 8, QCOW2_OFLAG_COPIED | QCOW2_OFLAG_ZERO | 0x30000);
	poke(k.path, l2 + 16, 8, QCOW2_OFLAG_COPIED | 0x30000);
	poke(k.path, l2 + 24, 8, QCOW2_OFLAG_COPIED | 0x10000); /* the refcount table */
	file_read(k.path, 0x30000, before, 4096);
	file_read(k.path, 0x10000, before + 4096, 4096);
	kit_open(&k);
	memset(b, 1, 2 * 65536);
	EQ(kit_do(&k, BLOCK_WRITE, 0, b, 2 * 65536), -EIO);
	EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
	file_read(k.path, 0x30000, now, 4096);
	MEM_EQ(now, before, 4096);
	EQ(kit_do(&k, BLOCK_DISCARD, 65536, NULL, 3 * 65536), 0);
	for (unsigned n = 0; n < 3; n++)
		EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
	kit_close(&k);
	file_read(k.path, 0x30000, now, 4096);
	file_read(k.path, 0x10000, now + 4096, 4096);
	MEM_EQ(now, before, sizeof now);
	STR_HAS(kit_log, "is damaged");
	free(b);
	free(m.bytes);
	kit_folder_done();
}

/* All clusters up to the end of a very long file are counted, by one block that the table names everywhere. */
TEST(a_search_for_a_free_cluster_ends)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	uint8_t *b = malloc(65536);
	make(&k, &m, "-o refcount_bits=1", NULL);
	for (unsigned n = 0; n < 8192; n++)
		qcow2_store64(b + 8 * n, 0x20000);
	int fd = open(k.path, O_WRONLY);
	EQ(pwrite(fd, b, 65536, 0x10000), 65536);
	memset(b, 0xff, 65536);
	EQ(pwrite(fd, b, 65536, 0x20000), 65536);
	int rc = ftruncate(fd, (off_t)1 << 48);
	close(fd);
	if (rc < 0)
		test_skip("the file system has no files of 256 TiB");
	kit_open(&k);
	uint64_t start_ns = clock_now_ns();
	EQ(kit_do(&k, BLOCK_WRITE, 0, b, 512), 0);
	OK(clock_now_ns() - start_ns < 30 * NS_PER_S);
	kit_close(&k);
	free(b);
	free(m.bytes);
	kit_folder_done();
}

static void make_snapshots(const struct kit *k, uint64_t at, unsigned n, uint64_t l1, uint64_t n_l1)
{
	uint8_t *b = calloc(n, 40);
	for (unsigned s = 0; s < n; s++) {
		qcow2_store64(b + 40 * s, l1);
		qcow2_store32(b + 40 * s + 8, (uint32_t)n_l1);
	}
	int fd = open(k->path, O_WRONLY);
	EQ(pwrite(fd, b, 40 * (size_t)n, (off_t)at), 40 * (long long)n);
	close(fd);
	poke(k->path, 60, 4, n);
	poke(k->path, 64, 8, at);
	free(b);
}

TEST(many_names_for_few_tables_are_soon_checked)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	struct block_check c;
	struct err e = { 0 };
	const uint64_t n_entries = 1u << 19;
	make(&k, &m, "", NULL);
	kit_run("truncate -s 40M %s", k.path);
	uint8_t *entries = malloc(n_entries * 8);
	for (uint64_t n = 0; n < n_entries; n++)
		qcow2_store64(entries + 8 * n, 8u << 20);
	int fd = open(k.path, O_WRONLY);
	EQ(pwrite(fd, entries, n_entries * 8, 2 << 20), (long long)n_entries * 8);
	for (uint64_t n = 0; n < 8192; n++)
		qcow2_store64(entries + 8 * n, 9u << 20);
	EQ(pwrite(fd, entries, 65536, 8 << 20), 65536);
	close(fd);
	make_snapshots(&k, 1 << 20, 64, 2 << 20, n_entries);
	uint64_t start_ns = clock_now_ns();
	kit_open(&k);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, &e), 0);
	OK(c.n_corruptions > 0 && c.n_errors == 0);
	kit_close(&k);

	make_snapshots(&k, 36 << 20, QCOW2_MAX_SNAPSHOTS, 2 << 20, QCOW2_MAX_L1_BYTES / 8);
	kit_open(&k);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, &e), -EFBIG);
	STR_HAS(e.text, "its snapshots and bitmaps have more than 67108864 entries");
	kit_close(&k);
	poke(k.path, 72, 8, QCOW2_INCOMPAT_DIRTY);
	EQ(kit_open_error(&k, &e), -EFBIG);
	OK(clock_now_ns() - start_ns < 60 * NS_PER_S);
	free(entries);
	free(m.bytes);
	kit_folder_done();
}

/* Each L1 table is as long as one may be. */
TEST(a_chain_of_images_has_one_bound_of_memory)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k = { .type = BLOCK_TYPE_QCOW2 };
	struct err e = { 0 };
	kit_run("cd %s && qemu-img create -f qcow2 c0 1M", kit_folder);
	for (unsigned n = 1; n < 10; n++) {
		(void)snprintf(k.path, sizeof k.path, "%s/c%u", kit_folder, n);
		kit_run("cd %s && qemu-img create -f qcow2 -u -b c%u -F qcow2 c%u 1M", kit_folder, n - 1, n);
		poke(k.path, 36, 4, QCOW2_MAX_L1_BYTES / 8);
		kit_run("truncate -s 40M %s", k.path);
	}
	EQ(kit_open_error(&k, &e), -EFBIG);
	STR_HAS(e.text, "need more than 256 MiB");
	(void)snprintf(k.path, sizeof k.path, "%s/c3", kit_folder);
	kit_open(&k);
	kit_close(&k);

	/* Many that want large caches get small ones. */
	kit_run("cd %s && rm -f c* && qemu-img create -f qcow2 c0 2T", kit_folder);
	for (unsigned n = 1; n < BLOCK_MAX_CHAIN; n++)
		kit_run("cd %s && qemu-img create -f qcow2 -u -b c%u -F qcow2 c%u 2T", kit_folder, n - 1, n);
	(void)snprintf(k.path, sizeof k.path, "%s/c%u", kit_folder, BLOCK_MAX_CHAIN - 1);
	kit_open(&k);
	kit_close(&k);
	kit_folder_done();
}

/* --- rules --- */

TEST(marked_images)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	uint8_t b[512];
	make(&k, &m, "", "-O qcow2");
	poke(k.path, 72, 8, 2); /* corrupt: may be read */
	k.is_readonly = true;
	kit_open(&k);
	EQ(kit_do(&k, BLOCK_READ, 512, b, 512), 0);
	MEM_EQ(b, m.bytes + 512, 512);
	EQ(kit_do(&k, BLOCK_WRITE, 512, b, 512), -EROFS);
	/* Who only reads has no refcounts in memory until they are checked. */
	struct block_check c;
	OK(!qcow2_of(k.image)->refcount_table.entries);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, NULL), 0);
	OK(c.n_corruptions == 0 && c.n_leaks == 0 && c.n_errors == 0);
	EQ(c.n_allocated, DISK_BYTES / 65536);
	kit_close(&k);

	/* Dirty, and all counts are gone: they are made again. Unknown autoclear bits go with the first writer. */
	poke(k.path, 72, 8, 1);
	poke(k.path, 88, 8, 0xf0);
	uint8_t zeroes[4096] = { 0 };
	int fd = open(k.path, O_WRONLY);
	EQ(pwrite(fd, zeroes, sizeof zeroes, 0x20000), (long long)sizeof zeroes);
	close(fd);
	kit_open(&k);
	kit_close(&k); /* read only: untouched */
	k.is_readonly = false;
	kit_open(&k);
	EQ(qcow2_of(k.image)->autoclear, 0);
	kit_work(&k, &m, 24);
	kit_close(&k);
	EQ(qemu_check(k.path), 0);
	kit_qemu_compare(&k, "qcow2", &m, DISK_BYTES);
	uint8_t bits[24];
	fd = open(k.path, O_RDONLY);
	EQ(pread(fd, bits, sizeof bits, 72), (long long)sizeof bits);
	close(fd);
	EQ(qcow2_load64(bits), 0);
	EQ(qcow2_load64(bits + 16), 0);
	free(m.bytes);
	kit_folder_done();
}

static void backing_error(const char *name, bool may_use, const char *words)
{
	struct kit k = { .type = BLOCK_TYPE_QCOW2 };
	struct err e = { 0 };
	struct block_image *i;
	(void)snprintf(k.path, sizeof k.path, "%s/%s", kit_folder, name);
	struct block_params p = kit_params(&k);
	p.may_use_backing_files = may_use;
	OK(block_open(&p, &i, &e) < 0);
	STR_HAS(e.text, words);
}

TEST(backing_files_are_opened_as_allowed_and_as_named)
{
	kit_need_qemu();
	kit_folder_new(0);
	const char *f = kit_folder;
	kit_run("cd %s && truncate -s 1M base && qemu-img create -f qcow2 -b base -F raw top", f);
	backing_error("top", false, "backing_files is off");

	/* Loops, by another name too. */
	kit_run("cd %s && qemu-img create -f qcow2 -u -b looped -F qcow2 loop 1M && ln -s loop looped", f);
	backing_error("loop", true, "leads back");
	kit_run("cd %s && mkdir sub && ln -s ../b sub/link && qemu-img create -f qcow2 -u -b sub/link -F qcow2 a 1M && "
	        "qemu-img create -f qcow2 -u -b ../a -F qcow2 b 1M", f);
	backing_error("a", true, "leads back");
	kit_run("cd %s && for n in $(seq 70); do qemu-img create -f qcow2 -u -b c$((n+1)) -F qcow2 c$n 1M; done", f);
	backing_error("c1", true, "longer than 64");
	kit_run("cd %s && qemu-img create -f qcow2 -u -b nowhere -F raw lost 1M", f);
	backing_error("lost", true, "nowhere");
	kit_run("cd %s && mkfifo pipe && qemu-img create -f qcow2 -u -b pipe -F raw piped 1M", f);
	backing_error("piped", true, "neither a regular file nor a block device");
	kit_run("cd %s && qemu-img create -f qcow2 -u -b base -F qed odd 1M", f);
	backing_error("odd", true, "a backing file of format 'qed'");

	/* A raw disk into which its guest wrote a qcow2 header stays raw where it is named so, and is refused where not. */
	kit_run("cd %s && qemu-img create -f qcow2 -u -b /etc/passwd -F raw evil 1M && qemu-img create -f qcow2 -u -b evil -F raw "
	        "named 1M && qemu-img create -f qcow2 -u -b evil unnamed 1M || qemu-img create -f qcow2 -u -b evil -F raw unnamed "
	        "1M && cp evil evil2", f);
	struct kit k = { .type = BLOCK_TYPE_QCOW2 };
	(void)snprintf(k.path, sizeof k.path, "%s/named", kit_folder);
	uint8_t b[512];
	kit_open(&k);
	EQ(kit_do(&k, BLOCK_READ, 0, b, 512), 0);
	MEM_EQ(b, "QFI\xfb", 4);
	kit_close(&k);
	/* The extension with the format's name becomes one that nobody knows. */
	kit_run("cd %s && cp named unnamed", f);
	(void)snprintf(k.path, sizeof k.path, "%s/unnamed", kit_folder);
	poke(k.path, 112, 4, 0x12345678);
	backing_error("unnamed", true, "does not name the format");
	kit_run("cd %s && cp base evil", f); /* zeroes: raw, whoever says so */
	kit_open(&k);
	EQ(kit_do(&k, BLOCK_READ, 0, b, 512), 0);
	EQ(b[0], 0);
	kit_close(&k);
	kit_folder_done();
}

TEST(detection_happens_once_and_cannot_be_changed_by_the_guest)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k = { 0 };
	struct kit_model m;
	make(&k, &m, "", NULL);
	k.type = BLOCK_TYPE_AUTO;
	kit_open(&k);
	STR_EQ(block_image_format(k.image), "qcow2");
	kit_close(&k);
	uint8_t header[1024] = { 0 }, b[1024];
	int fd = open(k.path, O_RDONLY);
	EQ(pread(fd, header, sizeof header, 0), (long long)sizeof header);
	close(fd);

	for (int mode = 0; mode <= KIT_DIRECT; mode++) {
		(void)snprintf(k.path, sizeof k.path, "/var/tmp/varan-raw-%d", (int)getpid());
		kit_run("rm -f %s && truncate -s 1M %s", k.path, k.path);
		k.mode = mode;
		k.type = BLOCK_TYPE_AUTO;
		kit_open(&k);
		STR_EQ(block_image_format(k.image), "raw");
		EQ(kit_do(&k, BLOCK_WRITE, 0, header, 512), -EPERM);
		EQ(kit_do(&k, BLOCK_WRITE, 0, header, 1024), -EPERM);
		EQ(kit_do(&k, BLOCK_READ, 0, b, 512), 0);
		EQ(b[0], 0);
		/* Elsewhere, and with other bytes, it is a disk like any. */
		EQ(kit_do(&k, BLOCK_WRITE, 512, header, 1024), 0);
		memset(b, 7, sizeof b);
		EQ(kit_do(&k, BLOCK_WRITE, 0, b, 1024), 0);
		memset(b, 0, sizeof b);
		EQ(kit_do(&k, BLOCK_READ, 0, b, 1024), 0);
		OK(b[0] == 7 && b[1023] == 7);
		kit_close(&k);
		/* Who says raw means it. */
		k.type = BLOCK_TYPE_RAW;
		kit_open(&k);
		EQ(kit_do(&k, BLOCK_WRITE, 0, header, 512), 0);
		kit_close(&k);
		unlink(k.path);
	}
	free(m.bytes);
	kit_folder_done();
}

/* --- check and resize --- */

TEST(check_counts_as_qemu_does)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	struct block_check c;
	make(&k, &m, "", "-O qcow2");
	kit_open(&k);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, NULL), 0);
	OK(c.n_leaks == 0 && c.n_corruptions == 0 && c.n_errors == 0);
	EQ(c.n_clusters, DISK_BYTES / 65536);
	EQ(c.n_allocated, DISK_BYTES / 65536);
	kit_close(&k);
	/* Two clusters that nobody counts, and three that nobody uses: beyond, the file grows. */
	uint64_t n_clusters = 5 + DISK_BYTES / 65536;
	poke(k.path, 0x20000 + 2 * 10, 2, 0);
	poke(k.path, 0x20000 + 2 * 11, 2, 0);
	kit_run("truncate -s %llu %s", (unsigned long long)(n_clusters + 10) * 65536, k.path);
	for (unsigned n = 0; n < 3; n++)
		poke(k.path, 0x20000 + 2 * (n_clusters + n), 2, 1);
	struct err e;
	kit_open(&k);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, &e), 0);
	EQ(c.n_leaks, 3);
	kit_close(&k);
	EQ(kit_try("{ qemu-img check -f qcow2 --output=json %s > %s.json; grep -q '\"leaks\": 3' %s.json && "
	           "grep -q '\"corruptions\": %llu' %s.json; }",
	           k.path, k.path, k.path, (unsigned long long)c.n_corruptions, k.path), 0);
	kit_open(&k);
	OK(c.n_corruptions >= 2);
	EQ(block_check(k.image, BLOCK_REPAIR_LEAKS, &c, &e), 0);
	EQ(c.n_leaks_fixed, 3);
	EQ(c.n_leaks, 0);
	OK(c.n_corruptions >= 2);
	EQ(block_check(k.image, BLOCK_REPAIR_ALL, &c, &e), 0);
	OK(c.n_corruptions_fixed >= 2 && c.n_corruptions == 0);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, &e), 0);
	OK(c.n_leaks == 0 && c.n_corruptions == 0);
	kit_close(&k);
	EQ(qemu_check(k.path), 0);
	kit_qemu_compare(&k, "qcow2", &m, DISK_BYTES);
	free(m.bytes);
	kit_folder_done();
}

TEST(repair_forgets_what_it_takes_out_of_the_refcount_table)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	struct block_check c;
	make(&k, &m, "", "-O qcow2");
	poke(k.path, 0x10000 + 8, 8, 0x20000); /* the first block once more */
	kit_open(&k);
	EQ(block_check(k.image, BLOCK_REPAIR_ALL, &c, NULL), 0);
	OK(c.n_corruptions_fixed > 0 && c.n_corruptions == 0 && c.n_leaks == 0);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, NULL), 0);
	OK(c.n_corruptions == 0 && c.n_leaks == 0);
	kit_close(&k);
	EQ(qemu_check(k.path), 0);
	kit_qemu_compare(&k, "qcow2", &m, DISK_BYTES);
	free(m.bytes);
	kit_folder_done();
}

static void grow(const char *options, enum block_type type, uint64_t n_bytes)
{
	struct kit k;
	struct kit_model m, larger;
	struct err e;
	make(&k, &m, options, NULL);
	if (type == BLOCK_TYPE_RAW)
		kit_run("rm %s && truncate -s %llu %s", k.path, DISK_BYTES, k.path);
	k.type = type;
	kit_open(&k);
	kit_work(&k, &m, 48);
	OK(block_resize(k.image, DISK_BYTES - 512, &e) < 0);
	STR_HAS(e.text, "can only grow");
	OK(block_resize(k.image, DISK_BYTES + 100, &e) < 0);
	EQ(block_resize(k.image, n_bytes, &e), 0);
	struct block_limits l;
	block_image_limits(k.image, &l);
	EQ(l.n_bytes, n_bytes);
	kit_model_new(&larger, 0, n_bytes);
	memcpy(larger.bytes, m.bytes, DISK_BYTES);
	kit_compare(&k, &larger);
	kit_work(&k, &larger, 96);
	kit_close(&k);
	if (type == BLOCK_TYPE_QCOW2)
		EQ(qemu_check(k.path), 0);
	kit_open(&k);
	kit_compare(&k, &larger);
	kit_close(&k);
	kit_qemu_compare(&k, type == BLOCK_TYPE_RAW ? "raw" : "qcow2", &larger, n_bytes);
	free(m.bytes);
	free(larger.bytes);
}

TEST(disks_grow)
{
	kit_need_qemu();
	kit_folder_new(0);
	grow("", BLOCK_TYPE_RAW, 9u << 20);
	grow("", BLOCK_TYPE_QCOW2, 9u << 20);
	grow("-o cluster_size=512", BLOCK_TYPE_QCOW2, 40u << 20); /* a longer L1 table, more refcount blocks, a longer table */
	grow("-o cluster_size=512,refcount_bits=64", BLOCK_TYPE_QCOW2, 20u << 20);
	grow("-o extended_l2=on,lazy_refcounts=on", BLOCK_TYPE_QCOW2, (7u << 20) + 512);
	/* What the backing file has behind the old end does not come to light. */
	struct kit k = { .type = BLOCK_TYPE_QCOW2 };
	uint8_t b[512];
	(void)snprintf(k.path, sizeof k.path, "%s/grown", kit_folder);
	kit_run("cd %s && tr '\\0' 'x' < /dev/zero | head -c 8M > x && qemu-img create -f qcow2 -b x -F raw grown 4M", kit_folder);
	kit_open(&k);
	EQ(block_resize(k.image, 12u << 20, NULL), 0);
	EQ(kit_do(&k, BLOCK_READ, (4u << 20) - 512, b, 512), 0);
	EQ(b[0], 'x');
	EQ(kit_do(&k, BLOCK_READ, 4u << 20, b, 512), 0);
	EQ(b[0], 0);
	EQ(kit_do(&k, BLOCK_READ, 7u << 20, b, 512), 0);
	EQ(b[0], 0);
	kit_close(&k);
	EQ(qemu_check(k.path), 0);
	kit_folder_done();
}

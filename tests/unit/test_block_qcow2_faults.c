/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 when the host is at fault: it ends at any write, its I/O takes its time, or fails. */
#include "qcow2_kit.h"

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
	uint64_t place = get_be64(entry) & QCOW2_OFFSET_MASK;
	EQ(get_be64(entry), place | QCOW2_OFLAG_COPIED | (qcow2_of(k.image)->has_extl2 ? 0 : QCOW2_OFLAG_ZERO));
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

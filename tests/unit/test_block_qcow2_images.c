/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 images made to do harm, and what the rules about backing files, marked images and first sectors say; checks,
 * repairs and growth. */
#include "qcow2_kit.h"

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
	uint64_t l2 = get_be64(l1) & QCOW2_OFFSET_MASK;
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
	uint64_t l2 = get_be64(before) & QCOW2_OFFSET_MASK;
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
/* Entries that name an L2 table, or a refcount block: by place, by zeroes with a place, and as a compressed cluster; with
 * clusters so small that there are many of both, and with new ones of this session's. */
TEST(l2_tables_and_refcount_blocks_are_not_a_guests_to_use_or_to_free)
{
	enum { CLUSTER = 4096 }; /* an L2 table of 512 entries covers 2 MiB */
	static const uint64_t flags[] = { QCOW2_OFLAG_COPIED, QCOW2_OFLAG_COPIED | QCOW2_OFLAG_ZERO, QCOW2_OFLAG_COMPRESSED };
	kit_need_qemu();
	for (size_t n = 0; n < 2 * ARRAY_LEN(flags); n++) {
		uint8_t *b = calloc(1, CLUSTER), word[8], before[CLUSTER], now[CLUSTER];
		struct kit k;
		struct kit_model m;
		kit_folder_new(0);
		make(&k, &m, "-o cluster_size=4k", "-O qcow2 -o cluster_size=4k");
		file_read(k.path, 40, word, 8);
		uint64_t l1 = get_be64(word);
		file_read(k.path, l1, word, 8);
		uint64_t l2 = get_be64(word) & QCOW2_OFFSET_MASK;
		file_read(k.path, l1 + 8, word, 8);
		uint64_t victim = get_be64(word) & QCOW2_OFFSET_MASK;
		if (n % 2) {
			file_read(k.path, 48, word, 8);
			file_read(k.path, get_be64(word), word, 8);
			victim = get_be64(word);
		}
		poke(k.path, l2 + 8 * 7, 8, flags[n / 2] | victim);
		file_read(k.path, victim, before, sizeof before);
		kit_open(&k);
		memset(b, 0xee, CLUSTER);
		int rc = kit_do(&k, BLOCK_WRITE, 7 * CLUSTER, b, CLUSTER);
		/* What is compressed is written elsewhere, and what was there before given up. */
		EQ(rc, flags[n / 2] == QCOW2_OFLAG_COMPRESSED ? 0 : -EIO);
		EQ(kit_do(&k, BLOCK_DISCARD, 7 * CLUSTER, NULL, CLUSTER), 0);
		for (unsigned j = 0; j < 4; j++)
			EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
		/* What is given up would be used again. */
		for (uint64_t at = 5 << 20; at < 6 << 20; at += CLUSTER) {
			EQ(kit_do(&k, BLOCK_DISCARD, at, NULL, CLUSTER), 0);
			EQ(kit_do(&k, BLOCK_WRITE, at, b, CLUSTER), 0);
		}
		kit_close(&k);
		file_read(k.path, victim, now, sizeof now);
		if (n % 2 == 0)
			MEM_EQ(now, before, sizeof now);
		file_read(k.path, l1 + 8, word, 8);
		OK((get_be64(word) & QCOW2_OFFSET_MASK) != 0);
		STR_HAS(kit_log, "among the tables");
		/* The tables are what they were: all is read as before. */
		kit_open(&k);
		for (uint64_t at = 64 * CLUSTER; at < 5 << 20; at += CLUSTER) {
			EQ(kit_do(&k, BLOCK_READ, at, b, CLUSTER), 0);
			MEM_EQ(b, m.bytes + at, CLUSTER);
		}
		kit_close(&k);
		free(b);
		free(m.bytes);
		kit_folder_done();
	}
}

TEST(tables_of_this_session_are_not_a_guests_either)
{
	enum { CLUSTER = 512, N = 24 }; /* an L2 table covers 32 KiB, a refcount block 128 KiB of the file */
	uint8_t *b = calloc(1, CLUSTER);
	struct kit k;
	struct kit_model m;
	kit_need_qemu();
	kit_folder_new(0);
	make(&k, &m, "-o cluster_size=512", NULL);
	kit_open(&k);
	memset(b, 0xee, CLUSTER);
	for (unsigned n = 0; n < N; n++)
		EQ(kit_do(&k, BLOCK_WRITE, n * 32768, b, CLUSTER), 0);
	const struct qcow2 *q = qcow2_of(k.image);
	unsigned n_tables = 0;
	for (uint64_t n = 0; n < q->l1.n; n++) {
		uint64_t at = q->l1.entries[n] & QCOW2_OFFSET_MASK;
		n_tables += at != 0;
		OK(!at || qcow2_is_in_tables(q, at, CLUSTER));
	}
	EQ(n_tables, N);
	for (uint64_t n = 0; n < q->refcount_table.n; n++)
		OK(!q->refcount_table.entries[n] || qcow2_is_in_tables(q, q->refcount_table.entries[n], CLUSTER));
	EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
	kit_close(&k);
	EQ(qemu_check(k.path), 0);
	free(b);
	free(m.bytes);
	kit_folder_done();
}

/* Against a list: numbers that fall into few places of the set, named many times, and taken out in any order. */
TEST(the_set_of_tables_holds_what_was_put_into_it)
{
	enum { N = 600, RANGE = 200 };
	struct block_image i = { .top = &i };
	struct qcow2 q = { .image = &i, .cluster_bits = 9, .cluster_bytes = 512 };
	unsigned n_names[RANGE + 1] = { 0 };
	kit_seed = 12345;
	for (unsigned n = 0; n < 20 * N; n++) {
		uint64_t c = 1 + kit_chance(RANGE);
		if (n_names[c] && kit_chance(20 * N) < n) {
			qcow2_tables_remove(&q, c << 9);
			n_names[c]--;
		} else {
			EQ(qcow2_tables_reserve(&q, 1), 0);
			qcow2_tables_add(&q, c << 9);
			n_names[c]++;
		}
		c = 1 + kit_chance(RANGE);
		EQ(qcow2_is_in_tables(&q, c << 9, 512), n_names[c] != 0);
	}
	for (uint64_t c = 1; c <= RANGE; c++) {
		EQ(qcow2_is_in_tables(&q, c << 9, 512), n_names[c] != 0);
		while (n_names[c]--)
			qcow2_tables_remove(&q, c << 9);
		EQ(qcow2_is_in_tables(&q, c << 9, 512), 0);
	}
	EQ(q.tables.n, 0);
	qcow2_tables_remove(&q, 512);
	qcow2_tables_add(&q, 513); /* where no table can be */
	qcow2_tables_done(&q);
}

TEST(a_search_for_a_free_cluster_ends)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	uint8_t *b = malloc(65536);
	make(&k, &m, "-o refcount_bits=1", NULL);
	for (unsigned n = 0; n < 8192; n++)
		put_be64(b + 8 * n, 0x20000);
	int fd = open(k.path, O_WRONLY);
	EQ(pwrite(fd, b, 65536, 0x10000), 65536);
	memset(b, 0xff, 65536);
	EQ(pwrite(fd, b, 65536, 0x20000), 65536);
	int rc = ftruncate(fd, (off_t)1 << 48);
	close(fd);
	if (rc < 0)
		test_skip("the file system has no files of 256 TiB");
	kit_open(&k);
	EQ(kit_do(&k, BLOCK_WRITE, 0, b, 512), 0); /* and not in hours */
	kit_close(&k);
	free(b);
	free(m.bytes);
	kit_folder_done();
}

static void make_snapshots(const struct kit *k, uint64_t at, unsigned n, uint64_t l1, uint64_t n_l1)
{
	uint8_t *b = calloc(n, 40);
	for (unsigned s = 0; s < n; s++) {
		put_be64(b + 40 * s, l1);
		put_be32(b + 40 * s + 8, (uint32_t)n_l1);
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
		put_be64(entries + 8 * n, 8u << 20);
	int fd = open(k.path, O_WRONLY);
	EQ(pwrite(fd, entries, n_entries * 8, 2 << 20), (long long)n_entries * 8);
	for (uint64_t n = 0; n < 8192; n++)
		put_be64(entries + 8 * n, 9u << 20);
	EQ(pwrite(fd, entries, 65536, 8 << 20), 65536);
	close(fd);
	make_snapshots(&k, 1 << 20, 64, 2 << 20, n_entries);
	kit_open(&k);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, &e), 0); /* each table once, not 3e11 entries: that would be hours */
	OK(c.n_corruptions > 0 && c.n_errors == 0);
	kit_close(&k);

	make_snapshots(&k, 36 << 20, QCOW2_MAX_SNAPSHOTS, 2 << 20, QCOW2_MAX_L1_BYTES / 8);
	kit_open(&k);
	EQ(block_check(k.image, BLOCK_REPAIR_NOTHING, &c, &e), -EFBIG);
	STR_HAS(e.text, "its snapshots and bitmaps have more than 67108864 entries");
	kit_close(&k);
	poke(k.path, 72, 8, QCOW2_INCOMPAT_DIRTY);
	EQ(kit_open_error(&k, &e), -EFBIG);
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
	EQ(get_be64(bits), 0);
	EQ(get_be64(bits + 16), 0);
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

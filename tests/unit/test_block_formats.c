/* SPDX-License-Identifier: Apache-2.0 */
/* VHD, VHDX and VMDK against QEMU: images that one side made and changed are read by the other. */
#include "block_kit.h"

#define MB (1024ull * 1024)

struct kind {
	const char *name, *qemu, *options;
	enum block_type type;
	uint64_t disk_bytes, window_start, window_bytes;
	bool can_check;
};

static const struct kind kinds[] = {
	{ "vhd-fixed", "vpc", "subformat=fixed,force_size=on", BLOCK_TYPE_VHD, 24 * MB, 0, 24 * MB, false },
	{ "vhd-dynamic", "vpc", "subformat=dynamic,force_size=on", BLOCK_TYPE_VHD, 33 * MB, 0, 33 * MB, false },
	{ "vhd-large", "vpc", "subformat=dynamic,force_size=on", BLOCK_TYPE_VHD, 200 * 1024 * MB, 150 * 1024 * MB, 24 * MB,
	  false },
	{ "vhdx-dynamic", "vhdx", "subformat=dynamic,block_size=1M", BLOCK_TYPE_VHDX, 32 * MB, 0, 32 * MB, true },
	{ "vhdx-fixed", "vhdx", "subformat=fixed,block_size=1M", BLOCK_TYPE_VHDX, 16 * MB, 0, 16 * MB, true },
	/* Chunks of 4 GiB: the window lies over the border of two. */
	{ "vhdx-large", "vhdx", "subformat=dynamic,block_size=2M", BLOCK_TYPE_VHDX, 4 * 1024 * MB + 15 * MB,
	  4 * 1024 * MB - 10 * MB, 24 * MB, true },
	{ "vmdk-sparse", "vmdk", "subformat=monolithicSparse", BLOCK_TYPE_VMDK, 40 * MB, 0, 40 * MB, true },
	{ "vmdk-flat", "vmdk", "subformat=monolithicFlat", BLOCK_TYPE_VMDK, 24 * MB, 0, 24 * MB, true },
	{ "vmdk-split-sparse", "vmdk", "subformat=twoGbMaxExtentSparse", BLOCK_TYPE_VMDK, 5 * 1024 * MB, 2 * 1024 * MB - 8 * MB,
	  24 * MB, true },
	{ "vmdk-split-flat", "vmdk", "subformat=twoGbMaxExtentFlat", BLOCK_TYPE_VMDK, 5 * 1024 * MB, 2 * 1024 * MB - 8 * MB,
	  24 * MB, true },
};

static void create(struct kit *k, const struct kind *kind, int mode)
{
	memset(k, 0, sizeof *k);
	k->type = kind->type;
	k->mode = mode;
	(void)snprintf(k->path, sizeof k->path, "%s/%s-%d", kit_folder, kind->name, mode);
	kit_run("qemu-img create -f %s -o %s %s %llu", kind->qemu, kind->options, k->path,
	        (unsigned long long)kind->disk_bytes);
}

static void qemu_check(const struct kit *k, const struct kind *kind)
{
	if (kind->can_check)
		kit_run("qemu-img check -f %s %s", kind->qemu, k->path);
}

/* --- both ways --- */

static void work_and_compare(const struct kind *kind, int mode)
{
	struct kit k;
	struct kit_model m;
	struct block_limits l;
	create(&k, kind, mode);
	kit_model_new(&m, kind->window_start, kind->window_bytes);
	/* What goes to a real disk waits for it at every flush. */
	unsigned n_sessions = mode & KIT_DIRECT ? 1 : 2;
	for (unsigned session = 0; session < n_sessions; session++) {
		kit_open(&k);
		block_image_limits(k.image, &l);
		EQ(l.n_bytes, kind->disk_bytes);
		kit_compare(&k, &m);
		kit_work(&k, &m, mode & KIT_DIRECT ? 24 : 480);
		kit_compare(&k, &m);
		kit_close(&k);
		qemu_check(&k, kind);
	}
	kit_qemu_compare(&k, kind->qemu, &m, kind->disk_bytes);
	free(m.bytes);
}

static void work_on_all(int mode)
{
	kit_need_qemu();
	kit_folder_new(mode);
	/* Each engine has other kinds. */
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++)
		if (kit_is_mine(n + (size_t)mode))
			work_and_compare(&kinds[n], mode);
	kit_folder_done();
}

TEST(qemu_reads_what_we_wrote_with_io_uring)
{
	work_on_all(0);
}

TEST(qemu_reads_what_we_wrote_with_workers)
{
	work_on_all(KIT_WORKERS);
}

TEST(qemu_reads_what_we_wrote_with_direct_io)
{
	work_on_all(KIT_DIRECT);
}

TEST(we_read_what_qemu_wrote)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++) {
		if (!kit_is_mine(n))
			continue;
		const struct kind *kind = &kinds[n];
		struct kit k;
		struct kit_model m;
		create(&k, kind, n % 2 ? KIT_WORKERS : 0);
		kit_model_new(&m, kind->window_start, kind->window_bytes);
		for (unsigned turn = 0; turn < 3; turn++) {
			char commands[4096] = "";
			size_t used = 0;
			for (unsigned j = 0; j < 24; j++) {
				uint64_t offset, bytes;
				unsigned pattern = (unsigned)kit_chance(255) + 1;
				kit_random_range(&m, &offset, &bytes);
				used += (size_t)snprintf(commands + used, sizeof commands - used, " -c 'write -P %u %llu %llu'",
				                         pattern, (unsigned long long)offset, (unsigned long long)bytes);
				memset(m.bytes + (offset - m.start_bytes), (int)pattern, (size_t)bytes);
			}
			kit_run("qemu-io -f %s%s %s", kind->qemu, commands, k.path);
			/* Read, and go on where QEMU stopped. */
			k.is_readonly = turn == 0;
			kit_open(&k);
			kit_compare(&k, &m);
			if (turn == 1)
				kit_work(&k, &m, 60);
			kit_close(&k);
		}
		kit_qemu_compare(&k, kind->qemu, &m, kind->disk_bytes);
		free(m.bytes);
	}
	kit_folder_done();
}

TEST(an_empty_image_reads_as_zeroes_and_stays_as_it_is)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++) {
		if (!kit_is_mine(n))
			continue;
		struct kit k;
		struct kit_model m;
		create(&k, &kinds[n], 0);
		kit_run("cp -r --sparse=always %s %s.before", k.path, k.path);
		kit_model_new(&m, kinds[n].window_start, kinds[n].window_bytes);
		kit_open(&k);
		kit_compare(&k, &m);
		EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
		kit_close(&k);
		/* The file is not touched, not even its headers. */
		kit_run("cmp %s %s.before", k.path, k.path);
		free(m.bytes);
	}
	kit_folder_done();
}

/* --- where QEMU's reading is not the specification's --- */

/* Both footers, whose numbers are big-endian, and their checksums. */
static void patch_vhd(const struct kit *k, size_t at, uint64_t value, size_t n_bytes)
{
	uint8_t p[512];
	struct stat st;
	uint32_t sum = 0;
	int fd = open(k->path, O_RDWR);
	EQ(fstat(fd, &st), 0);
	EQ(pread(fd, p, sizeof p, 0), (long)sizeof p);
	for (size_t j = 0; j < n_bytes; j++)
		p[at + j] = (uint8_t)(value >> (8 * (n_bytes - 1 - j)));
	memset(p + 64, 0, 4);
	for (size_t j = 0; j < sizeof p; j++)
		sum += p[j];
	sum = htobe32(~sum);
	memcpy(p + 64, &sum, 4);
	EQ(pwrite(fd, p, sizeof p, 0), (long)sizeof p);
	EQ(pwrite(fd, p, sizeof p, st.st_size - (long)sizeof p), (long)sizeof p);
	close(fd);
}

TEST(a_vhd_is_as_large_as_its_creator_meant)
{
	static const struct kind kind = { "vhd", "vpc", "subformat=dynamic", BLOCK_TYPE_VHD, 16 * MB, 0, 0, false };
	static const struct {
		char creator[5];
		bool means_geometry, is_largest;
		bool is_unlisted; /* QEMU before 10 means the geometry of whom it does not know, and loses the disk's end */
	} creators[] = {
		{ "vpc ", true, false, false }, { "qemu", true, false, false },
		{ "qemu", false, true, false }, { "vpc ", false, true, false },
		{ "win ", false, false, false }, { "qem2", false, false, false },
		{ "d2v ", false, false, false }, { "CTXS", false, false, false },
		{ "tap", false, false, false }, { "wa", false, false, true },
		{ "vbox", false, false, true }, { "", false, false, true },
		{ "QEMU", false, false, true }, { "vpc", false, false, true },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(creators); n++) {
		struct kit k;
		uint64_t geometry_bytes, size_bytes = 15 * MB;
		create(&k, &kind, 0);
		kit_open(&k);
		geometry_bytes = k.image->n_disk_bytes; /* QEMU rounds it up, and writes it as both */
		kit_close(&k);
		OK(geometry_bytes >= 16 * MB);
		uint32_t creator;
		memcpy(&creator, creators[n].creator, 4);
		patch_vhd(&k, 28, be32toh(creator), 4);
		patch_vhd(&k, 48, size_bytes, 8);
		if (creators[n].is_largest)
			patch_vhd(&k, 56, 65535u << 16 | 16 << 8 | 255, 4);
		kit_open(&k);
		EQ(k.image->n_disk_bytes, creators[n].means_geometry ? geometry_bytes : size_bytes);
		kit_close(&k);
		if (!creators[n].is_unlisted)
			kit_run("qemu-img info -f vpc --output=json %s | grep -q '\"virtual-size\": %llu,'", k.path,
			        (unsigned long long)(creators[n].means_geometry ? geometry_bytes : size_bytes));
	}
	kit_folder_done();
}

TEST(a_vhdx_block_that_a_draft_calls_unmapped_is_zeroes)
{
	static const struct kind kind = { "vhdx", "vhdx", "block_size=1M", BLOCK_TYPE_VHDX, 8 * MB, 0, 8 * MB, true };
	struct kit k;
	struct kit_model m;
	uint8_t regions[64], entry[8] = { 5 };
	kit_need_qemu();
	kit_folder_new(0);
	create(&k, &kind, 0);
	kit_model_new(&m, 0, 8 * MB);
	int fd = open(k.path, O_RDWR);
	EQ(pread(fd, regions, sizeof regions, 0x30000 + 16), (long)sizeof regions);
	uint64_t bat;
	memcpy(&bat, regions[0] == 0x66 ? regions + 16 : regions + 48, 8);
	for (unsigned n = 0; n < 2; n++)
		EQ(pwrite(fd, entry, sizeof entry, (off_t)(le64toh(bat) + n * 8)), (long)sizeof entry);
	close(fd);
	kit_open(&k);
	kit_compare(&k, &m);
	memset(m.bytes, 7, 4096);
	EQ(kit_do(&k, BLOCK_WRITE, 0, m.bytes, 4096), 0);
	kit_compare(&k, &m);
	kit_close(&k);
	kit_qemu_compare(&k, "vhdx", &m, 8 * MB);
	free(m.bytes);
	kit_folder_done();
}

/* --- direct I/O beside tables --- */

/* Counts what goes to the file how, of a certain length, and has no other way to write zeroes. */
struct ways {
	uint64_t n_bytes;
	_Atomic unsigned n_direct, n_buffered;
};

static long count_ways(void *context, const struct block_step *s)
{
	struct ways *w = context;
	int fd = s->is_buffered ? s->file->buffered_fd : s->file->fd;
	ssize_t n = 0;
	if (s->op == BLOCK_STEP_FALLOCATE)
		return -EOPNOTSUPP;
	if (s->op == BLOCK_STEP_READ)
		n = preadv(fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
	else if (s->op == BLOCK_STEP_WRITE)
		n = pwritev(fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
	if (s->op == BLOCK_STEP_WRITE && s->n_bytes == w->n_bytes)
		(void)atomic_fetch_add(s->is_buffered ? &w->n_buffered : &w->n_direct, 1);
	return n < 0 ? -errno : n;
}

static void expect_way(struct kit *k, enum block_op op, uint64_t offset, uint8_t *buffer, bool is_buffered)
{
	struct ways w = { .n_bytes = 8192 };
	struct block_seam seam = { .execute = count_ways, .context = &w };
	k->image->seam = &seam;
	EQ(kit_do(k, op, offset, buffer, 8192), 0);
	k->image->seam = NULL;
	EQ(w.n_direct, is_buffered ? 0 : 1);
	EQ(w.n_buffered, is_buffered ? 1 : 0);
}

static bool is_direct(const struct kit *k)
{
	bool says = k->image->file->is_direct, is = fcntl(k->image->file->fd, F_GETFL) & O_DIRECT;
	EQ(says, is);
	return is;
}

static void open_once(struct kit *k, bool is_readonly, bool expected)
{
	k->is_readonly = is_readonly;
	kit_log[0] = 0;
	kit_open(k);
	EQ(is_direct(k), expected);
	if (!expected)
		STR_HAS(kit_log, "direct I/O is not used");
	kit_close(k);
	k->is_readonly = false;
}

/* The second grain, with its 64 KiB of data, moves to where no page begins. */
static void make_odd_grain(const struct kit *k)
{
	static const size_t directories[] = { 48, 56 };
	uint8_t grain[65536];
	struct stat st;
	int fd = open(k->path, O_RDWR);
	EQ(fstat(fd, &st), 0);
	uint64_t at = align_up((uint64_t)st.st_size, 4096) + 512;
	memset(grain, 2, sizeof grain);
	EQ(pwrite(fd, grain, sizeof grain, (off_t)at), (long)sizeof grain);
	for (size_t n = 0; n < 2; n++) {
		uint64_t directory;
		uint32_t table, entry = htole32((uint32_t)(at / 512));
		EQ(pread(fd, &directory, 8, (off_t)directories[n]), 8);
		EQ(pread(fd, &table, 4, (off_t)(le64toh(directory) * 512)), 4);
		EQ(pwrite(fd, &entry, 4, (off_t)(le32toh(table) * 512ull + 4)), 4);
	}
	close(fd);
}

TEST(direct_io_keeps_away_from_pages_with_tables)
{
	static const struct kind vhd = { "vhd", "vpc", "subformat=dynamic,force_size=on", BLOCK_TYPE_VHD, 8 * MB, 0, 0, false };
	static const struct kind vhdx = { "vhdx", "vhdx", "block_size=1M", BLOCK_TYPE_VHDX, 8 * MB, 0, 0, true };
	static const struct kind vmdk = { "vmdk", "vmdk", "subformat=monolithicSparse", BLOCK_TYPE_VMDK, 8 * MB, 0, 8 * MB,
		                          true };
	struct kit k;
	struct kit_model m;
	kit_need_qemu();
	kit_folder_new(KIT_DIRECT);
	create(&k, &vhd, KIT_DIRECT);
	open_once(&k, false, false);
	open_once(&k, true, true); /* nothing is written */

	kit_model_new(&m, 0, 8 * MB);
	create(&k, &vhdx, KIT_DIRECT);
	kit_open(&k);
	OK(is_direct(&k));
	EQ(kit_do(&k, BLOCK_WRITE, 0, m.bytes, 65536), 0);
	expect_way(&k, BLOCK_WRITE, 16384, m.bytes, false);
	expect_way(&k, BLOCK_WRITE_ZEROES, 16384, NULL, false); /* beside what else may be in flight */
	kit_close(&k);

	create(&k, &vmdk, KIT_DIRECT);
	kit_run("qemu-io -f vmdk -c 'write -P 1 0 64k' -c 'write -P 2 64k 64k' %s", k.path);
	make_odd_grain(&k);
	memset(m.bytes, 1, 65536);
	memset(m.bytes + 65536, 2, 65536);
	kit_open(&k);
	OK(is_direct(&k));
	kit_compare(&k, &m);
	memset(m.bytes + 8192, 3, 8192);
	memset(m.bytes + 65536, 4, 8192);
	expect_way(&k, BLOCK_WRITE, 8192, m.bytes + 8192, false);
	expect_way(&k, BLOCK_WRITE, 65536, m.bytes + 65536, true);
	memset(m.bytes + 73728, 0, 8192);
	expect_way(&k, BLOCK_WRITE_ZEROES, 73728, NULL, true);
	kit_compare(&k, &m);
	kit_close(&k);
	kit_qemu_compare(&k, "vmdk", &m, 8 * MB);
	/* And where all grains may be odd. */
	uint64_t overhead = htole64(127);
	int fd = open(k.path, O_RDWR);
	EQ(pwrite(fd, &overhead, 8, 64), 8);
	close(fd);
	open_once(&k, false, false);
	open_once(&k, true, true);
	free(m.bytes);
	kit_folder_done();
}

/* --- under another image --- */

TEST(they_can_be_what_a_qcow2_image_is_based_on)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++) {
		if (!kit_is_mine(n))
			continue;
		const struct kind *kind = &kinds[n];
		struct kit k, top = { .type = BLOCK_TYPE_QCOW2 };
		struct kit_model m;
		create(&k, kind, 0);
		kit_model_new(&m, kind->window_start, kind->window_bytes);
		kit_open(&k);
		kit_work(&k, &m, 120);
		kit_close(&k);
		(void)snprintf(top.path, sizeof top.path, "%s/top.qcow2", kit_folder);
		kit_run("qemu-img create -f qcow2 -b %s -F %s %s", k.path, kind->qemu, top.path);
		kit_open(&top);
		kit_compare(&top, &m);
		kit_work(&top, &m, 120);
		kit_compare(&top, &m);
		kit_close(&top);
		kit_qemu_compare(&top, "qcow2", &m, kind->disk_bytes);
		free(m.bytes);
	}
	kit_folder_done();
}

/* --- several lanes, each on a thread of its own --- */

#define N_THREADS 4
#define STRIPE (32 * 1024ull)

struct stripes {
	struct kit *k;
	struct kit_model *m;
	unsigned number;
};

static int run_one(struct block_lane *lane, enum block_op op, uint64_t offset, uint8_t *buffer, uint64_t n)
{
	struct kit_op o = { .iov = { { .iov_base = buffer, .iov_len = (size_t)n } } };
	o.r = (struct block_request){ .op = op, .offset_bytes = offset, .n_bytes = n, .iov = o.iov, .n_iov = 1,
		                      .done = kit_done };
	block_submit(lane, &o.r);
	block_drain(lane);
	OK(o.is_done);
	return o.result;
}

/* Every fourth stripe of the window is this thread's, so that all of them make the same blocks at once. */
static void *write_stripes(void *arg)
{
	struct stripes *s = arg;
	struct loop *loop;
	struct block_lane *lane;
	uint8_t *buffer = malloc(STRIPE);
	EQ(loop_new(&loop, NULL), 0);
	EQ(block_lane_open(s->k->image, loop, 8, &lane, NULL), 0);
	for (uint64_t at = s->number * STRIPE; at + STRIPE <= s->m->n_bytes; at += N_THREADS * STRIPE) {
		uint8_t *expected = s->m->bytes + at;
		memset(expected, (int)(1 + at / STRIPE % 251), STRIPE);
		EQ(run_one(lane, BLOCK_WRITE, s->m->start_bytes + at, expected, STRIPE), 0);
		EQ(run_one(lane, BLOCK_READ, s->m->start_bytes + at, buffer, STRIPE), 0);
		MEM_EQ(buffer, expected, STRIPE);
		if (at / STRIPE % 16 == s->number)
			EQ(run_one(lane, BLOCK_FLUSH, 0, NULL, 0), 0);
	}
	block_lane_close(lane);
	loop_free(loop);
	free(buffer);
	return NULL;
}

TEST(lanes_on_threads_make_the_same_blocks)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++) {
		if (!kit_is_mine(n))
			continue;
		struct kit k;
		struct kit_model m;
		struct stripes s[N_THREADS];
		pthread_t threads[N_THREADS];
		create(&k, &kinds[n], 0);
		kit_model_new(&m, kinds[n].window_start, kinds[n].window_bytes);
		kit_open(&k);
		for (unsigned t = 0; t < N_THREADS; t++) {
			s[t] = (struct stripes){ .k = &k, .m = &m, .number = t };
			EQ(pthread_create(&threads[t], NULL, write_stripes, &s[t]), 0);
		}
		for (unsigned t = 0; t < N_THREADS; t++)
			EQ(pthread_join(threads[t], NULL), 0);
		kit_compare(&k, &m);
		kit_close(&k);
		qemu_check(&k, &kinds[n]);
		kit_qemu_compare(&k, kinds[n].qemu, &m, kinds[n].disk_bytes);
		free(m.bytes);
	}
	kit_folder_done();
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Images of all formats when something dies: the process, the host, or a write. What was flushed is there afterwards. */
#include "block_kit.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#define MB (1024ull * 1024)
#define SECTOR 512u
#define DISK_BYTES (12 * MB)
#define N_SECTORS (DISK_BYTES / SECTOR)

struct kind {
	const char *name, *qemu, *options;
	enum block_type type;
	bool can_check;
};

static const struct kind kinds[] = {
	{ "vhd", "vpc", "subformat=dynamic,force_size=on", BLOCK_TYPE_VHD, false },
	{ "vhdx", "vhdx", "subformat=dynamic,block_size=1M", BLOCK_TYPE_VHDX, true },
	{ "vmdk", "vmdk", "subformat=monolithicSparse", BLOCK_TYPE_VMDK, true },
};

static void create(struct kit *k, const struct kind *kind)
{
	memset(k, 0, sizeof *k);
	k->type = kind->type;
	(void)snprintf(k->path, sizeof k->path, "%s/%s", kit_folder, kind->name);
	kit_run("qemu-img create -f %s -o %s %s %llu", kind->qemu, kind->options, k->path, DISK_BYTES);
}

/* --- stamps: a sector says which write it is of --- */

/* What each sector held when it was last flushed, and the first and last stamp written since; 0: none, or zeroes. */
struct stamps {
	uint32_t flushed[N_SECTORS], first_since[N_SECTORS], last_since[N_SECTORS], now[N_SECTORS];
	bool was_zeroed[N_SECTORS]; /* since */
	uint32_t next, n_flushes;
};

static void stamp_sectors(struct stamps *s, uint8_t *buffer, uint64_t sector, uint64_t n)
{
	s->next++;
	for (uint64_t k = 0; k < n; k++) {
		for (size_t j = 0; j < SECTOR; j += 4)
			memcpy(buffer + k * SECTOR + j, &s->next, 4);
		if (!s->first_since[sector + k])
			s->first_since[sector + k] = s->next;
		s->last_since[sector + k] = s->now[sector + k] = s->next;
	}
}

static void stamp_zeroes(struct stamps *s, uint64_t sector, uint64_t n)
{
	s->next++;
	for (uint64_t k = 0; k < n; k++) {
		s->was_zeroed[sector + k] = true;
		s->now[sector + k] = 0;
	}
}

static void stamps_flushed(struct stamps *s)
{
	memcpy(s->flushed, s->now, sizeof s->flushed);
	memset(s->first_since, 0, sizeof s->first_since);
	memset(s->was_zeroed, 0, sizeof s->was_zeroed);
	s->n_flushes++;
}

static void check_stamps(struct kit *k, const struct stamps *s)
{
	uint8_t *buffer = malloc(DISK_BYTES);
	EQ(kit_do(k, BLOCK_READ, 0, buffer, DISK_BYTES), 0);
	for (uint64_t n = 0; n < N_SECTORS; n++) {
		uint32_t stamp, other;
		memcpy(&stamp, buffer + n * SECTOR, 4);
		memcpy(&other, buffer + n * SECTOR + SECTOR - 4, 4);
		EQ(stamp, other);
		bool is_since = s->first_since[n] && stamp >= s->first_since[n] && stamp <= s->last_since[n];
		is_since |= s->was_zeroed[n] && stamp == 0;
		if (stamp != s->flushed[n] && !is_since)
			test_fail(__FILE__, __LINE__, "sector %llu holds write %u; %u was flushed, and %u to %u were since%s",
			          (unsigned long long)n, stamp, s->flushed[n], s->first_since[n], s->last_since[n],
			          s->was_zeroed[n] ? ", and zeroes" : "");
	}
	free(buffer);
}

/* What came after the last flush, or did not, is what the next round begins with. */
static void adopt(struct kit *k, struct stamps *s)
{
	uint8_t *buffer = malloc(DISK_BYTES);
	EQ(kit_do(k, BLOCK_READ, 0, buffer, DISK_BYTES), 0);
	for (uint64_t n = 0; n < N_SECTORS; n++)
		memcpy(&s->now[n], buffer + n * SECTOR, 4);
	free(buffer);
	stamps_flushed(s);
}

static void write_some(struct kit *k, struct stamps *s, uint8_t *buffer)
{
	uint64_t n = 1 + kit_chance(200), sector = kit_chance(N_SECTORS - n);
	stamp_sectors(s, buffer, sector, n);
	EQ(kit_do(k, BLOCK_WRITE, sector * SECTOR, buffer, n * SECTOR), 0);
}

static void flush(struct kit *k, struct stamps *s)
{
	EQ(kit_do(k, BLOCK_FLUSH, 0, NULL, 0), 0);
	stamps_flushed(s);
}

/* --- the process dies --- */

struct killed_kind {
	struct kind kind;
	enum block_sync sync;
	int repaired_by; /* the exit status of a check that finds what a crash may leave; 0: nothing is */
};

static const struct killed_kind killed[] = {
	{ { "raw", "raw", NULL, BLOCK_TYPE_RAW, false }, BLOCK_SYNC_FULL, 0 },
	{ { "qcow2", "qcow2", "cluster_size=64k", BLOCK_TYPE_QCOW2, true }, BLOCK_SYNC_FULL, 3 },
	{ { "qcow2-4k", "qcow2", "cluster_size=4k", BLOCK_TYPE_QCOW2, true }, BLOCK_SYNC_FULL, 3 },
	{ { "qcow2-sub", "qcow2", "extended_l2=on", BLOCK_TYPE_QCOW2, true }, BLOCK_SYNC_FULL, 3 },
	{ { "qcow2-unsynced", "qcow2", "cluster_size=64k", BLOCK_TYPE_QCOW2, true }, BLOCK_SYNC_NONE, 3 },
	{ { "qcow2-4k-unsynced", "qcow2", "cluster_size=4k", BLOCK_TYPE_QCOW2, true }, BLOCK_SYNC_NONE, 3 },
	{ { "vhd", "vpc", "subformat=dynamic,force_size=on", BLOCK_TYPE_VHD, false }, BLOCK_SYNC_FULL, 0 },
	{ { "vhdx", "vhdx", "subformat=dynamic,block_size=1M", BLOCK_TYPE_VHDX, true }, BLOCK_SYNC_FULL, 0 },
	{ { "vmdk", "vmdk", "subformat=monolithicSparse", BLOCK_TYPE_VMDK, true }, BLOCK_SYNC_FULL, 0 },
	{ { "vmdk-unsynced", "vmdk", "subformat=monolithicSparse", BLOCK_TYPE_VMDK, true }, BLOCK_SYNC_NONE, 0 },
};

#define N_AT_ONCE 6u

/* Some writes that do not meet, on both lanes at once; at times one of zeroes. */
static void write_many(struct kit *k, struct stamps *s, struct kit_op *ops)
{
	unsigned n_ops = 1 + (unsigned)kit_chance(N_AT_ONCE);
	for (unsigned j = 0; j < n_ops; j++) {
		uint64_t n, sector;
		do {
			n = 1 + kit_chance(200);
			sector = kit_chance(N_SECTORS - n);
		} while (kit_meets(ops, j, sector * SECTOR, n * SECTOR));
		bool is_zeroes = kit_chance(5) == 0;
		if (is_zeroes)
			stamp_zeroes(s, sector, n);
		else
			stamp_sectors(s, ops[j].buffer, sector, n);
		ops[j].r.may_unmap = kit_chance(2);
		kit_submit(k, (unsigned)kit_chance(KIT_LANES), &ops[j], is_zeroes ? BLOCK_WRITE_ZEROES : BLOCK_WRITE,
		           sector * SECTOR, n * SECTOR);
	}
	kit_wait(k, ops, n_ops);
	for (unsigned j = 0; j < n_ops; j++)
		EQ(ops[j].result, 0);
}

static void live_until_killed(struct kit *k, struct stamps *s)
{
	static struct kit_op ops[N_AT_ONCE];
	for (unsigned j = 0; j < N_AT_ONCE; j++)
		ops[j].buffer = malloc(256 * SECTOR);
	kit_open(k);
	for (;;) {
		write_many(k, s, ops);
		if (kit_chance(3) == 0)
			flush(k, s);
	}
}

/* The kernel takes a dead process's ring down when it finds time, and with it the lock. */
static void wait_until_free(const struct kit *k)
{
	int fd = open(k->path, O_RDWR | O_CLOEXEC);
	OK(fd >= 0);
	for (unsigned n = 0;; n++) {
		struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
		if (fcntl(fd, F_OFD_SETLK, &l) == 0)
			break;
		OK(n < 2000);
		test_sleep_us(5000);
	}
	close(fd);
}

/* QEMU's view of a copy: it replays the log, or does without one, and then reads what we read. */
static void judge(struct kit *k, const struct killed_kind *kind, const struct stamps *s)
{
	const char *qemu = kind->kind.qemu;
	kit_run("cp --sparse=always %s %s.copy", k->path, k->path);
	if (kind->kind.can_check) {
		const char *repair = kind->kind.type == BLOCK_TYPE_VHDX ? "-r all" : "";
		int rc = kit_try("qemu-img check %s -f %s %s.copy", repair, qemu, k->path);
		if (rc != 0 && rc != kind->repaired_by)
			test_fail(__FILE__, __LINE__, "%s: qemu-img check says %d", k->path, rc);
	}
	kit_open(k);
	check_stamps(k, s);
	kit_close(k);
	kit_run("qemu-img compare -f %s -F %s %s %s.copy", qemu, qemu, k->path, k->path);
}

static void kill_once(struct kit *k, const struct killed_kind *kind, struct stamps *s)
{
	kit_seed += 77777;
	pid_t pid = fork();
	if (pid == 0)
		live_until_killed(k, s);
	OK(pid > 0);
	/* When it has done something, at no moment in particular. */
	uint32_t enough = s->next + 10 + (uint32_t)kit_chance(80);
	for (unsigned n = 0; __atomic_load_n(&s->next, __ATOMIC_RELAXED) < enough; n++) {
		OK(n < 100000);
		test_sleep_us(100);
	}
	test_sleep_us((unsigned)kit_chance(2000));
	EQ(kill(pid, SIGKILL), 0);
	EQ(waitpid(pid, NULL, 0), pid);
	wait_until_free(k);
	judge(k, kind, s);
	kit_open(k);
	adopt(k, s);
	kit_close(k);
}

static void create_killed(struct kit *k, const struct killed_kind *kind, struct stamps *s)
{
	memset(s, 0, sizeof *s);
	if (kind->kind.options) {
		create(k, &kind->kind);
	} else {
		*k = (struct kit){ .type = kind->kind.type };
		(void)snprintf(k->path, sizeof k->path, "%s/%s", kit_folder, kind->kind.name);
		kit_run("rm -f %s; truncate -s %llu %s", k->path, DISK_BYTES, k->path);
	}
	k->sync = kind->sync;
}

/* Whole: 540 kills over raw and qcow2, and some over the others; a new image after each ten, by the ring and by workers. */
#define KILLS_OF_AN_IMAGE 10u

static void kill_many(size_t first, size_t n_kinds, unsigned n_whole)
{
	unsigned n_kills = 0, n_writes = 0, n_flushes = 0;
	struct stamps *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	OK(s != MAP_FAILED);
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = first; n < first + n_kinds; n++) {
		struct kit k = { 0 };
		for (unsigned round = 0; round < (kit_is_whole() ? n_whole : 2); round++) {
			if (round % KILLS_OF_AN_IMAGE == 0) {
				n_writes += s->next;
				n_flushes += s->n_flushes;
				create_killed(&k, &killed[n], s);
			}
			k.mode = round % 2 ? KIT_WORKERS : 0;
			kill_once(&k, &killed[n], s);
			n_kills++;
		}
	}
	n_writes += s->next;
	n_flushes += s->n_flushes;
	OK(n_writes > 10 * n_kills && n_flushes > n_kills);
	printf("# %u kills, %u writes, %u flushes\n", n_kills, n_writes, n_flushes);
	munmap(s, sizeof *s);
	kit_folder_done();
}

TEST(what_was_flushed_to_a_raw_image_survives_a_kill)
{
	kill_many(0, 1, 90);
}

TEST(what_was_flushed_to_qcow2_survives_a_kill)
{
	kill_many(1, 1, 90);
}

TEST(what_was_flushed_to_qcow2_with_small_clusters_survives_a_kill)
{
	kill_many(2, 1, 90);
}

TEST(what_was_flushed_to_qcow2_with_subclusters_survives_a_kill)
{
	kill_many(3, 1, 90);
}

TEST(what_was_flushed_to_qcow2_survives_a_kill_without_any_sync)
{
	kill_many(4, 1, 90);
}

TEST(what_was_flushed_to_qcow2_with_small_clusters_survives_a_kill_without_any_sync)
{
	kill_many(5, 1, 90);
}

TEST(what_was_flushed_to_other_formats_survives_a_kill)
{
	kill_many(6, ARRAY_LEN(killed) - 6, 20);
}

/* --- the host dies --- */

/* What the host's disk holds, and the writes that only its memory has. */
struct power {
	pthread_mutex_t lock;
	int stable_fd;
	uint64_t n_steps, dies_at;
	unsigned fails_one_in; /* 0: never */
	bool fails_sync;
	struct pending {
		uint64_t offset, n;
		uint8_t *bytes;
	} pending[4096];
	unsigned n_pending;
};

static void keep(struct power *w, const struct block_step *s, long n)
{
	struct pending *p = &w->pending[w->n_pending++];
	OK(w->n_pending < ARRAY_LEN(w->pending));
	*p = (struct pending){ .offset = s->offset_bytes, .n = (uint64_t)n, .bytes = calloc(1, (size_t)n) };
	size_t at = 0;
	for (int k = 0; s->op == BLOCK_STEP_WRITE && at < (size_t)n; k++) {
		size_t part = (size_t)min_u64(s->iov[k].iov_len, (size_t)n - at);
		memcpy(p->bytes + at, s->iov[k].iov_base, part);
		at += part;
	}
}

/* Sector by sector, when the power went. */
static void settle(struct power *w, const struct block_file *f, bool is_power_cut)
{
	for (unsigned k = 0; k < w->n_pending; k++) {
		struct pending *p = &w->pending[k];
		bool is_lost = is_power_cut && kit_chance(3) == 0;
		for (uint64_t at = 0, n; at < p->n; at += n) {
			n = is_power_cut ? min_u64(SECTOR - (p->offset + at) % SECTOR, p->n - at) : p->n - at;
			if (is_power_cut && (is_lost || kit_chance(8) == 0))
				continue;
			EQ(pwrite(w->stable_fd, p->bytes + at, n, (off_t)(p->offset + at)), (long)n);
		}
		free(p->bytes);
	}
	w->n_pending = 0;
	/* A file's size is as old as its last sync, at worst. */
	uint64_t size;
	EQ(block_file_size(f, &size), 0);
	if (!is_power_cut || kit_chance(2))
		EQ(ftruncate(w->stable_fd, (off_t)max_u64(size, (uint64_t)lseek(w->stable_fd, 0, SEEK_END))), 0);
}

static long carry_out(const struct block_step *s)
{
	ssize_t n = -1;
	switch (s->op) {
	case BLOCK_STEP_READ:
		n = preadv(s->file->fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
		break;
	case BLOCK_STEP_WRITE:
		n = pwritev(s->file->fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
		break;
	case BLOCK_STEP_FALLOCATE:
		n = fallocate(s->file->fd, s->mode, (off_t)s->offset_bytes, (off_t)s->n_bytes);
		break;
	case BLOCK_STEP_SYNC:
		return 0;
	default:
		break;
	}
	return n < 0 ? -errno : n;
}

static long execute(void *context, const struct block_step *s)
{
	struct power *w = context;
	(void)pthread_mutex_lock(&w->lock);
	long n = -EIO;
	w->n_steps++;
	/* A sync that fails is another matter: there is no way on from it. */
	bool can_fail = s->op != BLOCK_STEP_READ && s->op != BLOCK_STEP_SYNC;
	bool fails = w->fails_one_in && can_fail && kit_chance(w->fails_one_in) == 0;
	fails |= w->fails_sync && s->op == BLOCK_STEP_SYNC;
	if (w->n_steps < w->dies_at && !fails)
		n = carry_out(s);
	if (n >= 0 && w->stable_fd >= 0) {
		if (s->op == BLOCK_STEP_WRITE)
			keep(w, s, n);
		else if (s->op == BLOCK_STEP_FALLOCATE)
			keep(w, s, (long)s->n_bytes);
		else if (s->op == BLOCK_STEP_SYNC)
			settle(w, s->file, false);
	}
	(void)pthread_mutex_unlock(&w->lock);
	return n;
}

static int try_write(struct kit *k, struct stamps *s, uint8_t *buffer)
{
	uint64_t n = 1 + kit_chance(200), sector = kit_chance(N_SECTORS - n);
	stamp_sectors(s, buffer, sector, n);
	return kit_do(k, BLOCK_WRITE, sector * SECTOR, buffer, n * SECTOR);
}

/* Works until the power goes; what is left is in path.stable. */
static void lose_power(struct kit *k, struct stamps *s, uint64_t dies_at)
{
	static struct power w;
	char stable[160];
	uint8_t *buffer = malloc(256 * SECTOR);
	(void)snprintf(stable, sizeof stable, "%s.stable", k->path);
	kit_run("cp --sparse=always %s %s", k->path, stable);
	w = (struct power){ .lock = PTHREAD_MUTEX_INITIALIZER, .dies_at = dies_at, .stable_fd = open(stable, O_RDWR) };
	OK(w.stable_fd >= 0);
	struct block_seam seam = { .execute = execute, .context = &w };
	kit_open(k);
	k->image->seam = &seam;
	while (w.n_steps < dies_at) {
		if (try_write(k, s, buffer) < 0)
			break;
		if (kit_chance(5))
			continue;
		if (kit_do(k, BLOCK_FLUSH, 0, NULL, 0) < 0)
			break;
		stamps_flushed(s);
	}
	settle(&w, k->image->file, true);
	kit_close(k);
	close(w.stable_fd);
	free(buffer);
}

TEST(what_was_flushed_survives_a_power_cut)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++) {
		struct kit k, after;
		struct stamps *s = malloc(sizeof *s);
		for (unsigned round = 0; round < kit_rounds(25); round++) {
			memset(s, 0, sizeof *s);
			create(&k, &kinds[n]);
			k.mode = KIT_WORKERS;
			lose_power(&k, s, 5 + kit_chance(200));
			after = k;
			(void)snprintf(after.path, sizeof after.path, "%s/%s.stable", kit_folder, kinds[n].name);
			kit_open(&after);
			check_stamps(&after, s);
			/* And it can be worked on. */
			adopt(&after, s);
			uint8_t *buffer = malloc(256 * SECTOR);
			for (unsigned j = 0; j < 4; j++)
				write_some(&after, s, buffer);
			flush(&after, s);
			check_stamps(&after, s);
			kit_close(&after);
			free(buffer);
			if (kinds[n].can_check)
				kit_run("qemu-img check -f %s %s", kinds[n].qemu, after.path);
		}
		free(s);
	}
	kit_folder_done();
}

/* --- writes fail --- */

/* Any step but a read or a sync fails at times. A flush that succeeded counts, whatever failed before it. */
static void work_with_faults(struct kit *k, struct stamps *s)
{
	struct power w = { .lock = PTHREAD_MUTEX_INITIALIZER, .stable_fd = -1, .fails_one_in = 7, .dies_at = UINT64_MAX };
	struct block_seam seam = { .execute = execute, .context = &w };
	uint8_t *buffer = malloc(256 * SECTOR);
	unsigned n_failed = 0, n_flushed = 0;
	kit_open(k);
	k->image->seam = &seam;
	for (unsigned n = 0; n < 200; n++) {
		/* A write that failed leaves old or new in each sector: as one that was not flushed. */
		int rc = try_write(k, s, buffer);
		OK(rc == 0 || rc == -EIO);
		n_failed += rc < 0;
		if (kit_chance(5))
			continue;
		rc = kit_do(k, BLOCK_FLUSH, 0, NULL, 0);
		OK(rc == 0 || rc == -EIO);
		if (rc == 0 && n_failed == 0)
			stamps_flushed(s);
		n_flushed += rc == 0;
	}
	OK(n_failed > 5 && n_flushed > 2);
	w.fails_one_in = 0;
	check_stamps(k, s);
	for (unsigned n = 0; n < 10; n++)
		write_some(k, s, buffer);
	check_stamps(k, s);
	k->image->seam = NULL;
	kit_close(k);
	free(buffer);
}

TEST(errors_of_the_host_reach_the_guest_and_leave_the_image_whole)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++) {
		struct kit k;
		struct stamps *s = calloc(1, sizeof *s);
		create(&k, &kinds[n]);
		k.mode = KIT_WORKERS;
		work_with_faults(&k, s);
		if (kinds[n].can_check)
			kit_run("qemu-img check -f %s %s", kinds[n].qemu, k.path);
		kit_open(&k);
		check_stamps(&k, s);
		kit_close(&k);
		free(s);
	}
	kit_folder_done();
}

/* --- a sync fails --- */

static void fail_sync_once(struct kit *k)
{
	struct power w = { .lock = PTHREAD_MUTEX_INITIALIZER, .stable_fd = -1, .dies_at = UINT64_MAX };
	struct block_seam seam = { .execute = execute, .context = &w };
	uint8_t sector[SECTOR] = { 1 };
	kit_open(k);
	k->image->seam = &seam;
	EQ(kit_do(k, BLOCK_WRITE, 0, sector, SECTOR), 0);
	EQ(kit_do(k, BLOCK_FLUSH, 0, NULL, 0), 0);
	EQ(kit_do(k, BLOCK_WRITE, 5 * MB, sector, SECTOR), 0);
	w.fails_sync = true;
	EQ(kit_do(k, BLOCK_FLUSH, 0, NULL, 0), -EIO);
	STR_HAS(kit_log, "every flush fails");
	w.fails_sync = false;
	for (unsigned n = 0; n < 3; n++) {
		/* The host has dropped what it could not write, and says that all is well. */
		EQ(kit_do(k, BLOCK_FLUSH, 0, NULL, 0), -EIO);
		(void)kit_do(k, BLOCK_WRITE, n * MB, sector, SECTOR);
	}
	k->image->seam = NULL;
	EQ(kit_do(k, BLOCK_FLUSH, 0, NULL, 0), -EIO);
	kit_close(k);
	/* Who opens it again begins with what the disk holds. */
	kit_open(k);
	EQ(kit_do(k, BLOCK_READ, 0, sector, SECTOR), 0);
	EQ(sector[0], 1);
	EQ(kit_do(k, BLOCK_WRITE, 5 * MB, sector, SECTOR), 0);
	EQ(kit_do(k, BLOCK_FLUSH, 0, NULL, 0), 0);
	kit_close(k);
}

static void raw_new(struct kit *k)
{
	*k = (struct kit){ .type = BLOCK_TYPE_RAW };
	(void)snprintf(k->path, sizeof k->path, "%s/raw", kit_folder);
	kit_run("truncate -s %llu %s", DISK_BYTES, k->path);
}

TEST(after_a_failed_sync_no_flush_succeeds)
{
	struct kit k;
	kit_need_qemu();
	kit_folder_new(0);
	raw_new(&k);
	k.mode = KIT_WORKERS;
	fail_sync_once(&k);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++) {
		create(&k, &kinds[n]);
		k.mode = KIT_WORKERS;
		fail_sync_once(&k);
		if (kinds[n].can_check)
			kit_run("qemu-img check -f %s %s", kinds[n].qemu, k.path);
	}
	kit_folder_done();
}

/* By whichever engine: a pipe cannot be synced. The second lane has not used its own yet, and gets the file. */
TEST(a_failed_sync_of_one_lane_counts_for_all)
{
	for (int mode = 0; mode <= KIT_WORKERS; mode++) {
		struct kit k;
		struct kit_op o = { 0 };
		int ends[2];
		kit_folder_new(0);
		raw_new(&k);
		k.mode = mode;
		kit_open(&k);
		int fd = k.image->file->fd, saved = dup(fd);
		EQ(pipe(ends), 0);
		EQ(dup2(ends[1], fd), fd);
		EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), -EINVAL);
		EQ(dup2(saved, fd), fd);
		kit_submit(&k, 1, &o, BLOCK_FLUSH, 0, 0);
		kit_wait(&k, &o, 1);
		EQ(o.result, -EINVAL);
		kit_close(&k);
		close(saved);
		close(ends[0]);
		close(ends[1]);
		kit_folder_done();
	}
}

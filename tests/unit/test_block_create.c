/* SPDX-License-Identifier: Apache-2.0 */
/* Images that are made, copied and committed: whole or not at all, sound to QEMU's own tools, and then a disk like any
 * other for random work. The program's tests (test_image.py) have the rest. */
#include "backend/block_writer.h"
#include "block_kit.h"

#include <sys/syscall.h>

#define DISK_BYTES (11ull * 1024 * 1024 + 512 * 37)

static int create(const struct kit *k, struct block_create_params p, struct err *e)
{
	p.path = k->path;
	p.type = p.type ? p.type : BLOCK_TYPE_QCOW2;
	p.n_bytes = p.n_bytes ? p.n_bytes : DISK_BYTES;
	return block_create(&p, e);
}

static struct kit kit_at(const char *name, enum block_type type)
{
	struct kit k = { .type = type };
	(void)snprintf(k.path, sizeof k.path, "%s/%s", kit_folder, name);
	return k;
}

static unsigned n_files(void)
{
	char command[160];
	(void)snprintf(command, sizeof command, "test $(ls -A %s | wc -l) = ", kit_folder);
	for (unsigned n = 0; n < 8; n++)
		if (kit_try("%s%u", command, n) == 0)
			return n;
	return 8;
}

/* --- kinds --- */

static const struct block_create_params kinds[] = {
	{ .type = BLOCK_TYPE_RAW },
	{ .type = BLOCK_TYPE_RAW, .preallocation = BLOCK_PREALLOCATE_FULL },
	{ .cluster_bytes = 0 },
	{ .cluster_bytes = 512 },
	{ .cluster_bytes = 4096, .has_lazy_refcounts = true },
	{ .cluster_bytes = 2u << 20, .is_zstd = true },
	{ .has_extended_l2 = true },
	{ .has_extended_l2 = true, .cluster_bytes = 16384, .preallocation = BLOCK_PREALLOCATE_METADATA },
	{ .preallocation = BLOCK_PREALLOCATE_METADATA, .cluster_bytes = 512 },
	{ .preallocation = BLOCK_PREALLOCATE_FALLOC },
	{ .preallocation = BLOCK_PREALLOCATE_FULL, .cluster_bytes = 4096 },
	{ .type = BLOCK_TYPE_VHD },
	{ .type = BLOCK_TYPE_VHD, .subformat = BLOCK_SUBFORMAT_FIXED },
	{ .type = BLOCK_TYPE_VHD, .subformat = BLOCK_SUBFORMAT_FIXED, .preallocation = BLOCK_PREALLOCATE_FULL },
	{ .type = BLOCK_TYPE_VHDX },
	{ .type = BLOCK_TYPE_VHDX, .subformat = BLOCK_SUBFORMAT_FIXED, .preallocation = BLOCK_PREALLOCATE_FALLOC },
	{ .type = BLOCK_TYPE_VMDK },
	{ .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_MONOLITHIC_FLAT, .preallocation = BLOCK_PREALLOCATE_FULL },
	{ .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_TWO_GB_SPARSE },
	{ .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_TWO_GB_FLAT },
};

static const char *qemu_name(enum block_type type)
{
	static const char *const names[] = { [BLOCK_TYPE_RAW] = "raw", [BLOCK_TYPE_QCOW2] = "qcow2", [BLOCK_TYPE_VHD] = "vpc",
		                             [BLOCK_TYPE_VHDX] = "vhdx", [BLOCK_TYPE_VMDK] = "vmdk" };
	return names[type];
}

static void qemu_check(const struct kit *k)
{
	if (k->type != BLOCK_TYPE_RAW && k->type != BLOCK_TYPE_VHD) /* which QEMU has nothing to check of */
		kit_run("qemu-img check -f %s %s", qemu_name(k->type), k->path);
}

static bool has_files_beside(const struct block_create_params *p)
{
	return p->subformat >= BLOCK_SUBFORMAT_MONOLITHIC_FLAT;
}

static void work_on(const struct block_create_params *p)
{
	struct kit k = kit_at("disk", p->type ? p->type : BLOCK_TYPE_QCOW2);
	const char *format = qemu_name(k.type);
	struct kit_model m;
	struct err e = { 0 };
	if (create(&k, *p, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	EQ(n_files(), 1 + has_files_beside(p));
	kit_model_new(&m, 0, DISK_BYTES);
	qemu_check(&k);
	kit_qemu_compare(&k, format, &m, DISK_BYTES);
	kit_open(&k);
	kit_work(&k, &m, 240);
	kit_compare(&k, &m);
	kit_close(&k);
	qemu_check(&k);
	kit_qemu_compare(&k, format, &m, DISK_BYTES);
	/* And by QEMU's hand. */
	kit_run("qemu-io -f %s -c 'write -P 7 1M 3M' -c 'write -P 8 11M 18944' -c flush %s", format, k.path);
	qemu_check(&k);
	memset(m.bytes + (1 << 20), 7, 3 << 20);
	memset(m.bytes + (11 << 20), 8, 18944);
	kit_open(&k);
	kit_compare(&k, &m);
	kit_close(&k);
	kit_run("rm %s*", k.path);
	free(m.bytes);
}

TEST(a_new_image_is_a_sound_empty_disk)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(kinds); n++)
		work_on(&kinds[n]);
	kit_folder_done();
}

/* What is written last, at the far end, is found: by QEMU, and by us. */
TEST(the_largest_disks_of_each_kind)
{
	static const struct {
		struct block_create_params p;
		unsigned n_files;
	} cases[] = {
		{ { .type = BLOCK_TYPE_VHD, .n_bytes = 2040ull << 30 }, 1 },
		{ { .type = BLOCK_TYPE_VHDX, .n_bytes = 64ull << 40 }, 1 },
		{ { .type = BLOCK_TYPE_VMDK, .n_bytes = 2ull << 40 }, 1 },
		{ { .type = BLOCK_TYPE_VMDK, .n_bytes = (4ull << 30) + 512, .subformat = BLOCK_SUBFORMAT_TWO_GB_SPARSE }, 4 },
		{ { .type = BLOCK_TYPE_VMDK, .n_bytes = (4ull << 30) + 512, .subformat = BLOCK_SUBFORMAT_TWO_GB_FLAT }, 4 },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(cases); n++) {
		struct kit k = kit_at("disk.img", cases[n].p.type);
		uint8_t sector[512], other[512];
		struct err e = { 0 };
		if (create(&k, cases[n].p, &e) < 0)
			test_fail(__FILE__, __LINE__, "%s", e.text);
		EQ(n_files(), cases[n].n_files);
		memset(sector, 0x5a, sizeof sector);
		kit_open(&k);
		EQ(kit_do(&k, BLOCK_WRITE, cases[n].p.n_bytes - 512, sector, 512), 0);
		EQ(kit_do(&k, BLOCK_READ, cases[n].p.n_bytes - 1024, other, 512), 0);
		OK(block_is_zero(other, 512));
		kit_close(&k);
		kit_run("qemu-io -r -f %s -c 'read -P 0x5a %llu 512' -c 'read -P 0 %llu 512' %s", qemu_name(k.type),
		        (unsigned long long)cases[n].p.n_bytes - 512, (unsigned long long)cases[n].p.n_bytes - 1024, k.path);
		kit_run("rm %s/disk*", kit_folder);
	}
	kit_folder_done();
}

TEST(a_disk_of_no_bytes_and_one_of_many)
{
	static const uint64_t sizes[] = { 0, 512, 1ull << 40, 64ull << 40 };
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(sizes); n++) {
		struct kit k = kit_at("disk", BLOCK_TYPE_QCOW2);
		struct block_create_params p = { .path = k.path, .type = BLOCK_TYPE_QCOW2, .n_bytes = sizes[n] };
		EQ(block_create(&p, NULL), 0);
		kit_run("qemu-img check -f qcow2 %s", k.path);
		unlink(k.path);
	}
	kit_folder_done();
}

/* --- what is refused --- */

TEST(what_cannot_be_made_is_refused_and_leaves_nothing)
{
	static const struct {
		struct block_create_params p;
		int code;
		const char *text;
	} cases[] = {
		{ { .cluster_bytes = 256 }, EINVAL, "a power of two from 512 to 2M" },
		{ { .cluster_bytes = 4u << 20 }, EINVAL, "a power of two from 512 to 2M" },
		{ { .cluster_bytes = 3000 }, EINVAL, "a power of two from 512 to 2M" },
		{ { .has_extended_l2 = true, .cluster_bytes = 8192 }, EINVAL, "16K at least" },
		{ { .cluster_bytes = 512, .n_bytes = 1ull << 40 }, EFBIG, "clusters of 512 bytes do not allow a disk" },
		{ { .n_bytes = UINT64_MAX }, EFBIG, "too large" },
		{ { .backing_name = "" }, EINVAL, "the name of its backing file has 0 bytes" },
		{ { .backing_name = "b", .backing_format = "a name that is too long" }, EINVAL, "the name of its backing file" },
		{ { .backing_name = "b", .preallocation = BLOCK_PREALLOCATE_FULL }, EINVAL, "would hide its backing file" },
		{ { .type = BLOCK_TYPE_RAW, .backing_name = "b" }, EINVAL, "raw images cannot be based on others" },
		{ { .type = BLOCK_TYPE_RAW, .cluster_bytes = 512 }, EINVAL, "raw images have no clusters" },
		{ { .type = BLOCK_TYPE_RAW, .preallocation = BLOCK_PREALLOCATE_METADATA }, EINVAL, "no metadata" },
		{ { .type = BLOCK_TYPE_RAW, .subformat = BLOCK_SUBFORMAT_FIXED }, EINVAL, "all of one kind" },
		{ { .subformat = BLOCK_SUBFORMAT_FIXED }, EINVAL, "all of one kind" },
		{ { .type = BLOCK_TYPE_VHD, .subformat = BLOCK_SUBFORMAT_TWO_GB_FLAT }, EINVAL, "dynamic or fixed" },
		{ { .type = BLOCK_TYPE_VHDX, .subformat = BLOCK_SUBFORMAT_MONOLITHIC_SPARSE }, EINVAL, "dynamic or fixed" },
		{ { .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_FIXED }, EINVAL, "sparse or flat" },
		{ { .type = BLOCK_TYPE_VHD, .is_compressed = true }, EINVAL, "VHD images have no clusters" },
		{ { .type = BLOCK_TYPE_VHDX, .backing_name = "b" }, EINVAL, "VHDX images cannot be based on others" },
		{ { .type = BLOCK_TYPE_VMDK, .preallocation = BLOCK_PREALLOCATE_FULL }, EINVAL, "VMDK images that grow" },
		{ { .type = BLOCK_TYPE_VHD, .n_bytes = (2040ull << 30) + 1 }, EFBIG, "2040 GiB at most" },
		{ { .type = BLOCK_TYPE_VHDX, .n_bytes = (64ull << 40) + 1 }, EFBIG, "64 TiB at most" },
		{ { .type = BLOCK_TYPE_VMDK, .n_bytes = (2ull << 40) + 1 }, EFBIG, "2048 GiB at most" },
		{ { .type = BLOCK_TYPE_VMDK, .n_bytes = 2001ull << 30, .subformat = BLOCK_SUBFORMAT_TWO_GB_FLAT }, EFBIG,
		  "2000 GiB at most" },
	};
	kit_folder_new(0);
	struct kit k = kit_at("disk", BLOCK_TYPE_QCOW2);
	for (size_t n = 0; n < ARRAY_LEN(cases); n++) {
		struct err e = { 0 };
		EQ(create(&k, cases[n].p, &e), -cases[n].code);
		STR_HAS(e.text, cases[n].text);
		EQ(n_files(), 0);
	}
	kit_folder_done();
}

TEST(a_disk_of_nothing_is_refused_where_the_format_has_none)
{
	static const enum block_type types[] = { BLOCK_TYPE_VHD, BLOCK_TYPE_VHDX, BLOCK_TYPE_VMDK };
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(types); n++) {
		struct kit k = kit_at("disk", types[n]);
		struct block_create_params p = { .path = k.path, .type = types[n] };
		struct err e = { 0 };
		EQ(block_create(&p, &e), -EINVAL);
		STR_HAS(e.text, "of no bytes");
		EQ(n_files(), 0);
	}
	kit_folder_done();
}

static const struct block_create_params split = { .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_TWO_GB_SPARSE,
	                                          .n_bytes = 5ull << 30 };

TEST(files_beside_an_image_are_never_replaced)
{
	kit_folder_new(0);
	struct kit k = kit_at("disk.vmdk", BLOCK_TYPE_VMDK);
	struct block_create_params p = split;
	struct err e = { 0 };
	p.may_replace = true;
	kit_run("echo mine >%s/disk-s003.vmdk", kit_folder);
	EQ(create(&k, p, &e), -ENOTSUP);
	STR_HAS(e.text, "not supported yet: to replace 'disk-s003.vmdk'");
	kit_run("test \"$(cat %s/disk-s003.vmdk)\" = mine", kit_folder);
	EQ(n_files(), 1);
	kit_folder_done();

	kit_folder_new(0);
	k = kit_at("a\"b", BLOCK_TYPE_VMDK);
	EQ(create(&k, split, &e), -EINVAL);
	STR_HAS(e.text, "cannot hold its name");
	EQ(n_files(), 0);
	kit_folder_done();
}

/* At the step of that number something comes into the way of an extent. */
struct in_the_way {
	unsigned left;
	const char *name;
};

static bool put_in_the_way(void *context, uint64_t n_done, uint64_t n)
{
	struct in_the_way *w = context;
	(void)n_done, (void)n;
	if (w->left && !--w->left)
		kit_run("echo theirs >%s/%s", kit_folder, w->name);
	return true;
}

/* Two extents have their names when the third cannot have its own; or all three, when the image cannot. */
TEST(files_that_have_their_names_go_when_the_image_cannot_have_its_own)
{
	static const char *const names[] = { "disk-s003.vmdk", "disk.vmdk" };
	for (size_t n = 0; n < ARRAY_LEN(names); n++) {
		struct in_the_way w = { .left = 4, .name = names[n] };
		struct err e = { 0 };
		kit_folder_new(0);
		struct kit k = kit_at("disk.vmdk", BLOCK_TYPE_VMDK);
		struct block_create_params p = split;
		p.progress = (struct block_progress){ .step = put_in_the_way, .context = &w };
		EQ(create(&k, p, &e), n ? -EEXIST : -EBUSY);
		STR_HAS(e.text, "exists already");
		kit_run("test \"$(cat %s/%s)\" = theirs", kit_folder, names[n]);
		EQ(n_files(), 1);
		kit_folder_done();
	}
}

static bool stop_at_once(void *context, uint64_t n_done, uint64_t n)
{
	(void)context;
	return n_done >= n && n_done == 0;
}

TEST(stopped_work_leaves_nothing_and_replaces_nothing)
{
	kit_folder_new(0);
	struct kit k = kit_at("disk", BLOCK_TYPE_QCOW2);
	struct err e = { 0 };
	kit_run("echo mine >%s", k.path);
	EQ(create(&k, (struct block_create_params){ .cluster_bytes = 0 }, &e), -EEXIST);
	struct block_create_params p = { .may_replace = true, .preallocation = BLOCK_PREALLOCATE_FULL,
		                         .progress = { .step = stop_at_once } };
	EQ(create(&k, p, &e), -ECANCELED);
	kit_run("test \"$(cat %s)\" = mine", k.path);
	EQ(n_files(), 1);
	p.progress.step = NULL;
	EQ(create(&k, p, &e), 0);
	EQ(n_files(), 1);
	kit_folder_done();
}

/* The step of that number, from 0, stops. */
static bool stop_at(void *context, uint64_t n_done, uint64_t n)
{
	unsigned *left = context;
	(void)n_done, (void)n;
	return (*left)-- > 0;
}

TEST(work_can_be_stopped_everywhere)
{
	static const struct {
		struct block_create_params p;
		unsigned n_steps;
	} cases[] = {
		{ { .type = BLOCK_TYPE_RAW }, 1 }, /* behind the last fsync() */
		{ { .type = BLOCK_TYPE_QCOW2 }, 2 }, /* a refcount block */
		/* DISK_BYTES are 22565 clusters in tables of 64; those and the tables are counted in blocks of 256; fsync(). */
		{ { .cluster_bytes = 512, .preallocation = BLOCK_PREALLOCATE_METADATA }, 353 + 90 + 1 },
		{ { .type = BLOCK_TYPE_VHD }, 1 },
		{ { .type = BLOCK_TYPE_VHDX }, 1 },
		/* Three extents, and fsync(). */
		{ { .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_TWO_GB_SPARSE, .n_bytes = 5ull << 30 }, 3 },
		{ { .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_TWO_GB_FLAT, .n_bytes = 5ull << 30 }, 4 },
	};
	kit_folder_new(0);
	struct kit k = kit_at("disk", BLOCK_TYPE_RAW);
	for (size_t n = 0; n < ARRAY_LEN(cases); n++) {
		struct block_create_params p = cases[n].p;
		unsigned left = cases[n].n_steps - 1;
		struct err e = { 0 };
		p.progress = (struct block_progress){ .step = stop_at, .context = &left };
		EQ(create(&k, p, &e), -ECANCELED);
		STR_HAS(e.text, "is not made: the work was stopped");
		EQ(n_files(), 0);
	}
	/* Refused before the first. */
	unsigned left = 0;
	struct err e = { 0 };
	EQ(create(&k, (struct block_create_params){ .n_bytes = 1ull << 57, .cluster_bytes = 2u << 20,
		.preallocation = BLOCK_PREALLOCATE_METADATA, .progress = { .step = stop_at, .context = &left } }, &e), -EFBIG);
	EQ(n_files(), 0);
	kit_folder_done();
}

static bool somebody_makes(void *context, uint64_t n_done, uint64_t n)
{
	const struct kit *k = context;
	(void)n_done, (void)n;
	if (access(k->path, F_OK) < 0)
		kit_run("echo theirs >%s", k->path);
	return true;
}

TEST(what_nobody_locked_is_not_replaced)
{
	kit_folder_new(0);
	struct kit k = kit_at("disk", BLOCK_TYPE_RAW);
	struct err e = { 0 };
	struct block_create_params p = { .type = BLOCK_TYPE_RAW, .may_replace = true, .preallocation = BLOCK_PREALLOCATE_FULL,
		                         .progress = { .step = somebody_makes, .context = &k } };
	EQ(create(&k, p, &e), -EEXIST);
	STR_HAS(e.text, "exists already");
	kit_run("test \"$(cat %s)\" = theirs", k.path);
	EQ(n_files(), 1);
	unlink(k.path);

	EQ(symlink("nowhere", k.path), 0);
	EQ(create(&k, (struct block_create_params){ .type = BLOCK_TYPE_RAW, .may_replace = true }, &e), -ENOENT);
	STR_HAS(e.text, "a link that leads nowhere");
	EQ(n_files(), 1);
	kit_folder_done();
}

/* Another disk takes the name of the one that is locked. */
static bool somebody_renames(void *context, uint64_t n_done, uint64_t n)
{
	const struct kit *k = context;
	(void)n_done, (void)n;
	kit_run("test -e %s/theirs || { echo theirs >%s/theirs; cp %s/theirs %s/new; mv %s/new %s; }", kit_folder, kit_folder,
	        kit_folder, kit_folder, kit_folder, k->path);
	return true;
}

static bool somebody_removes(void *context, uint64_t n_done, uint64_t n)
{
	const struct kit *k = context;
	(void)n_done, (void)n;
	(void)unlink(k->path);
	return true;
}

TEST(what_took_the_place_of_the_one_to_be_replaced_is_not_replaced)
{
	bool (*const steps[])(void *, uint64_t, uint64_t) = { somebody_renames, somebody_removes };
	for (size_t n = 0; n < ARRAY_LEN(steps); n++) {
		struct err e = { 0 };
		kit_folder_new(0);
		struct kit k = kit_at("disk", BLOCK_TYPE_RAW);
		kit_run("echo mine >%s", k.path);
		EQ(create(&k, (struct block_create_params){ .type = BLOCK_TYPE_RAW, .may_replace = true,
			.progress = { .step = steps[n], .context = &k } }, &e), -EBUSY);
		STR_HAS(e.text, "somebody has put something else there");
		if (n == 0)
			kit_run("test \"$(cat %s)\" = theirs", k.path);
		EQ(n_files(), n ? 0 : 2);
		kit_folder_done();
	}
}

static unsigned mode_of(const char *name)
{
	struct stat st;
	char path[160];
	(void)snprintf(path, sizeof path, "%s/%s", kit_folder, name);
	EQ(stat(path, &st), 0);
	return st.st_mode & 07777u;
}

TEST(new_images_have_the_mode_that_the_user_gives_to_new_files)
{
	static const mode_t masks[] = { 0, 022, 027, 077 };
	mode_t before = umask(0);
	kit_folder_new(0);
	struct kit k = kit_at("disk", BLOCK_TYPE_VMDK);
	struct block_create_params p = { .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_MONOLITHIC_FLAT };
	for (size_t n = 0; n < ARRAY_LEN(masks); n++) {
		(void)umask(masks[n]);
		EQ(create(&k, p, NULL), 0);
		EQ(mode_of("disk"), 0666 & ~masks[n]);
		EQ(mode_of("disk-flat"), 0666 & ~masks[n]);
		kit_run("rm %s*", k.path);
	}
	/* What is replaced was for some people only. */
	(void)umask(022);
	p = (struct block_create_params){ .type = BLOCK_TYPE_RAW, .may_replace = true };
	EQ(create(&k, p, NULL), 0);
	EQ(chmod(k.path, 0640), 0);
	EQ(create(&k, p, NULL), 0);
	EQ(mode_of("disk"), 0640);
	(void)umask(before);
	kit_folder_done();
}

/* In place of the C library's: some calls are interrupted, as by a signal. */
static unsigned n_interrupted;

int fallocate(int fd, int mode, off_t offset, off_t n_bytes)
{
	if (n_interrupted) {
		n_interrupted--;
		errno = EINTR;
		return -1;
	}
	return (int)syscall(SYS_fallocate, fd, mode, offset, n_bytes);
}

TEST(what_a_signal_interrupts_is_reserved_all_the_same)
{
	struct stat st;
	kit_folder_new(0);
	struct kit k = kit_at("disk", BLOCK_TYPE_RAW);
	n_interrupted = 3;
	EQ(create(&k, (struct block_create_params){ .type = BLOCK_TYPE_RAW, .preallocation = BLOCK_PREALLOCATE_FALLOC }, NULL), 0);
	EQ(n_interrupted, 0);
	EQ(stat(k.path, &st), 0);
	OK((uint64_t)st.st_blocks * 512 >= DISK_BYTES);
	kit_folder_done();
}

/* Syncing folders fails, or files; but io_uring does not ask here. */
static bool is_folder_bad, is_file_bad;

int fsync(int fd)
{
	struct stat st;
	if (is_folder_bad && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	if (is_file_bad) {
		errno = EIO;
		return -1;
	}
	return (int)syscall(SYS_fdatasync, fd);
}

TEST(a_name_that_is_not_durable_is_told)
{
	kit_folder_new(0);
	struct kit k = kit_at("disk", BLOCK_TYPE_RAW);
	struct err e = { 0 };
	is_folder_bad = true;
	EQ(create(&k, (struct block_create_params){ .type = BLOCK_TYPE_RAW }, &e), -EIO);
	is_folder_bad = false;
	STR_HAS(e.text, "its name cannot be made durable");
	EQ(n_files(), 1);
	EQ(create(&k, (struct block_create_params){ .type = BLOCK_TYPE_RAW, .may_replace = true }, &e), 0);
	kit_folder_done();
}

TEST(a_change_that_is_not_durable_is_told_when_the_image_is_closed)
{
	static const enum block_type types[] = { BLOCK_TYPE_RAW, BLOCK_TYPE_QCOW2 };
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(types); n++) {
		struct kit base = kit_at("base", types[n]), k = kit_at("disk", BLOCK_TYPE_QCOW2);
		struct block_progress none = { .step = NULL };
		struct err e = { 0 };
		EQ(create(&base, (struct block_create_params){ .type = types[n], .may_replace = true }, &e), 0);
		struct block_params p = kit_params(&base);
		struct block_image *i;
		for (unsigned bad = 0; bad < 2; bad++) { /* raw: resizing syncs nothing; qcow2: the rest is in the counts */
			EQ(block_open(&p, &i, &e), 0);
			EQ(block_resize(i, DISK_BYTES + 512 * (bad + 1), &e), 0);
			is_file_bad = bad;
			EQ(block_close_durably(i, &e), bad ? -EIO : 0);
			is_file_bad = false;
			if (bad)
				STR_HAS(e.text, "cannot make all that was written to");
		}
		EQ(create(&k, (struct block_create_params){ .may_replace = true, .backing_name = "base",
			.backing_format = n ? "qcow2" : "raw" }, &e), 0);
		uint8_t bytes[512] = "something";
		kit_open(&k);
		EQ(kit_do(&k, BLOCK_WRITE, 0, bytes, sizeof bytes), 0);
		kit_close(&k);
		p = kit_params(&k);
		EQ(block_commit(&p, &none, &e), 0);
		is_file_bad = true;
		EQ(block_commit(&p, &none, &e), -EIO);
		is_file_bad = false;
		STR_HAS(e.text, "durable");
	}
	EQ(block_close_durably(NULL, NULL), 0);
	kit_folder_done();
}

/* --- copies and commits --- */

/* Random work on a disk that is then read alike from its copies, and from what it was based on. */
TEST(a_copy_holds_what_the_disk_holds)
{
	static const struct block_create_params targets[] = {
		{ .type = BLOCK_TYPE_RAW }, { .cluster_bytes = 512 }, { .has_extended_l2 = true },
		{ .is_compressed = true, .cluster_bytes = 4096 }, { .is_compressed = true, .is_zstd = true },
		{ .type = BLOCK_TYPE_VHD }, { .type = BLOCK_TYPE_VHD, .subformat = BLOCK_SUBFORMAT_FIXED },
		{ .type = BLOCK_TYPE_VHDX }, { .type = BLOCK_TYPE_VHDX, .subformat = BLOCK_SUBFORMAT_FIXED },
		{ .type = BLOCK_TYPE_VMDK }, { .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_MONOLITHIC_FLAT },
		{ .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_TWO_GB_SPARSE },
		{ .type = BLOCK_TYPE_VMDK, .subformat = BLOCK_SUBFORMAT_TWO_GB_FLAT },
	};
	kit_need_qemu();
	kit_folder_new(0);
	struct kit base = kit_at("base", BLOCK_TYPE_QCOW2), k = kit_at("disk", BLOCK_TYPE_QCOW2);
	struct kit_model m;
	struct err e = { 0 };
	kit_model_new(&m, 0, DISK_BYTES);
	EQ(create(&base, (struct block_create_params){ .n_bytes = 5u << 20 }, &e), 0);
	EQ(create(&k, (struct block_create_params){ .backing_name = "base", .backing_format = "qcow2", .has_extended_l2 = true },
	          &e), 0);
	kit_open(&k);
	kit_work(&k, &m, 360);
	for (size_t n = 0; n < ARRAY_LEN(targets); n++) {
		struct kit copy = kit_at("copy", targets[n].type ? targets[n].type : BLOCK_TYPE_QCOW2);
		struct block_create_params p = targets[n];
		p.path = copy.path;
		p.type = copy.type;
		if (block_convert(k.image, &p, &e) < 0)
			test_fail(__FILE__, __LINE__, "%s", e.text);
		kit_open(&copy);
		kit_compare(&copy, &m);
		kit_close(&copy);
		qemu_check(&copy);
		kit_qemu_compare(&copy, qemu_name(copy.type), &m, DISK_BYTES);
		kit_run("rm %s*", copy.path);
	}
	kit_close(&k);

	struct block_params p = kit_params(&k);
	struct block_progress stop = { .step = stop_at_once }, none = { .step = NULL };
	EQ(block_commit(&p, &stop, &e), -ECANCELED);
	if (block_commit(&p, &none, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	kit_run("qemu-img check -f qcow2 %s", base.path);
	kit_open(&base);
	kit_compare(&base, &m);
	kit_close(&base);
	kit_open(&k);
	kit_compare(&k, &m);
	kit_close(&k);
	free(m.bytes);
	kit_folder_done();
}

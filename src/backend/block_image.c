// SPDX-License-Identifier: Apache-2.0
/* Opening an image: what it is, who else has it, how large it is, what its host can do.
 *
 * A format that is named is never second-guessed. Without a name the first bytes decide, once: a raw image so found
 * refuses a first sector that would make it another format the next time (block_raw.c), so that a guest cannot write
 * itself a header that names the host's files. What an image is based on is opened only where the configuration allows
 * it, always read only, as the format that the image says: the bytes of a backing file may once have been a guest's. */
#include "backend/block_impl.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SECTOR_BYTES 512u
/* A file's blocks as a guest is told of them: larger ones (network file systems say 1 MiB) are no alignment. */
#define MAX_FILE_BLOCK_BYTES 4096u
#define PROBE_BYTES 4096u

/* --- limits --- */

static bool is_block_size(uint64_t n)
{
	return is_power_of_two(n) && n >= SECTOR_BYTES && n <= (1u << 20);
}

/* A number in a file of sysfs, for the device or for the disk of which it is a part. */
static uint64_t queue_limit(dev_t device, const char *name, uint64_t otherwise)
{
	const char *const ways[] = { "queue", "../queue" };
	for (size_t k = 0; k < ARRAY_LEN(ways); k++) {
		char path[96], text[32];
		(void)snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s/%s", major(device), minor(device), ways[k],
		               name);
		fd_scoped fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
		if (n > 0) {
			text[n] = 0;
			return strtoull(text, NULL, 10);
		}
	}
	return otherwise;
}

static void device_limits(struct block_image *i, const struct block_params *p, const struct stat *st)
{
	struct block_limits *l = &i->limits;
	int logical = 0;
	unsigned physical = 0, optimal = 0;

	if (ioctl(i->file->fd, BLKSSZGET, &logical) < 0 || logical < 0 || !is_block_size((uint64_t)logical))
		logical = SECTOR_BYTES;
	if (ioctl(i->file->fd, BLKPBSZGET, &physical) < 0 || !is_block_size(physical) || physical < (unsigned)logical)
		physical = (unsigned)logical;
	if (ioctl(i->file->fd, BLKIOOPT, &optimal) < 0)
		optimal = 0;

	l->logical_block_bytes = (uint32_t)logical;
	l->physical_block_bytes = physical;
	l->optimal_io_bytes = optimal;
	if (p->has_discard && !p->is_readonly) {
		uint64_t granularity = queue_limit(st->st_rdev, "discard_granularity", l->logical_block_bytes);
		l->can_discard = queue_limit(st->st_rdev, "discard_max_bytes", 1) > 0;
		l->discard_granularity_bytes = l->logical_block_bytes;
		if (is_power_of_two(granularity) && granularity > l->logical_block_bytes && granularity <= (1u << 30))
			l->discard_granularity_bytes = (uint32_t)granularity;
	}
}

static void file_limits(struct block_image *i, const struct block_params *p, const struct stat *st)
{
	struct block_limits *l = &i->limits;
	uint32_t block = (uint32_t)min_u64((uint64_t)st->st_blksize, MAX_FILE_BLOCK_BYTES);
	if (!is_block_size(block))
		block = SECTOR_BYTES;

	l->logical_block_bytes = SECTOR_BYTES;
	l->physical_block_bytes = block;
	if (!p->has_discard || p->is_readonly)
		return;
	/* Behind the end there is nothing to lose. */
	off_t end = (off_t)align_up(l->n_bytes, MAX_FILE_BLOCK_BYTES);
	bool can_punch = fallocate(i->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, MAX_FILE_BLOCK_BYTES) == 0 ||
	                 errno == EFBIG || errno == EINTR;
	i->file->has_no_punch = !can_punch;
	l->can_discard = can_punch;
	l->discard_granularity_bytes = block;
}

static int find_limits(struct block_image *i, const struct block_params *p, struct err *e)
{
	struct block_limits *l = &i->limits;
	const struct block_file *f = i->file;
	struct stat st;

	if (fstat(f->fd, &st) < 0)
		return err_set_errno(e, errno, "cannot examine '%s'", p->path);
	l->n_bytes = f->n_bytes;
	if (f->is_device)
		device_limits(i, p, &st);
	else
		file_limits(i, p, &st);
	l->is_readonly = p->is_readonly;
	l->can_write_zeroes = !p->is_readonly;
	return 0;
}

/* The format has had its say about direct I/O. The guest is told of what that wants, and may still ask for single
 * sectors. */
static void heed_direct(struct block_image *i)
{
	struct block_limits *l = &i->limits;
	if (i->file->is_direct && l->logical_block_bytes < i->file->offset_align)
		l->logical_block_bytes = i->file->offset_align;
	if (l->physical_block_bytes < l->logical_block_bytes)
		l->physical_block_bytes = l->logical_block_bytes;
}

/* The same about the size. */
static void round_size(struct block_image *i, const struct block_params *p)
{
	struct block_limits *l = &i->limits;
	if (i->depth) {
		/* Not a disk, but what one is based on: behind its end are zeroes. */
		i->n_disk_bytes = l->n_bytes = align_up(l->n_bytes, SECTOR_BYTES);
		return;
	}
	uint64_t n_left_out = l->n_bytes % l->logical_block_bytes;
	if (n_left_out)
		log_warn(&i->log, "the size of '%s' is no multiple of %u: its last %llu bytes are left out", p->path,
		         l->logical_block_bytes, (unsigned long long)n_left_out);
	l->n_bytes -= n_left_out;
	if (l->n_bytes == 0)
		log_warn(&i->log, "'%s' is empty", p->path);
	i->n_disk_bytes = l->n_bytes;
}

/* --- formats --- */

static uint32_t be32(const uint8_t *b)
{
	return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

enum block_type block_probe(const uint8_t *start, size_t n_bytes)
{
	assert(n_bytes >= SECTOR_BYTES);
	/* A version that we do not know is none of raw's bytes either. */
	if (memcmp(start, "QFI\xfb", 4) == 0 && be32(start + 4) >= 2)
		return BLOCK_TYPE_QCOW2;
	if (memcmp(start, "vhdxfile", 8) == 0)
		return BLOCK_TYPE_VHDX;
	if (memcmp(start, "conectix", 8) == 0)
		return BLOCK_TYPE_VHD;
	if (memcmp(start, "KDMV", 4) == 0 || memcmp(start, "COWD", 4) == 0 ||
	    memcmp(start, "# Disk DescriptorFile", 21) == 0)
		return BLOCK_TYPE_VMDK;
	return BLOCK_TYPE_RAW;
}

const struct block_format *block_format_of(enum block_type type)
{
	switch (type) {
	case BLOCK_TYPE_RAW:
		return &block_raw_format;
	case BLOCK_TYPE_QCOW2:
		return &block_qcow2_format;
	case BLOCK_TYPE_VHD:
		return &block_vhd_format;
	case BLOCK_TYPE_VHDX:
		return &block_vhdx_format;
	case BLOCK_TYPE_VMDK:
		return &block_vmdk_format;
	case BLOCK_TYPE_AUTO:
		break;
	}
	return NULL;
}

static const char *type_name(enum block_type type)
{
	static const char *const names[] = { "auto", "raw", "qcow2", "VHD", "VHDX", "VMDK" };
	return (unsigned)type < ARRAY_LEN(names) ? names[type] : "unknown";
}

/* Before the file is locked and its alignment known: by a descriptor of its own, which reads and goes. */
int block_probe_path(const char *path, enum block_type *ret_type, struct err *e)
{
	uint8_t start[PROBE_BYTES] = { 0 };
	struct stat st;
	fd_scoped fd = block_open_path(path, O_RDONLY, &st, e);
	if (fd < 0)
		return fd;
	ssize_t n = pread(fd, start, sizeof start, 0);
	if (n < 0)
		return err_set_errno(e, errno, "cannot read '%s'", path);
	*ret_type = block_probe(start, sizeof start);
	return 0;
}

/* --- open and close --- */

static int open_image(struct block_image *i, const struct block_params *p, struct err *e)
{
	struct block_file_params fp = {
		.path = p->path, .is_readonly = p->is_readonly, .is_direct = p->is_direct,
		.needs_buffered = i->format->needs_buffered || i->depth,
	};
	int rc = block_add_file(i, &fp, &i->file, e);
	if (rc >= 0)
		rc = find_limits(i, p, e);
	if (rc >= 0 && i->format->open)
		rc = i->format->open(i, p, e);
	if (rc < 0)
		return rc;
	heed_direct(i);
	round_size(i, p);
	if (p->is_readonly)
		return 0;

	void *zeroes = mmap(NULL, BLOCK_ZEROES_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (zeroes == MAP_FAILED)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	i->zeroes = zeroes;
	return 0;
}

static struct block_image *new_image(const struct block_params *p, const struct block_format *f, struct err *e)
{
	struct block_image *i = calloc(1, sizeof *i);
	if (!i) {
		(void)err_set(e, ENOMEM, "no memory for '%s'", p->path);
		return NULL;
	}
	i->format = f;
	i->top = i;
	i->has_no_io_uring = p->has_no_io_uring;
	i->has_no_lock = p->has_no_lock && p->is_readonly;
	i->has_no_sync = p->sync == BLOCK_SYNC_NONE;
	i->log = p->log ? *p->log : (struct log){ .sink = NULL, .object = "disk" };
	(void)pthread_mutex_init(&i->lock, NULL);
	return i;
}

int block_open_format(const struct block_params *p, const struct block_format *f, struct block_image **ret_i,
                      struct err *e)
{
	struct block_image *i = new_image(p, f, e);
	if (!i)
		return -ENOMEM;
	i->was_probed = f == &block_raw_format && p->image_type == BLOCK_TYPE_AUTO;
	int rc = open_image(i, p, e);
	if (rc < 0) {
		block_close(i);
		return rc;
	}
	*ret_i = i;
	return 0;
}

int block_open(const struct block_params *p, struct block_image **ret_i, struct err *e)
{
	enum block_type type = p->image_type;
	if (type == BLOCK_TYPE_AUTO) {
		int rc = block_probe_path(p->path, &type, e);
		if (rc < 0)
			return rc;
	}
	const struct block_format *f = block_format_of(type);
	if (!f)
		return err_set(e, ENOTSUP, "cannot open '%s': not supported yet: %s images", p->path, type_name(type));
	return block_open_format(p, f, ret_i, e);
}

static bool is_in_chain(const struct block_image *i, const struct block_file *f, struct stat *st)
{
	struct stat other;
	for (unsigned k = 0; k < i->top->n_files; k++) {
		const struct block_file *o = i->top->files[k];
		if (o != f && o->fd >= 0 && fstat(o->fd, &other) == 0 && other.st_dev == st->st_dev &&
		    other.st_ino == st->st_ino)
			return true;
	}
	return false;
}

int block_charge(struct block_image *i, uint64_t n_bytes, struct err *e)
{
	_Atomic uint64_t *charged = &i->top->n_charged_bytes;
	uint64_t now = atomic_load(charged);
	do {
		if (n_bytes > BLOCK_MAX_TREE_BYTES - now)
			return err_set(e, EFBIG, "its tables, with those of the images that belong to it, need more than "
			               "%llu MiB of memory", BLOCK_MAX_TREE_BYTES >> 20);
	} while (!atomic_compare_exchange_weak(charged, &now, now + n_bytes));
	return 0;
}

int block_open_backing(struct block_image *i, const struct block_params *p, const char *named, enum block_type type,
                       struct err *e)
{
	const struct block_format *f = block_format_of(type);
	if (!p->may_use_backing_files)
		return err_set(e, BLOCK_NEEDS_OTHERS, "cannot open '%s': it is based on '%.80s', and backing_files is off", p->path,
		               named);
	if (!f)
		return err_set(e, ENOTSUP, "cannot open '%s': not supported yet: a backing file of format %s", p->path,
		               type_name(type));
	if (i->depth + 1 >= BLOCK_MAX_CHAIN)
		return err_set(e, ELOOP, "cannot open '%s': its chain of backing files is longer than %d", p->path,
		               BLOCK_MAX_CHAIN);
	free_scoped char *path = block_resolve_path(i->file, named);
	struct block_params bp = *p;
	bp.path = path;
	bp.is_readonly = true;
	bp.image_type = type;
	struct block_image *b = path ? new_image(&bp, f, e) : NULL;
	if (!b)
		return err_set(e, ENOMEM, "no memory for the backing file of '%s'", p->path);
	b->log = i->log;
	b->top = i->top;
	b->depth = i->depth + 1;
	i->backing = b; /* ended by block_close(i) */

	/* By the file, not by its name: links and relative paths make one file many names. Its inode is compared once it is
	 * open and before it is read, and a loop must come to one that is open already. */
	struct stat st;
	if (stat(path, &st) == 0 && is_in_chain(i, NULL, &st))
		return err_set(e, ELOOP, "cannot open '%s': its chain of backing files leads back to '%.80s'", p->path, path);
	return open_image(b, &bp, e);
}

static void close_file(struct block_file *f)
{
	if (f->fd >= 0) {
		/* A ring that is being taken down holds the open file, and so its lock, longer than its lane lives. */
		struct flock l = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
		(void)fcntl(f->fd, F_OFD_SETLK, &l);
	}
	fd_close(&f->buffered_fd);
	fd_close(&f->fd);
	(void)pthread_cond_destroy(&f->sync_is_over);
	(void)pthread_mutex_destroy(&f->sync_lock);
	free(f->path);
	free(f);
}

/* A VM that ends in order leaves nothing to a power cut: what its guest was told is written is durable. */
static void sync_at_end(struct block_image *i)
{
	int rc = i->was_changed && i->file && i->file->fd >= 0 ? block_file_sync(i, i->file) : 0;
	if (rc >= 0)
		return;
	log_error(&i->log, "the last flush failed");
	if (!i->close_error)
		i->close_error = rc;
}

static int close_image(struct block_image *i)
{
	assert(!i->parked && !i->is_turn_taken);
	if (i->file && i->format->close)
		i->format->close(i);
	block_close(i->backing);
	sync_at_end(i);
	int rc = i->close_error;
	for (unsigned k = 0; i->top == i && k < i->n_files; k++)
		close_file(i->files[k]);
	free(i->files);
	free(i->backing_name);
	free(i->backing_format);
	if (i->zeroes)
		(void)munmap(i->zeroes, BLOCK_ZEROES_BYTES);
	(void)pthread_mutex_destroy(&i->lock);
	free(i);
	return rc;
}

void block_close(struct block_image *i)
{
	if (i)
		(void)close_image(i);
}

int block_close_durably(struct block_image *i, struct err *e)
{
	if (!i)
		return 0;
	free_scoped char *path = i->file ? strdup(i->file->path) : NULL;
	int rc = close_image(i);
	return rc < 0 ? err_set_errno(e, -rc, "cannot make all that was written to '%s' durable", path ? path : "?") : 0;
}

const char *block_image_format(const struct block_image *i)
{
	return i->format->name;
}

void block_image_limits(const struct block_image *i, struct block_limits *ret_l)
{
	*ret_l = i->limits;
	ret_l->n_bytes = i->n_disk_bytes;
}

int block_image_fd(const struct block_image *i)
{
	return i->format == &block_raw_format ? i->file->fd : -1;
}

int block_resize(struct block_image *i, uint64_t n_bytes, struct err *e)
{
	const char *path = i->file->path;
	if (i->limits.is_readonly)
		return err_set(e, EROFS, "cannot resize '%s': it is read only", path);
	if (n_bytes % SECTOR_BYTES || n_bytes % i->limits.logical_block_bytes)
		return err_set(e, EINVAL, "cannot resize '%s': %llu bytes are no multiple of %u", path,
		               (unsigned long long)n_bytes, i->limits.logical_block_bytes);
	if (n_bytes < i->n_disk_bytes)
		return err_set(e, EINVAL, "cannot resize '%s': it has %llu bytes, and disks can only grow", path,
		               (unsigned long long)i->n_disk_bytes);
	if (!i->format->resize)
		return err_set(e, ENOTSUP, "cannot resize '%s': not supported yet: %s images", path, i->format->name);
	int rc = i->format->resize(i, n_bytes, e);
	if (rc >= 0)
		i->n_disk_bytes = n_bytes;
	return rc;
}

int block_check(struct block_image *i, enum block_repair repair, struct block_check *ret_c, struct err *e)
{
	if (!i->format->check)
		return err_set(e, ENOTSUP, "'%s': %s images hold nothing to check", i->file->path, i->format->name);
	if (repair != BLOCK_REPAIR_NOTHING && i->limits.is_readonly)
		return err_set(e, EROFS, "cannot repair '%s': it is read only", i->file->path);
	return i->format->check(i, repair, ret_c, e);
}

/* --- the lock and parking --- */

void block_lock(struct block_image *i)
{
	(void)pthread_mutex_lock(&i->lock);
}

void block_unlock(struct block_image *i)
{
	(void)pthread_mutex_unlock(&i->lock);
}

void block_park(struct block_image *i, struct block_request *r)
{
	assert(i->format->can_park && !r->is_parked);
	r->is_parked = true;
	r->next = i->parked;
	i->parked = r;
}

struct block_request *block_unpark(struct block_image *i)
{
	struct block_request *list = i->parked;
	i->parked = NULL;
	return list;
}

/* --- holds --- */

void block_hold(struct block_image *i, struct block_hold *h)
{
	if (h->is_held)
		return;
	unsigned epoch = atomic_load(&i->epoch);
	for (;;) {
		(void)atomic_fetch_add(&i->n_held[epoch & 1], 1);
		/* Counted in an epoch that ended meanwhile, nobody might have seen it. */
		unsigned now = atomic_load(&i->epoch);
		if (now == epoch)
			break;
		(void)atomic_fetch_sub(&i->n_held[epoch & 1], 1);
		epoch = now;
	}
	h->epoch = epoch & 1;
	h->is_held = true;
}

void block_release(struct block_image *i, struct block_hold *h)
{
	if (!h->is_held)
		return;
	h->is_held = false;
	(void)atomic_fetch_sub(&i->n_held[h->epoch], 1);
}

bool block_epoch_is_over(struct block_image *i)
{
	return atomic_load(&i->n_held[(atomic_load(&i->epoch) + 1) & 1]) == 0;
}

bool block_epoch_turn(struct block_image *i)
{
	if (!block_epoch_is_over(i))
		return false;
	(void)atomic_fetch_add(&i->epoch, 1);
	return true;
}

void block_wake(struct block_request *list)
{
	/* The newest is first: turned around, so that the oldest gets on first. */
	struct block_request *in_order = NULL;
	while (list) {
		struct block_request *next = list->next;
		list->next = in_order;
		in_order = list;
		list = next;
	}
	while (in_order) {
		struct block_request *next = in_order->next;
		block_workers_finish(&in_order->lane->workers, in_order, 0);
		in_order = next;
	}
}

// SPDX-License-Identifier: Apache-2.0
/* Opening an image: what it is, who else has it, how large it is, what its host can do.
 *
 * The format is never guessed from the content: a guest that writes another format's header into a raw disk must not
 * decide how the disk is read the next time. A path may be under other users' hands, so everything is asked of the open
 * descriptor, and nothing but regular files and block devices is accepted. */
#include "backend/block_impl.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SECTOR_BYTES 512u
/* A file's blocks as a guest is told of them: larger ones (network file systems say 1 MiB) are no alignment. */
#define MAX_FILE_BLOCK_BYTES 4096u
#define MAX_DIRECT_ALIGN 4096u

static int open_file(const struct block_params *p, struct stat *ret_st, struct err *e)
{
	/* O_NONBLOCK: a FIFO must not hold us up before we can refuse it. */
	int flags = (p->is_readonly ? O_RDONLY : O_RDWR) | (p->is_direct ? O_DIRECT : 0);
	fd_scoped fd = open(p->path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 && errno == EINVAL && p->is_direct)
		return err_set(e, EINVAL, "cannot open '%s': its file system does not do direct I/O", p->path);
	if (fd < 0)
		return err_set_errno(e, errno, "cannot open '%s'", p->path);
	if (fstat(fd, ret_st) < 0)
		return err_set_errno(e, errno, "cannot examine '%s'", p->path);
	if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode))
		return err_set(e, EINVAL, "cannot use '%s': it is neither a regular file nor a block device",
		               p->path);
	/* With O_NONBLOCK left on, io_uring would give up where it ought to wait. */
	if (fcntl(fd, F_SETFL, p->is_direct ? O_DIRECT : 0) < 0)
		return err_set_errno(e, errno, "cannot set the mode of '%s'", p->path);
	return fd_take(&fd);
}

static int lock_file(const struct block_image *i, const struct block_params *p, struct err *e)
{
	struct flock l = { .l_type = p->is_readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	if (fcntl(i->fd, F_OFD_SETLK, &l) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(e, EBUSY,
		               "cannot open '%s': the image is in use by another process, or by another disk",
		               p->path);
	if (errno == ENOLCK || errno == EOPNOTSUPP || errno == EINVAL) {
		log_warn(&i->log, "'%s' cannot be locked: nothing keeps others from writing to it", p->path);
		return 0;
	}
	return err_set_errno(e, errno, "cannot lock '%s'", p->path);
}

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

static int device_limits(struct block_image *i, const struct block_params *p, const struct stat *st, struct err *e)
{
	struct block_limits *l = &i->limits;
	uint64_t n_bytes;
	int logical = 0;
	unsigned physical = 0, optimal = 0;

	if (ioctl(i->fd, BLKGETSIZE64, &n_bytes) < 0)
		return err_set_errno(e, errno, "cannot find the size of '%s'", p->path);
	if (ioctl(i->fd, BLKSSZGET, &logical) < 0 || logical < 0 || !is_block_size((uint64_t)logical))
		logical = SECTOR_BYTES;
	if (ioctl(i->fd, BLKPBSZGET, &physical) < 0 || !is_block_size(physical) || physical < (unsigned)logical)
		physical = (unsigned)logical;
	if (ioctl(i->fd, BLKIOOPT, &optimal) < 0)
		optimal = 0;

	l->n_bytes = n_bytes;
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
	return 0;
}

static void file_limits(struct block_image *i, const struct block_params *p, const struct stat *st)
{
	struct block_limits *l = &i->limits;
	uint32_t block = (uint32_t)min_u64((uint64_t)st->st_blksize, MAX_FILE_BLOCK_BYTES);
	if (!is_block_size(block))
		block = SECTOR_BYTES;

	l->n_bytes = (uint64_t)st->st_size;
	l->logical_block_bytes = SECTOR_BYTES;
	l->physical_block_bytes = block;
	if (!p->has_discard || p->is_readonly)
		return;
	/* Behind the end there is nothing to lose. */
	off_t end = (off_t)align_up(l->n_bytes, MAX_FILE_BLOCK_BYTES);
	bool can_punch = fallocate(i->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, MAX_FILE_BLOCK_BYTES) == 0 ||
	                 errno == EFBIG || errno == EINTR;
	i->has_no_punch = !can_punch;
	l->can_discard = can_punch;
	l->discard_granularity_bytes = block;
}

/* --- direct I/O --- */

static bool ask_direct_align(int fd, uint32_t *ret_memory, uint32_t *ret_offset)
{
	/* The kernel's own struct: the C library of Debian 12 does not know the fields. */
	struct statx x;
	memset(&x, 0, sizeof x);
	if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) < 0 || !(x.stx_mask & STATX_DIOALIGN))
		return false;
	*ret_memory = x.stx_dio_mem_align;
	*ret_offset = x.stx_dio_offset_align;
	return true;
}

/* The smallest unit that a read accepts, with memory aligned to it and no better. 0: none. */
static uint32_t probe_direct_align(int fd)
{
	void *area;
	if (posix_memalign(&area, 2 * MAX_DIRECT_ALIGN, 4 * MAX_DIRECT_ALIGN) != 0)
		return 0;
	uint32_t found = 0;
	for (uint32_t align = SECTOR_BYTES; align <= MAX_DIRECT_ALIGN && !found; align *= 2) {
		ssize_t n = pread(fd, (uint8_t *)area + align, align, 0);
		if (n >= 0)
			found = align;
		else if (errno != EINVAL)
			break;
	}
	free(area);
	return found;
}

static int open_direct(struct block_image *i, const struct block_params *p, struct err *e)
{
	if (!ask_direct_align(i->fd, &i->memory_align, &i->offset_align))
		i->memory_align = i->offset_align = probe_direct_align(i->fd);
	if (!is_power_of_two(i->memory_align) || i->memory_align > MAX_DIRECT_ALIGN ||
	    !is_power_of_two(i->offset_align) || i->offset_align > MAX_DIRECT_ALIGN)
		return err_set(e, EINVAL, "cannot open '%s': its file system does not do direct I/O", p->path);
	i->is_direct = true;
	if (i->offset_align <= SECTOR_BYTES) {
		i->offset_align = SECTOR_BYTES;
		return 0;
	}

	/* The guest is told, and may still ask for single sectors. The same file for certain: not by its path. */
	char path[40];
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", i->fd);
	i->buffered_fd = open(path, (p->is_readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY);
	if (i->buffered_fd < 0)
		return err_set_errno(e, errno, "cannot open '%s' a second time, without direct I/O", p->path);
	if (i->limits.logical_block_bytes < i->offset_align)
		i->limits.logical_block_bytes = i->offset_align;
	if (i->limits.physical_block_bytes < i->limits.logical_block_bytes)
		i->limits.physical_block_bytes = i->limits.logical_block_bytes;
	return 0;
}

/* --- open and close --- */

static int find_limits(struct block_image *i, const struct block_params *p, const struct stat *st, struct err *e)
{
	struct block_limits *l = &i->limits;
	int rc = 0;

	i->is_device = S_ISBLK(st->st_mode);
	if (i->is_device)
		rc = device_limits(i, p, st, e);
	else
		file_limits(i, p, st);
	if (rc >= 0 && p->is_direct)
		rc = open_direct(i, p, e);
	if (rc < 0)
		return rc;

	uint64_t n_left_out = l->n_bytes % l->logical_block_bytes;
	if (n_left_out)
		log_warn(&i->log, "the size of '%s' is no multiple of %u: its last %llu bytes are left out", p->path,
		         l->logical_block_bytes, (unsigned long long)n_left_out);
	l->n_bytes -= n_left_out;
	if (l->n_bytes == 0)
		log_warn(&i->log, "'%s' is empty", p->path);
	l->is_readonly = p->is_readonly;
	l->can_write_zeroes = !p->is_readonly;
	return 0;
}

static int open_image(struct block_image *i, const struct block_params *p, struct err *e)
{
	struct stat st;
	int rc = open_file(p, &st, e);
	if (rc < 0)
		return rc;
	i->fd = rc;
	rc = lock_file(i, p, e);
	if (rc >= 0)
		rc = find_limits(i, p, &st, e);
	if (rc < 0 || p->is_readonly)
		return rc;

	void *zeroes = mmap(NULL, BLOCK_ZEROES_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (zeroes == MAP_FAILED)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	i->zeroes = zeroes;
	return 0;
}

int block_open_format(const struct block_params *p, const struct block_format *f, struct block_image **ret_i,
                      struct err *e)
{
	struct block_image *i = calloc(1, sizeof *i);
	if (!i)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	i->format = f;
	i->fd = i->buffered_fd = -1;
	i->has_no_io_uring = p->has_no_io_uring;
	i->log = p->log ? *p->log : (struct log){ .sink = NULL, .object = "disk" };

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
	return block_open_format(p, &block_raw_format, ret_i, e);
}

void block_close(struct block_image *i)
{
	if (!i)
		return;
	if (i->fd >= 0) {
		/* A VM that ends in order leaves nothing to a power cut: what its guest was told is written is durable. */
		if (i->was_changed && fdatasync(i->fd) < 0)
			log_error(&i->log, "the last flush failed: %s", strerrordesc_np(errno));
		/* A ring that is being taken down holds the open file, and so its lock, longer than its lane lives. */
		struct flock l = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
		(void)fcntl(i->fd, F_OFD_SETLK, &l);
	}
	if (i->zeroes)
		(void)munmap(i->zeroes, BLOCK_ZEROES_BYTES);
	fd_close(&i->buffered_fd);
	fd_close(&i->fd);
	free(i);
}

void block_image_limits(const struct block_image *i, struct block_limits *ret_l)
{
	*ret_l = i->limits;
}

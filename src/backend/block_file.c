// SPDX-License-Identifier: Apache-2.0
/* Host files: opening and locking them, what direct I/O on them wants, and whole reads and writes that may block.
 *
 * A path may be under other users' hands, so everything is asked of the open descriptor, and nothing but regular files
 * and block devices is accepted. Tables of formats go through the page cache even where the guest's data do not: the
 * kernel keeps both coherent, and tables have no alignment that direct I/O would like. */
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SECTOR_BYTES 512u
#define MAX_DIRECT_ALIGN 4096u
#define MAX_RETRIES 1000

/* --- opening --- */

/* To open is to act: it arms a watchdog, rewinds a tape, and wakes who waits at the other end of a pipe. An image may name
 * any of them. So what the name means is found out first, and that very file is opened then. */
int block_open_path(const char *path, int flags, struct stat *ret_st, struct err *e)
{
	char again[40];
	fd_scoped place = open(path, O_PATH | O_CLOEXEC);
	if (place < 0)
		return err_set_errno(e, errno, "cannot open '%s'", path);
	if (fstat(place, ret_st) < 0)
		return err_set_errno(e, errno, "cannot examine '%s'", path);
	if (!S_ISREG(ret_st->st_mode) && !S_ISBLK(ret_st->st_mode))
		return err_set(e, EINVAL, "cannot use '%s': it is neither a regular file nor a block device", path);
	(void)snprintf(again, sizeof again, "/proc/self/fd/%d", place);
	/* O_NONBLOCK: not to wait for somebody's lease. */
	int fd = open(again, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 && errno == EINVAL && (flags & O_DIRECT))
		return err_set(e, EINVAL, "cannot open '%s': its file system does not do direct I/O", path);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, ENOENT, "cannot open '%s': /proc/self/fd is needed for it, and is not there", path);
	return fd < 0 ? err_set_errno(e, errno, "cannot open '%s'", path) : fd;
}

static int open_path(const struct block_file_params *p, struct stat *ret_st, struct err *e)
{
	int flags = (p->is_readonly ? O_RDONLY : O_RDWR) | (p->is_direct ? O_DIRECT : 0);
	fd_scoped fd = block_open_path(p->path, flags, ret_st, e);
	if (fd < 0)
		return fd;
	/* With O_NONBLOCK left on, io_uring would give up where it ought to wait. */
	if (fcntl(fd, F_SETFL, p->is_direct ? O_DIRECT : 0) < 0)
		return err_set_errno(e, errno, "cannot set the mode of '%s'", p->path);
	return fd_take(&fd);
}

static int lock_file(const struct block_image *i, const struct block_file *f, struct err *e)
{
	struct flock l = { .l_type = f->is_readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	if (i->top->has_no_lock || fcntl(f->fd, F_OFD_SETLK, &l) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(e, EBUSY,
		               "cannot open '%s': the image is in use by another process, or by another disk",
		               f->path);
	if (errno == ENOLCK || errno == EOPNOTSUPP || errno == EINVAL) {
		log_warn(&i->log, "'%s' cannot be locked: nothing keeps others from writing to it", f->path);
		return 0;
	}
	return err_set_errno(e, errno, "cannot lock '%s'", f->path);
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

/* The same file for certain: not by its path. */
static int open_buffered(struct block_file *f, struct err *e)
{
	char path[40];
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", f->fd);
	f->buffered_fd = open(path, (f->is_readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY);
	if (f->buffered_fd < 0)
		return err_set_errno(e, errno, "cannot open '%s' a second time, without direct I/O", f->path);
	return 0;
}

static int set_up_direct(struct block_file *f, bool needs_buffered, struct err *e)
{
	if (!ask_direct_align(f->fd, &f->memory_align, &f->offset_align))
		f->memory_align = f->offset_align = probe_direct_align(f->fd);
	if (!is_power_of_two(f->memory_align) || f->memory_align > MAX_DIRECT_ALIGN ||
	    !is_power_of_two(f->offset_align) || f->offset_align > MAX_DIRECT_ALIGN)
		return err_set(e, EINVAL, "cannot open '%s': its file system does not do direct I/O", f->path);
	f->is_direct = true;
	if (f->offset_align < SECTOR_BYTES)
		f->offset_align = SECTOR_BYTES;
	return needs_buffered || f->offset_align > SECTOR_BYTES ? open_buffered(f, e) : 0;
}

int block_leave_direct(struct block_image *i, const struct block_file *f, const char *why, struct err *e)
{
	struct block_file *own = i->top->files[f->index];
	if (!f->is_direct)
		return 0;
	if (fcntl(f->fd, F_SETFL, 0) < 0)
		return err_set_errno(e, errno, "cannot set the mode of '%s'", f->path);
	own->is_direct = false;
	log_warn(&i->log, "direct I/O is not used for '%s': %s", f->path, why);
	return 0;
}

/* --- the tree's files --- */

static int open_file(struct block_image *i, struct block_file *f, const struct block_file_params *p, struct err *e)
{
	struct stat st;
	int rc = open_path(p, &st, e);
	if (rc < 0)
		return rc;
	f->fd = rc;
	f->is_readonly = p->is_readonly;
	f->is_device = S_ISBLK(st.st_mode);
	f->path = strdup(p->path);
	if (!f->path)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	rc = lock_file(i, f, e);
	if (rc >= 0 && block_file_size(f, &f->n_bytes) < 0)
		rc = err_set_errno(e, errno, "cannot find the size of '%s'", p->path);
	if (rc >= 0 && p->is_direct)
		rc = set_up_direct(f, p->needs_buffered, e);
	return rc;
}

int block_add_file(struct block_image *i, const struct block_file_params *p, struct block_file **ret_f, struct err *e)
{
	struct block_image *top = i->top;
	if (top->n_files == BLOCK_MAX_FILES)
		return err_set(e, EMFILE, "cannot open '%s': the image consists of more than %d files", p->path,
		               BLOCK_MAX_FILES);
	struct block_file **files = reallocarray(top->files, top->n_files + 1, sizeof(struct block_file *));
	struct block_file *f = calloc(1, sizeof *f);
	if (files)
		top->files = files;
	if (!files || !f) {
		free(f);
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	}
	f->fd = f->buffered_fd = -1;
	f->index = top->n_files;
	(void)pthread_mutex_init(&f->sync_lock, NULL);
	(void)pthread_cond_init(&f->sync_is_over, NULL);
	top->files[top->n_files++] = f; /* block_close() ends it, whatever comes */
	int rc = open_file(i, f, p, e);
	if (rc >= 0)
		*ret_f = f;
	return rc;
}

char *block_resolve_path(const struct block_file *f, const char *named)
{
	const char *slash = strrchr(f->path, '/');
	if (named[0] == '/' || !slash)
		return strdup(named);
	char *path;
	return asprintf(&path, "%.*s/%s", (int)(slash - f->path), f->path, named) < 0 ? NULL : path;
}

int block_file_size(const struct block_file *f, uint64_t *ret_n_bytes)
{
	struct stat st;
	if (f->is_device)
		return ioctl(f->fd, BLKGETSIZE64, ret_n_bytes) < 0 ? -errno : 0;
	if (fstat(f->fd, &st) < 0)
		return -errno;
	*ret_n_bytes = (uint64_t)st.st_size;
	return 0;
}

/* --- whole reads and writes --- */

long block_file_synced(const struct block_image *i, const struct block_file *f, long result)
{
	struct block_file *own = i->top->files[f->index];
	int none = 0;
	bool is_lost = result < 0 && result != -EINTR && result != -EAGAIN;
	if (is_lost && atomic_compare_exchange_strong(&own->sync_error, &none, (int)result))
		log_error(&i->log, "'%s' could not be made durable (%s): from now on every flush fails", f->path,
		          strerrordesc_np((int)-result));
	int error = atomic_load(&own->sync_error);
	return error ? error : result;
}

uint64_t block_sync_next(const struct block_image *i, const struct block_file *f)
{
	struct block_file *own = i->top->files[f->index];
	(void)pthread_mutex_lock(&own->sync_lock);
	uint64_t ticket = own->n_sync_begun + 1;
	(void)pthread_mutex_unlock(&own->sync_lock);
	return ticket;
}

bool block_sync_begin(const struct block_image *i, const struct block_file *f, uint64_t *ret_ticket)
{
	struct block_file *own = i->top->files[f->index];
	(void)pthread_mutex_lock(&own->sync_lock);
	bool is_free = !own->is_syncing;
	own->is_syncing |= is_free;
	*ret_ticket = own->n_sync_begun + 1;
	own->n_sync_begun += is_free;
	(void)pthread_mutex_unlock(&own->sync_lock);
	return is_free;
}

void block_sync_end(const struct block_image *i, const struct block_file *f, long result)
{
	struct block_file *own = i->top->files[f->index];
	(void)pthread_mutex_lock(&own->sync_lock);
	assert(own->is_syncing);
	if (result != -EINTR && result != -EAGAIN)
		own->n_sync_done = own->n_sync_begun;
	own->is_syncing = false;
	(void)pthread_cond_broadcast(&own->sync_is_over);
	(void)pthread_mutex_unlock(&own->sync_lock);
}

/* False: it was done meanwhile. For threads that may wait: one that carries out what others wait for must have nothing of its
 * own under way. */
static bool wait_to_sync(const struct block_image *i, const struct block_file *f, uint64_t ticket)
{
	struct block_file *own = i->top->files[f->index];
	(void)pthread_mutex_lock(&own->sync_lock);
	if (!ticket)
		ticket = own->n_sync_begun + 1;
	while (own->is_syncing && own->n_sync_done < ticket)
		(void)pthread_cond_wait(&own->sync_is_over, &own->sync_lock);
	bool is_mine = own->n_sync_done < ticket;
	own->is_syncing |= is_mine;
	own->n_sync_begun += is_mine;
	(void)pthread_mutex_unlock(&own->sync_lock);
	return is_mine;
}

static long run_step(const struct block_step *s)
{
	int fd = s->is_buffered ? s->file->buffered_fd : s->file->fd;
	uint64_t range[2] = { s->offset_bytes, s->n_bytes };
	ssize_t n = -1;

	switch (s->op) {
	case BLOCK_STEP_READ:
		n = preadv(fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
		break;
	case BLOCK_STEP_WRITE:
		n = pwritev(fd, s->iov, s->n_iov, (off_t)s->offset_bytes);
		break;
	case BLOCK_STEP_SYNC:
		n = fdatasync(fd);
		break;
	case BLOCK_STEP_FALLOCATE:
		n = fallocate(fd, s->mode, (off_t)s->offset_bytes, (off_t)s->n_bytes);
		break;
	case BLOCK_STEP_DISCARD_DEVICE:
		n = ioctl(fd, BLKDISCARD, range);
		break;
	case BLOCK_STEP_CALL:
		assert(false); /* not a file's */
		break;
	}
	return n < 0 ? -errno : (long)n;
}

long block_step_run(const struct block_image *i, const struct block_step *s)
{
	const struct block_seam *seam = i->top->seam;
	if (s->op == BLOCK_STEP_SYNC && i->top->has_no_sync)
		return 0;
	if (s->op != BLOCK_STEP_SYNC)
		return seam ? seam->execute(seam->context, s) : run_step(s);
	if (!wait_to_sync(i, s->file, s->sync_ticket))
		return block_file_synced(i, s->file, 0); /* an error that it met is every flush's */
	long n = block_file_synced(i, s->file, seam ? seam->execute(seam->context, s) : run_step(s));
	block_sync_end(i, s->file, n);
	return n;
}

long block_step_execute(struct block_request *r)
{
	if (r->step.op == BLOCK_STEP_CALL)
		return r->step.call(r);
	return block_step_run(r->lane->image, &r->step);
}

/* How many bytes were moved until the end of the file, or a negative errno. */
static int64_t move(const struct block_image *i, const struct block_file *f, enum block_step_op op, uint8_t *bytes,
                    size_t n_bytes, uint64_t offset_bytes, bool is_buffered)
{
	size_t n_done = 0;
	unsigned n_retries = 0;
	assert(!f->is_direct || !is_buffered || f->buffered_fd >= 0);
	while (n_done < n_bytes) {
		struct iovec iov = { .iov_base = bytes + n_done, .iov_len = n_bytes - n_done };
		struct block_step s = {
			.op = op, .iov = &iov, .n_iov = 1, .file = f, .is_buffered = is_buffered && f->buffered_fd >= 0,
			.offset_bytes = offset_bytes + n_done, .n_bytes = iov.iov_len,
		};
		long n = block_step_run(i, &s);
		if ((n == -EINTR || n == -EAGAIN) && n_retries++ < MAX_RETRIES)
			continue;
		if (n < 0)
			return n;
		if (n == 0)
			break;
		n_done += (size_t)n;
		n_retries = 0;
	}
	return (int64_t)n_done;
}

int block_file_read(const struct block_image *i, const struct block_file *f, void *ret_bytes, size_t n_bytes,
                    uint64_t offset_bytes)
{
	int64_t n = move(i, f, BLOCK_STEP_READ, ret_bytes, n_bytes, offset_bytes, true);
	if (n < 0)
		return (int)n;
	return (uint64_t)n == n_bytes ? 0 : -EIO;
}

int block_file_read_padded(const struct block_image *i, const struct block_file *f, void *ret_bytes, size_t n_bytes,
                           uint64_t offset_bytes)
{
	int64_t n = move(i, f, BLOCK_STEP_READ, ret_bytes, n_bytes, offset_bytes, true);
	if (n < 0)
		return (int)n;
	memset((uint8_t *)ret_bytes + n, 0, n_bytes - (size_t)n);
	return 0;
}

int block_file_write(const struct block_image *i, const struct block_file *f, const void *bytes, size_t n_bytes,
                     uint64_t offset_bytes)
{
	union { const void *in; uint8_t *out; } u = { .in = bytes }; /* an iovec has no const */
	int64_t n = move(i, f, BLOCK_STEP_WRITE, u.out, n_bytes, offset_bytes, true);
	if (n < 0)
		return (int)n;
	return (uint64_t)n == n_bytes ? 0 : -EIO;
}

int block_file_zero(const struct block_image *i, const struct block_file *f, uint64_t offset_bytes, uint64_t n_bytes,
                    bool is_buffered)
{
	static const _Alignas(MAX_DIRECT_ALIGN) uint8_t page[MAX_DIRECT_ALIGN];
	union { const void *in; uint8_t *out; } u = { .in = i->zeroes ? i->zeroes : page };
	const uint64_t max = i->zeroes ? BLOCK_ZEROES_BYTES : sizeof page;
	bool is_direct = f->is_direct && !((offset_bytes | n_bytes) & (f->offset_align - 1));
	while (n_bytes) {
		size_t part = (size_t)min_u64(n_bytes, max);
		int64_t n = move(i, f, BLOCK_STEP_WRITE, u.out, part, offset_bytes, is_buffered || !is_direct);
		if (n < 0)
			return (int)n;
		if ((uint64_t)n != part)
			return -EIO;
		offset_bytes += part;
		n_bytes -= part;
	}
	return 0;
}

int block_file_sync(const struct block_image *i, const struct block_file *f)
{
	struct block_step s = { .op = BLOCK_STEP_SYNC, .file = f };
	return (int)block_step_run(i, &s);
}

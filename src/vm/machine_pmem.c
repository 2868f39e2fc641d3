/* SPDX-License-Identifier: Apache-2.0 */
/* Persistent memory: a file of the host's that is mapped into the guest, and a device that makes it durable.
 *
 * The file is opened and locked as a raw disk's: with discard_writes only for reading, and together with others that read.
 * Of a folder it is a new file without a name, which ends with the device. */
#include "backend/block.h"
#include "base/cleanup.h"
#include "device/virtio_pmem.h"
#include "vm/machine_internal.h"
#include "vm/unsupported.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int refuse(const void *config, struct err *e)
{
	return refuse_unsupported_pmem(config, e);
}

static bool is_folder(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int make_file(const struct pmem_config *c, struct err *e)
{
	if (!c->has_size)
		return err_set(e, EINVAL, "%s: '%s' is a folder: a file there needs a size", c->id, c->file);
	fd_scoped fd = open(c->file, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	int rc = fd < 0 || ftruncate(fd, (off_t)c->size) < 0 ? -errno : 0;
	/* Its blocks now, where the file system can: a guest that found none left would end with its VM. */
	if (rc == 0 && !c->discard_writes && fallocate(fd, 0, 0, (off_t)c->size) < 0 && errno != EOPNOTSUPP)
		rc = -errno;
	if (rc < 0)
		return err_set_errno(e, -rc, "%s: cannot make a file of %llu bytes in '%s'", c->id,
		                     (unsigned long long)c->size, c->file);
	return fd_take(&fd);
}

static int open_image(struct machine *m, struct attached *a, const struct pmem_config *c, struct block_image **ret_i,
                      struct err *e)
{
	struct log log = { .sink = m->p.log_sink, .object = a->id };
	struct block_params b = {
		.path = c->file, .is_readonly = c->discard_writes, .image_type = BLOCK_TYPE_RAW, .log = &log,
	};
	if (!is_folder(c->file))
		return block_open(&b, ret_i, e);

	char path[40];
	fd_scoped fd = make_file(c, e);
	if (fd < 0)
		return fd;
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	b.path = path;
	return block_open(&b, ret_i, e);
}

/* To the byte: a disk's size is rounded to sectors. */
static int size_of(const struct block_image *i, uint64_t *ret_n_bytes)
{
	struct block_limits l;
	struct stat st;
	if (fstat(block_image_fd(i), &st) < 0)
		return -errno;
	block_image_limits(i, &l);
	*ret_n_bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : l.n_bytes;
	return 0;
}

static int choose_size(const struct pmem_config *c, const struct block_image *i, uint64_t *ret_n_bytes, struct err *e)
{
	uint64_t n_file = 0;
	int rc = size_of(i, &n_file);
	if (rc < 0)
		return err_set_errno(e, -rc, "%s: cannot find the size of '%s'", c->id, c->file);
	uint64_t n = c->has_size ? c->size : n_file;
	if (n == 0 || n % DEVICE_MEMORY_ALIGN)
		return err_set(e, EINVAL, "%s: the size of %llu bytes is not a multiple of 2 MiB", c->id, (unsigned long long)n);
	if (n > n_file)
		return err_set(e, EINVAL, "%s: size=%llu, but '%s' has only %llu bytes", c->id, (unsigned long long)n, c->file,
		               (unsigned long long)n_file);
	*ret_n_bytes = n;
	return 0;
}

/* Before anything is opened, which could be a large new file. */
static int check_size(const struct pmem_config *c, struct err *e)
{
	if (!c->has_size || (c->size && c->size % DEVICE_MEMORY_ALIGN == 0 && c->size <= INT64_MAX))
		return 0;
	return err_set(e, EINVAL, "%s: the size of %llu bytes is not a multiple of 2 MiB", c->id, (unsigned long long)c->size);
}

static int open_pmem(struct machine *m, struct attached *a, const void *config, struct err *e)
{
	const struct pmem_config *c = config;
	struct block_image *image = NULL;
	uint64_t n_bytes = 0;
	int rc = check_size(c, e);
	if (rc >= 0 && machine_has_vhost_disk(m))
		rc = err_set(e, ENOTSUP, "%s: not supported yet: --pmem beside --disk vhost_user", c->id);
	if (rc >= 0)
		rc = open_image(m, a, c, &image, e);
	a->backend = image;
	if (rc >= 0)
		rc = choose_size(c, image, &n_bytes, e);
	if (rc >= 0)
		rc = machine_place_memory(m, a, n_bytes, e);
	if (rc < 0)
		return rc;
	a->memory.fd = block_image_fd(image);
	a->memory.is_private = c->discard_writes;
	struct virtio_pmem_params p = { .image = image, .start = a->memory.start, .n_bytes = n_bytes };
	return machine_make_virtio(m, a, &virtio_pmem, &(struct virtio_params){ 0 }, &p, e);
}

static void close_pmem(struct attached *a)
{
	block_close(a->backend);
}

const struct device_kind machine_pmem = {
	.member = "pmem",
	.option = "--pmem",
	.refuse = refuse,
	.open = open_pmem,
	.close = close_pmem,
};

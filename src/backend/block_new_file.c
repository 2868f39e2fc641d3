// SPDX-License-Identifier: Apache-2.0
/* The files of a new image: one, or several where its data lie beside it.
 *
 * Each is written with a name that nobody looks for, made durable, and renamed; the image's own is the last one. So whoever
 * sees the image sees all of it, and what is stopped or fails leaves nothing (but for SIGKILL:
 * a file without a name that anybody looks for). What is to be replaced is locked from before
 * the work until after, as if it were opened for writing: nobody loses a disk that is in use. The files beside it replace
 * nothing: they could not take their places all at once. */
#include "backend/block_writer.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PRIVATE_MODE 0600u

/* What chmod() would be told. 0600 where the process's mask cannot be read: to set it for a moment would be seen by other
 * threads. */
static mode_t default_mode(void)
{
	unsigned mask = 0;
	char line[128];
	bool is_found = false;
	FILE *f = fopen("/proc/self/status", "re");
	while (f && !is_found && fgets(line, sizeof line, f))
		is_found = sscanf(line, "Umask: %o", &mask) == 1;
	if (f)
		(void)fclose(f);
	return is_found ? 0666u & ~mask : PRIVATE_MODE;
}

/* --- names --- */

static char *beside(const struct block_new_image *i, const char *name)
{
	const char *slash = strrchr(i->path, '/');
	char *path;
	if (asprintf(&path, "%.*s%s", slash ? (int)(slash + 1 - i->path) : 0, i->path, name) < 0)
		return NULL;
	return path;
}

static int open_temporary(const struct block_new_image *i, struct block_new_file *f)
{
	f->temporary = beside(i, ".varan-image-XXXXXX");
	if (!f->temporary)
		return -ENOMEM;
	f->fd = mkostemp(f->temporary, O_CLOEXEC);
	if (f->fd >= 0)
		return 0;
	int rc = -errno;
	free(ptr_take(f->temporary));
	return rc;
}

static void file_done(struct block_new_file *f)
{
	if (f->temporary)
		(void)unlink(f->temporary);
	fd_close(&f->fd);
	free(f->temporary);
	free(f->path);
}

void block_new_image_done(struct block_new_image *i)
{
	/* Without the image they are nothing. */
	for (unsigned k = 0; k < i->n_others; k++) {
		if (i->others[k].is_in_place && !i->is_in_place)
			(void)unlink(i->others[k].path);
		file_done(&i->others[k]);
	}
	free(i->others);
	file_done(&i->own);
	fd_close(&i->replaced_fd);
	free(i->path);
}

/* --- beginning --- */

/* There is something of that name. */
static int lock_replaced(struct block_new_image *i, const struct block_create_params *p, const struct stat *st, struct err *e)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	if (S_ISBLK(st->st_mode))
		return err_set(e, ENOTSUP, "cannot create '%s': not supported yet: a block device", p->path);
	if (!p->may_replace)
		return err_set(e, EEXIST, "cannot create '%s': it exists already", p->path);
	if (!S_ISREG(st->st_mode))
		return err_set(e, EINVAL, "cannot replace '%s': it is not a regular file", p->path);
	free(i->path);
	i->path = realpath(p->path, NULL); /* what a link leads to is replaced, not the link */
	if (!i->path)
		return err_set_errno(e, errno, "cannot find '%s'", p->path);
	struct stat opened;
	i->replaced_fd = block_open_path(i->path, O_RDWR, &opened, e);
	if (i->replaced_fd < 0)
		return i->replaced_fd;
	if (fcntl(i->replaced_fd, F_OFD_SETLK, &l) < 0 && (errno == EAGAIN || errno == EACCES))
		return err_set(e, EBUSY, "cannot replace '%s': it is in use by another process, or by this work itself",
		               p->path);
	i->mode = opened.st_mode & 0777u; /* who might not read the old one may not read this one */
	i->owner = opened.st_uid;
	i->group = opened.st_gid;
	return 0;
}

int block_new_image_open(struct block_new_image *i, const struct block_create_params *p, struct err *e)
{
	struct stat st;
	*i = (struct block_new_image){ .own.fd = -1, .replaced_fd = -1, .mode = default_mode(), .path = strdup(p->path) };
	if (!i->path)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	int rc = 0;
	if (stat(p->path, &st) == 0)
		rc = lock_replaced(i, p, &st, e);
	else if (lstat(p->path, &st) == 0 && S_ISLNK(st.st_mode))
		rc = err_set(e, ENOENT, "cannot create '%s': it is a link that leads nowhere", p->path);
	if (rc < 0)
		return rc;
	rc = open_temporary(i, &i->own);
	return rc < 0 ? err_set_errno(e, -rc, "cannot create '%s'", p->path) : 0;
}

const char *block_new_image_name(const struct block_new_image *i)
{
	const char *slash = strrchr(i->path, '/');
	return slash ? slash + 1 : i->path;
}

bool block_new_image_has_beside(const struct block_new_image *i, const char *name)
{
	struct stat st;
	free_scoped char *path = beside(i, name);
	return path && lstat(path, &st) == 0;
}

static int make_durable(const struct block_new_image *i, struct block_new_file *f)
{
	mode_t mode = i->mode;
	/* Of what is replaced; where that is not ours to give away, others than its owner lose what they could do with it. */
	if (i->replaced_fd >= 0 && fchown(f->fd, i->owner, i->group) < 0)
		mode &= 0700;
	return fchmod(f->fd, mode) < 0 || fsync(f->fd) < 0 ? -errno : 0;
}

/* One is open at a time: there may be more than a process may have open. */
static int end_last(struct block_new_image *i)
{
	struct block_new_file *last = i->n_others ? &i->others[i->n_others - 1] : NULL;
	if (!last || last->fd < 0)
		return 0;
	int rc = make_durable(i, last);
	fd_close(&last->fd);
	return rc;
}

int block_new_image_add(struct block_new_image *i, const char *name, int *ret_fd)
{
	int rc = end_last(i);
	if (rc < 0)
		return rc;
	struct block_new_file f = { .fd = -1 }, *others = reallocarray(i->others, i->n_others + 1, sizeof *others);
	if (!others)
		return -ENOMEM;
	i->others = others;
	f.path = beside(i, name);
	rc = f.path ? open_temporary(i, &f) : -ENOMEM;
	i->others[i->n_others++] = f;
	*ret_fd = f.fd;
	return rc;
}

/* --- the end --- */

/* Not over what somebody may have made there meanwhile. */
static int take_new_place(const char *temporary, const char *path)
{
	if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	if (link(temporary, path) < 0)
		return -errno;
	return unlink(temporary) < 0 ? -errno : 0;
}

/* What we have locked is replaced, and nothing that somebody has put there since. */
static int take_place(const struct block_new_image *i)
{
	struct stat locked, there;
	if (i->replaced_fd < 0)
		return take_new_place(i->own.temporary, i->path);
	if (fstat(i->replaced_fd, &locked) < 0 || lstat(i->path, &there) < 0)
		return errno == ENOENT ? -ESTALE : -errno;
	if (locked.st_dev != there.st_dev || locked.st_ino != there.st_ino)
		return -ESTALE;
	return rename(i->own.temporary, i->path) < 0 ? -errno : 0;
}

static int place_others(struct block_new_image *i, struct err *e)
{
	for (unsigned k = 0; k < i->n_others; k++) {
		struct block_new_file *f = &i->others[k];
		int rc = take_new_place(f->temporary, f->path);
		if (rc == -EEXIST)
			return err_set(e, EBUSY, "cannot create '%s': it exists already, since a moment ago", f->path);
		if (rc < 0)
			return err_set_errno(e, -rc, "cannot give '%s' its name", f->path);
		f->is_in_place = true;
		free(ptr_take(f->temporary));
	}
	return 0;
}

/* The names, in their folder; who may not read that syncs all of the file system. */
static int sync_names(const struct block_new_image *i)
{
	const char *slash = strrchr(i->path, '/');
	free_scoped char *folder = slash ? strndup(i->path, (size_t)(slash + 1 - i->path)) : strdup(".");
	if (!folder)
		return -ENOMEM;
	fd_scoped fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return (fd >= 0 ? fsync(fd) : syncfs(i->own.fd)) < 0 ? -errno : 0;
}

int block_new_image_finish(struct block_new_image *i, const struct block_create_params *p, struct err *e)
{
	int rc = end_last(i);
	if (rc >= 0)
		rc = make_durable(i, &i->own);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot make '%s' durable", p->path);
	if (block_progress_step(&p->progress, 0, 0) < 0) /* that took its time */
		return block_write_stopped(p, e);
	rc = place_others(i, e);
	if (rc < 0)
		return rc;
	rc = take_place(i);
	if (rc == -EEXIST)
		return err_set(e, EEXIST, "cannot create '%s': it exists already, since a moment ago", p->path);
	if (rc == -ESTALE)
		return err_set(e, EBUSY, "cannot replace '%s': somebody has put something else there, since a moment ago", p->path);
	if (rc < 0)
		return err_set_errno(e, -rc, "cannot give '%s' its name", p->path);
	i->is_in_place = true;
	free(ptr_take(i->own.temporary));
	rc = sync_names(i);
	return rc < 0 ? err_set_errno(e, -rc, "'%s' is made, but its name cannot be made durable", p->path) : 0;
}

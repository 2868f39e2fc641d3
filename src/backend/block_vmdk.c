// SPDX-License-Identifier: Apache-2.0
/* VMDK images: VMware, Virtual Disk Format 5.0.
 *
 * A descriptor (block_vmdk_descriptor.c) lists the extents: flat ones are plain pieces of files, sparse ones have tables
 * (block_vmdk_sparse.c). It is a file of its own, or, where the image is one sparse file, within that one. Extents in
 * files of their own are opened only when the configuration allows images to name files, only in the image's folder,
 * and only if they are what their name says there: no link leads elsewhere.
 *
 * The descriptor's content ID changes before the first write of a session, as programs that keep differencing images
 * expect. */
#include "backend/block_vmdk.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

struct vmdk {
	struct block_disk disk; /* first */
	struct vmdk_sparse **sparse; /* one for each piece; NULL: of another kind */
	uint64_t cid_offset_bytes;   /* in the image's own file; 0: no content ID that could be changed */
};

static int vmdk_begin_writing(struct block_disk *d)
{
	struct vmdk *v = (struct vmdk *)d;
	uint32_t cid;
	char digits[VMDK_CID_DIGITS + 1];
	if (!v->cid_offset_bytes || d->image->file->is_readonly)
		return 0;
	if (getrandom(&cid, sizeof cid, 0) != (ssize_t)sizeof cid)
		return -EIO;
	/* The two highest numbers have meanings. */
	(void)snprintf(digits, sizeof digits, "%08x", cid >= 0xfffffffe ? 1 : cid);
	int rc = block_file_write(d->image, d->image->file, digits, VMDK_CID_DIGITS, v->cid_offset_bytes);
	return rc < 0 ? rc : block_file_sync(d->image, d->image->file);
}

static int vmdk_end_writing(struct block_disk *d)
{
	struct vmdk *v = (struct vmdk *)d;
	int rc = 0;
	for (unsigned k = 0; rc >= 0 && k < d->n_pieces; k++) {
		if (v->sparse[k])
			rc = vmdk_sparse_unmark(v->sparse[k]);
	}
	return rc;
}

static const struct block_disk_ops vmdk_ops = { .begin_writing = vmdk_begin_writing, .end_writing = vmdk_end_writing };

/* --- extents --- */

static void add_data_file(struct vmdk *v, const struct block_file *f)
{
	for (unsigned k = 0; k < v->disk.n_files; k++) {
		if (v->disk.files[k] == f)
			return;
	}
	v->disk.files[v->disk.n_files++] = f;
}

/* The file itself, in the image's folder, and no link. */
static int open_extent_file(struct vmdk *v, const struct block_params *p, const struct vmdk_line *l,
                            const struct block_file **ret_f, struct err *e)
{
	struct block_image *i = v->disk.image;
	struct stat named, opened;
	struct block_file *f;
	if (!p->may_use_backing_files)
		return err_set(e, BLOCK_NEEDS_OTHERS, "its data are in the file '%s', and backing_files=on is needed to open "
		               "files that an image names", l->name);
	free_scoped char *path = block_resolve_path(i->file, l->name);
	if (!path)
		return err_set(e, ENOMEM, "no memory for its extents");
	if (lstat(path, &named) < 0)
		return err_set_errno(e, errno, "cannot find '%s'", path);
	if (!S_ISREG(named.st_mode))
		return err_set(e, EACCES, "'%s' is no regular file, which an extent must be", path);
	struct block_file_params fp = {
		.path = path,
		.is_readonly = p->is_readonly || l->access == VMDK_RDONLY,
		.is_direct = p->is_direct,
		.needs_buffered = true,
	};
	int rc = block_add_file(i, &fp, &f, e);
	if (rc < 0)
		return rc;
	if (fstat(f->fd, &opened) < 0 || opened.st_dev != named.st_dev || opened.st_ino != named.st_ino)
		return err_set(e, EACCES, "'%s' was replaced while it was opened", path);
	*ret_f = f;
	return 0;
}

static int add_flat(struct block_piece *x, const struct vmdk_line *l, const struct block_file *f, struct err *e)
{
	uint64_t size, offset = l->offset_sectors * VMDK_SECTOR_BYTES; /* both were bounded */
	int rc = block_file_size(f, &size);
	if (rc < 0)
		return err_set_errno(e, -rc, "the size of '%s' cannot be found", f->path);
	if (offset > size || x->n_bytes > size - offset)
		return err_set(e, EINVAL, "'%s' has %llu bytes: less than its extent of %llu at %llu", f->path,
		               (unsigned long long)size, (unsigned long long)x->n_bytes, (unsigned long long)offset);
	x->kind = BLOCK_PIECE_LINEAR;
	x->file = f;
	x->offset_bytes = offset;
	return 0;
}

static int add_sparse(struct vmdk *v, struct block_piece *x, unsigned k, struct vmdk_sparse *s, struct err *e)
{
	if (s->capacity_sectors < x->n_bytes / VMDK_SECTOR_BYTES)
		return err_set(e, EINVAL, "'%s' has a capacity of %llu sectors, and the descriptor says %llu", s->file->path,
		               (unsigned long long)s->capacity_sectors,
		               (unsigned long long)(x->n_bytes / VMDK_SECTOR_BYTES));
	x->kind = s->is_compressed ? BLOCK_PIECE_COMPRESSED : BLOCK_PIECE_TABLE;
	x->table = &v->sparse[k]->table;
	return 0;
}

static int new_sparse(struct vmdk *v, unsigned k, const struct block_file *f, struct err *e)
{
	v->sparse[k] = calloc(1, sizeof *v->sparse[k]);
	if (!v->sparse[k])
		return err_set(e, ENOMEM, "no memory for its extents");
	return vmdk_sparse_open(v->sparse[k], &v->disk, f, e);
}

/* Room for n extents. */
static int make_room(struct vmdk *v, unsigned n, struct err *e)
{
	v->disk.pieces = calloc(n, sizeof *v->disk.pieces);
	v->disk.files = calloc(n, sizeof *v->disk.files);
	v->sparse = calloc(n, sizeof *v->sparse);
	if (!v->disk.pieces || !v->disk.files || !v->sparse)
		return err_set(e, ENOMEM, "no memory for its extents");
	return 0;
}

static int add_extent(struct vmdk *v, const struct block_params *p, const struct vmdk_line *l, struct err *e)
{
	unsigned k = v->disk.n_pieces++;
	struct block_piece *x = &v->disk.pieces[k];
	const struct block_file *f = NULL;
	*x = (struct block_piece){
		.kind = BLOCK_PIECE_ZERO,
		.is_readonly = l->access == VMDK_RDONLY,
		.start_bytes = k ? x[-1].start_bytes + x[-1].n_bytes : 0,
		.n_bytes = l->n_sectors * VMDK_SECTOR_BYTES,
	};
	if (l->type == VMDK_ZERO)
		return 0;
	int rc = open_extent_file(v, p, l, &f, e);
	if (rc >= 0 && l->type == VMDK_FLAT)
		rc = add_flat(x, l, f, e);
	if (rc >= 0 && l->type == VMDK_SPARSE) {
		rc = new_sparse(v, k, f, e);
		if (rc >= 0)
			rc = add_sparse(v, x, k, v->sparse[k], e);
	}
	if (rc >= 0)
		add_data_file(v, f);
	return rc;
}

/* --- opening --- */

static int read_descriptor(struct vmdk *v, uint64_t offset, uint64_t n_bytes, struct vmdk_descriptor *ret_d,
                           struct err *e)
{
	free_scoped char *text = malloc((size_t)n_bytes + 1);
	if (!text)
		return err_set(e, ENOMEM, "no memory for its VMDK descriptor");
	int rc = block_file_read(v->disk.image, v->disk.image->file, text, (size_t)n_bytes, offset);
	if (rc < 0)
		return err_set_errno(e, -rc, "its VMDK descriptor cannot be read");
	rc = vmdk_descriptor_parse(text, (size_t)n_bytes, ret_d, e);
	if (rc >= 0 && ret_d->has_cid)
		v->cid_offset_bytes = offset + ret_d->cid_at;
	return rc;
}

/* One sparse file with a descriptor in it. */
static int open_single(struct vmdk *v, const struct block_params *p, struct vmdk_descriptor *d, struct err *e)
{
	struct block_image *i = v->disk.image;
	int rc = make_room(v, 1, e);
	if (rc < 0)
		return rc;
	v->disk.n_pieces = 1;
	rc = new_sparse(v, 0, i->file, e);
	if (rc < 0)
		return rc;
	struct vmdk_sparse *s = v->sparse[0];
	if (!s->descriptor_bytes)
		return err_set(e, EINVAL, "it is one extent of a VMDK image: the descriptor beside it is what to open");
	rc = read_descriptor(v, s->descriptor_offset_bytes, s->descriptor_bytes, d, e);
	if (rc < 0)
		return rc;
	if (d->n_lines != 1 || d->lines[0].type != VMDK_SPARSE)
		return err_set(e, EINVAL, "its VMDK descriptor does not say that it is one sparse extent");
	if (s->is_compressed && !p->is_readonly)
		return err_set(e, EROFS, "it is a stream-optimized VMDK image, which can be read only: readonly=on is needed");
	v->disk.pieces[0] = (struct block_piece){ .n_bytes = d->lines[0].n_sectors * VMDK_SECTOR_BYTES };
	add_data_file(v, i->file);
	return add_sparse(v, &v->disk.pieces[0], 0, s, e);
}

static int open_list(struct vmdk *v, const struct block_params *p, uint64_t n_bytes, struct vmdk_descriptor *d,
                     struct err *e)
{
	if (n_bytes > VMDK_MAX_DESCRIPTOR_BYTES)
		return err_set(e, EINVAL, "it is no VMDK image: it has no sparse header, and is too large for a descriptor");
	int rc = read_descriptor(v, 0, n_bytes, d, e);
	if (rc >= 0 && d->is_stream)
		rc = err_set(e, EINVAL, "its VMDK descriptor says that it is stream-optimized, which is one file");
	if (rc >= 0)
		rc = make_room(v, d->n_lines, e);
	for (unsigned k = 0; rc >= 0 && k < d->n_lines; k++) {
		rc = add_extent(v, p, &d->lines[k], e);
		if (rc >= 0 && block_disk_bytes(&v->disk) > (64ull << 40))
			rc = err_set(e, EFBIG, "its extents are larger than 64 TiB together");
		if (rc >= 0 && v->sparse[k] && v->sparse[k]->is_compressed)
			rc = err_set(e, ENOTSUP, "not supported yet: VMDK images of several compressed extents");
	}
	return rc;
}

static int open_vmdk(struct vmdk *v, const struct block_params *p, struct err *e)
{
	uint8_t magic[4] = { 0 };
	uint64_t n_bytes;
	struct vmdk_descriptor d = { 0 };
	const struct block_file *f = v->disk.image->file;
	int rc = block_file_size(f, &n_bytes);
	if (rc >= 0)
		rc = block_file_read_padded(v->disk.image, f, magic, sizeof magic, 0);
	if (rc < 0)
		return err_set_errno(e, -rc, "it cannot be read");
	if (memcmp(magic, "COWD", 4) == 0)
		return err_set(e, ENOTSUP, "not supported yet: sparse VMDK extents of ESX servers (COWD)");
	if (memcmp(magic, "KDMV", 4) == 0)
		rc = open_single(v, p, &d, e);
	else
		rc = open_list(v, p, n_bytes, &d, e);
	vmdk_descriptor_done(&d);
	return rc;
}

static int vmdk_open(struct block_image *i, const struct block_params *p, struct err *e)
{
	struct vmdk *v = calloc(1, sizeof *v);
	if (!v)
		return err_set(e, ENOMEM, "no memory for '%s'", p->path);
	i->state = v;
	block_disk_init(&v->disk, i, &vmdk_ops);
	int rc = open_vmdk(v, p, e);
	if (rc < 0) {
		err_prefix(e, "cannot use '%s': ", p->path);
		return rc;
	}
	i->limits.n_bytes = block_disk_bytes(&v->disk);
	i->limits.can_discard = false;
	for (unsigned k = 0; k < v->disk.n_files; k++) {
		const struct block_file *f = v->disk.files[k];
		if (f->is_direct && i->limits.logical_block_bytes < f->offset_align)
			i->limits.logical_block_bytes = f->offset_align;
	}
	return 0;
}

static void vmdk_close(struct block_image *i)
{
	struct vmdk *v = i->state;
	if (!v)
		return;
	block_disk_done(&v->disk);
	for (unsigned k = 0; v->sparse && k < v->disk.n_pieces; k++) {
		if (v->sparse[k])
			vmdk_sparse_done(v->sparse[k]);
		free(v->sparse[k]);
	}
	free(v->sparse);
	free(v->disk.pieces);
	free(v->disk.files);
	free(v);
	i->state = NULL;
}

static int vmdk_read_packed(struct block_image *i, const struct block_extent *x, uint8_t *ret_bytes)
{
	struct vmdk *v = i->state;
	const struct block_piece *piece = &v->disk.pieces[x->packed];
	return vmdk_sparse_unpack(v->sparse[x->packed], x->disk_offset_bytes - piece->start_bytes, ret_bytes,
	                          (size_t)x->n_bytes);
}

const struct block_format block_vmdk_format = {
	.name = "vmdk",
	.prepare = block_disk_prepare,
	.finish = block_disk_finish,
	.needs_buffered = true,
	.open = vmdk_open,
	.close = vmdk_close,
	.map = block_disk_map,
	.info = block_disk_info,
	.read_packed = vmdk_read_packed,
};

// SPDX-License-Identifier: Apache-2.0
/* What an image says of itself, and how much of the host it takes. */
#include "backend/block_impl.h"

#include <string.h>
#include <sys/stat.h>

#define STAT_BLOCK_BYTES 512u /* what st_blocks counts, whatever the file system's own blocks are */

static uint64_t allocated(const struct block_file *f)
{
	struct stat st;
	return fstat(f->fd, &st) == 0 ? (uint64_t)st.st_blocks * STAT_BLOCK_BYTES : 0;
}

void block_image_info(const struct block_image *i, struct block_info *ret_i)
{
	struct block_info info = {
		.format = i->format->name, .n_bytes = i->n_disk_bytes,
		.backing_name = i->backing_name, .backing_format = i->backing_format,
	};
	/* A raw file is taken for what it is, not for what a guest would be given of it. */
	if (i->format == &block_raw_format)
		info.n_bytes = align_up(i->file->n_bytes, 512);
	/* All files of the tree are the top's; those of an image within a chain are not told apart from its neighbours'. */
	if (i->top == i && !i->backing) {
		for (unsigned k = 0; k < i->n_files; k++)
			info.n_allocated_bytes += allocated(i->files[k]);
	} else {
		info.n_allocated_bytes = allocated(i->file);
	}
	if (i->format->info)
		i->format->info(i, &info);
	*ret_i = info;
}

const struct block_image *block_image_backing(const struct block_image *i)
{
	return i->backing;
}

char *block_image_backing_path(const struct block_image *i)
{
	return i->backing_name ? block_resolve_path(i->file, i->backing_name) : NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* `varan image resize`. */
#include "cli/image_impl.h"

#include "base/checked.h"

#include <errno.h>

#define SECTOR_BYTES 512u

static const struct option_row rows[] = {
	IMAGE_FORMAT("format", "the image"),
	IMAGE_BACKING_FILES("Open the files that the image names; growing an overlay needs to know how long they are"),
	IMAGE_HELP,
	IMAGE_FILE("file", "The image, raw or qcow2"),
	{ .name = "size", .arity = OPTION_WORD, .is_required = true, .group = "Arguments",
	  .help = "Bytes of the disk, with K, M, G or T behind them or not, rounded up to 512; with + in front, so many more" },
};

static int resize(struct block_image *i, uint64_t n_bytes, bool is_more, struct err *e)
{
	struct block_limits l;
	block_image_limits(i, &l);
	if (is_more && !checked_add(l.n_bytes, n_bytes, &n_bytes))
		return err_set(e, EFBIG, "the disk would be too large");
	if (n_bytes > INT64_MAX - SECTOR_BYTES)
		return err_set(e, EFBIG, "the disk would be too large");
	return block_resize(i, align_up(n_bytes, SECTOR_BYTES), e);
}

static int run(const struct image_command *c, const struct command_line *line)
{
	const char *word = command_line_value(line, "size");
	struct block_image *i;
	struct err e = { 0 };
	uint64_t n_bytes;
	bool is_more = word[0] == '+';
	if (image_size("<size>", word + is_more, &n_bytes, &e) < 0)
		return image_usage(c, &e);
	struct block_params p = {
		.path = command_line_value(line, "file"), .image_type = image_type(command_line_value(line, "format")),
		.may_use_backing_files = command_line_count(line, "backing-files"), .log = image_log(c),
	};
	int rc = image_open(c, &p, &i, &e);
	if (rc < 0)
		return image_fail(c, &e);
	rc = resize(i, n_bytes, is_more, &e);
	int closed = block_close_durably(i, rc < 0 ? NULL : &e);
	return rc < 0 || closed < 0 ? image_fail(c, &e) : IMAGE_OK;
}

#define ABOUT "Make the disk of an image larger; never smaller"
const struct image_command image_resize_command = {
	.name = "resize", .about = ABOUT, .run = run,
	.table = { .program = "varan image resize", .about = ABOUT,
	           .rows = rows, .n_rows = ARRAY_LEN(rows) },
};

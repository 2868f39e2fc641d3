/* SPDX-License-Identifier: Apache-2.0 */
/* `varan image convert`. */
#include "cli/image_impl.h"

#include "base/checked.h"

#include <errno.h>

static const struct option_row rows[] = {
	IMAGE_FORMAT("from", "the source"),
	{ .name = "to", .arity = OPTION_ONE, .is_required = true, .group = "Options", .possible_values = image_formats,
	  .help = "Format of the target" },
	{ .name = "compress", .group = "Options", .help = "qcow2: compress clusters, where that makes them smaller" },
	IMAGE_SUBFORMAT,
	IMAGE_QCOW2_OPTIONS,
	IMAGE_BACKING_FILES("Open the files that the source names, and copy the disk that they make together"),
	IMAGE_FORCE,
	IMAGE_PROGRESS,
	IMAGE_HELP,
	IMAGE_FILE("source", "The image to be read"),
	IMAGE_FILE("target", "The image to be made; ranges of zeroes become holes"),
};

static int convert(const struct image_command *c, const struct command_line *line, struct block_create_params *p)
{
	struct block_params source = {
		.path = command_line_value(line, "source"), .is_readonly = true, .log = image_log(c),
		.image_type = image_type(command_line_value(line, "from")),
		.may_use_backing_files = command_line_count(line, "backing-files"),
	};
	struct image_progress progress = { 0 };
	struct block_image *i;
	struct err e = { 0 };
	int rc = image_open(c, &source, &i, &e);
	if (rc < 0)
		return image_fail(c, &e);
	p->progress = image_progress_start(&progress, c, line);
	rc = block_convert(i, p, &e);
	image_progress_end(&progress);
	block_close(i);
	return image_made(c, p, rc, &e);
}

static int run(const struct image_command *c, const struct command_line *line)
{
	struct block_create_params p = { .path = command_line_value(line, "target"),
		                         .is_compressed = command_line_count(line, "compress") };
	struct err e = { 0 };
	int rc = image_read_target(line, "to", &p, &e);
	if (rc >= 0 && p.is_compressed && p.type != BLOCK_TYPE_QCOW2)
		rc = err_set(&e, EINVAL, "the argument '--compress' is for '--to qcow2' only");
	if (rc >= 0 && p.is_compressed && p.has_extended_l2)
		rc = err_set(&e, EINVAL, "the arguments '--compress' and '--extended-l2' exclude each other");
	if (rc < 0)
		return image_refuse_target(c, &e);
	return convert(c, line, &p);
}

#define ABOUT "Copy a disk into a new image of another format"
const struct image_command image_convert_command = {
	.name = "convert", .about = ABOUT, .run = run,
	.table = { .program = "varan image convert", .about = ABOUT,
	           .rows = rows, .n_rows = ARRAY_LEN(rows) },
};

/* SPDX-License-Identifier: Apache-2.0 */
/* `varan image create`. */
#include "cli/image_impl.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const preallocations[] = { "off", "metadata", "falloc", "full", NULL };

static const struct option_row rows[] = {
	{ .name = "format", .arity = OPTION_ONE, .group = "Options", .possible_values = image_formats, .def = "raw",
	  .help = "Format of the image" },
	{ .name = "backing", .arity = OPTION_ONE, .is_path = true, .group = "Options",
	  .help = "qcow2: the image that this one is based on; as it is written into it, relative to its folder" },
	{ .name = "backing-format", .arity = OPTION_ONE, .group = "Options", .possible_values = image_formats,
	  .help = "Format of the image that this one is based on; required with --backing" },
	IMAGE_SUBFORMAT,
	IMAGE_QCOW2_OPTIONS,
	{ .name = "preallocation", .arity = OPTION_ONE, .group = "Options", .possible_values = preallocations, .def = "off",
	  .help = "What is there from the start: nothing, qcow2's tables, space that the host reserves, zeroes that are written" },
	IMAGE_FORCE,
	IMAGE_PROGRESS,
	IMAGE_HELP,
	IMAGE_FILE("file", "The image to be made"),
	{ .name = "size", .arity = OPTION_WORD, .group = "Arguments",
	  .help = "Bytes of the disk, with K, M, G or T behind them or not, rounded up to 512; the default is that of the image "
		  "that this one is based on" },
};

static enum block_preallocation preallocation_of(const char *word)
{
	unsigned k = 0;
	while (strcmp(preallocations[k], word) != 0)
		k++;
	return (enum block_preallocation)k;
}

/* As image_read_target(). */
static int read_words(const struct command_line *line, struct block_create_params *p, struct err *e)
{
	const char *size = command_line_value(line, "size");
	p->path = command_line_value(line, "file");
	p->backing_name = command_line_value(line, "backing");
	p->backing_format = command_line_value(line, "backing-format");
	p->preallocation = preallocation_of(command_line_value(line, "preallocation"));
	int rc = image_read_target(line, "format", p, e);
	if (rc < 0)
		return rc;
	if (p->backing_name && p->type != BLOCK_TYPE_QCOW2)
		return err_set(e, EINVAL, "the argument '--backing <backing>' is for '--format qcow2' only");
	if ((p->backing_name != NULL) != (p->backing_format != NULL))
		return err_set(e, EINVAL, "the arguments '--backing <backing>' and '--backing-format <backing-format>' are given "
		               "together, or not at all");
	if (p->type != BLOCK_TYPE_QCOW2 && p->preallocation == BLOCK_PREALLOCATE_METADATA)
		return err_set(e, EINVAL, "invalid value 'metadata' for '--preallocation <preallocation>': only qcow2 images have "
		               "any");
	if (p->type > BLOCK_TYPE_QCOW2 && p->preallocation != BLOCK_PREALLOCATE_OFF && !image_is_fixed(p))
		return err_set(e, EINVAL, "the argument '--preallocation <preallocation>' is for images that do not grow: "
		               "'--subformat fixed', 'monolithicFlat' or 'twoGbMaxExtentFlat'");
	if (p->backing_name && p->preallocation != BLOCK_PREALLOCATE_OFF)
		return err_set(e, EINVAL, "the arguments '--backing <backing>' and '--preallocation <preallocation>' exclude each "
		               "other: what is preallocated hides the backing file");
	if (!size && !p->backing_name)
		return err_set(e, EINVAL, "the following required arguments were not provided:\n  <size>");
	return size ? image_size("<size>", size, &p->n_bytes, e) : 0;
}

/* Its name is relative to the folder of the image that names it. It stays open, and so locked, until that is made. */
static int open_backing(const struct image_command *c, const struct block_create_params *p, struct block_image **ret_i,
                        struct err *e)
{
	const char *slash = strrchr(p->path, '/');
	free_scoped char *path = NULL;
	if (p->backing_name[0] == '/' || !slash)
		path = strdup(p->backing_name);
	else if (asprintf(&path, "%.*s/%s", (int)(slash - p->path), p->path, p->backing_name) < 0)
		path = NULL;
	if (!path)
		return err_set(e, ENOMEM, "out of memory");
	struct block_params bp = { .path = path, .is_readonly = true, .is_alone = true, .log = image_log(c),
		                   .image_type = image_type(p->backing_format) };
	int rc = image_open(c, &bp, ret_i, e);
	if (rc < 0)
		err_prefix(e, "the backing file: ");
	return rc;
}

static int create(const struct image_command *c, const struct command_line *line, struct block_create_params *p)
{
	struct block_image *backing = NULL;
	struct image_progress progress = { 0 };
	struct err e = { 0 };
	int rc = p->backing_name ? open_backing(c, p, &backing, &e) : 0;
	if (rc >= 0 && !command_line_value(line, "size")) {
		struct block_info info;
		block_image_info(backing, &info);
		p->n_bytes = info.n_bytes;
	}
	if (rc >= 0) {
		if (p->backing_format)
			p->backing_format = image_qemu_format(p->backing_format);
		p->progress = image_progress_start(&progress, c, line);
		rc = block_create(p, &e);
		image_progress_end(&progress);
	}
	block_close(backing);
	return image_made(c, p, rc, &e);
}

static int run(const struct image_command *c, const struct command_line *line)
{
	struct block_create_params p = { 0 };
	struct err e = { 0 };
	if (read_words(line, &p, &e) < 0)
		return image_refuse_target(c, &e);
	return create(c, line, &p);
}

#define ABOUT "Make an image: an empty disk, or an overlay of another image"
const struct image_command image_create_command = {
	.name = "create", .about = ABOUT, .run = run,
	.table = { .program = "varan image create", .about = ABOUT,
	           .rows = rows, .n_rows = ARRAY_LEN(rows) },
};

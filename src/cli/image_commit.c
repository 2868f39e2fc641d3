/* SPDX-License-Identifier: Apache-2.0 */
/* `varan image commit`. */
#include "cli/image_impl.h"

#include "base/checked.h"

static const struct option_row rows[] = {
	IMAGE_PROGRESS,
	IMAGE_HELP,
	IMAGE_FILE("file", "The overlay, a qcow2 image; it is only read, and can be removed afterwards"),
};

static int run(const struct image_command *c, const struct command_line *line)
{
	struct block_params p = { .path = command_line_value(line, "file"), .image_type = BLOCK_TYPE_QCOW2,
		                  .has_discard = true, .log = image_log(c) };
	struct image_progress progress = { 0 };
	struct err e = { 0 };
	struct block_progress told = image_progress_start(&progress, c, line);
	int rc = block_commit(&p, &told, &e);
	image_progress_end(&progress);
	return rc < 0 ? image_fail(c, &e) : IMAGE_OK;
}

#define ABOUT "Write what an overlay holds to the image that it is based on, which it names"
const struct image_command image_commit_command = {
	.name = "commit", .about = ABOUT, .run = run,
	.table = { .program = "varan image commit",
	           .about = ABOUT,
	           .rows = rows, .n_rows = ARRAY_LEN(rows) },
};

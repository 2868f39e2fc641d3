/* SPDX-License-Identifier: Apache-2.0 */
/* `varan image check`: the exit status is what scripts know of qemu-img. */
#include "cli/image_impl.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { CHECK_CLEAN = 0, CHECK_NOT_DONE = 1, CHECK_CORRUPT = 2, CHECK_LEAKS = 3, CHECK_NO_CHECKS = 63 };

static const char *const repairs[] = { "leaks", "all", NULL };

static const struct option_row rows[] = {
	IMAGE_FORMAT("format", "the image"),
	{ .name = "repair", .arity = OPTION_ONE, .group = "Options", .possible_values = repairs,
	  .help = "Give back clusters that nothing uses, or make all good that can be" },
	IMAGE_JSON,
	IMAGE_HELP,
	IMAGE_FILE("file", "The image; what it is based on is not looked at"),
};

static void add(json_t *o, const char *name, uint64_t v)
{
	if (v)
		(void)json_object_set_new(o, name, json_integer((json_int_t)v));
}

static int print_json(const char *path, const struct block_info *info, const struct block_check *r)
{
	json_t *o = json_pack("{s:o, s:s, s:I, s:I, s:I}", "filename", image_json_name(path), "format",
	                      image_qemu_format(info->format), "check-errors", (json_int_t)r->n_errors,
	                      "image-end-offset", (json_int_t)r->end_bytes, "total-clusters",
	                      (json_int_t)r->n_clusters);
	if (o) {
		add(o, "allocated-clusters", r->n_allocated);
		add(o, "compressed-clusters", r->n_compressed);
		add(o, "corruptions", r->n_corruptions);
		add(o, "corruptions-fixed", r->n_corruptions_fixed);
		add(o, "leaks", r->n_leaks);
		add(o, "leaks-fixed", r->n_leaks_fixed);
	}
	return image_print_json(o);
}

static void print_count(uint64_t n, const char *what)
{
	if (n)
		printf("%llu %s\n", (unsigned long long)n, what);
}

static int print_text(const struct block_check *r)
{
	print_count(r->n_corruptions_fixed, "errors were repaired");
	print_count(r->n_leaks_fixed, "leaked clusters were given back");
	print_count(r->n_corruptions, "errors were found: data may be damaged, and writing may make it worse");
	print_count(r->n_leaks, "leaked clusters were found: space that nothing uses; no data is at risk");
	print_count(r->n_errors, "places could not be examined");
	if (!r->n_corruptions && !r->n_leaks && !r->n_errors)
		printf("No errors were found.\n");
	if (r->n_clusters)
		printf("%llu of %llu clusters are allocated, %llu of them compressed\n", (unsigned long long)r->n_allocated,
		       (unsigned long long)r->n_clusters, (unsigned long long)r->n_compressed);
	printf("Image end offset: %llu\n", (unsigned long long)r->end_bytes);
	return fflush(stdout) ? IMAGE_FAILED : IMAGE_OK;
}

static int status_of(const struct block_check *r)
{
	if (r->n_errors)
		return CHECK_NOT_DONE;
	return r->n_corruptions ? CHECK_CORRUPT : r->n_leaks ? CHECK_LEAKS : CHECK_CLEAN;
}

static int check(const struct image_command *c, const struct command_line *line, struct block_image *i)
{
	const char *repair = command_line_value(line, "repair");
	enum block_repair how = !repair ? BLOCK_REPAIR_NOTHING : strcmp(repair, "all") == 0 ? BLOCK_REPAIR_ALL : BLOCK_REPAIR_LEAKS;
	struct block_check r;
	struct block_info info;
	struct err e = { 0 };
	block_image_info(i, &info);
	int rc = block_check(i, how, &r, &e);
	if (rc < 0) {
		(void)image_fail(c, &e);
		return rc == -ENOTSUP ? CHECK_NO_CHECKS : CHECK_NOT_DONE;
	}
	const char *path = command_line_value(line, "file");
	int printed = command_line_count(line, "json") ? print_json(path, &info, &r) : print_text(&r);
	return printed == IMAGE_OK ? status_of(&r) : printed;
}

static int run(const struct image_command *c, const struct command_line *line)
{
	struct block_params p = {
		.path = command_line_value(line, "file"), .image_type = image_type(command_line_value(line, "format")),
		.is_readonly = !command_line_count(line, "repair"), .is_alone = true, .is_for_check = true,
		.has_discard = true, .log = image_log(c),
	};
	struct block_image *i;
	struct err e = { 0 };
	if (image_open(c, &p, &i, &e) < 0)
		return image_fail(c, &e);
	int status = check(c, line, i);
	if (block_close_durably(i, &e) < 0) {
		(void)image_fail(c, &e);
		return CHECK_NOT_DONE;
	}
	return status;
}

#define ABOUT "Look for damage in an image's tables"
const struct image_command image_check_command = {
	.name = "check", .about = ABOUT, .run = run, .usage_status = CHECK_NOT_DONE, /* 2 would say that it is damaged */
	.table = { .program = "varan image check",
	           .about = ABOUT ". Exit status: 0 none, 1 the check could not be done, 2 errors, "
	                    "3 only leaked clusters, 63 the format has nothing to check",
	           .rows = rows, .n_rows = ARRAY_LEN(rows) },
};

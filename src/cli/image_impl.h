/* SPDX-License-Identifier: Apache-2.0 */
/* image_impl.h - what the commands of `varan image` have in common; for image*.c. */
#pragma once
#include "backend/block.h"
#include "config/command_line.h"

/* Exit statuses; image check has some of its own. */
enum { IMAGE_OK = 0, IMAGE_FAILED = 1, IMAGE_USAGE = 2 };

struct image_command {
	const char *name, *about; /* in a list of commands */
	int usage_status;         /* of a mistake on the command line; 0: IMAGE_USAGE */
	struct option_table table;
	int (*run)(const struct image_command *c, const struct command_line *line); /* the exit status */
};

extern const struct image_command image_create_command, image_info_command, image_check_command, image_convert_command,
	image_resize_command, image_commit_command;

/* --- rows that several commands have --- */

extern const char *const image_formats[], *const image_compressions[], *const image_subformats[]; /* NULL-ended */

#define IMAGE_HELP { .name = "help", .short_name = 'h', .ends_parsing = true, .group = "Options", .help = "Print this help" }
#define IMAGE_FORMAT(name_, of)                                                                                  \
	{ .name = name_, .arity = OPTION_ONE, .group = "Options", .possible_values = image_formats,              \
	  .help = "Format of " of "; the default is what its first bytes say" }
#define IMAGE_BACKING_FILES(what)                                                                                \
	{ .name = "backing-files", .group = "Options", .help = what }
#define IMAGE_JSON                                                                                               \
	{ .name = "json", .group = "Options", .help = "Print JSON, with the names that qemu-img gives" }
#define IMAGE_FORCE                                                                                              \
	{ .name = "force", .group = "Options", .help = "Replace the file if it exists, unless it is in use" }
#define IMAGE_PROGRESS                                                                                           \
	{ .name = "progress", .group = "Options",                                                                \
	  .help = "Tell how far the work is, in lines on standard error; a terminal is told without" },          \
	{ .name = "quiet", .group = "Options", .help = "Do not tell how far the work is" }
#define IMAGE_QCOW2_OPTIONS                                                                                      \
	{ .name = "cluster-size", .arity = OPTION_ONE, .group = "Options",                                       \
	  .help = "qcow2: bytes of a cluster, a power of two from 512 to 2M; the default is 64K" },              \
	{ .name = "compression", .arity = OPTION_ONE, .group = "Options", .possible_values = image_compressions, \
	  .help = "qcow2: how clusters are compressed, where they are; the default is zlib" },                   \
	{ .name = "extended-l2", .group = "Options",                                                             \
	  .help = "qcow2: keep account of 32 subclusters in each cluster, which takes clusters of 16K at least" }, \
	{ .name = "lazy-refcounts", .group = "Options",                                                          \
	  .help = "qcow2: write refcounts when the image is closed, and repair them after a crash" }
#define IMAGE_SUBFORMAT                                                                                          \
	{ .name = "subformat", .arity = OPTION_ONE, .group = "Options", .possible_values = image_subformats,     \
	  .help = "Kind of image: of vhd and vhdx dynamic (the default) or fixed; of vmdk one of the others, "   \
		  "monolithicSparse by default. Flat ones, and those of 2 GiB each, have their data in files "   \
		  "beside the image" }
#define IMAGE_FILE(name_, help_)                                                                                 \
	{ .name = name_, .arity = OPTION_WORD, .is_required = true, .is_path = true, .group = "Arguments", .help = help_ }

/* --- words --- */

enum block_type image_type(const char *word); /* of image_formats; NULL: AUTO */
const char *image_qemu_format(const char *format); /* "vpc" for "vhd" */
/* A number with at most one of K, M, G, T behind it. -EINVAL: a text that names the option. */
int image_size(const char *option, const char *word, uint64_t *ret_bytes, struct err *e);
/* The rows of IMAGE_SUBFORMAT, IMAGE_QCOW2_OPTIONS and --force, and the format. For image_refuse_target(): -EINVAL is a usage
 * error, -ENOTSUP says what is not supported yet. */
int image_read_target(const struct command_line *line, const char *format_option, struct block_create_params *p,
                      struct err *e);
bool image_is_fixed(const struct block_create_params *p); /* all of the disk has its place from the start */
char *image_printable(const char *s); /* a copy that does nothing to a terminal; the caller's, or NULL */

/* --- results --- */

int image_usage(const struct image_command *c, const struct err *e);
/* Says why; ends the process as the signal would have, where one has stopped the work. */
int image_fail(const struct image_command *c, struct err *e);
int image_refuse_target(const struct image_command *c, struct err *e); /* why the words for the target will not do */
/* The exit status after block_create() or block_convert(); says why it is not IMAGE_OK. */
int image_made(const struct image_command *c, const struct block_create_params *p, int rc, struct err *e);
const struct log *image_log(const struct image_command *c); /* warnings, on standard error */
/* block_open(), with the command's own words where files that the image names are not to be opened. */
int image_open(const struct image_command *c, const struct block_params *p, struct block_image **ret_i, struct err *e);
void *image_json_name(const char *s); /* a json_t; '?' where s is not UTF-8. NULL: no memory */
/* A json_t, which is taken, or NULL: no memory. The exit status; says why it is not IMAGE_OK. */
int image_print_json(void *json);

/* --- progress, and being stopped --- */

struct image_progress {
	bool is_line, is_terminal;
	const char *what;
	unsigned n_percent; /* said last */
	uint64_t said_ns;
	bool has_line;      /* the terminal's line is begun */
};

/* From here on SIGINT, SIGTERM and SIGHUP only stop the work, at the next step. */
struct block_progress image_progress_start(struct image_progress *p, const struct image_command *c,
                                           const struct command_line *line);
void image_progress_end(struct image_progress *p);
int image_stop_signal(void); /* 0: none came */
void image_human_bytes(uint64_t n_bytes, char *ret, size_t n_max); /* "1.5 GiB" */

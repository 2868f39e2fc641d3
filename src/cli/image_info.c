/* SPDX-License-Identifier: Apache-2.0 */
/* `varan image info`: what an image says of itself. Nothing in it is trusted, and no file that it names is opened unless
 * that is asked for. */
#include "cli/image_impl.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct option_row rows[] = {
	IMAGE_FORMAT("format", "the image"),
	IMAGE_BACKING_FILES("Tell of all images that it is based on as well; in JSON, a list"),
	{ .name = "force-share", .short_name = 'U', .group = "Options",
	  .help = "Look even while somebody has the image open for writing; what is told may be out of date" },
	IMAGE_JSON,
	IMAGE_HELP,
	IMAGE_FILE("file", "The image"),
};

/* --- JSON --- */

static int add(json_t *o, const char *name, json_t *value)
{
	return json_object_set_new(o, name, value) < 0 ? -ENOMEM : 0;
}

static json_t *qcow2_json(const struct block_info *info)
{
	bool is_v3 = info->version >= 3;
	json_t *o = json_pack("{s:s, s:s, s:i}", "compat", is_v3 ? "1.1" : "0.10", "compression-type",
	                      info->is_zstd ? "zstd" : "zlib", "refcount-bits", (int)info->refcount_bits);
	if (o && is_v3 && (add(o, "lazy-refcounts", json_boolean(info->has_lazy_refcounts)) < 0 ||
	                   add(o, "corrupt", json_boolean(info->is_corrupt)) < 0 ||
	                   add(o, "extended-l2", json_boolean(info->has_extended_l2)) < 0)) {
		json_decref(o);
		return NULL;
	}
	return o ? json_pack("{s:s, s:o}", "type", "qcow2", "data", o) : NULL;
}

static json_t *image_json(const struct block_image *i, const char *path)
{
	struct block_info info;
	block_image_info(i, &info);
	json_t *o = json_pack("{s:o, s:s, s:I, s:I, s:b}", "filename", image_json_name(path), "format",
	                      image_qemu_format(info.format), "virtual-size", (json_int_t)info.n_bytes, "actual-size",
	                      (json_int_t)info.n_allocated_bytes, "dirty-flag", info.is_dirty);
	free_scoped char *full = block_image_backing_path(i);
	int rc = o ? 0 : -ENOMEM;
	if (rc >= 0 && info.cluster_bytes)
		rc = add(o, "cluster-size", json_integer(info.cluster_bytes));
	if (rc >= 0 && info.backing_name)
		rc = add(o, "backing-filename", image_json_name(info.backing_name));
	if (rc >= 0 && full)
		rc = add(o, "full-backing-filename", image_json_name(full));
	if (rc >= 0 && info.backing_format)
		rc = add(o, "backing-filename-format", image_json_name(info.backing_format));
	if (rc >= 0 && info.version)
		rc = add(o, "format-specific", qcow2_json(&info));
	if (rc >= 0 && info.n_snapshots)
		rc = add(o, "snapshot-count", json_integer(info.n_snapshots));
	if (rc < 0) {
		json_decref(o);
		return NULL;
	}
	return o;
}

/* --- text --- */

static void write_flag(struct text *t, const char *name, bool is_set)
{
	text_appendf(t, "    %s: %s\n", name, is_set ? "yes" : "no");
}

static void write_name(struct text *t, const char *what, const char *name)
{
	free_scoped char *printable = name ? image_printable(name) : NULL;
	if (printable)
		text_appendf(t, "%s: %s\n", what, printable);
}

static void write_qcow2(struct text *t, const struct block_info *info)
{
	text_appendf(t, "qcow2:\n    version: %u\n    compression type: %s\n    refcount bits: %u\n    snapshots: %u\n",
	             info->version, info->is_zstd ? "zstd" : "zlib", info->refcount_bits, info->n_snapshots);
	write_flag(t, "lazy refcounts", info->has_lazy_refcounts);
	write_flag(t, "extended L2 entries", info->has_extended_l2);
	write_flag(t, "marked as corrupt", info->is_corrupt);
}

static void write_image(const struct block_image *i, const char *path, struct text *t)
{
	struct block_info info;
	char disk[32], allocated[32];
	block_image_info(i, &info);
	image_human_bytes(info.n_bytes, disk, sizeof disk);
	image_human_bytes(info.n_allocated_bytes, allocated, sizeof allocated);
	write_name(t, "image", path);
	text_appendf(t, "file format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n", info.format, disk,
	             (unsigned long long)info.n_bytes, allocated);
	if (info.cluster_bytes)
		text_appendf(t, "cluster size: %u\n", info.cluster_bytes);
	if (info.is_dirty)
		text_append(t, "not closed in order: yes\n");
	free_scoped char *full = block_image_backing_path(i);
	write_name(t, "backing file", info.backing_name);
	if (full && strcmp(full, info.backing_name) != 0)
		write_name(t, "backing file's path", full);
	write_name(t, "backing file format", info.backing_format);
	if (info.version)
		write_qcow2(t, &info);
}

/* --- all images of a chain --- */

static int print_json(const struct block_image *i, const char *path, bool is_chain)
{
	if (!is_chain)
		return image_print_json(image_json(i, path));
	json_t *list = json_array();
	free_scoped char *next = strdup(path);
	for (; list && next && i; i = block_image_backing(i)) {
		if (json_array_append_new(list, image_json(i, next)) < 0) {
			json_decref(list);
			return image_print_json(NULL);
		}
		free(next);
		next = block_image_backing_path(i);
	}
	return image_print_json(list);
}

static int print_text(const struct block_image *i, const char *path)
{
	text_scoped t = TEXT_INIT;
	free_scoped char *next = strdup(path);
	for (; next && i; i = block_image_backing(i)) {
		if (t.n_bytes)
			text_append_char(&t, '\n');
		write_image(i, next, &t);
		free(next);
		next = block_image_backing_path(i);
	}
	return t.is_out_of_memory || fputs(text_get(&t), stdout) < 0 || fflush(stdout) ? IMAGE_FAILED : IMAGE_OK;
}

static int run(const struct image_command *c, const struct command_line *line)
{
	const char *path = command_line_value(line, "file");
	bool is_chain = command_line_count(line, "backing-files");
	struct block_params p = {
		.path = path, .image_type = image_type(command_line_value(line, "format")), .is_readonly = true,
		.is_alone = !is_chain, .may_use_backing_files = is_chain, .has_no_lock = command_line_count(line, "force-share"),
		.log = image_log(c),
	};
	struct block_image *i;
	struct err e = { 0 };
	int rc = image_open(c, &p, &i, &e);
	if (rc == -EBUSY && is_chain) { /* which of them, the text says */
		struct err why = e;
		(void)err_set(&e, EBUSY, "%s (--force-share looks all the same)", why.text);
	} else if (rc == -EBUSY) {
		(void)err_set(&e, EBUSY, "cannot open '%.300s': it is open for writing by another process (--force-share looks all "
		              "the same)", path);
	}
	if (rc < 0)
		return image_fail(c, &e);
	int status = command_line_count(line, "json") ? print_json(i, path, is_chain) : print_text(i, path);
	block_close(i);
	return status;
}

#define ABOUT "Tell what an image is"
const struct image_command image_info_command = {
	.name = "info", .about = ABOUT, .run = run,
	.table = { .program = "varan image info", .about = ABOUT, .rows = rows, .n_rows = ARRAY_LEN(rows) },
};

/* SPDX-License-Identifier: Apache-2.0 */
/* Words of the command line, and what is said to people. */
#include "cli/image_impl.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "schema/words.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const image_formats[] = { "raw", "qcow2", "vhd", "vhdx", "vmdk", NULL };
const char *const image_compressions[] = { "zlib", "zstd", NULL };

/* qemu-img's names. */
const char *const image_subformats[] = { "dynamic", "fixed", "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
	                                 "twoGbMaxExtentFlat", "streamOptimized", NULL };

enum block_type image_type(const char *word)
{
	static const enum block_type types[] = { BLOCK_TYPE_RAW, BLOCK_TYPE_QCOW2, BLOCK_TYPE_VHD, BLOCK_TYPE_VHDX,
		                                 BLOCK_TYPE_VMDK };
	for (size_t i = 0; word && image_formats[i]; i++)
		if (strcmp(word, image_formats[i]) == 0)
			return types[i];
	return BLOCK_TYPE_AUTO;
}

const char *image_qemu_format(const char *format)
{
	return strcmp(format, "vhd") == 0 ? "vpc" : format;
}

int image_size(const char *option, const char *word, uint64_t *ret_bytes, struct err *e)
{
	size_t n = strlen(word);
	bool is_tera = n && (word[n - 1] == 'T' || word[n - 1] == 't');
	free_scoped char *digits = strndup(word, n - is_tera);
	bool is_size = digits && (is_tera ? word_to_number(digits, ret_bytes) : word_to_size(word, ret_bytes));
	if (!is_size || (is_tera && !checked_mul(*ret_bytes, 1ull << 40, ret_bytes)) || *ret_bytes > INT64_MAX)
		return err_set(e, EINVAL, "invalid value '%s' for '%s': bytes, or a number with K, M, G or T behind it, "
		               "below 8388608T", word, option);
	return 0;
}

static int read_cluster_size(const struct command_line *line, struct block_create_params *p, struct err *e)
{
	const char *word = command_line_value(line, "cluster-size");
	if (!word)
		return 0;
	int rc = image_size("--cluster-size <cluster-size>", word, &p->cluster_bytes, e);
	if (rc < 0)
		return rc;
	if (!is_power_of_two(p->cluster_bytes) || p->cluster_bytes < 512 || p->cluster_bytes > 2u << 20)
		return err_set(e, EINVAL, "invalid value '%s' for '--cluster-size <cluster-size>': a power of two from 512 to 2M",
		               word);
	return 0;
}

static int read_subformat(const struct command_line *line, const char *format_option, struct block_create_params *p,
                          struct err *e)
{
	/* As in image_subformats; streamOptimized has none. */
	static const struct {
		enum block_subformat subformat;
		bool is_vmdk;
	} kinds[] = {
		{ BLOCK_SUBFORMAT_DYNAMIC, false }, { BLOCK_SUBFORMAT_FIXED, false },
		{ BLOCK_SUBFORMAT_MONOLITHIC_SPARSE, true }, { BLOCK_SUBFORMAT_MONOLITHIC_FLAT, true },
		{ BLOCK_SUBFORMAT_TWO_GB_SPARSE, true }, { BLOCK_SUBFORMAT_TWO_GB_FLAT, true },
		{ BLOCK_SUBFORMAT_DEFAULT, true },
	};
	const char *word = command_line_value(line, "subformat");
	unsigned k = 0;
	if (!word)
		return 0;
	while (strcmp(image_subformats[k], word) != 0)
		k++;
	bool is_of_format = kinds[k].is_vmdk ? p->type == BLOCK_TYPE_VMDK :
		                               p->type == BLOCK_TYPE_VHD || p->type == BLOCK_TYPE_VHDX;
	if (!is_of_format)
		return err_set(e, EINVAL, "invalid value '%s' for '--subformat <subformat>': that is a kind of '--%s %s'", word,
		               format_option, kinds[k].is_vmdk ? "vmdk" : "vhd' or 'vhdx");
	if (kinds[k].subformat == BLOCK_SUBFORMAT_DEFAULT)
		return err_set(e, ENOTSUP, "not supported yet: --subformat %s", word);
	p->subformat = kinds[k].subformat;
	return 0;
}

bool image_is_fixed(const struct block_create_params *p)
{
	return p->subformat == BLOCK_SUBFORMAT_FIXED || p->subformat == BLOCK_SUBFORMAT_MONOLITHIC_FLAT ||
	       p->subformat == BLOCK_SUBFORMAT_TWO_GB_FLAT;
}

int image_read_target(const struct command_line *line, const char *format_option, struct block_create_params *p,
                      struct err *e)
{
	static const char *const ours[] = { "cluster-size", "compression", "extended-l2", "lazy-refcounts" };
	const char *compression = command_line_value(line, "compression"), *format = command_line_value(line, format_option);
	p->type = image_type(format);
	p->may_replace = command_line_count(line, "force");
	p->has_extended_l2 = command_line_count(line, "extended-l2");
	p->has_lazy_refcounts = command_line_count(line, "lazy-refcounts");
	p->is_zstd = compression && strcmp(compression, "zstd") == 0;
	for (size_t i = 0; i < ARRAY_LEN(ours); i++)
		if (p->type != BLOCK_TYPE_QCOW2 && command_line_count(line, ours[i]))
			return err_set(e, EINVAL, "the argument '--%s' is for '--%s qcow2' only", ours[i], format_option);
	int rc = read_subformat(line, format_option, p, e);
	if (rc >= 0)
		rc = read_cluster_size(line, p, e);
	if (rc >= 0 && p->has_extended_l2 && p->cluster_bytes && p->cluster_bytes < 16384)
		rc = err_set(e, EINVAL, "invalid value '%s' for '--cluster-size <cluster-size>': '--extended-l2' needs 16K at "
		             "least", command_line_value(line, "cluster-size"));
	return rc;
}

char *image_printable(const char *s)
{
	char *copy = strdup(s);
	for (char *c = copy; c && *c; c++)
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	return copy;
}

/* --- results --- */

int image_usage(const struct image_command *c, const struct err *e)
{
	text_scoped t = TEXT_INIT;
	command_line_write_usage_error(&c->table, e, &t);
	fputs(text_get(&t), stderr);
	return IMAGE_USAGE;
}

int image_fail(const struct image_command *c, struct err *e)
{
	int stopped = image_stop_signal();
	err_flatten(e);
	free_scoped char *text = image_printable(e->text);
	fprintf(stderr, "%s: %s\n", c->table.program, text ? text : "out of memory");
	if (stopped && e->code == ECANCELED) {
		(void)signal(stopped, SIG_DFL);
		(void)raise(stopped);
	}
	return IMAGE_FAILED;
}

int image_refuse_target(const struct image_command *c, struct err *e)
{
	return e->code == ENOTSUP ? image_fail(c, e) : image_usage(c, e);
}

int image_made(const struct image_command *c, const struct block_create_params *p, int rc, struct err *e)
{
	if (rc >= 0)
		return IMAGE_OK;
	if (rc == -EEXIST && !p->may_replace)
		(void)err_set(e, EEXIST, "cannot create '%.300s': it exists already (--force replaces it)", p->path);
	return image_fail(c, e);
}

static void print_record(void *context, const struct log_record *r)
{
	free_scoped char *text = image_printable(r->text);
	(void)context;
	fprintf(stderr, "varan image: %s: %s\n", r->level == LOG_ERROR ? "error" : "warning", text ? text : "");
}

const struct log *image_log(const struct image_command *c)
{
	static const struct log_sink sink = { .write = print_record, .max_level = LOG_WARN };
	static const struct log log = { .sink = &sink, .object = "image" };
	(void)c;
	return &log;
}

static bool has_row(const struct image_command *c, const char *name)
{
	for (size_t i = 0; i < c->table.n_rows; i++)
		if (strcmp(c->table.rows[i].name, name) == 0)
			return true;
	return false;
}

int image_open(const struct image_command *c, const struct block_params *p, struct block_image **ret_i, struct err *e)
{
	int rc = block_open(p, ret_i, e);
	if (rc != -BLOCK_NEEDS_OTHERS)
		return rc;
	const char *way = has_row(c, "backing-files") ? "are opened with --backing-files only" :
		"this command does not open; 'varan image convert --backing-files' makes one image of them";
	return err_set(e, BLOCK_NEEDS_OTHERS, "cannot open '%.200s': it consists of, or is based on, other files, which %s",
	               p->path, way);
}

/* Names in images and file systems need not be UTF-8. */
void *image_json_name(const char *s)
{
	if (word_is_utf8(s, strlen(s)))
		return json_string(s);
	free_scoped char *copy = strdup(s);
	for (char *c = copy; c && *c; c++)
		if (*c & 0x80)
			*c = '?';
	return copy ? json_string(copy) : NULL;
}

int image_print_json(void *json)
{
	json_t *o = json;
	bool is_printed = o && json_dumpf(o, stdout, JSON_INDENT(4)) >= 0 && putchar('\n') != EOF && fflush(stdout) == 0;
	if (!is_printed)
		fprintf(stderr, "varan image: the JSON cannot be %s\n", o ? "written" : "made: out of memory");
	json_decref(o);
	return is_printed ? IMAGE_OK : IMAGE_FAILED;
}

// SPDX-License-Identifier: Apache-2.0
/* VMDK: the descriptor (VMware, Virtual Disk Format 5.0, "The Descriptor File").
 *
 * Lines of "key = value", lines that name extents ("RW 4192256 SPARSE "disk-s001.vmdk""), comments. Whoever wrote the
 * text must not choose among the host's files: an extent is a plain name, of a file beside the descriptor. */
#include "backend/block_vmdk.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* The rest of a line. */
struct cursor {
	const char *at, *end;
};

static void skip_blanks(struct cursor *c)
{
	while (c->at < c->end && (*c->at == ' ' || *c->at == '\t'))
		c->at++;
}

static bool is_word(const struct cursor *word, const char *s)
{
	size_t n = strlen(s);
	return (size_t)(word->end - word->at) == n && strncasecmp(word->at, s, n) == 0;
}

static struct cursor take_word(struct cursor *c)
{
	skip_blanks(c);
	struct cursor word = { c->at, c->at };
	while (c->at < c->end && *c->at != ' ' && *c->at != '\t')
		c->at++;
	word.end = c->at;
	return word;
}

static bool take_number(struct cursor *c, uint64_t *ret_n)
{
	struct cursor word = take_word(c);
	uint64_t n = 0;
	if (word.at == word.end)
		return false;
	for (; word.at < word.end; word.at++) {
		if (!isdigit((unsigned char)*word.at) || !checked_mul(n, 10u, &n) ||
		    !checked_add(n, (uint64_t)(*word.at - '0'), &n))
			return false;
	}
	*ret_n = n;
	return true;
}

/* "text in quotes", without them. */
static bool take_quoted(struct cursor *c, struct cursor *ret_word)
{
	skip_blanks(c);
	if (c->at == c->end || *c->at != '"')
		return false;
	const char *start = ++c->at;
	while (c->at < c->end && *c->at != '"')
		c->at++;
	if (c->at == c->end)
		return false;
	*ret_word = (struct cursor){ start, c->at++ };
	return true;
}

/* --- extents --- */

static int take_name(struct cursor *c, struct vmdk_line *l, struct err *e)
{
	struct cursor name;
	if (!take_quoted(c, &name) || name.at == name.end || (size_t)(name.end - name.at) > VMDK_MAX_NAME_BYTES)
		return err_set(e, EINVAL, "its VMDK descriptor has an extent without a valid file name");
	size_t n = (size_t)(name.end - name.at);
	memcpy(l->name, name.at, n);
	l->name[n] = 0;
	if (memchr(l->name, '/', n) || strcmp(l->name, ".") == 0 || strcmp(l->name, "..") == 0)
		return err_set(e, EACCES, "its VMDK descriptor names '%s', which is not in the image's own folder", l->name);
	return 0;
}

static int take_type(struct cursor *c, struct vmdk_line *l, struct err *e)
{
	struct cursor type = take_word(c);
	int rc;
	if (is_word(&type, "ZERO")) {
		l->type = VMDK_ZERO;
		return 0;
	}
	if (is_word(&type, "FLAT") || is_word(&type, "VMFS"))
		l->type = VMDK_FLAT;
	else if (is_word(&type, "SPARSE"))
		l->type = VMDK_SPARSE;
	else
		return err_set(e, ENOTSUP, "not supported yet: VMDK extents of the type '%.*s'",
		               (int)min_u64((uint64_t)(type.end - type.at), 32), type.at);
	rc = take_name(c, l, e);
	skip_blanks(c);
	if (rc >= 0 && l->type == VMDK_FLAT && c->at < c->end && !take_number(c, &l->offset_sectors))
		rc = err_set(e, EINVAL, "its VMDK descriptor has an extent with an invalid offset");
	return rc;
}

static int take_extent(struct vmdk_descriptor *d, struct cursor line, enum vmdk_access access, struct err *e)
{
	struct vmdk_line l = { .access = access };
	if (d->n_lines == VMDK_MAX_EXTENTS)
		return err_set(e, E2BIG, "its VMDK descriptor has more than %u extents", VMDK_MAX_EXTENTS);
	if (!take_number(&line, &l.n_sectors) || l.n_sectors == 0 || l.n_sectors > (64ull << 40) / VMDK_SECTOR_BYTES)
		return err_set(e, EINVAL, "its VMDK descriptor has an extent with an invalid number of sectors");
	int rc = take_type(&line, &l, e);
	if (rc >= 0 && l.offset_sectors > (64ull << 40) / VMDK_SECTOR_BYTES)
		rc = err_set(e, EINVAL, "its VMDK descriptor has an extent with an invalid offset");
	if (rc < 0)
		return rc;
	struct vmdk_line *lines = reallocarray(d->lines, d->n_lines + 1, sizeof *lines);
	if (!lines)
		return err_set(e, ENOMEM, "no memory for its VMDK descriptor");
	d->lines = lines;
	d->lines[d->n_lines++] = l;
	return 0;
}

/* --- keys --- */

static bool is_kind(const struct cursor *value, struct vmdk_descriptor *d)
{
	static const char *const kinds[] = {
		"monolithicFlat", "twoGbMaxExtentFlat", "2GbMaxExtentFlat", "vmfs", "monolithicSparse",
		"twoGbMaxExtentSparse", "2GbMaxExtentSparse",
	};
	d->is_stream = is_word(value, "streamOptimized");
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		if (is_word(value, kinds[k]))
			return true;
	}
	return d->is_stream;
}

static bool is_hex(const struct cursor *word)
{
	for (const char *p = word->at; p < word->end; p++) {
		if (!isxdigit((unsigned char)*p))
			return false;
	}
	return word->at < word->end;
}

struct seen {
	bool has_kind, has_version, has_parent;
};

static int take_key(struct vmdk_descriptor *d, const char *text, struct cursor key, struct cursor value,
                    struct seen *s, struct err *e)
{
	struct cursor quoted = value;
	if (!take_quoted(&quoted, &value))
		value = take_word(&value);
	const int n = (int)min_u64((uint64_t)(value.end - value.at), 32);
	if (is_word(&key, "version")) {
		s->has_version = true;
		if (!is_word(&value, "1") && !is_word(&value, "2") && !is_word(&value, "3"))
			return err_set(e, EINVAL, "its VMDK descriptor has version '%.*s', which is not known", n, value.at);
	} else if (is_word(&key, "CID")) {
		d->has_cid = is_hex(&value) && value.end - value.at == VMDK_CID_DIGITS;
		d->cid_at = (uint64_t)(value.at - text);
	} else if (is_word(&key, "parentCID")) {
		s->has_parent = !is_word(&value, "ffffffff");
	} else if (is_word(&key, "createType")) {
		s->has_kind = true;
		if (!is_kind(&value, d))
			return err_set(e, ENOTSUP, "not supported yet: VMDK images of the type '%.*s'", n, value.at);
	}
	if (s->has_parent || is_word(&key, "parentFileNameHint"))
		return err_set(e, ENOTSUP, "not supported yet: it is a VMDK image that has a parent");
	return 0;
}

/* --- the text --- */

static int take_line(struct vmdk_descriptor *d, const char *text, struct cursor line, struct seen *s, struct err *e)
{
	skip_blanks(&line);
	while (line.end > line.at && isspace((unsigned char)line.end[-1]))
		line.end--;
	if (line.at == line.end || *line.at == '#')
		return 0;
	struct cursor rest = line, word = take_word(&rest);
	if (is_word(&word, "RW"))
		return take_extent(d, rest, VMDK_RW, e);
	if (is_word(&word, "RDONLY"))
		return take_extent(d, rest, VMDK_RDONLY, e);
	if (is_word(&word, "NOACCESS"))
		return err_set(e, ENOTSUP, "not supported yet: VMDK extents without access");
	const char *equals = memchr(line.at, '=', (size_t)(line.end - line.at));
	if (!equals)
		return 0;
	struct cursor key = { line.at, equals }, value = { equals + 1, line.end };
	while (key.end > key.at && isspace((unsigned char)key.end[-1]))
		key.end--;
	skip_blanks(&value);
	return take_key(d, text, key, value, s, e);
}

int vmdk_descriptor_parse(const char *text, size_t n_bytes, struct vmdk_descriptor *ret_d, struct err *e)
{
	struct vmdk_descriptor *d = ret_d;
	struct seen s = { 0 };
	static const char title[] = "# Disk DescriptorFile";
	const char *end = text + strnlen(text, n_bytes);

	*d = (struct vmdk_descriptor){ 0 };
	if ((size_t)(end - text) < sizeof title - 1 || strncasecmp(text, title, sizeof title - 1) != 0)
		return err_set(e, EINVAL, "it is no VMDK image: it has neither a sparse header nor a descriptor");
	for (const char *at = text; at < end;) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		struct cursor line = { at, newline ? newline : end };
		int rc = take_line(d, text, line, &s, e);
		if (rc < 0)
			return rc;
		at = newline ? newline + 1 : end;
	}
	if (!s.has_version || !s.has_kind || d->n_lines == 0)
		return err_set(e, EINVAL, "its VMDK descriptor lacks version, createType or extents");
	return 0;
}

void vmdk_descriptor_done(struct vmdk_descriptor *d)
{
	free(d->lines);
	d->lines = NULL;
	d->n_lines = 0;
}

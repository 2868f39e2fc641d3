/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/remote_show.h"

#include "base/checked.h"
#include "base/text.h"
#include "schema/words.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define MAX_COLUMNS 4
#define COLUMN_GAP 2
#define MAX_SURE_DIGITS 18

/* Takes one character off *s, or a byte that belongs to none; returns how many of its bytes may be shown, 0: none. */
static size_t next_char(const char **s)
{
	const char *start = *s;
	unsigned char c = (unsigned char)*start;
	size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

	if (strnlen(start, n) < n || !word_is_utf8(start, n)) {
		*s += 1;
		return 0;
	}
	*s += n;
	if (n == 1)
		return c >= 0x20 && c != 0x7f;
	return c == 0xc2 && (unsigned char)start[1] < 0xa0 ? 0 : n; /* U+0080 to U+009F */
}

static size_t width_of(const char *s)
{
	size_t n = 0;
	for (; *s; n++)
		(void)next_char(&s);
	return n;
}

void show_text(const char *s, FILE *f)
{
	while (*s) {
		const char *start = s;
		size_t n = next_char(&s);
		if (n)
			(void)fwrite(start, 1, n, f);
		else
			(void)putc('?', f);
	}
}

void show_cell(const char *s, size_t width, FILE *f)
{
	show_text(s, f);
	for (size_t n = width_of(s); n < width; n++)
		(void)putc(' ', f);
}

/* Lines of cells, each as wide as its column's widest; the last column is not padded. */
struct table {
	unsigned n_columns;
	size_t n_lines;
	char *(*cells)[MAX_COLUMNS];
	bool is_out_of_memory;
};

static void table_add(struct table *t, const char *const cells[])
{
	char *(*grown)[MAX_COLUMNS] = reallocarray(t->cells, t->n_lines + 1, sizeof *grown);
	if (!grown) {
		t->is_out_of_memory = true;
		return;
	}
	t->cells = grown;
	for (unsigned i = 0; i < t->n_columns; i++) {
		grown[t->n_lines][i] = strdup(cells[i] ? cells[i] : "");
		t->is_out_of_memory |= !grown[t->n_lines][i];
	}
	t->n_lines++;
}

static void table_print(const struct table *t)
{
	size_t width[MAX_COLUMNS] = { 0 };
	for (size_t i = 0; i < t->n_lines; i++)
		for (unsigned k = 0; k < t->n_columns; k++)
			width[k] = max_u64(width[k], width_of(t->cells[i][k]));
	for (size_t i = 0; i < t->n_lines; i++) {
		unsigned n_used = t->n_columns; /* nothing is padded at the end of a line */
		while (n_used && !*t->cells[i][n_used - 1])
			n_used--;
		for (unsigned k = 0; k < n_used; k++) {
			show_cell(t->cells[i][k], k + 1 < n_used ? width[k] + COLUMN_GAP : 0, stdout);
		}
		printf("\n");
	}
}

/* Prints it, if it is whole, and frees it. */
static int table_finish(struct table *t, struct err *e)
{
	int rc = t->is_out_of_memory ? err_set(e, ENOMEM, "out of memory") : 0;
	if (rc == 0)
		table_print(t);
	for (size_t i = 0; i < t->n_lines; i++)
		for (unsigned k = 0; k < t->n_columns; k++)
			free(t->cells[i][k]);
	free(t->cells);
	*t = (struct table){ 0 };
	return rc;
}

/* The same document, with quotes around its whole numbers of more digits than a json_int_t is sure to hold. */
static void quote_large_numbers(const char *body, size_t n_body, struct text *t)
{
	bool is_in_string = false;
	for (size_t i = 0; i < n_body; i++) {
		size_t n = 0;
		while (!is_in_string && i + n < n_body && body[i + n] >= '0' && body[i + n] <= '9')
			n++;
		if (n > MAX_SURE_DIGITS && i && strchr(":,[ \t\r\n", body[i - 1]) && i + n < n_body &&
		    strchr(",]} \t\r\n", body[i + n])) {
			text_append_char(t, '"');
			for (size_t k = 0; k < n; k++)
				text_append_char(t, body[i + k]);
			text_append_char(t, '"');
			i += n - 1;
			continue;
		}
		if (body[i] == '"')
			is_in_string = !is_in_string;
		text_append_char(t, body[i]);
		if (is_in_string && body[i] == '\\' && i + 1 < n_body)
			text_append_char(t, body[++i]);
	}
}

int answer_parse(const char *body, size_t n_body, json_t **ret_json, struct err *e)
{
	json_error_t why;
	if (!body)
		return err_set(e, EPROTO, "the answer is empty");
	json_t *json = json_loadb(body, n_body, JSON_REJECT_DUPLICATES, &why);
	if (!json && json_error_code(&why) == json_error_numeric_overflow) {
		text_scoped t = TEXT_INIT;
		quote_large_numbers(body, n_body, &t);
		if (t.is_out_of_memory)
			return err_set(e, ENOMEM, "out of memory");
		json = json_loadb(t.bytes, t.n_bytes, JSON_REJECT_DUPLICATES, &why);
	}
	if (!json_is_object(json)) {
		bool is_json = json;
		json_decref(json);
		return err_set(e, EPROTO, "the answer is not a JSON object%s%s", is_json ? "" : ": ", is_json ? "" : why.text);
	}
	*ret_json = json;
	return 0;
}

/* jansson's iterators take objects that may change; nothing is changed here. */
static json_t *mutable_json(const json_t *j)
{
	return (json_t *)(uintptr_t)j;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "";
}

static uint64_t number_of(const json_t *object, const char *key)
{
	json_int_t v = json_integer_value(json_object_get(object, key));
	return v < 0 ? 0 : (uint64_t)v;
}

/* In the largest unit that leaves no remainder. */
static void append_size(struct text *t, uint64_t n_bytes)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB" };
	unsigned unit = 0;
	for (; n_bytes && n_bytes % 1024 == 0 && unit + 1 < ARRAY_LEN(units); unit++)
		n_bytes /= 1024;
	text_appendf(t, "%" PRIu64 " %s", n_bytes, units[unit]);
}

static void add_pair(struct table *t, const char *name, const char *value)
{
	if (*value)
		table_add(t, (const char *const[]){ name, value });
}

int show_ping(const char *body, size_t n_body, struct err *e)
{
	struct table t = { .n_columns = 2 };
	text_scoped features = TEXT_INIT, pid = TEXT_INIT;
	json_t *json, *feature;
	size_t i;
	int rc = answer_parse(body, n_body, &json, e);
	if (rc < 0)
		return rc;
	json_array_foreach(json_object_get(json, "features"), i, feature)
		text_appendf(&features, "%s%s", i ? ", " : "", json_is_string(feature) ? json_string_value(feature) : "?");
	if (number_of(json, "pid"))
		text_appendf(&pid, "%" PRIu64, number_of(json, "pid"));
	add_pair(&t, "version", text_of(json, "version"));
	add_pair(&t, "build", text_of(json, "build_version"));
	add_pair(&t, "process", text_get(&pid));
	add_pair(&t, "features", text_get(&features));
	json_decref(json);
	return table_finish(&t, e);
}

static void add_memory(struct table *t, const json_t *info, const json_t *config)
{
	text_scoped s = TEXT_INIT;
	const json_t *memory = json_object_get(config, "memory"), *zone;
	uint64_t configured = number_of(memory, "size");
	size_t i;
	json_array_foreach(json_object_get(memory, "zones"), i, zone)
		configured += number_of(zone, "size");
	append_size(&s, configured);
	if (json_object_get(info, "memory_actual_size") && number_of(info, "memory_actual_size") != configured) {
		text_append(&s, ", now ");
		append_size(&s, number_of(info, "memory_actual_size"));
	}
	if (json_is_true(json_object_get(memory, "shared")))
		text_append(&s, ", shared");
	if (json_is_true(json_object_get(memory, "hugepages")))
		text_append(&s, ", huge pages");
	add_pair(t, "memory", text_get(&s));
}

static void add_vcpus(struct table *t, const json_t *config)
{
	text_scoped s = TEXT_INIT;
	const json_t *cpus = json_object_get(config, "cpus");
	uint64_t boot = number_of(cpus, "boot_vcpus"), max = number_of(cpus, "max_vcpus");
	if (!boot)
		return;
	text_appendf(&s, "%" PRIu64, boot);
	if (max > boot)
		text_appendf(&s, ", at most %" PRIu64, max);
	add_pair(t, "vCPUs", text_get(&s));
}

/* "Pty /dev/pts/3", "File /tmp/log", "Off". */
static void add_console(struct table *t, const json_t *config, const char *name)
{
	text_scoped s = TEXT_INIT;
	const json_t *console = json_object_get(config, name);
	text_append(&s, text_of(console, "mode"));
	if (*text_of(console, "file"))
		text_appendf(&s, " %s", text_of(console, "file"));
	else if (*text_of(console, "socket"))
		text_appendf(&s, " %s", text_of(console, "socket"));
	add_pair(t, name, text_get(&s));
}

/* What a device is made of: of the configuration's objects, the one with its id. */
static void describe(const json_t *config, const char *id, const char **ret_kind, struct text *details)
{
	static const struct {
		const char *list, *kind;
		const char *keys[4];
	} kinds[] = {
		{ "disks", "disk", { "path", "vhost_socket" } },
		{ "net", "net", { "tap", "mac", "vhost_socket" } },
		{ "fs", "fs", { "tag", "socket" } },
		{ "pmem", "pmem", { "file" } },
		{ "devices", "VFIO", { "path" } },
		{ "user_devices", "vfio-user", { "socket" } },
		{ "generic_vhost_user", "vhost-user", { "socket" } },
		{ "vdpa", "vDPA", { "path" } },
		{ "vsock", "vsock", { "socket" } },
		{ "balloon", "balloon", { NULL } },
	};
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		const json_t *list = json_object_get(config, kinds[i].list);
		size_t n = json_is_array(list) ? json_array_size(list) : 1;
		for (size_t k = 0; k < n; k++) {
			const json_t *o = json_is_array(list) ? json_array_get(list, k) : list;
			if (strcmp(text_of(o, "id"), id) != 0)
				continue;
			*ret_kind = kinds[i].kind;
			for (const char *const *key = kinds[i].keys; *key; key++)
				if (*text_of(o, *key))
					text_appendf(details, "%s%s", details->n_bytes ? " " : "", text_of(o, *key));
			if (json_is_true(json_object_get(o, "readonly")))
				text_append(details, " (read-only)");
			return;
		}
	}
}

static int show_devices(const json_t *info, const json_t *config, struct err *e)
{
	struct table t = { .n_columns = 4 };
	const json_t *tree = json_object_get(info, "device_tree"), *node;
	const char *id;
	table_add(&t, (const char *const[]){ "DEVICE", "PCI ADDRESS", "KIND", "DETAILS" });
	json_object_foreach(mutable_json(tree), id, node) {
		text_scoped details = TEXT_INIT;
		const char *kind = "", *bdf = text_of(node, "pci_bdf");
		/* Of a virtio device there are two nodes, it and its transport, which has the address. */
		if (!*bdf)
			bdf = text_of(json_object_get(tree, text_of(node, "parent")), "pci_bdf");
		if (strncmp(id, "_virtio-pci-", 12) == 0 && json_array_size(json_object_get(node, "children")))
			continue;
		describe(config, id, &kind, &details);
		if (json_is_true(json_object_get(node, "being_removed")))
			text_appendf(&details, "%sbeing removed", details.n_bytes ? ", " : "");
		table_add(&t, (const char *const[]){ id, bdf, kind, text_get(&details) });
	}
	printf("\n");
	return table_finish(&t, e);
}

int show_info(const char *body, size_t n_body, struct err *e)
{
	struct table t = { .n_columns = 2 };
	json_t *json;
	int rc = answer_parse(body, n_body, &json, e);
	if (rc < 0)
		return rc;
	const json_t *config = json_object_get(json, "config"), *payload = json_object_get(config, "payload");
	add_pair(&t, "state", text_of(json, "state"));
	add_vcpus(&t, config);
	add_memory(&t, json, config);
	for (size_t i = 0; i < 4; i++) {
		static const char *const parts[] = { "kernel", "firmware", "initramfs", "cmdline" };
		add_pair(&t, parts[i], text_of(payload, parts[i]));
	}
	add_console(&t, config, "serial");
	add_console(&t, config, "console");
	rc = table_finish(&t, e);
	if (rc == 0 && json_object_size(json_object_get(json, "device_tree")))
		rc = show_devices(json, config, e);
	json_decref(json);
	return rc;
}

int show_counters(const char *body, size_t n_body, struct err *e)
{
	struct table t = { .n_columns = 3 };
	const char *device, *counter;
	json_t *json, *counters, *value;
	int rc = answer_parse(body, n_body, &json, e);
	if (rc < 0)
		return rc;
	table_add(&t, (const char *const[]){ "DEVICE", "COUNTER", "VALUE" });
	json_object_foreach(json, device, counters) {
		json_object_foreach(counters, counter, value) {
			char number[32] = "?";
			if (json_is_integer(value))
				(void)snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
			const char *s = json_string_value(value); /* a large number, see answer_parse() */
			table_add(&t, (const char *const[]){ device, counter, s ? s : number });
		}
	}
	rc = table_finish(&t, e);
	json_decref(json);
	return rc;
}

int show_added(const char *body, size_t n_body, struct err *e)
{
	json_t *json;
	if (!body) {
		printf("added to the configuration: it will be there when the VM boots\n");
		return 0;
	}
	int rc = answer_parse(body, n_body, &json, e);
	if (rc < 0)
		return rc;
	show_text(text_of(json, "id"), stdout);
	printf(" at PCI address ");
	show_text(text_of(json, "bdf"), stdout);
	printf("\n");
	json_decref(json);
	return 0;
}

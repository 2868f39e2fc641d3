/* SPDX-License-Identifier: Apache-2.0 */
/* Test vectors of the configuration language: `vectors PROGRAM FILE...`; TAP on standard output, a point per vector.
 *
 * A vector is two lines: "NUMBER KIND INPUT", and what becomes of it. Numbers are for finding a vector; those that begin
 * with x came later. Lines that begin with '#' are comments. In inputs and results, the sign U+2420 stands for a space,
 * where one would not be seen. KIND@FEATURE: only for builds with that feature, or for that architecture; others skip it,
 * and say so. Kinds:
 *
 *   an option's name  the input is its option string, parsed alone
 *   line              arguments for the program, which gets --dry-run besides; K stands for a kernel; "..." holds spaces
 *   json              a configuration, read, validated and completed
 *   api-socket, event-monitor, seccomp, log   the option of the process, or the arguments
 *
 * Results:
 *
 *   = JSON      accepted; the members that differ from an untouched object (with K: that has K for its kernel). Of the
 *               kind json: whether there is an IOMMU. For options of the process: words
 *   == JSON     accepted; the same as this whole configuration     != JSON  accepted, and not the same
 *   ! TEXT      refused with this text; of a line, behind "Error parsing config: "
 *   !! TEXT     of a line: refused with this text alone            begins TEXT  or one that begins with it
 *   unread TEXT of a json: refused while it was read
 *   usage TEXT  of a line: a usage error that says so
 *   has TEXT    accepted, and the JSON of it has this in it (for numbers beyond what is read back)
 *   idle        of a line: nothing is started
 *   restore JSON   of a line: restored, with these members besides the defaults
 *   exit STATUS out|err TEXT   of a line, without --dry-run: ends so, with the text somewhere in that stream */
#include "base/text.h"
#include "config/options.h"
#include "config/vmm_config.h"
#include "schema/schema.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_WORDS 64
#define HANG_GUARD_S 30
#define KERNEL "/path/to/kernel"

struct vector {
	char *number, *kind, *feature, *input, *mark, *expected; /* feature may be NULL */
};

static struct text fault; /* why the vector at hand fails; empty: it does not */

static void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void fail(const char *fmt, ...)
{
	char *words = NULL;
	va_list ap;
	va_start(ap, fmt);
	if (vasprintf(&words, fmt, ap) < 0)
		abort();
	va_end(ap);
	text_appendf(&fault, "%s%s", fault.n_bytes ? "; " : "", words);
	free(words);
}

static void same_text(const char *found, const char *expected)
{
	if (strcmp(found, expected) != 0)
		fail("'%s' instead of '%s'", found, expected);
}

static bool is_mark(const struct vector *v, const char *mark)
{
	return strcmp(v->mark, mark) == 0;
}

static bool has_feature(const char *feature)
{
#ifdef __aarch64__
	return strcmp(feature, "aarch64") == 0;
#else
	return strcmp(feature, "x86_64") == 0;
#endif
}

/* --- objects ------------------------------------------------------------------------------------------------------------ */

static char *json_of(const struct schema *s, const void *object)
{
	struct text t = TEXT_INIT;
	struct err e = { 0 };
	char *json = NULL;
	if (schema_write_json(s, object, SCHEMA_LARGE_NUMBERS, &t, &e) < 0)
		fail("no JSON: %s", e.text);
	if (text_take(&t, &json) < 0 || !json)
		abort();
	return json;
}

/* Descriptors do not travel in JSON: they are put in from the text. */
static void put_descriptors(const struct schema *s, void *object, json_t *differences)
{
	json_t *fds = json_object_get(differences, "fds"), *list = json_object_get(differences, "net_fds");
	struct net_config *net = object;
	struct restore_config *restore = object;
	for (size_t i = 0; s == &net_schema && i < json_array_size(fds); i++)
		net->fds[i] = (int32_t)json_integer_value(json_array_get(fds, i));
	for (size_t k = 0; s == &restore_schema && k < json_array_size(list); k++) {
		fds = json_object_get(json_array_get(list, k), "fds");
		for (size_t i = 0; i < json_array_size(fds); i++)
			restore->net_fds[k].fds[i] = (int32_t)json_integer_value(json_array_get(fds, i));
	}
}

/* The object that `whole` describes, or that differs from an untouched one by `differences`. False: it has no sense. */
static bool make_expected(const struct schema *s, const char *json, bool is_whole, void *object)
{
	struct err e = { 0 };
	json_error_t error;
	json_t *differences = json_loads(json, 0, &error), *all = NULL;
	if (!differences) {
		fail("the vector: %s", error.text);
		return false;
	}
	if (schema_init(s, object, &e) < 0)
		abort();
	char *defaults = json_of(s, object);
	schema_done(s, object);
	all = is_whole ? json_object() : json_loads(defaults, 0, &error);
	if (!is_whole && s == &vm_config_schema && !json_object_get(differences, "payload"))
		(void)json_object_set_new(all, "payload", json_pack("{s:s}", "kernel", KERNEL));
	/* A payload that names another kernel is whole. */
	(void)json_object_update_recursive(all, differences);
	char *merged = json_dumps(all, JSON_COMPACT);
	int rc = schema_parse_json(s, merged, strlen(merged), 0, object, &e);
	if (rc < 0)
		fail("the vector: %s", e.text);
	else
		put_descriptors(s, object, differences);
	free(defaults);
	free(merged);
	json_decref(all);
	json_decref(differences);
	return rc == 0;
}

/* A random address is as good as another. */
static void forgive_random_addresses(struct vm_config *expected, const struct vm_config *found)
{
	for (size_t i = 0; i < expected->n_net && i < found->n_net; i++) {
		if (expected->net[i].has_mac)
			continue;
		if (!found->net[i].has_mac || found->net[i].mac[0] != 0x2e)
			fail("net[%zu] has no random address", i);
		memcpy(expected->net[i].mac, found->net[i].mac, 6);
		expected->net[i].has_mac = true;
	}
}

static void compare(const struct schema *s, const void *found, const struct vector *v)
{
	void *expected = malloc(s->size);
	bool is_whole = is_mark(v, "==") || is_mark(v, "!=");
	if (!expected)
		abort();
	char *json = json_of(s, found);
	if (is_mark(v, "has")) {
		if (!strstr(json, v->expected))
			fail("no '%s' in %s", v->expected, json);
	} else if (make_expected(s, v->expected, is_whole, expected)) {
		if (s == &vm_config_schema && !is_mark(v, "!="))
			forgive_random_addresses(expected, found);
		if (schema_equal(s, found, expected) == is_mark(v, "!="))
			fail("it is %s", json);
		schema_done(s, expected);
	}
	free(json);
	free(expected);
}

/* --- option strings and JSON -------------------------------------------------------------------------------------------- */

static const struct schema *schema_of(const char *option)
{
	for (size_t i = 0; i < varan_options.n_rows; i++)
		if (varan_options.rows[i].name && strcmp(varan_options.rows[i].name, option) == 0)
			return varan_options.rows[i].schema;
	return NULL;
}

static void check_option(const struct vector *v)
{
	const struct schema *s = schema_of(v->kind);
	struct err e = { 0 };
	if (!s) {
		fail("there is no option --%s", v->kind);
		return;
	}
	void *object = malloc(s->size);
	if (!object)
		abort();
	int rc = schema_parse_option(s, v->input, object, &e);
	if (rc == 0 && s == &restore_schema)
		restore_config_count_descriptors(object);
	if (is_mark(v, "!"))
		same_text(rc < 0 ? e.text : "accepted", v->expected);
	else if (rc < 0)
		fail("refused: %s", e.text);
	else
		compare(s, object, v);
	if (rc == 0)
		schema_done(s, object);
	free(object);
}

static void check_json(const struct vector *v)
{
	struct vm_config c;
	struct err e = { 0 };
	int rc = schema_parse_json(&vm_config_schema, v->input, strlen(v->input), 0, &c, &e);
	if (rc < 0) {
		same_text(e.text, is_mark(v, "unread") ? v->expected : "read");
		return;
	}
	rc = vm_config_validate(&c, &e);
	if (rc == 0)
		rc = vm_config_complete(&c, &e);
	if (is_mark(v, "=")) {
		bool wants_iommu = strstr(v->expected, "\"iommu\":true") != NULL;
		same_text(rc < 0 ? e.text : c.iommu == wants_iommu ? "" : "another iommu", "");
	} else {
		same_text(rc < 0 ? e.text : "accepted", is_mark(v, "!") ? v->expected : "not read");
	}
	vm_config_done(&c);
}

/* --- options of the process --------------------------------------------------------------------------------------------- */

static void describe_endpoint(const struct endpoint_config *p, struct text *t)
{
	if (p->path)
		text_appendf(t, "path \"%s\"", p->path);
	else
		text_appendf(t, "fd %d", p->fd);
}

static void describe(const struct vector *v, const struct command_line *line, const struct vmm_config *c, struct text *t)
{
	static const char *const modes[] = { [SECCOMP_TRAP] = "trap", [SECCOMP_OFF] = "off", [SECCOMP_LOG] = "log" };
	if (strcmp(v->kind, "api-socket") == 0)
		describe_endpoint(&c->api_socket, t);
	else if (strcmp(v->kind, "event-monitor") == 0)
		describe_endpoint(&c->event_monitor, t);
	else if (strcmp(v->kind, "seccomp") == 0)
		text_append(t, modes[c->seccomp]);
	else
		text_appendf(t, "%u", log_config_from_command_line(line).verbosity);
}

static void check_process(const struct vector *v)
{
	bool is_log = strcmp(v->kind, "log") == 0;
	char program[] = "varan", option[64];
	(void)snprintf(option, sizeof option, "--%s", v->kind);
	char *argv[] = { program, is_log ? v->input : option, v->input };
	struct command_line line;
	struct vmm_config c;
	struct err e = { 0 };
	text_scoped t = TEXT_INIT;
	int rc = command_line_parse(is_log ? (*v->input ? 2 : 1) : 3, argv, &varan_options, &line, &e);
	if (rc < 0) {
		fail("%s", e.text);
		return;
	}
	rc = vmm_config_from_command_line(&line, &c, &e);
	if (rc < 0) {
		text_append(&t, e.text);
	} else {
		describe(v, &line, &c, &t);
		vmm_config_done(&c);
	}
	if ((rc < 0) != is_mark(v, "!"))
		fail("%s", rc < 0 ? "refused" : "accepted");
	same_text(text_get(&t), v->expected);
	command_line_done(&line);
}

/* --- whole command lines ------------------------------------------------------------------------------------------------ */

struct outcome {
	int status; /* -1: ended by a signal */
	char *out, *err;
};

static char *read_back(int fd)
{
	off_t n = lseek(fd, 0, SEEK_END);
	char *s = n < 0 ? NULL : calloc(1, (size_t)n + 1);
	if (!s || pread(fd, s, (size_t)n, 0) != n)
		abort();
	(void)close(fd);
	return s;
}

static void run(char **argv, struct outcome *ret_o)
{
	int out = memfd_create("out", 0), err = memfd_create("err", 0), status = 0;
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(HANG_GUARD_S);
		if (dup2(out, STDOUT_FILENO) < 0 || dup2(err, STDERR_FILENO) < 0)
			_exit(99);
		execv(argv[0], argv);
		_exit(99);
	}
	if (out < 0 || err < 0 || pid < 0 || waitpid(pid, &status, 0) != pid)
		abort();
	ret_o->status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	ret_o->out = read_back(out);
	ret_o->err = read_back(err);
}

/* Cuts the input into argv, in place. */
static void split(char *input, char **argv, size_t n)
{
	static char kernel_option[] = "--kernel", kernel[] = KERNEL;
	for (char *c = input; *c;) {
		char stop = *c == '"' ? '"' : ' ';
		c += stop == '"';
		char *end = strchrnul(c, stop);
		char *next = end + (*end != '\0');
		*end = '\0';
		if (n + 3 > MAX_WORDS)
			abort();
		if (strcmp(c, "K") == 0) {
			argv[n++] = kernel_option;
			argv[n++] = kernel;
		} else {
			argv[n++] = c;
		}
		c = next + (stop == '"' && *next == ' ');
	}
	argv[n] = NULL;
}

static void expect_status(const struct outcome *o, int status)
{
	if (o->status != status)
		fail("exit status %d instead of %d: %s", o->status, status, o->err);
}

/* What was printed is an object of s, and nothing else was. */
static void expect_object(const struct outcome *o, const struct schema *s, const struct vector *v)
{
	struct err e = { 0 };
	expect_status(o, 0);
	same_text(o->err, "");
	if (fault.n_bytes)
		return;
	if (is_mark(v, "has")) {
		if (!strstr(o->out, v->expected))
			fail("no '%s' in %s", v->expected, o->out);
		return;
	}
	void *found = malloc(s->size);
	if (!found)
		abort();
	if (schema_parse_json(s, o->out, strlen(o->out), 0, found, &e) < 0) {
		fail("printed what cannot be read: %s", e.text);
	} else {
		compare(s, found, v);
		schema_done(s, found);
	}
	free(found);
}

static void expect_refusal(const struct outcome *o, const char *prefix, const struct vector *v)
{
	text_scoped t = TEXT_INIT;
	text_appendf(&t, "%s%s%s", prefix, v->expected, is_mark(v, "begins") ? "" : "\n");
	expect_status(o, 1);
	same_text(o->out, "");
	if (!is_mark(v, "begins"))
		same_text(o->err, text_get(&t));
	else if (strncmp(o->err, text_get(&t), t.n_bytes) != 0)
		fail("%s", o->err);
}

/* "STATUS out|err TEXT" */
static void expect_exit(const struct outcome *o, const char *expected)
{
	char *rest;
	expect_status(o, (int)strtol(expected, &rest, 10));
	bool is_out = strncmp(rest, " out ", 5) == 0;
	const char *stream = is_out ? o->out : o->err;
	if (!strstr(stream, rest + 5))
		fail("no '%s' in '%s'", rest + 5, stream);
	same_text(is_out ? o->err : o->out, "");
}

static void check_line(char *program, const struct vector *v)
{
	static char dry_run[] = "--dry-run";
	char *argv[MAX_WORDS] = { program, dry_run };
	struct outcome o;
	split(v->input, argv, is_mark(v, "exit") ? 1 : 2);
	run(argv, &o);
	if (is_mark(v, "exit")) {
		expect_exit(&o, v->expected);
	} else if (is_mark(v, "usage")) {
		text_scoped t = TEXT_INIT;
		text_appendf(&t, "error: %s", v->expected);
		expect_status(&o, 2);
		if (strncmp(o.err, text_get(&t), t.n_bytes) != 0)
			fail("%s", o.err);
		same_text(o.out, "");
	} else if (is_mark(v, "idle")) {
		expect_status(&o, 0);
		same_text(o.out, "null\n");
	} else if (is_mark(v, "restore")) {
		expect_object(&o, &restore_schema, v);
	} else if (*v->mark == '!' || is_mark(v, "begins")) {
		if (is_mark(v, "!="))
			expect_object(&o, &vm_config_schema, v);
		else
			expect_refusal(&o, is_mark(v, "!") ? "Error parsing config: " : "", v);
	} else {
		expect_object(&o, &vm_config_schema, v);
	}
	free(o.out);
	free(o.err);
}

/* --- files -------------------------------------------------------------------------------------------------------------- */

/* In place: the sign for a space, and \n. */
static void decode(char *s)
{
	char *out = s;
	while (*s) {
		if (strncmp(s, "\xe2\x90\xa0", 3) == 0) {
			*out++ = ' ';
			s += 3;
		} else if (s[0] == '\\' && s[1] == 'n') {
			*out++ = '\n';
			s += 2;
		} else {
			*out++ = *s++;
		}
	}
	*out = '\0';
}

/* The word up to the next space; *rest becomes what follows it. */
static char *cut_word(char **rest)
{
	char *word = *rest, *end = strchrnul(word, ' ');
	*rest = *end ? end + 1 : end;
	*end = '\0';
	return word;
}

/* The next line that says something, without its end; NULL at the end of the text. */
static char *next_line(char **rest)
{
	while (**rest) {
		char *line = *rest, *end = strchrnul(line, '\n');
		*rest = *end ? end + 1 : end;
		*end = '\0';
		if (*line && *line != '#')
			return line;
	}
	return NULL;
}

static bool next_vector(char **rest, struct vector *v)
{
	char *first = next_line(rest), *second = first ? next_line(rest) : NULL;
	if (!second)
		return false;
	v->number = cut_word(&first);
	v->kind = cut_word(&first);
	v->input = first;
	v->mark = cut_word(&second);
	v->expected = second;
	v->feature = strchr(v->kind, '@');
	if (v->feature)
		*v->feature++ = '\0';
	decode(v->input);
	decode(v->expected);
	return true;
}

static char *read_file(const char *path)
{
	FILE *f = fopen(path, "re");
	struct text t = TEXT_INIT;
	char bytes[4096], *s;
	size_t n;
	if (!f) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
	while ((n = fread(bytes, 1, sizeof bytes, f)) > 0)
		text_append_n(&t, bytes, n);
	(void)fclose(f);
	if (text_take(&t, &s) < 0)
		abort();
	return s;
}

static void print_point(unsigned n, const char *path, const struct vector *v, const char *input, bool is_skipped)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	printf("%s %u - %s %s: %s ", fault.n_bytes ? "not ok" : "ok", n, name, v->number, v->kind);
	for (const char *c = input; *c; c++)
		printf("%s%c", *c == '#' || *c == '\\' ? "\\" : "", isprint((unsigned char)*c) ? *c : '?');
	if (is_skipped)
		printf(" # SKIP this build is without %s", v->feature);
	printf("\n");
	if (fault.n_bytes)
		printf("# %s\n", text_get(&fault));
}

static unsigned run_file(char *program, const char *path, unsigned n, unsigned *n_failed)
{
	char *bytes = read_file(path), *rest = bytes;
	struct vector v;
	while (next_vector(&rest, &v)) {
		char *input = strdup(v.input); /* which splitting cuts up */
		bool is_skipped = v.feature && !has_feature(v.feature);
		static const char *const of_process[] = { "api-socket", "event-monitor", "seccomp", "log" };
		bool is_of_process = false;
		for (size_t i = 0; i < sizeof of_process / sizeof of_process[0]; i++)
			is_of_process |= strcmp(v.kind, of_process[i]) == 0;
		if (is_skipped)
			; /* and listed */
		else if (strcmp(v.kind, "line") == 0)
			check_line(program, &v);
		else if (strcmp(v.kind, "json") == 0)
			check_json(&v);
		else if (is_of_process)
			check_process(&v);
		else
			check_option(&v);
		print_point(++n, path, &v, input ? input : "", is_skipped);
		*n_failed += fault.n_bytes > 0;
		text_done(&fault);
		free(input);
	}
	free(bytes);
	return n;
}

int main(int argc, char **argv)
{
	unsigned n = 0, n_failed = 0;
	if (argc < 3) {
		fprintf(stderr, "Usage: %s PROGRAM FILE...\n", argv[0]);
		return 2;
	}
	for (int i = 2; i < argc; i++)
		n = run_file(argv[1], argv[i], n, &n_failed);
	printf("1..%u\n", n);
	return n_failed ? 1 : 0;
}

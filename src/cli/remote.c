/* SPDX-License-Identifier: Apache-2.0 */
/* The client's main(): global options, a command with options of its own, one request, and its answer in words. */
#include "cli/remote.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/text.h"
#include "cli/program.h"
#include "cli/remote_commands.h"
#include "cli/remote_events.h"
#include "cli/remote_failure.h"
#include "cli/remote_http.h"
#include "cli/remote_show.h"
#include "cli/remote_tables.h"
#include "schema/words.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 2
#define DEFAULT_TIMEOUT_S 60
#define MAX_TIMEOUT_S 86400
#define WAIT_STEP_MS 50

struct remote {
	bool is_ch; /* we are called as ch-remote */
	bool is_json;
	const struct remote_command *command;
	struct http_client client;
};

static int print_text(struct text *t, FILE *f)
{
	return t->is_out_of_memory || fputs(text_get(t), f) < 0 || fflush(f) != 0 ? 1 : 0;
}

static int usage(const struct option_table *table, const struct err *e)
{
	text_scoped t = TEXT_INIT;
	command_line_write_usage_error(table, e, &t);
	(void)print_text(&t, stderr);
	return EXIT_USAGE;
}

static int help(bool is_ch, FILE *f)
{
	text_scoped t = TEXT_INIT;
	remote_write_help(is_ch, &t);
	return print_text(&t, f);
}

static int version(bool is_ch)
{
	printf(is_ch ? "ch-remote v%s\n" : "varan remote v%s\n", is_ch ? CLOUD_HYPERVISOR_LEVEL : VARAN_VERSION);
	return fflush(stdout) ? 1 : 0;
}

/* As it came, with a line's end. */
static int print_body(const struct http_answer *a)
{
	bool has_end = a->n_body && a->body[a->n_body - 1] == '\n';
	if (!a->body)
		return 0;
	(void)fwrite(a->body, 1, a->n_body, stdout);
	if (!has_end)
		printf("\n");
	return fflush(stdout) || ferror(stdout) ? 1 : 0;
}

static int request(struct remote *r, const char *method, const char *endpoint, const struct remote_body *b,
                   struct http_answer *ret_answer, struct err *e)
{
	char path[64];
	(void)snprintf(path, sizeof path, "/api/v1/%s", endpoint);
	const struct http_request q = {
		.method = method,
		.path = path,
		.body = b && b->text.n_bytes ? b->text.bytes : NULL,
		.n_body = b ? b->text.n_bytes : 0,
		.fds = b ? b->fds : NULL,
		.n_fds = b ? b->n_fds : 0,
	};
	return http_client_request(&r->client, &q, ret_answer, e);
}

static int fail_in_http(const struct remote *r, const struct err *e)
{
	return remote_fail_http(r->is_ch, r->command->name, &r->client, e);
}

static bool has_id(const json_t *object, const char *id)
{
	const char *known = json_string_value(json_object_get(object, "id"));
	return known && strcmp(known, id) == 0;
}

/* Whether vm.info still knows a device of that id: in its device tree, or in its configuration, where devices are members
 * ("vsock") or in lists ("disks"). Some lists have identifiers of other things. */
static bool is_known(const json_t *info, const char *id)
{
	const char *key;
	json_t *config = json_object_get(info, "config"), *member, *o;
	size_t i;
	if (json_object_get(json_object_get(info, "device_tree"), id))
		return true;
	json_object_foreach(config, key, member) {
		if (strcmp(key, "numa") == 0 || strcmp(key, "rate_limit_groups") == 0)
			continue;
		if (has_id(member, id))
			return true;
		json_array_foreach(member, i, o)
			if (has_id(o, id))
				return true;
	}
	return false;
}

/* Fails when the answer does not say. */
static int look_for_device(const struct http_answer *a, const char *id, bool *ret_is_there, struct err *e)
{
	json_t *info;
	int rc = answer_parse(a->body, a->n_body, &info, e);
	if (rc < 0)
		return rc;
	if (json_is_object(json_object_get(info, "config")))
		*ret_is_there = is_known(info, id);
	else
		rc = err_set(e, EPROTO, "the answer to vm.info has no config");
	json_decref(info);
	return rc;
}

static int fail(const struct remote *r, const struct err *e)
{
	fprintf(stderr, "varan remote: %s: ", r->command->name);
	show_text(e->text, stderr);
	fprintf(stderr, "\n");
	return 1;
}

/* After vm.remove-device: until the guest has let go, or the time is over. */
static int wait_for_removal(struct remote *r, const char *id)
{
	uint64_t deadline_ns = clock_now_ns() + (uint64_t)(unsigned)r->client.timeout_ms * NS_PER_MS;
	bool has_deadline = r->client.timeout_ms >= 0;
	for (;;) {
		struct http_answer a = { 0 };
		struct err e = { 0 };
		if (request(r, "GET", "vm.info", NULL, &a, &e) < 0)
			return fail_in_http(r, &e);
		if (a.status != 200) {
			int status = remote_fail_answer(r->is_ch, r->command->name, &a);
			http_answer_done(&a);
			return status;
		}
		bool is_there = true;
		int rc = look_for_device(&a, id, &is_there, &e);
		http_answer_done(&a);
		if (rc < 0)
			return fail(r, &e);
		if (!is_there)
			return 0;
		if (has_deadline && clock_now_ns() >= deadline_ns) {
			fprintf(stderr, "varan remote: remove-device: the guest has not let %s go within %d ms\n", id,
			        r->client.timeout_ms);
			return 1;
		}
		(void)poll(NULL, 0, WAIT_STEP_MS);
	}
}

static int show(const struct remote *r, const struct http_answer *a)
{
	struct err e = { 0 };
	if (r->is_ch || r->is_json || !r->command->show)
		return print_body(a);
	if (r->command->show(a->body, a->n_body, &e) < 0)
		return fail(r, &e);
	return fflush(stdout) || ferror(stdout) ? 1 : 0;
}

static int ask(struct remote *r, const struct command_line *line)
{
	const struct remote_command *c = r->command;
	struct remote_body body = { .what = "" };
	struct http_answer a = { 0 };
	struct err e = { 0 };
	int status;

	/* Before the words are looked at, as ch-remote does it: without a server all else is beside the point. */
	if (http_client_connect(&r->client, &e) < 0)
		return fail_in_http(r, &e);
	if (c->write_body && c->write_body(c, line, &body, &e) < 0) {
		status = remote_fail_words(r->is_ch, c->name, body.what, &e);
		remote_body_done(&body);
		return status;
	}
	int rc = request(r, c->method, c->endpoint, &body, &a, &e);
	remote_body_done(&body);
	if (rc < 0)
		return fail_in_http(r, &e);
	if (a.status != 200 && a.status != 204)
		status = remote_fail_answer(r->is_ch, c->name, &a);
	else
		status = show(r, &a);
	http_answer_done(&a);
	if (status == 0 && !r->is_ch && c->n_our_rows && command_line_count(line, "wait"))
		status = wait_for_removal(r, command_line_value(line, "id"));
	return status;
}

static int follow(const struct remote *r, const struct command_line *line)
{
	const char *path = command_line_value(line, "event-monitor");
	struct err e = { 0 };
	if (strncmp(path, "path=", 5) == 0) /* as the option of the VMM is written */
		path += 5;
	const struct events_options o = { .path = path, .is_json = r->is_json,
	                                  .is_once = command_line_count(line, "no-follow") > 0 };
	if (events_follow(&o, &e) == 0)
		return 0;
	fflush(stdout);
	return fail(r, &e);
}

/* Ours alone: the value that was given behind the command, or else before it. */
static const char *value_of(const struct command_line *line, const struct command_line *global, const char *name)
{
	const char *value = command_line_value(line, name);
	return value ? value : command_line_value(global, name);
}

/* Negative: no limit. */
static int read_timeout(const struct remote_command *c, const char *word, int *ret_ms, struct err *e)
{
	uint64_t s;
	*ret_ms = c->is_slow ? -1 : DEFAULT_TIMEOUT_S * 1000;
	if (!word)
		return 0;
	if (!word_to_number(word, &s) || s > MAX_TIMEOUT_S)
		return err_set(e, EINVAL, "invalid value '%s' for '--timeout <timeout>': seconds, at most %d, 0 is without limit",
		               word, MAX_TIMEOUT_S);
	*ret_ms = s ? (int)s * 1000 : -1;
	return 0;
}

static int run_command(struct remote *r, const struct option_table *table, const struct command_line *line,
                       const struct command_line *global)
{
	const char *socket = r->is_ch ? command_line_value(global, "api-socket") : value_of(line, global, "api-socket");
	int timeout_ms = -1;
	struct err e = { 0 };

	if (!r->is_ch) {
		r->is_json = command_line_count(line, "json") || command_line_count(global, "json");
		if (read_timeout(r->command, value_of(line, global, "timeout"), &timeout_ms, &e) < 0)
			return usage(table, &e);
	}
	if (!r->command->endpoint)
		return follow(r, line);
	if (!socket && r->is_ch) {
		fprintf(stderr, "Please either provide the api-socket option or dbus-service-name and dbus-object-path options\n");
		return 1;
	}
	if (!socket) {
		err_set_(&e, EINVAL, "the following required arguments were not provided:\n  --api-socket <api-socket>");
		return usage(table, &e);
	}
	if (!r->is_ch && strncmp(socket, "path=", 5) == 0)
		socket += 5;
	http_client_init(&r->client, socket, timeout_ms);
	int status = ask(r, line);
	http_client_done(&r->client);
	return status;
}

/* The words behind the global options: argv[0] is the command's name. */
static int command_main(struct remote *r, int argc, char **argv, const struct command_line *global)
{
	struct remote_table t;
	struct command_line line;
	struct err e = { 0 };
	int status;

	remote_table_init(&t, r->is_ch, r->command);
	if (command_line_parse(argc, argv, &t.table, &line, &e) < 0)
		return usage(&t.table, &e);
	if (command_line_count(&line, "help")) {
		text_scoped text = TEXT_INIT;
		command_line_write_help(&t.table, &text);
		status = print_text(&text, stdout);
	} else {
		status = run_command(r, &t.table, &line, global);
	}
	command_line_done(&line);
	return status;
}

static int dispatch(struct remote *r, int argc, char **argv, const struct command_line *global)
{
	const struct option_table *table = remote_global_table(r->is_ch);
	const char *name = command_line_value(global, "command");
	struct err e = { 0 };

	if (command_line_count(global, "version"))
		return version(r->is_ch);
	if (command_line_count(global, "help") || (name && strcmp(name, "help") == 0))
		return help(r->is_ch, stdout);
	if (name)
		r->command = remote_command_find(name);
	if (!r->command || (r->is_ch && r->command->is_ours)) {
		err_set_(&e, EINVAL, "unrecognized subcommand '%s'", name ? name : "");
		return usage(table, &e);
	}
	int at = global->n_taken - 1;
	return command_main(r, argc - at, argv + at, global);
}

int remote_main(int argc, char **argv)
{
	const char *slash = strrchr(argv[0], '/');
	struct remote r = { .is_ch = strcmp(slash ? slash + 1 : argv[0], "ch-remote") == 0 };
	struct command_line global;
	struct err e = { 0 };

	if (argc <= 1) {
		(void)help(r.is_ch, stderr);
		return EXIT_USAGE;
	}
	if (command_line_parse(argc, argv, remote_global_table(r.is_ch), &global, &e) < 0)
		return usage(remote_global_table(r.is_ch), &e);
	int status = dispatch(&r, argc, argv, &global);
	command_line_done(&global);
	return status;
}

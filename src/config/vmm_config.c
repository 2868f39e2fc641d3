/* SPDX-License-Identifier: Apache-2.0 */
#include "config/vmm_config.h"

#include "config/command_line.h"
#include "schema/option_string.h"
#include "schema/schema.h"
#include "schema/words.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct log_config log_config_from_command_line(const struct command_line *line)
{
	return (struct log_config){
		.path = command_line_value(line, "log-file"),
		.verbosity = command_line_count(line, "v"),
		.format = strcmp(command_line_value(line, "log-format"), "json") == 0 ? LOG_FORMAT_JSON
		                                                                      : LOG_FORMAT_TEXT,
	};
}

static enum option_key is_path_or_fd(const void *context, const char *key)
{
	(void)context;
	return strcmp(key, "path") == 0 || strcmp(key, "fd") == 0 ? OPTION_KEY_VALUED : OPTION_KEY_UNKNOWN;
}

static int set_path(struct endpoint_config *p, const char *path, struct err *e)
{
	p->fd = -1;
	p->path = strdup(path);
	return p->path ? 0 : err_set(e, ENOMEM, "out of memory");
}

/* The value of a key, as far as the string could be read: what stands behind a fault does not count. */
static const char *value_before_fault(const struct option_string *o, const char *key)
{
	const char *value = NULL;
	for (size_t i = 0; i < o->n_pairs; i++) {
		const struct option_pair *p = &o->pairs[i];
		if (is_path_or_fd(NULL, p->key) == OPTION_KEY_UNKNOWN || !p->value)
			break;
		if (strcmp(p->key, key) == 0)
			value = p->value;
	}
	return value && *value ? value : NULL;
}

/* Why a word is no descriptor. Programs compare the words, which are those of Rust's parser of numbers. */
static const char *fault_of_number(const char *word)
{
	bool is_negative = *word == '-';
	const char *digits = word + (is_negative || *word == '+');
	if (!*digits || digits[strspn(digits, "0123456789")])
		return "invalid digit found in string";
	return is_negative ? "number too small to fit in target type" : "number too large to fit in target type";
}

/* path=, fd=, or, if neither can be read, the whole text as a path: the older form. */
static int read_api_socket(const char *text, struct endpoint_config *p, struct err *e)
{
	struct option_string words;
	/* What does not match up is a path, too. */
	if (option_string_parse(text, &words, NULL) == -ENOMEM)
		return err_set(e, ENOMEM, "Error parsing --api-socket: out of memory");
	const char *fd = value_before_fault(&words, "fd"), *path = value_before_fault(&words, "path");
	int32_t number = -1;
	int rc = 0;
	if (!fd)
		rc = set_path(p, path ? path : text, e);
	else if (!word_to_i32(fd, &number))
		rc = err_set(e, EINVAL, "%s", fault_of_number(fd));
	else if (number < 0)
		rc = err_set(e, EINVAL, "fd=%d is not a descriptor", number);
	else
		*p = (struct endpoint_config){ .fd = number };
	if (rc < 0)
		err_prefix(e, "Error parsing --api-socket: ");
	option_string_done(&words);
	return rc;
}

static int read_event_monitor(const char *text, struct endpoint_config *p, struct err *e)
{
	struct option_string words;
	int rc = option_string_parse(text, &words, e);
	if (rc == 0)
		rc = option_string_check(&words, is_path_or_fd, NULL, e);
	if (rc == 0) {
		const char *fd = option_string_value(&words, "fd"), *path = option_string_value(&words, "path");
		int32_t number = -1;
		if (fd && !word_to_i32(fd, &number))
			rc = err_set(e, EINVAL, "unable to convert %s for fd", fd);
		else if (fd && number < 0)
			rc = err_set(e, EINVAL, "fd=%d is not a descriptor", number);
		else if (fd)
			*p = (struct endpoint_config){ .fd = number };
		else if (path && !option_string_mentions(&words, "fd"))
			rc = set_path(p, path, e);
		else
			rc = err_set(e, EINVAL, "path or fd required");
	}
	if (rc < 0)
		err_prefix(e, "Error parsing --event-monitor: ");
	option_string_done(&words);
	return rc;
}

static enum seccomp_mode seccomp_mode_of(const char *word)
{
	return strcmp(word, "true") == 0 ? SECCOMP_TRAP : strcmp(word, "log") == 0 ? SECCOMP_LOG : SECCOMP_OFF;
}

int vmm_config_from_command_line(const struct command_line *line, struct vmm_config *ret_c, struct err *e)
{
	struct vmm_config c = {
		.api_socket.fd = -1,
		.event_monitor.fd = -1,
		.seccomp = seccomp_mode_of(command_line_value(line, "seccomp")),
		.no_shutdown = command_line_count(line, "no-shutdown") > 0,
		.is_dry_run = command_line_count(line, "dry-run") > 0,
		.has_payload = command_line_count(line, "kernel") || command_line_count(line, "firmware"),
	};
	int rc = 0;
	c.has_restore = !c.has_payload && command_line_count(line, "restore");
	if (command_line_count(line, "api-socket"))
		rc = read_api_socket(command_line_value(line, "api-socket"), &c.api_socket, e);
	c.api_socket.is_given = command_line_count(line, "api-socket") > 0;
	if (rc == 0 && command_line_count(line, "event-monitor"))
		rc = read_event_monitor(command_line_value(line, "event-monitor"), &c.event_monitor, e);
	c.event_monitor.is_given = command_line_count(line, "event-monitor") > 0;
	if (rc < 0)
		vmm_config_done(&c);
	else
		*ret_c = c;
	return rc;
}

void vmm_config_done(struct vmm_config *c)
{
	free(c->api_socket.path);
	free(c->event_monitor.path);
	*c = (struct vmm_config){ .api_socket.fd = -1, .event_monitor.fd = -1 };
}

int restore_config_from_command_line(const struct command_line *line, struct restore_config *ret_c, struct err *e)
{
	int rc = schema_parse_option(&restore_schema, command_line_value(line, "restore"), ret_c, e);
	if (rc == 0)
		restore_config_count_descriptors(ret_c);
	return rc;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The stream is JSON objects, spread over lines, with nothing but white space between them. An object ends with the brace
 * that closes it, which is how other readers of the stream find it, too. A file is followed as `tail -f` does: whoever
 * empties it starts it anew. */
#include "cli/remote_events.h"

#include "base/cleanup.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#define MAX_EVENT_BYTES (1u << 20)
#define READ_BYTES 16384

struct scanner {
	struct text object; /* what has come of the current one */
	unsigned depth;
	bool is_in_string, is_escaped;
};

struct follower {
	const struct events_options *o;
	struct scanner s;
	bool is_over; /* the VMM has said goodbye */
	struct err *e;
};

/* "vm  booted", "virtio-device  activated  id=_disk0". */
static void print_words(const json_t *event)
{
	const json_t *t = json_object_get(event, "timestamp"), *properties = json_object_get(event, "properties");
	const char *source = json_string_value(json_object_get(event, "source"));
	const char *name = json_string_value(json_object_get(event, "event")), *key;
	const json_t *value;

	printf("%6lld.%06lld  %-14s %s", (long long)json_integer_value(json_object_get(t, "secs")),
	       (long long)json_integer_value(json_object_get(t, "nanos")) / 1000, source, name);
	/* jansson's iteration takes objects that can change; nothing is changed. */
	json_object_foreach((json_t *)(uintptr_t)properties, key, value) {
		if (json_is_string(value)) {
			printf("  %s=%s", key, json_string_value(value));
			continue;
		}
		char *s = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		printf("  %s=%s", key, s ? s : "?");
		free(s);
	}
	printf("\n");
}

static int print_event(struct follower *f)
{
	json_error_t why;
	json_t *event = json_loadb(f->s.object.bytes, f->s.object.n_bytes, JSON_REJECT_DUPLICATES, &why);
	const char *source = json_string_value(json_object_get(event, "source"));
	const char *name = json_string_value(json_object_get(event, "event"));
	int rc = 0;

	if (!event)
		return err_set(f->e, EPROTO, "%s: not an event stream: %s", f->o->path, why.text);
	if (!source || !name) {
		rc = err_set(f->e, EPROTO, "%s: not an event stream: an object without source and event", f->o->path);
	} else {
		if (!f->o->is_json)
			print_words(event);
		else if (json_dumpf(event, stdout, JSON_COMPACT) == 0)
			putchar('\n');
		f->is_over = strcmp(source, "vmm") == 0 && strcmp(name, "shutdown") == 0;
		if (fflush(stdout) != 0 || ferror(stdout))
			rc = err_set_errno(f->e, errno, "cannot write");
	}
	json_decref(event);
	return rc;
}

static int take_byte(struct follower *f, char c)
{
	struct scanner *s = &f->s;
	if (!s->depth && c != '{')
		return c == ' ' || c == '\n' || c == '\r' || c == '\t' ?
			       0 :
			       err_set(f->e, EPROTO, "%s: not an event stream", f->o->path);
	text_append_char(&s->object, c);
	if (s->object.is_out_of_memory)
		return err_set(f->e, ENOMEM, "out of memory");
	if (s->object.n_bytes > MAX_EVENT_BYTES)
		return err_set(f->e, EMSGSIZE, "%s: an event of more than %u bytes", f->o->path, MAX_EVENT_BYTES);
	if (s->is_in_string) {
		s->is_in_string = s->is_escaped || c != '"';
		s->is_escaped = !s->is_escaped && c == '\\';
		return 0;
	}
	s->is_in_string = c == '"';
	s->depth += c == '{';
	s->depth -= c == '}';
	if (s->depth)
		return 0;
	int rc = print_event(f);
	text_done(&s->object);
	return rc;
}

/* The number of bytes, 0 at the end of what there is. */
static ssize_t read_some(struct follower *f, int fd)
{
	char bytes[READ_BYTES];
	ssize_t n = read(fd, bytes, sizeof bytes);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : err_set_errno(f->e, errno, "cannot read %s", f->o->path);
	for (ssize_t i = 0; i < n && !f->is_over; i++) {
		int rc = take_byte(f, bytes[i]);
		if (rc < 0)
			return rc;
	}
	return n;
}

static int follow_fifo(struct follower *f, int fd)
{
	/* Before a first writer has come, poll() waits; after the last has gone, it reports a hang-up. */
	while (!f->is_over) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int n_ready = poll(&p, 1, f->o->is_once ? 0 : -1);
		if (n_ready < 0 && errno != EINTR)
			return err_set_errno(f->e, errno, "cannot wait for %s", f->o->path);
		if (n_ready == 0)
			return 0;
		if (n_ready < 0)
			continue;
		ssize_t n = read_some(f, fd);
		if (n < 0)
			return (int)n;
		if (n == 0 && (p.revents & (POLLHUP | POLLERR)))
			return 0;
	}
	return 0;
}

/* 1: the file has become shorter than what was read of it. */
static int is_emptied(struct follower *f, int fd)
{
	struct stat s;
	if (fstat(fd, &s) < 0)
		return err_set_errno(f->e, errno, "cannot look at %s", f->o->path);
	if (s.st_nlink == 0)
		return err_set(f->e, ENOENT, "%s was removed", f->o->path);
	return s.st_size < lseek(fd, 0, SEEK_CUR);
}

static int follow_file(struct follower *f, int fd)
{
	union {
		struct inotify_event event;
		char bytes[4096];
	} changes;
	fd_scoped watch = inotify_init1(IN_CLOEXEC);
	/* Before the first look, so that no change is missed. */
	if (watch < 0 || inotify_add_watch(watch, f->o->path, IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF) < 0)
		return err_set_errno(f->e, errno, "cannot watch %s", f->o->path);
	while (!f->is_over) {
		ssize_t n = read_some(f, fd);
		if (n < 0)
			return (int)n;
		if (n)
			continue;
		if (f->o->is_once)
			return 0;
		int rc = is_emptied(f, fd);
		if (rc < 0)
			return rc;
		if (rc > 0) {
			text_done(&f->s.object);
			f->s = (struct scanner){ 0 };
			if (lseek(fd, 0, SEEK_SET) < 0)
				return err_set_errno(f->e, errno, "cannot read %s again", f->o->path);
			continue;
		}
		if (read(watch, &changes, sizeof changes) < 0 && errno != EINTR)
			return err_set_errno(f->e, errno, "cannot watch %s", f->o->path);
	}
	return 0;
}

int events_follow(const struct events_options *o, struct err *e)
{
	struct follower f = { .o = o, .e = e };
	struct stat s;
	/* A FIFO is opened without waiting for its writer: the VMM may look for a reader before it starts to write. */
	fd_scoped fd = open(o->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &s) < 0)
		return err_set_errno(e, errno, "cannot open %s", o->path);
	int rc;
	if (S_ISREG(s.st_mode))
		rc = follow_file(&f, fd);
	else if (S_ISFIFO(s.st_mode))
		rc = follow_fifo(&f, fd);
	else
		rc = err_set(e, EINVAL, "%s is neither a file nor a FIFO", o->path);
	if (rc == 0 && f.s.depth && f.o->is_once)
		rc = err_set(e, EPROTO, "%s ends in the middle of an event", o->path);
	text_done(&f.s.object);
	return rc;
}

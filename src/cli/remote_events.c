/* SPDX-License-Identifier: Apache-2.0 */
/* The stream is JSON objects, spread over lines, with nothing but white space between them. An object ends with the brace
 * that closes it, which is how other readers of the stream find it, too. A file is followed as `tail -f` does: whoever
 * empties it starts it anew, which shows in its length or in its first bytes: they hold the time of the first event. */
#include "cli/remote_events.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/text.h"
#include "cli/remote_show.h"

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
#define HEAD_BYTES 256
#define SOURCE_WIDTH 14

struct scanner {
	struct text object; /* what has come of the current one */
	unsigned depth;
	bool is_in_string, is_escaped;
};

struct follower {
	const struct events_options *o;
	struct scanner s;
	bool is_over; /* the VMM has said goodbye */
	size_t n_head; /* what was read first, of a file: to know it by */
	char head[HEAD_BYTES];
	struct err *e;
};

/* "vm  booted", "virtio-device  activated  id=_disk0". */
static void print_words(const json_t *event)
{
	const json_t *t = json_object_get(event, "timestamp"), *properties = json_object_get(event, "properties");
	const char *source = json_string_value(json_object_get(event, "source"));
	const char *name = json_string_value(json_object_get(event, "event")), *key;
	const json_t *value;

	printf("%6lld.%06lld  ", (long long)json_integer_value(json_object_get(t, "secs")),
	       (long long)json_integer_value(json_object_get(t, "nanos")) / 1000);
	show_cell(source, SOURCE_WIDTH, stdout);
	printf(" ");
	show_text(name, stdout);
	/* jansson's iteration takes objects that can change; nothing is changed. */
	json_object_foreach((json_t *)(uintptr_t)properties, key, value) {
		char *s = json_is_string(value) ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		const char *shown = json_is_string(value) ? json_string_value(value) : s;
		printf("  ");
		show_text(key, stdout);
		printf("=");
		show_text(shown ? shown : "?", stdout);
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
	size_t n_first = min_u64((uint64_t)n, sizeof f->head - f->n_head);
	memcpy(f->head + f->n_head, bytes, n_first);
	f->n_head += n_first;
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

/* 1: the file is shorter than what was read of it, or begins with something else. */
static int is_emptied(struct follower *f, int fd)
{
	char now[HEAD_BYTES];
	struct stat s;
	if (fstat(fd, &s) < 0)
		return err_set_errno(f->e, errno, "cannot look at %s", f->o->path);
	if (s.st_size < lseek(fd, 0, SEEK_CUR))
		return 1;
	ssize_t n = pread(fd, now, f->n_head, 0);
	if (n < 0)
		return err_set_errno(f->e, errno, "cannot read %s", f->o->path);
	return (size_t)n < f->n_head || memcmp(now, f->head, f->n_head) != 0;
}

static int start_over(struct follower *f, int fd)
{
	text_done(&f->s.object);
	f->s = (struct scanner){ 0 };
	f->n_head = 0;
	return lseek(fd, 0, SEEK_SET) < 0 ? err_set_errno(f->e, errno, "cannot read %s again", f->o->path) : 0;
}

/* Reads on, or from the start. The number of bytes, 0 at the end of what there is. */
static ssize_t read_more(struct follower *f, int fd)
{
	int rc = is_emptied(f, fd);
	if (rc > 0)
		rc = start_over(f, fd);
	if (rc < 0)
		return rc;
	ssize_t n = read_some(f, fd);
	/* Or was it emptied between the look and the reading? Then what came is of two streams. */
	if (n == -EPROTO && is_emptied(f, fd) > 0) {
		rc = start_over(f, fd);
		n = rc < 0 ? rc : read_some(f, fd);
	}
	return n;
}

static int check_still_there(const struct follower *f, int fd)
{
	struct stat s;
	if (fstat(fd, &s) < 0)
		return err_set_errno(f->e, errno, "cannot look at %s", f->o->path);
	return s.st_nlink ? 0 : err_set(f->e, ENOENT, "%s was removed", f->o->path);
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
		ssize_t n = read_more(f, fd);
		if (n < 0)
			return (int)n;
		if (n)
			continue;
		if (f->o->is_once)
			return 0;
		int rc = check_still_there(f, fd);
		if (rc < 0)
			return rc;
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

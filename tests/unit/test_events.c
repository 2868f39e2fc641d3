/* SPDX-License-Identifier: Apache-2.0 */
/* The stream of events: its form, and that whoever reads it, or does not, can neither hold the VM up nor see half an event. */
#include "base/clock.h"
#include "base/log.h"
#include "vm/events.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_BYTES (1u << 20)

static char folder[] = "/tmp/varan-events-XXXXXX";
static char path[64];

static const char *new_path(void)
{
	if (strstr(folder, "XXXXXX"))
		OK(mkdtemp(folder));
	(void)snprintf(path, sizeof path, "%s/events", folder);
	return path;
}

static void remove_path(void)
{
	(void)unlink(path);
	OK(rmdir(folder) == 0);
}

/* What is in a file from its start, or what a stream gives until its end or until it gives no more now. */
static char *read_all(int fd)
{
	char *text = calloc(1, MAX_BYTES);
	size_t n = 0;
	ssize_t n_read;
	OK(text);
	while (n < MAX_BYTES - 1 && (n_read = read(fd, text + n, MAX_BYTES - 1 - n)) > 0)
		n += (size_t)n_read;
	return text;
}

/* The event at *text, which moves behind it and its empty line. Fails when it is not a whole one. */
static json_t *next_event(const char **text)
{
	const char *end = strstr(*text, "\n\n");
	OK(end);
	json_t *o = json_loadb(*text, (size_t)(end - *text), 0, NULL);
	OK(json_is_object(o));
	EQ(json_object_size(o), 4);
	OK(json_is_integer(json_object_get(json_object_get(o, "timestamp"), "secs")));
	OK(json_is_integer(json_object_get(json_object_get(o, "timestamp"), "nanos")));
	*text = end + 2;
	return o;
}

static void expect(const char **text, const char *source, const char *event, const char *id, const char *bdf)
{
	json_t *o = next_event(text), *properties = json_object_get(o, "properties");
	STR_EQ(json_string_value(json_object_get(o, "source")), source);
	STR_EQ(json_string_value(json_object_get(o, "event")), event);
	if (id) {
		EQ(json_object_size(properties), bdf ? 2 : 1);
		STR_EQ(json_string_value(json_object_get(properties, "id")), id);
		if (bdf)
			STR_EQ(json_string_value(json_object_get(properties, "bdf")), bdf);
	} else {
		OK(json_is_null(properties));
	}
	json_decref(o);
}

TEST(a_file_holds_the_events_in_order)
{
	struct err e = { 0 };
	struct events *ev;
	FILE *f = fopen(new_path(), "w");
	OK(f && fputs("what was there before", f) >= 0 && fclose(f) == 0);
	EQ(events_open_path(path, &ev, &e), 0);
	events_emit(ev, "vmm", "starting", NULL);
	events_emit(ev, "vm", "booting", NULL);
	events_emit_device(ev, "virtio-device", "activated", "_disk0", NULL);
	events_emit_device(ev, "vm", "device-removed", "a \"b\"\n", "0000:00:04.0");
	events_emit(ev, "guest", "panic", "{\"event\": \"panic\"}");
	events_free(ev);

	int fd = open(path, O_RDONLY);
	char *all = read_all(fd);
	const char *text = all;
	expect(&text, "vmm", "starting", NULL, NULL);
	expect(&text, "vm", "booting", NULL, NULL);
	expect(&text, "virtio-device", "activated", "_disk0", NULL);
	expect(&text, "vm", "device-removed", "a \"b\"\n", "0000:00:04.0");
	json_t *o = next_event(&text);
	STR_EQ(json_string_value(json_object_get(json_object_get(o, "properties"), "event")), "panic");
	json_decref(o);
	STR_EQ(text, "");
	free(all);
	(void)close(fd);
	remove_path();
}

/* Programs find the end of an event by its lines. */
TEST(an_event_is_pretty_printed)
{
	struct err e = { 0 };
	struct events *ev;
	int fd = memfd_create("events", MFD_CLOEXEC);
	EQ(events_open_fd(dup(fd), &ev, &e), 0);
	events_emit_device(ev, "virtio-device", "reset", "d", NULL);
	events_free(ev);

	char got[256] = "";
	long long ns = 0;
	int n_used = 0;
	OK(pread(fd, got, sizeof got - 1, 0) > 0);
	OK(sscanf(got, "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": %lld%n", &ns, &n_used) == 1 && ns > 0);
	STR_EQ(got + n_used, "\n  },\n  \"source\": \"virtio-device\",\n  \"event\": \"reset\",\n  \"properties\": {\n    \"id\": "
	                     "\"d\"\n  }\n}\n\n");
	(void)close(fd);
}

TEST(time_goes_forward_from_the_start)
{
	struct err e = { 0 };
	struct events *ev;
	int fd = memfd_create("events", MFD_CLOEXEC);
	EQ(events_open_fd(dup(fd), &ev, &e), 0);
	events_emit(ev, "a", "b", NULL);
	test_sleep_us(30000);
	events_emit(ev, "a", "c", NULL);
	events_free(ev);

	long long ns[2];
	OK(lseek(fd, 0, SEEK_SET) == 0);
	char *all = read_all(fd);
	const char *text = all;
	for (int i = 0; i < 2; i++) {
		json_t *o = next_event(&text), *t = json_object_get(o, "timestamp");
		ns[i] = json_integer_value(json_object_get(t, "secs")) * (long long)NS_PER_S +
		        json_integer_value(json_object_get(t, "nanos"));
		json_decref(o);
	}
	OK(ns[0] >= 0 && ns[0] < (long long)(60 * NS_PER_S) && ns[1] - ns[0] >= 30000000);
	free(all);
	(void)close(fd);
}

TEST(a_fifo_needs_no_reader)
{
	struct err e = { 0 };
	struct events *ev;
	OK(mkfifo(new_path(), 0600) == 0);
	EQ(events_open_path(path, &ev, &e), 0);
	events_emit(ev, "vmm", "starting", NULL);

	/* The reader that comes late finds what there was. */
	int fd = open(path, O_RDONLY);
	OK(fd >= 0);
	events_emit(ev, "vmm", "shutdown", NULL);
	events_free(ev);
	char *all = read_all(fd);
	const char *text = all;
	expect(&text, "vmm", "starting", NULL, NULL);
	expect(&text, "vmm", "shutdown", NULL, NULL);
	STR_EQ(text, "");
	free(all);
	(void)close(fd);
	remove_path();
}

/* Emits until far more was said than pipe and queue hold. Returns how many. */
static unsigned overflow(struct events *ev)
{
	char id[300];
	memset(id, 'x', sizeof id - 1);
	id[sizeof id - 1] = '\0';
	unsigned n = 0;
	for (; n < 2000; n++)
		events_emit_device(ev, "virtio-device", "activated", id, NULL);
	return n;
}

/* Reads what is left of a stream that was overflowed; whole events only, and the numbers must add up. */
static void check_losses(const char *text, unsigned n_emitted)
{
	unsigned n_seen = 0, n_lost = 0;
	while (*text) {
		json_t *o = next_event(&text);
		const char *count = json_string_value(json_object_get(json_object_get(o, "properties"), "count"));
		if (strcmp(json_string_value(json_object_get(o, "event")), "events-lost") == 0)
			n_lost += (unsigned)strtoul(count, NULL, 10);
		else
			n_seen++;
		json_decref(o);
	}
	OK(n_lost > 0 && n_seen > 10);
	EQ(n_seen + n_lost, n_emitted);
}

struct reader {
	int fd;
	char *text; /* terminated up to n */
	_Atomic size_t n;
};

static void *read_in_thread(void *arg)
{
	struct reader *r = arg;
	ssize_t n_read;
	while (r->n < MAX_BYTES - 1 && (n_read = read(r->fd, r->text + r->n, MAX_BYTES - 1 - r->n)) > 0)
		r->n += (size_t)n_read;
	return NULL;
}

static bool has_read(struct reader *r, const char *part)
{
	return memmem(r->text, r->n, part, strlen(part)) != NULL;
}

static void slow_reader(int write_end, int read_end)
{
	struct err e = { 0 };
	struct events *ev;
	EQ(events_open_fd(write_end, &ev, &e), 0);
	uint64_t start_ns = clock_now_ns();
	unsigned n = overflow(ev);
	OK(clock_now_ns() - start_ns < 20 * NS_PER_S); /* nobody waited */

	/* Now the reader wakes up: what was queued comes, then what was lost is said, then all is as before. */
	pthread_t t = 0;
	struct reader r = { .fd = read_end, .text = calloc(1, MAX_BYTES) };
	OK(r.text && pthread_create(&t, NULL, read_in_thread, &r) == 0);
	for (; !has_read(&r, "\"again\""); n++) {
		test_sleep_us(5000);
		events_emit(ev, "test", "again", NULL);
	}
	events_emit(ev, "test", "last", NULL);
	n++;
	while (!has_read(&r, "\"last\""))
		test_sleep_us(5000);
	events_free(ev);
	OK(pthread_join(t, NULL) == 0);
	check_losses(r.text, n);
	free(r.text);
	(void)close(read_end);
}

TEST(a_slow_reader_of_a_pipe_loses_whole_events)
{
	int fds[2];
	OK(pipe(fds) == 0);
	slow_reader(fds[1], fds[0]);
}

TEST(a_slow_reader_of_a_socket_loses_whole_events)
{
	int fds[2];
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
	slow_reader(fds[1], fds[0]);
}

TEST(a_reader_that_leaves_does_no_harm)
{
	struct err e = { 0 };
	struct events *ev;
	int fds[2];
	OK(pipe(fds) == 0);
	(void)signal(SIGPIPE, SIG_IGN); /* as the program does */
	EQ(events_open_fd(fds[1], &ev, &e), 0);
	events_emit(ev, "a", "b", NULL);
	(void)close(fds[0]);
	(void)overflow(ev);
	events_free(ev);
}

/* What the guest can cause at will does not drown what the manager waits for. */
TEST(there_is_room_left_for_what_is_not_the_guests)
{
	struct err e = { 0 };
	struct events *ev;
	int fds[2];
	OK(pipe(fds) == 0);
	EQ(events_open_fd(fds[1], &ev, &e), 0);
	(void)overflow(ev);
	events_emit(ev, "vm", "shutdown", NULL);
	pthread_t t = 0;
	struct reader r = { .fd = fds[0], .text = calloc(1, MAX_BYTES) };
	OK(r.text && pthread_create(&t, NULL, read_in_thread, &r) == 0);
	for (unsigned i = 0; !has_read(&r, "\"shutdown\"") && i < 2000; i++)
		test_sleep_us(5000);
	OK(has_read(&r, "\"events-lost\"") && has_read(&r, "\"shutdown\""));
	events_free(ev);
	OK(pthread_join(t, NULL) == 0);
	free(r.text);
	(void)close(fds[0]);
}

static void count_record(void *context, const struct log_record *r)
{
	_Atomic unsigned *n = context;
	STR_HAS(r->text, "events cannot be written");
	(*n)++;
}

static void limit_files(rlim_t n_bytes)
{
	struct rlimit l;
	OK(getrlimit(RLIMIT_FSIZE, &l) == 0);
	l.rlim_cur = n_bytes;
	OK(setrlimit(RLIMIT_FSIZE, &l) == 0);
}

/* As with a disk that is full for a while: the limit is another error, met in the middle of an event as well. */
TEST(a_file_that_took_no_more_goes_on_where_it_stopped)
{
	struct err e = { 0 };
	struct events *ev;
	_Atomic unsigned n_records = 0;
	const struct log_sink sink = { .write = count_record, .context = &n_records, .max_level = LOG_WARN };
	(void)signal(SIGXFSZ, SIG_IGN);
	int fd = memfd_create("events", MFD_CLOEXEC);
	EQ(events_open_fd(dup(fd), &ev, &e), 0);
	events_log_to(ev, &sink);
	limit_files(100);
	for (unsigned i = 0; i < 20; i++)
		events_emit(ev, "test", "event", NULL);
	for (unsigned i = 0; !n_records && i < 2000; i++)
		test_sleep_us(5000);
	test_sleep_us(600000); /* tried again in the meantime */
	EQ(n_records, 1);
	EQ(lseek(fd, 0, SEEK_END), 100);
	limit_files(RLIM_INFINITY);
	char *all = NULL;
	for (unsigned i = 0; i < 2000; i++) { /* by itself, without another event */
		free(all);
		OK(all = calloc(1, MAX_BYTES));
		OK(pread(fd, all, MAX_BYTES - 1, 0) >= 100);
		unsigned n = 0;
		for (const char *at = all; (at = strstr(at, "\n\n")) != NULL; at++)
			n++;
		if (n == 20)
			break;
		test_sleep_us(5000);
	}
	const char *text = all;
	for (unsigned i = 0; i < 20; i++)
		expect(&text, "test", "event", NULL, NULL);
	STR_EQ(text, "");
	free(all);
	events_free(ev);
	(void)close(fd);
}

TEST(an_end_with_a_full_pipe_does_not_wait_for_ever)
{
	struct err e = { 0 };
	struct events *ev;
	int fds[2];
	OK(pipe(fds) == 0);
	EQ(events_open_fd(fds[1], &ev, &e), 0);
	(void)overflow(ev);
	uint64_t start_ns = clock_now_ns();
	events_free(ev);
	OK(clock_now_ns() - start_ns < 5 * NS_PER_S);
	/* What is there ends with an event's end. */
	char *all = read_all(fds[0]);
	const char *text = all;
	while (*text)
		json_decref(next_event(&text));
	free(all);
	(void)close(fds[0]);
}

static void *emit_many(void *arg)
{
	for (int i = 0; i < 50; i++)
		events_emit(arg, "thread", "event", "{\"a\":\"b\"}");
	return NULL;
}

TEST(threads_emit_at_once)
{
	struct err e = { 0 };
	struct events *ev;
	pthread_t t[4];
	int fd = memfd_create("events", MFD_CLOEXEC);
	EQ(events_open_fd(dup(fd), &ev, &e), 0);
	for (size_t i = 0; i < 4; i++)
		OK(pthread_create(&t[i], NULL, emit_many, ev) == 0);
	for (size_t i = 0; i < 4; i++)
		OK(pthread_join(t[i], NULL) == 0);
	events_free(ev);
	OK(lseek(fd, 0, SEEK_SET) == 0);
	char *all = read_all(fd);
	const char *text = all;
	int n = 0;
	for (; *text; n++)
		json_decref(next_event(&text));
	EQ(n, 200);
	free(all);
	(void)close(fd);
}

TEST(nobody_listens)
{
	events_emit(NULL, "vmm", "starting", NULL);
	events_emit_device(NULL, "vm", "device-removed", "a", "b");
	events_free(NULL);
}

TEST(what_cannot_be_opened_is_refused)
{
	struct err e = { 0 };
	struct events *ev = NULL;
	EQ(events_open_path("/no/folder/events", &ev, &e), -ENOENT);
	STR_EQ(e.text, "'/no/folder/events': No such file or directory");
	EQ(events_open_fd(1000, &ev, &e), -EBADF);
	int fd = open("/dev/null", O_RDONLY);
	EQ(events_open_fd(fd, &ev, &e), -EBADF);
	STR_HAS(e.text, "not open for writing");
	OK(fcntl(fd, F_GETFD) >= 0); /* still the caller's */
	(void)close(fd);
	OK(!ev);
}

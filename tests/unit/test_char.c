/* SPDX-License-Identifier: Apache-2.0 */
/* The character backends: every mode, both ways, peers that come, go, stall and come again. */
#include "backend/char.h"
#include "backend/terminal.h"
#include "base/clock.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* A device in front that takes at most `room` bytes until it is told otherwise. */
struct device {
	struct char_client client;
	size_t room, n;
	uint8_t bytes[CHAR_BUFFER_BYTES];
	unsigned n_resizes;
	uint16_t n_columns, n_rows;
};

struct bench {
	struct loop *loop;
	struct char_backend *b;
	struct device device;
	char path[64];
};

static size_t device_input(void *context, const uint8_t *bytes, size_t n_bytes)
{
	struct device *d = context;
	size_t n = n_bytes < d->room ? n_bytes : d->room;
	OK(d->n + n <= sizeof d->bytes);
	memcpy(d->bytes + d->n, bytes, n);
	d->n += n;
	d->room -= n;
	return n;
}

static void device_resized(void *context, uint16_t n_columns, uint16_t n_rows)
{
	struct device *d = context;
	d->n_resizes++;
	d->n_columns = n_columns;
	d->n_rows = n_rows;
}

static void bench_open(struct bench *t, enum char_mode mode, struct terminal *terminal)
{
	memset(t, 0, sizeof *t);
	(void)snprintf(t->path, sizeof t->path, "/tmp/varan-char-%d", (int)getpid());
	(void)unlink(t->path);
	EQ(loop_new(&t->loop, NULL), 0);
	struct err e = { 0 };
	struct char_params p = { .mode = mode, .path = t->path, .terminal = terminal };
	if (char_open(&p, t->loop, &t->b, &e) != 0)
		test_fail(__FILE__, __LINE__, "char_open: %s", e.text);
	t->device.room = SIZE_MAX;
	t->device.client = (struct char_client){ device_input, device_resized, &t->device };
	char_set_client(t->b, &t->device.client);
}

static void bench_close(struct bench *t)
{
	char_close(t->b);
	loop_free(t->loop);
	(void)unlink(t->path);
}

static void turn(struct bench *t)
{
	for (int i = 0; i < 200 && loop_run_once(t->loop, 0) > 0; i++)
		;
}

/* Nothing repeats itself: the loop sleeps. */
static void expect_idle(struct bench *t)
{
	turn(t);
	uint64_t end = clock_now_ns() + NS_PER_S, before;
	do { /* the tick that follows a burst may come in between */
		before = clock_now_ns();
		(void)loop_run_once(t->loop, 20);
	} while (clock_now_ns() - before < 15 * NS_PER_MS && before < end);
	OK(before < end);
	before = clock_now_ns();
	(void)loop_run_once(t->loop, 20);
	OK(clock_now_ns() - before >= 15 * NS_PER_MS);
}

/* Turns the loop until the device has n bytes. */
static void wait_input(struct bench *t, size_t n)
{
	uint64_t end = clock_now_ns() + 5 * NS_PER_S;
	while (t->device.n < n && clock_now_ns() < end)
		(void)loop_run_once(t->loop, 10);
	EQ(t->device.n, n);
}

/* Reads from fd what is there, turning the loop, until n bytes have come. */
static void wait_output(struct bench *t, int fd, char *ret_bytes, size_t n)
{
	size_t at = 0;
	uint64_t end = clock_now_ns() + 5 * NS_PER_S;
	while (at < n && clock_now_ns() < end) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		(void)loop_run_once(t->loop, 1);
		if (poll(&p, 1, 0) <= 0)
			continue;
		ssize_t got = read(fd, ret_bytes + at, n - at);
		if (got > 0)
			at += (size_t)got;
	}
	EQ(at, n);
}

static size_t file_bytes(const struct bench *t)
{
	struct stat st;
	EQ(stat(t->path, &st), 0);
	return (size_t)st.st_size;
}

static void write_text(struct bench *t, const char *s)
{
	char_write(t->b, s, strlen(s));
}

static int connect_to(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	OK(fd >= 0);
	EQ(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

TEST(null_takes_everything_and_has_no_input)
{
	struct bench t;
	bench_open(&t, CHAR_NULL, NULL);
	write_text(&t, "gone\n");
	OK(!char_has_input(t.b));
	OK(!char_path(t.b));
	bench_close(&t);
}

TEST(a_file_is_truncated_and_a_line_is_written_at_its_newline)
{
	struct bench t;
	bench_open(&t, CHAR_FILE, NULL);
	EQ(file_bytes(&t), 0);
	for (const char *s = "hello"; *s; s++)
		char_write(t.b, s, 1);
	EQ(file_bytes(&t), 0); /* gathered: one system call a line */
	char_write(t.b, "\n", 1);
	EQ(file_bytes(&t), 6);
	STR_EQ(char_path(t.b), t.path);
	OK(!char_has_input(t.b));

	/* A second opening truncates. */
	struct char_backend *b2;
	struct char_params p = { .mode = CHAR_FILE, .path = t.path };
	EQ(char_open(&p, t.loop, &b2, NULL), 0);
	EQ(file_bytes(&t), 0);
	char_close(b2);
	bench_close(&t);
}

TEST(what_no_newline_follows_leaves_by_flush_tick_and_batch)
{
	struct bench t;
	bench_open(&t, CHAR_FILE, NULL);
	write_text(&t, "flush");
	EQ(file_bytes(&t), 0);
	char_flush(t.b);
	EQ(file_bytes(&t), 5);

	write_text(&t, "tick");
	uint64_t end = clock_now_ns() + NS_PER_S;
	while (file_bytes(&t) != 9 && clock_now_ns() < end)
		(void)loop_run_once(t.loop, 10);
	EQ(file_bytes(&t), 9);

	for (unsigned i = 0; i < CHAR_BATCH_BYTES; i++)
		char_write(t.b, "x", 1);
	EQ(file_bytes(&t), 9 + CHAR_BATCH_BYTES);
	bench_close(&t);
}

TEST(the_tick_ends_when_nothing_comes)
{
	struct bench t;
	bench_open(&t, CHAR_FILE, NULL);
	write_text(&t, "a");
	uint64_t end = clock_now_ns() + 30 * NS_PER_MS;
	while (clock_now_ns() < end)
		(void)loop_run_once(t.loop, 1);
	uint64_t before = clock_now_ns();
	(void)loop_run_once(t.loop, 100);
	OK(clock_now_ns() - before >= 90 * NS_PER_MS);
	bench_close(&t);
}

TEST(the_last_bytes_are_written_at_close)
{
	struct bench t;
	struct stat st;
	bench_open(&t, CHAR_FILE, NULL);
	write_text(&t, "no newline");
	char_close(t.b);
	EQ(stat(t.path, &st), 0);
	EQ(st.st_size, 10);
	loop_free(t.loop);
	(void)unlink(t.path);
}

TEST(a_file_that_cannot_be_opened_is_named)
{
	struct loop *l;
	struct char_backend *b;
	struct err e = { 0 };
	EQ(loop_new(&l, NULL), 0);
	struct char_params p = { .mode = CHAR_FILE, .path = "/nowhere/log" };
	EQ(char_open(&p, l, &b, &e), -ENOENT);
	STR_HAS(e.text, "/nowhere/log");
	p.path = "";
	EQ(char_open(&p, l, &b, &e), -EINVAL);
	loop_free(l);
}

TEST(a_full_device_loses_bytes_and_nothing_else)
{
	struct loop *l;
	struct char_backend *b;
	EQ(loop_new(&l, NULL), 0);
	struct char_params p = { .mode = CHAR_FILE, .path = "/dev/full" };
	EQ(char_open(&p, l, &b, NULL), 0);
	for (int i = 0; i < 1000; i++)
		char_write(b, "lost\n", 5);
	(void)loop_run_once(l, 0);
	char_close(b);
	loop_free(l);
}

TEST(a_fifo_without_a_reader_does_not_block)
{
	struct bench t = { 0 };
	(void)snprintf(t.path, sizeof t.path, "/tmp/varan-fifo-%d", (int)getpid());
	EQ(mkfifo(t.path, 0600), 0);
	EQ(loop_new(&t.loop, NULL), 0);
	struct char_params p = { .mode = CHAR_FILE, .path = t.path };
	EQ(char_open(&p, t.loop, &t.b, NULL), 0);
	char block[4096];
	memset(block, 'x', sizeof block);
	for (int i = 0; i < 100; i++)
		char_write(t.b, block, sizeof block); /* more than the pipe and the buffer hold */
	turn(&t);
	bench_close(&t);
}

/* --- pty ---------------------------------------------------------------------------------------------------------------- */

TEST(a_pty_carries_both_ways_without_echo_and_survives_its_peer)
{
	struct bench t;
	char got[16];
	bench_open(&t, CHAR_PTY, NULL);
	for (int round = 0; round < 3; round++) {
		int fd = open(char_path(t.b), O_RDWR | O_NOCTTY | O_CLOEXEC);
		OK(fd >= 0);
		write_text(&t, "out\r\n");
		wait_output(&t, fd, got, 5);
		MEM_EQ(got, "out\r\n", 5);
		EQ(write(fd, "in\r", 3), 3);
		t.device.n = 0;
		wait_input(&t, 3);
		MEM_EQ(t.device.bytes, "in\r", 3); /* raw: no CR to NL, and nothing of "out" */
		(void)close(fd);

		/* The peer is gone: no event may repeat itself. */
		turn(&t);
		expect_idle(&t);
	}
	bench_close(&t);
}

TEST(a_pty_that_nobody_reads_drops_and_goes_on)
{
	struct bench t;
	char line[128], got[4096];
	bench_open(&t, CHAR_PTY, NULL);
	memset(line, 'x', sizeof line);
	line[sizeof line - 1] = '\n';
	for (int i = 0; i < 4000; i++)
		char_write(t.b, line, sizeof line);
	turn(&t);
	/* A reader comes: what the kernel and the buffer hold flows, the newest line last. */
	int fd = open(char_path(t.b), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	write_text(&t, "END\n");
	char tail[4] = "";
	uint64_t end = clock_now_ns() + 5 * NS_PER_S;
	while (memcmp(tail, "END\n", 4) != 0 && clock_now_ns() < end) {
		(void)loop_run_once(t.loop, 1);
		ssize_t n = read(fd, got, sizeof got);
		if (n >= 4)
			memcpy(tail, got + n - 4, 4);
	}
	MEM_EQ(tail, "END\n", 4);
	expect_idle(&t);
	(void)close(fd);
	bench_close(&t);
}

TEST(a_pty_tells_its_size_when_its_peer_types)
{
	struct bench t;
	uint16_t n_columns, n_rows;
	bench_open(&t, CHAR_PTY, NULL);
	OK(char_size(t.b, &n_columns, &n_rows));
	int fd = open(char_path(t.b), O_RDWR | O_NOCTTY | O_CLOEXEC);
	struct winsize w = { .ws_col = 132, .ws_row = 50 };
	EQ(ioctl(fd, TIOCSWINSZ, &w), 0);
	EQ(write(fd, "x", 1), 1);
	wait_input(&t, 1);
	EQ(t.device.n_resizes, 1);
	EQ(t.device.n_columns, 132);
	EQ(t.device.n_rows, 50);
	char_update_size(t.b);
	EQ(t.device.n_resizes, 1); /* only changes are told */
	(void)close(fd);
	bench_close(&t);
}

/* --- input flow ---------------------------------------------------------------------------------------------------------- */

TEST(input_waits_for_room_and_keeps_its_order)
{
	struct bench t;
	bench_open(&t, CHAR_PTY, NULL);
	t.device.room = 0;
	int fd = open(char_path(t.b), O_RDWR | O_NOCTTY | O_CLOEXEC);
	char text[1000];
	for (size_t i = 0; i < sizeof text; i++)
		text[i] = (char)('a' + i % 26);
	EQ(write(fd, text, sizeof text), sizeof text);
	turn(&t);
	EQ(t.device.n, 0);
	while (t.device.n < sizeof text) {
		t.device.room = 7;
		char_resume_input(t.b);
		size_t expected = t.device.n + 7 < sizeof text ? t.device.n + 7 : sizeof text;
		wait_input(&t, expected);
		turn(&t);
		EQ(t.device.n, expected);
	}
	MEM_EQ(t.device.bytes, text, sizeof text);
	(void)close(fd);
	bench_close(&t);
}

TEST(input_waits_for_a_client)
{
	struct bench t;
	bench_open(&t, CHAR_PTY, NULL);
	char_set_client(t.b, NULL);
	int fd = open(char_path(t.b), O_RDWR | O_NOCTTY | O_CLOEXEC);
	EQ(write(fd, "early", 5), 5);
	turn(&t);
	EQ(t.device.n, 0);
	char_set_client(t.b, &t.device.client);
	wait_input(&t, 5);
	(void)close(fd);
	bench_close(&t);
}

TEST(input_held_passes_to_the_next_client)
{
	struct bench t;
	bench_open(&t, CHAR_PTY, NULL);
	t.device.room = 2;
	int fd = open(char_path(t.b), O_RDWR | O_NOCTTY | O_CLOEXEC);
	EQ(write(fd, "reboot", 6), 6);
	wait_input(&t, 2);
	char_set_client(t.b, NULL);
	t.device.room = SIZE_MAX;
	char_resume_input(t.b);
	turn(&t);
	EQ(t.device.n, 2);
	char_set_client(t.b, &t.device.client);
	wait_input(&t, 6);
	MEM_EQ(t.device.bytes, "reboot", 6);
	(void)close(fd);
	bench_close(&t);
}

/* --- socket -------------------------------------------------------------------------------------------------------------- */

TEST(a_socket_keeps_output_for_its_first_peer_and_for_the_next)
{
	struct bench t;
	char got[16];
	bench_open(&t, CHAR_SOCKET, NULL);
	write_text(&t, "boot\n");
	int fd = connect_to(t.path);
	wait_output(&t, fd, got, 5);
	MEM_EQ(got, "boot\n", 5);
	EQ(write(fd, "type", 4), 4);
	wait_input(&t, 4);
	(void)close(fd);
	turn(&t);

	write_text(&t, "alone\n");
	fd = connect_to(t.path);
	wait_output(&t, fd, got, 6);
	MEM_EQ(got, "alone\n", 6);
	(void)close(fd);
	bench_close(&t);
	OK(access(t.path, F_OK) < 0);
}

TEST(the_second_peer_waits_for_the_first_to_leave)
{
	struct bench t;
	char got[8];
	bench_open(&t, CHAR_SOCKET, NULL);
	int first = connect_to(t.path), second = connect_to(t.path);
	turn(&t);
	write_text(&t, "one\n");
	wait_output(&t, first, got, 4);
	struct pollfd p = { .fd = second, .events = POLLIN };
	EQ(poll(&p, 1, 0), 0);
	(void)close(first);
	turn(&t);
	write_text(&t, "two\n");
	wait_output(&t, second, got, 4);
	MEM_EQ(got, "two\n", 4);
	(void)close(second);
	bench_close(&t);
}

TEST(a_peer_that_stops_reading_costs_nobody_anything)
{
	struct bench t;
	char line[100];
	bench_open(&t, CHAR_SOCKET, NULL);
	int fd = connect_to(t.path);
	turn(&t);
	memset(line, 'y', sizeof line);
	line[sizeof line - 1] = '\n';
	uint64_t before = clock_now_ns();
	for (int i = 0; i < 20000; i++)
		char_write(t.b, line, sizeof line);
	OK(clock_now_ns() - before < 5 * NS_PER_S);
	turn(&t);
	/* Idle while the peer stalls. */
	expect_idle(&t);
	/* It reads again, and the newest is there. */
	write_text(&t, "END\n");
	char got[4096], tail[4] = "";
	uint64_t end = clock_now_ns() + 5 * NS_PER_S;
	while (memcmp(tail, "END\n", 4) != 0 && clock_now_ns() < end) {
		(void)loop_run_once(t.loop, 1);
		ssize_t n = recv(fd, got, sizeof got, MSG_DONTWAIT);
		if (n >= 4)
			memcpy(tail, got + n - 4, 4);
	}
	MEM_EQ(tail, "END\n", 4);
	expect_idle(&t);
	(void)close(fd);
	bench_close(&t);
}

TEST(a_peer_that_ends_only_its_own_side_still_gets_output)
{
	struct bench t;
	char got[8];
	bench_open(&t, CHAR_SOCKET, NULL);
	int fd = connect_to(t.path);
	EQ(write(fd, "cmd\n", 4), 4);
	EQ(shutdown(fd, SHUT_WR), 0);
	wait_input(&t, 4);
	turn(&t);
	write_text(&t, "reply\n");
	wait_output(&t, fd, got, 6);
	(void)close(fd);
	turn(&t);
	fd = connect_to(t.path); /* the place is free again */
	write_text(&t, "next\n");
	wait_output(&t, fd, got, 5);
	(void)close(fd);
	bench_close(&t);
}

TEST(bytes_of_a_peer_that_left_are_delivered_when_there_is_room)
{
	struct bench t;
	char got[8];
	bench_open(&t, CHAR_SOCKET, NULL);
	t.device.room = 0;
	int fd = connect_to(t.path);
	turn(&t);
	char text[6000];
	memset(text, 'z', sizeof text);
	EQ(write(fd, text, sizeof text), sizeof text);
	turn(&t);
	(void)close(fd);
	turn(&t);
	expect_idle(&t);
	t.device.room = SIZE_MAX;
	char_resume_input(t.b);
	wait_input(&t, sizeof text);
	turn(&t);

	/* And a peer that waits is not kept out by one that is gone while the device takes nothing. */
	t.device.room = 0;
	fd = connect_to(t.path);
	EQ(write(fd, "q", 1), 1);
	turn(&t);
	(void)close(fd);
	turn(&t);
	fd = connect_to(t.path);
	turn(&t);
	write_text(&t, "hi\n");
	wait_output(&t, fd, got, 3);
	(void)close(fd);
	bench_close(&t);
}

/* A writer finds the peer slow and asks for EPOLLOUT, the peer leaves and another comes: the wish was not for it. */
TEST(a_wish_for_the_last_peer_does_not_keep_the_loop_busy)
{
	struct bench t;
	char block[4096];
	bench_open(&t, CHAR_SOCKET, NULL);
	int fd = connect_to(t.path);
	turn(&t);
	memset(block, 'b', sizeof block);
	int next = connect_to(t.path);
	for (int i = 0; i < 400; i++)
		char_write(t.b, block, sizeof block);
	(void)close(fd);
	turn(&t);
	char got[4096];
	for (int i = 0; i < 100; i++) {
		(void)!recv(next, got, sizeof got, MSG_DONTWAIT);
		turn(&t);
	}
	expect_idle(&t);
	(void)close(next);
	bench_close(&t);
}

TEST(writing_to_a_peer_that_is_gone_raises_no_signal)
{
	struct bench t;
	bench_open(&t, CHAR_SOCKET, NULL);
	int fd = connect_to(t.path);
	turn(&t);
	(void)close(fd);
	for (int i = 0; i < 10; i++)
		write_text(&t, "into the void\n");
	turn(&t);
	bench_close(&t);
}

TEST(a_stale_socket_file_is_replaced_a_live_one_is_not)
{
	struct bench t;
	struct err e = { 0 };
	struct char_backend *b2;
	bench_open(&t, CHAR_SOCKET, NULL);
	struct char_params p = { .mode = CHAR_SOCKET, .path = t.path };
	EQ(char_open(&p, t.loop, &b2, &e), -EADDRINUSE);
	STR_HAS(e.text, t.path);
	turn(&t); /* the probe came and went */
	bench_close(&t);

	/* Left behind by a process that died. */
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	memcpy(a.sun_path, t.path, strlen(t.path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	EQ(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	(void)close(fd);
	struct loop *l;
	EQ(loop_new(&l, NULL), 0);
	EQ(char_open(&p, l, &b2, &e), 0);
	/* Somebody puts another file there: it is not ours to remove. */
	EQ(unlink(t.path), 0);
	fd = open(t.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	(void)close(fd);
	char_close(b2);
	EQ(access(t.path, F_OK), 0);
	/* And a file that is no socket is left alone. */
	EQ(char_open(&p, l, &b2, &e), -EADDRINUSE);
	EQ(access(t.path, F_OK), 0);
	(void)unlink(t.path);
	loop_free(l);
}

TEST(a_socket_path_that_is_too_long_is_refused)
{
	char path[300];
	struct loop *l;
	struct char_backend *b;
	struct err e = { 0 };
	memset(path, 'p', sizeof path);
	path[0] = '/';
	path[sizeof path - 1] = '\0';
	EQ(loop_new(&l, NULL), 0);
	struct char_params p = { .mode = CHAR_SOCKET, .path = path };
	EQ(char_open(&p, l, &b, &e), -ENAMETOOLONG);
	loop_free(l);
}

/* --- terminal ------------------------------------------------------------------------------------------------------------ */

struct tty_pair {
	int master, slave;
};

static struct tty_pair tty_pair_open(void)
{
	struct tty_pair p;
	char name[64];
	p.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	OK(p.master >= 0);
	EQ(grantpt(p.master), 0);
	EQ(unlockpt(p.master), 0);
	EQ(ptsname_r(p.master, name, sizeof name), 0);
	p.slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	OK(p.slave >= 0);
	return p;
}

TEST(a_terminal_is_raw_while_somebody_uses_it_and_not_changed_otherwise)
{
	struct bench t, t2;
	struct tty_pair tty = tty_pair_open();
	struct terminal terminal;
	struct termios before, during, after;
	char got[8];
	EQ(tcgetattr(tty.slave, &before), 0);
	terminal_init(&terminal, tty.slave, tty.slave);
	OK(terminal.is_tty);
	bench_open(&t, CHAR_TTY, &terminal);
	bench_open(&t2, CHAR_TTY, &terminal);
	EQ(tcgetattr(tty.slave, &during), 0);
	EQ(during.c_lflag & (ICANON | ECHO | ISIG), 0);
	EQ(during.c_oflag & OPOST, 0);
	EQ(fcntl(tty.slave, F_GETFL) & O_NONBLOCK, 0); /* the shared description stays as it was */

	/* ^C and CR arrive as bytes, and only at the first console. */
	EQ(write(tty.master, "\003\r", 2), 2);
	wait_input(&t, 2);
	MEM_EQ(t.device.bytes, "\003\r", 2);
	turn(&t2);
	EQ(t2.device.n, 0);
	write_text(&t, "a\n");
	wait_output(&t, tty.master, got, 2);
	MEM_EQ(got, "a\n", 2);
	write_text(&t2, "b\n");
	wait_output(&t2, tty.master, got, 2);

	struct winsize w = { .ws_col = 80, .ws_row = 25 };
	EQ(ioctl(tty.master, TIOCSWINSZ, &w), 0);
	char_update_size(t.b);
	EQ(t.device.n_columns, 80);
	EQ(t.device.n_rows, 25);

	bench_close(&t);
	EQ(tcgetattr(tty.slave, &during), 0);
	EQ(during.c_lflag & ICANON, 0); /* one user is left */
	bench_close(&t2);
	EQ(tcgetattr(tty.slave, &after), 0);
	EQ(after.c_lflag, before.c_lflag);
	EQ(after.c_oflag, before.c_oflag);
	(void)close(tty.master);
	(void)close(tty.slave);
}

TEST(a_terminal_that_nobody_reads_does_not_block)
{
	struct bench t;
	struct tty_pair tty = tty_pair_open();
	struct terminal terminal;
	char line[100];
	terminal_init(&terminal, tty.slave, tty.slave);
	bench_open(&t, CHAR_TTY, &terminal);
	memset(line, 'x', sizeof line);
	line[sizeof line - 1] = '\n';
	for (int i = 0; i < 5000; i++)
		char_write(t.b, line, sizeof line);
	turn(&t);
	bench_close(&t);
	(void)close(tty.master);
	(void)close(tty.slave);
}

TEST(pipes_work_as_a_terminal_and_a_broken_one_is_quiet)
{
	struct bench t;
	int in[2], out[2];
	char got[8];
	struct terminal terminal;
	(void)signal(SIGPIPE, SIG_DFL); /* it would end this process */
	EQ(pipe2(in, O_CLOEXEC), 0);
	EQ(pipe2(out, O_CLOEXEC), 0);
	terminal_init(&terminal, in[0], out[1]);
	OK(!terminal.is_tty);
	bench_open(&t, CHAR_TTY, &terminal);
	EQ(write(in[1], "abc", 3), 3);
	wait_input(&t, 3);
	write_text(&t, "def\n");
	wait_output(&t, out[0], got, 4);
	(void)close(in[1]); /* end of input: once, not for ever */
	turn(&t);
	expect_idle(&t);
	(void)close(out[0]);
	for (int i = 0; i < 10; i++)
		write_text(&t, "nobody\n");
	turn(&t);
	bench_close(&t);
	(void)close(in[0]);
	(void)close(out[1]);
}

TEST(regular_files_work_as_a_terminal)
{
	struct bench t;
	char in_path[] = "/tmp/varan-in-XXXXXX", out_path[] = "/tmp/varan-out-XXXXXX";
	int in = mkostemp(in_path, O_CLOEXEC), out = mkostemp(out_path, O_CLOEXEC);
	char text[10000];
	struct stat st;
	struct terminal terminal;
	memset(text, 'r', sizeof text);
	EQ(write(in, text, sizeof text), sizeof text);
	EQ(lseek(in, 0, SEEK_SET), 0);
	EQ(write(out, "head\n", 5), 5);
	terminal_init(&terminal, in, out);
	bench_open(&t, CHAR_TTY, &terminal);
	wait_input(&t, sizeof text);
	write_text(&t, "tail\n");
	EQ(fstat(out, &st), 0);
	EQ(st.st_size, 10); /* behind what was there: the offset is shared */
	turn(&t);
	bench_close(&t);
	(void)close(in);
	(void)close(out);
	(void)unlink(in_path);
	(void)unlink(out_path);
}

TEST(dev_null_works_as_a_terminal)
{
	struct bench t;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct terminal terminal;
	terminal_init(&terminal, fd, fd);
	bench_open(&t, CHAR_TTY, &terminal);
	write_text(&t, "x\n");
	turn(&t);
	EQ(t.device.n, 0);
	bench_close(&t);
	(void)close(fd);
}

/* --- threads --------------------------------------------------------------------------------------------------------------- */

static void *writer(void *arg)
{
	struct char_backend *b = arg;
	for (int i = 0; i < 20000; i++)
		char_write(b, i % 50 == 49 ? "\n" : "v", 1);
	return NULL;
}

TEST(several_writers_and_a_loop_lose_nothing)
{
	struct bench t = { 0 };
	(void)snprintf(t.path, sizeof t.path, "/tmp/varan-char-%d", (int)getpid());
	struct char_params p = { .mode = CHAR_FILE, .path = t.path };
	EQ(loop_new(&t.loop, NULL), 0);
	EQ(char_open(&p, t.loop, &t.b, NULL), 0);
	pthread_t writers[3];
	for (int i = 0; i < 3; i++)
		EQ(pthread_create(&writers[i], NULL, writer, t.b), 0);
	for (int i = 0; i < 100; i++)
		(void)loop_run_once(t.loop, 1);
	for (int i = 0; i < 3; i++)
		EQ(pthread_join(writers[i], NULL), 0);
	char_close(t.b);
	EQ(file_bytes(&t), 60000);
	loop_free(t.loop);
	(void)unlink(t.path);
}

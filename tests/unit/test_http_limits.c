/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server and clients of ill will: sizes, time, places and memory are bounded. */
#include "http_bench.h"

#include <malloc.h>

TEST(the_head_has_a_limit)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	char *bytes = calloc(1, HTTP_MAX_HEAD_BYTES + 64);
	OK(bytes);
	/* Exactly at the limit, in one line and with the end. */
	size_t n = (size_t)snprintf(bytes, 64, "GET / HTTP/1.1\r\nX: ");
	memset(bytes + n, 'x', HTTP_MAX_HEAD_BYTES - n - 4);
	memcpy(bytes + HTTP_MAX_HEAD_BYTES - 4, "\r\n\r\n", 4);
	int fd = client_connect(b.path);
	talk(&b, fd, bytes, OK_ANSWER);
	/* One more. */
	memcpy(bytes + HTTP_MAX_HEAD_BYTES - 4, "x\r\n\r\n", 5);
	OK(client_send(b.loop, fd, bytes));
	expect_end(&b, fd, HEAD("400", "close"), "longer than 16384 bytes");
	/* Without any line at all. */
	memset(bytes, 'y', HTTP_MAX_HEAD_BYTES + 1);
	bytes[HTTP_MAX_HEAD_BYTES + 1] = '\0';
	fd = client_connect(b.path);
	OK(client_send(b.loop, fd, bytes));
	expect_end(&b, fd, HEAD("400", "close"), "longer than 16384 bytes");
	free(bytes);
	bench_done(&b);
}

TEST(the_body_has_a_limit_and_memory_follows_what_really_comes)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	char *body = malloc(HTTP_MAX_BODY_BYTES + 1);
	OK(body);
	memset(body, ' ', HTTP_MAX_BODY_BYTES);
	body[HTTP_MAX_BODY_BYTES] = '\0';
	int fd = client_connect(b.path);
	OK(client_send(b.loop, fd, "PUT /x HTTP/1.1\r\nContent-Length: 4194304\r\n\r\n"));
	talk(&b, fd, body, OK_ANSWER);
	EQ(b.n_last_body, HTTP_MAX_BODY_BYTES);
	free(b.last_body);
	b.last_body = NULL;
	free(body);

	/* Sixty clients that announce much and send nothing. */
	struct mallinfo2 before = mallinfo2();
	int fds[60];
	for (int i = 0; i < 60; i++) {
		fds[i] = client_connect(b.path);
		OK(client_send(b.loop, fds[i], "PUT /x HTTP/1.1\r\nContent-Length: 4194304\r\n\r\n{"));
	}
	struct mallinfo2 after = mallinfo2();
	OK(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + (1u << 20));
	for (int i = 0; i < 60; i++)
		close(fds[i]);
	close(fd);
	bench_done(&b);
}

TEST(a_body_over_the_limit_is_read_and_thrown_away)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	char *body = calloc(1, HTTP_MAX_BODY_BYTES + 2);
	OK(body);
	memset(body, ' ', HTTP_MAX_BODY_BYTES + 1);
	OK(client_send(b.loop, fd, "PUT /x HTTP/1.1\r\nContent-Length: 4194305\r\n\r\n"));
	OK(client_send(b.loop, fd, body));
	free(body);
	EQ(b.n_calls, 0);
	expect_end(&b, fd, HEAD("400", "close"),
	           "[\"Bad Request\","
	           "\"Request payload with size 4194305 is larger than the limit of 4194304 allowed by server.\"]");
	bench_done(&b);
}

TEST(slow_requests_run_out_of_time_and_idle_clients_do_not)
{
	struct bench b;
	bench_init(&b);
	b.params.request_ns = 100 * NS_PER_MS;
	bench_open(&b);
	int idle = client_connect(b.path), used = client_connect(b.path), slow = client_connect(b.path);
	talk(&b, used, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	uint64_t start = clock_now_ns();
	/* A byte now and then does not help. */
	while (clock_now_ns() - start < 300 * NS_PER_MS) {
		if (!client_send(b.loop, slow, "G"))
			break;
		(void)loop_run_once(b.loop, 10);
	}
	OK(clock_now_ns() - start < 300 * NS_PER_MS);
	expect_end(&b, slow, HEAD("408", "close"), "[\"Request Timeout\",");
	talk(&b, used, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	talk(&b, idle, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	close(used);
	close(idle);
	bench_done(&b);
}

TEST(a_client_that_does_not_take_its_answer_is_let_go)
{
	struct bench b;
	bench_init(&b);
	b.params.request_ns = 100 * NS_PER_MS;
	bench_open(&b);
	int fd = client_connect(b.path);
	OK(client_send(b.loop, fd, "GET /big HTTP/1.1\r\n\r\n"));
	uint64_t end = clock_now_ns() + 20 * NS_PER_S;
	struct pollfd p = { .fd = fd };
	while (!(p.revents & POLLHUP)) {
		(void)loop_run_once(b.loop, 20);
		(void)poll(&p, 1, 0);
		OK(clock_now_ns() < end);
	}
	close(fd);
	bench_done(&b);
}

TEST(an_answer_that_is_taken_byte_by_byte_runs_out_of_time)
{
	struct bench b;
	bench_init(&b);
	b.params.request_ns = 200 * NS_PER_MS;
	bench_open(&b);
	int fd = client_connect(b.path);
	OK(client_send(b.loop, fd, "GET /big HTTP/1.1\r\n\r\n"));
	uint64_t end = clock_now_ns() + 20 * NS_PER_S;
	struct pollfd p = { .fd = fd };
	/* So much that the server can write some more each time. */
	char some[8192];
	for (unsigned n = 0; !(p.revents & POLLHUP); n++) {
		if (n < 100)
			(void)recv(fd, some, sizeof some, 0);
		(void)loop_run_once(b.loop, 10);
		(void)poll(&p, 1, 0);
		OK(clock_now_ns() < end);
		OK(n < 100); /* a second: not for as long as it takes some */
	}
	close(fd);
	bench_done(&b);
}

TEST(a_client_that_is_always_a_little_behind_is_served_on)
{
	static const char request[] = "GET /big HTTP/1.1\r\n\r\n";
	struct bench b;
	bench_init(&b);
	b.params.request_ns = 300 * NS_PER_MS;
	bench_open(&b);
	int fd = client_connect(b.path);
	char *bytes = malloc(1u << 16);
	OK(bytes);
	for (int i = 0; i < 200; i++)
		EQ(send(fd, request, sizeof request - 1, MSG_NOSIGNAL), (ssize_t)sizeof request - 1);
	turn(b.loop);
	struct mallinfo2 before = mallinfo2();
	uint64_t n_read = 0, end = clock_now_ns() + 60 * NS_PER_S, start = clock_now_ns();
	while (n_read < 64ull * BIG_BYTES || clock_now_ns() - start < 400 * NS_PER_MS) {
		ssize_t n = recv(fd, bytes, 1u << 16, 0);
		OK(n > 0 || (n < 0 && errno == EAGAIN));
		n_read += n > 0 ? (uint64_t)n : 0;
		turn(b.loop);
		OK(clock_now_ns() < end);
		if (n_read > 64ull * BIG_BYTES)
			test_sleep_us(2000);
	}
	struct mallinfo2 after = mallinfo2();
	OK(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + 6 * BIG_BYTES);
	free(bytes);
	close(fd);
	turn(b.loop);
	bench_done(&b);
}

TEST(a_client_that_only_sends_is_not_read_on)
{
	static const char request[] = "GET /big HTTP/1.1\r\n\r\n";
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	struct mallinfo2 before = mallinfo2();
	unsigned n_sent = 0;
	while (n_sent < 100000 && send(fd, request, sizeof request - 1, MSG_NOSIGNAL) == sizeof request - 1) {
		n_sent++;
		turn(b.loop);
	}
	OK(b.n_calls < n_sent && b.n_calls <= 4);
	struct mallinfo2 after = mallinfo2();
	OK(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + 4 * BIG_BYTES);
	/* And the loop is at rest. */
	EQ(loop_run_once(b.loop, 0), 0);
	/* Once it reads, all comes. */
	char *bytes = malloc(1u << 16);
	OK(bytes);
	uint64_t n_read = 0, end = clock_now_ns() + 60 * NS_PER_S;
	unsigned n_wanted = n_sent < 20 ? n_sent : 20;
	while (n_read < (uint64_t)n_wanted * BIG_BYTES) {
		ssize_t n = recv(fd, bytes, 1u << 16, 0);
		n_read += n > 0 ? (uint64_t)n : 0;
		turn(b.loop);
		OK(clock_now_ns() < end);
	}
	OK(b.n_calls >= n_wanted);
	free(bytes);
	close(fd);
	turn(b.loop);
	bench_done(&b);
}

TEST(clients_above_the_limit_wait_for_a_place)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fds[HTTP_MAX_CONNECTIONS], late[5];
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++) {
		fds[i] = client_connect(b.path);
		talk(&b, fds[i], "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	}
	for (int i = 0; i < 5; i++) {
		late[i] = client_connect(b.path);
		talk(&b, late[i], "GET /late HTTP/1.1\r\n\r\n", "");
	}
	EQ(loop_run_once(b.loop, 0), 0); /* no spinning over the backlog */
	for (int i = 0; i < 5; i++) {
		close(fds[i]);
		fds[i] = -1;
		talk(&b, late[i], "", OK_ANSWER);
	}
	/* All are still served. */
	talk(&b, fds[HTTP_MAX_CONNECTIONS - 1], "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	for (unsigned i = 5; i < HTTP_MAX_CONNECTIONS; i++)
		close(fds[i]);
	for (int i = 0; i < 5; i++)
		close(late[i]);
	bench_done(&b);
}

TEST(idle_clients_give_their_place_to_those_who_wait)
{
	struct bench b;
	bench_init(&b);
	b.params.idle_ns = 50 * NS_PER_MS;
	bench_open(&b);
	int fds[HTTP_MAX_CONNECTIONS];
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++) {
		fds[i] = client_connect(b.path);
		turn(b.loop);
	}
	/* Nobody waits: nobody goes. */
	uint64_t end = clock_now_ns() + 200 * NS_PER_MS;
	while (clock_now_ns() < end)
		(void)loop_run_once(b.loop, 20);
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++)
		talk(&b, fds[i], "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	/* Those that have been idle longest go, as many as there are who wait, and soon. */
	while (clock_now_ns() < end + 100 * NS_PER_MS)
		(void)loop_run_once(b.loop, 20);
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS - 20; i++)
		talk(&b, fds[HTTP_MAX_CONNECTIONS - 1 - i], "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	test_sleep_us(100000); /* all are over their time when the others come */
	int late[20];
	unsigned n_calls = b.n_calls;
	for (int i = 0; i < 20; i++) {
		late[i] = client_connect(b.path);
		EQ(send(late[i], "GET /late HTTP/1.1\r\n\r\n", 22, MSG_NOSIGNAL), 22);
	}
	uint64_t start = clock_now_ns();
	while (b.n_calls < n_calls + 20) {
		(void)loop_run_once(b.loop, 20);
		OK(clock_now_ns() - start < 20 * NS_PER_S);
	}
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++) {
		char c;
		EQ(recv(fds[i], &c, 1, MSG_PEEK) == 0, i < 20);
		close(fds[i]);
	}
	for (int i = 0; i < 20; i++)
		close(late[i]);
	bench_done(&b);
}

TEST(stuck_clients_give_their_place_to_those_who_wait)
{
	struct bench b;
	bench_init(&b);
	b.params.idle_ns = 100 * NS_PER_MS;
	bench_open(&b);
	int fds[HTTP_MAX_CONNECTIONS];
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++) {
		fds[i] = client_connect(b.path);
		OK(client_send(b.loop, fds[i], i % 2 ? "GET /big HTTP/1.1\r\n\r\n" : "PUT /x HTT"));
	}
	/* Nobody waits: nobody goes, and the loop rests between two looks. */
	unsigned n_turns = 0;
	for (uint64_t end = clock_now_ns() + 300 * NS_PER_MS; clock_now_ns() < end; n_turns++)
		(void)loop_run_once(b.loop, 20);
	OK(n_turns < 10 * HTTP_MAX_CONNECTIONS);
	talk(&b, fds[0], "P/1.1\r\n\r\n", OK_ANSWER);
	OK(client_send(b.loop, fds[0], "PUT /x HTT")); /* the youngest now */
	/* One for one, the oldest first. */
	for (unsigned i = 0; i < 20; i++) {
		int late = client_connect(b.path);
		EQ(send(late, "GET /late HTTP/1.1\r\n\r\n", 22, MSG_NOSIGNAL), 22);
		unsigned n_calls = b.n_calls;
		uint64_t start = clock_now_ns();
		while (b.n_calls == n_calls) {
			(void)loop_run_once(b.loop, 20);
			OK(clock_now_ns() - start < 5 * NS_PER_S);
		}
		STR_EQ(b.last_path, "/late");
		/* It stays, as one that is idle and young. */
		close(fds[20 + i]);
		fds[20 + i] = late;
		turn(b.loop);
	}
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++)
		close(fds[i]);
	bench_done(&b);
}

TEST(a_half_request_is_told_why_it_has_to_go)
{
	struct bench b;
	bench_init(&b);
	b.params.idle_ns = 50 * NS_PER_MS;
	bench_open(&b);
	int fds[HTTP_MAX_CONNECTIONS];
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++) {
		fds[i] = client_connect(b.path);
		OK(client_send(b.loop, fds[i], "PUT /x HTT"));
	}
	int late = client_connect(b.path);
	OK(client_send(b.loop, late, "GET /late HTTP/1.1\r\n\r\n"));
	char bytes[4096];
	uint64_t end = clock_now_ns() + 10 * NS_PER_S;
	while (!b.n_calls) {
		(void)loop_run_once(b.loop, 20);
		OK(clock_now_ns() < end);
	}
	unsigned n_gone = 0;
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++) {
		bool is_end;
		(void)client_read(b.loop, fds[i], bytes, sizeof bytes, &is_end);
		if (is_end)
			STR_HAS(bytes, "[\"Request Timeout\",");
		n_gone += is_end;
		close(fds[i]);
	}
	EQ(n_gone, 1);
	close(late);
	bench_done(&b);
}

TEST(a_client_that_comes_to_a_full_server_is_served_at_once)
{
	struct bench b;
	bench_init(&b);
	b.params.idle_ns = 300 * NS_PER_MS;
	bench_open(&b);
	int fds[HTTP_MAX_CONNECTIONS];
	uint64_t end = clock_now_ns() + 350 * NS_PER_MS;
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++)
		fds[i] = client_connect(b.path);
	while (clock_now_ns() < end)
		(void)loop_run_once(b.loop, 20);
	int late = client_connect(b.path);
	talk(&b, late, "GET /late HTTP/1.1\r\n\r\n", OK_ANSWER);
	close(late);
	for (unsigned i = 0; i < HTTP_MAX_CONNECTIONS; i++)
		close(fds[i]);
	bench_done(&b);
}

TEST(many_clients_at_once)
{
	static const char request[] = "PUT /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fds[50];
	for (int i = 0; i < 50; i++)
		fds[i] = client_connect(b.path);
	/* Byte by byte, all of them interleaved. */
	for (int round = 0; round < 3; round++) {
		for (size_t at = 0; at < sizeof request - 1; at++) {
			for (int i = 0; i < 50; i++)
				EQ(send(fds[i], request + at, 1, MSG_NOSIGNAL), 1);
			turn(b.loop);
		}
		for (int i = 0; i < 50; i++)
			talk(&b, fds[i], "", OK_ANSWER);
	}
	EQ(b.n_calls, 150);
	for (int i = 0; i < 50; i++)
		close(fds[i]);
	bench_done(&b);
}

TEST(clients_that_vanish_leave_nothing_behind)
{
	static const char *const said[] = {
		"", "G", "GET / HTTP/1.1\r\n", "PUT /x HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf", "GET /big HTTP/1.1\r\n\r\n",
		"GET /big HTTP/1.1\r\n\r\nGET /big HTTP/1.1\r\n\r\n", "nonsense\r\n",
		"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n",
	};
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
		for (int when = 0; when < 3; when++) {
			int fd = client_connect(b.path);
			if (when == 0)
				turn(b.loop);
			(void)send(fd, said[i], strlen(said[i]), MSG_NOSIGNAL);
			if (when == 1)
				turn(b.loop);
			close(fd);
			turn(b.loop);
			EQ(loop_run_once(b.loop, 0), 0);
		}
	}
	bench_done(&b);
}

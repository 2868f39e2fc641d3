/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server over real sockets: exact bytes, requests cut anywhere, descriptors, and the socket itself. */
#include "http_bench.h"

#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

TEST(answers_have_the_exact_bytes)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	talk(&b, fd, "GET /api/v1/x HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", OK_ANSWER);
	STR_EQ(b.last_path, "/api/v1/x");
	OK(!b.last_body);
	talk(&b, fd, "PUT /none HTTP/1.1\r\n\r\n", HEAD("204", "keep-alive") "\r\n");
	talk(&b, fd, "PUT /empty HTTP/1.1\r\nContent-Length: 0\r\n\r\n", HEAD("200", "keep-alive") JSON("0"));
	talk(&b, fd, "PUT http://localhost:80/x/y HTTP/1.1\r\ncontent-LENGTH:  5 \r\n\r\nhello", OK_ANSWER);
	STR_EQ(b.last_path, "/x/y");
	STR_EQ(b.last_body, "hello");
	talk(&b, fd, "PUT http://localhost HTTP/1.1\r\n\r\n", OK_ANSWER);
	STR_EQ(b.last_path, "");
	/* Empty lines in front are skipped. */
	talk(&b, fd, "\r\n\r\nGET / HTTP/1.1\r\n\r\n", OK_ANSWER);
	EQ(b.n_calls, 6);
	close(fd);
	bench_done(&b);
}

TEST(pipelined_requests_are_answered_in_order)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	talk(&b, fd,
	     "PUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /none HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n"
	     "PUT /c HTTP/1.1\r\nContent-Length: 2\r\n\r\nde",
	     OK_ANSWER HEAD("204", "keep-alive") "\r\n" BARE_400 OK_ANSWER);
	EQ(b.n_calls, 3);
	STR_EQ(b.last_body, "de");
	/* More than are served in one turn. */
	char bytes[65536] = "", answer[65536] = "";
	size_t at = 0, answer_at = 0;
	for (int i = 0; i < 200; i++) {
		at += (size_t)snprintf(bytes + at, sizeof bytes - at, "GET / HTTP/1.1\r\n\r\n");
		answer_at += (size_t)snprintf(answer + answer_at, sizeof answer - answer_at, "%s", OK_ANSWER);
	}
	char got[65536];
	bool is_end;
	OK(client_send(b.loop, fd, bytes));
	(void)client_read(b.loop, fd, got, sizeof got, &is_end);
	STR_EQ(got, answer);
	EQ(b.n_calls, 203);
	close(fd);
	bench_done(&b);
}

TEST(a_request_may_be_cut_anywhere)
{
	static const char request[] = "PUT /cut HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\nX: y\r\n\r\n{\"a\":1}";
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	const size_t n = sizeof request - 1;
	for (size_t cut = 1; cut < n; cut++) {
		OK(client_send_n(b.loop, fd, request, cut));
		EQ(b.n_calls, cut - 1);
		talk(&b, fd, request + cut, OK_ANSWER);
		EQ(b.n_calls, cut);
		STR_EQ(b.last_path, "/cut");
		STR_EQ(b.last_body, "{\"a\":1}");
	}
	for (size_t i = 0; i < n - 1; i++)
		OK(client_send_n(b.loop, fd, request + i, 1));
	talk(&b, fd, request + n - 1, OK_ANSWER);
	close(fd);
	bench_done(&b);
}

TEST(other_methods_are_bad_requests_and_the_connection_goes_on)
{
	static const char *const methods[] = { "HEAD", "POST", "DELETE", "PATCH", "OPTIONS", "get", "GETT", "X-1" };
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
		char request[128];
		(void)snprintf(request, sizeof request, "%s /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", methods[i]);
		talk(&b, fd, request, BARE_400);
	}
	EQ(b.n_calls, 0);
	talk(&b, fd, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	close(fd);
	bench_done(&b);
}

TEST(malformed_requests_are_refused_and_end_the_connection)
{
	static const struct {
		const char *request, *status, *words;
	} cases[] = {
		{ "nonsense\r\n", "400", "the request line is not" },
		{ "GET /\r\n", "400", "the request line is not" },
		{ "GET  HTTP/1.1\r\n", "400", "the request line is not" },
		{ " GET / HTTP/1.1\r\n", "400", "the request line is not" },
		{ "GET / HTTP/2.0\r\n", "400", "version" },
		{ "GET / HTTP/1.1 \r\n", "400", "version" },
		{ "GET / x HTTP/1.1\r\n", "400", "version" },
		{ "GET / HTTP/1.1\n", "400", "does not end in CR LF" },
		{ "GET /\x01 HTTP/1.1\r\n", "400", "control character" },
		{ "GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", "400", "does not end in CR LF" },
		{ "GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "400", "control character" },
		{ "GET / HTTP/1.1\r\nno colon\r\n", "400", "header line" },
		{ "GET / HTTP/1.1\r\nName : value\r\n", "400", "header line" },
		{ "GET / HTTP/1.1\r\nA: b\r\n folded\r\n", "400", "header line" },
		{ "GET / HTTP/1.1\r\n: empty\r\n", "400", "header line" },
		{ "PUT / HTTP/1.1\r\nContent-Length: -1\r\n", "400", "not a number" },
		{ "PUT / HTTP/1.1\r\nContent-Length: +1\r\n", "400", "not a number" },
		{ "PUT / HTTP/1.1\r\nContent-Length: 1 2\r\n", "400", "not a number" },
		{ "PUT / HTTP/1.1\r\nContent-Length:\r\n", "400", "not a number" },
		{ "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n", "400", "differ" },
		{ "PUT / HTTP/1.1\r\nContent-Length: 4194305\r\n", "400", "4194305 is larger than the limit of 4194304" },
		{ "PUT / HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n", "400", "larger than the limit" },
		{ "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "411", "Content-Length" },
		{ "PUT / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: gzip, chunked\r\n", "411", "Content-Length" },
	};
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		char begin[128];
		int fd = client_connect(b.path);
		OK(client_send(b.loop, fd, cases[i].request));
		(void)snprintf(begin, sizeof begin, "HTTP/1.1 %s \r\nServer: Cloud Hypervisor API\r\nConnection: close\r\n",
		               cases[i].status);
		expect_end(&b, fd, begin, cases[i].words);
	}
	EQ(b.n_calls, 0);
	bench_done(&b);
}

TEST(what_is_answered_before_a_malformed_request_is_answered)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	OK(client_send(b.loop, fd, "GET /a HTTP/1.1\r\n\r\nnonsense\r\nGET /b HTTP/1.1\r\n\r\n"));
	expect_end(&b, fd, OK_ANSWER HEAD("400", "close"), "[\"Bad Request\",\"the request line");
	EQ(b.n_calls, 1);
	bench_done(&b);
}

/* The client that sends too much at once still gets to read why. */
TEST(continue_is_sent_to_a_client_that_waits_for_it)
{
	static const char go_on[] = "HTTP/1.1 100 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n";
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	for (int i = 0; i < 2; i++) {
		talk(&b, fd, "PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", go_on);
		talk(&b, fd, "ab", ""); /* once */
		talk(&b, fd, "cd", OK_ANSWER);
		STR_EQ(b.last_body, "abcd");
	}
	/* Not with the body there, without one, or for one that is refused. */
	talk(&b, fd, "PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nab", "");
	talk(&b, fd, "cd", OK_ANSWER);
	talk(&b, fd, "PUT /x HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", OK_ANSWER);
	OK(client_send(b.loop, fd, "PUT /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n"));
	expect_end(&b, fd, HEAD("400", "close"), "larger than the limit");
	bench_done(&b);
}

TEST(half_closed_clients_get_their_answer)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	EQ(send(fd, "GET /a HTTP/1.1\r\n\r\nGET /none HTTP/1.1\r\n\r\n", 42, 0), 42);
	shutdown(fd, SHUT_WR);
	expect_end(&b, fd, OK_ANSWER HEAD("204", "keep-alive") "\r\n", "");
	fd = client_connect(b.path);
	EQ(send(fd, "GET /big HTTP/1.1\r\n\r\n", 21, 0), 21);
	shutdown(fd, SHUT_WR);
	char *bytes = malloc(BIG_BYTES + 8192);
	OK(bytes);
	client_read_to_end(b.loop, fd, bytes, BIG_BYTES + 8192);
	EQ(strlen(strstr(bytes, "\r\n\r\n") + 4), BIG_BYTES);
	free(bytes);
	close(fd);
	/* Nothing at all: it simply ends. */
	fd = client_connect(b.path);
	shutdown(fd, SHUT_WR);
	expect_end(&b, fd, "", "");
	fd = client_connect(b.path);
	EQ(send(fd, "GET /a HT", 9, 0), 9);
	shutdown(fd, SHUT_WR);
	expect_end(&b, fd, HEAD("400", "close"), "the request ends before its end");
	bench_done(&b);
}

TEST(the_connection_ends_when_the_client_asks_for_it)
{
	static const char *const last[] = {
		"GET /x HTTP/1.1\r\nConnection: close\r\n\r\n",
		"GET /x HTTP/1.1\r\nConnection: te, Close\r\n\r\n",
		"GET /x HTTP/1.0\r\n\r\n",
	};
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	for (size_t i = 0; i < sizeof last / sizeof *last; i++) {
		int fd = client_connect(b.path);
		OK(client_send(b.loop, fd, last[i]));
		/* What comes behind it is not served. */
		OK(client_send(b.loop, fd, "GET /y HTTP/1.1\r\n\r\n"));
		expect_end(&b, fd, HEAD("200", "close") JSON("2") "{}", "");
	}
	EQ(b.n_calls, 3);
	int fd = client_connect(b.path);
	talk(&b, fd, "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", OK_ANSWER);
	talk(&b, fd, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	close(fd);
	bench_done(&b);
}

/* It takes all its answers, but never the last byte of them. */
/* Half requests, and answers that nobody takes. */
/* Whoever comes need not wait for a timer when others have been idle for long. */
TEST(descriptors_come_with_their_request)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path), null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int three[3] = { null, null, null };
	client_send_fds(fd, "PUT /take HTTP/1.1\r\n\r\n", three, 3);
	talk(&b, fd, "", OK_ANSWER);
	EQ(b.n_last_fds, 3);
	OK(b.taken_fd >= 0 && fcntl(b.taken_fd, F_GETFD) == FD_CLOEXEC);
	close(b.taken_fd); /* the other two are closed already: the kit counts */

	/* In pieces: with the head, with the body. */
	client_send_fds(fd, "PUT /x HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo", three, 1);
	turn(b.loop);
	client_send_fds(fd, "d", three, 2);
	turn(b.loop);
	talk(&b, fd, "y", OK_ANSWER);
	EQ(b.n_last_fds, 3);
	talk(&b, fd, "PUT /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	EQ(b.n_last_fds, 0);

	/* Of two requests that are read together, the second's. */
	EQ(send(fd, "PUT /a HTTP/1.1\r\n\r\n", 19, 0), 19);
	client_send_fds(fd, "PUT /b HTTP/1.1\r\nContent-Length: 1\r\n\r\n", three, 2);
	talk(&b, fd, "", OK_ANSWER);
	STR_EQ(b.last_path, "/a");
	EQ(b.n_last_fds, 0);
	talk(&b, fd, "b", OK_ANSWER);
	EQ(b.n_last_fds, 2);

	/* As many as one message carries; not one more. */
	int many[HTTP_MAX_FDS];
	for (unsigned i = 0; i < HTTP_MAX_FDS; i++)
		many[i] = null;
	client_send_fds(fd, "PUT /x HTTP/1.1\r\n\r\n", many, HTTP_MAX_FDS);
	talk(&b, fd, "", OK_ANSWER);
	EQ(b.n_last_fds, HTTP_MAX_FDS);
	client_send_fds(fd, "PUT /x HT", many, HTTP_MAX_FDS);
	turn(b.loop);
	client_send_fds(fd, "TP/1.1\r\n\r\n", many, 1);
	unsigned n_calls = b.n_calls;
	expect_end(&b, fd, HEAD("400", "close"), "too many descriptors");
	EQ(b.n_calls, n_calls);

	/* Ours is the table that is full: that is not the client's fault. */
	fd = client_connect(b.path);
	talk(&b, fd, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	struct rlimit limit, tight;
	EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
	int lowest = dup(null);
	close(lowest);
	tight = (struct rlimit){ (rlim_t)lowest + 2, limit.rlim_max };
	EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
	client_send_fds(fd, "PUT /x HTTP/1.1\r\n\r\n", three, 3);
	n_calls = b.n_calls;
	expect_end(&b, fd, HEAD("500", "close"), "[\"Internal Server Error\",\"the descriptors of the request cannot be received");
	EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
	EQ(b.n_calls, n_calls);

	/* A client that goes in the middle, and one that is refused. */
	fd = client_connect(b.path);
	client_send_fds(fd, "PUT /x HT", many, HTTP_MAX_FDS);
	turn(b.loop);
	close(fd);
	fd = client_connect(b.path);
	client_send_fds(fd, "nonsense\r\n", three, 3);
	turn(b.loop);
	client_send_fds(fd, "more", three, 3);
	expect_end(&b, fd, HEAD("400", "close"), "the request line");
	close(null);
	bench_done(&b);
}

TEST(answers_are_written_before_the_server_is_gone)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	int fd = client_connect(b.path);
	OK(client_send(b.loop, fd, "GET /big HTTP/1.1\r\n\r\n"));
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		/* A client that reads while the server closes. */
		size_t n = 0;
		char bytes[4096];
		struct pollfd p = { .fd = fd, .events = POLLIN };
		/* No end to wait for: this process, too, holds the server's side. */
		while (n <= BIG_BYTES && poll(&p, 1, 10000) == 1) {
			ssize_t done = recv(fd, bytes, sizeof bytes, 0);
			if (done <= 0)
				break;
			n += (size_t)done;
		}
		_exit(n > BIG_BYTES ? 0 : 1);
	}
	close(fd);
	http_close(b.http);
	b.http = NULL;
	int status = 1;
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, 0);
	/* One that does not read does not keep it. */
	bench_open(&b);
	fd = client_connect(b.path);
	OK(client_send(b.loop, fd, "GET /big HTTP/1.1\r\n\r\n"));
	uint64_t start = clock_now_ns();
	http_close(b.http);
	b.http = NULL;
	OK(clock_now_ns() - start < 10 * NS_PER_S);
	close(fd);
	bench_done(&b);
}

static void expect_refused(struct bench *b, const char *words)
{
	struct http *h;
	struct err e = { 0 };
	OK(http_open(&b->params, &h, &e) < 0);
	STR_HAS(e.text, words);
}

TEST(the_socket_is_the_users_own_and_goes_with_the_server)
{
	struct bench b;
	struct stat st;
	bench_init(&b);
	(void)umask(0);
	bench_open(&b);
	EQ(stat(b.path, &st), 0);
	EQ(st.st_mode & 07777, 0600);
	EQ(stat(b.lock, &st), 0);
	EQ(st.st_mode & 07777, 0600);
	http_close(b.http);
	OK(stat(b.path, &st) < 0 && stat(b.lock, &st) < 0);

	/* Somebody has put another file there: it stays. */
	bench_open(&b);
	EQ(unlink(b.path), 0);
	int other = open(b.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	OK(other >= 0);
	close(other);
	http_close(b.http);
	b.http = NULL;
	EQ(unlink(b.path), 0);
	bench_done(&b);
}

TEST(a_live_socket_is_refused)
{
	struct bench b;
	bench_init(&b);
	bench_open(&b);
	expect_refused(&b, "is already in use by another process");
	int fd = client_connect(b.path);
	talk(&b, fd, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	close(fd);
	http_close(b.http);
	b.http = NULL;

	/* One that does not know our lock; also with its backlog full. */
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s", b.path);
	int other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), clients[2];
	EQ(bind(other, (const struct sockaddr *)&a, sizeof a), 0);
	EQ(listen(other, 0), 0);
	expect_refused(&b, "is already in use by another process");
	for (int i = 0; i < 2; i++) {
		clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)connect(clients[i], (const struct sockaddr *)&a, sizeof a);
	}
	expect_refused(&b, "is already in use by another process");
	close(clients[0]);
	close(clients[1]);
	/* Its process dies, the file stays: that one is replaced. */
	close(other);
	bench_open(&b);
	fd = client_connect(b.path);
	talk(&b, fd, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	close(fd);
	bench_done(&b);
}

TEST(the_socket_of_a_killed_process_is_replaced)
{
	struct bench b;
	struct stat st;
	bench_init(&b);
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		bench_open(&b);
		_exit(0); /* without closing */
	}
	int status;
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, 0);
	OK(stat(b.path, &st) == 0 && stat(b.lock, &st) == 0);
	bench_open(&b);
	int fd = client_connect(b.path);
	talk(&b, fd, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	close(fd);
	bench_done(&b);
}

/* Whatever the order of opening, locking, unlinking and binding: never two at a time, and nobody is locked out for ever. */
TEST(processes_that_race_for_a_path_get_it_one_after_the_other)
{
	struct bench b;
	bench_init(&b);
	_Atomic int *n_holders = mmap(NULL, sizeof *n_holders, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	OK(n_holders != MAP_FAILED);
	pid_t pids[4];
	fflush(stdout);
	for (int i = 0; i < 4; i++) {
		pids[i] = fork();
		if (pids[i] != 0)
			continue;
		struct loop *loop;
		int n_won = 0;
		EQ(loop_new(&loop, NULL), 0); /* epoll does not go through a fork */
		b.params.loop = loop;
		uint64_t end = clock_now_ns() + 30 * NS_PER_S;
		while (n_won < 50 && clock_now_ns() < end) {
			struct http *h;
			if (http_open(&b.params, &h, NULL) < 0)
				continue;
			bool is_alone = atomic_fetch_add(n_holders, 1) == 0;
			sched_yield();
			(void)atomic_fetch_sub(n_holders, 1);
			http_close(h);
			if (!is_alone)
				_exit(2);
			n_won++;
		}
		_exit(n_won == 50 ? 0 : 3);
	}
	for (int i = 0; i < 4; i++) {
		int status = 1;
		EQ(waitpid(pids[i], &status, 0), pids[i]);
		EQ(status, 0);
	}
	munmap((void *)(uintptr_t)n_holders, sizeof *n_holders);
	bench_done(&b);
}

TEST(paths_that_cannot_be_are_refused)
{
	struct bench b;
	struct stat st;
	bench_init(&b);
	int file = open(b.path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	OK(file >= 0);
	close(file);
	expect_refused(&b, "there is another file of that name");
	EQ(stat(b.path, &st), 0);
	EQ(unlink(b.path), 0);
	char path[256];
	(void)snprintf(path, sizeof path, "%s/%0150d", b.folder, 1);
	b.params.path = path;
	expect_refused(&b, "and not 1 to 107");
	b.params.path = "";
	expect_refused(&b, "");
	(void)snprintf(path, sizeof path, "%s/no/such", b.folder);
	expect_refused(&b, "");
	b.params.path = path;
	expect_refused(&b, "No such file or directory");
	/* A lock file that is a link is not followed. */
	b.params.path = b.path;
	EQ(symlink("/dev/null", b.lock), 0);
	expect_refused(&b, "lock file");
	EQ(unlink(b.lock), 0);
	bench_done(&b);
}

TEST(an_inherited_socket_is_served)
{
	struct bench b;
	bench_init(&b);
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s", b.path);
	b.params.fd = socket(AF_UNIX, SOCK_STREAM, 0);
	EQ(bind(b.params.fd, (const struct sockaddr *)&a, sizeof a), 0);
	expect_refused(&b, "is not a Unix stream socket that is listened on");
	EQ(listen(b.params.fd, 4), 0);
	bench_open(&b);
	EQ(fcntl(b.params.fd, F_GETFD), FD_CLOEXEC);
	int fd = client_connect(b.path);
	talk(&b, fd, "GET /x HTTP/1.1\r\n\r\n", OK_ANSWER);
	close(fd);
	http_close(b.http);
	b.http = NULL;
	EQ(unlink(b.path), 0); /* not ours to take away */

	int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), null = open("/dev/null", O_RDWR | O_CLOEXEC);
	b.params.fd = tcp;
	expect_refused(&b, "is not a Unix stream socket");
	b.params.fd = null;
	expect_refused(&b, "is not a Unix stream socket");
	b.params.fd = 1000000;
	expect_refused(&b, "Bad file descriptor");
	/* They stay the caller's. */
	EQ(close(tcp), 0);
	EQ(close(null), 0);
	bench_done(&b);
}

TEST(errors_are_an_array_of_strings)
{
	struct http_answer a = { 0 };
	http_answer_errors(&a, 500, "one\n\"two\"\\\n\nthree\n");
	STR_EQ(text_get(&a.body), "[\"one\",\"\\\"two\\\"\\\\\",\"three\"]");
	EQ(a.status, 500);
	http_answer_errors(&a, 404, "");
	STR_EQ(text_get(&a.body), "[]");
	http_answer_errors(&a, 404, "a\xff" "b\nc");
	STR_EQ(text_get(&a.body), "[\"a?b\",\"c\"]");
	http_answer_errors(&a, 404, "caf\xc3\xa9\ncaf\xc3");
	STR_EQ(text_get(&a.body), "[\"caf\xc3\xa9\",\"caf?\"]");
	text_done(&a.body);
}

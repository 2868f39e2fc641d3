/* SPDX-License-Identifier: Apache-2.0 */
/* The runner: `PROGRAM [NAME-PART]`; TAP on standard output; exit 1 when a test failed. With VARAN_TEST_NO_FORK set,
 * tests run in this process, for a debugger. */
#include "test.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HANG_GUARD_S 120
#define EXIT_SKIP 77

static struct test *first, **last = &first;

void test_register(struct test *t)
{
	*last = t;
	last = &t->next;
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	printf("# %s:%d: ", file, line);
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
	fflush(stdout);
	_exit(1);
}

void test_forbid_call(long number, int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof code / sizeof *code, .filter = code };
	EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

void test_skip(const char *why)
{
	printf("# skipped: %s\n", why);
	fflush(stdout);
	_exit(EXIT_SKIP);
}

void test_sleep_us(unsigned us)
{
	struct timespec t = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L };
	(void)nanosleep(&t, NULL);
}

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;
	if (!d)
		return -1;
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void run_here(const struct test *t)
{
	int n_before = count_fds();
	t->fn();
	int n_after = count_fds();
	if (n_after != n_before)
		test_fail(t->name, 0, "%d file descriptors at the start, %d at the end", n_before, n_after);
}

static int run_forked(const struct test *t)
{
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(HANG_GUARD_S);
		run_here(t);
		/* exit(), not _exit(): LeakSanitizer reports at exit. */
		exit(0);
	}
	int status = 0;
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 1;
	if (WIFSIGNALED(status)) {
		printf("# ended by signal %d%s\n", WTERMSIG(status), WTERMSIG(status) == SIGALRM ? " (hung)" : "");
		return 1;
	}
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	const char *part = argc > 1 ? argv[1] : "";
	int n = 0, n_failed = 0;

	for (const struct test *t = first; t; t = t->next)
		n += strstr(t->name, part) != NULL;
	printf("1..%d\n", n);

	n = 0;
	for (const struct test *t = first; t; t = t->next) {
		if (!strstr(t->name, part))
			continue;
		n++;
		int rc = 0;
		if (getenv("VARAN_TEST_NO_FORK"))
			run_here(t);
		else
			rc = run_forked(t);
		bool is_skip = rc == EXIT_SKIP;
		printf("%s %d - %s%s\n", rc == 0 || is_skip ? "ok" : "not ok", n, t->name, is_skip ? " # SKIP" : "");
		n_failed += rc != 0 && !is_skip;
	}
	return n_failed ? 1 : 0;
}

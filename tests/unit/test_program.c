/* SPDX-License-Identifier: Apache-2.0 */
/* The program by its names: what it prints, how it starts, serves, and ends. VARAN_PROGRAM is its path. */
#include "base/text.h"
#include "hv_box.h"
#include "tiny_kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_BYTES (256u << 10)
#define MAX_ARGUMENTS 24

GUEST(power_off, 32, "mov $0x600, %dx; mov $0x34, %al; out %al, %dx; 1: cli; hlt; jmp 1b");
GUEST(lost, 32, "mov $0xd0000000, %eax; jmp *%eax");
GUEST(idle, 32, "1: cli; hlt; jmp 1b");

/* A folder of the test's own, where the program is run, and a program that runs or ran in it. */
struct run {
	char folder[40];
	char program[64]; /* a link with the name under test */
	pid_t pid;
	int status;       /* the exit status; 128 and more: a signal */
	char *out, *err;
};

static void run_init(struct run *r, const char *name)
{
	const char *program = getenv("VARAN_PROGRAM");
	if (!program)
		test_skip("VARAN_PROGRAM does not say where the program is");
	*r = (struct run){ .pid = -1 };
	(void)snprintf(r->folder, sizeof r->folder, "/tmp/varan-program-XXXXXX");
	OK(mkdtemp(r->folder));
	(void)snprintf(r->program, sizeof r->program, "%s/%s", r->folder, name);
	OK(symlink(program, r->program) == 0);
}

static const char *in(const struct run *r, const char *name)
{
	static char path[4][96];
	static unsigned next;
	char *p = path[next++ % 4];
	(void)snprintf(p, sizeof path[0], "%s/%s", r->folder, name);
	return p;
}

static char *contents(const char *path)
{
	char *text = calloc(1, MAX_BYTES);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	OK(text);
	if (fd >= 0) {
		OK(read(fd, text, MAX_BYTES - 1) >= 0);
		(void)close(fd);
	}
	return text;
}

static void run_done(struct run *r)
{
	OK(r->pid < 0);
	free(r->out);
	free(r->err);
	DIR *d = opendir(r->folder);
	OK(d);
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
		if (entry->d_name[0] != '.')
			OK(unlinkat(dirfd(d), entry->d_name, 0) == 0);
	}
	(void)closedir(d);
	OK(rmdir(r->folder) == 0);
}

/* Ends with NULL; relative paths are in the folder. Descriptors of the test's own are inherited when not close-on-exec. */
__attribute__((sentinel)) static void start(struct run *r, const char *first, ...)
{
	const char *argv[MAX_ARGUMENTS] = { r->program, first };
	size_t n = first ? 2 : 1;
	va_list ap;
	va_start(ap, first);
	while (first && (argv[n] = va_arg(ap, const char *)) != NULL)
		OK(++n < MAX_ARGUMENTS);
	va_end(ap);

	free(r->out);
	free(r->err);
	r->out = r->err = NULL;
	const char *out = in(r, "stdout"), *err = in(r, "stderr");
	r->pid = fork();
	OK(r->pid >= 0);
	if (r->pid == 0) {
		int null_fd = open("/dev/null", O_RDONLY), out_fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		int err_fd = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		(void)dup2(null_fd, 0);
		(void)dup2(out_fd, 1);
		(void)dup2(err_fd, 2);
		if (chdir(r->folder) == 0)
			(void)execv(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
}

static int finish(struct run *r)
{
	int status;
	OK(waitpid(r->pid, &status, 0) == r->pid);
	r->pid = -1;
	r->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	r->out = contents(in(r, "stdout"));
	r->err = contents(in(r, "stderr"));
	return r->status;
}

#define RUN(r, ...) (start(r, __VA_ARGS__, NULL), finish(r))

static void stop(struct run *r, int signal_number)
{
	OK(kill(r->pid, signal_number) == 0);
	(void)finish(r);
}

/* One request over the API socket; the whole answer. "" when nobody answers yet. */
static char *ask(const struct run *r, const char *method, const char *route, const char *body)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char *answer = calloc(1, MAX_BYTES);
	size_t n = 0;
	text_scoped t = TEXT_INIT;
	OK(answer);
	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s", in(r, "api"));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (const struct sockaddr *)&a, sizeof a) == 0) {
		text_appendf(&t, "%s /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n", method, route);
		if (body)
			text_appendf(&t, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
		text_appendf(&t, "\r\n%s", body ? body : "");
		OK(write(fd, text_get(&t), t.n_bytes) == (ssize_t)t.n_bytes);
		(void)shutdown(fd, SHUT_WR);
		ssize_t n_read;
		while (n < MAX_BYTES - 1 && (n_read = read(fd, answer + n, MAX_BYTES - 1 - n)) > 0)
			n += (size_t)n_read;
	}
	(void)close(fd);
	return answer;
}

static void expect_answer(const struct run *r, const char *method, const char *route, const char *body, const char *part)
{
	char *answer = ask(r, method, route, body);
	STR_HAS(answer, part);
	free(answer);
}

static void wait_for_api(const struct run *r)
{
	for (unsigned i = 0;; i++) {
		char *answer = ask(r, "GET", "vmm.ping", NULL);
		bool is_there = strstr(answer, "\"version\"") != NULL;
		free(answer);
		if (is_there)
			return;
		OK(i < 500);
		test_sleep_us(20000);
	}
}

static void wait_for_state(const struct run *r, const char *state)
{
	char wanted[40];
	(void)snprintf(wanted, sizeof wanted, "\"state\":\"%s\"", state);
	for (unsigned i = 0;; i++) {
		char *answer = ask(r, "GET", "vm.info", NULL);
		bool is_there = strstr(answer, wanted) != NULL;
		free(answer);
		if (is_there)
			return;
		OK(i < 500);
		test_sleep_us(20000);
	}
}

/* Inherited, and so to be closed by the test. */
static int kernel_file(const uint8_t *code, const uint8_t *end, char *ret_path, size_t n)
{
	int fd = tiny_kernel_open(code, end);
	(void)fcntl(fd, F_SETFD, 0);
	(void)snprintf(ret_path, n, "/proc/self/fd/%d", fd);
	return fd;
}

/* --- names ------------------------------------------------------------------------------------------------------------- */

TEST(each_name_has_its_version)
{
	struct run r;
	unsigned major, minor, micro;
	run_init(&r, "varan");
	EQ(RUN(&r, "--version"), 0);
	OK(sscanf(r.out, "varan v%u.%u.%u\n", &major, &minor, &micro) == 3);
	EQ(RUN(&r, "-vV"), 0);
	STR_HAS(r.out, "\nEnabled features: [\"");
	STR_HAS(r.out, "\"kvm\"");
	run_done(&r);

	/* What libvirt parses, and the least that it takes. */
	run_init(&r, "cloud-hypervisor");
	EQ(RUN(&r, "--version"), 0);
	OK(sscanf(r.out, "cloud-hypervisor v%u.%u.%u\n", &major, &minor, &micro) == 3 && major >= 15);
	run_done(&r);

	run_init(&r, "ch-remote");
	EQ(RUN(&r, "--version"), 0);
	STR_HAS(r.out, "ch-remote v");
	run_done(&r);
}

TEST(subcommands_are_varans_alone)
{
	struct run r;
	run_init(&r, "varan");
	EQ(RUN(&r, "document", "openapi"), 0);
	STR_HAS(r.out, "openapi: 3");
	EQ(RUN(&r, "remote", "--help"), 0);
	STR_HAS(r.out, "--api-socket");
	run_done(&r);

	run_init(&r, "cloud-hypervisor");
	EQ(RUN(&r, "remote", "--help"), 2);
	STR_HAS(r.err, "error: unexpected argument 'remote' found");
	STR_HAS(r.err, "Usage: cloud-hypervisor");
	run_done(&r);
}

TEST(wrong_words_exit_with_2)
{
	struct run r;
	run_init(&r, "varan");
	start(&r, NULL, NULL);
	EQ(finish(&r), 2);
	STR_HAS(r.err, "Usage: varan");
	STR_EQ(r.out, "");
	EQ(RUN(&r, "--no-such-option"), 2);
	EQ(RUN(&r, "--help"), 0);
	STR_HAS(r.out, "--api-socket");
	run_done(&r);
}

TEST(what_cannot_be_printed_is_a_failure)
{
	struct run r;
	run_init(&r, "varan");
	char command[160];
	(void)snprintf(command, sizeof command, "exec %s --help >/dev/full", r.program);
	int status = system(command);
	OK(WIFEXITED(status));
	EQ(WEXITSTATUS(status), 1);
	run_done(&r);
}

TEST(a_dry_run_leaves_the_log_alone)
{
	struct run r;
	run_init(&r, "varan");
	int fd = open(in(&r, "log"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	OK(fd >= 0 && write(fd, "kept", 4) == 4);
	(void)close(fd);
	EQ(RUN(&r, "--dry-run", "--log-file", "log", "--kernel", "k"), 0);
	char *log = contents(in(&r, "log"));
	STR_EQ(log, "kept");
	free(log);
	run_done(&r);
}

TEST(a_filter_that_is_asked_for_and_missing_is_warned_of)
{
	struct run r;
	box_need_kvm();
	run_init(&r, "varan");
	EQ(RUN(&r, "--seccomp", "true", "--kernel", "/no/kernel", "--console", "off"), 1);
	STR_HAS(r.err, "WARN");
	STR_HAS(r.err, "--seccomp true is not in force yet: system calls are not filtered");
	EQ(RUN(&r, "--seccomp", "false", "--kernel", "/no/kernel", "--console", "off"), 1);
	OK(!strstr(r.err, "seccomp"));
	EQ(RUN(&r, "--kernel", "/no/kernel", "--console", "off"), 1);
	OK(!strstr(r.err, "seccomp"));
	run_done(&r);
}

/* A line break in a name is no link of the chain. */
TEST(a_name_cannot_break_a_chain)
{
	struct run r;
	box_need_kvm();
	run_init(&r, "cloud-hypervisor");
	EQ(RUN(&r, "--kernel", "/no\nker", "--disk", "foo\nbar"), 1);
	EQ(RUN(&r, "--kernel", "/no\nker", "--console", "off"), 1);
	STR_EQ(r.err, "Error: Cloud Hypervisor exited with the following chain of errors:\n"
	              "  0: Error booting VM\n  1: The VM could not boot\n"
	              "  2: kernel '/no?ker': cannot open: No such file or directory\n");
	run_done(&r);
}

TEST(failures_are_told_as_each_name_tells_them)
{
	struct run r;
	box_need_kvm();
	run_init(&r, "varan");
	EQ(RUN(&r, "--kernel", "k", "--console", "off", "--disk", "foo=1"), 1);
	STR_EQ(r.err, "Error parsing config: Error parsing --disk: unknown option: foo\n");
	EQ(RUN(&r, "--kernel", "/no/kernel", "--console", "off"), 1);
	STR_EQ(r.err, "Error booting VM: kernel '/no/kernel': cannot open: No such file or directory\n");
	EQ(RUN(&r, "--kernel", "k", "--console", "off", "--serial", "file=/no/folder/file"), 1);
	STR_EQ(r.err, "Error creating VM: --serial: cannot open '/no/folder/file' for output: No such file or directory\n");
	EQ(RUN(&r, "--event-monitor", "path=/no/folder/events"), 1);
	STR_EQ(r.err, "Error doing event monitor I/O: '/no/folder/events': No such file or directory\n");
	EQ(RUN(&r, "--event-monitor", "nothing"), 1);
	STR_HAS(r.err, "Error parsing --event-monitor: ");
	EQ(RUN(&r, "--api-socket", "fd=x"), 1);
	STR_EQ(r.err, "Error parsing --api-socket: invalid digit found in string\n");
	EQ(RUN(&r, "--api-socket", "/no/folder/api"), 1);
	STR_HAS(r.err, "Failed to start the VMM thread: ");
	EQ(RUN(&r, "--log-file", "/no/folder/log", "--kernel", "k"), 1);
	STR_EQ(r.err, "Error creating log file: '/no/folder/log': No such file or directory\n");
	EQ(RUN(&r, "--restore", "source_url=file:///x"), 1);
	STR_EQ(r.err, "Error restoring VM: not supported yet: --restore\n");
	run_done(&r);

	run_init(&r, "cloud-hypervisor");
	EQ(RUN(&r, "--kernel", "/no/kernel", "--console", "off"), 1);
	STR_EQ(r.err, "Error: Cloud Hypervisor exited with the following chain of errors:\n"
	              "  0: Error booting VM\n  1: The VM could not boot\n"
	              "  2: kernel '/no/kernel': cannot open: No such file or directory\n");
	run_done(&r);
}

/* --- an idle VMM --------------------------------------------------------------------------------------------------------- */

TEST(an_idle_vmm_serves_until_it_is_told_to_end)
{
	static const int signals[] = { SIGTERM, SIGINT };
	struct run r;
	box_need_kvm();
	run_init(&r, "varan");
	for (size_t i = 0; i < 2; i++) {
		/* Options of a VM are not looked at without a payload. */
		start(&r, "--api-socket", "api", "--event-monitor", "path=events", "--cpus", "nonsense=1", NULL);
		wait_for_api(&r);
		expect_answer(&r, "GET", "vm.info", NULL, "HTTP/1.1 404 ");
		stop(&r, signals[i]);
		EQ(r.status, 0);
		STR_EQ(r.err, "");
		OK(access(in(&r, "api"), F_OK) < 0); /* gone in a good end */
		char *events = contents(in(&r, "events"));
		STR_HAS(events, "\"source\": \"vmm\",\n  \"event\": \"starting\"");
		STR_HAS(events, "\"source\": \"vmm\",\n  \"event\": \"shutdown\"");
		free(events);
	}
	run_done(&r);
}

TEST(the_api_can_end_the_process)
{
	struct run r;
	box_need_kvm();
	run_init(&r, "cloud-hypervisor");
	start(&r, "--api-socket", "path=api", NULL);
	wait_for_api(&r);
	expect_answer(&r, "PUT", "vmm.shutdown", NULL, "HTTP/1.1 200 ");
	EQ(finish(&r), 0);
	run_done(&r);
}

TEST(a_socket_may_be_inherited)
{
	struct run r;
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char option[24];
	box_need_kvm();
	run_init(&r, "varan");
	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s", in(&r, "api"));
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	OK(bind(fd, (const struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 4) == 0);
	(void)snprintf(option, sizeof option, "fd=%d", fd);
	start(&r, "--api-socket", option, NULL);
	(void)close(fd);
	wait_for_api(&r);
	stop(&r, SIGTERM);
	EQ(r.status, 0);
	OK(access(in(&r, "api"), F_OK) == 0); /* not ours */
	run_done(&r);
}

TEST(a_dead_ones_socket_is_taken_over_and_a_live_ones_is_not)
{
	struct run r, second;
	box_need_kvm();
	run_init(&r, "varan");
	start(&r, "--api-socket", "api", NULL);
	wait_for_api(&r);
	stop(&r, SIGKILL);
	OK(access(in(&r, "api"), F_OK) == 0);

	start(&r, "--api-socket", "api", NULL);
	wait_for_api(&r);
	run_init(&second, "varan");
	EQ(RUN(&second, "--api-socket", in(&r, "api")), 1);
	STR_HAS(second.err, "Failed to start the VMM thread: ");
	run_done(&second);
	expect_answer(&r, "GET", "vmm.ping", NULL, "HTTP/1.1 200 "); /* and it lives on */
	stop(&r, SIGTERM);
	EQ(r.status, 0);
	run_done(&r);
}

/* --- a VM ----------------------------------------------------------------------------------------------------------------- */

TEST(a_power_off_ends_the_process_with_0)
{
	struct run r;
	char kernel[40];
	box_need_kvm();
	run_init(&r, "varan");
	int fd = kernel_file(power_off, power_off_end, kernel, sizeof kernel);
	EQ(RUN(&r, "--kernel", kernel, "--console", "off", "--memory", "size=64M"), 0);
	STR_EQ(r.out, "");
	STR_EQ(r.err, "");
	(void)close(fd);
	run_done(&r);
}

TEST(a_failure_ends_the_process_with_a_report)
{
	struct run r;
	char kernel[40];
	box_need_kvm();
	run_init(&r, "varan");
	int fd = kernel_file(lost, lost_end, kernel, sizeof kernel);
	EQ(RUN(&r, "--kernel", kernel, "--console", "off", "--memory", "size=64M"), 1);
	STR_HAS(r.err, "vcpu0 cannot go on");
	STR_HAS(r.err, "rip 00000000d0000000");
	STR_HAS(r.err, "\nVMM thread exited with error: the machine cannot go on\n");
	(void)close(fd);
	run_done(&r);
}

TEST(the_process_may_outlive_its_vm)
{
	struct run r;
	char kernel[40];
	box_need_kvm();
	run_init(&r, "varan");
	int fd = kernel_file(power_off, power_off_end, kernel, sizeof kernel);
	start(&r, "--kernel", kernel, "--console", "off", "--memory", "size=64M", "--api-socket", "api", "--no-shutdown", NULL);
	wait_for_api(&r);
	wait_for_state(&r, "Shutdown");
	expect_answer(&r, "PUT", "vm.delete", NULL, "HTTP/1.1 204 ");
	expect_answer(&r, "GET", "vm.info", NULL, "HTTP/1.1 404 ");
	stop(&r, SIGTERM);
	EQ(r.status, 0);
	(void)close(fd);
	run_done(&r);
}

TEST(a_vm_lives_and_ends_by_the_api)
{
	struct run r;
	char kernel[40], body[200];
	box_need_kvm();
	run_init(&r, "cloud-hypervisor");
	int fd = kernel_file(idle, idle_end, kernel, sizeof kernel);
	start(&r, "--api-socket", "api", NULL);
	wait_for_api(&r);
	(void)snprintf(body, sizeof body,
	               "{\"payload\":{\"kernel\":\"%s\"},\"console\":{\"mode\":\"Off\"},\"serial\":{\"mode\":\"Pty\"},"
	               "\"memory\":{\"size\":67108864}}",
	               kernel);
	expect_answer(&r, "PUT", "vm.create", body, "HTTP/1.1 204 ");
	expect_answer(&r, "GET", "vm.info", NULL, "\"file\":\"/dev/pts/");
	wait_for_state(&r, "Created");
	expect_answer(&r, "PUT", "vm.boot", NULL, "HTTP/1.1 204 ");
	wait_for_state(&r, "Running");
	expect_answer(&r, "PUT", "vm.pause", NULL, "HTTP/1.1 204 ");
	expect_answer(&r, "PUT", "vm.pause", NULL, "InvalidStateTransition(Paused, Paused)");
	expect_answer(&r, "PUT", "vm.resume", NULL, "HTTP/1.1 204 ");
	expect_answer(&r, "PUT", "vm.nmi", NULL, "HTTP/1.1 204 ");
	expect_answer(&r, "PUT", "vm.shutdown", NULL, "HTTP/1.1 204 ");
	wait_for_state(&r, "Created");
	expect_answer(&r, "PUT", "vm.delete", NULL, "HTTP/1.1 204 ");
	stop(&r, SIGTERM);
	EQ(r.status, 0);
	(void)close(fd);
	run_done(&r);
}

/* --- the log --------------------------------------------------------------------------------------------------------------- */

TEST(the_log_has_cloud_hypervisors_form)
{
	struct run r;
	char kernel[40];
	box_need_kvm();
	run_init(&r, "cloud-hypervisor");
	int fd = kernel_file(power_off, power_off_end, kernel, sizeof kernel), n_used = 0;
	EQ(RUN(&r, "-v", "--log-file", "log", "--kernel", kernel, "--console", "off", "--memory", "size=64M"), 0);
	char *log = contents(in(&r, "log")), unit[8], thread[16], file[96];
	double elapsed;
	int line;
	const char *at = strstr(log, "<vcpu0>"); /* says that the guest powers off */
	OK(at);
	while (at > log && at[-1] != '\n')
		at--;
	EQ(sscanf(at, "cloud-hypervisor: %lf%7[mnµs]: <%15[^>]> INFO:%95[^:]:%d -- vm: the guest powers off\r\n%n", &elapsed, unit,
	          thread, file, &line, &n_used), 5);
	OK(n_used > 0);
	STR_EQ(thread, "vcpu0");
	STR_HAS(file, "src/vm/vm.c");
	free(log);

	EQ(RUN(&r, "-v", "--log-format", "json", "--log-file", "log", "--kernel", kernel, "--console", "off", "--memory",
	       "size=64M"), 0);
	log = contents(in(&r, "log"));
	bool is_seen = false;
	for (const char *l = log, *end; (end = strchr(l, '\n')) != NULL; l = end + 1) {
		json_t *o = json_loadb(l, (size_t)(end - l), 0, NULL);
		OK(json_is_object(o));
		is_seen |= strcmp(json_string_value(json_object_get(o, "message")), "the guest powers off") == 0 &&
		           strcmp(json_string_value(json_object_get(o, "level")), "info") == 0 &&
		           strcmp(json_string_value(json_object_get(o, "thread")), "vcpu0") == 0 &&
		           json_integer_value(json_object_get(o, "line")) > 0;
		json_decref(o);
	}
	OK(is_seen);
	free(log);
	(void)close(fd);
	run_done(&r);
}

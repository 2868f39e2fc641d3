/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "mem/file_map.h"
#include "mem/mem.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void add(struct mem_map *m, uint64_t start, uint64_t n_bytes)
{
	struct mem_region_params p = { .start = GPA(start), .n_bytes = n_bytes };
	EQ(mem_map_add(m, &p, NULL), 0);
}

static int add_fails(struct mem_map *m, uint64_t start, uint64_t n_bytes)
{
	struct mem_region_params p = { .start = GPA(start), .n_bytes = n_bytes };
	struct err e = { 0 };
	int rc = mem_map_add(m, &p, &e);
	OK(rc < 0);
	STR_HAS(e.text, "guest memory: ");
	return rc;
}

TEST(spans_stay_inside_one_region)
{
	struct mem_map m;
	struct span s;
	mem_map_init(&m);
	add(&m, 0x100000, 0x10000);
	add(&m, 0x0, 0x10000);
	add(&m, 0x110000, 0x10000); /* next to the first: still another region */
	EQ(m.n_regions, 3);
	EQ(m.n_total_bytes, 0x30000);

	OK(mem_span(&m, GPA(0), 0x10000, &s));
	EQ(s.n_bytes, 0x10000);
	OK(!mem_span(&m, GPA(0), 0x10001, &s));
	OK(!mem_span(&m, GPA(0x10000), 1, &s));
	OK(mem_span(&m, GPA(0x10000), 0, &s));
	OK(!mem_span(&m, GPA(0x20000), 0, &s));
	OK(!mem_span(&m, GPA(0xfffff), 2, &s));
	OK(mem_span(&m, GPA(0x10ffff), 1, &s));
	OK(!mem_span(&m, GPA(0x10ffff), 2, &s));
	OK(!mem_span(&m, GPA(0x100000), UINT64_MAX, &s));
	OK(!mem_span(&m, GPA(UINT64_MAX), 1, &s));
	OK(!mem_span(&m, GPA(UINT64_MAX), 0, &s));
	OK(!mem_span(&m, GPA(UINT64_MAX - 1), 4, &s));
	mem_map_done(&m);
}

TEST(bad_regions_are_refused)
{
	struct mem_map m;
	mem_map_init(&m);
	add(&m, 0x100000, 0x10000);
	EQ(add_fails(&m, 0x108000, 0x1000), -EEXIST);
	EQ(add_fails(&m, 0xff000, 0x2000), -EEXIST);
	EQ(add_fails(&m, 0, 0x1000000), -EEXIST);
	EQ(add_fails(&m, 1, 0x1000), -EINVAL);
	EQ(add_fails(&m, 0, 0x1001), -EINVAL);
	EQ(add_fails(&m, 0, 0), -EINVAL);
	EQ(add_fails(&m, UINT64_MAX - 0xfff, 0x2000), -EINVAL);
	EQ(m.n_regions, 1);
	mem_map_done(&m);
}

TEST(more_regions_than_fit_are_refused)
{
	struct mem_map m;
	mem_map_init(&m);
	for (uint64_t i = 0; i < MEM_MAX_REGIONS; i++)
		add(&m, i * 0x2000, 0x1000);
	EQ(add_fails(&m, 0x1000, 0x1000), -ENOSPC);
	mem_map_done(&m);
}

TEST(copies_refuse_what_is_not_memory)
{
	struct mem_map m;
	char b[8] = "1234567";
	mem_map_init(&m);
	add(&m, 0x1000, 0x1000);
	OK(mem_write(&m, GPA(0x1ff8), b, 8));
	OK(!mem_write(&m, GPA(0x1ff9), b, 8));
	OK(!mem_read(&m, GPA(0xfff), b, 2));
	OK(!mem_fill(&m, GPA(0x1000), 0, 0x1001));
	memset(b, 0, sizeof b);
	OK(mem_read(&m, GPA(0x1ff8), b, 8));
	STR_EQ(b, "1234567");
	mem_map_done(&m);
}

TEST(shared_memory_is_a_file_that_others_can_map)
{
	struct mem_map m;
	mem_map_init(&m);
	struct mem_region_params p = { .start = GPA(0), .n_bytes = 0x10000, .is_shared = true };
	EQ(mem_map_add(&m, &p, NULL), 0);
	uint32_t v = 0x12345678, w = 0;
	OK(mem_write(&m, GPA(0x5000), &v, sizeof v));
	EQ(pread(m.regions[0].fd, &w, sizeof w, 0x5000), sizeof w);
	EQ(w, v);
	mem_map_done(&m);
}

TEST(a_page_on_either_side_is_out_of_reach)
{
	struct mem_map m;
	mem_map_init(&m);
	add(&m, 0, 0x200000);
	uintptr_t host = (uintptr_t)m.regions[0].host;
	EQ(host % (2u << 20), 0); /* huge pages fit */
	for (int side = 0; side < 2; side++) {
		pid_t pid = fork();
		if (pid == 0) {
			(void)signal(SIGSEGV, SIG_DFL);
			(void)signal(SIGBUS, SIG_DFL);
			volatile char *p = (volatile char *)(side ? host + 0x200000 : host - 1);
			(void)*p;
			_exit(0);
		}
		int status;
		EQ(waitpid(pid, &status, 0), pid);
		OK(!(WIFEXITED(status) && WEXITSTATUS(status) == 0));
	}
	mem_map_done(&m);
}

TEST(dirty_pages_are_those_written)
{
	struct mem_map m;
	uint64_t bits[2];
	mem_map_init(&m);
	add(&m, 0x100000, 100 * 4096);
	OK(mem_write(&m, GPA(0x100000), "x", 1)); /* off: not tracked */
	EQ(mem_dirty_start(&m, NULL), 0);
	OK(mem_write(&m, GPA(0x100fff), "xy", 2));
	OK(mem_fill(&m, GPA(0x100000 + 70 * 4096), 1, 4096));
	mem_mark_dirty_host(&m, (const void *)((uintptr_t)m.regions[0].host + 99 * 4096), 4096);
	mem_dirty_collect(&m.regions[0], bits);
	EQ(bits[0], 3);
	EQ(bits[1], 1ull << 6 | 1ull << 35);
	mem_dirty_collect(&m.regions[0], bits);
	EQ(bits[0] | bits[1], 0);
	mem_dirty_stop(&m);
	mem_map_done(&m);
}

#define FILE_BYTES (2u << 20)

struct mapped {
	char path[64];
	int fd;
	struct mem_map map;
	struct mem_files files;
};

static void map_file(struct mapped *m)
{
	static uint8_t page[4096];
	sigset_t set;
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGIO);
	EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);

	(void)snprintf(m->path, sizeof m->path, "/tmp/varan-test-mem-XXXXXX");
	int fd = mkstemp(m->path);
	OK(fd >= 0);
	for (size_t i = 0; i < FILE_BYTES / sizeof page; i++) {
		memset(page, (int)i, sizeof page);
		EQ(write(fd, page, sizeof page), sizeof page);
	}
	close(fd);
	m->fd = open(m->path, O_RDONLY | O_CLOEXEC);
	mem_map_init(&m->map);
	mem_files_init(&m->files, SIGIO);
	add(&m->map, 0, 16u << 20);
	m->map.files = &m->files;
}

static void unmap_file(struct mapped *m)
{
	mem_map_done(&m->map);
	mem_files_done(&m->files);
	close(m->fd);
	(void)unlink(m->path);
}

static uint64_t place(struct mapped *m, uint64_t at, uint64_t offset, uint64_t n_bytes)
{
	struct mem_file_part part = { .fd = m->fd, .offset = offset, .n_bytes = n_bytes };
	return mem_place_file(&m->map, GPA(at), &part);
}

static void holds(const struct mem_map *m, uint64_t at, uint8_t byte)
{
	uint8_t b;
	OK(mem_read(m, GPA(at), &b, 1));
	EQ(b, byte);
}

TEST(a_file_is_mapped_where_pages_fit)
{
	struct mapped m;
	map_file(&m);
	uint64_t n = place(&m, 0x100000, 4096, FILE_BYTES - 4096 - 100);
	if (n == 0)
		test_skip("this file system gives no leases");
	EQ(n, FILE_BYTES - 2 * 4096);
	holds(&m.map, 0x100000, 1);
	holds(&m.map, 0x100000 + n - 1, (uint8_t)(n / 4096));
	holds(&m.map, 0x100000 + n, 0); /* the part of a page is the caller's */
	holds(&m.map, 0xfffff, 0);

	EQ(place(&m, 0x800001, 0, FILE_BYTES), 0);
	EQ(place(&m, 0x800000, 1, FILE_BYTES - 1), 0);
	EQ(place(&m, 0x800000, 0, 8192), 0); /* too small to be worth it */
	EQ(place(&m, 15u << 20, 0, FILE_BYTES), 0); /* not in one region */
	struct mem_file_part written = { .fd = m.fd, .n_bytes = FILE_BYTES, .is_written = true };
	EQ(mem_place_file(&m.map, GPA(0x800000), &written), 0);
	m.files.maps_written = true;
	EQ(mem_place_file(&m.map, GPA(0x800000), &written), FILE_BYTES);
	m.map.files = NULL;
	EQ(place(&m, 0x800000, 0, FILE_BYTES), 0);
	unmap_file(&m);
}

TEST(writes_of_the_guest_stay_out_of_the_file)
{
	struct mapped m;
	uint8_t b = 0;
	map_file(&m);
	if (place(&m, 0, 0, FILE_BYTES) == 0)
		test_skip("this file system gives no leases");
	OK(mem_fill(&m.map, GPA(0x3000), 0xee, 10));
	EQ(pread(m.fd, &b, 1, 0x3000), 1);
	EQ(b, 3);
	unmap_file(&m);
}

/* Whether any part of the map still comes from the file. */
static bool is_file_in_use(const struct mapped *m)
{
	char line[512];
	bool is_there = false;
	FILE *maps = fopen("/proc/self/maps", "re");
	OK(maps);
	while (fgets(line, sizeof line, maps))
		is_there |= strstr(line, m->path) != NULL;
	fclose(maps);
	return is_there;
}

TEST(pages_are_kept_piece_by_piece)
{
	struct mapped m;
	map_file(&m);
	/* Across a huge page's boundary: what lies in the upper one goes first, then the rest. */
	if (place(&m, 0x101000, 0, FILE_BYTES) == 0)
		test_skip("this file system gives no leases");
	OK(mem_fill(&m.map, GPA(0x1ff000), 0xee, 4096));
	OK(is_file_in_use(&m));
	EQ(mem_files_keep_piece(&m.files), 1);
	EQ(mem_files_keep_piece(&m.files), 0);
	OK(!is_file_in_use(&m));
	EQ(m.files.n_files, 0);
	EQ(mem_files_keep_piece(&m.files), 0);
	for (uint64_t i = 0; i < FILE_BYTES / 4096; i++)
		holds(&m.map, 0x101000 + i * 4096, 0x101000 + i * 4096 == 0x1ff000 ? 0xee : (uint8_t)i);
	holds(&m.map, 0x100fff, 0);
	holds(&m.map, 0x101000 + FILE_BYTES, 0);
	unmap_file(&m);
}

/* The flags that smaps shows for the mapping at `host`: "rd wr mr ...". */
static void flags_of(uint64_t host, char *ret_flags, size_t n_max)
{
	char line[512];
	bool is_it = false;
	FILE *maps = fopen("/proc/self/smaps", "re");
	OK(maps);
	ret_flags[0] = '\0';
	while (fgets(line, sizeof line, maps)) {
		unsigned long long start, end;
		if (sscanf(line, "%llx-%llx ", &start, &end) == 2)
			is_it = start <= host && host < end;
		else if (is_it && strncmp(line, "VmFlags:", 8) == 0)
			(void)snprintf(ret_flags, n_max, "%s", line + 8);
	}
	fclose(maps);
}

TEST(pages_that_are_kept_are_advised_as_the_rest)
{
	static const struct {
		bool has_thp, is_mergeable;
	} how[] = { { true, false }, { false, true } };
	for (size_t i = 0; i < ARRAY_LEN(how); i++) {
		struct mapped m;
		struct mem_region_params ram = { .start = GPA(32u << 20), .n_bytes = 16u << 20, .has_thp = how[i].has_thp,
			                         .is_mergeable = how[i].is_mergeable };
		struct span s;
		char rest[512], kept[512];
		map_file(&m);
		EQ(mem_map_add(&m.map, &ram, NULL), 0);
		if (place(&m, 34u << 20, 0, FILE_BYTES) == 0)
			test_skip("this file system gives no leases");
		EQ(mem_files_keep(&m.files), 0);
		OK(mem_span(&m.map, GPA(34u << 20), 4096, &s));
		flags_of((uintptr_t)s.host, kept, sizeof kept);
		OK(mem_span(&m.map, GPA(44u << 20), 4096, &s));
		flags_of((uintptr_t)s.host, rest, sizeof rest);
		OK(strstr(rest, " dd"));
		/* Each as far as this kernel knows of it. */
		EQ(strstr(kept, " hg") != NULL, strstr(rest, " hg") != NULL);
		EQ(strstr(kept, " mg") != NULL, strstr(rest, " mg") != NULL);
		OK(!strstr(kept, how[i].has_thp ? " mg" : " hg"));
		unmap_file(&m);
	}
}

TEST(pages_are_kept_when_somebody_changes_the_file)
{
	struct mapped m;
	map_file(&m);
	if (place(&m, 0, 0, FILE_BYTES) == 0)
		test_skip("this file system gives no leases");
	pid_t pid = fork();
	if (pid == 0) {
		close(m.files.files[0].fd); /* an inherited lease is the parent's, but its descriptor is ours too */
		int fd = open(m.path, O_WRONLY | O_TRUNC); /* waits for the lease to end */
		_exit(fd >= 0 && write(fd, "changed", 7) == 7 ? 0 : 1);
	}
	sigset_t set;
	struct timespec t = { .tv_sec = 60 };
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGIO);
	EQ(sigtimedwait(&set, NULL, &t), SIGIO);
	EQ(mem_files_keep(&m.files), 0);
	int status;
	EQ(waitpid(pid, &status, 0), pid);
	EQ(status, 0);
	for (uint64_t i = 0; i < FILE_BYTES / 4096; i++)
		holds(&m.map, i * 4096, (uint8_t)i);
	unmap_file(&m);
}

/* --- memory that devices bring ------------------------------------------------------------------------------------------ */

static int file_of_a_device(uint64_t n_bytes)
{
	int fd = memfd_create("device", MFD_CLOEXEC);
	OK(fd >= 0 && ftruncate(fd, (off_t)n_bytes) == 0);
	return fd;
}

TEST(what_devices_bring_takes_buffers_and_nothing_else)
{
	struct mem_map m;
	struct span s;
	size_t index;
	uint64_t word = 0;
	uint8_t byte;
	int fd = file_of_a_device(0x4000);
	mem_map_init(&m);
	add(&m, 0, 0x10000);
	struct mem_device_params p = { .start = GPA(0x100000), .n_bytes = 0x4000, .fd = fd };
	EQ(mem_map_add_device(&m, &p, &index, NULL), 0);
	EQ(m.n_regions, 1);
	EQ(m.n_total_bytes, 0x10000);
	OK(!mem_map_find(&m, GPA(0x100000)) && !mem_span(&m, GPA(0x100000), 1, &s));
	OK(!mem_read(&m, GPA(0x100000), &byte, 1) && !mem_write(&m, GPA(0x100000), &byte, 1));

	OK(!mem_device_span(&m, GPA(0xffff), 1, &s)); /* RAM */
	OK(!mem_device_span(&m, GPA(0xfffff), 2, &s) && !mem_device_span(&m, GPA(0xfffff), 1, &s));
	OK(!mem_device_span(&m, GPA(0x103fff), 2, &s) && !mem_device_span(&m, GPA(0x104000), 1, &s));
	OK(!mem_device_span(&m, GPA(0x100000), UINT64_MAX, &s) && !mem_device_span(&m, GPA(0), 1ull << 40, &s));
	OK(mem_device_span(&m, GPA(0x103ff8), 8, &s));
	span_write(s, 0, &(uint64_t){ 0x1234 }, 8);
	EQ(pread(fd, &word, sizeof word, 0x3ff8), sizeof word);
	EQ(word, 0x1234);
	EQ((uintptr_t)m.device_regions[index].host % (2 << 20), 0);
	OK(m.device_regions[index].fd >= 0 && m.device_regions[index].fd != fd);

	mem_map_remove_device(&m, index);
	OK(!mem_device_span(&m, GPA(0x100000), 1, &s));
	EQ(mem_map_add_device(&m, &p, &index, NULL), 0);
	mem_map_done(&m);
	EQ(fcntl(fd, F_GETFD), FD_CLOEXEC); /* ours */
	(void)close(fd);
}

TEST(private_device_memory_keeps_out_of_its_file)
{
	struct mem_map m;
	struct span s;
	size_t index;
	uint64_t word = 7;
	char path[40];
	int fd = file_of_a_device(0x1000);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int reader = open(path, O_RDONLY | O_CLOEXEC);
	OK(reader >= 0 && pwrite(fd, &word, sizeof word, 8) == sizeof word);
	mem_map_init(&m);
	struct mem_device_params p = { .start = GPA(0), .n_bytes = 0x1000, .fd = reader, .is_private = true };
	EQ(mem_map_add_device(&m, &p, &index, NULL), 0);
	EQ(m.device_regions[index].fd, -1);
	OK(mem_device_span(&m, GPA(8), 8, &s));
	word = 0;
	span_read(s, 0, &word, 8);
	EQ(word, 7);
	word = 8;
	span_write(s, 0, &word, 8);
	EQ(pread(fd, &word, sizeof word, 8), sizeof word);
	EQ(word, 7);
	mem_map_done(&m);
	(void)close(reader);
	(void)close(fd);
}

static int add_device_fails(struct mem_map *m, uint64_t start, uint64_t n_bytes, int fd, const char *text)
{
	struct mem_device_params p = { .start = GPA(start), .n_bytes = n_bytes, .fd = fd };
	struct err e = { 0 };
	size_t index;
	int rc = mem_map_add_device(m, &p, &index, &e);
	STR_HAS(e.text, text);
	return rc;
}

TEST(bad_device_memory_is_refused)
{
	struct mem_map m;
	size_t index;
	int fd = file_of_a_device(0x1000);
	mem_map_init(&m);
	add(&m, 0x10000, 0x10000);
	EQ(add_device_fails(&m, 0x1f000, 0x1000, fd, "in use already"), -EEXIST);
	EQ(add_device_fails(&m, 0xf000, 0x2000, fd, "in use already"), -EEXIST);
	EQ(add_device_fails(&m, 0x1000, 0x100, fd, "not a multiple of 4096"), -EINVAL);
	EQ(add_device_fails(&m, 0x100, 0x1000, fd, "not a multiple of 4096"), -EINVAL);
	EQ(add_device_fails(&m, UINT64_MAX - 0xfff, 0x2000, fd, "the end of the address space"), -EINVAL);
	EQ(add_device_fails(&m, 0x1000, 0x1000, -1, "cannot keep a descriptor"), -EBADF);
	for (unsigned i = 0; i < MEM_MAX_DEVICE_REGIONS; i++) {
		struct mem_device_params p = { .start = GPA(0x100000 + 0x1000ull * i), .n_bytes = 0x1000, .fd = fd };
		EQ(mem_map_add_device(&m, &p, &index, NULL), 0);
		EQ(index, i);
	}
	EQ(add_device_fails(&m, 0x1000, 0x1000, fd, "more than 32 regions of devices"), -ENOSPC);
	EQ(add_device_fails(&m, 0x100000, 0x1000, fd, "in use already"), -EEXIST);
	EQ(add_fails(&m, 0x11f000, 0x1000), -EEXIST);
	mem_map_remove_device(&m, 5);
	mem_map_remove_device(&m, 5);
	struct mem_device_params again = { .start = GPA(0x1000), .n_bytes = 0x1000, .fd = fd };
	EQ(mem_map_add_device(&m, &again, &index, NULL), 0);
	EQ(index, 5);
	mem_map_done(&m);
	(void)close(fd);
}

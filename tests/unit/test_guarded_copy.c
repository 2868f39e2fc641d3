/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers in a mapped file that somebody cuts off: the copies themselves, and requests of images with such buffers. */
#include "base/guarded_copy.h"
#include "block_kit.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGE 4096u

/* n_bytes of 0x5a, of which n_left stay. */
static uint8_t *cut_mapping(size_t n_bytes, size_t n_left)
{
	int fd = memfd_create("buffers", MFD_CLOEXEC);
	OK(fd >= 0 && ftruncate(fd, (off_t)n_bytes) == 0);
	uint8_t *m = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	OK(m != MAP_FAILED);
	memset(m, 0x5a, n_bytes);
	EQ(ftruncate(fd, (off_t)n_left), 0);
	(void)close(fd);
	return m;
}

static bool is_all(const uint8_t *p, size_t n, uint8_t value)
{
	for (size_t k = 0; k < n; k++) {
		if (p[k] != value)
			return false;
	}
	return true;
}

TEST(what_is_there_is_copied_and_what_is_not_reads_as_zeroes)
{
	uint8_t *m = cut_mapping(4 * PAGE, PAGE), bytes[200];
	memset(bytes, 1, sizeof bytes);
	OK(guarded_read(bytes, m, 200));
	OK(is_all(bytes, 200, 0x5a));
	memset(bytes, 1, sizeof bytes);
	OK(!guarded_read(bytes, m + PAGE - 100, 200));
	OK(is_all(bytes, 100, 0x5a) && is_all(bytes + 100, 100, 0));
	memset(bytes, 1, sizeof bytes);
	OK(!guarded_read(bytes, m + PAGE, 200));
	OK(is_all(bytes, 200, 0));

	memset(bytes, 7, sizeof bytes);
	OK(guarded_write(m, bytes, 200));
	OK(is_all(m, 200, 7));
	OK(!guarded_write(m + PAGE - 100, bytes, 200));
	OK(is_all(m + PAGE - 100, 100, 7));
	OK(!guarded_write(m + PAGE, bytes, 200));
}

/* Zeroes for what is there would be worse than the signal. */
TEST(a_filter_that_forbids_the_call_loses_nothing)
{
	uint8_t *m = cut_mapping(PAGE, PAGE), bytes[8] = { 0 };
	test_forbid_call(SYS_process_vm_readv, EPERM);
	test_forbid_call(SYS_process_vm_writev, ENOSYS);
	OK(guarded_read(bytes, m, 8));
	OK(is_all(bytes, 8, 0x5a));
	memset(bytes, 7, sizeof bytes);
	OK(guarded_write(m + 8, bytes, 8));
	OK(is_all(m, 8, 0x5a) && is_all(m + 8, 8, 7));
}

/* Whether it is there is not known then, and looking would be the end of the process if it is not. */
TEST(a_call_that_fails_otherwise_has_copied_nothing)
{
	uint8_t *m = cut_mapping(PAGE, 0), bytes[8];
	memset(bytes, 1, sizeof bytes);
	test_forbid_call(SYS_process_vm_readv, ENOMEM);
	test_forbid_call(SYS_process_vm_writev, ENOMEM);
	OK(!guarded_read(bytes, m, 8));
	OK(is_all(bytes, 8, 0));
	OK(!guarded_write(m, bytes, 8));
}

/* --- images --- */

static int run(struct kit *k, enum block_op op, uint8_t *buffer, uint64_t n)
{
	struct kit_op o = { .buffer = buffer, .r.may_fault = true };
	kit_submit(k, 0, &o, op, 0, n);
	kit_wait(k, &o, 1);
	return o.result;
}

/* An error of the request, bounced or not, and the image keeps its bytes. */
TEST(a_request_fails_whose_buffers_are_gone)
{
	enum { N = 2 * PAGE };
	for (int mode = 0; mode < 4; mode++) {
		for (size_t at = 0; at < 2; at++) { /* 1: what direct I/O has to bounce */
			uint8_t bytes[N];
			struct kit k = { .mode = mode, .type = BLOCK_TYPE_RAW };
			kit_folder_new(mode);
			(void)snprintf(k.path, sizeof k.path, "%s/raw", kit_folder);
			kit_run("truncate -s 64K %s", k.path);
			kit_open(&k);
			uint8_t *there = cut_mapping(2 * N, 2 * N), *gone = cut_mapping(2 * N, 0);
			EQ(run(&k, BLOCK_WRITE, there + at, N), 0);
			EQ(run(&k, BLOCK_READ, there + at, N), 0);
			EQ(run(&k, BLOCK_WRITE, gone + at, N), -EFAULT);
			EQ(run(&k, BLOCK_READ, gone + at, N), -EFAULT);
			EQ(kit_do(&k, BLOCK_READ, 0, bytes, N), 0);
			OK(is_all(bytes, N, 0x5a));
			kit_close(&k);
			kit_folder_done();
			EQ(munmap(there, 2 * N), 0);
			EQ(munmap(gone, 2 * N), 0);
		}
	}
}

/* Its first sector is looked at before it is written. */
TEST(a_first_sector_that_is_gone_is_not_written)
{
	uint8_t bytes[512];
	struct kit k = { .type = BLOCK_TYPE_AUTO };
	kit_folder_new(0);
	(void)snprintf(k.path, sizeof k.path, "%s/raw", kit_folder);
	kit_run("yes | head -c 64K > %s", k.path);
	kit_open(&k);
	uint8_t *gone = cut_mapping(PAGE, 0);
	EQ(run(&k, BLOCK_WRITE, gone, 1024), -EFAULT);
	EQ(kit_do(&k, BLOCK_READ, 0, bytes, 512), 0);
	MEM_EQ(bytes, "y\ny\ny\ny\n", 8);
	kit_close(&k);
	kit_folder_done();
}

/* What no system call reads into them: holes, and what was compressed. It may be there again when the guest looks. */
TEST(a_read_fails_whose_buffers_are_gone_whatever_is_read)
{
	kit_need_qemu();
	for (int is_packed = 0; is_packed < 2; is_packed++) {
		uint8_t bytes[512];
		struct kit k = { .type = BLOCK_TYPE_QCOW2 };
		kit_folder_new(0);
		(void)snprintf(k.path, sizeof k.path, "%s/qcow2", kit_folder);
		kit_run("qemu-img create -q -f qcow2 %s 1M", k.path);
		if (is_packed)
			kit_run("qemu-io -f qcow2 -c 'write -q -c -P 0x5a 0 64K' %s", k.path);
		kit_open(&k);
		uint8_t *m = cut_mapping(8 * PAGE, 3 * PAGE);
		EQ(run(&k, BLOCK_READ, m, 8 * PAGE), -EFAULT);
		EQ(run(&k, BLOCK_READ, m, 3 * PAGE), 0);
		OK(is_all(m, 3 * PAGE, is_packed ? 0x5a : 0));
		EQ(kit_do(&k, BLOCK_READ, 512, bytes, 512), 0);
		OK(is_all(bytes, 512, is_packed ? 0x5a : 0));
		EQ(kit_do(&k, BLOCK_WRITE, 512, bytes, 512), 0); /* nothing is held that the reads took */
		kit_close(&k);
		kit_folder_done();
	}
}

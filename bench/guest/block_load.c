/* SPDX-License-Identifier: Apache-2.0 */
/* The load of bench/block, inside the guest: `block_load DEVICE PHASE...`, a phase being OP:BYTES:DEPTH:COUNT.
 *
 * OP is one of randread, randwrite, read, write (the last two one after the other). Each phase does COUNT requests with at most
 * DEPTH in flight by Linux AIO with O_DIRECT, like a database does: it takes all that are done, and submits as many again in
 * one call. Some requests before those that count warm everything up. Where a phase begins and ends is told to whoever looks
 * from outside by CPUID instructions with leaves of our own, in ecx the phase's number at its beginning, and at its end how many
 * requests came between. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BEGIN_LEAF 0x6e617262u
#define END_LEAF 0x6e617263u
#define MAX_DEPTH 256
#define PAUSE_NS 300000000 /* between phases: for whoever looks from outside to take the numbers */

struct phase {
	int is_write, is_random;
	unsigned n_bytes, depth, count, n_warm;
};

static int fd;
static uint64_t n_device_bytes;
static uint64_t seed = 88172645463325252ull, next_offset;
static aio_context_t context;
static struct iocb blocks[MAX_DEPTH], *pointers[MAX_DEPTH];
static uint8_t *buffers;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void mark(uint32_t leaf, uint32_t number)
{
	uint32_t a, b, c, d;
	__cpuid_count(leaf, number, a, b, c, d);
}

static int is_amd;

/* The end is also told by a hypercall that there is not: tracing wants another event to stop counting than to start. */
static void mark_end(uint32_t number)
{
	uint64_t result = END_LEAF;
	if (is_amd)
		__asm__ volatile("vmmcall" : "+a"(result) : : "memory");
	else
		__asm__ volatile("vmcall" : "+a"(result) : : "memory");
	mark(END_LEAF, number);
}

static void parse(const char *text, struct phase *ret_p)
{
	char op[16];
	*ret_p = (struct phase){ 0 };
	if (sscanf(text, "%15[a-z]:%u:%u:%u", op, &ret_p->n_bytes, &ret_p->depth, &ret_p->count) != 4 || ret_p->depth == 0 ||
	    ret_p->depth > MAX_DEPTH || ret_p->n_bytes == 0 || n_device_bytes < ret_p->n_bytes) {
		fprintf(stderr, "no such phase: %s\n", text);
		exit(2);
	}
	ret_p->is_random = strncmp(op, "rand", 4) == 0;
	ret_p->is_write = strstr(op, "write") != NULL;
	ret_p->n_warm = 8 * ret_p->depth;
}

static uint64_t choose(const struct phase *p)
{
	uint64_t n = n_device_bytes / p->n_bytes;
	if (!p->is_random)
		return next_offset++ % n * p->n_bytes;
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n * p->n_bytes;
}

static void prepare(const struct phase *p, struct iocb *b)
{
	b->aio_lio_opcode = p->is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
	b->aio_fildes = (uint32_t)fd;
	b->aio_buf = (uint64_t)(uintptr_t)(buffers + (size_t)(b - blocks) * p->n_bytes);
	b->aio_nbytes = p->n_bytes;
	b->aio_offset = (int64_t)choose(p);
}

static void submit(long n)
{
	if (n && syscall(SYS_io_submit, context, n, pointers) != n)
		die("io_submit");
}

/* The marks lie between two turns of the loop, and requests go on until the second one: as many count as ended between them. */
static void run(const struct phase *p, uint32_t number)
{
	static struct io_event events[MAX_DEPTH];
	unsigned n_done = 0, n_in_flight = p->depth, n_before = 0;
	int has_begun = 0, has_ended = 0;
	next_offset = 0;
	for (unsigned i = 0; i < p->depth; i++) {
		prepare(p, &blocks[i]);
		pointers[i] = &blocks[i];
	}
	submit(p->depth);
	while (n_in_flight) {
		long n = syscall(SYS_io_getevents, context, 1, MAX_DEPTH, events, NULL), n_more = 0;
		if (n < 0)
			die("io_getevents");
		for (long i = 0; i < n; i++) {
			struct iocb *b = (struct iocb *)(uintptr_t)events[i].obj;
			if (events[i].res != (int64_t)p->n_bytes) {
				fprintf(stderr, "a request at %lld ended with %lld\n", (long long)b->aio_offset,
				        (long long)events[i].res);
				exit(1);
			}
			if (has_ended)
				continue;
			prepare(p, b);
			pointers[n_more++] = b;
		}
		submit(n_more);
		n_in_flight += (unsigned)n_more - (unsigned)n;
		n_done += (unsigned)n;
		if (!has_begun && n_done >= p->n_warm) {
			has_begun = 1;
			n_before = n_done;
			mark(BEGIN_LEAF, number);
		} else if (has_begun && !has_ended && n_done - n_before >= p->count) {
			has_ended = 1;
			mark_end(n_done - n_before);
		}
	}
	(void)nanosleep(&(struct timespec){ .tv_nsec = PAUSE_NS }, NULL);
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "block_load DEVICE OP:BYTES:DEPTH:COUNT...\n");
		return 2;
	}
	uint32_t a, b, c, d;
	__cpuid(0, a, b, c, d);
	is_amd = c == signature_AMD_ecx;
	fd = open(argv[1], O_RDWR | O_DIRECT);
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &n_device_bytes) < 0)
		die(argv[1]);
	buffers = mmap(NULL, 64u << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (buffers == MAP_FAILED || syscall(SYS_io_setup, MAX_DEPTH, &context) < 0)
		die("io_setup");
	printf("block_load: begins\n");
	(void)fflush(stdout);
	for (int i = 2; i < argc; i++) {
		struct phase p;
		parse(argv[i], &p);
		if ((uint64_t)p.depth * p.n_bytes > 64u << 20) {
			fprintf(stderr, "%s: too much memory\n", argv[i]);
			return 2;
		}
		run(&p, (uint32_t)(i - 2));
	}
	printf("block_load: done\n");
	return 0;
}

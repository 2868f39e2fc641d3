/* SPDX-License-Identifier: Apache-2.0 */
/* Where the threads of queues run, as the kernel sees it. */
#include "backend/block.h"
#include "base/checked.h"
#include "base/host_cpus.h"
#include "base/log.h"
#include "config/vm_config.h"
#include "device/virtio_blk.h"
#include "hv_box.h"
#include "ring.h"
#include "test.h"
#include "tiny_kernel.h"
#include "queue_setup.h"
#include "vm/machine.h"
#include "vm/machine_internal.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define QUEUE_SIZE 16u

static char last_log[LOG_TEXT_BYTES];

static void keep_log(void *context, const struct log_record *r)
{
	(void)context;
	(void)snprintf(last_log, sizeof last_log, "%s", r->text);
}

static const struct log_sink sink = { .write = keep_log, .max_level = LOG_DEBUG };

/* Two CPUs that this process may run on. */
static void two_cpus(uint64_t cpus[2])
{
	cpu_set_t set;
	unsigned n = 0;
	EQ(sched_getaffinity(0, sizeof set, &set), 0);
	for (unsigned cpu = 0; cpu < CPU_SETSIZE && n < 2; cpu++) {
		if (CPU_ISSET(cpu, &set))
			cpus[n++] = cpu;
	}
	if (n < 2)
		test_skip("there is one CPU only");
}

static pid_t thread_named(const char *name)
{
	DIR *tasks = opendir("/proc/self/task");
	pid_t found = 0;
	OK(tasks != NULL);
	for (struct dirent *d; !found && (d = readdir(tasks)) != NULL;) {
		char path[300], comm[32] = "";
		(void)snprintf(path, sizeof path, "/proc/self/task/%s/comm", d->d_name);
		FILE *f = fopen(path, "re");
		if (f && fgets(comm, sizeof comm, f)) {
			comm[strcspn(comm, "\n")] = '\0';
			if (strcmp(comm, name) == 0)
				found = (pid_t)strtol(d->d_name, NULL, 10);
		}
		if (f)
			(void)fclose(f);
	}
	(void)closedir(tasks);
	if (!found)
		test_fail(__FILE__, __LINE__, "no thread %s", name);
	return found;
}

/* It may run on these n CPUs and on no others. n 0: on all that we may. */
static void runs_on(const char *name, const uint64_t *cpus, size_t n)
{
	cpu_set_t wanted, got;
	EQ(sched_getaffinity(0, sizeof wanted, &wanted), 0);
	if (n)
		CPU_ZERO(&wanted);
	for (size_t i = 0; i < n; i++)
		CPU_SET(cpus[i], &wanted);
	EQ(sched_getaffinity(thread_named(name), sizeof got, &got), 0);
	if (!CPU_EQUAL(&wanted, &got))
		test_fail(__FILE__, __LINE__, "%s may run elsewhere", name);
}

TEST(sets_of_cpus)
{
	struct host_cpus *c = NULL;
	struct err e = { 0 };
	EQ(host_cpus_new((uint64_t[]){ 1, HOST_CPUS_MAX }, 2, &c, &e), -EINVAL);
	STR_HAS(e.text, "there is no host CPU 8192");
	EQ(host_cpus_new((uint64_t[]){ UINT64_MAX }, 1, &c, &e), -EINVAL);
	OK(!c);
	EQ(host_cpus_new((uint64_t[]){ HOST_CPUS_MAX - 1 }, 1, &c, &e), 0);
	EQ(host_cpus_bind(c, pthread_self()), -EINVAL); /* it has not so many */
	host_cpus_free(c);
	EQ(host_cpus_new(NULL, 0, &c, &e), 0);
	EQ(host_cpus_bind(c, pthread_self()), -EINVAL);
	host_cpus_free(c);
	host_cpus_free(NULL);
}

/* --- a device ------------------------------------------------------------------------------------------------------------- */

struct disk {
	struct mem_map mem;
	struct loop *loop;
	struct virtio_device *v;
	struct block_image *image;
	struct ring ring;
};

static int try_disk(struct disk *d, bool has_io_uring, const struct virtio_queue_cpus *cpus, size_t n, struct err *e)
{
	char path[40];
	*d = (struct disk){ 0 };
	last_log[0] = '\0';
	ring_memory_new(&d->mem, false);
	int fd = memfd_create("disk", MFD_CLOEXEC);
	OK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	struct block_params bp = { .path = path, .image_type = BLOCK_TYPE_RAW, .has_no_io_uring = !has_io_uring };
	EQ(block_open(&bp, &d->image, NULL), 0);
	(void)close(fd);
	EQ(loop_new(&d->loop, NULL), 0);
	struct virtio_blk_params params = { .image = d->image, .n_queues = 3 };
	struct virtio_params p = { .id = "_disk0", .mem = &d->mem, .io_loop = d->loop, .log_sink = &sink, .queue_size = QUEUE_SIZE,
		                   .queue_cpus = cpus, .n_queue_cpus = n };
	return virtio_device_new(&virtio_blk, &p, &params, &d->v, e);
}

static void disk_done(struct disk *d)
{
	virtio_device_free(d->v);
	block_close(d->image);
	loop_free(d->loop);
	mem_map_done(&d->mem);
}

static void start(struct virtio_device *v, const struct queue_config *queues, unsigned n_queues)
{
	virtio_set_status(v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	virtio_ack_features(v, 0, 1u << 9); /* VIRTIO_BLK_F_FLUSH */
	virtio_ack_features(v, 1, (uint32_t)(VIRTIO_F_VERSION_1 >> 32));
	virtio_set_status(v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
	for (unsigned i = 0; i < n_queues; i++)
		OK(queue_setup(v, i, &queues[i]));
	virtio_set_status(v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |
	                             VIRTIO_STATUS_DRIVER_OK);
	EQ(virtio_status(v) & (VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_DEVICE_NEEDS_RESET), VIRTIO_STATUS_DRIVER_OK);
}

static void disk_start(struct disk *d)
{
	struct queue_config queues[3];
	for (unsigned i = 0; i < 3; i++) {
		struct ring r;
		ring_init(&r, &d->mem, i, QUEUE_SIZE);
		queues[i] = ring_config(&r);
		if (i == 1)
			d->ring = r;
	}
	start(d->v, queues, 3);
}

/* One read by queue 1, which makes its image's engine. */
static void read_a_sector(struct disk *d)
{
	uint8_t header[16] = { 0 };
	OK(mem_write(&d->mem, GPA(RING_DATA), header, sizeof header));
	ring_put(&d->ring, 0, (struct ring_desc){ RING_DATA, 16, DESC_NEXT, 1 });
	ring_put(&d->ring, 1, (struct ring_desc){ RING_DATA + 4096, 512, DESC_NEXT | DESC_WRITE, 2 });
	ring_put(&d->ring, 2, (struct ring_desc){ RING_DATA + 64, 1, DESC_WRITE, 0 });
	ring_offer(&d->ring, 0);
	virtio_kick(d->v, 1);
	for (unsigned tries = 0; ring_used_idx(&d->ring) == 0 && tries < 5000; tries++)
		(void)loop_run_once(d->loop, 1);
	EQ(ring_used_idx(&d->ring), 1);
}

TEST(queues_and_their_engines_run_where_they_are_told)
{
	struct disk d;
	struct err e = { 0 };
	uint64_t cpus[2];
	two_cpus(cpus);
	const struct virtio_queue_cpus list[] = { { 0, &cpus[1], 1 }, { 1, &cpus[1], 1 }, { 0, &cpus[0], 1 } };
	EQ(try_disk(&d, false, list, ARRAY_LEN(list), &e), 0);
	for (unsigned round = 0; round < 2; round++) { /* the second time after a reset, in new threads */
		disk_start(&d);
		runs_on("_disk0_q0", &cpus[0], 1); /* the last word counts */
		runs_on("_disk0_q1", &cpus[1], 1);
		runs_on("_disk0_q2", NULL, 0);
		read_a_sector(&d);
		runs_on("block_worker", &cpus[1], 1);
		virtio_set_status(d.v, 0);
		EQ(mem_fill(&d.mem, GPA(RING_MEMORY_START), 0, RING_DATA - RING_MEMORY_START), true);
	}
	STR_EQ(last_log, "");
	disk_done(&d);
}

static void flush(struct disk *d)
{
	const uint8_t header[16] = { 4 };
	uint16_t used = ring_used_idx(&d->ring);
	OK(mem_write(&d->mem, GPA(RING_DATA), header, sizeof header));
	ring_put(&d->ring, 0, (struct ring_desc){ RING_DATA, 16, DESC_NEXT, 1 });
	ring_put(&d->ring, 1, (struct ring_desc){ RING_DATA + 64, 1, DESC_WRITE, 0 });
	ring_offer(&d->ring, 0);
	virtio_kick(d->v, 1);
	for (unsigned tries = 0; ring_used_idx(&d->ring) == used && tries < 5000; tries++)
		(void)loop_run_once(d->loop, 1);
	EQ(ring_used_idx(&d->ring), (uint16_t)(used + 1));
}

/* A sync always has one of the kernel's workers, which stays for some seconds. */
TEST(the_kernels_workers_run_where_the_queue_does)
{
	struct disk d;
	struct err e = { 0 };
	uint64_t cpus[2];
	char name[32];
	two_cpus(cpus);
	EQ(try_disk(&d, true, &(struct virtio_queue_cpus){ 1, &cpus[1], 1 }, 1, &e), 0);
	disk_start(&d);
	read_a_sector(&d);
	flush(&d);
	if (strstr(last_log, "io_uring"))
		test_skip("no io_uring here");
	(void)snprintf(name, sizeof name, "iou-wrk-%d", thread_named("_disk0_q1"));
	runs_on(name, &cpus[1], 1);
	disk_done(&d);
}

TEST(cpus_that_are_not_there)
{
	struct disk d;
	struct err e = { 0 };
	uint64_t far = HOST_CPUS_MAX - 1, beyond = HOST_CPUS_MAX;
	const struct virtio_queue_cpus missing = { 1, &far, 1 }, impossible = { 2, &beyond, 1 }, nobodys = { 3, &far, 1 };

	/* The guest runs all the same, and whoever reads the log knows. */
	EQ(try_disk(&d, false, &missing, 1, &e), 0);
	disk_start(&d);
	runs_on("_disk0_q1", NULL, 0);
	STR_HAS(last_log, "queue 1 is not on the CPUs that it was given: Invalid argument");
	read_a_sector(&d);
	disk_done(&d);

	EQ(try_disk(&d, false, &nobodys, 1, &e), 0);
	STR_HAS(last_log, "CPUs are given for queue 3: there are 3 queues");
	disk_done(&d);

	EQ(try_disk(&d, false, &impossible, 1, &e), -EINVAL);
	STR_HAS(e.text, "_disk0: queue 2: there is no host CPU 8192");
	d.v = NULL;
	disk_done(&d);
}

/* --- a machine -------------------------------------------------------------------------------------------------------------- */

GUEST(idle, 32, "1: cli; hlt; jmp 1b");

TEST(a_disk_of_the_configuration_runs_where_it_says)
{
	struct err e = { 0 };
	struct vm_config c;
	struct loop_thread io;
	struct machine_params p = { .config = &c, .io_loop = NULL };
	struct machine *m = NULL;
	uint64_t cpus[2];
	char path[40];
	box_need_kvm();
	two_cpus(cpus);
	int kernel = tiny_kernel_open(idle, idle_end), image = memfd_create("disk", MFD_CLOEXEC);
	OK(image >= 0 && ftruncate(image, 1 << 20) == 0);
	EQ(vm_config_init(&c, &e), 0);
	c.memory.size = 64 << 20;
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", kernel);
	c.payload.kernel = strdup(path);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", image);
	struct queue_affinity_config *affinity = calloc(1, sizeof *affinity);
	*affinity = (struct queue_affinity_config){ .queue_index = 1, .host_cpus = calloc(1, sizeof cpus[0]), .n_host_cpus = 1 };
	affinity->host_cpus[0] = cpus[1];
	c.disks = calloc(1, sizeof *c.disks);
	c.disks[0] = (struct disk_config){ .path = strdup(path), .id = strdup("data"), .num_queues = 2, .queue_size = QUEUE_SIZE,
		                           .image_type = IMAGE_RAW, .queue_affinity = affinity, .n_queue_affinity = 1 };
	c.n_disks = 1;

	EQ(hv_open(&p.hv, NULL, &e), 0);
	EQ(loop_new(&p.loop, NULL), 0);
	EQ(loop_thread_start(&io, "io", NULL), 0);
	p.io_loop = io.loop;
	if (machine_new(&p, &m, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	/* What a driver would write, had this guest one. */
	const uint64_t at = 32u << 20;
	const struct queue_config q = { .size = QUEUE_SIZE, .desc = at, .avail = at + 4096, .used = at + 8192, .is_ready = true };
	start(machine_find_device(m, "data")->v, (struct queue_config[]){ q, q }, 2);
	runs_on("data_q0", NULL, 0);
	runs_on("data_q1", &cpus[1], 1);

	machine_free(m);
	loop_flush(p.loop);
	loop_free(p.loop);
	loop_thread_stop(&io);
	hv_close(p.hv);
	vm_config_done(&c);
	(void)close(kernel);
	(void)close(image);
}

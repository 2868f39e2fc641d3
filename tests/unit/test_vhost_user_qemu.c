/* SPDX-License-Identifier: Apache-2.0 */
/* The front end against qemu-storage-daemon, which keeps no account of what it has in flight (7.2). */
#include "vhost_disk.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DAEMON "/usr/bin/qemu-storage-daemon"
#define DISK_SECTORS 8192u

struct daemon {
	char dir[64], image[80], socket[80];
	pid_t pid;
};

static void daemon_start(struct daemon *q)
{
	char blockdev[160], export[240];
	(void)snprintf(blockdev, sizeof blockdev, "driver=file,node-name=f,filename=%s", q->image);
	(void)snprintf(export, sizeof export,
	               "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=%s,writable=on,num-queues=4", q->socket);
	(void)unlink(q->socket);
	q->pid = fork();
	OK(q->pid >= 0);
	if (q->pid == 0) {
		int null = open("/dev/null", O_RDWR);
		(void)dup2(null, 1);
		(void)dup2(null, 2);
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when the test fails */
		(void)execl(DAEMON, DAEMON, "--blockdev", blockdev, "--export", export, (char *)NULL);
		_exit(127);
	}
	for (int k = 0; access(q->socket, F_OK) < 0; k++) {
		OK(k < 2000);
		test_sleep_us(10000);
	}
}

static void daemon_kill(struct daemon *q)
{
	EQ(kill(q->pid, SIGKILL), 0);
	EQ(waitpid(q->pid, NULL, 0), q->pid);
}

static void daemon_new(struct daemon *q)
{
	if (access(DAEMON, X_OK) < 0)
		test_skip(DAEMON " is not installed (Debian: qemu-system-common)");
	(void)snprintf(q->dir, sizeof q->dir, "/var/tmp/varan-qemu-XXXXXX");
	OK(mkdtemp(q->dir));
	(void)snprintf(q->image, sizeof q->image, "%s/image", q->dir);
	(void)snprintf(q->socket, sizeof q->socket, "%s/socket", q->dir);
	int fd = open(q->image, O_CREAT | O_RDWR, 0600);
	OK(fd >= 0 && ftruncate(fd, DISK_SECTORS * SECTOR) == 0);
	close(fd);
	daemon_start(q);
}

static void daemon_free(struct daemon *q)
{
	daemon_kill(q);
	(void)unlink(q->socket);
	(void)unlink(q->image);
	EQ(rmdir(q->dir), 0);
}

static void open_disk(struct vhost_disk *d, struct daemon *q, unsigned n_queues)
{
	struct err e = { 0 };
	int rc = -1;
	/* The socket's name is there a moment before it is listened on. */
	for (int k = 0; rc < 0 && k < 100; k++) {
		rc = disk_try(d, q->socket, n_queues, false, &e);
		if (rc < 0)
			test_sleep_us(20000);
	}
	if (rc < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
}

static uint8_t pattern(uint64_t sector, unsigned generation)
{
	return (uint8_t)(sector * 11 + generation * 5 + 1);
}

TEST(reads_writes_and_flushes)
{
	struct daemon q;
	struct vhost_disk d;
	uint8_t b[8];
	daemon_new(&q);
	open_disk(&d, &q, 4);
	virtio_space_read(d.g.v, 0, b, 8);
	EQ(get_le64(b), DISK_SECTORS);
	virtio_space_read(d.g.v, 34, b, 2);
	EQ(get_le16(b), 4);
	rig_start(&d.g, d.g.v->offered);
	for (unsigned k = 0; k < 200; k++)
		disk_do(&d, k % 4, T_OUT, k * 7, pattern(k * 7, 0));
	disk_do(&d, 0, T_FLUSH, 0, 0);
	for (unsigned k = 0; k < 200; k++)
		disk_do(&d, (k + 1) % 4, T_IN, k * 7, pattern(k * 7, 0));

	/* Pause and a driver that starts over. */
	virtio_device_pause(d.g.v);
	virtio_device_resume(d.g.v);
	disk_do(&d, 2, T_IN, 7, pattern(7, 0));
	disk_restart(&d);
	disk_do(&d, 3, T_IN, 14, pattern(14, 0));
	OK(d.g.n_queue_signals[3] > 0);

	int fd = open(q.image, O_RDONLY);
	EQ(pread(fd, b, 1, 199 * 7 * SECTOR), 1);
	EQ(b[0], pattern(199 * 7, 0));
	close(fd);
	rig_close(&d.g);
	daemon_free(&q);
}

/* Writes in flight, out of order, on two queues; kill -9; a new daemon: each request is answered once, and all is there. */
TEST(killed_and_started_again_under_load)
{
	struct daemon q;
	struct vhost_disk d;
	static uint8_t expected[DISK_SECTORS];
	daemon_new(&q);
	open_disk(&d, &q, 2);
	rig_start(&d.g, d.g.v->offered);
	memset(expected, 0, sizeof expected);
	for (unsigned round = 0; round < 5; round++) {
		for (unsigned k = 0; k < 600 || d.n_busy < DISK_SLOTS; k++) {
			unsigned queue = k % 2, slot = disk_free_slot(&d, queue);
			uint64_t sector = (round * 600u + k) % DISK_SECTORS;
			if (slot < DISK_SLOTS) {
				expected[sector] = pattern(sector, round);
				disk_fill(&d, queue, slot, expected[sector]);
				disk_begin(&d, queue, slot, T_OUT, sector);
			}
			if (k < 600)
				(void)disk_reap(&d, queue);
		}
		daemon_kill(&q);
		daemon_start(&q);
	}
	for (unsigned queue = 0; queue < 2; queue++) {
		for (unsigned s = 0; s < DISK_SLOTS; s++) {
			if (d.is_busy[queue][s]) {
				(void)disk_wait(&d, queue);
				s = (unsigned)-1;
			}
		}
	}
	EQ(d.n_busy, 0);
	for (unsigned sector = 0; sector < 3600; sector++)
		disk_do(&d, sector % 2, T_IN, sector, expected[sector]);
	rig_close(&d.g);
	daemon_free(&q);
}

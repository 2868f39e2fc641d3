/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that grow under a driver: what the image, the device and the VMM make of it. virtio 1.2, 2.5 and 5.2.4. */
#include "backend/block_impl.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/text.h"
#include "block_kit.h"
#include "device/virtio_blk.h"
#include "hv_box.h"
#include "ring.h"
#include "schema/schema.h"
#include "tiny_kernel.h"
#include "vm/events.h"
#include "vm/vmm.h"

#include <jansson.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define F_DISCARD (1ull << 13)
enum { T_IN = 0, T_OUT = 1, T_DISCARD = 11 };
enum { S_OK = 0, S_IOERR = 1, S_NONE = 0xee };

#define SECTOR 512u
#define MIB (1ull << 20)
#define QUEUE_SIZE 256u
#define CAPACITY 0u /* in the configuration space */

#define HEADERS RING_DATA /* 16 bytes each */
#define STATUSES (RING_DATA + 0x2000)
#define DATA (RING_DATA + 0x10000)

/* --- a disk with a driver --- */

struct disk {
	struct rig g;
	struct block_image *image;
	char path[128];
};

static void disk_open(struct disk *d, const char *path, enum block_type type, bool has_no_io_uring, unsigned n_queues)
{
	struct err e = { 0 };
	memset(d, 0, sizeof *d);
	(void)snprintf(d->path, sizeof d->path, "%s", path);
	struct block_params bp = { .path = path, .image_type = type, .has_discard = true, .has_no_io_uring = has_no_io_uring };
	if (block_open(&bp, &d->image, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	struct virtio_blk_params vp = { .image = d->image, .n_queues = n_queues };
	rig_open(&d->g, &virtio_blk, &vp, QUEUE_SIZE);
}

static void disk_start(struct disk *d)
{
	rig_start(&d->g, F_DISCARD & d->g.v->offered);
}

static void disk_close(struct disk *d)
{
	rig_close(&d->g);
	block_close(d->image);
}

static void new_raw(char path[128], uint64_t n_bytes)
{
	(void)snprintf(path, 128, "%s/raw", kit_folder);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	OK(fd >= 0 && ftruncate(fd, (off_t)n_bytes) == 0);
	(void)close(fd);
}

static void new_qcow2(char path[128], const char *options, uint64_t n_bytes)
{
	(void)snprintf(path, 128, "%s/qcow2", kit_folder);
	kit_run("qemu-img create -f qcow2 %s %s %llu", options, path, (unsigned long long)n_bytes);
}

static uint64_t size_of_file(const char *path)
{
	struct stat st;
	EQ(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static uint64_t capacity(struct disk *d)
{
	uint8_t b[8];
	virtio_space_read(d->g.v, CAPACITY, b, sizeof b);
	return get_le64(b);
}

static uint64_t bytes_of(struct disk *d)
{
	struct block_limits l;
	block_image_limits(d->image, &l);
	return l.n_bytes;
}

static void resize(struct disk *d, uint64_t n_bytes)
{
	struct err e = { 0 };
	if (block_resize(d->image, n_bytes, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	virtio_blk_resized(d->g.v);
}

static void expect_refusal(struct disk *d, uint64_t n_bytes, int code, const char *why)
{
	struct err e = { 0 };
	uint64_t n_before = bytes_of(d), n_file_bytes = size_of_file(d->path);
	EQ(block_resize(d->image, n_bytes, &e), -code);
	EQ(e.code, code);
	STR_HAS(e.text, "cannot resize '");
	STR_HAS(e.text, why);
	EQ(bytes_of(d), n_before);
	EQ(size_of_file(d->path), n_file_bytes);
}

/* Header, data, status from descriptor 3k on. */
static void offer(struct disk *d, unsigned queue, uint16_t k, uint32_t type, uint64_t sector, uint32_t n_bytes)
{
	uint64_t header = HEADERS + 16 * (k + 64 * queue), status = STATUSES + k + 64 * queue, data = DATA + (uint64_t)k * n_bytes;
	uint8_t h[16] = { 0 }, none = S_NONE;
	struct ring *r = &d->g.rings[queue];
	put_le32(h, type);
	put_le64(h + 8, sector);
	OK(mem_write(&d->g.mem, GPA(header), h, sizeof h));
	OK(mem_write(&d->g.mem, GPA(status), &none, 1));
	uint16_t i = (uint16_t)(3 * k);
	ring_put(r, i, (struct ring_desc){ header, 16, DESC_NEXT, (uint16_t)(i + 1) });
	ring_put(r, (uint16_t)(i + 1), (struct ring_desc){ data, n_bytes, (uint16_t)(DESC_NEXT | (type == T_IN ? DESC_WRITE : 0)),
	                                                   (uint16_t)(i + 2) });
	ring_put(r, (uint16_t)(i + 2), (struct ring_desc){ status, 1, DESC_WRITE, 0 });
	ring_offer(r, i);
}

static uint8_t status_of(struct disk *d, unsigned queue, uint16_t k)
{
	uint8_t b;
	OK(mem_read(&d->g.mem, GPA(STATUSES + k + 64 * queue), &b, 1));
	return b;
}

static uint8_t request(struct disk *d, uint32_t type, uint64_t sector, uint32_t n_bytes)
{
	struct ring_used u;
	offer(d, 0, 0, type, sector, n_bytes);
	rig_kick(&d->g, 0);
	OK(rig_wait_used(&d->g, 0, 1));
	OK(ring_take(&d->g.rings[0], &u));
	return status_of(d, 0, 0);
}

static uint8_t discard(struct disk *d, uint64_t sector, uint32_t n_sectors)
{
	uint8_t b[16] = { 0 };
	put_le64(b, sector);
	put_le32(b + 8, n_sectors);
	OK(mem_write(&d->g.mem, GPA(DATA), b, sizeof b));
	return request(d, T_DISCARD, 0, sizeof b);
}

static void fill_data(struct disk *d, uint8_t byte, uint32_t n_bytes)
{
	OK(mem_fill(&d->g.mem, GPA(DATA), byte, n_bytes));
}

static void data_is(struct disk *d, uint8_t byte, uint32_t n_bytes)
{
	uint8_t b[16 * SECTOR];
	OK(n_bytes <= sizeof b && mem_read(&d->g.mem, GPA(DATA), b, n_bytes));
	for (uint32_t i = 0; i < n_bytes; i++)
		EQ(b[i], byte);
}

/* --- the device --- */

static void grow_twice(struct disk *d)
{
	uint32_t generation = virtio_config_generation(d->g.v);
	unsigned n_queue_signals;
	EQ(capacity(d), 2048);
	fill_data(d, 0x5a, 16 * SECTOR);
	EQ(request(d, T_OUT, 2048, SECTOR), S_IOERR);
	EQ(request(d, T_OUT, 2040, 16 * SECTOR), S_IOERR);
	EQ(discard(d, 2048, 8), S_IOERR);

	/* The image alone changes nothing for the driver. */
	EQ(block_resize(d->image, 2 * MIB, NULL), 0);
	EQ(capacity(d), 2048);
	EQ(virtio_config_generation(d->g.v), generation);
	EQ(request(d, T_OUT, 2048, SECTOR), S_IOERR);
	EQ(d->g.n_config_signals, 0);

	n_queue_signals = d->g.n_queue_signals[0];
	virtio_blk_resized(d->g.v);
	EQ(capacity(d), 4096);
	OK(virtio_config_generation(d->g.v) != generation);
	EQ(d->g.n_config_signals, 1);
	EQ(d->g.n_queue_signals[0], n_queue_signals);

	fill_data(d, 0x5a, 16 * SECTOR);
	EQ(request(d, T_OUT, 2040, 16 * SECTOR), S_OK); /* across the old end */
	EQ(request(d, T_IN, 4096 - 16, 16 * SECTOR), S_OK);
	data_is(d, 0, 16 * SECTOR);
	EQ(request(d, T_IN, 2040, 16 * SECTOR), S_OK);
	data_is(d, 0x5a, 16 * SECTOR);
	EQ(discard(d, 2048, 2048), S_OK);
	EQ(request(d, T_IN, 4096, SECTOR), S_IOERR);
	EQ(request(d, T_IN, 4095, 2 * SECTOR), S_IOERR);

	generation = virtio_config_generation(d->g.v);
	resize(d, 64 * MIB + SECTOR);
	EQ(capacity(d), 128 * 1024 + 1);
	OK(virtio_config_generation(d->g.v) != generation);
	EQ(d->g.n_config_signals, 2);
	EQ(request(d, T_IN, 128 * 1024, SECTOR), S_OK);
	resize(d, 64 * MIB + SECTOR); /* again: told again */
	EQ(d->g.n_config_signals, 3);
}

/* A driver that starts anew finds what there is; so does whoever opens the image. */
static void grow(const char *path, enum block_type type, bool has_no_io_uring)
{
	struct disk d;
	disk_open(&d, path, type, has_no_io_uring, 1);
	disk_start(&d);
	grow_twice(&d);
	virtio_set_status(d.g.v, 0);
	EQ(capacity(&d), 128 * 1024 + 1);
	disk_close(&d);
	disk_open(&d, path, type, has_no_io_uring, 1);
	EQ(capacity(&d), 128 * 1024 + 1);
	disk_start(&d);
	EQ(request(&d, T_IN, 2040, 8 * SECTOR), S_OK);
	data_is(&d, 0x5a, 8 * SECTOR);
	disk_close(&d);
}

TEST(a_raw_disk_grows_under_its_driver)
{
	char path[128];
	kit_folder_new(0);
	for (int engine = 0; engine < 2; engine++) {
		new_raw(path, MIB);
		grow(path, BLOCK_TYPE_RAW, engine);
		EQ(size_of_file(path), 64 * MIB + SECTOR);
	}
	kit_folder_done();
}

TEST(a_qcow2_disk_grows_under_its_driver)
{
	static const char *const options[] = { "", "-o cluster_size=512", "-o extended_l2=on" };
	char path[128];
	kit_need_qemu();
	kit_folder_new(0);
	for (unsigned n = 0; n < ARRAY_LEN(options); n++) {
		new_qcow2(path, options[n], MIB);
		grow(path, BLOCK_TYPE_QCOW2, n % 2);
		kit_run("qemu-img check -f qcow2 %s", path);
		kit_run("qemu-img info -f qcow2 %s | grep -q '(%llu bytes)'", path, 64 * MIB + SECTOR);
	}
	kit_folder_done();
}

TEST(a_driver_that_is_not_ready_finds_the_new_size)
{
	struct disk d;
	char path[128];
	kit_folder_new(0);
	new_raw(path, MIB);
	disk_open(&d, path, BLOCK_TYPE_RAW, false, 1);
	uint32_t generation = virtio_config_generation(d.g.v);
	resize(&d, 3 * MIB);
	EQ(capacity(&d), 6144);
	OK(virtio_config_generation(d.g.v) != generation); /* it may be reading just now */
	EQ(d.g.n_config_signals, 0);
	disk_start(&d);
	EQ(request(&d, T_OUT, 6143, SECTOR), S_OK);

	/* Paused: nothing is in flight, and all is there afterwards. */
	virtio_device_pause(d.g.v);
	resize(&d, 4 * MIB);
	EQ(d.g.n_config_signals, 1);
	virtio_device_resume(d.g.v);
	EQ(request(&d, T_OUT, 8191, SECTOR), S_OK);
	disk_close(&d);
	kit_folder_done();
}

/* One that has read the capacity, and is not ready yet. */
TEST(a_driver_that_looked_too_early_is_told_when_it_is_ready)
{
	struct disk d;
	char path[128];
	kit_folder_new(0);
	new_raw(path, MIB);
	disk_open(&d, path, BLOCK_TYPE_RAW, false, 1);
	for (unsigned round = 0; round < 2; round++) {
		virtio_set_status(d.g.v, VIRTIO_STATUS_ACKNOWLEDGE);
		virtio_set_status(d.g.v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
		virtio_ack_features(d.g.v, 1, (uint32_t)(VIRTIO_F_VERSION_1 >> 32));
		uint32_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK;
		virtio_set_status(d.g.v, status);
		if (round == 0)
			resize(&d, 2 * MIB);
		EQ(d.g.n_config_signals, 0);
		virtio_set_status(d.g.v, status | VIRTIO_STATUS_DRIVER_OK);
		EQ(d.g.n_config_signals, round == 0); /* once, and not those that come later */
		d.g.n_config_signals = 0;
		virtio_set_status(d.g.v, 0);
	}
	disk_close(&d);
	kit_folder_done();
}

/* Each round writes the last MiB by every queue, and makes the disk larger while that is under way. */
static void grow_at_work(const char *path, enum block_type type, bool has_no_io_uring)
{
	enum { QUEUES = 2, CHAINS = 32, ROUNDS = 24, BYTES = 16384 };
	struct disk d;
	struct ring_used u;
	disk_open(&d, path, type, has_no_io_uring, QUEUES);
	disk_start(&d);
	for (unsigned round = 0; round < ROUNDS; round++) {
		uint64_t end = bytes_of(&d);
		fill_data(&d, (uint8_t)(round + 1), CHAINS * BYTES);
		for (unsigned queue = 0; queue < QUEUES; queue++) {
			for (uint16_t k = 0; k < CHAINS; k++) {
				uint64_t at = end - MIB + (uint64_t)(queue * CHAINS + k) * BYTES;
				offer(&d, queue, k, T_OUT, at / SECTOR, BYTES);
			}
			rig_kick(&d.g, queue);
		}
		resize(&d, end + MIB);
		for (unsigned queue = 0; queue < QUEUES; queue++) {
			OK(rig_wait_used(&d.g, queue, CHAINS));
			while (ring_take(&d.g.rings[queue], &u))
				EQ(status_of(&d, queue, (uint16_t)(u.id / 3)), S_OK);
		}
	}
	EQ(d.g.n_config_signals, ROUNDS);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned k = 0; k < MIB / BYTES; k += 7) {
			EQ(request(&d, T_IN, (round * MIB + (uint64_t)k * BYTES) / SECTOR, 16 * SECTOR), S_OK);
			data_is(&d, (uint8_t)(round + 1), 16 * SECTOR);
		}
	}
	disk_close(&d);
}

TEST(disks_grow_while_queues_are_at_work)
{
	char path[128];
	kit_need_qemu();
	kit_folder_new(0);
	for (int engine = 0; engine < 2; engine++) {
		new_raw(path, MIB);
		grow_at_work(path, BLOCK_TYPE_RAW, engine);
		new_qcow2(path, "-o cluster_size=4096", MIB);
		grow_at_work(path, BLOCK_TYPE_QCOW2, engine);
		kit_run("qemu-img check -f qcow2 %s", path);
	}
	kit_folder_done();
}

/* --- what cannot be --- */

TEST(what_is_refused_changes_nothing)
{
	struct disk d;
	char path[128];
	kit_folder_new(0);
	new_raw(path, MIB);
	disk_open(&d, path, BLOCK_TYPE_RAW, false, 1);
	disk_start(&d);
	expect_refusal(&d, MIB - SECTOR, EINVAL, "it has 1048576 bytes, and disks can only grow");
	expect_refusal(&d, 0, EINVAL, "disks can only grow");
	expect_refusal(&d, MIB + 1, EINVAL, "1048577 bytes are no multiple of 512");
	expect_refusal(&d, ~0ull, EINVAL, "no multiple of 512");
	expect_refusal(&d, 1ull << 63, EFBIG, "files of this process cannot be that large");

	/* Not by a signal. */
	struct rlimit limit = { .rlim_cur = 2 * MIB, .rlim_max = RLIM_INFINITY }, before;
	EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit.rlim_max = before.rlim_max;
	EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
	expect_refusal(&d, 2 * MIB + SECTOR, EFBIG, "files of this process cannot be that large");
	EQ(block_resize(d.image, 2 * MIB, NULL), 0);
	EQ(setrlimit(RLIMIT_FSIZE, &before), 0);

	/* Somebody has made the file longer: by that much, or not at all. */
	EQ(truncate(path, (off_t)(4 * MIB)), 0);
	expect_refusal(&d, 3 * MIB, EINVAL, "the file has 4194304 bytes already");
	EQ(capacity(&d), 2048);
	EQ(d.g.n_config_signals, 0);
	resize(&d, 4 * MIB);
	EQ(capacity(&d), 8192);
	disk_close(&d);
	kit_folder_done();
}

TEST(a_host_that_refuses_is_told_of)
{
	struct disk d;
	char path[64];
	int fd = memfd_create("disk", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	OK(fd >= 0 && ftruncate(fd, MIB) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) == 0);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	disk_open(&d, path, BLOCK_TYPE_RAW, false, 1);
	expect_refusal(&d, 2 * MIB, EPERM, "Operation not permitted");
	disk_start(&d);
	EQ(request(&d, T_OUT, 2047, SECTOR), S_OK);
	disk_close(&d);
	(void)close(fd);
}

TEST(read_only_disks_and_other_formats_stay)
{
	struct err e = { 0 };
	struct block_image *image;
	struct disk d;
	char path[128];
	kit_need_qemu();
	kit_folder_new(0);
	new_raw(path, MIB);
	struct block_params p = { .path = path, .is_readonly = true, .image_type = BLOCK_TYPE_RAW };
	EQ(block_open(&p, &image, &e), 0);
	EQ(block_resize(image, 2 * MIB, &e), -EROFS);
	STR_HAS(e.text, "it is read only");
	block_close(image);

	static const struct { const char *kind, *options; enum block_type type; const char *why; } formats[] = {
		{ "vpc", "-o subformat=fixed,force_size=on", BLOCK_TYPE_VHD, "not supported yet: vhd images" },
		{ "vhdx", "", BLOCK_TYPE_VHDX, "not supported yet: vhdx images" },
		{ "vmdk", "", BLOCK_TYPE_VMDK, "not supported yet: vmdk images" },
	};
	for (size_t n = 0; n < ARRAY_LEN(formats); n++) {
		(void)snprintf(path, sizeof path, "%s/%s", kit_folder, formats[n].kind);
		kit_run("qemu-img create -f %s %s %s 4M", formats[n].kind, formats[n].options, path);
		disk_open(&d, path, formats[n].type, false, 1);
		expect_refusal(&d, 8 * MIB, ENOTSUP, formats[n].why);
		disk_close(&d);
	}
	kit_folder_done();
}

/* A device of the host's is made larger by others; then the guest may have that, no less and no more. */
TEST(a_block_device_has_the_size_that_it_has)
{
	struct disk d;
	char file[128], device[32];
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		test_skip("no loop devices");
	int n = ioctl(control, LOOP_CTL_GET_FREE);
	(void)close(control);
	(void)snprintf(device, sizeof device, "/dev/loop%d", n);
	int fd = n < 0 ? -1 : open(device, O_RDWR | O_CLOEXEC);
	kit_folder_new(0);
	new_raw(file, MIB);
	int file_fd = open(file, O_RDWR | O_CLOEXEC);
	struct loop_config c = { .fd = (uint32_t)file_fd, .block_size = SECTOR, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	if (fd < 0 || ioctl(fd, LOOP_CONFIGURE, &c) < 0) {
		kit_folder_done();
		test_skip("no loop device can be set up");
	}
	disk_open(&d, device, BLOCK_TYPE_RAW, false, 1);
	disk_start(&d);
	expect_refusal(&d, 2 * MIB, ENOSPC, "the device has 1048576 bytes");
	EQ(ftruncate(file_fd, (off_t)(3 * MIB)), 0);
	EQ(ioctl(fd, LOOP_SET_CAPACITY), 0);
	expect_refusal(&d, 2 * MIB, EINVAL, "the device has 3145728 bytes");
	EQ(request(&d, T_OUT, 2048, SECTOR), S_IOERR);
	resize(&d, 3 * MIB);
	EQ(capacity(&d), 6144);
	EQ(request(&d, T_OUT, 6143, SECTOR), S_OK);
	disk_close(&d);
	(void)close(file_fd);
	(void)close(fd);
	kit_folder_done();
}

/* --- the VMM --- */

#define OPERATION "The disk could not be resized\n"
#define NOT_RUNNING OPERATION "VM is not running\nVmNotRunning"

GUEST(idle, 32, "1: cli; hlt; jmp 1b");

struct bench {
	struct loop *loop;
	struct events *events;
	struct vmm *vmm;
	int events_fd, kernel_fd;
	struct err e;
};

static void bench_init(struct bench *b)
{
	box_need_kvm();
	*b = (struct bench){ .events_fd = memfd_create("events", MFD_CLOEXEC), .kernel_fd = tiny_kernel_open(idle, idle_end) };
	EQ(loop_new(&b->loop, &b->e), 0);
	EQ(events_open_fd(dup(b->events_fd), &b->events, &b->e), 0);
	struct vmm_params p = { .loop = b->loop, .events = b->events };
	EQ(vmm_new(&p, &b->vmm, &b->e), 0);
}

static void bench_done(struct bench *b)
{
	vmm_free(b->vmm);
	events_free(b->events);
	loop_free(b->loop);
	(void)close(b->kernel_fd);
	(void)close(b->events_fd);
}

static void add_disk(struct bench *b, const char *id, const char *path, bool is_readonly)
{
	struct pci_device_info device;
	struct disk_config d;
	EQ(schema_init(&disk_schema, &d, NULL), 0);
	d.id = strdup(id);
	d.path = strdup(path);
	d.image_type = IMAGE_RAW;
	d.readonly = is_readonly;
	const struct device_addition a = { .member = "disks", .option = "disk", .noun = "disk", .device = &d };
	EQ(vmm_add_device(b->vmm, &a, &device, &b->e), 0);
	schema_done(&disk_schema, &d);
}

static void create(struct bench *b, const char *path, bool is_mmio)
{
	struct vm_config c;
	char kernel[64];
	EQ(vm_config_init(&c, NULL), 0);
	(void)snprintf(kernel, sizeof kernel, "/proc/self/fd/%d", b->kernel_fd);
	c.has_payload = true;
	c.payload.kernel = strdup(kernel);
	c.memory.size = 64u << 20;
	c.console.mode = CONSOLE_OFF;
	if (is_mmio)
		c.machine.transport = TRANSPORT_MMIO;
	EQ(vmm_create(b->vmm, &c, &b->e), 0);
	vm_config_done(&c);
	add_disk(b, "data", path, false);
}

static void refused(struct bench *b, const char *id, uint64_t n_bytes, int code, const char *text)
{
	b->e = (struct err){ 0 };
	EQ(vmm_resize_disk(b->vmm, id, n_bytes, &b->e), -code);
	EQ(b->e.code, code);
	STR_HAS(b->e.text, text);
	EQ(strncmp(b->e.text, OPERATION, strlen(OPERATION)), 0);
}

static char *disks_of_info(struct bench *b)
{
	text_scoped t = TEXT_INIT;
	EQ(vmm_info(b->vmm, &t, &b->e), 0);
	json_t *o = json_loads(text_get(&t), 0, NULL);
	char *bytes = json_dumps(json_object_get(json_object_get(o, "config"), "disks"), JSON_COMPACT);
	json_decref(o);
	OK(bytes);
	return bytes;
}

static void resize_in_a_vm(bool is_mmio)
{
	struct bench b;
	char path[128], events[4096] = "";
	kit_folder_new(0);
	new_raw(path, MIB);
	bench_init(&b);
	refused(&b, "data", 2 * MIB, ENOENT, OPERATION "VM is not created\nVmNotCreated");
	create(&b, path, is_mmio);
	refused(&b, "data", 2 * MIB, EBUSY, NOT_RUNNING);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	char *before = disks_of_info(&b);

	refused(&b, "other", 2 * MIB, ENOENT, OPERATION "Error from device manager\nthere is no disk 'other'");
	refused(&b, "__rng", 2 * MIB, ENOENT, OPERATION "Error from device manager\nthere is no disk '__rng'");
	/* No code that would mean a request in the wrong form, or a device that is not there. */
	refused(&b, "data", MIB - SECTOR, EIO, OPERATION "Error from device manager\ncannot resize '");
	refused(&b, "data", 2 * MIB + 1, EIO, "bytes are no multiple of 512");
	EQ(size_of_file(path), MIB);

	EQ(vmm_resize_disk(b.vmm, "data", 2 * MIB, &b.e), 0);
	EQ(size_of_file(path), 2 * MIB);
	EQ(vmm_pause(b.vmm, &b.e), 0);
	EQ(vmm_resize_disk(b.vmm, "data", 3 * MIB, &b.e), 0);
	EQ(vmm_resume(b.vmm, &b.e), 0);
	refused(&b, "data", 2 * MIB, EIO, "it has 3145728 bytes, and disks can only grow");
	char *after = disks_of_info(&b);
	STR_EQ(after, before);

	/* The next boot has it, and goes on from there. */
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	refused(&b, "data", 2 * MIB, EIO, "it has 3145728 bytes, and disks can only grow");
	EQ(vmm_resize_disk(b.vmm, "data", 4 * MIB, &b.e), 0);
	EQ(vmm_shutdown(b.vmm, &b.e), 0);
	refused(&b, "data", 5 * MIB, EBUSY, NOT_RUNNING);
	EQ(size_of_file(path), 4 * MIB);
	vmm_free(b.vmm);
	events_free(b.events);
	b.vmm = NULL;
	b.events = NULL;
	OK(pread(b.events_fd, events, sizeof events - 1, 0) > 0);
	OK(!strstr(events, "resiz")); /* those events are of vm.resize */
	bench_done(&b);
	free(before);
	free(after);
	kit_folder_done();
}

TEST(a_vm_has_its_disks_resized_on_pci)
{
	resize_in_a_vm(false);
}

TEST(a_vm_has_its_disks_resized_on_mmio)
{
	resize_in_a_vm(true);
}

TEST(a_disk_that_came_later_grows_too)
{
	struct bench b;
	char path[128], other[128];
	kit_folder_new(0);
	new_raw(path, MIB);
	(void)snprintf(other, sizeof other, "%s/other", kit_folder);
	EQ(rename(path, other), 0);
	new_raw(path, MIB);
	bench_init(&b);
	create(&b, path, false);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	add_disk(&b, "late", other, false);
	EQ(vmm_resize_disk(b.vmm, "late", 2 * MIB, &b.e), 0);
	EQ(vmm_remove_device(b.vmm, "late", &b.e), 0);
	EQ(vmm_resize_disk(b.vmm, "late", 3 * MIB, &b.e), 0); /* it is the guest's until that lets go */
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	refused(&b, "late", 4 * MIB, ENOENT, OPERATION "Error from device manager\nthere is no disk 'late'");
	add_disk(&b, "fixed", other, true);
	refused(&b, "fixed", 4 * MIB, EROFS, "it is read only");
	EQ(size_of_file(other), 3 * MIB);
	bench_done(&b);
	kit_folder_done();
}

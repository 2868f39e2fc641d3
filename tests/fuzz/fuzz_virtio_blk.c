/* SPDX-License-Identifier: Apache-2.0 */
/* The block device against a driver that the input plays. The disk is memory, some of whose operations fail.
 *
 * The input: a byte of features and queue size, a byte that says when the host fails, then steps. Some steps make
 * requests of a plausible shape with numbers of the input's; others write descriptors, indices and memory as they like.
 * As long as there were only the former, every chain that was offered must come back. */
#include "backend/block_impl.h"
#include "base/bytes.h"
#include "device/virtio_blk.h"
#include "queue_setup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MUST(cond) ((cond) ? (void)0 : abort())

#define MEMORY_BYTES 0x40000u
#define DESC 0x0u
#define AVAIL 0x1000u
#define USED 0x2000u
#define TABLE 0x3000u
#define DATA 0x8000u
#define DATA_BYTES (MEMORY_BYTES - DATA)
#define DISK_BYTES (128u * 512)
#define MAX_STEPS 400

/* --- a disk in memory --- */

static uint8_t disk[DISK_BYTES];
static uint8_t when_failing;
static unsigned n_operations;

static enum block_next memory_prepare(struct block_lane *lane, struct block_request *r)
{
	uint8_t *at = disk + r->offset_bytes;
	uint64_t left = r->n_bytes;
	(void)lane;
	r->result = 0;
	if (when_failing && ++n_operations % when_failing == 0) {
		r->result = -EIO;
	} else if (r->op == BLOCK_WRITE_ZEROES) {
		memset(at, 0, r->n_bytes);
	} else if (r->op == BLOCK_READ || r->op == BLOCK_WRITE) {
		for (int k = 0; k < r->n_iov; k++) {
			size_t n = r->iov[k].iov_len;
			MUST(n > 0 && n <= left);
			if (r->op == BLOCK_READ)
				memcpy(r->iov[k].iov_base, at, n);
			else
				memcpy(at, r->iov[k].iov_base, n);
			at += n;
			left -= n;
		}
		MUST(left == 0);
	}
	return BLOCK_NEXT_DONE;
}

static const struct block_format memory_format = { .name = "memory", .prepare = memory_prepare };

static struct block_image *memory_image(void)
{
	static struct block_image *i;
	if (!i) {
		char path[32];
		int fd = memfd_create("disk", MFD_CLOEXEC);
		MUST(fd >= 0 && ftruncate(fd, DISK_BYTES) == 0);
		(void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		struct block_params p = { .path = path, .has_no_io_uring = true, .has_discard = true };
		MUST(block_open_format(&p, &memory_format, &i, NULL) == 0);
		close(fd);
	}
	return i;
}

/* --- the driver --- */

struct driver {
	const uint8_t *in;
	size_t n_in;
	struct loop *loop;
	struct mem_map mem;
	struct virtio_device *v;
	uint16_t size, n_offered, n_next_desc;
	uint8_t options;
	bool is_wild;
};

static uint8_t take8(struct driver *d)
{
	if (!d->n_in)
		return 0;
	d->n_in--;
	return *d->in++;
}

static uint16_t take16(struct driver *d)
{
	uint8_t low = take8(d);
	return (uint16_t)(low | take8(d) << 8);
}

static void put(struct driver *d, uint64_t address, const void *bytes, size_t n)
{
	(void)mem_write(&d->mem, GPA(address), bytes, n);
}

static uint16_t used_index(struct driver *d)
{
	uint8_t b[2];
	MUST(mem_read(&d->mem, GPA(USED + 2), b, sizeof b));
	return get_le16(b);
}

static void put_desc(struct driver *d, uint64_t table, uint16_t index, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t b[16];
	put_le64(b, addr);
	put_le32(b + 8, len);
	put_le16(b + 12, flags);
	put_le16(b + 14, next);
	put(d, table + 16ull * index, b, sizeof b);
}

static void set_avail(struct driver *d, uint16_t index)
{
	uint8_t b[2];
	put_le16(b, index);
	put(d, AVAIL + 2, b, sizeof b);
	d->n_offered = index;
}

static void offer(struct driver *d, uint16_t head)
{
	uint8_t b[2];
	put_le16(b, head);
	put(d, AVAIL + 4 + 2ull * (d->n_offered % d->size), b, sizeof b);
	set_avail(d, (uint16_t)(d->n_offered + 1));
}

static void turn(struct driver *d)
{
	for (int k = 0; k < 20 && loop_run_once(d->loop, 0) > 0; k++)
		;
}

static void kick(struct driver *d)
{
	virtio_kick(d->v, 0);
	turn(d);
	if (!d->is_wild && !(virtio_status(d->v) & VIRTIO_STATUS_DEVICE_NEEDS_RESET))
		MUST(used_index(d) == d->n_offered);
	d->n_next_desc = 0; /* all came back: the table is free */
}

static void start(struct driver *d)
{
	uint8_t zeroes[8] = { 0 };
	uint64_t features = VIRTIO_F_VERSION_1 | (d->v->offered & 0xffff);
	if (d->options & 1)
		features |= VIRTIO_F_EVENT_IDX;
	if (d->options & 2)
		features |= VIRTIO_F_INDIRECT_DESC;
	if (d->options & 8)
		features &= ~(1ull << 11); /* CONFIG_WCE */
	if (d->options & 16)
		features &= ~(1ull << 9); /* FLUSH */
	if (d->options & 32)
		features &= ~(3ull << 13); /* DISCARD, WRITE_ZEROES */
	put(d, AVAIL, zeroes, sizeof zeroes);
	put(d, USED, zeroes, sizeof zeroes);
	d->n_offered = d->n_next_desc = 0;
	virtio_set_status(d->v, 3);
	virtio_ack_features(d->v, 0, (uint32_t)features);
	virtio_ack_features(d->v, 1, (uint32_t)(features >> 32));
	virtio_set_status(d->v, 3 | VIRTIO_STATUS_FEATURES_OK);
	struct queue_config c = { .size = d->size, .is_ready = true, .desc = DESC, .avail = AVAIL, .used = USED };
	(void)queue_setup(d->v, 0, &c);
	virtio_set_status(d->v, 3 | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
	MUST(virtio_status(d->v) & VIRTIO_STATUS_DRIVER_OK);
}

/* Header, up to 15 buffers of data, a status; direct or, when negotiated, indirect. Buffers lie among the data only. */
static void make_request(struct driver *d)
{
	static const uint32_t types[] = { 0, 1, 4, 8, 11, 13, 0, 1 };
	uint8_t shape = take8(d), how = take8(d), size = take8(d);
	unsigned n_data = shape & 15, n = n_data + 2;
	bool is_indirect = (how & 0x80) && (d->options & 2) && n <= d->size;
	uint16_t base = is_indirect ? 0 : d->n_next_desc;
	uint64_t table = is_indirect ? TABLE : DESC;
	uint8_t header[16] = { 0 };

	if (n > d->size || d->n_next_desc + (is_indirect ? 1u : n) > d->size)
		return;
	uint32_t type = how & 0x40 ? take8(d) : types[how & 7];
	bool is_in = (how & 0x20) || type == 0 || type == 8;
	uint32_t len = size & 0x80 ? 1u + (size & 0x7f) : 512u * (1u + (size & 3));
	put_le32(header, type);
	put_le64(header + 8, shape & 0x80 ? (uint64_t)take16(d) << (shape & 0x30) : (uint64_t)take8(d) % 160);
	put(d, DATA, header, sizeof header);
	put_desc(d, table, base, DATA, how & 0x10 ? take8(d) % 17 : 16, 1, (uint16_t)(base + 1));
	for (unsigned k = 0; k < n_data; k++)
		put_desc(d, table, (uint16_t)(base + 1 + k), DATA + 64 + k * 4096ull, len, is_in ? 3 : 1, (uint16_t)(base + 2 + k));
	put_desc(d, table, (uint16_t)(base + 1 + n_data), DATA + 32, 1, 2, 0);
	if (type == 11 || type == 13) {
		uint8_t segment[16] = { 0 };
		put_le64(segment, take8(d));
		put_le32(segment + 8, take8(d));
		put_le32(segment + 12, take8(d) & 3);
		for (unsigned k = 0; k < 8; k++)
			put(d, DATA + 64 + k * 16ull, segment, sizeof segment);
	}
	if (is_indirect)
		put_desc(d, DESC, d->n_next_desc, TABLE, 16 * n, 4, 0);
	offer(d, d->n_next_desc);
	d->n_next_desc = (uint16_t)(d->n_next_desc + (is_indirect ? 1 : n));
	if (is_indirect)
		kick(d); /* one table: it is in use until then */
}

static void wild_step(struct driver *d, uint8_t which)
{
	uint8_t bytes[8];
	d->is_wild = true;
	switch (which) {
	case 0:
		for (size_t k = 0; k < sizeof bytes; k++)
			bytes[k] = take8(d);
		put_desc(d, bytes[0] & 8 ? TABLE : DESC, bytes[1], (uint64_t)get_le16(bytes + 2) << bytes[4] % 49,
		         get_le16(bytes + 5), bytes[0] & 7, bytes[7]);
		break;
	case 1:
		offer(d, take8(d));
		break;
	case 2:
		set_avail(d, take16(d));
		break;
	default:
		for (size_t k = 0; k < sizeof bytes; k++)
			bytes[k] = take8(d);
		put(d, take16(d) * 4ull, bytes, sizeof bytes);
		break;
	}
}

static void step(struct driver *d)
{
	uint8_t op = take8(d), bytes[8];
	switch (op % 8) {
	case 0:
	case 1:
	case 2:
		make_request(d);
		break;
	case 3:
		kick(d);
		break;
	case 4:
		for (size_t k = 0; k < sizeof bytes; k++)
			bytes[k] = op & 0x80 ? op >> 6 & 1 : op;
		virtio_space_write(d->v, op & 0x80 ? 32 : take8(d), bytes, op & 0x80 ? 1 : 1 + op % 7);
		virtio_space_read(d->v, take8(d), bytes, 1 + op % 8);
		break;
	case 5:
		virtio_set_status(d->v, 0);
		start(d);
		break;
	default:
		wild_step(d, op >> 3 & 3);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	static const uint16_t sizes[] = { 4, 16, 32, 128 };
	static struct loop *loop;
	struct driver d = { .in = data, .n_in = n_bytes };
	if (!loop)
		MUST(loop_new(&loop, NULL) == 0);

	d.options = take8(&d);
	when_failing = take8(&d);
	n_operations = 0;
	d.size = sizes[d.options >> 6];
	d.loop = loop;
	mem_map_init(&d.mem);
	struct mem_region_params region = { .start = GPA(0), .n_bytes = MEMORY_BYTES };
	MUST(mem_map_add(&d.mem, &region, NULL) == 0);

	struct virtio_class on_this_thread = virtio_blk;
	on_this_thread.has_queue_threads = false;
	struct virtio_blk_params bp = { .image = memory_image(), .is_readonly = d.options & 4, .serial = "fuzz", .n_queues = 1 };
	struct virtio_params vp = { .id = "_disk0", .mem = &d.mem, .io_loop = loop, .queue_size = d.size };
	MUST(virtio_device_new(&on_this_thread, &vp, &bp, &d.v, NULL) == 0);
	start(&d);
	for (int k = 0; k < MAX_STEPS && d.n_in; k++)
		step(&d);
	kick(&d);
	virtio_device_free(d.v);
	mem_map_done(&d.mem);
	return 0;
}

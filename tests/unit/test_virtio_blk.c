/* SPDX-License-Identifier: Apache-2.0 */
/* The block device as a driver sees it, and as a hostile one does. virtio 1.2, 5.2. */
#include "backend/block_impl.h"
#include "base/bytes.h"
#include "device/virtio_blk.h"
#include "ring.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define F_SEG_MAX (1ull << 2)
#define F_RO (1ull << 5)
#define F_BLK_SIZE (1ull << 6)
#define F_FLUSH (1ull << 9)
#define F_TOPOLOGY (1ull << 10)
#define F_CONFIG_WCE (1ull << 11)
#define F_MQ (1ull << 12)
#define F_DISCARD (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)
#define F_USUAL (F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_DISCARD | F_WRITE_ZEROES | VIRTIO_F_INDIRECT_DESC)

enum { T_IN = 0, T_OUT = 1, T_SCSI = 2, T_FLUSH = 4, T_FLUSH_OUT = 5, T_ID = 8, T_LIFETIME = 10 };
enum { T_DISCARD = 11, T_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2, S_NONE = 0xee };

#define SECTOR 512u
#define DISK_SECTORS 2048u
#define QUEUE_SIZE 256u

/* Where the driver keeps things. */
#define HEADER RING_DATA
#define STATUS (RING_DATA + 0x800)
#define TABLE (RING_DATA + 0x1000)
#define DATA (RING_DATA + 0x10000)

/* --- a disk with a driver --- */

static _Atomic unsigned n_steps[6];
static _Atomic int forced_result;

static enum block_next spy_prepare(struct block_lane *lane, struct block_request *r)
{
	return block_raw_format.prepare(lane, r);
}

static bool spy_finish(struct block_lane *lane, struct block_request *r, long result)
{
	n_steps[r->step.op]++;
	return block_raw_format.finish(lane, r, forced_result ? forced_result : result);
}

static const struct block_format spy_format = { .name = "spy", .prepare = spy_prepare, .finish = spy_finish };

struct disk {
	struct rig g;
	struct block_image *image;
	char path[64];
};

struct disk_params {
	bool has_no_io_uring, is_readonly, has_no_discard;
	unsigned n_queues;
	uint16_t queue_size;
	const char *serial;
};

static uint8_t pattern(uint64_t sector)
{
	return (uint8_t)(sector * 7 + 3);
}

static void disk_open(struct disk *d, const struct disk_params *p)
{
	struct err e = { 0 };
	memset(d, 0, sizeof *d);
	(void)snprintf(d->path, sizeof d->path, "/var/tmp/varan-disk-XXXXXX");
	int fd = mkstemp(d->path);
	OK(fd >= 0);
	for (unsigned s = 0; s < DISK_SECTORS; s++) {
		uint8_t b[SECTOR];
		memset(b, pattern(s), sizeof b);
		EQ(write(fd, b, sizeof b), SECTOR);
	}
	close(fd);
	struct block_params bp = {
		.path = d->path, .has_discard = !p->has_no_discard, .has_no_io_uring = p->has_no_io_uring,
	};
	if (block_open_format(&bp, &spy_format, &d->image, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);

	struct virtio_blk_params vp = {
		.image = d->image, .is_readonly = p->is_readonly, .n_queues = p->n_queues ? p->n_queues : 1,
	};
	if (p->serial)
		memcpy(vp.serial, p->serial, strnlen(p->serial, sizeof vp.serial));
	rig_open(&d->g, &virtio_blk, &vp, p->queue_size ? p->queue_size : QUEUE_SIZE);
}

static void disk_start(struct disk *d, uint64_t features)
{
	rig_start(&d->g, features & d->g.v->offered);
}

static void disk_close(struct disk *d)
{
	rig_close(&d->g);
	block_close(d->image);
	unlink(d->path);
}

static void new_disk(struct disk *d)
{
	disk_open(d, &(struct disk_params){ 0 });
	disk_start(d, F_USUAL);
}

static uint64_t space(struct disk *d, unsigned offset, unsigned n_bytes)
{
	uint8_t b[8];
	virtio_space_read(d->g.v, offset, b, n_bytes);
	return get_le(b, n_bytes);
}

static uint32_t status_of_device(struct disk *d)
{
	return virtio_status(d->g.v);
}

static void put_header(struct disk *d, uint64_t address, uint32_t type, uint64_t sector)
{
	uint8_t h[16] = { 0 };
	put_le32(h, type);
	put_le64(h + 8, sector);
	OK(mem_write(&d->g.mem, GPA(address), h, sizeof h));
}

static uint8_t byte_at(struct disk *d, uint64_t address)
{
	uint8_t b;
	OK(mem_read(&d->g.mem, GPA(address), &b, 1));
	return b;
}

static void set_byte(struct disk *d, uint64_t address, uint8_t b)
{
	OK(mem_write(&d->g.mem, GPA(address), &b, 1));
}

struct part {
	uint64_t addr;
	uint32_t len;
	bool is_writable;
};

/* A chain from descriptor `head` on. */
static void put_chain(struct disk *d, unsigned queue, uint16_t head, const struct part *parts, unsigned n)
{
	struct ring *r = &d->g.rings[queue];
	for (unsigned i = 0; i < n; i++) {
		unsigned flags = (parts[i].is_writable ? DESC_WRITE : 0) | (i + 1 < n ? DESC_NEXT : 0);
		ring_put(r, (uint16_t)(head + i), (struct ring_desc){
			.addr = parts[i].addr, .len = parts[i].len, .flags = (uint16_t)flags, .next = (uint16_t)(head + i + 1),
		});
	}
	ring_offer(r, head);
}

/* Offers one chain and returns the status that it got; its used length goes to *ret_len. */
static uint8_t serve(struct disk *d, const struct part *parts, unsigned n, uint32_t *ret_len)
{
	struct ring_used u;
	const struct part *last = &parts[n - 1];
	set_byte(d, last->addr + last->len - 1, S_NONE);
	put_chain(d, 0, 0, parts, n);
	rig_kick(&d->g, 0);
	OK(rig_wait_used(&d->g, 0, 1));
	OK(ring_take(&d->g.rings[0], &u));
	EQ(u.id, 0);
	if (ret_len)
		*ret_len = u.len;
	return byte_at(d, last->addr + last->len - 1);
}

/* The usual shape: header, data, status. */
static uint8_t request(struct disk *d, uint32_t type, uint64_t sector, uint32_t n_bytes, uint32_t *ret_len)
{
	bool is_in = type == T_IN || type == T_ID || type == T_LIFETIME;
	struct part parts[3] = { { HEADER, 16, false }, { DATA, n_bytes, is_in }, { STATUS, 1, true } };
	put_header(d, HEADER, type, sector);
	if (n_bytes == 0)
		parts[1] = parts[2];
	return serve(d, parts, n_bytes ? 3 : 2, ret_len);
}

static void fill_data(struct disk *d, uint8_t byte, uint32_t n_bytes)
{
	OK(mem_fill(&d->g.mem, GPA(DATA), byte, n_bytes));
}

static void data_is(struct disk *d, uint64_t address, uint8_t byte, uint32_t n_bytes)
{
	for (uint32_t i = 0; i < n_bytes; i++)
		EQ(byte_at(d, address + i), byte);
}

static void file_is(struct disk *d, uint64_t sector, uint8_t byte)
{
	uint8_t b[SECTOR];
	int fd = open(d->path, O_RDONLY);
	EQ(pread(fd, b, SECTOR, (off_t)(sector * SECTOR)), SECTOR);
	close(fd);
	for (unsigned i = 0; i < SECTOR; i++)
		EQ(b[i], byte);
}

static void put_segment(struct disk *d, unsigned i, uint64_t sector, uint32_t n_sectors, uint32_t flags)
{
	uint8_t b[16];
	put_le64(b, sector);
	put_le32(b + 8, n_sectors);
	put_le32(b + 12, flags);
	OK(mem_write(&d->g.mem, GPA(DATA + 16 * i), b, sizeof b));
}

/* --- what it says of itself --- */

TEST(features_and_configuration)
{
	struct disk d;
	disk_open(&d, &(struct disk_params){ .n_queues = 4 });
	EQ(d.g.v->cls->virtio_id, 2);
	EQ(d.g.v->offered, F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE | F_MQ | F_DISCARD | F_WRITE_ZEROES |
	                   VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
	EQ(space(&d, 0, 8), DISK_SECTORS);
	EQ(space(&d, 12, 4), QUEUE_SIZE - 2);
	EQ(space(&d, 20, 4), 512);
	EQ(space(&d, 24, 1), 3); /* 4096 bytes are 2^3 blocks */
	EQ(space(&d, 25, 1), 0);
	EQ(space(&d, 26, 2), 8);
	EQ(space(&d, 33, 1), 0); /* unused0 */
	EQ(space(&d, 34, 2), 4);
	OK(space(&d, 36, 4) > 0 && space(&d, 40, 4) == 16 && space(&d, 44, 4) == 8);
	OK(space(&d, 48, 4) > 0 && space(&d, 52, 4) == 16 && space(&d, 56, 1) == 1);
	EQ(space(&d, 57, 1) | space(&d, 58, 2), 0); /* unused1 */
	EQ(space(&d, 60, 4), 0);
	disk_close(&d);

	disk_open(&d, &(struct disk_params){ .is_readonly = true });
	EQ(d.g.v->offered & (F_RO | F_MQ | F_DISCARD | F_WRITE_ZEROES), F_RO);
	EQ(space(&d, 34, 8), 0);
	disk_close(&d);

	disk_open(&d, &(struct disk_params){ .has_no_discard = true });
	EQ(d.g.v->offered & (F_DISCARD | F_WRITE_ZEROES), F_WRITE_ZEROES);
	EQ(space(&d, 56, 1), 0);
	disk_close(&d);
}

TEST(number_of_queues_is_bounded)
{
	struct virtio_device *v = NULL;
	struct err e;
	char path[] = "/var/tmp/varan-disk-XXXXXX";
	close(mkstemp(path));
	struct block_params bp = { .path = path };
	struct virtio_blk_params p = { 0 };
	EQ(block_open(&bp, &p.image, &e), 0);
	struct virtio_params vp = { .id = "_disk0" };
	for (unsigned k = 0; k < 2; k++) {
		p.n_queues = k ? VIRTIO_MAX_QUEUES + 1 : 0;
		EQ(virtio_device_new(&virtio_blk, &vp, &p, &v, &e), -EINVAL);
		STR_HAS(e.text, "_disk0: the number of queues");
	}
	block_close(p.image);
	unlink(path);
}

TEST(serial_number)
{
	struct disk d;
	uint32_t len;
	char id[21] = { 0 };
	disk_open(&d, &(struct disk_params){ .serial = "exactly-twenty-bytes" });
	disk_start(&d, F_USUAL);
	EQ(request(&d, T_ID, 0, 20, &len), S_OK);
	EQ(len, 21);
	OK(mem_read(&d.g.mem, GPA(DATA), id, 20));
	STR_EQ(id, "exactly-twenty-bytes");

	/* A larger buffer keeps what lies behind the 20 bytes, a smaller one gets what fits. */
	fill_data(&d, 0x77, 64);
	EQ(request(&d, T_ID, 0, 64, &len), S_OK);
	EQ(len, 20);
	data_is(&d, DATA + 20, 0x77, 44);
	EQ(request(&d, T_ID, 0, 5, &len), S_OK);
	EQ(len, 6);
	disk_close(&d);

	disk_open(&d, &(struct disk_params){ .serial = "short" });
	disk_start(&d, F_USUAL);
	fill_data(&d, 0x77, 20);
	EQ(request(&d, T_ID, 0, 20, NULL), S_OK);
	OK(mem_read(&d.g.mem, GPA(DATA), id, 20));
	MEM_EQ(id, "short\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	disk_close(&d);
}

/* --- data --- */

TEST(read_write_flush_on_both_engines)
{
	for (int engine = 0; engine < 2; engine++) {
		struct disk d;
		uint32_t len;
		disk_open(&d, &(struct disk_params){ .has_no_io_uring = engine });
		disk_start(&d, F_USUAL);
		EQ(request(&d, T_IN, 5, 2 * SECTOR, &len), S_OK);
		EQ(len, 2 * SECTOR + 1);
		data_is(&d, DATA, pattern(5), SECTOR);
		data_is(&d, DATA + SECTOR, pattern(6), SECTOR);

		fill_data(&d, 0xa5, SECTOR);
		EQ(request(&d, T_OUT, DISK_SECTORS - 1, SECTOR, &len), S_OK);
		EQ(len, 1);
		file_is(&d, DISK_SECTORS - 1, 0xa5);
		file_is(&d, DISK_SECTORS - 2, pattern(DISK_SECTORS - 2));
		EQ(request(&d, T_FLUSH, 0, 0, &len), S_OK);
		EQ(len, 1);
		EQ(request(&d, T_IN, 0, 0, NULL), S_OK); /* nothing is a multiple of 512 */
		disk_close(&d);
	}
}

struct counted {
	char names[400];
	uint64_t values[16];
	unsigned n;
};

static void note_counter(void *context, const char *name, uint64_t value)
{
	struct counted *c = context;
	OK(c->n < 16);
	size_t n = strlen(c->names);
	(void)snprintf(c->names + n, sizeof c->names - n, "%s ", name);
	c->values[c->n++] = value;
}

static void counters_are(struct disk *d, uint64_t n_read_bytes, uint64_t n_reads, uint64_t n_written_bytes, uint64_t n_writes)
{
	struct counted c = { .n = 0 };
	virtio_blk.counters(d->g.v, note_counter, &c);
	STR_EQ(c.names, "read_bytes read_ops read_latency_min read_latency_max read_latency_avg "
	                "write_bytes write_ops write_latency_min write_latency_max write_latency_avg ");
	EQ(c.values[0], n_read_bytes);
	EQ(c.values[1], n_reads);
	EQ(c.values[5], n_written_bytes);
	EQ(c.values[6], n_writes);
	for (unsigned i = 2; i < 10; i += 5) {
		OK(c.values[i] <= c.values[i + 2] && c.values[i + 2] <= c.values[i + 1]); /* least, mean, most */
		OK(c.values[i + 1] < 60u * 1000 * 1000);                                   /* less than a minute in us */
	}
}

TEST(what_is_read_and_written_is_counted)
{
	struct disk d;
	new_disk(&d);
	counters_are(&d, 0, 0, 0, 0);
	EQ(request(&d, T_IN, 5, 2 * SECTOR, NULL), S_OK);
	EQ(request(&d, T_IN, 0, SECTOR, NULL), S_OK);
	counters_are(&d, 3 * SECTOR, 2, 0, 0);
	fill_data(&d, 0xa5, SECTOR);
	EQ(request(&d, T_OUT, 1, SECTOR, NULL), S_OK);
	EQ(request(&d, T_FLUSH, 0, 0, NULL), S_OK); /* neither */
	counters_are(&d, 3 * SECTOR, 2, SECTOR, 1);
	EQ(request(&d, T_IN, DISK_SECTORS, SECTOR, NULL), S_IOERR); /* did not happen */
	counters_are(&d, 3 * SECTOR, 2, SECTOR, 1);

	/* A driver's reset does not make it undone. */
	virtio_set_status(d.g.v, 0);
	counters_are(&d, 3 * SECTOR, 2, SECTOR, 1);
	disk_close(&d);
}

/* 2.6.4: the driver may cut the bytes as it likes. */
TEST(any_framing)
{
	struct disk d;
	uint32_t len;
	new_disk(&d);
	put_header(&d, HEADER, T_IN, 9);
	EQ(serve(&d, (struct part[]){ { HEADER, 1, false }, { HEADER + 1, 11, false }, { HEADER + 12, 4, false },
	                              { DATA, 100, true }, { DATA + 100, SECTOR - 100 + 1, true } }, 5, &len), S_OK);
	EQ(len, SECTOR + 1);
	data_is(&d, DATA, pattern(9), SECTOR);

	/* All readable bytes in one buffer, and a status in an empty rest. */
	put_header(&d, DATA, T_OUT, 11);
	OK(mem_fill(&d.g.mem, GPA(DATA + 16), 0x3c, SECTOR));
	EQ(serve(&d, (struct part[]){ { DATA, 16 + SECTOR, false }, { STATUS, 0, true }, { STATUS, 1, true } }, 3, &len), S_OK);
	EQ(len, 1);
	file_is(&d, 11, 0x3c);
	file_is(&d, 12, pattern(12));

	/* Writable bytes that a write does not need: the status is the last one. */
	put_header(&d, HEADER, T_OUT, 12);
	fill_data(&d, 0x3d, SECTOR);
	EQ(serve(&d, (struct part[]){ { HEADER, 16, false }, { DATA, SECTOR, false }, { STATUS, 8, true } }, 3, &len), S_OK);
	EQ(len, 0); /* no byte at the front was written */
	file_is(&d, 12, 0x3d);
	disk_close(&d);
}

static void put_indirect_table(struct disk *d, unsigned n_data, uint32_t n_each, uint32_t type)
{
	struct ring *r = &d->g.rings[0];
	bool is_in = type == T_IN;
	ring_put_at(r, TABLE, 0, (struct ring_desc){ .addr = HEADER, .len = 16, .flags = DESC_NEXT, .next = 1 });
	for (unsigned i = 0; i < n_data; i++)
		ring_put_at(r, TABLE, (uint16_t)(1 + i),
		            (struct ring_desc){ .addr = DATA + (uint64_t)i * 2 * n_each, .len = n_each, .next = (uint16_t)(2 + i),
		                                .flags = (uint16_t)(DESC_NEXT | (is_in ? DESC_WRITE : 0)) });
	ring_put_at(r, TABLE, (uint16_t)(1 + n_data), (struct ring_desc){ .addr = STATUS, .len = 1, .flags = DESC_WRITE });
}

static void offer_table(struct disk *d, uint16_t head, unsigned n_data)
{
	struct ring *r = &d->g.rings[0];
	ring_put(r, head, (struct ring_desc){ .addr = TABLE, .len = 16 * (n_data + 2), .flags = DESC_INDIRECT });
	ring_offer(r, head);
}

TEST(many_segments_by_an_indirect_table)
{
	struct disk d;
	struct ring_used u;
	new_disk(&d);
	enum { N = QUEUE_SIZE - 2 }; /* seg_max */
	for (unsigned i = 0; i < N; i++)
		OK(mem_fill(&d.g.mem, GPA(DATA + (uint64_t)i * 1024), (uint8_t)(i + 1), SECTOR));
	for (int way = 0; way < 2; way++) {
		uint32_t type = way ? T_IN : T_OUT;
		if (way)
			OK(mem_fill(&d.g.mem, GPA(DATA), 0, N * 1024));
		put_header(&d, HEADER, type, 100);
		set_byte(&d, STATUS, S_NONE);
		put_indirect_table(&d, N, SECTOR, type);
		offer_table(&d, 7, N);
		rig_kick(&d.g, 0);
		OK(rig_wait_used(&d.g, 0, 1) && ring_take(&d.g.rings[0], &u));
		EQ(u.id, 7);
		EQ(u.len, way ? N * SECTOR + 1 : 1);
		EQ(byte_at(&d, STATUS), S_OK);
	}
	for (unsigned i = 0; i < N; i++) {
		file_is(&d, 100 + i, (uint8_t)(i + 1));
		data_is(&d, DATA + (uint64_t)i * 1024, (uint8_t)(i + 1), 16);
	}
	file_is(&d, 100 + N, pattern(100 + N));
	disk_close(&d);
}

/* More long chains at once than there are slots for: they wait in the ring, none is lost, the order of heads does not
 * matter. */
TEST(chains_wait_for_slots)
{
	for (int engine = 0; engine < 2; engine++) {
		struct disk d;
		enum { N = 700 };
		static bool has_come[N];
		memset(has_come, 0, sizeof has_come);
		disk_open(&d, &(struct disk_params){ .queue_size = 1024, .has_no_io_uring = engine });
		disk_start(&d, F_USUAL);
		put_header(&d, HEADER, T_OUT, 3); /* all from the same buffers: reads would race for them */
		put_indirect_table(&d, 20, SECTOR, T_OUT); /* once: the queue looks by itself, before it is kicked */
		for (uint16_t head = 0; head < N; head++)
			offer_table(&d, head, 20);
		rig_kick(&d.g, 0);
		OK(rig_wait_used(&d.g, 0, N));
		struct ring_used u;
		while (ring_take(&d.g.rings[0], &u)) {
			OK(u.id < N && !has_come[u.id]);
			EQ(u.len, 1);
			has_come[u.id] = true;
		}
		EQ(ring_used_idx(&d.g.rings[0]), N);
		EQ(byte_at(&d, STATUS), S_OK);
		disk_close(&d);
	}
}

TEST(several_queues_at_once)
{
	struct disk d;
	disk_open(&d, &(struct disk_params){ .n_queues = 4 });
	disk_start(&d, F_USUAL | F_MQ);
	for (unsigned q = 0; q < 4; q++) {
		uint64_t header = HEADER + 16 * q, data = DATA + q * 40ull * SECTOR;
		put_header(&d, header, T_IN, 20 + q);
		for (uint16_t k = 0; k < 40; k++)
			put_chain(&d, q, (uint16_t)(k * 3), (struct part[]){
				{ header, 16, false }, { data + k * SECTOR, SECTOR, true }, { STATUS + q, 1, true },
			}, 3);
	}
	for (unsigned q = 0; q < 4; q++)
		rig_kick(&d.g, q);
	for (unsigned q = 0; q < 4; q++) {
		OK(rig_wait_used(&d.g, q, 40));
		for (unsigned k = 0; k < 40; k++)
			data_is(&d, DATA + (q * 40ull + k) * SECTOR, pattern(20 + q), SECTOR);
		EQ(byte_at(&d, STATUS + q), S_OK);
	}
	disk_close(&d);
}

TEST(one_signal_for_a_batch)
{
	struct disk d;
	new_disk(&d);
	put_header(&d, HEADER, T_IN, 0);
	for (uint16_t k = 0; k < 64; k++)
		put_chain(&d, 0, (uint16_t)(k * 3),
		          (struct part[]){ { HEADER, 16, false }, { DATA + k * SECTOR, SECTOR, true }, { STATUS, 1, true } }, 3);
	rig_kick(&d.g, 0);
	OK(rig_wait_used(&d.g, 0, 64));
	virtio_device_reset(d.g.v); /* whatever is to come has come */
	OK(d.g.n_queue_signals[0] >= 1 && d.g.n_queue_signals[0] <= 16);
	disk_close(&d);
}

/* --- what a driver gets wrong --- */

TEST(wrong_requests_are_answered)
{
	struct disk d;
	uint32_t len;
	new_disk(&d);
	fill_data(&d, 0xdd, 4 * SECTOR);
	EQ(request(&d, T_OUT, DISK_SECTORS, SECTOR, &len), S_IOERR);
	EQ(len, 1);
	EQ(request(&d, T_OUT, DISK_SECTORS - 1, 2 * SECTOR, NULL), S_IOERR);
	EQ(request(&d, T_OUT, UINT64_MAX, SECTOR, NULL), S_IOERR);
	EQ(request(&d, T_OUT, UINT64_MAX / SECTOR, 2 * SECTOR, NULL), S_IOERR);
	EQ(request(&d, T_OUT, 1ull << 55, SECTOR, NULL), S_IOERR); /* times 512: 0 */
	EQ(request(&d, T_OUT, 0, SECTOR + 1, NULL), S_IOERR);
	EQ(request(&d, T_IN, 0, SECTOR - 1, &len), S_IOERR);
	EQ(len, 0); /* the status lies behind data that was not written */
	EQ(request(&d, T_IN, DISK_SECTORS, SECTOR, NULL), S_IOERR);
	EQ(request(&d, T_IN, DISK_SECTORS, 0, NULL), S_OK);
	EQ(request(&d, T_IN, DISK_SECTORS + 1, 0, NULL), S_IOERR);
	data_is(&d, DATA, 0xdd, 4 * SECTOR);
	file_is(&d, 0, pattern(0));
	file_is(&d, DISK_SECTORS - 1, pattern(DISK_SECTORS - 1));

	uint32_t unknown[] = { T_SCSI, 3, T_FLUSH_OUT, T_LIFETIME, 14, 15, 16, 26, 0x80000000u | T_OUT, UINT32_MAX };
	for (size_t k = 0; k < ARRAY_LEN(unknown); k++)
		EQ(request(&d, unknown[k], 0, 32, NULL), S_UNSUPP);

	/* A header that is cut off, or not there. */
	EQ(serve(&d, (struct part[]){ { HEADER, 15, false }, { STATUS, 1, true } }, 2, &len), S_IOERR);
	EQ(len, 1);
	EQ(serve(&d, (struct part[]){ { STATUS, 1, true } }, 1, NULL), S_IOERR);
	EQ(serve(&d, (struct part[]){ { DATA, SECTOR, true }, { STATUS, 1, true } }, 2, NULL), S_IOERR);
	EQ(status_of_device(&d) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);
	EQ(request(&d, T_IN, 0, SECTOR, NULL), S_OK);
	disk_close(&d);
}

/* In a mapped file that somebody cut off in the middle of it: what is gone reads as zeroes, and may decide nothing. */
TEST(a_request_that_is_gone_in_part_is_an_error)
{
	struct disk d;
	size_t index;
	uint8_t header[16] = { T_OUT }, segment[16] = { 0 };
	const uint64_t gone = (1ull << 32) + 0x1000;
	new_disk(&d);
	int fd = memfd_create("other", MFD_CLOEXEC);
	OK(fd >= 0 && ftruncate(fd, 0x4000) == 0);
	struct mem_device_params p = { .start = GPA(1ull << 32), .n_bytes = 0x4000, .fd = fd };
	EQ(mem_map_add_device(&d.g.mem, &p, &index, NULL), 0);
	put_le64(header + 8, 8);
	EQ(pwrite(fd, header, 16, 0xff8), 16);
	EQ(ftruncate(fd, 0x1000), 0);
	fill_data(&d, 0xdd, SECTOR);

	/* The type is there, the sector is not; then neither is. */
	for (uint64_t at = gone - 8; at <= gone; at += 8)
		EQ(serve(&d, (struct part[]){ { at, 16, false }, { DATA, SECTOR, false }, { STATUS, 1, true } }, 3, NULL),
		   S_IOERR);
	EQ(serve(&d, (struct part[]){ { gone, 16, false }, { STATUS, 1, true } }, 2, NULL), S_IOERR);

	/* A segment whose sector is gone, and a whole one. */
	for (unsigned n = 0; n < 2; n++) {
		put_header(&d, HEADER, n ? T_ZEROES : T_DISCARD, 0);
		put_le32(segment + 8, 8);
		OK(mem_write(&d.g.mem, GPA(DATA), segment + 8, 8));
		EQ(serve(&d, (struct part[]){ { HEADER, 16, false }, { gone, 8, false }, { DATA, 8, false },
		                              { STATUS, 1, true } }, 4, NULL), S_IOERR);
		EQ(serve(&d, (struct part[]){ { HEADER, 16, false }, { gone, 16, false }, { STATUS, 1, true } }, 3, NULL), S_IOERR);
	}
	for (unsigned s = 0; s < 16; s++)
		file_is(&d, s, pattern(s));
	EQ(status_of_device(&d) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);
	EQ(request(&d, T_IN, 0, SECTOR, NULL), S_OK);
	disk_close(&d);
	(void)close(fd);
}

TEST(no_room_for_a_status_breaks_the_ring)
{
	struct disk d;
	new_disk(&d);
	put_header(&d, HEADER, T_OUT, 0);
	put_chain(&d, 0, 0, (struct part[]){ { HEADER, 16, false }, { DATA, SECTOR, false } }, 2);
	rig_kick(&d.g, 0);
	for (int k = 0; k < 5000 && !(status_of_device(&d) & VIRTIO_STATUS_DEVICE_NEEDS_RESET); k++)
		(void)loop_run_once(d.g.loop, 1);
	OK(status_of_device(&d) & VIRTIO_STATUS_DEVICE_NEEDS_RESET);
	EQ(ring_used_idx(&d.g.rings[0]), 0);
	file_is(&d, 0, pattern(0));

	/* And a reset mends it. */
	virtio_set_status(d.g.v, 0);
	ring_set_avail_idx(&d.g.rings[0], 0);
	disk_start(&d, F_USUAL);
	d.g.rings[0].n_seen = 0;
	EQ(request(&d, T_IN, 1, SECTOR, NULL), S_OK);
	disk_close(&d);
}

TEST(a_readonly_disk_refuses_writes)
{
	struct disk d;
	disk_open(&d, &(struct disk_params){ .is_readonly = true });
	disk_start(&d, F_USUAL | F_RO);
	fill_data(&d, 0xdd, SECTOR);
	EQ(request(&d, T_OUT, 0, SECTOR, NULL), S_IOERR);
	put_segment(&d, 0, 0, 1, 0);
	EQ(request(&d, T_DISCARD, 0, 16, NULL), S_IOERR);
	EQ(request(&d, T_ZEROES, 0, 16, NULL), S_IOERR);
	EQ(request(&d, T_FLUSH, 0, 0, NULL), S_OK);
	EQ(request(&d, T_IN, 0, SECTOR, NULL), S_OK);
	data_is(&d, DATA, pattern(0), SECTOR);
	file_is(&d, 0, pattern(0));
	disk_close(&d);
}

/* --- discard and write zeroes --- */

TEST(segments)
{
	struct disk d;
	uint32_t len;
	struct stat before, after;
	new_disk(&d);
	EQ(request(&d, T_FLUSH, 0, 0, NULL), S_OK);
	EQ(stat(d.path, &before), 0);

	put_segment(&d, 0, 0, 0, 0);
	put_segment(&d, 1, 8, 64, 0);
	put_segment(&d, 2, 128, 8, 0);
	EQ(request(&d, T_DISCARD, 0, 48, &len), S_OK);
	EQ(len, 1);
	EQ(stat(d.path, &after), 0);
	OK(before.st_blocks - after.st_blocks >= 56);
	file_is(&d, 7, pattern(7));
	file_is(&d, 72, pattern(72));

	put_segment(&d, 0, 200, 3, 0);
	put_segment(&d, 1, 210, 1, 1);
	put_segment(&d, 2, DISK_SECTORS - 1, 1, 1);
	EQ(request(&d, T_ZEROES, 0, 48, NULL), S_OK);
	file_is(&d, 199, pattern(199));
	file_is(&d, 200, 0);
	file_is(&d, 202, 0);
	file_is(&d, 203, pattern(203));
	file_is(&d, 210, 0);
	file_is(&d, DISK_SECTORS - 1, 0);

	/* unmap gives blocks back, its absence keeps them. */
	EQ(stat(d.path, &before), 0);
	put_segment(&d, 0, 1024, 64, 0);
	EQ(request(&d, T_ZEROES, 0, 16, NULL), S_OK);
	EQ(stat(d.path, &after), 0);
	OK(after.st_blocks >= before.st_blocks); /* the file system may need one for its own */
	put_segment(&d, 0, 1024, 64, 1);
	EQ(request(&d, T_ZEROES, 0, 16, NULL), S_OK);
	EQ(stat(d.path, &after), 0);
	OK(before.st_blocks - after.st_blocks >= 48);
	file_is(&d, 1024 + 63, 0);

	/* As many as are allowed, in pieces. */
	for (unsigned i = 0; i < 17; i++)
		put_segment(&d, i, 300 + 2 * i, 1, 0);
	put_header(&d, HEADER, T_ZEROES, 0);
	EQ(serve(&d, (struct part[]){ { HEADER, 16, false }, { DATA, 7, false }, { DATA + 7, 249, false },
	                              { STATUS, 1, true } }, 4, NULL), S_OK);
	file_is(&d, 330, 0);
	file_is(&d, 331, pattern(331));
	EQ(request(&d, T_ZEROES, 0, 17 * 16, NULL), S_IOERR);
	file_is(&d, 332, pattern(332));
	disk_close(&d);
}

TEST(wrong_segments_do_nothing)
{
	struct disk d;
	new_disk(&d);
	EQ(request(&d, T_DISCARD, 0, 0, NULL), S_IOERR);
	EQ(request(&d, T_DISCARD, 0, 15, NULL), S_IOERR);
	EQ(request(&d, T_DISCARD, 0, 24, NULL), S_IOERR);
	put_segment(&d, 0, 8, 8, 0);

	/* 5.2.6.2: unknown flags, and unmap in a discard, in whichever segment. */
	put_segment(&d, 1, 32, 8, 1);
	EQ(request(&d, T_DISCARD, 0, 32, NULL), S_UNSUPP);
	put_segment(&d, 1, 32, 8, 2);
	EQ(request(&d, T_DISCARD, 0, 32, NULL), S_UNSUPP);
	EQ(request(&d, T_ZEROES, 0, 32, NULL), S_UNSUPP);
	put_segment(&d, 1, UINT64_MAX, 8, 0x80000000u);
	EQ(request(&d, T_ZEROES, 0, 32, NULL), S_UNSUPP);

	put_segment(&d, 1, DISK_SECTORS, 1, 0);
	EQ(request(&d, T_ZEROES, 0, 32, NULL), S_IOERR);
	put_segment(&d, 1, UINT64_MAX, 1, 0);
	EQ(request(&d, T_ZEROES, 0, 32, NULL), S_IOERR);
	put_segment(&d, 1, 0, UINT32_MAX, 0);
	EQ(request(&d, T_DISCARD, 0, 32, NULL), S_IOERR);
	file_is(&d, 8, pattern(8));
	file_is(&d, 32, pattern(32));
	disk_close(&d);

	disk_open(&d, &(struct disk_params){ 0 });
	disk_start(&d, F_FLUSH); /* not negotiated */
	put_segment(&d, 0, 8, 8, 0);
	EQ(request(&d, T_DISCARD, 0, 16, NULL), S_UNSUPP);
	EQ(request(&d, T_ZEROES, 0, 16, NULL), S_UNSUPP);
	file_is(&d, 8, pattern(8));
	disk_close(&d);
}

/* --- stable writes --- */

static unsigned syncs_of_a_write(struct disk *d)
{
	n_steps[BLOCK_STEP_SYNC] = 0;
	EQ(request(d, T_OUT, 0, SECTOR, NULL), S_OK);
	unsigned n = n_steps[BLOCK_STEP_SYNC];
	put_segment(d, 0, 8, 8, 0);
	if (virtio_has_feature(d->g.v, F_WRITE_ZEROES)) {
		EQ(request(d, T_ZEROES, 0, 16, NULL), S_OK);
		EQ(n_steps[BLOCK_STEP_SYNC], 2 * n);
	}
	EQ(request(d, T_IN, 0, SECTOR, NULL), S_OK); /* reads need none */
	return n;
}

static void set_writeback(struct disk *d, uint8_t on)
{
	virtio_space_write(d->g.v, 32, &on, 1);
}

TEST(writes_are_stable_when_the_driver_may_think_so)
{
	struct disk d;
	disk_open(&d, &(struct disk_params){ 0 });
	disk_start(&d, F_USUAL); /* FLUSH, no CONFIG_WCE: writeback */
	EQ(syncs_of_a_write(&d), 0);
	n_steps[BLOCK_STEP_SYNC] = 0;
	EQ(request(&d, T_FLUSH, 0, 0, NULL), S_OK);
	EQ(n_steps[BLOCK_STEP_SYNC], 1);
	set_writeback(&d, 0); /* without the feature: nothing */
	EQ(syncs_of_a_write(&d), 0);
	disk_close(&d);

	disk_open(&d, &(struct disk_params){ 0 });
	disk_start(&d, F_WRITE_ZEROES); /* neither: every write is stable */
	EQ(syncs_of_a_write(&d), 1);
	disk_close(&d);

	disk_open(&d, &(struct disk_params){ 0 });
	disk_start(&d, F_USUAL | F_CONFIG_WCE);
	EQ(space(&d, 32, 1), 1);
	EQ(syncs_of_a_write(&d), 0);
	set_writeback(&d, 0);
	EQ(space(&d, 32, 1), 0);
	EQ(syncs_of_a_write(&d), 1);
	set_writeback(&d, 2); /* neither 0 nor 1 */
	EQ(space(&d, 32, 1), 0);
	set_writeback(&d, 1);
	EQ(space(&d, 32, 1), 1);
	EQ(syncs_of_a_write(&d), 0);
	set_writeback(&d, 0);

	/* A reset forgets what the driver chose. */
	virtio_set_status(d.g.v, 0);
	ring_init(&d.g.rings[0], &d.g.mem, 0, QUEUE_SIZE);
	ring_set_avail_idx(&d.g.rings[0], 0);
	mem_fill(&d.g.mem, GPA(d.g.rings[0].used), 0, 4);
	disk_start(&d, F_USUAL | F_CONFIG_WCE);
	EQ(space(&d, 32, 1), 1);
	EQ(syncs_of_a_write(&d), 0);
	disk_close(&d);

	disk_open(&d, &(struct disk_params){ 0 });
	disk_start(&d, F_CONFIG_WCE); /* 5.2.5.2: without FLUSH it starts as 0 */
	EQ(space(&d, 32, 1), 0);
	EQ(syncs_of_a_write(&d), 1);
	disk_close(&d);
}

/* --- the host --- */

TEST(errors_of_the_host_are_the_guests_io_errors)
{
	struct disk d;
	uint32_t len;
	new_disk(&d);
	forced_result = -EIO;
	for (int k = 0; k < 100; k++) {
		EQ(request(&d, T_IN, 0, SECTOR, &len), S_IOERR);
		EQ(len, 0);
	}
	EQ(request(&d, T_OUT, 0, SECTOR, &len), S_IOERR);
	EQ(len, 1);
	EQ(request(&d, T_FLUSH, 0, 0, NULL), S_IOERR);
	put_segment(&d, 0, 8, 8, 0);
	put_segment(&d, 1, 16, 8, 0);
	EQ(request(&d, T_ZEROES, 0, 32, NULL), S_IOERR);
	forced_result = -ENOSPC;
	EQ(request(&d, T_OUT, 0, SECTOR, NULL), S_IOERR);
	forced_result = 0;
	EQ(request(&d, T_IN, 0, SECTOR, NULL), S_OK);
	EQ(status_of_device(&d) & VIRTIO_STATUS_DEVICE_NEEDS_RESET, 0);

	EQ(truncate(d.path, 4096), 0); /* somebody made the image shorter */
	EQ(request(&d, T_IN, 7, SECTOR, NULL), S_OK);
	EQ(request(&d, T_IN, 7, 2 * SECTOR, NULL), S_IOERR);
	EQ(request(&d, T_IN, 100, SECTOR, NULL), S_IOERR);
	disk_close(&d);
}

TEST(what_was_written_is_marked_dirty_also_after_an_error)
{
	struct disk d;
	uint64_t bits[RING_MEMORY_BYTES / 4096 / 64];
	new_disk(&d);
	EQ(mem_dirty_start(&d.g.mem, NULL), 0);
	put_header(&d, HEADER, T_IN, DISK_SECTORS);
	EQ(serve(&d, (struct part[]){ { HEADER, 16, false }, { DATA, 4096, true }, { DATA + 8192, 1, true } }, 3, NULL), S_IOERR);
	/* The driver's own stores through mem_write() are in it too: look at a second request's only. */
	mem_dirty_collect(&d.g.mem.regions[0], bits);
	put_chain(&d, 0, 0, (struct part[]){ { HEADER, 16, false }, { DATA, 4096, true }, { DATA + 8192, 1, true } }, 3);
	mem_dirty_collect(&d.g.mem.regions[0], bits);
	rig_kick(&d.g, 0);
	OK(rig_wait_used(&d.g, 0, 1));
	virtio_device_reset(d.g.v);
	mem_dirty_collect(&d.g.mem.regions[0], bits);
	uint64_t page = (DATA + 8192 - RING_MEMORY_START) / 4096;
	OK(bits[page / 64] & 1ull << (page % 64));
	page = (HEADER - RING_MEMORY_START) / 4096;
	OK(!(bits[page / 64] & 1ull << (page % 64)));
	mem_dirty_stop(&d.g.mem);
	disk_close(&d);
}

TEST(stop_waits_for_what_is_in_flight)
{
	for (int round = 0; round < 20; round++) {
		struct disk d;
		disk_open(&d, &(struct disk_params){ .has_no_io_uring = round % 2 });
		disk_start(&d, F_USUAL);
		put_header(&d, HEADER, T_OUT, 50);
		put_header(&d, HEADER + 16, T_FLUSH, 0);
		fill_data(&d, 0x42, 8 * SECTOR);
		for (uint16_t k = 0; k < 60; k++)
			put_chain(&d, 0, (uint16_t)(k * 3), (struct part[]){
				{ k % 8 ? HEADER : HEADER + 16, 16, false }, { DATA, 8 * SECTOR, false }, { STATUS, 1, true },
			}, 3);
		rig_kick(&d.g, 0);
		if (round % 4 > 1)
			OK(rig_wait_used(&d.g, 0, 1));
		virtio_set_status(d.g.v, 0);
		uint16_t n_used = ring_used_idx(&d.g.rings[0]);
		(void)loop_run_once(d.g.loop, 1);
		EQ(ring_used_idx(&d.g.rings[0]), n_used); /* the old life is over */
		EQ(status_of_device(&d), 0);

		ring_init(&d.g.rings[0], &d.g.mem, 0, QUEUE_SIZE);
		ring_set_avail_idx(&d.g.rings[0], 0);
		mem_fill(&d.g.mem, GPA(d.g.rings[0].used), 0, 4);
		disk_start(&d, F_USUAL);
		EQ(request(&d, T_IN, 1, SECTOR, NULL), S_OK);
		data_is(&d, DATA, pattern(1), SECTOR);
		disk_close(&d);
	}
}

/* The queue's thread waits without a bound: one completion that does not wake it, and the driver waits for ever. */
TEST(no_completion_is_missed)
{
	for (int engine = 0; engine < 2; engine++) {
		struct disk d;
		struct ring_used u;
		disk_open(&d, &(struct disk_params){ .has_no_io_uring = engine });
		disk_start(&d, F_USUAL);
		put_header(&d, HEADER, T_IN, 7);
		put_header(&d, HEADER + 16, T_ZEROES, 0);
		put_segment(&d, 0, 1000, 8, 0);
		unsigned n_turns = 400;
		for (unsigned turn = 0; turn < n_turns; turn++) {
			unsigned n = 1 + turn % 7;
			for (unsigned k = 0; k < n; k++) {
				uint64_t data = DATA + 4096 + k * SECTOR;
				bool is_zeroes = (turn + k) % 3 == 0;
				put_chain(&d, 0, (uint16_t)(3 * k), (struct part[]){
					{ is_zeroes ? HEADER + 16 : HEADER, 16, false },
					{ is_zeroes ? DATA : data, is_zeroes ? 16 : SECTOR, !is_zeroes }, { STATUS + k, 1, true },
				}, 3);
			}
			rig_kick(&d.g, 0);
			OK(rig_wait_used(&d.g, 0, n));
			while (ring_take(&d.g.rings[0], &u))
				EQ(byte_at(&d, STATUS + u.id / 3), S_OK);
		}
		disk_close(&d);
	}
}

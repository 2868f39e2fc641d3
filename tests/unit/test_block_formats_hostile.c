/* SPDX-License-Identifier: Apache-2.0 */
/* VHD, VHDX and VMDK that somebody damaged, made up, or left in the middle: clear errors, and never a byte of what is
 * not the image's. VHDX logs made here are replayed. */
#include "block_kit.h"

#include "backend/block_vhdx.h"
#include "backend/block_vmdk.h"
#include "base/bytes.h"

#include <sys/inotify.h>

#define MB (1024ull * 1024)
#define DISK_BYTES (16 * MB)

static void create(struct kit *k, enum block_type type, const char *options)
{
	static const char *const names[] = { "", "raw", "qcow2", "vpc", "vhdx", "vmdk" };
	memset(k, 0, sizeof *k);
	k->type = type;
	(void)snprintf(k->path, sizeof k->path, "%s/disk.%s", kit_folder, names[type]);
	kit_run("qemu-img create -f %s -o %s %s %llu", names[type], options, k->path, DISK_BYTES);
}

static void get_bytes(const struct kit *k, uint64_t offset, void *bytes, size_t n)
{
	int fd = open(k->path, O_RDONLY);
	EQ(pread(fd, bytes, n, (off_t)offset), (long)n);
	close(fd);
}

static void put_bytes(const struct kit *k, uint64_t offset, const void *bytes, size_t n)
{
	int fd = open(k->path, O_RDWR);
	EQ(pwrite(fd, bytes, n, (off_t)offset), (long)n);
	close(fd);
}

static uint64_t file_bytes(const struct kit *k)
{
	struct stat st;
	EQ(stat(k->path, &st), 0);
	return (uint64_t)st.st_size;
}

#define REFUSED(k, part)                              \
	do {                                          \
		struct err e_ = { 0 };                \
		OK(kit_open_error(k, &e_) < 0);       \
		STR_HAS(e_.text, part);               \
		STR_HAS(e_.text, (k)->path);          \
	} while (0)

/* --- VHD --- */

static void vhd_seal(uint8_t *p, size_t n, size_t at)
{
	uint32_t sum = 0;
	memset(p + at, 0, 4);
	for (size_t k = 0; k < n; k++)
		sum += p[k];
	sum = htobe32(~sum);
	memcpy(p + at, &sum, 4);
}

/* Changes a number in the footer (both copies) or in the dynamic header, and its checksum with it. */
static void vhd_patch(const struct kit *k, bool is_header, size_t at, uint64_t value, size_t n_bytes)
{
	uint8_t p[1024];
	size_t n = is_header ? 1024 : 512;
	get_bytes(k, is_header ? 512 : 0, p, n);
	for (size_t j = 0; j < n_bytes; j++)
		p[at + j] = (uint8_t)(value >> (8 * (n_bytes - 1 - j)));
	vhd_seal(p, n, is_header ? 36 : 64);
	put_bytes(k, is_header ? 512 : 0, p, n);
	if (!is_header)
		put_bytes(k, file_bytes(k) - 512, p, n);
}

TEST(a_damaged_vhd_is_refused)
{
	static const struct {
		bool is_header;
		size_t at, n;
		uint64_t value;
		const char *text;
	} damages[] = {
		{ false, 60, 4, 4, "differencing VHD" },
		{ false, 60, 4, 9, "type is 9" },
		{ false, 12, 4, 0x20000, "version" },
		{ false, 48, 8, 0, "size is 0" },
		{ false, 48, 8, 1000, "no positive multiple of 512" },
		{ false, 48, 8, 1ull << 62, "2040 GiB" },
		{ false, 48, 8, 1ull << 34, "table has" },
		{ false, 16, 8, 1ull << 40, "header does not lie in the file" },
		{ false, 16, 8, 100, "header does not lie in the file" },
		{ false, 16, 8, UINT64_MAX, "header does not lie in the file" },
		{ true, 32, 4, 0, "block size is 0" },
		{ true, 32, 4, 3 << 20, "block size" },
		{ true, 32, 4, 0x80000000, "block size" },
		{ true, 28, 4, 1, "table has 1 entries" },
		{ true, 16, 8, 1ull << 50, "table does not lie" },
		{ true, 16, 8, UINT64_MAX - 511, "table does not lie" },
		{ true, 16, 8, 512, "table does not lie" },
		{ true, 24, 4, 0, "version" },
		{ true, 0, 4, 0, "header is damaged" },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(damages); n++) {
		struct kit k;
		create(&k, BLOCK_TYPE_VHD, "subformat=dynamic,force_size=on");
		vhd_patch(&k, damages[n].is_header, damages[n].at, damages[n].value, damages[n].n);
		REFUSED(&k, damages[n].text);
	}
	struct kit k;
	create(&k, BLOCK_TYPE_VHD, "subformat=fixed,force_size=on");
	EQ(truncate(k.path, (off_t)(file_bytes(&k) - 512)), 0);
	REFUSED(&k, "no valid VHD footer");
	EQ(truncate(k.path, 100), 0);
	REFUSED(&k, "too short");
	kit_folder_done();
}

TEST(a_vhd_block_where_none_can_be_is_an_io_error)
{
	kit_need_qemu();
	kit_folder_new(0);
	static const uint32_t entries[] = { 0, 1, 3, 0x7fffffff, 0xfffffffe };
	for (size_t n = 0; n < ARRAY_LEN(entries); n++) {
		struct kit k;
		uint8_t buffer[1024] = { 0 };
		uint32_t entry = htobe32(entries[n]);
		create(&k, BLOCK_TYPE_VHD, "subformat=dynamic,force_size=on");
		put_bytes(&k, 1536 + 4, &entry, 4);
		kit_open(&k);
		EQ(kit_do(&k, BLOCK_READ, 2 * MB, buffer, 1024), -EIO);
		EQ(kit_do(&k, BLOCK_WRITE, 2 * MB, buffer, 1024), -EIO);
		STR_HAS(kit_log, "the image is damaged");
		EQ(kit_do(&k, BLOCK_READ, 2 * MB - 512, buffer, 1024), -EIO);
		EQ(kit_do(&k, BLOCK_WRITE, 0, buffer, 1024), 0);
		EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
		kit_close(&k);
		/* The damage is still there for those who can repair it. */
		uint32_t now;
		get_bytes(&k, 1536 + 4, &now, 4);
		EQ(now, entry);
	}
	kit_folder_done();
}

TEST(a_half_written_vhd_block_is_made_whole)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (int is_readonly = 1; is_readonly >= 0; is_readonly--) {
		struct kit k;
		struct kit_model m;
		uint32_t entry;
		uint8_t bitmap[512];
		create(&k, BLOCK_TYPE_VHD, "subformat=dynamic,force_size=on");
		kit_run("qemu-io -f vpc -c 'write -P 7 0 2M' %s", k.path);
		get_bytes(&k, 1536, &entry, 4);
		/* Sectors 0..7, 16..23 and so on were never written, whatever lies there. */
		for (size_t n = 0; n < sizeof bitmap; n++)
			bitmap[n] = n % 2 ? 0xff : 0;
		put_bytes(&k, be32toh(entry) * 512ull, bitmap, sizeof bitmap);
		kit_model_new(&m, 0, DISK_BYTES);
		for (size_t at = 0; at < 2 * MB; at += 8192)
			memset(m.bytes + at + 4096, 7, 4096);
		k.is_readonly = is_readonly;
		kit_open(&k);
		kit_compare(&k, &m);
		if (!is_readonly) {
			memset(m.bytes + 512, 9, 1024);
			EQ(kit_do(&k, BLOCK_WRITE, 512, m.bytes + 512, 1024), 0);
			kit_compare(&k, &m);
			EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
		}
		kit_close(&k);
		if (!is_readonly)
			kit_qemu_compare(&k, "vpc", &m, DISK_BYTES);
		free(m.bytes);
	}
	kit_folder_done();
}

/* --- VHDX --- */

static void vhdx_patch(const struct kit *k, uint64_t table, size_t n_table, uint64_t at, uint64_t value, size_t n_bytes)
{
	uint8_t *p = malloc(64 * 1024);
	for (unsigned copy = 0; copy < 2; copy++) {
		get_bytes(k, table + copy * 64 * 1024, p, n_table);
		put_le(p + at, n_bytes, value);
		put_le32(p + 4, vhdx_checksum(p, n_table));
		put_bytes(k, table + copy * 64 * 1024, p, n_table);
	}
	free(p);
}

TEST(a_damaged_vhdx_is_refused)
{
	kit_need_qemu();
	kit_folder_new(0);
	static const struct {
		uint64_t table, at, value;
		size_t n_table, n;
		const char *text;
	} damages[] = {
		{ 0x10000, HEADER_VERSION, 2, 4096, 2, "version is 2" },
		{ 0x10000, HEADER_LOG_OFFSET, 1ull << 50, 4096, 8, "log does not lie" },
		{ 0x10000, HEADER_LOG_OFFSET, 12345, 4096, 8, "log does not lie" },
		{ 0x10000, HEADER_LOG_LENGTH, 0, 4096, 4, "log does not lie" },
		{ 0x10000, HEADER_LOG_LENGTH, 0xfff00000, 4096, 4, "log does not lie" },
		{ 0x30000, 8, 5000, 65536, 4, "region tables are damaged" },
		{ 0x30000, 8, 0, 65536, 4, "lacks the BAT" },
		{ 0x30000, 16 + 16, 1ull << 60, 65536, 8, "region does not lie" },
		{ 0x30000, 16 + 24, 0, 65536, 4, "region does not lie" },
		{ 0x30000, 16, 99, 65536, 1, "lacks the BAT" },
	};
	for (size_t n = 0; n < ARRAY_LEN(damages); n++) {
		struct kit k;
		create(&k, BLOCK_TYPE_VHDX, "block_size=1M");
		vhdx_patch(&k, damages[n].table, damages[n].n_table, damages[n].at, damages[n].value, damages[n].n);
		REFUSED(&k, damages[n].text);
	}
	struct kit k;
	uint8_t bytes[64] = { 0 };
	create(&k, BLOCK_TYPE_VHDX, "block_size=1M");
	put_bytes(&k, 0x10000, bytes, 1);
	kit_open(&k); /* the other header will do */
	kit_close(&k);
	put_bytes(&k, 0x20000 + 20, "xxxx", 4);
	REFUSED(&k, "headers are damaged");
	kit_folder_done();
}

static struct vhdx_range find_region(const struct kit *k, uint8_t first_byte)
{
	uint8_t p[16 + 64];
	get_bytes(k, 0x30000, p, sizeof p);
	const uint8_t *e = p[16] == first_byte ? p + 16 : p + 48;
	EQ(e[0], first_byte);
	return (struct vhdx_range){ get_le64(e + 16), get_le32(e + 24) };
}

TEST(damaged_vhdx_metadata_are_refused)
{
	static const struct {
		unsigned item; /* its place in the table that QEMU writes */
		size_t at, n;
		uint64_t value;
		const char *text;
	} damages[] = {
		{ 0, 0, 4, 0, "block size is 0" },       { 0, 0, 4, 3 << 20, "block size" },
		{ 0, 0, 4, 1u << 29, "block size" },     { 0, 4, 4, 2, "differencing" },
		{ 1, 0, 8, 0, "disk size" },             { 1, 0, 8, UINT64_MAX, "disk size" },
		{ 1, 0, 8, 64ull << 40, "large a table" }, { 1, 0, 8, 10ull << 40, "BAT has room" },
		{ 1, 0, 8, 1000, "no multiple" },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(damages); n++) {
		struct kit k;
		uint8_t value[8], entry[32];
		create(&k, BLOCK_TYPE_VHDX, "block_size=1M");
		struct vhdx_range r = find_region(&k, 0x06);
		get_bytes(&k, r.offset_bytes + 32 * (1 + damages[n].item), entry, sizeof entry);
		put_le64(value, damages[n].value);
		put_bytes(&k, r.offset_bytes + get_le32(entry + 16) + damages[n].at, value, damages[n].n);
		REFUSED(&k, damages[n].text);
	}
	struct kit k;
	create(&k, BLOCK_TYPE_VHDX, "block_size=1M");
	struct vhdx_range r = find_region(&k, 0x06);
	put_bytes(&k, r.offset_bytes + 32 + 16, "\xff\xff\xff\xff", 4);
	REFUSED(&k, "does not lie in its region");
	put_bytes(&k, r.offset_bytes, "x", 1);
	REFUSED(&k, "metadata table is damaged");
	kit_folder_done();
}

TEST(a_vhdx_block_where_none_can_be_is_an_io_error)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	uint8_t buffer[512], entries[4 * 8];
	create(&k, BLOCK_TYPE_VHDX, "block_size=1M");
	struct vhdx_range bat = find_region(&k, 0x66);
	put_le64(entries, 6);                                /* headers */
	put_le64(entries + 8, bat.offset_bytes | 6);         /* the BAT itself */
	put_le64(entries + 16, (1ull << 40) | 6);            /* behind the end */
	put_le64(entries + 24, (file_bytes(&k) - MB) | 7);   /* partially present: only with a parent */
	put_bytes(&k, bat.offset_bytes, entries, sizeof entries);
	kit_open(&k);
	for (uint64_t n = 0; n < 4; n++) {
		EQ(kit_do(&k, BLOCK_READ, n * MB, buffer, 512), -EIO);
		EQ(kit_do(&k, BLOCK_WRITE, n * MB, buffer, 512), -EIO);
	}
	EQ(kit_do(&k, BLOCK_WRITE, 4 * MB, buffer, 512), 0);
	kit_close(&k);
	uint8_t after[4 * 8];
	get_bytes(&k, bat.offset_bytes, after, sizeof after);
	MEM_EQ(after, entries, sizeof after);
	kit_folder_done();
}

TEST(discarding_in_a_vhdx_frees_room)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct block_limits l;
	struct stat before, after;
	uint8_t *buffer = malloc(8 * MB);
	memset(buffer, 5, 8 * MB);
	create(&k, BLOCK_TYPE_VHDX, "block_size=1M");
	kit_open(&k);
	block_image_limits(k.image, &l);
	OK(l.can_discard);
	EQ(kit_do(&k, BLOCK_WRITE, 0, buffer, 8 * MB), 0);
	EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
	EQ(stat(k.path, &before), 0);
	EQ(kit_do(&k, BLOCK_DISCARD, MB / 2, NULL, 14 * MB), 0);
	EQ(stat(k.path, &after), 0);
	OK(before.st_blocks - after.st_blocks >= (long)(7 * MB / 512));
	EQ(kit_do(&k, BLOCK_READ, 0, buffer, 8 * MB), 0);
	EQ(buffer[MB / 2 - 1], 5);
	EQ(buffer[MB / 2], 0);
	kit_close(&k);
	kit_run("qemu-img check -f vhdx %s", k.path);
	free(buffer);
	kit_folder_done();
}

/* --- VHDX: logs made here --- */

struct log_maker {
	struct kit *k;
	uint64_t log_offset, log_bytes, data_offset; /* where a payload block is */
	uint8_t guid[16];
	uint64_t sequence, zero_bytes;
};

static void maker_new(struct log_maker *m, struct kit *k)
{
	uint8_t h[4096], bat[8];
	create(k, BLOCK_TYPE_VHDX, "block_size=1M");
	kit_run("qemu-io -f vhdx -c 'write -P 1 0 1M' %s", k->path);
	*m = (struct log_maker){ .k = k, .guid = { 1, 2, 3 }, .sequence = 7, .zero_bytes = 8192 };
	get_bytes(k, 0x10000, h, sizeof h);
	m->log_offset = get_le64(h + HEADER_LOG_OFFSET);
	m->log_bytes = get_le32(h + HEADER_LOG_LENGTH);
	get_bytes(k, find_region(k, 0x66).offset_bytes, bat, sizeof bat);
	m->data_offset = get_le64(bat) & ~(MB - 1);
}

/* Both headers name the log. */
static void maker_name_log(const struct log_maker *m)
{
	for (unsigned n = 0; n < 16; n += 8)
		vhdx_patch(m->k, 0x10000, 4096, HEADER_LOG_GUID + n, get_le64(m->guid + n), 8);
}

/* An entry at `at`: one sector of `byte` to target, and zeroes to zero_target when that is not 0. */
static uint64_t maker_entry(struct log_maker *m, uint64_t at, uint64_t tail, uint8_t byte, uint64_t target,
                            uint64_t zero_target, uint64_t flushed, uint64_t last)
{
	uint8_t p[8192];
	memset(p, 0, sizeof p);
	memcpy(p, "loge", 4);
	put_le32(p + 8, sizeof p);
	put_le32(p + 12, (uint32_t)tail);
	put_le64(p + 16, m->sequence);
	put_le32(p + 24, zero_target ? 2 : 1);
	memcpy(p + 32, m->guid, 16);
	put_le64(p + 48, flushed);
	put_le64(p + 56, last);
	memcpy(p + 64, "desc", 4);
	memset(p + 68, byte, 12);
	put_le64(p + 80, target);
	put_le64(p + 88, m->sequence);
	if (zero_target) {
		memcpy(p + 96, "zero", 4);
		put_le64(p + 104, m->zero_bytes);
		put_le64(p + 112, zero_target);
		put_le64(p + 120, m->sequence);
	}
	memcpy(p + 4096, "data", 4);
	put_le32(p + 4100, (uint32_t)(m->sequence >> 32));
	memset(p + 4104, byte, 4084);
	put_le32(p + 8188, (uint32_t)m->sequence);
	put_le32(p + 4, vhdx_checksum(p, sizeof p));
	for (unsigned n = 0; n < 2; n++)
		put_bytes(m->k, m->log_offset + (at + n * 4096ull) % m->log_bytes, p + n * 4096ul, 4096);
	m->sequence++;
	return (at + sizeof p) % m->log_bytes;
}

static void check_byte(struct kit *k, uint64_t offset, uint8_t byte)
{
	uint8_t sector[4096], expected[4096];
	memset(expected, byte, sizeof expected);
	EQ(kit_do(k, BLOCK_READ, offset, sector, sizeof sector), 0);
	MEM_EQ(sector, expected, sizeof sector);
}

TEST(a_vhdx_log_is_replayed)
{
	kit_need_qemu();
	kit_folder_new(0);
	/* At the front of the ring, and around its end. */
	for (unsigned turn = 0; turn < 2; turn++) {
		struct kit k;
		struct log_maker m;
		maker_new(&m, &k);
		uint64_t size = file_bytes(&k), start = turn ? m.log_bytes - 4096 : 0, at = start;
		at = maker_entry(&m, at, start, 2, m.data_offset, 0, size, size);
		at = maker_entry(&m, at, start, 3, m.data_offset + 4096, m.data_offset + 16384, size, size + 2 * MB);
		(void)maker_entry(&m, at, start, 4, m.data_offset + 8192, 0, size, size + 2 * MB);
		maker_name_log(&m);
		k.is_readonly = true;
		REFUSED(&k, "open it for writing first");
		k.is_readonly = false;
		kit_run("cp %s %s.copy", k.path, k.path);

		kit_open(&k);
		STR_HAS(kit_log, "log was replayed");
		check_byte(&k, 0, 2);
		check_byte(&k, 4096, 3);
		check_byte(&k, 8192, 4);
		check_byte(&k, 12288, 1);
		check_byte(&k, 16384, 0);
		check_byte(&k, 20480, 0);
		check_byte(&k, 24576, 1);
		kit_close(&k);
		EQ(file_bytes(&k), size + 2 * MB);
		k.is_readonly = true;
		kit_open(&k); /* it is empty now */
		kit_close(&k);
		if (turn)
			continue; /* QEMU does not find an entry that begins at the end of the ring */
		kit_run("qemu-img check -r all -f vhdx %s.copy", k.path);
		kit_run("qemu-img compare -f vhdx -F vhdx %s %s.copy", k.path, k.path);
	}
	kit_folder_done();
}

TEST(only_the_newest_whole_part_of_a_vhdx_log_is_replayed)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct log_maker m;
	maker_new(&m, &k);
	uint64_t size = file_bytes(&k);
	/* A newer sequence further on wins over the one in front, */
	m.sequence = 100;
	(void)maker_entry(&m, 0, 0, 2, m.data_offset, 0, size, size);
	m.sequence = 200;
	uint64_t at = maker_entry(&m, 65536, 65536, 3, m.data_offset + 4096, 0, size, size);
	/* an entry before the tail does not matter any more, */
	(void)maker_entry(&m, at, at, 4, m.data_offset + 8192, 0, size, size);
	/* and one that was torn never was. */
	uint64_t torn = at + 8192;
	(void)maker_entry(&m, torn, at, 5, m.data_offset + 12288, 0, size, size);
	put_bytes(&k, m.log_offset + torn + 5000, "torn", 4);
	maker_name_log(&m);
	kit_open(&k);
	check_byte(&k, 0, 1);
	check_byte(&k, 4096, 1);
	check_byte(&k, 8192, 4);
	check_byte(&k, 12288, 1);
	kit_close(&k);
	kit_folder_done();
}

TEST(a_hostile_vhdx_log_changes_nothing)
{
	kit_need_qemu();
	kit_folder_new(0);
	static const char *const texts[] = { "no valid entry", "no valid entry", "truncated",          "must not",
		                             "must not",       "must not",       "must not",           "impossible size",
		                             "no valid entry", "expensive" };
	for (unsigned n = 0; n < ARRAY_LEN(texts); n++) {
		struct kit k;
		struct log_maker m;
		maker_new(&m, &k);
		uint64_t size = file_bytes(&k);
		if (n == 0)
			put_bytes(&k, m.log_offset, "loge", 4);
		else if (n == 1) /* its tail is no entry */
			(void)maker_entry(&m, 0, 65536, 2, m.data_offset, 0, size, size);
		else if (n == 2)
			(void)maker_entry(&m, 0, 0, 2, m.data_offset, 0, size + 1, size + 1);
		else if (n == 3) /* a header */
			(void)maker_entry(&m, 0, 0, 2, 0x10000, 0, size, size);
		else if (n == 4) /* the log */
			(void)maker_entry(&m, 0, 0, 2, m.log_offset + 4096, 0, size, size);
		else if (n == 5)
			(void)maker_entry(&m, 0, 0, 2, m.data_offset, UINT64_MAX - 4095, size, size);
		else if (n == 6) /* not where a sector begins */
			(void)maker_entry(&m, 0, 0, 2, m.data_offset + 512, 0, size, size);
		else if (n == 7)
			(void)maker_entry(&m, 0, 0, 2, m.data_offset, 0, size, UINT64_MAX);
		else if (n == 8) { /* another log's */
			(void)maker_entry(&m, 0, 0, 2, m.data_offset, 0, size, size);
			m.guid[0]++;
		} else { /* each of its sectors claims to begin an entry of all of them */
			uint8_t p[4096] = "loge";
			put_le32(p + 8, (uint32_t)m.log_bytes);
			put_le64(p + 16, 1);
			memcpy(p + 32, m.guid, 16);
			for (uint64_t at = 0; at < m.log_bytes; at += 4096)
				put_bytes(&k, m.log_offset + at, p, sizeof p);
		}
		maker_name_log(&m);
		kit_run("cp %s %s.before", k.path, k.path);
		REFUSED(&k, texts[n]);
		kit_run("cmp %s %s.before", k.path, k.path);
	}
	kit_folder_done();
}

TEST(a_vhdx_log_that_zeroes_without_end_is_refused)
{
	kit_need_qemu();
	kit_folder_new(0);
	for (unsigned turn = 0; turn < 2; turn++) {
		struct kit k;
		struct log_maker m;
		struct stat before, after;
		maker_new(&m, &k);
		uint64_t size = file_bytes(&k) + 1000 * MB;
		EQ(truncate(k.path, (off_t)size), 0);
		/* Two entries over the same part of the file: what is behind its end counts for nothing. */
		m.zero_bytes = (turn ? 600 : 100) * MB;
		uint64_t at = maker_entry(&m, 0, 0, 2, m.data_offset, m.data_offset + MB, size, size);
		(void)maker_entry(&m, at, 0, 2, m.data_offset, m.data_offset + MB, size, size);
		maker_name_log(&m);
		EQ(stat(k.path, &before), 0);
		if (turn) {
			REFUSED(&k, "made to be expensive");
		} else {
			kit_open(&k);
			check_byte(&k, 0, 2);
			kit_close(&k);
		}
		EQ(stat(k.path, &after), 0);
		OK(after.st_blocks <= before.st_blocks + 8192); /* a log takes no room for zeroes */
	}
	kit_folder_done();
}

/* --- VMDK --- */

static void put_text(const struct kit *k, const char *text)
{
	EQ(truncate(k->path, 0), 0);
	put_bytes(k, 0, text, strlen(text));
}

#define VMDK_TOP "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"

TEST(a_damaged_vmdk_descriptor_is_refused)
{
	static const struct {
		const char *text, *error;
	} damages[] = {
		{ "hello, this is no image", "no VMDK image" },
		{ VMDK_TOP, "lacks" },
		{ VMDK_TOP "RW 100 FLAT \"../secret\" 0\n", "not in the image's own folder" },
		{ VMDK_TOP "RW 100 FLAT \"/etc/passwd\" 0\n", "not in the image's own folder" },
		{ VMDK_TOP "RW 100 FLAT \"..\" 0\n", "not in the image's own folder" },
		{ VMDK_TOP "RW 100 FLAT \"\" 0\n", "without a valid file name" },
		{ VMDK_TOP "RW 100 FLAT \"a\n", "without a valid file name" },
		{ VMDK_TOP "RW 100 FLAT\n", "without a valid file name" },
		{ VMDK_TOP "RW 100 FLAT \"no-such-file\" 0\n", "cannot find" },
		{ VMDK_TOP "RW 100 FLAT \"link\" 0\n", "no regular file" },
		{ VMDK_TOP "RW 100 FLAT \"data\" 1\n", "less than its extent" },
		{ VMDK_TOP "RW 101 FLAT \"data\" 0\n", "less than its extent" },
		{ VMDK_TOP "RW 100 FLAT \"data\" 18446744073709551615\n", "invalid offset" },
		{ VMDK_TOP "RW 100 FLAT \"data\" 99999999999999999999\n", "invalid offset" },
		{ VMDK_TOP "RW 0 FLAT \"data\" 0\n", "invalid number of sectors" },
		{ VMDK_TOP "RW -1 FLAT \"data\" 0\n", "invalid number of sectors" },
		{ VMDK_TOP "RW 36893488147419103232 ZERO\n", "invalid number of sectors" },
		{ VMDK_TOP "RW 137438953472 ZERO\nRW 1 ZERO\n", "larger than 64 TiB" },
		{ VMDK_TOP "RW 100 SPARSE \"data\"\n", "no VMDK header" },
		{ VMDK_TOP "RW 100 VMFSSPARSE \"data\"\n", "not supported yet" },
		{ VMDK_TOP "NOACCESS 100 FLAT \"data\" 0\n", "not supported yet" },
		{ VMDK_TOP "RW 50 FLAT \"data\" 0\nRW 50 FLAT \"data\" 50\n", "in use" },
		{ VMDK_TOP "parentFileNameHint=\"x\"\nRW 100 FLAT \"data\" 0\n", "has a parent" },
		{ "# Disk DescriptorFile\nversion=1\nparentCID=1\n", "has a parent" },
		{ "# Disk DescriptorFile\nversion=9\n", "version '9'" },
		{ "# Disk DescriptorFile\nversion=1\ncreateType=\"fullDevice\"\n", "'fullDevice'" },
	};
	struct kit k = { .type = BLOCK_TYPE_VMDK };
	kit_folder_new(0);
	(void)snprintf(k.path, sizeof k.path, "%s/disk.vmdk", kit_folder);
	kit_run("cd %s && truncate -s 51200 data && ln -s /etc/passwd link && touch disk.vmdk", kit_folder);
	for (size_t n = 0; n < ARRAY_LEN(damages); n++) {
		put_text(&k, damages[n].text);
		REFUSED(&k, damages[n].error);
	}
	kit_folder_done();
}

TEST(a_vmdk_opens_other_files_only_when_that_is_allowed)
{
	struct kit k = { .type = BLOCK_TYPE_VMDK };
	struct err e;
	struct block_image *i = NULL;
	kit_folder_new(0);
	(void)snprintf(k.path, sizeof k.path, "%s/disk.vmdk", kit_folder);
	kit_run("cd %s && truncate -s 51200 data && touch disk.vmdk", kit_folder);
	put_text(&k, VMDK_TOP "RW 60 FLAT \"data\" 0\nRW 8 ZERO\nRDONLY 40 FLAT \"more\" 0\n");
	kit_run("cd %s && truncate -s 20480 more", kit_folder);
	struct block_params p = kit_params(&k);
	p.may_use_backing_files = false;
	EQ(block_open(&p, &i, &e), -BLOCK_NEEDS_OTHERS);
	STR_HAS(e.text, "backing_files=on");

	uint8_t buffer[8 * 512] = { 1 };
	kit_open(&k);
	EQ(kit_do(&k, BLOCK_WRITE, 0, buffer, sizeof buffer), 0);
	EQ(kit_do(&k, BLOCK_WRITE, 60 * 512, buffer, sizeof buffer), -EIO);
	EQ(kit_do(&k, BLOCK_WRITE_ZEROES, 60 * 512, buffer, sizeof buffer), 0);
	EQ(kit_do(&k, BLOCK_WRITE, 68 * 512, buffer, sizeof buffer), -EROFS);
	EQ(kit_do(&k, BLOCK_READ, 60 * 512, buffer, sizeof buffer), 0);
	EQ(buffer[0], 0);
	EQ(kit_do(&k, BLOCK_READ, 0, buffer, 512), 0);
	EQ(buffer[0], 1);
	EQ(kit_do(&k, BLOCK_FLUSH, 0, NULL, 0), 0);
	kit_close(&k);
	char text[512] = "";
	get_bytes(&k, 0, text, 80);
	STR_HAS(text, "CID=");
	OK(!strstr(text, "12345678")); /* it is another content now */
	kit_folder_done();
}

TEST(a_damaged_sparse_vmdk_is_refused)
{
	static const struct {
		size_t at, n;
		uint64_t value;
		const char *text;
	} damages[] = {
		{ 4, 4, 9, "version 9" },
		{ 12, 8, 0, "capacity" },
		{ 12, 8, UINT64_MAX, "capacity" },
		{ 12, 8, 100, "the descriptor says" },
		{ 12, 8, 1ull << 36, "too large a table" },
		{ 12, 8, 1ull << 31, "grain directory" },
		{ 20, 8, 0, "grains" },
		{ 20, 8, 100, "power of two" },
		{ 20, 8, 1ull << 40, "power of two" },
		{ 28, 8, 0, "one extent of a VMDK image" },
		{ 28, 8, 1ull << 60, "descriptor of" },
		{ 36, 8, 1ull << 60, "descriptor of" },
		{ 44, 4, 0, "512 are needed" },
		{ 44, 4, 513, "512 are needed" },
		{ 48, 8, 1ull << 55, "grain directory" },
		{ 56, 8, 0, "grain directory" },
		{ 56, 8, 1ull << 60, "grain directory" },
		{ 64, 8, 1ull << 60, "grains of" },
		{ 75, 1, '\n', "line ends" },
		{ 8, 4, 3 | 1u << 16, "compression" },
	};
	kit_need_qemu();
	kit_folder_new(0);
	for (size_t n = 0; n < ARRAY_LEN(damages); n++) {
		struct kit k;
		uint8_t value[8];
		create(&k, BLOCK_TYPE_VMDK, "subformat=monolithicSparse");
		put_le64(value, damages[n].value);
		put_bytes(&k, damages[n].at, value, damages[n].n);
		REFUSED(&k, damages[n].text);
	}
	kit_folder_done();
}

TEST(a_vmdk_without_grain_tables_gets_them)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k;
	struct kit_model m;
	uint8_t h[512], none[4] = { 0 }, grain[4] = { 0xff, 0xff, 0xff, 0x7f };
	create(&k, BLOCK_TYPE_VMDK, "subformat=monolithicSparse");
	get_bytes(&k, 0, h, sizeof h);
	put_bytes(&k, get_le64(h + 48) * 512, none, 4);
	put_bytes(&k, get_le64(h + 56) * 512, none, 4);
	kit_model_new(&m, 0, DISK_BYTES);
	kit_open(&k);
	kit_compare(&k, &m);
	kit_work(&k, &m, 48);
	get_bytes(&k, 0, h, sizeof h);
	EQ(h[72], 1); /* in use */
	kit_close(&k);
	get_bytes(&k, 0, h, sizeof h);
	EQ(h[72], 0);
	kit_open(&k);
	kit_compare(&k, &m);
	kit_close(&k);
	kit_run("qemu-img check -f vmdk %s", k.path);
	kit_qemu_compare(&k, "vmdk", &m, DISK_BYTES);
	free(m.bytes);

	/* A table, and a grain, behind the end of the file. */
	uint8_t buffer[512];
	uint32_t gt;
	create(&k, BLOCK_TYPE_VMDK, "subformat=monolithicSparse");
	get_bytes(&k, get_le64(h + 56) * 512, &gt, 4);
	put_bytes(&k, le32toh(gt) * 512ull, grain, 4);
	kit_open(&k);
	EQ(kit_do(&k, BLOCK_READ, 0, buffer, 512), -EIO);
	EQ(kit_do(&k, BLOCK_READ, 65536, buffer, 512), 0);
	kit_close(&k);
	put_bytes(&k, get_le64(h + 56) * 512, grain, 4);
	kit_open(&k);
	EQ(kit_do(&k, BLOCK_READ, 65536, buffer, 512), -EIO);
	EQ(kit_do(&k, BLOCK_WRITE, 65536, buffer, 512), -EIO);
	kit_close(&k);
	kit_folder_done();
}

TEST(a_stream_optimized_vmdk_is_read)
{
	kit_need_qemu();
	kit_folder_new(0);
	struct kit k = { .type = BLOCK_TYPE_VMDK }, raw = { .type = BLOCK_TYPE_RAW };
	struct kit_model m;
	kit_model_new(&m, 0, DISK_BYTES);
	(void)snprintf(raw.path, sizeof raw.path, "%s/raw", kit_folder);
	(void)snprintf(k.path, sizeof k.path, "%s/stream.vmdk", kit_folder);
	kit_run("truncate -s %llu %s", DISK_BYTES, raw.path);
	kit_open(&raw);
	kit_work(&raw, &m, 100);
	kit_close(&raw);
	kit_run("qemu-img convert -O vmdk -o subformat=streamOptimized %s %s", raw.path, k.path);
	REFUSED(&k, "readonly=on is needed");
	k.is_readonly = true;
	kit_open(&k);
	kit_compare(&k, &m);
	kit_close(&k);
	/* Grains of which each sector read would cost 4 MiB. */
	uint64_t grain = htole64(8192);
	kit_run("cp %s %s.good", k.path, k.path);
	put_bytes(&k, 20, &grain, sizeof grain);
	put_bytes(&k, file_bytes(&k) - 1024 + 20, &grain, sizeof grain); /* the footer */
	REFUSED(&k, "more than 2 MiB");
	kit_run("mv %s.good %s", k.path, k.path);
	/* Compressed bytes that are none. */
	kit_run("cp %s %s.bad", k.path, k.path);
	(void)snprintf(k.path, sizeof k.path, "%s/stream.vmdk.bad", kit_folder);
	uint8_t junk[4096], buffer[65536];
	memset(junk, 0xa5, sizeof junk);
	for (uint64_t at = 70000; at + sizeof junk < file_bytes(&k) - 65536; at += 20000)
		put_bytes(&k, at, junk, sizeof junk);
	kit_open(&k);
	unsigned n_failed = 0;
	for (uint64_t at = 0; at < DISK_BYTES; at += sizeof buffer)
		n_failed += kit_do(&k, BLOCK_READ, at, buffer, sizeof buffer) == -EIO;
	OK(n_failed > 0);
	kit_close(&k);
	free(m.bytes);
	kit_folder_done();
}

/* --- any of them --- */

/* 128 GiB in grains of 4 KiB. */
static void make_vmdk_with_large_tables(const struct kit *k)
{
	static const char text[] = VMDK_TOP "RW 268435456 SPARSE \"disk\"\n";
	uint8_t h[512] = "KDMV";
	put_le32(h + 4, 1);
	put_le64(h + 12, 1 << 28);
	put_le64(h + 20, 8);
	put_le64(h + 28, 1);
	put_le64(h + 36, 8);
	put_le32(h + 44, 512);
	put_le64(h + 56, 16);
	put_le64(h + 64, 2048);
	kit_run("truncate -s 2M %s", k->path);
	put_bytes(k, 0, h, sizeof h);
	put_bytes(k, 512, text, sizeof text - 1);
}

TEST(an_image_and_its_base_share_one_budget_of_memory)
{
	struct kit k = { .type = BLOCK_TYPE_VMDK };
	struct err e;
	kit_folder_new(0);
	(void)snprintf(k.path, sizeof k.path, "%s/disk.vmdk", kit_folder);
	make_vmdk_with_large_tables(&k);
	kit_open(&k);
	uint64_t n = k.image->n_charged_bytes;
	OK(n >= (1 << 25) * 4ull && n < BLOCK_MAX_TREE_BYTES); /* its entries, should all be loaded */
	struct block_image base = { .top = k.image };
	EQ(block_charge(&base, BLOCK_MAX_TREE_BYTES - n, &e), 0);
	EQ(block_charge(k.image, 1, &e), -EFBIG);
	STR_HAS(e.text, "its tables");
	EQ(block_charge(k.image, UINT64_MAX, &e), -EFBIG);
	kit_close(&k);
	kit_folder_done();
}

TEST(what_is_no_file_is_not_even_opened)
{
	struct kit k = { .type = BLOCK_TYPE_RAW };
	char event[512];
	kit_folder_new(0);
	(void)snprintf(k.path, sizeof k.path, "%s/pipe", kit_folder);
	EQ(mkfifo(k.path, 0600), 0);
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	OK(inotify_add_watch(fd, k.path, IN_OPEN) >= 0);
	REFUSED(&k, "neither a regular file nor a block device");
	k.type = BLOCK_TYPE_AUTO;
	REFUSED(&k, "neither a regular file nor a block device");
	EQ(read(fd, event, sizeof event), -1);
	EQ(errno, EAGAIN);
	/* It would have been seen. */
	close(open(k.path, O_RDONLY | O_NONBLOCK));
	OK(read(fd, event, sizeof event) > 0);
	close(fd);
	kit_folder_done();
}

TEST(a_raw_disk_found_by_its_bytes_cannot_become_an_image)
{
	static const struct {
		const char *bytes;
		size_t at, n;
		bool is_allowed;
	} sectors[] = {
#define BYTES(at, s) (s), (at), sizeof(s) - 1
		{ BYTES(0, "QFI\xfb\0\0\0\1"), false }, /* qcow, the first */
		{ BYTES(0, "QFI\xfb\0\0\0\2"), false },
		{ BYTES(0, "QED\0"), false },
		{ BYTES(0, "KDMV"), false },
		{ BYTES(0, "conectix"), false },
		{ BYTES(0, "vhdxfile"), false },
		{ BYTES(0, "# Disk DescriptorFile\nanything"), false },
		{ BYTES(0, "# disk descriptorfile\nanything"), false },
		{ BYTES(0, "# a comment\n#\n   \nversion=1\nparentCID=1\n"), false },
		{ BYTES(0, "  \r\nversion=3\r\n"), false },
		{ BYTES(0, "version=1\n"), false },
		{ BYTES(0, "WithoutFreeSpace\2"), false },
		{ BYTES(0, "WithouFreSpacExt\2"), false },
		{ BYTES(64, "\x7f\x10\xda\xbe"), false },
		{ BYTES(0, "Bochs Virtual HD Image"), false },
		{ BYTES(0, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0"), false },
		{ BYTES(0, "LUKS\xba\xbe\0\1"), false },
		{ BYTES(0, "LUKS\xba\xbe\0\2"), true },
		{ BYTES(510, "\x55\xaa"), true },
		{ BYTES(0, "#!/bin/sh\necho version=1\n"), true },
		{ BYTES(0, "\n\nversions"), true },
		{ BYTES(0, ""), true },
	};
	struct kit k = { .type = BLOCK_TYPE_AUTO };
	kit_folder_new(0);
	(void)snprintf(k.path, sizeof k.path, "%s/disk", kit_folder);
	kit_run("truncate -s 1M %s", k.path);
	kit_open(&k);
	for (size_t n = 0; n < ARRAY_LEN(sectors); n++) {
		uint8_t sector[1024] = { 0 }, now[1024];
		memcpy(sector + sectors[n].at, sectors[n].bytes, sectors[n].n);
		int rc = kit_do(&k, BLOCK_WRITE, 0, sector, sizeof sector);
		if (rc != (sectors[n].is_allowed ? 0 : -EPERM))
			test_fail(__FILE__, __LINE__, "%zu: %d", n, rc);
		EQ(kit_do(&k, BLOCK_READ, 0, now, sizeof now), 0);
		EQ(memcmp(now, sector, sizeof now) == 0, sectors[n].is_allowed);
	}
	kit_close(&k);
	kit_folder_done();
}

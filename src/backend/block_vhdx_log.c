// SPDX-License-Identifier: Apache-2.0
/* VHDX: headers and the log ([MS-VHDX] 2.2.2 and 2.3).
 *
 * Theory of operation. There are two headers; the one with the higher sequence number counts, and the other one is
 * what an update overwrites, so one is always whole. The log is a ring of 4 KiB sectors. An entry is a header with
 * descriptors, and the sectors that go to the places that these name. Entries whose sequence numbers follow each other
 * form a sequence; the last one says where the sequence begins that matters. Reading: the valid sequence whose last
 * entry is the newest is carried out. All of a hostile log is checked before its first byte is: nothing outside of the
 * file, nothing over headers or log, and a bound on the work.
 *
 * Writing. Only the BAT is ever logged, and only by a flush: 1. make data and the file's size durable, and with them
 * what the flush before has written to the BAT; 2. append one entry that says that it is all that matters, and make it
 * durable; 3. write the pages to the BAT. After 2. the flush cannot be lost. The header names the log only after its
 * first entry is there, so a log that is named is never empty. */
#include "backend/block_vhdx.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define ENTRY_HEADER_BYTES 64u
#define DESCRIPTOR_BYTES 32u
#define DATA_BYTES 4084u /* of a data sector's 4096 */
/* As many as one sector has room for beside the entry's header. */
#define MAX_LOGGED_PAGES ((VHDX_SECTOR_BYTES - ENTRY_HEADER_BYTES) / DESCRIPTOR_BYTES)
/* What descriptors of zeroes may be about, all together: BAT and metadata, in the logs of those who write any. Few bytes
 * of a log may ask for as much as the file is long, again and again. */
#define MAX_ZEROED_BYTES (1ull << 30)
/* A log in which every sector claims to begin an entry as long as the log would cost the square of its length. */
#define MAX_HASHED_BYTES(log_bytes) (4 * (log_bytes) + (64ull << 20))

enum {
	ENTRY_CHECKSUM = 4, ENTRY_LENGTH = 8, ENTRY_TAIL = 12, ENTRY_SEQUENCE = 16, ENTRY_N_DESCRIPTORS = 24,
	ENTRY_LOG_GUID = 32, ENTRY_FLUSHED_OFFSET = 48, ENTRY_LAST_OFFSET = 56,
};

/* A descriptor. Of data: what a data sector replaces at its ends; of zeroes: how many. */
enum { DESC_TRAILING = 4, DESC_LEADING = 8, DESC_ZERO_LENGTH = 8, DESC_OFFSET = 16, DESC_SEQUENCE = 24 };
enum { SECTOR_SEQUENCE_HIGH = 4, SECTOR_DATA = 8, SECTOR_SEQUENCE_LOW = 4092 };

/* --- checksums and GUIDs --- */

/* Four bits at a time: 16 numbers instead of 256, and fast enough for a log. The polynomial of CRC-32C, reflected. */
uint32_t vhdx_crc32c(uint32_t crc, const void *bytes, size_t n_bytes)
{
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
		0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	const uint8_t *p = bytes;
	crc = ~crc;
	for (size_t k = 0; k < n_bytes; k++) {
		crc ^= p[k];
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}

uint32_t vhdx_checksum(const uint8_t *bytes, size_t n_bytes)
{
	static const uint8_t none[4];
	uint32_t crc = vhdx_crc32c(0, bytes, 4);
	crc = vhdx_crc32c(crc, none, sizeof none);
	return vhdx_crc32c(crc, bytes + 8, n_bytes - 8);
}

bool vhdx_is_guid_zero(const uint8_t *guid)
{
	static const uint8_t zero[VHDX_GUID_BYTES];
	return memcmp(guid, zero, sizeof zero) == 0;
}

int vhdx_new_guid(uint8_t *ret_guid)
{
	uint8_t guid[VHDX_GUID_BYTES];
	if (getrandom(guid, sizeof guid, 0) != (ssize_t)sizeof guid)
		return -EIO;
	guid[7] = (uint8_t)((guid[7] & 0x0f) | 0x40); /* RFC 4122: random */
	guid[8] = (uint8_t)((guid[8] & 0x3f) | 0x80);
	memcpy(ret_guid, guid, sizeof guid);
	return 0;
}

/* --- headers --- */

static bool is_header(const uint8_t *h)
{
	return memcmp(h, "head", 4) == 0 && get_le32(h + 4) == vhdx_checksum(h, VHDX_HEADER_BYTES);
}

static int check_header(struct vhdx *v, struct err *e)
{
	const uint8_t *h = v->header;
	if (get_le16(h + HEADER_VERSION) != 1)
		return err_set(e, EINVAL, "its VHDX version is %u, which is not known", get_le16(h + HEADER_VERSION));
	v->log = (struct vhdx_range){ get_le64(h + HEADER_LOG_OFFSET), get_le32(h + HEADER_LOG_LENGTH) };
	if (v->log.offset_bytes % VHDX_MB || v->log.n_bytes % VHDX_MB || v->log.offset_bytes < VHDX_MB ||
	    v->log.n_bytes == 0 || v->log.offset_bytes > v->end_bytes ||
	    v->log.n_bytes > v->end_bytes - v->log.offset_bytes)
		return err_set(e, EINVAL, "its VHDX log does not lie in the file");
	if (v->log.n_bytes > VHDX_MAX_LOG_BYTES)
		return err_set(e, EFBIG, "its VHDX log is larger than 64 MiB");
	if (!vhdx_is_guid_zero(h + HEADER_LOG_GUID) && get_le16(h + HEADER_LOG_VERSION) != 0)
		return err_set(e, EINVAL, "its VHDX log has version %u, which is not known",
		               get_le16(h + HEADER_LOG_VERSION));
	return 0;
}

int vhdx_read_headers(struct vhdx *v, struct err *e)
{
	uint8_t h[2][VHDX_HEADER_BYTES];
	bool is_valid[2];
	for (unsigned k = 0; k < 2; k++) {
		int rc = block_file_read(v->disk.image, v->file, h[k], sizeof h[k], VHDX_HEADER_OFFSET(k));
		if (rc < 0)
			return err_set_errno(e, -rc, "its VHDX headers cannot be read");
		is_valid[k] = is_header(h[k]);
	}
	if (!is_valid[0] && !is_valid[1])
		return err_set(e, EINVAL, "both of its VHDX headers are damaged");
	v->current = is_valid[0] ? 0 : 1;
	if (is_valid[0] && is_valid[1]) {
		uint64_t first = get_le64(h[0] + HEADER_SEQUENCE), second = get_le64(h[1] + HEADER_SEQUENCE);
		/* Some programs write one header twice. */
		if (first == second && memcmp(h[0], h[1], VHDX_HEADER_BYTES) != 0)
			return err_set(e, EINVAL, "its VHDX headers differ and are both current");
		v->current = second > first ? 1 : 0;
	}
	memcpy(v->header, h[v->current], VHDX_HEADER_BYTES);
	return check_header(v, e);
}

int vhdx_write_header(struct vhdx *v)
{
	for (unsigned k = 0; k < 2; k++) {
		put_le64(v->header + HEADER_SEQUENCE, get_le64(v->header + HEADER_SEQUENCE) + 1);
		put_le32(v->header + 4, vhdx_checksum(v->header, VHDX_HEADER_BYTES));
		unsigned other = 1 - v->current;
		int rc = block_file_write(v->disk.image, v->file, v->header, VHDX_HEADER_BYTES,
		                          VHDX_HEADER_OFFSET(other));
		if (rc >= 0)
			rc = block_file_sync(v->disk.image, v->file);
		if (rc < 0)
			return rc;
		v->current = other;
	}
	return 0;
}

/* --- reading the log --- */

struct ring {
	const struct vhdx *v;
	uint8_t *bytes;   /* the log, twice: an entry that wraps around is in one piece */
	uint64_t n_bytes; /* once */
	uint64_t n_hashed_bytes, n_hashed_max_bytes;
	uint64_t n_zeroed_bytes; /* by the entries that were checked */
};

struct sequence {
	uint64_t first_bytes; /* where it begins to matter: the tail */
	uint64_t head_bytes;  /* the last entry */
	uint64_t head_sequence;
};

/* What the numbers in front say; no more. */
static bool is_entry_plausible(const struct ring *g, const uint8_t *p)
{
	uint64_t n = get_le32(p + ENTRY_LENGTH);
	return memcmp(p, "loge", 4) == 0 &&
	       memcmp(p + ENTRY_LOG_GUID, g->v->header + HEADER_LOG_GUID, VHDX_GUID_BYTES) == 0 &&
	       n >= VHDX_SECTOR_BYTES && n % VHDX_SECTOR_BYTES == 0 && n <= g->n_bytes &&
	       get_le32(p + ENTRY_TAIL) % VHDX_SECTOR_BYTES == 0 && get_le32(p + ENTRY_TAIL) < g->n_bytes &&
	       get_le64(p + ENTRY_SEQUENCE) != 0;
}

static uint64_t n_header_sectors(uint32_t n_descriptors)
{
	return (ENTRY_HEADER_BYTES + (uint64_t)n_descriptors * DESCRIPTOR_BYTES + VHDX_SECTOR_BYTES - 1) /
	       VHDX_SECTOR_BYTES;
}

/* That the descriptors and their sectors belong to this entry, and that all of them are in it. */
static bool has_parts(const uint8_t *p)
{
	uint64_t sequence = get_le64(p + ENTRY_SEQUENCE), n_sectors = get_le32(p + ENTRY_LENGTH) / VHDX_SECTOR_BYTES;
	uint32_t n_descriptors = get_le32(p + ENTRY_N_DESCRIPTORS);
	uint64_t sector = n_header_sectors(n_descriptors);
	if (sector > n_sectors)
		return false;
	for (uint32_t k = 0; k < n_descriptors; k++) {
		const uint8_t *d = p + ENTRY_HEADER_BYTES + (uint64_t)k * DESCRIPTOR_BYTES;
		bool is_data = memcmp(d, "desc", 4) == 0;
		if ((!is_data && memcmp(d, "zero", 4) != 0) || get_le64(d + DESC_SEQUENCE) != sequence)
			return false;
		if (!is_data)
			continue;
		if (sector == n_sectors)
			return false;
		const uint8_t *s = p + sector++ * VHDX_SECTOR_BYTES;
		if (memcmp(s, "data", 4) != 0 || get_le32(s + SECTOR_SEQUENCE_HIGH) != sequence >> 32 ||
		    get_le32(s + SECTOR_SEQUENCE_LOW) != (uint32_t)sequence)
			return false;
	}
	return true;
}

/* NULL: no valid entry begins there. */
static const uint8_t *entry_at(struct ring *g, uint64_t at)
{
	const uint8_t *p = g->bytes + at;
	if (!is_entry_plausible(g, p) || !has_parts(p))
		return NULL;
	uint32_t n = get_le32(p + ENTRY_LENGTH);
	g->n_hashed_bytes += n;
	if (g->n_hashed_bytes > g->n_hashed_max_bytes)
		return NULL;
	return get_le32(p + ENTRY_CHECKSUM) == vhdx_checksum(p, n) ? p : NULL;
}

/* The sequence that begins at *at, which becomes where to look next. False: there is none, or it is not whole. */
static bool read_sequence(struct ring *g, uint64_t *at, struct sequence *ret_s)
{
	uint64_t start = *at, here = start, n_total = 0, expected = 0;
	struct sequence s = { 0 };
	bool has_tail = false;
	const uint8_t *p = entry_at(g, here);
	*at = start + VHDX_SECTOR_BYTES;
	if (!p)
		return false;
	uint64_t first_sequence = get_le64(p + ENTRY_SEQUENCE);
	for (expected = first_sequence; p && get_le64(p + ENTRY_SEQUENCE) == expected; expected++) {
		uint64_t n = get_le32(p + ENTRY_LENGTH);
		if (n_total + n > g->n_bytes)
			break; /* once around */
		n_total += n;
		s.head_bytes = here;
		s.head_sequence = expected;
		here = (here + n) % g->n_bytes;
		p = n_total < g->n_bytes ? entry_at(g, here) : NULL;
	}
	s.first_bytes = get_le32(g->bytes + s.head_bytes + ENTRY_TAIL);
	/* The tail has to be one of the entries. */
	for (uint64_t k = first_sequence, walk = start; k <= s.head_sequence; k++) {
		has_tail |= walk == s.first_bytes;
		walk = (walk + get_le32(g->bytes + walk + ENTRY_LENGTH)) % g->n_bytes;
	}
	*at = start + n_total;
	*ret_s = s;
	return has_tail;
}

static bool find_active_sequence(struct ring *g, struct sequence *ret_s)
{
	bool is_found = false;
	for (uint64_t at = 0; at < g->n_bytes;) {
		struct sequence s;
		if (read_sequence(g, &at, &s) && (!is_found || s.head_sequence > ret_s->head_sequence)) {
			*ret_s = s;
			is_found = true;
		}
	}
	return is_found;
}

/* --- carrying it out --- */

/* Where a log may write: in the file, behind the headers, and not into itself. */
static bool is_target(const struct vhdx *v, uint64_t offset, uint64_t n, uint64_t last)
{
	return offset % VHDX_SECTOR_BYTES == 0 && n % VHDX_SECTOR_BYTES == 0 && offset >= VHDX_REGION_OFFSET(0) &&
	       offset <= last && n <= last - offset &&
	       !block_ranges_meet(offset, n, v->log.offset_bytes, v->log.n_bytes);
}

/* What is behind the end of the file is zeroes, or will be. */
static uint64_t n_in_file(const struct vhdx *v, uint64_t offset, uint64_t n)
{
	return offset < v->end_bytes ? min_u64(n, v->end_bytes - offset) : 0;
}

/* As holes: what a hostile log asks for must not fill the host's disk. */
static int write_zeroes(struct vhdx *v, uint64_t offset, uint64_t n)
{
	n = n_in_file(v, offset, n);
	if (!n || fallocate(v->file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)n) == 0)
		return 0;
	return block_file_zero(v->disk.image, v->file, offset, n, true);
}

/* With `is_dry`, only checks that it could be carried out. */
static int apply_entry(struct vhdx *v, struct ring *g, const uint8_t *p, uint64_t last, bool is_dry, struct err *e)
{
	uint32_t n_descriptors = get_le32(p + ENTRY_N_DESCRIPTORS);
	const uint8_t *sector = p + n_header_sectors(n_descriptors) * VHDX_SECTOR_BYTES;
	for (uint32_t k = 0; k < n_descriptors; k++) {
		const uint8_t *d = p + ENTRY_HEADER_BYTES + (uint64_t)k * DESCRIPTOR_BYTES;
		bool is_data = memcmp(d, "desc", 4) == 0;
		uint64_t offset = get_le64(d + DESC_OFFSET);
		uint64_t n = is_data ? VHDX_SECTOR_BYTES : get_le64(d + DESC_ZERO_LENGTH);
		if (!is_target(v, offset, n, last))
			return err_set(e, EINVAL, "its VHDX log writes to where it must not (%llu bytes at %llu)",
			               (unsigned long long)n, (unsigned long long)offset);
		if (is_dry && !is_data) {
			g->n_zeroed_bytes += n_in_file(v, offset, n); /* no overflow: it stops at the bound */
			if (g->n_zeroed_bytes > MAX_ZEROED_BYTES)
				return err_set(e, EFBIG, "its VHDX log is made to be expensive: it zeroes more than %llu MiB",
				               MAX_ZEROED_BYTES >> 20);
		}
		int rc = 0;
		if (is_data && !is_dry) {
			uint8_t bytes[VHDX_SECTOR_BYTES];
			memcpy(bytes, d + DESC_LEADING, 8);
			memcpy(bytes + 8, sector + SECTOR_DATA, DATA_BYTES);
			memcpy(bytes + 8 + DATA_BYTES, d + DESC_TRAILING, 4);
			rc = block_file_write(v->disk.image, v->file, bytes, sizeof bytes, offset);
		} else if (!is_dry) {
			rc = write_zeroes(v, offset, n);
		}
		if (rc < 0)
			return err_set_errno(e, -rc, "its VHDX log cannot be replayed");
		sector += is_data ? VHDX_SECTOR_BYTES : 0;
	}
	return 0;
}

static int apply_sequence(struct vhdx *v, struct ring *g, const struct sequence *s, bool is_dry, struct err *e)
{
	const uint8_t *head = g->bytes + s->head_bytes;
	uint64_t last = max_u64(v->end_bytes, get_le64(head + ENTRY_LAST_OFFSET));
	for (uint64_t at = s->first_bytes;; at = (at + get_le32(g->bytes + at + ENTRY_LENGTH)) % g->n_bytes) {
		int rc = apply_entry(v, g, g->bytes + at, last, is_dry, e);
		if (rc < 0 || at == s->head_bytes)
			return rc;
	}
}

static int finish_replay(struct vhdx *v, uint64_t last, struct err *e)
{
	int rc = 0;
	if (last > v->end_bytes && ftruncate(v->file->fd, (off_t)last) < 0)
		return err_set_errno(e, errno, "the file cannot grow to the size that its VHDX log tells");
	rc = block_file_size(v->file, &v->end_bytes);
	if (rc >= 0)
		rc = block_file_sync(v->disk.image, v->file);
	memset(v->header + HEADER_LOG_GUID, 0, VHDX_GUID_BYTES);
	if (rc >= 0)
		rc = vhdx_write_header(v);
	return rc < 0 ? err_set_errno(e, -rc, "its VHDX log cannot be emptied") : 0;
}

static int replay(struct vhdx *v, struct ring *g, struct err *e)
{
	struct sequence s;
	bool is_found = find_active_sequence(g, &s);
	if (g->n_hashed_bytes > g->n_hashed_max_bytes)
		return err_set(e, EINVAL, "its VHDX log is made to be expensive to read");
	if (!is_found)
		return err_set(e, EINVAL, "its VHDX log is in use, but has no valid entry");
	const uint8_t *head = g->bytes + s.head_bytes;
	uint64_t flushed = get_le64(head + ENTRY_FLUSHED_OFFSET), last = get_le64(head + ENTRY_LAST_OFFSET);
	if (flushed > v->end_bytes)
		return err_set(e, EINVAL, "the file was truncated: its VHDX log needs %llu bytes, and it has %llu",
		               (unsigned long long)flushed, (unsigned long long)v->end_bytes);
	if (last > INT64_MAX)
		return err_set(e, EINVAL, "its VHDX log tells an impossible size of the file");
	int rc = apply_sequence(v, g, &s, true, e);
	if (rc < 0)
		return rc;
	/* [MS-VHDX] 2.2.2: the file is another one from before its first change on, and replaying is one. */
	rc = vhdx_new_guid(v->header + HEADER_FILE_WRITE_GUID);
	if (rc >= 0)
		rc = vhdx_write_header(v);
	if (rc < 0)
		return err_set_errno(e, -rc, "its VHDX header cannot be written");
	rc = apply_sequence(v, g, &s, false, e);
	return rc < 0 ? rc : finish_replay(v, last, e);
}

int vhdx_replay_log(struct vhdx *v, struct err *e)
{
	if (vhdx_is_guid_zero(v->header + HEADER_LOG_GUID))
		return 0;
	if (v->file->is_readonly)
		return err_set(e, EROFS, "its VHDX log has to be replayed: open it for writing first");
	free_scoped uint8_t *bytes = malloc((size_t)v->log.n_bytes * 2);
	if (!bytes)
		return err_set(e, ENOMEM, "no memory for its VHDX log");
	int rc = block_file_read(v->disk.image, v->file, bytes, (size_t)v->log.n_bytes, v->log.offset_bytes);
	if (rc < 0)
		return err_set_errno(e, -rc, "its VHDX log cannot be read");
	memcpy(bytes + v->log.n_bytes, bytes, (size_t)v->log.n_bytes);
	struct ring g = {
		.v = v,
		.bytes = bytes,
		.n_bytes = v->log.n_bytes,
		.n_hashed_max_bytes = MAX_HASHED_BYTES(v->log.n_bytes),
	};
	rc = replay(v, &g, e);
	if (rc >= 0)
		log_info(&v->disk.image->log, "the image was not closed in order: its VHDX log was replayed");
	return rc;
}

/* --- writing --- */

int vhdx_begin_writing(struct block_disk *d)
{
	struct vhdx *v = (struct vhdx *)d;
	int rc = vhdx_new_guid(v->header + HEADER_FILE_WRITE_GUID);
	if (rc >= 0)
		rc = vhdx_new_guid(v->header + HEADER_DATA_WRITE_GUID);
	if (rc >= 0)
		rc = vhdx_new_guid(v->log_guid);
	v->log_next_bytes = 0;
	v->log_sequence = 1;
	return rc < 0 ? rc : vhdx_write_header(v);
}

/* One entry for pages[0..n), whose contents are in contents[]. */
static void encode_entry(const struct vhdx *v, struct block_table_page *const *pages, uint32_t n,
                         const uint8_t *contents, uint8_t *entry)
{
	const uint32_t n_bytes = (n + 1) * VHDX_SECTOR_BYTES;
	memset(entry, 0, n_bytes);
	memcpy(entry, "loge", 4);
	put_le32(entry + ENTRY_LENGTH, n_bytes);
	put_le32(entry + ENTRY_TAIL, (uint32_t)v->log_next_bytes);
	put_le64(entry + ENTRY_SEQUENCE, v->log_sequence);
	put_le32(entry + ENTRY_N_DESCRIPTORS, n);
	memcpy(entry + ENTRY_LOG_GUID, v->log_guid, VHDX_GUID_BYTES);
	put_le64(entry + ENTRY_FLUSHED_OFFSET, v->end_bytes);
	put_le64(entry + ENTRY_LAST_OFFSET, v->end_bytes);
	for (uint32_t k = 0; k < n; k++) {
		const uint8_t *page = contents + (uint64_t)k * VHDX_SECTOR_BYTES;
		uint8_t *d = entry + ENTRY_HEADER_BYTES + (uint64_t)k * DESCRIPTOR_BYTES;
		memcpy(d, "desc", 4);
		memcpy(d + DESC_TRAILING, page + 8 + DATA_BYTES, 4);
		memcpy(d + DESC_LEADING, page, 8);
		put_le64(d + DESC_OFFSET, v->bat.offset_bytes + (uint64_t)pages[k]->index * VHDX_SECTOR_BYTES);
		put_le64(d + DESC_SEQUENCE, v->log_sequence);
		uint8_t *s = entry + (uint64_t)(k + 1) * VHDX_SECTOR_BYTES;
		memcpy(s, "data", 4);
		put_le32(s + SECTOR_SEQUENCE_HIGH, (uint32_t)(v->log_sequence >> 32));
		memcpy(s + SECTOR_DATA, page + 8, DATA_BYTES);
		put_le32(s + SECTOR_SEQUENCE_LOW, (uint32_t)v->log_sequence);
	}
	put_le32(entry + ENTRY_CHECKSUM, vhdx_checksum(entry, n_bytes));
}

/* Puts an entry into the log, durably. Nothing in the log matters any more: the BAT is as the log would have it. */
static int append_entry(struct vhdx *v, struct block_table_page *const *pages, uint32_t n, const uint8_t *contents,
                        uint8_t *entry)
{
	const uint32_t n_bytes = (n + 1) * VHDX_SECTOR_BYTES;
	if (v->log_next_bytes + n_bytes > v->log.n_bytes)
		v->log_next_bytes = 0;
	encode_entry(v, pages, n, contents, entry);
	int rc = block_file_write(v->disk.image, v->file, entry, n_bytes, v->log.offset_bytes + v->log_next_bytes);
	if (rc >= 0)
		rc = block_file_sync(v->disk.image, v->file);
	if (rc < 0)
		return rc;
	v->log_next_bytes += n_bytes;
	v->log_sequence++;
	if (!vhdx_is_guid_zero(v->header + HEADER_LOG_GUID))
		return 0;
	memcpy(v->header + HEADER_LOG_GUID, v->log_guid, VHDX_GUID_BYTES);
	put_le16(v->header + HEADER_LOG_VERSION, 0);
	rc = vhdx_write_header(v);
	if (rc < 0)
		memset(v->header + HEADER_LOG_GUID, 0, VHDX_GUID_BYTES); /* to be tried again */
	return rc;
}

static int flush_some(struct vhdx *v, struct block_table_page *const *pages, uint32_t n, uint8_t *buffer)
{
	uint8_t *contents = buffer, *entry = buffer + (uint64_t)MAX_LOGGED_PAGES * VHDX_SECTOR_BYTES;
	/* The file, and the BAT as the entry before has it: that one is about to be forgotten. */
	int rc = block_file_sync(v->disk.image, v->file);
	for (uint32_t k = 0; rc >= 0 && k < n; k++)
		rc = vhdx_encode_page(v, pages[k], contents + (uint64_t)k * VHDX_SECTOR_BYTES);
	if (rc >= 0)
		rc = append_entry(v, pages, n, contents, entry);
	for (uint32_t k = 0; rc >= 0 && k < n; k++)
		rc = block_file_write(v->disk.image, v->file, contents + (uint64_t)k * VHDX_SECTOR_BYTES,
		                      VHDX_SECTOR_BYTES,
		                      v->bat.offset_bytes + (uint64_t)pages[k]->index * VHDX_SECTOR_BYTES);
	return rc;
}

int vhdx_flush(struct block_disk *d)
{
	struct vhdx *v = (struct vhdx *)d;
	if (!d->dirty)
		return block_file_sync(d->image, v->file);
	free_scoped uint8_t *buffer = malloc((size_t)(2 * MAX_LOGGED_PAGES + 1) * VHDX_SECTOR_BYTES);
	if (!buffer)
		return -ENOMEM;
	int rc = 0;
	for (struct block_table_page *p = d->dirty; rc >= 0 && p;) {
		struct block_table_page *pages[MAX_LOGGED_PAGES];
		uint32_t n = 0;
		for (; p && n < MAX_LOGGED_PAGES; p = p->next_dirty)
			pages[n++] = p;
		rc = flush_some(v, pages, n, buffer);
	}
	if (rc >= 0)
		block_disk_clean(d);
	return rc;
}

int vhdx_end_writing(struct block_disk *d)
{
	struct vhdx *v = (struct vhdx *)d;
	if (vhdx_is_guid_zero(v->header + HEADER_LOG_GUID))
		return 0;
	int rc = block_file_sync(d->image, v->file);
	memset(v->header + HEADER_LOG_GUID, 0, VHDX_GUID_BYTES);
	return rc < 0 ? rc : vhdx_write_header(v);
}

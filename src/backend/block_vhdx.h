/* SPDX-License-Identifier: Apache-2.0 */
/* block_vhdx.h - what the parts of the VHDX format know of each other; for block_vhdx*.c and their tests. */
#pragma once
#include "backend/block_disk.h"

/* [MS-VHDX] 2.2, 2.3, 2.5. */
#define VHDX_MB (1024ull * 1024)
#define VHDX_HEADER_BYTES 4096u
#define VHDX_HEADER_OFFSET(k) ((uint64_t)((k) + 1) * 64 * 1024) /* k: 0, 1 */
#define VHDX_REGION_OFFSET(k) ((uint64_t)((k) + 3) * 64 * 1024)
#define VHDX_REGION_BYTES (64u * 1024)
#define VHDX_SECTOR_BYTES 4096u   /* of the log */
#define VHDX_MAX_LOG_BYTES (64ull * VHDX_MB)
#define VHDX_GUID_BYTES 16
#define VHDX_TABLE_ENTRY_BYTES 32u /* of regions, and of metadata */
#define VHDX_MAX_DISK_BYTES (64ull << 40)

enum {
	HEADER_SEQUENCE = 8, HEADER_FILE_WRITE_GUID = 16, HEADER_DATA_WRITE_GUID = 32, HEADER_LOG_GUID = 48,
	HEADER_LOG_VERSION = 64, HEADER_VERSION = 66, HEADER_LOG_LENGTH = 68, HEADER_LOG_OFFSET = 72,
};

enum {
	PAYLOAD_BLOCK_NOT_PRESENT = 0, PAYLOAD_BLOCK_UNDEFINED = 1, PAYLOAD_BLOCK_ZERO = 2, PAYLOAD_BLOCK_UNMAPPED = 3,
	PAYLOAD_BLOCK_UNMAPPED_OLD = 5, /* of a draft of the format */
	PAYLOAD_BLOCK_FULLY_PRESENT = 6, PAYLOAD_BLOCK_PARTIALLY_PRESENT = 7,
};

/* [MS-VHDX] 2.6.2. */
enum vhdx_item_id {
	VHDX_ITEM_FILE_PARAMETERS, VHDX_ITEM_DISK_SIZE, VHDX_ITEM_DISK_ID, VHDX_ITEM_LOGICAL_SECTOR, VHDX_ITEM_PHYSICAL_SECTOR,
	VHDX_ITEM_PARENT, VHDX_N_ITEMS
};

struct vhdx_item {
	uint8_t guid[VHDX_GUID_BYTES];
	uint32_t n_bytes; /* 0: any */
	const char *name;
};

/* In block_vhdx.c: GUIDs as they are stored. */
extern const struct vhdx_item vhdx_items[VHDX_N_ITEMS];
extern const uint8_t vhdx_guid_bat[VHDX_GUID_BYTES], vhdx_guid_metadata[VHDX_GUID_BYTES];

struct vhdx_range {
	uint64_t offset_bytes, n_bytes;
};

struct vhdx {
	struct block_disk disk; /* first */
	const struct block_file *file;
	struct block_piece piece;
	struct block_table table;
	uint8_t header[VHDX_HEADER_BYTES]; /* the current one */
	unsigned current;
	uint64_t end_bytes; /* of the file */
	struct vhdx_range log, bat, metadata;
	/* The session's log: entries of one after the other, each enough by itself. */
	uint8_t log_guid[VHDX_GUID_BYTES];
	uint64_t log_next_bytes, log_sequence;
	uint32_t logical_sector_bytes, physical_sector_bytes;
	uint32_t block_bytes;
	uint64_t n_bytes;
};

uint32_t vhdx_crc32c(uint32_t crc, const void *bytes, size_t n_bytes);
/* The checksum of a structure, whose bytes 4..7 hold it. */
uint32_t vhdx_checksum(const uint8_t *bytes, size_t n_bytes);
bool vhdx_is_guid_zero(const uint8_t *guid);
int vhdx_new_guid(uint8_t *ret_guid);

/* Finds the current header. */
int vhdx_read_headers(struct vhdx *v, struct err *e);
/* Makes v->header durable as the current header, in both places one after the other. */
int vhdx_write_header(struct vhdx *v);
/* When the log is not empty: brings the file to the state that it describes, and empties it. */
int vhdx_replay_log(struct vhdx *v, struct err *e);

/* The disk's functions. */
int vhdx_begin_writing(struct block_disk *d);
int vhdx_flush(struct block_disk *d);
int vhdx_end_writing(struct block_disk *d);
/* The 4 KiB of the BAT that are page p. In block_vhdx.c. */
int vhdx_encode_page(struct vhdx *v, const struct block_table_page *p, uint8_t *ret_bytes);

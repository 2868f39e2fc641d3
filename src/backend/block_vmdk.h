/* SPDX-License-Identifier: Apache-2.0 */
/* block_vmdk.h - what the parts of the VMDK format know of each other; for block_vmdk*.c and their tests. */
#pragma once
#include "backend/block_disk.h"

#define VMDK_SECTOR_BYTES 512u
#define VMDK_MAX_EXTENTS 1000u
#define VMDK_MAX_DESCRIPTOR_BYTES (128u * 1024)
#define VMDK_MAX_NAME_BYTES 255u
#define VMDK_CID_DIGITS 8u
#define VMDK_GT_BYTES (BLOCK_TABLE_PAGE_ENTRIES * 4u) /* a grain table */

/* --- the descriptor: a text that says what a disk consists of --- */

enum vmdk_access { VMDK_RW, VMDK_RDONLY };
enum vmdk_type { VMDK_FLAT, VMDK_SPARSE, VMDK_ZERO };

struct vmdk_line {
	enum vmdk_access access;
	enum vmdk_type type;
	uint64_t n_sectors, offset_sectors;
	char name[VMDK_MAX_NAME_BYTES + 1]; /* a file in the image's folder */
};

struct vmdk_descriptor {
	bool is_stream; /* createType streamOptimized */
	bool has_cid;
	uint64_t cid_at; /* where its eight digits are in the text */
	struct vmdk_line *lines;
	unsigned n_lines;
};

/* The text ends at its first NUL. Whatever comes back, vmdk_descriptor_done() ends it. */
int vmdk_descriptor_parse(const char *text, size_t n_bytes, struct vmdk_descriptor *ret_d, struct err *e);
void vmdk_descriptor_done(struct vmdk_descriptor *d);

/* --- a sparse extent: one file with a header, grain tables and grains --- */

/* Where fields of its header are. */
enum {
	SPARSE_VERSION = 4, SPARSE_FLAGS = 8, SPARSE_CAPACITY = 12, SPARSE_GRAIN = 20, SPARSE_DESCRIPTOR_OFFSET = 28,
	SPARSE_DESCRIPTOR_SIZE = 36, SPARSE_N_GTES = 44, SPARSE_RGD = 48, SPARSE_GD = 56, SPARSE_OVERHEAD = 64,
	SPARSE_UNCLEAN = 72, SPARSE_LINE_ENDS = 73, SPARSE_COMPRESSION = 77,
};

enum {
	SPARSE_FLAG_LINE_ENDS = 1u << 0, SPARSE_FLAG_RGD = 1u << 1, SPARSE_FLAG_ZERO_GRAINS = 1u << 2,
	SPARSE_FLAG_COMPRESSED = 1u << 16, SPARSE_FLAG_MARKERS = 1u << 17,
};

struct vmdk_sparse {
	struct block_table table;
	const struct block_file *file;
	struct vmdk *owner;
	uint64_t capacity_sectors;
	uint32_t *gd, *rgd;         /* grain directories: sectors of grain tables. rgd is NULL where there is none. */
	uint64_t gd_offset_bytes, rgd_offset_bytes;
	uint64_t overhead_bytes;    /* what is in front of grains */
	uint64_t descriptor_offset_bytes, descriptor_bytes;
	uint64_t end_bytes;         /* where something new goes */
	bool is_compressed, has_zero_grains;
	bool was_unclean, is_marked; /* its header said, says now by us, that it is in use */
};

/* Reads and checks header and directories. */
int vmdk_sparse_open(struct vmdk_sparse *s, struct block_disk *d, const struct block_file *f, struct err *e);
void vmdk_sparse_done(struct vmdk_sparse *s);
/* The last change: it was closed in order. */
int vmdk_sparse_unmark(struct vmdk_sparse *s);
/* n_bytes of a compressed extent at offset_bytes, all in one grain. May block. */
int vmdk_sparse_unpack(struct vmdk_sparse *s, uint64_t offset_bytes, uint8_t *ret_bytes, size_t n_bytes);

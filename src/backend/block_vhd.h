/* SPDX-License-Identifier: Apache-2.0 */
/* block_vhd.h - the layout of VHD images, for block_vhd*.c: Microsoft's "Virtual Hard Disk Image Format Specification" 1.0.
 * Numbers are big-endian. */
#pragma once
#include "base/bytes.h"
#include "base/checked.h"

#define VHD_SECTOR_BYTES 512u
#define VHD_HEADER_BYTES 1024u
#define VHD_VERSION_MAJOR 1u
#define VHD_UNUSED_ENTRY 0xffffffffu
#define VHD_NO_DATA_OFFSET 0xffffffffffffffffull
/* The largest geometry, in sectors. */
#define VHD_MAX_CYLINDERS 65535u
#define VHD_MAX_GEOMETRY (VHD_MAX_CYLINDERS * 16ull * 255)
/* The largest disk that the BAT's 32-bit sector numbers allow for: 2040 GiB. */
#define VHD_MAX_BYTES (2040ull << 30)

enum { VHD_TYPE_FIXED = 2, VHD_TYPE_DYNAMIC = 3, VHD_TYPE_DIFFERENCING = 4 };

/* Where fields are. */
enum {
	FOOTER_FEATURES = 8, FOOTER_VERSION = 12, FOOTER_DATA_OFFSET = 16, FOOTER_TIMESTAMP = 24, FOOTER_CREATOR = 28,
	FOOTER_CREATOR_VERSION = 32, FOOTER_CREATOR_HOST = 36, FOOTER_ORIGINAL_SIZE = 40, FOOTER_CURRENT_SIZE = 48,
	FOOTER_CYLINDERS = 56, FOOTER_HEADS = 58, FOOTER_SECTORS = 59, FOOTER_TYPE = 60, FOOTER_CHECKSUM = 64, FOOTER_ID = 68,
	HEADER_DATA_OFFSET = 8, HEADER_TABLE_OFFSET = 16, HEADER_VERSION = 24, HEADER_N_ENTRIES = 28, HEADER_BLOCK_BYTES = 32,
	HEADER_CHECKSUM = 36,
};

/* The one's complement of the sum of all bytes but the checksum's own. */
static inline uint32_t vhd_checksum(const uint8_t *p, size_t n_bytes, size_t at)
{
	uint32_t sum = 0;
	for (size_t k = 0; k < n_bytes; k++)
		sum += k >= at && k < at + 4 ? 0 : p[k];
	return ~sum;
}

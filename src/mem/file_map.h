/* SPDX-License-Identifier: Apache-2.0 */
/* file_map.h - parts of guest memory that are pages of a file until the guest writes to them: a kernel that starts without
 * being copied, and is shared by all VMs that boot it. Such pages are small ones; mem_files_keep_piece() puts huge pages of
 * the guest's own in their place, piece by piece, when there is time for it.
 *
 * The file must not change under the guest. Each is under a read lease (fcntl(2), F_SETLEASE): somebody who opens it for
 * writing or truncates it waits, we get `lease_signal`, and mem_files_keep() makes the pages our own before the lease
 * ends. Where a lease is not to be had, nothing is mapped and the caller copies. Main thread. */
#pragma once
#include "base/forward.h"
#include "mem/mem.h"

#define MEM_MAX_FILES 4
#define MEM_MAX_FILE_RANGES 16

struct mem_files {
	int lease_signal; /* a signal that the owner watches for */
	bool maps_written; /* also what the guest is going to write to */
	struct mem_file {
		int fd; /* ours; holds the lease */
		dev_t device;
		ino_t inode;
	} files[MEM_MAX_FILES];
	size_t n_files;
	struct mem_file_range {
		struct span span;
		bool has_thp, is_mergeable; /* as the region that it is in */
	} ranges[MEM_MAX_FILE_RANGES];
	size_t n_ranges;
};

struct mem_file_part {
	int fd;
	uint64_t offset, n_bytes;
	bool is_written; /* the guest is going to write to it: mapped, each page costs a second fault and a copy anyway */
};

void mem_files_init(struct mem_files *f, int lease_signal);
void mem_files_done(struct mem_files *f); /* the lease ends; pages stay what they are until the map goes */
/* Puts copies in the mapped pages' place and ends the leases. Nobody may touch guest memory meanwhile: vCPUs are out and
 * I/O is drained. On failure (no memory) all stays as it was. */
int mem_files_keep(struct mem_files *f);

/* The same for one huge page's worth: 1 when there is more to do, 0 when all is done. */
int mem_files_keep_piece(struct mem_files *f);

/* Maps the leading whole pages of [offset, offset + n_bytes) of the file at a, and says how many bytes that were: 0 when
 * the map has no `files`, the memory is not private, something is not page-aligned, there is no lease, or the bytes are
 * of a kind that is better copied. The caller checked that the file has the bytes. */
uint64_t mem_place_file(const struct mem_map *m, struct gpa a, const struct mem_file_part *part);

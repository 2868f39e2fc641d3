/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2_kit.h - making, damaging and judging qcow2 images, for the tests of what can go wrong with them. */
#pragma once
#include "backend/block_qcow2.h"
#include "block_kit.h"

#define DISK_BYTES (6ull << 20)


/* 0: sound; 1: leaks only; else it is corrupt. */
static inline int qemu_check(const char *path)
{
	int rc = kit_try("qemu-img check -f qcow2 %s", path);
	return rc == 3 ? 1 : rc;
}

static inline void make(struct kit *k, struct kit_model *m, const char *options, const char *convert)
{
	memset(k, 0, sizeof *k);
	k->type = BLOCK_TYPE_QCOW2;
	(void)snprintf(k->path, sizeof k->path, "%s/top", kit_folder);
	kit_model_new(m, 0, DISK_BYTES);
	if (!convert) {
		kit_run("qemu-img create -f qcow2 %s %s %llu", options, k->path, DISK_BYTES);
		return;
	}
	for (uint64_t at = 0; at < DISK_BYTES; at += 8)
		m->bytes[at] = (uint8_t)(at >> 12);
	int fd = open(k->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	EQ(write(fd, m->bytes, DISK_BYTES), (long long)DISK_BYTES);
	close(fd);
	kit_run("mv %s %s/raw && qemu-img convert -f raw %s %s/raw %s", k->path, kit_folder, convert, kit_folder, k->path);
}

static inline void poke(const char *path, uint64_t at, unsigned n, uint64_t v)
{
	uint8_t b[8];
	for (unsigned k = n; k-- > 0; v >>= 8)
		b[k] = (uint8_t)v;
	int fd = open(path, O_WRONLY);
	OK(fd >= 0);
	EQ(pwrite(fd, b, n, (off_t)at), n);
	close(fd);
}

static inline void file_read(const char *path, uint64_t at, void *ret_bytes, size_t n)
{
	int fd = open(path, O_RDONLY);
	OK(fd >= 0);
	EQ(pread(fd, ret_bytes, n, (off_t)at), (long long)n);
	close(fd);
}

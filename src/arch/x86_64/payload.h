/* SPDX-License-Identifier: Apache-2.0 */
/* payload.h - kernel and initramfs files, on their way into guest memory.
 *
 * Their bytes are hostile, their size is what fstat() said; a file that shrinks while it is read is an error. Bytes go
 * from the file straight into guest memory, in few large reads; nothing is allocated by a number out of a file. The
 * thread that builds the VM; everything lives for one x86_boot_load(). */
#pragma once
#include "arch/x86_64/boot.h"

#define PAYLOAD_HEAD_BYTES 4096

struct payload_file {
	int fd;
	uint64_t n_bytes;
	char label[112]; /* "kernel '/boot/vmlinux'": what errors start with; of a long path, its end */
};

int payload_open(struct payload_file *f, const char *what, const char *path, struct err *e);
void payload_close(struct payload_file *f);
/* Exactly n_bytes; the caller checked that the file has them. */
int payload_read(const struct payload_file *f, uint64_t offset, void *ret_bytes, size_t n_bytes, struct err *e);
struct payload_part {
	uint64_t offset, n_bytes; /* in the file */
	bool is_written;          /* by the guest, as far as the file tells */
};
/* The part, whole, into guest memory; the caller checked the file's size, and that it is RAM of one region. */
int payload_load(const struct payload_file *f, const struct payload_part *p, const struct mem_map *mem, struct gpa to,
                 struct err *e);

/* What a kernel's loader finds out; memory addresses are guest-physical. */
struct kernel {
	enum x86_protocol protocol;
	struct gpa entry;
	uint64_t end;            /* of the kernel's memory below 4 GiB, bss and the decompressor's room included */
	uint64_t initramfs_end;  /* an initramfs ends here at the latest */
	uint32_t max_cmdline_chars; /* without the terminating zero */
	const uint8_t *setup;    /* of a bzImage: its setup header, inside the head; NULL for an ELF */
	size_t n_setup_bytes;
};

/* The file's first bytes: PAYLOAD_HEAD_BYTES, or the whole of a shorter file. */
struct payload_head {
	uint8_t bytes[PAYLOAD_HEAD_BYTES];
	size_t n_bytes;
};

bool elf_is(const struct payload_head *h);
int elf_load(const struct mem_map *mem, const struct payload_file *f, const struct payload_head *h,
             struct kernel *ret_k, struct err *e);
bool bzimage_is(const struct payload_head *h);
int bzimage_load(const struct mem_map *mem, const struct payload_file *f, const struct payload_head *h,
                 struct kernel *ret_k, struct err *e);

/* Puts it as high as it may be, on a page boundary. */
int initramfs_load(const struct mem_map *mem, const char *path, const struct kernel *k, struct x86_ram_range *ret_at,
                   struct err *e);

/* At X86_CMDLINE, with the terminating zero. label: the kernel's, for errors. */
int cmdline_write(const struct mem_map *mem, const char *cmdline, const struct x86_machine *m, const struct kernel *k,
                  const char *label, struct err *e);

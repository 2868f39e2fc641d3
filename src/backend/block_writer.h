/* SPDX-License-Identifier: Apache-2.0 */
/* block_writer.h - a new image, written from the disk's first byte to its last into a file that has no name of its own
 * yet; for block_create.c, block_convert.c and the formats that can be made. */
#pragma once
#include "backend/block_impl.h"

/* What is copied at once: a multiple of every cluster, and a cluster at least. */
#define BLOCK_COPY_BYTES (2u * 1024 * 1024)

struct block_writer {
	const struct block_create_params *p;
	uint64_t n_bytes; /* of the disk */
	int fd;           /* an empty regular file */
	void *state;      /* the format's own */
};

/* 0 or a negative errno; only open() has words of its own. */
struct block_writer_format {
	int (*open)(struct block_writer *w, struct err *e); /* close() is called all the same when it fails */
	/* In ascending order; offsets and lengths are multiples of BLOCK_COPY_BYTES, with zeroes behind the disk's end. What is
	 * left out, and what is zeroes, reads as zeroes. */
	int (*write)(struct block_writer *w, uint64_t offset_bytes, const uint8_t *bytes, size_t n_bytes);
	int (*finish)(struct block_writer *w); /* all but making it durable */
	void (*close)(struct block_writer *w);
};

extern const struct block_writer_format block_raw_writer, block_qcow2_writer;

/* Makes the image: fill() writes the disk's bytes; NULL: none. */
int block_write_image(const struct block_create_params *p, uint64_t n_bytes,
                      int (*fill)(const struct block_writer_format *f, struct block_writer *w, void *context, struct err *e),
                      void *context, struct err *e);

int block_write_all(int fd, const void *bytes, size_t n_bytes, uint64_t offset_bytes);
/* Gives a range of the file to its disk, as far as that is asked for: FALLOC, FULL. */
int block_write_preallocate(const struct block_writer *w, uint64_t offset_bytes, uint64_t n_bytes);
bool block_is_zero(const uint8_t *bytes, size_t n_bytes);
int block_progress_step(const struct block_progress *p, uint64_t n_done_bytes, uint64_t n_bytes); /* 0 or -ECANCELED */

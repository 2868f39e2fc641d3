/* SPDX-License-Identifier: Apache-2.0 */
/* block_writer.h - a new image, written from the disk's first byte to its last into a file that has no name of its own
 * yet; for block_create.c, block_convert.c and the formats that can be made. */
#pragma once
#include "backend/block_impl.h"

/* What is copied at once: a multiple of every cluster, and a cluster at least. */
#define BLOCK_COPY_BYTES (2u * 1024 * 1024)

struct block_new_file {
	char *path, *temporary; /* where it is to be (the image's own: NULL), and where it is; NULL: nowhere */
	int fd;
	bool is_in_place;
};

struct block_new_image {
	char *path; /* where it is to be; links are followed */
	mode_t mode;
	uid_t owner; /* of what is replaced */
	gid_t group;
	struct block_new_file own, *others;
	unsigned n_others;
	int replaced_fd; /* locked; -1: nothing is replaced */
	bool is_in_place;
};

struct block_writer {
	const struct block_create_params *p;
	uint64_t n_bytes; /* of the disk */
	int fd;           /* of the image's own file, empty */
	struct block_new_image *image; /* for those that want others beside it */
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

extern const struct block_writer_format block_raw_writer, block_qcow2_writer, block_vhd_writer, block_vhdx_writer,
	block_vmdk_writer;

/* Makes the image: fill() writes the disk's bytes; NULL: none. */
int block_write_image(const struct block_create_params *p, uint64_t n_bytes,
                      int (*fill)(const struct block_writer_format *f, struct block_writer *w, void *context, struct err *e),
                      void *context, struct err *e);

int block_write_all(int fd, const void *bytes, size_t n_bytes, uint64_t offset_bytes);
/* The same, but zeroes, a page at a time, are left out: nothing was there, and something comes behind. */
int block_write_sparsely(int fd, const uint8_t *bytes, size_t n_bytes, uint64_t offset_bytes);
/* Gives a range of a file to its disk, as far as that is asked for: FALLOC, FULL. So much of the disk was given before. */
int block_write_preallocate(const struct block_writer *w, int fd, uint64_t offset_bytes, uint64_t n_bytes,
                            uint64_t n_before_bytes);
bool block_is_zero(const uint8_t *bytes, size_t n_bytes);
int block_progress_step(const struct block_progress *p, uint64_t n_done_bytes, uint64_t n_bytes); /* 0 or -ECANCELED */
int block_write_stopped(const struct block_create_params *p, struct err *e); /* -ECANCELED, and says so */
/* For open(): nothing of what only others have is asked for. What an image that has all of its disk from the start may be
 * asked to reserve, others may not. */
int block_write_check_plain(const struct block_writer *w, const char *kind, bool is_fixed, struct err *e);
bool block_write_random(void *ret_bytes, size_t n_bytes); /* for identifiers */

/* --- block_new_file.c --- */

int block_new_image_open(struct block_new_image *i, const struct block_create_params *p, struct err *e);
/* Without finish(), or when that failed before the image got its name, nothing is left. */
void block_new_image_done(struct block_new_image *i);
int block_new_image_finish(struct block_new_image *i, const struct block_create_params *p, struct err *e);
const char *block_new_image_name(const struct block_new_image *i); /* without its folder */
bool block_new_image_has_beside(const struct block_new_image *i, const char *name); /* something is there already */
/* Another file in its folder, which is written until the next is asked for; it must not exist. 0 or a negative errno. */
int block_new_image_add(struct block_new_image *i, const char *name, int *ret_fd);

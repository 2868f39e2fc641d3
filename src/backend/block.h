/* SPDX-License-Identifier: Apache-2.0 */
/* block.h - the host's side of a disk: asynchronous scatter-gather requests on an image. Knows no guest.
 *
 * An image is opened once and shared by lanes; a lane belongs to one loop (one per queue) and owns its engine: an
 * io_uring, or worker threads where io_uring is not to be had. The buffers of a request belong to it until done() ran.
 * A request is complete or failed: short reads and writes are continued inside. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/log.h"
#include "loop/loop.h"
#include <sys/uio.h>

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD, BLOCK_WRITE_ZEROES };

/* One operation on a host file: what a request needs next. The lane's own. */
enum block_step_op {
	BLOCK_STEP_READ, BLOCK_STEP_WRITE, BLOCK_STEP_SYNC,
	BLOCK_STEP_FALLOCATE,      /* mode says how */
	BLOCK_STEP_DISCARD_DEVICE, /* BLKDISCARD: an ioctl, so never io_uring's */
	BLOCK_STEP_CALL,           /* a function of the format's that may block: always on a worker thread */
};

struct block_file;
struct block_request;

struct block_step {
	enum block_step_op op;
	int mode;
	struct iovec *iov; /* READ, WRITE */
	int n_iov;
	bool is_buffered;  /* on the file's second descriptor, the one without O_DIRECT */
	const struct block_file *file; /* of the image, or of one that it is based on */
	uint64_t offset_bytes, n_bytes;
	uint64_t sync_ticket; /* SYNC: the file's sync of this number or a later one does; 0: the next */
	long (*call)(struct block_request *r); /* CALL */
};

#define BLOCK_SCRATCH_BYTES 128

struct block_request {
	enum block_op op;
	bool may_unmap;        /* WRITE_ZEROES: deallocating is fine */
	uint64_t offset_bytes; /* multiples of 512, inside the image: asserted, the device has checked */
	uint64_t n_bytes;
	struct iovec *iov;     /* READ, WRITE: sums up to n_bytes; advanced in place as bytes are moved */
	int n_iov;
	bool may_fault;        /* the buffers may not be there to be touched: a mapped file that was cut off */
	/* On the lane's loop. result is 0 or a negative errno. */
	void (*done)(struct block_request *r, int result);
	/* the lane's own */
	struct block_lane *lane;
	struct block_request *next;
	uint64_t n_done_bytes;
	int result;
	void *bounce; /* for direct I/O when the buffers are not aligned */
	struct iovec bounce_iov;
	struct block_step step;
	long step_result;
	uint16_t n_retries; /* without progress */
	bool is_parked;
	bool has_sync; /* see block_sync_begin() */
	uint8_t method;     /* which way of writing zeroes is being tried */
	size_t n_cut_bytes; /* taken off the last iovec of the step, which goes further than the step does */
	_Alignas(16) uint8_t scratch[BLOCK_SCRATCH_BYTES]; /* the format's own; zeroes when the request is submitted */
};

enum block_type { BLOCK_TYPE_AUTO, BLOCK_TYPE_RAW, BLOCK_TYPE_QCOW2, BLOCK_TYPE_VHD, BLOCK_TYPE_VHDX, BLOCK_TYPE_VMDK };

/* What a flush is worth, with libkrun's names for it, though not its numbers: what nobody sets is safe. */
enum block_sync {
	BLOCK_SYNC_FULL,
	BLOCK_SYNC_RELAXED, /* may stay in the drive's own cache on hosts that can say so; on Linux, FULL */
	/* Flushes succeed and nothing is ever synced, at the end neither. All writes are in the order that keeps the image
	 * sound when the process dies; a host that dies may leave anything. */
	BLOCK_SYNC_NONE,
};

struct block_params {
	const char *path;
	bool is_readonly, is_direct;
	bool has_no_io_uring; /* worker threads from the start */
	bool has_discard;     /* holes may be punched */
	/* AUTO: by the first bytes, once. A raw image so found refuses a first sector that would change the answer. */
	enum block_type image_type;
	bool may_use_backing_files; /* files that the image names may be opened */
	/* For those who look at an image's own file, and for block_check(): what it is based on stays closed, and its holes
	 * read as zeroes. Not for a guest. */
	bool is_alone;
	bool is_for_check; /* opening changes nothing, even where the image was not closed in order or is marked as corrupt */
	bool has_no_lock;  /* read only, while others may be writing: what is read may be out of date, or wrong */
	enum block_sync sync;
	const struct log *log;
};

struct block_limits {
	uint64_t n_bytes;            /* capacity */
	/* From the host's file system or device. */
	uint32_t logical_block_bytes, physical_block_bytes, optimal_io_bytes;
	uint32_t discard_granularity_bytes;
	bool can_discard, can_write_zeroes;
	bool is_readonly;
};

struct block_image;
struct block_lane;

/* The image's data are, or what it is based on is, in other files that it names, and those may not be opened: no other
 * failure to open has this code. */
#define BLOCK_NEEDS_OTHERS EXDEV

/* Opens and locks the image (open file description locks: one writer or many readers). -BLOCK_NEEDS_OTHERS. */
int block_open(const struct block_params *p, struct block_image **ret_i, struct err *e);
void block_close(struct block_image *i); /* after its lanes; what could not be written at the end is logged */
/* The same, and a negative errno and a text when not all that was changed is durable. NULL: 0. */
int block_close_durably(struct block_image *i, struct err *e);
const char *block_image_format(const struct block_image *i); /* "raw", "qcow2", ... */
void block_image_limits(const struct block_image *i, struct block_limits *ret_l);
/* For mapping: of a raw image, the host's file whose bytes are the disk's. The image's own. -1: of another format. */
int block_image_fd(const struct block_image *i);

/* Makes the disk larger; never smaller. Any thread that may wait for I/O; requests may be in flight meanwhile, and
 * block_image_limits() tells the new size afterwards. What a raw image lies in may have that size already: a host's device
 * must. When it fails, the disk is as it was. */
int block_resize(struct block_image *i, uint64_t n_bytes, struct err *e);

/* What `qemu-img check` counts. */
struct block_check {
	uint64_t n_corruptions, n_leaks; /* clusters that are used and not counted; counted and not used */
	uint64_t n_corruptions_fixed, n_leaks_fixed;
	uint64_t n_errors;               /* places that could not be examined */
	uint64_t n_clusters, n_allocated, n_compressed;
	uint64_t end_bytes;              /* behind the last cluster in use */
};
enum block_repair { BLOCK_REPAIR_NOTHING, BLOCK_REPAIR_LEAKS, BLOCK_REPAIR_ALL };

/* No lanes are open. -ENOTSUP: the format keeps nothing that could be wrong. */
int block_check(struct block_image *i, enum block_repair repair, struct block_check *ret_c, struct err *e);

/* What an image says of itself. Strings are the image's. */
struct block_info {
	const char *format;
	uint64_t n_bytes;           /* of the disk */
	uint64_t n_allocated_bytes; /* by the host's file system, for its own files */
	uint32_t cluster_bytes;     /* 0: it has no clusters */
	const char *backing_name, *backing_format; /* as they stand in the image; NULL: not there */
	bool is_dirty;              /* it was not closed in order, or is open for writing */
	unsigned version;           /* qcow2: 2, 3; the rest is there then. 0: another format */
	unsigned refcount_bits;
	bool is_corrupt, has_lazy_refcounts, is_zstd, has_extended_l2;
	uint32_t n_snapshots;
};

void block_image_info(const struct block_image *i, struct block_info *ret_i);
/* What it is based on, where that was opened; NULL: nothing, or it is alone. */
const struct block_image *block_image_backing(const struct block_image *i);
/* The path of what it is based on, from where we are: the caller's. NULL: nothing, or no memory. */
char *block_image_backing_path(const struct block_image *i);

/* --- making images; threads that may wait for I/O --- */

/* Told now and then how far the work is; of 0 bytes, only asked. False: it is to stop, and fails with -ECANCELED. */
struct block_progress {
	bool (*step)(void *context, uint64_t n_done_bytes, uint64_t n_bytes);
	void *context;
};

enum block_preallocation {
	BLOCK_PREALLOCATE_OFF,
	BLOCK_PREALLOCATE_METADATA, /* tables name a place for every cluster; the host has none yet */
	BLOCK_PREALLOCATE_FALLOC,   /* the host reserves it */
	BLOCK_PREALLOCATE_FULL,     /* zeroes are written */
};

/* Kinds of VHD, VHDX and VMDK images, with qemu-img's names for them. */
enum block_subformat {
	BLOCK_SUBFORMAT_DEFAULT, /* DYNAMIC, MONOLITHIC_SPARSE */
	BLOCK_SUBFORMAT_DYNAMIC, BLOCK_SUBFORMAT_FIXED, /* VHD, VHDX */
	/* VMDK. FLAT and TWO_GB have their data in files beside the image, which are named after it. */
	BLOCK_SUBFORMAT_MONOLITHIC_SPARSE, BLOCK_SUBFORMAT_MONOLITHIC_FLAT,
	BLOCK_SUBFORMAT_TWO_GB_SPARSE, BLOCK_SUBFORMAT_TWO_GB_FLAT,
};

struct block_create_params {
	const char *path;
	/* An existing regular file that nobody uses, with its mode; else -EEXIST, as for one that appears meanwhile. Never a
	 * file beside the image. */
	bool may_replace;
	enum block_type type;
	enum block_subformat subformat;
	uint64_t n_bytes; /* rounded up to 512 */
	enum block_preallocation preallocation;
	/* qcow2 only */
	uint64_t cluster_bytes; /* 0: 64 KiB */
	bool is_zstd, has_extended_l2, has_lazy_refcounts;
	bool is_compressed; /* for block_convert(): clusters that become smaller are */
	const char *backing_name, *backing_format; /* NULL: none. Written as they are, and not looked at. */
	struct block_progress progress;
};

/* Makes an image, whole or not at all: it gets its name when it is complete and durable, and the mode that the process
 * gives to new files. Only what fails behind that, to make the name durable, leaves it. */
int block_create(const struct block_create_params *p, struct err *e);
/* The same, with what the source's disk holds, backing files included; p->n_bytes is the source's. Zeroes become holes. */
int block_convert(struct block_image *source, const struct block_create_params *p, struct err *e);
/* Writes what an overlay holds to what it is based on, which grows where it is smaller; the overlay stays as it is. p is
 * about the overlay; its is_readonly and is_alone do not matter. Stopped, or failed, it may be done again. */
int block_commit(const struct block_params *p, const struct block_progress *progress, struct err *e);

/* On the loop that will own it. n_max: requests in flight that make sense; more wait their turn. The engine is made
 * when it is first needed. Falls back to workers by itself, and logs it. */
int block_lane_open(struct block_image *i, struct loop *l, unsigned n_max, struct block_lane **ret_lane, struct err *e);
void block_lane_close(struct block_lane *lane); /* nothing in flight; on the owner loop, or after it ended */
const char *block_lane_engine(struct block_lane *lane); /* "io_uring", "workers"; makes it. Owner loop. */

/* Owner loop. Never fails and never calls done() from inside: results come through the loop. Batched: what was
 * submitted in one turn of the loop reaches the kernel in one system call. */
void block_submit(struct block_lane *lane, struct block_request *r);
/* fn runs on the owner loop after each batch of done() calls: the place to tell a driver once. Owner loop. */
void block_lane_on_batch_end(struct block_lane *lane, void (*fn)(void *context), void *context);
/* Waits until nothing is in flight, running done() of each, without running the rest of the loop. */
void block_drain(struct block_lane *lane);
unsigned block_in_flight(const struct block_lane *lane);

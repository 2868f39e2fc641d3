/* SPDX-License-Identifier: Apache-2.0 */
/* block_impl.h - what the parts of the block backend know of each other; for block*.c, formats, and their tests.
 *
 * A format turns a request into steps on host files, one at a time, and judges each step's result; an engine carries
 * steps out. So both engines have the same semantics, and a format knows no engine. prepare() and finish() run on the
 * lane's loop, where nothing blocks; the image is shared by lanes, so what they change in it is atomic or under its lock.
 *
 * Formats that map. A read of a format with tables needs map() only: block_read_prepare() and block_read_finish() do the
 * rest, for the image and for all those that it is based on. map() is asked on the loop first, with can_block false: it
 * answers -EAGAIN where its tables are not in memory, and is then asked again on a worker thread, where it may read them
 * and keep them. Writes are the format's own: its prepare() finds where the bytes go and hands a run of them to
 * block_transfer_prepare(); where tables must change and that cannot be done in memory, it makes a BLOCK_STEP_CALL.
 *
 * The lock and the turn. `lock` is a leaf: memory only, never held over I/O. The turn is the right to change tables over
 * I/O. Nobody waits on a thread for it: who finds it taken parks the request under the lock, answers BLOCK_NEXT_PARKED,
 * and prepare() is asked again once somebody unparks. */
#pragma once
#include "backend/block.h"
#include "base/checked.h"
#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

/* --- formats --- */

enum block_next {
	BLOCK_NEXT_STEP,   /* r->step is to be carried out */
	BLOCK_NEXT_WAIT,   /* a bounce buffer is needed and none is free: asked again when one is */
	BLOCK_NEXT_PARKED, /* block_park() took it: prepare() is asked again after block_wake(); formats that park only */
	BLOCK_NEXT_DONE,   /* r->result is final */
};

/* Where a run of a disk's bytes is. */
enum block_extent_kind {
	BLOCK_EXTENT_DATA,   /* at offset_bytes of file */
	BLOCK_EXTENT_ZERO,
	BLOCK_EXTENT_HOLE,   /* not here: in what the image is based on, else zeroes. Only map() says so. */
	BLOCK_EXTENT_PACKED, /* compressed: image->format->read_packed() */
};

/* The longest PACKED run, which a worker thread unpacks in memory. */
#define BLOCK_MAX_PACKED_BYTES (2u * 1024 * 1024)

struct block_extent {
	enum block_extent_kind kind;
	struct block_image *image; /* whose it is */
	const struct block_file *file;
	uint64_t offset_bytes; /* DATA: in the file */
	uint64_t disk_offset_bytes; /* in the image's disk: the first byte of the run */
	uint64_t n_bytes;      /* length of the run; never 0, never more than was asked for */
	uint64_t packed;       /* PACKED: what the format wants to know again */
};

struct block_format {
	const char *name;
	/* Asked again after a step that left more to do. Changes nothing but r, or else remembers in r->scratch that it
	 * did: a step which was never carried out may be asked for again. */
	enum block_next (*prepare)(struct block_lane *lane, struct block_request *r);
	/* result: bytes moved, 0, what a call returned, or a negative errno. True: r->result is final. */
	bool (*finish)(struct block_lane *lane, struct block_request *r, long result);

	/* The rest is optional. */
	bool can_park;
	bool needs_buffered; /* a second descriptor for tables, with direct I/O */
	/* i->file is open and locked, i->limits are its host's. Sets i->state and i->limits.n_bytes (and what else differs).
	 * When it fails, close() is called all the same. */
	int (*open)(struct block_image *i, const struct block_params *p, struct err *e);
	void (*close)(struct block_image *i); /* no lanes any more; writes what is left to write */
	/* Any thread. 0, -EAGAIN (only without can_block), or another negative errno. ret_x->image is i, or another one
	 * where a HOLE was followed. The run starts at offset_bytes and is n_bytes long at most; both in i's disk. */
	int (*map)(struct block_image *i, uint64_t offset_bytes, uint64_t n_bytes, bool can_block,
	           struct block_extent *ret_x);
	/* May block. The x->n_bytes bytes of a PACKED run into a buffer. 0 or a negative errno. */
	int (*read_packed)(struct block_image *i, const struct block_extent *x, uint8_t *ret_bytes);
	int (*resize)(struct block_image *i, uint64_t n_bytes, struct err *e);
	int (*check)(struct block_image *i, enum block_repair repair, struct block_check *ret_c, struct err *e);
	void (*info)(const struct block_image *i, struct block_info *info); /* adds what it knows */
};

extern const struct block_format block_raw_format, block_qcow2_format;
extern const struct block_format block_vhd_format, block_vhdx_format, block_vmdk_format;

/* block_open() with a format of the caller's. */
int block_open_format(const struct block_params *p, const struct block_format *f, struct block_image **ret_i,
                      struct err *e);

/* What the first bytes of a file say; BLOCK_TYPE_RAW: nothing. n_bytes: at least 512. */
enum block_type block_probe(const uint8_t *start, size_t n_bytes);
int block_probe_path(const char *path, enum block_type *ret_type, struct err *e);
const struct block_format *block_format_of(enum block_type type); /* NULL: not supported */

/* --- host files --- */

struct block_file {
	int fd;
	int buffered_fd; /* -1 unless direct I/O needs more than the 512 bytes that a guest is granted, or tables are read */
	unsigned index;  /* in its tree's table of files */
	bool is_device, is_direct, is_readonly;
	uint32_t memory_align, offset_align; /* of direct I/O */
	uint64_t n_bytes; /* when it was opened */
	char *path;
	_Atomic int sync_error; /* see block_file_synced() */
	/* See block_sync_begin(). */
	pthread_mutex_t sync_lock; /* a leaf, of the rest of these */
	pthread_cond_t sync_is_over;
	bool is_syncing;
	uint64_t n_sync_begun, n_sync_done; /* numbers of syncs: the last that began, the last that came to an end of its own */
	/* Learned when the host refuses; never unlearned. */
	_Atomic bool has_no_punch, has_no_zero_range, has_no_discard;
};

/* In an image, with those that it is based on. */
#define BLOCK_MAX_FILES 1024
#define BLOCK_MAX_CHAIN 64

struct block_file_params {
	const char *path;
	bool is_readonly, is_direct, needs_buffered;
};

/* Of the host's page cache. What is written directly and what is written by the buffered descriptor must not share one
 * while both may be in flight: the kernel then loses one of them, or fails the next sync. */
#define BLOCK_CACHE_PAGE_BYTES 4096u

/* Opens what is a regular file or a block device, and nothing else. The descriptor, or a negative errno. */
int block_open_path(const char *path, int flags, struct stat *ret_st, struct err *e);
/* Opens and locks a file and adds it to the tree of i, which closes it. For open() only: no lane is open yet. */
int block_add_file(struct block_image *i, const struct block_file_params *p, struct block_file **ret_f, struct err *e);
/* A file whose data cannot be kept apart from its tables is not opened directly after all, and `why` is logged. For
 * open() only. */
int block_leave_direct(struct block_image *i, const struct block_file *f, const char *why, struct err *e);
/* A path that an image names, relative to the folder of the file that names it. NULL: no memory. The caller's. */
char *block_resolve_path(const struct block_file *f, const char *named);

/* Blocking, whole, and always without O_DIRECT: for tables, and for calls. 0 or a negative errno. */
int block_file_read(const struct block_image *i, const struct block_file *f, void *ret_bytes, size_t n_bytes,
                    uint64_t offset_bytes);
/* As block_file_read(); zeroes behind the end of the file. */
int block_file_read_padded(const struct block_image *i, const struct block_file *f, void *ret_bytes, size_t n_bytes,
                           uint64_t offset_bytes);
int block_file_write(const struct block_image *i, const struct block_file *f, const void *bytes, size_t n_bytes,
                     uint64_t offset_bytes);
int block_file_sync(const struct block_image *i, const struct block_file *f); /* nothing with BLOCK_SYNC_NONE */
/* Writes zeroes: directly where the file is and the range is aligned, unless the caller wants it buffered. */
int block_file_zero(const struct block_image *i, const struct block_file *f, uint64_t offset_bytes, uint64_t n_bytes,
                    bool is_buffered);
/* What a SYNC's result means. The kernel tells of data that it could not write once, to whoever syncs first, and has
 * dropped them: so no later SYNC of the file succeeds. Any thread; block_step_run() and the engines ask it. */
long block_file_synced(const struct block_image *i, const struct block_file *f, long result);
/* One sync of a file at a time: the kernel gives an error to one of two that overlap, and tells the other that all is well. An
 * engine that would not wait asks first, and if it may not, a thread that can wait does it: or finds, when its turn comes,
 * that another sync, which began after it was asked for, has done it. ret_ticket: as block_sync_next(), for
 * block_step.sync_ticket. block_file_synced() comes before the end; result -EAGAIN: it was not carried out. */
uint64_t block_sync_next(const struct block_image *i, const struct block_file *f);
bool block_sync_begin(const struct block_image *i, const struct block_file *f, uint64_t *ret_ticket);
void block_sync_end(const struct block_image *i, const struct block_file *f, long result);
int block_file_size(const struct block_file *f, uint64_t *ret_n_bytes); /* now */

/* --- the image --- */

/* Written where a host cannot write zeroes itself: an anonymous mapping that is never touched costs no memory. */
#define BLOCK_ZEROES_BYTES (256u * 1024)

/* For tests: carries out all steps (but calls) and all blocking I/O instead of the kernel. io_uring is not used then. */
struct block_seam {
	long (*execute)(void *context, const struct block_step *s);
	void *context;
};

struct block_image {
	const struct block_format *format;
	struct log log;
	struct block_image *top;     /* of the tree: the image that was opened by name; may be itself */
	struct block_image *backing; /* what it is based on; NULL: nothing */
	struct block_file *file;     /* the one that was opened by name */
	struct block_file **files;   /* of the whole tree; the top's. Does not change while lanes are open. */
	unsigned n_files;
	_Atomic uint64_t n_charged_bytes; /* the top's: see block_charge() */
	unsigned depth;              /* 0: the top */
	void *state;                 /* the format's own */
	struct block_limits limits;
	_Atomic uint64_t n_disk_bytes; /* limits.n_bytes, which resizing changes under running lanes */
	bool has_no_io_uring;
	bool has_no_lock;            /* the top's: see block_params */
	bool has_no_sync;            /* the top's: BLOCK_SYNC_NONE */
	char *backing_name, *backing_format; /* as they stand in the image; NULL: not there */
	bool was_probed;             /* the format was not named: see block_params.image_type */
	const struct block_seam *seam; /* the top's */
	void *zeroes;
	_Atomic bool has_said_workers; /* the log has been told that io_uring is not to be had */
	_Atomic bool was_changed; /* some request was more than a read */
	int close_error; /* the first; format->close() may set it, for block_close_durably() */
	_Atomic bool has_said_refused;
	/* A leaf: nothing under it blocks. For the format's tables and the next two. */
	pthread_mutex_t lock;
	bool is_turn_taken;
	struct block_request *parked;
	/* Holders of places in the file, by epoch: see block_hold(). */
	_Atomic unsigned epoch;
	_Atomic uint32_t n_held[2];
};

/* Opens what an image is based on, read only. type is what the image says; AUTO is refused by the formats that know
 * better, and probed by none of ours. */
int block_open_backing(struct block_image *i, const struct block_params *p, const char *named, enum block_type type,
                       struct err *e);

/* Of tables in memory, in an image with all that it is based on: each of a chain's images may be made to need much. */
#define BLOCK_MAX_TREE_BYTES (256ull << 20)
/* Before memory is taken whose size an image says: so much of it may be needed as long as the image is open. 0, or
 * -EFBIG and a text that begins with "its": the caller says whose. What would do with less, as a cache does, takes less:
 * chains of many images that each want a little are not refused. Any thread. */
int block_charge(struct block_image *i, uint64_t n_bytes, struct err *e);

/* Carries r's step out on the calling thread. Bytes moved, 0, or a negative errno. */
long block_step_execute(struct block_request *r);
/* A step that is no request's and no call. */
long block_step_run(const struct block_image *i, const struct block_step *s);

/* --- the lock, the turn, parking --- */

void block_lock(struct block_image *i);
void block_unlock(struct block_image *i);
/* Under the lock. r waits until the next unpark; prepare() answers BLOCK_NEXT_PARKED and touches r no more. */
void block_park(struct block_image *i, struct block_request *r);
/* Under the lock: all that are parked, for block_wake() after unlocking. */
struct block_request *block_unpark(struct block_image *i);
void block_wake(struct block_request *list); /* any thread */

/* --- holds --- */

/* Who looks up where bytes are, and then moves them, holds the image from before the look-up until after the move. A
 * place that is no longer referred to may be used for something else once those who held it then have let go. */
struct block_hold {
	bool is_held;
	uint8_t epoch;
};

void block_hold(struct block_image *i, struct block_hold *h); /* nothing when it is held already */
void block_release(struct block_image *i, struct block_hold *h); /* nothing when it is not held */
/* A new epoch, when nobody is left of the one before the last; else false. By the one that has the turn. */
bool block_epoch_turn(struct block_image *i);
bool block_epoch_is_over(struct block_image *i); /* nobody holds since before the last turn of the epoch */

/* --- reads and transfers --- */

/* As map(), following holes down the chain: never a HOLE. */
int block_map(struct block_image *i, uint64_t offset_bytes, uint64_t n_bytes, bool can_block, struct block_extent *ret_x);
/* Blocking; any thread but a loop. 0 or a negative errno. What is behind the end of the disk reads as zeroes. */
int block_read_blocking(struct block_image *i, uint64_t offset_bytes, void *ret_bytes, size_t n_bytes);
/* prepare() and finish() of BLOCK_READ, for every format with map(). Use r->scratch. */
enum block_next block_read_prepare(struct block_lane *lane, struct block_request *r);
bool block_read_finish(struct block_lane *lane, struct block_request *r, long result);

/* The next n_bytes of r's buffers, from or to offset_bytes of f: one step, through a bounce buffer where direct I/O wants
 * one. STEP or WAIT. */
enum block_next block_transfer_prepare(struct block_lane *lane, struct block_request *r, const struct block_file *f,
                                       uint64_t offset_bytes, uint64_t n_bytes);
/* The same by the buffered descriptor: where a page is shared with tables. STEP. */
enum block_next block_transfer_prepare_buffered(struct block_request *r, const struct block_file *f,
                                                uint64_t offset_bytes, uint64_t n_bytes);
/* After that step: how many bytes were moved and are behind r now (n_done_bytes and the buffers are advanced); 0 at the
 * end of the file; or a negative errno. -EINTR and -EAGAIN are for block_should_retry(). */
long block_transfer_finish(struct block_lane *lane, struct block_request *r, long result);
/* A step that a signal or a shortage interrupted is asked for again, but not for ever. */
bool block_should_retry(struct block_request *r, long result);
/* Undoes what block_transfer_prepare() did to r's buffers: when a step that was not carried out is not wanted any more. */
void block_transfer_cancel(struct block_request *r);
/* A READ's next n_bytes are these (NULL: zeroes). False: what they go to is gone. */
bool block_transfer_fill(struct block_request *r, const uint8_t *bytes, uint64_t n_bytes);
/* The next n_bytes were moved by other means. */
void block_transfer_skip(struct block_request *r, uint64_t n_bytes);
/* Copies the next n_bytes of r's buffers, which stay where they are. False: they are gone. */
bool block_transfer_peek(const struct block_request *r, uint8_t *ret_bytes, uint64_t n_bytes);

/* --- lanes --- */

struct block_fifo {
	struct block_request *first, *last;
};

static inline bool block_fifo_is_empty(const struct block_fifo *f)
{
	return !f->first;
}

static inline void block_fifo_push(struct block_fifo *f, struct block_request *r)
{
	r->next = NULL;
	if (f->first)
		f->last->next = r;
	else
		f->first = r;
	f->last = r;
}

static inline struct block_request *block_fifo_pop(struct block_fifo *f)
{
	struct block_request *r = f->first;
	if (r)
		f->first = r->next;
	return r;
}

/* f in front of what to holds; f is empty afterwards. */
static inline void block_fifo_move_to_front(struct block_fifo *f, struct block_fifo *to)
{
	if (!f->first)
		return;
	f->last->next = to->first;
	if (!to->first)
		to->last = f->last;
	to->first = f->first;
	f->first = NULL;
}

struct block_uring {
	struct io_uring ring;
	struct source source;
	struct block_fifo unsent; /* in the submission ring; the kernel has not taken them yet */
	unsigned n_unsent, n_in_kernel, n_max;
	bool is_open, is_broken, has_fixed_files;
};

#define BLOCK_WORKERS_MAX 4

struct block_workers {
	const struct block_image *image;
	pthread_mutex_t lock; /* guards the next five; a leaf */
	struct block_fifo queued, finished;
	unsigned n_queued, n_idle;
	bool is_stopping;
	pthread_cond_t work;
	struct source source;
	int event_fd;
	unsigned n_threads, n_running; /* steps handed over and not collected; the loop's */
	bool is_open;
	pthread_t threads[BLOCK_WORKERS_MAX];
};

enum block_engine { BLOCK_ENGINE_NONE, BLOCK_ENGINE_URING, BLOCK_ENGINE_WORKERS };

#define BLOCK_BOUNCE_BYTES (128u * 1024)
#define BLOCK_N_BOUNCE 4

struct block_lane {
	struct block_image *image;
	struct loop *loop;
	struct loop_hook hook;
	struct timer retry; /* the kernel was short of means: look again */
	enum block_engine engine;
	unsigned n_max, n_in_flight;
	struct block_fifo ready;   /* to be prepared */
	struct block_fifo waiting; /* for a bounce buffer */
	struct block_uring uring;
	struct block_workers workers;
	void *bounce_area;
	void *bounce_free[BLOCK_N_BOUNCE];
	unsigned n_bounce_free;
	bool is_batch_open; /* done() ran since the last end of a batch */
	void (*batch_end)(void *context);
	void *batch_context;
};

void *block_lane_take_bounce(struct block_lane *lane); /* NULL: none is free */
/* For engines: a step's result is known. */
void block_lane_step_done(struct block_lane *lane, struct block_request *r, long result);

/* --- engines; the lane's loop --- */

int block_uring_open(struct block_lane *lane, struct err *e);
void block_uring_close(struct block_lane *lane);
bool block_uring_has_room(const struct block_uring *u);
/* False: the submission ring is full and the kernel takes nothing now. */
bool block_uring_push(struct block_lane *lane, struct block_request *r);
/* 0, -EAGAIN to come again, or another error: the ring is of no use any more. */
int block_uring_flush(struct block_uring *u);
/* Hands the results that are there to the lane; how many. */
unsigned block_uring_reap(struct block_lane *lane);

int block_workers_open(struct block_lane *lane, struct err *e);
void block_workers_close(struct block_lane *lane);
/* False when there is no thread at all to carry it out. */
bool block_workers_push(struct block_lane *lane, struct block_request *r);
unsigned block_workers_reap(struct block_lane *lane);
/* A result from any thread, for a request that is counted as running. */
void block_workers_finish(struct block_workers *w, struct block_request *r, long result);
